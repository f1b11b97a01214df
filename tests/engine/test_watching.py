"""Watched keys, compared with a list of all changes: a changed key is never reported as unchanged."""

import dataclasses

from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.commands import COMMANDS, Set, Step
from cairnkv.commands.vocabulary import DB, KEY
from cairnkv.engine import Database, Shared, Watched, apply, can_apply, discard, undo
from cairnkv.engine.database import VERSION_SLOTS, Before, Cleared, Journal, version_slot
from tests.engine.test_model import EASILY_MET, STEPS
from tests.support.strategies import Kinds, commands

KEYS = [b"a", b"b", b"c"]
PLACES = [(db, key) for db in range(2) for key in KEYS]
WRITES = [command for command in COMMANDS if command.spec.writes and can_apply(command)]
SAID = st.builds(
    Step,
    st.integers(0, 1),
    commands(WRITES, Kinds({**EASILY_MET, KEY: st.sampled_from(KEYS), DB: st.integers(0, 1)})),
)
ACTIONS = st.lists(
    st.tuples(SAID | st.sampled_from(PLACES) | st.sampled_from(["undo", "commit", "free"]), STEPS), max_size=40
)


@dataclasses.dataclass
class Watch:
    """A key that is watched, and what has happened to it since."""

    db: int
    key: bytes
    watched: Watched
    touched: bool = False
    doubtful: bool = False
    """It came back, maybe as equal as it was, or its whole keyspace did: so it may be said to have changed."""


def _may_show(change: object, watch: Watch) -> bool:
    return isinstance(change, Cleared) or (isinstance(change, Before) and change.key == watch.key)


def test_keys_of_this_test_share_no_version() -> None:
    assert len({version_slot(*place) for place in PLACES}) == len(PLACES)


def test_equal_keys_of_two_databases_share_no_version() -> None:
    assert all(len({version_slot(db, b"%d" % number) for db in range(16)}) == 16 for number in range(300))
    assert all(0 <= version_slot(15, b"%d" % number) < VERSION_SLOTS for number in range(300))


@given(actions=ACTIONS)
@example(
    actions=[(Step(0, Set(b"a", b"1")), 0), (Step(0, Set(b"a", b"1")), 0), ((0, b"a"), 0), ("undo", 0)]
)  # what comes back is equal to what was there
def test_changed_keys_are_never_reported_as_unchanged(actions: list[tuple[object, int]]) -> None:
    shared = Shared()
    databases = [Database(shared) for _ in range(2)]
    watches: list[Watch] = []
    journals: list[Journal] = []

    def shown() -> dict[tuple[int, bytes], object]:
        return {(db, key): databases[db].entry(key) for db, key in PLACES}

    def compare(before: dict[tuple[int, bytes], object], put: set[tuple[int, bytes]]) -> None:
        after = shown()
        for watch in watches:
            place = (watch.db, watch.key)
            watch.touched |= before[place] != after[place] or (place in put and after[place] is not None)

    for action, step in actions:
        before = shown()
        shared.advance(shared.now + step)
        compare(before, set())
        before = shown()
        if isinstance(action, Step):
            journal: Journal = []
            shared.journal = journal
            apply(databases[action.db], action.command, shared.now)
            shared.journal = None
            journals.append(journal)
            # One change of a journal may be hidden by a later one of it; so may what was cleared and stored again.
            places = {(change.database.number, change.key) for change in journal if isinstance(change, Before)}
            compare(before, places)
        elif action == "undo" and journals:
            journal = journals.pop()
            undo(journal)
            compare(before, set())
            for watch in watches:
                watch.doubtful |= any(
                    change.database.number == watch.db and _may_show(change, watch) for change in journal
                )
        elif action == "commit" and journals:
            discard(journals.pop(0))
        elif action == "free":
            for db in databases:
                for key in db.expired(10):
                    db.free_expired(key)
        elif isinstance(action, tuple):
            db_number, key = action
            watches.append(Watch(db_number, key, databases[db_number].watch(key)))
        for watch in watches:
            unchanged = databases[watch.db].is_unchanged(watch.watched)
            if watch.touched:
                assert not unchanged, f"{watch} changed"
            elif not watch.doubtful:
                assert unchanged, f"{watch} did not change"
        for db in databases:
            db.check()

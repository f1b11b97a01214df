"""Effects and replies of the native path with late commits equal those of the pure path.

Two sessions get the same bytes, each with a late storage of its own. After every commit and every failure both sent
the same replies, both stores are in the same state, and the recorded effects give that state.
"""

import random

from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Clear, ClearMany, Command, Get, GetMany, Incr, Ping, Set, SetMany, SetWith
from cairnkv.commands.queue_vocabulary import queue_key
from cairnkv.engine.database import version_slot
from cairnkv.limits import QUEUE_DB
from cairnkv.protocol import write_command
from cairnkv.protocol.native import Width
from cairnkv.session import Session
from tests.support.late_storage import LateStorage
from tests.support.lives import lively, lively_redis
from tests.support.paths import native_only
from tests.support.resp import request
from tests.support.twins import Twins

pytestmark = native_only


class LateTwins(Twins):
    """Twins with storages that commit or fail when a test says so."""

    def __init__(self, *, width: Width | None = None, reuse_sequences: bool = False) -> None:
        self.logs = tuple(LateStorage(keeps_effects=True, reuse_sequences=reuse_sequences) for _ in range(2))
        super().__init__(width=width, logs=(self.logs[0], self.logs[1]))
        # From the first deadline on replies wait for log time to be noted, a run's from the next one on. Nothing is
        # over in between, so both are right; but here both are to do the same.
        for store in self.stores:
            store.execute(SetWith(b"passing", b"", ttl=1))
        for storage in self.logs:
            storage.commit()

    def commit(self) -> None:
        for storage in self.logs:
            storage.commit()
        self.settle()

    def fail(self, *, unknown: bool) -> None:
        for store in self.stores:
            store.database.advance(self.clock())  # what is over has no version to undo; a PING may have told only one
        slots = [version_slot(QUEUE_DB, queue_key(name)) for name in self.stores[0].queues.index.queues]
        for storage in self.logs:
            storage.fail("the disk is gone", unknown=unknown)
        pure, native = (store.database.shared.versions for store in self.stores)
        for slot in slots:  # a batch undoes the record of a queue once
            native[slot] = pure[slot]
        self.settle()

    def refuse(self, reason: str | None) -> None:
        for storage in self.logs:
            storage.refusal = reason

    def agree(self) -> None:
        super().agree()
        self.kept()

    def kept(self) -> None:
        """Assert that the native twin's storage can bring everything back that is committed and not over."""
        store = self.stores[1]
        kept: dict[tuple[int, bytes], tuple[bytes, int | None]] = {}
        for entry in self.logs[1].committed:
            for db, key, value, deadline in entry.effects:
                if key is None:
                    kept = {place: what for place, what in kept.items() if place[0] != db}
                elif value is None:
                    kept.pop((db, key), None)
                else:
                    kept[db, key] = value, deadline
        for database in (*store.databases, store.queues):
            there = {key: database.entry(key) for key, _, _ in database._table if database.get(key) is not None}
            said = {
                key: what
                for (db, key), what in kept.items()
                if db == database.number and (what[1] is None or what[1] > database.now)
            }
            assert there == said


def live(twins: LateTwins, chance: random.Random, say: bytes) -> None:
    """Say something, in pieces; then commits, failures and refusals as they come."""
    twins.say_in_pieces(say, [chance.randrange(len(say) + 1) for _ in range(chance.randrange(4))])
    what = chance.random()
    if what < 0.1:
        twins.refuse("there is no room")
    elif what < 0.5:
        twins.refuse(None)
    if chance.random() < 0.3:
        twins.fail(unknown=chance.random() < 0.5)
        twins.agree()
    elif chance.random() < 0.7:
        twins.commit()
        twins.agree()


@given(st.integers(0, 2**32), st.sampled_from([2, 4]), st.booleans())
def test_equal_for_random_programs_on_the_native_protocol(seed: int, width: Width, reuse: bool) -> None:
    chance = random.Random(seed)
    twins = LateTwins(width=width, reuse_sequences=reuse)
    for _ in range(15):
        twins.clock.advance(chance.randrange(1_500))
        live(twins, chance, b"".join(write_command(lively(chance), width=width) for _ in range(chance.randrange(30))))
    twins.commit()
    twins.agree()


@given(st.integers(0, 2**32), st.booleans())
def test_equal_for_random_programs_on_the_redis_protocol(seed: int, reuse: bool) -> None:
    chance = random.Random(seed)
    twins = LateTwins(reuse_sequences=reuse)
    for _ in range(15):
        twins.clock.advance(chance.randrange(1_500))
        live(twins, chance, b"".join(lively_redis(chance) for _ in range(chance.randrange(30))))
    twins.commit()
    twins.agree()


def frames(*commands: Command) -> bytes:
    return b"".join(map(write_command, commands))


def test_replies_leave_after_the_commits_that_they_show() -> None:
    twins = LateTwins()
    twins.say(frames(Set(b"a", b"1")))
    twins.commit()
    twins.agree()
    before = len(twins.heard[1])
    twins.say(frames(Ping(b"now"), Get(b"a"), Set(b"a", b"2"), Get(b"b"), Get(b"a")))
    assert twins.heard[1][before:] == b"\x000\x00\x00\x00\x03now" + b"\x000\x00\x00\x00\x011", "what waits for nothing"
    twins.commit()
    twins.agree()
    assert twins.executed_natively >= 5


def test_each_reply_fails_with_its_own_code() -> None:
    twins = LateTwins()
    twins.say(frames(Set(b"a", b"1"), Incr(b"n", 5)))
    twins.commit()
    twins.say(
        frames(Ping(b""), Set(b"a", b"2"), Get(b"a"), Get(b"n"), Incr(b"n", 1), Clear(b"zz"), ClearMany((b"a", b"n")))
    )
    twins.fail(unknown=True)
    twins.agree()
    assert twins.heard[1].count(b"UNKNOWN") == 3
    twins.say(frames(Get(b"a"), GetMany((b"n", b"a"))))
    twins.commit()
    twins.agree()
    assert twins.heard[1].endswith(b"\x00\x00\x00\x015\x00\x00\x00\x011")


def test_batch_is_one_entry() -> None:
    twins = LateTwins()
    twins.say(frames(Ping(b"")))
    twins.say(frames(*[Set(b"%d" % n, b"x") for n in range(60)]))
    assert len(twins.logs[1].pending) < 5 < 60 <= len(twins.logs[0].pending)
    twins.commit()
    twins.agree()


def test_command_is_in_one_entry_even_if_a_bucket_is_full() -> None:
    twins = LateTwins()
    for begin in range(0, 3_000, 50):
        twins.say(frames(SetMany(0, tuple((b"%d" % n, b"v") for n in range(begin, begin + 50)))))
        for storage in twins.logs:
            parted = [entry for entry in storage.pending if len(entry.effects) % 50 > 0]
            assert not parted
        twins.commit()
    twins.agree()


def test_effects_include_expiry_times() -> None:
    twins = LateTwins()
    twins.say(request(b"SET", b"k", b"1", b"PX", b"500") + request(b"INCR", b"k") + request(b"SET", b"l", b"1"))
    twins.commit()
    twins.agree()
    twins.clock.advance(600)
    twins.say(request(b"GET", b"k") + request(b"INCR", b"k"))
    twins.commit()
    twins.agree()
    assert twins.heard[1].endswith(b"$-1\r\n:1\r\n")


def test_expiry_is_recorded_before_it_is_shown() -> None:
    twins = LateTwins()
    twins.say(frames(SetWith(b"k", b"1", ttl=500), Set(b"l", b"1")))
    twins.commit()
    twins.clock.advance(2_000)
    before = len(twins.heard[1])
    twins.say(frames(Get(b"k")))
    assert len(twins.heard[1]) == before, "it shows that it is over, which no log has"
    twins.commit()
    twins.agree()


def test_batch_refused_at_the_last_moment_fails() -> None:
    """Replies that show an earlier write wait for it, and its key keeps the pending mark."""
    storage = LateStorage(keeps_effects=True)
    twins = Twins(width=2, logs=(LateStorage(keeps_effects=True), storage))
    native, other = twins.sessions[1], Session(twins.stores[1], wake=lambda: None, width=2)

    def say(session: Session, *commands: Command) -> bytes:
        session.receive(frames(*commands))
        session.advance()
        return b"".join(session.output())

    say(native, Set(b"k", b"safe"))
    storage.commit()
    assert say(native).endswith(b"OK")
    assert say(native, Set(b"k", b"5")) == b""
    storage.surprise = "the disk has failed meanwhile"
    assert say(native, Ping(b"now"), Get(b"k"), Set(b"k", b"6"), Get(b"k"), Set(b"l", b"1")) == b""
    storage.surprise = None
    assert twins.stores[1].database.get(b"k") == b"5"
    assert twins.stores[1].database.get(b"l") is None
    assert say(other, Get(b"k")) == b"", "which is not committed yet"
    storage.fail("the disk is gone", unknown=True)
    said = say(native)
    assert [said.count(part) for part in (b"UNKNOWN", b"now", b"UNDONE", b"the disk has failed meanwhile")] == [
        1,
        1,
        4,
        3,
    ]
    assert b"UNDONE" in say(other)
    assert say(native, Set(b"k", b"7")) == b""
    storage.surprise = "once more"
    assert say(native, Get(b"k"), Set(b"k", b"8")) == b""
    storage.surprise = None
    storage.commit()
    said = say(native)
    assert b"\x00\x00\x00\x017" in said
    assert said.endswith(b"UNDONE once more")

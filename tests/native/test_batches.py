"""Batches in log entries: the native path changes a node's state as the pure path does."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Append, Clear, ClearMany, Command, Get, Incr, Put, Set, SetMany, SetWith, Step
from cairnkv.engine.database import VERSION_SLOTS
from cairnkv.protocol import write_command
from cairnkv.replication.entries import SEMANTICS, Entry, Item, ItemKind, Kind, packed_items
from cairnkv.replication.entry_codec import command_item, semantics_item, track_item
from cairnkv.replication.epochs import epoch_body
from cairnkv.replication.proposals import Changes
from cairnkv.replication.store import ReplicatedStore
from cairnkv.session import native_frame_executor
from cairnkv.storage import Effect
from tests.support.lives import SOME_KEYS, flipped, lively, lively_on_queues
from tests.support.paths import native_only
from tests.support.simulated import Disk, TableStorage, fingerprint

pytestmark = native_only

STRANGER = 0xB0
NONCE = b"a nonce."


class Followers:
    """Two nodes that apply the log of another node: one on the pure path, one on the native path."""

    def __init__(self) -> None:
        self.disks = Disk(), Disk()
        self.stores = tuple(
            ReplicatedStore(node=0xA0, nonce=b"another.", storage=TableStorage(disk), clock=lambda: 0, value_max=10_000)
            for disk in self.disks
        )
        for store in self.stores:
            store.begin(store.load())
        self.stores[0].queues.native = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cairnkv.session.native_path.native_path_in_use", lambda: True)
            native_frame_executor(self.stores[1])
        self.position = self.number = 0
        self.now = 1_000_000
        self.log(Entry(Kind.EPOCH, STRANGER, 1, 0, self.now, epoch_body(NONCE, SEMANTICS)))

    def log(self, entry: Entry) -> None:
        """Have both carry out an entry, and agree."""
        self.position += 1
        for store in self.stores:
            store.apply_entry(self.position, entry.packed())
            assert store.stopped is None
        self.agree()

    def batch(self, *items: Item) -> None:
        """An entry with these items."""
        self.number += 1
        self.log(Entry(Kind.BATCH, STRANGER, 1, self.number, self.now, packed_items(items)))

    def run(self, *commands: Command, db: int = 0) -> None:
        """An entry with these commands."""
        self.batch(*(command_item(Step(db, command)) for command in commands))

    def housekeep(self) -> None:
        """Let one of them free what has expired."""
        self.stores[0].housekeep()

    def agree(self) -> None:
        """Assert that both are the same, and what they wrote last comes to the same."""
        pure, native = self.stores
        assert fingerprint(pure) == fingerprint(native)
        assert pure._shared.versions == native._shared.versions
        for one, other in zip((*pure.databases, pure.queues), (*native.databases, native.queues), strict=True):
            one.check()
            other.check()
        (now, said), (other_now, other_said) = (disk.commits[-1] for disk in self.disks)
        assert now == other_now
        if not pure._tracked:  # otherwise a run has the versions once, at its end
            shows = [effect for effect in said if effect in other_said or effect[2] is not None]
            assert shows == [effect for effect in other_said if effect in said or effect[2] is not None]
        assert comes_to(said, pure.databases[0].now) == comes_to(other_said, pure.databases[0].now)


def comes_to(effects: tuple[Effect, ...], now: int) -> dict[tuple[int, bytes | None], object]:
    """What stands there behind effects, without what only frees what was over."""
    there: dict[tuple[int, bytes | None], object] = {}
    for db, key, value, deadline in effects:
        if key is None:
            there = {place: what for place, what in there.items() if place[0] != db}
        there[db, key] = value, deadline
    return {place: what for place, what in there.items() if what != (None, None)}


@given(st.integers(0, 2**32), st.booleans())
def test_random_log_gives_equal_states(seed: int, tracks: bool) -> None:
    chance = random.Random(seed)
    followers = Followers()
    for _ in range(12):
        followers.now += chance.randrange(1_500)
        items = [command_item(Step(chance.choice([0, 0, 0, 3]), lively(chance))) for _ in range(chance.randrange(60))]
        if tracks and chance.random() < 0.3:
            items.insert(chance.randrange(len(items) + 1), track_item([chance.randrange(VERSION_SLOTS), 5]))
            key_slots = track_item(sorted({slot_of(chance.choice(SOME_KEYS)) for _ in range(5)}))
            items.insert(chance.randrange(len(items) + 1), key_slots)
        followers.batch(*items)


def slot_of(key: bytes) -> int:
    from cairnkv.engine.database import version_slot

    return version_slot(0, key)


@given(st.integers(0, 2**32))
def test_random_log_of_queues_gives_equal_states(seed: int) -> None:
    chance = random.Random(seed)
    followers = Followers()
    followers.batch(semantics_item(SEMANTICS))
    queues = followers.stores[0].queues
    for _ in range(12):
        followers.now += chance.choice([0, 300, 2_000])
        commands = [lively_on_queues(chance, queues) for _ in range(chance.randrange(30))]
        followers.batch(*(command_item(Step(chance.choice([0, 0, 3]), command)) for command in commands))


def test_commands_on_queues_need_the_semantics_of_queues() -> None:
    followers = Followers()
    followers.run(Set(b"k", b"v"), Put(b"q", b"x"), Set(b"k", b"w"))
    for store in followers.stores:
        assert store.databases[0].get(b"k") == b"v"
        assert not store.queues.index.queues


@given(st.integers(0, 2**32))
def test_any_bytes_in_the_log_give_equal_states(seed: int) -> None:
    chance = random.Random(seed)
    followers = Followers()
    for _ in range(6):
        said = b"".join(write_command(lively(chance)) for _ in range(chance.randrange(1, 30)))
        said = flipped(said, chance) if chance.random() < 0.7 else said[: chance.randrange(len(said) + 1)]
        followers.batch(Item(ItemKind.COMMANDS, chance.choice([0, 1, 200]), said), command_item(Step(0, Incr(b"n", 1))))


def test_splitting_and_emptied_buckets() -> None:
    followers = Followers()
    for begin in range(0, 3_000, 500):
        followers.run(*(Set(b"%d" % n, b"x") for n in range(begin, begin + 500)))
    followers.run(*(Clear(b"%d" % n) for n in range(3_000)))
    assert followers.stores[1].databases[0].count() == 0


def test_key_named_twice_in_a_command() -> None:
    followers = Followers()
    followers.run(*(Set(b"%d" % n, b"x") for n in range(10)))
    followers.run(SetMany(0, ((b"3", b"a"), (b"1", b"b"), (b"3", b"c"), (b"2", b"d"))), ClearMany((b"5", b"4", b"5")))
    assert followers.stores[1].databases[0].get(b"3") == b"c"


def test_keys_freed_on_one_node_only() -> None:
    followers = Followers()
    followers.run(*(SetWith(b"%d" % n, b"x", ttl=500) for n in range(20)), *(Set(b"s%d" % n, b"") for n in range(5)))
    followers.now += 3_000
    followers.run(Set(b"t", b""))
    followers.housekeep()
    followers.run(
        Clear(b"1"), ClearMany((b"2", b"s1", b"3")), Incr(b"4", 1), SetMany(0, ((b"5", b"1"), (b"6", b"2"))), Get(b"7")
    )


def test_native_path_executes_the_commands_that_it_serves() -> None:
    followers = Followers()
    native = followers.stores[1]
    readable = []
    change = native._change

    def noting(step: Step, changes: Any) -> Any:
        readable.append(step)
        return change(step, changes)

    native._change = noting  # type: ignore[method-assign]
    followers.run(*(Set(b"%d" % n, b"x") for n in range(100)), Append(b"k", b""), *[Incr(b"n", 1)] * 100)
    followers.run(SetWith(b"k", b"", ttl=1), SetWith(b"l", b"", if_absent=True), SetMany(5, ((b"m", b""), (b"o", b""))))
    assert [type(step.command) for step in readable] == [Append]


effects = st.tuples(
    st.integers(0, 15), st.binary(max_size=50), st.none() | st.binary(max_size=50), st.none() | st.integers(1, 2**62)
)


@given(st.integers(0, 2**32 - 1), st.lists(effects | st.lists(effects, min_size=2, max_size=4), max_size=20), st.data())
def test_digest_of_effects_is_equal(digest: int, said: list[object], data: st.DataObject) -> None:
    from cairnkv.replication.proposals_native import digest_of, slots_changed

    changes = Changes(1, digest)
    flat: list[Effect] = []
    groups: list[int] = []
    for one in said:
        begin = len(flat)
        if isinstance(one, list):
            flat += one
            groups += [begin, len(flat)]
            changes.count_in(sorted(one, key=lambda effect: effect[1] or b""))
        else:
            flat.append(one)  # type: ignore[arg-type]
            changes.count_in([one])  # type: ignore[list-item]
    assert digest_of(digest, flat, groups) == changes.digest
    slots = {slot(effect) for effect in flat}
    some = set(data.draw(st.lists(st.sampled_from(sorted(slots))))) if slots else set()
    assert set(slots_changed(flat, some | {VERSION_SLOTS})) == some


def slot(effect: Effect) -> int:
    from cairnkv.engine.database import version_slot

    assert effect[1] is not None
    return version_slot(effect[0], effect[1])


def test_digest_of_long_values_is_equal() -> None:
    from cairnkv.replication.proposals_native import digest_of

    long: list[Effect] = [(0, b"k%d" % n, bytes([n]) * (10_000 * n), None) for n in range(12)]
    changes = Changes(1, 5)
    changes.count_in(long)
    assert digest_of(5, long, []) == changes.digest

"""The keyspace against a plain dict, in any order of any commands, at any times, with changes taken back.

After every step: the same replies, the same entries, an exact COUNT, nothing expired in sight, and a table
whose parts agree with each other.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cairnkv.commands import Command, SetMany
from cairnkv.commands.vocabulary import (
    AMOUNT,
    BIT_OFFSET,
    COUNT,
    CURSOR,
    DB,
    DECIMAL,
    KEY,
    MILLISECONDS,
    MILLISECONDS_OR_NONE,
    OFFSET,
    PREFIX,
    TIME,
    UNIX_MILLISECONDS,
    VALUE,
)
from cairnkv.engine import Database, Journal, apply, can_apply, discard, undo
from cairnkv.limits import INTEGER_MAX, INTEGER_MIN
from tests.support.crc import key_at, keys_at
from tests.support.model import MODELLED, Model, same
from tests.support.strategies import Kinds, commands

_FORGED = [key for key, _ in zip(keys_at(0xFFFF_FFFF), range(3), strict=False)]
"""Three keys at the very last position."""

KEYS = [b"a", b"b", b"ab", b"abc", b"\0", b"\xff\xfe", key_at(0, b"first:"), *_FORGED]
_TIMES = st.integers(1, 3_000) | st.just(1_000_000)

EASILY_MET = Kinds(
    {
        KEY: st.sampled_from(KEYS),
        VALUE: st.sampled_from([b"", b"1", b"-7", b"07", b"0.5", b"1e4", b"x", b"yy" * 20, str(INTEGER_MAX).encode()]),
        PREFIX: st.sampled_from([b"", b"a", b"ab", b"first:", b"forged:", b"bulk:", b"nothing"]),
        MILLISECONDS: _TIMES,
        MILLISECONDS_OR_NONE: st.just(0) | _TIMES,
        TIME: st.integers(-100, 3_000) | st.just(1_000_000),
        UNIX_MILLISECONDS: _TIMES | st.just(2**45),
        AMOUNT: st.integers(-10, 10) | st.sampled_from([INTEGER_MIN, INTEGER_MAX]),
        CURSOR: st.sampled_from([0, 1, 2**31, 2**52, 2**53 - 1]) | st.integers(0, 2**53 - 1),
        COUNT: st.integers(1, 5) | st.just(1_000),
        OFFSET: st.integers(0, 50),
        BIT_OFFSET: st.integers(0, 400),
        DB: st.just(0),
        DECIMAL: st.sampled_from([b"0.1", b"-0.5", b"3", b"1e4931", b"-1e4931", b"inf", b"x", b""]),
    }
)
"""Few keys, few values, short times: so that commands meet each other's traces."""

APPLIED = [command for command in MODELLED if can_apply(command)]
STEPS = st.integers(0, 50) | st.integers(900, 2_100) | st.just(2_000_000)
"""Milliseconds that go by between two commands."""


def content(database: Database) -> dict[bytes, Any]:
    """Every visible entry, found by a scan."""
    return {key: database.entry(key) for key in scan_all(database)}


def scan_all(database: Database, count: int = 1_000) -> Iterator[bytes]:
    """Every visible key, slice by slice."""
    cursor, keys = database.slice(0, count, b"")
    yield from keys
    while cursor:
        before = cursor
        cursor, keys = database.slice(cursor, count, b"")
        assert cursor == 0 or cursor > before, "a slice goes on"
        yield from keys


class DatabaseMachine(RuleBasedStateMachine):
    """One database and one model with the same commands."""

    def __init__(self) -> None:
        super().__init__()
        self.database = Database()
        self.model = Model()
        self.clock = 0
        self.bulk = 0

    def _tell(self, command: Command) -> None:
        reply = apply(self.database, command, self.clock)
        expected = self.model.apply(command, self.clock, seen=reply)
        assert same(command, reply, expected), f"{command} answered {reply!r}, not {expected!r}"

    @initialize(size=st.sampled_from([0, 0, 150, 900]))
    def fill(self, size: int) -> None:
        """Begin with an empty table, a bucket about to split, or several buckets."""
        if size:
            self.grow(size, 0)

    @rule(command=commands(APPLIED, EASILY_MET), step=STEPS)
    def say(self, command: Command, step: int) -> None:
        self.clock += step
        self._tell(command)

    @rule(size=st.integers(1, 400), ttl=st.sampled_from([0, 0, 1_500, 100_000]))
    def grow(self, size: int, ttl: int) -> None:
        """Many keys at once, so that buckets split."""
        self.bulk += size
        self._tell(SetMany(ttl, tuple((b"bulk:%d" % n, b"") for n in range(self.bulk - size, self.bulk))))

    @rule(command=commands(APPLIED, EASILY_MET), back=st.integers(0, 5_000))
    def say_by_a_clock_that_went_back(self, command: Command, back: int) -> None:
        reply = apply(self.database, command, self.clock - back)
        assert same(command, reply, self.model.apply(command, self.clock, seen=reply))

    @rule(
        changes=st.lists(st.tuples(commands(APPLIED, EASILY_MET), STEPS), min_size=1, max_size=6),
        kept=st.integers(0, 6),
    )
    def change_and_take_back(self, changes: list[tuple[Command, int]], kept: int) -> None:
        """Several commands, of which the first few stay and the others are undone, newest first."""
        journals: list[Journal] = []
        database, used_bytes = self.database, 0
        for number, (command, step) in enumerate(changes):
            if number == kept:
                used_bytes = database.used_bytes
            self.clock += step
            journal: Journal = []
            database.shared.journal = journal
            if number < kept:
                self._tell(command)
            else:
                apply(database, command, self.clock)
            database.shared.journal = None
            journals.append(journal)
        for journal in reversed(journals[kept:]):
            undo(journal)
        for journal in journals[:kept]:
            discard(journal)
        if kept < len(changes):
            assert database.used_bytes == used_bytes
        self.model.advance(self.clock)

    @rule(limit=st.integers(1, 300))
    def remove_expired(self, limit: int) -> None:
        """Remove expired keys, as the store does in the background without a visible effect."""
        expired = self.database.expired(limit)
        assert len(expired) <= limit
        assert all(self.database.get(key) is None for key in expired)
        for key in expired:
            assert not self.database.delete(key)

    @rule()
    def free_what_was_cleared(self) -> None:
        while self.database.free_slice():
            pass
        assert self.database.garbage_bytes == 0

    @invariant()
    def is_consistent(self) -> None:
        self.database.check()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert self.database.now == self.model.now
        assert content(self.database) == self.model.entries
        assert self.database.count() == len(self.model.entries)
        for key in KEYS:
            assert self.database.entry(key) == self.model.entries.get(key)
            assert self.database.get(key) == self.model.entries.get(key, (None,))[0]


TestDatabaseMachine = DatabaseMachine.TestCase
TestDatabaseMachine.settings = settings(max_examples=2 * settings().max_examples)

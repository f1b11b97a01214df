"""The commands on the set of keys: SCAN, KEYS, DBSIZE, RANDOMKEY.

Invariants: no command occupies the server for longer than a slice of the table takes. KEYS reads the table slice by
slice. In a transaction, which must be atomic, KEYS reads one slice, and fails if that is not the whole table.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from cairnkv.commands import Command, Count, Failure, Items, RandomKey, Reply, Scan
from cairnkv.commands.vocabulary import CURSOR
from cairnkv.limits import SCAN_COUNT_MAX
from cairnkv.protocol.resp import Error, array_head, bulk_strings
from cairnkv.session.conversation import UNFINISHED, Unfinished
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Call, Refusal, Value, error_of, on_keys
from cairnkv.session.resp.commands.replies import number, value_or_null
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.glob import Matcher, literal_prefix, matcher, searched
from cairnkv.session.resp.values import Job, Later, Prepared
from cairnkv.store import PendingReply

KEYS_IN_TRANSACTION_MAX: Final = SCAN_COUNT_MAX
"""Maximum number of keys that KEYS examines in a transaction, which cannot be interrupted."""

KEYS_TOGETHER: Final = 2_000
"""Keys in one slice of KEYS."""

KEYS_TOO_LONG: Final = "ERR the matching keys exceed the limit of a reply; use SCAN"

SCAN_COUNT: Final = 10
"""Keys in a slice without COUNT, as in Redis."""

SHORT_PATTERN: Final = 32
"""Length of a pattern up to which matching a key costs less than finding it. Hostile longer patterns could take seconds
for a slice, so their slices are smaller."""

SEARCH_MAX: Final = 1_000
"""Maximum steps of pattern search in a slice for each byte of a key: some tens of milliseconds for the longest keys."""

_CURSOR: Final = re.compile(rb"(?:[+-]?[0-9]{1,20})?")
"""A number as strtoul reads it in Redis: an empty string is 0, and negative numbers wrap around at 2 ** 64."""

_CURSORS: Final = 2**64


@on_keys("DBSIZE", "readonly fast", group="server", since="1.0.0")
def dbsize(arguments: Arguments) -> Call:
    """Return the number of keys."""
    return Call(Count(), number)


@on_keys("RANDOMKEY", "readonly", group="generic", since="1.0.0")
def randomkey(arguments: Arguments) -> Call:
    """Return a random key."""
    return Call(RandomKey(), value_or_null)


@on_keys("SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]", "readonly scans", group="generic", since="2.8.0")
def scan(arguments: Arguments) -> Call:
    """Return some keys and the next cursor. The first cursor is 0; a next cursor of 0 is the end."""
    text = arguments.take()
    if not _CURSOR.fullmatch(text) or abs(int(text or b"0")) >= _CURSORS:
        raise Refusal("ERR invalid cursor")
    # No reply contains a cursor beyond the highest one. Such a cursor is at the end.
    cursor = min(int(text or b"0") % _CURSORS, CURSOR.highest)
    pattern, count, of_type = b"*", SCAN_COUNT, b"STRING"
    while len(arguments):
        match arguments.keyword():
            case b"MATCH":
                pattern = arguments.take()
            case b"COUNT":
                count = arguments.integer()
                if count < 1:
                    raise Refusal(SYNTAX)
            case b"TYPE":
                of_type = arguments.keyword()
            case _:
                raise Refusal(SYNTAX)
    matches, prefix = _reading(pattern)

    def show(reply: Reply) -> Value:
        following, keys = _slice(reply)
        return [b"%d" % following, [key for key in keys if matches(key)] if of_type == b"STRING" else []]

    return Call(Scan(cursor, min(count, _affordable(SCAN_COUNT_MAX, pattern)), prefix), show)


def _affordable(count: int, pattern: bytes) -> int:
    """Return the number of keys to examine, reduced from `count` for a long or complex pattern."""
    count = count * SHORT_PATTERN // max(len(pattern), SHORT_PATTERN)
    return max(1, min(count, SEARCH_MAX // steps) if (steps := searched(pattern)) else count)


def _reading(pattern: bytes) -> tuple[Matcher, bytes]:
    """Return a function that matches a pattern, and the prefix that all matching keys have."""
    try:
        return matcher(pattern), literal_prefix(pattern)
    except ValueError as error:
        raise Refusal(f"ERR {error}") from None


def _slice(reply: Reply) -> tuple[int, list[bytes]]:
    """Return the next cursor and the keys of a reply."""
    assert isinstance(reply, Items)
    following, *keys = (value for value in reply.values if value is not None)
    return int(following), keys


class _Keys(Job):
    """KEYS outside of transactions, slice by slice."""

    def __init__(self, conversation: RespConversation, pattern: bytes) -> None:
        self._matches, self._prefix = _reading(pattern)
        self._store = conversation.store
        self._db = conversation.db
        self._room = conversation.limits.frame
        self._count = _affordable(KEYS_TOGETHER, pattern)
        self._cursor = 0
        self._pieces = [b""]  # of the reply; the head comes first, and is made last
        self._count_found = 0
        self._pending: list[PendingReply] = []
        self._asked: Reply | PendingReply | None = None  # a slice that has not been executed yet

    def step(self) -> Value:
        outcome = self._asked or self._store.execute(Scan(self._cursor, self._count, self._prefix), self._db)
        if isinstance(outcome, PendingReply) and not outcome.executed:
            self._asked = outcome
            return Unfinished(until=outcome)
        self._asked = None
        if isinstance(outcome, PendingReply):
            self._pending.append(outcome)
        reply = outcome.outcome if isinstance(outcome, PendingReply) else outcome
        if isinstance(reply, Failure):
            return error_of(reply)
        self._cursor, keys = _slice(reply)
        found = [key for key in keys if self._matches(key)]
        self._count_found += len(found)
        self._pieces.append(bulk_strings(found))
        self.kept += len(self._pieces[-1])
        if self.kept > self._room:
            return Error(KEYS_TOO_LONG)
        return UNFINISHED if self._cursor else Later(outcome, self._show)

    def _show(self, _last: Reply) -> Value:
        """Return the reply. Commits are in order, so when the last slice is committed, all slices are."""
        for pending in self._pending:
            if isinstance(pending.reply, Failure):
                return error_of(pending.reply)
        self._pieces[0] = array_head(self._count_found)
        return Prepared(self._pieces)


def keys_at_once(pattern: bytes, execute: Callable[[Command], Reply], room: int) -> Iterator[Value]:
    """Yield `UNFINISHED` for each slice of KEYS within a script, and the keys at the end. room: bytes of the reply."""
    matches, prefix = _reading(pattern)
    count, cursor = _affordable(KEYS_TOGETHER, pattern), 0
    found: list[bytes] = []
    while True:
        reply = execute(Scan(cursor, count, prefix))
        if isinstance(reply, Failure):
            yield error_of(reply)
            return
        cursor, keys = _slice(reply)
        matching = list(filter(matches, keys))
        found += matching
        room -= sum(map(len, matching))
        if room < 0:
            yield Error(KEYS_TOO_LONG)
            return
        if not cursor:
            yield found
            return
        yield UNFINISHED


def _keys_by_slices(conversation: RespConversation, arguments: Arguments) -> Value:
    return _Keys(conversation, arguments.take())


@on_keys("KEYS pattern", "readonly scans", group="generic", since="1.0.0", outside_transactions=_keys_by_slices)
def keys(arguments: Arguments) -> Call:
    """Return all keys that match a pattern, slice by slice. Prefer SCAN."""
    pattern = arguments.take()
    matches, prefix = _reading(pattern)
    most = _affordable(KEYS_IN_TRANSACTION_MAX, pattern)

    def show(reply: Reply) -> Value:
        following, found = _slice(reply)
        if following:
            return Error(f"ERR KEYS in a transaction examines at most {most} keys with this pattern; use SCAN")
        return list(filter(matches, found))

    return Call(Scan(0, most, prefix), show)

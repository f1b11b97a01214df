"""The words on which keys there are.

What always holds: no word keeps the server busy for longer than a slice of the table takes. KEYS goes through it in
several turns; within a transaction, which others may not come in between, it is bounded and otherwise an error.
"""

import re
from typing import Final

from cairnkv.commands import Count, Failure, Items, RandomKey, Reply, Scan
from cairnkv.commands.vocabulary import CURSOR
from cairnkv.limits import SCAN_COUNT_MAX
from cairnkv.protocol.resp import Error, array_head, bulk_strings
from cairnkv.session.conversation import UNFINISHED, Unfinished
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Call, Refusal, Value, error_of, on_keys
from cairnkv.session.resp.commands.replies import number, value_or_null
from cairnkv.session.resp.conversation import Job, Later, RespConversation
from cairnkv.session.resp.encoding import Prepared
from cairnkv.session.resp.glob import Matcher, literal_prefix, matcher, searched
from cairnkv.store import PendingReply

KEYS_IN_TRANSACTION_MAX: Final = SCAN_COUNT_MAX
"""Keys of a keyspace that KEYS looks at within a transaction, which cannot be interrupted."""

KEYS_TOGETHER: Final = 2_000
"""Keys that KEYS looks at in one go."""

SCAN_COUNT: Final = 10
"""Keys that a slice looks at unless the client asks for another number, as in Redis."""

SHORT_PATTERN: Final = 32
"""Bytes of a pattern up to which it costs less to match a key than to look it up. With longer ones, made for it, a
slice of keys could take seconds, so there are fewer keys in a slice."""

SEARCH_MAX: Final = 1_000
"""Steps for each byte of a key that matching a slice of keys may take, where the pattern has to be searched for: with
the longest keys that is some tens of milliseconds."""

_CURSOR: Final = re.compile(rb"(?:[+-]?[0-9]{1,20})?")
"""A number as C's strtoul reads it for Redis: nothing stands for 0, and what is below 0 counts back from 2 ** 64."""

_CURSORS: Final = 2**64


@on_keys("DBSIZE", "readonly fast", group="server", since="1.0.0", summary="How many keys there are.")
def dbsize(arguments: Arguments) -> Call:
    return Call(Count(), number)


@on_keys("RANDOMKEY", "readonly", group="generic", since="1.0.0", summary="One of the keys, any of them.")
def randomkey(arguments: Arguments) -> Call:
    return Call(RandomKey(), value_or_null)


@on_keys(
    "SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]",
    "readonly scans",
    group="generic",
    since="2.8.0",
    summary="Some of the keys, and the cursor to go on with; 0 is the first one, and means the end.",
)
def scan(arguments: Arguments) -> Call:
    text = arguments.take()
    if not _CURSOR.fullmatch(text) or abs(int(text or b"0")) >= _CURSORS:
        raise Refusal("ERR invalid cursor")
    # A cursor beyond ours was never given to anybody; it is answered with the end.
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
    """How many keys may be looked at instead of so many, since there is a pattern to match."""
    count = count * SHORT_PATTERN // max(len(pattern), SHORT_PATTERN)
    return max(1, min(count, SEARCH_MAX // steps) if (steps := searched(pattern)) else count)


def _reading(pattern: bytes) -> tuple[Matcher, bytes]:
    """What tells whether a key matches a pattern, and the bytes with which it then begins."""
    try:
        return matcher(pattern), literal_prefix(pattern)
    except ValueError as error:
        raise Refusal(f"ERR {error}") from None


def _slice(reply: Reply) -> tuple[int, list[bytes]]:
    """The next cursor and the keys."""
    assert isinstance(reply, Items)
    following, *keys = (value for value in reply.values if value is not None)
    return int(following), keys


class _Keys(Job):
    """KEYS outside of transactions: slice by slice."""

    def __init__(self, talk: RespConversation, pattern: bytes) -> None:
        self._matches, self._prefix = _reading(pattern)
        self._store = talk.store
        self._db = talk.db
        self._room = talk.limits.frame
        self._count = _affordable(KEYS_TOGETHER, pattern)
        self._cursor = 0
        self._pieces = [b""]  # of the reply, made as the keys are found; the head comes first, and last of all
        self._count_found = 0
        self._pending: list[PendingReply] = []
        self._asked: Reply | PendingReply | None = None  # a slice that is not there yet

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
            return Error("ERR the keys that match are more than a reply has room for; use SCAN")
        return UNFINISHED if self._cursor else Later(outcome, self._show)

    def _show(self, _last: Reply) -> Value:
        """All keys, once the last slice may be shown: commits come in order, so the others have theirs behind them."""
        for pending in self._pending:
            if isinstance(pending.reply, Failure):
                return error_of(pending.reply)
        self._pieces[0] = array_head(self._count_found)
        return Prepared(self._pieces)


def _keys_alone(talk: RespConversation, arguments: Arguments) -> Value:
    return _Keys(talk, arguments.take())


@on_keys(
    "KEYS pattern",
    "readonly scans",
    group="generic",
    since="1.0.0",
    summary="All keys that match a pattern, though not of one moment; see SCAN.",
    alone=_keys_alone,
)
def keys(arguments: Arguments) -> Call:
    pattern = arguments.take()
    matches, prefix = _reading(pattern)
    most = _affordable(KEYS_IN_TRANSACTION_MAX, pattern)

    def show(reply: Reply) -> Value:
        following, found = _slice(reply)
        if following:
            return Error(f"ERR KEYS within a transaction looks at {most} keys at most with this pattern; use SCAN")
        return list(filter(matches, found))

    return Call(Scan(0, most, prefix), show)

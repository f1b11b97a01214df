"""The commands of the Redis protocol on queues: QUEUE.PUT, QUEUE.TAKE ..., from the registry of commands.

Each has the arguments of its command, with keywords in any case. Replies have numbers as integers, and one array for
each message. Names of queues are no keys.

Invariants: within MULTI, a command that fails, or an acknowledgement with a lease that is not the newest, undoes the
whole transaction.

Out of scope: TOGETHER, for which this protocol has MULTI.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.commands import (
    BY_NUMBER,
    MISSING,
    Ack,
    Answer,
    ArgumentFault,
    Command,
    CommandSpec,
    Extend,
    Items,
    Look,
    Peek,
    Purge,
    Put,
    PutMany,
    Queues,
    QueueStats,
    Reply,
    Scope,
    Take,
    TakeAny,
)
from cairnkv.session.resp.command_spec import Arguments, Call, Refusal, ToCall, Value, on_keys
from cairnkv.session.resp.commands.replies import number, ok

Show = Callable[[Reply], Value]

_TAKEN: Final = (int, int, int, int, int, bytes, bytes)
"""The types of the strings for a message in the reply to TAKE."""

_DESCRIBED: Final = (int, bytes, bytes, int, int, int, int, int, int, bytes, bytes, bytes, bytes)
"""The same for LOOK and PEEK."""


def _typed(strings: Sequence[bytes | None], types: Sequence[type]) -> list[Value]:
    return [string if kind is bytes else int(string or b"") for string, kind in zip(strings, types, strict=True)]


def _strings(reply: Reply) -> tuple[bytes | None, ...]:
    assert isinstance(reply, Items)
    return reply.values


def _numbers(reply: Reply) -> Value:
    return [int(string or b"") for string in _strings(reply)]


def _messages(types: Sequence[type]) -> Show:
    """Return a function that shows messages with strings of these types."""

    def show(reply: Reply) -> Value:
        strings, width = _strings(reply), len(types)
        return [_typed(strings[at : at + width], types) for at in range(0, len(strings), width)]

    return show


def _message_or_null(reply: Reply) -> Value:
    return None if reply is MISSING else _typed(_strings(reply), _DESCRIBED)


def _after_cursor(show: Show) -> Show:
    """Return a function that shows the next cursor, and what follows it in one array."""
    return lambda reply: [_strings(reply)[0], show(Items(_strings(reply)[1:]))]


def _names(reply: Reply) -> Value:
    return list(_strings(reply))


def _pairs(reply: Reply) -> Value:
    texts = iter(_strings(reply))
    return {name: int(text) if text and text.isdigit() else text for name, text in zip(texts, texts, strict=True)}


_SHOWN: Final[dict[type[Command], Show]] = {
    Put: _numbers,
    PutMany: _numbers,
    Take: _messages(_TAKEN),
    TakeAny: _messages((bytes, *_TAKEN)),
    Ack: _numbers,
    Extend: _numbers,
    Peek: _after_cursor(_messages(_DESCRIBED)),
    Look: _message_or_null,
    Purge: lambda reply: [_strings(reply)[0], int(_strings(reply)[1] or b"")],
    QueueStats: _pairs,
    Queues: _after_cursor(_names),
}


def name_of(spec: CommandSpec) -> str:
    """Return the name of a command in the Redis protocol.

    >>> [name_of(BY_NUMBER[number]) for number in (64, 65, 77, 80)]
    ['QUEUE.PUT', 'QUEUE.PUTMANY', 'QUEUE.SET', 'QUEUE.LIST']
    """
    name = "LIST" if spec.command is Queues else spec.name.removeprefix("QUEUE_")
    return f"QUEUE.{name.replace('_', '')}"


def _handler(spec: CommandSpec) -> ToCall:
    show = _SHOWN.get(spec.command, ok if spec.answer is Answer.OK else number)
    positional = len(spec.shape.readers)

    def call(arguments: Arguments) -> Call:
        strings = list(arguments.rest())
        if spec.shape.rest is None:
            strings = [*strings[:positional], *_in_capitals(spec, strings[positional:])]
        try:
            return Call(spec.command.from_arguments(strings), show)
        except ArgumentFault as fault:
            raise Refusal(f"ERR {fault.text.replace(spec.usage, _syntax(spec))}") from None

    return call


def _in_capitals(spec: CommandSpec, strings: Sequence[bytes]) -> list[bytes]:
    """Return options with their keywords in capitals. The values of options stay as they are."""
    shown: list[bytes] = []
    left = iter(strings)
    for string in left:
        keyword = string.upper()
        _, kind = spec.shape.options.get(keyword, ("", None))
        shown.append(keyword)
        if kind is not None:
            shown += [value for value in [next(left, None)] if value is not None]
    return shown


def _syntax(spec: CommandSpec) -> str:
    return f"{name_of(spec)}{spec.usage.removeprefix(spec.name)}"


def _declare() -> None:
    for spec in BY_NUMBER.values():
        if spec.scope is Scope.QUEUES and not spec.by_store:
            flags = "readonly" if not spec.writes else "write denyoom" if spec.grows else "write"
            flags += " noscript"
            if spec.command.waiting_time is not Command.waiting_time:
                flags += " blocking"
            declare = on_keys(_syntax(spec), flags, group="queue", since="0.1.0", summary=spec.summary)
            declare(_handler(spec))


_declare()

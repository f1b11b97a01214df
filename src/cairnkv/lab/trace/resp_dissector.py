"""Dissects the Redis protocol into frames and fields: RESP2, RESP3 and inline commands.

    *2 CR LF | $3 CR LF       | GET CR LF | $1 CR LF          | k CR LF
    array,     command length,  command,    argument 1 length,  argument 1

Invariants: those of `cairnkv.lab.trace.native_dissector`. The CR LF after a string belongs to the field of the string.

Out of scope: whether a server accepts a frame (`cairnkv.protocol.resp.requests`).
"""

import re
from collections.abc import Generator
from typing import Final

from cairnkv.lab.trace.native_dissector import Dissector, Field, Undelimited
from cairnkv.limits import REDIS_LINE_MAX
from cairnkv.units import counted

NESTING_MAX: Final = 32
"""Maximum nesting of arrays that the dissector follows."""

LENGTH_MAX: Final = 2**31 - 1
"""Bytes of a string, or items of an array, as in Redis."""

TITLE_BYTES: Final = 32
"""Maximum bytes of a command's name in the title of its frame."""

SUBSCRIBING: Final = frozenset({"SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"})
"""Commands with one message per channel instead of a reply."""

BEGINNING: Final = 3
"""The first arguments of a command, which decide whether others are secrets."""

OF_CHANNELS: Final = frozenset({*(name.lower().encode() for name in SUBSCRIBING), b"message", b"pmessage"})
"""The first items of the arrays that the server sends about channels."""

_INTEGER: Final = re.compile(rb"-?\d{1,20}")
_FIRST_ITEM: Final = re.compile(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n")
_FIRST_ITEM_BYTES: Final = 64
"""Bytes that contain the complete first item of an array about a channel."""

_LINES: Final = {
    "+": "status",
    "-": "error",
    ":": "integer",
    "_": "null",
    "#": "boolean",
    ",": "double",
    "(": "big number",
}
"""Replies of one line, by their first byte."""

_STRINGS: Final = {"$": "string", "!": "error", "=": "verbatim string"}
"""Replies of a length and a string."""

_AGGREGATES: Final = {"*": "array", "~": "set", ">": "push", "%": "map", "|": "attribute"}
"""Replies of a count and as many items, or pairs of them."""

_PAIRS: Final = "%|"


class _RedisDissector(Dissector[str]):
    """The common part of both sides of a connection."""

    def _line(self) -> Generator[None, None, bytes]:
        """Take a line with its terminator. Raises `Undelimited` if it does not end."""
        looked_at = 0
        while (end := self._buffer.find(b"\n", looked_at)) < 0:
            looked_at = len(self._buffer)
            if looked_at > REDIS_LINE_MAX:
                raise Undelimited(f"a line of more than {REDIS_LINE_MAX:,} bytes")
            yield
        return (yield from self._take(end + 1))

    def _line_field(self, name: str, line: bytes, *, meaning: str = "", skipped: int = 0, secret: bool = False) -> None:
        """Add a line as a field. skipped: bytes at its beginning that are not a part of its text."""
        end = len(line) - len(line.rstrip(b"\r\n"))
        text = line[skipped : len(line) - end]
        kept = line[: max(self._kept_bytes, 1)]
        self._add(Field(name, kept, len(line), meaning or _shown(text), end, secret))

    def _number(self, name: str, line: bytes, what: str) -> int:
        """Add a line with a length or a count as a field, and return the number."""
        text = line[1:].rstrip(b"\r\n")
        if not _INTEGER.fullmatch(text) or not -1 <= int(text) <= LENGTH_MAX:
            self._line_field(name, line)
            raise Undelimited(f"{_shown(text)!r} is not a number of {what}s")
        number = int(text)
        self._line_field(name, line, meaning="null" if number < 0 else counted(number, what))
        return number


class RedisCommandDissector(_RedisDissector):
    """The client's side of a connection."""

    def _frame(self) -> Generator[None, None, None]:
        yield from self._await(1)
        line = yield from self._line()
        if line[:1] != b"*":
            arguments = line.split()
            self._title = _name(arguments[0]) if arguments else "an empty line"
            secret = any(_is_secret(arguments, position) for position in range(len(arguments)))
            self._line_field("inline command" if arguments else "line end", line, secret=secret)
            self._record(arguments)
            return
        self._title = "no command"
        count = self._number("array", line, "string")
        beginning: list[bytes] = []
        for position in range(count):
            name = f"argument {position}" if position else "command"
            head = yield from self._line()
            if head[:1] != b"$":
                self._line_field(f"{name} length", head)
                raise Undelimited(f"an argument begins with {_shown(head[:1])!r} instead of '$'")
            length = self._number(f"{name} length", head, "byte")
            if length < 0:
                raise Undelimited("an argument has no length")
            secret = _is_secret(beginning, position)
            text = yield from self._string(name, length + 2, end=2, secret=secret)  # with CR LF
            if position < BEGINNING:
                beginning.append(text)
            if not position:
                self._title = _name(text)
        self._record(beginning)

    def _rest_is_secret(self) -> bool:
        arguments = bytes(self._buffer).split()
        return any(_is_secret(arguments, position) for position in range(len(arguments)))

    def _record(self, arguments: list[bytes]) -> None:
        """Record a command that awaits a reply. arguments: the first ones, its name included."""
        if not arguments or self.awaited is None:
            return
        name = _name(arguments[0])
        if name in SUBSCRIBING:
            self.subscribed = True
        elif name == "CLIENT" and len(arguments) > 1 and arguments[1].upper() == b"REPLY":
            self.awaited = None  # from here on some commands have no reply
        else:
            self._expect(name)


class RedisReplyDissector(_RedisDissector):
    """The server's side of a connection."""

    def _frame(self) -> Generator[None, None, None]:
        yield from self._await(1)
        kind = yield from self._kind_of_message()
        if not kind and (command := self._answered()):
            kind = f", to {command}"
        while (yield from self._value("", 0, kind)):
            pass  # an attribute: the reply follows it

    def _kind_of_message(self) -> Generator[None, None, str]:
        """Return the title of a frame about a channel; empty for other frames."""
        if self._buffer[:1] == b">":
            return "push"
        if self._buffer[:1] == b"*" and self._commands is not None and self._commands.subscribed:
            while self._buffer.count(b"\n") < 3 and len(self._buffer) < _FIRST_ITEM_BYTES:
                yield
            first = _FIRST_ITEM.match(self._buffer)
            if first and first[1] in OF_CHANNELS:
                return str(first[1].decode())
        return ""

    def _value(self, name: str, depth: int, title: str = "") -> Generator[None, None, bool]:
        """Add a value as fields. Return whether it was an attribute, which precedes the value.

        name: the item's name; empty for the reply itself. title: the kind of a message, or `, to COMMAND`.
        """
        line = yield from self._line()
        mark = chr(line[0])
        kind = _LINES.get(mark) or _STRINGS.get(mark) or _AGGREGATES.get(mark)
        if kind is None:
            self._line_field(name or "?", line)
            raise Undelimited(f"no reply begins with {_shown(line[:1])!r}")
        if not name:
            null = line[:3] in (b"$-1", b"*-1")
            self._title = f"{'null' if null else kind}{title}" if title.startswith(",") or not title else title
        label = f"{name}: {kind}" if name else kind
        if mark in _LINES:
            self._line_field(label, line, skipped=1)
        elif mark in _STRINGS:
            length = self._number(f"{name or kind} length", line, "byte")
            if length >= 0:
                yield from self._string(label, length + 2, end=2)  # with CR LF
        else:
            pairs = mark in _PAIRS
            count = self._number(label, line, "pair" if pairs else "item")
            if depth == NESTING_MAX:
                raise Undelimited(f"more than {NESTING_MAX} arrays within arrays")
            for position in range(1, count + 1):
                for what in ("key", "value") if pairs else ("item",):
                    item = f"{name}.{position}" if name else f"{what} {position}"
                    while (yield from self._value(item, depth + 1)):
                        pass
        return mark == "|"


def _is_secret(arguments: list[bytes], position: int) -> bool:
    """Return whether an argument may be a secret. arguments: the first ones, with the name of the command.

    Of AUTH, HELLO, ACL and CONFIG SET, more arguments count as secrets than there are.
    """
    first = [argument.upper() for argument in arguments[:BEGINNING]]
    match first:
        case [b"AUTH", *_]:
            return position > 0
        case [b"HELLO", *_]:
            return position > 2
        case [b"ACL", b"SETUSER", *_]:
            return position > 2
        case [b"CONFIG", b"SET", *names]:
            return position > 2 and (position > BEGINNING or any(b"PASS" in name for name in names))
    return False


def _name(command: bytes) -> str:
    """Return the name of a command as a title."""
    return _shown(command[:TITLE_BYTES].upper())


def _shown(text: bytes) -> str:
    """Return text in which every byte is printable."""
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in text)

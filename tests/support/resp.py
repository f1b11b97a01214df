"""The client's side of the Redis protocol: requests to bytes, bytes to replies. Written for tests alone, strict, and
without a look at how the package writes what is read here.
"""

import dataclasses
from typing import Any

from cairnkv.protocol.resp import NULL_ARRAY, Error, Push, SetOf, Simple, Verbatim


def request(*arguments: bytes) -> bytes:
    """An array of bulk strings."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments)


def quoted(argument: bytes) -> bytes:
    """An argument of an inline request, in double quotes, in printable ASCII."""
    escapes = {0x22: '\\"', 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x08: "\\b", 0x07: "\\a"}
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F)}
    return ('"' + "".join((plain | escapes).get(byte, f"\\x{byte:02x}") for byte in argument) + '"').encode()


@dataclasses.dataclass
class _Open:
    """An aggregate of which items are still to come."""

    kind: bytes
    wanted: int
    items: list[Any] = dataclasses.field(default_factory=list)

    def value(self) -> Any:
        match self.kind:
            case b"*":
                return self.items
            case b"%":
                return dict(zip(self.items[::2], self.items[1::2], strict=True))
            case b"~":
                return SetOf(tuple(self.items))
            case _:
                return Push(tuple(self.items))


class Incomplete(Exception):
    """The bytes end before the reply does."""


class ReplyDecoder:
    """Bytes in, replies out, of both versions: the first byte of each value says what it is."""

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def pending(self) -> int:
        """Bytes of an unfinished reply."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Any]:
        """Take more bytes; the replies that are whole now."""
        self._buffer += data
        found = []
        while self._buffer:
            try:
                value, end = read(self._buffer)
            except Incomplete:
                break
            found.append(value)
            self._buffer = self._buffer[end:]
        return found


def decode(data: bytes) -> Any:
    """The one reply that these bytes are."""
    value, end = read(data)
    assert end == len(data), f"{data[end : end + 40]!r} behind a reply"
    return value


def read(data: bytes) -> tuple[Any, int]:
    """The reply with which the bytes begin, and where it ends."""
    around: list[_Open] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Incomplete
        kind, text = data[at : at + 1], data[at + 1 : end]
        assert b"\n" not in text, "a line feed within a line"
        assert b"\r" not in text, "a carriage return within a line"
        at = end + 2
        value: Any
        if kind in (b"*", b"%", b"~", b">") and text != b"-1":
            around.append(_Open(kind, _count(text) * (2 if kind == b"%" else 1)))
        else:
            if kind in (b"$", b"=") and text != b"-1":
                size = _count(text)
                if len(data) < at + size + 2:
                    raise Incomplete
                value = _string(kind, data[at : at + size])
                assert data[at + size : at + size + 2] == b"\r\n"
                at += size + 2
            else:
                value = _short(kind, text)
            if not around:
                return value, at
            around[-1].items.append(value)
        while len(around[-1].items) == around[-1].wanted:
            value = around.pop().value()
            if not around:
                return value, at
            around[-1].items.append(value)


def _count(text: bytes) -> int:
    assert text.isdigit(), text
    return int(text)


def _string(kind: bytes, string: bytes) -> bytes | Verbatim:
    if kind == b"$":
        return string
    assert string[3:4] == b":"
    return Verbatim(string[4:], string[:3].decode())


def _short(kind: bytes, text: bytes) -> Any:
    match kind, text:
        case b"+", _:
            return Simple(text.decode("utf-8", "surrogateescape"))
        case b"-", _:
            return Error(text.decode("utf-8", "surrogateescape"))
        case (b":", _) | (b"(", _):
            assert text == b"%d" % int(text)
            return int(text)
        case b",", _:
            return float(text)
        case b"#", b"t" | b"f":
            return text == b"t"
        case (b"_", b"") | (b"$", b"-1"):
            return None
        case b"*", b"-1":
            return NULL_ARRAY
    raise AssertionError(f"no reply begins so: {kind + text!r}")

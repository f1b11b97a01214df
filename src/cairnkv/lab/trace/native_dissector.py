"""Dissects the native protocol into frames and fields, for `cairn trace`.

    00 | 00 01       | 00 00 00 08 | 67 72 65 65 74 69 6e 67 | 00 00 00 05  | 68 65 6c 6c 6f
    header, command 1, key length,   key,                      value length,  value

Invariants: the fields of a frame, joined, are the bytes of the frame. The frames do not depend on the sizes of the
parts that arrive. If the end of a frame is unknown, its bytes and all later ones of that side are `Raw`. Memory is
bounded: a dissector keeps only the beginning of a long string, and only the first of many fields.

Out of scope: whether a server accepts a frame (`cairnkv.protocol.native`), and the Redis protocol
(`cairnkv.lab.trace.resp_dissector`).
"""

import abc
import dataclasses
from collections import deque
from collections.abc import Generator
from typing import Final, Generic, TypeAlias, TypeVar

from cairnkv.commands import BY_NUMBER, COUNTED_FROM, Answer, CommandSpec
from cairnkv.commands.grammar import Kind, Place
from cairnkv.commands.vocabulary import SECRET
from cairnkv.limits import ARGUMENTS_MAX, KEY_MAX
from cairnkv.protocol.native import (
    LENGTH,
    NULL,
    NUMBER,
    RESPONSE_HEAD,
    STATUS_BYTES,
    CommandDecoder,
    CommandFlag,
    ResponseFlag,
    Width,
)
from cairnkv.units import counted

KEPT_BYTES: Final = 64
"""Default for the bytes of a string that a dissector keeps. It counts the others."""

KEPT_FIELDS: Final = 256
"""Default for the fields of a frame that a dissector keeps."""

AWAITED_MAX: Final = 65_536
"""Commands without reply, up to which replies are shown with their commands."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field of a frame.

    data: its bytes, or the first of them.
    size: the number of all its bytes.
    meaning: an explanation; empty for a string.
    end: number of bytes at its end that terminate the string and are not a part of it.
    secret: whether it is a password or a token, which must not be shown.
    """

    name: str
    data: bytes
    size: int
    meaning: str = ""
    end: int = 0
    secret: bool = False

    @property
    def text(self) -> bytes:
        """The string without its terminator, up to the kept bytes."""
        return self.data[: self.size - self.end]


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """A frame, or its first part.

    title: the command's name, or the kind of the reply.
    size: bytes of the frame.
    omitted: number of fields that were not kept.
    whole: False if the connection ended within the frame.
    """

    title: str
    fields: tuple[Field, ...]
    size: int
    omitted: int = 0
    whole: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Raw:
    """Bytes that belong to no known frame. why: the reason, the first time."""

    data: bytes
    why: str = ""


Piece: TypeAlias = Frame | Raw

_CommandT = TypeVar("_CommandT")


class Undelimited(Exception):
    """The end of a frame is unknown."""


class Dissector(abc.ABC, Generic[_CommandT]):
    """Converts the bytes of one side of a connection to frames: an incremental parser.

    The `_frame` of a subclass takes a frame, field by field.
    """

    def __init__(
        self,
        commands: "Dissector[_CommandT] | None" = None,
        *,
        kept_bytes: int = KEPT_BYTES,
        kept_fields: int = KEPT_FIELDS,
    ) -> None:
        """commands: the client's side of the connection, with the commands of the replies; None: this is that side."""
        self.awaited: deque[_CommandT] | None = deque()
        """The commands without reply so far; None: the commands of replies are unknown from now on."""
        self.subscribed = False
        """Whether the client has subscribed to a channel of the Redis protocol."""
        self._commands = commands
        self._kept_bytes = kept_bytes
        self._kept_fields = kept_fields
        self._buffer = bytearray()
        self._raw = False
        self._begin()

    def _begin(self) -> None:
        self._title = ""
        self._fields: list[Field] = []
        self._size = 0
        self._omitted = 0
        self._parser = self._frame()
        self._partial: Field | None = None  # an incomplete string

    def feed(self, data: bytes) -> list[Piece]:
        """Take more bytes and return the frames that they complete."""
        if self._raw:
            return [Raw(bytes(data))]
        self._buffer += data
        pieces: list[Piece] = []
        while True:
            try:
                next(self._parser)
                return pieces  # the frame needs more bytes
            except StopIteration:
                pieces.append(self._finished(whole=True))
            except Undelimited as why:
                if self._fields:
                    pieces.append(self._finished(whole=False))
                self._raw = True
                rest, self._buffer = bytes(self._buffer), bytearray()
                pieces.append(Raw(rest, str(why)))
                return pieces

    def finish(self) -> Frame | None:
        """Return the incomplete frame at the end of the connection, if any."""
        if self._partial is not None:
            self._add(self._partial)
        elif self._buffer and not self._raw:
            self._add(Field("?", bytes(self._buffer), len(self._buffer), secret=self._rest_is_secret()))
            self._buffer.clear()
        return self._finished(whole=False) if self._fields else None

    def _rest_is_secret(self) -> bool:
        """Return whether the bytes of no complete field may contain a secret."""
        return False

    def _finished(self, *, whole: bool) -> Frame:
        frame = Frame(self._title, tuple(self._fields), self._size, self._omitted, whole)
        self._begin()
        return frame

    @abc.abstractmethod
    def _frame(self) -> Generator[None, None, None]:
        """Take a frame, field by field. Yields when bytes are missing."""

    # -- commands and their replies ---------------------------------------------------------------------------

    def _expect(self, command: _CommandT) -> None:
        """Record a command that awaits a reply."""
        if self.awaited is not None:
            self.awaited.append(command)
            if len(self.awaited) > AWAITED_MAX:
                self.awaited = None

    def _answered(self) -> _CommandT | None:
        """Return the command of the next reply, or None if it is unknown."""
        awaited = self._commands.awaited if self._commands is not None else None
        return awaited.popleft() if awaited else None

    # -- fields -----------------------------------------------------------------------------------------------

    def _add(self, field: Field) -> None:
        self._size += field.size
        if len(self._fields) < self._kept_fields:
            self._fields.append(field)
        else:
            self._omitted += 1

    def _await(self, size: int) -> Generator[None, None, None]:
        while len(self._buffer) < size:
            yield

    def _take(self, size: int) -> Generator[None, None, bytes]:
        """Take a few bytes."""
        yield from self._await(size)
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _length(self, name: str, what: str = "byte", *, null: str = "") -> Generator[None, None, int]:
        """Add a length or a count as a field, and return it. null: the meaning of the length for a missing string."""
        data = yield from self._take(LENGTH.size)
        (length,) = LENGTH.unpack(data)
        meaning = null if null and length == NULL else counted(int(length), what)
        self._add(Field(name, data, LENGTH.size, meaning))
        return int(length)

    def _string(self, name: str, length: int, *, end: int = 0, secret: bool = False) -> Generator[None, None, bytes]:
        """Add a string as a field, unless it is empty, and return its kept part. end, secret: see `Field`."""
        kept = bytearray()
        size = 0
        while size < length:
            piece = self._buffer[: length - size]
            del self._buffer[: len(piece)]
            size += len(piece)
            kept += piece[: self._kept_bytes - len(kept)]
            if size < length:
                self._partial = Field(name, bytes(kept), size, secret=secret) if size else None
                yield
        self._partial = None
        if length:
            self._add(Field(name, bytes(kept), length, end=end, secret=secret))
        return bytes(kept[: length - end])


class CommandDissector(Dissector[CommandSpec | None]):
    """The client's side of a connection."""

    width: Width | None = None
    """Bytes of a command number; None: detect it in the first frame."""

    def _frame(self) -> Generator[None, None, None]:
        yield from self._detect_width()
        width: Width = self.width or 2
        header = yield from self._take(1)
        self._add(Field("header", header, 1, _flags(CommandFlag, header[0])))
        data = yield from self._take(width)
        (number,) = NUMBER[width].unpack(data)
        spec = BY_NUMBER.get(number)
        self._title = spec.name if spec else f"command {number}"
        self._add(Field("command", data, width, f"{number} = {spec.name if spec else 'unknown'}"))
        if number < COUNTED_FROM:
            if spec is None:
                raise Undelimited(f"command {number} is not assigned, so the end of its frame is unknown")
            for name, slot in spec.fields:
                yield from self._argument(slot.kinds[0].placeholder, is_key=name in spec.key_fields)
        else:
            count = yield from self._length("arguments", "argument")
            if count > ARGUMENTS_MAX:
                raise Undelimited(f"{count:,} arguments exceed the limit of {ARGUMENTS_MAX:,}")
            namer = _Namer(spec)
            for position in range(count):
                string = yield from self._argument(namer.name(position))
                namer.add(position, string)
        self._expect(spec)

    def _argument(self, name: str, *, is_key: bool = False) -> Generator[None, None, bytes]:
        length = yield from self._length(f"{name} length")
        if is_key and length > KEY_MAX:
            raise Undelimited(f"a key of {length:,} bytes exceeds the limit of {KEY_MAX:,}")
        return (yield from self._string(name, length, secret=name == SECRET.placeholder))

    def _detect_width(self) -> Generator[None, None, None]:
        """Detect the width of command numbers with a server's decoder."""
        decoder = CommandDecoder()
        fed = 0
        while self.width is None:
            yield from self._await(fed + 1)
            decoder.feed(self._buffer[fed : fed + 1])
            decoder.next()
            fed += 1
            self.width = decoder.width


class _Namer:
    """The names of a counted command's arguments, by its grammar."""

    def __init__(self, spec: CommandSpec | None) -> None:
        fields = spec.fields if spec else ()
        self._positional = [slot.kinds[0] for _, slot in fields if slot.place is Place.ARGUMENT]
        self._rest: tuple[Kind, ...] = next((slot.kinds for _, slot in fields if slot.place is Place.REST), ())
        self._options = {slot.keyword: slot for _, slot in fields if slot.keyword}
        self._value_of: tuple[int, str] = (-1, "")  # the position of an option's value, and its name

    def name(self, position: int) -> str:
        if position < len(self._positional):
            return self._positional[position].placeholder
        if self._rest:
            after = position - len(self._positional)
            return self._rest[after % len(self._rest)].placeholder
        if position == self._value_of[0]:
            return self._value_of[1]
        return "option" if self._options else f"argument {position + 1}"

    def add(self, position: int, string: bytes) -> None:
        """Record an argument: an option determines the name of the next one."""
        slot = self._options.get(string)
        if position >= len(self._positional) and position != self._value_of[0] and slot and slot.kinds:
            self._value_of = position + 1, slot.kinds[0].placeholder


class ResponseDissector(Dissector[CommandSpec | None]):
    """The server's side of a connection."""

    def _frame(self) -> Generator[None, None, None]:
        yield from self._await(RESPONSE_HEAD.size)
        header, status, length = RESPONSE_HEAD.unpack_from(self._buffer)
        if status not in STATUS_BYTES:
            raise Undelimited(f"a response has no status 0x{status:02x}")
        spec = self._answered()
        ok = not status & 0x01
        missing = not ok and bool(header & ResponseFlag.MISSING)
        self._title = "success" if ok else "not found" if missing else "failure"
        if spec is not None:
            self._title = f"{self._title}, to {spec.name}"
        self._add(Field("header", (yield from self._take(1)), 1, _flags(ResponseFlag, header)))
        meaning = f"{'success' if ok else 'failure'}{f', {chr(status)!r} in ASCII' if status > 1 else ''}"
        self._add(Field("status", (yield from self._take(1)), 1, meaning))
        yield from self._length("length")
        if ok and spec is not None and spec.answer is Answer.ITEMS:
            yield from self._items(length)
        else:
            yield from self._string("payload" if ok else "message", length)

    def _items(self, length: int) -> Generator[None, None, None]:
        """Add several strings, as far as they fit into the length."""
        left = length
        position = 0
        while left >= LENGTH.size:
            position += 1
            size = yield from self._length(f"item {position} length", null="the key does not exist")
            left -= LENGTH.size
            if size == NULL:
                continue
            yield from self._string(f"item {position}", min(size, left))
            left -= min(size, left)
        yield from self._string("rest", left)


def _flags(kind: type[CommandFlag] | type[ResponseFlag], header: int) -> str:
    """Return the meaning of a header."""
    if not header:
        return "no flags"
    known = [flag for flag in kind if header & flag]
    texts = [str(flag.name).lower().replace("_", " ") for flag in known]
    if unknown := header & ~sum(known):
        texts.append(f"unknown: 0x{unknown:02x}")
    return ", ".join(texts)

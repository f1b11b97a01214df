"""Converts the bytes of both sides of a connection to the lines of `cairn trace`. Sans-IO.

    #1 client, 0.001 s: GET, 15 bytes
        header      00                       no flags
        command     00 00                    0 = GET
        key length  00 00 00 08              8 bytes
        key         67 72 65 65 74 69 6e 67  greeting

Invariants: the lines of a frame, one for each field, come when the frame is complete. Long fields are abbreviated, with
their size. All bytes of the connection are escaped. The secrets of AUTH and of similar commands are not shown.

Out of scope: the fields of a frame (`cairnkv.lab.trace.native_dissector`, `cairnkv.lab.trace.resp_dissector`), and
sockets (`proxy`).
"""

import dataclasses
import enum
from collections.abc import Iterable, Iterator
from typing import Any, Final

from cairnkv.escapes import escaped
from cairnkv.lab.trace.native_dissector import CommandDissector, Dissector, Field, Frame, Piece, Raw, ResponseDissector
from cairnkv.lab.trace.resp_dissector import RedisCommandDissector, RedisReplyDissector
from cairnkv.protocol.resp.requests import speaks_redis
from cairnkv.units import counted

SHOWN_BYTES: Final = 16
"""Default for the bytes of a field in hex."""

TEXT_BYTES: Final = 64
"""Minimum bytes of a string as text: enough for most keys and messages. A string that needs escapes has as many as in
hex."""

RAW_LINES: Final = 8
"""Maximum lines for bytes that belong to no frame."""

_REPLY_OF_REDIS: Final = b"+-"
"""First bytes of a Redis protocol server that replies before its client sends a command: it refuses the connection."""

DETAILED_FIELDS: Final = 64
"""Maximum fields of a frame."""


class Side(enum.Enum):
    """A side of a connection."""

    CLIENT = "client"
    SERVER = "server"


class Part(enum.Enum):
    """The kind of a part of a line, for its colour."""

    CLIENT = enum.auto()
    SERVER = enum.auto()
    NAME = enum.auto()
    BYTES = enum.auto()
    MEANING = enum.auto()
    WRONG = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line: texts with their kinds."""

    parts: tuple[tuple[str, Part], ...]

    def __str__(self) -> str:
        return "".join(text for text, _ in self.parts).rstrip()


class ConnectionTrace:
    """Both sides of one connection. Times are seconds since the connection began."""

    def __init__(self, name: str, *, shown_bytes: int = SHOWN_BYTES) -> None:
        self._name = name
        self._shown_bytes = shown_bytes
        self._dissectors: dict[Side, Dissector[Any]] = {}  # empty until the first byte selects the protocol

    def _begin(self, side: Side, first: int) -> None:
        """Select the protocol by the first byte of the client, or of the server if the server sends first."""
        kept = max(self._shown_bytes, TEXT_BYTES)
        if speaks_redis(first) if side is Side.CLIENT else first in _REPLY_OF_REDIS:
            of_client, of_server = RedisCommandDissector, RedisReplyDissector  # type: type[Dissector[Any]], type[Dissector[Any]]
        else:
            of_client, of_server = CommandDissector, ResponseDissector
        commands = of_client(kept_bytes=kept, kept_fields=DETAILED_FIELDS)
        replies = of_server(commands, kept_bytes=kept, kept_fields=DETAILED_FIELDS)
        self._dissectors = {Side.CLIENT: commands, Side.SERVER: replies}

    def received(self, side: Side, data: bytes, at: float) -> Iterator[Line]:
        """Yield the lines for bytes from one side."""
        if not data:
            return
        if not self._dissectors:
            self._begin(side, data[0])
        for piece in self._dissectors[side].feed(data):
            yield from self._piece(side, piece, at)

    def closed(self, side: Side, at: float) -> Iterator[Line]:
        """Yield the lines for the end of one side."""
        rest = self._dissectors[side].finish() if self._dissectors else None
        if rest is not None:
            yield from self._piece(side, rest, at)
        yield self._heading(side, at, "closed its side")

    def remark(self, text: str, at: float) -> Line:
        """Return the line for an error of the connection."""
        return Line(((f"{self._name}, {at:.3f} s: ", Part.NAME), (text, Part.WRONG)))

    def _heading(self, side: Side, at: float, text: str, wrong: str = "") -> Line:
        return Line(
            (
                (f"{self._name} {side.value}, {at:.3f} s: ", Part.CLIENT if side is Side.CLIENT else Part.SERVER),
                (text, Part.NAME),
                (wrong, Part.WRONG),
            )
        )

    def _piece(self, side: Side, piece: Piece, at: float) -> Iterator[Line]:
        if isinstance(piece, Raw):
            yield self._heading(
                side, at, counted(len(piece.data), "byte"), f" in no frame: {piece.why}" if piece.why else ""
            )
            yield from _dump(piece.data)
            return
        unfinished = "" if piece.whole else ", not finished"
        yield self._heading(side, at, f"{piece.title or 'a frame'}, {counted(piece.size, 'byte')}", unfinished)
        yield from self._table(piece)

    def _table(self, frame: Frame) -> Iterator[Line]:
        rows = []
        for field in frame.fields:
            if field.secret:
                rows.append((field.name, "…", f"{counted(field.size - field.end, 'byte')}, not shown"))
                continue
            shown = field.data[: self._shown_bytes]
            rows.append((field.name, shown.hex(" ") + (" …" if field.size > len(shown) else ""), self._meaning(field)))
        names, hexes = (max(len(row[column]) for row in rows) for column in (0, 1))
        for name, digits, meaning in rows:
            yield Line(
                (
                    (f"    {name:<{names}}  ", Part.NAME),
                    (f"{digits:<{hexes}}  ", Part.BYTES),
                    (meaning, Part.MEANING),
                )
            )
        if frame.omitted:
            yield Line(((f"    and {frame.omitted:,} more fields", Part.NAME),))

    def _meaning(self, field: Field) -> str:
        if field.meaning:
            return field.meaning
        shown = field.text
        if len(text := escaped(shown)) > len(shown.decode("utf-8", "ignore")):
            shown = shown[: self._shown_bytes]
            text = escaped(shown)
        left = field.size - field.end - len(shown)
        return text + (f" … and {counted(left, 'byte')} more" if left else "")


def _dump(data: bytes) -> Iterable[Line]:
    """Yield the first bytes in lines of 16."""
    for at in range(0, min(len(data), RAW_LINES * 16), 16):
        row = data[at : at + 16]
        yield Line(((f"    {row.hex(' '):<47}  ", Part.BYTES), (escaped(row), Part.MEANING)))
    if len(data) > RAW_LINES * 16:
        yield Line(((f"    and {counted(len(data) - RAW_LINES * 16, 'byte')} more", Part.NAME),))

"""What clients of Redis send: bytes to requests, each a list of byte strings.

What always holds: a decoder gives the same events for the same bytes, however they are cut; a declared length over
its limit is refused before a byte of it is kept; each byte is looked at a bounded number of times, however small the
pieces; an unfinished request costs no more memory than its bytes.

As in Redis, and wherever Redis says nothing of it: a count ends at its carriage return, and the byte behind that is
stepped over unseen, like the two behind a string; a request of no arguments is no request and gets no reply.
"""

import dataclasses
import re
from typing import Final

from cairnkv.limits import (
    INTEGER_MAX,
    INTEGER_MIN,
    REDIS_ARGUMENTS_MAX,
    REDIS_LINE_MAX,
    STRANGER_ARGUMENTS_MAX,
    STRANGER_BULK_MAX,
)
from cairnkv.wire.article import CARRIED_BYTES, COMPACTED_BYTES, DEFAULT_LIMITS, LONG_STRING, Limits, Prefix

_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
"""How Redis writes an integer, and the only way in which it reads one."""

_SHORT_BULKS: Final = {b"$%d" % length: length for length in range(256)}
"""The heads of short strings, which are nearly all: looked up in half the time that it takes to read one."""

_SHORT_HEAD: Final = len(b"$255\r")

REDIS_COUNT_MAX: Final = 2**31 - 1
"""What Redis takes for a number of arguments; a higher one is none."""

EMPTY_PER_LOOK: Final = 64
"""Requests of no arguments that are stepped over in one go: a megabyte of line ends would take a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProtocolFault:
    """Why the bytes of a connection cannot be understood any further.

    text: an error reply's text, its code included. A byte that is not UTF-8 is in it as a lone surrogate, as
        `surrogateescape` has it.
    """

    text: str


def speaks_redis(first: int) -> bool:
    """Return whether this first byte begins the Redis protocol: an array, an inline command, or an empty line.

    `redis-cli --pipe` sends an empty line first. CR and LF are no flags of the native protocol, which refuses them.
    """
    return first in b"*\r\n" or (chr(first).isascii() and chr(first).isalpha())


class RequestDecoder:
    """A connection's bytes in, its requests out.

    `feed` takes bytes; `next` gives a request, which has at least one argument, or a `ProtocolFault`, or None when
    it needs more bytes; or an empty list, which is no request: it has stepped over many empty ones, and there may be
    more. Behind a fault the decoder is `broken`: it takes no more bytes.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, *, trusted: bool = True) -> None:
        self._limits = limits
        self.trusted = trusted
        """Whether the client may send what is long; False until it has authenticated, where it has to."""
        # What came in one piece is used as it came; only what is cut off is gathered, in a bytearray.
        self._buffer: bytes | bytearray = b""
        self._start = 0  # where the current request begins in the buffer
        self._begin(0)
        self.consumed = 0
        """Bytes in the requests that `next` has given or skipped, from the connection's first byte on."""
        self.broken = False

    def _begin(self, start: int) -> None:
        """Be at a request's first byte."""
        self._start = start
        self._at = start  # how far the current request is understood
        self._searched = start  # how far its current line was searched for its end
        self._wanted = start + 1  # buffer length below which `next` cannot get any further
        self._count = -1  # arguments in the request; -1 before that is known
        self._found = 0  # arguments that are there whole
        self._length = -1  # bytes in the argument at `_at`; -1 before that is known

    @property
    def pending(self) -> int:
        """Bytes that were fed and not yet given: an unfinished request, or requests that nobody asked for."""
        return len(self._buffer) - self._start

    @property
    def at_frame(self) -> bool:
        """Whether a request begins at the first pending byte, or else the next to come, and its count is unread."""
        return self._count < 0 and not self.broken

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes of the connection; those behind a fault are thrown away."""
        if self.broken:
            return
        if self._start == len(self._buffer):
            self._buffer = bytes(data)  # no copy where they are bytes
            self._begin(0)
            return
        if self._start > COMPACTED_BYTES and 2 * self._start > len(self._buffer):
            self._compact()
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def copy(self, length: int) -> "RequestDecoder":
        """Another decoder that was fed so many of the bytes that are pending here, at most; between two requests."""
        ahead = RequestDecoder(self._limits, trusted=self.trusted)
        ahead.feed(self._buffer[self._start : self._start + length])
        return ahead

    def next(self) -> list[bytes] | ProtocolFault | None:
        """The next request, or a fault in its place, or None when more bytes are needed; empty: ask again."""
        for _ in range(EMPTY_PER_LOOK):
            if len(self._buffer) < self._wanted:
                break
            event: list[bytes] | ProtocolFault | None
            if self._count < 0 and self._buffer[self._start] != _STAR:
                event = self._inline()
            else:
                event = self._multibulk()
            if event:
                return event
            if event is None:
                break
        else:
            return []
        if self._start:
            self._compact()  # now, and not with the bytes that come next: they may be long in coming
        return None

    @property
    def missing(self) -> int:
        """Bytes that a string of `LONG_STRING` or more lacks; 0 for a shorter one."""
        return max(0, self._wanted - len(self._buffer)) if self._length >= LONG_STRING else 0

    def carry_out(self, prefix: Prefix, protocol: int, *, reads_locally: bool, own_writes_there: bool) -> bool:
        """Let somebody carry out what they can of the bytes that were fed; whether that was anything."""
        if not self.at_frame or self._start == len(self._buffer):
            return False
        used = prefix.run(
            self._buffer,
            self._start,
            width=protocol,
            statuses=(0, 0),
            string_max=self._limits.value,
            frame_max=self._limits.frame,
            reads_locally=reads_locally,
            own_writes_there=own_writes_there,
            bytes_max=CARRIED_BYTES,
        )
        if not used:
            return False
        self._finish(self._start + used)
        return True

    def _compact(self) -> None:
        """Forget the bytes before the current request; done when none is whole, since it moves the others."""
        start, self._start = self._start, 0
        self._at -= start
        self._searched -= start
        self._wanted -= start
        if isinstance(self._buffer, bytearray):
            del self._buffer[:start]
        else:
            self._buffer = self._buffer[start:]

    def _refuse(self, text: str) -> ProtocolFault:
        self.broken = True
        self._buffer = b""
        self._begin(0)
        return ProtocolFault(f"ERR Protocol error: {text}")

    def _finish(self, end: int) -> None:
        """Step behind a request that ends here."""
        self.consumed += end - self._start
        self._begin(end)

    # -- lines ---------------------------------------------------------------------------------------------

    def _line_end(self, mark: bytes, what: str) -> int | ProtocolFault | None:
        """Where the line at `_at` has its mark; a fault when that is too far; None when it has not come.

        Keeps its place between calls, so that no byte is searched twice.
        """
        last = self._at + REDIS_LINE_MAX  # where the mark may be at most
        frame_end = self._start + self._limits.frame
        beyond = min(last + 1, frame_end)
        end = self._buffer.find(mark, self._searched, beyond)
        if end >= 0:
            return end
        if len(self._buffer) < beyond:
            self._searched = len(self._buffer)
            self._wanted = self._searched + 1
            return None
        return self._refuse(f"too big {what}") if last < frame_end else self._refuse_size()

    def _count_end(self, what: str) -> int | ProtocolFault | None:
        """Where the count at `_at` ends, which it does before a carriage return and one byte more."""
        end = self._line_end(b"\r", f"{what} count string")
        if isinstance(end, int) and end + 2 > len(self._buffer):
            self._searched = end
            self._wanted = end + 2
            return None
        return end

    def _refuse_size(self) -> ProtocolFault:
        return self._refuse(f"too big request, the limit is {self._limits.frame:,} bytes")

    # -- arrays of bulk strings ----------------------------------------------------------------------------

    def _multibulk(self) -> list[bytes] | ProtocolFault | None:
        """The request at `_start`, an array; an empty list when it is empty, None when it is not whole."""
        if self._count >= 0:
            return self._arguments()
        end = self._count_end("mbulk")
        if not isinstance(end, int):
            return end
        count = _integer(self._buffer[self._start + 1 : end])
        if count is None or count > REDIS_COUNT_MAX:
            return self._refuse("invalid multibulk length")
        if count > REDIS_ARGUMENTS_MAX:
            return self._refuse(f"invalid multibulk length, the limit is {REDIS_ARGUMENTS_MAX:,} arguments")
        if count > STRANGER_ARGUMENTS_MAX and not self.trusted:
            return self._refuse("unauthenticated multibulk length")
        if count <= 0:
            self._finish(end + 2)
            return []
        self._at = self._searched = end + 2
        self._count = count
        return self._arguments()

    def _arguments(self) -> list[bytes] | ProtocolFault | None:
        """Walk over the strings that have come; the request, if they are all there.

        Strings are taken on the way only while they may all be there, in bytes that came in one piece. Of a request
        that is cut off nothing is kept but its bytes, and they are read a second time once it is whole.
        """
        buffer, size = self._buffer, len(self._buffer)
        frame_end, longest = self._start + self._limits.frame, self._limits.value
        take = self._found == 0 and isinstance(buffer, bytes)
        strings: list[bytes] = []
        at, length = self._at, self._length
        for found in range(self._found, self._count):
            if length < 0:
                end = buffer.find(b"\r", at, at + _SHORT_HEAD)
                if 0 <= end < size - 1:
                    length = _SHORT_BULKS.get(bytes(buffer[at:end]), -1)
                if 0 <= length <= longest:
                    at = end + 2
                else:
                    self._found = found
                    fault = self._read_length(at)
                    if fault is not None or self._length < 0:
                        return fault
                    at, length = self._at, self._length
            end = at + length
            if end + 2 > frame_end:
                return self._refuse_size()
            if end + 2 > size:
                self._found, self._at, self._length = found, at, length
                self._wanted = end + 2
                return None
            if take:
                strings.append(bytes(buffer[at:end]))
            at = end + 2
            length = -1
        if not take:
            strings = self._strings()
        self._finish(at)
        return strings

    def _read_length(self, at: int) -> ProtocolFault | None:
        """Read the head of the string that begins here; `_length` stays -1 while it is not whole."""
        self._at = at
        self._length = -1
        self._searched = max(self._searched, at)
        end = self._count_end("bulk")
        if not isinstance(end, int):
            return end
        if self._buffer[at] != _DOLLAR:
            got = bytes(self._buffer[at : at + 1]).decode("utf-8", "surrogateescape")
            return self._refuse(f"expected '$', got '{got}'")
        length = _integer(self._buffer[at + 1 : end])
        if length is None or not 0 <= length <= self._limits.value:
            return self._refuse("invalid bulk length")
        if length > STRANGER_BULK_MAX and not self.trusted:
            return self._refuse("unauthenticated bulk length")
        self._at = end + 2
        self._length = length
        return None

    def _strings(self) -> list[bytes]:
        """The strings of the current request, which is whole and was understood before."""
        buffer = self._buffer
        at = buffer.find(b"\r", self._start) + 2
        strings = []
        with memoryview(buffer) as view:
            for _ in range(self._count):
                end = buffer.find(b"\r", at)
                begin = end + 2
                at = begin + int(buffer[at + 1 : end]) + 2
                strings.append(bytes(view[begin : at - 2]))
        return strings

    # -- inline requests -----------------------------------------------------------------------------------

    def _inline(self) -> list[bytes] | ProtocolFault | None:
        """The request at `_start`, a line; an empty list when it is blank, None when it is not whole."""
        end = self._line_end(b"\n", "inline request")
        if not isinstance(end, int):
            return end
        strings = split_line(bytes(self._buffer[self._start : end]).removesuffix(b"\r"))
        if strings is None:
            return self._refuse("unbalanced quotes in request")
        if any(len(string) > self._limits.value for string in strings):
            return self._refuse("too big inline request")
        self._finish(end + 1)
        return strings


def _integer(digits: bytes | bytearray) -> int | None:
    """The integer of 64 signed bits that stands here as Redis writes it, None when it is none."""
    if not _INTEGER.fullmatch(digits):
        return None
    number = int(digits)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else None


_BLANKS: Final = re.compile(rb"[ \t\n\v\f\r]*")

_ARGUMENT: Final = re.compile(
    rb"""
    ([^ \t\n\r"']*)                                         # bare bytes, up to a blank or a quote
    (?: "( [^"\\]* (?: \\. [^"\\]* )* )"                     # "a backslash takes the byte behind it along"
      | '( [^'\\]* (?: \\ (?: ' | (?!') ) [^'\\]* )* )'      # 'here it does so only with a quote'
    )?
    (?= [ \t\n\v\f\r] | \Z )                                # a closing quote is an argument's end
    """,
    re.DOTALL | re.VERBOSE,
)

_ESCAPE: Final = re.compile(rb"\\(?: x([0-9A-Fa-f]{2}) | (.) )", re.DOTALL | re.VERBOSE)
_CONTROLS: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_line(line: bytes) -> list[bytes] | None:
    """The arguments of a line as Redis and its command line split it; None when its quotes are unbalanced.

    >>> split_line(b'set "a key" "\\x00\\xff" pre"fix"')
    [b'set', b'a key', b'\\x00\\xff', b'prefix']
    >>> split_line(b'set "a key')
    """
    arguments: list[bytes] = []
    at = _skip_blanks(line, 0)
    while at < len(line):
        argument = _ARGUMENT.match(line, at)
        if argument is None:
            return None
        bare, double, single = argument.groups()
        if double is not None:
            bare += _ESCAPE.sub(_unescaped, double)
        elif single is not None:
            bare += single.replace(b"\\'", b"'")
        arguments.append(bare)
        at = _skip_blanks(line, argument.end())
    return arguments


def _skip_blanks(line: bytes, at: int) -> int:
    blanks = _BLANKS.match(line, at)
    assert blanks is not None  # it matches nothing at all, too
    return blanks.end()


def _unescaped(escape: re.Match[bytes]) -> bytes:
    digits, byte = escape.groups()
    if digits is not None:
        return bytes((int(digits, 16),))
    return _CONTROLS.get(byte, byte)

"""Decodes requests of the Redis protocol: bytes to lists of byte strings.

Invariants: the events of a decoder do not depend on the sizes of the parts that arrive. A decoder refuses a length over
its limit before it stores a byte of the string. It reads each byte a bounded number of times, also in small parts. An
incomplete request needs no more memory than its bytes.

As in Redis, a count ends at its carriage return, and the decoder skips the next byte without a check, like the two
bytes after a string. A request without arguments gets no reply."""

import dataclasses
import re
from collections.abc import Callable
from typing import Final

from cairnkv.installation import native_path_in_use
from cairnkv.limits import (
    INTEGER_MAX,
    INTEGER_MIN,
    REDIS_ARGUMENTS_MAX,
    REDIS_LINE_MAX,
    UNAUTHENTICATED_ARGUMENTS_MAX,
)
from cairnkv.protocol.native import COMPACTED_BYTES, DEFAULT_LIMITS, LONG_STRING, DecoderLimits, FrameDecoder

_STAR: Final = ord("*")
_DOLLAR: Final = ord("$")

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")
"""The only form of integers that Redis writes and reads."""

_SHORT_BULKS: Final = {b"$%d" % length: length for length in range(256)}
"""The heads of short strings. A lookup takes half the time of parsing a number, and nearly all strings are short."""

_SHORT_HEAD: Final = len(b"$255\r")

REDIS_COUNT_MAX: Final = 2**31 - 1
"""The maximum number of arguments that Redis parses as a number."""

EMPTY_PER_LOOK: Final = 64
"""Empty requests that one call of `next` skips. A megabyte of line ends would take a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class ProtocolFault:
    """An error after which the bytes of a connection cannot be decoded.

    text: of the error reply, with its code. It has bytes that are not UTF-8 as lone surrogates (`surrogateescape`).
    """

    text: str


def speaks_redis(first: int) -> bool:
    """Return whether the first byte of a connection begins the Redis protocol: an array, a name, or an empty line.

    `redis-cli --pipe` sends an empty line first. The native protocol has no flags with the values of CR and LF.
    """
    return first in b"*\r\n" or (chr(first).isascii() and chr(first).isalpha())


class RequestDecoder(FrameDecoder):
    """Converts the bytes of a connection to requests.

    `feed` takes bytes. `next` returns a request of at least one argument, or a `ProtocolFault`, or None if it needs
    more bytes; or an empty list after it has skipped many empty requests, so that the caller calls it again. After a
    fault, the decoder is `broken` and ignores more bytes."""

    def __init__(self, limits: DecoderLimits = DEFAULT_LIMITS, *, trusted: bool = True) -> None:
        super().__init__(limits, trusted=trusted)
        # The received bytes without a copy; a bytearray only while a request is incomplete.
        self._buffer = b""
        self._read_request = _native_reader() if native_path_in_use() else None

    def _begin(self) -> None:
        self._at = self._start
        self._searched = self._start  # end of the searched part of the current line
        self._wanted = self._start + 1
        self._count = -1  # arguments in the request; -1: unknown
        self._found = 0  # complete arguments
        self._length = -1  # bytes of the argument at `_at`; -1: unknown

    @property
    def at_frame(self) -> bool:
        """Whether the decoder has not read the count of the current request, or is between two requests."""
        return self._count < 0 and not self.broken

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes of the connection. A broken decoder ignores them."""
        if self.broken:
            return
        if self._start == len(self._buffer):
            self._buffer = bytes(data)  # no copy of a bytes object
            self._start = 0
            self._begin()
            return
        if self._start > COMPACTED_BYTES and 2 * self._start > len(self._buffer):
            self._searched -= self._start
            self._compact()
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def copy(self, length: int) -> "RequestDecoder":
        """Return a new decoder with up to `length` of the pending bytes. Call it between two requests."""
        ahead = RequestDecoder(self._trusted_limits, trusted=self.trusted)
        ahead.feed(self._buffer[self._start : self._start + length])
        return ahead

    def next(self) -> list[bytes] | ProtocolFault | None:
        """Return the next request, or a fault in its place, or None if more bytes are needed; empty: call again."""
        if self._read_request is not None and self._count < 0 and type(self._buffer) is bytes:
            found = self._read_request(self._buffer, self._start, self._limits.value, self._limits.frame)
            if found is not None:
                self._end_frame(found[1])
                return found[0]
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
            self._searched -= self._start
            self._compact()  # now, because the next bytes may take long
        return None

    @property
    def missing(self) -> int:
        """Missing bytes of a string of at least `LONG_STRING`; 0 for a shorter one."""
        return max(0, self._wanted - len(self._buffer)) if self._length >= LONG_STRING else 0

    def _refuse(self, text: str) -> ProtocolFault:
        self.broken = True
        self._buffer = b""
        self._start = 0
        self._begin()
        return ProtocolFault(f"ERR Protocol error: {text}")

    # -- lines ---------------------------------------------------------------------------------------------

    def _line_end(self, mark: bytes, what: str) -> int | ProtocolFault | None:
        """Return the position of a mark in the line at `_at`, or a fault for a long line, or None for an incomplete
        one.

        The method records its position, so that it searches each byte once.
        """
        last = self._at + REDIS_LINE_MAX  # the last allowed position of the mark
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
        """Return the end of the count at `_at`, after which come a carriage return and one more byte; see
        `_line_end`."""
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
        """Return the request at `_start`, an array: empty if it has no arguments, None if it is incomplete."""
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
        if count > UNAUTHENTICATED_ARGUMENTS_MAX and not self.trusted:
            return self._refuse("unauthenticated multibulk length")
        if count <= 0:
            self._end_frame(end + 2)
            return []
        self._at = self._searched = end + 2
        self._count = count
        return self._arguments()

    def _arguments(self) -> list[bytes] | ProtocolFault | None:
        """Skip the complete strings of the request. Return all strings if the request is complete.

        The loop copies strings only if the buffer is one received bytes object. For a request that arrives in parts, it
        copies the strings in a second pass, when the request is complete.
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
        self._end_frame(at)
        return strings

    def _read_length(self, at: int) -> ProtocolFault | None:
        """Read the head of a string. `_length` stays -1 if the head is incomplete."""
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
        if length is None or not 0 <= length <= self._trusted_limits.value:
            return self._refuse("invalid bulk length")
        if length > self._limits.value:
            return self._refuse("unauthenticated bulk length")
        self._at = end + 2
        self._length = length
        return None

    def _strings(self) -> list[bytes]:
        """Return the strings of the complete current request, whose lengths are checked."""
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
        """Return the request at `_start`, a line: empty for a blank line, None if it is incomplete."""
        end = self._line_end(b"\n", "inline request")
        if not isinstance(end, int):
            return end
        strings = split_line(bytes(self._buffer[self._start : end]).removesuffix(b"\r"))
        if strings is None:
            return self._refuse("unbalanced quotes in request")
        if any(len(string) > self._limits.value for string in strings):
            return self._refuse("too big inline request")
        self._end_frame(end + 1)
        return strings


def _integer(digits: bytes | bytearray) -> int | None:
    """Return the signed 64-bit integer in the form of Redis, or None for other bytes."""
    if not _INTEGER.fullmatch(digits):
        return None
    number = int(digits)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else None


_BLANKS: Final = b" \t\n\v\f\r"

_ARGUMENT: Final = re.compile(
    rb"""
    ([^ \t\n\r"']*)                                         # bare bytes, up to a blank or a quote
    (?: "( [^"\\]* (?: \\. [^"\\]* )* )"                     # "a backslash escapes the next byte"
      | '( [^'\\]* (?: \\ (?: ' | (?!') ) [^'\\]* )* )'      # 'a backslash escapes only a quote'
    )?
    (?: [ \t\n\v\f\r]+ | \Z )                               # a closing quote ends an argument
    """,
    re.DOTALL | re.VERBOSE,
)

_ESCAPE: Final = re.compile(rb"\\(?: x([0-9A-Fa-f]{2}) | (.) )", re.DOTALL | re.VERBOSE)
_CONTROLS: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_line(line: bytes) -> list[bytes] | None:
    """Split a line into arguments as Redis and redis-cli do. Return None for unbalanced quotes.

    >>> split_line(b'set "a key" "\\x00\\xff" pre"fix"')
    [b'set', b'a key', b'\\x00\\xff', b'prefix']
    >>> split_line(b'set "a key')
    """
    arguments: list[bytes] = []
    line, at = line.lstrip(_BLANKS), 0
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
        at = argument.end()
    return arguments


def _unescaped(escape: re.Match[bytes]) -> bytes:
    digits, byte = escape.groups()
    if digits is not None:
        return bytes((int(digits, 16),))
    return _CONTROLS.get(byte, byte)


def _native_reader() -> Callable[[bytes, int, int, int], tuple[list[bytes], int] | None]:
    from cairnkv.protocol.resp.requests_native import read_request

    return read_request

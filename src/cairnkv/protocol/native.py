"""The native protocol: converts frames to commands and replies to frames, and back. Sans-IO.

    command 0-3    | header 1 | number 2 or 4 | length 4 | string | ... as many as the command has
    command 16-    | header 1 | number 2 or 4 | count 4 | length 4 | string | ... as many as counted
    response       | header 1 | status 1 | length 4 | payload |

Integers are unsigned and big-endian. docs/protocol.md is the specification. The protocol is based on an article (see
that page); below, *the article*.

Invariants: the events of a decoder do not depend on the sizes of the parts that arrive. A decoder refuses a length over
its limit before it stores a byte of the string. It reads each byte a bounded number of times, also in small parts. The
precedence of errors in a frame: number, lengths, flags, keys.

The codec of single frames is `parse_command`, `parse_response`, `write_command` and `write_response`.

Out of scope: sockets, and the execution of commands.
"""

import abc
import enum
import struct
from collections.abc import Iterable
from typing import Any, Final, Literal, Protocol, TypeAlias

from cairnkv.commands import (
    BY_NUMBER,
    CODES,
    COUNTED_FROM,
    MISSING,
    OK,
    Answer,
    ArgumentFault,
    Code,
    Command,
    CommandSpec,
    Failure,
    Get,
    InMemory,
    Items,
    Replies,
    Reply,
    failures,
)
from cairnkv.errors import IncompleteFrame, PeerError
from cairnkv.limits import ARGUMENTS_MAX, FRAME_MAX, KEY_MAX, UNAUTHENTICATED_FRAME_MAX, VALUE_MAX
from cairnkv.records import record

__all__ = [
    "CommandDecoder",
    "Cursor",
    "DecoderLimits",
    "Request",
    "Response",
    "ResponseDecoder",
    "StatusByte",
    "parse_command",
    "parse_response",
    "write_command",
    "write_response",
]

Width: TypeAlias = Literal[2, 4]
"""Bytes in a command number. The article has 2 in its figures and its write path, and 4 in its read path."""


class CommandFlag(enum.IntFlag):
    """Bits of a command's header: weaker guarantees that a client accepts."""

    LOCAL_READ = 0x01
    """A read may show the state of one node, which may be older than that of others."""
    MEMORY_IS_ENOUGH = 0x02
    """The reply to a write need not wait for the commit."""


class ResponseFlag(enum.IntFlag):
    """Bits of a response's header."""

    MISSING = 0x01
    NOT_EXECUTED = 0x02
    UNKNOWN = 0x04
    MEMORY_ONLY = 0x08


_KNOWN_COMMAND_FLAGS: Final = int(CommandFlag.LOCAL_READ | CommandFlag.MEMORY_IS_ENOUGH)


class StatusByte(enum.Enum):
    """The variants of the status byte of a response: (success, failure)."""

    ASCII = (ord("0"), ord("1"))
    BINARY = (0, 1)


@record
class DecoderLimits:
    """The limits of a decoder, in bytes: of a string in a frame, and of a frame."""

    value: int = VALUE_MAX
    frame: int = FRAME_MAX


DEFAULT_LIMITS: Final = DecoderLimits()


@record
class Request:
    """A command, with the flags of its header."""

    command: Command
    flags: int = 0


@record
class Response:
    """A response frame: whether the command succeeded, the payload, and the bits of the header."""

    ok: bool
    payload: bytes
    header: int = 0

    @property
    def missing(self) -> bool:
        """Whether the failure is a missing key."""
        return not self.ok and bool(self.header & ResponseFlag.MISSING)


LENGTH: Final = struct.Struct(">I")
NUMBER: Final = {2: struct.Struct(">H"), 4: struct.Struct(">I")}
RESPONSE_HEAD: Final = struct.Struct(">BBI")
NULL: Final = 0xFFFF_FFFF
"""The length for a missing key in a list of strings."""

# -- strings ---------------------------------------------------------------------------------------------


def pack_strings(strings: Iterable[bytes | None]) -> bytes:
    """Return strings with their lengths; None has the length 0xFFFFFFFF and no bytes.

    >>> pack_strings([b"ab", None]).hex(" ")
    '00 00 00 02 61 62 ff ff ff ff'
    """
    packed: list[bytes] = []
    for string in strings:
        if string is None:
            packed.append(LENGTH.pack(NULL))
        else:
            packed += (LENGTH.pack(len(string)), string)
    return b"".join(packed)


def unpack_strings(payload: bytes) -> tuple[bytes | None, ...]:
    """Return the strings of `pack_strings`. Raises `PeerError` for other bytes."""
    strings: list[bytes | None] = []
    at, end = 0, len(payload)
    while at < end:
        if end - at < 4:
            raise PeerError("a reply of several strings ends within a length")
        (length,) = LENGTH.unpack_from(payload, at)
        at += 4
        if length == NULL:
            strings.append(None)
            continue
        if length > end - at:
            raise PeerError(f"a reply of several strings ends within a string of {length:,} bytes")
        strings.append(payload[at : at + length])
        at += length
    return tuple(strings)


# -- commands ----------------------------------------------------------------------------------------------


def write_command(command: Command, *, width: Width = 2, flags: int = 0) -> bytes:
    """Return the frame of a command.

    >>> from cairnkv.commands import Get
    >>> write_command(Get(b"greeting")).hex(" ", 1)
    '00 00 00 00 00 00 08 67 72 65 65 74 69 6e 67'
    """
    return b"".join(command_parts(command, width=width, flags=flags))


def command_parts(command: Command, *, width: Width = 2, flags: int = 0) -> list[bytes]:
    """Return the frame of a command in parts, so that the caller need not copy a long value."""
    number = command.spec.number
    strings = command.arguments()
    parts = [bytes((flags,)) + NUMBER[width].pack(number)]
    if number >= COUNTED_FROM:
        parts.append(LENGTH.pack(len(strings)))
    for string in strings:
        parts += (LENGTH.pack(len(string)), string)
    return parts


BATCH_BYTES: Final = 64 * 1024
"""Bytes of frames that a session executes as one batch: about half a millisecond of work with short frames."""


class BatchExecutor(Protocol):
    """Executes frames at the beginning of a receive buffer without a decoder: the native path."""

    def run(
        self,
        buffer: bytes | bytearray,
        start: int,
        *,
        width: int,
        statuses: tuple[int, int],
        string_max: int,
        frame_max: int,
        reads_locally: bool = False,
        own_writes_there: bool = True,
        bytes_max: int = BATCH_BYTES,
        rights: Any = None,
    ) -> int:
        """Execute frames from `start` on and return their bytes.

        reads_locally: whether all reads of the client are local. own_writes_there: whether local reads see all writes
        of the client.
        bytes_max: bytes after which no further frame begins, so that other clients get their turn.
        rights: those of the client, as the executor has made them; None: all rights.
        """


LONG_STRING: Final = 4 * 1024
"""Bytes of a string from which on the server reads the missing rest of the string alone: the next bytes then begin a
frame, which the native path executes from the receive buffer. For shorter strings, the call costs more than the copies
that it saves."""

COMPACTED_BYTES: Final = 64 * 1024
"""Bytes of returned frames from which on a decoder removes them, if they are more than half of its buffer."""


class FrameDecoder(abc.ABC):
    """A decoder of the frames of a client, with a buffer from which an executor can execute frames."""

    _buffer: bytes | bytearray
    _at: int
    """End of the decoded part of the current frame."""
    _wanted: int
    """Buffer length that the next step needs."""

    def __init__(self, limits: DecoderLimits, *, trusted: bool = True) -> None:
        """trusted: see the property."""
        self._trusted_limits = limits
        self._trusted = not trusted
        self.trusted = trusted
        self._start = 0  # beginning of the current frame in the buffer
        self._begin()
        self.consumed = 0
        """Bytes of all frames that `next` has returned or skipped."""
        self.broken = False

    @abc.abstractmethod
    def _begin(self) -> None:
        """Begin a frame."""

    @property
    def trusted(self) -> bool:
        """Whether the client need not log in first. Else `UNAUTHENTICATED_FRAME_MAX` limits its frames."""
        return self._trusted

    @trusted.setter
    def trusted(self, trusted: bool) -> None:
        if trusted is self._trusted:
            return
        self._trusted = trusted
        limits = self._trusted_limits
        if not trusted:
            most = UNAUTHENTICATED_FRAME_MAX
            limits = DecoderLimits(value=min(most, limits.value), frame=min(most, limits.frame))
        self._limits = limits

    @property
    @abc.abstractmethod
    def at_frame(self) -> bool:
        """Whether an executor may execute the next bytes, which begin a frame."""

    @property
    def pending(self) -> int:
        """Bytes of frames that `next` has not returned."""
        return len(self._buffer) - self._start

    def execute_batch(
        self,
        executor: BatchExecutor,
        width: int,
        statuses: tuple[int, int],
        *,
        reads_locally: bool = False,
        own_writes_there: bool = True,
        rights: Any = None,
    ) -> bool:
        """Let an executor execute frames from the buffer. Return whether it executed any. See `BatchExecutor`."""
        if len(self._buffer) < self._wanted or not self.at_frame:
            return False
        used = executor.run(
            self._buffer,
            self._start,
            width=width,
            statuses=statuses,
            string_max=self._limits.value,
            frame_max=self._limits.frame,
            reads_locally=reads_locally,
            own_writes_there=own_writes_there,
            bytes_max=BATCH_BYTES,
            rights=rights,
        )
        if used:
            self._end_frame(self._start + used)
        return used > 0

    def _end_frame(self, end: int) -> None:
        """Count the bytes up to the end of a frame, and begin the next one there."""
        self.consumed += end - self._start
        self._start = end
        self._begin()

    def _compact(self) -> None:
        """Remove the bytes before the current frame. Called when no complete frame is left, because it moves bytes."""
        start, self._start = self._start, 0
        self._at -= start
        self._wanted -= start
        if isinstance(self._buffer, bytearray):
            del self._buffer[:start]
        else:
            self._buffer = self._buffer[start:]


class CommandDecoder(FrameDecoder):
    """Converts the bytes of a connection to requests.

    `feed` takes bytes. `next` returns a `Request`, or a `Failure` in its place, or None if it needs more bytes. After a
    failure whose code closes the connection, the decoder is `broken` and ignores more bytes.
    """

    def __init__(
        self, *, width: Width | None = None, limits: DecoderLimits = DEFAULT_LIMITS, trusted: bool = True
    ) -> None:
        """width: 2 or 4; None: the decoder detects it in the first frame. trusted: see `FrameDecoder`.

        With 4, the decoder also reads a first frame whose number can only have two bytes: no number is above 65,535.
        """
        self._width = width
        self._pinned_to_four = width == 4
        self._settled = not self._pinned_to_four  # False: the first number may have two bytes
        self._sure = width is not None  # False: a GET with an empty key may be a misread frame
        self._buffer: bytearray = bytearray()
        super().__init__(limits, trusted=trusted)

    def _begin(self) -> None:
        self._at = self._start
        self._wanted = self._start + 3
        self._flags = 0
        self._number = -1
        self._count = -1  # strings in the frame; -1: unknown
        self._found = 0  # complete strings

    @property
    def width(self) -> Width | None:
        """The width of this connection's command numbers; None: not known yet."""
        return self._width

    @property
    def missing(self) -> int:
        """Missing bytes of a string of at least `LONG_STRING`; 0 for a shorter one."""
        return max(0, self._wanted - len(self._buffer)) if self._wanted - self._at - 4 >= LONG_STRING else 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes of the connection. A broken decoder ignores them."""
        if self.broken:
            return
        if self._start > COMPACTED_BYTES and 2 * self._start > len(self._buffer):
            self._compact()
        self._buffer += data

    def copy(self, length: int) -> "CommandDecoder":
        """Return a new decoder with up to `length` of the pending bytes. Call it between two frames."""
        ahead = CommandDecoder(width=self._width, limits=self._limits)  # with those in force
        ahead._settled = self._settled
        ahead.feed(self._buffer[self._start : self._start + length])
        return ahead

    def next(self) -> Request | Failure | None:
        """Return the next request, or a failure in its place, or None if more bytes are needed."""
        if self.broken:
            return None
        if len(self._buffer) >= self._wanted and (self._number >= 0 or self._read_head()):
            refusal = self._refused_number() or self._delimit()
            if refusal is not None:
                return self._break(refusal)
            if self._found == self._count:
                return self._finish()
        if self._start:
            self._compact()  # now, because the next bytes may take long
        return None

    @property
    def at_frame(self) -> bool:
        """Whether the next byte begins a frame, and the width is certain."""
        return self._sure and self._settled and self._number < 0 and not self.broken

    def _break(self, failure: Failure) -> Failure:
        self.broken = True
        self._buffer.clear()
        self._start = self._at = 0
        return failure

    def _read_head(self) -> bool:
        """Read flags and number, and detect the width before. Return False if more bytes are needed."""
        if self._width is None and not self._detect_width():
            return False
        if not self._settled:  # `next` has three bytes
            self._settled = True
            if self._buffer[self._start + 1 : self._start + 3] != b"\0\0":
                self._width = 2
        width: Width = self._width or 2
        if not self._has(1 + width):
            return False
        self._flags = self._buffer[self._start]
        (self._number,) = NUMBER[width].unpack_from(self._buffer, self._start + 1)
        self._at = self._start + 1 + width
        return True

    def _detect_width(self) -> bool:
        """Detect the width at the third, fifth or seventh byte of the first frame. Return False if it is not known yet.

        Keys have 1 to 65,535 bytes, so that a valid frame is valid in only one of the two widths.
        """
        first = self._buffer
        if first[1:3] != b"\0\0":
            self._width = 2
        elif not self._has(5):
            return False
        elif first[3:5] != b"\0\0":
            self._width = 4
        elif not self._has(7):
            return False
        else:
            self._width = 4 if first[5:7] == b"\0\0" else 2
        return True

    def _has(self, length: int) -> bool:
        """Return whether the buffer has so many bytes of the current frame, and record the wanted length."""
        self._wanted = self._start + length
        return len(self._buffer) >= self._wanted

    def _refused_number(self) -> Failure | None:
        if self._number >= COUNTED_FROM or self._number in BY_NUMBER:
            return None
        return Failure(failures.BADFRAME, f"command number {self._number} is not assigned")

    def _delimit(self) -> Failure | None:
        """Skip the complete strings of the frame. Return a failure for a length over its limit.

        The method records its position, so that it reads each byte once, and copies no string, so that an incomplete
        frame needs no more memory than its bytes.
        """
        buffer = self._buffer
        if self._count < 0:
            if self._number < COUNTED_FROM:
                self._count = len(BY_NUMBER[self._number].fields)
            elif not self._has(self._at - self._start + 4):
                return None
            else:
                (count,) = LENGTH.unpack_from(buffer, self._at)
                if count > ARGUMENTS_MAX:
                    return Failure(failures.TOOBIG, f"{count:,} arguments; the limit is {ARGUMENTS_MAX:,}")
                self._at += 4
                self._count = count
        while self._found < self._count:
            begin = self._at + 4
            if self._pinned_to_four and self._number == Get.spec.number and not self.consumed:
                if (refusal := self._refused_early()) is not None or len(buffer) < begin:
                    return refusal
            elif len(buffer) < begin:
                self._wanted = begin
                return None
            (length,) = LENGTH.unpack_from(buffer, self._at)
            end = begin + length
            if refusal := self._refused_length(length, end - self._start):
                return refusal
            if len(buffer) < end:
                self._wanted = end
                return None
            self._at = end
            self._found += 1
        return None

    def _refused_early(self) -> Failure | None:
        """Refuse a first GET after three bytes of its length: a misread two-byte GET may have no fourth byte."""
        if not self._has(self._at - self._start + 3):
            return None
        least = int.from_bytes(self._buffer[self._at : self._at + 3]) << 8
        self._wanted = self._at + 4
        return self._refused_length(least, self._wanted + least - self._start)

    def _refused_length(self, length: int, frame: int) -> Failure | None:
        """Return the failure for a string or frame over its limit. frame: the minimum length of the frame."""
        is_key = self._number < COUNTED_FROM and self._found == 0 and bool(BY_NUMBER[self._number].key_fields)
        limit = KEY_MAX if is_key else self._limits.value
        if length > limit:
            what = "key" if is_key else "string"
            return Failure(failures.TOOBIG, f"a {what} of {length:,} bytes; the limit is {limit:,}")
        if frame > self._limits.frame:
            longest = self._limits.frame
            return Failure(failures.TOOBIG, f"a frame of {frame:,} bytes; the limit is {longest:,}")
        return None

    def _strings(self) -> list[bytes]:
        """Return the strings of the complete current frame."""
        at = self._start + 1 + (self._width or 2) + (4 if self._number >= COUNTED_FROM else 0)
        strings = []
        with memoryview(self._buffer) as view:
            for _ in range(self._count):
                (length,) = LENGTH.unpack_from(view, at)
                at += 4 + length
                strings.append(bytes(view[at - length : at]))
        return strings

    def _finish(self) -> Request | Failure:
        """Return the request of the complete current frame, and begin the next frame."""
        flags, number, strings = self._flags, self._number, self._strings()
        sure, self._sure = self._sure, True
        self._end_frame(self._at)
        if not sure and number == Get.spec.number and self._width == 4 and not strings[0]:
            # With a two-byte number, these bytes are a GET with an empty key and the beginning of another frame, so
            # the beginning of the next frame is unknown.
            return self._break(Failure(failures.BADFRAME, "the first frame is a GET with an empty key"))
        if number not in BY_NUMBER:
            return Failure(failures.NOCOMMAND, f"this server does not have command {number}")
        if unknown := flags & ~_KNOWN_COMMAND_FLAGS:
            return Failure(failures.BADFLAG, f"the header has unknown flags 0x{unknown:02x}")
        try:
            return Request(BY_NUMBER[number].command.from_arguments(strings), flags)
        except ArgumentFault as fault:
            return Failure(fault.code, fault.text)


def parse_command(data: "Cursor", *, width: Width = 2, limits: DecoderLimits = DEFAULT_LIMITS) -> Command:
    """Parse a command at the position of a cursor, and move the cursor after it.

    Raises `IncompleteFrame` for an incomplete frame, `PeerError` for a malformed one.

    >>> cursor = Cursor(bytes.fromhex("00 0000 00000008 6772656574696e67"))
    >>> parse_command(cursor)
    Get(key=b'greeting')
    >>> cursor.position
    15
    """
    decoder = CommandDecoder(width=width, limits=limits)
    decoder.feed(data.rest())
    request = decoder.next()
    if request is None:
        raise IncompleteFrame(f"a command frame is incomplete: it has {decoder.pending} bytes")
    if isinstance(request, Failure):
        raise PeerError(request.message, code=request.code)
    data.position += decoder.consumed
    return request.command


# -- responses ---------------------------------------------------------------------------------------------


def write_response(response: Response, *, status_byte: StatusByte = StatusByte.ASCII) -> bytes:
    """Return the frame of a response.

    >>> write_response(Response(ok=True, payload=b"OK")).hex(" ")
    '00 30 00 00 00 02 4f 4b'
    """
    return b"".join(_parts(response, status_byte))


def _parts(response: Response, status_byte: StatusByte) -> tuple[bytes, bytes]:
    status = status_byte.value[0 if response.ok else 1]
    return RESPONSE_HEAD.pack(response.header, status, len(response.payload)), response.payload


_OK_PAYLOAD: Final = b"OK"
_MISSING_RESPONSE: Final = Response(False, b"Key not found", int(ResponseFlag.MISSING))
STATUS_BYTES: Final = frozenset(status for status_byte in StatusByte for status in status_byte.value)
_EXECUTED_FLAGS: Final = {True: 0, False: int(ResponseFlag.NOT_EXECUTED), None: int(ResponseFlag.UNKNOWN)}


def response_to(reply: Reply, *, frame_limit: int = FRAME_MAX) -> Response:
    """Return the response for a reply. A list of strings over the frame limit becomes a failure.

    A single value fits, because it arrived in a frame.
    """
    if isinstance(reply, bytes):
        return Response(True, reply)
    if reply is OK:
        return Response(True, _OK_PAYLOAD)
    if reply is MISSING:
        return _MISSING_RESPONSE
    if isinstance(reply, int):
        return Response(True, b"%d" % reply)
    if isinstance(reply, Items):
        size = RESPONSE_HEAD.size + sum(4 + len(string or b"") for string in reply.values)
        if size <= frame_limit:
            return Response(True, pack_strings(reply.values))
        reply = Failure(failures.BIGREPLY, f"the reply has {size:,} bytes; the limit is {frame_limit:,}")
    if isinstance(reply, Replies):
        payloads = [None if it is MISSING else response_to(it, frame_limit=NULL).payload for it in reply.values]
        return response_to(Items(tuple(payloads)), frame_limit=frame_limit)
    if isinstance(reply, InMemory):
        inner = response_to(reply.reply, frame_limit=frame_limit)
        return Response(inner.ok, inner.payload, int(inner.header | ResponseFlag.MEMORY_ONLY))
    assert isinstance(reply, Failure)
    return Response(False, reply.message.encode(), _EXECUTED_FLAGS[reply.code.executed])


def reply_parts(reply: Reply, status_byte: StatusByte, *, frame_limit: int = FRAME_MAX) -> tuple[bytes, bytes]:
    """Return the frame of a reply as head and payload, so that the caller need not copy a long value."""
    return _parts(response_to(reply, frame_limit=frame_limit), status_byte)


def reply_in(response: Response, spec: CommandSpec) -> Reply:
    """Return the reply in a response to a command: the inverse of `response_to`.

    An unknown failure code keeps its name and the meaning of the header's bits.
    Raises `PeerError` if the payload of a success does not fit the command.
    """
    if response.header and response.header & ResponseFlag.MEMORY_ONLY:
        reply = _reply_in(response, spec)
        return reply if isinstance(reply, Failure) else InMemory(reply)
    return _reply_in(response, spec)


def _reply_in(response: Response, spec: CommandSpec) -> Reply:
    """Return the reply without regard to MEMORY_ONLY."""
    if not response.ok:
        return MISSING if response.missing else _failure_in(response)
    match spec.answer:
        case Answer.OK:
            return OK
        case Answer.BYTES:
            return response.payload
        case Answer.ITEMS:
            return Items(unpack_strings(response.payload))
        case Answer.NUMBER:
            try:
                return int(response.payload)
            except ValueError:
                shown = repr(response.payload[:24])
                raise PeerError(f"the reply to {spec.name} is {shown}, which is not a number") from None


def replies_in(payloads: Items, specs: Iterable[CommandSpec]) -> Replies:
    """Return the replies to commands that were executed together, from their payloads. Raises `PeerError`."""
    pairs = zip(payloads.values, specs, strict=True)
    return Replies(
        tuple(MISSING if payload is None else _reply_in(Response(True, payload), spec) for payload, spec in pairs)
    )


def _failure_in(response: Response) -> Failure:
    name, _, text = response.payload.decode("utf-8", "replace").partition(" ")
    executed = None if response.header & ResponseFlag.UNKNOWN else False
    known = CODES.get(name)
    if known is None or known.executed is not executed:
        # A server without flags does not report whether it executed the command.
        if not response.header & (ResponseFlag.UNKNOWN | ResponseFlag.NOT_EXECUTED):
            executed = None
        known = Code(name, failures.Fault.SERVER, "sent by a server of another version", executed)
    return Failure(known, text)


class ResponseDecoder:
    """Converts the bytes of a connection to responses. Accepts all four status bytes.

    `next` raises `PeerError` for bytes that are not a response. Close the connection then.
    """

    def __init__(self, *, frame_limit: int = FRAME_MAX) -> None:
        self._limit = frame_limit
        # The received bytes without a copy; a bytearray only while a frame is incomplete.
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self._wanted = RESPONSE_HEAD.size
        self.consumed = 0
        """Bytes of all frames that `next` has returned."""

    @property
    def pending(self) -> int:
        """Bytes of frames that `next` has not returned."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes of the connection."""
        if self._start == len(self._buffer):
            self._buffer = bytes(data)  # no copy of a bytes object
            self._start = 0
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def next(self) -> Response | None:
        """Return the next response, or None if more bytes are needed."""
        buffer, start = self._buffer, self._start
        if len(buffer) - start < self._wanted:
            self._wait()
            return None
        header, status, length = RESPONSE_HEAD.unpack_from(buffer, start)
        if status not in STATUS_BYTES:
            raise no_status(status)
        begin = start + RESPONSE_HEAD.size
        end = begin + length
        if end - start > self._limit:
            raise PeerError(f"a response of {end - start:,} bytes; the limit is {self._limit:,}")
        if len(buffer) < end:
            self._wanted = end - start
            self._wait()
            return None
        if isinstance(buffer, bytes):
            payload = buffer[begin:end]
        else:
            with memoryview(buffer) as view:
                payload = bytes(view[begin:end])
        self._start = end
        self._wanted = RESPONSE_HEAD.size
        self.consumed += end - start
        return Response(not status & 0x01, payload, header)

    def _wait(self) -> None:
        """Remove the returned responses before a wait for more bytes."""
        if self._start:
            self._buffer = self._buffer[self._start :]
            self._start = 0


class ReplyDecoder(ResponseDecoder):
    """A `ResponseDecoder` for clients, which returns replies. Its limit is the maximum of the protocol."""

    def __init__(self) -> None:
        super().__init__(frame_limit=RESPONSE_HEAD.size + NULL)

    def reply(self, spec: CommandSpec) -> Reply | None:
        """Return the reply to a command, or None if more bytes are needed. Raises `PeerError`."""
        response = self.next()
        return None if response is None else reply_in(response, spec)


def no_status(status: int) -> PeerError:
    """Return the error for an unknown status byte."""
    return PeerError(f"a response has the status 0x{status:02x}, which is none of 0x00, 0x01, 0x30 and 0x31")


def parse_response(data: "Cursor", *, frame_limit: int = FRAME_MAX) -> Response:
    """Parse a response at the position of a cursor, and move the cursor after it.

    Raises `IncompleteFrame` for an incomplete frame, `PeerError` for a malformed one.
    """
    decoder = ResponseDecoder(frame_limit=frame_limit)
    decoder.feed(data.rest())
    response = decoder.next()
    if response is None:
        raise IncompleteFrame(f"a response frame is incomplete: it has {decoder.pending} bytes")
    data.position += decoder.consumed
    return response


class Cursor:
    """Bytes and a position in them, for the parse functions, as in the article."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def __repr__(self) -> str:
        return f"Cursor({self.data!r}, {self.position})"

    def rest(self) -> memoryview:
        """Return the bytes from the position on."""
        return memoryview(self.data)[self.position :]

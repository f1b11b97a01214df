"""The wire of the article: frames to commands, replies to frames, and both ways round. Sans-IO.

    command 0-3    | header 1 | number 2 or 4 | length 4 | string | ... as many as the command has
    command 16-    | header 1 | number 2 or 4 | count 4 | length 4 | string | ... as many as counted
    response       | header 1 | status 1 | length 4 | payload |

Integers are unsigned and big-endian. docs/protocol.md specifies all of it.

What always holds: a decoder gives the same events for the same bytes, however they are cut; a declared
length over its limit is refused before a byte of it is kept; each byte is looked at a bounded number of
times, however small the pieces. The precedence of faults in one frame: number, lengths, flags, keys.

For the codec alone, four functions are enough: `parse_command`, `parse_response`, `write_command` and
`write_response`. Not for sockets, and not for what a command does.
"""

import enum
import struct
from collections.abc import Iterable
from typing import Final, Literal, Protocol, TypeAlias

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
    Failure,
    Get,
    InMemory,
    Items,
    Reply,
    Word,
    failures,
)
from cairnkv.errors import IncompleteFrame, PeerError
from cairnkv.limits import ARGUMENTS_MAX, FRAME_MAX, KEY_MAX, VALUE_MAX
from cairnkv.records import record

Width: TypeAlias = Literal[2, 4]
"""Bytes in a command number: 2 in the article's figures and write path, 4 in its read path."""


class CommandFlag(enum.IntFlag):
    """Bits of a command's header."""

    LOCAL_READ = 0x01
    MEMORY_IS_ENOUGH = 0x02


class ResponseFlag(enum.IntFlag):
    """Bits of a response's header."""

    MISSING = 0x01
    NOT_EXECUTED = 0x02
    UNKNOWN = 0x04
    MEMORY_ONLY = 0x08


_KNOWN_COMMAND_FLAGS: Final = int(CommandFlag.LOCAL_READ | CommandFlag.MEMORY_IS_ENOUGH)


class Dialect(enum.Enum):
    """How a response's status byte looks: (success, failure)."""

    ARTICLE = (ord("0"), ord("1"))
    PUBLISHED = (0, 1)


@record
class Limits:
    """What a decoder accepts, in bytes: the longest string of a frame, and the longest frame."""

    value: int = VALUE_MAX
    frame: int = FRAME_MAX


DEFAULT_LIMITS: Final = Limits()


@record
class Request:
    """A command as it came, with its header's flags."""

    command: Command
    flags: int = 0


@record
class Response:
    """A response frame: did the command succeed, what does it carry, which header bits are set."""

    ok: bool
    payload: bytes
    header: int = 0

    @property
    def missing(self) -> bool:
        """Whether this failure says that the key is not there."""
        return not self.ok and bool(self.header & ResponseFlag.MISSING)


LENGTH: Final = struct.Struct(">I")
NUMBER: Final = {2: struct.Struct(">H"), 4: struct.Struct(">I")}
RESPONSE_HEAD: Final = struct.Struct(">BBI")
NULL: Final = 0xFFFF_FFFF
"""The length that stands for "no such key" among several strings."""

# -- strings ---------------------------------------------------------------------------------------------


def pack_strings(strings: Iterable[bytes | None]) -> bytes:
    """Length-prefixed strings, one after the other; None has the length 0xFFFFFFFF and no bytes.

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
    """The inverse of `pack_strings`; `PeerError` when the bytes do not come out even."""
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
    """The frame of a command.

    >>> from cairnkv.commands import Get
    >>> write_command(Get(b"greeting")).hex(" ", 1)
    '00 00 00 00 00 00 08 67 72 65 65 74 69 6e 67'
    """
    return b"".join(command_parts(command, width=width, flags=flags))


def command_parts(command: Command, *, width: Width = 2, flags: int = 0) -> list[bytes]:
    """The frame of a command in pieces, so that a long value need not be copied to be sent."""
    number = command.word.number
    strings = command.arguments()
    parts = [bytes((flags,)) + NUMBER[width].pack(number)]
    if number >= COUNTED_FROM:
        parts.append(LENGTH.pack(len(strings)))
    for string in strings:
        parts += (LENGTH.pack(len(string)), string)
    return parts


CARRIED_BYTES: Final = 64 * 1024
"""Bytes of frames that a session executes as one batch: about half a millisecond of work with short frames."""


class Prefix(Protocol):
    """Whoever can carry out a prefix of what a connection received without decoding it: the accelerator."""

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
        bytes_max: int = CARRIED_BYTES,
    ) -> int:
        """Carry out frames of the buffer from `start` on; how many bytes they had.

        reads_locally: whether all reads of the client may show what was true a moment ago, where the newest is not at
        hand. own_writes_there: whether whatever the client has written can be read, so that such a read cannot miss it.
        bytes_max: bytes after which no further frame begins, so that other clients get their turn.
        """


LONG_STRING: Final = 4 * 1024
"""Bytes of a partial string from which on the server reads its rest alone: the next bytes then begin a frame, which the
native path executes from the receive buffer. For shorter strings, the call would cost more than the copies that it
saves."""

COMPACTED_BYTES: Final = 64 * 1024
"""Bytes of returned frames from which on a decoder frees them, if they are more than half of its buffer."""


class CommandDecoder:
    """A connection's bytes in, its requests out.

    `feed` takes bytes; `next` gives a `Request`, or a `Failure` in its place, or None when it needs more
    bytes. Behind a failure whose code closes, the decoder is `broken`: it takes no more bytes.
    """

    def __init__(self, *, width: Width | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        """width: 2 or 4; None: determined by the connection's first frame.

        With 4, the decoder still reads a first frame that can only have two bytes: no command number is above 65,535.
        """
        self._width = width
        self._pinned_to_four = width == 4
        self._settled = not self._pinned_to_four  # False: the first frame may be of two bytes
        self._sure = width is not None  # False: a GET with an empty key may be a misread frame
        self._limits = limits
        self._buffer = bytearray()
        self._start = 0  # where the current frame begins in the buffer
        self._begin()
        self.consumed = 0
        """Bytes in the frames that `next` has given, from the connection's first byte on."""
        self.broken = False

    def _begin(self) -> None:
        """Be at a frame's first byte."""
        self._at = self._start  # how far the current frame is understood
        self._wanted = self._start + 3  # buffer length below which `next` cannot get any further
        self._flags = 0
        self._number = -1
        self._count = -1  # strings in the frame; -1 before that is known
        self._found = 0  # strings that are there whole

    @property
    def width(self) -> Width | None:
        """The width of this connection's command numbers, None before it can be told."""
        return self._width

    @property
    def pending(self) -> int:
        """Bytes that were fed and not yet given: unfinished frames, or frames that nobody asked for."""
        return len(self._buffer) - self._start

    @property
    def missing(self) -> int:
        """Bytes that a string of `LONG_STRING` or more lacks; 0 for a shorter one."""
        return max(0, self._wanted - len(self._buffer)) if self._wanted - self._at - 4 >= LONG_STRING else 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes of the connection; those behind a failure that closes are thrown away."""
        if self.broken:
            return
        if self._start > COMPACTED_BYTES and 2 * self._start > len(self._buffer):
            self._compact()
        self._buffer += data

    def copy(self, length: int) -> "CommandDecoder":
        """Another decoder that was fed so many of the bytes that are pending here, at most; between two frames."""
        ahead = CommandDecoder(width=self._width, limits=self._limits)
        ahead._settled = self._settled
        ahead.feed(self._buffer[self._start : self._start + length])
        return ahead

    def next(self) -> Request | Failure | None:
        """The next request, or a failure in its place, or None when more bytes are needed."""
        if self.broken:
            return None
        if len(self._buffer) >= self._wanted and (self._number >= 0 or self._read_head()):
            refusal = self._refused_number() or self._delimit()
            if refusal is not None:
                return self._break(refusal)
            if self._found == self._count:
                return self._finish()
        if self._start:
            self._compact()  # now, and not with the bytes that come next: they may be long in coming
        return None

    @property
    def at_frame(self) -> bool:
        """Whether the next byte begins a frame, of a width that is settled."""
        return self._sure and self._settled and self._number < 0 and not self.broken

    def carry_out(self, prefix: Prefix, dialect: Dialect, *, own_writes_there: bool = True) -> bool:
        """Let somebody carry out what they can of the bytes that were fed; whether that was anything."""
        if not self.at_frame or len(self._buffer) < self._wanted:
            return False
        used = prefix.run(
            self._buffer,
            self._start,
            width=self._width or 2,
            statuses=dialect.value,
            string_max=self._limits.value,
            frame_max=self._limits.frame,
            own_writes_there=own_writes_there,
            bytes_max=CARRIED_BYTES,
        )
        if not used:
            return False
        self._start += used
        self.consumed += used
        self._begin()
        return True

    def _compact(self) -> None:
        """Forget the bytes before the current frame; done when no frame is whole, since it moves the others."""
        start, self._start = self._start, 0
        self._at -= start
        self._wanted -= start
        del self._buffer[:start]

    def _break(self, failure: Failure) -> Failure:
        self.broken = True
        self._buffer.clear()
        self._start = self._at = 0
        return failure

    def _read_head(self) -> bool:
        """Read flags and number, the width before them if need be. False: more bytes are needed."""
        if self._width is None and not self._tell_width():
            return False
        if not self._settled:  # three bytes are there
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

    def _tell_width(self) -> bool:
        """Tell the two widths apart at the third, fifth or seventh byte of the first frame.

        Keys have 1 to 65,535 bytes, so of the two readings of a legal frame only one is possible.
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
        """Whether so many bytes of the current frame are there; remembers how many are wanted if not."""
        self._wanted = self._start + length
        return len(self._buffer) >= self._wanted

    def _refused_number(self) -> Failure | None:
        if self._number >= COUNTED_FROM or self._number in BY_NUMBER:
            return None
        return Failure(failures.BADFRAME, f"command number {self._number} is not assigned")

    def _delimit(self) -> Failure | None:
        """Walk over the strings that have come; a failure when a length is over its limit.

        Keeps its place between calls, so that small pieces cost no second look, and keeps no string, so that
        an unfinished frame costs no more memory than its bytes.
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
            if len(buffer) < begin:
                if self._pinned_to_four and self._number == Get.word.number and not self.consumed:
                    return self._refused_early()
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
        """Why a string of this length, which makes the frame at least so long, is refused."""
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
        """The strings of the current frame, which is whole."""
        at = self._start + 1 + (self._width or 2) + (4 if self._number >= COUNTED_FROM else 0)
        strings = []
        with memoryview(self._buffer) as view:
            for _ in range(self._count):
                (length,) = LENGTH.unpack_from(view, at)
                at += 4 + length
                strings.append(bytes(view[at - length : at]))
        return strings

    def _finish(self) -> Request | Failure:
        """The frame is whole: step behind it, and say what it is."""
        flags, number, strings = self._flags, self._number, self._strings()
        sure, self._sure = self._sure, True
        self.consumed += self._at - self._start
        self._start = self._at
        self._begin()
        if not sure and number == Get.word.number and self._width == 4 and not strings[0]:
            # As two-byte numbers this is a GET with an empty key and the beginning of something else:
            # nobody can say where the next frame begins.
            return self._break(Failure(failures.BADFRAME, "the first frame is a GET with an empty key"))
        if number not in BY_NUMBER:
            return Failure(failures.NOCOMMAND, f"this server knows no command {number}")
        if unknown := flags & ~_KNOWN_COMMAND_FLAGS:
            return Failure(failures.BADFLAG, f"the header has unknown flags 0x{unknown:02x}")
        try:
            return Request(BY_NUMBER[number].command.from_arguments(strings), flags)
        except ArgumentFault as fault:
            return Failure(fault.code, fault.text)


def parse_command(data: "Cursor", *, width: Width = 2, limits: Limits = DEFAULT_LIMITS) -> Command:
    """Parse a single command from where the cursor stands, and move the cursor behind it.

    Raises `IncompleteFrame` when the frame goes on behind the bytes, `PeerError` when it is malformed.

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
        raise IncompleteFrame(f"a command frame ends after {decoder.pending} bytes, before it is whole")
    if isinstance(request, Failure):
        raise PeerError(request.message, code=request.code)
    data.position += decoder.consumed
    return request.command


# -- responses ---------------------------------------------------------------------------------------------


def write_response(response: Response, *, dialect: Dialect = Dialect.ARTICLE) -> bytes:
    """The frame of a response.

    >>> write_response(Response(ok=True, payload=b"OK")).hex(" ")
    '00 30 00 00 00 02 4f 4b'
    """
    status = dialect.value[0 if response.ok else 1]
    return RESPONSE_HEAD.pack(response.header, status, len(response.payload)) + response.payload


_OK_PAYLOAD: Final = b"OK"
_MISSING_RESPONSE: Final = Response(False, b"Key not found", int(ResponseFlag.MISSING))
STATUS_BYTES: Final = frozenset(status for dialect in Dialect for status in dialect.value)
_EXECUTED_FLAGS: Final = {True: 0, False: int(ResponseFlag.NOT_EXECUTED), None: int(ResponseFlag.UNKNOWN)}


def response_to(reply: Reply, *, frame_limit: int = FRAME_MAX) -> Response:
    """How a reply looks as a response; several strings that would be over the frame limit become a failure.

    A single value never is: it came in a frame of its own.
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
    if isinstance(reply, InMemory):
        safe = response_to(reply.reply, frame_limit=frame_limit)
        return Response(safe.ok, safe.payload, int(safe.header | ResponseFlag.MEMORY_ONLY))
    assert isinstance(reply, Failure)
    return Response(False, reply.message.encode(), _EXECUTED_FLAGS[reply.code.executed])


def reply_parts(reply: Reply, dialect: Dialect, *, frame_limit: int = FRAME_MAX) -> tuple[bytes, bytes]:
    """The frame of a reply as head and payload, so that a long value need not be copied to be sent."""
    response = response_to(reply, frame_limit=frame_limit)
    status = dialect.value[0 if response.ok else 1]
    return RESPONSE_HEAD.pack(response.header, status, len(response.payload)), response.payload


def reply_in(response: Response, word: Word) -> Reply:
    """What a response to a command of this word says: the inverse of `response_to`.

    Failure codes that this version does not know keep their name and what the header's bits say of them.
    Raises `PeerError` when a success does not carry what the command answers.
    """
    if response.header and response.header & ResponseFlag.MEMORY_ONLY:
        reply = _reply_in(response, word)
        return reply if isinstance(reply, Failure) else InMemory(reply)
    return _reply_in(response, word)


def _reply_in(response: Response, word: Word) -> Reply:
    """The same, however safe it is."""
    if not response.ok:
        return MISSING if response.missing else _failure_in(response)
    match word.answer:
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
                raise PeerError(f"{word.name} answers a number, and here came {shown}") from None


def _failure_in(response: Response) -> Failure:
    name, _, text = response.payload.decode("utf-8", "replace").partition(" ")
    executed = None if response.header & ResponseFlag.UNKNOWN else False
    known = CODES.get(name)
    if known is None or known.executed is not executed:
        # A server that sets no flags (the article's own, say) does not say whether it executed anything.
        if not response.header & (ResponseFlag.UNKNOWN | ResponseFlag.NOT_EXECUTED):
            executed = None
        known = Code(name, failures.Fault.SERVER, "sent by a server of another version", executed)
    return Failure(known, text)


class ResponseDecoder:
    """A connection's bytes in, its responses out; all four status bytes are understood.

    `next` raises `PeerError` when the bytes are no response; the connection is then of no more use.
    """

    def __init__(self, *, frame_limit: int = FRAME_MAX) -> None:
        self._limit = frame_limit
        # What came in one piece is used as it came; only what is cut off is gathered, in a bytearray.
        self._buffer: bytes | bytearray = b""
        self._start = 0
        self._wanted = RESPONSE_HEAD.size
        self.consumed = 0
        """Bytes in the frames that `next` has given."""

    @property
    def pending(self) -> int:
        """Bytes that were fed and not yet given."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes of the connection."""
        if self._start == len(self._buffer):
            self._buffer = bytes(data)  # no copy where they are bytes
            self._start = 0
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def next(self) -> Response | None:
        """The next response, or None when more bytes are needed."""
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
        """Forget the responses that were given, while the next is awaited: it may be long in coming."""
        if self._start:
            self._buffer = self._buffer[self._start :]
            self._start = 0


class ReplyDecoder(ResponseDecoder):
    """A connection's bytes in, the replies to its commands out: a `ResponseDecoder` for clients.

    A client takes what its server may send, so the limit is what the wire can say.
    """

    def __init__(self) -> None:
        super().__init__(frame_limit=RESPONSE_HEAD.size + NULL)

    def reply(self, word: Word) -> Reply | None:
        """The reply to a command of this word, or None when more bytes are needed. Raises `PeerError`."""
        response = self.next()
        return None if response is None else reply_in(response, word)


def no_status(status: int) -> PeerError:
    """The error for a status byte that no dialect has."""
    return PeerError(f"a response has the status 0x{status:02x}; it can be 0x00, 0x01, 0x30 or 0x31")


def parse_response(data: "Cursor", *, frame_limit: int = FRAME_MAX) -> Response:
    """Parse a single response from where the cursor stands, and move the cursor behind it.

    Raises `IncompleteFrame` when the frame goes on behind the bytes, `PeerError` when it is malformed.
    """
    decoder = ResponseDecoder(frame_limit=frame_limit)
    decoder.feed(data.rest())
    response = decoder.next()
    if response is None:
        raise IncompleteFrame(f"a response frame ends after {decoder.pending} bytes, before it is whole")
    data.position += decoder.consumed
    return response


class Cursor:
    """Bytes and a position in them, as the article's parse functions take them."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    def __repr__(self) -> str:
        return f"Cursor({self.data!r}, {self.position})"

    def rest(self) -> memoryview:
        """The bytes from the position on."""
        return memoryview(self.data)[self.position :]

"""Each limit of the wire at N and at N + 1; what is over one is refused from its declaration alone, before a
byte of it came."""

import pytest

from cairnkv.commands import Exists, Failure, Get, GetMany, Items, Ping, Set, failures
from cairnkv.errors import PeerError
from cairnkv.limits import ARGUMENTS_MAX, FRAME_MAX, KEY_MAX, VALUE_MAX
from cairnkv.protocol import (
    CommandDecoder,
    DecoderLimits,
    Request,
    Response,
    ResponseDecoder,
    write_command,
    write_response,
)
from cairnkv.protocol.native import COMPACTED_BYTES, LONG_STRING, Width, response_to
from cairnkv.protocol.resp.requests import RequestDecoder

WIDTHS: list[Width] = [2, 4]


def head(width: Width, number: int, *lengths_and_strings: int | bytes) -> bytes:
    """A frame up to some point: numbers are written in four bytes, strings as they are."""
    return (
        b"\0"
        + number.to_bytes(width)
        + b"".join(part if isinstance(part, bytes) else part.to_bytes(4) for part in lengths_and_strings)
    )


def refused(decoder: CommandDecoder, data: bytes) -> bool:
    """Whether the decoder refuses these bytes as too big, exactly at the last of them."""
    decoder.feed(data[:-1])
    assert decoder.next() is None
    decoder.feed(data[-1:])
    event = decoder.next()
    if event is None:
        return False
    assert isinstance(event, Failure)
    assert event.code is failures.TOOBIG
    assert decoder.broken
    assert decoder.pending == 0
    return True


@pytest.mark.parametrize("width", WIDTHS)
class TestDeclaredLengths:
    @pytest.mark.parametrize("number", [0, 1, 2], ids=["GET", "SET", "CLEAR"])
    def test_of_a_key(self, width: Width, number: int) -> None:
        assert not refused(CommandDecoder(width=width), head(width, number, KEY_MAX))
        too_long = head(width, number, KEY_MAX + 1)
        # A first GET is refused by the third byte: a two-byte GET of a short key, misread, has no fourth.
        assert refused(CommandDecoder(width=width), too_long[:-1] if (width, number) == (4, 0) else too_long)

    def test_of_a_value(self, width: Width) -> None:
        assert not refused(CommandDecoder(width=width), head(width, 1, 1, b"k", VALUE_MAX))
        assert refused(CommandDecoder(width=width), head(width, 1, 1, b"k", VALUE_MAX + 1))

    def test_of_a_value_with_a_custom_limit(self, width: Width) -> None:
        limits = DecoderLimits(value=10)
        assert not refused(CommandDecoder(width=width, limits=limits), head(width, 1, 1, b"k", 10))
        assert refused(CommandDecoder(width=width, limits=limits), head(width, 1, 1, b"k", 11))

    def test_of_a_ping_text_is_not_that_of_a_key(self, width: Width) -> None:
        assert not refused(CommandDecoder(width=width), head(width, 3, VALUE_MAX))
        assert refused(CommandDecoder(width=width), head(width, 3, VALUE_MAX + 1))

    def test_of_the_number_of_arguments(self, width: Width) -> None:
        assert not refused(CommandDecoder(width=width), head(width, 20, ARGUMENTS_MAX))
        assert refused(CommandDecoder(width=width), head(width, 20, ARGUMENTS_MAX + 1))

    def test_of_a_string_in_a_counted_frame(self, width: Width) -> None:
        """The limit does not depend on the command."""
        for number in (20, 9_999):
            assert not refused(CommandDecoder(width=width), head(width, number, 2, 1, b"k", VALUE_MAX))
            assert refused(CommandDecoder(width=width), head(width, number, 2, 1, b"k", VALUE_MAX + 1))

    def test_of_a_whole_frame(self, width: Width) -> None:
        frame = len(head(width, 1, 1, b"k", 4)) + 4
        assert not refused(CommandDecoder(width=width, limits=DecoderLimits(frame=frame)), head(width, 1, 1, b"k", 4))
        assert refused(CommandDecoder(width=width, limits=DecoderLimits(frame=frame - 1)), head(width, 1, 1, b"k", 4))

    def test_of_a_whole_frame_of_many_strings(self, width: Width) -> None:
        begin = head(width, 22, 101, *[part for _ in range(100) for part in (3, b"abc")], 3)
        assert not refused(CommandDecoder(width=width, limits=DecoderLimits(frame=len(begin) + 3)), begin)
        assert refused(CommandDecoder(width=width, limits=DecoderLimits(frame=len(begin) + 2)), begin)

    def test_of_the_longest_value_and_key_fit_the_default_frame(self, width: Width) -> None:
        assert len(head(width, 1, KEY_MAX, VALUE_MAX)) + KEY_MAX + VALUE_MAX <= FRAME_MAX
        assert not refused(CommandDecoder(width=width), head(width, 1, KEY_MAX, b"k" * KEY_MAX, VALUE_MAX))


@pytest.mark.parametrize("width", WIDTHS)
class TestFrames:
    """The limits also hold for complete frames."""

    def _decoded(self, frame: bytes, width: Width, limits: DecoderLimits) -> Request | Failure | None:
        decoder = CommandDecoder(width=width, limits=limits)
        decoder.feed(frame)
        return decoder.next()

    def test_with_the_longest_key_and_value_are_accepted(self, width: Width) -> None:
        command = Set(b"k" * KEY_MAX, b"v" * 100)
        frame = write_command(command, width=width)
        assert self._decoded(frame, width, DecoderLimits(value=100, frame=len(frame))) == Request(command)

    def test_with_the_most_arguments_are_accepted(self, width: Width) -> None:
        command = Exists(tuple(b"%d" % number for number in range(ARGUMENTS_MAX)))
        assert self._decoded(write_command(command, width=width), width, DecoderLimits()) == Request(command)

    def test_too_long_key_in_a_counted_frame_keeps_the_connection(self, width: Width) -> None:
        decoder = CommandDecoder(width=width)
        decoder.feed(write_command(GetMany((b"k" * KEY_MAX,)), width=width))
        assert decoder.next() == Request(GetMany((b"k" * KEY_MAX,)))
        decoder.feed(write_command(GetMany((b"k" * (KEY_MAX + 1),)), width=width))
        event = decoder.next()
        assert isinstance(event, Failure)
        assert event.code is failures.BADKEY
        decoder.feed(write_command(Ping(b""), width=width))
        assert decoder.next() == Request(Ping(b""))


class TestResponses:
    def test_declared_length_over_the_limit_is_refused_at_once(self) -> None:
        frame = write_response(Response(True, b"v" * 100))
        decoder = ResponseDecoder(frame_limit=len(frame))
        decoder.feed(frame)
        assert decoder.next() == Response(True, b"v" * 100)
        decoder = ResponseDecoder(frame_limit=len(frame) - 1)
        decoder.feed(frame[:6])
        with pytest.raises(PeerError):
            decoder.next()

    def test_reply_of_strings_over_the_frame_limit_becomes_a_failure(self) -> None:
        reply = Items((b"a" * 40, None, b""))
        size = len(write_response(response_to(reply)))
        assert response_to(reply, frame_limit=size).ok
        refusal = response_to(reply, frame_limit=size - 1)
        assert not refusal.ok
        assert refusal.payload.startswith(b"BIGREPLY ")
        assert refusal.header == 0x02

    def test_longest_accepted_value_fits_a_reply(self) -> None:
        """At any limits, so a client can read every value that it can store."""
        command = Set(b"k", b"v" * 100)
        limits = DecoderLimits(value=100, frame=len(write_command(command)))
        decoder = ResponseDecoder(frame_limit=limits.frame)
        decoder.feed(write_response(response_to(command.value, frame_limit=limits.frame)))
        assert decoder.next() == Response(True, command.value)

    @pytest.mark.parametrize("status", [2, 0x2F, 0x32, 0xFF])
    def test_unknown_status_is_refused(self, status: int) -> None:
        decoder = ResponseDecoder()
        decoder.feed(bytes((0, status, 0, 0, 0, 0)))
        with pytest.raises(PeerError):
            decoder.next()


def test_unfinished_frame_takes_no_more_memory_than_its_bytes() -> None:
    """The decoder allocates nothing for declared lengths."""
    decoder = CommandDecoder()
    begin = head(2, 1, 1, b"k", VALUE_MAX) + b"some"
    decoder.feed(begin)
    assert decoder.next() is None
    assert decoder.pending == len(begin)


def test_bytes_after_a_refusal_are_not_kept() -> None:
    decoder = CommandDecoder()
    decoder.feed(head(2, 1, 1, b"k", VALUE_MAX + 1) + write_command(Get(b"k")) * 100)
    assert isinstance(decoder.next(), Failure)
    assert decoder.pending == 0
    assert decoder.next() is None


def test_decoded_frames_are_freed_while_others_wait() -> None:
    """If a client sends faster than the server executes, the buffer is no longer than the unexecuted commands."""
    ping = write_command(Ping(b"12345678"))
    decoder = CommandDecoder()
    most = 0
    for _ in range(300):
        decoder.feed(ping * 1_000)
        for _ in range(990):
            assert decoder.next() == Request(Ping(b"12345678"))
        most = max(most, len(decoder._buffer))
        assert decoder.pending <= 300 * 10 * len(ping)
    assert most < 4 * (300 * 10 * len(ping) + COMPACTED_BYTES)
    assert all(decoder.next() is not None for _ in range(3_000))
    assert decoder.next() is None
    assert len(decoder._buffer) == 0


@pytest.mark.parametrize(
    ("frame", "length"),
    [
        (write_command(Set(b"key", bytes(LONG_STRING))), LONG_STRING),
        (
            b"*5\r\n$3\r\nSET\r\n$3\r\nkey\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$1\r\n1\r\n" % (LONG_STRING, bytes(LONG_STRING)),
            None,
        ),
    ],
    ids=["native", "Redis"],
)
def test_decoder_counts_missing_bytes_of_a_long_string_only(frame: bytes, length: int | None) -> None:
    """The server reads them alone. Of a frame of many short strings it reads as much as there is."""
    decoder = CommandDecoder() if length else RequestDecoder()
    end = frame.rindex(b"\0") + (1 if length else 3)  # behind the value
    decoder.feed(frame[: end - 10])
    assert decoder.next() is None
    assert decoder.missing == 10
    decoder.feed(frame[end - 10 :])
    assert decoder.next() is not None
    assert decoder.missing == 0
    short = write_command(GetMany((b"k",) * LONG_STRING)) if length else b"*4096\r\n" + b"$1\r\nk\r\n" * LONG_STRING
    decoder.feed(short[:-3])
    assert decoder.next() is None
    assert decoder.missing == 0

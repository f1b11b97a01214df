"""How the two widths of the command number are told apart: at the third, fifth or seventh byte of a
connection's first frame, never later, and then for good. And the two illegal frames that are misread."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Clear, ClearAll, Command, Failure, Get, Incr, Ping, Set, failures
from cairnkv.limits import KEY_MAX
from cairnkv.protocol import CommandDecoder, Request, write_command
from cairnkv.protocol.native import Width
from tests.support.strategies import commands


def bytes_until_told(frame: bytes) -> tuple[int, Width | None]:
    """After how many bytes of a first frame its width is known, and which it is."""
    decoder = CommandDecoder()
    for number, byte in enumerate(frame, 1):
        decoder.feed(bytes((byte,)))
        event = decoder.next()
        if decoder.width is not None:
            return number, decoder.width
        assert event is None
    return len(frame), decoder.width


@pytest.mark.parametrize(
    ("command", "width", "told_at"),
    [
        pytest.param(Set(b"k", b"v"), 2, 3, id="two-byte SET"),
        pytest.param(Ping(b""), 2, 3, id="two-byte PING"),
        pytest.param(Incr(b"k", 1), 2, 3, id="two-byte INCR"),
        pytest.param(Get(b"k"), 2, 7, id="two-byte GET, shortest key"),
        pytest.param(Get(b"k" * 255), 2, 7, id="two-byte GET, key length in the last byte"),
        pytest.param(Get(b"k" * 256), 2, 7, id="two-byte GET, key length in two bytes"),
        pytest.param(Get(b"k" * KEY_MAX), 2, 7, id="two-byte GET, longest key"),
        pytest.param(Get(b"\0" * 9), 2, 7, id="two-byte GET, key of zeros"),
        pytest.param(Set(b"k", b"v"), 4, 5, id="four-byte SET"),
        pytest.param(Ping(b""), 4, 5, id="four-byte PING"),
        pytest.param(ClearAll(), 4, 5, id="four-byte CLEAR_ALL"),
        pytest.param(Get(b"k"), 4, 7, id="four-byte GET, shortest key"),
        pytest.param(Get(b"k" * KEY_MAX), 4, 7, id="four-byte GET, longest key"),
        pytest.param(Get(b"\0" * 9), 4, 7, id="four-byte GET, key of zeros"),
    ],
)
@pytest.mark.parametrize("flags", [0, 3])
def test_width_is_detected_at_the_expected_byte(command: Command, width: Width, told_at: int, flags: int) -> None:
    assert bytes_until_told(write_command(command, width=width, flags=flags)) == (told_at, width)


@given(command=commands(), width=st.sampled_from([2, 4]), flags=st.integers(0, 3))
def test_width_of_every_legal_frame_is_detected_by_its_seventh_byte(command: Command, width: Width, flags: int) -> None:
    frame = write_command(command, width=width, flags=flags)
    assert len(frame) >= 7
    assert bytes_until_told(frame[:7])[1] == width


@pytest.mark.parametrize("width", [2, 4])
def test_width_holds_for_the_connection(width: Width) -> None:
    """Later frames do not change it."""
    decoder = CommandDecoder()
    said = [Clear(b"k"), Get(b"k"), Get(b"\0"), Set(b"k", b""), Get(b"k" * 300)]
    decoder.feed(b"".join(write_command(command, width=width) for command in said))
    assert [decoder.next() for _ in said] == [Request(command) for command in said]
    assert decoder.width == width


def test_four_byte_number_above_65_535_is_detected_as_two_bytes() -> None:
    """`00 00 01 00 ..`: as two-byte it is a SET. No assigned number is that large, so none is misread."""
    assert bytes_until_told(b"\x00" + (0x0001_0000).to_bytes(4)) == (3, 2)


class TestMisreadIllegalFrames:
    """Clients refuse both before sending; a pinned width reads both as what they are."""

    EMPTY_GET = b"\x00\x00\x00\x00\x00\x00\x00"
    LONG_KEY = KEY_MAX + 1

    def test_two_byte_get_of_an_empty_key_waits_as_a_four_byte_get(self) -> None:
        decoder = CommandDecoder()
        decoder.feed(self.EMPTY_GET)
        assert decoder.next() is None
        assert decoder.width == 4
        assert decoder.pending == len(self.EMPTY_GET)

    def test_two_byte_get_of_an_empty_key_fails_once_it_is_complete(self) -> None:
        decoder = CommandDecoder()
        decoder.feed(self.EMPTY_GET + write_command(Clear(b"k"))[:2])
        event = decoder.next()
        assert isinstance(event, Failure)
        assert event.code is failures.BADFRAME
        assert decoder.broken

    @pytest.mark.parametrize("flags", [0, 0x08])
    def test_four_byte_get_of_an_empty_key_as_first_frame_fails_and_closes(self, flags: int) -> None:
        """It may as well be the misread frame above. The fault that closes comes before a wrong flag."""
        decoder = CommandDecoder()
        decoder.feed(write_command(Get(b""), width=4, flags=flags))
        event = decoder.next()
        assert isinstance(event, Failure)
        assert event.code is failures.BADFRAME
        assert decoder.broken

    def test_later_get_of_an_empty_key_only_has_a_wrong_key(self) -> None:
        decoder = CommandDecoder()
        decoder.feed(write_command(Get(b"k"), width=4) + write_command(Get(b""), width=4))
        assert decoder.next() == Request(Get(b"k"))
        event = decoder.next()
        assert isinstance(event, Failure)
        assert event.code is failures.BADKEY
        assert not decoder.broken

    @pytest.mark.parametrize("width", [2, 4])
    def test_get_of_an_empty_key_at_a_pinned_width_only_has_a_wrong_key(self, width: Width) -> None:
        decoder = CommandDecoder(width=width)
        decoder.feed(write_command(Get(b""), width=width))
        event = decoder.next()
        assert isinstance(event, Failure)
        assert event.code is failures.BADKEY
        assert not decoder.broken

    def test_four_byte_get_of_a_too_long_key_is_read_as_two_byte_get(self) -> None:
        frame = b"\0" + (0).to_bytes(4) + self.LONG_KEY.to_bytes(4) + b"k" * 20
        decoder = CommandDecoder()
        decoder.feed(frame)
        assert decoder.next() == Request(Get(b"\0"))
        assert decoder.width == 2

    def test_get_of_a_too_long_key_at_a_pinned_width_fails(self) -> None:
        decoder = CommandDecoder(width=4)
        decoder.feed(b"\0" + (0).to_bytes(4) + self.LONG_KEY.to_bytes(4))
        event = decoder.next()
        assert isinstance(event, Failure)
        assert event.code is failures.TOOBIG
        assert decoder.broken

    def test_connection_that_starts_with_ping_is_never_misread(self) -> None:
        for width in (2, 4):
            decoder = CommandDecoder()
            decoder.feed(write_command(Ping(b""), width=width) + write_command(Get(b""), width=width))
            assert decoder.next() == Request(Ping(b""))
            event = decoder.next()
            assert isinstance(event, Failure)
            assert event.code is failures.BADKEY


@given(command=commands(), flags=st.integers(0, 3))
def test_pinned_four_bytes_still_read_a_first_two_byte_frame_but_get(command: Command, flags: int) -> None:
    decoder = CommandDecoder(width=4)
    decoder.feed(write_command(command, flags=flags))
    first = decoder.next()
    decoder.feed(write_command(Ping(b""), flags=flags))
    if isinstance(command, Get):
        assert isinstance(first, Failure)
        assert first.code is failures.TOOBIG
    else:
        assert first == Request(command, flags)
        assert decoder.next() == Request(Ping(b""), flags)
        assert decoder.width == 2


@given(first=commands(), second=commands())
def test_pinned_four_bytes_stay_four_bytes(first: Command, second: Command) -> None:
    decoder = CommandDecoder(width=4)
    decoder.feed(write_command(first, width=4) + write_command(second, width=4))
    assert [decoder.next(), decoder.next()] == [Request(first), Request(second)]

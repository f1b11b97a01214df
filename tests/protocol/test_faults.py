"""Which fault is said when a frame has several: number, then lengths, then flags, then keys; one that closes
wins. Every combination of them is tried, at both widths.

A frame is built from its parts here, so that each can be wrong by itself.
"""

import dataclasses
import itertools

import pytest
from _pytest.mark import ParameterSet

from cairnkv.commands import Failure, Ping, failures
from cairnkv.commands.failures import Code
from cairnkv.limits import ARGUMENTS_MAX, KEY_MAX
from cairnkv.protocol import CommandDecoder, DecoderLimits, Request, write_command
from cairnkv.protocol.native import Width

LIMITS = DecoderLimits(value=1_000, frame=1_500)
WIDTHS: list[Width] = [2, 4]


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of any shape."""

    number: int
    strings: tuple[bytes, ...]
    flags: int = 0
    count: int | None = None
    """The declared argument count, where it is not the number of strings."""
    last_length: int | None = None
    """The declared length of the last string, where it is not the right one."""

    def write(self, width: Width) -> bytes:
        frame = bytes((self.flags,)) + self.number.to_bytes(width)
        if self.number >= 16:
            frame += (len(self.strings) if self.count is None else self.count).to_bytes(4)
        lengths = [len(string) for string in self.strings]
        if self.last_length is not None:
            lengths[-1] = self.last_length
        return frame + b"".join(
            length.to_bytes(4) + string for length, string in zip(lengths, self.strings, strict=True)
        )


def fault_in(frame: Frame, width: Width) -> Code | None:
    """The failure that a decoder says to this frame, as a connection's second one; a PING comes behind it."""
    decoder = CommandDecoder(width=width, limits=LIMITS)
    ping = write_command(Ping(b"behind"), width=width)
    decoder.feed(frame.write(width) + ping)
    event = decoder.next()
    if isinstance(event, Failure):
        assert event.message.startswith(event.code.name + " ")
        assert decoder.broken == event.code.closes
    if not decoder.broken:
        assert decoder.next() == Request(Ping(b"behind")), "the frame was delimited"
    else:
        assert decoder.next() is None
    assert decoder.pending == 0
    return event.code if isinstance(event, Failure) else None


GET, SET = 0, 1
SET_WITH, EXISTS, EXPIRE = 16, 20, 26
UNKNOWN_NUMBER = 9_999


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        pytest.param(Frame(4, (b"k",)), failures.BADFRAME, id="the first unassigned number"),
        pytest.param(Frame(15, (b"k",)), failures.BADFRAME, id="the last unassigned number"),
        pytest.param(Frame(UNKNOWN_NUMBER, (b"k", b"")), failures.NOCOMMAND, id="a number nobody knows"),
        pytest.param(Frame(UNKNOWN_NUMBER, ()), failures.NOCOMMAND, id="a number nobody knows, no arguments"),
        pytest.param(Frame(0xFFFF, (b"k",)), failures.NOCOMMAND, id="the last number of two bytes"),
        pytest.param(Frame(SET, (b"k" * (KEY_MAX + 1), b"v")), failures.TOOBIG, id="a key over 65,535 bytes"),
        pytest.param(Frame(SET, (b"k", b"v"), last_length=1_001), failures.TOOBIG, id="a value over the limit"),
        pytest.param(Frame(EXISTS, (b"k",), count=ARGUMENTS_MAX + 1), failures.TOOBIG, id="too many arguments"),
        pytest.param(Frame(EXISTS, (b"k",), last_length=2**32 - 1), failures.TOOBIG, id="the longest length"),
        pytest.param(Frame(GET, (b"k",), flags=0x04), failures.BADFLAG, id="a flag for responses only"),
        pytest.param(Frame(GET, (b"k",), flags=0x08), failures.BADFLAG, id="another"),
        pytest.param(Frame(GET, (b"k",), flags=0x83), failures.BADFLAG, id="an unknown flag among known ones"),
        pytest.param(Frame(GET, (b"",)), failures.BADKEY, id="an empty key"),
        pytest.param(Frame(EXISTS, (b"k", b"")), failures.BADKEY, id="an empty key among several"),
        pytest.param(Frame(EXISTS, ()), failures.BADARGS, id="too few arguments"),
        pytest.param(Frame(SET_WITH, (b"k", b"v", b"TTL", b"0")), failures.BADARGS, id="a number out of range"),
        pytest.param(Frame(EXPIRE, (b"k", b"1", b"2")), failures.BADARGS, id="too many arguments for its grammar"),
        pytest.param(Frame(GET, (b"k",), flags=0x03), None, id="every flag that is known"),
    ],
)
def test_single_fault_has_its_own_code(frame: Frame, fault: Code | None, width: Width) -> None:
    assert fault_in(frame, width) is fault


def _combinations() -> list[ParameterSet]:
    """Every combination of faults of one frame, with the one that has to be said.

    Each axis lists its faults, None for no fault. The rank of a fault: those that close before those that do
    not, and among these in the order number, lengths, flags, keys.
    """
    numbers = {"": EXISTS, "number": UNKNOWN_NUMBER}
    found = []
    for number, length, flag, key in itertools.product(numbers, ("", "length"), ("", "flag"), ("", "key")):
        strings = (b"" if key else b"k", b"last")
        frame = Frame(numbers[number], strings, 0x08 if flag else 0, last_length=2_000 if length else None)
        if length:
            fault = failures.TOOBIG
        elif number:
            fault = failures.NOCOMMAND
        elif flag:
            fault = failures.BADFLAG
        elif key:
            fault = failures.BADKEY
        else:
            continue
        found.append(pytest.param(frame, fault, id=" and ".join(filter(None, (number, length, flag, key)))))
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("frame", "fault"), _combinations())
def test_first_fault_in_rank_is_reported(frame: Frame, fault: Code, width: Width) -> None:
    assert fault_in(frame, width) is fault


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("frame", "fault"),
    [
        pytest.param(Frame(9, (b"",), 0x08, last_length=2**32 - 1), failures.BADFRAME, id="unassigned and all others"),
        pytest.param(Frame(SET, (b"k" * 70_000, b"v"), 0x08), failures.TOOBIG, id="article frame: length and flag"),
        pytest.param(Frame(SET, (b"", b"v"), 0, last_length=1_001), failures.TOOBIG, id="article frame: key, length"),
        pytest.param(Frame(SET, (b"", b"v"), 0x08), failures.BADFLAG, id="article frame: key and flag"),
        pytest.param(Frame(EXISTS, (), 0x08), failures.BADFLAG, id="flag and grammar"),
    ],
)
def test_rank_of_faults_holds_for_every_frame_shape(frame: Frame, fault: Code, width: Width) -> None:
    assert fault_in(frame, width) is fault


@pytest.mark.parametrize("width", WIDTHS)
def test_fault_that_does_not_close_is_reported_at_the_end_of_its_frame(width: Width) -> None:
    """Before the end, a fault that closes might follow."""
    frame = Frame(UNKNOWN_NUMBER, (b"", b"last"), 0x08).write(width)
    decoder = CommandDecoder(width=width, limits=LIMITS)
    decoder.feed(frame[:-1])
    assert decoder.next() is None
    decoder.feed(frame[-1:])
    event = decoder.next()
    assert isinstance(event, Failure)
    assert event.code is failures.NOCOMMAND


@pytest.mark.parametrize("width", WIDTHS)
def test_unassigned_number_is_refused_as_soon_as_it_is_complete(width: Width) -> None:
    decoder = CommandDecoder(width=width, limits=LIMITS)
    decoder.feed(Frame(15, ()).write(width)[:-1])
    assert decoder.next() is None
    decoder.feed(b"\x0f")
    event = decoder.next()
    assert isinstance(event, Failure)
    assert event.code is failures.BADFRAME

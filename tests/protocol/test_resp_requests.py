"""Requests of the Redis protocol: their meaning, their faults, and equal results for any pieces."""

import sys
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.limits import (
    REDIS_ARGUMENTS_MAX,
    REDIS_LINE_MAX,
    UNAUTHENTICATED_ARGUMENTS_MAX,
    UNAUTHENTICATED_FRAME_MAX,
    VALUE_MAX,
)
from cairnkv.protocol import DecoderLimits
from cairnkv.protocol.native import COMPACTED_BYTES
from cairnkv.protocol.resp import ProtocolFault, RequestDecoder
from cairnkv.protocol.resp.requests import EMPTY_PER_LOOK, split_line
from tests.support.resp import quoted, request
from tests.support.strategies import cut, cuttings

pytestmark = pytest.mark.usefixtures("path_in_use")

Event: TypeAlias = list[bytes] | ProtocolFault

TOO_MANY = f"invalid multibulk length, the limit is {REDIS_ARGUMENTS_MAX:,} arguments"


def drained(decoder: RequestDecoder) -> list[Event]:
    events = []
    while (event := decoder.next()) is not None:
        events.append(event)
    return events


def events_of(*pieces: bytes, limits: DecoderLimits | None = None, trusted: bool = True) -> list[Event]:
    decoder = RequestDecoder(limits or DecoderLimits(), trusted=trusted)
    events = []
    for piece in pieces:
        decoder.feed(piece)
        events += [event for event in drained(decoder) if event]
    return events


def fault(text: str) -> ProtocolFault:
    return ProtocolFault(f"ERR Protocol error: {text}")


# -- what is understood --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "requests"),
    [
        pytest.param(b"*1\r\n$4\r\nPING\r\n", [[b"PING"]], id="array"),
        pytest.param(b"*2\r\n$3\r\nGET\r\n$4\r\n\r\n*1\r\n", [[b"GET", b"\r\n*1"]], id="line ends in a string"),
        pytest.param(b"*2\r\n$0\r\n\r\n$0\r\n\r\n", [[b"", b""]], id="empty strings"),
        pytest.param(b"*1\r\n$300\r\n" + b"x" * 300 + b"\r\n", [[b"x" * 300]], id="a string that is not short"),
        pytest.param(b"PING\r\n", [[b"PING"]], id="inline"),
        pytest.param(b"PING\n", [[b"PING"]], id="inline, line feed alone"),
        pytest.param(b"  set\ta \x0b b\r\n", [[b"set", b"a", b"b"]], id="blanks"),
        pytest.param(b"a\x0bb\x0cc\r\n", [[b"a\x0bb\x0cc"]], id="two blanks that part nothing"),
        pytest.param(b"a\rb\r\r\n", [[b"a", b"b"]], id="carriage returns within a line"),
        pytest.param(b"\r\n\n \r\nPING\r\n\r\n", [[b"PING"]], id="blank lines"),
        pytest.param(b"*0\r\n*-1\r\n*-10\r\nPING\r\n", [[b"PING"]], id="empty arrays"),
        pytest.param(b"$3\r\nGET\r\n", [[b"$3"], [b"GET"]], id="a string is no request"),
        pytest.param(b"*1\r $2\r.hi--PING\r\n", [[b"hi"], [b"PING"]], id="what ends lines and strings is not read"),
        pytest.param(b"PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n", [[b"PING"]] * 3, id="in turn"),
    ],
)
def test_requests_are_decoded(data: bytes, requests: list[list[bytes]]) -> None:
    assert events_of(data) == requests
    assert events_of(*cut(data, range(len(data)))) == requests


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (rb"", []),
        (rb" ", []),
        (rb'set key "a value"', [b"set", b"key", b"a value"]),
        (rb'"" ' + b"''", [b"", b""]),
        (rb'"\x41\x7a\xFF"', [b"Az\xff"]),
        (rb'"\n\r\t\b\a"', [b"\n\r\t\b\a"]),
        (rb'"\"\\\q\x4g\x"', [b'"\\qx4gx']),
        (rb"'it\'s'", [b"it's"]),
        (rb"'\n\x41\\ '", [rb"\n\x41\\ "]),
        (rb"'\\'", None),
        (rb"""'a"b' "a'b" """, [b'a"b', b"a'b"]),
        (rb'pre"fix"', [b"prefix"]),
        (rb"pre'fix'", [b"prefix"]),
        (rb"back\slash", [b"back\\slash"]),
        (b'"a"\x0b"b"', [b"a", b"b"]),
        (rb'"a"b', None),
        (rb'"a""b"', None),
        (rb"'a'b", None),
        (rb'"a', None),
        (rb"'a", None),
        (rb"'a\'", None),
        (rb'"a\"', None),
        (b'"a\\', None),
        (rb'"', None),
        (rb"x'", None),
    ],
)
def test_inline_request_is_split(line: bytes, arguments: list[bytes] | None) -> None:
    assert split_line(line) == arguments


@given(arguments=st.lists(st.binary(max_size=12), min_size=1, max_size=5))
def test_quoted_words_survive_a_round_trip(arguments: list[bytes]) -> None:
    line = b" ".join(map(quoted, arguments))
    assert split_line(line) == arguments
    assert events_of(line + b"\r\n") == [arguments]


@given(argument=st.binary(max_size=12).filter(lambda argument: b"\\'" not in argument + b"'"))
def test_single_quotes_need_one_escape(argument: bytes) -> None:
    """A word with a backslash before a quote, or at its end, cannot be single-quoted."""
    assert split_line(b"'" + argument.replace(b"'", rb"\'") + b"'") == [argument]


HEX_DIGITS = b"0123456789abcdefABCDEF"


def _split_slowly(line: bytes) -> list[bytes] | None:
    """How a line is split, byte by byte."""
    blanks, at = b" \t\n\v\f\r", 0
    arguments: list[bytes] = []
    while True:
        while line[at : at + 1] and line[at] in blanks:
            at += 1
        if at >= len(line):
            return arguments
        argument, quote = bytearray(), b""
        while True:
            byte = line[at : at + 1]
            at += 1
            if not quote:
                if byte in (b"", b" ", b"\t", b"\n", b"\r"):
                    break
                if byte in (b'"', b"'"):
                    quote = byte
                else:
                    argument += byte
            elif not byte:
                return None
            elif byte == quote:
                if at < len(line) and line[at] not in blanks:
                    return None
                break
            elif byte == b"\\" and quote == b"'" and line[at : at + 1] == b"'":
                argument += b"'"
                at += 1
            elif byte == b"\\" and quote == b'"' and at < len(line):
                digits = line[at + 1 : at + 3]
                if (
                    line[at : at + 1] == b"x"
                    and len(digits) == 2
                    and all(d in b"0123456789abcdefABCDEF" for d in digits)
                ):
                    argument.append(int(digits, 16))
                    at += 3
                else:
                    argument += {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}.get(
                        line[at : at + 1], line[at : at + 1]
                    )
                    at += 1
            else:
                argument += byte
        arguments.append(bytes(argument))


@given(
    line=st.lists(st.sampled_from([bytes((byte,)) for byte in b" \t\v\r\"\"''\\\\xn4aA\xff\0"]), max_size=14).map(
        b"".join
    )
)
@example(line=b'a"b c" d')
def test_line_is_split_as_by_a_bytewise_parser(line: bytes) -> None:
    assert split_line(line) == _split_slowly(line)


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"*3000000000\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"* 1\r\n", "invalid multibulk length"),
        (b"*1_0\r\n", "invalid multibulk length"),
        (b"*1\n\r\n", "invalid multibulk length"),
        (b"*-9223372036854775809\r\n", "invalid multibulk length"),
        (b"*99999999999999999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$-10\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$2000000000\r\n", "invalid bulk length"),
        (b"*1\r\n$blabla\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$01\r\n", "invalid bulk length"),
        (b"*2\r\n$1\r\nx\r\n$+1\r\n", "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "expected '$', got 'f'"),
        (b"*1\r\n\r\n", "expected '$', got '\r'"),
        (b"*1\r\n\xff\r\n", "expected '$', got '\udcff'"),
        (b'set """test-key""" test-value\r\n', "unbalanced quotes in request"),
    ],
)
def test_faults_have_their_messages(data: bytes, text: str) -> None:
    """Each is reported at its last byte, and is the last result."""
    decoder = RequestDecoder()
    for byte in data[:-1]:
        decoder.feed(bytes((byte,)))
        assert decoder.next() is None
    decoder.feed(data[-1:])
    assert decoder.next() == fault(text)
    assert decoder.broken
    assert not decoder.at_frame
    decoder.feed(b"PING\r\n")
    assert decoder.next() is None
    assert decoder.pending == 0
    assert events_of(data + b"PING\r\n") == [fault(text)]


def test_requests_before_a_fault_are_decoded() -> None:
    assert events_of(b"PING\r\n*x\r\nPING\r\n") == [[b"PING"], fault("invalid multibulk length")]


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"*0\r\n", b"*-7\r\n"])
def test_empty_requests_are_skipped_in_bounded_steps(empty: bytes) -> None:
    """Otherwise a megabyte of them would block all other clients for a second."""
    decoder = RequestDecoder()
    decoder.feed(empty * (2 * EMPTY_PER_LOOK) + b"PING\r\n")
    assert [decoder.next(), decoder.next(), decoder.next()] == [[], [], [b"PING"]]
    assert decoder.next() is None
    assert decoder.pending == 0


# -- limits --------------------------------------------------------------------------------------------------


def verdict(data: bytes, **options: Any) -> str | None:
    """The fault that is said exactly at the last of these bytes, None when none is said."""
    decoder = RequestDecoder(options.pop("limits", DecoderLimits()), **options)
    decoder.feed(data[:-1])
    assert decoder.next() is None
    decoder.feed(data[-1:])
    event = decoder.next()
    if event is None:
        assert decoder.pending == len(data)  # nothing was set aside, and nothing lost
        return None
    assert isinstance(event, ProtocolFault)
    return event.text.removeprefix("ERR Protocol error: ")


class TestLimits:
    def test_of_the_number_of_arguments(self) -> None:
        assert verdict(b"*%d\r\n" % REDIS_ARGUMENTS_MAX) is None
        assert verdict(b"*%d\r\n" % (REDIS_ARGUMENTS_MAX + 1)) == TOO_MANY

    def test_of_a_string(self) -> None:
        assert verdict(b"*1\r\n$%d\r\n" % VALUE_MAX) is None
        assert verdict(b"*1\r\n$%d\r\n" % (VALUE_MAX + 1)) == "invalid bulk length"

    @pytest.mark.parametrize("limit", [10, 255, 256, 1_000])
    def test_of_a_string_with_a_custom_limit(self, limit: int) -> None:
        assert verdict(b"*1\r\n$%d\r\n" % limit, limits=DecoderLimits(value=limit)) is None
        assert verdict(b"*1\r\n$%d\r\n" % (limit + 1), limits=DecoderLimits(value=limit)) == "invalid bulk length"
        for data in (request(b"x" * limit), b"x" * limit + b"\r\n"):
            assert events_of(data, limits=DecoderLimits(value=limit)) == [[b"x" * limit]]

    def test_of_an_argument_of_an_inline_request(self) -> None:
        limits = DecoderLimits(value=10)
        assert events_of(b"set key 0123456789\n", limits=limits) == [[b"set", b"key", b"0123456789"]]
        assert events_of(b"set key 0123456789x\n", limits=limits) == [fault("too big inline request")]

    @pytest.mark.parametrize("size", [1, 300])
    def test_of_a_whole_request(self, size: int) -> None:
        whole = request(b"SET", b"key", b"x" * size)
        assert events_of(whole, limits=DecoderLimits(frame=len(whole))) == [[b"SET", b"key", b"x" * size]]
        begin = whole[: -size - 2]
        assert verdict(begin, limits=DecoderLimits(frame=len(whole))) is None
        too_big = f"too big request, the limit is {len(whole) - 1} bytes"
        assert verdict(begin, limits=DecoderLimits(frame=len(whole) - 1)) == too_big

    @given(frame=st.integers(1, 60), data=st.data())
    def test_of_a_whole_request_in_any_pieces(self, frame: int, data: st.DataObject) -> None:
        whole = request(b"SET", b"x" * 12, b"x" * 12)
        events = events_of(whole, limits=DecoderLimits(frame=frame))
        assert events_of(*data.draw(cuttings(whole)), limits=DecoderLimits(frame=frame)) == events
        assert events_of(*cut(whole, range(len(whole))), limits=DecoderLimits(frame=frame)) == events
        assert (events == [fault(f"too big request, the limit is {frame} bytes")]) == (frame < len(whole))

    def test_of_an_inline_request(self) -> None:
        longest = b"x" * (REDIS_LINE_MAX - 1) + b"\r\n"
        assert events_of(longest) == [[b"x" * (REDIS_LINE_MAX - 1)]]
        assert verdict(b"x" * REDIS_LINE_MAX) is None
        assert verdict(b"x" * (REDIS_LINE_MAX + 1)) == "too big inline request"
        assert events_of(b"x" + longest) == [fault("too big inline request")]

    def test_of_a_request_apply_to_inline_requests(self) -> None:
        assert events_of(b"PING\r\n", limits=DecoderLimits(frame=6)) == [[b"PING"]]
        assert events_of(b"PING\r\n", limits=DecoderLimits(frame=5)) == [fault("too big request, the limit is 5 bytes")]

    def test_of_the_digits_of_an_argument_count(self) -> None:
        assert verdict(b"*" * REDIS_LINE_MAX) is None
        assert verdict(b"*" * (REDIS_LINE_MAX + 1)) == "too big mbulk count string"

    def test_of_the_digits_of_a_string_length(self) -> None:
        assert verdict(b"*1\r\n" + b"$" * REDIS_LINE_MAX) is None
        assert verdict(b"*1\r\n" + b"$" * (REDIS_LINE_MAX + 1)) == "too big bulk count string"

    @pytest.mark.parametrize("begin", [b"\0", b"*\0", b"$\0"])
    def test_bytes_of_another_protocol_get_a_clear_error(self, begin: bytes) -> None:
        (event,) = events_of(begin + b"A" * (2 * REDIS_LINE_MAX))
        assert isinstance(event, ProtocolFault)


class TestUnauthenticatedLimits:
    """Unauthenticated clients have smaller limits."""

    def test_of_the_number_of_arguments(self) -> None:
        assert verdict(b"*%d\r\n" % UNAUTHENTICATED_ARGUMENTS_MAX, trusted=False) is None
        too_many = b"*%d\r\n" % (UNAUTHENTICATED_ARGUMENTS_MAX + 1)
        assert verdict(too_many, trusted=False) == "unauthenticated multibulk length"
        assert verdict(too_many, trusted=True) is None

    def test_of_a_string(self) -> None:
        head = b"*1\r\n$1000\r\n"
        assert verdict(head, trusted=False) is None
        too_long = b"*1\r\n$%d\r\n" % (UNAUTHENTICATED_FRAME_MAX + 1)
        assert verdict(too_long, trusted=False) == "unauthenticated bulk length"
        assert verdict(too_long, trusted=True) is None

    def test_of_a_request(self) -> None:
        longest = UNAUTHENTICATED_FRAME_MAX - len(b"*1\r\n$1000\r\n\r\n")
        assert events_of(request(bytes(longest)), trusted=False) == [[bytes(longest)]]
        refusal = f"too big request, the limit is {UNAUTHENTICATED_FRAME_MAX:,} bytes"
        assert verdict(b"*1\r\n$%d\r\n" % (longest + 1), trusted=False) == refusal
        assert events_of(b"A" * (UNAUTHENTICATED_FRAME_MAX - 1) + b"\n", trusted=False) == [[b"A" * 1023]]
        assert verdict(b"A" * UNAUTHENTICATED_FRAME_MAX, trusted=False) == refusal
        assert verdict(b"A" * UNAUTHENTICATED_FRAME_MAX, trusted=True) is None

    def test_sizes_over_the_general_limit_get_the_general_error(self) -> None:
        assert verdict(b"*%d\r\n" % (REDIS_ARGUMENTS_MAX + 1), trusted=False) == TOO_MANY
        assert verdict(b"*1\r\n$%d\r\n" % (VALUE_MAX + 1), trusted=False) == "invalid bulk length"

    def test_authentication_applies_from_the_next_request(self) -> None:
        """Between two requests in one piece, such as AUTH and the next command."""
        many = [b"x"] * (UNAUTHENTICATED_ARGUMENTS_MAX + 1)
        decoder = RequestDecoder(trusted=False)
        decoder.feed(request(b"AUTH", b"secret") + request(*many))
        assert decoder.next() == [b"AUTH", b"secret"]
        decoder.trusted = True
        assert decoder.next() == many


# -- any bytes -----------------------------------------------------------------------------------------------

LIMITS = DecoderLimits(value=300, frame=400)
"""Small enough that damaged lengths land on both sides."""

PIECES = [b"*", b"$", b"\r", b"\n", b"\r\n", b" ", b'"', b"'", b"\\", b"x", b"-", b"0", b"1", b"2", b"3", b"12", b"300"]
PIECES += [
    b"*1\r\n$4\r\nPING\r\n",
    b"*2\r\n",
    b"$1\r\n",
    b"$0\r\n\r\n",
    b"$290\r\n",
    b"PING\r\n",
    b"x" * 290,
    b"\0",
    b"\xff",
]


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Pieces of requests in any order, or whole requests with some damage."""
    if draw(st.booleans()):
        return b"".join(draw(st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=14)))
    arguments = st.lists(st.binary(max_size=6) | st.just(b"x" * 290), min_size=1, max_size=4)
    whole = bytearray(b"".join(request(*each) for each in draw(st.lists(arguments, min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(whole)))
        whole[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(PIECES))
    return bytes(whole)


def watched(pieces: list[bytes], trusted: bool) -> tuple[list[Event], RequestDecoder]:
    """Return the events for these pieces, and check the decoder after each."""
    decoder = RequestDecoder(LIMITS, trusted=trusted)
    events: list[Event] = []
    fed = 0
    for piece in pieces:
        decoder.feed(memoryview(piece))
        fed += len(piece)
        events += drained(decoder)
        assert decoder.pending == (0 if decoder.broken else fed - decoder.consumed)
        assert decoder.pending <= LIMITS.frame
        assert not (decoder.broken and decoder.at_frame)
        assert decoder.pending or decoder.at_frame or decoder.broken
    return events, decoder


@given(data=hostile(), trusted=st.booleans(), pieces=st.data())
@example(data=b"*1\r\n$1\r", trusted=True, pieces=None)
@example(data=b"*2\r\n$290\r\n" + b"x" * 290 + b"\r\n$90\r\n", trusted=True, pieces=None)
def test_results_are_equal_for_any_pieces(data: bytes, trusted: bool, pieces: st.DataObject | None) -> None:
    events, whole = watched([data], trusted)
    by_bytes, trickled = watched(cut(data, range(len(data))), trusted)
    assert by_bytes == events
    assert (trickled.broken, trickled.pending) == (whole.broken, whole.pending)
    assert trickled.at_frame == whole.at_frame
    if pieces is not None:
        assert watched(pieces.draw(cuttings(data)), trusted)[0] == events


@given(data=hostile())
def test_fault_is_the_last_result(data: bytes) -> None:
    events, decoder = watched([data], True)
    assert [event for event in events if isinstance(event, ProtocolFault)] == (events[-1:] if decoder.broken else [])
    assert all(events)  # and no request is empty


@given(requests=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=5), pieces=st.data())
def test_requests_survive_a_round_trip(requests: list[list[bytes]], pieces: st.DataObject) -> None:
    data = b"".join(request(*arguments) for arguments in requests)
    assert events_of(*pieces.draw(cuttings(data))) == requests


# -- work and memory -----------------------------------------------------------------------------------------


class Watched(bytearray):
    """A buffer that counts the bytes that are searched or taken out of it."""

    looks = 0

    def find(self, mark: Any, start: Any = 0, end: Any = None) -> int:
        end = len(self) if end is None else min(end, len(self))
        found = super().find(mark, start, end)
        type(self).looks += (found + 1 if found >= 0 else end) - start
        return found

    def __getitem__(self, place: Any) -> Any:
        part = super().__getitem__(place)
        type(self).looks += len(part) if isinstance(place, slice) else 1
        return part


def looks(data: bytes, step: int = 1) -> int:
    """How many bytes are looked at while the data comes in, in pieces of this size."""
    decoder = RequestDecoder()
    Watched.looks = 0
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
        if not isinstance(decoder._buffer, Watched):
            decoder._buffer = Watched(decoder._buffer)
        drained(decoder)
    return Watched.looks


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"x" * 30_000, id="inline"),
        pytest.param(b"x" * 30_000 + b"\r\n", id="inline, whole"),
        pytest.param(b"*" * 30_000, id="count"),
        pytest.param(b"*1\r\n" + b"$" * 30_000, id="length"),
        pytest.param(b"*1\r\n$30000\r\n" + b"\r" * 30_000 + b"\r\n", id="string"),
        pytest.param(b"*3000\r\n" + b"$4\r\nabcd\r\n" * 3_000, id="strings"),
        pytest.param(b"*100\r\n" + b"$300\r\n%b\r\n" % (b"x" * 300) * 100, id="strings that are not short"),
        pytest.param(b"*3000\r\n" + b"$4\r\nabcd\r\n" * 2_999, id="strings that are not all there"),
        pytest.param(b"\r\n" * 15_000, id="blank lines"),
        pytest.param(b"*0\r\n" * 7_500, id="empty arrays"),
    ],
)
def test_trickled_bytes_are_scanned_a_bounded_number_of_times(data: bytes) -> None:
    """Not again for each later byte, which would be some hundred million scans here."""
    assert looks(data) <= 12 * len(data)
    assert looks(data, step=7) <= 12 * len(data)


def test_unfinished_request_takes_no_more_memory_than_its_bytes() -> None:
    """The decoder allocates nothing for declared lengths, and copies no decoded words."""
    short = b"*%d\r\n" % REDIS_ARGUMENTS_MAX + b"$4\r\nabcd\r\n" * 10_000
    long = b"*1\r\n$%d\r\nsome" % VALUE_MAX
    for data in (short, long):
        for pieces in ([data], [data[:9], data[9:]], cut(data, range(0, len(data), 1_000))):
            decoder = RequestDecoder()
            for piece in pieces:
                decoder.feed(piece)
                assert decoder.next() is None
            assert decoder.pending == len(data)
            held = sum(sys.getsizeof(value) for value in vars(decoder).values())
            assert held <= 1.25 * len(data) + 1_000


def test_bytes_after_a_fault_are_not_kept() -> None:
    decoder = RequestDecoder()
    decoder.feed(b"*x\r\n" + request(b"PING") * 1_000)
    assert isinstance(decoder.next(), ProtocolFault)
    assert sys.getsizeof(decoder._buffer) < 100


def test_received_bytes_are_not_copied() -> None:
    """Only a long string that is cut off is gathered."""
    decoder = RequestDecoder()
    data = request(b"PING")
    decoder.feed(data)
    assert decoder._buffer is data


def test_consumed_and_pending_count_skipped_bytes() -> None:
    decoder = RequestDecoder()
    decoder.feed(b"\r\n*0\r\nPING\r\nPI")
    assert (decoder.consumed, decoder.pending) == (0, 14)
    assert decoder.next() == [b"PING"]
    assert (decoder.consumed, decoder.pending) == (12, 2)
    assert decoder.next() is None
    assert (decoder.consumed, decoder.pending) == (12, 2)


def test_at_frame_is_true_between_requests() -> None:
    decoder = RequestDecoder()
    assert decoder.at_frame
    decoder.feed(b"*1\r\n")
    assert decoder.next() is None
    assert not decoder.at_frame
    decoder.feed(b"$4\r\nPING\r\n")
    assert decoder.next() == [b"PING"]
    assert decoder.at_frame


def test_decoded_requests_are_freed_while_others_wait() -> None:
    """If a client sends faster than the server executes, the buffer is no longer than the unexecuted commands."""
    ping = request(b"PING")
    decoder = RequestDecoder()
    most = 0
    for _ in range(300):
        decoder.feed(ping * 1_000)
        for _ in range(990):
            assert decoder.next() == [b"PING"]
        most = max(most, len(decoder._buffer))
        assert decoder.pending <= 300 * 10 * len(ping)
    assert most < 4 * (300 * 10 * len(ping) + COMPACTED_BYTES)
    assert [decoder.next() for _ in range(3_001)] == [[b"PING"]] * 3_000 + [None]
    assert len(decoder._buffer) == 0

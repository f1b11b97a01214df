"""Hostile bytes: random, truncated, bit-flipped and spliced."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.commands import COMMANDS, Failure
from cairnkv.errors import PeerError
from cairnkv.protocol import (
    CommandDecoder,
    DecoderLimits,
    Request,
    Response,
    ResponseDecoder,
    write_command,
    write_response,
)
from cairnkv.protocol.native import Width, response_to
from tests.support.strategies import commands, cut, cuttings, replies

LIMITS = DecoderLimits(value=400, frame=700)
"""Small enough that mutated lengths land on both sides."""

WIDTHS = st.sampled_from([None, 2, 4])


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with some bits flipped, some bytes lost, some added."""
    damage = bytearray(data)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(damage)))
        match draw(st.sampled_from(["flip", "lose", "add", "truncate"])):
            case "flip" if at < len(damage):
                damage[at] ^= 1 << draw(st.integers(0, 7))
            case "lose":
                del damage[at : at + draw(st.integers(1, 5))]
            case "add":
                damage[at:at] = draw(st.binary(min_size=1, max_size=5))
            case "truncate":
                del damage[at:]
    return bytes(damage)


@st.composite
def hostile_commands(draw: st.DrawFn) -> bytes:
    """Random bytes, heads with random numbers and lengths, or damaged conversations."""
    match draw(st.integers(0, 2)):
        case 0:
            return draw(st.binary(max_size=60))
        case 1:
            small = st.integers(0, 40) | st.sampled_from([0xFFFF, 0x10000, 0x10001, 0xFFFFFFFF])
            words = draw(st.lists(small, max_size=8))
            return draw(st.binary(min_size=1, max_size=3)) + b"".join(word.to_bytes(4) for word in words)
        case _:
            width: Width = draw(st.sampled_from([2, 4]))
            said = draw(st.lists(commands(), min_size=1, max_size=4))
            # the longest strings of the strategies are over these limits, which is one of the points
            return draw(damaged(b"".join(write_command(command, width=width)[:2_000] for command in said)))


def _command_events(pieces: list[bytes], width: Width | None) -> tuple[list[Any], CommandDecoder]:
    decoder = CommandDecoder(width=width, limits=LIMITS)
    found: list[Any] = []
    fed = 0
    for piece in pieces:
        decoder.feed(piece)
        fed += len(piece)
        while (event := decoder.next()) is not None:
            assert isinstance(event, Request | Failure)
            found.append(event)
        # bounded: never more than what was fed, never more than the rest of one frame
        assert decoder.pending <= fed - (0 if decoder.broken else decoder.consumed)
        assert decoder.pending <= LIMITS.frame + len(piece)
    return found, decoder


@given(data=hostile_commands(), width=WIDTHS, pieces=st.data())
@example(data=bytes(200), width=None, pieces=None)
@example(data=b"\x00\x00\x00\x00\x00\x00\x02\x00\x01", width=4, pieces=None)
@example(data=b"\x00\x00\x10\x00\x01\x00\x00" + bytes(80), width=None, pieces=None)
def test_command_decoder_gives_equal_results_for_any_pieces(
    data: bytes, width: Width | None, pieces: st.DataObject | None
) -> None:
    whole, decoder = _command_events([data], width)
    by_bytes, decoder_by_bytes = _command_events(cut(data, range(len(data))), width)
    assert by_bytes == whole
    assert decoder_by_bytes.broken == decoder.broken
    assert decoder_by_bytes.pending == decoder.pending
    if pieces is not None:
        assert _command_events(pieces.draw(cuttings(data)), width)[0] == whole


@given(data=hostile_commands(), width=WIDTHS)
def test_failure_that_closes_is_the_last_result(data: bytes, width: Width | None) -> None:
    found, decoder = _command_events([data], width)
    closing = [event for event in found if isinstance(event, Failure) and event.code.closes]
    assert closing == (found[-1:] if decoder.broken else [])
    if decoder.broken:
        decoder.feed(b"\0" * 100)
        assert decoder.next() is None
        assert decoder.pending == 0


@given(data=hostile_commands(), width=WIDTHS)
def test_decoded_commands_encode_to_the_received_bytes(data: bytes, width: Width | None) -> None:
    """Each request, encoded again, is a part of the received bytes, except for the order of options."""
    found, decoder = _command_events([data], width)
    for event in found:
        if isinstance(event, Request) and not any(slot.keyword for _, slot in event.command.spec.fields):
            assert decoder.width is not None
            assert write_command(event.command, width=decoder.width, flags=event.flags) in data


@st.composite
def hostile_responses(draw: st.DrawFn) -> bytes:
    """Random bytes or damaged responses."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=40))
    word = draw(st.sampled_from([command.spec for command in COMMANDS]))
    said = draw(st.lists(replies(word), min_size=1, max_size=4))
    return draw(damaged(b"".join(write_response(response_to(reply))[:1_000] for reply in said)))


def _response_events(pieces: list[bytes]) -> list[Response | str]:
    decoder = ResponseDecoder(frame_limit=LIMITS.frame)
    found: list[Response | str] = []
    fed = 0
    for piece in pieces:
        decoder.feed(piece)
        fed += len(piece)
        try:
            while (event := decoder.next()) is not None:
                found.append(event)
        except PeerError as error:
            return [*found, str(error)]
        assert decoder.pending == fed - decoder.consumed
        assert decoder.pending <= LIMITS.frame
    return found


@given(data=hostile_responses(), pieces=st.data())
def test_response_decoder_gives_equal_results_for_any_pieces(data: bytes, pieces: st.DataObject) -> None:
    whole = _response_events([data])
    assert _response_events(cut(data, range(len(data)))) == whole
    assert _response_events(pieces.draw(cuttings(data))) == whole

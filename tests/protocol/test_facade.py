"""The four functions of the native codec, for a program that uses nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv.protocol as codec
from cairnkv.commands import Clear, Command, Get, Set, failures
from cairnkv.errors import IncompleteFrame, PeerError
from cairnkv.protocol.native import Width
from tests.support.strategies import commands


@given(said=st.lists(commands(), min_size=1, max_size=4), width=st.sampled_from([2, 4]))
def test_commands_are_parsed_in_order_from_one_cursor(said: list[Command], width: Width) -> None:
    cursor = codec.Cursor(b"".join(codec.write_command(command, width=width) for command in said))
    assert [codec.parse_command(cursor, width=width) for _ in said] == said
    assert cursor.position == len(cursor.data)


@given(
    said=st.lists(
        st.builds(codec.Response, st.booleans(), st.binary(max_size=30), st.integers(0, 15)), min_size=1, max_size=4
    ),
    status_byte=st.sampled_from(codec.StatusByte),
)
def test_responses_are_parsed_in_order_from_one_cursor(
    said: list[codec.Response], status_byte: codec.StatusByte
) -> None:
    cursor = codec.Cursor(b"".join(codec.write_response(response, status_byte=status_byte) for response in said))
    assert [codec.parse_response(cursor) for _ in said] == said
    assert cursor.position == len(cursor.data)


@given(command=commands(), data=st.data())
def test_truncated_command_is_incomplete_and_keeps_the_cursor(command: Command, data: st.DataObject) -> None:
    frame = codec.write_command(command)
    before = b"behind the cursor"
    cursor = codec.Cursor(before + frame[: data.draw(st.integers(0, len(frame) - 1))], len(before))
    with pytest.raises(IncompleteFrame):
        codec.parse_command(cursor)
    assert cursor.position == len(before)


@given(payload=st.binary(max_size=30), data=st.data())
def test_truncated_response_is_incomplete_and_keeps_the_cursor(payload: bytes, data: st.DataObject) -> None:
    frame = codec.write_response(codec.Response(True, payload))
    cursor = codec.Cursor(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(IncompleteFrame):
        codec.parse_response(cursor)
    assert cursor.position == 0


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"\0\0\x0f", failures.BADFRAME, id="unassigned number"),
        pytest.param(b"\0\0\x01\xff\xff\xff\xff", failures.TOOBIG, id="length over its limit"),
        pytest.param(codec.write_command(Get(b"k"), flags=8), failures.BADFLAG, id="unknown flag"),
        pytest.param(codec.write_command(Clear(b"")), failures.BADKEY, id="empty key"),
    ],
)
def test_malformed_command_is_a_peer_error_and_keeps_the_cursor(frame: bytes, code: failures.Code) -> None:
    cursor = codec.Cursor(frame)
    with pytest.raises(PeerError) as raised:
        codec.parse_command(cursor)
    assert raised.value.code == code.name
    assert cursor.position == 0


def test_malformed_response_is_a_peer_error() -> None:
    with pytest.raises(PeerError):
        codec.parse_response(codec.Cursor(b"\0\x07\0\0\0\0"))


def test_custom_limits() -> None:
    frame = codec.write_command(Set(b"k", b"12345"))
    assert codec.parse_command(codec.Cursor(frame), limits=codec.DecoderLimits(value=5)) == Set(b"k", b"12345")
    with pytest.raises(PeerError):
        codec.parse_command(codec.Cursor(frame), limits=codec.DecoderLimits(value=4))
    with pytest.raises(PeerError):
        codec.parse_response(codec.Cursor(codec.write_response(codec.Response(True, b"12345"))), frame_limit=10)

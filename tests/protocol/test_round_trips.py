"""Commands and replies survive a round trip at both widths, with both status bytes, in any pieces."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import COMMANDS, MISSING, OK, Command, CommandSpec, Failure, InMemory, Items, Reply
from cairnkv.errors import PeerError
from cairnkv.protocol import (
    CommandDecoder,
    Request,
    Response,
    ResponseDecoder,
    StatusByte,
    write_command,
    write_response,
)
from cairnkv.protocol.native import (
    Width,
    command_parts,
    pack_strings,
    reply_in,
    reply_parts,
    response_to,
    unpack_strings,
)
from tests.support.strategies import STRINGS, commands, cuttings, replies

WIDTHS = st.sampled_from([2, 4])
FLAGS = st.integers(0, 3)
RESP_COMMANDS = [pytest.param(command.spec, id=command.spec.name) for command in COMMANDS]


def events(decoder: CommandDecoder | ResponseDecoder, pieces: list[bytes]) -> list[Any]:
    found = []
    for piece in pieces:
        decoder.feed(piece)
        while (event := decoder.next()) is not None:
            found.append(event)
    return found


@pytest.mark.parametrize("word", RESP_COMMANDS)
@given(data=st.data(), width=WIDTHS, flags=FLAGS, pinned=st.booleans())
def test_command_survives_a_round_trip(
    word: CommandSpec, data: st.DataObject, width: Width, flags: int, pinned: bool
) -> None:
    command = data.draw(commands([word.command]))
    frame = write_command(command, width=width, flags=flags)
    decoder = CommandDecoder(width=width if pinned else None)
    assert events(decoder, data.draw(cuttings(frame))) == [Request(command, flags)]
    assert decoder.width == width
    assert decoder.pending == 0
    assert decoder.consumed == len(frame)


@given(
    conversation=st.lists(st.tuples(commands(), FLAGS), min_size=1, max_size=6),
    width=WIDTHS,
    pinned=st.booleans(),
    data=st.data(),
)
def test_pipeline_keeps_its_order(
    conversation: list[tuple[Command, int]], width: Width, pinned: bool, data: st.DataObject
) -> None:
    sent = b"".join(write_command(command, width=width, flags=flags) for command, flags in conversation)
    decoder = CommandDecoder(width=width if pinned else None)
    expected = [Request(command, flags) for command, flags in conversation]
    assert events(decoder, data.draw(cuttings(sent))) == expected
    assert decoder.consumed == len(sent)


@given(command=commands(), width=WIDTHS, flags=FLAGS)
def test_pieces_of_a_command_join_to_its_frame(command: Command, width: Width, flags: int) -> None:
    assert b"".join(command_parts(command, width=width, flags=flags)) == write_command(
        command, width=width, flags=flags
    )


@pytest.mark.parametrize("word", RESP_COMMANDS)
@given(data=st.data(), status_byte=st.sampled_from(StatusByte))
def test_reply_survives_a_round_trip(word: CommandSpec, data: st.DataObject, status_byte: StatusByte) -> None:
    said = data.draw(st.lists(replies(word), min_size=1, max_size=4))
    sent = b"".join(write_response(response_to(reply), status_byte=status_byte) for reply in said)
    decoder = ResponseDecoder()
    assert [reply_in(response, word) for response in events(decoder, data.draw(cuttings(sent)))] == said
    assert decoder.pending == 0
    assert decoder.consumed == len(sent)


@given(data=st.data(), status_byte=st.sampled_from(StatusByte))
def test_pieces_of_a_reply_join_to_its_frame(data: st.DataObject, status_byte: StatusByte) -> None:
    reply = data.draw(replies(data.draw(st.sampled_from(COMMANDS)).spec))
    assert b"".join(reply_parts(reply, status_byte)) == write_response(response_to(reply), status_byte=status_byte)


@pytest.mark.parametrize("reply", [OK, MISSING, b"5", Items((b"0", None))])
def test_reply_with_durability_memory_differs_by_a_flag_only(reply: Reply) -> None:
    """A client that ignores the flag decodes the same reply."""
    response = response_to(InMemory(reply))
    assert response == Response(response_to(reply).ok, response_to(reply).payload, response_to(reply).header | 0x08)


@given(strings=st.lists(st.none() | STRINGS, max_size=6))
def test_strings_of_a_payload_survive_a_round_trip(strings: list[bytes | None]) -> None:
    assert unpack_strings(pack_strings(strings)) == tuple(strings)


@given(strings=st.lists(st.none() | st.binary(max_size=5), min_size=1, max_size=4), data=st.data())
def test_malformed_payload_is_a_peer_error(strings: list[bytes | None], data: st.DataObject) -> None:
    payload = pack_strings(strings)
    shortened = payload[: data.draw(st.integers(0, len(payload) - 1))]
    try:
        found = unpack_strings(shortened)
    except PeerError:
        return
    assert len(found) < len(strings), "cut between two strings, the rest is whole"
    assert found == tuple(strings[: len(found)])


@pytest.mark.parametrize("status", [b"\0", b"\1", b"0", b"1"])
def test_all_four_status_bytes_are_decoded(status: bytes) -> None:
    decoder = ResponseDecoder()
    decoder.feed(b"\0" + status + b"\0\0\0\2hi")
    assert decoder.next() == Response(ok=status in b"\x000", payload=b"hi")


class TestFailuresOfOtherServers:
    """Failures with a code that this version does not know."""

    def _reply(self, payload: bytes, header: int) -> Any:
        return reply_in(Response(False, payload, header), COMMANDS[1].spec)

    @pytest.mark.parametrize(("header", "executed"), [(0x02, False), (0x04, None), (0x00, None)])
    def test_header_bits_tell_whether_the_command_was_executed(self, header: int, executed: bool | None) -> None:
        reply = self._reply(b"LATER not now", header)
        assert isinstance(reply, Failure)
        assert (reply.code.name, reply.code.executed, reply.text) == ("LATER", executed, "not now")

    def test_header_bits_override_the_table_of_codes(self) -> None:
        """A newer server may send FULL with an unknown outcome."""
        reply = self._reply(b"FULL half of it", 0x04)
        assert isinstance(reply, Failure)
        assert (reply.code.name, reply.code.executed) == ("FULL", None)

    def test_message_that_is_not_utf8_is_shown_escaped(self) -> None:
        reply = self._reply(b"\xff\xfe", 0)
        assert isinstance(reply, Failure)
        assert reply.code.executed is None

    def test_failure_without_the_missing_bit_is_an_error(self) -> None:
        assert isinstance(self._reply(b"Key not found", 0), Failure)


@pytest.mark.parametrize("payload", [b"", b"one", b"1.5", b"9" * 5_000])
def test_malformed_number_is_a_peer_error(payload: bytes) -> None:
    count = next(command.spec for command in COMMANDS if command.spec.name == "COUNT")
    with pytest.raises(PeerError):
        reply_in(Response(True, payload), count)

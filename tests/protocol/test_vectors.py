"""The shared vectors: frames that any implementation must decode and encode, byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest

from cairnkv.commands import BY_NAME, Command
from cairnkv.protocol import (
    CommandDecoder,
    Cursor,
    Request,
    Response,
    ResponseDecoder,
    StatusByte,
    parse_command,
    parse_response,
    write_command,
    write_response,
)
from cairnkv.protocol.native import Width
from cairnkv.session import Session, State
from cairnkv.store import LocalStore

_FILE = json.loads((Path(__file__).parent.parent / "vectors" / "wire-vectors.json").read_text())


def _named(kind: str, list_name: str = "vectors") -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in _FILE[list_name] if vector["kind"] == kind]


COMMAND_VECTORS = _named("command") + _named("command", "logins")
RESPONSE_VECTORS = _named("response")
BAD_VECTORS = [pytest.param(vector, id=vector["name"]) for vector in _FILE["bad"]]
CUTTINGS = [pytest.param(lambda data: [data], id="whole"), pytest.param(lambda data: _bytes_of(data), id="by bytes")]


def _bytes_of(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


def _command_of(vector: dict[str, Any]) -> Command:
    return BY_NAME[vector["command"]].command.from_arguments([bytes.fromhex(text) for text in vector["args_hex"]])


def _events(decoder: Any, pieces: list[bytes]) -> list[Any]:
    events = []
    for piece in pieces:
        decoder.feed(piece)
        while (event := decoder.next()) is not None:
            events.append(event)
    return events


def test_file_has_vectors_of_every_kind() -> None:
    assert len(COMMAND_VECTORS) >= 22
    assert len(RESPONSE_VECTORS) >= 7
    assert len(BAD_VECTORS) >= 14


@pytest.mark.parametrize("pinned", [False, True], ids=["auto width", "pinned width"])
@pytest.mark.parametrize("vector", COMMAND_VECTORS)
class TestCommands:
    def _decoder(self, vector: dict[str, Any], pinned: bool) -> CommandDecoder:
        return CommandDecoder(width=vector["width"] if pinned else None)

    def test_decode_whole(self, vector: dict[str, Any], pinned: bool) -> None:
        decoder = self._decoder(vector, pinned)
        assert _events(decoder, [bytes.fromhex(vector["hex"])]) == [Request(_command_of(vector))]
        assert (decoder.width, decoder.pending, decoder.broken) == (vector["width"], 0, False)

    def test_decode_bytewise_and_not_before_the_last_byte(self, vector: dict[str, Any], pinned: bool) -> None:
        decoder = self._decoder(vector, pinned)
        *but_last, last = _bytes_of(bytes.fromhex(vector["hex"]))
        assert _events(decoder, but_last) == []
        assert _events(decoder, [last]) == [Request(_command_of(vector))]

    @pytest.mark.parametrize("behind", COMMAND_VECTORS)
    def test_decode_before_another_frame(self, vector: dict[str, Any], pinned: bool, behind: dict[str, Any]) -> None:
        if behind["width"] != vector["width"]:
            behind = dict(behind, hex=write_command(_command_of(behind), width=vector["width"]).hex())
        data = bytes.fromhex(vector["hex"] + behind["hex"])
        expected = [Request(_command_of(vector)), Request(_command_of(behind))]
        assert _events(self._decoder(vector, pinned), [data]) == expected
        assert _events(self._decoder(vector, pinned), _bytes_of(data)) == expected


@pytest.mark.parametrize("vector", COMMAND_VECTORS)
def test_command_is_encoded_to_exactly_these_bytes(vector: dict[str, Any]) -> None:
    assert write_command(_command_of(vector), width=vector["width"]).hex() == vector["hex"]


@pytest.mark.parametrize("vector", COMMAND_VECTORS)
def test_command_is_parsed_by_parse_command(vector: dict[str, Any]) -> None:
    cursor = Cursor(bytes.fromhex(vector["hex"]))
    assert parse_command(cursor, width=vector["width"]) == _command_of(vector)
    assert cursor.position == len(cursor.data)


@pytest.mark.parametrize("vector", RESPONSE_VECTORS)
class TestResponses:
    @pytest.mark.parametrize("cutting", CUTTINGS)
    def test_decode_alone_and_before_another_frame(self, vector: dict[str, Any], cutting: Any) -> None:
        data = bytes.fromhex(vector["hex"])
        for times in (1, 2):
            events = _events(ResponseDecoder(), cutting(data * times))
            assert [(event.ok, event.payload.hex(), event.missing) for event in events] == [
                (vector["ok"], vector["payload_hex"], vector["missing"])
            ] * times

    def test_are_parsed_by_parse_response(self, vector: dict[str, Any]) -> None:
        cursor = Cursor(bytes.fromhex(vector["hex"] + "00"))
        response = parse_response(cursor)
        assert (response.ok, response.payload.hex()) == (vector["ok"], vector["payload_hex"])
        assert cursor.position == len(cursor.data) - 1

    def test_are_encoded_to_exactly_these_bytes(self, vector: dict[str, Any]) -> None:
        response = Response(vector["ok"], bytes.fromhex(vector["payload_hex"]), 0x01 if vector["missing"] else 0)
        assert write_response(response, status_byte=StatusByte[vector["status_byte"].upper()]).hex() == vector["hex"]


_PING = b"still there?"


def _conversation(vector: dict[str, Any], cutting: Any, *, pinned: bool) -> tuple[list[Response], Session, LocalStore]:
    """Return the replies to a bad frame and a PING after it."""
    width: Width = 4 if "four-byte" in vector["name"] else 2
    store = LocalStore(clock=lambda: 1)
    session = Session(store, wake=lambda: None, width=width if pinned else None)
    ping = write_command(BY_NAME["PING"].command.from_arguments([_PING]), width=width)
    answers = ResponseDecoder()
    for piece in cutting(bytes.fromhex(vector["hex"]) + ping):
        session.receive(piece)
        session.advance()
        answers.feed(b"".join(session.output()))
    return _events(answers, [b""]), session, store


@pytest.mark.parametrize("pinned", [False, True], ids=["auto width", "pinned width"])
@pytest.mark.parametrize("cutting", CUTTINGS)
@pytest.mark.parametrize("vector", BAD_VECTORS)
def test_bad_frame_gives_its_failure(vector: dict[str, Any], cutting: Any, pinned: bool) -> None:
    responses, session, store = _conversation(vector, cutting, pinned=pinned)
    outcome = vector["then"]
    if outcome.startswith("reply to PING, "):
        first = responses.pop(0)
        assert first == Response(True, b"hi")
        outcome = outcome.removeprefix("reply to PING, ")
    failure, *behind = responses
    assert not failure.ok
    assert not failure.missing
    if outcome == "failure reply, then close":
        assert behind == []
        assert session.state is State.DONE
        assert session.buffered == 0
    else:
        assert outcome == "failure reply, connection stays usable"
        assert behind == [Response(True, _PING)]
        assert session.state is State.OPEN
    assert store.database.count() == 0

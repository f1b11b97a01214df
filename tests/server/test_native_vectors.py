"""The vectors of the native protocol over a socket: commands, bad frames, both widths and status bytes."""

import dataclasses
import json
from pathlib import Path

import pytest

from cairnkv.commands import BY_NAME, ClearAll, Command, Get, Ping, Set
from cairnkv.engine import Database, apply
from cairnkv.protocol.native import Response, Width, response_to, write_command
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.raw import OK, PONG, RawClient, failed_with

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "wire-vectors.json").read_text())


@dataclasses.dataclass(frozen=True)
class CommandVector:
    """A command and its frame."""

    name: str
    frame: bytes
    width: Width
    command: Command


@dataclasses.dataclass(frozen=True)
class BadVector:
    """A refused frame: its code, the replies before it, and whether the connection closes."""

    name: str
    frame: bytes
    width: Width
    code: str
    first: list[Response]
    closes: bool


def _command_vectors() -> list[CommandVector]:
    return [
        CommandVector(
            one["name"],
            bytes.fromhex(one["hex"]),
            one["width"],
            BY_NAME[one["command"]].command.from_arguments([bytes.fromhex(text) for text in one["args_hex"]]),
        )
        for one in VECTORS["vectors"]
        if one["kind"] == "command"
    ]


CODES = {"unknown command": "BADFRAME", "empty key": "BADKEY", "flag we": "BADFLAG"}
OUTCOMES: dict[str, tuple[list[Response], bool]] = {
    "failure reply, then close": ([], True),
    "failure reply, connection stays usable": ([], False),
    "reply to PING, failure reply, connection stays usable": ([Response(True, b"hi")], False),
}


def _bad_vectors() -> list[BadVector]:
    found = []
    for one in VECTORS["bad"]:
        codes = [code for begin, code in CODES.items() if one["name"].startswith(begin)]
        code = "TOOBIG" if "over the limit" in one["name"] else codes[0]
        first, closes = OUTCOMES[one["then"]]
        width: Width = 4 if one["name"].endswith("four-byte") else 2
        found.append(BadVector(one["name"], bytes.fromhex(one["hex"]), width, code, first, closes))
    return found


COMMANDS = _command_vectors()
BAD = _bad_vectors()


def expected(commands: list[Command]) -> list[Response]:
    """Return the reply of an empty store."""
    database = Database()
    return [response_to(apply(database, command, 1)) for command in commands]


def test_file_has_vectors_of_both_widths() -> None:
    assert {vector.width for vector in COMMANDS} == {vector.width for vector in BAD} == {2, 4}


@pytest.mark.parametrize("pieces", ["whole", "byte by byte", "with its number's width pinned"])
def test_every_command_vector_alone(start_on_both: Start, pieces: str) -> None:
    servers: dict[Width, RunningServer]
    if pieces == "with its number's width pinned":
        servers = {2: start_on_both(command_width="2"), 4: start_on_both(command_width="4")}
    else:
        both = start_on_both()
        servers = {2: both, 4: both}
    for vector in COMMANDS:
        with RawClient(servers[vector.width].address) as client:
            if pieces == "byte by byte":
                client.send_in_pieces(vector.frame)
            else:
                client.send(vector.frame)
            assert client.reply() == expected([vector.command])[0], vector.name
            assert client.ask(Ping(b""), width=vector.width) == PONG
            assert client.ask(ClearAll(), width=vector.width) == OK


@pytest.mark.parametrize("piece", [1, 2, 7, 1_000_000])
@pytest.mark.parametrize("width", [2, 4])
def test_all_command_vectors_in_one_pipeline(start_on_both: Start, width: Width, piece: int) -> None:
    vectors = [vector for vector in COMMANDS if vector.width == width] * 2
    with RawClient(start_on_both().address) as client:
        client.send_in_pieces(b"".join(vector.frame for vector in vectors), piece)
        assert client.replies(len(vectors)) == expected([vector.command for vector in vectors])
        client.half_close()
        assert client.rest() == []


@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
@pytest.mark.parametrize("vector", BAD, ids=lambda vector: vector.name)
def test_every_bad_vector(start_on_both: Start, vector: BadVector, pieces: str) -> None:
    ping = write_command(Ping(b""), width=vector.width)
    with RawClient(start_on_both().address) as client, RawClient(start_on_both().address) as neighbour:
        if pieces == "whole":
            client.send(vector.frame + ping)
        else:
            client.send_in_pieces(vector.frame)
        assert client.replies(len(vector.first)) == vector.first
        failure = client.reply()
        assert failed_with(failure, vector.code)
        assert failure.header == 0x02, "it says that nothing was executed"
        if vector.closes:
            assert client.is_closed()
        elif pieces == "whole":
            assert client.reply() == PONG
        assert neighbour.ask(Ping(b"")) == PONG
        if not vector.closes:
            assert client.ask(Set(b"k", b"v"), width=vector.width) == OK
            assert client.ask(Get(b"k"), width=vector.width) == Response(True, b"v")


def test_bad_frame_changes_nothing(start: Start) -> None:
    server = start()
    for vector in BAD:
        with RawClient(server.address) as client:
            client.send(vector.frame)
            client.half_close()
            assert len(client.rest()) == len(vector.first) + 1, vector.name
    assert server.call(server.server.store.databases[0].count) == 0


RESPONSES = {(one["status_byte"], one["name"].removeprefix("binary ")): one["hex"] for one in VECTORS["vectors"][-7:]}


@pytest.mark.parametrize("status_byte", ["ascii", "binary"])
def test_replies_equal_the_response_vectors(start_on_both: Start, status_byte: str) -> None:
    with RawClient(start_on_both(status_byte=status_byte).address) as client:
        client.send_commands([Set(b"k", b"hello"), Get(b"nobody")])
        wanted = bytes.fromhex(RESPONSES[status_byte, "ok"] + RESPONSES[status_byte, "missing"])
        client.half_close()
        received = b""
        while data := client.socket.recv(4096):
            received += data
        assert received == wanted


def test_failure_with_binary_status_has_status_byte_1(start: Start) -> None:
    with RawClient(start(status_byte="binary").address) as client:
        assert client.ask(Ping(b"")) == PONG
        client.send(write_command(Get(b"")))
        client.half_close()
        assert client.socket.recv(2) == b"\x02\x01"


@pytest.mark.parametrize("width", [2, 4])
def test_pinned_width_is_not_changed_by_frames(start: Start, width: Width) -> None:
    """With a pinned width the two first frames that `auto` misreads are read correctly."""
    with RawClient(start(command_width=str(width)).address) as client:
        assert failed_with(client.ask(Get(b""), width=width), "BADKEY")
        assert client.ask(Ping(b""), width=width) == PONG
    with RawClient(start(command_width=str(width)).address) as client:
        client.send(write_command(Get(b"k" * 65_536), width=width))
        assert failed_with(client.reply(), "TOOBIG")
        assert client.is_closed()


def test_four_byte_get_of_an_empty_key_as_first_frame_fails(start: Start) -> None:
    with RawClient(start().address) as client:
        client.send(write_command(Get(b""), width=4) + write_command(Ping(b""), width=4))
        assert failed_with(client.reply(), "BADFRAME")
        assert client.is_closed()


def test_malformed_frame_fails_and_closes(start: Start) -> None:
    server = start()
    for stranger in (b'{"method": "get", "key": "k"}', b"\x16\x16\x16\x16", b"\xff\xfe\xfd"):
        with RawClient(server.address) as client:
            client.send(stranger + bytes(64))
            assert not client.reply().ok
        with RawClient(server.address) as client:
            assert client.ask(Ping(b"")) == PONG

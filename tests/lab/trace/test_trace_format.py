"""The output of `cairn trace`: each frame has a heading and a line per field, aligned, escaped and abbreviated."""

import json
from pathlib import Path
from typing import Any

import pytest

from cairnkv.commands import Auth, Get, GetMany, Set
from cairnkv.lab.trace.trace_format import DETAILED_FIELDS, RAW_LINES, ConnectionTrace, Line, Side
from cairnkv.protocol.native import Response, write_command, write_response

VECTORS: dict[str, Any] = json.loads(Path(__file__).parents[2].joinpath("vectors", "wire-vectors.json").read_text())


def texts(lines: list[Line]) -> list[str]:
    return list(map(str, lines))


def said(side: Side, data: bytes, **options: int) -> list[str]:
    return texts(list(ConnectionTrace("#1", **options).received(side, data, 0.5)))


def test_output_equals_that_on_the_protocol_page() -> None:
    conversation = ConnectionTrace("#1")
    lines = [
        *conversation.received(Side.CLIENT, write_command(Set(b"greeting", b"hello")), 0.001),
        *conversation.received(Side.SERVER, write_response(Response(True, b"OK")), 0.002),
        *conversation.received(Side.CLIENT, write_command(Get(b"other"), flags=1), 0.003),
        *conversation.received(Side.SERVER, write_response(Response(False, b"Key not found", 1)), 0.004),
        *conversation.closed(Side.CLIENT, 0.005),
        *conversation.closed(Side.SERVER, 0.006),
    ]
    assert "\n".join(texts(lines)) == (
        """\
#1 client, 0.001 s: SET, 24 bytes
    header        00                       no flags
    command       00 01                    1 = SET
    key length    00 00 00 08              8 bytes
    key           67 72 65 65 74 69 6e 67  greeting
    value length  00 00 00 05              5 bytes
    value         68 65 6c 6c 6f           hello
#1 server, 0.002 s: success, to SET, 8 bytes
    header   00           no flags
    status   30           success, '0' in ASCII
    length   00 00 00 02  2 bytes
    payload  4f 4b        OK
#1 client, 0.003 s: GET, 12 bytes
    header      01              local read
    command     00 00           0 = GET
    key length  00 00 00 05     5 bytes
    key         6f 74 68 65 72  other
#1 server, 0.004 s: not found, to GET, 19 bytes
    header   01                                      missing
    status   31                                      failure, '1' in ASCII
    length   00 00 00 0d                             13 bytes
    message  4b 65 79 20 6e 6f 74 20 66 6f 75 6e 64  Key not found
#1 client, 0.005 s: closed its side
#1 server, 0.006 s: closed its side"""
    )


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["name"]) for vector in VECTORS["vectors"]])
def test_every_byte_of_every_vector_is_printed(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["hex"])
    side = Side.SERVER if vector["kind"] == "response" else Side.CLIENT
    heading, *fields = said(side, frame, shown_bytes=1_000)
    title = vector["command"] if side is Side.CLIENT else "success" if vector["ok"] else None
    if title is None:
        title = "not found" if vector["missing"] else "failure"
    assert heading == f"#1 {side.value}, 0.500 s: {title}, {len(frame):,} bytes"
    # The table has three columns, of which the second is the frame.
    names = [line[4:].split("  ", 1)[0] for line in fields]
    digits = [line[4:].removeprefix(name).strip().split("  ", 1)[0] for line, name in zip(fields, names, strict=True)]
    assert bytes.fromhex("".join(digits)) == frame
    assert len({line.index(cell) for line, cell in zip(fields, digits, strict=True)}) == 1


def test_long_values_are_abbreviated() -> None:
    lines = said(Side.CLIENT, write_command(Set(b"k", b"v" * 1_000)))
    assert lines[-1].strip() == f"value         {'76 ' * 16}…  {'v' * 64} … and 936 bytes more"
    lines = said(Side.CLIENT, write_command(Set(b"k", b"\xff" * 1_000)))
    assert lines[-1].strip() == "value         " + "ff " * 16 + "…  " + "\\xff" * 16 + " … and 984 bytes more"
    lines = said(Side.CLIENT, write_command(GetMany(tuple(b"%d" % number for number in range(500)))))
    assert len(lines) == 1 + DETAILED_FIELDS + 1
    assert lines[-1] == f"    and {1_003 - DETAILED_FIELDS} more fields"


def test_output_is_escaped() -> None:
    hostile = b"\x1b]0;title\x07\x9b2J\r\n"
    for line in said(Side.CLIENT, write_command(Set(hostile, hostile))) + said(Side.CLIENT, b"\0\0\x0f" + hostile):
        assert line.isprintable()


def test_malformed_frame_and_all_bytes_after_it_are_raw() -> None:
    conversation = ConnectionTrace("#1")
    lines = texts(list(conversation.received(Side.CLIENT, bytes.fromhex("00 000f 61626364"), 0)))
    assert lines == [
        "#1 client, 0.000 s: command 15, 3 bytes, not finished",
        "    header   00     no flags",
        "    command  00 0f  15 = unknown",
        "#1 client, 0.000 s: 4 bytes in no frame: command 15 is not assigned, so the end of its frame is unknown",
        "    61 62 63 64                                      abcd",
    ]
    lines = texts(list(conversation.received(Side.CLIENT, b"x" * 1_000, 1)))
    assert lines[0] == "#1 client, 1.000 s: 1,000 bytes"
    assert len(lines) == 1 + RAW_LINES + 1
    assert lines[-1] == f"    and {1_000 - 16 * RAW_LINES} bytes more"
    # The server's side goes on: it says what was wrong.
    (heading, *_) = texts(list(conversation.received(Side.SERVER, write_response(Response(False, b"BADFRAME", 2)), 1)))
    assert heading == "#1 server, 1.000 s: failure, 14 bytes"


def test_unfinished_frame_is_shown_at_the_end() -> None:
    conversation = ConnectionTrace("#1")
    assert list(conversation.received(Side.CLIENT, write_command(Get(b"greeting"))[:-3], 0)) == []
    heading, *_, key, closed = texts(list(conversation.closed(Side.CLIENT, 1)))
    assert heading == "#1 client, 1.000 s: GET, 12 bytes, not finished"
    assert key.split() == ["key", "67", "72", "65", "65", "74", "greet"]
    assert closed == "#1 client, 1.000 s: closed its side"


@pytest.mark.parametrize(
    "data",
    [
        write_command(Auth(b"app", b"s3cret")),
        b"AUTH s3cret\r\n",
        b"auth app s3cret\r\n",
        b"HELLO 3 AUTH app s3cret\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$6\r\ns3cret\r\n",
        b"*3\r\n$4\r\nauth\r\n$3\r\napp\r\n$6\r\ns3cret\r\n",
        b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$3\r\napp\r\n$6\r\ns3cret\r\n",
        b"*4\r\n$3\r\nACL\r\n$7\r\nSETUSER\r\n$3\r\napp\r\n$7\r\n>s3cret\r\n",
        b"*4\r\n$6\r\nCONFIG\r\n$3\r\nset\r\n$11\r\nrequirepass\r\n$6\r\ns3cret\r\n",
        b"*6\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$7\r\ntimeout\r\n$1\r\n3\r\n$11\r\nrequirepass\r\n$6\r\ns3cret\r\n",
    ],
)
def test_secrets_are_not_shown(data: bytes) -> None:
    at = data.index(b"s3cret")
    for pieces in ([data], [data[: at + 3], data[at + 3 :]], [data[: at + 6]]):
        conversation = ConnectionTrace("#1")
        lines = [line for piece in pieces for line in conversation.received(Side.CLIENT, piece, 0.5)]
        shown = "\n".join(texts([*lines, *conversation.closed(Side.CLIENT, 0.5)]))
        assert "not shown" in shown
        assert "s3c" not in shown
        assert b"s3c".hex(" ") not in shown


def test_length_of_a_secret_and_its_user_are_shown() -> None:
    assert said(Side.CLIENT, write_command(Auth(b"app", b"s3cret"))) == [
        "#1 client, 0.500 s: AUTH, 24 bytes",
        "    header         00           no flags",
        "    command        00 2c        44 = AUTH",
        "    arguments      00 00 00 02  2 arguments",
        "    user length    00 00 00 03  3 bytes",
        "    user           61 70 70     app",
        "    secret length  00 00 00 06  6 bytes",
        "    secret         …            6 bytes, not shown",
    ]

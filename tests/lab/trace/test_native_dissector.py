"""The dissector of the native protocol: the named fields of a frame are all of its bytes, in any pieces."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import COMMANDS, CommandSpec, Get, GetMany, Ping, Set, SetMany, SetWith
from cairnkv.commands.queue_vocabulary import ChoiceKind, FrameKind
from cairnkv.lab.trace import native_dissector
from cairnkv.lab.trace.native_dissector import (
    CommandDissector,
    Dissector,
    Field,
    Frame,
    Piece,
    Raw,
    ResponseDissector,
)
from cairnkv.limits import ARGUMENTS_MAX, KEY_MAX
from cairnkv.protocol.native import Response as Answer
from cairnkv.protocol.native import Width, pack_strings, write_command, write_response

VECTORS: dict[str, Any] = json.loads(Path(__file__).parents[2].joinpath("vectors", "wire-vectors.json").read_text())
GOOD = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["vectors"]]
BAD = [pytest.param(vector, id=vector["name"]) for vector in VECTORS["bad"]]

NEXT = {"command": bytes.fromhex("00 0003 00000000"), "response": bytes.fromhex("00 30 00000002 4f4b")}
NEXT_4 = bytes.fromhex("00 00000003 00000000")


def command_fields(frame: bytes, *, width: Width | None = None) -> list[Field]:
    dissector = CommandDissector(kept_bytes=len(frame), kept_fields=len(frame))
    dissector.width = width
    return all_fields(dissector, frame)


def response_fields(frame: bytes) -> list[Field]:
    return all_fields(ResponseDissector(kept_bytes=len(frame), kept_fields=len(frame)), frame)


def all_fields(dissector: Dissector[CommandSpec | None], data: bytes) -> list[Field]:
    """Return the fields of complete frames, and the bytes of others."""
    fields: list[Field] = []
    for piece in dissector.feed(data):
        fields += [Field("?", piece.data, len(piece.data), piece.why)] if isinstance(piece, Raw) else piece.fields
    rest = dissector.finish()
    return fields if rest is None else [*fields, *rest.fields]


def fields_of(vector: dict[str, Any]) -> list[Field]:
    frame = bytes.fromhex(vector["hex"])
    return response_fields(frame) if vector.get("kind") == "response" else command_fields(frame)


def joined(fields: list[Field] | tuple[Field, ...]) -> bytes:
    return b"".join(field.data for field in fields)


@pytest.mark.parametrize("vector", [*GOOD, *BAD])
def test_joined_fields_are_the_frame(vector: dict[str, Any]) -> None:
    assert joined(fields_of(vector)).hex() == vector["hex"]


@pytest.mark.parametrize("vector", GOOD)
def test_fields_have_the_names_of_the_protocol_page(vector: dict[str, Any]) -> None:
    fields = [(field.name, len(field.data)) for field in fields_of(vector)]
    if vector["kind"] == "response":
        size = len(vector["payload_hex"]) // 2
        expected = [("header", 1), ("status", 1), ("length", 4), ("payload" if vector["ok"] else "message", size)]
    else:
        names = {"SET": ["key", "value"], "PING": ["text"]}.get(vector["command"], ["key"])
        expected = [("header", 1), ("command", vector["width"])]
        for name, argument in zip(names, vector["args_hex"], strict=True):
            expected += [(f"{name} length", 4), (name, len(argument) // 2)]
    assert fields == [field for field in expected if field[1]]


@pytest.mark.parametrize("vector", GOOD)
def test_frame_is_found_whole_bytewise_and_before_another(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["hex"])
    behind = NEXT_4 if vector.get("width") == 4 else NEXT[vector["kind"]]
    make = ResponseDissector if vector["kind"] == "response" else CommandDissector
    (whole,) = make(kept_bytes=1_000).feed(frame)
    assert isinstance(whole, Frame)
    assert whole.whole
    assert whole.size == len(frame)
    dissector = make(kept_bytes=1_000)
    pieces: list[Piece] = []
    for byte in frame + behind:
        pieces += dissector.feed(bytes((byte,)))
    assert pieces[0] == whole
    assert len(pieces) == 2
    assert make(kept_bytes=1_000).feed(frame + behind) == pieces
    assert dissector.finish() is None


@pytest.mark.parametrize("vector", BAD)
def test_bytes_from_an_undelimited_frame_on_are_raw(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["hex"])
    dissector = CommandDissector()
    pieces = dissector.feed(frame)
    undelimited = "not assigned" in vector["why"] or "key length over" in vector["why"]
    assert any(isinstance(piece, Raw) and bool(piece.why) for piece in pieces) is undelimited
    if undelimited:
        assert dissector.feed(b"more") == [Raw(b"more")]
        assert dissector.finish() is None


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(1, 9), min_size=1), server=st.booleans())
def test_all_bytes_of_any_input_are_shown(data: bytes, cuts: list[int], server: bool) -> None:
    """The input arrives in any pieces. The dissector loses no byte, adds none, and raises nothing."""

    def shown(pieces: list[Piece]) -> bytes:
        return b"".join(piece.data if isinstance(piece, Raw) else joined(piece.fields) for piece in pieces)

    make = ResponseDissector if server else CommandDissector
    dissector = make(kept_bytes=1_000, kept_fields=1_000)
    pieces: list[Piece] = []
    at, turn = 0, 0
    while at < len(data):
        pieces += dissector.feed(data[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
    rest = dissector.finish()
    assert shown([*pieces, *([rest] if rest else [])]) == data
    other = make(kept_bytes=1_000, kept_fields=1_000)
    frames = [piece for piece in other.feed(data) if isinstance(piece, Frame)]
    assert frames == [piece for piece in pieces if isinstance(piece, Frame)]


EXAMPLES: dict[type, Callable[[Any], bytes]] = {
    ChoiceKind: lambda kind: kind.choices[0],
    FrameKind: lambda kind: kind.write(Get(b"k")),
}
"""Strings of the kinds to which 1 does not belong."""


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.spec.name)
def test_every_registered_command_has_named_fields(command: type[Get], width: Width) -> None:
    word = command.spec
    kinds = [kind for _, slot in word.fields if not slot.keyword for kind in slot.kinds]
    strings = [EXAMPLES.get(type(kind), lambda _: b"1")(kind) for kind in kinds]
    example = command.from_arguments(strings)
    frame = write_command(example, width=width)
    fields = command_fields(frame, width=width)
    assert joined(fields) == frame
    names = [kind.placeholder for _, slot in word.fields if not slot.keyword for kind in slot.kinds]
    assert [field.name for field in fields if not field.meaning] == names
    assert fields[1].meaning == f"{word.number} = {word.name}"


def test_option_fields_name_their_values() -> None:
    frame = write_command(SetWith(b"k", b"TTL", ttl=5, if_equals=b"TTL"))
    fields = [(field.name, field.data) for field in command_fields(frame) if not field.meaning]
    assert fields == [
        ("key", b"k"),
        ("value", b"TTL"),
        ("option", b"TTL"),
        ("milliseconds", b"5"),
        ("option", b"IFEQUALS"),
        ("value", b"TTL"),
    ]


def test_keys_and_values_are_named_alternately() -> None:
    frame = write_command(SetMany(0, ((b"a", b"1"), (b"b", b"2"))))
    names = [field.name for field in command_fields(frame) if not field.meaning]
    assert names == ["milliseconds-or-0", "key", "value", "key", "value"]


def test_unknown_command_is_delimited() -> None:
    frame = bytes.fromhex("00 7fff") + (2).to_bytes(4, "big") + pack_strings([b"a", b"b"])
    (piece, ping) = CommandDissector().feed(frame + write_command(Ping(b"")))
    assert isinstance(piece, Frame)
    assert piece.title == "command 32767"
    assert [field.name for field in piece.fields if not field.meaning] == ["argument 1", "argument 2"]
    assert isinstance(ping, Frame)
    assert ping.title == "PING"


def test_replies_name_their_command() -> None:
    commands = CommandDissector()
    responses = ResponseDissector(commands)
    commands.feed(write_command(Get(b"k")) + write_command(GetMany((b"a", b"b"))) + write_command(Ping(b"")))
    first, second, third, unasked = responses.feed(
        write_response(Answer(False, b"Key not found", 1))
        + write_response(Answer(True, pack_strings([b"x", None])))
        + write_response(Answer(True, b"PONG"))
        + write_response(Answer(False, b"TIMEOUT", 2))
    )
    frames = [first, second, third, unasked]
    assert [frame.title for frame in frames if isinstance(frame, Frame)] == [
        "not found, to GET",
        "success, to GET_MANY",
        "success, to PING",
        "failure",
    ]
    assert isinstance(second, Frame)
    assert [(field.name, field.meaning or field.data) for field in second.fields[3:]] == [
        ("item 1 length", "1 byte"),
        ("item 1", b"x"),
        ("item 2 length", "the key does not exist"),
    ]


def test_malformed_items_are_shown_raw() -> None:
    commands = CommandDissector()
    for payload in (b"\x00\x00\x00\x09ab", b"\x00\x00\x00\x01ab", b"\x00\x00"):
        commands.feed(write_command(GetMany((b"a",))))
        (frame,) = ResponseDissector(commands).feed(write_response(Answer(True, payload)))
        assert isinstance(frame, Frame)
        assert joined(frame.fields)[6:] == payload


def test_replies_are_explained_while_their_commands_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_dissector, "AWAITED_MAX", 3)
    ping, pong = write_command(Ping(b"")), write_response(Answer(True, b"PONG"))
    for count, title in ((3, "success, to PING"), (4, "success")):
        commands = CommandDissector()
        commands.feed(ping * count)
        (frame,) = ResponseDissector(commands).feed(pong)
        assert isinstance(frame, Frame)
        assert frame.title == title


def test_only_the_start_of_long_strings_and_many_fields_is_kept() -> None:
    dissector = CommandDissector(kept_bytes=10, kept_fields=8)
    frame = write_command(Set(b"k", b"v" * 5_000_000))
    pieces: list[Piece] = []
    for at in range(0, len(frame), 65_536):
        pieces += dissector.feed(frame[at : at + 65_536])
        assert len(dissector._buffer) == 0
    (piece,) = pieces
    assert isinstance(piece, Frame)
    assert piece.size == len(frame)
    assert piece.fields[-1] == Field("value", b"v" * 10, 5_000_000)
    (many,) = dissector.feed(write_command(GetMany(tuple(b"%d" % number for number in range(1_000)))))
    assert isinstance(many, Frame)
    assert len(many.fields) == 8
    assert many.omitted == 2 * 1_000 + 3 - 8


@pytest.mark.parametrize(
    ("start", "fits", "over", "why"),
    [
        ("00 0002", KEY_MAX, KEY_MAX + 1, "65,536 bytes exceeds"),
        ("00 0015", ARGUMENTS_MAX, ARGUMENTS_MAX + 1, "1,048,577 arguments exceed"),
    ],
)
def test_lengths_over_the_limit_are_not_awaited(start: str, fits: int, over: int, why: str) -> None:
    assert CommandDissector().feed(bytes.fromhex(start) + fits.to_bytes(4, "big")) == []
    _, raw = CommandDissector().feed(bytes.fromhex(start) + over.to_bytes(4, "big"))
    assert isinstance(raw, Raw)
    assert why in raw.why


@pytest.mark.parametrize(
    ("header", "meaning"),
    [
        (0, "no flags"),
        (1, "local read"),
        (3, "local read, memory is enough"),
        (0x81, "local read, unknown: 0x80"),
    ],
)
def test_flags_have_names(header: int, meaning: str) -> None:
    frame = bytes((header,)) + write_command(Ping(b""))[1:]
    assert command_fields(frame)[0].meaning == meaning


def test_reply_with_durability_memory_is_labelled() -> None:
    header, *_ = response_fields(write_response(Answer(True, b"OK", 0x08)))
    assert (header.name, header.meaning) == ("header", "memory only")


def test_frame_cut_off_by_the_end_is_shown_partly() -> None:
    frame = write_command(Set(b"key", b"value"))
    for cut in range(1, len(frame)):
        dissector = CommandDissector()
        assert dissector.feed(frame[:cut]) == []
        rest = dissector.finish()
        assert rest is not None
        assert not rest.whole
        assert joined(rest.fields) == frame[:cut]

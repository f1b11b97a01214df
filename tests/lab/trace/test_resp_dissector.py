"""The dissector of the Redis protocol: fields are all bytes of a frame, in any pieces, and replies have commands."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.lab.trace import resp_dissector
from cairnkv.lab.trace.native_dissector import Field, Frame, Piece, Raw
from cairnkv.lab.trace.resp_dissector import RedisCommandDissector, RedisReplyDissector
from cairnkv.lab.trace.trace_format import ConnectionTrace, Side
from cairnkv.limits import REDIS_LINE_MAX


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def lines_of(*said: tuple[Side, bytes]) -> list[str]:
    """Return the printed lines of a conversation."""
    conversation = ConnectionTrace("#1")
    return [str(line) for side, data in said for line in conversation.received(side, data, 0.5)]


def headings(*said: tuple[Side, bytes]) -> list[str]:
    """Return the titles of a conversation's frames."""
    return [line.partition(": ")[2] for line in lines_of(*said) if line.startswith("#")]


CLIENT, SERVER = Side.CLIENT, Side.SERVER


def test_connection_is_shown_field_by_field() -> None:
    lines = lines_of((CLIENT, command(b"set", b"greeting", b"hi")), (SERVER, b"+OK\r\n"))
    assert "\n".join(lines) == (
        """\
#1 client, 0.500 s: SET, 35 bytes
    array              2a 33 0d 0a                    3 strings
    command length     24 33 0d 0a                    3 bytes
    command            73 65 74 0d 0a                 set
    argument 1 length  24 38 0d 0a                    8 bytes
    argument 1         67 72 65 65 74 69 6e 67 0d 0a  greeting
    argument 2 length  24 32 0d 0a                    2 bytes
    argument 2         68 69 0d 0a                    hi
#1 server, 0.500 s: status, to SET, 5 bytes
    status  2b 4f 4b 0d 0a  OK"""
    )


@pytest.mark.parametrize(
    ("reply", "title", "names"),
    [
        (b"+OK\r\n", "status, to GET", ["status"]),
        (b"-ERR no\r\n", "error, to GET", ["error"]),
        (b":42\r\n", "integer, to GET", ["integer"]),
        (b"$2\r\nhi\r\n", "string, to GET", ["string length", "string"]),
        (b"$0\r\n\r\n", "string, to GET", ["string length", "string"]),
        (b"$-1\r\n", "null, to GET", ["string length"]),
        (b"*-1\r\n", "null, to GET", ["array"]),
        (b"_\r\n", "null, to GET", ["null"]),
        (b"#t\r\n", "boolean, to GET", ["boolean"]),
        (b",1.5\r\n", "double, to GET", ["double"]),
        (b"(123456789012345678901\r\n", "big number, to GET", ["big number"]),
        (b"!5\r\nERR x\r\n", "error, to GET", ["error length", "error"]),
        (b"=6\r\ntxt:hi\r\n", "verbatim string, to GET", ["verbatim string length", "verbatim string"]),
        (b"*2\r\n:1\r\n$1\r\na\r\n", "array, to GET", ["array", "item 1: integer", "item 2 length", "item 2: string"]),
        (b"~1\r\n:1\r\n", "set, to GET", ["set", "item 1: integer"]),
        (b"%1\r\n+a\r\n:1\r\n", "map, to GET", ["map", "key 1: status", "value 1: integer"]),
        (b"*1\r\n*1\r\n:1\r\n", "array, to GET", ["array", "item 1: array", "item 1.1: integer"]),
    ],
)
def test_replies_are_named_by_their_kind(reply: bytes, title: str, names: list[str]) -> None:
    commands = RedisCommandDissector()
    commands.feed(command(b"GET", b"k"))
    (frame,) = RedisReplyDissector(commands).feed(reply)
    assert isinstance(frame, Frame)
    assert (frame.title, [field.name for field in frame.fields], frame.size) == (title, names, len(reply))


def test_inline_commands_are_commands() -> None:
    said = headings((CLIENT, b'PING\r\nset k "a b"\n\r\nGET k\r\n'), (SERVER, b"+PONG\r\n+OK\r\n$1\r\nv\r\n"))
    assert said == [
        "PING, 6 bytes",
        "SET, 12 bytes",
        "an empty line, 2 bytes",
        "GET, 7 bytes",
        "status, to PING, 7 bytes",
        "status, to SET, 5 bytes",
        "string, to GET, 7 bytes",
    ]


def test_client_may_start_with_an_empty_line() -> None:
    assert headings((CLIENT, b"\r\n*1\r\n$4\r\nPING\r\n")) == ["an empty line, 2 bytes", "PING, 14 bytes"]


def test_channel_messages_belong_to_no_command() -> None:
    said = headings(
        (CLIENT, command(b"SUBSCRIBE", b"a", b"b") + command(b"PING")),
        (SERVER, b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"),
        (SERVER, b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
    )
    titles = [heading.rpartition(", ")[0] for heading in said]
    assert titles == ["SUBSCRIBE", "PING", "subscribe", "subscribe", "message", "array, to PING"]


def test_resp3_push_belongs_to_no_command() -> None:
    said = headings((CLIENT, command(b"GET", b"k")), (SERVER, b">2\r\n+invalidate\r\n_\r\n_\r\n"))
    assert [heading.rpartition(", ")[0] for heading in said] == ["GET", "push", "null, to GET"]


def test_attribute_belongs_to_the_next_reply() -> None:
    (frame,) = RedisReplyDissector().feed(b"|1\r\n+ttl\r\n:5\r\n$1\r\nv\r\n")
    assert isinstance(frame, Frame)
    assert [field.name for field in frame.fields][-2:] == ["string length", "string"]


def test_replies_are_not_paired_after_client_reply_off() -> None:
    said = headings((CLIENT, command(b"CLIENT", b"REPLY", b"SKIP") + command(b"GET", b"k")), (SERVER, b":1\r\n"))
    assert said[-1] == "integer, 4 bytes"


def test_refused_connection_starts_with_a_reply() -> None:
    assert headings((SERVER, b"-ERR max number of clients reached\r\n")) == ["error, 36 bytes"]


@pytest.mark.parametrize(
    "data",
    [
        b"*x\r\n",
        b"*-2\r\n",
        b"*1\r\n+x\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$99999999999\r\n",
        b"PING " + b"x" * (REDIS_LINE_MAX + 1),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_undelimited_bytes_are_shown_raw(data: bytes) -> None:
    pieces = RedisCommandDissector().feed(data)
    assert isinstance(pieces[-1], Raw)
    assert pieces[-1].why
    assert RedisCommandDissector().feed(command(b"GET", b"k"))[0].title == "GET"  # type: ignore[union-attr]


@pytest.mark.parametrize("data", [b"?\r\n", b"*1\r\n?\r\n", b"$x\r\n", b"*1\r\n" * (resp_dissector.NESTING_MAX + 2)])
def test_undelimited_reply_is_shown_raw(data: bytes) -> None:
    assert isinstance(RedisReplyDissector().feed(data)[-1], Raw)


texts = st.binary(max_size=80)
commands = st.lists(texts, min_size=1, max_size=4).map(lambda words: command(*words))
lines = st.sampled_from([b"PING\r\n", b"get a\n", b"\r\n", b"*0\r\n"])
scalars = st.one_of(
    st.sampled_from([b"+OK\r\n", b":1\r\n", b"_\r\n", b"$-1\r\n", b"*-1\r\n", b"#f\r\n", b"-ERR x\r\n", b",1\r\n"]),
    texts.map(lambda text: b"$%d\r\n%s\r\n" % (len(text), text)),
)
replies = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: b"*%d\r\n" % len(items) + b"".join(items)),
        st.lists(st.tuples(inner, inner), max_size=2).map(
            lambda pairs: b"%%%d\r\n" % len(pairs) + b"".join(key + value for key, value in pairs)
        ),
    ),
    max_leaves=6,
)


def fields(pieces: list[Piece]) -> Iterator[Field]:
    for piece in pieces:
        assert isinstance(piece, Frame)
        yield from piece.fields


@given(data=st.lists(st.one_of(commands, lines), max_size=5).map(b"".join), cuts=st.lists(st.integers(0, 600)))
def test_commands_are_equal_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    whole = RedisCommandDissector(kept_bytes=len(data) + 1).feed(data)
    assert b"".join(field.data for field in fields(whole)) == data
    assert _cut(RedisCommandDissector(kept_bytes=len(data) + 1), data, cuts) == whole


@given(data=st.lists(replies, max_size=5).map(b"".join), cuts=st.lists(st.integers(0, 600)))
def test_replies_are_equal_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    whole = RedisReplyDissector(kept_bytes=len(data) + 1).feed(data)
    assert b"".join(field.data for field in fields(whole)) == data
    assert _cut(RedisReplyDissector(kept_bytes=len(data) + 1), data, cuts) == whole


def _cut(dissector: RedisCommandDissector | RedisReplyDissector, data: bytes, cuts: list[int]) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for cut in [*sorted({min(cut, len(data)) for cut in cuts}), len(data)]:
        pieces += dissector.feed(data[at:cut])
        at = cut
    assert dissector.finish() is None
    return pieces

"""Replies of the Redis protocol: each kind in both versions, encoded and decoded."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.limits import INTEGER_MAX, INTEGER_MIN
from cairnkv.protocol.resp import (
    NULL_ARRAY,
    OK,
    Error,
    Push,
    Resp,
    SetOf,
    Simple,
    TooLong,
    Value,
    Verbatim,
    array_head,
    bulk_strings,
    double_text,
    encode_parts,
)
from tests.support.resp import ReplyDecoder, decode
from tests.support.strategies import cut

LONG = 5_000


def encode(value: Value, protocol: Resp) -> bytes:
    return b"".join(encode_parts(value, protocol))


@pytest.mark.parametrize(
    ("value", "second", "third"),
    [
        (OK, b"+OK\r\n", b"+OK\r\n"),
        (Simple("PONG"), b"+PONG\r\n", b"+PONG\r\n"),
        (Error("ERR syntax error"), b"-ERR syntax error\r\n", b"-ERR syntax error\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        (NULL_ARRAY, b"*-1\r\n", b"_\r\n"),
        (True, b":1\r\n", b"#t\r\n"),
        (False, b":0\r\n", b"#f\r\n"),
        (0, b":0\r\n", b":0\r\n"),
        (-7, b":-7\r\n", b":-7\r\n"),
        (INTEGER_MAX, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
        (INTEGER_MIN, b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
        (INTEGER_MAX + 1, b"$19\r\n9223372036854775808\r\n", b"(9223372036854775808\r\n"),
        (INTEGER_MIN - 1, b"$20\r\n-9223372036854775809\r\n", b"(-9223372036854775809\r\n"),
        (0.5, b"$3\r\n0.5\r\n", b",0.5\r\n"),
        (math.inf, b"$3\r\ninf\r\n", b",inf\r\n"),
        (-math.inf, b"$4\r\n-inf\r\n", b",-inf\r\n"),
        (math.nan, b"$3\r\nnan\r\n", b",nan\r\n"),
        (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
        (Verbatim(b"some\r\ntext"), b"$10\r\nsome\r\ntext\r\n", b"=14\r\ntxt:some\r\ntext\r\n"),
        ([], b"*0\r\n", b"*0\r\n"),
        (
            [1, [b"a"], (None,)],
            b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n*1\r\n$-1\r\n",
            b"*3\r\n:1\r\n*1\r\n$1\r\na\r\n*1\r\n_\r\n",
        ),
        ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
        ({}, b"*0\r\n", b"%0\r\n"),
        (SetOf((2, 1)), b"*2\r\n:2\r\n:1\r\n", b"~2\r\n:2\r\n:1\r\n"),
        (Push((b"pong", b"")), b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", b">2\r\n$4\r\npong\r\n$0\r\n\r\n"),
    ],
    ids=repr,
)
def test_encoding_of_a_value(value: Value, second: bytes, third: bytes) -> None:
    assert encode(value, 2) == second
    assert encode(value, 3) == third


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("said", [Simple, Error])
def test_simple_text_contains_no_line_end(said: Any, protocol: Resp) -> None:
    assert decode(encode(said("one\r\ntwo\nthree\r"), protocol)) == said("one  two three ")


@pytest.mark.parametrize("protocol", [2, 3])
def test_error_may_quote_bytes_that_are_not_utf8(protocol: Resp) -> None:
    quoting = Error("ERR unknown command '" + b"\xff\xc3\xa9".decode("utf-8", "surrogateescape") + "'")
    assert encode(quoting, protocol) == b"-ERR unknown command '\xff\xc3\xa9'\r\n"


def test_code_of_an_error() -> None:
    assert Error("NOAUTH Authentication required.").code == "NOAUTH"
    assert Error("EXECABORT").code == "EXECABORT"


@pytest.mark.parametrize("nothing", ["text", range(3), bytearray(b"x"), [b"fine", {1, 2}]], ids=repr)
def test_unsupported_values_are_refused(nothing: Any) -> None:
    with pytest.raises(TypeError, match="not a value of the Redis protocol"):
        encode_parts(nothing, 3)


# -- doubles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (3.0, "3"),
        (-1e15, "-1000000000000000"),
        (2.0**62, "4611686018427387904"),
        (0.1, "0.1"),
        (-0.1, "-0.1"),
        (3.25, "3.25"),
        (1234567.125, "1234567.125"),
        (0.000001, "0.000001"),
        (0.00015, "0.00015"),
        (0.0000001, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (123.456789012345, "123.456789012345"),
        (1e19, "1e+19"),
        (1.2e19, "1.2e+19"),
        (1.2345678901234567e19, "12345678901234567000"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
    ],
)
def test_encoding_of_a_double(number: float, text: str) -> None:
    assert double_text(number) == text.encode()


@given(number=st.floats())
def test_double_survives_a_round_trip(number: float) -> None:
    again = float(double_text(number))
    assert repr(again) == repr(number)


@given(number=st.floats(allow_nan=False, allow_infinity=False))
@example(-1.4884911111921426e23)  # a sign, 17 digits and 7 zeros
def test_double_has_the_shortest_text(number: float) -> None:
    assert len(double_text(number)) <= 25


# -- any value -----------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=12)
STRINGS = st.binary(max_size=20) | st.integers(LONG, LONG + 3).map(bytes)
FLAT = st.one_of(
    st.none(),
    st.just(NULL_ARRAY),
    st.booleans(),
    st.integers(),
    st.integers(INTEGER_MIN - 2, INTEGER_MIN + 2) | st.integers(INTEGER_MAX - 2, INTEGER_MAX + 2),
    st.floats(),
    STRINGS,
    TEXTS.map(Simple),
    TEXTS.map(Error),
    st.builds(Verbatim, STRINGS, st.sampled_from(["txt", "mkd"])),
)
VALUES = st.recursive(
    FLAT,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.binary(max_size=4), inner, max_size=3),
        st.lists(inner, max_size=3).map(lambda items: SetOf(tuple(items))),
        st.lists(inner, max_size=3).map(lambda items: Push(tuple(items))),
    ),
    max_leaves=12,
)


def as_read(value: Any, protocol: Resp) -> Any:
    """Return the value that a client decodes; version 2 has fewer types."""

    def inner(items: Any) -> list[Any]:
        return [as_read(item, protocol) for item in items]

    match value:
        case list() | tuple():
            return inner(value)
        case dict() if protocol == 3:
            return dict(zip(value, inner(value.values()), strict=True))
        case dict():
            return inner(item for pair in value.items() for item in pair)
        case SetOf() | Push():
            return type(value)(tuple(inner(value.items))) if protocol == 3 else inner(value.items)
        case _ if protocol == 3:
            return None if value is NULL_ARRAY else value
        case bool():
            return int(value)
        case int() if not INTEGER_MIN <= value <= INTEGER_MAX:
            return str(value).encode()
        case float():
            return double_text(value)
        case Verbatim():
            return value.text
    return value


@given(value=VALUES, protocol=st.sampled_from([2, 3]))
def test_reply_survives_a_round_trip(value: Value, protocol: Resp) -> None:
    """Compared by `repr`, which tells True from 1 and equals for NaN."""
    assert repr(decode(encode(value, protocol))) == repr(as_read(value, protocol))


@given(value=VALUES, protocol=st.sampled_from([2, 3]), long=st.booleans())
def test_value_at_the_size_limit_and_one_byte_over(value: Value, protocol: Resp, long: bool) -> None:
    if long:
        value = [value, b"v" * LONG]
    parts = encode_parts(value, protocol)
    size = sum(map(len, parts))
    assert encode_parts(value, protocol, size) == parts
    with pytest.raises(TooLong):
        encode_parts(value, protocol, size - 1)


@given(values=st.lists(st.binary(max_size=20), max_size=9))
def test_array_of_strings_is_encoded_in_parts(values: list[bytes]) -> None:
    assert array_head(len(values)) + bulk_strings(values) == encode([*values], 2)


@given(values=st.lists(VALUES, max_size=4), protocol=st.sampled_from([2, 3]), cuts=st.lists(st.integers(0, 200)))
def test_replies_follow_each_other(values: list[Value], protocol: Resp, cuts: list[int]) -> None:
    decoder = ReplyDecoder()
    said = b"".join(encode(value, protocol) for value in values)
    read = [reply for piece in cut(said, cuts) for reply in decoder.feed(piece)]
    assert repr(read) == repr([as_read(value, protocol) for value in values])
    assert decoder.pending == 0


# -- pieces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
class TestPieces:
    def test_of_long_strings_are_not_copied(self, protocol: Resp) -> None:
        long = bytes(LONG)
        assert any(part is long for part in encode_parts(long, protocol))
        assert sum(part is long for part in encode_parts([1, long, [long]], protocol)) == 2

    def test_of_short_values_are_joined(self, protocol: Resp) -> None:
        some: list[Value] = [OK, None, 1, b"short", [1, b"two", {b"three": 3.0}], [[]] * 1_000]
        for value in some:
            assert len(encode_parts(value, protocol)) == 1

    def test_between_long_strings_are_joined(self, protocol: Resp) -> None:
        long = bytes(LONG)
        assert len(encode_parts([1, 2, long, 3, [4, long], 5], protocol)) == 5

    def test_are_equal_at_any_depth(self, protocol: Resp) -> None:
        value: Value = b"bottom"
        for _ in range(100_000):
            value = [value]
        assert encode(value, protocol) == b"*1\r\n" * 100_000 + b"$6\r\nbottom\r\n"

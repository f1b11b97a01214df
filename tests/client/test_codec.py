"""Codecs: values survive a round trip, or raise an error; a wrong value never appears."""

import collections
import enum
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv
from cairnkv.client.codec import key_codec, value_codec
from cairnkv.client.embedded import Embedded
from cairnkv.errors import CodecError, OptionError

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.text())
def test_text_codec(value: str) -> None:
    with cairnkv.open() as kv:
        kv["k"] = value
        assert kv["k"] == value


@given(st.binary())
def test_bytes_codec(value: bytes) -> None:
    with cairnkv.open(codec="bytes") as kv:
        kv["k"] = value
        assert kv["k"] == value


@pytest.mark.parametrize("name", ["json", "msgpack"])
@given(value=plain)
def test_structured_values(name: Any, value: Any) -> None:
    codec = value_codec(name)
    assert codec.decode(codec.encode(value)) == value


def test_keys_are_returned_as_text_or_bytes() -> None:
    with cairnkv.open() as kv:
        kv.set(b"k\xc3\xa9", "v")
        assert list(kv) == ["ké"]
        assert kv.get("ké") == "v"
    with cairnkv.open(codec="bytes") as raw:
        raw["ké"] = b"v"
        assert list(raw) == [b"k\xc3\xa9"]
    with cairnkv.open(codec="json") as structured:
        structured["k"] = [1, None]
        assert dict(structured.get_many(["k"])) == {"k": [1, None]}


def test_none_is_a_value_for_json() -> None:
    with cairnkv.open(codec="json") as kv:
        kv["k"] = None
        assert kv.get("k", "default") is None
        assert kv.set("k", 1, if_equals=None) is True
        assert kv.set("k", 2, if_equals=None) is False


def test_undecodable_value_raises() -> None:
    with cairnkv.open(codec="bytes") as raw:
        raw[b"\xff"] = b"\xff"
        raw[b"k"] = b"\xff"
        for name in ("text", "json", "msgpack"):
            kv: Any = Embedded(raw._shared._store, key_codec(name), value_codec(name))
            if name != "msgpack":
                with pytest.raises(CodecError, match=r"xff"):
                    kv.get("k")
            with pytest.raises(CodecError, match="codec='bytes'"):
                list(kv)


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("text", 1),
        ("text", None),
        ("text", b"x"),
        ("bytes", "x"),
        ("json", {1, 2}),
        ("json", float("nan")),
        ("msgpack", object()),
    ],
)
def test_unencodable_value_raises_and_stores_nothing(codec: Any, value: Any) -> None:
    with cairnkv.open(codec=codec) as kv:
        with pytest.raises(CodecError):
            kv["k"] = value
        assert len(kv) == 0


class Colour(enum.IntEnum):
    RED = 1


NOT_EQUAL = [
    ("json", {1: "a"}, r"value has the key 1"),
    ("json", {"a": {2: "b"}}, r"value\['a'\] has the key 2"),
    ("json", {1: "a", "1": "b"}, "value has the key 1"),
    ("json", {None: 1}, "value has the key None"),
    ("json", {True: 1}, "value has the key True"),
    ("json", {1.5: 2}, "value has the key 1.5"),
    ("json", (1, 2), r"return a tuple as a list; value is \(1, 2\): use a list"),
    ("json", {"p": [0, (1, 2)]}, r"value\['p'\]\[1\] is \(1, 2\)"),
    ("json", [float("nan")], r"value\[0\] is nan: use None"),
    ("json", float("inf"), "value is inf"),
    ("json", {"s": {1}}, r"takes None, .*; value\['s'\] is of type set: \{1\}"),
    ("json", b"x", "is of type bytes"),
    ("json", "\ud800", "surrogates"),
    ("msgpack", {1: "a"}, "value has the key 1"),
    ("msgpack", {"a": [{2: "b"}]}, r"value\['a'\]\[0\] has the key 2"),
    ("msgpack", {(1, 2): 3}, r"value has the key \(1, 2\)"),
    ("msgpack", {None: 1}, "value has the key None"),
    ("msgpack", ("a",), r"value is \('a',\): use a list"),
    ("msgpack", {"n": float("nan")}, r"value\['n'\] is nan"),
    ("msgpack", 2**64, "cannot keep 18446744073709551616"),
    ("msgpack", "\ud800", "surrogates"),
    ("msgpack", [{1}], r"value\[0\] is of type set"),
]


@pytest.mark.parametrize(("codec", "value", "said"), NOT_EQUAL, ids=[f"{case[0]} {case[1]!a}" for case in NOT_EQUAL])
def test_value_that_would_change_in_a_round_trip_is_refused(codec: Any, value: Any, said: str) -> None:
    with cairnkv.open(codec=codec) as kv:
        kv["k"] = "before"
        for store in (
            lambda: kv.set("k", value),
            lambda: kv.set("k", "x", if_equals=value),
            lambda: kv.swap("k", value),
            lambda: kv.set_many({"other": 1, "k": value}),
            lambda: kv.clear_if_equals("k", value),
        ):
            with pytest.raises(CodecError, match=said):
                store()
        assert kv["k"] == "before"
        assert len(kv) == 1


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_value_nested_too_deeply_to_be_read_is_refused(codec: Any) -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with cairnkv.open(codec=codec) as kv, pytest.raises(CodecError, match=f"codec='{codec}'"):
        kv["k"] = value


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize(
    "value",
    [Colour.RED, collections.OrderedDict(a=1), collections.Counter("aab"), True, -0.0, [1, 1.0, True]],
    ids=repr,
)
def test_value_that_survives_a_round_trip_is_stored(codec: Any, value: Any) -> None:
    with cairnkv.open(codec=codec) as kv:
        kv["k"] = value
        assert kv["k"] == value


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers() | st.none() | st.binary(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("name", ["json", "msgpack"])
@given(value=anything)
def test_codec_returns_an_equal_value_or_refuses_it(name: Any, value: Any) -> None:
    codec = value_codec(name)
    try:
        data = codec.encode(value)
    except CodecError:
        return
    assert codec.decode(data) == value


@pytest.mark.parametrize("key", [1, None, ("a",), 1.5])
def test_keys_are_text_or_bytes(key: Any) -> None:
    with cairnkv.open() as kv:
        with pytest.raises(CodecError, match="a key is text or bytes"):
            kv.get(key)
        assert key not in kv


def test_custom_codec() -> None:
    class Reversed:
        def encode(self, value: str) -> bytes:
            return value[::-1].encode()

        def decode(self, data: bytes) -> str:
            return data.decode()[::-1]

    with cairnkv.open(codec=Reversed()) as kv:
        kv["k"] = "abc"
        assert kv["k"] == "abc"


@pytest.mark.parametrize("codec", ["pickle", object(), json])
def test_unknown_codec_is_refused(codec: Any) -> None:
    with pytest.raises(OptionError, match="codec"):
        cairnkv.open(codec=codec)

"""Codecs: values in and out, and an error for what does not fit, never a wrong value."""

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
def test_text(value: str) -> None:
    with cairnkv.open() as kv:
        kv["k"] = value
        assert kv["k"] == value


@given(st.binary())
def test_bytes(value: bytes) -> None:
    with cairnkv.open(codec="bytes") as kv:
        kv["k"] = value
        assert kv["k"] == value


@pytest.mark.parametrize("name", ["json", "msgpack"])
@given(value=plain)
def test_structured_values(name: Any, value: Any) -> None:
    codec = value_codec(name)
    assert codec.decode(codec.encode(value)) == value


def test_keys_come_back_as_text_or_as_bytes() -> None:
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


def test_what_does_not_decode_says_so() -> None:
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
def test_what_does_not_encode_says_so_and_stores_nothing(codec: Any, value: Any) -> None:
    with cairnkv.open(codec=codec) as kv:
        with pytest.raises(CodecError):
            kv["k"] = value
        assert len(kv) == 0


@pytest.mark.parametrize("key", [1, None, ("a",), 1.5])
def test_keys_are_text_or_bytes(key: Any) -> None:
    with cairnkv.open() as kv:
        with pytest.raises(CodecError, match="a key is text or bytes"):
            kv.get(key)
        assert key not in kv


def test_a_codec_of_ones_own() -> None:
    class Reversed:
        def encode(self, value: str) -> bytes:
            return value[::-1].encode()

        def decode(self, data: bytes) -> str:
            return data.decode()[::-1]

    with cairnkv.open(codec=Reversed()) as kv:
        kv["k"] = "abc"
        assert kv["k"] == "abc"


@pytest.mark.parametrize("codec", ["pickle", object(), json])
def test_what_is_no_codec(codec: Any) -> None:
    with pytest.raises(OptionError, match="codec"):
        cairnkv.open(codec=codec)

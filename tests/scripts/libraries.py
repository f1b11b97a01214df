"""Strategies of calls of the libraries, and Lua that turns results into text, so that servers can be compared."""

from typing import Final

from hypothesis import strategies as st

SHOW: Final = b"""
local function shown(value)
  local kind = type(value)
  if kind == 'number' then
    return string.format('%.17g', value)
  elseif kind == 'string' then
    return #value .. ':' .. value
  elseif kind ~= 'table' then
    return kind == 'userdata' and 'null' or tostring(value)
  end
  local parts = {}
  for key, item in pairs(value) do
    parts[#parts + 1] = shown(key) .. '=' .. shown(item)
  end
  table.sort(parts)
  return '{' .. table.concat(parts, ' ') .. '}'
end
local function show(...)
  local parts = {}
  for index = 1, select('#', ...) do
    parts[index] = shown((select(index, ...)))
  end
  return table.concat(parts, ' ')
end
"""
"""Lua functions: `show` returns its arguments as text, which depends on no order of keys and no address."""


def literal(data: bytes) -> bytes:
    """A string of bytes as Lua writes it.

    >>> literal(b'a"\\n')
    b'"a\\\\034\\\\010"'
    """
    plain = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_[]{}:,.+-"
    return b'"' + b"".join(bytes([byte]) if byte in plain else b"\\%03d" % byte for byte in data) + b'"'


INTEGERS: Final = st.one_of(
    st.integers(-300, 300),
    st.builds(lambda power, near: 2**power + near, st.integers(0, 70), st.integers(-2, 2)),
    st.builds(lambda power, near: -(2**power) + near, st.integers(0, 70), st.integers(-2, 2)),
)

numbers: Final = st.one_of(
    INTEGERS.map(lambda n: b"%d" % n),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(x).encode()),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda x: repr(x).encode()),
    st.sampled_from([b"(1/0)", b"(-1/0)", b"(0/0)", b"(-(0/0))", b"(-1 * 0)", b"0.5", b"2.5", b"-0.5"]),
)
"""Numbers as expressions of Lua."""

strings: Final = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(
        [b"", b"12", b" 0x1F ", b'"\\/\b\f\n\r\t\x00\x7f', b"x" * 31, b"x" * 32, b"y" * 256, b"z" * 70_000]
    ),
).map(literal)

scalars: Final = st.one_of(numbers, strings, st.sampled_from([b"nil", b"true", b"false", b"cjson.null"]))

keys: Final = st.one_of(
    st.integers(-1, 14).map(lambda n: b"[%d]" % n),
    st.binary(max_size=12).map(lambda text: b"[%s]" % literal(text)),
    st.sampled_from([b"[1.5]", b"[true]", b"[2^31]", b"[2^31-1]", b"[1/0]", b"[1e15]"]),
)


def _tables(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lists = st.lists(items, max_size=6).map(lambda parts: b"{%s}" % b",".join(parts))
    pairs = st.builds(lambda key, item: b"%s=%s" % (key, item), keys, items)
    maps = st.lists(st.one_of(pairs, pairs, items), max_size=6).map(lambda parts: b"{%s}" % b",".join(parts))
    meta = b"setmetatable(%s, {__index=function() return 1 end, __newindex=function() end, __len=function() end})"
    others = [b"tostring", b"function() end", b"coroutine.create(function() end)"]
    return st.one_of(lists, lists, maps, maps, maps.map(lambda table: meta % table), st.sampled_from(others))


values: Final = st.recursive(scalars, _tables, max_leaves=20)
"""Values as expressions of Lua. Keys are short: redis-server orders strings of 32 bytes and more differently."""

# -- cjson -----------------------------------------------------------------------------------------------------------

_JSON_NUMBERS: Final = st.one_of(
    st.floats().map(lambda x: repr(x).encode()),
    INTEGERS.map(lambda n: b"%d" % n),
    st.from_regex(rb"[+-]?(0[xX])?[0-9a-fA-F]{0,4}(\.[0-9]{0,3})?([eEpP][+-]?[0-9]{0,2})?", fullmatch=True),
    st.from_regex(rb"[+-]?(inf|INFINITY|infinit|nan|NaN\(a_1\)|nan\(|Null|-1\.5\.5|00012|0)", fullmatch=True),
)
_JSON_STRINGS: Final = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\\n", b'\\"', b"\\/", b"\\\\", b"\\x", b"\\u0041", b"\\ud83d\\ude00", b"\\udc00", b"\\ud83d"]
        ),
        st.from_regex(rb"\\u[0-9a-fA-FxX]{0,4}", fullmatch=True),
        st.binary(min_size=1, max_size=4),
        st.sampled_from([b"key", b"a b", b"\x00", b"\xff"]),
    ),
    max_size=4,
).map(lambda parts: b'"' + b"".join(parts) + b'"')
_SPACE: Final = st.sampled_from([b"", b"", b"", b" ", b"\n\t\r ", b"\x0b", b"\x00"])


def _spaced(strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda before, text, after: before + text + after, _SPACE, strategy, _SPACE)


def _nested_json(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    spaced = _spaced(items)
    pairs = st.builds(lambda key, item: key + b":" + item, _spaced(_JSON_STRINGS), spaced)
    return st.one_of(
        st.lists(spaced, max_size=5).map(lambda parts: b"[%s]" % b",".join(parts)),
        st.lists(pairs, max_size=5).map(lambda parts: b"{%s}" % b",".join(parts)),
    )


def _damaged(texts: st.SearchStrategy[bytes], pieces: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Texts with a piece in the place of some bytes."""

    def damage(text: bytes, at: int, size: int, piece: bytes) -> bytes:
        at %= len(text) + 1
        return text[:at] + piece + text[at + size :]

    return st.builds(damage, texts, st.integers(0, 200), st.integers(0, 3), pieces)


_WORDS: Final = st.sampled_from([b"true", b"false", b"null", b"truex", b"nul", b"t"])
_JSON: Final = _spaced(
    st.recursive(st.one_of(_JSON_NUMBERS, _JSON_STRINGS, _JSON_STRINGS, _WORDS), _nested_json, max_leaves=12)
)
_TOKENS: Final = st.sampled_from(
    [b"", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"1", b"-", b"\x00", b"n", b" "]
)

json_texts: Final = st.one_of(_JSON, _JSON, _damaged(_JSON, _TOKENS))
"""JSON, more and less than JSON, and damaged JSON."""

json_settings: Final = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"encode_invalid_numbers(%s)" % word
                for word in (b"true", b"'null'", b"'on'", b"false", b"'x'", b"{}", b"1")
            ]
        ),
        st.sampled_from(
            [b"decode_invalid_numbers(%s)" % word for word in (b"true", b"false", b"'off'", b"'null'", b"")]
        ),
        st.sampled_from([b"encode_keep_buffer(%s)" % word for word in (b"true", b"false", b"nil", b"1, 2")]),
        st.sampled_from([b"encode_number_precision(%s)" % word for word in (b"3", b"14", b"1.9", b"0", b"15", b"'7'")]),
        st.sampled_from([b"encode_max_depth(%s)" % word for word in (b"1", b"2", b"3", b"0", b"''", b"2^31", b"0/0")]),
        st.sampled_from([b"decode_max_depth(%s)" % word for word in (b"1", b"2", b"3", b"-1", b"nil", b"1, nil")]),
        st.builds(
            lambda *words: b"encode_sparse_array(%s)" % b",".join(words),
            st.sampled_from([b"true", b"false", b"nil", b"'on'", b"'null'"]),
            st.sampled_from([b"0", b"1", b"2", b"3", b"nil", b"-1"]),
            st.sampled_from([b"0", b"1", b"5", b"10", b"nil", b"5, 1", b"'5'"]),
        ),
    ),
    max_size=3,
)
"""Calls of cjson that change its settings."""

# -- cmsgpack --------------------------------------------------------------------------------------------------------


def _sized(code: int, size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size).map(lambda data: bytes([code]) + data)


def _length(code: int, size: int, factor: int) -> st.SearchStrategy[tuple[bytes, int]]:
    return st.integers(0, 6).map(lambda n: (bytes([code]) + n.to_bytes(size, "big"), n * factor))


_PACKED_SCALARS: Final = st.one_of(
    st.integers(0, 255).map(lambda byte: bytes([byte])),
    *(
        _sized(code, size)
        for code, size in [(204, 1), (205, 2), (206, 4), (207, 8), (208, 1), (209, 2), (210, 4), (211, 8)]
    ),
    _sized(202, 4),
    _sized(203, 8),
    st.binary(max_size=40).map(
        lambda data: (bytes([160 + len(data)]) if len(data) < 32 else bytes([217, len(data)])) + data
    ),
    st.binary(max_size=9).map(lambda data: b"\xda\x00" + bytes([len(data)]) + data),
    st.binary(max_size=9).map(lambda data: b"\xdb\x00\x00\x00" + bytes([len(data)]) + data),
)


def _nested_packed(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    arrays = [(_length(220, 2, 1)), _length(221, 4, 1), st.integers(0, 6).map(lambda n: (bytes([144 + n]), n))]
    maps = [(_length(222, 2, 2)), _length(223, 4, 2), st.integers(0, 4).map(lambda n: (bytes([128 + n]), 2 * n))]
    return st.one_of(*arrays, *maps).flatmap(
        lambda header: st.lists(items, min_size=header[1], max_size=header[1]).map(
            lambda parts: header[0] + b"".join(parts)
        )
    )


_PACKED: Final = st.lists(st.recursive(_PACKED_SCALARS, _nested_packed, max_leaves=10), max_size=4).map(b"".join)
packed: Final = st.one_of(_PACKED, _PACKED, _damaged(_PACKED, st.binary(max_size=2)))
"""MessagePack, whole and damaged."""

# -- bit and struct --------------------------------------------------------------------------------------------------

bit_calls: Final = st.builds(
    lambda name, arguments: b"bit.%s(%s)" % (name, b",".join(arguments)),
    st.sampled_from(
        [
            b"band",
            b"bor",
            b"bxor",
            b"lshift",
            b"rshift",
            b"arshift",
            b"rol",
            b"ror",
            b"bswap",
            b"tohex",
            b"tobit",
            b"bnot",
        ]
    ),
    st.lists(st.one_of(numbers, numbers, numbers, scalars), max_size=4),
)

_OPTIONS: Final = st.one_of(
    st.sampled_from([b"b", b"B", b"h", b"H", b"l", b"L", b"T", b"f", b"d", b"x", b"s", b"i", b"I", b"c", b"c0", b" "]),
    st.sampled_from(
        [b"<", b">", b"!", b"!1", b"!2", b"!4", b"!16", b"!3", b"!0", b"k", b"=", b"\x00", b"c99999999999"]
    ),
    st.builds(lambda letter, size: letter + b"%d" % size, st.sampled_from([b"i", b"I"]), st.integers(0, 8)),
    st.sampled_from([b"I9", b"I16", b"i33", b"c2", b"c5"]),
)
formats: Final = st.lists(_OPTIONS, max_size=8).map(b"".join)
"""Formats of struct. Signed integers of more than 8 bytes are left out, because their result is undefined in C."""

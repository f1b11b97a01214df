"""The matcher in Lua has the results and the errors of Lua's functions in C."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.scripts.interpreter import PATTERNS

lua51 = pytest.importorskip("lupa.lua51")

HARNESS = b"""
local source, find_plain = ...
local bounded, cheap, reset = loadstring(source, "=[C] patterns")(
    function() end, function(value) return math.floor(tonumber(value)) end, python.as_function(find_plain))

local function shown(ok, ...)
    local parts = { tostring(ok) }
    for i = 1, select("#", ...) do
        local value = select(i, ...)
        value = type(value) == "string" and value:gsub("^%[.-%]:? ?%w*:%d+: ", ""):gsub("to '[%w?]+'", "") or value
        parts[#parts + 1] = type(value) .. ":" .. tostring(value)
    end
    return table.concat(parts, "|")
end

local function replaced(kind, seen)
    if kind == "function" then
        return function(...)
            seen[#seen + 1] = shown(true, ...)
            if #seen % 4 == 1 then return "<" .. #seen .. ">" elseif #seen % 4 == 2 then return 7 end
            return #seen % 4 == 3 and nil
        end
    end
    return kind == "table" and { a = "x", b = 5, ab = false, [1] = "one", [2] = {} } or kind
end

local function result(functions, name, text, pattern, ...)
    local seen = {}
    if name == "gmatch" then
        seen[1] = shown(pcall(function()
            local step = functions.gmatch(text, pattern)
            for _ = 1, 12 do seen[#seen + 1] = shown(true, step()) end
        end))
    elseif name == "gsub" then
        local kind, most = ...
        seen[#seen + 1] = shown(pcall(functions.gsub, text, pattern, replaced(kind, seen), most))
    else
        seen[1] = shown(pcall(functions[name], text, pattern, ...))
    end
    return table.concat(seen, "\\n")
end

return function(name, text, pattern, ...)
    if name == "gmatch" and pattern:sub(1, 1) == "^" then pattern = "%" .. pattern end
    local found = result(bounded, name, text, pattern, ...)
    cheap(text, pattern)
    reset()
    return result(string, name, text, pattern, ...), found
end
"""


@functools.cache
def compare() -> Callable[..., Any]:
    """Return a function that calls a function of C, and the matcher: both results as texts."""
    runtime = lua51.LuaRuntime(encoding=None, source_encoding="latin-1", unpack_returned_tuples=True)

    def find_plain(text: bytes, part: bytes, start: int) -> int | None:
        return text.find(part, start - 1) + 1 or None

    harness: Callable[..., Any] = runtime.eval("loadstring")(HARNESS)(PATTERNS.read_bytes(), find_plain)
    return harness


TEXTS = st.text("aaabb1 A()]%^$-.\0\n\xff", max_size=10).map(lambda text: text.encode("latin-1"))
CLASSES = [*"ab.1-]", "%a", "%d", "%W", "%s", "%z", "%x", "%%", "%.", "%g", "%\xff", "\xff", "[ab]", "[^a]", "[a-b]"]
CLASSES += ["[%w_]", "[]]", "[^]]", "[%]a]", "[a-]", "[-a]", "[^%s]", "[a-%%]", "[\xf0-\xff]"]
ITEMS = [
    "(",
    ")",
    "()",
    "(a)",
    "(.-)",
    "(.*)",
    "(a",
    "%1",
    "%2",
    "%0",
    "%b()",
    "%baa",
    "%bab",
    "%b[]",
    "%f[a]",
    "%f[%W]",
]
ITEMS += ["%f[%z]", "^", "$", "*", "\0"]
WRONG = ["[", "%", "[^", "[a", "[%", "[]", "%f", "%fa", "%f[", "%b", "%ba", "(" * 33, "()" * 33, "%3"]
REPEATED = st.tuples(st.sampled_from(CLASSES), st.sampled_from(["", "", "*", "+", "-", "?"])).map("".join)
PATTERN_ITEMS = st.one_of(REPEATED, REPEATED, st.sampled_from(ITEMS), st.sampled_from(ITEMS + WRONG))
PATTERNS_AT_RANDOM = st.tuples(st.sampled_from(["", "", "^"]), st.lists(PATTERN_ITEMS, max_size=6)).map(
    lambda pair: (pair[0] + "".join(pair[1])).encode("latin-1")
)
STARTS = st.sampled_from(
    [None, 1, 2, -1, -3, 0, 5, 100, -100, 1.5, -1.5, b"2", b"x", float("inf"), float("nan"), False]
)
REPLACEMENTS = st.sampled_from(
    [b"x", b"", b"<%0>", b"%1%2", b"%", b"%%a%", b"%3", 12, 1.5, b"function", b"table", True]
)
LIMITS = st.sampled_from([None, 0, 1, 2, -1, b"1", b"x"])


@example(b"a(b)c", b"%b()", None, False, b"[%0]", None)
@example(b"key=value", b"^(%w+)=(%w*)$", None, False, b"%2=%1", None)
@example(b"THE (quick) fox", b"%f[%a]%a+%f[%A]", None, False, b"table", None)
@example(b"a.b", b".", 1, True, b"function", 1)
@example(b"a\0b", b"a\0b", 1, False, b"x", None)
@given(TEXTS, PATTERNS_AT_RANDOM, STARTS, st.booleans(), REPLACEMENTS, LIMITS)
def test_matcher_equals_functions_of_c(
    text: bytes, pattern: bytes, start: object, plain: bool, replacement: object, most: object
) -> None:
    for name, *rest in (
        ("find", start, plain),
        ("match", start),
        ("gmatch",),
        ("gsub", replacement, most),
    ):
        expected, found = compare()(name.encode(), text, pattern, *rest)
        assert found == expected, (name, text, pattern, rest)


@pytest.mark.parametrize("length", [300, 3000])
@pytest.mark.parametrize(
    "pattern",
    [
        b"^%s*(.-)%s*$",
        b"(%w+)=(%w+)",
        b"[^,]+",
        b"(.-);",
        b"%b()",
        b"(a+)%1",
        b"%f[%w]%w+",
        b".*;",
        b"^",
        b"$",
        b"a?a-b",
    ],
)
def test_matcher_equals_functions_of_c_in_long_texts(pattern: bytes, length: int) -> None:
    text = (b"  key=value, (a(b)c); aaaa\0aa;" * 200)[:length]
    for name, *rest in (("find", None), ("match", None), ("gmatch",), ("gsub", b"<%0>", None)):
        expected, found = compare()(name.encode(), text, pattern, *rest)
        assert found == expected

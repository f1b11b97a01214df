"""cjson, cmsgpack, bit and struct beside those of redis-server: the same results, the same errors."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.protocol.resp.replies import Error, Value
from cairnkv.scripts import Interpreter
from tests.redis.conftest import real_redis as real_redis
from tests.scripts import libraries
from tests.scripts.host import DictHost
from tests.support.raw_resp import Peer, value_of
from tests.support.targets import Target

pytest.importorskip("lupa")

Run = Callable[..., tuple[bytes, Value]]
"""Runs a body of Lua with arguments. Returns the text of its results in redis-server and in cairnkv."""

BODY: Final = b"%s\nreturn show(pcall(function()\n%s\nend))"


@pytest.fixture(scope="module")
def run(real_redis: Target) -> Iterator[Run]:
    ours = Interpreter()
    with Peer(real_redis.address) as peer:

        def on_both(body: bytes, *arguments: bytes) -> tuple[bytes, Value]:
            script = BODY % (libraries.SHOW, body)
            theirs = value_of(peer.ask(b"EVAL", script, b"0", *arguments))
            peer.ask(b"SCRIPT", b"FLUSH")
            assert theirs[0] == b"$", (body, theirs)
            return theirs[1], ours.run(script, [], arguments, DictHost())

        yield on_both


def compare(run: Run, body: bytes, *arguments: bytes) -> None:
    theirs, ours = run(body, *arguments)
    assert ours == theirs, (body, arguments)


@given(text=libraries.json_texts, changes=libraries.json_settings)
def test_cjson_decodes_as_in_redis(run: Run, text: bytes, changes: Sequence[bytes]) -> None:
    settings = b"".join(b"pcall(cjson.%s) " % change for change in changes if change.startswith(b"decode"))
    reset = b"cjson.decode_max_depth(1000) cjson.decode_invalid_numbers(true)"
    compare(run, b"%s %s return cjson.decode(ARGV[1])" % (reset, settings), text)


RESET: Final = (
    b"cjson.encode_sparse_array(false, 2, 10) cjson.encode_max_depth(1000) cjson.encode_invalid_numbers(false) "
    b"cjson.encode_number_precision(14) cjson.encode_keep_buffer(true) "
    b"cjson.decode_max_depth(1000) cjson.decode_invalid_numbers(true)\n"
)


@given(value=libraries.values, changes=libraries.json_settings)
def test_cjson_encodes_as_in_redis(run: Run, value: bytes, changes: Sequence[bytes]) -> None:
    """redis-server keeps settings from script to script, so the script sets them all first."""
    settings = b"".join(b"pcall(cjson.%s) " % change for change in changes)
    compare(run, RESET + settings + b"\nreturn cjson.encode(%s)" % value)


@given(changes=libraries.json_settings)
def test_settings_of_cjson_return_what_they_return_in_redis(run: Run, changes: Sequence[bytes]) -> None:
    calls = b",".join(b"{pcall(function() return cjson.%s end)}" % change for change in changes)
    compare(run, RESET + b"return %s" % (calls or b"nil"))


@given(values=st.lists(libraries.values, max_size=4))
def test_cmsgpack_packs_as_in_redis(run: Run, values: Sequence[bytes]) -> None:
    compare(run, b"return cmsgpack.pack(%s)" % b",".join(values))


@given(
    data=libraries.packed,
    call=st.one_of(
        st.just(b"unpack(ARGV[1])"),
        st.builds(lambda offset: b"unpack_one(ARGV[1], %d)" % offset, st.integers(-1, 9)),
        st.builds(
            lambda limit, offset: b"unpack_limit(ARGV[1], %d, %d)" % (limit, offset),
            st.integers(-1, 4),
            st.integers(-1, 9),
        ),
        st.sampled_from(
            [
                b"unpack()",
                b"unpack_one(ARGV[1])",
                b"unpack_limit(ARGV[1])",
                b"unpack_limit({}, '1.5', nil)",
                b"unpack(5)",
            ]
        ),
    ),
)
def test_cmsgpack_unpacks_as_in_redis(run: Run, data: bytes, call: bytes) -> None:
    compare(run, b"return cmsgpack." + call, data)


@given(calls=st.lists(libraries.bit_calls, min_size=1, max_size=4))
def test_bit_computes_as_in_redis(run: Run, calls: Sequence[bytes]) -> None:
    compare(run, b"return %s" % b",".join(b"{pcall(function() return %s end)}" % call for call in calls))


@given(format=libraries.formats, arguments=st.lists(st.one_of(libraries.numbers, libraries.strings), max_size=6))
def test_struct_packs_as_in_redis(run: Run, format: bytes, arguments: Sequence[bytes]) -> None:
    compare(run, b"return struct.pack(%s)" % b",".join([b"ARGV[1]", *arguments]), format)


@given(
    format=libraries.formats,
    data=st.one_of(st.binary(max_size=40), st.sampled_from([b"\x05hello world", b"abc\x00def\x00" * 3, b"\xff" * 50])),
    offset=st.sampled_from([b"", b"", b", nil", b", 1", b", 2", b", 3.7", b", '4'", b", 0", b", 100", b", {}"]),
)
def test_struct_unpacks_as_in_redis(run: Run, format: bytes, data: bytes, offset: bytes) -> None:
    compare(run, b"return struct.unpack(ARGV[1], ARGV[2]%s)" % offset, format, data)


@given(format=libraries.formats)
def test_struct_sizes_as_in_redis(run: Run, format: bytes) -> None:
    compare(run, b"return struct.size(ARGV[1])", format)


def run_here(script: bytes) -> Value:
    return Interpreter().run(script, [], [], DictHost())


DEEP: Final = [
    b"local text = string.rep('[', 1000) .. string.rep(']', 1000) return #cjson.encode(cjson.decode(text))",
    b"return cjson.decode(string.rep('[', 1001))",
    b"return cjson.decode(string.rep('{\"a\":', 1001))",
    b"cjson.decode_max_depth(100000) return cjson.decode(string.rep('{\"a\":', 4000))",
    b"local t = {} t[1] = t return cjson.encode(t)",
    b"local t = {} t.a = t return cjson.encode(t)",
    b"local t = {} t[1] = t return cmsgpack.pack(t)",
    b"local t = {} t.a = t return cmsgpack.pack(t)",
    b"return cmsgpack.unpack(string.rep('\\145', 10000))",
    b"return cmsgpack.unpack(string.rep('\\129a', 10000))",
    b"return #{cmsgpack.unpack(string.rep('a', 7000))}",
    b"return cmsgpack.unpack(string.rep('a', 9000))",
    b"return struct.unpack(string.rep('b', 9000), string.rep('a', 9000))",
]


@pytest.mark.parametrize("body", DEEP)
def test_nesting_and_results_are_bounded_as_in_redis(run: Run, body: bytes) -> None:
    compare(run, RESET + body)


def test_settings_of_cjson_end_with_the_script() -> None:
    interpreter = Interpreter()
    change = b"cjson.encode_max_depth(1) cjson.encode_number_precision(3) cjson.decode_invalid_numbers(false)"
    interpreter.run(change, [], [], DictHost())
    use = b"return cjson.encode({{1.23456}, cjson.decode('0x10')})"
    assert interpreter.run(use, [], [], DictHost()) == b"[[1.23456],16]"


def test_new_cjson_has_settings_of_its_own() -> None:
    script = b"""
        local other = cjson.new()
        other.encode_number_precision(3)
        return other.encode({1.23456, other.null}) .. cjson.encode({1.23456, other.null})
    """
    assert run_here(script) == b"[1.23,null][1.23456,null]"


@pytest.mark.parametrize(
    "call",
    [b"cjson.decode('x')", b"cjson.encode(tostring)", b"cmsgpack.pack()", b"bit.band()", b"struct.pack('k')"],
)
@pytest.mark.parametrize(
    "form", [b"\n\nreturn %s", b"\n\nlocal x = %s", b"local f = function()\n\nreturn %s end return f()"]
)
def test_error_has_the_line_of_the_call(call: bytes, form: bytes) -> None:
    reply = run_here(form % call)
    assert isinstance(reply, Error)
    assert "user_script:3: " in reply.text


def test_local_function_tail_calls_itself_without_stack() -> None:
    assert (
        run_here(b"local function f(n) if n == 0 then return 'end' end return f(n - 1) end return f(100000)") == b"end"
    )


def test_long_list_keeps_its_order() -> None:
    """The instruction of an item beyond 25,550 has a number behind it that may look like a tail call."""
    count = 50 * 64 * 10
    items = b",".join(b"%d" % item for item in range(1, count + 1))
    assert run_here(b"local t = {%b} for i = 1, #t do if t[i] ~= i then return i end end return #t" % items) == count

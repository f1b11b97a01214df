"""Attacks on the sandbox: no script reaches Python, changes what the next one sees, or stops the process."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.limits import SCRIPT_BRANCHES_MAX
from cairnkv.protocol.resp.replies import Error, Value
from cairnkv.scripts import Interpreter, ScriptAbort, ScriptRefused
from tests.scripts.fuzzing import fingerprint, new_interpreter, run_random_script
from tests.scripts.host import DictHost

pytest.importorskip("lupa")


@pytest.fixture(scope="module")
def interpreter() -> Interpreter:
    return Interpreter(memory_max=16 << 20, steps_max=20_000_000, clock=time.thread_time)


def run(interpreter: Interpreter, source: str) -> Value:
    return interpreter.run(source.encode(), [b"key"], [b"argument"], DictHost())


WALK = """
local seen, found = {}, {}
local function walk(value, path)
    local kind = type(value)
    if kind == 'userdata' or kind == 'thread' then found[#found + 1] = path .. ' ' .. kind end
    if kind ~= 'table' or seen[value] then return end
    seen[value] = true
    for key, item in pairs(value) do
        walk(key, path .. '[key]')
        walk(item, path .. '.' .. tostring(key))
    end
    walk(getmetatable(value), path .. '<meta>')
end
walk(_G, '_G')
walk(getmetatable(''), 'string')
%s
table.sort(found)
return found
"""


def test_no_object_of_python_is_reachable(interpreter: Interpreter) -> None:
    """cjson.null is a userdata of Lua."""
    caught = """
        walk({pcall(redis.call, 'NOPE')}, 'call')
        walk({pcall(redis.pcall, 'GET', 'a')}, 'pcall')
        walk({pcall(redis.call, {})}, 'argument')
        walk({xpcall(function() redis.call('NOPE') end, function(e) return e end)}, 'xpcall')
        walk({coroutine.resume(coroutine.create(function() redis.call('NOPE') end))}, 'resume')
        walk({load(function() redis.call('NOPE') end)}, 'load')
        walk(redis.call('VALUES'), 'values')
        walk(redis.pcall('NOPE'), 'error')"""
    assert run(interpreter, WALK % caught) == [b"_G.cjson.null userdata"]


@pytest.mark.parametrize(
    "name",
    [
        "python",
        "debug",
        "os",
        "io",
        "package",
        "require",
        "module",
        "dofile",
        "loadfile",
        "print",
        "newproxy",
        "getfenv",
        "setfenv",
        "arg",
    ],
)
def test_global_is_absent(interpreter: Interpreter, name: str) -> None:
    assert run(interpreter, f"return rawget(_G, '{name}') == nil") == 1
    assert isinstance(run(interpreter, f"return {name}"), Error)
    assert run(interpreter, "return string.dump == nil and ('').dump == nil") == 1


@pytest.mark.parametrize(
    "catch", ["pcall(f)", "xpcall(f, tostring)", "coroutine.resume(coroutine.create(f))", "load(f)"]
)
def test_exception_of_python_is_not_caught(interpreter: Interpreter, catch: str) -> None:
    source = f"local f = function() redis.call('BUG') end for i = 1, 10 do {catch} end redis.call('SET', 'a', 'b')"
    host = DictHost()
    with pytest.raises(ZeroDivisionError):
        interpreter.run(source.encode(), [], [], host)
    assert host.values == {}


@pytest.mark.parametrize("method", ["log", "permits"])
def test_exception_of_another_method_ends_the_script(interpreter: Interpreter, method: str) -> None:
    class Stop(ScriptAbort):
        pass

    def fail(*_: object) -> None:
        raise Stop

    host = DictHost()
    setattr(host, method, fail)
    source = b"while true do pcall(redis.log, 3, 'x') pcall(redis.acl_check_cmd, 'GET') end"
    with pytest.raises(Stop):
        interpreter.run(source, [], [], host)
    assert run(interpreter, "return 1") == 1


@pytest.mark.parametrize(
    "source",
    [
        "x = 1",
        "_G.x = 1",
        "rawset(_G, 'x', 1)",
        "table.insert(_G, 'x')",
        "table.insert(string, 1, 'x')",
        "table.sort(redis)",
        "table.remove(_G)",
        "table.setn(_G, 5)",
        "table.foreach(_G, function(k) _G[k] = nil end)",
        "for k in pairs(_G) do pcall(rawset, _G, k, 1) end",
        "for k in pairs(redis) do redis[k] = nil end",
        "setmetatable(_G, {__index = function() return 1 end})",
        "setmetatable(redis, nil)",
        "getmetatable(_G).__index = function() return 1 end",
        "rawset(getmetatable(_G), '__index', string)",
        "setmetatable(getmetatable(_G), {__index = {x = 1}})",
        "getmetatable('').__index = {}",
        "getmetatable('').x = 1",
        "string.format = nil",
        "('x').y = 1",
        "redis.call = redis.pcall",
        "pcall = nil",
        "KEYS[1] = 'x' ARGV[2] = 'y' KEYS.x = 1",
        "KEYS = nil",
        "redis.setresp(3)",
        "redis.setresp(3) error('x')",
        "redis.setresp(3) while true do end",
        "redis.setresp(3) return setmetatable({}, {__index = error})",
        "cjson.encode_sparse_array(true) cjson.encode_number_precision(3) cjson.decode_max_depth(1)",
        "cjson.encode_sparse_array(true) cjson.encode_number_precision(3) redis.call('BUG')",
        "cjson.encode = nil",
        "cjson.null.x = 1",
        "getmetatable(cjson.null).__index = 1",
        "collectgarbage('stop') collectgarbage('setpause', 1000) collectgarbage('setstepmul', 1)",
        "local co = coroutine.wrap(function() while true do coroutine.yield() end end) co() co()",
        "coroutine.create = nil",
        "loadstring('x = 1')()",
        "load(function() return nil end)",
        "loadstring('getmetatable = nil', '=[C] sandbox')()",
        "math.randomseed(7)",
        "math.random = nil",
        "local t = {} for i = 1, 1e6 do t[i] = {} end",
        "local s = 'x' while true do s = s .. s end",
        "return loadstring('return ' .. ('{'):rep(300) .. ('}'):rep(300))()",
    ],
)
def test_script_changes_nothing_for_the_next_one(interpreter: Interpreter, source: str) -> None:
    before = fingerprint(interpreter)
    with contextlib.suppress(ZeroDivisionError):
        run(interpreter, source)
    assert fingerprint(interpreter) == before
    assert run(interpreter, "return redis.call('GET', 'a') == false") == 1


def test_numbers_at_random_differ_between_scripts_and_follow_their_seed(interpreter: Interpreter) -> None:
    source = "return {math.random(2^30), math.random(2^30), math.random(2^30)}"
    first, second = run(interpreter, source), run(interpreter, source)
    assert first != second
    seeded = "math.randomseed(5) " + source
    assert run(interpreter, seeded) == run(interpreter, seeded)
    alike, other = Interpreter(seed=1), Interpreter(seed=2)
    assert run(alike, source) == run(Interpreter(seed=1), source) != run(other, source)


@pytest.mark.parametrize(
    "source",
    [
        "return loadstring('\\27Lua')",
        "return loadstring('\\27LuaQ\\0\\1\\4\\8\\4\\8\\0')",
        "local n return load(function() if not n then n = 1 return '\\27Lua' end end)",
        "local n = 0 return load(function() n = n + 1 return ({'\\27', 'Lua'})[n] end)",
    ],
)
def test_bytecode_is_refused(interpreter: Interpreter, source: str) -> None:
    assert run(interpreter, source) is None


@pytest.mark.parametrize(
    "source",
    [
        "while true do end",
        "loadstring('while true do end', '=[C] sandbox')()",
        "loadstring('while true do pcall(error) end', '=[C] sandbox')()",
        "local f = coroutine.wrap(function() while true do pcall(coroutine.yield) end end) while true do pcall(f) end",
        "for i = 1, 1e9 do coroutine.create(function() end) end",
        "while true do string.rep('x', 1e6) end",
        "local s = string.rep('x', 1e6) while true do local t = s .. 'y' end",
        "local s = string.rep('x', 1e6) while true do s:find('y') end",
        "local s = string.rep('x', 1e6) while true do s:gsub('x', 'y') end",
        "while true do collectgarbage() end",
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.sort(t) end",
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.insert(t, 1, 1) table.remove(t, 1) end",
        "while true do loadstring(string.rep('local a ', 1e4)) end",
        "local function f() return f() end f()",
        "local function f() return pcall(f) end while true do f() end",
        "while true do cjson.decode(cjson.encode({1, 2, 3})) end",
        "return ('a'):rep(1e6):find(('.-'):rep(1000) .. 'b')",
        "return ('a'):rep(1e6):match('^' .. ('a*'):rep(20) .. 'b')",
        "return ('a'):rep(30):rep(10):gsub(('a?'):rep(40) .. ('a'):rep(300) .. 'b', '')",
        "for found in ('('):rep(1e6):gmatch('%b()') do end",
        "return ('a'):rep(1e5):find('(.-)%1b')",
        "return ('a'):rep(1e6):find('%w+%f[%W]x')",
        "return ('a'):rep(1e6):gsub('[ab]-c', '')",
        "return (('a'):rep(1e6) .. 'b'):gsub('(a+)%1$', '')",
        "local f = coroutine.wrap(function() return ('a'):rep(1e6):find('a*a*a*b') end) return f()",
        "return pcall(string.find, ('a'):rep(1e6), 'a*a*a*b')",
        "return redis.error_reply('x' .. ('\\n'):rep(1e6) .. 'x')",
        "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1e5) .. i end while true do t[1] = t[1] table.sort(t) end",
        "local t = {} for i = 1, 1e5 do t[i] = i % 2 end while true do table.concat(t) end",
        "local s = ('x'):rep(1e6) while true do s = s:reverse():upper():lower() end",
    ],
)
def test_script_without_end_ends_by_its_steps(interpreter: Interpreter, source: str) -> None:
    reply = run(interpreter, source)
    assert isinstance(reply, Error)
    assert reply.text == "ERR the script needs more steps than the limit, 20000000"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("string.find('a', ('a?'):rep(1e5))", "pattern too complex"),
        ("string.gsub('a', ('a-'):rep(1e5), '')", "pattern too complex"),
        ("('a'):match(('a*'):rep(1e5))", "pattern too complex"),
        ("('a'):gmatch(('a*'):rep(1e5))", "pattern too complex"),
        ("string.find('a', ('('):rep(100))", "too many captures"),
        ("unpack({}, 1, 1e8)", "too many results to unpack"),
        ("string.byte(('x'):rep(1e5), 1, -1)", "string slice too long"),
        ("string.char(unpack({}, 1, 1e6))", "too many results to unpack"),
        ("string.format('%99999d', 1)", "invalid format"),
        ("local function f() return 1 + f() end f()", "stack overflow"),
        ("local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x", "loop in gettable"),
        ("local f = loadstring(('('):rep(1e4)) or error('refused') f()", "refused"),
        ("local f = loadstring('return ' .. ('a..'):rep(1e4) .. 'a') or error('refused') f()", "refused"),
        ("table.insert({}, -1e9, 1)", "position out of bounds"),
        ("table.insert({}, 1e15, 1)", "position out of bounds"),
        ("local s = ('x'):rep(100) error(s:rep(1e4))", "xxx"),
        ("table.concat(setmetatable({}, {__index = function() return 'x' end}), '', 1, 10)", "invalid value"),
    ],
)
def test_deep_or_long_call_is_an_error(interpreter: Interpreter, source: str, text: str) -> None:
    reply = run(interpreter, source)
    assert isinstance(reply, Error)
    assert text in reply.text
    assert len(reply.text) < 100_000


def test_nested_calls_of_c_are_limited(interpreter: Interpreter) -> None:
    for nested in ("pcall(f)", "string.gsub('x', 'x', f)", "coroutine.wrap(f)()", "table.sort({1, 2, 3}, f)"):
        run(interpreter, f"local function f() {nested} return redis.call('GET', 'a') end f()")
        assert run(interpreter, "return 1") == 1


FULL = """
local kept = {}
local size = 2^21
while size > 16 do
    local ok = pcall(function() kept[#kept + 1] = string.rep('x', size) .. #kept end)
    if not ok then size = size / 2 end
end
"""


@pytest.mark.parametrize(
    "call",
    [
        "redis.call('LONG', 100)",
        "redis.call('LONG', 1000000)",
        "redis.call('MANY', 1000)",
        "redis.call('VALUES')",
        "redis.sha1hex('a')",
        "redis.log(3, 'a')",
        "redis.acl_check_cmd('GET')",
        "redis.call('NOPE')",
        "redis.call('ECHO', 'a', 'b', 'c', 'd', 'e')",
        "redis.call('BUG')",
        "error('x')",
        "return {'a', {'b'}}",
    ],
)
def test_call_without_memory_is_an_error(call: str) -> None:
    """Lua cannot report a lack of memory to lupa, so none may happen there."""
    interpreter = Interpreter(memory_max=4 << 20, steps_max=20_000_000, clock=time.thread_time)
    for before in ("", "pcall(", "coroutine.wrap(function() "):
        after = {"": "", "pcall(": ")", "coroutine.wrap(function() ": " end)()"}[before]
        if before == "pcall(" and call.startswith(("return", "error")):
            continue
        body = FULL + before + call + after
        for repeated in (body, f"for i = 1, 3 do {body} end" if "return" not in call else body):
            try:
                reply = run(interpreter, repeated)
            except ZeroDivisionError:
                continue
            assert reply is None or isinstance(reply, Error | list)
    assert run(interpreter, "return redis.call('LONG', 10)") == b"x" * 10


def test_many_coroutines_leave_no_memory(interpreter: Interpreter) -> None:
    source = "for i = 1, 20000 do coroutine.wrap(function() end)() end return math.floor(collectgarbage('count'))"
    used = "collectgarbage() return math.floor(collectgarbage('count'))"
    run(interpreter, source)
    before = run(interpreter, used)
    for _ in range(5):
        run(interpreter, source)
    after = run(interpreter, used)
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after <= before + 100


@given(st.integers(0, 2**32 - 1))
def test_random_script_ends_and_changes_nothing(seed: int) -> None:
    interpreter = new_interpreter()
    before = fingerprint(interpreter)
    run_random_script(interpreter, seed)
    assert fingerprint(interpreter) == before


@pytest.mark.parametrize("plain", ["('a'):rep(5e5) .. 'b', 1, true", "('a'):rep(4000) .. 'b'"])
def test_long_plain_search_is_linear(interpreter: Interpreter, plain: str) -> None:
    assert run(interpreter, f"return {{('a'):rep(1e6):find({plain})}}") == []
    assert run(interpreter, f"return select(2, (('a'):rep(1e6) .. 'b'):find({plain}))") == 1_000_001


@pytest.mark.parametrize("kind", ["find", "match", "gmatch", "gsub"])
def test_host_ends_long_match(interpreter: Interpreter, kind: str) -> None:
    """As SCRIPT KILL does."""

    class Stop(ScriptAbort):
        pass

    def stop(steps: int) -> None:
        if steps > 1_000_000:
            raise Stop

    host = DictHost()
    host.on_tick = stop
    call = f"string.{kind}(('a'):rep(1e6), ('a-'):rep(100) .. 'b', '')"
    source = f"for a in {call} do end" if kind == "gmatch" else f"while true do pcall(function() {call} end) end"
    with pytest.raises(Stop):
        interpreter.run(source.encode(), [], [], host)
    assert run(interpreter, "return 1") == 1


@pytest.mark.parametrize("call", ["table.sort(t, rawequal)", "(('a,'):rep(1e5)):gsub('[^,]+', {})", "table.sort(t)"])
def test_long_call_ticks(interpreter: Interpreter, call: str) -> None:
    host = DictHost()
    interpreter.run(f"local t = {{}} for i = 1, 1e5 do t[i] = i end {call}".encode(), [], [], host)
    assert host.ticks > 2_000


UNORDERED: Value = [None, b"attempt to compare string with number"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("local t = {} for i = 1, 2000 do t[i] = 2001 - i end table.sort(t) return {t[1], t[2000]}", [1, 2000]),
        ("local t = {} for i = 1, 2000 do t[i] = i end t[9] = 'x' return {pcall(table.sort, t)}", UNORDERED),
        ("local t = {} for i = 1, 1e5 do t[i] = i % 10 end return #table.concat(t, ', ')", 299_998),
        (
            "local s = ('ab'):rep(1e5) .. 'c' return s:reverse() .. s:upper()",
            b"c" + b"ba" * 10**5 + b"AB" * 10**5 + b"C",
        ),
        ("return ('abc'):rep(1e5)", b"abc" * 100_000),
    ],
)
def test_long_call_in_parts_has_the_same_result(interpreter: Interpreter, source: str, expected: Value) -> None:
    assert run(interpreter, source) == expected


@pytest.mark.parametrize("branch", ["or", "and"])
def test_chain_that_takes_long_to_compile_is_refused(interpreter: Interpreter, branch: str) -> None:
    chain = "local a = 1 return a" + f" {branch} a" * SCRIPT_BRANCHES_MAX
    assert run(interpreter, chain) == 1
    with pytest.raises(ScriptRefused, match="too many branches"):
        run(interpreter, f"{chain} {branch} a")
    assert run(interpreter, f"return {{loadstring('return a' .. (' {branch} a'):rep(5001))}}") == []
    assert run(interpreter, f"return select(2, loadstring((' {branch} a'):rep(5001)))") == b"too many branches"
    assert run(interpreter, "return select(2, loadstring((' '):rep(2 ^ 21)))") == b"too long"

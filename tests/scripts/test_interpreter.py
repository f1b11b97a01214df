"""Scripts run as in redis-server 7.0: values, errors, the library `redis`, limits, and the end of a script."""

import hashlib

import pytest

from cairnkv.limits import SCRIPT_COMPILED_MAX, SCRIPT_NESTING_MAX
from cairnkv.protocol.resp.replies import OK, BigNumber, Error, SetOf, Simple, Value, Verbatim, encode_parts
from cairnkv.scripts import Interpreter, ScriptAbort, ScriptCache, ScriptRefused, flags_of
from tests.scripts.host import DictHost

pytest.importorskip("lupa")


@pytest.fixture(scope="module")
def interpreter() -> Interpreter:
    return Interpreter(memory_max=8 << 20, steps_max=5_000_000)


def run(interpreter: Interpreter, source: str, keys: str = "", arguments: str = "") -> Value:
    return interpreter.run(source.encode(), keys.encode().split(), arguments.encode().split(), DictHost())


def error_of(interpreter: Interpreter, source: str) -> str:
    """The text of an error, without the end that names the script."""
    reply = run(interpreter, source)
    assert isinstance(reply, Error)
    return reply.text.partition(" script: ")[0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return 'a\\0b'", b"a\0b"),
        ("return {1, 3.9, -3.9, 1/0, 0/0, 2^53 + 2}", [1, 3, -3, -(2**63), -(2**63), 2**53 + 2]),
        ("return true", 1),
        ("return false", None),
        ("return nil", None),
        ("return print == nil", None),
        ("return function() end", None),
        ("return {1, nil, 3}", [1]),
        ("return {{}, {'a', {'b'}}}", [[], [b"a", [b"b"]]]),
        ("return {ok = 'fine'}", Simple("fine")),
        ("return {err = 'My Err'}", Error("My Err")),
        ("return {1, {err = 'x'}, {ok = 'OK'}}", [1, Error("x"), OK]),
        ("return {double = 1.5}", 1.5),
        ("return {big_number = '12'}", BigNumber("12")),
        ("return {map = {a = {1}}}", {b"a": [1]}),
        ("return {set = {a = true}}", SetOf((b"a",))),
        ("return {verbatim_string = {format = 'txt', string = 'hi'}}", Verbatim(b"hi")),
        ("return setmetatable({}, {__index = function() error('no') end})", []),
        ("return KEYS", [b"k1", b"k2"]),
        ("return ARGV", [b"a"]),
        ("redis.setresp(3) return {true, false}", [True, False]),
        ("redis.setresp(3) return false", False),
    ],
)
def test_returned_value_becomes_reply(interpreter: Interpreter, source: str, expected: Value) -> None:
    reply = run(interpreter, source.replace("print == nil", "rawget(_G, 'print')"), "k1 k2", "a")
    assert reply == expected
    assert type(reply) is type(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return redis.call('SET', 'a', 'b')", OK),
        ("redis.call('SET', 'a', 2) return redis.call('GET', 'a')", b"2"),
        ("redis.call('SET', 'a', 0.1) return redis.call('GET', 'a')", b"0.10000000000000001"),
        ("redis.call('SET', 'a', 2^53) return redis.call('GET', 'a')", b"9007199254740992"),
        ("return redis.call('GET', 'none')", None),
        ("return redis.call('GET', 'none') == false", 1),
        ("redis.setresp(3) return redis.call('GET', 'none') == nil", True),
        ("return redis.call('ECHO', 'a', 'b', 'c', 'd', 'e')", [b"a", b"b", b"c", b"d", b"e"]),
        ("return redis.call('SET', 'a', 'b').ok", b"OK"),
        ("return #redis.call('LONG', 100000)", 100_000),
        ("return {#redis.call('MANY', 1000), redis.call('MANY', 10000)[10000]}", [1000, b"9999"]),
        ("return redis.call('MANY', 5001)", [b"%d" % number for number in range(5001)]),
        ("local t = {} for i = 1, 7998 do t[i] = i end return redis.call('COUNT', unpack(t))", 7998),
        ("return redis.pcall('NOPE').err", b"ERR Unknown Redis command called from script"),
        ("return redis.pcall('NOPE')", Error("ERR Unknown Redis command called from script")),
        ("return {pcall(redis.call, 'NOPE')}", [None, b"ERR Unknown Redis command called from script"]),
        ("return redis.pcall()", Error("ERR Please specify at least one argument for this redis lib call")),
        ("return redis.pcall('GET', {})", Error("ERR Lua redis lib command arguments must be strings or integers")),
        ("return redis.error_reply('x')", Error("ERR x")),
        ("return redis.error_reply('-A x')", Error("A x")),
        ("return redis.error_reply('My Err')", Error("My Err")),
        ("return redis.error_reply(1)", Error("ERR wrong number or type of arguments")),
        ("return redis.status_reply('x')", Simple("x")),
        ("return redis.sha1hex('a')", hashlib.sha1(b"a").hexdigest().encode()),
        ("return {redis.breakpoint(), redis.replicate_commands()}", [None, 1]),
        ("return {redis.acl_check_cmd('GET', 'a'), redis.acl_check_cmd('SET', 'a', 'b')}", [1, None]),
        ("return {string.find(1234, 23)}", [2, 3]),
        ("return {string.rep(12, 2), string.rep('', 5), string.rep('x', -1)}", [b"1212", b"", b""]),
        ("local t = {1} table.insert(t, 5, 'x') table.insert(t, 1, 'y') return {t[1], t[5]}", [b"y", b"x"]),
        ("local t = {1, 2, 3} table.insert(t, 2, 'x') return {t[1], t[2], table.remove(t, 1), #t}", [1, b"x", 1, 3]),
        ("return redis.set_repl(redis.REPL_ALL)", None),
        ("return redis.REDIS_VERSION_NUM", 0x070200),
        ("math.randomseed(1) return {math.random(1, 1000), math.random(5), math.random() * 1e9}", [42, 3, 834_817_218]),
    ],
)
def test_library_redis(interpreter: Interpreter, source: str, expected: Value) -> None:
    assert run(interpreter, source) == expected


def test_replies_of_commands_become_values(interpreter: Interpreter) -> None:
    text = b"1180591620717411303424"
    expected = [1, b"text", None, [OK, Error("E x"), []], b"1.5", [b"a", 1], [b"x"], b"hi", text, 1]
    assert run(interpreter, "return redis.call('VALUES')") == expected
    source = """
        redis.setresp(3)
        local values = redis.call('VALUES')
        local list = {}
        for i = 4, 10 do list[i - 3] = values[i] end
        assert(values[3] == nil)
        return list"""
    expected = [[OK, Error("E x"), []], 1.5, {b"a": 1}, SetOf((b"x",)), Verbatim(b"hi"), BigNumber(str(2**70)), True]
    assert run(interpreter, source) == expected


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("error('x')", "ERR user_script:1: x"),
        ("error({err = 'A b'})", "A b"),
        ("error()", "ERR nil"),
        ("\nlocal t = {}\nreturn t.x.y", "ERR user_script:3: attempt to index field 'x' (a nil value)"),
        ("foo = 1", "ERR user_script:1: Attempt to modify a readonly table"),
        ("return foo", "ERR user_script:1: Script attempted to access nonexistent global variable 'foo'"),
        ("return _G[{}]", "ERR user_script:1: Second argument to luaProtectedTableError must be a string or number"),
        ("return rawset(_G, 'a', 1)", "ERR Attempt to modify a readonly table"),
        ("return table.insert(_G, 'a')", "ERR Attempt to modify a readonly table"),
        ("return setmetatable(_G, {})", "ERR Attempt to modify a readonly table"),
        ("return redis.call('NOPE')", "ERR Unknown Redis command called from script"),
        ("return redis.call()", "ERR Please specify at least one argument for this redis lib call"),
        ("return redis.call(true)", "ERR Lua redis lib command arguments must be strings or integers"),
        ("return redis.sha1hex()", "ERR wrong number of arguments"),
        ("redis.log(1)", "ERR redis.log() requires two arguments or more."),
        ("redis.log('a', 'x')", "ERR First argument must be a number (log level)."),
        ("redis.log(9, 'x')", "ERR Invalid debug level."),
        ("redis.setresp(4)", "ERR RESP version must be 2 or 3."),
        ("redis.set_repl(99)", "ERR Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE."),
        ("redis.acl_check_cmd('nope')", "ERR Invalid command passed to redis.acl_check_cmd()"),
        ("string.rep({})", "ERR user_script:1: bad argument #1 to 'rep' (string expected, got table)"),
        ("\nstring.rep('x', {})", "ERR user_script:2: bad argument #2 to 'rep' (number expected, got table)"),
        ("table.insert({}, 1, 2, 3)", "ERR user_script:1: wrong number of arguments to 'insert'"),
        ("coroutine.yield()", "ERR attempt to yield across metamethod/C-call boundary"),
        ("coroutine.wrap(function() error('x') end)()", "ERR user_script:1: user_script:1: x"),
        ("local function f() f() end f()", "ERR user_script:1: stack overflow"),
        ("error({err = 5})", "5"),
        ("table.insert('x', 1)", "ERR user_script:1: bad argument #1 to 'insert' (table expected, got string)"),
        ("rawget(nil, 1)", "ERR user_script:1: bad argument #1 to 'rawget' (table expected, got nil)"),
        ("rawset(1, 1, 1)", "ERR user_script:1: bad argument #1 to 'rawset' (table expected, got number)"),
        ("pairs(nil)", "ERR user_script:1: bad argument #1 to 'pairs' (table expected, got nil)"),
        ("setmetatable({}, 1)", "ERR user_script:1: bad argument #2 to 'setmetatable' (nil or table expected)"),
        ("loadstring('x', {})", "ERR user_script:1: bad argument #2 to 'loadstring' (string expected, got table)"),
        ("math.random(1e15)", "ERR user_script:1: bad argument #1 to 'random' (interval is empty)"),
        ("math.random(0)", "ERR user_script:1: bad argument #1 to 'random' (interval is empty)"),
        ("math.random({})", "ERR user_script:1: bad argument #1 to 'random' (number expected, got table)"),
    ],
)
def test_error_of_a_script(interpreter: Interpreter, source: str, text: str) -> None:
    assert error_of(interpreter, source) == text


def test_reply_in_resp3_keeps_its_kinds(interpreter: Interpreter) -> None:
    source = """return {{map = {[1] = 2}}, {verbatim_string = {format = 'x', string = 'hi'}},
        {set = {[{big_number = '12'}] = true}}}"""
    reply = run(interpreter, source)
    assert b"".join(encode_parts(reply, 3)) == b"*3\r\n%1\r\n:1\r\n:2\r\n=6\r\nx  :hi\r\n~1\r\n(12\r\n"
    assert b"".join(encode_parts(reply, 2)) == b"*3\r\n*2\r\n:1\r\n:2\r\n$2\r\nhi\r\n*1\r\n$2\r\n12\r\n"


def test_error_names_the_script_and_the_line(interpreter: Interpreter) -> None:
    source = "\nreturn redis.call('NOPE')"
    sha1 = hashlib.sha1(source.encode()).hexdigest()
    text = f"ERR Unknown Redis command called from script script: {sha1}, on @user_script:2."
    assert run(interpreter, source) == Error(text)


def test_invalid_source_is_refused(interpreter: Interpreter) -> None:
    with pytest.raises(ScriptRefused) as refused:
        interpreter.compile(b"x x")
    assert str(refused.value) == "ERR Error compiling script (new function): user_script:1: '=' expected near 'x'"
    with pytest.raises(ScriptRefused):
        interpreter.compile(b"\x1bLua")


def test_header_has_flags(interpreter: Interpreter) -> None:
    assert flags_of(b"return 1") is None
    assert flags_of(b"#!lua\nreturn 1") == frozenset()
    assert flags_of(b"#!lua flags=no-writes,allow-oom\nreturn 1") == {"no-writes", "allow-oom"}
    assert error_of(interpreter, "#!lua\n\nerror('x')") == "ERR user_script:3: x"
    for source, text in (
        (b"#!lua", "ERR Invalid script shebang"),
        (b"#!python\n", "ERR Unexpected engine in script shebang: #!python"),
        (b"#!lua flags=bad\n", "ERR Unexpected flag in script shebang: bad"),
        (b"#!lua other\n", "ERR Unknown lua shebang option: other"),
    ):
        with pytest.raises(ScriptRefused) as refused:
            interpreter.compile(source)
        assert str(refused.value) == text


def test_script_writes_to_the_logger(interpreter: Interpreter) -> None:
    host = DictHost()
    interpreter.run(b"redis.log(redis.LOG_WARNING, 'a', 1, {}, 'b')", [], [], host)
    assert host.lines == [(3, b"a 1 b")]


class Stop(ScriptAbort):
    pass


@pytest.mark.parametrize(
    "source",
    [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "local f = coroutine.wrap(function() while true do end end) while true do pcall(f) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do load(function() while true do end end) end",
        "while true do pcall(string.gsub, ('x'):rep(1000), 'x', function() while true do end end) end",
        "local t = setmetatable({}, {__call = function() while true do end end}) while true do pcall(t) end",
    ],
)
def test_script_that_has_to_end_ends(interpreter: Interpreter, source: str) -> None:
    """By an exception of the host, which comes out unchanged, and by the limit on steps."""
    host = DictHost()
    stop = Stop()

    def raise_stop(steps: int) -> None:
        if steps > 20_000:
            raise stop

    host.on_tick = raise_stop
    with pytest.raises(Stop) as raised:
        interpreter.run(source.encode(), [], [], host)
    assert raised.value is stop
    assert error_of(interpreter, source) == "ERR the script needs more steps than the limit, 5000000"
    assert run(interpreter, "return 1") == 1


def test_exception_of_a_command_comes_out(interpreter: Interpreter) -> None:
    for source in ("return redis.call('BUG')", "while true do pcall(redis.pcall, 'BUG') end"):
        with pytest.raises(ZeroDivisionError):
            run(interpreter, source)
        assert run(interpreter, "return redis.call('GET', 'a')") is None


def test_script_cannot_run_within_a_script(interpreter: Interpreter) -> None:
    host = DictHost()

    def run_another(_: int) -> None:
        run(interpreter, "return 1")

    host.on_tick = run_another
    with pytest.raises(RuntimeError):
        interpreter.run(b"for i = 1, 1e6 do end", [], [], host)


@pytest.mark.parametrize(
    "source",
    [
        "local s = 'x' while true do s = s .. s end",
        "return string.rep('x', 5e7)",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t[#t + 1] = #t .. ('x'):rep(99) end",
        "return redis.call('LONG', 12000000)",
        "local s = redis.call('LONG', 5000000) return s .. s",
        "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end",
    ],
)
def test_memory_is_limited(interpreter: Interpreter, source: str) -> None:
    assert error_of(interpreter, source) == "ERR the script needs more memory than the limit, 8388608 bytes"
    assert run(interpreter, "return 1") == 1


def test_arguments_beyond_the_memory_limit_are_refused(interpreter: Interpreter) -> None:
    text = "ERR the script needs more memory than the limit, 8388608 bytes"
    host = DictHost()
    assert interpreter.run(b"return 1", [], [b"x" * (8 << 20)], host) == Error(text)
    assert interpreter.run(b"return #ARGV[1]", [], [b"x" * (4 << 20)], host) == 4 << 20
    assert interpreter.run(b"return {#KEYS, #ARGV, KEYS[3], ARGV[1]}", [b"k"] * 3, [b"a"] * 9000, host) == [
        3,
        9000,
        b"k",
        b"a",
    ]


def test_reply_is_limited(interpreter: Interpreter) -> None:
    for depth in (SCRIPT_NESTING_MAX, SCRIPT_NESTING_MAX + 1):
        reply = run(interpreter, f"local t = {{}} for i = 2, {depth} do t = {{t}} end return t")
        assert isinstance(reply, list) == (depth == SCRIPT_NESTING_MAX)
    assert "reached lua stack limit" in error_of(interpreter, "local a = {} a[1] = a return a")
    source = "local s, t = ('x'):rep(2^20), {} for i = 1, 66 do t[i] = s end return t"
    assert error_of(interpreter, source) == "ERR the reply of the script has more than 68157440 bytes"


def test_compiled_scripts_are_limited() -> None:
    interpreter = Interpreter()
    for number in range(SCRIPT_COMPILED_MAX + 10):
        assert run(interpreter, f"return {number}") == number
    assert run(interpreter, "return 0") == 0


def test_long_compiled_scripts_are_limited() -> None:
    """Without the limit, the interpreter would begin anew again and again."""
    interpreter = Interpreter(memory_max=8 << 20)
    body = "local function f(x) return x + 1 end " * 100
    for number in range(200):
        assert run(interpreter, f"do {body} end return {number}") == number


class TestScriptCache:
    def test_keeps_sources_by_their_sha1(self) -> None:
        cache = ScriptCache()
        sha1 = cache.add(b"return 1")
        assert sha1 == hashlib.sha1(b"return 1").hexdigest().encode()
        assert cache.get(sha1) == cache.get(sha1.upper()) == b"return 1"
        assert sha1 in cache
        assert cache.get(b"0" * 40) is None
        assert (len(cache), cache.used_bytes) == (1, 8)
        cache.clear()
        assert (len(cache), cache.used_bytes) == (0, 0)
        assert cache.get(sha1) is None

    def test_removes_the_oldest_scripts(self) -> None:
        cache = ScriptCache(count_max=2, bytes_max=10)
        first, second, third = (cache.add(source) for source in (b"a", b"b", b"c"))
        assert (first in cache, second in cache, third in cache) == (False, True, True)
        fourth = cache.add(b"d" * 9)
        assert (second in cache, third in cache, fourth in cache) == (False, True, True)
        fifth = cache.add(b"e" * 11)
        assert len(cache) == 1
        assert fifth in cache


@pytest.mark.parametrize(
    "source",
    [
        "local n = 0 for i = 1, 30000 do n = n + 1 end return n",
        "return coroutine.wrap(function() local n = 0 for i = 1, 30000 do n = n + 1 end return n end)()",
        "local n = 0 string.gsub(('x'):rep(30000), 'x', function() n = n + 1 end) return n",
        "local n = 0 while n < 30000 do n = n + (pcall(rawequal, 1, 1) and 1) end return n",
        "local t, n = {}, 0 for i = 1, 3000 do t[i] = i % 7 end "
        "table.sort(t, function(a, b) n = n + 1 return a < b end) return n > 0 and 30000",
        "local n = 0 for i = 1, 3000 do n = n + #redis.call('LONG', 10) end return n",
    ],
)
def test_script_pauses_in_a_greenlet(interpreter: Interpreter, source: str) -> None:
    greenlet = pytest.importorskip("greenlet").greenlet
    host = DictHost()
    attempt = greenlet(lambda: interpreter.run(source.encode(), [], [], host))
    host.on_tick = lambda _: attempt.parent.switch(None)
    pauses = 0
    outcome = attempt.switch()
    while not attempt.dead:
        pauses += 1
        outcome = attempt.switch()
    assert outcome == 30_000
    assert pauses == host.ticks > 3


def test_paused_script_ends_by_an_exception(interpreter: Interpreter) -> None:
    greenlet = pytest.importorskip("greenlet").greenlet
    host = DictHost()
    source = b"coroutine.wrap(function() while true do pcall(function() while true do end end) end end)()"
    attempt = greenlet(lambda: interpreter.run(source, [], [], host))
    host.on_tick = lambda _: attempt.parent.switch(None)
    for _ in range(5):
        assert attempt.switch() is None
    with pytest.raises(Stop):
        attempt.throw(Stop)
    assert run(interpreter, "return 1") == 1

"""Random scripts: calls of all functions that scripts see, with all kinds of arguments, caught or not."""

import random

VALUES = (
    "nil",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "2.5",
    "1e15",
    "2^53",
    "2^63",
    "-2^63",
    "1e308",
    "1/0",
    "-1/0",
    "0/0",
    "''",
    "'a'",
    "'%s%d%q'",
    "'[%a]+'",
    "'(.-)%1'",
    "'%f[%w]x-'",
    "'\\0\\255\\n'",
    "'{\"a\":[1,2,null]}'",
    "'\\147\\1\\2\\3'",
    "'>i4s'",
    "('x'):rep(5000)",
    "('ab'):rep(400000)",
    "{}",
    "{1, 2, 3}",
    "{a = 1, b = {c = 'd'}}",
    "{1, nil, 3, [10] = 4}",
    "{ok = 'fine'}",
    "{err = 'bad'}",
    "{map = {a = 1}}",
    "{double = 1.5}",
    "setmetatable({}, {__index = function(t, k) return k end, __call = function(...) return ... end})",
    "setmetatable({}, {__index = error, __newindex = error, __tostring = error, __eq = error, __len = error})",
    "function(...) return ... end",
    "function() error({}) end",
    "function() error('x', 2) end",
    "function(...) return redis.call('GET', 'a') end",
    "function() while true do end end",
    "coroutine.create(function(...) return coroutine.yield(...) end)",
    "coroutine.wrap(function(...) while true do coroutine.yield(...) end end)",
    "KEYS",
    "ARGV",
    "_G",
    "redis",
    "string",
    "cjson.null",
)

COMMANDS = (
    "'GET', 'a'",
    "'SET', 'a', 'b'",
    "'VALUES'",
    "'MANY', 500",
    "'LONG', 100000",
    "'NOPE'",
    "'ECHO', 1, 2.5, 'x', 'y', 'z'",
    "'COUNT', unpack(ARGV)",
    "'COUNT', {}",
    "",
)

FUNCTIONS = """
    assert error getmetatable ipairs next pairs pcall rawequal rawget rawset select setmetatable tonumber tostring type
    unpack xpcall load loadstring collectgarbage gcinfo
    redis.call redis.pcall redis.log redis.setresp redis.sha1hex redis.error_reply redis.status_reply redis.set_repl
    redis.acl_check_cmd redis.breakpoint redis.debug redis.replicate_commands
    string.byte string.char string.find string.format string.gfind string.gmatch string.gsub string.len string.lower
    string.match string.rep string.reverse string.sub string.upper
    table.concat table.foreach table.foreachi table.getn table.insert table.maxn table.remove table.setn table.sort
    math.abs math.ceil math.floor math.fmod math.frexp math.ldexp math.max math.modf math.pow math.random
    math.randomseed
    coroutine.create coroutine.resume coroutine.running coroutine.status coroutine.wrap coroutine.yield
    cjson.encode cjson.decode cjson.encode_sparse_array cjson.encode_max_depth cjson.decode_max_depth
    cjson.encode_number_precision cjson.encode_keep_buffer cjson.encode_invalid_numbers cjson.decode_invalid_numbers
    cjson.new
    cmsgpack.pack cmsgpack.unpack cmsgpack.unpack_one cmsgpack.unpack_limit
    bit.tobit bit.tohex bit.bnot bit.band bit.bor bit.bxor bit.lshift bit.rshift bit.arshift bit.rol bit.ror bit.bswap
    struct.pack struct.unpack struct.size
""".split()  # noqa: SIM905

CATCHES = ("{}", "pcall(function() {} end)", "coroutine.wrap(function() {} end)()", "xpcall(function() {} end, error)")


def program(chance: random.Random) -> str:
    """Return the source of a script. Some are not valid Lua."""
    lines = ["local v = {}", *(_statement(chance, number) for number in range(chance.randrange(1, 12)))]
    lines.append(f"return {_value(chance)}" if chance.random() < 0.7 else "return v")
    source = "\n".join(lines)
    if chance.random() < 0.03:
        at = chance.randrange(len(source))
        source = source[:at] + chance.choice(("end", "(", "\\", "'", "\x1bLua", "]]", "--[[")) + source[at:]
    return source


def _statement(chance: random.Random, number: int) -> str:
    function = chance.choice(FUNCTIONS)
    if function in ("redis.call", "redis.pcall"):
        arguments = chance.choice(COMMANDS)
    else:
        arguments = ", ".join(_value(chance) for _ in range(chance.randrange(5)))
    kind = chance.random()
    if kind < 0.6:
        call = f"v[{number + 1}] = select(2, pcall({function}{', ' if arguments else ''}{arguments}))"
    elif kind < 0.8:
        call = f"v[{number + 1}] = {{pcall(function() return {function}({arguments}) end)}}"
    elif kind < 0.9:
        call = f"v[{number + 1}] = {function}({arguments})"
    elif kind < 0.95:
        call = f"{chance.choice(FUNCTIONS)} = {_value(chance)}"
    else:
        call = f"local t = {_value(chance)} if type(t) == 'table' then t[{_value(chance)}] = {_value(chance)} end"
    call = chance.choice(CATCHES).format(call) if chance.random() < 0.3 else call
    return f"for i = 1, {chance.choice((2, 50))} do {call} end" if chance.random() < 0.1 else f"do {call} end"


def _value(chance: random.Random) -> str:
    if chance.random() < 0.2:
        return f"v[{chance.randrange(1, 12)}]"
    if chance.random() < 0.05:
        return chance.choice(FUNCTIONS)
    return chance.choice(VALUES)

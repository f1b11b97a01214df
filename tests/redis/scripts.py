"""Random Lua scripts for the differential test, and the commands that run them.

Two servers that agree give equal replies: a script has a bounded number of steps, shows no address of a table, goes
through no table in the order of its hash, and asks for nothing that depends on the time or on chance. It calls commands
of `programs`, without those that cairnkv is known to refuse, and raises no table without a text, at which Redis 7.0
crashes.
"""

import hashlib

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.redis.programs import COMMANDS, agrees, key, maybe, several, some, value, words
from tests.support.raw_resp import Words

Text = SearchStrategy[str]
"""A part of a script."""

STATEMENTS = 5
"""Statements of a block, at most."""

NAMES = ("a", "b", "c")


def quoted(string: bytes) -> str:
    """A Lua string."""
    return (
        '"' + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03}" for byte in string) + '"'
    )


def put_together(pattern: str, *parts: Text) -> Text:
    """A text with a part in the place of each `{}`."""
    return st.tuples(*parts).map(lambda found: pattern.replace("{}", "%s") % found)


def one(*texts: str) -> Text:
    return st.sampled_from(texts)


# -- expressions -------------------------------------------------------------------------------------------------------

number = one(
    "0", "1", "-1", "2", "3", "3.5", "-0.1", "1e15", "1e100", "2^53", "2^53+1", "1/0", "-1/0", "1e20", "0x10", "-7.999",
    "123456789012345678", "9223372036854775807", "-9223372036854775808", "0.1", "1e-7",
)  # fmt: skip
string = st.one_of(
    value.map(quoted),
    one(
        '""', '"a"', '"abc"', '"10"', '"0x10"', '"1e2"', '"[1,2]"', '"{\\"a\\":[1,null,true]}"', '"[1,"', '"\\\\u00e9"'
    ),
    key.map(quoted),
)
line = string.filter(lambda text: "\\000" not in text)
scalar = st.one_of(
    number, string, one("nil", "true", "false", "KEYS[1]", "ARGV[1]", "#KEYS", "KEYS[9]", "redis.LOG_DEBUG")
)
leaf = st.one_of(scalar, scalar, one("KEYS", "ARGV", "redis.REPL_ALL", *NAMES, *NAMES, "nope"))

KINDS = {
    "s": "string.len string.lower string.upper string.reverse string.byte tonumber cjson.decode redis.sha1hex "
    "cmsgpack.unpack loadstring",
    "l": "redis.error_reply redis.status_reply",
    "sn": "string.sub string.byte tonumber struct.unpack",
    "snn": "string.sub string.byte",
    "n": "math.floor math.ceil math.abs math.sqrt string.char bit.bnot bit.tobit bit.tohex bit.bswap redis.setresp "
    "tostring cjson.encode math.max bit.band",
    "nn": "math.max math.min math.fmod math.pow bit.band bit.bor bit.bxor bit.lshift bit.rshift bit.arshift bit.rol "
    "bit.ror bit.tohex math.ldexp",
    "t": "table.concat table.getn table.maxn unpack next cjson.encode cmsgpack.pack type",
    "ts": "table.concat rawget",
    "tn": "unpack rawget",
    "x": "type cjson.encode cmsgpack.pack assert redis.log print require rawlen redis.breakpoint redis.debug "
    "redis.replicate_commands redis.set_repl redis.acl_check_cmd redis.call redis.pcall dofile load "
    "struct.size",
    "nx": "select redis.log redis.set_repl",
    "xx": "rawequal assert cmsgpack.pack redis.acl_check_cmd setfenv struct.pack redis.call",
}
"""Functions of Redis' scripts by the arguments that they want, and some that are not there.

s: a string. l: one without a zero byte, which ends a status and an error of Redis. n: a number. t: a table. x: any
value.
"""

FUNCTIONS = [(name, kinds) for kinds, names in KINDS.items() for name in names.split()]
TOLERANT = [name for name, kinds in FUNCTIONS if "." in name and kinds != "l" and not name.startswith("table.")]
"""Those whose errors about wrong arguments have the text of Redis."""

pattern = one('"a+"', '"%d"', '"(.)"', '".-b"', '"%f[%w]"', '"()"', '"^x*$"', '"%b()"')
form = one(
    '"%d"', '"%5.2f"', '"%s"', '"%q"', '"%x"', '"%c"', '"%e"', '"%g"', '"%o"', '"%u"', '"%i"', '"%%"', '"%y"', '"%"',
    '"%-10s|"', '"%010.3d"', '"%100d"', '"%+d %s"', '"%.20s"', '"%.14g"', '"%p"',
)  # fmt: skip
name = one(*NAMES)
drawn = one("", "1", "10", "2, 5", "0", "5, 2", '"x"', '"3"', "{}", "1, 2, 3")
packing = one('"b"', '">I2"', '"<i4"', '"s"', '"c0"', '"Bc3"', '"d"', '"f"', '"!4bi"', '"i33"', '"xx"', '"z"', '"l"')
OPERATORS = ("+", "-", "*", "/", "%", "^", "..", "==", "~=", "<", "<=", ">", ">=", "and", "or")


def _grown(part: Text) -> Text:
    arguments = st.lists(part, max_size=3).map(", ".join)
    table = st.lists(part, max_size=3).map(lambda items: "{" + ", ".join(items) + "}")
    by_kind = {"s": string, "l": line, "n": number, "t": table, "x": part}

    def called_well(found: tuple[str, str]) -> Text:
        function, kinds = found
        return put_together(f"{function}({', '.join('{}' for _ in kinds)})", *(by_kind[kind] for kind in kinds))

    return st.one_of(
        put_together("({} {} {})", part, st.sampled_from(OPERATORS), part),
        put_together("({} {} {})", number, st.sampled_from(OPERATORS), number),
        put_together("({}{})", one("not ", "-", "#"), part),
        table,
        put_together("{[1] = {}, [3] = {}}", part, part),
        put_together("{{} = {}}", one("ok", "err"), line),
        put_together("{x = {}}", part),
        put_together("{double = {}}", one("0", "3.5", "-1e100", "1/0", '"x"', "nil")),
        put_together("{map = {[{}] = {}}}", string, part),
        put_together("{set = {[{}] = {}}}", st.one_of(string, number), part),
        put_together("{verbatim_string = {string = {}, format = {}}}", string, one('"txt"', '"mkd"')),
        one('{big_number = "1234567999999999999999999999999999999"}'),
        st.sampled_from(FUNCTIONS).flatmap(called_well),
        st.sampled_from(FUNCTIONS).flatmap(called_well),
        put_together("{}({})", st.sampled_from(TOLERANT), arguments),
        put_together("tostring({})", scalar),
        put_together("error({}, {})", st.one_of(line, number), one("0", "1")),
        put_together("string.rep({}, {})", part, one("0", "1", "3", "-1")),
        put_together("string.{}({}, {})", one("find", "match", "gmatch", "gfind"), part, pattern),
        put_together("string.gsub({}, {}, {})", part, pattern, string),
        put_together("string.format({}, {})", form, part),
        put_together("struct.pack({}, {}, {})", packing, part, part),
        put_together("struct.unpack({}, {})", packing, part),
        put_together("cmsgpack.unpack(cmsgpack.pack({}))", part),
        put_together("cjson.decode(cjson.encode({}))", part),
        put_together("({})[{}]", part, part),
        put_together("({}).x", part),
        put_together("(function() math.randomseed({}) return math.random({}) end)()", one("0", "3", "-1.5"), drawn),
        called,
    )


# -- calls of commands -------------------------------------------------------------------------------------------------

CALLED = (
    b"GET", b"GETSET", b"GETDEL", b"SETNX", b"MGET", b"MSET", b"MSETNX", b"APPEND", b"STRLEN", b"GETRANGE", b"SETRANGE",
    b"INCR", b"DECR", b"INCRBY", b"DECRBY", b"INCRBYFLOAT", b"BITCOUNT", b"GETBIT", b"SETBIT", b"DEL", b"UNLINK",
    b"EXISTS", b"TYPE", b"RENAME", b"RENAMENX", b"COPY", b"DBSIZE", b"PING", b"ECHO", b"PUBLISH", b"SELECT", b"MULTI",
    b"EXEC", b"WATCH", b"UNWATCH", b"AUTH", b"HELLO", b"RESET", b"NOSUCH", b"get\r\n",
)  # fmt: skip

FURTHER: dict[bytes, SearchStrategy[Words]] = {
    b"SET": words(key, value, maybe(some(b"NX", b"XX", b"GET", b"KEEPTTL", b"x"))),
    b"SETEX": words(key, some(b"10000", b"0", b"x"), value),
    b"PERSIST": words(key),
    b"SUBSCRIBE": words(some(b"c", b"channel")),
    b"EVAL": words(some(b"return 1", b"x"), some(b"0", b"1", b"x")),
    b"SCRIPT": words(some(b"LOAD", b"FLUSH", b"KILL", b"nosuch"), maybe(some(b"return 1"))),
    b"CLIENT": words(some(b"GETNAME", b"nosuch", b"ID")),
    b"CONFIG": words(some(b"GET", b"RESETSTAT", b"nosuch"), some(b"nosuch")),
    b"WAIT": words(some(b"0", b"x"), some(b"0")),
}


@st.composite
def _words_of_call(draw: st.DrawFn) -> Words:
    name = draw(st.sampled_from((*CALLED, *FURTHER, b"SET", b"SET", b"GET", b"INCR")))
    given = (name, *draw(FURTHER[name] if name in FURTHER else COMMANDS[name]))
    if draw(st.integers(0, 9)) == 0:
        given = given[:-1] if len(given) > 1 and draw(st.booleans()) else (*given, b"x")
    return given


def _call(parts: tuple[Words, str, str | None, int]) -> str:
    given, function, odd, at = parts
    texts = [quoted(word) for word in given]
    if odd is not None:
        texts[at % len(texts)] = odd
    return f"redis.{function}({', '.join(texts)})"


odd_argument = st.one_of(
    st.none(), st.none(), st.none(), one("1", "1.5", "-0", "1e20", "true", "nil", "{}", "ARGV[1]", "KEYS")
)
called = st.tuples(_words_of_call().filter(agrees), one("call", "pcall"), odd_argument, st.integers(0, 5)).map(_call)
expression = st.recursive(leaf, _grown, max_leaves=5)
plain = st.one_of(scalar, st.lists(scalar, max_size=4).map(lambda items: "{" + ", ".join(items) + "}"))

# -- statements --------------------------------------------------------------------------------------------------------

simple = st.one_of(
    put_together("local {} = {}", name, expression),
    put_together("local {} = {}", name, expression),
    put_together("local {} = {}", name, called),
    put_together("local {}, {} = pcall(redis.call, {}, {})", name, name, string, expression),
    put_together("local {}, {} = pcall(function() return {} end)", name, name, expression),
    put_together("local {} = function(x, ...) return {}, x, ... end", name, expression),
    put_together("local {} = {}({})", name, name, expression),
    put_together("{} = {}", one(*NAMES, "redis", "KEYS[1]", "string.x", "a.x"), expression),
    called,
    put_together("redis.setresp({})", one("2", "3", "3", "4", "x")),
    put_together("error({})", st.one_of(line, number, one("nil", "true"))),
    put_together("error({err = {}})", line),
    put_together("do local t = {{}} table.{}(t, {}) a = t end", expression, one("insert", "remove"), expression),
    put_together("do local t = {{}, {}, {}} table.sort(t) b = t end", scalar, scalar, scalar),
)


def _blocks(statement: Text) -> Text:
    block = st.lists(statement, max_size=2).map(" ".join)
    return st.one_of(
        put_together("if {} then {} else {} end", expression, block, block),
        put_together("for i = {}, {} do {} end", one("1", "0", "3", '"1"'), one("1", "2", "nil"), block),
        put_together("for i, v in ipairs({}) do {} end", expression, block),
        put_together("do return {} end", expression),
    )


statement = st.recursive(simple, _blocks, max_leaves=3)


@st.composite
def scripts(draw: st.DrawFn) -> bytes:
    """A script: statements, of which the first error ends it, or expressions of which each may fail."""
    separator = draw(one("\n", " ", "; "))
    first = draw(put_together("local a, b, c = {}, {}, {}", plain, scalar, scalar))
    if draw(st.booleans()):
        tried = draw(st.lists(expression, min_size=1, max_size=STATEMENTS))
        statements = ["local r = {}", first]
        statements += [f"r[#r + 1] = {{pcall(function() return {text} end)}}" for text in tried]
        result = "r"
    else:
        statements = [first, *draw(st.lists(statement, max_size=STATEMENTS))]
        result = ", ".join(draw(st.lists(st.one_of(expression, name), max_size=2)))
    text = separator.join([*statements, f"return {result}"])
    if draw(st.integers(0, 29)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return text.encode("latin-1")


# -- commands ----------------------------------------------------------------------------------------------------------

keys_and_arguments = st.tuples(st.lists(key, max_size=3), st.lists(st.one_of(value, key), max_size=3))


def _arguments(found: tuple[list[bytes], list[bytes]]) -> Words:
    keys, arguments = found
    return (b"%d" % len(keys), *keys, *arguments)


after_the_script = keys_and_arguments.map(_arguments)
KNOWN = (b"return redis.call('GET', KEYS[1])", b"return redis.call('INCR', KEYS[1])", b"return {KEYS, ARGV}")
"""Scripts that SCRIPT LOAD may have loaded before EVALSHA."""

hashes = some(*(hashlib.sha1(script).hexdigest().encode() for script in KNOWN), b"x", b"F" * 40, b"")

ABOUT_SCRIPTS: dict[bytes, SearchStrategy[Words]] = {
    b"EVAL": words(scripts(), after_the_script),
    b"EVAL_RO": words(scripts(), after_the_script),
    b"EVALSHA": words(hashes, after_the_script),
    b"EVALSHA_RO": words(hashes, after_the_script),
    b"SCRIPT": st.one_of(
        words(b"LOAD", st.one_of(some(*KNOWN), scripts())),
        words(b"EXISTS", several(hashes, 0, 3)),
        words(b"FLUSH", maybe(some(b"ASYNC", b"sync", b"x"))),
        words(some(b"KILL", b"nosuch"), maybe(some(b"x"))),
    ),
}

MIXED = (
    b"EVAL",
    b"EVAL",
    b"EVAL",
    b"EVAL_RO",
    b"EVALSHA",
    b"EVALSHA_RO",
    b"SCRIPT",
    b"SET",
    b"GET",
    b"MULTI",
    b"EXEC",
    b"WATCH",
)


class Vocabulary(dict[bytes, SearchStrategy[Words]]):
    """Commands, with a short name in the reports of Hypothesis."""

    def __repr__(self) -> str:
        return "SCRIPT_COMMANDS"


SCRIPT_COMMANDS = Vocabulary({**COMMANDS, b"SET": FURTHER[b"SET"], **ABOUT_SCRIPTS})

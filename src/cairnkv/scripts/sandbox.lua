-- The Lua side of the interpreter: the globals that scripts see, and the calls between Lua and Python.
--
-- Invariants: no object of Python reaches a script; scripts can change neither the globals nor the libraries; each
-- function here that catches errors raises ABORT again, so that a script that has to end ends.
--
-- The names of internal chunks begin with "=[C]", because Redis has C functions in their place: positions in error
-- texts skip them.

local call_host, call_host_long, next_part, log_host, set_protocol, sha1_of, permits, tick, find_plain, patterns,
    settings = ...
local as_function = python.as_function

local assert, error, ipairs, next, pairs, rawequal, rawget, rawset, select, setfenv, setmetatable, tonumber, tostring,
    type, unpack = assert, error, ipairs, next, pairs, rawequal, rawget, rawset, select, setfenv, setmetatable, tonumber,
    tostring, type, unpack
local raw_getmetatable, raw_pcall, raw_xpcall, raw_loadstring = getmetatable, pcall, xpcall, loadstring
local collect, ceil, floor, min = collectgarbage, math.ceil, math.floor, math.min
local sethook, getinfo, registry = debug.sethook, debug.getinfo, debug.getregistry()
local create_thread, resume_thread = coroutine.create, coroutine.resume
local byte, dump, find, format, gsub, rep, sub = string.byte, string.dump, string.find, string.format, string.gsub,
    string.rep, string.sub
local concat, insert, remove, sort = table.concat, table.insert, table.remove, table.sort

call_host, call_host_long, next_part = as_function(call_host), as_function(call_host_long), as_function(next_part)
log_host, set_protocol, sha1_of = as_function(log_host), as_function(set_protocol), as_function(sha1_of)
permits, tick, find_plain = as_function(permits), as_function(tick), as_function(find_plain)

local memory_soft = settings.memory_max / 1024 -- in KiB, as collectgarbage counts
local nesting_max, reply_bytes_max = settings.nesting_max, settings.reply_bytes_max

-- The end of a script from outside, and its cost.

local ABORT = {} -- the value of the error that ends a script; `aborting` tells it from one that a script has caught
local aborting = false
local steps = 0 -- of the running script, about
local interval = settings.interval
local hooked = interval -- instructions between two calls of the hook
local ticked, used_before = 0, 0 -- at the last call of `tick` by the hook: steps, and KiB of memory
local threads = false -- whether the running script has created coroutines

local own_userdata = {} -- values of the libraries, such as cjson.null: all userdata but exceptions of Python

local function is_exception(value)
    return type(value) == "userdata" and not own_userdata[value]
end

local hook

local function abort()
    aborting = true
    sethook(hook, "", 1)
    error(ABORT, 0)
end

-- Add the cost of a long operation.
local function charge(cost)
    steps = steps + floor(cost)
    if tick(steps) then abort() end
end

-- Add the cost of a short operation, of which there may be many: the hook reports it.
local function add_cost(cost)
    steps = steps + floor(cost)
end

-- Free garbage; end the script if it uses too much memory nevertheless.
local function make_room()
    local used = collect("count")
    collect()
    charge(used * 32) -- a collection costs about as much as 32 instructions for each KiB
    if collect("count") > memory_soft then
        tick(-1)
        abort()
    end
end

function hook()
    if aborting then
        -- The functions of this file raise ABORT themselves, after they have restored the state of the interpreter.
        if getinfo(2, "S").source == "=[C] sandbox" then return end
        abort()
    end
    steps = steps + hooked
    local used = collect("count")
    if used > memory_soft then make_room() end
    -- One instruction can copy all of the memory that a script uses.
    hooked = used < 1024 and interval or used < 8192 and interval / 10 or interval / 100
    -- A call of Python costs as much as a hundred instructions.
    if steps - ticked >= interval or used > used_before + 256 or used < used_before - 256 then
        ticked, used_before = steps, used
        if tick(steps) then abort() end
    end
    sethook(hook, "", hooked) -- also because the instructions of this function have been counted
end

-- Calls of the host.

local resp = 2

local BUILDERS
local function build(parts, at)
    return BUILDERS[parts[at]](parts[at + 1], parts, at + 2)
end

BUILDERS = { -- the tag of a value -> function(payload, parts, at): the value, and the place of the next one
    [0] = function(value, _, at) return value, at end,
    [1] = function(text, _, at) return { ok = text }, at end,
    [2] = function(text, _, at) return { err = text }, at end,
    [3] = function(count, parts, at)
        local array = {}
        for i = 1, count do array[i], at = build(parts, at) end
        return array, at
    end,
    [4] = function(count, parts, at)
        local map, key, value = {}
        for _ = 1, count do
            key, at = build(parts, at)
            value, at = build(parts, at)
            if key ~= nil then map[key] = value end
        end
        return { map = map }, at
    end,
    [5] = function(count, parts, at)
        local set, item = {}
        for _ = 1, count do
            item, at = build(parts, at)
            if item ~= nil then set[item] = true end
        end
        return { set = set }, at
    end,
    [6] = function(number, _, at) return { double = number }, at end,
    [7] = function(text, _, at) return { big_number = text }, at end,
    [8] = function(text, _, at)
        return { verbatim_string = { format = sub(text, 1, 3), string = sub(text, 5) } }, at
    end,
    [9] = function(_, _, at) return nil, at end,
}

local function append(parts, count, ...)
    local n = select("#", ...)
    local new = { ... }
    for i = 1, n do parts[count + i] = new[i] end
    return count + n, n > 0
end

local function built(...)
    local parts, more = { ... }, true
    local count = #parts
    while more do count, more = append(parts, count, next_part()) end
    local value = build(parts, 1)
    return value
end

-- The result of call_host: a plain value alone, or the payload and the kind of another one.
local function received(value, kind, ...)
    if kind == nil then return value end
    if kind == 1 then return { ok = value } end
    if kind == 2 then return { err = value, ignore_error_stats_update = true }, true end
    if kind == 3 then return { ... } end
    if kind == 4 then return built(...) end
    if kind == 6 then
        make_room()
        return nil, nil, true -- call again
    end
    abort()
end

local function text_of(argument)
    local kind = type(argument)
    if kind == "string" then return argument end
    if kind == "number" then return format("%.17g", argument) end
end

local function error_table(message)
    return { err = "ERR " .. message }
end

-- Call the host with many arguments: their concatenation and their lengths.
local function call_long(arguments, count)
    local lengths = {}
    for i = 1, count do lengths[i] = #arguments[i] end
    return received(call_host_long(concat(arguments, "", 1, count), concat(lengths, " ")))
end

-- Execute a command: the value; or an error table and true.
local function command_of(count, ...)
    if count == 0 then
        return error_table("Please specify at least one argument for this redis lib call"), true
    end
    local arguments = { ... }
    for i = 1, count do
        local text = text_of(arguments[i])
        if text == nil then return error_table("Lua redis lib command arguments must be strings or integers"), true end
        arguments[i] = text
    end
    local value, failed, again
    if count <= 32 then
        value, failed, again = received(call_host(unpack(arguments, 1, count)))
        if again then value, failed = received(call_host(unpack(arguments, 1, count))) end
    else
        value, failed, again = call_long(arguments, count)
        if again then value, failed = call_long(arguments, count) end
    end
    return value, failed
end

local function command(...)
    if aborting then abort() end
    local count = select("#", ...)
    local a, b, c = ...
    if count < 4 and type(a) == "string" and (count < 2 or type(b) == "string") and (count < 3 or type(c) == "string")
    then
        local value, failed, again = received(call_host(...))
        if not again then return value, failed end
    end
    return command_of(count, ...)
end

-- Return an argument. Raise the error of a C function for a wrong one, at the line that called the caller of this.
local function expect(value, kind, place, name)
    local found = type(value)
    if found == kind then return value end
    if kind == "string" and found == "number" then return tostring(value) end
    error(format("bad argument #%d to '%s' (%s expected, got %s)", place, name, kind, found), 3)
end

-- Read-only tables.

local contents = setmetatable({}, { __mode = "k" }) -- a read-only table -> the table that it shows
local READ_ONLY = "Attempt to modify a readonly table"

local function refuse()
    error(READ_ONLY, 2)
end

local function read_only(shown, missing)
    local meta = { __index = shown, __newindex = refuse }
    local table = setmetatable({}, meta)
    contents[table] = shown
    local visible = setmetatable({}, { __index = { __index = missing }, __newindex = refuse, __metatable = false })
    contents[visible] = { __index = missing }
    meta.__metatable = visible -- for getmetatable
    return table
end

local function changeable(table, name)
    if contents[table] then error(READ_ONLY, 0) end
    if type(table) ~= "table" then
        error(format("bad argument #1 to '%s' (table expected, got %s)", name, type(table)), 3)
    end
    return table
end

-- Globals.

local globals = {
    _VERSION = _VERSION,
    assert = assert,
    error = error,
    ipairs = ipairs,
    rawequal = rawequal,
    select = select,
    tonumber = tonumber,
    tostring = tostring,
    type = type,
    unpack = unpack,
}

setmetatable(globals, {
    __index = function(_, name)
        if type(name) ~= "string" and type(name) ~= "number" then
            error("Second argument to luaProtectedTableError must be a string or number", 2)
        end
        error("Script attempted to access nonexistent global variable '" .. name .. "'", 2)
    end,
})

local environment = read_only(globals, raw_getmetatable(globals).__index)
globals._G = environment

function globals.getmetatable(value)
    if type(value) == "string" then return nil end
    return raw_getmetatable(value)
end

function globals.setmetatable(table, meta)
    changeable(table, "setmetatable")
    if type(meta) ~= "table" and meta ~= nil then
        error("bad argument #2 to 'setmetatable' (nil or table expected)", 2)
    end
    return (setmetatable(table, meta))
end

function globals.rawset(table, key, value)
    return (rawset(changeable(table, "rawset"), key, value))
end

function globals.rawget(table, key)
    return (rawget(contents[table] or expect(table, "table", 1, "rawget"), key))
end

function globals.next(table, key)
    return next(contents[table] or expect(table, "table", 1, "next"), key)
end

function globals.pairs(table)
    local shown = contents[table]
    if not shown then return pairs(expect(table, "table", 1, "pairs")) end
    return function(_, key) return next(shown, key) end, table, nil
end

-- Return the problem that a function has caught, unless the script has to end.
local function caught(problem)
    if aborting or is_exception(problem) then abort() end
    return problem
end

-- The text of an error of a C function that a function of this file has called has the latter's position.
local OWN_POSITION = "^%[C%] [%w ]+:%d+: "

local function protected(ok, ...)
    if ok and not aborting then return true, ... end
    local problem = caught((...))
    if type(problem) == "table" then
        local text = problem.err
        if type(text) == "string" or type(text) == "number" then problem = text end
    elseif type(problem) == "string" and sub(problem, 1, 4) == "[C] " then
        problem = gsub(problem, OWN_POSITION, "")
    end
    return false, problem
end

function globals.pcall(...)
    return protected(raw_pcall(...))
end

local function finished(ok, ...)
    if ok and not aborting then return true, ... end
    return false, caught((...))
end

function globals.xpcall(f, handler)
    return finished(raw_xpcall(f, function(problem)
        if aborting or is_exception(problem) then return problem end
        return handler(problem)
    end))
end

-- Lua walks over a whole chain of these words for each further one.
local BRANCHES = { "or", "and", "elseif", "break" }

local function load_bounded(text, name)
    if #text > settings.source_max then return nil, "too long" end
    if #text > settings.branches_max then
        local count = 0
        for i = 1, #BRANCHES do
            local _, more = gsub(text, "%f[%w_]" .. BRANCHES[i] .. "%f[^%w_]", "")
            count = count + more
        end
        if count > settings.branches_max then return nil, "too many branches" end
    end
    return raw_loadstring(text, name)
end

local function load_text(text, name)
    if byte(text) == 27 then return nil, "attempt to load a precompiled chunk" end
    if sub(name, 1, 4) == "=[C]" then name = "=?" end
    local f, problem = load_bounded(text, name)
    if not f then return nil, problem end
    return setfenv(f, environment)
end

function globals.loadstring(text, name)
    text = expect(text, "string", 1, "loadstring")
    name = name == nil and text or expect(name, "string", 2, "loadstring")
    charge(#text / 4)
    return load_text(text, name)
end

function globals.load(pieces, name)
    expect(pieces, "function", 1, "load")
    name = name == nil and "=(load)" or expect(name, "string", 2, "load")
    local parts, count = {}, 0
    local ok, problem = finished(raw_pcall(function()
        while true do
            if aborting then abort() end
            local piece = pieces()
            if piece == nil or piece == "" then return end
            if type(piece) ~= "string" then error("reader function must return a string", 0) end
            count = count + 1
            parts[count] = piece
        end
    end))
    if not ok then return nil, problem end
    local text = concat(parts)
    charge(#text / 4)
    return load_text(text, name)
end

function globals.collectgarbage(option)
    if option == "count" then return collect("count") end
    if option == nil or option == "collect" or option == "step" then make_room() end
    return 0
end

function globals.gcinfo()
    return floor(collect("count"))
end

-- Libraries.

local resets = {} -- functions that remove what a script has set in a library

local function library(name, functions)
    globals[name] = read_only(functions)
end

local function copy(table)
    local new = {}
    for key, value in pairs(table) do new[key] = value end
    return new
end

-- Return an argument as an int of C.
local function integer(value, place, name)
    local number = tonumber(value)
    if number == nil or type(value) == "boolean" then
        error(format("bad argument #%d to '%s' (number expected, got %s)", place, name, type(value)), 3)
    end
    if not (number >= -2 ^ 63 and number < 2 ^ 63) then return 0 end
    number = number < 0 and -floor(-number) or floor(number)
    return (number + 2 ^ 31) % 2 ^ 32 - 2 ^ 31
end

-- Functions for patterns. Lua calls itself in C for each item of a pattern that may be repeated, without a limit. If a
-- call may take long, the functions of patterns.lua take the places of those of C.
local bounded, cheap, forget = patterns(add_cost, integer, find_plain)
resets[1] = forget

local PIECE = 65536 -- bytes, or items, that a function of C gets at once: the hook cannot interrupt it

local function is_c(f)
    return type(f) == "function" and getinfo(f, "S").what == "C"
end

local function bounded_search(name, f)
    local g = bounded[name]
    local is_find, is_gmatch = name == "find", name == "gmatch" or name == "gfind"
    return function(text, pattern, ...)
        text, pattern = expect(text, "string", 1, name), expect(pattern, "string", 2, name)
        local plain = is_find and select(2, ...)
        if #pattern > settings.pattern_max and not plain then error("pattern too complex", 2) end
        if is_gmatch and byte(pattern) == 94 then pattern = "%" .. pattern end -- it has no anchor
        if #text > 4096 then charge(#text / 16) end
        if name == "gsub" and #text > PIECE and (type((...)) == "table" or is_c((...))) then
            return g(text, pattern, ...) -- Lua needs long for a new string, if many have the same hash
        end
        if plain or cheap(text, pattern) then
            if not plain or #text * #pattern < 1e6 then return f(text, pattern, ...) end
        end
        return g(text, pattern, ...)
    end
end

for _, name in ipairs({ "find", "match", "gmatch", "gfind", "gsub" }) do
    string[name] = bounded_search(name, string[name])
end
local bounded_gsub = string.gsub

function string.rep(text, count)
    text = expect(text, "string", 1, "rep")
    if type(count) == "number" then
        if #text == 0 then return "" end
        if count * #text > 4096 then charge(count * #text / 64) end
        if count * #text > PIECE and #text < 256 then
            count = integer(count, 2, "rep")
            if count < 0 then return "" end
            local times, pieces = floor(4096 / #text), {}
            local piece = rep(text, times) -- C appends long texts faster
            for i = 1, count / times do pieces[i] = piece end
            pieces[#pieces + 1] = rep(text, count % times)
            return concat(pieces)
        end
    end
    return rep(text, count)
end

for _, name in ipairs({ "lower", "upper", "reverse" }) do
    local f = string[name]
    string[name] = function(...)
        local text = ...
        if type(text) ~= "string" or #text <= PIECE then return f(...) end
        local pieces, count = {}, ceil(#text / PIECE)
        for i = 1, count do
            add_cost(PIECE / 16)
            pieces[name == "reverse" and count + 1 - i or i] = f(sub(text, (i - 1) * PIECE + 1, i * PIECE))
        end
        return concat(pieces)
    end
end

string.dump = nil -- methods of strings are functions of this table
raw_getmetatable("").__metatable = false
library("string", copy(string))

local tables = copy(table)

-- Return whether a < b, as sort itself, but the hook can interrupt the sort.
local function is_before(a, b)
    local kind, other = type(a), type(b)
    if kind ~= other then error("attempt to compare " .. kind .. " with " .. other, 0) end
    if kind == "string" and #a > 256 and #b > 256 then add_cost((#a < #b and #a or #b) / 16) end
    return a < b
end

-- Return whether sort takes at most some ten milliseconds: it may compare each pair of items.
local function is_quick(list)
    local count, bytes = #list, 0
    if count > 1000 then return false end
    for i = 1, count do
        local item = rawget(list, i)
        if type(item) == "string" then bytes = bytes + #item end
    end
    return bytes * count < 1e8
end

function tables.sort(list, before)
    changeable(list, "sort")
    if before ~= nil then
        expect(before, "function", 2, "sort")
        if #list > 1000 and is_c(before) then
            local f = before
            before = function(a, b) return f(a, b) end
        end
    elseif not is_quick(list) then
        before = is_before
    end
    if #list > 256 then charge(#list * 16) end
    return sort(list, before)
end

function tables.concat(...)
    local list, separator = ...
    if type(list) ~= "table" or #list <= PIECE or select("#", ...) > 2 then return concat(...) end
    local pieces = {}
    for at = 1, #list, PIECE do
        add_cost(PIECE)
        pieces[#pieces + 1] = concat(list, separator, at, min(at + PIECE - 1, #list))
    end
    return concat(pieces, separator)
end

function tables.insert(list, ...)
    changeable(list, "insert")
    if select("#", ...) ~= 2 then return insert(list, ...) end
    local at, value = ...
    at = integer(at, 2, "insert")
    local length = #list
    if at > length then
        rawset(list, at, value)
    elseif at < -length - 256 then
        error("bad argument #2 to 'insert' (position out of bounds)", 2) -- Lua would move all places between
    else
        if length > 256 then charge(length / 8) end
        insert(list, at, value)
    end
end

function tables.remove(list, ...)
    changeable(list, "remove")
    if ... and #list > 256 then charge(#list / 8) end
    return remove(list, ...)
end

library("table", tables)

-- The generator of Redis, whose numbers are the same on every computer: x = x * 0x5deece66d + 0xb modulo 2^48. Its
-- state is in two halves, because a double has 53 bits.
local HALF = 2 ^ 24
local low, high, scripts = 0, 0, settings.seed -- low is nil before the first number of a script

local function seed(number)
    number = floor(number) % 2 ^ 32
    low, high = (number % 256) * 65536 + 0x330e, floor(number / 256)
end

local function random()
    if not low then
        scripts = (scripts + 0x5bd1e995) % 2 ^ 32
        seed(scripts)
    end
    local product = low * 0xece66d + 0xb
    high = (high * 0xece66d + low * 0x5de + floor(product / HALF)) % HALF
    low = product % HALF
    return floor((high * HALF + low) / 2 ^ 17) % 2147483647 / 2147483647
end

local maths = copy(math)

function maths.random(...)
    local count = select("#", ...)
    local from, to = ...
    if count == 0 then return random() end
    if count == 1 then
        to = integer(from, 1, "random")
        if to < 1 then error("bad argument #1 to 'random' (interval is empty)", 2) end
        return floor(random() * to) + 1
    end
    if count > 2 then error("wrong number of arguments", 2) end
    from, to = integer(from, 1, "random"), integer(to, 2, "random")
    if from > to then error("bad argument #2 to 'random' (interval is empty)", 2) end
    return floor(random() * (to - from + 1)) + from
end

function maths.randomseed(number)
    seed(integer(number, 1, "randomseed"))
end

library("math", maths)

local coroutines = copy(coroutine)

-- A coroutine has a hook of its own, which Lua does not free: `invoke` does.
local function create(f)
    if type(f) ~= "function" then error("bad argument #1 to 'create' (Lua function expected)", 3) end
    threads = true
    steps = steps + 100
    local thread = create_thread(f)
    sethook(thread, hook, "", hooked)
    return thread
end

function coroutines.create(f)
    return (create(f))
end

function coroutines.resume(...)
    return finished(resume_thread(...))
end

local function unwrapped(ok, ...)
    if ok then return ... end
    error((...), type((...)) == "string" and 3 or 0)
end

function coroutines.wrap(f)
    local thread = create(f)
    return function(...) return unwrapped(finished(resume_thread(thread, ...))) end
end

library("coroutine", coroutines)

-- The library `redis`.

local redis = {
    LOG_DEBUG = 0,
    LOG_VERBOSE = 1,
    LOG_NOTICE = 2,
    LOG_WARNING = 3,
    REPL_NONE = 0,
    REPL_AOF = 1,
    REPL_SLAVE = 2,
    REPL_REPLICA = 2,
    REPL_ALL = 3,
    REDIS_VERSION = settings.version,
    REDIS_VERSION_NUM = settings.version_number,
}

function redis.call(...)
    local value, failed = command(...)
    if failed then error(value, 0) end
    return value
end

function redis.pcall(...)
    return (command(...))
end

local function with_code(text)
    local code, message = "ERR", text
    if sub(text, 1, 1) == "-" then
        local space = find(text, " ", 1, true)
        if space then
            code, message = sub(text, 2, space - 1), sub(text, space + 1)
        else
            message = sub(text, 2)
        end
    end
    message = bounded_gsub(bounded_gsub(message, "^[\r\n]+", ""), "[\r\n]+$", "")
    return code .. " " .. message
end

function redis.error_reply(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return error_table("wrong number or type of arguments")
    end
    return { err = with_code(sub(text, 1, 1) == "-" and text or "-" .. text) }
end

function redis.status_reply(...)
    local text = ...
    if select("#", ...) ~= 1 or type(text) ~= "string" then
        return error_table("wrong number or type of arguments")
    end
    return { ok = text }
end

function redis.sha1hex(...)
    if select("#", ...) ~= 1 then error(error_table("wrong number of arguments"), 0) end
    local text = ...
    if type(text) == "number" then text = tostring(text) end
    text = type(text) == "string" and text or ""
    local digits = sha1_of(text)
    if not digits then
        make_room()
        digits = sha1_of(text)
    end
    return digits
end

function redis.log(...)
    local count = select("#", ...)
    if count < 2 then error(error_table("redis.log() requires two arguments or more."), 0) end
    local values = { ... }
    local level = tonumber(values[1])
    if level == nil then error(error_table("First argument must be a number (log level)."), 0) end
    level = floor(level)
    if level < 0 or level > 3 then error(error_table("Invalid debug level."), 0) end
    local parts = {}
    for i = 2, count do
        local kind = type(values[i])
        if kind == "string" or kind == "number" then parts[#parts + 1] = tostring(values[i]) end
    end
    if log_host(level, concat(parts, " ")) then abort() end
end

function redis.setresp(...)
    if select("#", ...) ~= 1 then error(error_table("redis.setresp() requires one argument."), 0) end
    local number = tonumber((...))
    number = number and floor(number)
    if number ~= 2 and number ~= 3 then error(error_table("RESP version must be 2 or 3."), 0) end
    resp = number
    set_protocol(number)
end

function redis.set_repl(...)
    if select("#", ...) ~= 1 then error(error_table("redis.set_repl() requires two arguments."), 0) end
    local flags = tonumber((...)) or 0
    if floor(flags) < 0 or floor(flags) > 3 then
        error(error_table("Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE."), 0)
    end
end

function redis.acl_check_cmd(...)
    local count = select("#", ...)
    if count == 0 then error(error_table("Please specify at least one argument for this redis lib call"), 0) end
    local arguments = { ... }
    for i = 1, count do
        local text = text_of(arguments[i])
        if text == nil then
            error(error_table("Lua redis lib command arguments must be strings or integers"), 0)
        end
        arguments[i] = text
    end
    local lengths = {}
    for i = 1, count do lengths[i] = #arguments[i] end
    local allowed = permits(concat(arguments), concat(lengths, " "))
    charge(0)
    if allowed == nil then error(error_table("Invalid command passed to redis.acl_check_cmd()"), 0) end
    return allowed
end

function redis.breakpoint() return false end
function redis.debug() end
function redis.replicate_commands() return true end

library("redis", redis)
globals.server = globals.redis -- as Valkey

-- The reply of a script: pairs of a tag, as above, and a payload. 10 and 11 are true and false.

local reply, reply_length, reply_bytes, reply_at = nil, 0, 0, 0

local function put(tag, payload)
    if type(payload) == "string" then
        reply_bytes = reply_bytes + #payload
        if reply_bytes > reply_bytes_max then
            error(error_table("the reply of the script has more than " .. format("%d", reply_bytes_max) .. " bytes"), 0)
        end
    end
    reply[reply_length + 1], reply[reply_length + 2] = tag, payload
    reply_length = reply_length + 2
end

local put_value

local function put_table(table, depth)
    if depth > nesting_max then
        error(error_table("reached lua stack limit: a reply has at most " .. nesting_max .. " nested tables"), 0)
    end
    local value = rawget(table, "err")
    if type(value) == "string" then return put(2, value) end
    value = rawget(table, "ok")
    if type(value) == "string" then return put(1, value) end
    value = rawget(table, "double")
    if type(value) == "number" then return put(6, value) end
    value = rawget(table, "big_number")
    if type(value) == "string" then return put(7, value) end
    value = rawget(table, "verbatim_string")
    if type(value) == "table" then
        local kind, text = rawget(value, "format"), rawget(value, "string")
        if type(kind) == "string" and type(text) == "string" then
            return put(8, sub(kind .. "   ", 1, 3) .. ":" .. text)
        end
    end
    local at = reply_length + 2
    local count = 0
    value = rawget(table, "map")
    if type(value) == "table" then
        put(4, 0)
        for key, item in next, value do
            put_value(key, depth + 1)
            put_value(item, depth + 1)
            count = count + 1
        end
        reply[at] = count
        return
    end
    value = rawget(table, "set")
    if type(value) == "table" then
        put(5, 0)
        for key in next, value do
            put_value(key, depth + 1)
            count = count + 1
        end
        reply[at] = count
        return
    end
    put(3, 0)
    while true do
        value = rawget(table, count + 1)
        if value == nil then break end
        put_value(value, depth + 1)
        count = count + 1
    end
    reply[at] = count
end

function put_value(value, depth)
    local kind = type(value)
    if kind == "string" or kind == "number" then
        put(0, value)
    elseif kind == "table" then
        put_table(value, depth)
    elseif kind == "boolean" then
        if resp == 3 then
            put(value and 10 or 11, false)
        elseif value then
            put(0, 1)
        else
            put(9, false)
        end
    else
        put(9, false)
    end
end

-- Return the next values of the reply to Python.
local function take()
    local from = reply_at + 1
    reply_at = from + 3999
    if reply_at >= reply_length then
        local whole, length = reply, reply_length
        reply, reply_at = nil, 0
        return unpack(whole, from, length)
    end
    return unpack(reply, from, reply_at)
end

-- Running a script.

-- The source and the line that an error has in Redis, where the functions of this file are C functions.
local function place()
    local level = 3
    while true do
        local info = getinfo(level, "Sl")
        if not info then return nil end
        if info.what ~= "C" and info.what ~= "tail" and sub(info.source, 1, 4) ~= "=[C]" then
            return info.source, info.currentline
        end
        level = level + 1
    end
end

-- The error handler of a script: returns the text of the error and its place, or the reason why the script ends.
local function described(problem)
    local kind = type(problem)
    if aborting or is_exception(problem) then return problem end
    local source, line = place()
    local text
    if kind == "table" then
        text = rawget(problem, "err")
        text = (type(text) == "string" or type(text) == "number") and text or "ERR the error is a table without err"
    else
        text = tostring(problem)
        if kind == "string" and sub(text, 1, 4) == "[C] " then
            text = gsub(text, OWN_POSITION, format("user_script:%d: ", line or 0))
        end
        text = "ERR " .. text
    end
    return { sub(text, 1, settings.error_max), source and ", on " .. source .. ":" .. line .. "." or "" }
end

local main = {} -- key of the main thread's hook
sethook(hook, "", interval)
local hooks -- the table in which Lua keeps the hooks of threads
for _, value in next, registry do
    if type(value) == "table" then
        for key, f in next, value do
            if f == hook then hooks, main = value, key end
        end
    end
end
assert(hooks, "no table of hooks")

local function ended()
    if threads then
        for key in next, hooks do
            if key ~= main then hooks[key] = nil end
        end
        threads = false
    end
    resp = 2
    for i = 1, #resets do resets[i]() end
    globals.KEYS, globals.ARGV = nil, nil
end

local function proceed()
    aborting = false
    sethook(hook, "", hooked)
end

local function answer(ok, value)
    if not ok then
        local aborted = aborting
        if aborted then proceed() end
        ended()
        if aborted then return nil, 12 end
        if type(value) == "table" then return value[1], 2, value[2] end
        if is_exception(value) then return value, 13 end
        return "ERR Error running script, " .. tostring(value), 2, ""
    end
    local kind = type(value)
    if kind == "string" or kind == "number" or kind == "nil" then
        ended()
        return value
    end
    if kind == "boolean" then
        local protocol = resp
        ended()
        if value then return protocol == 3 or 1 end
        if protocol == 3 then return false end
        return nil
    end
    if kind ~= "table" then
        ended()
        return nil
    end
    local text = rawget(value, "ok")
    if type(text) == "string" and rawget(value, "err") == nil then
        ended()
        return text, 1
    end
    reply, reply_length, reply_bytes, reply_at = {}, 0, 0, 0
    local converted, problem = raw_pcall(put_table, value, 1)
    if not converted then
        reply = nil
        local aborted = aborting
        if aborted then proceed() end
        ended()
        if aborted then return nil, 12 end
        return type(problem) == "table" and problem.err or "ERR " .. tostring(problem), 2, ""
    end
    ended()
    return reply_length, 4
end

local function invoke_tables(f, keys, arguments)
    steps, ticked, used_before, low = 0, 0, 0, nil
    globals.KEYS, globals.ARGV = keys, arguments
    setfenv(f, environment)
    return answer(raw_xpcall(f, described))
end

-- Run a function with n keys, then arguments.
local function invoke(f, n, ...)
    local keys, arguments
    if n == 0 then
        keys, arguments = {}, { ... }
    elseif n == 1 then
        keys, arguments = { (...) }, { select(2, ...) }
    else
        keys, arguments = {}, { select(n + 1, ...) }
        local all = { ... }
        for i = 1, n do keys[i] = all[i] end
    end
    return invoke_tables(f, keys, arguments)
end

-- Compile a script: its function; or nil and the error.
local function compile(source, changed)
    if changed then
        return raw_loadstring(source, "@user_script")
    end
    if byte(source) == 27 then return nil, "user_script:1: unexpected symbol near char(27)" end
    local f, problem = load_bounded(source, "@user_script")
    if not f then return nil, problem end
    return dump(f)
end

local shared -- by the libraries of cairnkv

local function add_library(name, source)
    local chunk = assert(raw_loadstring(source, "=[C] " .. name))
    if not shared then
        shared = chunk()
        return
    end
    local functions, reset = chunk(shared)
    for key, value in pairs(functions) do
        if type(value) == "userdata" then own_userdata[value] = true end
    end
    library(name, functions)
    if reset then resets[#resets + 1] = reset end
end

-- Remove the real globals, when all libraries are there.
local function close()
    local real = getfenv(0)
    for name in next, real do real[name] = nil end
    collect()
    collect()
end

return invoke, invoke_tables, compile, take, add_library, close

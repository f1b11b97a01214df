-- The library `cmsgpack` (lua-cmsgpack 0.4.0): values of Lua as MessagePack and back.

local shared = ...
local fail, bad_argument, STACK_MAX = shared.fail, shared.bad_argument, shared.STACK_MAX
local to_integer, to_string = shared.to_integer, shared.to_string
local double_bytes, float_bytes, double_of, float_of =
  shared.double_bytes, shared.float_bytes, shared.double_of, shared.float_of
local error, next, rawget, select, type, unpack = error, next, rawget, select, type, unpack
local byte, char, format, sub = string.byte, string.char, string.format, string.sub
local floor, huge = math.floor, math.huge
local concat = table.concat

-- A table within this many others is packed as nil, so a table that contains itself has an end.
local NESTING_MAX = 16

local function two(n)
  return char(floor(n / 256), n % 256)
end

local function four(n)
  return char(floor(n / 16777216), floor(n / 65536) % 256, floor(n / 256) % 256, n % 256)
end

-- Integers and headers of strings of one byte.
local INTEGERS, STRINGS = {}, {}
for n = -32, 127 do
  INTEGERS[n] = char(n % 256)
end
for n = 0, 31 do
  STRINGS[n] = char(160 + n)
end

local function integer(n)
  if n >= 0 then
    if n < 256 then
      return char(204, n)
    elseif n < 65536 then
      return "\205" .. two(n)
    elseif n < 4294967296 then
      return "\206" .. four(n)
    end
    return "\207" .. four(floor(n / 4294967296)) .. four(n % 4294967296)
  elseif n >= -128 then
    return char(208, n + 256)
  elseif n >= -32768 then
    return "\209" .. two(n + 65536)
  elseif n >= -2147483648 then
    return "\210" .. four(n + 4294967296)
  end
  return "\211" .. four(floor(n / 4294967296) + 4294967296) .. four(n % 4294967296)
end

local function number(n)
  if floor(n) == n and n >= -2 ^ 63 and n < 2 ^ 63 then
    return integer(n)
  end
  if n == n then
    local bytes = float_bytes(n)
    if float_of(byte(bytes, 1, 4)) == n then
      return "\202" .. bytes
    end
  end
  return "\203" .. double_bytes(n)
end

local function header(n, fixed, fixed_max, sixteen, thirtytwo)
  if n <= fixed_max then
    return char(fixed + n)
  elseif n < 65536 then
    return sixteen .. two(n)
  end
  return thirtytwo .. four(n)
end

local function string_header(n)
  if n < 256 then
    return char(217, n)
  end
  return header(n, 0, 0, "\218", "\219")
end

-- Return the number of elements of an array, or nil where the table is a map.
local function array_length(t)
  local count, max = 0, 0
  for key in next, t do
    if type(key) ~= "number" or key <= 0 or floor(key) ~= key or key > 2147483647 then
      return nil
    end
    count = count + 1
    if key > max then
      max = key
    end
  end
  return max == count and count or nil
end

-- Appends a value to the first n pieces of `out`; returns how many there are then.
local function pack_value(value, out, n, level)
  local kind = type(value)
  if kind == "string" then
    out[n + 1] = STRINGS[#value] or string_header(#value)
    out[n + 2] = value
    return n + 2
  elseif kind == "number" then
    out[n + 1] = INTEGERS[value] or number(value)
  elseif kind == "boolean" then
    out[n + 1] = value and "\195" or "\194"
  elseif kind == "table" and level < NESTING_MAX then
    local length = array_length(value)
    if length then
      n = n + 1
      out[n] = header(length, 144, 15, "\220", "\221")
      for index = 1, length do
        n = pack_value(rawget(value, index), out, n, level + 1)
      end
      return n
    end
    local pairs_count = 0
    for _ in next, value do
      pairs_count = pairs_count + 1
    end
    n = n + 1
    out[n] = header(pairs_count, 128, 15, "\222", "\223")
    for key, item in next, value do
      n = pack_value(key, out, n, level + 1)
      n = pack_value(item, out, n, level + 1)
    end
    return n
  else
    out[n + 1] = "\192"
  end
  return n + 1
end

local cmsgpack = {
  _NAME = "cmsgpack",
  _VERSION = "lua-cmsgpack 0.4.0",
  _COPYRIGHT = "Copyright (C) 2012, Salvatore Sanfilippo",
  _DESCRIPTION = "MessagePack C implementation for Lua",
}

function cmsgpack.pack(...)
  local count = select("#", ...)
  if count == 0 then
    bad_argument(cmsgpack.pack, 0, "MessagePack pack needs input.")
  elseif count > STACK_MAX / 2 then
    bad_argument(cmsgpack.pack, 0, "Too many arguments for MessagePack pack.")
  end
  local out, n = {}, 0
  for index = 1, count do
    n = pack_value((select(index, ...)), out, n, 0)
  end
  return concat(out)
end

local function missing(public)
  fail(public, "Missing bytes in input.")
end

local unpack_value

-- `used`: the values on the stack that the library in C has there, which bound nesting.
local function unpack_array(public, data, at, length, used)
  if used + 1 >= STACK_MAX then
    fail(public, "stack overflow (in function mp_decode_to_lua_array)")
  end
  local result = {}
  for index = 1, length do
    result[index], at = unpack_value(public, data, at, used + 2)
  end
  return result, at
end

local function unpack_map(public, data, at, length, used)
  local result = {}
  for _ = 1, length do
    local key, value
    key, at = unpack_value(public, data, at, used + 1)
    value, at = unpack_value(public, data, at, used + 2)
    if key == nil then
      error("table index is nil", 0)
    elseif key ~= key then
      error("table index is NaN", 0)
    end
    result[key] = value
  end
  return result, at
end

local function unpack_string(public, data, at, length)
  if at + length - 1 > #data then
    missing(public)
  end
  return sub(data, at, at + length - 1), at + length
end

-- The unsigned number in `size` bytes at a place.
local function unsigned(public, data, at, size)
  local a, b, c, d = byte(data, at, at + size - 1)
  if size == 1 then
    return a or missing(public)
  elseif size == 2 then
    return b and a * 256 + b or missing(public)
  end
  return d and a * 16777216 + b * 65536 + c * 256 + d or missing(public)
end

-- By the first byte: how to read the rest, which begins at `at`.
local READERS = {
  [192] = function(_, _, at)
    return nil, at
  end,
  [194] = function(_, _, at)
    return false, at
  end,
  [195] = function(_, _, at)
    return true, at
  end,
  [202] = function(public, data, at)
    unsigned(public, data, at, 4)
    return float_of(byte(data, at, at + 3)), at + 4
  end,
  [203] = function(public, data, at)
    unsigned(public, data, at + 4, 4)
    return double_of(byte(data, at, at + 7)), at + 8
  end,
}

for power = 0, 2 do
  local size = 2 ^ power
  local limit = 256 ^ size
  READERS[204 + power] = function(public, data, at)
    return unsigned(public, data, at, size), at + size
  end
  READERS[208 + power] = function(public, data, at)
    local value = unsigned(public, data, at, size)
    return value >= limit / 2 and value - limit or value, at + size
  end
  READERS[217 + power] = function(public, data, at)
    return unpack_string(public, data, at + size, unsigned(public, data, at, size))
  end
end

-- The library in C gives an unsigned number of 64 bits to Lua as a signed one.
local function sixty_four(public, data, at)
  local low = unsigned(public, data, at + 4, 4)
  local high = unsigned(public, data, at, 4)
  if high >= 2147483648 then
    high = high - 4294967296
  end
  return high * 4294967296 + low, at + 8
end
READERS[207] = sixty_four
READERS[211] = sixty_four

for power = 1, 2 do
  local size = 2 ^ power
  READERS[219 + power] = function(public, data, at, used)
    return unpack_array(public, data, at + size, unsigned(public, data, at, size), used)
  end
  READERS[221 + power] = function(public, data, at, used)
    return unpack_map(public, data, at + size, unsigned(public, data, at, size), used)
  end
end

-- Returns the value that begins at a place, and the place behind it.
unpack_value = function(public, data, at, used)
  local first = byte(data, at)
  if not first then
    missing(public)
  elseif used >= STACK_MAX then
    fail(public, "stack overflow (too many return values at once; use unpack_one or unpack_limit instead.)")
  end
  if first >= 160 and first < 192 then
    local last = at + first - 160
    if last > #data then
      missing(public)
    end
    return sub(data, at + 1, last), last + 1
  end
  at = at + 1
  if first < 128 then
    return first, at
  elseif first >= 224 then
    return first - 256, at
  end
  local reader = READERS[first]
  local result
  if reader then
    result, at = reader(public, data, at, used)
  elseif first < 144 then
    result, at = unpack_map(public, data, at, first - 128, used)
  elseif first < 160 then
    result, at = unpack_array(public, data, at, first - 144, used)
  else
    fail(public, "Bad data format in input.")
  end
  return result, at
end

-- Unpacks up to `limit` values, all where limit and offset are 0. Returns a list and its first and last index: the first
-- result is the offset of the rest, or -1 where there is none, which is not returned if all are unpacked.
local function unpack_values(public, limit, offset, ...)
  local data = to_string(public, 1, ...)
  if offset < 0 or limit < 0 then
    fail(public, format("Invalid request to unpack with offset of %d and limit of %d.", offset, #data))
  elseif offset > #data then
    fail(public, format("Start offset %d greater than input length %d.", offset, #data))
  end
  local all = limit == 0 and offset == 0
  if all then
    limit = huge
  end
  local results, count, at = {}, 0, offset + 1
  while at <= #data and count < limit do
    results[count + 2], at = unpack_value(public, data, at, count + 1)
    count = count + 1
  end
  results[1] = at > #data and -1 or at - 1
  return results, all and 2 or 1, count + 1
end

local function optional_offset(public, number, ...)
  if select(number, ...) == nil then
    return 0
  end
  return (to_integer(public, number, ...))
end

function cmsgpack.unpack(...)
  local results, first, last = unpack_values(cmsgpack.unpack, 0, 0, ...)
  return unpack(results, first, last)
end

function cmsgpack.unpack_one(...)
  local offset = optional_offset(cmsgpack.unpack_one, 2, ...)
  local results, first, last = unpack_values(cmsgpack.unpack_one, 1, offset, ...)
  return unpack(results, first, last)
end

function cmsgpack.unpack_limit(...)
  local limit = to_integer(cmsgpack.unpack_limit, 2, ...)
  local offset = optional_offset(cmsgpack.unpack_limit, 3, ...)
  local results, first, last = unpack_values(cmsgpack.unpack_limit, limit, offset, ...)
  return unpack(results, first, last)
end

return cmsgpack

-- The library `cjson` (2.1.0): values of Lua as JSON and back.
--
-- It is Lua, so the limits of a script (steps, time, memory) apply within it. Fast paths take the usual forms by one
-- match each; the slow paths behind them read anything that the library in C reads, and have its errors.
-- Bytes are not checked to be UTF-8. A byte of zero ends the text that is decoded.

local shared = ...
local bad_argument, bad_type, fail = shared.bad_argument, shared.bad_type, shared.fail
local to_integer, to_string = shared.to_integer, shared.to_string
local getmetatable, newproxy, next, rawget, select, tonumber, tostring, type =
  getmetatable, newproxy, next, rawget, select, tonumber, tostring, type
local byte, char, find, format, gsub, match, sub =
  string.byte, string.char, string.find, string.format, string.gsub, string.match, string.sub
local concat = table.concat
local floor, huge = math.floor, math.huge

local INT_MAX = 2147483647
-- The stack of Lua's C interface bounds nesting whatever limit a script sets: two values a level, and five more.
local NESTING_MAX = (shared.STACK_MAX - 2) / 2

local NULL = newproxy(true)
getmetatable(NULL).__tostring = function()
  return "userdata: (nil)"
end
getmetatable(NULL).__metatable = false

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\127"] = "\\u007f" }
for code = 0, 31 do
  ESCAPES[char(code)] = format("\\u%04x", code)
end
ESCAPES["\b"], ESCAPES["\t"], ESCAPES["\n"], ESCAPES["\f"], ESCAPES["\r"] = "\\b", "\\t", "\\n", "\\f", "\\r"

local UNESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", t = "\t", n = "\n", f = "\f", r = "\r",
}

local TOKENS = {
  ["{"] = "T_OBJ_BEGIN", ["}"] = "T_OBJ_END", ["["] = "T_ARR_BEGIN", ["]"] = "T_ARR_END",
  [":"] = "T_COLON", [","] = "T_COMMA", [""] = "T_END",
}

local SPACE = "^[ \t\n\r]*"
-- The place and the first character of a value; the key of a pair without escapes, and its value likewise.
local VALUE = SPACE .. "()(.?)"
local NEXT_VALUE = SPACE .. ",[ \t\n\r]*()(.?)"
local PAIR = '"([^"\\]*)"[ \t\n\r]*:[ \t\n\r]*()(.?)'
local FIRST_PAIR, NEXT_PAIR = SPACE .. PAIR, SPACE .. ",[ \t\n\r]*" .. PAIR
local PLAIN_NUMBER = "^(%-?%d[%d.]*)()([eExX]?)"
local NAN = 0 / 0
if sub(tostring(NAN), 1, 1) == "-" then
  NAN = -NAN
end

-- A string without characters to escape.
local PLAIN = '^[^%c"\\/]*$'

local function quoted(text)
  if not find(text, PLAIN) then
    text = gsub(text, '[%c"\\/]', ESCAPES)
  end
  return '"' .. text .. '"'
end

local function utf8(code)
  if code < 128 then
    return char(code)
  elseif code < 2048 then
    return char(192 + floor(code / 64), 128 + code % 64)
  elseif code < 65536 then
    return char(224 + floor(code / 4096), 128 + floor(code / 64) % 64, 128 + code % 64)
  end
  return char(240 + floor(code / 262144), 128 + floor(code / 4096) % 64, 128 + floor(code / 64) % 64, 128 + code % 64)
end

-- The character of a \u escape (or of two, a pair of surrogates) and the place behind it; nil where it is invalid.
local function unicode_escape(text, at)
  local code = tonumber(match(text, "^\\u(%x%x%x%x)", at) or "", 16)
  if not code or code >= 56320 and code < 57344 then
    return nil
  elseif code < 55296 or code >= 57344 then
    return utf8(code), at + 6
  end
  local low = tonumber(match(text, "^\\u([dD][c-fC-F]%x%x)", at + 6) or "", 16)
  if not low then
    return nil
  end
  return utf8((code - 55296) * 1024 + (low - 56320) + 65536), at + 12
end

-- The text of the number that strtod reads at a place, which is more than JSON allows, or nil.
local function number_text(text, at)
  local sign = match(text, "^[+-]?", at)
  local from = at + #sign
  local found = match(text, "^0[xX]%x+%.?%x*", from) or match(text, "^0[xX]%.%x+", from)
  if found then
    return sign .. found .. (match(text, "^[pP][+-]?%d+", from + #found) or "")
  end
  found = match(text, "^%d+%.?%d*", from) or match(text, "^%.%d+", from)
  if found then
    return sign .. found .. (match(text, "^[eE][+-]?%d+", from + #found) or "")
  end
  found = match(text, "^[iI][nN][fF]", from)
  if found then
    return sign .. (match(text, "^[iI][nN][fF][iI][nN][iI][tT][yY]", from) or found)
  end
  found = match(text, "^[nN][aA][nN]", from)
  return found and sign .. (match(text, "^[nN][aA][nN]%([%w_]*%)", from) or found)
end

-- Whether a text that looks like a number is invalid in strict JSON.
local function is_invalid_number(text, at)
  if match(text, "^%+", at) then
    return true
  end
  local rest = sub(text, at, at + 3)
  return find(rest, "^%-?0[xX%d]") ~= nil or find(rest, "^%-?[iI][nN][fF]") ~= nil
    or find(rest, "^%-?[nN][aA][nN]") ~= nil
end

-- A new library with a configuration of its own. Returns the library and a function that resets its configuration.
local function new()
  local cjson = { null = NULL, _NAME = "cjson", _VERSION = "2.1.0" }

  local sparse_convert, sparse_ratio, sparse_safe
  local encode_depth_max, decode_depth_max
  local encode_invalid, decode_invalid
  local precision, number_format
  local keep_buffer

  local is_changed = true

  local function reset()
    if not is_changed then
      return
    end
    is_changed = false
    sparse_convert, sparse_ratio, sparse_safe = false, 2, 10
    encode_depth_max, decode_depth_max = 1000, 1000
    encode_invalid, decode_invalid = false, true
    precision, number_format = 14, nil
    keep_buffer = true
  end
  reset()

  local function refuse(value, reason)
    fail(cjson.encode, "Cannot serialise " .. type(value) .. ": " .. reason)
  end

  -- A piece of the output: the number itself where Lua's own text of it is the same.
  local function number_piece(number)
    if number ~= number or number == huge or number == -huge then
      if encode_invalid == "null" then
        return "null"
      elseif not encode_invalid then
        refuse(number, "must not be NaN or Inf")
      elseif number ~= number then
        return "nan"
      end
    end
    return number_format and format(number_format, number) or number
  end

  -- The length of a table as an array, or nil where it is an object.
  local function array_length(value)
    local max, count = 0, 0
    for key in next, value do
      if key ~= count + 1 then
        if type(key) ~= "number" or key < 1 or floor(key) ~= key then
          return nil
        end
      end
      if key > max then
        -- the library in C keeps an int, which a greater key turns into the least one
        max = key > INT_MAX and -INT_MAX - 1 or key
      end
      count = count + 1
    end
    if sparse_ratio > 0 and max > count * sparse_ratio and max > sparse_safe then
      if not sparse_convert then
        refuse(value, "excessively sparse array")
      end
      return nil
    end
    return max > 0 and max or nil
  end

  local append_table

  -- Appends a value to the first n pieces of `out`; returns how many there are then. `known`: strings and their JSON.
  local function append(value, out, n, depth, known)
    local kind = type(value)
    if kind == "string" then
      out[n + 1] = quoted(value)
    elseif kind == "number" then
      out[n + 1] = number_piece(value)
    elseif kind == "table" then
      return (append_table(value, out, n, depth + 1, known))
    elseif kind == "boolean" then
      out[n + 1] = value and "true" or "false"
    elseif value == nil or value == NULL then
      out[n + 1] = "null"
    else
      refuse(value, "type not supported")
    end
    return n + 1
  end

  append_table = function(value, out, n, depth, known)
    if depth > encode_depth_max or depth > NESTING_MAX then
      fail(cjson.encode, format("Cannot serialise, excessive nesting (%d)", depth))
    end
    local length = array_length(value)
    if length then
      local separator = "["
      local plain = getmetatable(value) == nil
      for index = 1, length do
        out[n + 1] = separator
        separator = ","
        local item
        if plain then
          item = value[index]
        else
          item = rawget(value, index)
        end
        if type(item) == "string" then
          n = n + 2
          out[n] = quoted(item)
        else
          n = append(item, out, n + 1, depth, known)
        end
      end
      out[n + 1] = "]"
      return n + 1
    end
    local first = n + 1
    for key, item in next, value do
      local piece = known[key]
      if not piece then
        local kind = type(key)
        if kind == "string" then
          piece = "," .. quoted(key) .. ":"
        elseif kind == "number" then
          piece = ',"' .. number_piece(key) .. '":'
        else
          refuse(key, "table key must be a number or string")
        end
        known[key] = piece
      end
      n = n + 1
      out[n] = piece
      local kind = type(item)
      if kind == "string" then
        if find(item, PLAIN) then
          out[n + 1], out[n + 2], n = '"', item, n + 3
          out[n] = '"'
        else
          n = n + 1
          out[n] = quoted(item)
        end
      elseif kind == "number" and item - item == 0 and not number_format then
        n = n + 1
        out[n] = item
      else
        n = append(item, out, n, depth, known)
      end
    end
    if n < first then
      out[first] = "{}"
      return first
    end
    out[first] = "{" .. sub(out[first], 2)
    out[n + 1] = "}"
    return n + 1
  end

  function cjson.encode(...)
    if select("#", ...) ~= 1 then
      bad_argument(cjson.encode, 1, "expected 1 argument")
    end
    local out = {}
    local n = append((...), out, 0, 0, {})
    return concat(out, "", 1, n)
  end

  local function expected(what, found, at)
    fail(cjson.decode, format("Expected %s but found %s at character %d", what, found, at))
  end

  -- Read the string that begins at `at` (its first character) character by character. Return the string
  -- and the place behind its quote, or nil, the error, and its place.
  local function slow_string(text, at)
    local out = {}
    while true do
      local special = find(text, '["\\]', at)
      if not special then
        return nil, "unexpected end of string", #text + 1
      end
      out[#out + 1] = sub(text, at, special - 1)
      if byte(text, special) == 34 then
        return concat(out), special + 1
      end
      local escape = sub(text, special + 1, special + 1)
      local character
      if escape == "u" then
        character, at = unicode_escape(text, special)
        if not character then
          return nil, "invalid unicode escape code", special
        end
      else
        character, at = UNESCAPES[escape], special + 2
        if not character then
          return nil, "invalid escape code", special
        end
      end
      out[#out + 1] = character
    end
  end

  -- Return the token that the C library finds in the place of an expected one: its name, or an error, and the place.
  local function token_at(text, at)
    at = match(text, SPACE .. "()", at)
    local first = sub(text, at, at)
    local name = TOKENS[first]
    if name then
      return name, at
    elseif first == '"' then
      local result, wrong, where = slow_string(text, at + 1)
      if result then
        return "T_STRING", at
      end
      return wrong, where
    elseif find(first, "[%d-]") then
      if not number_text(text, at) or not decode_invalid and is_invalid_number(text, at) then
        return "invalid number", at
      end
      return "T_NUMBER", at
    elseif find(text, "^true", at) or find(text, "^false", at) then
      return "T_BOOLEAN", at
    elseif find(text, "^null", at) then
      return "T_NULL", at
    elseif decode_invalid and find(first, "[iInN+]") and is_invalid_number(text, at) then
      return number_text(text, at) and "T_NUMBER" or "invalid number", at
    end
    return "invalid token", at
  end

  -- A number in any form: its value and the place behind it.
  local function slow_number(text, at)
    local name, where = token_at(text, at)
    if name ~= "T_NUMBER" then
      expected("value", name, where)
    end
    local found = number_text(text, at)
    local behind = at + #found
    if find(found, "[nN][aA]") then
      return find(found, "^%-") and -NAN or NAN, behind
    elseif find(found, "[iI]") then
      return find(found, "^%-") and -huge or huge, behind
    end
    return tonumber(found), behind
  end

  local function descend(depth, at)
    if depth > decode_depth_max or depth > NESTING_MAX then
      fail(cjson.decode, format("Found too many nested data structures (%d) at character %d", depth, at))
    end
  end

  local decode_array, decode_object

  -- The place of the next escape in the text, or of one that is behind; huge where there is none.
  local escape_at

  -- Returns the string whose quote is at a place, and the place behind it.
  local function decode_string(text, at, what)
    local quote = find(text, '"', at + 1, true)
    if quote then
      if quote > escape_at then
        escape_at = find(text, "\\", at + 1, true) or huge
      end
      if quote < escape_at then
        return sub(text, at + 1, quote - 1), quote + 1
      end
    end
    local result, behind, where = slow_string(text, at + 1)
    if not result then
      expected(what, behind, where)
    end
    return result, behind
  end

  -- Returns the value at a place, which begins with this character, and the place behind it.
  local function decode_value(text, at, first, depth)
    local result
    if first == '"' then
      local quote = find(text, '"', at + 1, true)
      if quote and quote < escape_at then
        return sub(text, at + 1, quote - 1), quote + 1
      end
      result, at = decode_string(text, at, "value")
      return result, at
    elseif first == "{" then
      descend(depth, at)
      result, at = decode_object(text, at + 1, depth)
      return result, at
    elseif first == "[" then
      descend(depth, at)
      result, at = decode_array(text, at + 1, depth)
      return result, at
    elseif first == "t" and find(text, "^true", at) then
      return true, at + 4
    elseif first == "f" and find(text, "^false", at) then
      return false, at + 5
    elseif first == "n" and find(text, "^null", at) then
      return NULL, at + 4
    end
    local digits, behind, more = match(text, PLAIN_NUMBER, at)
    if more == "" then
      result = tonumber(digits)
      if result and (decode_invalid or not is_invalid_number(text, at)) then
        return result, behind
      end
    end
    result, at = slow_number(text, at)
    return result, at
  end

  decode_array = function(text, at, depth)
    local result, n = {}, 0
    local first
    at, first = match(text, VALUE, at)
    if first == "]" then
      return result, at + 1
    end
    while true do
      n = n + 1
      result[n], at = decode_value(text, at, first, depth + 1)
      local behind
      behind, first = match(text, NEXT_VALUE, at)
      if not behind then
        behind = match(text, "^[ \t\n\r]*%]()", at)
        if not behind then
          expected("comma or array end", token_at(text, at))
        end
        return result, behind
      end
      at = behind
    end
  end

  -- The key at a place where FIRST_PAIR matches not, and the place and first character of its value.
  local function slow_key(text, at)
    at = match(text, SPACE .. "()", at)
    if byte(text, at) ~= 34 then
      expected("object key string", token_at(text, at))
    end
    local key
    key, at = decode_string(text, at, "object key string")
    local behind, first = match(text, "^[ \t\n\r]*:[ \t\n\r]*()(.?)", at)
    if not behind then
      expected("colon", token_at(text, at))
    end
    return key, behind, first
  end

  decode_object = function(text, at, depth)
    local result = {}
    local key, behind, first = match(text, FIRST_PAIR, at)
    if not key then
      behind = match(text, "^[ \t\n\r]*}()", at)
      if behind then
        return result, behind
      end
      key, behind, first = slow_key(text, at)
    end
    depth = depth + 1
    while true do
      local quote = first == '"' and find(text, '"', behind + 1, true)
      if quote and quote < escape_at then
        result[key], at = sub(text, behind + 1, quote - 1), quote + 1
      else
        result[key], at = decode_value(text, behind, first, depth)
      end
      key, behind, first = match(text, NEXT_PAIR, at)
      if not key then
        behind = match(text, "^[ \t\n\r]*}()", at)
        if behind then
          return result, behind
        end
        behind = match(text, "^[ \t\n\r]*,()", at)
        if not behind then
          expected("comma or object end", token_at(text, at))
        end
        key, behind, first = slow_key(text, behind)
      end
    end
  end

  function cjson.decode(...)
    if select("#", ...) ~= 1 then
      bad_argument(cjson.decode, 1, "expected 1 argument")
    end
    local text = to_string(cjson.decode, 1, ...)
    local zero = find(text, "\0", 1, true)
    if zero then
      if zero <= 2 and #text >= 2 then
        fail(cjson.decode, "JSON parser does not support UTF-16 or UTF-32")
      end
      text = sub(text, 1, zero - 1)
    end
    escape_at = find(text, "\\", 1, true) or huge
    local at, first = match(text, VALUE)
    local result
    result, at = decode_value(text, at, first, 1)
    local name, where = token_at(text, at)
    if name ~= "T_END" then
      expected("the end", name, where)
    end
    return result
  end

  -- Each function that changes settings begins with this.
  local function check_count(public, max, ...)
    is_changed = true
    if select("#", ...) > max then
      bad_argument(public, max + 1, "found too many arguments")
    end
  end

  -- The argument as an integer in a range, or the present setting where it is nil.
  local function integer_option(public, number, setting, min, max, ...)
    if select(number, ...) == nil then
      return setting
    end
    local value = to_integer(public, number, ...)
    if not (value >= min and value <= max) then
      bad_argument(public, 1, format("expected integer between %d and %d", min, max))
    end
    return value
  end

  -- The argument as on or off (or a further word), or the present setting where it is nil.
  local function switch_option(public, setting, word, ...)
    local value = select(1, ...)
    if value == nil then
      return setting
    elseif type(value) == "boolean" then
      return value
    end
    local text = to_string(public, 1, ...)
    if text == "on" or text == "off" then
      return text == "on"
    elseif word and text == word then
      return word
    end
    bad_argument(public, 1, "invalid option '" .. text .. "'")
  end

  function cjson.encode_sparse_array(...)
    local public = cjson.encode_sparse_array
    check_count(public, 3, ...)
    sparse_convert = switch_option(public, sparse_convert, nil, ...)
    sparse_ratio = integer_option(public, 2, sparse_ratio, 0, INT_MAX, ...)
    sparse_safe = integer_option(public, 3, sparse_safe, 0, INT_MAX, ...)
    return sparse_convert, sparse_ratio, sparse_safe
  end

  function cjson.encode_max_depth(...)
    check_count(cjson.encode_max_depth, 1, ...)
    encode_depth_max = integer_option(cjson.encode_max_depth, 1, encode_depth_max, 1, INT_MAX, ...)
    return encode_depth_max
  end

  function cjson.decode_max_depth(...)
    check_count(cjson.decode_max_depth, 1, ...)
    decode_depth_max = integer_option(cjson.decode_max_depth, 1, decode_depth_max, 1, INT_MAX, ...)
    return decode_depth_max
  end

  function cjson.encode_number_precision(...)
    check_count(cjson.encode_number_precision, 1, ...)
    precision = integer_option(cjson.encode_number_precision, 1, precision, 1, 14, ...)
    -- the text that Lua itself makes of a number has 14 digits
    number_format = precision ~= 14 and "%." .. precision .. "g" or nil
    return precision
  end

  function cjson.encode_keep_buffer(...)
    check_count(cjson.encode_keep_buffer, 1, ...)
    keep_buffer = switch_option(cjson.encode_keep_buffer, keep_buffer, nil, ...)
    return keep_buffer
  end

  function cjson.encode_invalid_numbers(...)
    check_count(cjson.encode_invalid_numbers, 1, ...)
    encode_invalid = switch_option(cjson.encode_invalid_numbers, encode_invalid, "null", ...)
    return encode_invalid
  end

  function cjson.decode_invalid_numbers(...)
    check_count(cjson.decode_invalid_numbers, 1, ...)
    decode_invalid = switch_option(cjson.decode_invalid_numbers, decode_invalid, nil, ...)
    return decode_invalid
  end

  function cjson.new()
    return (new())
  end

  return cjson, reset
end

return new()

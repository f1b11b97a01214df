-- The library `struct` (0.2, as redis-server has it): numbers and strings in the layouts of C, by a format.

local shared = ...
local fail, bad_argument, band = shared.fail, shared.bad_argument, shared.band
local to_number, to_integer, to_string = shared.to_number, shared.to_integer, shared.to_string
local truncated, double_bytes, float_bytes = shared.truncated, shared.double_bytes, shared.float_bytes
local double_of, float_of, STACK_MAX = shared.double_of, shared.float_of, shared.STACK_MAX
local type, tonumber, select, unpack = type, tonumber, select, unpack
local byte, char, find, match, rep, reverse, sub =
  string.byte, string.char, string.find, string.match, string.rep, string.reverse, string.sub
local concat = table.concat
local format = string.format

local INTEGER_BYTES_MAX = 32
local INT_MAX = 2147483647

local SIZES = { b = 1, B = 1, h = 2, H = 2, l = 8, L = 8, T = 8, f = 4, d = 8, x = 1 }
local INTEGERS = { b = true, h = true, l = true, i = true, B = false, H = false, L = false, T = false, I = false }

-- The number in the format behind an option, and the place behind it.
local function number_at(public, options, at, default)
  local digits, behind = match(options, "^(%d+)()", at)
  if not digits then
    return default, at
  end
  local number = tonumber(digits)
  if number > INT_MAX then
    fail(public, "integral size overflow")
  end
  return number, behind
end

local function size_at(public, option, options, at)
  local size = SIZES[option]
  if size then
    return size, at
  elseif option == "c" then
    return number_at(public, options, at, 1)
  elseif option == "i" or option == "I" then
    size, at = number_at(public, options, at, 4)
    if size > INTEGER_BYTES_MAX then
      fail(public, format("integral size %d is larger than limit of %d", size, INTEGER_BYTES_MAX))
    end
    return size, at
  end
  return 0, at
end

-- Return the number of bytes that align an item of this size at a position.
local function padding(position, alignment, option, size)
  if size == 0 or option == "c" or alignment == 1 then
    return 0
  elseif size > alignment then
    size = alignment
  end
  return band((size - band(position % 4294967296, size - 1)) % 4294967296, size - 1)
end

-- Apply an option without an item: return whether the bytes are little-endian, the alignment, the next place.
local function control(public, option, options, at, little, alignment)
  if option == "<" then
    little = true
  elseif option == ">" then
    little = false
  elseif option == "!" then
    alignment, at = number_at(public, options, at, 8)
    local power = alignment
    while power > 1 and power % 2 == 0 do
      power = power / 2
    end
    if power ~= 1 then
      fail(public, format("alignment %d is not a power of 2", alignment))
    end
  elseif option ~= " " then
    bad_argument(public, 1, "invalid format option '" .. option .. "'")
  end
  return little, alignment, at
end

-- The options end at a zero byte, as a string of C does.
local function options_of(public, ...)
  return match(to_string(public, 1, ...), "^[^%z]*")
end

-- The low bytes of a number as the 64 bits of a C integer, the lowest first; those above the eighth are zero.
local function integer_bytes(number, size)
  if number ~= number or number < -2 ^ 63 then
    number = -2 ^ 63
  elseif number >= 2 ^ 64 then
    number = 0
  end
  number = truncated(number)
  local bytes = {}
  for place = 1, size do
    if place > 8 then
      bytes[place] = "\0"
    else
      local low = number % 256
      bytes[place] = char(low)
      number = (number - low) / 256
    end
  end
  return concat(bytes)
end

local function integer_of(data, from, size, little, is_signed)
  local low, high = 0, 0
  local used = size > 8 and 8 or size
  for place = used - 1, 0, -1 do
    local value = byte(data, little and from + place or from + size - 1 - place)
    if place >= 4 then
      high = high * 256 + value
    else
      low = low * 256 + value
    end
  end
  if is_signed and used > 0 then
    if used > 4 then
      local limit = 256 ^ (used - 4)
      if high >= limit / 2 then
        high = high - limit
      end
    elseif low >= 256 ^ used / 2 then
      low = low - 256 ^ used
    end
  end
  return high * 4294967296 + low
end

-- struct in C has a nil of its own behind the arguments, so one that is missing is named nil in errors.
local function check_present(public, argument, expected, ...)
  if argument > select("#", ...) then
    bad_argument(public, argument, expected .. " expected, got nil")
  end
end

local struct = {}

function struct.pack(...)
  local public = struct.pack
  local options = options_of(public, ...)
  local at, argument, position, little, alignment = 1, 2, 0, true, 1
  local out = {}
  while at <= #options do
    local option = sub(options, at, at)
    local size
    size, at = size_at(public, option, options, at + 1)
    local added = padding(position, alignment, option, size)
    if added > 0 then
      out[#out + 1] = rep("\0", added)
      position = position + added
    end
    local item
    if INTEGERS[option] ~= nil then
      check_present(public, argument, "number", ...)
      item = integer_bytes(to_number(public, argument, ...), size)
      if not little then
        item = reverse(item)
      end
      argument = argument + 1
    elseif option == "x" then
      item = "\0"
    elseif option == "f" or option == "d" then
      check_present(public, argument, "number", ...)
      local number = to_number(public, argument, ...)
      item = option == "f" and float_bytes(number) or option == "d" and double_bytes(number)
      if little then
        item = reverse(item)
      end
      argument = argument + 1
    elseif option == "c" or option == "s" then
      check_present(public, argument, "string", ...)
      item = to_string(public, argument, ...)
      argument = argument + 1
      if size == 0 then
        size = #item
      end
      if #item < size then
        bad_argument(public, argument, "string too short")
      end
      item = sub(item, 1, size)
      if option == "s" then
        item = item .. "\0"
        size = size + 1
      end
    else
      little, alignment, at = control(public, option, options, at, little, alignment)
    end
    out[#out + 1] = item
    position = position + size
  end
  return concat(out)
end

function struct.unpack(...)
  local public = struct.unpack
  local options = options_of(public, ...)
  local data = to_string(public, 2, ...)
  local from = select(3, ...)
  from = from == nil and 1 or to_integer(public, 3, ...)
  if from == 0 then
    bad_argument(public, 3, "offset must be 1 or greater")
  end
  local position = from - 1
  local at, little, alignment = 1, true, 1
  local results, count, count_max = {}, 0, STACK_MAX - select("#", ...) - 2
  while at <= #options do
    local option = sub(options, at, at)
    local size
    size, at = size_at(public, option, options, at + 1)
    position = position + padding(position, alignment, option, size)
    if position < 0 or position + size > #data then
      bad_argument(public, 2, "data string too short")
    elseif count > count_max then
      fail(public, "stack overflow (too many results)")
    end
    local is_signed, result = INTEGERS[option], nil
    if is_signed ~= nil then
      result = integer_of(data, position + 1, size, little, is_signed)
    elseif option == "f" then
      local a, b, c, d = byte(data, position + 1, position + 4)
      if little then
        a, b, c, d = d, c, b, a
      end
      result = float_of(a, b, c, d)
    elseif option == "d" then
      local a, b, c, d, e, f, g, h = byte(data, position + 1, position + 8)
      if little then
        a, b, c, d, e, f, g, h = h, g, f, e, d, c, b, a
      end
      result = double_of(a, b, c, d, e, f, g, h)
    elseif option == "c" then
      if size == 0 then
        size = count > 0 and tonumber(results[count])
        if not size then
          fail(public, "format 'c0' needs a previous size")
        end
        size = truncated(size)
        count = count - 1
        if not (size >= 0 and position + size <= #data) then
          bad_argument(public, 2, "data string too short")
        end
      end
      result = sub(data, position + 1, position + size)
    elseif option == "s" then
      local zero = find(data, "\0", position + 1, true)
      if not zero then
        fail(public, "unfinished string in data")
      end
      result = sub(data, position + 1, zero - 1)
      size = zero - position
    elseif option ~= "x" then
      little, alignment, at = control(public, option, options, at, little, alignment)
    end
    if result ~= nil then
      count = count + 1
      results[count] = result
    end
    position = position + size
  end
  results[count + 1] = position + 1
  return unpack(results, 1, count + 1)
end

function struct.size(...)
  local public = struct.size
  local options = options_of(public, ...)
  local at, position, little, alignment = 1, 0, true, 1
  while at <= #options do
    local option = sub(options, at, at)
    local size
    size, at = size_at(public, option, options, at + 1)
    position = position + padding(position, alignment, option, size)
    if option == "s" then
      bad_argument(public, 1, "option 's' has no fixed size")
    elseif option == "c" and size == 0 then
      bad_argument(public, 1, "option 'c0' has no fixed size")
    elseif not find(option, "%w") then
      little, alignment, at = control(public, option, options, at, little, alignment)
    end
    position = position + size
  end
  return position
end

return struct

-- The library `bit` (Lua BitOp 1.0.2): operations on 32 bits. Lua 5.1 has none, so AND goes by tables of four bits.

local shared = ...
local type, tonumber, select = type, tonumber, select
local bad_type = shared.bad_type
local floor, frexp = math.floor, math.frexp
local format, sub = string.format, string.sub

local AND = {}
for a = 0, 15 do
  local row = {}
  for b = 0, 15 do
    local result, unit = 0, 1
    local x, y = a, b
    while unit < 16 do
      if x % 2 == 1 and y % 2 == 1 then
        result = result + unit
      end
      x, y, unit = floor(x / 2), floor(y / 2), unit * 2
    end
    row[b] = result
  end
  AND[a] = row
end

-- 2^52 + 2^51: a double of this size has no bits behind the point, so the addition rounds to the nearest integer.
local ROUNDING = 6755399441055744

-- The lowest 32 bits of an argument, as 0 to 2^32 - 1: those of the mantissa where it is too large for an integer.
local function bits(public, number, ...)
  local value = select(number, ...)
  if type(value) ~= "number" then
    local converted = type(value) == "string" and tonumber(value)
    if not converted then
      bad_type(public, number, "number", ...)
    end
    value = converted
  end
  local sum = value + ROUNDING
  if sum >= 2 ^ 52 and sum < 2 ^ 53 then
    return (sum - ROUNDING) % 4294967296
  elseif sum ~= sum or sum - sum ~= 0 then
    return 0
  end
  local mantissa = frexp(sum < 0 and -sum or sum)
  return mantissa * 2 ^ 53 % 4294967296
end

local function signed(b)
  return b >= 2147483648 and b - 4294967296 or b
end

local function band(a, b)
  local result, unit = 0, 1
  while a > 0 and b > 0 do
    local x, y = a % 16, b % 16
    result = result + AND[x][y] * unit
    a, b, unit = (a - x) / 16, (b - y) / 16, unit * 16
  end
  return result
end
shared.band = band

local function bor(a, b)
  return a + b - band(a, b)
end

local function bxor(a, b)
  return a + b - 2 * band(a, b)
end

local function lshift(b, n)
  return b * 2 ^ n % 4294967296
end

local function rshift(b, n)
  return floor(b / 2 ^ n)
end

local function arshift(b, n)
  return floor(signed(b) / 2 ^ n) % 4294967296
end

local function rol(b, n)
  return lshift(b, n) + rshift(b, 32 - n)
end

local function ror(b, n)
  return rol(b, (32 - n) % 32)
end

local function is_int(n)
  return type(n) == "number" and n >= -4294967296 and n <= 4294967296 and n % 1 == 0
end

local function fold(operation)
  local public
  public = function(...)
    local a, b = ...
    if is_int(a) and is_int(b) and select("#", ...) == 2 then
      return signed(operation(a % 4294967296, b % 4294967296))
    end
    local result = bits(public, 1, ...)
    -- from the last to the first, so that an error names the argument that BitOp names
    for number = select("#", ...), 2, -1 do
      result = operation(result, bits(public, number, ...))
    end
    return signed(result)
  end
  return public
end

local function shift(operation)
  local public
  public = function(...)
    local b = bits(public, 1, ...)
    return signed(operation(b, bits(public, 2, ...) % 32))
  end
  return public
end

local bit = {
  band = fold(band),
  bor = fold(bor),
  bxor = fold(bxor),
  lshift = shift(lshift),
  rshift = shift(rshift),
  arshift = shift(arshift),
  rol = shift(rol),
  ror = shift(ror),
}

function bit.tobit(...)
  local b = bits(bit.tobit, 1, ...)
  return signed(b)
end

function bit.bnot(...)
  local b = bits(bit.bnot, 1, ...)
  return signed(4294967295 - b)
end

function bit.bswap(...)
  local b = bits(bit.bswap, 1, ...)
  local swapped = b % 256 * 16777216 + floor(b / 256) % 256 * 65536 + floor(b / 65536) % 256 * 256 + floor(b / 16777216)
  return signed(swapped)
end

function bit.tohex(...)
  local b = bits(bit.tohex, 1, ...)
  local digits = select("#", ...) < 2 and 8 or signed(bits(bit.tohex, 2, ...))
  local text = format(digits < 0 and "%08X" or "%08x", b)
  if digits < 0 then
    digits = -digits
  end
  return digits == 0 and "" or sub(text, -(digits > 8 and 8 or digits))
end

return bit

-- The common functions of the libraries: errors, checks of arguments, and numbers as IEEE 754 bytes.
--
-- An error has the texts and the position of luaL_error and luaL_argerror of Lua's C interface: the line in the script
-- that called the public function. `public` is that function; internal functions may lie between it and the error.

local error, type, tonumber, tostring, select = error, type, tonumber, tostring, select
local getinfo = debug.getinfo
local char, sub, format = string.char, string.sub, string.format
local floor, ceil, frexp, ldexp, huge = math.floor, math.ceil, math.frexp, math.ldexp, math.huge

local shared = {}

-- The most values that a function of C may keep on Lua's stack (LUAI_MAXCSTACK); bounds nesting and numbers of results.
shared.STACK_MAX = 8000

local function level_of(public)
  local level = 2
  while getinfo(level, "f").func ~= public do
    level = level + 1
  end
  return level - 1
end

function shared.fail(public, text)
  error(text, level_of(public) + 1)
end

local function bad_argument(public, number, text)
  local level = level_of(public)
  local name = getinfo(level, "n").name or "?"
  error(format("bad argument #%d to '%s' (%s)", number, name, text), level + 1)
end
shared.bad_argument = bad_argument

local function bad_type(public, number, expected, ...)
  local found = number > select("#", ...) and "no value" or type((select(number, ...)))
  bad_argument(public, number, expected .. " expected, got " .. found)
end
shared.bad_type = bad_type

-- The argument with this number as a number: a number or the text of one.
local function to_number(public, number, ...)
  local value = select(number, ...)
  local kind = type(value)
  if kind == "number" then
    return value
  end
  local converted = kind == "string" and tonumber(value)
  if not converted then
    bad_type(public, number, "number", ...)
  end
  return converted
end
shared.to_number = to_number

local function truncated(value)
  return value < 0 and ceil(value) or floor(value)
end
shared.truncated = truncated

function shared.to_integer(public, number, ...)
  return truncated(to_number(public, number, ...))
end

-- The argument as a string: a string or a number.
function shared.to_string(public, number, ...)
  local value = select(number, ...)
  local kind = type(value)
  if kind == "string" then
    return value
  elseif kind == "number" then
    return tostring(value)
  end
  bad_type(public, number, "string", ...)
end

-- The two NaNs: which of them 0/0 is depends on the processor, and only its text shows the sign.
local NAN, NEGATIVE_NAN = 0 / 0, -(0 / 0)
if sub(tostring(NAN), 1, 1) == "-" then
  NAN, NEGATIVE_NAN = NEGATIVE_NAN, NAN
end

local function is_negative(x)
  if x ~= x then
    return sub(tostring(x), 1, 1) == "-"
  end
  return x < 0 or (x == 0 and 1 / x < 0)
end

-- A double as 8 bytes, big-endian.
function shared.double_bytes(x)
  local sign = is_negative(x) and 128 or 0
  local exponent, mantissa
  if x ~= x then
    exponent, mantissa = 2047, 2 ^ 51
  else
    if x < 0 then
      x = -x
    end
    if x == huge then
      exponent, mantissa = 2047, 0
    else
      local fraction, power = frexp(x)
      exponent = power + 1022
      if exponent > 0 and x > 0 then
        mantissa = (fraction * 2 - 1) * 2 ^ 52
      else
        exponent, mantissa = 0, ldexp(x, 1074)
      end
    end
  end
  local high, low = floor(mantissa / 2 ^ 32), mantissa % 2 ^ 32
  return char(
    sign + floor(exponent / 16), exponent % 16 * 16 + floor(high / 65536), floor(high / 256) % 256, high % 256,
    floor(low / 16777216), floor(low / 65536) % 256, floor(low / 256) % 256, low % 256
  )
end

local function from_parts(negative, exponent, exponent_max, mantissa, bits)
  if exponent == exponent_max then
    if mantissa ~= 0 then
      return negative and NEGATIVE_NAN or NAN
    end
    return negative and -huge or huge
  end
  local bias = (exponent_max - 1) / 2
  local x
  if exponent == 0 then
    x = ldexp(mantissa, 1 - bias - bits)
  else
    x = ldexp(mantissa + 2 ^ bits, exponent - bias - bits)
  end
  return negative and -x or x
end

function shared.double_of(a, b, c, d, e, f, g, h)
  local mantissa = (b % 16 * 65536 + c * 256 + d) * 2 ^ 32 + e * 16777216 + f * 65536 + g * 256 + h
  return from_parts(a >= 128, a % 128 * 16 + floor(b / 16), 2047, mantissa, 52)
end

function shared.float_of(a, b, c, d)
  return from_parts(a >= 128, a % 128 * 2 + floor(b / 128), 255, b % 128 * 65536 + c * 256 + d, 23)
end

-- The nearest float (ties to even) of a double, as 4 bytes, big-endian.
function shared.float_bytes(x)
  local sign = is_negative(x) and 128 or 0
  local bits
  if x ~= x then
    bits = 255 * 2 ^ 23 + 2 ^ 22
  else
    if x < 0 then
      x = -x
    end
    local fraction, power = frexp(x)
    if x >= 2 ^ 128 then
      bits = 255 * 2 ^ 23
    elseif x < 2 ^ -126 then
      bits = ldexp(x, 149) + 2 ^ 52 - 2 ^ 52
    else
      -- a mantissa that is rounded up to 2^23 carries into the exponent, as it must
      bits = (power + 126) * 2 ^ 23 + ((fraction * 2 - 1) * 2 ^ 23 + 2 ^ 52 - 2 ^ 52)
    end
  end
  return char(sign + floor(bits / 16777216), floor(bits / 65536) % 256, floor(bits / 256) % 256, bits % 256)
end

return shared

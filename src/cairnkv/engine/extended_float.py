"""Floating-point numbers with a mantissa of 64 bits, as C's `long double` on x86.

Redis computes INCRBYFLOAT with them and prints 17 digits after the point. Other processors have other long doubles, and
Python has none. This module computes the same results with integers, so all nodes of a cluster compute the same sum.

Out of scope: infinite numbers, NaN, and C's hexadecimal notation.
"""

import re
from decimal import Decimal
from typing import Final, TypeAlias

MANTISSA_BITS: Final = 64

TEXT_MAX: Final = 5 * 1024 - 1
"""Maximum characters of a number in text, as in Redis. The longest result has fewer."""

EXPONENT_MAX: Final = 16_384
"""All numbers are below 2 to this power."""

EXPONENT_MIN: Final = -16_445
"""The smallest positive number is 2 to this power. Numbers that would round to zero are refused, as in Redis."""

POWER_MAX: Final = 10_240
"""Maximum absolute decimal exponent in a text. With a larger one, every text is too large or too small."""

DECIMALS: Final = 17
"""Digits after the point, before trailing zeros are removed."""

Number: TypeAlias = tuple[int, int]
"""A mantissa and an exponent: mantissa * 2**exponent."""

_TEXT: Final = re.compile(rb"([+-]?)(?:([0-9]+)\.?([0-9]*)|\.([0-9]+))(?:[eE]([+-]?)0*([0-9]+))?")
_INFINITE: Final = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)


def text_of_sum(one: bytes, other: bytes) -> bytes:
    """Return the sum of two numbers in decimal text, as decimal text.

    Raises `ValueError` for a text that is not a number, and `OverflowError` for a sum that is not finite.

    >>> text_of_sum(b"10.5", b"0.1"), text_of_sum(b"5.0e3", b"2.0e2"), text_of_sum(b"3", b"-3.0")
    (b'10.6', b'5200', b'0')
    """
    texts = (one, other)
    if any(_INFINITE.fullmatch(text) for text in texts):
        for text in texts:
            if not _INFINITE.fullmatch(text):
                _read(text)
        raise OverflowError("infinite")
    return _write(_sum(_read(one), _read(other)))


def _read(text: bytes) -> Number:
    found = _TEXT.fullmatch(text) if len(text) <= TEXT_MAX else None
    if found is None:
        raise ValueError(f"{text[:24]!r} is not a number")
    sign, whole, behind, only_behind, sign_of_power, power = found.groups(b"")
    behind = behind or only_behind
    # `Decimal`, since `int` refuses texts of more digits than a setting of the interpreter allows.
    digits = int(Decimal((whole + behind).decode()))
    if not digits:
        return 0, 0
    if len(power) > len(str(POWER_MAX)) or int(power or b"0") > POWER_MAX:
        raise ValueError(f"{text[:24]!r} is too large, or too small")
    tens = int(sign_of_power + (power or b"0")) - len(behind)
    dividend, divisor = digits * 10 ** max(tens, 0), 10 ** max(-tens, 0)
    if dividend.bit_length() - divisor.bit_length() < EXPONENT_MIN and dividend << (1 - EXPONENT_MIN) <= divisor:
        raise ValueError(f"{text[:24]!r} is too small")
    mantissa, exponent = _nearest(dividend, divisor)
    if mantissa.bit_length() + exponent > EXPONENT_MAX:
        raise ValueError(f"{text[:24]!r} is too large")
    return -mantissa if sign == b"-" else mantissa, exponent


def _sum(one: Number, other: Number) -> Number:
    lowest = min(one[1], other[1])
    total = (one[0] << (one[1] - lowest)) + (other[0] << (other[1] - lowest))
    mantissa, exponent = _nearest(abs(total), 1)
    if mantissa.bit_length() + exponent + lowest > EXPONENT_MAX:
        raise OverflowError("too large")
    return -mantissa if total < 0 else mantissa, exponent + lowest


def _nearest(dividend: int, divisor: int) -> Number:
    """Return the number nearest to a non-negative quotient; of two, the one with an even mantissa.

    Numbers near zero keep all bits. C's lose some, but no printed digit shows that.
    """
    exponent = dividend.bit_length() - divisor.bit_length() - MANTISSA_BITS
    if dividend << max(-exponent, 0) >= divisor << (MANTISSA_BITS + max(exponent, 0)):
        exponent += 1
    return _divided(dividend << max(-exponent, 0), divisor << max(exponent, 0)), exponent


def _divided(dividend: int, divisor: int) -> int:
    """Return a quotient rounded to an integer, halves to even."""
    whole, left = divmod(dividend, divisor)
    return whole + (2 * left + (whole & 1) > divisor)


def _write(number: Number) -> bytes:
    mantissa, exponent = number
    scaled = abs(mantissa) * 10**DECIMALS
    scaled = scaled << exponent if exponent >= 0 else _divided(scaled, 1 << -exponent)
    digits = str(Decimal(scaled)).encode().rjust(DECIMALS + 1, b"0")
    text = (digits[:-DECIMALS] + b"." + digits[-DECIMALS:]).rstrip(b"0").rstrip(b".")
    return b"-" + text if mantissa < 0 and text != b"0" else text

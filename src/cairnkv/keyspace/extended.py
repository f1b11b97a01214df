"""Numbers with a fraction, reckoned with 64 bits of mantissa: what C's `long double` is on a PC.

Redis counts with those in INCRBYFLOAT and prints 17 digits behind the point. Other machines have other long doubles,
and Python has none; here the same is done with whole numbers, so every machine of a cluster finds the same sum.

Not for numbers that are not finite, nor for C's hexadecimal notation.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

MANTISSA_BITS: Final = 64

TEXT_MAX: Final = 5 * 1024 - 1
"""Characters of a number that is read, as in Redis: more than the longest that is written."""

EXPONENT_MAX: Final = 16_384
"""All numbers are below 2 to the power of this."""

EXPONENT_MIN: Final = -16_445
"""The least number above zero is 2 to the power of this. What would be rounded to zero is refused, as in Redis."""

POWER_MAX: Final = 10_240
"""Powers of ten that a text may have, either way. With more, the longest text before them is too large or too small
all the same."""

DECIMALS: Final = 17
"""Digits written behind the point, before zeros at the end are left out."""

_TEXT: Final = re.compile(rb"([+-]?)(?:([0-9]+)\.?([0-9]*)|\.([0-9]+))(?:[eE]([+-]?)0*([0-9]+))?")
_INFINITE: Final = re.compile(rb"[+-]?inf(inity)?", re.IGNORECASE)


def text_of_sum(one: bytes, other: bytes) -> bytes:
    """The sum of two numbers in decimal text, as decimal text.

    Raises `ValueError` when one of them is no number, `OverflowError` when the sum would not be finite.

    >>> text_of_sum(b"10.5", b"0.1"), text_of_sum(b"5.0e3", b"2.0e2"), text_of_sum(b"3", b"-3.0")
    (b'10.6', b'5200', b'0')
    """
    texts = (one, other)
    if any(_INFINITE.fullmatch(text) for text in texts):
        for text in texts:
            if not _INFINITE.fullmatch(text):
                _read(text)
        raise OverflowError("infinite")
    return _write(_rounded(_read(one) + _read(other)))


def _read(text: bytes) -> Fraction:
    found = _TEXT.fullmatch(text) if len(text) <= TEXT_MAX else None
    if found is None:
        raise ValueError(f"{text[:24]!r} is not a number")
    sign, whole, behind, only_behind, sign_of_power, power = found.groups(b"")
    # By way of `Decimal`: `int` refuses texts of more digits than a setting of the interpreter allows.
    number = Fraction(Decimal((whole + b"." + behind + only_behind).decode()))
    if number and power:
        if len(power) > len(str(POWER_MAX)) or int(power) > POWER_MAX:
            raise ValueError(f"{text[:24]!r} is too large, or too small")
        number *= Fraction(10) ** int(sign_of_power + power)
    if number and _magnitude(number) < EXPONENT_MIN and number <= Fraction(2) ** (EXPONENT_MIN - 1):
        raise ValueError(f"{text[:24]!r} is too small")
    try:
        return _rounded(-number if sign == b"-" else number)
    except OverflowError:
        raise ValueError(f"{text[:24]!r} is too large") from None


def _rounded(number: Fraction) -> Fraction:
    """The nearest number that has so many bits; of two that are as near, the one with an even mantissa.

    Numbers near zero keep all their bits, where C's lose some: no digit that is written shows that.
    """
    if not number:
        return number
    exponent = _magnitude(number) - MANTISSA_BITS
    scaled = number / Fraction(2) ** exponent
    if abs(scaled) >= 2**MANTISSA_BITS:
        exponent += 1
        scaled /= 2
    mantissa = round(scaled)
    if mantissa.bit_length() + exponent > EXPONENT_MAX:
        raise OverflowError("too large")
    return mantissa * Fraction(2) ** exponent


def _magnitude(number: Fraction) -> int:
    """The power of 2 next to a number that is not zero, or the one below that."""
    return number.numerator.bit_length() - number.denominator.bit_length()


def _write(number: Fraction) -> bytes:
    digits = str(Decimal(round(abs(number) * 10**DECIMALS))).encode().rjust(DECIMALS + 1, b"0")
    text = (digits[:-DECIMALS] + b"." + digits[-DECIMALS:]).rstrip(b"0").rstrip(b".")
    return b"-" + text if number < 0 and text != b"0" else text

"""Encodes replies of the Redis protocol: the kinds of values, and their bytes in RESP2 and RESP3.

A value is a plain Python object if its type determines its kind, else an instance of one of the classes below. RESP2
has only strings, errors, integers, arrays and null; other kinds become the nearest of these, as in Redis.

| value | in RESP2 | in RESP3 |
| --- | --- | --- |
| None | null bulk `$-1` | null `_` |
| `NULL_ARRAY` | null array `*-1` | null `_` |
| bool | integer, 0 or 1 | boolean `#t`, `#f` |
| int of 64 signed bits | integer `:` | integer `:` |
| int beyond that, `BigNumber` | bulk string | big number `(` |
| float | bulk string | double `,` |
| bytes | bulk string `$` | bulk string `$` |
| `Simple`, `Error` | `+`, `-` | `+`, `-` |
| `Verbatim` | bulk string | verbatim string `=` |
| list, tuple | array `*` | array `*` |
| `SetOf` | array | set `~` |
| dict | array, of keys and values in turn | map `%` |
| `Push` | array | push `>` |

Invariants: no text can end its line early; a long bulk string is not copied; nested values need no recursion.
"""

import dataclasses
import enum
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, Literal, TypeAlias, TypeGuard

from cairnkv.limits import INTEGER_MAX, INTEGER_MIN

__all__ = [
    "NULL_ARRAY",
    "OK",
    "BigNumber",
    "Error",
    "Push",
    "Resp",
    "SetOf",
    "Simple",
    "TooLong",
    "Value",
    "Verbatim",
    "array_head",
    "bulk_strings",
    "double_text",
    "encode_parts",
]

Resp: TypeAlias = Literal[2, 3]
"""A version of the protocol: 2 at the beginning of a connection, 3 after HELLO 3."""

_LONG: Final = 4_096
"""Bytes above which a string is a part of its own, because a copy costs more than a part."""


class NullArray(enum.Enum):
    """The type of `NULL_ARRAY`."""

    NULL_ARRAY = "null array"


NULL_ARRAY: Final = NullArray.NULL_ARRAY
"""Null in place of an array, such as for a transaction that was not executed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Simple:
    """A short text of one line. Line ends in it become spaces."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Error:
    """An error: a code, which is the first word, and a message. Line ends in it become spaces.

    The text may have bytes that are not UTF-8 as lone surrogates (`surrogateescape`).
    """

    text: str

    @property
    def code(self) -> str:
        """The first word.

        >>> Error("WRONGPASS invalid username-password pair").code
        'WRONGPASS'
        """
        return self.text.partition(" ")[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Verbatim:
    """A text to show to people. kind: three characters, `txt` or `mkd` but for replies of scripts."""

    text: bytes
    kind: str = "txt"


@dataclasses.dataclass(frozen=True, slots=True)
class BigNumber:
    """A big number as a script has written it. Line ends in it become spaces."""

    digits: str


@dataclasses.dataclass(frozen=True, slots=True)
class SetOf:
    """A set. The caller guarantees that the items are distinct."""

    items: "tuple[Value, ...]"


@dataclasses.dataclass(frozen=True, slots=True)
class Push:
    """Data for a client that is no reply, such as a message. The first item is its kind."""

    items: "tuple[Value, ...]"


Flat: TypeAlias = bool | int | float | bytes | Simple | Error | Verbatim | BigNumber | NullArray | None
"""A value that contains no values."""

Value: TypeAlias = "Flat | list[Value] | tuple[Value, ...] | Mapping[bytes, Value] | SetOf | Push"
"""A reply, or a part of one."""

OK: Final = Simple("OK")

_OK: Final = b"+OK\r\n"
_NULLS: Final = {2: b"$-1\r\n", 3: b"_\r\n"}
_NULL_ARRAYS: Final = {2: b"*-1\r\n", 3: b"_\r\n"}
_BOOLS: Final = {2: (b":0\r\n", b":1\r\n"), 3: (b"#f\r\n", b"#t\r\n")}
_ONE_LINE: Final = {ord("\r"): " ", ord("\n"): " "}


class TooLong(Exception):
    """The encoded value has more bytes than allowed."""


def encode_parts(value: Value, protocol: Resp, room: int | None = None) -> list[bytes]:
    """Return the bytes of a value in one or more parts, so that the caller need not copy a long string.

    room: maximum bytes; None: no limit. Raises `TooLong` soon after the limit, and `TypeError` for what is not a
    `Value`.

    >>> encode_parts([1, b"two", None], 2)
    [b'*3\\r\\n:1\\r\\n$3\\r\\ntwo\\r\\n$-1\\r\\n']
    >>> encode_parts({b"ratio": 0.5}, 3)
    [b'%1\\r\\n$5\\r\\nratio\\r\\n,0.5\\r\\n']
    """
    room = sys.maxsize if room is None else room
    if not _is_long(value) and (flat := _flat(value, protocol)) is not None:  # nearly every reply
        if len(flat) > room:
            raise TooLong
        return [flat]
    parts: list[bytes] = []
    short: list[bytes] = []  # bytes of the next part
    remaining: list[Iterator[Value]] = [iter((value,))]  # the remaining items of each enclosing value
    while remaining:
        for item in remaining[-1]:
            if room < 0:
                raise TooLong
            if _is_long(item):
                head = b"$%d\r\n" % len(item)
                room -= len(head) + len(item) + 2
                short.append(head)
                parts += (b"".join(short), item)
                short = [b"\r\n"]
            elif (flat := _flat(item, protocol)) is not None:
                room -= len(flat)
                short.append(flat)
            else:
                head, items = _opened(item, protocol)
                room -= len(head)
                short.append(head)
                remaining.append(iter(items))
                break
        else:
            remaining.pop()
    if room < 0:
        raise TooLong
    parts.append(b"".join(short))
    return parts


def _is_long(value: Value) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) > _LONG


def _flat(value: Value, protocol: Resp) -> bytes | None:
    """Return the bytes of a value that contains no values, or None for another value. Common kinds come first."""
    if value is OK:
        return _OK
    if isinstance(value, bytes):
        return _bulk(value)
    if value is None:
        return _NULLS[protocol]
    if isinstance(value, bool):
        return _BOOLS[protocol][value]
    if isinstance(value, int):
        if INTEGER_MIN <= value <= INTEGER_MAX:
            return b":%d\r\n" % value
        return b"(%d\r\n" % value if protocol == 3 else _bulk(b"%d" % value)
    if isinstance(value, Simple):
        return b"+%b\r\n" % _line(value.text)
    if isinstance(value, Error):
        return b"-%b\r\n" % _line(value.text)
    if isinstance(value, float):
        return b",%b\r\n" % double_text(value) if protocol == 3 else _bulk(double_text(value))
    if isinstance(value, Verbatim):
        if protocol == 3:
            return b"=%d\r\n%b:%b\r\n" % (len(value.text) + 4, value.kind.encode(), value.text)
        return _bulk(value.text)
    if isinstance(value, BigNumber):
        digits = value.digits.translate(_ONE_LINE).encode("latin-1")
        return b"(%b\r\n" % digits if protocol == 3 else _bulk(digits)
    if value is NULL_ARRAY:
        return _NULL_ARRAYS[protocol]
    return None


def _opened(value: Value, protocol: Resp) -> tuple[bytes, Iterable[Value]]:
    """Return the head and the items of a value that contains values."""
    if isinstance(value, list | tuple):
        return array_head(len(value)), value
    if isinstance(value, Mapping):
        head = b"%%%d\r\n" % len(value) if protocol == 3 else b"*%d\r\n" % (2 * len(value))
        return head, chain.from_iterable(value.items())
    if isinstance(value, SetOf):
        return (b"~%d\r\n" if protocol == 3 else b"*%d\r\n") % len(value.items), value.items
    if isinstance(value, Push):
        return (b">%d\r\n" if protocol == 3 else b"*%d\r\n") % len(value.items), value.items
    raise TypeError(f"not a value of the Redis protocol: {value!r}")


def array_head(count: int) -> bytes:
    """Return the head of an array, for callers that encode the items themselves."""
    return b"*%d\r\n" % count


def bulk_strings(strings: Iterable[bytes]) -> bytes:
    """Return the concatenated bytes of strings."""
    return b"".join(map(_bulk, strings))


def _bulk(string: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(string), string)


def _line(text: str) -> bytes:
    return text.translate(_ONE_LINE).encode("utf-8", "surrogateescape")


_EXACT_INTEGER: Final = 2**62
"""The largest double without a fraction that is written as an integer."""


def double_text(number: float) -> bytes:
    """Return a double as Redis 7.2 writes it: with the fewest digits that identify the double.

    >>> [double_text(number) for number in (3.0, 0.1, 1e-5, 1.5e-7, 1e300, float("inf"), -0.0)]
    [b'3', b'0.1', b'0.00001', b'1.5e-7', b'1e+300', b'inf', b'-0']
    """
    if math.isnan(number):
        return b"nan"
    sign = "-" if math.copysign(1.0, number) < 0 else ""
    magnitude = abs(number)
    if math.isinf(number):
        text = "inf"
    elif magnitude <= _EXACT_INTEGER and magnitude.is_integer():
        text = str(int(magnitude))
    else:
        mantissa, _, exponent = repr(magnitude).partition("e")
        whole, _, fraction = mantissa.partition(".")
        digits = (whole + fraction).lstrip("0")
        text = _decimal(digits, int(exponent or 0) - len(fraction))
    return (sign + text).encode()


def _decimal(digits: str, scale: int) -> str:
    """Return digits * 10**scale as Redis writes it: with an exponent only in place of many zeros."""
    exponent = len(digits) + scale - 1  # of the first digit
    if scale >= 0 and exponent < len(digits) + 7:
        return digits + "0" * scale
    if scale < 0 and (scale > -7 or abs(exponent) < 4):
        if exponent < 0:
            return "0." + "0" * (-exponent - 1) + digits
        return f"{digits[: exponent + 1]}.{digits[exponent + 1 :]}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{exponent:+d}"

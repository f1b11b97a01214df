"""Converts values between the Redis protocol and the sandbox, as Redis does.

Between Python and Lua a value is a list of parts: a tag and a payload for each value, and the parts of an array,
map or set before those of its items. The sandbox (sandbox.lua) has the same tags.

| tag | value | payload |
| --- | --- | --- |
| 0 | string, number; from a command also false | itself |
| 1, 2 | status, error | the text |
| 3, 4, 5 | array, map, set | the number of items |
| 6, 7, 8 | double, big number, verbatim string | the number, the digits, `txt:` and the text |
| 9, 10, 11 | null, true, false | False |
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from cairnkv.limits import INTEGER_MAX, INTEGER_MIN
from cairnkv.protocol.resp.replies import (
    NULL_ARRAY,
    OK,
    BigNumber,
    Error,
    Push,
    Resp,
    SetOf,
    Simple,
    Value,
    Verbatim,
    double_text,
)

Parts: TypeAlias = list[Any]

_ITEM_BYTES = 160
"""Most bytes of an item of a table of Lua, without its text, while its tables grow."""


def parts_of(value: Value, protocol: Resp, parts: Parts) -> int:
    """Append the parts of a command's reply. Return about the bytes of memory that the value takes in Lua."""
    if isinstance(value, bytes):
        parts += (0, value)
        return len(value) + _ITEM_BYTES
    if value is None or value is NULL_ARRAY:
        parts += (0, False) if protocol == 2 else (9, False)
    elif isinstance(value, bool):
        parts += (0, float(value) if protocol == 2 else value)
    elif isinstance(value, int):
        if INTEGER_MIN <= value <= INTEGER_MAX:
            parts += (0, float(value))
        else:
            parts += (7 if protocol == 3 else 0, b"%d" % value)
    elif isinstance(value, float):
        parts += (6, value) if protocol == 3 else (0, double_text(value))
    elif isinstance(value, Simple):
        parts += (1, value.text.encode("utf-8", "surrogateescape"))
    elif isinstance(value, Error):
        parts += (2, value.text.encode("utf-8", "surrogateescape"))
    elif isinstance(value, BigNumber):
        parts += (7 if protocol == 3 else 0, value.digits.encode("latin-1"))
    elif isinstance(value, Verbatim):
        parts += (8, value.kind.encode() + b":" + value.text) if protocol == 3 else (0, value.text)
        return len(value.text) + _ITEM_BYTES
    elif isinstance(value, Mapping):
        parts += (4, len(value)) if protocol == 3 else (3, 2 * len(value))
        size = _ITEM_BYTES
        for key, item in value.items():
            size += parts_of(key, protocol, parts) + parts_of(item, protocol, parts)
        return size
    else:
        items = value.items if isinstance(value, SetOf | Push) else value
        parts += (5 if protocol == 3 and isinstance(value, SetOf) else 3, len(items))
        size = _ITEM_BYTES
        for item in items:
            size += parts_of(item, protocol, parts)
        return size
    return _ITEM_BYTES


def value_of(parts: Parts) -> Value:
    """Return the value for the parts of a script's reply."""
    return _next_value(iter(parts))


def flat(value: Any) -> Value:
    """Return the value for a string, number or boolean of a script's reply. A number loses its fraction.

    >>> [flat(number) for number in (3, -3.9, 1e300, float("nan"))]
    [3, -3, -9223372036854775808, -9223372036854775808]
    """
    if isinstance(value, float):
        return int(value) if -(2.0**63) <= value < 2.0**63 else INTEGER_MIN
    if isinstance(value, int) and not isinstance(value, bool) and not INTEGER_MIN <= value <= INTEGER_MAX:
        return INTEGER_MIN
    return value  # type: ignore[no-any-return]


def _next_value(parts: Iterator[Any]) -> Value:
    tag, payload = next(parts), next(parts)
    if tag == 0:
        return payload if type(payload) is bytes else flat(payload)
    if tag == 1:
        return OK if payload == b"OK" else Simple(payload.decode("utf-8", "surrogateescape"))
    if tag == 2:
        return Error(payload.decode("utf-8", "surrogateescape"))
    if tag == 3:
        return [_next_value(parts) for _ in range(payload)]
    if tag == 4:
        return _map([(_next_value(parts), _next_value(parts)) for _ in range(payload)])
    if tag == 5:
        return SetOf(tuple(_next_value(parts) for _ in range(payload)))
    if tag == 6:
        return float(payload)
    if tag == 7:
        return BigNumber(payload.decode("latin-1"))
    if tag == 8:
        return Verbatim(payload[4:], payload[:3].decode("ascii", "replace").replace("\ufffd", "?"))
    return None if tag == 9 else tag == 10


class _Pairs(Mapping[Any, Value]):
    """A map for the encoder only. Its keys may be any values."""

    def __init__(self, pairs: list[tuple[Value, Value]]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Value]:
        return (key for key, _ in self._pairs)

    def __getitem__(self, key: Value) -> Value:
        return next(value for other, value in self._pairs if other == key)

    def items(self) -> Any:
        """Return the pairs."""
        return self._pairs


def _map(pairs: list[tuple[Value, Value]]) -> Value:
    if all(type(key) is bytes for key, _ in pairs):
        return {key: value for key, value in pairs if isinstance(key, bytes)}
    return _Pairs(pairs)

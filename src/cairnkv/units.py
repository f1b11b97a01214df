"""Parses sizes, times and switches, and shows numbers with their units."""

import re
from datetime import timedelta
from typing import Final

_SIZES: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE: Final = re.compile(r"([0-9]{1,18})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_TIMES: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TIME: Final = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d|)", re.IGNORECASE | re.ASCII)


def size(text: str) -> int:
    """Return the bytes of a text such as `64MiB`, `64m` or `67108864`; units are powers of 1,024.

    >>> size("64MiB") == size("64m") == 67108864
    True
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a size such as 64MiB, 512k or 1048576, not {text!r}")
    return int(match[1]) * _SIZES[match[2].lower()]


def switch(text: str) -> bool:
    """Return whether a text means yes.

    >>> switch("yes"), switch("off")
    (True, False)
    """
    if (lowered := text.strip().lower()) in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"yes or no, not {text!r}")


def seconds(text: str) -> float:
    """Return the seconds of a text such as `30s`, `500ms`, `5m`, `1h` or `30`."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"a time such as 30s, 500ms, 5m or 1h, not {text!r}")
    return float(match[1]) * _TIMES[match[2].lower()]


def duration(given: object) -> float:
    """Return the seconds of a number, a text for `seconds`, or a timedelta. Raises ValueError for anything else.

    >>> duration("5m") == duration(300) == duration(timedelta(minutes=5)) == 300
    True
    """
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, str):
        return seconds(given)
    if hasattr(given, "__float__") and not isinstance(given, bool):
        return float(given)
    raise ValueError(f"a number of seconds, text such as '5s', or a timedelta, not {given!r:.40}")


def counted(number: int, unit: str, plural: str = "s") -> str:
    """Return a number and its unit, in the plural unless the number is 1.

    >>> counted(1, "key"), counted(1200, "line")
    ('1 key', '1,200 lines')
    """
    return f"{number:,} {unit}{'' if number == 1 else plural}"

"""The glob patterns of Redis, on bytes.

    *          any number of bytes
    ?          one byte
    [abc] [a-f] [^x]    one byte of a class, of a range, or not of it
    \\x         the byte x itself

Unusual patterns mean the same as in Redis. A class without its `]` ends with the pattern. A range may be written
backwards, and its end may be any byte, `]` and `\\` included. `[]` matches nothing, and `[^]` matches any byte. A `\\`
at the end is itself. Only the empty pattern matches the empty string. Bytes above 127 come last in a range; in Redis
that depends on the compiler.

Invariants: a match takes at most as many steps as the length of the key times the length of the pattern. A pattern
consists of segments with stars between them. All strings that a segment matches have the same length, so the leftmost
place for it is never worse than a later one, and the search never goes back.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from cairnkv.limits import PATTERN_MAX

Matcher: TypeAlias = Callable[[bytes], bool]

_Segment: TypeAlias = list[frozenset[int]]
"""A part of a pattern between two stars: the allowed bytes at each place."""

_ANY: Final = frozenset(range(256))

_KEPT: Final = 128
"""Number of cached patterns. Each slice of a scan has the same pattern."""


@functools.lru_cache(maxsize=_KEPT)
def matcher(pattern: bytes) -> Matcher:
    """Return a function that matches strings with a pattern. Raise `ValueError` if it is longer than `PATTERN_MAX`.

    >>> is_stone = matcher(b"stone:[0-9]*")
    >>> is_stone(b"stone:7:weight"), is_stone(b"stone:x")
    (True, False)
    """
    head, *others = _segments(pattern)
    begins = _at_place(head)
    if not others:
        only = len(head)
        return lambda string: len(string) == only and begins(string, 0)
    *middles, tail = others
    ends = _at_place(tail)
    searches = [_leftmost(segment) for segment in middles if segment]
    first, last = len(head), len(tail)
    shortest = max(1, first + last + sum(map(len, middles)))

    def matches(string: bytes) -> bool:
        if len(string) < shortest or not begins(string, 0):
            return False
        stop = len(string) - last
        if not ends(string, stop):
            return False
        at = first
        for search in searches:
            at = search(string, at, stop)
            if at < 0:
                return False
        return True

    return matches


def literal_prefix(pattern: bytes) -> bytes:
    """Return the common prefix of all strings that match. Raise `ValueError` if the pattern is too long.

    >>> literal_prefix(b"stone:\\\\*:[0-9]*")
    b'stone:*:'
    """
    head = _segments(pattern)[0]
    prefix = bytearray()
    for allowed in head:
        if len(allowed) != 1:
            break
        prefix += bytes(allowed)
    return bytes(prefix)


def searched(pattern: bytes) -> int:
    """Return the maximum number of steps of a match for each byte of a string; 0: about one.

    A match searches every place only for a segment between two stars. Only a class of bytes makes the search slow.

    >>> searched(b"stone:*:[0-9]"), searched(b"*a stone*"), searched(b"*stone:[0-9]*")
    (0, 0, 11)
    """
    if pattern.count(b"*") < 2:
        return 0
    between = pattern[pattern.index(b"*") + 1 : pattern.rindex(b"*")]
    return len(between) if b"?" in between or b"[" in between else 0


# -- reading a pattern -------------------------------------------------------------------------------------


def _segments(pattern: bytes) -> list[_Segment]:
    """Return the segments of a pattern: before the first star, between stars, and behind the last one."""
    if len(pattern) > PATTERN_MAX:
        raise ValueError(f"a pattern of {len(pattern):,} bytes; the limit is {PATTERN_MAX:,}")
    segments: list[_Segment] = [[]]
    at = 0
    while at < len(pattern):
        sign = pattern[at : at + 1]
        at += 1
        if sign == b"*":
            segments.append([])
        elif sign == b"?":
            segments[-1].append(_ANY)
        elif sign == b"[":
            allowed, at = _class(pattern, at)
            segments[-1].append(allowed)
        else:
            if sign == b"\\" and at < len(pattern):
                sign = pattern[at : at + 1]
                at += 1
            segments[-1].append(frozenset(sign))
    return segments


def _class(pattern: bytes, at: int) -> tuple[frozenset[int], int]:
    """Return the bytes of the class whose `[` stands before `at`, and the position behind the class."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    allowed: set[int] = set()
    end = len(pattern)
    while at < end and pattern[at] != ord("]"):
        if pattern[at] == ord("\\") and at + 1 < end:
            allowed.add(pattern[at + 1])
            at += 2
        elif at + 2 < end and pattern[at + 1] == ord("-"):
            low, high = sorted((pattern[at], pattern[at + 2]))
            allowed.update(range(low, high + 1))
            at += 3
        else:
            allowed.add(pattern[at])
            at += 1
    return (_ANY - allowed if negated else frozenset(allowed)), at + 1


# -- matching a segment ------------------------------------------------------------------------------------


def _literal(segment: _Segment) -> bytes | None:
    """Return the only string that the segment matches, or None if there are several strings or none."""
    if any(len(allowed) != 1 for allowed in segment):
        return None
    return b"".join(map(bytes, segment))


def _at_place(segment: _Segment) -> Callable[[bytes, int], bool]:
    """Return a function that matches the segment at a place in a string, which must be long enough."""
    literal = _literal(segment)
    if literal is not None:
        return lambda string, at: string.startswith(literal, at)
    match = _expression(segment).match
    return lambda string, at: match(string, at) is not None


def _leftmost(segment: _Segment) -> Callable[[bytes, int, int], int]:
    """Return a function that finds the segment in a part of a string. It returns the end of the first match, or -1."""
    literal = _literal(segment)
    if literal is not None:
        size = len(literal)

        def find(string: bytes, at: int, stop: int) -> int:
            found = string.find(literal, at, stop)
            return found + size if found >= 0 else -1

        return find
    search = _expression(segment).search

    def find_expression(string: bytes, at: int, stop: int) -> int:
        found = search(string, at, stop)
        return found.end() if found else -1

    return find_expression


def _expression(segment: _Segment) -> re.Pattern[bytes]:
    """Return the segment as a regular expression: a sequence of classes without repetition."""
    return re.compile(b"".join(map(_one_byte, segment)), re.DOTALL)


@functools.lru_cache(maxsize=_KEPT)
def _one_byte(allowed: frozenset[int]) -> bytes:
    if allowed == _ANY:
        return b"."
    if not allowed:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x-\\x%02x" % stretch for stretch in _stretches(allowed)) + b"]"


def _stretches(allowed: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last byte of each range of consecutive bytes."""
    for byte in sorted(allowed):
        if byte - 1 not in allowed:
            first = byte
        if byte + 1 not in allowed:
            yield first, byte

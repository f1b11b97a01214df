"""Redis' glob patterns: their matches, and the bound on their cost."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.limits import KEY_MAX, PATTERN_MAX
from cairnkv.session.resp import glob
from cairnkv.session.resp.glob import literal_prefix, matcher


def reference(pattern: bytes, string: bytes) -> bool:
    """Match a pattern by recursion: simple, and slow without bound."""
    if not string and pattern:
        return False  # at the top only: below, `_rest` knows that stars may stand for nothing
    return _rest(pattern, string)


def _rest(pattern: bytes, string: bytes) -> bool:
    if not pattern:
        return not string
    if pattern[:1] == b"*":
        return any(_rest(pattern[1:], string[at:]) for at in range(len(string) + 1))
    if not string:
        return False
    byte = string[0]
    match pattern[:1]:
        case b"?":
            return _rest(pattern[1:], string[1:])
        case b"[":
            fits, rest = _class(pattern[1:], byte)
            return fits and _rest(rest, string[1:])
        case b"\\" if len(pattern) > 1:
            return pattern[1] == byte and _rest(pattern[2:], string[1:])
    return pattern[0] == byte and _rest(pattern[1:], string[1:])


def _class(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    """Whether the byte is of the class, and the pattern behind it."""
    if pattern[:1] == b"^":
        fits, rest = _members(pattern[1:], byte)
        return not fits, rest
    return _members(pattern, byte)


def _members(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    if not pattern:
        return False, b""
    if pattern[:1] == b"]":
        return False, pattern[1:]
    if pattern[:1] == b"\\" and len(pattern) > 1:
        here, rest = pattern[1] == byte, pattern[2:]
    elif len(pattern) > 2 and pattern[1:2] == b"-":
        here, rest = pattern[0] <= byte <= pattern[2] or pattern[2] <= byte <= pattern[0], pattern[3:]
    else:
        here, rest = pattern[0] == byte, pattern[1:]
    others, rest = _members(rest, byte)
    return here or others, rest


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        (rb"", [b""], [b"a"]),
        (rb"*", [b"a", b"*", b"a\nb"], [b""]),
        (rb"**", [b"a", b"ab"], [b""]),
        (rb"a*", [b"a", b"ab", b"a*"], [b"", b"ba"]),
        (rb"*a", [b"a", b"ba", b"aa"], [b"ab"]),
        (rb"a*a", [b"aa", b"aba"], [b"a", b"ab"]),
        (rb"*a*b*", [b"ab", b"xaxbx"], [b"ba", b"a"]),
        (rb"h?llo", [b"hello", b"h\nllo", b"h\xffllo"], [b"hllo", b"heello"]),
        (rb"h[ae]llo", [b"hello", b"hallo"], [b"hillo"]),
        (rb"h[^e]llo", [b"hallo", b"h^llo"], [b"hello"]),
        (rb"h[a-b]llo", [b"hallo", b"hbllo"], [b"h-llo", b"hcllo"]),
        (rb"h[b-a]llo", [b"hallo", b"hbllo"], [b"h-llo"]),
        (rb"[a\-z]", [b"a", b"-", b"z"], [b"b", b"\\"]),
        (rb"[\]]", [b"]"], [b"\\"]),
        (rb"[^\]]", [b"a", b"\\"], [b"]"]),
        (rb"[a-]", [b"]", b"^", b"a"], [b"-", b"b"]),
        (rb"[a-]]", [b"]", b"^", b"a"], [b"-", b"]]"]),
        (rb"[a-\]", [b"\\", b"]", b"a"], [b"-"]),
        (rb"[-a]", [b"-", b"a"], [b"b"]),
        (rb"[a^]", [b"a", b"^"], [b"b"]),
        (rb"[]", [], [b"", b"a", b"]", b"[]"]),
        (rb"[]a]", [], [b"a", b"]", b"]a]"]),
        (rb"[^]", [b"a", b"]"], [b""]),
        (rb"[^]a", [b"aa", b"]a"], [b"a"]),
        (rb"[", [], [b"[", b"a"]),
        (rb"[^", [b"[", b"a"], [b"[^"]),
        (rb"[ab", [b"a", b"b"], [b"[ab", b"c"]),
        (rb"[a-", [b"a", b"-"], [b"b"]),
        (rb"[\ ".rstrip(), [b"\\"], [b"["]),
        (rb"\*", [b"*"], [b"a", b"\\*"]),
        (rb"\a", [b"a"], [b"\\a"]),
        (rb"a\ ".rstrip(), [b"a\\"], [b"a"]),
        (rb"\\", [b"\\"], [b"\\\\"]),
        (b"[\x01-\xff]", [b"\x01", b"\x80", b"\xff"], [b"\0"]),
        (b"[^\0-\xff]", [], [b"\0", b"a", b"\xff"]),
        (rb"a.c", [b"a.c"], [b"abc"]),
        (rb"(a|b)+$", [b"(a|b)+$"], [b"a"]),
    ],
)
def test_pattern_matches(pattern: bytes, matched: list[bytes], others: list[bytes]) -> None:
    matches = matcher(pattern)
    for string in matched:
        assert matches(string), string
        assert reference(pattern, string), string
    for string in others:
        assert not matches(string), string
        assert not reference(pattern, string), string


PIECES = [b"*", b"?", b"[", b"]", b"^", b"-", b"\\", b"a", b"b", b"c", b"ab", b"[a-b]", b"[^a]", b"\n", b"\xff"]
PATTERNS = st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join) | st.binary(max_size=6)
STRINGS = st.lists(st.sampled_from([b"a", b"b", b"c", b"]", b"-", b"\\", b"\n", b"\xff"]), max_size=10).map(b"".join)


@given(pattern=PATTERNS, string=STRINGS | st.binary(max_size=6))
@example(pattern=b"*ab*ab", string=b"ab")
@example(pattern=b"a*ba", string=b"aba")
def test_matches_equal_those_of_the_reference(pattern: bytes, string: bytes) -> None:
    assert matcher(pattern)(string) == reference(pattern, string)


@given(pattern=PATTERNS, string=STRINGS, data=st.data())
def test_all_matches_start_with_the_literal_prefix(pattern: bytes, string: bytes, data: st.DataObject) -> None:
    prefix = literal_prefix(pattern)
    behind = data.draw(st.sampled_from([prefix + string, string]))
    if matcher(pattern)(behind):
        assert behind.startswith(prefix)


@given(string=st.binary(max_size=20))
def test_escaped_string_matches_only_itself(string: bytes) -> None:
    escaped = b"".join(b"\\" + bytes((byte,)) for byte in string)
    assert literal_prefix(escaped) == string
    assert literal_prefix(escaped + b"*x") == string
    assert matcher(escaped)(string)
    assert not matcher(escaped)(string + b"x")


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (b"", b""),
        (b"*", b""),
        (b"stone:*:x", b"stone:"),
        (b"stone:?", b"stone:"),
        (b"sto[n]e*", b"stone"),
        (b"sto[nm]e*", b"sto"),
        (b"sto[]e", b"sto"),
        (rb"\[a\]*", b"[a]"),
    ],
)
def test_the_literal_prefix(pattern: bytes, prefix: bytes) -> None:
    assert literal_prefix(pattern) == prefix


# -- bounds --------------------------------------------------------------------------------------------------


def test_pattern_at_the_limit_and_one_more() -> None:
    longest = b"a" * PATTERN_MAX
    assert matcher(longest)(longest)
    assert literal_prefix(longest) == longest
    for function in (matcher, literal_prefix):
        with pytest.raises(ValueError, match=r"a pattern of 1,025 bytes; the limit is 1,024"):
            function(longest + b"a")


def test_cached_patterns_are_bounded() -> None:
    for number in range(1_000):
        matcher(b"kept:%d" % number)
    kept = matcher.cache_info()
    assert kept.maxsize is not None
    assert kept.currsize <= kept.maxsize <= 1_000


@pytest.mark.parametrize("segment", [b"a", b"?", b"[ab]", b"a?a"])
@pytest.mark.parametrize("tail", [b"b", b"*b*", b"b*b"])
def test_each_star_segment_is_searched_once(segment: bytes, tail: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the end of the segment before; no search is repeated."""
    searched: list[tuple[int, int]] = []

    def counted(of: list[frozenset[int]]) -> object:
        find = leftmost(of)

        def counting(string: bytes, at: int, stop: int) -> int:
            found = find(string, at, stop)
            searched.append((at, found))
            return found

        return counting

    leftmost = glob._leftmost
    monkeypatch.setattr(glob, "_leftmost", counted)
    stars = 200
    matches = matcher.__wrapped__(b"*".join([segment] * stars) + b"*" + tail)
    assert not matches(b"a" * KEY_MAX)
    assert len(searched) <= stars + 2
    assert all(found == at for (_, found), (at, _) in itertools.pairwise(searched))
    searched.clear()
    assert matches(b"a" * (KEY_MAX - 2) + b"bb")
    assert len(searched) <= stars + 2


def test_slowest_pattern_ends() -> None:
    """The most work: a class for each byte, the last of which fails, at each place of the longest key."""
    worst = b"*" + b"?" * (PATTERN_MAX - 3) + b"b" + b"*"
    assert not matcher(worst)(b"a" * KEY_MAX)
    assert matcher(worst)(b"a" * (KEY_MAX - 1) + b"b")

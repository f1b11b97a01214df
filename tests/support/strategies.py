"""Hypothesis strategies for whatever the vocabulary can say, drawn from its grammar.

A command that is added to the vocabulary is in here by being there: a new kind of argument is all that would
need a line, and `of_kind` says so when it meets one.
"""

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cairnkv.commands import (
    CODES,
    COMMANDS,
    MISSING,
    OK,
    Ack,
    Answer,
    ClearMany,
    Command,
    CommandSpec,
    Failure,
    Get,
    Incr,
    InMemory,
    Items,
    Nack,
    Put,
    Reply,
    Set,
    Take,
)
from cairnkv.commands.grammar import KeyKind, Kind, NumberKind, Place, Slot
from cairnkv.commands.queue_vocabulary import ChoiceKind, FrameKind, TextKind
from cairnkv.commands.vocabulary import DECIMAL, KEY
from cairnkv.limits import INTEGER_MAX, INTEGER_MIN, KEY_MAX


class Kinds(dict[Kind, SearchStrategy[Any]]):
    """Strategies that take the place of those which `of_kind` would choose."""

    def __repr__(self) -> str:
        return "Kinds(...)"  # Hypothesis shows strategies by their repr


KEYS = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.text(min_size=1, max_size=8).map(str.encode),
    st.sampled_from([b"\0", b"\0\0\0\0", b"\xff" * 4, b"k" * 255, b"k" * 256, b"k" * KEY_MAX]),
)
"""Legal keys: short ones, other alphabets, ones that look like lengths, the longest."""

DECIMALS = st.one_of(
    st.integers(-(10**20), 10**20).map(lambda number: b"%d" % number),
    st.decimals(allow_nan=False, allow_infinity=False, places=6).map(lambda number: str(number).encode()),
    st.sampled_from([b"0.1", b"-3.0", b"5.0e3", b"1e4931", b"-1e4931", b"1e-4950", b".5", b"inf", b"1.2.3", b"x", b""]),
)
"""Numbers with a fraction, as text, and some that are none."""

STRINGS = st.one_of(
    st.binary(max_size=24),
    st.sampled_from([b"", b"\0", b"OK", b"Key not found", b"TTL", b"v" * 300, b"\0" * 70_000]),
)
"""Values and other free strings."""


def of_kind(kind: Kind, kinds: Kinds) -> SearchStrategy[Any]:
    """Legal values of one argument."""
    if kind in kinds:
        return kinds[kind]
    if isinstance(kind, KeyKind):
        return kinds.get(KEY, KEYS)  # a source and a target are keys as well
    if isinstance(kind, NumberKind):
        return st.one_of(st.integers(kind.lowest, kind.highest), st.sampled_from([kind.lowest, kind.highest]))
    if isinstance(kind, FrameKind):
        return commands([Set, Get, Incr, ClearMany, Put, Take, Ack, Nack], kinds)
    if isinstance(kind, ChoiceKind):
        return st.sampled_from(kind.choices)
    if isinstance(kind, TextKind):
        return st.binary(min_size=kind.lowest, max_size=min(kind.highest, 12)) | st.just(b"n" * kind.highest)
    if kind is DECIMAL:
        return DECIMALS
    assert type(kind) is Kind, f"a strategy for {kind!r} is missing"
    return STRINGS


def _of_slot(slot: Slot, kinds: Kinds) -> SearchStrategy[Any]:
    of_kinds = [of_kind(kind, kinds) for kind in slot.kinds]
    match slot.place:
        case Place.ARGUMENT | Place.OPTION:
            return of_kinds[0]
        case Place.REST:
            each = of_kinds[0] if len(of_kinds) == 1 else st.tuples(*of_kinds)
            return st.lists(each, min_size=1, max_size=5).map(tuple)
        case Place.SWITCH:
            return st.just(True)


@st.composite
def _command(draw: st.DrawFn, command: type[Command], kinds: Kinds) -> Command:
    word = command.spec
    left_out = {name for name, slot in word.fields if slot.keyword and draw(st.booleans())}
    for group in word.exclusive:
        chosen = draw(st.sampled_from([*group, None]))
        left_out |= {name for name in group if name != chosen}
    return command(
        **{name: draw(_of_slot(slot, kinds)) for name, slot in word.fields if name not in left_out},
    )


def commands(words: Iterable[type[Command]] = COMMANDS, kinds: Kinds | None = None) -> SearchStrategy[Command]:
    """Any legal command of these classes."""
    return st.one_of([_command(command, kinds or Kinds()) for command in words])


FAILURES = st.builds(
    Failure,
    st.sampled_from(sorted(CODES.values(), key=lambda code: code.name)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
"""Any failure: a code of the table, and a text that has an encoding."""

_ANSWERS: dict[Answer, SearchStrategy[Reply]] = {
    Answer.OK: st.just(OK),
    Answer.BYTES: st.one_of(STRINGS, st.just(MISSING)),
    Answer.NUMBER: st.one_of(st.integers(INTEGER_MIN, INTEGER_MAX), st.just(MISSING)),
    Answer.ITEMS: st.lists(st.none() | STRINGS, max_size=6).map(lambda strings: Items(tuple(strings))),
}


def replies(word: CommandSpec) -> SearchStrategy[Reply]:
    """Any reply that a command of this word can have."""
    answers = _ANSWERS[word.answer]
    return st.one_of(answers, FAILURES, answers.map(InMemory)) if word.writes else st.one_of(answers, FAILURES)


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The data in pieces, parted at each of these places that lies within it; nothing is lost."""
    places = sorted({place for place in cuts if 0 < place < len(data)})
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def cuttings(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The data in some pieces."""
    if len(data) < 2:
        return [data]
    near_the_start = st.integers(1, min(len(data) - 1, 24))
    anywhere = st.integers(1, len(data) - 1)
    return cut(data, draw(st.lists(near_the_start | anywhere, max_size=8)))

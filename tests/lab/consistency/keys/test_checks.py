"""The kinds of violations, on histories written by hand; a linearizable history matches no rule."""

import random
from pathlib import Path

import pytest
from hypothesis import given, strategies

from cairnkv.lab.consistency.history import Action, Outcome
from cairnkv.lab.consistency.keys import checks, linearizability
from cairnkv.lab.consistency.keys.checks import Kind, Report
from cairnkv.lab.consistency.keys.history import History, Operation, Verb
from cairnkv.lab.consistency.nemesis import FaultKind
from cairnkv.records import replace
from tests.lab.consistency.keys.simulated import register, spoilt

UNKNOWN, REFUSED = Outcome.UNKNOWN, Outcome.NOT_EXECUTED


def get(client: int, begin: int, end: int, result: str | None, *, final: bool = False) -> Operation:
    return Operation(client, Verb.GET, "k", begin, end, result=result, final=final)


def put(client: int, begin: int, end: int, value: str, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(client, Verb.SET, "k", begin, end, outcome, value=value)


def clear(client: int, begin: int, end: int, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(client, Verb.CLEAR, "k", begin, end, outcome)


def swap(client: int, begin: int, end: int, value: str, result: str | None) -> Operation:
    return Operation(client, Verb.SWAP, "k", begin, end, result=result, value=value)


def put_if(client: int, begin: int, end: int, expected: str, value: str, result: bool) -> Operation:
    return Operation(client, Verb.SET_IF, "k", begin, end, result=result, value=value, expected=expected)


def incr(client: int, begin: int, end: int, amount: int, result: int | None) -> Operation:
    outcome = Outcome.UNKNOWN if result is None else Outcome.OK
    return Operation(client, Verb.INCR, "k", begin, end, outcome, result=result, amount=amount)


def judged(*operations: Operation) -> Report:
    report = checks.check(History(operations))
    assert report.consistent is linearizability.check(operations).linearizable
    return report


KNOWN = {
    "stale read": (Kind.STALE, [put(1, 0, 1, "a"), put(1, 2, 3, "b"), get(2, 4, 5, "a")]),
    "stale miss": (Kind.STALE, [put(1, 0, 1, "a"), get(2, 2, 3, None)]),
    "stale miss after a clear and another write": (
        Kind.STALE,
        [put(1, 0, 1, "a"), clear(1, 2, 3), put(1, 4, 5, "b"), get(2, 6, 7, None)],
    ),
    "a cleared value came back": (Kind.STALE, [put(1, 0, 1, "a"), clear(1, 2, 3), get(2, 4, 5, "a")]),
    "stale swap": (Kind.STALE, [put(1, 0, 1, "a"), put(1, 2, 3, "b"), swap(2, 4, 5, "c", "a")]),
    "a comparison held that could not": (
        Kind.STALE,
        [put(1, 0, 1, "a"), put(1, 2, 3, "b"), put_if(2, 4, 5, "a", "c", True)],
    ),
    "a comparison failed that had to hold": (Kind.ORDER, [put(1, 0, 1, "a"), put_if(2, 4, 5, "a", "c", False)]),
    "lost at the end": (Kind.LOST, [put(1, 0, 1, "a"), put(1, 2, 3, "b"), get(2, 4, 5, "a", final=True)]),
    "all lost at the end": (Kind.LOST, [put(1, 0, 1, "a"), get(2, 4, 5, None, final=True)]),
    "lost update": (Kind.ORDER, [put(1, 0, 1, "a"), put_if(1, 2, 4, "a", "b", True), put_if(2, 2, 4, "a", "c", True)]),
    "lost addition": (Kind.LOST, [incr(1, 0, 2, 1, 1), incr(2, 0, 2, 1, 1)]),
    "lost addition, seen at the end": (
        Kind.LOST,
        [incr(1, 0, 1, 5, 5), incr(1, 2, 3, 2, 7), get(2, 4, 5, "5", final=True)],
    ),
    "addition applied twice": (Kind.DOUBLED, [incr(1, 0, 1, 5, 10)]),
    "unknown addition applied twice": (Kind.DOUBLED, [incr(1, 0, 1, 5, None), incr(2, 2, 3, 1, 11)]),
    "a final sum that no choice of the unknown makes": (
        Kind.DOUBLED,
        [incr(1, 0, 1, 3, None), incr(2, 0, 1, 3, None), get(3, 2, 3, "4", final=True)],
    ),
    "own write not read": (Kind.OWN_WRITE, [put(1, 0, 1, "a"), put(2, 2, 3, "b"), get(2, 4, 5, "a")]),
    "own write not there": (Kind.OWN_WRITE, [put(1, 0, 1, "a"), get(1, 2, 3, None)]),
    "an addition of another not there": (
        Kind.STALE,
        [incr(1, 0, 1, 1, 1), incr(2, 2, 3, 5, 6), incr(3, 2, 7, 1, 7), get(1, 4, 5, "1")],
    ),
    "own addition not there": (Kind.OWN_WRITE, [incr(1, 0, 1, 1, 1), get(1, 2, 3, None)]),
    "reads went back": (
        Kind.BACKWARDS,
        [put(1, 0, 1, "a"), put(1, 2, 9, "b"), get(2, 4, 5, "b"), get(2, 6, 7, "a")],
    ),
    "an unknown write was seen and vanished": (
        Kind.BACKWARDS,
        [put(1, 0, 1, "a"), put(1, 2, 3, "b", UNKNOWN), get(2, 4, 5, "b"), get(2, 6, 7, "a")],
    ),
    "an unknown write was seen and vanished for others": (
        Kind.STALE,
        [put(1, 0, 1, "a"), put(1, 2, 3, "b", UNKNOWN), get(2, 4, 5, "b"), get(3, 6, 7, "a")],
    ),
    "never written": (Kind.INVENTED, [put(1, 0, 1, "a"), get(2, 0, 9, "x")]),
    "no number": (Kind.INVENTED, [incr(1, 0, 1, 1, 1), get(2, 0, 9, "x")]),
    "refused, and there": (Kind.REFUSED, [put(1, 0, 1, "a", REFUSED), get(2, 0, 9, "a")]),
    "not stored, and there": (Kind.REFUSED, [put_if(1, 0, 1, "x", "a", False), get(2, 0, 9, "a")]),
    "before it was written": (Kind.FUTURE, [get(2, 0, 1, "a"), put(1, 2, 3, "a")]),
    "applied twice, with another write between": (
        Kind.STALE,
        [put(1, 0, 1, "a", UNKNOWN), get(2, 2, 3, "a"), put(3, 4, 5, "b"), get(4, 6, 7, "a")],
    ),
    "order": (
        Kind.ORDER,
        [put(1, 0, 9, "a"), put(2, 0, 9, "b"), get(3, 10, 11, "a"), get(4, 12, 13, "b")],
    ),
}
"""What the first violation is called, and the history that has it."""


@pytest.mark.parametrize("name", KNOWN)
def test_known_violation_is_found_and_named(name: str) -> None:
    kind, operations = KNOWN[name]
    report = judged(*operations)
    assert [violation.kind for violation in report.violations] == [kind], report.violations
    (violation,) = report.violations
    assert violation.text
    assert set(violation.operations) <= set(operations)
    assert violation.kind.value in str(violation)
    assert report.wrong_keys == ("k",)


TRICKY = {
    "either order": [put(1, 0, 9, "a"), put(2, 0, 9, "b"), get(3, 10, 11, "a")],
    "the other order": [put(1, 0, 9, "a"), put(2, 0, 9, "b"), get(3, 10, 11, "b")],
    "reads beside a write": [
        put(1, 0, 1, "a"),
        put(1, 2, 20, "b"),
        get(2, 3, 9, "a"),
        get(3, 4, 8, "a"),
        get(2, 10, 12, "b"),
    ],
    "an unknown write appears late": [
        put(1, 0, 1, "a", UNKNOWN),
        put(2, 2, 3, "b"),
        get(3, 4, 5, "b"),
        get(3, 100, 101, "a"),
        get(2, 102, 103, "a", final=True),
    ],
    "an unknown clear appears late": [
        clear(1, 0, 1, UNKNOWN),
        put(2, 2, 3, "b"),
        get(3, 4, 5, "b"),
        get(3, 6, 7, None),
    ],
    "an unknown write never appears": [put(1, 0, 1, "a", UNKNOWN), get(2, 2, 3, None, final=True)],
    "a failed comparison explained by an unknown write": [
        put(1, 0, 1, "a"),
        put(2, 2, 3, "b", UNKNOWN),
        put_if(3, 4, 5, "a", "c", False),
        get(3, 6, 7, "b"),
    ],
    "missing at first": [get(1, 0, 1, None), put(1, 2, 3, "a"), clear(2, 2, 3), get(1, 4, 5, None)],
    "the same value twice": [put(1, 0, 1, "a"), put(1, 2, 3, "b"), put(2, 4, 5, "a"), get(1, 6, 7, "a")],
    "some of the unknown additions": [
        incr(1, 0, 1, 3, None),
        incr(2, 0, 1, 5, None),
        incr(3, 2, 3, 1, 6),
        get(4, 4, 5, "6"),
        get(4, 6, 7, "9", final=True),
    ],
    "additions beside each other": [incr(1, 0, 9, 1, 3), incr(2, 0, 9, 2, 2), get(3, 0, 9, "2"), get(4, 0, 9, None)],
    "an addition that takes away": [incr(1, 0, 1, 5, 5), incr(2, 2, 9, -2, 3), get(3, 3, 8, "5"), get(4, 3, 8, "3")],
    "a refused write that was refused": [put(1, 0, 1, "a"), put(2, 2, 3, "b", REFUSED), get(3, 4, 5, "a", final=True)],
}


@pytest.mark.parametrize("name", TRICKY)
def test_unusual_correct_history_is_accepted(name: str) -> None:
    report = judged(*TRICKY[name])
    assert report.consistent is True
    assert not report.violations


@given(
    strategies.integers(0, 2**32),
    strategies.sampled_from((None, 3)),
    strategies.sampled_from(
        (tuple(verb for verb in Verb if verb is not Verb.INCR), (Verb.INCR, Verb.GET), (Verb.INCR, Verb.GET, Verb.SET))
    ),
)
def test_linearizable_history_matches_no_rule(seed: int, values: int | None, verbs: tuple[Verb, ...]) -> None:
    dice = random.Random(seed)
    history = register(dice, count=60, clients=6, verbs=verbs, values=values)
    history = spoilt(dice, history) if dice.random() < 0.8 else history
    last = max(one.completed for one in history)
    history = [replace(one, final=one.invoked > last * 0.8) for one in history]
    named = list(checks._by_rules(sorted(history, key=lambda one: one.invoked)))
    if linearizability.check(history).linearizable:
        assert not named


def test_keys_are_checked_separately() -> None:
    good = [put(1, 0, 1, "a"), get(1, 2, 3, "a")]
    bad = [replace(one, key="other") for one in (put(1, 0, 1, "a"), get(1, 2, 3, None))]
    report = checks.check(History([*good, *bad]))
    assert (report.keys, report.wrong_keys, report.outcomes[Outcome.OK]) == (2, ("other",), 4)


def test_violations_of_one_key_are_limited() -> None:
    reads = [get(2, n, n + 1, "x") for n in range(100)]
    assert len(checks.check(History(reads)).violations) == checks.VIOLATIONS_PER_KEY_MAX


def test_undecided_key_leaves_the_verdict_open() -> None:
    writes = [put(n, 0, 100, str(n % 15)) for n in range(30)]
    gets = [get(100 + n, 0, 100, str(n % 15)) for n in range(15)]
    last = [get(999, 101, 102, "0"), get(999, 103, 104, "1")]
    report = checks.check(History([*writes, *gets, *last]), limit=1_000)
    assert (report.consistent, report.undecided) == (None, ("k",))


def test_reply_without_a_majority_is_a_violation() -> None:
    operations = [put(1, 0, 9, "a"), put(1, 11, 19, "b"), put(1, 21, 29, "c", REFUSED), put(1, 31, 45, "d")]
    assert checks.check(History(operations, [Action("kill", "1", 10, 20)])).consistent is True
    assert checks.check(History(operations, [Action("majority", "kill 1 and 2", 12, 40)])).consistent is True
    report = checks.check(History(operations, [Action("majority", "kill 1 and 2", 10, 20)]))
    assert [violation.kind for violation in report.violations] == [Kind.MINORITY]
    assert report.violations[0].operations == (operations[1],)


def test_too_many_unknown_sums_are_checked_against_bounds() -> None:
    large = checks.SUMS_MAX
    unknown = [incr(n, 0, 1, large, None) for n in range(2)]
    assert checks._is_possible(large, 0, unknown)
    assert checks._is_possible(1, 0, unknown)  # though it is not
    assert not checks._is_possible(2 * large + 1, 0, unknown)
    assert not checks._is_possible(1, 0, [incr(1, 0, 1, large, None)])


def test_consistency_page_lists_every_kind_of_violation() -> None:
    page = (Path(__file__).parents[4] / "docs" / "consistency.md").read_text()
    for kind in Kind:
        assert f"| {kind.value} |" in page
    for fault in FaultKind:
        assert f"| `{fault.value}` |" in page


def test_missing_additions_are_named() -> None:
    seen, unseen = incr(1, 0, 1, 1, 1), incr(2, 2, 3, 5, 6)
    read = get(1, 4, 5, "1")
    (violation,) = judged(seen, unseen, read).violations
    assert violation.operations == (read, unseen)


def test_gaps_without_replies_and_without_faults_are_measured() -> None:
    operations = [put(1, 0, 1, "a"), put(1, 2, 20, "b", REFUSED), get(1, 21, 25, "a")]
    report = checks.check(History(operations, [Action("cut", "1", 3, 8), Action("cut", "2", 9, 19)]))
    assert (report.gap, report.recovery) == (24, 10)
    assert checks.check(History(operations)).recovery == 24

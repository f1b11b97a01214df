"""The search for an order accepts linearizable histories and refuses others, as a search of all orders does."""

import random
import time

import pytest
from hypothesis import given, strategies

from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.keys import linearizability
from cairnkv.lab.consistency.keys.history import Operation, Verb
from cairnkv.lab.consistency.keys.linearizability import find_offending
from tests.lab.consistency.keys.simulated import explained, register, spoilt

REGISTER = tuple(verb for verb in Verb if verb is not Verb.INCR)
COUNTER = (Verb.INCR, Verb.INCR, Verb.GET, Verb.EXISTS)
MIXED = (*COUNTER, Verb.SET, Verb.CLEAR, Verb.SET_IF)

seeds = strategies.integers(0, 2**32)
kinds = strategies.sampled_from((REGISTER, COUNTER, MIXED))
"""What a key is used for. In MIXED, INCR meets values that were set, which are numbers as well."""


def judged(history: list[Operation]) -> bool | None:
    return linearizability.check(history).linearizable


@given(seeds, kinds, strategies.sampled_from((None, 2, 5)), strategies.integers(1, 12))
def test_history_of_a_register_is_accepted(
    seed: int, verbs: tuple[Verb, ...], values: int | None, clients: int
) -> None:
    history = register(random.Random(seed), count=150, clients=clients, verbs=verbs, values=values)
    assert judged(history) is True


@pytest.mark.parametrize("verbs", [REGISTER, COUNTER, MIXED], ids=["register", "counter", "mixed"])
def test_verdicts_equal_those_of_a_search_of_all_orders(verbs: tuple[Verb, ...]) -> None:
    """On two thousand small histories, most of them altered: both verdicts are frequent."""
    verdicts = {True: 0, False: 0}
    dice = random.Random(7)
    for _ in range(2_000):
        history = register(
            dice, count=6, clients=dice.randrange(2, 5), verbs=verbs, values=dice.choice((None, 2, 3)), unknown=0.25
        )
        history = spoilt(dice, history) if dice.random() < 0.8 else history
        expected = explained(history)
        assert judged(history) is expected, history
        verdicts[expected] += 1
    assert min(verdicts.values()) > 200


@given(seeds, kinds)
def test_reported_operation_is_the_first_unexplained_one(seed: int, verbs: tuple[Verb, ...]) -> None:
    dice = random.Random(seed)
    history = spoilt(dice, register(dice, count=60, clients=5, verbs=verbs))
    if judged(history) is not False:
        return
    offending = find_offending(history)
    assert offending is not None
    assert judged(linearizability._beginning(history, offending.completed)) is False
    assert judged(linearizability._beginning(history, offending.completed - 1)) is True


def get(client: int, begin: int, end: int, result: str | None) -> Operation:
    return Operation(client, Verb.GET, "k", begin, end, result=result)


def put(client: int, begin: int, end: int, value: str, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(client, Verb.SET, "k", begin, end, outcome, value=value)


def test_concurrent_writes_come_in_either_order() -> None:
    for last in "ab":
        assert judged([put(1, 0, 9, "a"), put(2, 0, 9, "b"), get(3, 10, 11, last)]) is True
    assert judged([put(1, 0, 9, "a"), put(2, 0, 9, "b"), get(3, 10, 11, "a"), get(3, 12, 13, "b")]) is False


def test_unknown_write_may_take_effect_late_and_then_stays() -> None:
    begun = [put(1, 0, 1, "a"), put(2, 2, 3, "b", Outcome.UNKNOWN), get(3, 10, 11, "a")]
    assert judged(begun) is True
    assert judged([*begun, get(3, 20, 21, "b"), get(3, 22, 23, "b")]) is True
    assert judged([*begun, get(3, 20, 21, "b"), get(3, 22, 23, "a")]) is False


def test_unknown_write_may_not_happen_and_a_failed_one_must_not() -> None:
    for outcome in (Outcome.UNKNOWN, Outcome.NOT_EXECUTED):
        assert judged([put(1, 0, 1, "a", outcome), get(1, 2, 3, None)]) is True
    assert judged([put(1, 0, 1, "a", Outcome.NOT_EXECUTED), get(1, 2, 3, "a")]) is False


def test_unknown_write_does_not_happen_twice() -> None:
    begun = [put(1, 0, 1, "a", Outcome.UNKNOWN), get(2, 2, 3, "a"), put(2, 4, 5, "b"), get(2, 6, 7, "b")]
    assert judged(begun) is True
    assert judged([*begun, get(2, 8, 9, "a")]) is False


def test_equal_unknown_additions_are_interchangeable() -> None:
    """Any 37 of several hundred additions took effect. The search does not try 2^300 choices."""
    lost = [Operation(n, Verb.INCR, "k", 0, 1, Outcome.UNKNOWN, amount=1) for n in range(300)]
    assert judged([*lost, get(999, 2, 3, "37")]) is True
    assert judged([*lost, get(999, 2, 3, "301")]) is False
    assert judged([*lost, get(999, 2, 3, "37"), get(999, 4, 5, "36")]) is False


def test_failed_comparisons_restrict_the_order() -> None:
    failed = Operation(2, Verb.SET_IF, "k", 2, 3, result=False, value="b", expected="a")
    assert judged([put(1, 0, 1, "a"), failed]) is False
    assert judged([put(1, 0, 2, "a"), failed]) is True  # it may have come first
    assert judged([put(1, 0, 1, "a"), put(3, 1, 9, "c", Outcome.UNKNOWN), failed]) is True


def test_too_large_search_ends_undecided() -> None:
    """Thirty concurrent writes, then a read of a value that none of them wrote."""
    writes = [put(n, 0, 100, str(n % 15)) for n in range(30)]
    gets = [get(100 + n, 0, 100, str(n % 15)) for n in range(15)]
    history = [*writes, *gets, get(999, 101, 102, "?")]
    verdict = linearizability.check(history, limit=1_000)
    assert verdict.linearizable is None
    assert verdict.configurations == 1_001
    assert judged([put(1, 0, 1, "a"), get(1, 2, 3, "b")]) is False


def test_empty_history_is_linearizable() -> None:
    assert judged([]) is True
    assert judged([put(1, 0, 1, "a", Outcome.NOT_EXECUTED)]) is True


def test_hundred_thousand_operations_take_seconds() -> None:
    dice = random.Random(1)
    keys = [register(dice, count=1_000, clients=10, unknown=0.02) for _ in range(50)]
    keys += [register(dice, count=1_000, clients=10, verbs=COUNTER, unknown=0.02) for _ in range(50)]
    began = time.process_time()
    assert all(judged(history) for history in keys)
    assert time.process_time() - began < 20

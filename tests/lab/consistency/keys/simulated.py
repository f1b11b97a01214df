"""Generated histories of a correct and of an altered register, and a verdict by a search of all orders."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.keys.history import History, Operation, Saver, Verb
from cairnkv.records import replace

State = str | None


def save(history: History, path: Path) -> None:
    """Write a whole history to a file. Raises `OSError`."""
    with Saver(path, history.about) as saver:
        for action in history.actions:
            saver.action(action)
        for one in history.operations:
            saver.operation(one)


def applied(one: Operation, state: State) -> tuple[str | int | bool | None, State]:
    """Return the reply of an operation at a state, and the state after it."""
    match one.verb:
        case Verb.GET:
            return state, state
        case Verb.EXISTS:
            return state is not None, state
        case Verb.SET:
            return None, one.value
        case Verb.CLEAR:
            return None, None
        case Verb.SWAP:
            return state, one.value
        case Verb.SET_IF | Verb.CLEAR_IF:
            return (True, one.value) if state == one.expected else (False, state)
        case Verb.INCR:
            total = int(state or "0") + one.amount
            return total, str(total)


OTHER_VERBS = [verb for verb in Verb if verb is not Verb.INCR]


def register(
    dice: random.Random,
    *,
    count: int,
    clients: int,
    key: str = "k",
    verbs: Sequence[Verb] = OTHER_VERBS,
    values: int | None = None,
    unknown: float = 0.1,
) -> list[Operation]:
    """Return a history of one key of an atomic register. Each operation takes effect between its two ends.

    values: the number of different values; None: each write has another one. unknown: the share of operations whose
    client gave up; some of them take effect at once, some much later, and some never.
    """
    free_at = [dice.randrange(100) for _ in range(clients)]
    planned: list[tuple[float, int, Operation]] = []  # by the point at which it takes effect
    for number in range(count):
        client = min(range(clients), key=lambda client: free_at[client])
        invoked = free_at[client]
        completed = invoked + dice.randrange(1, 200)
        free_at[client] = completed + dice.randrange(1, 60)
        verb = dice.choice(verbs)
        fresh = str(number) if values is None else str(dice.randrange(values))
        seen_by_chance = str(
            dice.randrange(max(number - 6, 0), number + 1) if values is None else dice.randrange(values)
        )
        one = Operation(
            client,
            verb,
            key,
            invoked,
            completed,
            value=fresh if verb in (Verb.SET, Verb.SWAP, Verb.SET_IF) else None,
            expected=seen_by_chance if verb in (Verb.SET_IF, Verb.CLEAR_IF) else None,
            amount=dice.choice((-2, 1, 1, 2, 3)) if verb is Verb.INCR else 0,
        )
        point = dice.uniform(invoked, completed)
        if verb.writes and dice.random() < unknown:
            one = replace(one, outcome=Outcome.UNKNOWN)
            point = dice.choice((point, invoked + dice.uniform(0, 2_000), float("inf")))
        elif dice.random() < 0.03:
            one = replace(one, outcome=Outcome.NOT_EXECUTED)
            point = float("inf")
        planned.append((point, number, one))
    state: State = None
    history = []
    for point, _, one in sorted(planned, key=lambda plan: plan[:2]):
        if point < float("inf"):
            result, state = applied(one, state)
            if one.outcome is Outcome.OK:
                one = replace(one, result=result)
        history.append(one)
    return history


def spoilt(dice: random.Random, history: Sequence[Operation]) -> list[Operation]:
    """Return a history in which some operations have other operations' replies or times. It may be linearizable."""
    spoilt = list(history)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(spoilt))
        one = spoilt[at]
        others = [other for other in spoilt if other.verb is one.verb and other.outcome is Outcome.OK]
        match dice.randrange(3):
            case 0 if one.outcome is Outcome.OK and others:
                spoilt[at] = replace(one, result=dice.choice(others).result)
            case 1:
                shift = dice.randrange(300)
                spoilt[at] = replace(one, invoked=one.invoked + shift, completed=one.completed + shift)
            case _:
                if one.outcome is Outcome.OK and one.verb.writes:
                    spoilt[at] = replace(one, outcome=Outcome.NOT_EXECUTED, result=None)
    return spoilt


def explained(history: Sequence[Operation]) -> bool:
    """Return whether an order explains the replies, by a search of all orders and all choices of unknown writes."""
    definite = [one for one in history if one.outcome is Outcome.OK]
    unknown = [one for one in history if one.outcome is Outcome.UNKNOWN and one.verb.writes]
    for size in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, size):
            if any(map(_explains, itertools.permutations([*definite, *chosen]))):
                return True
    return False


def _explains(order: Sequence[Operation]) -> bool:
    state: State = None
    latest = 0
    for one in order:
        if one.outcome is Outcome.OK and one.completed < latest:
            return False  # something before it in this order was invoked when it was over
        latest = max(latest, one.invoked)
        if one.verb is Verb.INCR and state is not None and not state.lstrip("-").isdecimal():
            return False
        result, state = applied(one, state)
        if one.outcome is Outcome.OK and (type(result), result) != (type(one.result), one.result):
            return False
    return True

"""Decides whether a history is linearizable: whether an order of its operations explains all replies and respects time.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", J. Parallel and Distributed
Computing 17, 1993) with Lowe's memory of configurations ("Testing for linearizability", Concurrency and Computation
29(4), 2017). Each key is checked alone, because linearizability is local (Herlihy and Wing, "Linearizability: A
Correctness Condition for Concurrent Objects", ACM TOPLAS 12(3), 1990); Horn and Kroening ("Faster Linearizability
Checking via P-compositionality", FORTE 2015) measure the gain.

A configuration is the set of operations that are in order so far, and the state they lead to. Beyond the papers, five
rules reduce the number of configurations without an effect on the result:

- An operation that may come next, fits the state and never changes a state comes next.
- The search does not leave a state that a remaining operation must see and no remaining operation makes.
- If only one write can have made a value that was seen, an unknown write took effect before the first operation that
  saw the value ended.
- Other unknown writes come only before an operation that depends on the state they make. Of several equal ones, the
  first invoked comes first; the search skips a configuration that used more of them than an earlier one.
- Operations that were not executed, and reads without a reply, take no part.

Invariants: no recursion; at most CONFIGURATIONS_MAX configurations for each key, after which the verdict is None.

Out of scope: names of violations (`cairnkv.lab.consistency.keys.checks`).
"""

import collections
import enum
import math
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.keys.history import Operation, Verb
from cairnkv.records import record, replace

CONFIGURATIONS_MAX: Final = 1_000_000
"""The limit of configurations for a key: a few seconds and about 300 MiB."""

State: TypeAlias = str | None
"""The value of a key, or None if it is missing."""


@record
class Verdict:
    """The result of the search for one key.

    linearizable: None if the search reached its limit. configurations: the number of visited ones.
    """

    linearizable: bool | None
    configurations: int


def check(operations: Sequence[Operation], *, limit: int = CONFIGURATIONS_MAX) -> Verdict:
    """Check the operations of one key, which is missing at first. limit: configurations."""
    return _Search(operations, limit).run()


def find_offending(operations: Sequence[Operation], *, limit: int = CONFIGURATIONS_MAX) -> Operation | None:
    """Return the operation at whose completion a history stops being linearizable.

    Every prefix of a linearizable history is linearizable, so a binary search finds the first prefix that is not.
    """
    ends = sorted((one for one in operations if one.outcome is Outcome.OK), key=lambda one: one.completed)
    low, high = 0, len(ends)  # linearizable up to the completion number `low`, and not up to number `high`
    while high - low > 1:
        middle = (low + high) // 2
        if check(_beginning(operations, ends[middle - 1].completed), limit=limit).linearizable is False:
            high = middle
        else:
            low = middle
    return ends[high - 1] if ends else None


def _beginning(operations: Sequence[Operation], moment: int) -> list[Operation]:
    """Return the history up to a moment: operations that were not completed by then are unknown."""
    return [
        one if one.completed <= moment or one.outcome is not Outcome.OK else replace(one, outcome=Outcome.UNKNOWN)
        for one in operations
        if one.invoked <= moment
    ]


# -- steps of the search -------------------------------------------------------------------------------------------


class _Sees(enum.IntEnum):
    """The condition on the state before an operation that its reply implies."""

    ANYTHING = 0
    EQUAL = 1
    """The state is `seen`."""
    DIFFERENT = 2
    """The state is not `seen`."""
    ZERO = 3
    """The key is missing or has the number 0. INCR does not distinguish them."""


class _Same(enum.Enum):
    SAME = 0


_SAME: Final = _Same.SAME
"""The effect of an operation that does not change the state."""


@record
class _Step:
    """An operation that took effect: the state it saw, and the state it made."""

    invoked: int
    completed: float
    sees: _Sees
    seen: State
    makes: State | _Same


def observed(one: Operation) -> tuple[bool, State]:
    """Return whether the reply of an operation determines the state before it, and the state."""
    step = _step(one) if one.outcome is Outcome.OK else None
    return (True, step.seen) if step is not None and step.sees is _Sees.EQUAL else (False, None)


def made(one: Operation) -> tuple[bool, State]:
    """Return whether an OK operation made a state, and the state."""
    makes = _step(one).makes
    return (False, None) if isinstance(makes, _Same) else (True, makes)


def _step(one: Operation, *, completed: float | None = None) -> _Step:
    """Return the step for an operation that took effect. An operation without a reply may have seen any state."""
    sees, seen, makes = _Sees.ANYTHING, None, _SAME  # type: _Sees, State, State | _Same
    known, result = one.outcome is Outcome.OK, one.result
    match one.verb:
        case Verb.GET:
            assert not isinstance(result, int)
            sees, seen = _Sees.EQUAL, result
        case Verb.EXISTS:
            sees = _Sees.DIFFERENT if result else _Sees.EQUAL
        case Verb.SET:
            makes = one.value
        case Verb.CLEAR:
            makes = None
        case Verb.SWAP:
            makes = one.value
            if known:
                assert not isinstance(result, int)
                sees, seen = _Sees.EQUAL, result
        case Verb.SET_IF | Verb.CLEAR_IF:
            seen = one.expected
            if known and not result:
                sees = _Sees.DIFFERENT
            else:
                sees, makes = _Sees.EQUAL, one.value
        case Verb.INCR:
            assert isinstance(result, int)
            before = result - one.amount
            sees, seen = (_Sees.EQUAL, str(before)) if before else (_Sees.ZERO, None)
            makes = str(result)
    if sees is _Sees.EQUAL and seen == makes:
        makes = _SAME
    return _Step(one.invoked, one.completed if completed is None else completed, sees, seen, makes)


def _effect(verb: Verb, value: State, expected: State, amount: int, state: State) -> State:
    """Return the state after an unknown write that takes effect in a state."""
    match verb:
        case Verb.SET | Verb.SWAP:
            return value
        case Verb.CLEAR:
            return None
        case Verb.SET_IF | Verb.CLEAR_IF:
            return value if state == expected else state
        case _:
            if state is None:
                return str(amount)
            return str(int(state) + amount) if _is_number(state) else state


def _is_number(state: State) -> bool:
    """Return whether INCR accepts a state."""
    if state is None:
        return False
    digits = state.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and (digits[0] != "0" or state == "0")


class _Maybe:
    """Equal unknown writes, ordered by their invocations. Their bits in `used` are set in this order."""

    def __init__(self, one: Operation, first_bit: int) -> None:
        self.what = (one.verb, one.value, one.expected, one.amount)
        self.depends_on_state = one.verb in (Verb.SET_IF, Verb.CLEAR_IF, Verb.INCR)
        self.first_bit = first_bit
        self.invoked: list[int] = []


# -- the search ------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """A configuration on the path to the current one, and its untried choices.

    done: the steps from the previous frame to this one.
    choices: (step, or -1; unknown writes in use; state), the most promising last.
    """

    low: int
    mask: int
    done: list[int]
    choices: list[tuple[int, int, State]]


class _Search:
    """The search for one key. The place of a step is its position in the order of invocations.

    `low` and `mask` are the set of done steps: all before low, and low + i if bit i of the mask is set. The other steps
    form a doubly linked list, as in Wing and Gong.
    """

    def __init__(self, operations: Sequence[Operation], limit: int) -> None:
        self._limit = limit
        steps, unknown = _split(operations)
        self._steps = steps
        end = len(steps)
        self._end = end
        self._next = [*range(1, end + 1), 0]  # the place `end` is before the first step and after the last
        self._before = [end, *range(end)]
        self._maybes = self._grouped(unknown)
        # For each state, the number of remaining steps that must see it, and that make it.
        self._needed: collections.Counter[State] = collections.Counter()
        self._coming: collections.Counter[State] = collections.Counter()
        for step in steps:
            if step.sees is _Sees.EQUAL:
                self._needed[step.seen] += 1
            if not isinstance(step.makes, _Same):
                self._coming[step.makes] += 1
        for maybe in self._maybes:
            verb, value, _, _ = maybe.what
            if verb is Verb.INCR:
                self._needed.clear()  # it may make any number
                break
            self._coming[value] += 1
        self._foresees = bool(self._needed)

    @staticmethod
    def _grouped(unknown: list[Operation]) -> list[_Maybe]:
        sizes = collections.Counter((one.verb, one.value, one.expected, one.amount) for one in unknown)
        groups: dict[tuple[Verb, State, State, int], _Maybe] = {}
        bit = 0
        for one in unknown:
            what = (one.verb, one.value, one.expected, one.amount)
            if what not in groups:
                groups[what] = _Maybe(one, bit)
                bit += sizes[what]
            groups[what].invoked.append(one.invoked)
        return list(groups.values())

    def run(self) -> Verdict:
        """Execute the search."""
        seen: dict[tuple[int, int, State, bool], list[int]] = {}
        looked_at = 1
        frames: list[_Frame] = []
        low, mask, used, state, tentative = 0, 0, 0, None, False  # type: int, int, int, State, bool
        done: list[int] = []
        while True:
            # A new configuration: take all steps that do not change the state.
            candidates, bound = self._candidates()
            while idle := self._idle(candidates, state):
                tentative = False
                for place in idle:
                    self._take(place)
                    low, mask = _with(low, mask, place)
                done += idle
                candidates, bound = self._candidates()
            if not candidates:
                return Verdict(True, looked_at)
            choices: list[tuple[int, int, State]] = []
            if _is_new(seen.setdefault((low, mask, state, tentative), []), used):
                choices = self._choices(candidates, bound, used, state, tentative)
            frames.append(_Frame(low, mask, done, choices))
            # Take the most promising choice of the last configuration that has one.
            while not frames[-1].choices:
                for place in reversed(frames.pop().done):
                    self._put_back(place)
                if not frames:
                    return Verdict(False, looked_at)
            looked_at += 1
            if looked_at > self._limit:
                return Verdict(None, looked_at)
            last = frames[-1]
            place, used, state = last.choices.pop()
            low, mask, done = last.low, last.mask, []
            tentative = place < 0
            if not tentative:
                self._take(place)
                low, mask = _with(low, mask, place)
                done = [place]

    def _candidates(self) -> tuple[list[int], float]:
        """Return the steps that may come next: no remaining step was completed before their invocation.

        Also return the latest invocation of an unknown write that may come next.
        """
        steps, following, end = self._steps, self._next, self._end
        found: list[int] = []
        bound = math.inf
        place = following[end]
        while place != end:
            step = steps[place]
            if step.invoked > bound:
                break
            found.append(place)
            if step.completed < bound:
                bound = step.completed
            place = following[place]
        return found, bound

    def _idle(self, candidates: list[int], state: State) -> list[int]:
        """Return the candidates that fit the state and change no state."""
        steps = self._steps
        found = []
        for place in candidates:
            step = steps[place]
            if step.makes is _SAME and _fits(step, state):
                found.append(place)
        return found

    def _choices(
        self, candidates: list[int], bound: float, used: int, state: State, tentative: bool
    ) -> list[tuple[int, int, State]]:
        """Return the steps that may come next and may change the state, the most promising last, unknown writes first.

        tentative: the last step was an unknown write, so that the next step must depend on the state that it made.
        """
        choices: list[tuple[int, int, State]] = []
        must_be_seen = self._foresees and self._needed[state] > 0 and self._coming[state] == 0
        if not must_be_seen:
            for maybe in self._maybes:
                count = (used >> maybe.first_bit & ((1 << len(maybe.invoked)) - 1)).bit_count()
                useful = maybe.depends_on_state or not tentative
                if useful and count < len(maybe.invoked) and maybe.invoked[count] <= bound:
                    after = _effect(*maybe.what, state)
                    if after != state:
                        choices.append((-1, used | 1 << (maybe.first_bit + count), after))
        steps = self._steps
        definite: list[tuple[float, int, State]] = []
        for place in candidates:
            step = steps[place]
            makes = step.makes
            if isinstance(makes, _Same) or not _fits(step, state) or (tentative and step.sees is _Sees.ANYTHING):
                continue
            if must_be_seen and not (step.sees is _Sees.EQUAL and self._needed[state] == 1):
                continue  # other steps must see this state first
            definite.append((-step.completed, place, makes))
        definite.sort(key=lambda choice: choice[0])  # the first completed step is the most promising
        choices += [(place, used, makes) for _, place, makes in definite]
        return choices

    def _take(self, place: int) -> None:
        before, following = self._before[place], self._next[place]
        self._next[before] = following
        self._before[following] = before
        if self._foresees:
            self._count(self._steps[place], -1)

    def _put_back(self, place: int) -> None:
        self._next[self._before[place]] = place
        self._before[self._next[place]] = place
        if self._foresees:
            self._count(self._steps[place], 1)

    def _count(self, step: _Step, change: int) -> None:
        if step.sees is _Sees.EQUAL:
            self._needed[step.seen] += change
        if not isinstance(step.makes, _Same):
            self._coming[step.makes] += change


def _fits(step: _Step, state: State) -> bool:
    sees = step.sees
    if sees is _Sees.EQUAL:
        return step.seen == state
    if sees is _Sees.DIFFERENT:
        return step.seen != state
    return sees is _Sees.ANYTHING or state is None or state == "0"


def _with(low: int, mask: int, place: int) -> tuple[int, int]:
    """Return `low` and `mask` after one more step."""
    mask |= 1 << (place - low)
    ones = (mask ^ (mask + 1)).bit_length() - 1
    return low + ones, mask >> ones


def _is_new(earlier: list[int], used: int) -> bool:
    """Return whether no earlier visit had used only a part of these unknown writes. If so, record this visit."""
    if any(known & ~used == 0 for known in earlier):
        return False
    earlier.append(used)
    return True


def _split(operations: Sequence[Operation]) -> tuple[list[_Step], list[Operation]]:
    """Return the steps that certainly took effect, and the unknown writes; both ordered by their invocations.

    If only one operation can have written a value, it took effect before the first operation that saw the value ended.
    """
    counts = any(one.verb is Verb.INCR for one in operations)
    writers: collections.Counter[State] = collections.Counter(
        one.value for one in operations if one.value is not None and one.outcome is not Outcome.NOT_EXECUTED
    )
    first_seen: dict[State, int] = {}
    for one in operations:
        sure, state = observed(one)
        if sure and writers[state] == 1 and not (counts and _is_number(state)):
            first_seen[state] = min(first_seen.get(state, one.completed), one.completed)
    steps: list[_Step] = []
    unknown: list[Operation] = []
    for one in sorted(operations, key=lambda one: one.invoked):
        seen = first_seen.get(one.value) if one.value is not None else None
        if one.outcome is Outcome.OK:
            end = one.completed if seen is None else max(one.invoked, min(one.completed, seen))
            steps.append(_step(one, completed=end))
        elif one.outcome is Outcome.UNKNOWN and one.verb.writes:
            if seen is None:
                unknown.append(one)
            else:
                steps.append(_step(one, completed=max(one.invoked, seen)))
    return steps, unknown

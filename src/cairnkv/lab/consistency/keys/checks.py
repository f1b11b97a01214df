"""The checks: find and name the violations in a history.

Rules come first. Each rule follows from linearizability, names its violation, and takes linear time. Then a search
(`cairnkv.lab.consistency.keys.linearizability`) checks each key for which the rules found nothing. The search misses no
violation, but only finds the first operation after which no order explains the history.

Invariants: a reported violation is a violation for all possible outcomes of the unknown operations. A key whose search
reached its limit is reported as undecided, and the history is then not reported as consistent.
"""

import enum
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from cairnkv.lab.consistency.history import MAJORITY, Outcome
from cairnkv.lab.consistency.keys import linearizability
from cairnkv.lab.consistency.keys.history import History, Operation, Verb
from cairnkv.lab.consistency.keys.linearizability import CONFIGURATIONS_MAX, State
from cairnkv.lab.consistency.verdict import gaps_of, outcomes_of
from cairnkv.records import record

VIOLATIONS_PER_KEY_MAX: Final = 5
"""Maximum violations that are reported for a key. One cause often shows in many reads."""

SUMS_MAX: Final = 1_000_000
"""The range of unknown additions up to which the check computes all possible sums; above, it uses only the bounds."""


class Kind(enum.Enum):
    """The kinds of violations."""

    LOST = "an acknowledged write was lost"
    DOUBLED = "a write was applied twice"
    STALE = "a stale read"
    OWN_WRITE = "a client did not read its own write"
    BACKWARDS = "a client's reads went back in time"
    INVENTED = "a value that no client wrote"
    REFUSED = "a write took effect after the reply that it was not executed"
    MINORITY = "a command succeeded without a majority"
    FUTURE = "a value was read before it was written"
    ORDER = "no order of the operations explains the replies"


@record
class Violation:
    """A violation of linearizability.

    text: one sentence. operations: the evidence; the first one has the impossible reply.
    """

    kind: Kind
    key: str
    text: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        shown = "".join(f"\n    {one}" for one in self.operations)
        return f"{self.kind.value}, key {self.key}: {self.text}{shown}"


@record
class Report:
    """The result of the checks.

    violations: ordered by time, at most `VIOLATIONS_PER_KEY_MAX` for a key. wrong_keys: all keys with violations.
    undecided: the keys whose search reached its limit. unread: the addresses of the run whose final reads failed.
    keys, outcomes: their numbers. configurations: searched in all. gap: the longest time without a reply, in
    nanoseconds. recovery: the longest time without a reply between two changes of faults, which is the time of a
    failover.
    """

    violations: tuple[Violation, ...]
    wrong_keys: tuple[str, ...]
    undecided: tuple[str, ...]
    unread: tuple[str, ...]
    keys: int
    outcomes: dict[Outcome, int]
    configurations: int
    gap: int
    recovery: int

    @property
    def consistent(self) -> bool | None:
        """Whether the history is consistent; None: undecided."""
        if self.violations:
            return False
        return None if self.undecided or self.unread else True


def check(
    history: History, *, limit: int = CONFIGURATIONS_MAX, progress: Callable[[int], None] = lambda done: None
) -> Report:
    """Check a history. limit: configurations per key. progress: called with the number of checked operations."""
    violations: list[Violation] = []
    wrong: list[str] = []
    undecided: list[str] = []
    configurations = done = 0
    by_key = history.by_key()
    for key, operations in by_key.items():
        found = list(_by_rules(operations))
        if not found:
            verdict = linearizability.check(operations, limit=limit)
            configurations += verdict.configurations
            if verdict.linearizable is None:
                undecided.append(key)
            elif not verdict.linearizable:
                found = [_unexplained(operations, limit)]
        if found:
            wrong.append(key)
            violations += _selected(found)
        done += len(operations)
        progress(done)
    violations += _without_majority(history)
    violations.sort(key=lambda one: one.operations[0].completed)
    gap, recovery = gaps_of(history)
    return Report(
        tuple(violations),
        tuple(wrong),
        tuple(undecided),
        _unread(history, len(by_key)),
        len(by_key),
        outcomes_of(history),
        configurations,
        gap,
        recovery,
    )


def _selected(found: list[Violation]) -> list[Violation]:
    """Return the violations to report for a key: the first of each kind, then the first of all."""
    found.sort(key=lambda one: one.operations[0].completed)
    first: dict[Kind, Violation] = {}
    for one in found:
        first.setdefault(one.kind, one)
    others = [one for one in found if one is not first[one.kind]]
    return [*first.values(), *others][:VIOLATIONS_PER_KEY_MAX]


def _unread(history: History, keys: int) -> tuple[str, ...]:
    """Return the addresses of the run at which some final reads failed."""
    read: dict[str, set[str]] = {}
    for one in history.operations:
        if one.final and one.outcome is Outcome.OK:
            read.setdefault(one.node, set()).add(one.key)
    return tuple(node for node in history.about.get("addresses", ()) if len(read.get(node, ())) < keys)


def _by_rules(operations: Sequence[Operation]) -> Iterator[Violation]:
    """Yield the violations of the rules for one key. operations: in the order of their invocations."""
    effective = [one for one in operations if one.outcome is not Outcome.NOT_EXECUTED]
    writes = [one for one in effective if one.verb.writes]
    if not any(one.verb is Verb.INCR for one in operations):
        yield from _Register(operations).violations()
    elif all(one.verb is Verb.INCR for one in writes):
        yield from _counter(operations)


def _without_majority(history: History) -> Iterator[Violation]:
    """Yield the operations that succeeded without a majority: their result is on too few disks, or may be outdated."""
    for action in history.actions:
        if action.what != MAJORITY:
            continue
        within = [
            one
            for one in history.operations
            if one.outcome is Outcome.OK and action.began < one.invoked and one.completed < action.ended
        ]
        for one in within[:VIOLATIONS_PER_KEY_MAX]:
            yield Violation(Kind.MINORITY, one.key, f"it succeeded during {action}", (one,))


def _unexplained(operations: Sequence[Operation], limit: int) -> Violation:
    """Return the violation for a key that only the search found wrong."""
    offending = linearizability.find_offending(operations, limit=limit)
    assert offending is not None  # the history has a completed operation
    beside = [
        one
        for one in operations
        if one is not offending
        and one.outcome is not Outcome.NOT_EXECUTED
        and one.invoked <= offending.completed
        and (one.completed >= offending.invoked or one.outcome is Outcome.UNKNOWN)
    ]
    before = [one for one in operations if one.completed < offending.invoked and one.outcome is Outcome.OK]
    last = max((one for one in before if one.verb.writes), key=lambda one: one.completed, default=None)
    text = (
        f"{offending.call} of client {offending.client} returned {offending.reply}, but no order of it, the "
        f"{len(before):,} operations before and the {len(beside):,} concurrent ones leads to this reply"
    )
    return Violation(Kind.ORDER, offending.key, text, (offending, *([last] if last else []), *beside[-8:]))


# -- registers ---------------------------------------------------------------------------------------------------------


@record
class _Write:
    """A write that certainly took effect, before `end`."""

    one: Operation
    end: float


class _Register:
    """The rules for a key without INCR.

    If only one operation can have made a state, an operation that saw the state limits the time of the write.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._writers: dict[State, list[Operation]] = {}
        self._refused: dict[State, Operation] = {}
        self._seen: list[tuple[Operation, State]] = []  # operations, and the states that they saw
        for one in operations:
            if one.outcome is Outcome.OK:
                makes, state = linearizability.made(one)
                if makes:
                    self._writers.setdefault(state, []).append(one)
                sees, state = linearizability.observed(one)
                if sees:
                    self._seen.append((one, state))
            elif one.outcome is Outcome.UNKNOWN and one.verb.writes:
                self._writers.setdefault(one.value, []).append(one)
            if one.value is not None and (one.outcome is Outcome.NOT_EXECUTED or one.result is False):
                self._refused[one.value] = one
        first_seen: dict[State, int] = {}
        for one, state in self._seen:
            first_seen[state] = min(first_seen.get(state, one.completed), one.completed)
        sure: list[_Write] = []
        self._end: dict[State, float] = {}  # the latest time of the only write of a state
        for state, writers in self._writers.items():
            if state is not None and len(writers) == 1:
                (one,) = writers
                known = one.completed if one.outcome is Outcome.OK else math.inf
                self._end[state] = min(known, first_seen.get(state, math.inf))
                if self._end[state] < math.inf:
                    sure.append(_Write(one, self._end[state]))
            else:
                sure += [_Write(one, one.completed) for one in writers if one.outcome is Outcome.OK]
        self._sure = _Later(sure)
        self._stores = _Later([write for write in sure if write.one.value is not None])
        self._by_client: dict[int, list[_Write]] = {}
        for write in sorted(sure, key=lambda write: write.end):
            self._by_client.setdefault(write.one.client, []).append(write)

    def violations(self) -> Iterator[Violation]:
        """Yield the violations, in the order of invocations."""
        missing = _Missing(self._writers.get(None, []), self._stores)
        last_seen: dict[int, tuple[Operation, State]] = {}
        for one, state in self._seen:
            if state is not None:
                yield from self._of_value(one, state, last_seen.get(one.client))
            elif by := missing.overwritten(one):
                yield self._stale(one, None, by.one.invoked - 1, by, last_seen.get(one.client))
            last_seen[one.client] = one, state

    def _of_value(self, one: Operation, state: str, seen_before: tuple[Operation, State] | None) -> Iterator[Violation]:
        writers = self._writers.get(state, [])
        if not writers:
            refused = self._refused.get(state)
            if refused is None:
                yield Violation(Kind.INVENTED, one.key, f"{state!r} was never written to this key", (one,))
            else:
                yield Violation(Kind.REFUSED, one.key, f"{state!r} comes from {_short(refused)}", (one, refused))
            return
        if all(writer.invoked > one.completed for writer in writers):
            yield Violation(Kind.FUTURE, one.key, f"{state!r} was written afterwards only", (one, writers[0]))
        elif len(writers) == 1:
            end = self._end[state]
            by = self._sure.first_after(end)
            if by is not None and by.end < one.invoked:
                yield self._stale(one, state, end, by, seen_before)

    def _stale(
        self, one: Operation, saw: State, end: float, by: _Write, seen_before: tuple[Operation, State] | None
    ) -> Violation:
        """Return the violation for an operation that saw a replaced state.

        end: the latest time of the write of the state. by: of the writes that were invoked after `end`, the first that
        ended, which was before this operation began.
        """
        what, also = ("the key was missing", ()) if saw is None else (f"{saw!r} was seen", self._writers[saw])
        if one.final:
            return Violation(Kind.LOST, one.key, _although(what, by.one), (one, by.one, *also))
        own = self._by_client.get(one.client, [])
        at = bisect_left([write.end for write in own], one.invoked) - 1
        if at >= 0 and own[at].one.invoked > end:
            return Violation(Kind.OWN_WRITE, one.key, _although(what, own[at].one), (one, own[at].one, *also))
        if seen_before is not None and seen_before[0].completed < one.invoked:
            earlier, state = seen_before
            writers = self._writers.get(state, [])
            if len(writers) == 1 and state is not None and writers[0].invoked > end:
                text = f"{_although(what, by.one)}, and this client had seen {state!r} since"
                return Violation(Kind.BACKWARDS, one.key, text, (one, earlier, writers[0], *also))
        return Violation(Kind.STALE, one.key, _although(what, by.one), (one, by.one, *also))


def _although(what: str, write: Operation) -> str:
    return f"{what}, although {_short(write)} had ended before"


class _Later:
    """An index of writes: of those invoked after a moment, the first that ended."""

    def __init__(self, writes: Iterable[_Write]) -> None:
        ordered = sorted(writes, key=lambda write: write.one.invoked)
        self._invoked = [write.one.invoked for write in ordered]
        self._first = list(accumulate(reversed(ordered), lambda *two: min(two, key=lambda write: write.end)))[::-1]

    def first_after(self, moment: float) -> _Write | None:
        at = bisect_right(self._invoked, moment)
        return self._first[at] if at < len(self._first) else None


class _Missing:
    """The times at which a key can have been missing: at first, and after each delete until the next store."""

    def __init__(self, clears: Sequence[Operation], stores: _Later) -> None:
        """clears: the deletes that took effect or may have done so."""
        ends: list[tuple[float, _Write | None]] = [(-math.inf, stores.first_after(-math.inf))]
        for one in sorted(clears, key=lambda one: one.invoked):
            known = one.completed if one.outcome is Outcome.OK else math.inf
            ends.append((one.invoked, stores.first_after(known)))
        self._invoked = [invoked for invoked, _ in ends]
        # For each delete: the latest, over all deletes up to it, of the first store that ended after the delete.
        self._latest = list(accumulate((store for _, store in ends), _later_of))

    def overwritten(self, one: Operation) -> _Write | None:
        """Return the store that ended before a read of "missing" and after every delete that could explain the read."""
        store = self._latest[bisect_right(self._invoked, one.completed) - 1]
        return store if store is not None and store.end < one.invoked else None


def _later_of(one: _Write | None, other: _Write | None) -> _Write | None:
    if one is None or other is None:
        return None
    return one if one.end >= other.end else other


def _short(one: Operation) -> str:
    return f"{one.call} of client {one.client}"


# -- counters ----------------------------------------------------------------------------------------------------------


class _Sums:
    """An index of amounts by time: the sum up to a moment."""

    def __init__(self, amounts: Iterable[tuple[int, int]]) -> None:
        """amounts: (time, amount)."""
        ordered = sorted(amounts)
        self._times = [time for time, _ in ordered]
        self._sums = [0, *accumulate(amount for _, amount in ordered)]

    def before(self, moment: int) -> int:
        return self._sums[bisect_left(self._times, moment)]

    def until(self, moment: int) -> int:
        return self._sums[bisect_right(self._times, moment)]


def _counter(operations: Sequence[Operation]) -> Iterator[Violation]:
    """Yield the violations for a key that only has additions."""
    adds = [one for one in operations if one.verb is Verb.INCR and one.outcome is not Outcome.NOT_EXECUTED]
    acknowledged = [one for one in adds if one.outcome is Outcome.OK]
    begun = {sign: _Sums((one.invoked, one.amount) for one in adds if one.amount * sign > 0) for sign in (1, -1)}
    ended = {
        sign: _Sums((one.completed, one.amount) for one in acknowledged if one.amount * sign > 0) for sign in (1, -1)
    }
    by_sum: dict[int, Operation] = {}
    rising = all(one.amount > 0 for one in adds)
    for one in operations:
        if one.outcome is not Outcome.OK:
            continue
        if one.verb is Verb.INCR:
            assert isinstance(one.result, int)
            if rising and one.result in by_sum:
                other = by_sum[one.result]
                text = f"two additions returned the same sum, {one.result:,}: one of them was lost"
                yield Violation(Kind.LOST, one.key, text, (one, other))
                continue
            by_sum[one.result] = one
            found, own = one.result - one.amount, one.amount
        elif one.verb is Verb.GET:
            assert not isinstance(one.result, int)
            try:
                found, own = int(one.result or "0"), 0
            except ValueError:
                yield Violation(Kind.INVENTED, one.key, f"{one.result!r} is not a sum", (one,))
                continue
        else:
            continue
        must = {sign: ended[sign].before(one.invoked) for sign in (1, -1)}
        may = {sign: begun[sign].until(one.completed) - (own if own * sign > 0 else 0) for sign in (1, -1)}
        least, most = must[1] + may[-1], may[1] + must[-1]
        if found > most:
            text = f"it was {found:,}, but all additions that can have been executed by then make at most {most:,}"
            yield Violation(Kind.DOUBLED, one.key, text, (one, *_last(adds, one)))
        elif found < least:
            text = f"it was {found:,}, but the additions acknowledged before make at least {least:,}"
            before = [other for other in acknowledged if other.completed < one.invoked]
            # If all amounts are positive, this operation did not see the additions with a higher sum.
            unseen = [other for other in before if rising and isinstance(other.result, int) and other.result > found]
            own_unseen = [other for other in unseen if other.client == one.client]
            kind = Kind.LOST if one.final else Kind.OWN_WRITE if own_unseen else Kind.STALE
            yield Violation(kind, one.key, text, (one, *(own_unseen or unseen or before)[-4:]))
        elif one.final:
            still_open = [
                other
                for other in adds
                if (other.outcome is Outcome.UNKNOWN or other.completed >= one.invoked)
                and other.invoked <= one.completed
                and other is not one
            ]
            if not _is_possible(found, sum(must.values()), still_open):
                text = (
                    f"it is {found:,} at the end, but the acknowledged additions make {sum(must.values()):,}, and no "
                    f"selection of the {len(still_open):,} unknown ones makes the difference"
                )
                yield Violation(Kind.DOUBLED, one.key, text, (one, *still_open[-8:]))


def _last(adds: Sequence[Operation], one: Operation) -> list[Operation]:
    """Return some of the additions that were invoked before an operation ended."""
    return [other for other in adds if other is not one and other.invoked <= one.completed][-4:]


def _is_possible(found: int, known: int, unknown: Sequence[Operation]) -> bool:
    """Return whether a known sum and any of the unknown additions can make a sum."""
    least = known + sum(min(one.amount, 0) for one in unknown)
    most = known + sum(max(one.amount, 0) for one in unknown)
    if most - least > SUMS_MAX or not least <= found <= most:
        return least <= found <= most
    sums = 1  # bit n: least + n is possible
    for one in unknown:
        sums |= sums << abs(one.amount)
    return bool(sums >> (found - least) & 1)

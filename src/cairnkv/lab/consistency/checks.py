"""What is wrong with a history, in words: lost, doubled, stale, invented; and what no order of operations explains.

Every key is first held against rules that name what they find: each follows from linearizability, needs the values to
be told apart only where it says so, and takes time in proportion to the history. A key that they find nothing in is
searched (`cairnkv.lab.consistency.linearizability`), which misses nothing, but can only say up to where it went well.

What always holds: what is reported is a violation whatever the unknown outcomes were; a key whose search gave up is
reported as undecided, and then the history is not called consistent.
"""

import collections
import enum
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

from cairnkv.lab.consistency import linearizability
from cairnkv.lab.consistency.history import History, Operation, Outcome, Verb
from cairnkv.lab.consistency.linearizability import CONFIGURATIONS_MAX, State
from cairnkv.records import record

MAJORITY: Final = "majority"
"""What the action is called that leaves no majority."""

VIOLATIONS_PER_KEY_MAX: Final = 5
"""Violations that are told of one key; one cause tends to show in many reads."""

SUMS_MAX: Final = 1_000_000
"""The greatest sum of unknown additions for which it is worked out which sums they can come to; above, only bounds."""


class Kind(enum.Enum):
    """What a violation is called."""

    LOST = "an acknowledged write was lost"
    DOUBLED = "a write was applied twice"
    STALE = "a stale read"
    OWN_WRITE = "a client did not read its own write"
    BACKWARDS = "a client's reads went back in time"
    INVENTED = "a value that nobody wrote"
    REFUSED = "a write took effect that was answered as not executed"
    MINORITY = "something was answered although no majority was there"
    FUTURE = "a value was read before it was written"
    ORDER = "no order of the operations explains the answers"


@record
class Violation:
    """Something that a linearizable store does not do.

    text: one sentence. operations: those that show it; the first is the one whose answer cannot be.
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
    """What the checks found.

    violations: in the order of time, at most `VIOLATIONS_PER_KEY_MAX` of a key. wrong_keys: all that have one.
    undecided: the keys whose search gave up. silent: the addresses at which the end was not read, of those of the run.
    keys, outcomes: how many there are. configurations: searched, in all. gap: the longest time, in nanoseconds, in
    which nothing was answered. recovery: the longest of these in which the nemesis neither began nor ended anything,
    which is what a failover takes: what is hurt again at once cannot be well in between.
    """

    violations: tuple[Violation, ...]
    wrong_keys: tuple[str, ...]
    undecided: tuple[str, ...]
    silent: tuple[str, ...]
    keys: int
    outcomes: dict[Outcome, int]
    configurations: int
    gap: int
    recovery: int

    @property
    def consistent(self) -> bool | None:
        """Whether all is well; None when nobody can tell."""
        if self.violations:
            return False
        return None if self.undecided or self.silent else True


def check(
    history: History, *, limit: int = CONFIGURATIONS_MAX, progress: Callable[[int], None] = lambda done: None
) -> Report:
    """Judge a history. limit: configurations per key. progress: is told how many operations were judged."""
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
            violations += _most_telling(found)
        done += len(operations)
        progress(done)
    violations += _without_majority(history)
    violations.sort(key=lambda one: one.operations[0].completed)
    outcomes = collections.Counter(one.outcome for one in history.operations)
    answered = sorted(one.completed for one in history.operations if one.outcome is Outcome.OK)
    last = answered[-1] if answered else 0
    hurt = [at for action in history.actions for at in (action.began, action.ended) if at < last]
    return Report(
        tuple(violations),
        tuple(wrong),
        tuple(undecided),
        _silent(history, len(by_key)),
        len(by_key),
        {outcome: outcomes[outcome] for outcome in Outcome},
        configurations,
        _longest(answered),
        _longest(sorted([*answered, *hurt])),
    )


def _most_telling(found: list[Violation]) -> list[Violation]:
    """Those that are told of a key: the first of each kind, and then the first of all."""
    found.sort(key=lambda one: one.operations[0].completed)
    first: dict[Kind, Violation] = {}
    for one in found:
        first.setdefault(one.kind, one)
    others = [one for one in found if one is not first[one.kind]]
    return [*first.values(), *others][:VIOLATIONS_PER_KEY_MAX]


def _longest(moments: Sequence[int]) -> int:
    """The longest time from one of these to the next, the run's beginning being the first. moments: in order."""
    return max((after - before for before, after in pairwise([0, *moments])), default=0)


def _silent(history: History, keys: int) -> tuple[str, ...]:
    """The addresses of the run at which not every key was read at the end."""
    read: dict[str, set[str]] = {}
    for one in history.operations:
        if one.final and one.outcome is Outcome.OK:
            read.setdefault(one.node, set()).add(one.key)
    return tuple(node for node in history.about.get("addresses", ()) if len(read.get(node, ())) < keys)


def _by_rules(operations: Sequence[Operation]) -> Iterator[Violation]:
    """The violations of one key that have a name. operations: in the order of their invocations."""
    effective = [one for one in operations if one.outcome is not Outcome.NOT_EXECUTED]
    writes = [one for one in effective if one.verb.writes]
    if not any(one.verb is Verb.INCR for one in operations):
        yield from _Register(operations).violations()
    elif all(one.verb is Verb.INCR for one in writes):
        yield from _counter(operations)


def _without_majority(history: History) -> Iterator[Violation]:
    """What was answered while the nemesis had left no majority: it is on too few disks, or may be old."""
    for action in history.actions:
        if action.what != MAJORITY:
            continue
        within = [
            one
            for one in history.operations
            if one.outcome is Outcome.OK and action.began < one.invoked and one.completed < action.ended
        ]
        for one in within[:VIOLATIONS_PER_KEY_MAX]:
            yield Violation(Kind.MINORITY, one.key, f"it was answered during {action}", (one,))


def _unexplained(operations: Sequence[Operation], limit: int) -> Violation:
    """What to say of a key that only the search found wrong."""
    offending = linearizability.find_offending(operations, limit=limit)
    assert offending is not None  # nothing completed: nothing to explain
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
        f"{offending.called} of client {offending.client} answered {offending.answer}, and no order of it, the "
        f"{len(before):,} operations before it and the {len(beside):,} beside it leads to that answer"
    )
    return Violation(Kind.ORDER, offending.key, text, (offending, *([last] if last else []), *beside[-8:]))


# -- keys that are set, cleared and compared ---------------------------------------------------------------------------


@record
class _Write:
    """A write that certainly took effect, no later than `end`."""

    one: Operation
    end: float


class _Register:
    """The rules for a key without INCR.

    Where one operation only can have made a state, whoever saw that state knows when it was made.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._writers: dict[State, list[Operation]] = {}
        self._refused: dict[State, Operation] = {}
        self._seen: list[tuple[Operation, State]] = []  # who saw which state
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
        self._end: dict[State, float] = {}  # by when a state with one writer was made
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
        self._stores = _Later([write for write in sure if _stores(write.one)])
        self._by_client: dict[int, list[_Write]] = {}
        for write in sorted(sure, key=lambda write: write.end):
            self._by_client.setdefault(write.one.client, []).append(write)

    def violations(self) -> Iterator[Violation]:
        """What is found, in the order of invocations."""
        missing = _Missing(self._writers.get(None, []), self._stores)
        last_seen: dict[int, tuple[Operation, State]] = {}
        for one, state in self._seen:
            if state is not None:
                yield from self._of_value(one, state, last_seen.get(one.client))
            elif by := missing.overwritten(one):
                yield self._called(one, by.one.invoked - 1, by, last_seen.get(one.client), "the key was missing", ())
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
                yield self._called(one, end, by, seen_before, f"{state!r} was seen", (writers[0],))

    def _called(
        self,
        one: Operation,
        end: float,
        by: _Write,
        seen_before: tuple[Operation, State] | None,
        what: str,
        also: tuple[Operation, ...],
    ) -> Violation:
        """What to call it that an operation saw a state that was over.

        end: whatever was invoked later came behind that state. by: the first such write that was done; it was before
        this operation began. what: it saw. also: the operation that made the state.
        """
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
                said = f"{_although(what, by.one)}, and this client had seen {state!r} since"
                return Violation(Kind.BACKWARDS, one.key, said, (one, earlier, writers[0], *also))
        return Violation(Kind.STALE, one.key, _although(what, by.one), (one, by.one, *also))


def _although(what: str, write: Operation) -> str:
    return f"{what}, although {_short(write)} was over before"


def _stores(one: Operation) -> bool:
    """Whether a write, if it took effect, leaves a value."""
    return one.value is not None


class _Later:
    """Writes, to be asked which of those that were invoked after a moment was done first."""

    def __init__(self, writes: Iterable[_Write]) -> None:
        ordered = sorted(writes, key=lambda write: write.one.invoked)
        self._invoked = [write.one.invoked for write in ordered]
        self._first = list(accumulate(reversed(ordered), _earlier_of))[::-1]

    def first_after(self, moment: float) -> _Write | None:
        at = bisect_right(self._invoked, moment)
        return self._first[at] if at < len(self._first) else None


class _Missing:
    """Whether a key can have been missing: it was at first, and after each of its clears until it was stored."""

    def __init__(self, clears: Sequence[Operation], stores: _Later) -> None:
        """clears: those that took effect or may have."""
        ends: list[tuple[float, _Write | None]] = [(-math.inf, stores.first_after(-math.inf))]
        for one in sorted(clears, key=lambda one: one.invoked):
            known = one.completed if one.outcome is Outcome.OK else math.inf
            ends.append((one.invoked, stores.first_after(known)))
        self._invoked = [invoked for invoked, _ in ends]
        # Of the clears up to each: the store after it that was done first, where that is latest.
        self._latest = list(accumulate((over for _, over in ends), _later_of))

    def overwritten(self, one: Operation) -> _Write | None:
        """The store that was over before a read of "missing", and behind every clear that could explain it."""
        over = self._latest[bisect_right(self._invoked, one.completed) - 1]
        return over if over is not None and over.end < one.invoked else None


def _earlier_of(one: _Write, other: _Write) -> _Write:
    return other if other.end < one.end else one


def _later_of(one: _Write | None, other: _Write | None) -> _Write | None:
    if one is None or other is None:
        return None
    return one if one.end >= other.end else other


def _short(one: Operation) -> str:
    return f"{one.called} of client {one.client}"


# -- counters ----------------------------------------------------------------------------------------------------------


class _Sums:
    """Amounts by a time, to be asked what those up to a moment come to."""

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
    """The violations of a key that is only ever added to."""
    adds = [one for one in operations if one.verb is Verb.INCR and one.outcome is not Outcome.NOT_EXECUTED]
    acknowledged = [one for one in adds if one.outcome is Outcome.OK]
    begun = {sign: _Sums((one.invoked, one.amount) for one in adds if one.amount * sign > 0) for sign in (1, -1)}
    over = {
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
                text = f"two additions came to the same sum, {one.result:,}: one of them was lost"
                yield Violation(Kind.LOST, one.key, text, (one, other))
                continue
            by_sum[one.result] = one
            found, own = one.result - one.amount, one.amount
        elif one.verb is Verb.GET:
            assert not isinstance(one.result, int)
            try:
                found, own = int(one.result or "0"), 0
            except ValueError:
                yield Violation(Kind.INVENTED, one.key, f"{one.result!r} is no sum of anything", (one,))
                continue
        else:
            continue
        must = {sign: over[sign].before(one.invoked) for sign in (1, -1)}
        may = {sign: begun[sign].until(one.completed) - (own if own * sign > 0 else 0) for sign in (1, -1)}
        least, most = must[1] + may[-1], may[1] + must[-1]
        if found > most:
            text = f"it was {found:,}, and all additions that can have happened by then make {most:,} at most"
            yield Violation(Kind.DOUBLED, one.key, text, (one, *_last(adds, one)))
        elif found < least:
            text = f"it was {found:,}, and the additions acknowledged before come to {least:,} at least"
            before = [other for other in acknowledged if other.completed < one.invoked]
            # Where nothing is taken away sums only rise: what had come to more was not seen.
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
            if found not in _Possible(sum(must.values()), still_open):
                text = (
                    f"it is {found:,} at the end, and the additions acknowledged come to {sum(must.values()):,}; "
                    f"no choice among the {len(still_open):,} unknown ones makes up the difference"
                )
                yield Violation(Kind.DOUBLED, one.key, text, (one, *still_open[-8:]))


def _last(adds: Sequence[Operation], one: Operation) -> list[Operation]:
    """Some of the additions that were begun before an operation was over."""
    return [other for other in adds if other is not one and other.invoked <= one.completed][-4:]


class _Possible:
    """The sums that a known sum, and some of the unknown additions, can come to."""

    def __init__(self, known: int, unknown: Sequence[Operation]) -> None:
        self._least = known + sum(min(one.amount, 0) for one in unknown)
        self._most = known + sum(max(one.amount, 0) for one in unknown)
        self._bits: int | None = None
        if self._most - self._least <= SUMS_MAX:
            self._bits = 1  # bit n: least + n can be
            for one in unknown:
                self._bits |= self._bits << abs(one.amount)

    def __contains__(self, found: int) -> bool:
        if not self._least <= found <= self._most:
            return False
        return self._bits is None or bool(self._bits >> (found - self._least) & 1)

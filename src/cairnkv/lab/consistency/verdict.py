"""The parts of a verdict that keys and queues have in common: the extent of a run, and the texts of violations."""

import collections
import enum
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

from cairnkv.lab.consistency.history import AnyOperation, History, OperationT, Outcome
from cairnkv.units import counted

DETAILS_MAX: Final = 5
"""Maximum number of violations in `details`."""


class AnyViolation(Protocol):
    """A violation on keys or queues, whose text has its operations."""

    @property
    def kind(self) -> enum.Enum: ...
    @property
    def text(self) -> str: ...
    @property
    def operations(self) -> Sequence[AnyOperation]: ...


def outcomes_of(history: History[OperationT]) -> dict[Outcome, int]:
    """Return the number of operations with each outcome."""
    outcomes = collections.Counter(one.outcome for one in history.operations)
    return {outcome: outcomes[outcome] for outcome in Outcome}


def gaps_of(history: History[OperationT]) -> tuple[int, int]:
    """Return the longest time without a reply, and the longest between two changes of faults, in nanoseconds.

    The second is the time of a failover.
    """
    answered = sorted(one.completed for one in history.operations if one.outcome is Outcome.OK)
    last = answered[-1] if answered else 0
    changes = [at for action in history.actions for at in (action.began, action.ended) if at < last]
    return _longest(answered), _longest(sorted([*answered, *changes]))


def _longest(moments: Sequence[int]) -> int:
    """Return the longest time between two moments, from the beginning of the run. moments: sorted."""
    return max((after - before for before, after in pairwise([0, *moments])), default=0)


def details(violations: Sequence[AnyViolation]) -> list[str]:
    """Return texts of some violations with their operations: first the first violation of each kind."""
    kinds = {violation.kind: violation for violation in reversed(violations)}  # the first of each kind
    ordered = sorted(violations, key=lambda violation: violation is not kinds[violation.kind])
    lines = [str(violation) for violation in ordered[:DETAILS_MAX]]
    if len(violations) > DETAILS_MAX:
        lines.append(f"and {len(violations) - DETAILS_MAX:,} more")
    return lines


def named(violations: Sequence[AnyViolation]) -> str:
    """Return the kinds of violations with their numbers."""
    kinds = collections.Counter(str(violation.kind.value) for violation in violations)
    return "; ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common())


def extent(history: History[OperationT], subject: str) -> str:
    """Return the numbers of the run as sentences. subject: the number of its keys or queues."""
    operations = history.operations
    if not operations:
        return "The history has no operations."
    seconds = (max(one.completed for one in operations) - min(one.invoked for one in operations)) / 1e9
    places = len({one.node for one in operations})
    readers = {one.client for one in operations if one.final}
    clients = len({one.client for one in operations} - readers)
    counts = outcomes_of(history)

    text = (
        f"{counted(clients, 'client')} executed {counted(len(operations), 'operation')} on "
        f"{subject} at {counted(places, 'address', 'es')} in {seconds:.1f} s: "
        f"{counts[Outcome.OK]:,} succeeded, {counts[Outcome.NOT_EXECUTED]:,} were not executed, and the outcome of "
        f"{counts[Outcome.UNKNOWN]:,} is unknown."
    )
    if history.actions:
        kinds = collections.Counter(action.what for action in history.actions)
        did = ", ".join(f"{what} {count:,}" for what, count in sorted(kinds.items()))
        gap, recovery = gaps_of(history)
        text += (
            f" The nemesis injected {counted(len(history.actions), 'fault')} ({did}). The longest time without a reply "
            f"was {gap / 1e9:.1f} s, and {recovery / 1e9:.1f} s without a change of faults."
        )
    if missing := history.not_injected:
        text += f" Not injected: {', '.join(missing)}."
    return text

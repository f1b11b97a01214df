"""Writes the result of the checks (`cairnkv.lab.consistency.checks`) as one paragraph."""

import collections
from typing import Final

from cairnkv.lab.consistency.checks import Report
from cairnkv.lab.consistency.history import History, Outcome
from cairnkv.units import counted

DETAILS_MAX: Final = 5
"""Maximum number of violations in `details`."""


def verdict(history: History, report: Report) -> str:
    """Return the verdict and the numbers of the run as one paragraph."""
    return f"{_finding(report)} {_extent(history, report)}"


def details(report: Report) -> list[str]:
    """Return texts of some violations with their operations: first the first violation of each kind."""
    kinds = {violation.kind: violation for violation in reversed(report.violations)}  # the first of each kind
    ordered = sorted(report.violations, key=lambda violation: violation is not kinds[violation.kind])
    lines = [str(violation) for violation in ordered[:DETAILS_MAX]]
    if len(report.violations) > DETAILS_MAX:
        lines.append(f"and {len(report.violations) - DETAILS_MAX:,} more")
    return lines


def _finding(report: Report) -> str:
    if report.violations:
        kinds = collections.Counter(violation.kind.value for violation in report.violations)
        named = "; ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common())
        return f"NOT consistent: {len(report.wrong_keys):,} of {counted(report.keys, 'key')} with violations: {named}."
    reasons = []
    if report.undecided:
        reasons.append(
            f"the search reached its limit for {', '.join(report.undecided)}, which had too many concurrent operations "
            "(use fewer clients, more keys or a lower rate)"
        )
    if report.unread:
        reasons.append(f"the final reads failed at {', '.join(report.unread)}")
    if reasons:
        return f"Undecided: no violation was found, but {', and '.join(reasons)}."
    return (
        "Consistent: every key is linearizable. No acknowledged write was lost, no write was applied twice, and no "
        "read was stale."
    )


def _extent(history: History, report: Report) -> str:
    operations = history.operations
    if not operations:
        return "The history has no operations."
    seconds = (max(one.completed for one in operations) - min(one.invoked for one in operations)) / 1e9
    places = len({one.node for one in operations})
    readers = {one.client for one in operations if one.final}
    clients = len({one.client for one in operations} - readers)
    counts = report.outcomes

    text = (
        f"{counted(clients, 'client')} executed {counted(len(operations), 'operation')} on "
        f"{counted(report.keys, 'key')} at {counted(places, 'address', 'es')} in {seconds:.1f} s: "
        f"{counts[Outcome.OK]:,} succeeded, {counts[Outcome.NOT_EXECUTED]:,} were not executed, and the outcome of "
        f"{counts[Outcome.UNKNOWN]:,} is unknown."
    )
    if history.actions:
        kinds = collections.Counter(action.what for action in history.actions)
        did = ", ".join(f"{what} {count:,}" for what, count in sorted(kinds.items()))
        text += (
            f" The nemesis injected {counted(len(history.actions), 'fault')} ({did}). The longest time without a reply "
            f"was {report.gap / 1e9:.1f} s, and {report.recovery / 1e9:.1f} s without a change of faults."
        )
    if missing := history.not_injected:
        text += f" Not injected: {', '.join(missing)}."
    return text

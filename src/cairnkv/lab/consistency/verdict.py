"""The verdict on a history in one paragraph, with its numbers. Not for finding it
(`cairnkv.lab.consistency.checks`)."""

import collections
from typing import Final

from cairnkv.lab.consistency.checks import Report
from cairnkv.lab.consistency.history import History, Outcome

TOLD_MAX: Final = 5
"""Violations that are told with the operations that show them."""


def verdict(history: History, report: Report) -> str:
    """One paragraph: what was done, and what came of it."""
    return f"{_finding(report)} {_extent(history, report)}"


def details(report: Report) -> list[str]:
    """Some violations, of every kind the first, each with the operations that show it, over several lines."""
    kinds = {violation.kind: violation for violation in reversed(report.violations)}  # the first of each kind
    told = sorted(report.violations, key=lambda violation: violation is not kinds[violation.kind])
    lines = [str(violation) for violation in told[:TOLD_MAX]]
    if len(report.violations) > TOLD_MAX:
        lines.append(f"and {len(report.violations) - TOLD_MAX:,} more")
    return lines


def _finding(report: Report) -> str:
    if report.violations:
        kinds = collections.Counter(violation.kind.value for violation in report.violations)
        named = "; ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common())
        where = f"{len(report.wrong_keys):,} of {_some(report.keys, 'key')}"
        return f"NOT consistent, which {where} show{'s' if len(report.wrong_keys) == 1 else ''}: {named}."
    reasons = []
    if report.undecided:
        reasons.append(
            f"the search for an order gave up on {', '.join(report.undecided)}, where too much was under way at once "
            "(fewer clients, more keys or a lower rate help)"
        )
    if report.silent:
        reasons.append(f"{', '.join(report.silent)} gave no final reads, so nobody knows what is there")
    if reasons:
        return f"Undecided: nothing wrong was found, but {', and '.join(reasons)}."
    return (
        "Consistent: every key is linearizable; nothing acknowledged was lost, nothing done twice, no read stale, and "
        "unknown outcomes came to what they may."
    )


def _extent(history: History, report: Report) -> str:
    operations = history.operations
    if not operations:
        return "There were no operations."
    seconds = (max(one.completed for one in operations) - min(one.invoked for one in operations)) / 1e9
    places = len({one.node for one in operations})
    readers = {one.client for one in operations if one.final}
    clients = len({one.client for one in operations} - readers)
    counts = report.outcomes
    unknown = counts[Outcome.UNKNOWN]
    have = "has" if unknown == 1 else "have"
    text = (
        f"{_some(clients, 'client')} did {_some(len(operations), 'operation')} on {_some(report.keys, 'key')} at "
        f"{_some(places, 'address', 'es')} in {seconds:.1f} s: {counts[Outcome.OK]:,} were answered, "
        f"{counts[Outcome.NOT_EXECUTED]:,} not executed, {unknown:,} {have} an unknown outcome"
    )
    if history.actions:
        kinds = collections.Counter(action.what for action in history.actions)
        did = ", ".join(f"{what} {count:,}" for what, count in sorted(kinds.items()))
        text += (
            f"; meanwhile the nemesis acted {_some(len(history.actions), 'time')} ({did}), and the longest time "
            f"without any answer was {report.gap / 1e9:.1f} s, and {report.recovery / 1e9:.1f} s where it "
            "neither began nor ended anything"
        )
    if missing := history.not_done:
        text += f"; {' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} asked for and not done"
    return f"{text}."


def _some(number: int, unit: str, plural: str = "s") -> str:
    return f"{number:,} {unit}{'' if number == 1 else plural}"

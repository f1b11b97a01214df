"""Writes the result of the checks (`checks`) as one paragraph."""

from cairnkv.lab.consistency.keys.checks import Report
from cairnkv.lab.consistency.keys.history import History
from cairnkv.lab.consistency.verdict import extent, named
from cairnkv.units import counted


def verdict(history: History, report: Report) -> str:
    """Return the verdict and the numbers of the run as one paragraph."""
    return f"{_finding(report)} {extent(history, counted(report.keys, 'key'))}"


def _finding(report: Report) -> str:
    if report.violations:
        keys = f"{len(report.wrong_keys):,} of {counted(report.keys, 'key')}"
        return f"NOT consistent: {keys} with violations: {named(report.violations)}."
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

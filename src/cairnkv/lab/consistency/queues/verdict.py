"""Writes the result of the checks (`checks`) as one paragraph."""

from cairnkv.lab.consistency.queues.checks import Report
from cairnkv.lab.consistency.queues.history import History
from cairnkv.lab.consistency.verdict import extent, named
from cairnkv.units import counted


def verdict(history: History, report: Report) -> str:
    """Return the verdict and the numbers of the run as one paragraph."""
    finding, run = _finding(report), extent(history, counted(report.queues, "queue"))
    return (
        f"{finding} {run} {counted(report.messages, 'message')} had {counted(report.deliveries, 'lease')}, and "
        f"{report.dead:,} became dead."
    )


def _finding(report: Report) -> str:
    if report.violations:
        queues = f"{len({violation.queue for violation in report.violations}):,} of {counted(report.queues, 'queue')}"
        return f"NOT consistent: {queues} with violations: {named(report.violations)}."
    if report.unfinished:
        return f"Undecided: no violation was found, but {', and '.join(report.unfinished)}."
    return (
        "Consistent: no acknowledged message was lost or put twice, no message had two leases at the same time, and "
        "no stale lease was accepted."
    )

"""Decides whether a client repeats a command, and how long it waits before.

Invariants: after bytes of a command may have left, the client repeats only reads, and commands that failed as not
executed. Any other write raises `OutcomeUnknown`. A command whose bytes never left can always be repeated.

Out of scope: the endpoint of the repetition (`endpoints`).
"""

from typing import Final

from cairnkv.commands import CommandSpec, Failure, Reply, failures
from cairnkv.errors import CairnError, OutcomeUnknown, PeerError, TimedOut, Unavailable

FIRST_PAUSE: Final = 0.02
"""Maximum seconds before the first repetition. They double each time."""

LONGEST_PAUSE: Final = 1.0
"""Maximum seconds before any repetition."""

_LASTING: Final = (failures.FULL, failures.DISKFULL, failures.QUEUEFULL, failures.QUEUEBUSY)

NO_ANSWER: Final = "it accepts connections but does not answer"
"""The reason of failure of an endpoint that does not answer a PING in time."""


def pause_before(attempt: int) -> float:
    """Return the seconds to wait after an attempt (1, 2, ...): random, so that clients do not repeat together."""
    import random  # a slow import that only repetitions need

    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def worth_repeating(reply: Reply) -> bool:
    """Return whether a reply means that the command was not executed, for a reason that ends by itself.

    A full memory, disk or queue does not end by itself: a client must delete keys or take messages first.
    """
    return isinstance(reply, Failure) and reply.code.passing and reply.code not in _LASTING


def lost(spec: CommandSpec, where: str, why: str, *, timed_out: bool, wrong: PeerError | None = None) -> CairnError:
    """Return the error for a command that the server may have received, and whose reply is missing or unreadable.

    wrong: the error of the server or the reply. A proxy may have sent the reply, so the outcome of a write is unknown.
    """
    if spec.writes:
        return OutcomeUnknown(f"{spec.name} to {where}: {why}; it was executed, or it was not")
    return wrong or (TimedOut if timed_out else Unavailable)(f"{spec.name} to {where}: {why}")


def not_reached(spec: CommandSpec, where: str, failure: Failure) -> Unavailable:
    """Return the error for a command after a failure that closed the connection: the server did not execute it."""
    return Unavailable(f"{spec.name} to {where}: not executed; the connection ended before it: {failure.message}")

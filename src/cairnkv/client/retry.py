"""When a client tries again, and how long it waits before that.

Once a command's bytes may have left, only what reads is repeated, and what failed as not executed; any other
write raises `OutcomeUnknown`. What never left may always be repeated. Not for where it is repeated (`endpoints`).
"""

from typing import Final

from cairnkv.client.endpoints import Endpoints
from cairnkv.commands import CommandSpec, Failure, Reply, failures
from cairnkv.errors import CairnError, OutcomeUnknown, PeerError, TimedOut, Unavailable

FIRST_PAUSE: Final = 0.02
"""Seconds before the first repetition, at most; doubled each time."""

LONGEST_PAUSE: Final = 1.0
"""Seconds before any repetition, at most."""

SAYS_NOTHING: Final = "it accepts connections and says nothing"
"""Said of an endpoint that has given no sign of life in its time."""


def pause_before(attempt: int) -> float:
    """Seconds to wait before attempt 1, 2, ...: random, so that clients that lost one server do not come at once."""
    import random  # only who waits needs it

    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def worth_repeating(reply: Reply) -> bool:
    """Whether a reply says that the command was not executed, for a reason that passes by itself.

    Where memory or disk are full it does not: somebody has to clear something first.
    """
    return isinstance(reply, Failure) and reply.code.passing and reply.code not in (failures.FULL, failures.DISKFULL)


def lost(spec: CommandSpec, where: str, why: str, *, timed_out: bool, wrong: PeerError | None = None) -> CairnError:
    """Return the error for a command that the server may have received, and whose reply is missing or unreadable.

    wrong: the error of the server or the reply. A proxy may have sent the reply, so the outcome of a write is unknown.
    """
    if spec.writes:
        return OutcomeUnknown(f"{spec.name} to {where}: {why}; it was executed, or it was not")
    return wrong or (TimedOut if timed_out else Unavailable)(f"{spec.name} to {where}: {why}")


def with_story(failure: Failure, endpoints: Endpoints, now: float) -> Failure:
    """A failure that is not repeated any more; with what the other endpoints said, where those were asked as well."""
    if not (endpoints.several and failure.code.elsewhere):
        return failure
    return Failure(failure.code, f"{failure.text}{endpoints.besides(None, now)}")


def not_reached(spec: CommandSpec, where: str, failure: Failure) -> Unavailable:
    """The error for a command behind a failure that closed its connection: nothing behind one is executed."""
    return Unavailable(f"{spec.name} to {where}: not executed; the connection ended before it: {failure.message}")

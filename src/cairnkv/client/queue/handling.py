"""Runs the handler of a worker for one job, in a thread or a process.

Out of scope: taking jobs, and the extension of their leases (`worker`, `processes`).
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from cairnkv.client.address import Seconds
from cairnkv.client.methods import Methods
from cairnkv.client.queue.calls import B, QueueCalls
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.working import STOPPED, logger
from cairnkv.errors import CairnError, LeaseLost

Handler: TypeAlias = Callable[[Job[B]], object]


class Source(Protocol[B]):
    """A queue, as workers see it."""

    _kv: Methods[Any, Any]
    _calls: QueueCalls[B]

    def _take(self, count: int, lease: Seconds | None, wait: float) -> list[Job[B]]:
        """Lease messages. wait: seconds."""


def work_on(job: Job[B], handler: Handler[B]) -> None:
    """Run a handler, and ack or nack its job. Logs failures."""
    try:
        with job:
            handler(job)
    except LeaseLost as error:
        logger.warning("%s", error)
    except CairnError as error:
        logger.warning("job %d of the queue %r: %s", job.id, job.queue, error)
    except Exception:
        logger.exception("job %d of the queue %r failed, attempt %d", job.id, job.queue, job.attempt)
    except BaseException as error:
        logger.warning("job %d of the queue %r ended with %r", job.id, job.queue, error)


def give_back(job: Job[B], reason: str | None = None, *, why_lost: str = STOPPED) -> None:
    """Return a job whose handler may still run: uncounted, or as failed for a reason."""
    try:
        job.nack(reason, counted=reason is not None)
    except CairnError as error:  # the lease ends by itself
        logger.warning("job %d of the queue %r was not given back: %s", job.id, job.queue, error)
    job._lose(why_lost)

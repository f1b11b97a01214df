# Source of client/queue/jobs.py: run tools/generate_clients.py after a change.
"""Jobs: messages that TAKE has leased to this process.

Invariants: a job that is settled, or whose lease is known to be lost, sends no further command.

Out of scope: taking (`queues`), and the extension of leases by workers (`leases`).
"""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Final, Generic, Self

from cairnkv.client.address import Seconds
from cairnkv.client.aio.methods import AsyncMethods
from cairnkv.client.aio.together import AsyncTogether
from cairnkv.client.calls import Call, T
from cairnkv.client.queue.calls import (
    B,
    QueueCalls,
    Taken,
    ack,
    extend,
    lease_milliseconds,
    nack,
    name_shown,
    reason_of,
    together,
)
from cairnkv.client.queue.lease_state import LeaseState
from cairnkv.client.retry import pause_before
from cairnkv.commands import Replies
from cairnkv.errors import CairnError, LeaseLost, OutcomeUnknown

REPEATS: Final = 2
"""How often the client tries a command whose repetition is safe, if the outcome is unknown."""

MARGIN_SECONDS: Final = 2.0
"""Time before the end of a lease at which a job counts it as lost: the log time of a cluster may be a second ahead."""


async def repeated(kv: AsyncMethods[Any, Any], call: Call[T]) -> tuple[T, OutcomeUnknown | None]:
    """Execute a call that may execute twice. Returns its result, and the error of an attempt of unknown outcome.

    Raises that error if a later attempt finds the lease lost, because the earlier one may have ended it.
    """
    unknown: OutcomeUnknown | None = None
    for attempt in range(1, REPEATS):
        try:
            return await kv._do(call), unknown
        except OutcomeUnknown as error:
            unknown = error
            await asyncio.sleep(pause_before(attempt))
    try:
        return await kv._do(call), unknown
    except LeaseLost:
        if unknown is not None:
            raise unknown from None
        raise


class AsyncJob(Generic[B]):
    """A message that this process has leased. Use it in an `async with` statement, or call `ack` or `nack`.

    At the end of the statement, the job acks. After an exception, the message returns to the queue, with the exception
    as the reason, and is ready again after the backoff of the queue.

    id: the number of the message, which rises over the whole store. token: the number of the lease, which rises with
    each lease of the store; another system can refuse a write with a lower token than the last one.
    attempt: 1 for the first delivery. lease: seconds of the lease. put_at: the time of PUT, in seconds since 1970.
    group: the group of the message, or None. data: the bytes of the body.
    """

    def __init__(self, kv: AsyncMethods[Any, Any], calls: QueueCalls[B], taken: Taken, sent: float) -> None:
        """sent: the time before TAKE was sent, by `time.monotonic`."""
        self._kv = kv
        self._calls = calls
        self._taken = taken
        self._lease = taken.id, taken.token
        self._state = LeaseState()
        self._settled: str | None = None  # the command that has settled the job
        self._sent = sent
        self.id = taken.id
        self.token = taken.token
        self.attempt = taken.attempt
        self.put_at = taken.put_at_ms / 1000
        self.group = name_shown(taken.group) or None
        self.data = taken.data
        self._leased(sent, taken.lease_ms)

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.queue!r}: attempt {self.attempt}, token {self.token}>"

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return name_shown(self._calls.name)

    @property
    def body(self) -> B:
        """The body, as the codec of the queue decodes it. Raises `CodecError` if it cannot."""
        return self._calls.decode(self.data)

    @property
    def settled(self) -> bool:
        """Whether `ack` or `nack` has succeeded."""
        return self._settled is not None

    @property
    def lost(self) -> bool:
        """Whether the lease is lost or about to end, as far as this process knows."""
        return self._state.why_lost is not None or (not self.settled and time.monotonic() >= self._state.until)

    def check(self) -> None:
        """Raise `LeaseLost` if the lease is lost. Call it before an effect that must not happen twice."""
        if self._state.why_lost is None and self.lost:
            self._lose("its time has ended")
        self._refuse_if_lost()

    async def ack(self) -> None:
        """Delete the message: its work is done. Raises `LeaseLost` if this is not its newest lease."""
        held, unknown = await self._asked(ack([self._lease]))
        self._settle(held == [True], unknown, "ack")

    def together(self) -> AsyncTogether[Any, Any]:
        """Return commands that the store executes as one with the ack of this job: all of them, or none.

        Use it in an `async with` statement. At its end, the store deletes the message and executes
        the commands, as one change. If this is not the newest lease, nothing has an effect, and the statement raises
        `LeaseLost`. So these effects, in this store, happen exactly once for each message, however often it is
        delivered. If the statement ends with an exception, the client sends nothing, and the job is not acked.
        """
        self._refuse_if_ended()
        return AsyncTogether(self._kv._calls, self._ack_with)

    async def _ack_with(self, calls: list[Call[Any]]) -> Replies:
        self._refuse_if_ended()
        try:
            replies, _ = await repeated(self._kv, together([ack([self._lease]), *calls]))
        except LeaseLost:
            self._settle(held=False, unknown=None, what="ack")
            raise
        self._settled = "ack"
        return Replies(replies.values[1:])

    async def nack(
        self,
        reason: str | None = None,
        *,
        delay: Seconds | None = None,
        priority: int | None = None,
        counted: bool = True,
        dead: bool = False,
    ) -> None:
        """Return the message to the queue. Raises `LeaseLost` if this is not its newest lease.

        reason: a text that `look` and `peek` show. delay: the time until the message is ready; default: the backoff of
        the queue, which grows with each attempt. priority: its new priority. counted: False: the attempt does not
        count, and the message is ready at once. dead: the message becomes dead now.
        """
        call = nack(self._lease, reason, delay=delay, priority=priority, counted=counted, dead=dead)
        self._settle(*await self._asked(call), "nack")

    async def extend(self, lease: Seconds | None = None) -> None:
        """Let the lease end this time from now; default: the time of the lease. Raises `LeaseLost` if it has ended."""
        milliseconds = self._lease_ms if lease is None else lease_milliseconds(lease)
        sent = time.monotonic()
        extended, _ = await self._asked(extend([self._lease], milliseconds))
        if extended != [True]:
            self._lose("its time has ended")
            self._refuse_if_lost()
        self._leased(sent, milliseconds)

    async def _asked(self, call: Call[T]) -> tuple[T, OutcomeUnknown | None]:
        self._refuse_if_ended()
        return await repeated(self._kv, call)

    def _settle(self, held: bool, unknown: OutcomeUnknown | None, what: str) -> None:
        if held:
            self._settled = what
        elif unknown is not None:
            raise unknown  # the first attempt may have settled the job
        else:
            self._lose(f"the queue refused its {what}")
            self._refuse_if_lost()

    def _leased(self, sent: float, milliseconds: int) -> None:
        """Note that the lease holds for some time after a command was sent."""
        self._lease_ms = milliseconds
        self.lease = milliseconds / 1000
        self._state.until = sent + self.lease - min(MARGIN_SECONDS, self.lease / 10)

    def _share(self, state: LeaseState) -> None:
        """Keep the state of the lease in memory that another process shares."""
        state.until = self._state.until
        self._state = state

    def _lose(self, why: str) -> None:
        self._state.why_lost = why

    def _refuse_if_ended(self) -> None:
        self._refuse_if_lost()  # first: a worker that takes a lease nacks the job, and notes the reason
        if self._settled is not None:
            raise LeaseLost(f"job {self.id} of the queue {self.queue!r} has no lease: it was already {self._settled}ed")

    def _refuse_if_lost(self) -> None:
        if (why := self._state.why_lost) is not None:
            raise LeaseLost(f"job {self.id} of the queue {self.queue!r} has lost its lease {self.token}: {why}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.settled:
            return
        if error is None:
            await self.ack()
            return
        # If the nack fails the lease ends by itself, and the exception of the statement matters more.
        with contextlib.suppress(CairnError):
            # An interrupted or cancelled job has not failed.
            await self.nack(reason_of(error), counted=isinstance(error, Exception | SystemExit))

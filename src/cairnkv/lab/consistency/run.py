"""Runs: concurrent clients execute random operations on a store and record them in a history.

Each client uses one address until it fails, then the next. At the end, without faults, a run reads the whole result.

Invariants: a client has one operation at a time. It tries an operation once, so that the history has every attempt. A
write without a reply in time has an unknown outcome. The number of operations is limited. The keys or queues of a run
have a prefix with a random token, and the run deletes them at its end.

Out of scope: the operations (`keys.workload`, `queues.workload`), and load tests: this is one process with a limited
rate.
"""

import abc
import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

import cairnkv.aio
from cairnkv.errors import CairnError, CallerError, InternalError, OutcomeUnknown, PeerError, Unavailable
from cairnkv.lab.consistency.history import Action, History, OperationT, Outcome, Saver
from cairnkv.records import fields_of, record

_T = TypeVar("_T")

OPERATIONS_MAX: Final = 2_000_000
"""Maximum operations in a run: a few gigabytes of history."""

RETRY_PAUSE: Final = 0.05
"""Seconds that a client waits before it uses the next address, so that it does not overload a failed store."""

FINAL_SECONDS: Final = 60.0
"""Seconds for all attempts of the final operations at an address, which may be in a failover."""

BACKSTOP: Final = 1.5
"""Multiple of an operation's timeout after which the client gives up, even if the client library does not."""

PREFIX: Final = "cairn-check:"
"""The beginning of all keys and queues of every run. A random token of the run follows."""

KV: TypeAlias = "cairnkv.aio.Client[bytes, bytes]"


@record
class Options:
    """The options of a run.

    addresses: of the store's nodes. seconds: the duration without the final operations. clients: their number.
    rate: operations per second of all clients together; None: no limit. seed: of all random choices.
    timeout: seconds of one operation. faults: the kinds that the nemesis injects.
    """

    addresses: tuple[str, ...]
    seconds: float = 30.0
    clients: int = 10
    rate: float | None = 1_000.0
    seed: int = 0
    timeout: float = 3.0
    faults: tuple[str, ...] = ()

    def about(self) -> dict[str, Any]:
        """Return the header of a run's history."""
        fields = fields_of(self)
        faults = fields.pop("faults")
        lists = {"addresses": list(self.addresses), "nemesis": list(faults)}
        return {**fields, **lists, "wall_clock_ms": time.time_ns() // 1_000_000}


Injection: TypeAlias = Callable[["AnyRun"], Coroutine[Any, Any, None]]
"""Injects faults during a run, until it is cancelled."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of operations."""


def no_progress(done: int) -> None:
    """Show no progress."""


class AnyRun(abc.ABC):
    """The part of a run that a nemesis and the command line use.

    prefix: the beginning of the names of its keys or queues. left_behind: the prefix, if the run failed to delete them
    at the end.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.left_behind: str | None = None
        self.prefix = f"{PREFIX}{secrets.token_hex(6)}:"
        self._began = time.monotonic_ns()
        self._stop = asyncio.Event()
        self._nemesis: asyncio.Task[None] | None = None

    def now(self) -> int:
        """Return the nanoseconds since the beginning of the run."""
        return time.monotonic_ns() - self._began

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped early."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Stop the run early: clients finish their operations, the nemesis heals the cluster, the final reads begin."""
        self._stop.set()
        if self._nemesis is not None:
            self._nemesis.cancel()

    async def rest(self, seconds: float) -> None:
        """Sleep, but return early if the run is stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    @abc.abstractmethod
    def action(self, one: Action) -> None:
        """Record an action of the nemesis."""

    @abc.abstractmethod
    async def run(self, nemesis: Injection | None = None, progress: Progress = no_progress) -> History[Any]:
        """Run the clients and the nemesis, then the final operations. Return the history.

        Raises `NoReply`, and the errors of the nemesis.
        """


class NoReply(Unavailable):
    """No operation succeeded at any address, so that there is nothing to check."""


class Run(AnyRun, Generic[OperationT]):
    """One run. A subclass starts its clients, and ends them.

    operations: all so far.
    """

    def __init__(self, options: Options, history: History[OperationT], saver: Saver[OperationT] | None) -> None:
        super().__init__(options)
        self.operations = history.operations
        self._actions = history.actions
        self._saver = saver

    def action(self, one: Action) -> None:
        """Record an action of the nemesis."""
        self._actions.append(one)
        if self._saver is not None:
            self._saver.action(one)

    def done(self, one: OperationT) -> None:
        """Record an operation."""
        self.operations.append(one)
        if self._saver is not None:
            self._saver.operation(one)

    async def execute(self, nemesis: Injection | None, progress: Progress) -> None:
        """Run the clients and the nemesis, then the final operations. Raises `NoReply` and the nemesis' errors."""
        try:
            await self._prepare()
            await self._use(nemesis, progress)
            await self._finish(progress)
        finally:
            if self._any_reply():
                self.left_behind = None if await self._clean_up() else self.prefix

    async def _prepare(self) -> None:
        """Prepare the store, before all operations."""

    @abc.abstractmethod
    def _client(self, number: int, progress: Progress) -> "Client[OperationT]":
        """Return a new client."""

    @abc.abstractmethod
    async def _finish(self, progress: Progress) -> None:
        """Execute the final operations, without faults and other clients."""

    @abc.abstractmethod
    async def _delete(self, kv: KV) -> None:
        """Delete the keys or queues of the run."""

    async def _use(self, nemesis: Injection | None, progress: Progress) -> None:
        """Run all clients until the time is up."""
        options = self.options
        end = time.monotonic() + options.seconds
        clients = [self._client(number, progress) for number in range(options.clients)]
        try:
            async with asyncio.TaskGroup() as tasks:
                if nemesis is not None:
                    self._nemesis = tasks.create_task(nemesis(self))
                for client in clients:
                    tasks.create_task(client.use(end))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # all clients fail for the same reason
        if not self._any_reply():
            notes = {one.note for one in self.operations if one.note}
            raise NoReply(f"no operation succeeded at {', '.join(options.addresses)}: {'; '.join(sorted(notes)[:3])}")

    def _any_reply(self) -> bool:
        return any(one.outcome is Outcome.OK for one in self.operations)

    async def _clean_up(self) -> bool:
        """Delete what the run has made, at the first address that allows it. Return whether it is deleted."""
        for address in self.options.addresses:
            with contextlib.suppress(CairnError):
                async with cairnkv.aio.connect(address, codec="bytes", timeout=self.options.timeout) as kv:
                    await self._delete(kv)
                return True
        return False


@record
class Attempt(Generic[_T]):
    """One attempt of an operation: its result if it succeeded, its outcome and its times, as operations have them."""

    result: _T | None
    outcome: Outcome
    invoked: int
    completed: int
    node: str
    note: str


class Client(abc.ABC, Generic[OperationT]):
    """One client, which uses its addresses one after the other. The context manager closes its connection."""

    def __init__(
        self, run: Run[OperationT], number: int, progress: Progress, addresses: Sequence[str] | None = None
    ) -> None:
        self.random = random.Random(f"{run.options.seed} {number}")
        self._run = run
        self._number = number
        self._progress = progress
        self._addresses = addresses or run.options.addresses
        self._at = number % len(self._addresses)
        self._kv: KV | None = None

    @abc.abstractmethod
    async def step(self) -> OperationT:
        """Execute a random operation, record it and return it."""

    async def use(self, end: float) -> None:
        """Execute operations until the end."""
        run, options, operations = self._run, self._run.options, self._run.operations
        gap = options.clients / options.rate if options.rate else 0.0
        following = time.monotonic() + self.random.uniform(0, gap)
        async with self:
            while (now := time.monotonic()) < end and len(operations) < OPERATIONS_MAX and not run.stopped:
                if following > now:
                    await run.rest(min(following, end) - now)
                    if time.monotonic() >= end or run.stopped:
                        return
                following = max(following, now - gap) + gap * self.random.uniform(0.5, 1.5)
                one = await self.step()
                self._progress(len(operations))
                if one.outcome is not Outcome.OK:
                    await self.move_on()

    async def attempt(self, call: Callable[[KV], Awaitable[_T]], *, writes: bool) -> Attempt[_T]:
        """Make a call once, and return its result with its outcome. writes: whether it may change the store."""
        run = self._run
        result: _T | None = None
        outcome, note = Outcome.OK, ""
        address = self._addresses[self._at]
        if self._kv is None:
            self._kv = cairnkv.aio.connect(address, codec="bytes", timeout=run.options.timeout, attempts=1)
        invoked = run.now()
        try:
            async with asyncio.timeout(run.options.timeout * BACKSTOP):
                result = await call(self._kv)
        except TimeoutError as error:
            # The library raises its own `TimedOut` only if the server has not executed the command.
            certain = isinstance(error, Unavailable) or not writes
            outcome = Outcome.NOT_EXECUTED if certain else Outcome.UNKNOWN
            note = _in_one_line(error) or f"no reply in {run.options.timeout * BACKSTOP:g} s"
        except (OutcomeUnknown, InternalError, PeerError) as error:
            outcome = Outcome.UNKNOWN if writes else Outcome.NOT_EXECUTED
            note = _in_one_line(error)
        except CairnError as error:
            if isinstance(error, CallerError) and error.code is None:
                raise  # such as an invalid address, with which every operation fails
            outcome, note = Outcome.NOT_EXECUTED, _in_one_line(error)
        return Attempt(result, outcome, invoked, run.now(), address, note)

    async def move_on(self) -> None:
        """Close the connection, and use the next address."""
        await self._leave()
        self._at = (self._at + 1) % len(self._addresses)
        await asyncio.sleep(RETRY_PAUSE * self.random.uniform(0.5, 1.5))

    async def _leave(self) -> None:
        if self._kv is not None:
            await self._kv.close()
            self._kv = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

"""The workload: concurrent clients execute operations on a few keys and record them in a history.

Each client uses one address until it fails, then the next. A write to a register has a unique value, so that a read
identifies the write. Clients only add to counters. At the end, without faults, every key is read at every address.

Invariants: a client has one operation at a time. It tries an operation once, so that the history has every attempt. A
write without a reply in time has an unknown outcome. Keys have a prefix of the run, and the run deletes them at its
end. The number of operations is limited.

Out of scope: the checks (`cairnkv.lab.consistency.checks`), and load tests: this is one process with a limited rate.
"""

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

import cairnkv.aio
from cairnkv.errors import CairnError, CallerError, InternalError, OutcomeUnknown, PeerError, Unavailable
from cairnkv.lab.consistency.history import Action, History, Operation, Outcome, Saver, Verb
from cairnkv.records import fields_of, record, replace

OPERATIONS_MAX: Final = 2_000_000
"""Maximum operations in a run: a few gigabytes of history."""

RETRY_PAUSE: Final = 0.05
"""Seconds that a client waits before it uses the next address, so that it does not overload a failed store."""

FINAL_SECONDS: Final = 60.0
"""Seconds for all attempts of the final reads at an address, which may be in a failover."""

BACKSTOP: Final = 1.5
"""Multiple of an operation's timeout after which the client gives up, even if the client library does not."""

PREFIX: Final = "cairn-check:"
"""The beginning of all keys of every run. A random token of the run follows."""

_REGISTER: Final = {
    Verb.GET: 45,
    Verb.SET: 20,
    Verb.SET_IF: 12,
    Verb.SWAP: 8,
    Verb.EXISTS: 5,
    Verb.CLEAR: 5,
    Verb.CLEAR_IF: 5,
}
_COUNTER: Final = {Verb.INCR: 60, Verb.GET: 40}
"""The weights of the operations on registers and on counters."""


@record
class Options:
    """The options of a run.

    addresses: of the store's nodes. seconds: the duration without the final reads. clients, keys: their numbers.
    rate: operations per second of all clients together; None: no limit. seed: of all random choices.
    timeout: seconds of one operation. faults: the kinds that the nemesis injects.
    """

    addresses: tuple[str, ...]
    seconds: float = 30.0
    clients: int = 10
    keys: int = 8
    rate: float | None = 1_000.0
    seed: int = 0
    timeout: float = 3.0
    faults: tuple[str, ...] = ()


Injection: TypeAlias = Callable[["Run"], Coroutine[Any, Any, None]]
"""Injects faults during a run, until it is cancelled."""


class NoReply(Unavailable):
    """No operation succeeded at any address, so that there is nothing to check."""


class Run:
    """One run.

    history: grows during the run. prefix: the beginning of its keys. left_behind: the prefix, if the run failed to
    delete its keys at the end.
    """

    def __init__(self, options: Options, *, saver: Saver | None = None) -> None:
        self.options = options
        self.history = History(about=about(options))
        self.left_behind: str | None = None
        self._saver = saver
        self._began = time.monotonic_ns()
        self.prefix = f"{PREFIX}{secrets.token_hex(6)}:"
        self._keys = key_names(options.keys)
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

    def action(self, one: Action) -> None:
        """Record an action of the nemesis."""
        self.history.actions.append(one)
        if self._saver is not None:
            self._saver.action(one)

    async def run(
        self,
        nemesis: Injection | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> History:
        """Run the clients and the nemesis, then read every key at every address.

        progress: called with the number of operations. Raises `NoReply`, and the errors of the nemesis.
        """
        try:
            await self._use(nemesis, progress)
            await self._read_all(progress)
        finally:
            if self._any_reply():
                self.left_behind = None if await self._clean_up() else self.prefix
        return self.history

    async def _use(self, nemesis: Injection | None, progress: Callable[[int], None]) -> None:
        """Run all clients until the time is up."""
        options = self.options
        end = time.monotonic() + options.seconds
        clients = [_Client(self, number, progress) for number in range(options.clients)]
        try:
            async with asyncio.TaskGroup() as tasks:
                if nemesis is not None:
                    self._nemesis = tasks.create_task(nemesis(self))
                for client in clients:
                    tasks.create_task(client.use(self._keys, end))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # all clients fail for the same reason
        if not self._any_reply():
            notes = {one.note for one in self.history.operations if one.note}
            raise NoReply(f"no operation succeeded at {', '.join(options.addresses)}: {'; '.join(sorted(notes)[:3])}")

    def _any_reply(self) -> bool:
        return any(one.outcome is Outcome.OK for one in self.history.operations)

    def done(self, one: Operation) -> None:
        """Record an operation."""
        self.history.operations.append(one)
        if self._saver is not None:
            self._saver.operation(one)

    async def _read_all(self, progress: Callable[[int], None]) -> None:
        """Read all keys at each address, with several attempts."""
        for number, address in enumerate(self.options.addresses, self.options.clients):
            reader = _Client(self, number, progress, (address,))
            await reader.read_finally(self._keys, time.monotonic() + FINAL_SECONDS)

    async def _clean_up(self) -> bool:
        """Delete the keys of the run at the first address that allows it. Return whether they are deleted."""
        for address in self.options.addresses:
            with contextlib.suppress(CairnError):
                async with cairnkv.aio.connect(address, timeout=self.options.timeout) as kv:
                    await kv.clear_many([self.prefix + key for key in self._keys])
                return True
        return False


def key_names(count: int) -> list[str]:
    """Return the names of keys: registers r1, r2, ..., and for every three registers a counter c1, ...

    >>> key_names(4)
    ['r1', 'r2', 'r3', 'c1']
    """
    counters = count // 4
    return [f"r{n}" for n in range(1, count - counters + 1)] + [f"c{n}" for n in range(1, counters + 1)]


def about(options: Options) -> dict[str, Any]:
    """Return the header of a run's history."""
    fields = fields_of(options)
    faults = fields.pop("faults")
    lists = {"addresses": list(options.addresses), "nemesis": list(faults)}
    return {**fields, **lists, "wall_clock_ms": time.time_ns() // 1_000_000}


class _Client:
    """One client, which uses its addresses in turn."""

    def __init__(
        self, run: Run, number: int, progress: Callable[[int], None], addresses: Sequence[str] | None = None
    ) -> None:
        self._run = run
        self._number = number
        self._progress = progress
        self._random = random.Random(f"{run.options.seed} {number}")
        self._addresses = addresses or run.options.addresses
        self._at = number % len(self._addresses)
        self._kv: cairnkv.aio.Client[bytes, bytes] | None = None
        self._values = itertools.count(1)
        self._seen: dict[str, str] = {}  # the last value of each key that this client has read or written

    async def use(self, keys: Sequence[str], end: float) -> None:
        """Execute operations on the keys until the end."""
        options = self._run.options
        gap = options.clients / options.rate if options.rate else 0.0
        following = time.monotonic() + self._random.uniform(0, gap)
        operations = self._run.history.operations
        try:
            while (now := time.monotonic()) < end and len(operations) < OPERATIONS_MAX and not self._run.stopped:
                if following > now:
                    await self._run.rest(min(following, end) - now)
                    if time.monotonic() >= end or self._run.stopped:
                        return
                following = max(following, now - gap) + gap * self._random.uniform(0.5, 1.5)
                one = await self._one(self._chosen(self._random.choice(keys)))
                self._progress(len(operations))
                if one.outcome is not Outcome.OK:
                    await self._move_on()
        finally:
            await self._leave()

    async def read_finally(self, keys: Sequence[str], end: float) -> None:
        """Read the keys, each until a read succeeds or the time is up."""
        try:
            for key in keys:
                while True:
                    one = await self._one(Operation(self._number, Verb.GET, key, 0, 0, final=True))
                    if one.outcome is Outcome.OK:
                        break
                    if time.monotonic() > end:
                        return
                    await self._move_on()
        finally:
            await self._leave()

    def _chosen(self, key: str) -> Operation:
        """Return a random operation on a key."""
        weights = _COUNTER if key.startswith("c") else _REGISTER
        (verb,) = self._random.choices(list(weights), list(weights.values()))
        return Operation(
            self._number,
            verb,
            key,
            0,
            0,
            value=f"{self._number}-{next(self._values)}" if verb in (Verb.SET, Verb.SWAP, Verb.SET_IF) else None,
            expected=self._seen.get(key, "none") if verb in (Verb.SET_IF, Verb.CLEAR_IF) else None,
            amount=self._random.randint(1, 5) if verb is Verb.INCR else 0,
        )

    async def _one(self, plan: Operation) -> Operation:
        """Execute an operation, record it and return it with its outcome."""
        run = self._run
        address = self._addresses[self._at]
        result: str | int | bool | None = None
        outcome, note = Outcome.OK, ""
        if self._kv is None:
            self._kv = cairnkv.aio.connect(address, codec="bytes", timeout=run.options.timeout, attempts=1)
        invoked = run.now()
        try:
            async with asyncio.timeout(run.options.timeout * BACKSTOP):
                result = await self._call(self._kv, plan)
        except TimeoutError as error:
            # The library raises its own `TimedOut` only if the server has not executed the command.
            certain = isinstance(error, Unavailable) or not plan.verb.writes
            outcome = Outcome.NOT_EXECUTED if certain else Outcome.UNKNOWN
            note = _in_one_line(error) or f"no reply in {run.options.timeout * BACKSTOP:g} s"
        except (OutcomeUnknown, InternalError, PeerError) as error:
            outcome = Outcome.UNKNOWN if plan.verb.writes else Outcome.NOT_EXECUTED
            note = _in_one_line(error)
        except CairnError as error:
            if isinstance(error, CallerError) and error.code is None:
                raise  # such as an invalid address, with which every operation fails
            outcome, note = Outcome.NOT_EXECUTED, _in_one_line(error)
        completed = run.now()
        one = replace(
            plan, invoked=invoked, completed=completed, outcome=outcome, result=result, node=address, note=note
        )
        run.done(one)
        if outcome is Outcome.OK:
            last = result if plan.verb is Verb.GET else plan.value
            if isinstance(last, str):
                self._seen[plan.key] = last
        return one

    async def _call(self, kv: "cairnkv.aio.Client[bytes, bytes]", plan: Operation) -> str | int | bool | None:
        """Send an operation and return its result."""
        key = self._run.prefix + plan.key
        value, expected = (plan.value or "").encode(), (plan.expected or "").encode()
        match plan.verb:
            case Verb.GET:
                return _text(await kv.get(key))
            case Verb.EXISTS:
                return await kv.exists(key)
            case Verb.SET:
                await kv.set(key, value)
            case Verb.CLEAR:
                await kv.clear(key)
            case Verb.SWAP:
                return _text(await kv.swap(key, value))
            case Verb.SET_IF:
                return await kv.set(key, value, if_equals=expected)
            case Verb.CLEAR_IF:
                return await kv.clear_if_equals(key, expected)
            case Verb.INCR:
                return await kv.incr(key, plan.amount)
        return None

    async def _move_on(self) -> None:
        """Close the connection, and use the next address."""
        await self._leave()
        self._at = (self._at + 1) % len(self._addresses)
        await asyncio.sleep(RETRY_PAUSE * self._random.uniform(0.5, 1.5))

    async def _leave(self) -> None:
        if self._kv is not None:
            await self._kv.close()
            self._kv = None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

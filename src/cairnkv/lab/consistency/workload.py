"""Clients that use a store at once, on a few keys, and write down what they asked and what they were told.

Each client stays with one address until it fails, then goes on to the next. Registers are written with values that no
one else writes, so that whoever reads one knows who wrote it; counters are only ever added to. At the end, when all
is healed, every key is read at every address.

What always holds: a client has one operation under way at a time; an operation is tried once, so that the history has
every try; a time limit leaves a write's outcome unknown; keys have a prefix of this run's own, and are cleared behind
it; the number of operations is bounded.

Not for judging (`cairnkv.lab.consistency.checks`), and not for load: one process, paced.
"""

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import cairnkv.aio
from cairnkv.errors import CairnError, CallerError, InternalError, OutcomeUnknown, PeerError, Unavailable
from cairnkv.lab.consistency.history import Action, History, Operation, Outcome, Saver, Verb
from cairnkv.records import record

OPERATIONS_MAX: Final = 2_000_000
"""Operations in one run: some gigabytes of history. Who reaches it stops."""

PAUSE: Final = 0.05
"""Seconds that a client waits before it goes on to the next address, so that a store that is down is not hammered."""

FINAL_SECONDS: Final = 60.0
"""How long the final reads may take at each address, tried again and again: a failover may still be going on."""

BACKSTOP: Final = 1.5
"""Times the operation's timeout after which it is given up even if the client library has not."""

PREFIX: Final = "cairn-check:"
"""What the keys of every run begin with. A token of the run's own follows."""

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
"""How often each operation is chosen, of a register and of a counter."""


@record
class Options:
    """What a run is like.

    addresses: of the store's nodes. seconds: how long it lasts, final reads aside. clients, keys: how many.
    rate: operations per second of all clients together; None: as many as there can be. seed: of what is chosen.
    timeout: seconds that one operation may take. harms: kinds that a nemesis is asked for meanwhile.
    """

    addresses: tuple[str, ...]
    seconds: float = 30.0
    clients: int = 10
    keys: int = 8
    rate: float | None = 1_000.0
    seed: int = 0
    timeout: float = 3.0
    harms: tuple[str, ...] = ()


class NoAnswer(Unavailable):
    """Nothing was answered at any address, so there is nothing to judge."""


class Run:
    """One run.

    history: grows while it runs. left_behind: the prefix of its keys, if they could not be cleared at the end.
    """

    def __init__(self, options: Options, *, saver: Saver | None = None) -> None:
        self.options = options
        self.history = History(about=about(options))
        self.left_behind: str | None = None
        self._saver = saver
        self._began = time.monotonic_ns()
        self._prefix = f"{PREFIX}{secrets.token_hex(6)}:"
        self._keys = key_names(options.keys)
        self._stop = asyncio.Event()
        self._nemesis: asyncio.Task[None] | None = None

    def now(self) -> int:
        """Nanoseconds since the run began."""
        return time.monotonic_ns() - self._began

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped early."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Stop the run early: operations end, the nemesis heals the cluster, and clients read every key."""
        self._stop.set()
        if self._nemesis is not None:
            self._nemesis.cancel()

    async def rest(self, seconds: float) -> None:
        """Sleep, but return early if the run is stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    def action(self, one: Action) -> None:
        """Write down what the nemesis did."""
        self.history.actions.append(one)
        if self._saver is not None:
            self._saver.action(one)

    async def run(
        self,
        nemesis: "Callable[[Run], Awaitable[None]] | None" = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> History:
        """Drive the clients, and the nemesis beside them, which leaves all healed; then read every key everywhere.

        progress: is told how many operations there were. Raises `NoAnswer`, and what the nemesis does.
        """
        try:
            await self._use(nemesis, progress)
            await self._read_all(progress)
        finally:
            if self._any_answer():
                self.left_behind = None if await self._clean_up() else self._prefix
        return self.history

    async def _use(self, nemesis: "Callable[[Run], Awaitable[None]] | None", progress: Callable[[int], None]) -> None:
        """Drive all clients until the time is up."""
        options = self.options
        deadline = time.monotonic() + options.seconds
        clients = [_Client(self, number, self._prefix, progress) for number in range(options.clients)]
        try:
            async with asyncio.TaskGroup() as tasks:
                if nemesis is not None:
                    self._nemesis = tasks.create_task(_awaited(nemesis(self)))
                for client in clients:
                    tasks.create_task(client.use(self._keys, deadline))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # who fails at all fails for the reason of all others
        if not self._any_answer():
            notes = {one.note for one in self.history.operations if one.note}
            raise NoAnswer(f"nothing was answered at {', '.join(options.addresses)}: {'; '.join(sorted(notes)[:3])}")

    def _any_answer(self) -> bool:
        return any(one.outcome is Outcome.OK for one in self.history.operations)

    def done(self, one: Operation) -> None:
        """Write an operation down."""
        self.history.operations.append(one)
        if self._saver is not None:
            self._saver.operation(one)

    async def _read_all(self, progress: Callable[[int], None]) -> None:
        """Read all keys at each address, one after the other; each tried until it answers, for a while."""
        for number, address in enumerate(self.options.addresses, self.options.clients):
            reader = _Client(self, number, self._prefix, progress, addresses=(address,))
            deadline = time.monotonic() + FINAL_SECONDS
            await reader.read_finally(self._keys, deadline)

    async def _clean_up(self) -> bool:
        """Take the run's keys out again, where anybody lets us; whether somebody did."""
        for address in self.options.addresses:
            with contextlib.suppress(CairnError):
                async with cairnkv.aio.connect(address, timeout=self.options.timeout) as kv:
                    await kv.clear_many([self._prefix + key for key in self._keys])
                return True
        return False


async def _awaited(work: Awaitable[None]) -> None:
    await work


def key_names(count: int) -> list[str]:
    """The names of so many keys: registers r1, r2, ..., and one counter c1, ... for every three of them.

    >>> key_names(4)
    ['r1', 'r2', 'r3', 'c1']
    """
    counters = count // 4
    return [f"r{n}" for n in range(1, count - counters + 1)] + [f"c{n}" for n in range(1, counters + 1)]


def about(options: Options) -> dict[str, Any]:
    """What the header of a run's history says."""
    return {
        "addresses": list(options.addresses),
        "seconds": options.seconds,
        "clients": options.clients,
        "keys": options.keys,
        "rate": options.rate,
        "seed": options.seed,
        "timeout": options.timeout,
        "nemesis": list(options.harms),
        "wall_clock_ms": time.time_ns() // 1_000_000,
    }


class _Client:
    """One client, and the addresses that it goes to in turn."""

    def __init__(
        self,
        run: Run,
        number: int,
        prefix: str,
        progress: Callable[[int], None],
        addresses: Sequence[str] | None = None,
    ) -> None:
        self._run = run
        self._number = number
        self._prefix = prefix
        self._progress = progress
        self._dice = random.Random(f"{run.options.seed} {number}")
        self._addresses = addresses or run.options.addresses
        self._at = number % len(self._addresses)
        self._kv: cairnkv.aio.Client[bytes, bytes] | None = None
        self._values = itertools.count(1)
        self._seen: dict[str, str] = {}  # the value of each key that was seen or written last

    async def use(self, keys: Sequence[str], deadline: float) -> None:
        """Use these keys until the time comes."""
        options = self._run.options
        gap = options.clients / options.rate if options.rate else 0.0
        following = time.monotonic() + self._dice.uniform(0, gap)
        operations = self._run.history.operations
        try:
            while (now := time.monotonic()) < deadline and len(operations) < OPERATIONS_MAX and not self._run.stopped:
                if following > now:
                    await self._run.rest(min(following, deadline) - now)
                    if time.monotonic() >= deadline or self._run.stopped:
                        return
                following = max(following, now - gap) + gap * self._dice.uniform(0.5, 1.5)
                one = await self._one(self._chosen(self._dice.choice(keys)))
                self._progress(len(operations))
                if one.outcome is not Outcome.OK:
                    await self._move_on()
        finally:
            await self._leave()

    async def read_finally(self, keys: Sequence[str], deadline: float) -> None:
        """Read all of these keys, each until it is answered or the time is up."""
        try:
            for key in keys:
                while True:
                    one = await self._one(Operation(self._number, Verb.GET, key, 0, 0, final=True))
                    if one.outcome is Outcome.OK:
                        break
                    if time.monotonic() > deadline:
                        return
                    await self._move_on()
        finally:
            await self._leave()

    def _chosen(self, key: str) -> Operation:
        """What to do next with a key."""
        weights = _COUNTER if key.startswith("c") else _REGISTER
        (verb,) = self._dice.choices(list(weights), list(weights.values()))
        return Operation(
            self._number,
            verb,
            key,
            0,
            0,
            value=f"{self._number}-{next(self._values)}" if verb in (Verb.SET, Verb.SWAP, Verb.SET_IF) else None,
            expected=self._seen.get(key, "none") if verb in (Verb.SET_IF, Verb.CLEAR_IF) else None,
            amount=self._dice.randint(1, 5) if verb is Verb.INCR else 0,
        )

    async def _one(self, plan: Operation) -> Operation:
        """Carry an operation out, and write down what became of it."""
        run = self._run
        address = self._addresses[self._at]
        result: str | int | bool | None = None
        outcome, note = Outcome.OK, ""
        if self._kv is None:
            self._kv = cairnkv.aio.connect(address, codec="bytes", timeout=run.options.timeout, attempts=1)
        invoked = run.now()
        try:
            async with asyncio.timeout(run.options.timeout * BACKSTOP):
                result = await self._said(self._kv, plan)
        except TimeoutError as error:
            sure = isinstance(error, Unavailable) or not plan.verb.writes  # the library's own says that nothing left
            outcome = Outcome.NOT_EXECUTED if sure else Outcome.UNKNOWN
            note = _in_one_line(error) or f"no answer in {run.options.timeout * BACKSTOP:g} s"
        except (OutcomeUnknown, InternalError, PeerError) as error:
            outcome = Outcome.UNKNOWN if plan.verb.writes else Outcome.NOT_EXECUTED
            note = _in_one_line(error)
        except CairnError as error:
            if isinstance(error, CallerError) and error.code is None:
                raise  # an address that is none, or the like: no client can get anywhere
            outcome, note = Outcome.NOT_EXECUTED, _in_one_line(error)
        one = Operation(
            plan.client,
            plan.verb,
            plan.key,
            invoked,
            run.now(),
            outcome,
            result,
            plan.value,
            plan.expected,
            plan.amount,
            address,
            note,
            plan.final,
        )
        run.done(one)
        if outcome is Outcome.OK:
            last = result if plan.verb is Verb.GET else plan.value
            if isinstance(last, str):
                self._seen[plan.key] = last
        return one

    async def _said(self, kv: "cairnkv.aio.Client[bytes, bytes]", plan: Operation) -> str | int | bool | None:
        """The answer to an operation."""
        key = self._prefix + plan.key
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
        """Leave this address for the next one."""
        await self._leave()
        self._at = (self._at + 1) % len(self._addresses)
        await asyncio.sleep(PAUSE * self._dice.uniform(0.5, 1.5))

    async def _leave(self) -> None:
        if self._kv is not None:
            await self._kv.close()
            self._kv = None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

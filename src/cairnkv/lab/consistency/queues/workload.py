"""The workload on queues: each client puts and takes messages, and uses its leases as workers do.

It acks, nacks, extends, and acks together with a write and a put. Sometimes it behaves like a crashed worker: it leaves
its leases alone, and uses them later, when they are stale. There are three kinds of queues: without groups,
with groups in strict order, and with at most two leases for each group. In all of them, some messages have a unique
name or a delay.

At the end, without faults, a run lists each queue at each address, takes and acks all messages that are left, lists the
queues again, and reads the effects of all TOGETHER commands.

Out of scope: the checks (`checks`).
"""

import asyncio
import collections
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import cairnkv.aio
from cairnkv.client.calls import Call, T
from cairnkv.client.codec import value_codec
from cairnkv.client.queue.calls import PutResult, QueueCalls, State, Taken, ack, extend, nack, remove
from cairnkv.commands import Ack, Put, Set, Together
from cairnkv.errors import CairnError, CallerError, OutcomeUnknown
from cairnkv.lab.consistency import run
from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.queues.history import Counts, Delivery, Found, History, Operation, Rules, Saver, Verb
from cairnkv.lab.consistency.run import FINAL_SECONDS, KV, Injection, NoReply, Progress, no_progress
from cairnkv.records import fields_of, record, replace

RULES: Final = (Rules(3), Rules(3, 1), Rules(3, 2))
"""The rules of the first queues; they repeat."""

BACKOFF_SECONDS: Final = 0.05
"""The first backoff of the queues; it doubles up to four times."""

BACKLOG_MAX: Final = 50
"""Number of messages of a queue at which the clients stop putting, so that TAKE returns each message soon."""

CRASHES: Final = 0.02
"""The share of the steps of a client before which it behaves like a crashed worker."""

HELD_MAX: Final = 10
"""Maximum leases of a client."""

BRIEF_MS: Final = (100, 500)
LONG_MS: Final = (3_000, 6_000)
"""Milliseconds of leases. Short leases often end; the checks find a second lease only with long ones."""

WAIT_MS: Final = (10, 300)
"""Milliseconds for which some TAKE commands wait."""

DELAYS_MS: Final = (50, 300, 2_500)
"""Milliseconds of delays. The checks find an early end only of the last one, because it exceeds their slack."""

PREPARE_NS: Final = 10_000_000_000
"""Nanoseconds from the beginning of a run within which it may try again to make its queues."""

REST_SECONDS: Final = 0.1
"""Seconds between two attempts to take the messages that are left."""

STATES: Final[tuple[State, ...]] = ("leased", "delayed", "ready", "dead")
"""The order of a listing: a message may become ready meanwhile, and is then listed twice, but never missed."""

CLEARED_AT_ONCE: Final = 500
"""Keys that one command deletes at the end."""

Results: TypeAlias = dict[str, Any]
"""The fields of an operation that have its results."""


@record
class Options(run.Options):
    """The options of a run. queues: their number."""

    queues: int = 3

    def rules(self) -> dict[str, Rules]:
        """Return the rules of the queues, by their names."""
        return {f"q{number + 1}": RULES[number % len(RULES)] for number in range(self.queues)}

    def about(self) -> dict[str, Any]:
        """Return the header of a run's history."""
        rules = {name: list(fields_of(rules).values()) for name, rules in self.rules().items()}
        return {**run.Options.about(self), "queues": rules}


@record
class Lease:
    """A lease of a client."""

    queue: str
    message: int
    token: int


class Run(run.Run[Operation]):
    """One run on queues.

    history: grows during the run. backlog: for each queue, an estimate of the number of messages that are not dead.
    effects: the messages that a TOGETHER has named, with their queues. open_leases: those not settled at the end.
    """

    def __init__(self, options: Options, *, saver: Saver | None = None) -> None:
        self.history = History(about=options.about())
        super().__init__(options, self.history, saver)
        self.rules = options.rules()
        self.backlog = dict.fromkeys(self.rules, 0)
        self.effects: dict[int, str] = {}
        self.open_leases: set[Lease] = set()

    async def run(self, nemesis: Injection | None = None, progress: Progress = no_progress) -> History:
        """Run the clients and the nemesis, then list and drain the queues. Return the history.

        Raises `NoReply`, and the errors of the nemesis.
        """
        await self.execute(nemesis, progress)
        return self.history

    def name(self, queue: str) -> bytes:
        """Return the name of a queue in the store."""
        return f"{self.prefix}{queue}".encode()

    def effect(self, message: int) -> bytes:
        """Return the key of the effect of a message."""
        return f"{self.prefix}e{message}".encode()

    async def _prepare(self) -> None:
        """Make the queues at the first address that allows it."""
        while True:
            failures: list[CairnError] = []
            for address in self.options.addresses:
                try:
                    async with cairnkv.aio.connect(address, codec="bytes", timeout=self.options.timeout) as kv:
                        await self._make_queues(kv)
                except CairnError as error:
                    if isinstance(error, CallerError) and error.code is None:
                        raise
                    failures.append(error)
                else:
                    return
            if not any(isinstance(error, OutcomeUnknown) for error in failures) or self.now() > PREPARE_NS:
                reasons = "; ".join(map(str, failures))
                raise NoReply(f"no operation succeeded at {', '.join(self.options.addresses)}: {reasons}")

    async def _make_queues(self, kv: KV) -> None:
        for queue, rules in self.rules.items():
            await kv.queue(self.name(queue)).set(
                attempts=rules.attempts,
                per_group=rules.per_group,
                backoff=BACKOFF_SECONDS,
                factor=2,
                backoff_max=BACKOFF_SECONDS * 16,
            )

    def _client(self, number: int, progress: Progress) -> "_Client":
        return _Client(self, number, progress)

    async def _finish(self, progress: Progress) -> None:
        addresses, first = self.options.addresses, self.options.clients
        for number, address in enumerate(addresses, first):
            async with _Final(self, number, progress, (address,)) as client:
                await client.list_all()
        async with _Final(self, first + len(addresses), progress) as client:
            await client.drain()
            await client.read_effects()

    async def _delete(self, kv: KV) -> None:
        for queue in self.rules:
            await kv.queue(self.name(queue)).purge()
            await kv.queue(self.name(queue)).drop()
        for messages in _slices(list(self.effects), CLEARED_AT_ONCE):
            await kv.clear_many(map(self.effect, messages))


def _slices(messages: Sequence[int], count: int) -> Iterable[Sequence[int]]:
    return (messages[begin : begin + count] for begin in range(0, len(messages), count))


class _Client(run.Client[Operation]):
    """One client."""

    _run: Run

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._bodies = itertools.count(1)
        self._held: list[Lease] = []
        self._stale: collections.deque[Lease] = collections.deque(maxlen=20)
        self._seen: collections.deque[Lease] = collections.deque(maxlen=20)

    async def step(self) -> Operation:
        if self.random.random() < CRASHES:
            self._stale.extend(self._held)
            self._held.clear()
        queue = self.random.choice(list(self._run.rules))
        weights = {
            "use": 50 if self._held else 0,
            "use stale": 5 if self._stale else 0,
            "put": 25 if self._run.backlog[queue] < BACKLOG_MAX else 0,
            "take": 20 if len(self._held) < HELD_MAX else 0,
            "remove": 1 if self._seen else 0,
            "count": 3,
        }
        match self.random.choices(list(weights), list(weights.values()))[0]:
            case "use":
                return await self._use(self.random.choice(self._held))
            case "use stale":
                return await self._use(self.random.choice(self._stale))
            case "put":
                return await self.one(self._put(queue))
            case "take":
                return await self.one(self._take(queue))
            case "remove":
                return await self.one(self._new(Verb.REMOVE, self.random.choice(self._seen)))
        return await self.one(Operation(self._number, Verb.STATS, queue, 0, 0))

    def _take(self, queue: str) -> Operation:
        """Return a random TAKE."""
        wait = self.random.randint(*WAIT_MS) if self.random.random() < 0.2 else 0
        count, lease = self.random.randint(1, 3), self._lease_ms()
        return Operation(self._number, Verb.TAKE, queue, 0, 0, count=count, lease=lease, wait=wait)

    def _lease_ms(self) -> int:
        return self.random.randint(*self.random.choice((BRIEF_MS, LONG_MS)))

    def _body(self) -> str:
        return f"{self._number}-{next(self._bodies)}"

    def _put(self, queue: str) -> Operation:
        """Return a random PUT."""
        chance = self.random.random
        grouped = self._run.rules[queue].per_group and chance() < 0.8
        return Operation(
            self._number,
            Verb.PUT,
            queue,
            0,
            0,
            body=self._body(),
            group=f"g{self.random.randrange(4)}" if grouped else "",
            unique=f"u{self.random.randrange(5)}" if chance() < 0.1 else "",
            delay=self.random.choice(DELAYS_MS) if chance() < 0.1 else None,
        )

    def _new(self, verb: Verb, of: Lease, **fields: Any) -> Operation:
        token = 0 if verb is Verb.REMOVE else of.token
        return Operation(self._number, verb, of.queue, 0, 0, message=of.message, token=token, **fields)

    async def _use(self, lease: Lease) -> Operation:
        """Execute a random operation on a lease."""
        match self.random.choices(("ack", "nack", "extend", "together"), (45, 25, 15, 15))[0]:
            case "ack":
                return await self.one(self._new(Verb.ACK, lease))
            case "extend":
                return await self.one(self._new(Verb.EXTEND, lease, lease=self._lease_ms()))
            case "together":
                return await self.one(self._new(Verb.TOGETHER, lease, body=self._body()))
        dead = self.random.random() < 0.05
        counted = dead or self.random.random() < 0.8
        delay = None if dead else self.random.choice((None, 0, 0, *DELAYS_MS))
        return await self.one(self._new(Verb.NACK, lease, dead=dead, counted=counted, delay=delay))

    async def one(self, plan: Operation) -> Operation:
        """Execute an operation, record it and return it with its outcome."""
        if plan.verb is Verb.TOGETHER:
            self._run.effects[plan.message] = plan.queue
        made = await self.attempt(self._call(plan), writes=plan.verb.writes)
        one = replace(
            plan,
            invoked=made.invoked,
            completed=made.completed,
            outcome=made.outcome,
            node=made.node,
            note=made.note,
            **(made.result or {}),
        )
        self._run.done(one)
        self._note(one)
        return one

    def _note(self, one: Operation) -> None:
        """Note the leases after an operation."""
        run = self._run
        for delivery in one.deliveries:
            lease = Lease(one.queue, delivery.message, delivery.token)
            self._held.append(lease)
            self._seen.append(lease)
            run.open_leases.add(lease)
        if one.verb.settles:
            lease = Lease(one.queue, one.message, one.token)
            if lease in self._held:
                self._held.remove(lease)
                self._stale.append(lease)
            if one.outcome is Outcome.OK:
                run.open_leases.discard(lease)
        run.backlog[one.queue] += one.verb is Verb.PUT and one.succeeded
        run.backlog[one.queue] -= one.verb is Verb.ACK and one.succeeded
        if one.counts is not None:
            run.backlog[one.queue] = one.counts.ready + one.counts.delayed + one.counts.leased

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _call(self, plan: Operation) -> Callable[[KV], Awaitable[Results]]:
        """Return the call that executes an operation and returns its results."""
        name = self._run.name(plan.queue)
        lease = plan.message, plan.token
        match plan.verb:
            case Verb.PUT:
                return _put(name, plan)
            case Verb.TAKE:
                take = QueueCalls(name, value_codec("bytes")).take(plan.count, plan.lease / 1000, plan.wait)
                return _asked(take, lambda taken: {"deliveries": tuple(map(_delivery, taken))})
            case Verb.ACK:
                return _asked(ack([lease]), lambda held: {"done": held == [True]})
            case Verb.EXTEND:
                return _asked(extend([lease], plan.lease), lambda held: {"done": held == [True]})
            case Verb.NACK:
                delay = None if plan.delay is None else plan.delay / 1000
                call = nack(lease, None, delay=delay, counted=plan.counted, dead=plan.dead)
                return _asked(call, lambda held: {"done": held})
            case Verb.REMOVE:
                return _asked(remove([plan.message]), lambda count: {"done": count == 1})
            case Verb.TOGETHER:
                return self._together(plan)
            case Verb.STATS:
                return lambda kv: _counts(kv, name)
            case Verb.LIST:
                return lambda kv: _listing(kv, name)
            case Verb.READ:
                return lambda kv: _effect(kv, self._run.effect(plan.message))

    def _together(self, plan: Operation) -> Callable[[KV], Awaitable[Results]]:
        run = self._run
        command = Together(
            (
                Ack(((plan.message, plan.token),)),
                Set(run.effect(plan.message), (plan.body or "").encode()),
                Put(run.name(plan.queue), (plan.body or "").encode()),
            )
        )

        async def call(kv: KV) -> Results:
            try:
                await kv._do(Call(command, lambda reply: reply))
            except CallerError as error:
                if error.code != "STALE":
                    raise
                return {"done": False}
            return {}

        return call


def _asked(call: Call[T], results: Callable[[T], Results]) -> Callable[[KV], Awaitable[Results]]:
    """Return a function that executes a call and returns its results."""
    return lambda kv: kv._do(Call(call.command, lambda reply: results(call.decode(reply))))


def _put(name: bytes, plan: Operation) -> Callable[[KV], Awaitable[Results]]:
    async def put(kv: KV) -> Results:
        made: PutResult = await kv.queue(name, codec="bytes").put(
            (plan.body or "").encode(),
            delay=None if plan.delay is None else plan.delay / 1000,
            group=plan.group or None,
            unique=plan.unique or None,
        )
        return {"message": made.id, "done": made.new}

    return put


def _delivery(taken: Taken) -> Delivery:
    group, body = taken.group.decode("utf-8", "backslashreplace"), taken.data.decode("utf-8", "backslashreplace")
    return Delivery(taken.id, taken.token, taken.attempt, taken.lease_ms, group, body)


async def _counts(kv: KV, name: bytes) -> Results:
    counts = await kv.queue(name).stats()
    return {"counts": Counts(*(counts[field] for field in Counts.__match_args__))}


async def _listing(kv: KV, name: bytes) -> Results:
    found: dict[int, Found] = {}
    for state in STATES:
        async for one in kv.queue(name).messages(state):
            body = one.data.decode("utf-8", "backslashreplace")
            found[one.id] = Found(one.id, one.state, one.attempts, one.token, one.group or "", one.unique or "", body)
    return {"found": tuple(found.values())}


async def _effect(kv: KV, key: bytes) -> Results:
    value = await kv.get(key)
    return {"effect": (value or b"").decode("utf-8", "backslashreplace")}


class _Final(_Client):
    """The client of the final operations. It tries each until it succeeds or the time is up."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._end = time.monotonic() + FINAL_SECONDS

    async def again(self, plan: Operation) -> Operation:
        """Execute an operation until an attempt succeeds."""
        while True:
            one = await self.one(replace(plan, final=True))
            self._progress(len(self._run.operations))
            if one.outcome is Outcome.OK or time.monotonic() > self._end:
                return one
            await self.move_on()

    async def list_all(self) -> list[Operation]:
        """List the messages of all queues. Return the listings."""
        listings = []
        for queue in self._run.rules:
            listings.append(await self.again(Operation(self._number, Verb.LIST, queue, 0, 0)))
            await self.again(Operation(self._number, Verb.STATS, queue, 0, 0))
        return listings

    async def drain(self) -> None:
        """Take and ack all messages of all queues."""
        for lease in list(self._run.open_leases):
            await self.again(self._new(Verb.EXTEND, lease, lease=1))  # so that it ends
        while True:
            for queue in self._run.rules:
                while await self._take_some(queue):
                    pass
            listings = await self.list_all()
            left = sum(not found.dead for one in listings for found in one.found)
            if (not left and all(one.succeeded for one in listings)) or time.monotonic() > self._end:
                return
            await asyncio.sleep(REST_SECONDS)

    async def _take_some(self, queue: str) -> bool:
        """Take and ack some messages. Return whether there may be more."""
        plan = Operation(self._number, Verb.TAKE, queue, 0, 0, count=50, lease=LONG_MS[1])
        took = await self.again(plan)
        for lease in list(self._held):
            await self.again(self._new(Verb.ACK, lease))
        return bool(took.deliveries) and time.monotonic() < self._end

    async def read_effects(self) -> None:
        """Read the effects of all TOGETHER commands."""
        for message, queue in list(self._run.effects.items()):
            await self.again(Operation(self._number, Verb.READ, queue, 0, 0, message=message))

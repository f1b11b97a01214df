"""The workload on keys: concurrent clients execute operations on a few keys.

A write to a register has a unique value, so that a read identifies the write. Clients only add to counters. At the end,
without faults, every key is read at every address.

Out of scope: the checks (`checks`).
"""

import itertools
import time
from typing import Any, Final

from cairnkv.lab.consistency import run
from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.keys.history import History, Operation, Saver, Verb
from cairnkv.lab.consistency.keys.scripts import SCRIPTS, ScriptConnection
from cairnkv.lab.consistency.run import FINAL_SECONDS, KV, Injection, Progress, no_progress
from cairnkv.records import record, replace

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

SCRIPTED: Final = 0.7
"""The share of scripts among the operations that can be one."""


@record
class Options(run.Options):
    """The options of a run. keys: their number. scripts: whether clients execute most operations as scripts."""

    keys: int = 8
    scripts: bool = False


class Run(run.Run[Operation]):
    """One run on keys. history: grows during the run."""

    def __init__(self, options: Options, *, saver: Saver | None = None) -> None:
        self.history = History(about=options.about())
        super().__init__(options, self.history, saver)
        self._keys = key_names(options.keys)
        self.scripts: Final = options.scripts

    async def run(self, nemesis: Injection | None = None, progress: Progress = no_progress) -> History:
        """Run the clients and the nemesis, then read every key at every address. Return the history.

        Raises `NoReply`, and the errors of the nemesis.
        """
        await self.execute(nemesis, progress)
        return self.history

    def _client(self, number: int, progress: Progress) -> "_Client":
        return _Client(self, number, progress)

    async def _finish(self, progress: Progress) -> None:
        """Read all keys at each address, with several attempts."""
        for number, address in enumerate(self.options.addresses, self.options.clients):
            reader = _Client(self, number, progress, (address,))
            await reader.read_finally(time.monotonic() + FINAL_SECONDS)

    async def _delete(self, kv: KV) -> None:
        await kv.clear_many([self.prefix + key for key in self._keys])

    @property
    def keys(self) -> list[str]:
        """The names of the keys, without the prefix."""
        return self._keys


def key_names(count: int) -> list[str]:
    """Return the names of keys: registers r1, r2, ..., and for every three registers a counter c1, ...

    >>> key_names(4)
    ['r1', 'r2', 'r3', 'c1']
    """
    counters = count // 4
    return [f"r{n}" for n in range(1, count - counters + 1)] + [f"c{n}" for n in range(1, counters + 1)]


class _Client(run.Client[Operation]):
    """One client."""

    _run: Run

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._values = itertools.count(1)
        self._scripts: ScriptConnection | None = None
        self._seen: dict[str, str] = {}  # the last value of each key that this client has read or written

    async def step(self) -> Operation:
        return await self._one(self._chosen(self.random.choice(self._run.keys)))

    async def read_finally(self, end: float) -> None:
        """Read the keys, each until a read succeeds or the time is up."""
        async with self:
            for key in self._run.keys:
                while True:
                    one = await self._one(Operation(self._number, Verb.GET, key, 0, 0, final=True))
                    if one.outcome is Outcome.OK:
                        break
                    if time.monotonic() > end:
                        return
                    await self.move_on()

    def _chosen(self, key: str) -> Operation:
        """Return a random operation on a key."""
        weights = _COUNTER if key.startswith("c") else _REGISTER
        (verb,) = self.random.choices(list(weights), list(weights.values()))
        in_script = self._run.scripts and verb in SCRIPTS and self.random.random() < SCRIPTED
        return Operation(
            self._number,
            verb,
            key,
            0,
            0,
            value=f"{self._number}-{next(self._values)}" if verb in (Verb.SET, Verb.SWAP, Verb.SET_IF) else None,
            expected=self._seen.get(key, "none") if verb in (Verb.SET_IF, Verb.CLEAR_IF) else None,
            amount=self.random.randint(1, 5) if verb is Verb.INCR else 0,
            in_script=in_script,
        )

    async def _one(self, plan: Operation) -> Operation:
        """Execute an operation, record it and return it with its outcome."""

        async def call(kv: KV) -> str | int | bool | None:
            return await self._call(kv, plan)

        made = await self.attempt(call, writes=plan.verb.writes)
        one = replace(
            plan,
            invoked=made.invoked,
            completed=made.completed,
            outcome=made.outcome,
            result=made.result,
            node=made.node,
            note=made.note,
        )
        self._run.done(one)
        if made.outcome is Outcome.OK:
            last = made.result if plan.verb is Verb.GET else plan.value
            if isinstance(last, str):
                self._seen[plan.key] = last
        return one

    async def _call(self, kv: KV, plan: Operation) -> str | int | bool | None:
        """Send an operation and return its result."""
        key = self._run.prefix + plan.key
        if plan.in_script:
            if self._scripts is None:
                self._scripts = await ScriptConnection.open(self._addresses[self._at])
            return await self._scripts.execute(plan, key)
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

    async def _leave(self) -> None:
        if self._scripts is not None:
            scripts, self._scripts = self._scripts, None
            await scripts.close()
        await super()._leave()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")

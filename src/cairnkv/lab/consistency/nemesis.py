"""The nemesis: injects one fault after another into a local cluster while clients use it.

It kills, pauses, cuts off and wipes hosts and processes, in an order that a seed determines, lets the cluster recover
after each fault, and records its actions in the history.

Invariants: a fault affects one host, and only when all other hosts have the whole log, so that a majority works; only
`majority` leaves none. At the end, the nemesis heals the cluster, also after an error. An action lasts from the end of
the injection to the beginning of the repair, so that the fault is in effect for its whole time.

Out of scope: the faults themselves (`cairnkv.lab.cluster`), and the checks.
"""

import asyncio
import enum
import functools
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

from cairnkv.errors import OptionError
from cairnkv.lab.cluster import ClusterError, Host
from cairnkv.lab.consistency.history import MAJORITY, Action
from cairnkv.lab.consistency.run import AnyRun

_T = TypeVar("_T")

CALM: Final = (0.5, 2.5)
"""Minimum and maximum seconds between two actions."""

READY_SECONDS: Final = 90.0
"""Seconds that the cluster may take to recover from an action. An election takes about six; a NATS server that led
without a majority may need a minute."""


class FaultKind(enum.Enum):
    """The kinds of faults."""

    KILL = "kill"
    """Kill a host, its NATS server or its node with SIGKILL, and start it later."""
    PAUSE = "pause"
    """Stop one of these with SIGSTOP, and continue it later."""
    CUT = "cut"
    """Drop all packets to and from a host."""
    WIPE = "wipe"
    """Kill a host, remove the data of its node, and start it later."""
    MAJORITY = MAJORITY
    """Kill, pause or cut off more than half of the hosts at once. No command may succeed until they return."""


_SECONDS: Final = {
    FaultKind.KILL: (0.5, 4.0),
    FaultKind.PAUSE: (0.5, 10.0),
    FaultKind.CUT: (1.0, 10.0),
    FaultKind.WIPE: (0.2, 2.0),
    FaultKind.MAJORITY: (3.0, 8.0),
}
"""Minimum and maximum seconds of a fault: some are shorter than an election of NATS, and some longer."""


class Cluster(Protocol):
    """The part of `LocalCluster` that the nemesis uses."""

    @property
    def can_cut(self) -> bool: ...
    @property
    def hosts(self) -> tuple[Host, ...]: ...
    def kill(self, target: int | str) -> None: ...
    def start(self, target: int | str, *, wait: float) -> None: ...
    def pause(self, target: int | str) -> None: ...
    def resume(self, target: int | str) -> None: ...
    def cut(self, target: int | str) -> None: ...
    def heal(self, target: int | str) -> None: ...
    def wipe(self, target: int | str) -> None: ...
    def wait_ready(self, seconds: float) -> None: ...


def parsed_faults(text: str) -> tuple[FaultKind, ...]:
    """Return the kinds in a list with commas; `none` is an empty list. Raises `ValueError`.

    >>> parsed_faults("kill,cut")
    (<FaultKind.KILL: 'kill'>, <FaultKind.CUT: 'cut'>)
    """
    if text == "none":
        return ()
    names = [part.strip() for part in text.split(",")]
    known = [fault.value for fault in FaultKind]
    if not all(name in known for name in names):
        raise ValueError(f"some of {', '.join(known)} with commas between, or none; not {text!r}")
    return tuple(dict.fromkeys(FaultKind(name) for name in names))


class Nemesis:
    """Injects faults into a cluster. A run calls it.

    problems: failed requests to the cluster, and timeouts of its recovery.
    """

    def __init__(self, cluster: Cluster, faults: Sequence[FaultKind], *, seconds: float, seed: int) -> None:
        """faults: the kinds to choose from. Raises `OptionError` if the cluster cannot cut off hosts."""
        if not faults:
            raise OptionError("a nemesis needs at least one kind of fault")
        if FaultKind.CUT in faults and not cluster.can_cut:
            raise OptionError(
                "cut needs a cluster whose hosts have network namespaces: cairn cluster up --namespaces, as root"
            )
        self.problems: list[str] = []
        self._cluster = cluster
        self._faults = tuple(faults)
        self._seconds = seconds
        self._random = random.Random(f"nemesis {seed}")
        self._undo: list[Callable[[], None]] = []  # heal the current fault
        self._work: asyncio.Future[Any] | None = None  # the last injection or repair, which cannot be cancelled

    async def __call__(self, run: AnyRun) -> None:
        """Inject faults until the time is up, then heal the cluster."""
        end = time.monotonic() + self._seconds
        try:
            ready = await self._is_ready()
            while await self._rest(end, *CALM):
                if not ready:
                    ready = await self._is_ready()
                    continue
                fault = self._random.choice(self._faults)
                target = await self._choose_and_inject(fault)
                if target is not None:
                    began = run.now()
                    try:
                        await self._rest(end, *_SECONDS[fault])
                    finally:  # also if Ctrl-C stops the run
                        run.action(Action(fault.value, target, began, run.now()))
                ready = await self._heal()
        finally:
            await asyncio.shield(asyncio.ensure_future(self._heal()))

    async def _rest(self, end: float, least: float, most: float) -> bool:
        """Sleep for a random time, at most until the end. Return whether time is left."""
        now = time.monotonic()
        seconds = self._random.uniform(least, most)
        await asyncio.sleep(max(min(seconds, end - now), 0.0))
        return now + seconds < end

    async def _choose_and_inject(self, fault: FaultKind) -> str | None:
        """Inject a fault into a random target. Return the name of the target, or None after an error."""
        hosts = self._cluster.hosts
        number = self._random.choice(hosts).number
        try:
            match fault:
                case FaultKind.KILL | FaultKind.PAUSE:
                    target: int | str = self._random.choice((number, f"nats-{number}", f"node-{number}"))
                    await self._inject(fault, [target])
                    return str(target)
                case FaultKind.CUT | FaultKind.WIPE:
                    await self._inject(fault, [number])
                    return str(number)
                case FaultKind.MAJORITY:
                    count = len(hosts) // 2 + 1
                    chosen = sorted(self._random.sample([host.number for host in hosts], count))
                    kinds = [FaultKind.KILL, FaultKind.PAUSE, *([FaultKind.CUT] if self._cluster.can_cut else [])]
                    kind = self._random.choice(kinds)
                    await self._inject(kind, chosen)
                    return f"{kind.value} {' and '.join(map(str, chosen))}"
        except ClusterError as error:
            self.problems.append(f"{fault.value}: {error}")
            return None

    async def _inject(self, fault: FaultKind, targets: Sequence[int | str]) -> None:
        await self._finish(asyncio.to_thread(self._inject_now, fault, targets))

    async def _finish(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work. After a cancellation the work continues, and `_heal` waits for it."""
        self._work = task = asyncio.ensure_future(work)
        return await asyncio.shield(task)

    def _inject_now(self, fault: FaultKind, targets: Sequence[int | str]) -> None:
        """Inject a fault, in a thread, and record how to heal it."""
        cluster = self._cluster
        kill = (cluster.kill, functools.partial(cluster.start, wait=0))
        others = {FaultKind.PAUSE: (cluster.pause, cluster.resume), FaultKind.CUT: (cluster.cut, cluster.heal)}
        inject, undo = others.get(fault, kill)
        for target in targets:
            self._undo.append(functools.partial(undo, target))
            inject(target)
            if fault is FaultKind.WIPE:
                cluster.wipe(f"node-{target}")

    async def _heal(self) -> bool:
        """Heal the current fault and wait for the recovery. Return whether the cluster is ready."""
        if self._work is not None:
            await asyncio.wait([self._work])
        if not self._undo:
            return True
        undo, self._undo = self._undo, []
        return await self._finish(self._repair(undo))

    async def _repair(self, undo: Sequence[Callable[[], None]]) -> bool:
        # All at once: without a majority, no host becomes ready before the others.
        for done in await asyncio.gather(*(asyncio.to_thread(one) for one in undo), return_exceptions=True):
            if isinstance(done, ClusterError):
                self.problems.append(f"not healed: {done}")
            elif isinstance(done, BaseException):
                raise done
        return await self._is_ready()

    async def _is_ready(self) -> bool:
        """Wait for the recovery of the cluster. Return whether it is ready."""
        try:
            await asyncio.to_thread(self._cluster.wait_ready, READY_SECONDS)
        except ClusterError as error:
            self.problems.append(f"not ready: {error}")
            return False
        return True

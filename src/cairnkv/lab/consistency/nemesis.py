"""The nemesis: it hurts one part of a cluster on this host after the other, while clients use it.

It kills, pauses, cuts off and wipes, in an order that a seed decides, and each time lets the cluster get well before it
goes on. What it does is written into the history.

What always holds: one host is hurt at a time, and only when all others have all of the log, so that a majority is
left, but for `majority`, which is meant to leave none; whatever happens, all is healed at the end. An action lasts from
when the harm was done to when it begins to be undone, so that what was answered within the time was answered in spite
of it.

Not for the means (`cairnkv.lab.cluster`), nor for what must hold meanwhile (`cairnkv.lab.consistency.checks`).
"""

import asyncio
import enum
import functools
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cairnkv.errors import OptionError
from cairnkv.lab.cluster import ClusterError, Host
from cairnkv.lab.consistency import checks
from cairnkv.lab.consistency.history import Action
from cairnkv.lab.consistency.workload import Run

CALM: Final = (0.5, 2.5)
"""Seconds between two actions, at least and at most."""

READY_SECONDS: Final = 90.0
"""How long the cluster may take to get well after an action: an election takes about six, and a NATS server that led
alone may be behind for a minute."""


class Harm(enum.Enum):
    """The kinds of actions."""

    KILL = "kill"
    """SIGKILL, to a host, its NATS server or its node; then it is started again."""
    PAUSE = "pause"
    """SIGSTOP, to one of the same; then it goes on as if nothing had been."""
    CUT = "cut"
    """A host loses its network, packet by packet."""
    WIPE = "wipe"
    """A host is killed, and its node's table removed, before it is started again."""
    MAJORITY = checks.MAJORITY
    """More than half of the hosts are killed, paused or cut off at once. Nothing may be answered until they are
    back, and then all goes on by itself."""


_SECONDS: Final = {
    Harm.KILL: (0.5, 4.0),
    Harm.PAUSE: (0.5, 10.0),
    Harm.CUT: (1.0, 10.0),
    Harm.WIPE: (0.2, 2.0),
    Harm.MAJORITY: (3.0, 8.0),
}
"""How long the harm lasts, at least and at most. Longer than NATS takes to elect, and shorter."""


class Cluster(Protocol):
    """What the nemesis needs of a cluster: a part of `LocalCluster`."""

    @property
    def can_cut(self) -> bool: ...
    @property
    def hosts(self) -> tuple[Host, ...]: ...
    def kill(self, what: int | str) -> None: ...
    def start(self, what: int | str, *, wait: float) -> None: ...
    def pause(self, what: int | str) -> None: ...
    def resume(self, what: int | str) -> None: ...
    def cut(self, what: int | str) -> None: ...
    def heal(self, what: int | str) -> None: ...
    def wipe(self, what: int | str) -> None: ...
    def wait_ready(self, seconds: float) -> None: ...


def parsed_harms(text: str) -> tuple[Harm, ...]:
    """The kinds in a list with commas; `none` for none. Raises `ValueError`.

    >>> parsed_harms("kill,cut")
    (<Harm.KILL: 'kill'>, <Harm.CUT: 'cut'>)
    """
    if text == "none":
        return ()
    names = [part.strip() for part in text.split(",")]
    known = [harm.value for harm in Harm]
    if not all(name in known for name in names):
        raise ValueError(f"some of {', '.join(known)} with commas between, or none; not {text!r}")
    return tuple(dict.fromkeys(Harm(name) for name in names))


class Nemesis:
    """Hurts a cluster. Given to `Run.run`, which it is called with.

    problems: where the cluster did not do what it was told, or did not get well in time.
    """

    def __init__(self, cluster: Cluster, harms: Sequence[Harm], *, seconds: float, seed: int) -> None:
        """harms: those to choose from. seconds: how long to go on. Raises `OptionError` if it cannot be cut."""
        if not harms:
            raise OptionError("a nemesis takes at least one kind of harm")
        if Harm.CUT in harms and not cluster.can_cut:
            raise OptionError(
                "a host can only be cut off in a cluster with network namespaces: cairn cluster up --namespaces, "
                "as root"
            )
        self.problems: list[str] = []
        self._cluster = cluster
        self._harms = tuple(harms)
        self._seconds = seconds
        self._dice = random.Random(f"nemesis {seed}")
        self._undo: list[Callable[[], None]] = []  # how to heal what is hurt now
        self._doing: asyncio.Future[None] | None = None  # the harm that is being done in a thread

    async def __call__(self, run: Run) -> None:
        """Hurt it until the time is up, then leave it healed."""
        deadline = time.monotonic() + self._seconds
        try:
            well = await self._is_well()
            while await self._rest(deadline, *CALM):
                if not well:
                    well = await self._is_well()
                    continue
                harm = self._dice.choice(self._harms)
                target = await self._hurt(harm)
                if target is not None:
                    began = run.now()
                    try:
                        await self._rest(deadline, *_SECONDS[harm])
                    finally:  # also if Ctrl-C stops the run
                        run.action(Action(harm.value, target, began, run.now()))
                well = await self._heal()
        finally:
            await asyncio.shield(asyncio.ensure_future(self._heal()))

    async def _rest(self, deadline: float, least: float, most: float) -> bool:
        """Let some time pass, no longer than to the end; whether there is more."""
        now = time.monotonic()
        seconds = self._dice.uniform(least, most)
        await asyncio.sleep(max(min(seconds, deadline - now), 0.0))
        return now + seconds < deadline

    async def _hurt(self, harm: Harm) -> str | None:
        """Do harm to something; gives its name, or None if that could not be done."""
        hosts = self._cluster.hosts
        dice = self._dice
        number = dice.choice(hosts).number
        try:
            match harm:
                case Harm.KILL | Harm.PAUSE:
                    what: int | str = dice.choice((number, f"nats-{number}", f"node-{number}"))
                    await self._done(harm, [what])
                    return str(what)
                case Harm.CUT | Harm.WIPE:
                    await self._done(harm, [number])
                    return str(number)
                case Harm.MAJORITY:
                    count = len(hosts) // 2 + 1
                    chosen = sorted(dice.sample([host.number for host in hosts], count))
                    means = [Harm.KILL, Harm.PAUSE, *([Harm.CUT] if self._cluster.can_cut else [])]
                    by = dice.choice(means)
                    await self._done(by, chosen)
                    return f"{by.value} {' and '.join(map(str, chosen))}"
        except ClusterError as error:
            self.problems.append(f"{harm.value}: {error}")
            return None

    async def _done(self, harm: Harm, targets: Sequence[int | str]) -> None:
        """Do harm to these. Who is cancelled meanwhile leaves it going on, and `_heal` waits for it."""
        self._doing = asyncio.ensure_future(asyncio.to_thread(self._do, harm, targets))
        await asyncio.shield(self._doing)

    def _do(self, harm: Harm, targets: Sequence[int | str]) -> None:
        """Do harm to these, in a thread, and remember how to undo it."""
        cluster = self._cluster
        for what in targets:
            match harm:
                case Harm.PAUSE:
                    self._undo.append(functools.partial(cluster.resume, what))
                    cluster.pause(what)
                case Harm.CUT:
                    self._undo.append(functools.partial(cluster.heal, what))
                    cluster.cut(what)
                case _:
                    self._undo.append(functools.partial(cluster.start, what, wait=0))
                    cluster.kill(what)
                    if harm is Harm.WIPE:
                        cluster.wipe(f"node-{what}")

    async def _heal(self) -> bool:
        """Undo what was done, and wait until the cluster is well; whether it is."""
        if self._doing is not None:
            await asyncio.wait([self._doing])
        if not self._undo:
            return True
        undo, self._undo = self._undo, []
        # Together: of a majority none gets ready before the others are back.
        for done in await asyncio.gather(*(asyncio.to_thread(one) for one in undo), return_exceptions=True):
            if isinstance(done, ClusterError):
                self.problems.append(f"not healed: {done}")
            elif isinstance(done, BaseException):
                raise done
        return await self._is_well()

    async def _is_well(self) -> bool:
        """Wait for that, and whether it came to it."""
        try:
            await asyncio.to_thread(self._cluster.wait_ready, READY_SECONDS)
        except ClusterError as error:
            self.problems.append(f"not well: {error}")
            return False
        return True

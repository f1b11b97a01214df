"""A node's part in its cluster: brings the log to the store, and the store's proposals to the log.

    store ── proposals ──→ publish ─→ NATS ─→ entries ──→ store.apply_entry

What always holds: entries are applied in the order of the stream, each once, in the loop that serves clients, a bounded
number between two turns of it. A node does not take commands before it has applied what was logged when it came, and an
entry of its own has come back. What it cannot get over it says, and goes on to answer INFO and local reads.

Not for NATS (`replication`), not for snapshots (`node_snapshots`) nor what entries do (`replication.store`), nor for
clients.
"""

import asyncio
import contextlib
import functools
import logging
import math
import secrets
import struct
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Final

from cairnkv.commands import Failure, failures
from cairnkv.errors import OptionError, Unavailable
from cairnkv.replication import node_snapshots
from cairnkv.replication.clocks import CLOCK_OFF_MS, Clocks
from cairnkv.replication.entries import HEADER_BYTES_MAX, SEMANTICS, Entry, Kind
from cairnkv.replication.nats import connection
from cairnkv.replication.nats.connection import note
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.snapshots import Snapshots
from cairnkv.replication.nats.stream import PastEnd, Purged, Replaced, Stream
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.replication.node_snapshots import NodeSnapshots
from cairnkv.replication.proposals import PendingProposal
from cairnkv.replication.proposer import UNSEEN_SECONDS
from cairnkv.replication.store import DIGEST_ENTRIES, ReplicatedStore
from cairnkv.storage.base import StartProgress
from cairnkv.storage.disk import DiskStorage
from cairnkv.storage.writer import Sync
from cairnkv.store import Clock

logger: Final = logging.getLogger("cairnkv.cluster")

APPLY_SECONDS: Final = 0.005
"""How long entries are applied before clients have the loop again."""

TICK_SECONDS: Final = 0.1
"""How often it is looked at what takes too long."""

HEARTBEAT_SECONDS: Final = 1.0
"""A node that has proposed nothing for so long proposes nothing at all: so it knows that it is not cut off, how far its
table may be behind, and others what its clock says."""

LEAVE_SECONDS: Final = 10.0
"""A node that has caught up, and waits for an own entry without a quorum for so long by way of one NATS server, tries
another: one may say that all is well and have nothing logged. Elections come to an end sooner."""

HEAR_SECONDS: Final = 1.5 * HEARTBEAT_SECONDS
"""How long a node that joins waits for another's; after that it is alone."""

TABLE_GATHER: Final = 0.02
"""Seconds for which what entries change waits to be written to the node's table together. A reply waits for none of it,
and what a crash takes of it the log still has."""

TABLE_PAUSE: Final = 0.002
"""Seconds between two looks at whether the node's table takes another entry."""

TABLE_PATIENCE: Final = 1.0
"""Seconds for which it may take nothing until that is said."""

QUIET_SECONDS: Final = 0.2
AWAY_SECONDS: Final = 2.0
"""A node that is stopped refuses what clients go on to say until nobody has said anything for so long, and so long at
most; then it closes their connections."""

SUPPORTS: Final = SEMANTICS
"""The newest semantics that nodes of this process know."""

_CHANNEL: Final = struct.Struct(">H")


def _nobody_listens(channel: bytes, message: bytes) -> None:
    pass


class Node:
    """One node. Use within one event loop."""

    def __init__(
        self,
        options: ClusterOptions,
        directory: NodeDirectory,
        *,
        store: ReplicatedStore,
        new_table: Callable[[], DiskStorage],
        progress: StartProgress,
    ) -> None:
        """directory: the node's. store: whose log is what `new_table` gives, at first.

        progress: told how far joining is: what goes on, how much is done, of how much, in which unit.
        """
        self.store: Final = store
        self.stream = Stream(options)
        self._options = options
        self._directory = directory
        self._new_table = new_table
        self._progress = progress
        self._has_quorum = True  # as was said last
        self._clocks = Clocks()
        self._ending = contextlib.AsyncExitStack()  # what is to be closed as this node leaves
        self._opened: NodeSnapshots | None = None  # once the stream is open
        self._tasks: list[asyncio.Task[None]] = []
        self._pump_wanted = False
        self._quorum = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._joined = False  # whether it has taken commands
        self._other_heard = asyncio.Event()
        self._own_sent = 0.0  # when one was published last
        self._came_sent = self._round_trip = 0.0  # of the newest own entry that has come: when it was sent, how long
        self._from = 0  # where catching up began
        self._told_digest = 0
        self._lost_since = math.inf  # since when no own entry comes back, as far as that counts
        self._lost_by = 0  # which connection that is
        self._clock_off = 0
        store.something_proposed = self._want_pump
        store.heard = self._heard
        self.stream.on_broadcast(self._heard_on_channel)
        self.stream.failed = self._failed
        self.said_on_channel: Callable[[bytes, bytes], object] = _nobody_listens
        """Told what is said on channels at other nodes."""
        store.add_info(self._info)

    # -- joining and leaving ----------------------------------------------------------------------------------

    async def join(self) -> None:
        """Take part: read the table, catch up with the log, and have an own entry come back.

        Raises `OptionError` where that cannot be, with what can be done.
        """
        await self.stream.open()
        # Over a connection of their own: large messages to a server that is paused hold up what comes behind them.
        beside = await connection.connect(self._options, f"cairnkv {self._options.name} snapshots")
        self._ending.push_async_callback(connection.close, beside)
        self._opened = NodeSnapshots(
            Snapshots(beside, self._options.name, f"{self.store.proposer.node:016x}"),
            self.store,
            self.stream,
            self._directory,
            new_table=self._new_table,
            progress=self._progress,
        )
        self._ending.push_async_callback(self._opened.close)
        await self._snapshots.open()
        await self._load()
        await self._find_place()
        loop = asyncio.get_running_loop()
        self._own_sent = loop.time()
        self._begin(self._follow())
        await self._or_fail(self._caught_up.wait())
        self.store.proposer.begin(self.store.table)
        self._begin(self._look())
        self._begin(self._snapshots.keep())
        await self._or_fail(self._quorum.wait())
        await self._hear_others()
        self._joined = True
        self.store.join()

    async def _hear_others(self) -> None:
        """Know what others' clocks say before log time follows this one, for it never goes back."""
        if len(self.store.table.rows) > 1:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEAR_SECONDS):
                    await self._or_fail(self._other_heard.wait())
        self._look_at_limits(asyncio.get_running_loop().time())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        """Have something go on as long as this node takes part."""
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        logger.error("a fault of cairnkv itself", exc_info=error)
        self.store.leave(f"a fault of cairnkv itself: {error!r}")

    async def _or_fail(self, waited: Coroutine[None, None, bool]) -> None:
        """Wait, but no longer than what is under way goes on."""
        task = asyncio.create_task(waited)
        try:
            await asyncio.wait([task, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for other in self._tasks:
                if other.done():
                    other.result()
            if self.store.stopped is not None:
                raise OptionError(self.store.stopped)
            await task
        finally:
            task.cancel()

    async def send_clients_away(self) -> None:
        """Refuse what comes from now on, which clients ask another node for then, and finish what has come before.

        A connection that is closed leaves a client in doubt about what it said just then: so they stay for a while.
        """
        loop = asyncio.get_running_loop()
        store = self.store
        store.stopping = "this node is being stopped: ask another one"
        end, quiet_since, commands = loop.time() + AWAY_SECONDS, loop.time(), store.commands
        while loop.time() < end and loop.time() - quiet_since < QUIET_SECONDS:
            await asyncio.sleep(QUIET_SECONDS / 10)
            if store.commands != commands or store.proposer.waiting:
                quiet_since, commands = loop.time(), store.commands

    def halt(self) -> None:
        """Apply nothing more, and propose nothing: `leave` comes next."""
        for task in self._tasks:
            task.cancel()

    async def leave(self) -> None:
        """Take no part any more; the store is closed by whoever has it."""
        self.halt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ending.aclose()
        await self.stream.close()

    async def _load(self) -> None:
        """Read the node's table. One that is damaged counts as wiped."""
        try:
            loaded = await asyncio.to_thread(self.store.load)
        except (OptionError, ValueError) as error:
            if not self._directory.table.exists() or "damage" not in str(error):
                raise
            aside = self._directory.set_aside()
            logger.error("%s; it is now %s, and this node begins anew", error, aside)
            self.store.reopen(self._new_table())
            loaded = await asyncio.to_thread(self.store.load)
        self.store.begin(loaded)

    async def _find_place(self) -> None:
        """See that the table is one of this stream, and not behind what it still has."""
        store, stream = self.store, self.stream
        if store.identity == 0:
            store.adopt(stream.identity.created)
        elif store.identity != stream.identity.created:
            raise OptionError(
                f"{self._directory.path} belongs to another stream than {stream.identity.stream}, which was made "
                "anew since; see `cairn cluster repair`"
            )
        self._directory.keep_cluster(self._options.name)
        if store.position + 1 < stream.first:
            await self._snapshots.begin_from_newest()

    @property
    def _snapshots(self) -> NodeSnapshots:
        assert self._opened is not None, "the stream is open"
        return self._opened

    # -- following the log ------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Apply what is logged, for ever."""
        store = self.store
        target = self.stream.last
        self._from = store.position
        if store.position >= target:
            self._caught_up.set()
        else:
            logger.info("catching up with %s entries", f"{target - store.position:,}")
        while store.takes_part:
            try:
                async for batch in self.stream.entries(store.position):
                    if not await self._apply(batch):
                        return
                    if not self._caught_up.is_set() and store.position >= target:
                        self._caught_up.set()
                        await self._snapshots.unpin()
                        if self._joined:  # it fell behind, and began from a snapshot
                            store.join()
            except Purged:
                self._caught_up.clear()
                try:
                    await self._snapshots.begin_from_newest()
                except Unavailable as error:
                    logger.warning("%s", error)
                    await asyncio.sleep(node_snapshots.SNAPSHOT_LOOK_SECONDS)
                    continue
                except OptionError as error:
                    store.leave(str(error))
                    return
                target, self._from = self.stream.last, store.position
                store.proposer.begin(store.table)
            except PastEnd as past:
                store.leave(
                    f"{self._directory.path} has entries up to {store.position:,}, and {past}; "
                    "see `cairn cluster repair`"
                )
            except Replaced as replaced:
                store.leave(f"the stream is another one now: {replaced}; see `cairn cluster repair`")

    async def _apply(self, batch: list[tuple[int, bytes]]) -> bool:
        """Apply what has come together; False where this node does not go on."""
        store = self.store
        began = time.monotonic()
        for position, data in batch:
            await self._room_in_table()
            if not store.takes_part:
                return False
            if position == store.position + 1:
                store.apply_entry(position, data)
            if time.monotonic() - began > APPLY_SECONDS:
                if store.loading:
                    self._progress("catching up", store.position - self._from, self.stream.last - self._from, "entries")
                self._want_pump()
                await asyncio.sleep(0)
                began = time.monotonic()
        if store.proposer.quorum:
            self._quorum.set()
        self._want_pump()  # not at once: those who have their replies by now say more, which shares the next entry
        return store.takes_part

    async def _room_in_table(self) -> None:
        """Wait while the node's table takes nothing: a disk that is slower than the log holds back this node only."""
        began = time.monotonic()
        proposer = self.store.proposer
        while not self.store.takes_entries and self.store.takes_part:
            if proposer.obstacle is None and time.monotonic() - began > TABLE_PATIENCE:
                storage = self.store.own_table
                full = storage.full if isinstance(storage, DiskStorage) else None
                proposer.obstacle = (
                    f"the disk of this node's own table is {'full' if full else 'behind, or has failed'}"
                )
                logger.error(
                    "%s: %s. This node stands still until that is over; its local reads go on, and the others",
                    *(proposer.obstacle, full or self._directory.table),
                )
            await asyncio.sleep(TABLE_PAUSE)
        if proposer.obstacle is not None:
            proposer.obstacle = None
            logger.info("this node's own table takes entries again")

    def _heard(self, entry: Entry) -> None:
        now, proposer = asyncio.get_running_loop().time(), self.store.proposer
        if entry.node == proposer.node:
            if proposer.came_sent != self._came_sent:
                self._came_sent = proposer.came_sent
                self._round_trip = now - proposer.came_sent
            return
        if not entry.time:
            return
        if entry.kind is Kind.EPOCH and not self.store.loading:
            # It may be the other one that is off; so it is told our time before it says its own again.
            self._own_sent = -math.inf
            return
        late = 1000 * self._late(now)
        self._clocks.note(entry.node, entry.clock, late, now)
        if late < CLOCK_OFF_MS or entry.clock > self.store.clock():
            self._other_heard.set()

    def _late(self, now: float) -> float:
        """For how many seconds entries that come now may have been held up on their way to here, or in here.

        An own entry came by the same way. What came behind it is in the log since that was sent, or later. Where none
        is under way, as much as that one took: the next, a second later, shows if it has become more.
        """
        proposer = self.store.proposer
        if not proposer.came_sent:
            return math.inf  # what is replayed may be of any age
        return now - proposer.came_sent if proposer.under_way else self._round_trip

    # -- proposing --------------------------------------------------------------------------------------------

    def _want_pump(self) -> None:
        """Have published what waits, behind all that clients have said by now."""
        if not self._pump_wanted:
            self._pump_wanted = True
            asyncio.get_running_loop().call_soon(self._pump_in_its_turn)

    def _pump_in_its_turn(self) -> None:
        self._pump_wanted = False
        try:
            self._pump()
        except Exception as error:  # there is no task that would end by it
            self._failed(error)

    def _pump(self) -> None:
        if not self.store.proposer.may_publish or self._is_in_vain:
            return
        now = asyncio.get_running_loop().time()
        self.store.proposer.room = self.stream.payload_max - HEADER_BYTES_MAX
        refused = functools.partial(self._refused, self.store.proposer.epoch)
        # Before there is a quorum it is an epoch that says the time, which log time does not follow.
        joining = self.store.loading and self.store.proposer.quorum
        time, lead = self.store.proposed_time()
        off = abs(self._clocks.off(time - lead, now)) > CLOCK_OFF_MS
        if off or joining:
            time = lead = 0
        for data in self.store.proposer.entries(now, time, lead):
            self._own_sent = now
            self.stream.publish(data, refused)

    @property
    def _is_in_vain(self) -> bool:
        """Whether who leads the stream has no majority: it is left alone then until that has changed.

        What it takes into its log has to come off again, and until then it would be of no use when the next one fails
        (`replication.nats.leadership`).
        """
        return self._joined and not self.store.proposer.quorum and self.stream.led_alone

    def _refused(self, epoch: int, reason: str) -> None:
        """An entry of that epoch will not come; maybe it is over by now."""
        note(f"the log has refused an entry: {reason}")
        self._look_at_limits(asyncio.get_running_loop().time())
        if self.store.refuses_growth is not None:
            self.store.proposer.no_room(self.store.refuses_growth, self.store.table, epoch)
        else:
            self.store.proposer.lost(self.store.table, epoch)
        self._want_pump()

    async def _look(self) -> None:
        """See to what takes too long, as long as this node takes part."""
        loop = asyncio.get_running_loop()
        store = self.store
        while store.takes_part:
            now = loop.time()
            store.proposer.tick(now, store.table)
            self._tell_of_quorum()
            await self._look_at_server(now)
            self._look_at_limits(now)
            if store.proposer.quorum and now - self._own_sent >= HEARTBEAT_SECONDS:
                store.proposer.propose(PendingProposal((), lambda _: 0))
            newest = store.position - store.position % DIGEST_ENTRIES
            if newest > self._told_digest and store.proposer.quorum:
                self._told_digest = newest
                store.propose_digest()
                store.propose_newer_semantics()
            self._pump()
            await asyncio.sleep(TICK_SECONDS)

    def _tell_of_quorum(self) -> None:
        """Log it once when the majority is lost, and once when it is back."""
        has = self.store.proposer.quorum
        if has == self._has_quorum or self.store.loading:
            return
        self._has_quorum = has
        if has:
            logger.info("the majority is back: entries of this node come back from the log")
        else:
            logger.warning(
                "no majority: no entry of this node came back for %g s. Commands are refused, but for local reads; "
                "JetStream says: %s",
                UNSEEN_SECONDS,
                self.stream.trouble or ("nothing" if self.stream.connected else "no connection to NATS"),
            )

    async def _look_at_server(self, now: float) -> None:
        """Leave one by way of which nothing comes back for long."""
        store, stream = self.store, self.stream
        waits = store.proposer.under_way and not store.proposer.quorum
        # What holds it up is known: this node's own disk, a log without room, or a backlog.
        explained = store.proposer.obstacle is not None or store.refuses_growth is not None
        if not waits or explained or not self._caught_up.is_set() or stream.connections != self._lost_by:
            self._lost_since, self._lost_by = math.inf, stream.connections
        elif stream.connected:
            self._lost_since = min(self._lost_since, now)
            if now - self._lost_since >= LEAVE_SECONDS:
                self._lost_since = math.inf
                await stream.try_another_server("no entry of this node comes back by way of it")

    def _look_at_limits(self, now: float) -> None:
        off = self._clocks.off(self.store.clock(), now)
        self._clock_off = off if abs(off) > CLOCK_OFF_MS else 0
        self.store.refuses_writes = None
        if self._clock_off:
            side = "ahead of" if self._clock_off > 0 else "behind"
            text = f"this node's clock is {abs(self._clock_off):,} ms {side} the other nodes' clocks"
            self.store.refuses_writes = Failure(failures.CLOCK, text)
        self.store.refuses_growth = None
        if self.stream.fill >= node_snapshots.FILL_MAX:
            text = f"the log has {self.stream.fill:.0%} of the room that it may have"
            self.store.refuses_growth = Failure(failures.LOGFULL, text)

    # -- channels ---------------------------------------------------------------------------------------------

    def say_on_channel(self, channel: bytes, message: bytes) -> None:
        """Have others who listen told as well, at most once: nobody keeps it for those who are not there."""
        self.stream.broadcast(_CHANNEL.pack(len(channel)) + channel + message)

    def _heard_on_channel(self, data: bytes) -> None:
        if len(data) >= _CHANNEL.size:
            (length,) = _CHANNEL.unpack_from(data)
            begin = _CHANNEL.size + length
            self.said_on_channel(data[_CHANNEL.size : begin], data[begin:])

    # -- about itself -----------------------------------------------------------------------------------------

    @property
    def behind_ms(self) -> int:
        """By how much local reads may be behind: the age of this node's newest entry that has come back."""
        return int((asyncio.get_running_loop().time() - self.store.proposer.came_sent) * 1000)

    def _info(self) -> Iterable[tuple[str, str | int]]:
        store, stream = self.store, self.stream
        yield "cluster", self._options.name
        yield "node", f"{store.proposer.node:016x}"
        if self._opened is None:  # NATS has not been found yet
            return
        yield "nats_connected", int(stream.connected)
        yield "nats_sync", stream.sync
        yield "quorum", int(store.proposer.quorum and store.stopped is None)
        yield "stopped", store.stopped or ""
        yield "table_trouble", store.proposer.obstacle or ""
        yield "stream_position", store.position
        yield "stream_last_seen", max(store.position, stream.last)
        yield "log_fill_percent", int(stream.fill * 100)
        yield from self._opened.info()
        yield "proposals_waiting", store.proposer.waiting
        yield "local_reads_behind_ms", self.behind_ms
        yield "clock_off_ms", self._clock_off
        yield "semantics", store.semantics
        yield "state_digest", f"{store.digest:08x}"
        yield "nodes", " ".join(f"{node:016x}" for node in sorted(store.table.rows))


def new_node(
    options: ClusterOptions,
    data: Path,
    *,
    clock: Clock,
    progress: StartProgress,
    disk_limit: int | None,
    memory_limit: int | None,
    value_max: int,
    broken: Sequence[str],
) -> Node:
    """Return the node whose files are in the directory `data`. progress: see `Node`. Raises `OptionError`."""
    directory = NodeDirectory(data)
    node = directory.node()
    directory.refuse_other(options.name)

    def new_table() -> DiskStorage:
        return DiskStorage(
            directory.table,
            sync=Sync(None),
            apart=True,
            progress=lambda read, records: progress(f"reading {directory.table}", read, records, "records"),
            memory_limit=memory_limit,
            limit=disk_limit,
            gather=TABLE_GATHER,
        )

    store = ReplicatedStore(
        node=node,
        nonce=secrets.token_bytes(8),
        storage=new_table(),
        clock=clock,
        memory_limit=memory_limit,
        value_max=value_max,
        supports=SUPPORTS,
        broken=broken,
    )
    return Node(options, directory, store=store, new_table=new_table, progress=progress)

"""A node's part in its cluster: brings the log to the store, and the store's proposals to the log.

    store ── proposals ──→ publish ─→ NATS ─→ entries ──→ store.apply_entry

Invariants: the node applies entries in the order of the stream, each once, in the loop that serves clients, and a
bounded number in each iteration. It takes no commands before it has applied the log up to its start, and an own entry
has come back. It reports a fault that it cannot recover from, and still answers INFO and local reads.

Out of scope: NATS (`replication.nats`), snapshots (`node_snapshots`), the effects of entries (`replication.store`), and
clients.
"""

import asyncio
import contextlib
import functools
import logging
import math
import struct
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from cairnkv.errors import OptionError, Unavailable
from cairnkv.replication import node_snapshots
from cairnkv.replication.digests import DIGEST_ENTRIES
from cairnkv.replication.entries import HEADER_BYTES_MAX, SEMANTICS, Entry, Kind
from cairnkv.replication.nats import connection
from cairnkv.replication.nats.connection import note
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.snapshots import Snapshots
from cairnkv.replication.nats.stream import PastEnd, Purged, Replaced, Stream
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.replication.node_health import NodeHealth
from cairnkv.replication.node_snapshots import NodeSnapshots
from cairnkv.replication.proposals import PendingProposal
from cairnkv.replication.store import Remedy, ReplicatedStore
from cairnkv.storage.base import StartProgress
from cairnkv.storage.disk import DiskStorage

logger: Final = logging.getLogger("cairnkv.cluster")

APPLY_SECONDS: Final = 0.005
"""Seconds for which entries are applied before the loop serves clients again."""

TICK_SECONDS: Final = 0.1
"""Period of the checks of this node."""

HEARTBEAT_SECONDS: Final = 1.0
"""Seconds without a proposal after which a node publishes an empty entry. By it the node knows that it is not cut off
and how far its table may be behind, and other nodes know its clock."""

OTHER_NODE_TIMEOUT: Final = 1.5 * HEARTBEAT_SECONDS
"""Seconds that a joining node waits for an entry of another node."""

TABLE_GATHER: Final = 0.02
"""Seconds for which effects wait to be written to the node's table together. No reply waits for them, and after a crash
the log still has them."""

TABLE_PAUSE: Final = 0.002
"""Seconds between two checks whether the node's table takes another entry."""

TABLE_TIMEOUT: Final = 1.0
"""Seconds for which it may take none before the node logs that."""

QUIET_SECONDS: Final = 0.2
AWAY_SECONDS: Final = 2.0
"""A node that stops refuses commands until no client has sent any for `QUIET_SECONDS`, and for `AWAY_SECONDS` at most.
Then it closes the connections."""

SUPPORTS: Final = SEMANTICS
"""The newest semantics of nodes of this process."""

_CHANNEL: Final = struct.Struct(">H")


def _ignore(channel: bytes, message: bytes) -> None:
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
        """store: its storage is a table of `new_table`.

        progress: called while the node joins, with the activity, the amount that is done, the total, and their unit.
        """
        self.store: Final = store
        self.stream = Stream(options)
        self._options = options
        self._directory = directory
        self._new_table = new_table
        self._progress = progress
        self._health = NodeHealth(store, self.stream)
        self._ending = contextlib.AsyncExitStack()  # closed when this node leaves
        self._opened: NodeSnapshots | None = None  # once the stream is open
        self._tasks: list[asyncio.Task[None]] = []
        self._pump_wanted = False
        self._quorum = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._joined = False  # whether it has taken commands
        self._other_clock_seen = asyncio.Event()
        self._own_sent = 0.0  # when an entry was published last
        self._from = 0  # position at which the node began to catch up
        self._digest_proposed = 0
        store.on_proposal = self._want_pump
        store.on_entry = self._note_entry
        self.stream.on_broadcast = self._receive_message
        self.stream.failed = self._failed
        self.on_message: Callable[[bytes, bytes], object] = _ignore
        """Called with the channel and the message that a client of another node has published."""
        store.reports.sources.append(self._info)

    # -- joining and leaving ----------------------------------------------------------------------------------

    async def join(self) -> None:
        """Join the cluster: read the table, catch up with the log, and wait for an own entry.

        Raises `OptionError`, with a text that says what to do.
        """
        await self.stream.open()
        # A connection for snapshots: large messages to a slow server delay the messages behind them.
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
        self._start(self._follow())
        await self._or_fail(self._caught_up.wait())
        self.store.proposer.begin(self.store.epochs)
        self._start(self._check())
        self._start(self._snapshots.keep())
        await self._or_fail(self._quorum.wait())
        await self._await_other_clocks()
        await self._await_newer_semantics()
        self._joined = True
        self.store.join()

    async def _await_newer_semantics(self) -> None:
        """Propose the newest semantics that all nodes know, and wait, so that clients can use it at once."""
        done = asyncio.Event()
        if self.store.propose_newer_semantics(done.set):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OTHER_NODE_TIMEOUT):
                    await self._or_fail(done.wait())

    async def _await_other_clocks(self) -> None:
        """Wait for other nodes' clocks before log time follows this node's clock, because log time never goes back."""
        if len(self.store.epochs.rows) > 1:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OTHER_NODE_TIMEOUT):
                    await self._or_fail(self._other_clock_seen.wait())
        self._health.check_limits(asyncio.get_running_loop().time())

    def _start(self, work: Coroutine[None, None, None]) -> None:
        """Start a task that runs as long as this node takes part."""
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
        """Wait, but fail if one of the tasks ends or the node stops."""
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

    async def refuse_clients(self) -> None:
        """Refuse new commands, so that clients ask another node, and finish the commands that have come before.

        A closed connection leaves its client in doubt about its last commands, so connections stay open for a while.
        """
        loop = asyncio.get_running_loop()
        store = self.store
        store.stopping = "this node stops: use another node"
        store.serve_waiters()  # their clients use another node, too
        end, quiet_since, commands = loop.time() + AWAY_SECONDS, loop.time(), store.commands
        while loop.time() < end and loop.time() - quiet_since < QUIET_SECONDS:
            await asyncio.sleep(QUIET_SECONDS / 10)
            if store.commands != commands or store.proposer.waiting:
                quiet_since, commands = loop.time(), store.commands

    def halt(self) -> None:
        """Apply and propose nothing more. Call `leave` after this."""
        for task in self._tasks:
            task.cancel()

    async def leave(self) -> None:
        """Leave the cluster. The caller closes the store."""
        self.halt()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._ending.aclose()
        await self.stream.close()

    async def _load(self) -> None:
        """Read the node's table. If it is damaged, begin with an empty one."""
        try:
            loaded = await asyncio.to_thread(self.store.load)
        except (OptionError, ValueError) as error:
            if not self._directory.table.exists() or "damage" not in str(error):
                raise
            aside = self._directory.set_aside()
            logger.error("%s; it is now %s, and this node begins with an empty table", error, aside)
            self.store.reopen(self._new_table())
            loaded = await asyncio.to_thread(self.store.load)
        self.store.begin(loaded)

    async def _find_place(self) -> None:
        """Check that the table belongs to this stream. Use a snapshot if the stream no longer has the next entry."""
        store, stream = self.store, self.stream
        if store.identity == 0:
            store.identity = stream.identity.created
        elif store.identity != stream.identity.created:
            raise OptionError(
                f"{self._directory.path} belongs to another stream than {stream.identity.stream}, which was made "
                "later; see `cairn cluster repair`"
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
        """Apply the entries of the log as they come."""
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
                        if self._joined:  # it fell behind, and continued from a snapshot
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
                store.proposer.begin(store.epochs)
            except PastEnd as past:
                store.leave(
                    f"{self._directory.path} has entries up to {store.position:,}, and {past}; "
                    "see `cairn cluster repair`",
                    Remedy.OPERATOR,
                )
            except Replaced as replaced:
                store.leave(f"the stream is another one now: {replaced}; see `cairn cluster repair`", Remedy.OPERATOR)

    async def _apply(self, batch: list[tuple[int, bytes]]) -> bool:
        """Apply a batch of entries. Returns False if this node stops."""
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
        self._want_pump()  # later: clients that have their replies send more commands, which share the next entry
        return store.takes_part

    async def _room_in_table(self) -> None:
        """Wait while this node applies no entry. A disk that is slower than the log delays this node only."""
        began = time.monotonic()
        proposer = self.store.proposer
        while not self.store.takes_entries and self.store.takes_part:
            if proposer.obstacle is None and time.monotonic() - began > TABLE_TIMEOUT:
                self._note_obstacle()
            await asyncio.sleep(TABLE_PAUSE)
        if proposer.obstacle is not None:
            proposer.obstacle = None
            logger.info("this node applies entries again")

    def _note_obstacle(self) -> None:
        """Note and log why this node applies no entries."""
        if self.store.is_held:
            self.store.proposer.obstacle = "a script of a client has run at this node for too long"
            logger.error("%s. Until it ends, the node executes nothing else", self.store.proposer.obstacle)
            return
        storage = self.store.own_table
        full = storage.full if isinstance(storage, DiskStorage) else None
        obstacle = f"the disk of this node's own table is {'full' if full else 'behind, or has failed'}"
        self.store.proposer.obstacle = obstacle
        logger.error(
            "%s: %s. Until it takes entries, this node only executes local reads; the other nodes go on",
            *(obstacle, full or self._directory.table),
        )

    def _note_entry(self, entry: Entry) -> None:
        monotonic = asyncio.get_running_loop().time()
        if entry.node == self.store.proposer.node:
            self._health.note_own_entry(monotonic)
        elif not entry.time:
            return
        elif entry.kind is Kind.EPOCH and not self.store.loading:
            self._own_sent = -math.inf  # send it this node's clock: the wrong clock may be the other node's
        elif self._health.note_clock(entry, monotonic):
            self._other_clock_seen.set()

    # -- proposing --------------------------------------------------------------------------------------------

    def _want_pump(self) -> None:
        """Publish proposals after all commands that clients have sent by now."""
        if not self._pump_wanted:
            self._pump_wanted = True
            asyncio.get_running_loop().call_soon(self._pump_or_fail)

    def _pump_or_fail(self) -> None:
        self._pump_wanted = False
        try:
            self._pump()
        except Exception as error:  # no task reports it
            self._failed(error)

    def _pump(self) -> None:
        if not self.store.proposer.may_publish or self._is_in_vain:
            return
        monotonic = asyncio.get_running_loop().time()
        self.store.proposer.room = self.stream.payload_max - HEADER_BYTES_MAX
        refused = functools.partial(self._refused, self.store.proposer.epoch)
        # Before there is a quorum, an epoch entry has the time, and log time does not follow it.
        joining = self.store.loading and self.store.proposer.quorum
        time, lead = self.store.proposed_time()
        if joining or self._health.is_clock_off(time - lead, monotonic) or not self.store.keep_leases():
            time = lead = 0
        for data in self.store.proposer.take_entries(monotonic, time, lead):
            self._own_sent = monotonic
            self.stream.publish(data, refused)

    @property
    def _is_in_vain(self) -> bool:
        """Whether the leader of the stream has no majority. Until that changes, this node publishes nothing.

        The leader would have to remove such entries from its log again, and until then it could not replace another
        leader (`Stream.led_alone`).
        """
        return self._joined and not self.store.proposer.quorum and self.stream.led_alone

    def _refused(self, epoch: int, reason: str) -> None:
        """The log has refused an entry of an epoch, which may be over by now."""
        note(f"the log refused an entry: {reason}")
        self._health.check_limits(asyncio.get_running_loop().time())
        if self.store.refuses_growth is not None:
            self.store.proposer.no_room(self.store.refuses_growth, self.store.epochs, epoch)
        else:
            self.store.proposer.lost(self.store.epochs, epoch)
        self._want_pump()

    async def _check(self) -> None:
        """Check this node periodically, and propose heartbeats and digests."""
        loop = asyncio.get_running_loop()
        store = self.store
        while store.takes_part:
            monotonic = loop.time()
            store.proposer.tick(monotonic, store.epochs)
            self._health.log_quorum()
            await self._health.check_server(monotonic, has_caught_up=self._caught_up.is_set())
            self._health.check_limits(monotonic)
            if store.proposer.quorum and monotonic - self._own_sent >= HEARTBEAT_SECONDS:
                store.proposer.propose(PendingProposal((), lambda _: 0))
                store.propose_newer_semantics()  # an earlier proposal may have failed
            newest = store.position - store.position % DIGEST_ENTRIES
            if newest > self._digest_proposed and store.proposer.quorum:
                self._digest_proposed = newest
                store.propose_digest()
                store.propose_newer_semantics()
            self._pump()
            await asyncio.sleep(TICK_SECONDS)

    # -- channels ---------------------------------------------------------------------------------------------

    def publish_message(self, channel: bytes, message: bytes) -> None:
        """Send a message to the subscribers of other nodes, at most once."""
        self.stream.broadcast(_CHANNEL.pack(len(channel)) + channel + message)

    def _receive_message(self, data: bytes) -> None:
        if len(data) >= _CHANNEL.size:
            (length,) = _CHANNEL.unpack_from(data)
            begin = _CHANNEL.size + length
            self.on_message(data[_CHANNEL.size : begin], data[begin:])

    # -- INFO -------------------------------------------------------------------------------------------------

    @property
    def behind_ms(self) -> int:
        """The maximum age of local reads: the age of this node's newest entry that has come back."""
        return int((asyncio.get_running_loop().time() - self.store.proposer.arrived_sent) * 1000)

    def _info(self) -> Iterable[tuple[str, str | int]]:
        store, stream = self.store, self.stream
        yield "cluster", self._options.name
        yield "node", f"{store.proposer.node:016x}"
        if self._opened is None:  # not connected to NATS yet
            return
        yield "nats_connected", int(stream.connected)
        yield "nats_sync", stream.sync
        yield "quorum", int(store.proposer.quorum and store.stopped is None)
        yield "stopped", store.stopped or ""
        yield "stopped_remedy", store.remedy.value if store.stopped else ""
        yield "table_trouble", store.proposer.obstacle or ""
        yield "stream_position", store.position
        yield "stream_last_seen", max(store.position, stream.last)
        yield "log_fill_percent", int(stream.fill * 100)
        yield from self._opened.info()
        yield "proposals_waiting", store.proposer.waiting
        yield "local_reads_behind_ms", self.behind_ms
        yield from self._health.info()
        yield "semantics", store.semantics
        yield "state_digest", f"{store.digest:08x}"
        yield "nodes", " ".join(f"{node:016x}" for node in sorted(store.epochs.rows))

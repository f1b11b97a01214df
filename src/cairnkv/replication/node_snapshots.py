"""The snapshots of a node: it continues from one if the log no longer has its next entry, and makes new ones.

Invariants: the log is truncated only up to a position that is in two snapshots, or in the only one if the log is full.
A snapshot from which a node continues stays pinned until the node has caught up. If no snapshot can be made,
INFO has the reason, and the node tries again.

Out of scope: how snapshots are stored (`replication.nats.snapshots`), and the other work of a node (`node`).
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Iterable
from typing import Final

from cairnkv.errors import OptionError, Unavailable
from cairnkv.replication import snapshot_files
from cairnkv.replication.nats.snapshots import KEPT, Damaged, PinsTaken, Snapshot, SnapshotError, Snapshots
from cairnkv.replication.nats.stream import Stream
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.replication.node_table import POSITION, POSITION_KEY
from cairnkv.replication.store import ReplicatedStore
from cairnkv.storage import StorageRefused
from cairnkv.storage.base import StartProgress
from cairnkv.storage.disk import DiskStorage

logger: Final = logging.getLogger("cairnkv.cluster")

FILL_MAX: Final = 0.9
"""The part of the log's maximum size from which on writes that grow fail. CLEAR, reads and nodes use the rest."""

FULL: Final = 0.99
"""The part from which on the log counts as full. If it accepts no entry then, there is no second snapshot either, so it
is truncated behind the only one."""

SNAPSHOT_ENTRIES: Final = 50_000
"""Entries after which a node makes another snapshot; the log has up to three times as many."""

SNAPSHOT_FILL: Final = 0.3
"""The part of the log's maximum size from which on a node makes one earlier, after `SNAPSHOT_LEAST` entries."""

SNAPSHOT_LEAST: Final = 100
"""The minimum number of entries between snapshots: more frequent ones would free no more of the log."""

SNAPSHOT_LOOK_SECONDS: Final = 5.0
"""Period of the checks whether a snapshot is due; also the pause before the node tries an unavailable one again."""


class NodeSnapshots:
    """The snapshots of one node, while its stream is open. Use within one event loop."""

    def __init__(
        self,
        snapshots: Snapshots,
        store: ReplicatedStore,
        stream: Stream,
        directory: NodeDirectory,
        *,
        new_table: Callable[[], DiskStorage],
        progress: StartProgress,
    ) -> None:
        """snapshots: those of the cluster, which `close` closes. new_table, progress: see `Node`."""
        self._snapshots = snapshots
        self._store = store
        self._stream = stream
        self._directory = directory
        self._new_table = new_table
        self._progress = progress
        self._pin = contextlib.AsyncExitStack()
        self._newest: Snapshot | None = None  # as last seen
        self._trouble = ""  # why the last check failed

    async def open(self) -> None:
        """Open or make the bucket of snapshots. Raises `OptionError`, `Unavailable`."""
        await self._snapshots.open(self._stream.identity)

    async def close(self) -> None:
        """Continue from no snapshot any more, and make none."""
        with contextlib.suppress(Unavailable):
            await self.unpin()
        self._snapshots.close()

    def info(self) -> Iterable[tuple[str, str | int]]:
        """Yield names and values for INFO."""
        newest = self._newest
        yield "snapshot_position", newest.position if newest is not None else 0
        yield "snapshot_made", newest.made if newest is not None else ""
        yield "snapshot_trouble", self._trouble

    # -- continue from a snapshot ---------------------------------------------------------------------------------

    async def begin_from_newest(self) -> None:
        """Replace the node's table by the newest usable snapshot.

        It stays pinned until `unpin`. Raises `OptionError` if there is none, `Unavailable` if none is available now.
        """
        store = self._store
        await self.unpin()
        why = f"the log begins behind this node's position {store.position:,}, and there is no snapshot"
        for snapshot in await self._snapshots.listed():
            if snapshot.position <= store.position:
                break
            try:
                await self._pin.enter_async_context(self._snapshots.pinned(snapshot))
                logger.info("beginning from the snapshot of position %s", f"{snapshot.position:,}")
                await self._install(snapshot)
            except (PinsTaken, Unavailable) as error:
                await self.unpin()
                raise Unavailable(f"snapshot {snapshot.name} cannot be had at present: {error}") from error
            except (SnapshotError, OSError) as error:
                await self.unpin()
                if isinstance(error, Damaged):
                    await self._snapshots.remove(snapshot)
                why = f"{error}"
                logger.warning("snapshot %s: %s", snapshot.name, why)
                continue
            if store.position != snapshot.position or store.identity != self._stream.identity.created:
                raise OptionError(f"snapshot {snapshot.name} is of position {store.position:,} of another stream")
            return
        raise OptionError(f"this node cannot begin from a snapshot: {why}")

    async def unpin(self) -> None:
        """Unpin the snapshot from which this node has continued."""
        await self._pin.aclose()

    async def _install(self, snapshot: Snapshot) -> None:
        directory, side = self._directory, self._snapshots.side
        fetched = directory.path / "table.fetched"
        await side.run(shutil.rmtree, fetched, ignore_errors=True)
        came = 0

        def more(count: int) -> None:
            nonlocal came
            came += count
            self._progress("fetching a snapshot", came, snapshot.size, "bytes")

        await self._snapshots.fetch(snapshot, fetched, more)
        self._store.reopen(self._new_table())
        await side.run(directory.remove_table)
        await side.run(snapshot_files.install, fetched, directory.table)
        self._store.begin(await asyncio.to_thread(self._store.load))

    # -- make snapshots -------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Make snapshots when they are due, and truncate the log, while the node takes part."""
        while self._store.takes_part:
            await asyncio.sleep(SNAPSHOT_LOOK_SECONDS)
            try:
                await self.make_if_due()
                self._trouble = ""
            except (SnapshotError, StorageRefused, Unavailable, OptionError, OSError) as error:
                self._trouble = str(error)
                logger.warning("no snapshot was made: %s", error)
            except Exception as error:  # a bug: INFO reports it too, because the log fills up
                self._trouble = f"a fault of cairnkv itself: {error!r}"
                logger.exception("no snapshot was made")

    async def make_if_due(self) -> None:
        """Check once whether a snapshot or a truncation is due. Raises the reason if it cannot be done."""
        store, stream, snapshots = self._store, self._stream, self._snapshots
        stuck = stream.fill >= FULL and not store.proposer.quorum
        if store.loading or not store.takes_part or not (store.proposer.quorum or stuck):
            return
        await self.open()  # an operator may have removed the buckets, with all snapshots
        newest = self._newest = await snapshots.newest()
        lacking = newest is None and stream.first > 1  # no node could join
        since = store.position - (newest.position if newest is not None else 0)
        # The log is truncated behind the last but one. A full log accepts no entries, so do not wait for them.
        given_back = newest.position - stream.first if newest is not None and stream.fill >= FILL_MAX else 0
        least = 1 if stuck or given_back >= SNAPSHOT_LEAST else SNAPSHOT_LEAST
        if lacking or since >= SNAPSHOT_ENTRIES or (since >= least and stream.fill >= SNAPSHOT_FILL):
            async with snapshots.turn() as mine:
                if mine:
                    await self._make()
        floor = await snapshots.floor(1 if stuck else KEPT)
        if floor >= stream.first:
            await stream.truncate(floor)
            logger.info("the log begins behind position %s now", f"{floor:,}")

    async def _make(self) -> None:
        side = self._snapshots.side
        storage = self._store.own_table
        assert isinstance(storage, DiskStorage)
        async with side.entered(snapshot_files.staged(storage)) as files:
            record = await side.run(snapshot_files.node_record, files, POSITION_KEY)
            if record is not None:
                position = POSITION.unpack(record)[0]
                made = self._newest = await self._snapshots.put(files, position)
                logger.info("made a snapshot of position %s: %s bytes", f"{position:,}", f"{made.size:,}")

"""A node's snapshots: it begins from another's where the log does not go back to it, and makes its own when it is time.

What always holds: the log is truncated only up to where snapshots that count stand for its beginning: two of them, or
the only one where the log is full. A snapshot that a node begins from stays pinned until it has caught up with the log.
Where none can be made INFO says why, and it is tried again, for ever.

Not for how they travel (`replication.nats.snapshots`), nor for what else a node does (`node`).
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
from cairnkv.replication.node_records import POSITION, POSITION_KEY
from cairnkv.replication.store import ReplicatedStore
from cairnkv.storage import StorageRefused
from cairnkv.storage.base import StartProgress
from cairnkv.storage.disk import DiskStorage

logger: Final = logging.getLogger("cairnkv.cluster")

FILL_MAX: Final = 0.9
"""The part of the log's room beyond which writes that grow are refused; the rest is for CLEAR, reads and nodes' own."""

FULL: Final = 0.99
"""The part from which on the log counts as full: if no entry gets into it then, there will be no second snapshot
either, and it is truncated behind the only one."""

SNAPSHOT_ENTRIES: Final = 50_000
"""Entries after which another snapshot is made; the log has up to three times as many."""

SNAPSHOT_FILL: Final = 0.3
"""The part of the log's room beyond which one is made sooner, if there are `SNAPSHOT_LEAST` entries more."""

SNAPSHOT_LEAST: Final = 100
"""Entries at least: what else fills the log's room is not given back by snapshots that follow each other closely."""

SNAPSHOT_LOOK_SECONDS: Final = 5.0
"""How often it is looked whether it is time; also how long is waited for one that cannot be had at present."""


class NodeSnapshots:
    """Of one node, from when its stream is open. Use within one event loop."""

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
        """snapshots: the cluster's, closed with this. directory, new_table, progress: see `Node`."""
        self._snapshots = snapshots
        self._store = store
        self._stream = stream
        self._directory = directory
        self._new_table = new_table
        self._progress = progress
        self._pin = contextlib.AsyncExitStack()
        self._newest: Snapshot | None = None  # as last seen
        self._trouble = ""  # why none could be made, or looked for

    async def open(self) -> None:
        """See that there is what they are kept in. Raises `OptionError`, `Unavailable`."""
        await self._snapshots.open(self._stream.identity)

    async def close(self) -> None:
        """Begin from none any more, and make none."""
        with contextlib.suppress(Unavailable):
            await self.unpin()
        self._snapshots.close()

    def info(self) -> Iterable[tuple[str, str | int]]:
        """What INFO tells of them."""
        newest = self._newest
        yield "snapshot_position", newest.position if newest is not None else 0
        yield "snapshot_made", newest.made if newest is not None else ""
        yield "snapshot_trouble", self._trouble

    # -- beginning from one ---------------------------------------------------------------------------------------

    async def begin_from_newest(self) -> None:
        """Have the newest that is of use in the place of the node's table, from which the log goes on.

        It stays pinned until `unpin`. Raises `OptionError` where none is of use, and `Unavailable` where that may pass.
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
        """Let go of the one that this node has begun from: the log goes on from there."""
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

    # -- making one -----------------------------------------------------------------------------------------------

    async def keep(self) -> None:
        """Make one when it is time and this node's turn, and truncate the log, for as long as the node takes part."""
        while self._store.takes_part:
            await asyncio.sleep(SNAPSHOT_LOOK_SECONDS)
            try:
                await self.make_if_due()
                self._trouble = ""
            except (SnapshotError, StorageRefused, Unavailable, OptionError, OSError) as error:
                self._trouble = str(error)
                logger.warning("no snapshot was made: %s", error)
            except Exception as error:  # a fault of ours, for which there may be none; also said as the log fills
                self._trouble = f"a fault of cairnkv itself: {error!r}"
                logger.exception("no snapshot was made")

    async def make_if_due(self) -> None:
        """Look once whether it is time for one, or for truncation. Raises what keeps that from being done."""
        store, stream, snapshots = self._store, self._stream, self._snapshots
        stuck = stream.fill >= FULL and not store.proposer.quorum
        if store.loading or not store.takes_part or not (store.proposer.quorum or stuck):
            return
        await self.open()  # somebody may have removed the buckets, and with them all there was
        newest = self._newest = await snapshots.newest()
        lacking = newest is None and stream.first > 1  # nobody could join
        since = store.position - (newest.position if newest is not None else 0)
        # The log is truncated behind the last but one: where it is full, that does not wait for entries nobody may log.
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
            told = await side.run(snapshot_files.node_record, files, POSITION_KEY)
            if told is not None:
                position = POSITION.unpack(told)[0]
                made = self._newest = await self._snapshots.put(files, position)
                logger.info("made a snapshot of position %s: %s bytes", f"{position:,}", f"{made.size:,}")

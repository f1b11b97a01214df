"""Repair a node whose storage (its table) and stream do not match.

    look          report the table, the stream, the problem and the possible repairs; change nothing
    rejoin        rename the table; the node joins again, from a snapshot and the log
    begin_from    let the stream continue from this table; every other node must fetch a snapshot of it

Invariants: a table is renamed, never deleted or written to; changes are made to a copy. The node must be stopped.
Nothing is published that a node could treat as an entry: the stream gets a snapshot, and then begins after it, at a
position that no node has reached. Until both are done, the nodes refuse to join as before.

Out of scope: the choice between two histories, which only the operator can make; and damaged tables, which a node
renames when it starts.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError, Unavailable
from cairnkv.records import record
from cairnkv.replication import snapshot_files
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.snapshots import Snapshot, SnapshotError, Snapshots
from cairnkv.replication.nats.stream import Missing, Stream
from cairnkv.replication.nats.stream_config import stream_name
from cairnkv.replication.node_directory import NodeDirectory
from cairnkv.replication.node_table import POSITION, POSITION_KEY
from cairnkv.storage import StorageRefused
from cairnkv.storage.backup import make_of_closed
from cairnkv.storage.base import no_progress
from cairnkv.storage.check import check_directory, not_open
from cairnkv.storage.files import Progress

GAP: Final = 1_000_000
"""Positions to skip before the new beginning of a stream, so that a node that is ahead of this one, by entries that the
stream has lost, still has to fetch the snapshot."""

ALIVE_SECONDS: Final = 5.0
"""Age of the newest entry below which a node of the stream is alive: each node publishes at least once a second."""

STEPS: Final = 5
"""How many times `begin_from` reads or sends the bytes of the table."""


@record
class Table:
    """The table in a node's directory.

    node: its number. there: whether there is a table. identity: creation time of its stream, in nanoseconds since 1970.
    position: of its newest log entry. digest: of the state there. keys: number of entries. wrong: damage.
    """

    node: int
    there: bool
    identity: int = 0
    position: int = 0
    digest: int = 0
    keys: int = 0
    wrong: tuple[str, ...] = ()


@record
class Log:
    """The cluster's stream in NATS. first > last if it is empty.

    identity: its creation time, likewise; None: it does not exist. silent: seconds since the newest entry.
    snapshots: of this stream, the newest first.
    """

    name: str
    identity: int | None = None
    first: int = 1
    last: int = 0
    silent: float = 0.0
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether a node of the stream seems to be running."""
        return self.identity is not None and self.silent < ALIVE_SECONDS

    @property
    def empty(self) -> bool:
        """Whether a joining node would begin with an empty state."""
        return self.first == 1 and not self.snapshots


def when(identity: int) -> str:
    """Format the creation time of a stream.

    >>> when(1_700_000_000_123_456_789)
    '2023-11-14 22:13:20.123 UTC'
    """
    made = datetime.fromtimestamp(identity // 1_000_000 / 1_000, UTC)
    return f"{made:%Y-%m-%d %H:%M:%S}.{made.microsecond // 1_000:03} UTC"


def problem(own: Table, log: Log) -> str | None:
    """Return the reason why this node cannot join; None: no reason is known."""
    if own.wrong:
        return f"the table is damaged: {own.wrong[0]}"
    if log.identity is None:
        return f"NATS has no stream {log.name}; a node that starts now creates an empty one"
    snapshot = log.snapshots[0].position if log.snapshots else 0
    if own.there and own.identity not in (0, log.identity):
        return (
            f"the table belongs to a stream created {when(own.identity)}, but this one was created {when(log.identity)}"
        )
    if own.position > log.last:
        return f"the table has entries up to {own.position:,}, but the stream ends at {log.last:,}: it has lost entries"
    if own.position + 1 < log.first and snapshot <= own.position:
        return f"the stream begins at {log.first:,}, after the table's end, and no snapshot has the entries between"
    return None


def advice(own: Table, log: Log) -> list[str]:
    """Return the possible repairs, the best one first."""
    begin = "--begin-from: the stream continues from this table. Only for a stopped node with the most entries"
    if own.wrong:
        return [
            "start the node: it renames the table and joins again (--rejoin does that now)",
            "if no other node has a table: `cairn repair DIR/table NEW` copies the readable data of this one",
        ]
    if log.identity is None:
        lost = ["check --cluster and --name, and the disks of NATS: a restart never loses a stream"]
        return [*lost, *([f"if all data of NATS are lost: {begin}"] if own.there else ["start the first node"])]
    rejoin = "--rejoin: the table is renamed, and the node joins again"
    if own.position + 1 < log.first and own.identity in (0, log.identity):
        return ["start the other nodes: one with all entries makes a snapshot", f"if none has more entries: {begin}"]
    if log.empty and not log.alive:
        return [f"if this node has the most entries: {begin}", f"at all others, after that: {rejoin}"]
    return [f"if the others are right: {rejoin}", f"if this node is right: stop all others; {begin}"]


class Repair:
    """The repair of one node. Use it in one event loop."""

    def __init__(self, options: ClusterOptions, directory: NodeDirectory) -> None:
        """Raises `OptionError` if this is not the directory of a node."""
        if not (directory.path / "node").exists():
            raise OptionError(f"{directory.path} is not the directory of a node: it has no file `node`")
        self._options = options
        self._directory = directory
        self._number = directory.node()

    # -- looking --------------------------------------------------------------------------------------------------

    def own(self, progress: Progress = no_progress) -> Table:
        """Read and check the table. Raises `OptionError` if the node is running."""
        path = self._directory.table
        if not path.exists() or not any(path.iterdir()):
            return Table(self._number, there=False)
        with not_open(path):
            found = check_directory(path, progress)
            wrong = found.problems
            if not wrong:
                try:
                    packed = snapshot_files.node_record(path, POSITION_KEY)
                    position, identity, _, digest = POSITION.unpack(packed) if packed is not None else (0, 0, 0, 0)
                except Exception as error:  # rocksdict raises plain `Exception`
                    wrong = [f"cannot read its position: {error}"]
            if wrong:
                return Table(self._number, there=True, keys=found.entries, wrong=tuple(wrong))
        return Table(self._number, True, identity, position, digest, found.entries)

    async def log(self) -> Log:
        """Read the state of the stream. Raises `OptionError`, `Unavailable`."""
        try:
            async with self._stream(make=False) as (stream, snapshots):
                return await _seen(stream, snapshots)
        except Missing:
            return Log(stream_name(self._options.name))

    @contextlib.asynccontextmanager
    async def _stream(self, *, make: bool) -> AsyncIterator[tuple[Stream, Snapshots]]:
        stream = Stream(self._options)
        await stream.open(make=make)
        snapshots = Snapshots(stream.nc, self._options.name, f"{self._number:016x}")
        try:
            await snapshots.open(stream.identity, make=make)
            yield stream, snapshots
        finally:
            snapshots.close()
            await stream.close()

    # -- doing ----------------------------------------------------------------------------------------------------

    def rejoin(self) -> Path:
        """Rename the table. Returns its new path. Raises `OptionError` if the node is running, or has no table."""
        with not_open(self._directory.table):
            return self._directory.set_aside("before")

    async def begin_from(
        self, own: Table, *, expect: Callable[[int], None] = no_progress, progress: Progress = no_progress
    ) -> int:
        """Let the stream continue from this table. Returns the position of its beginning.

        own: result of `own`. expect: called with the total number of bytes to process; progress: with the bytes done
        since the last call. Raises `OptionError`, `Unavailable`; then the node and the stream have not changed, unless
        the text says so.
        """
        if not own.there or own.wrong:
            raise OptionError(f"{self._directory.table} has no undamaged table from which a stream could continue")
        begun = self._directory.path / "table.begun"
        stage = self._directory.path / ".begin"
        for copy in (begun, stage):  # left by an interrupted attempt
            await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
        try:
            async with self._stream(make=True) as (stream, snapshots):
                newest = await snapshots.newest()  # maybe of an interrupted attempt
                position = max(stream.last, own.position, newest.position if newest is not None else 0) + GAP
                await self._copy(stage, begun, expect, progress)
                packed = await asyncio.to_thread(snapshot_files.node_record, begun, POSITION_KEY)
                _, _, now, digest = POSITION.unpack(packed or bytes(POSITION.size))
                record = POSITION.pack(position, stream.identity.created, now, digest)
                await asyncio.to_thread(snapshot_files.put_node_record, begun, POSITION_KEY, record)
                made = await asyncio.to_thread(make_of_closed, begun, stage, progress=progress)
                async with snapshots.turn() as mine:
                    if not mine:
                        raise OptionError(
                            "another node is making a snapshot of this stream. Stop that node, and wait a minute"
                        )
                    await snapshots.put(made.path, position, progress)
                await stream.begin_behind(position)
            with not_open(self._directory.table):
                self._directory.set_aside("before")
            self._directory.keep_cluster(self._options.name)
            begun.rename(self._directory.table)
        except (SnapshotError, StorageRefused, OSError) as error:
            if isinstance(error, Unavailable):
                raise
            raise OptionError(str(error)) from None
        finally:
            await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
            await asyncio.to_thread(shutil.rmtree, begun, ignore_errors=True)
        return position

    async def _copy(self, stage: Path, begun: Path, expect: Callable[[int], None], progress: Progress) -> None:
        """Copy the table, by hard links to its files."""
        copy = await asyncio.to_thread(
            make_of_closed,
            self._directory.table,
            stage,
            expect=lambda size: expect(STEPS * size),
            progress=progress,
        )
        await asyncio.to_thread(snapshot_files.install, copy.path, begun, progress)


async def _seen(stream: Stream, snapshots: Snapshots) -> Log:
    return Log(
        stream.identity.stream,
        stream.identity.created,
        stream.first,
        stream.last,
        await stream.seconds_silent(),
        tuple(await snapshots.listed()),
    )

"""What an operator does about a node whose table and stream do not belong together: look, rejoin, begin from a table.

    look          what the table has, what the stream has, what is wrong, and what can be done; changes nothing
    rejoin        the table is set aside, and the node joins anew, from a snapshot and the log
    begin_from    the stream, whatever it is, goes on from this table: every other node has to take a snapshot of it

What always holds: a table is renamed, never removed, and never written to; what becomes of it is a copy. A node has to
be stopped. Nothing is published that a node could take for an entry: the stream gets a snapshot, and then begins behind
it, at a position that no node has come to. Until both are done the nodes refuse as they did before.

Not for which of two histories is the one to keep: only the operator knows. Not for a table that is damaged itself: a
node sets that aside as it starts.
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
from cairnkv.replication.node_records import POSITION, POSITION_KEY
from cairnkv.storage import StorageRefused
from cairnkv.storage.backup import make_of_closed
from cairnkv.storage.base import no_progress
from cairnkv.storage.check import check_directory, not_open
from cairnkv.storage.files import Progress

GAP: Final = 1_000_000
"""Positions that are left out before the one that a stream goes on from: a node that has got further than this one, in
what the stream has lost, is before it nevertheless, and has to take the snapshot."""

ALIVE_SECONDS: Final = 5.0
"""A stream in which something was logged so lately has a node that is alive: each logs something every second."""

STEPS: Final = 5
"""How often `begin_from` reads or sends about as much as the table has."""


@record
class Table:
    """What a node's directory has.

    node: its number. there: whether it has a table at all. identity: when its stream was made, in nanoseconds since
    1970. position: of the newest entry in it. digest: what that came to. keys: entries. wrong: what is damaged.
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
    """What NATS has of the cluster's stream; first is beyond last where it is empty.

    identity: when it was made, likewise; None: there is none. silent: seconds since something was logged.
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
        """Whether a node seems to take part."""
        return self.identity is not None and self.silent < ALIVE_SECONDS

    @property
    def empty(self) -> bool:
        """Whether a node that joins would begin with nothing."""
        return self.first == 1 and not self.snapshots


def when(identity: int) -> str:
    """When a stream was made, for people.

    >>> when(1_700_000_000_123_456_789)
    '2023-11-14 22:13:20.123 UTC'
    """
    made = datetime.fromtimestamp(identity // 1_000_000 / 1_000, UTC)
    return f"{made:%Y-%m-%d %H:%M:%S}.{made.microsecond // 1_000:03} UTC"


def problem(own: Table, log: Log) -> str | None:
    """Why this node cannot take part; None: as far as can be seen it can."""
    if own.wrong:
        return f"the table is damaged: {own.wrong[0]}"
    if log.identity is None:
        return f"this NATS has no stream {log.name}; a node that starts now makes one, which is empty"
    snapshot = log.snapshots[0].position if log.snapshots else 0
    if own.there and own.identity not in (0, log.identity):
        return f"the table is of a stream that was made {when(own.identity)}, and this one was {when(log.identity)}"
    if own.position > log.last:
        return f"the table has entries up to {own.position:,}, and the stream ends at {log.last:,}: it has lost some"
    if own.position + 1 < log.first and snapshot <= own.position:
        return f"the stream begins at {log.first:,}, behind the table, and there is no snapshot of what came before"
    return None


def advice(own: Table, log: Log) -> list[str]:
    """What can be done about it, the best first."""
    begin = (
        "--begin-from: this table, stopped, becomes what the stream goes on from. Only at the node that has the most"
    )
    if own.wrong:
        return [
            "start the node: it sets the table aside by itself and joins anew (--rejoin does so now)",
            "if no other node has a table: `cairn repair DIR/table NEW` saves what can be read of this one",
        ]
    if log.identity is None:
        lost = ["look whether --cluster and --name are right, and NATS has its disks: no restart loses a stream"]
        return [*lost, *([f"if all data of NATS are lost: {begin}"] if own.there else ["start the first node"])]
    rejoin = "--rejoin: the table is set aside, and the node joins anew"
    if own.position + 1 < log.first and own.identity in (0, log.identity):
        return ["start the other nodes: one that has all makes a snapshot", f"if none has more than this one: {begin}"]
    if log.empty and not log.alive:
        return [f"if this node has the most of all: {begin}", f"at all others, after that: {rejoin}"]
    return [f"if the others are right: {rejoin}", f"if this node is right: stop all others; {begin}"]


class Repair:
    """One node's directory, its stream, and what is done about them. Use within one event loop."""

    def __init__(self, options: ClusterOptions, directory: NodeDirectory) -> None:
        """Raises `OptionError` for a directory that is no node's."""
        if not (directory.path / "node").exists():
            raise OptionError(f"{directory.path} is no node's directory: it has no file `node`")
        self._options = options
        self._directory = directory
        self._number = directory.node()

    # -- looking --------------------------------------------------------------------------------------------------

    def own(self, progress: Progress = no_progress) -> Table:
        """What the table has, all of which is read. Raises `OptionError` where the node is not stopped."""
        path = self._directory.table
        if not path.exists() or not any(path.iterdir()):
            return Table(self._number, there=False)
        with not_open(path):
            found = check_directory(path, progress)
            wrong = found.problems
            told = None
            if not wrong:
                try:
                    told = snapshot_files.node_record(path, POSITION_KEY)
                    position, identity, _, digest = POSITION.unpack(told) if told is not None else (0, 0, 0, 0)
                except Exception as error:  # rocksdict's have no class of their own
                    wrong = [f"its position cannot be read: {error}"]
            if wrong:
                return Table(self._number, there=True, keys=found.entries, wrong=tuple(wrong))
        return Table(self._number, True, identity, position, digest, found.entries)

    async def log(self) -> Log:
        """What NATS has. Raises `OptionError`, `Unavailable`."""
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
        """Set the table aside; where it is now. Raises `OptionError` where the node is not stopped, or has none."""
        with not_open(self._directory.table):
            return self._directory.set_aside("before")

    async def begin_from(
        self, own: Table, *, expect: Callable[[int], None] = no_progress, progress: Progress = no_progress
    ) -> int:
        """Have the stream go on from this table; at which position.

        own: what the table was seen to be. expect: told how many bytes there are to be gone through; progress: how many
        more were. Raises `OptionError`, `Unavailable`: the node and the stream are as they were then, unless it says
        otherwise.
        """
        if not own.there or own.wrong:
            raise OptionError(f"{self._directory.table} has no table that a stream could go on from")
        begun = self._directory.path / "table.begun"
        stage = self._directory.path / ".begin"
        for left in (begun, stage):  # of an attempt that was broken off; both are copies
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        try:
            async with self._stream(make=True) as (stream, snapshots):
                newest = await snapshots.newest()  # maybe of an attempt that was broken off
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
                            "another node makes a snapshot of this stream: it is alive. Stop it, and wait a minute"
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
        """A copy of the table, which shares its files."""
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

"""Snapshots in JetStream's object store: what stands for the beginning of a log that is no longer kept.

A snapshot is a node's table as of some position, one object: an archive of files in chunks, and a record, which
other programs read as well (`nats object`).

What always holds:
- A snapshot counts once its record is there. That is written when all chunks were read back and came to the same
  digest, and only if they are still there then, which NATS sees to. So a broken upload never counts.
- Two snapshots are kept, and those that a joining node has pinned. The log may be truncated up to the older of the two
  (`Snapshots.floor`): if the newest cannot be read, there is another one, and the log behind it.
- Snapshots of another stream of the same name count for nothing, and are left alone.

Pins and turns are leases, which clocks may end early; then a joiner finds its snapshot gone, or a gap in the log, and
begins again with a newer one.

Not for what the files are (`table`), nor for when it is time for a snapshot (the node).
"""

import asyncio
import base64
import contextlib
import datetime
import functools
import hashlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nats import errors
from nats.js.api import Header, ObjectStoreConfig, StorageType
from nats.js.errors import BadRequestError, NotFoundError
from nats.nuid import NUID

from cairnkv.errors import OptionError, Unavailable
from cairnkv.limits import KIB, REPLICAS
from cairnkv.records import record
from cairnkv.replication.nats.connection import ASK_PATIENCE, logger
from cairnkv.replication.nats.leases import LEASE_SECONDS, Lease, Leases
from cairnkv.replication.nats.retry import PATIENCE, PAUSE_SECONDS, WRONG_LAST, patiently
from cairnkv.replication.nats.stream import HEADERS_MAX
from cairnkv.replication.nats.stream_config import Identity
from cairnkv.replication.side_thread import SideThread
from cairnkv.replication.tar_stream import BadArchive, Unpacking, packed
from cairnkv.storage.base import no_progress
from cairnkv.storage.files import Progress, becoming, unfinished

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext
    from nats.js.api import RawStreamMsg

CHUNK_BYTES: Final = 256 * KIB
"""A message of a snapshot. Measured: longer ones are not much faster, and hold up the log's entries for longer."""

KEPT: Final = 2
"""Snapshots that are kept: if the newest cannot be read, there is another one."""

PINS_MAX: Final = 4
"""Snapshots that are pinned at a time: each may keep the log from being truncated."""

MISSING_SECONDS: Final = 5.0
"""How long a chunk has to be missing until that is believed: a server that was paused takes itself for the leader for a
moment, and does not know what came meanwhile."""

TIDY_PATIENCE: Final = 5.0
"""Seconds for which it is tried to remove an upload that has failed; the next one removes what is left."""

_EXPECTED_LAST_OF: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
"""The header that says of which subject: by itself it is that of the message."""

_DIGEST: Final = "SHA-256="


class SnapshotError(Exception):
    """A snapshot could not be made or used; the text says why. Nothing was changed that counts."""


class Damaged(SnapshotError):
    """It is not as it was put. Another one may be."""


class PinsTaken(SnapshotError):
    """So many nodes are joining that no more can."""


@record
class Snapshot:
    """One that counts.

    position: of the newest entry that its files have. created: when the log's stream was made, in nanoseconds since
    1970, by which it is told from others of its name. node: has made it. made: when, in ISO 8601.
    size: bytes of its archive, in so many chunks. digest: their SHA-256, in hexadecimal.
    """

    position: int
    created: int
    node: str
    size: int
    chunks: int
    digest: str
    nuid: str
    made: str

    @property
    def name(self) -> str:
        """Names sort by position. There is one snapshot of a position of a stream."""
        return f"{self.position:020}@{self.created}"


class Snapshots:
    """The snapshots of a cluster, as one node sees them. Methods raise `Unavailable` when NATS does not answer."""

    def __init__(
        self,
        nc: "Client",
        name: str,
        node: str,
        *,
        replicas: int = REPLICAS,
        chunk: int = CHUNK_BYTES,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """nc: a connection. name: of the cluster. chunk: bytes of a message at most, if NATS takes so many.

        lease_seconds: if the leases' bucket is not there yet.
        """
        self._nc = nc
        self._js = nc.jetstream(timeout=ASK_PATIENCE)
        self._bucket = f"CAIRN_{name}_snapshots"
        self._stream = f"OBJ_{self._bucket}"
        self._node = node
        self._replicas = replicas
        self._chunk = chunk
        self._created = 0  # when the stream was made whose snapshots count
        self._leases = Leases(nc, f"CAIRN_{name}_leases", replicas=replicas, seconds=lease_seconds)
        self._made = True  # the bucket is there, whoever has made it
        self._turn: Lease | None = None
        self.side: Final = SideThread(f"{self._bucket} files")
        """Where its file work is done; others may use it for theirs."""

    async def open(self, identity: Identity, *, make: bool = True) -> None:
        """Make the buckets if they are not there. identity: of the stream whose snapshots count.

        make: False: only to look what there is, by `listed`.
        Raises `OptionError` if they are there and would not keep what they are given.
        """

        async def ask() -> None:
            try:
                config = (await self._js.stream_info(self._stream)).config
            except NotFoundError:
                wanted = ObjectStoreConfig(replicas=self._replicas, storage=StorageType.FILE)
                await self._js.create_object_store(self._bucket, wanted)
                config = (await self._js.stream_info(self._stream)).config
            if config.num_replicas != self._replicas or config.storage != "file" or config.max_age:
                raise OptionError(
                    f"NATS has a stream {self._stream} with {config.num_replicas} replicas, in {config.storage}, with "
                    f"a max age of {config.max_age or 0:g} s; snapshots need {self._replicas}, file, and none"
                )

        self._created = identity.created
        self._made = make
        if not make:
            return
        await patiently(self._nc, f"opening {self._stream}", ask)
        await self._leases.open()

    def close(self) -> None:
        """Let the thread end."""
        self.side.close()

    # -- what there is -------------------------------------------------------------------------------------------

    async def listed(self) -> list[Snapshot]:
        """All that count, the newest first. There may be more than are kept for a while."""
        found = [_parsed(told) for told in await self._records()]
        ours = [snapshot for snapshot in found if snapshot is not None and snapshot.created == self._created]
        return sorted(ours, key=lambda snapshot: snapshot.position, reverse=True)

    async def newest(self) -> Snapshot | None:
        """The one with the highest position; None: there is none."""
        return next(iter(await self.listed()), None)

    async def floor(self, least: int = KEPT) -> int:
        """The log may be truncated up to this position, that one included; 0: not at all.

        least: so many snapshots have to have what is truncated.
        """
        kept = (await self.listed())[:least]
        if len(kept) < least:
            return 0
        return min([kept[-1].position, *(position for _, position in await self._pins())])

    async def _records(self) -> list[dict[str, Any]]:
        """What the records of all objects tell, also of those that are none of ours."""
        records = []
        for subject in await self._subjects("M.>"):
            message = await patiently(self._nc, "reading a snapshot's record", functools.partial(self._last, subject))
            with contextlib.suppress(ValueError):
                if message is not None and isinstance(told := json.loads(message.data or b""), dict):
                    records.append(told)
        return records

    async def _subjects(self, below: str) -> list[str]:
        async def ask() -> list[str]:
            try:
                info = await self._js.stream_info(self._stream, subjects_filter=f"$O.{self._bucket}.{below}")
            except NotFoundError:
                if self._made:
                    raise
                return []
            return list(info.state.subjects or ())

        return await patiently(self._nc, "listing snapshots", ask)

    async def _last(self, subject: str) -> "RawStreamMsg | None":
        """The newest message of a subject, by the stream's leader."""
        try:
            return await self._js.get_last_msg(self._stream, subject)
        except NotFoundError:
            return None

    # -- leases --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Whether it is this node's turn to make a snapshot, for as long as the block lasts: else it is another's."""
        lease = await self._leases.take("turn", {"node": self._node})
        if lease is None:
            yield False
            return
        self._turn = lease
        try:
            yield True
        finally:
            self._turn = None
            await lease.release()

    @contextlib.asynccontextmanager
    async def pinned(self, snapshot: Snapshot) -> AsyncIterator[Lease]:
        """Keep a snapshot, and the log behind it, while the block lasts.

        Raises `PinsTaken`, and `SnapshotError` where it is gone already.
        """
        told = {"node": self._node, "name": snapshot.name, "position": snapshot.position}
        for number in range(PINS_MAX):
            if (lease := await self._leases.take(f"pin.{number}", told)) is not None:
                break
        else:
            raise PinsTaken(f"{PINS_MAX} nodes are joining already, which is as many as may: try again later")
        try:
            if snapshot not in await self.listed():
                raise SnapshotError(f"snapshot {snapshot.name} is there no more: take a newer one")
            yield lease
        finally:
            await lease.release()

    async def _pins(self) -> list[tuple[str, int]]:
        """Names and positions of the snapshots of this stream that are pinned."""
        told = [await self._leases.told(f"pin.{number}") for number in range(PINS_MAX)]
        pins = [(str(pin.get("name", "")), pin.get("position", 0)) for pin in told if pin is not None]
        return [(name, position) for name, position in pins if name.endswith(f"@{self._created}")]

    # -- putting one there ---------------------------------------------------------------------------------------

    async def put(self, directory: Path, position: int, progress: Progress = no_progress) -> Snapshot:
        """Make a snapshot of the files in a directory, which does not change meanwhile. Within `turn` only.

        progress: told how many bytes more were sent or read back, so about twice the files'.
        Raises `SnapshotError` where there is a newer one, the turn is lost, or what comes back is not what was sent;
        `BadArchive` for a directory that has more than files; `OSError`. After `Unavailable` it may count even so.
        """
        self._refuse_if_not_our_turn()
        await self._tidy()
        newest = await self.newest()
        if newest is not None and newest.position >= position:
            raise SnapshotError(f"there is snapshot {newest.name} already, and this one would be of {position:,}")
        nuid = NUID().next().decode()
        try:
            snapshot, last = await self._upload(directory, position, nuid, progress)
            await self._verify(snapshot, progress)
            self._refuse_if_not_our_turn()
        except BaseException:
            with contextlib.suppress(Unavailable):
                await self._purge(self._chunks_of(nuid), TIDY_PATIENCE)
            raise
        await self._record(snapshot, last)  # if this fails it may be there, or be yet to come: so its chunks stay
        try:
            await self._tidy()
        except Unavailable as error:
            logger.warning("older snapshots were not removed; the next one will do it: %s", error)
        return snapshot

    def _refuse_if_not_our_turn(self) -> None:
        if self._turn is None or not self._turn.held:
            raise SnapshotError("it is not this node's turn to make a snapshot, or not any more")

    async def _upload(self, directory: Path, position: int, nuid: str, progress: Progress) -> tuple[Snapshot, int]:
        """Send all chunks. Also says the sequence of the last one."""
        pieces = packed(directory, min(self._chunk, self._nc.max_payload - HEADERS_MAX))
        digest = hashlib.sha256()
        size = chunks = last = 0
        while piece := await self.side.run(_next_of, pieces, digest):
            last = await self._sent(self._chunks_of(nuid), piece, last)
            size += len(piece)
            chunks += 1
            progress(len(piece))
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        snapshot = Snapshot(position, self._created, self._node, size, chunks, digest.hexdigest(), nuid, made)
        return snapshot, last

    async def _verify(self, snapshot: Snapshot, progress: Progress) -> None:
        digest = hashlib.sha256()
        async for piece in self._pieces(snapshot):
            await self.side.run(digest.update, piece)
            progress(len(piece))
        _compare(snapshot, digest.hexdigest())

    async def _record(self, snapshot: Snapshot, last: int) -> None:
        """Have it count, if its last chunk is still the last one of them."""
        await self._sent(self._record_of(snapshot), _rendered(snapshot, self._bucket, self._chunk), last, snapshot)

    async def _sent(self, subject: str, payload: bytes, last: int, after: Snapshot | None = None) -> int:
        """Publish one message, once, behind the last one of its subject; of which sequence it is.

        A message that was held somewhere and comes later is not the next any more, and refused by NATS.
        last: the sequence of the one before; 0: none. after: a snapshot whose chunks' last it is, instead.
        """
        headers = {str(Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value): str(last)}
        if after is not None:
            headers[_EXPECTED_LAST_OF] = self._chunks_of(after.nuid)
            headers[str(Header.ROLLUP.value)] = "sub"

        async def ask() -> int:
            try:
                return (await self._js.publish(subject, payload, headers=dict(headers))).seq
            except BadRequestError as error:
                if error.err_code not in WRONG_LAST:
                    raise
            there = await self._last(subject)  # maybe it was stored already, and only the answer was lost
            if there is not None and there.data == payload and (there.seq or 0) > last:
                return there.seq or 0
            before = there if after is None else await self._last(self._chunks_of(after.nuid))
            if (before.seq if before is not None else 0) == last:
                raise errors.TimeoutError  # it is being stored
            raise SnapshotError("somebody else has written to this snapshot, or removed it, while it was made")

        return await patiently(self._nc, "writing a snapshot", ask)

    # -- using one -----------------------------------------------------------------------------------------------

    async def fetch(self, snapshot: Snapshot, directory: Path, progress: Progress = no_progress) -> None:
        """Have a snapshot's files in a directory, which is empty or not there, whole or not at all.

        progress: told how many bytes more have come. Pin it before.
        Raises `Damaged`, `SnapshotError` where there is no room, `OptionError` where there is something already.
        """
        await self.side.run(shutil.rmtree, unfinished(directory), ignore_errors=True)  # what a crash has left
        try:
            async with self.side.entered(becoming(directory)) as part:
                room = shutil.disk_usage(part).free
                if room < snapshot.size:
                    raise SnapshotError(
                        f"{directory}: the file system has {room:,} bytes free; {snapshot.size:,} are needed"
                    )
                unpacking = Unpacking(part)
                digest = hashlib.sha256()
                try:
                    async for piece in self._pieces(snapshot):
                        await self.side.run(_take, piece, unpacking, digest)
                        progress(len(piece))
                    _compare(snapshot, digest.hexdigest())
                    await self.side.run(unpacking.finish)
                finally:
                    await self.side.run(unpacking.stop)
        except BadArchive as error:
            raise Damaged(f"snapshot {snapshot.name} is damaged: {error}") from None

    async def _pieces(self, snapshot: Snapshot) -> AsyncIterator[bytes]:
        """Its chunks, one after the other. Raises `Damaged` where one is missing."""
        reader = _Reader(self._js, self._stream, self._chunks_of(snapshot.nuid))
        for number in range(snapshot.chunks):
            end = time.monotonic() + MISSING_SECONDS
            while True:
                message = await patiently(self._nc, f"reading snapshot {snapshot.name}", reader.next)
                if message is not None or time.monotonic() >= end:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
            if message is None:
                raise Damaged(f"snapshot {snapshot.name} is damaged: chunk {number} of {snapshot.chunks} is missing")
            yield message.data or b""

    # -- removing ------------------------------------------------------------------------------------------------

    async def remove(self, snapshot: Snapshot) -> None:
        """Have it count no more, then give its room back. For one that was found to be damaged."""
        await self._purge(self._record_of(snapshot))
        await self._purge(self._chunks_of(snapshot.nuid))

    async def _tidy(self) -> None:
        """Remove what is neither kept nor pinned, and chunks without a record."""
        there = set(await self._subjects("C.>"))  # first: what is recorded meanwhile is not among them
        pinned = {name for name, _ in await self._pins()}
        for snapshot in (await self.listed())[KEPT:]:
            if snapshot.name not in pinned:
                await self.remove(snapshot)
        used = {self._chunks_of(str(told.get("nuid"))) for told in await self._records()}
        for subject in there - used:
            await self._purge(subject)

    async def _purge(self, subject: str, patience: float = PATIENCE) -> None:
        ask = functools.partial(self._js.purge_stream, self._stream, subject=subject)
        await patiently(self._nc, "removing a snapshot", ask, patience)

    def _chunks_of(self, nuid: str) -> str:
        return f"$O.{self._bucket}.C.{nuid}"

    def _record_of(self, snapshot: Snapshot) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(snapshot.name.encode()).decode()}"


class _Reader:
    """Reads the messages of a subject, one after the other."""

    def __init__(self, js: "JetStreamContext", stream: str, subject: str) -> None:
        self._js = js
        self._stream = stream
        self._subject = subject
        self._sequence = 0
        self._direct = True

    async def next(self) -> "RawStreamMsg | None":
        """The next one; None: there is none. Any server may say what it has, but only the leader that there is none.

        One that says nothing may be asked again by chance; so after that it is the leader only.
        """
        for direct in (True, False) if self._direct else (False,):
            try:
                message = await self._js.get_msg(
                    self._stream, seq=self._sequence + 1, subject=self._subject, next=True, direct=direct
                )
            except NotFoundError:
                continue
            except errors.TimeoutError:
                self._direct = False
                raise
            self._sequence = message.seq or 0
            return message
        return None


# -- records -------------------------------------------------------------------------------------------------------


def _rendered(snapshot: Snapshot, bucket: str, chunk: int) -> bytes:
    """A record, as JetStream's object stores have them; what is ours stands in its metadata."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(snapshot.digest)).decode()
    told = {
        "name": snapshot.name,
        "bucket": bucket,
        "nuid": snapshot.nuid,
        "size": snapshot.size,
        "chunks": snapshot.chunks,
        "digest": _DIGEST + digest,
        "mtime": snapshot.made,
        "options": {"max_chunk_size": chunk},
        "metadata": {"position": str(snapshot.position), "created": str(snapshot.created), "node": snapshot.node},
    }
    return json.dumps(told).encode()


def _parsed(told: dict[str, Any]) -> Snapshot | None:
    """The snapshot that a record tells of; None: it is none, or was deleted."""
    try:
        if told.get("deleted"):
            return None
        snapshot = Snapshot(
            int(told["metadata"]["position"]),
            int(told["metadata"]["created"]),
            str(told["metadata"]["node"]),
            int(told["size"]),
            int(told["chunks"]),
            base64.urlsafe_b64decode(told["digest"].removeprefix(_DIGEST)).hex(),
            str(told["nuid"]),
            str(told["mtime"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return snapshot if snapshot.name == told.get("name") else None


# -- in the thread -------------------------------------------------------------------------------------------------


def _next_of(pieces: Iterator[bytes], digest: "hashlib._Hash") -> bytes:
    """The next piece, which the digest has then; empty: there is none."""
    piece = next(pieces, b"")
    digest.update(piece)
    return piece


def _take(piece: bytes, unpacking: Unpacking, digest: "hashlib._Hash") -> None:
    digest.update(piece)
    unpacking.feed(piece)


def _compare(snapshot: Snapshot, digest: str) -> None:
    if digest != snapshot.digest:
        raise Damaged(f"snapshot {snapshot.name} is damaged: its SHA-256 is another one")

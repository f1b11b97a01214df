"""Snapshots in JetStream's object store. They replace the truncated beginning of the log.

A snapshot is the storage of a node as of a position of the log. It is one object: an archive of files in chunks, and a
record, which other programs can read too (`nats object`).

Invariants:
- A snapshot counts if its record exists. The record is written after all chunks were read back with the right digest,
  and only if they still exist, which NATS checks. So a failed upload never counts.
- The two newest snapshots are kept, and those pinned by a joining node. The log may be truncated up to the older one of
  the two (`Snapshots.floor`): if the newest cannot be read, the other one and the log after it remain.
- Snapshots of another stream with the same name do not count, and are never deleted.

Pins and turns are leases, which wrong clocks may end early. Then a joining node finds its snapshot deleted, or a gap in
the log, and begins again with a newer one.

Out of scope: the files (`snapshot_files`), and the time of a snapshot (the node).
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
from cairnkv.replication.nats.connection import ASK_TIMEOUT, logger
from cairnkv.replication.nats.leases import LEASE_SECONDS, Lease, Leases
from cairnkv.replication.nats.retry import PAUSE_SECONDS, RETRY_SECONDS, WRONG_LAST, retried
from cairnkv.replication.nats.stream import HEADERS_MAX
from cairnkv.replication.nats.stream_config import Identity
from cairnkv.replication.snapshot_files import SideThread
from cairnkv.replication.tar_stream import BadArchive, Unpacking, packed
from cairnkv.storage.base import no_progress
from cairnkv.storage.files import Progress, becoming, unfinished

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.api import RawStreamMsg

CHUNK_BYTES: Final = 256 * KIB
"""Maximum bytes of a chunk. Measured: longer ones are not much faster, and delay log entries more."""

KEPT: Final = 2
"""Number of snapshots to keep, so that there is another one if the newest cannot be read."""

PINS_MAX: Final = 4
"""Maximum pinned snapshots: each may prevent a truncation of the log."""

MISSING_SECONDS: Final = 5.0
"""Seconds for which a chunk must be missing before an error is raised: a server that was paused considers itself the
leader for a moment, and lacks newer data."""

TIDY_TIMEOUT: Final = 5.0
"""Seconds of retries to delete a failed upload. The next upload deletes its remains."""

_EXPECTED_LAST_OF: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
"""The header for the subject of an expected sequence, if it is not the message's."""

_DIGEST: Final = "SHA-256="


class SnapshotError(Exception):
    """A snapshot cannot be made or used. The text has the reason. No snapshot that counts has changed."""


class Damaged(SnapshotError):
    """The snapshot is damaged. Another one may be undamaged."""


class PinsTaken(SnapshotError):
    """Too many nodes are joining at the same time."""


@record
class Snapshot:
    """A snapshot that counts.

    position: of the newest entry in its files. created: creation time of the log's stream, in nanoseconds since 1970.
    node: its maker. made: its time, in ISO 8601.
    size: bytes of the archive. chunks: number of its chunks. digest: SHA-256 of the archive, in hexadecimal.
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
        """A unique name. Names sort by position."""
        return f"{self.position:020}@{self.created}"


class Snapshots:
    """The snapshots of a cluster, for one node. Methods raise `Unavailable` if NATS does not answer."""

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
        """nc: a connection. name: of the cluster. chunk: maximum bytes of a chunk, if NATS accepts so many.

        lease_seconds: for a new bucket of leases.
        """
        self._nc = nc
        self._js = nc.jetstream(timeout=ASK_TIMEOUT)
        self._bucket = f"CAIRN_{name}_snapshots"
        self._stream = f"OBJ_{self._bucket}"
        self._node = node
        self._replicas = replicas
        self._chunk = chunk
        self._created = 0  # of the stream whose snapshots count
        self._leases = Leases(nc, f"CAIRN_{name}_leases", replicas=replicas, seconds=lease_seconds)
        self._made = True  # whether the bucket exists
        self._turn: Lease | None = None
        self.side: Final = SideThread(f"{self._bucket} files")
        """The thread for file work."""

    async def open(self, identity: Identity, *, make: bool = True) -> None:
        """Create the buckets if they are missing. identity: of the stream whose snapshots count.

        make: False if only `listed` will be called.
        Raises `OptionError` if a bucket has an unsuitable configuration.
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
        await retried(self._nc, f"opening {self._stream}", ask)
        await self._leases.open()

    def close(self) -> None:
        """End the thread."""
        self.side.close()

    # -- list ----------------------------------------------------------------------------------------------------

    async def listed(self) -> list[Snapshot]:
        """Return the snapshots that count, the newest first. For some time there may be more than are kept."""
        found = [_parsed(record) for record in await self._records()]
        ours = [snapshot for snapshot in found if snapshot is not None and snapshot.created == self._created]
        return sorted(ours, key=lambda snapshot: snapshot.position, reverse=True)

    async def newest(self) -> Snapshot | None:
        """Return the snapshot with the highest position, or None."""
        return next(iter(await self.listed()), None)

    async def floor(self, least: int = KEPT) -> int:
        """Return the position up to which the log may be truncated, inclusive; 0: not at all.

        least: number of snapshots that must have the truncated entries.
        """
        kept = (await self.listed())[:least]
        if len(kept) < least:
            return 0
        return min([kept[-1].position, *(position for _, position in await self._pins())])

    async def _records(self) -> list[dict[str, Any]]:
        """Return the records of all objects, also of other programs."""
        records = []
        for subject in await self._subjects("M.>"):
            message = await retried(self._nc, "reading a snapshot's record", functools.partial(self._last, subject))
            with contextlib.suppress(ValueError):
                if message is not None and isinstance(parsed := json.loads(message.data or b""), dict):
                    records.append(parsed)
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

        return await retried(self._nc, "listing snapshots", ask)

    async def _last(self, subject: str) -> "RawStreamMsg | None":
        """Return the newest message of a subject, from the stream's leader."""
        try:
            return await self._js.get_last_msg(self._stream, subject)
        except NotFoundError:
            return None

    # -- leases --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Yield whether this node may make a snapshot during the block, since no other node does."""
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
        """Keep a snapshot, and the log after it, during the block.

        Raises `PinsTaken`, and `SnapshotError` if it does not exist any more.
        """
        info = {"node": self._node, "name": snapshot.name, "position": snapshot.position}
        for number in range(PINS_MAX):
            if (lease := await self._leases.take(f"pin.{number}", info)) is not None:
                break
        else:
            raise PinsTaken(f"{PINS_MAX} nodes are already joining, the maximum: try again later")
        try:
            if snapshot not in await self.listed():
                raise SnapshotError(f"snapshot {snapshot.name} does not exist any more: use a newer one")
            yield lease
        finally:
            await lease.release()

    async def _pins(self) -> list[tuple[str, int]]:
        """Return names and positions of the pinned snapshots of this stream."""
        infos = [await self._leases.info(f"pin.{number}") for number in range(PINS_MAX)]
        pins = [(str(pin.get("name", "")), pin.get("position", 0)) for pin in infos if pin is not None]
        return [(name, position) for name, position in pins if name.endswith(f"@{self._created}")]

    # -- make ----------------------------------------------------------------------------------------------------

    async def put(self, directory: Path, position: int, progress: Progress = no_progress) -> Snapshot:
        """Make a snapshot of the files in a directory, which must not change meanwhile. Only within `turn`.

        progress: called with the bytes sent or read back since the last call, in total about twice the files' bytes.
        Raises `SnapshotError` if there is a newer one, the turn is lost, or the data read back differs; `BadArchive`
        for a directory with other things than files; `OSError`. After `Unavailable` the snapshot may count.
        """
        self._check_turn()
        await self._tidy()
        newest = await self.newest()
        if newest is not None and newest.position >= position:
            raise SnapshotError(f"snapshot {newest.name} exists already, and this one would have position {position:,}")
        nuid = NUID().next().decode()
        try:
            snapshot, last = await self._upload(directory, position, nuid, progress)
            await self._verify(snapshot, progress)
            self._check_turn()
        except BaseException:
            with contextlib.suppress(Unavailable):
                await self._purge(self._chunks_of(nuid), TIDY_TIMEOUT)
            raise
        await self._record(snapshot, last)  # after a failure the record may exist, or appear later; so keep the chunks
        try:
            await self._tidy()
        except Unavailable as error:
            logger.warning("cannot delete older snapshots; the next one will do it: %s", error)
        return snapshot

    def _check_turn(self) -> None:
        if self._turn is None or not self._turn.held:
            raise SnapshotError("this node has no turn to make a snapshot, or has lost it")

    async def _upload(self, directory: Path, position: int, nuid: str, progress: Progress) -> tuple[Snapshot, int]:
        """Send all chunks. Also returns the sequence of the last one."""
        archive = packed(directory, min(self._chunk, self._nc.max_payload - HEADERS_MAX))
        digest = hashlib.sha256()
        size = chunks = last = 0
        while chunk := await self.side.run(_next_of, archive, digest):
            last = await self._sent(self._chunks_of(nuid), chunk, last)
            size += len(chunk)
            chunks += 1
            progress(len(chunk))
        made = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        snapshot = Snapshot(position, self._created, self._node, size, chunks, digest.hexdigest(), nuid, made)
        return snapshot, last

    async def _verify(self, snapshot: Snapshot, progress: Progress) -> None:
        digest = hashlib.sha256()
        async for chunk in self._chunks(snapshot):
            await self.side.run(digest.update, chunk)
            progress(len(chunk))
        _compare(snapshot, digest.hexdigest())

    async def _record(self, snapshot: Snapshot, last: int) -> None:
        """Write the record, if the last chunk is still the last one."""
        await self._sent(self._record_of(snapshot), _rendered(snapshot, self._bucket, self._chunk), last, snapshot)

    async def _sent(self, subject: str, payload: bytes, last: int, after: Snapshot | None = None) -> int:
        """Publish a message once, after the last one of its subject. Returns its sequence.

        NATS refuses a delayed message, which is not the next one any more.
        last: the sequence of the last message; 0: none. after: if given, `last` is of this snapshot's chunks.
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
            there = await self._last(subject)  # maybe it was stored, and only the reply was lost
            if there is not None and there.data == payload and (there.seq or 0) > last:
                return there.seq or 0
            before = there if after is None else await self._last(self._chunks_of(after.nuid))
            if (before.seq if before is not None else 0) == last:
                raise errors.TimeoutError  # it is being stored
            raise SnapshotError("another process has written to this snapshot or deleted it meanwhile")

        return await retried(self._nc, "writing a snapshot", ask)

    # -- fetch ---------------------------------------------------------------------------------------------------

    async def fetch(self, snapshot: Snapshot, directory: Path, progress: Progress = no_progress) -> None:
        """Fetch the files of a snapshot to an empty or new directory, atomically. Pin the snapshot before.

        progress: called with the bytes received since the last call. Raises `Damaged`, `SnapshotError` if there is too
        little disk space, `OptionError` if the directory is not empty.
        """
        await self.side.run(shutil.rmtree, unfinished(directory), ignore_errors=True)  # left by a crash
        try:
            async with self.side.entered(becoming(directory)) as part:
                room = shutil.disk_usage(part).free
                if room < snapshot.size:
                    raise SnapshotError(
                        f"{directory}: the file system has {room:,} bytes free, but {snapshot.size:,} are needed"
                    )
                unpacking = Unpacking(part)
                digest = hashlib.sha256()
                try:
                    async for chunk in self._chunks(snapshot):
                        await self.side.run(_unpack, chunk, unpacking, digest)
                        progress(len(chunk))
                    _compare(snapshot, digest.hexdigest())
                    await self.side.run(unpacking.finish)
                finally:
                    await self.side.run(unpacking.stop)
        except BadArchive as error:
            raise Damaged(f"snapshot {snapshot.name} is damaged: {error}") from None

    async def _chunks(self, snapshot: Snapshot) -> AsyncIterator[bytes]:
        """Yield the chunks of a snapshot. Raises `Damaged` if one is missing."""
        subject, sequence, any_server = self._chunks_of(snapshot.nuid), 0, True

        async def following() -> "RawStreamMsg | None":
            """Return the next message. Any server may return it, but only the leader may report that there is none.

            After a timeout, only the leader is asked, since a random server may be the silent one again.
            """
            nonlocal any_server
            for direct in (True, False) if any_server else (False,):
                try:
                    return await self._js.get_msg(
                        self._stream, seq=sequence + 1, subject=subject, next=True, direct=direct
                    )
                except NotFoundError:
                    continue
                except errors.TimeoutError:
                    any_server = False
                    raise
            return None

        for number in range(snapshot.chunks):
            end = time.monotonic() + MISSING_SECONDS
            while True:
                message = await retried(self._nc, f"reading snapshot {snapshot.name}", following)
                if message is not None or time.monotonic() >= end:
                    break
                await asyncio.sleep(PAUSE_SECONDS)
            if message is None:
                raise Damaged(f"snapshot {snapshot.name} is damaged: chunk {number} of {snapshot.chunks} is missing")
            sequence = message.seq or 0
            yield message.data or b""

    # -- delete --------------------------------------------------------------------------------------------------

    async def remove(self, snapshot: Snapshot) -> None:
        """Delete a damaged snapshot: its record first, then its chunks."""
        await self._purge(self._record_of(snapshot))
        await self._purge(self._chunks_of(snapshot.nuid))

    async def _tidy(self) -> None:
        """Delete snapshots that are neither kept nor pinned, and chunks without a record."""
        subjects = set(await self._subjects("C.>"))  # first, since records may be written meanwhile
        pinned = {name for name, _ in await self._pins()}
        for snapshot in (await self.listed())[KEPT:]:
            if snapshot.name not in pinned:
                await self.remove(snapshot)
        used = {self._chunks_of(str(record.get("nuid"))) for record in await self._records()}
        for subject in subjects - used:
            await self._purge(subject)

    async def _purge(self, subject: str, seconds: float = RETRY_SECONDS) -> None:
        ask = functools.partial(self._js.purge_stream, self._stream, subject=subject)
        await retried(self._nc, "deleting a snapshot", ask, seconds)

    def _chunks_of(self, nuid: str) -> str:
        return f"$O.{self._bucket}.C.{nuid}"

    def _record_of(self, snapshot: Snapshot) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(snapshot.name.encode()).decode()}"


# -- records -------------------------------------------------------------------------------------------------------


def _rendered(snapshot: Snapshot, bucket: str, chunk: int) -> bytes:
    """Return the record of a snapshot, in the format of JetStream's object stores. Own fields are in the metadata."""
    digest = base64.urlsafe_b64encode(bytes.fromhex(snapshot.digest)).decode()
    record = {
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
    return json.dumps(record).encode()


def _parsed(record: dict[str, Any]) -> Snapshot | None:
    """Return the snapshot of a record; None: the object is none, or was deleted."""
    try:
        if record.get("deleted"):
            return None
        snapshot = Snapshot(
            int(record["metadata"]["position"]),
            int(record["metadata"]["created"]),
            str(record["metadata"]["node"]),
            int(record["size"]),
            int(record["chunks"]),
            base64.urlsafe_b64decode(record["digest"].removeprefix(_DIGEST)).hex(),
            str(record["nuid"]),
            str(record["mtime"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return snapshot if snapshot.name == record.get("name") else None


# -- in the thread -------------------------------------------------------------------------------------------------


def _next_of(chunks: Iterator[bytes], digest: "hashlib._Hash") -> bytes:
    """Return the next chunk, and update the digest; empty: no chunk is left."""
    chunk = next(chunks, b"")
    digest.update(chunk)
    return chunk


def _unpack(chunk: bytes, unpacking: Unpacking, digest: "hashlib._Hash") -> None:
    digest.update(chunk)
    unpacking.feed(chunk)


def _compare(snapshot: Snapshot, digest: str) -> None:
    if digest != snapshot.digest:
        raise Damaged(f"snapshot {snapshot.name} is damaged: its SHA-256 differs")

"""Snapshots in a real NATS of three servers: whole ones count, two are kept, joiners keep theirs, servers may fail."""

import asyncio
import contextlib
import gc
import random
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig, ObjectStoreConfig

from cairnkv.errors import OptionError, Unavailable
from cairnkv.lab.cluster.nats import NatsServer
from cairnkv.limits import KIB
from cairnkv.replication.nats import snapshots
from cairnkv.replication.nats.connection import Connection, close, connect
from cairnkv.replication.nats.leases import Lease, Leases
from cairnkv.replication.nats.snapshots import PINS_MAX, Damaged, PinsTaken, Snapshot, SnapshotError, Snapshots
from cairnkv.replication.nats.stream_config import Identity
from cairnkv.replication.snapshot_files import install, node_record, staged
from tests.replication.snapshot_tables import POSITION, Table
from tests.support.nats import Nats

IDENTITY = Identity("CAIRN_test", 1_700_000_000_123_456_789)
LEASE_SECONDS = 1.5
CHUNK = 128 * KIB
PATIENCE = 20.0


class Cluster:
    """A cluster's snapshots. Each node has its own connection."""

    def __init__(self, nats: Nats) -> None:
        self.name = nats.fresh_name()
        self.bucket = f"CAIRN_{self.name}_snapshots"
        self._nats = nats
        self._clients: list[Connection] = []
        self._opened: list[Snapshots] = []

    async def nc(self) -> Connection:
        nc = await connect(self._nats.options(), "test")
        self._clients.append(nc)
        return nc

    async def js(self) -> JetStreamContext:
        return (await self.nc()).jetstream(timeout=1.0)

    async def node(
        self,
        name: str = "node-1",
        identity: Identity = IDENTITY,
        kind: type[Snapshots] = Snapshots,
        chunk: int = CHUNK,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Snapshots:
        snapshots = kind(await self.nc(), self.name, name, chunk=chunk, lease_seconds=lease_seconds)
        self._opened.append(snapshots)
        await snapshots.open(identity)
        return snapshots

    async def die(self) -> None:
        """Close the connection of the newest node."""
        await close(self._clients[-1])

    async def chunks(self) -> dict[str, int]:
        """Return the number of chunks of each subject."""
        info = await (await self.js()).stream_info(f"OBJ_{self.bucket}", subjects_filter=f"$O.{self.bucket}.C.>")
        return info.state.subjects or {}

    async def close(self) -> None:
        for opened in self._opened:
            opened.close()
        for nc in self._clients:
            await close(nc)
        self._clients.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # nats-py leaves sockets to Python when it reconnects
            gc.collect()


@pytest.fixture
async def cluster(nats: Nats) -> AsyncIterator[Cluster]:
    made = Cluster(nats)
    yield made
    await made.close()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a directory with the files of a snapshot."""
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a.sst").write_bytes(random.Random(1).randbytes(500_000))
    (directory / "CURRENT").write_bytes(b"a\n")
    (directory / "empty").touch()
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def put(snapshots: Snapshots, files: Path, position: int) -> Snapshot:
    async with snapshots.turn() as ours:
        assert ours
        return await snapshots.put(files, position)


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)


# -- there and back ------------------------------------------------------------------------------------------------


async def test_snapshot_survives_a_round_trip(cluster: Cluster, tmp_path: Path) -> None:
    dice = random.Random(2)
    values = {b"key %d" % number: dice.randbytes(1_000) for number in range(4_000)}
    with Table(tmp_path / "data") as table:
        table.write(1_234, values)
        node = await cluster.node()
        assert await node.newest() is None
        sent: list[int] = []
        async with node.turn() as ours, node.side.entered(staged(table.storage)) as staging:
            assert ours
            record: bytes | None = await node.side.run(node_record, staging, POSITION)
            position = int(record or b"")
            made = await node.put(staging, position, sent.append)
    assert (made.position, made.created, made.node) == (1_234, IDENTITY.created, "node-1")
    assert made.size > 4_000_000
    assert sum(sent) == 2 * made.size, "sent, and read back"

    joiner = await cluster.node("node-2")
    newest = await joiner.newest()
    assert newest == made
    got: list[int] = []
    async with joiner.pinned(newest):
        await joiner.fetch(newest, tmp_path / "fetched", got.append)
    assert sum(got) == made.size
    install(tmp_path / "fetched", tmp_path / "new")
    with Table(tmp_path / "new") as again:
        assert {key: again.read(key) for key in values} == values
        assert node_record(tmp_path / "data", POSITION) == b"1234"


async def test_buckets_have_three_replicas_and_others_are_refused(cluster: Cluster) -> None:
    node = await cluster.node()
    js = await cluster.js()
    for stream in (f"OBJ_{cluster.bucket}", f"KV_CAIRN_{cluster.name}_leases"):
        info = await js.stream_info(stream)
        assert info.config.num_replicas == 3
        assert info.cluster is not None
        assert len(info.cluster.replicas or ()) == 2
    await node.open(IDENTITY)  # as a node that starts again

    await js.delete_stream(f"OBJ_{cluster.bucket}")
    await js.create_object_store(cluster.bucket, ObjectStoreConfig(replicas=1))
    with pytest.raises(OptionError, match=r"with 1 replicas, .* snapshots need 3"):
        await cluster.node("node-2")
    await js.delete_stream(f"OBJ_{cluster.bucket}")
    await js.delete_key_value(f"CAIRN_{cluster.name}_leases")
    await js.create_key_value(KeyValueConfig(f"CAIRN_{cluster.name}_leases", replicas=3))
    with pytest.raises(OptionError, match="max age of 0"):
        await cluster.node("node-3")


async def test_other_programs_can_read_a_snapshot(cluster: Cluster, files: Path) -> None:
    made = await put(await cluster.node(), files, 7)
    store = await (await cluster.js()).object_store(cluster.bucket)
    (listed,) = await store.list()
    assert listed.name == made.name == f"{7:020}@{IDENTITY.created}"
    got = await store.get(made.name)  # compares the digest
    assert got.data is not None
    assert len(got.data) == made.size


# -- how many are kept, and the floor ------------------------------------------------------------------------------


async def test_two_snapshots_are_kept_and_the_older_bounds_the_log(cluster: Cluster, files: Path) -> None:
    node, other = await cluster.node(), await cluster.node("node-2")
    assert await node.floor() == 0
    for position, floor in ((10, 0), (20, 10), (30, 20)):
        await put(node, files, position)
        assert await other.floor() == floor
    kept = await other.listed()
    assert [snapshot.position for snapshot in kept] == [30, 20]
    assert await cluster.chunks() == {f"$O.{cluster.bucket}.C.{snapshot.nuid}": snapshot.chunks for snapshot in kept}, (
        "what is not kept takes no room"
    )


async def test_one_snapshot_per_log_index_and_none_before_the_newest(cluster: Cluster, files: Path) -> None:
    node = await cluster.node()
    await put(node, files, 10)
    for position in (9, 10):
        with pytest.raises(SnapshotError, match=r"snapshot 0+10@.* exists already"):
            await put(node, files, position)
    assert [snapshot.position for snapshot in await node.listed()] == [10]


async def test_snapshots_of_another_stream_are_ignored_and_kept(cluster: Cluster, files: Path) -> None:
    before = await cluster.node(identity=Identity("CAIRN_test", 1_600_000_000_000_000_000))
    for position in (100, 200):
        await put(before, files, position)
    node = await cluster.node()
    assert await node.newest() is None
    assert await node.floor() == 0
    for position in (1, 2, 3):
        await put(node, files, position)
    assert [snapshot.position for snapshot in await node.listed()] == [3, 2]
    assert [snapshot.position for snapshot in await before.listed()] == [200, 100]
    assert await before.floor() == 100


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _missed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MISSING_SECONDS", 0.1)


@pytest.mark.usefixtures("_missed_soon")
async def test_damaged_snapshot_is_refused_and_an_older_one_used(cluster: Cluster, files: Path, tmp_path: Path) -> None:
    node = await cluster.node()
    both = [await put(node, files, position) for position in (1, 2)]
    js = await cluster.js()
    stream, subject = f"OBJ_{cluster.bucket}", f"$O.{cluster.bucket}.C.{both[1].nuid}"

    first = await js.get_msg(stream, seq=1, subject=subject, next=True)
    assert first.seq is not None
    await js.delete_msg(stream, first.seq)
    with pytest.raises(Damaged):
        await node.fetch(both[1], tmp_path / "fetched")

    await js.purge_stream(stream, subject=subject)
    for byte in b"wxyz":
        await js.publish(subject, bytes([byte]) * 100)
    with pytest.raises(Damaged):
        await node.fetch(both[1], tmp_path / "fetched")
    await js.purge_stream(stream, subject=subject)

    archive = b"".join([piece async for piece in node._chunks(both[0])])
    flipped = bytearray(archive)
    flipped[archive.index(b"a\n")] ^= 1
    for begin in range(0, len(flipped), CHUNK):
        await js.publish(subject, bytes(flipped[begin : begin + CHUNK]))
    with pytest.raises(Damaged, match="its SHA-256 differs"):
        await node.fetch(both[1], tmp_path / "fetched")
    assert names(tmp_path) == ["files"], "nothing is left of it"

    await node.remove(both[1])
    newest = await node.newest()
    assert newest == both[0]
    await node.fetch(newest, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(files)


class LosesChunk(Snapshots):
    """A snapshot store that loses the first chunk before it reads the chunk back."""

    async def _verify(self, snapshot: Snapshot, progress: Callable[[int], None]) -> None:
        first = await self._js.get_msg(self._stream, seq=1, subject=self._chunks_of(snapshot.nuid), next=True)
        await self._js.delete_msg(self._stream, first.seq or 0)
        await super()._verify(snapshot, progress)


class LosesAll(Snapshots):
    """A snapshot store whose chunks another node deletes after they were read back."""

    async def _record(self, snapshot: Snapshot, last: int) -> None:
        await self._purge(self._chunks_of(snapshot.nuid))
        await super()._record(snapshot, last)


class LosesAnswer(Snapshots):
    """A snapshot store that loses the answer to its record."""

    recorded = True

    async def _record(self, snapshot: Snapshot, last: int) -> None:
        if self.recorded:
            await super()._record(snapshot, last)
        raise Unavailable("nobody knows")


async def test_snapshot_of_unknown_outcome_is_whole_or_removed(cluster: Cluster, files: Path) -> None:
    node = await cluster.node(kind=LosesAnswer)
    assert isinstance(node, LosesAnswer)
    for position, node.recorded in ((1, True), (2, False)):
        with pytest.raises(Unavailable):
            await put(node, files, position)
    (counts,) = await node.listed()
    assert counts.position == 1
    assert len(await cluster.chunks()) == 2
    made = await put(await cluster.node("node-2"), files, 3)
    assert await cluster.chunks() == {
        f"$O.{cluster.bucket}.C.{snapshot.nuid}": snapshot.chunks for snapshot in (counts, made)
    }


@pytest.mark.parametrize(
    ("kind", "why"), [(LosesChunk, "is missing|SHA-256"), (LosesAll, "another process has written")]
)
@pytest.mark.usefixtures("_missed_soon")
async def test_snapshot_that_differs_from_the_upload_never_counts(
    cluster: Cluster, files: Path, kind: type[Snapshots], why: str
) -> None:
    node = await cluster.node(kind=kind)
    with pytest.raises(SnapshotError, match=why):
        await put(node, files, 1)
    assert await node.listed() == []
    assert await cluster.chunks() == {}


async def test_failed_upload_leaves_no_snapshot(cluster: Cluster, files: Path) -> None:
    node = await cluster.node()

    def stop(_: int) -> None:
        raise RuntimeError("enough")

    async with node.turn():
        with pytest.raises(RuntimeError, match="enough"):
            await node.put(files, 1, stop)
    assert await cluster.chunks() == {}

    js = await cluster.js()  # and one whose process was killed
    await js.publish(f"$O.{cluster.bucket}.C.left", b"over")
    assert await node.newest() is None
    made = await put(node, files, 2)
    assert list(await cluster.chunks()) == [f"$O.{cluster.bucket}.C.{made.nuid}"]


async def test_cancelled_or_interrupted_fetch_leaves_no_obstacle(cluster: Cluster, files: Path, tmp_path: Path) -> None:
    node = await cluster.node()
    made = await put(node, files, 1)
    begun = asyncio.Event()
    fetching = asyncio.create_task(node.fetch(made, tmp_path / "fetched", lambda _: begun.set()))
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await node.side.run(lambda: None)  # the last that it was given is done
    assert names(tmp_path) == ["files"]

    left = tmp_path / ".fetched.part"
    left.mkdir()
    (left / "a.sst").touch()
    await node.fetch(made, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(files)
    with pytest.raises(OptionError, match="is not empty"):
        await node.fetch(made, tmp_path / "fetched")


async def test_full_nats_is_reported(cluster: Cluster, files: Path) -> None:
    node = await cluster.node()
    js = await cluster.js()
    config = (await js.stream_info(f"OBJ_{cluster.bucket}")).config
    config.max_bytes = 300_000
    await js.update_stream(config)
    with pytest.raises(Unavailable, match="writing a snapshot: NATS reports 'maximum bytes exceeded'"):
        await put(node, files, 1)
    assert await node.listed() == []
    assert await cluster.chunks() == {}


# -- pins and turns ------------------------------------------------------------------------------------------------


async def test_pinned_snapshot_and_its_log_are_kept(cluster: Cluster, files: Path, tmp_path: Path) -> None:
    node, joiner = await cluster.node(), await cluster.node("node-2")
    pinned = await put(node, files, 10)
    async with joiner.pinned(pinned) as lease:
        for position in (20, 30, 40):
            await put(node, files, position)
            assert await node.floor() == 10
        await asyncio.sleep(1.5 * LEASE_SECONDS)  # it is renewed
        assert lease.held
        assert await node.floor() == 10
        assert [snapshot.position for snapshot in await node.listed()] == [40, 30, 10]
        await joiner.fetch(pinned, tmp_path / "fetched")
    assert await node.floor() == 30
    await put(node, files, 50)
    assert [snapshot.position for snapshot in await node.listed()] == [50, 40]
    with pytest.raises(SnapshotError, match="does not exist any more"):
        async with joiner.pinned(pinned):
            pass


async def test_pin_and_lease_expire_without_renewal(cluster: Cluster, files: Path) -> None:
    node = await cluster.node()
    pinned = await put(node, files, 10)
    for position in (20, 30):
        await put(node, files, position)
    pinned = (await node.listed())[-1]
    joiner = await cluster.node("node-2")
    async with contextlib.AsyncExitStack() as stack:
        lease: Lease = await stack.enter_async_context(joiner.pinned(pinned))
        assert await stack.enter_async_context(joiner.turn())
        async with node.turn() as ours:
            assert not ours
        await put_refused(node, files)
        assert await node.floor() == 20
        await cluster.die()

        async def turn_comes() -> bool:
            async with node.turn() as ours:
                if ours:
                    await node.put(files, 40)
                return ours

        await eventually(turn_comes)
        assert not lease.held, "and knows it"
        with pytest.raises(SnapshotError, match="no turn"):
            await joiner.put(files, 50)

        async def floor_rises() -> bool:
            return await node.floor() == 30

        await eventually(floor_rises)


class Renewing(Leases):
    """Leases whose last renewal arrives after the read that precedes the release."""

    async def _read(self, key: str) -> tuple[int, bytes] | None:
        found = await super()._read(key)
        if found is not None and not self.renewed:
            self.renewed = True
            assert await self.write(key, found[1], found[0]) is not None
        return found

    renewed = False


async def test_lease_renewed_during_its_release_is_released(cluster: Cluster) -> None:
    leases = Renewing(await cluster.nc(), f"{cluster.name}_leases", seconds=60.0)
    await leases.open()
    lease = await leases.take("turn", {"node": "node-1"})
    assert lease is not None
    await lease.release()
    assert leases.renewed
    assert await leases.info("turn") is None


async def put_refused(snapshots: Snapshots, files: Path) -> None:
    with pytest.raises(SnapshotError, match="no turn"):
        await snapshots.put(files, 1_000)


async def test_number_of_pins_is_bounded(cluster: Cluster, files: Path) -> None:
    node = await cluster.node()
    made = await put(node, files, 10)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(PINS_MAX):
            joiner = await cluster.node(f"joiner-{number}")
            await stack.enter_async_context(joiner.pinned(made))
        with pytest.raises(PinsTaken, match=f"{PINS_MAX} nodes are already joining"):
            async with node.pinned(made):
                pass
    async with node.pinned(made):
        pass


async def test_one_of_many_holds_the_lease(cluster: Cluster) -> None:
    nodes = [await cluster.node(f"node-{number}") for number in range(4)]
    turns: list[bool] = []
    all_asked = asyncio.Event()

    async def one(node: Snapshots) -> None:
        async with node.turn() as ours:
            turns.append(ours)
            if len(turns) == len(nodes):
                all_asked.set()
            await all_asked.wait()

    await asyncio.gather(*map(one, nodes))
    assert sorted(turns) == [False, False, False, True]
    async with nodes[0].turn() as ours:
        assert ours, "it was given back"


# -- servers that fail ---------------------------------------------------------------------------------------------


async def leader_of(nats: Nats, cluster: Cluster) -> NatsServer:
    """Return the server that leads the snapshots' stream."""
    info = await (await cluster.js()).stream_info(f"OBJ_{cluster.bucket}")
    assert info.cluster is not None
    return next(server for server in nats.servers if server.config.name == info.cluster.leader)


async def while_it_goes_on(do: Callable[[Callable[[int], None]], Awaitable[object]], hurt: Callable[[], None]) -> None:
    """Inject a fault into a server after a chunk was sent or received."""
    begun = asyncio.Event()
    doing = asyncio.ensure_future(do(lambda _: begun.set()))
    await begun.wait()
    hurt()
    await doing


@pytest.fixture
def more_files(tmp_path: Path) -> Path:
    """Return a directory whose snapshot takes some time."""
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a.sst").write_bytes(random.Random(3).randbytes(2_000_000))
    return directory


@pytest.mark.parametrize("hurt", [NatsServer.kill, NatsServer.pause], ids=["killed", "paused"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # see `Cluster.close`
async def test_snapshot_upload_survives_a_leader_failure(
    nats: Nats, cluster: Cluster, more_files: Path, tmp_path: Path, hurt: Callable[[NatsServer], None]
) -> None:
    # Small chunks: NATS would wait for 10 s (its write_deadline) once they fill the connection to a paused server.
    node = await cluster.node(chunk=16 * KIB, lease_seconds=60.0)
    leader = await leader_of(nats, cluster)
    async with node.turn():
        await while_it_goes_on(lambda progress: node.put(more_files, 1, progress), lambda: hurt(leader))
    await asyncio.to_thread(nats.heal)  # what a paused server still had to say comes now

    there: list[Snapshot] = []

    async def whole() -> bool:  # that server takes itself for the leader for a moment, and may answer any of these
        there[:] = await node.listed()
        return await cluster.chunks() == {f"$O.{cluster.bucket}.C.{one.nuid}": one.chunks for one in there} != {}

    await eventually(whole)
    (made,) = there
    await node.fetch(made, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == contents(more_files)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # see `Cluster.close`
async def test_snapshot_fetch_survives_a_server_failure(
    nats: Nats, cluster: Cluster, more_files: Path, tmp_path: Path
) -> None:
    node = await cluster.node(chunk=16 * KIB)
    made = await put(node, more_files, 1)
    leader = await leader_of(nats, cluster)
    other = next(server for server in nats.servers if server is not leader)
    await while_it_goes_on(lambda progress: node.fetch(made, tmp_path / "fetched", progress), other.pause)
    assert contents(tmp_path / "fetched") == contents(more_files)

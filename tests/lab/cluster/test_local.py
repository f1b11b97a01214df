"""A local cluster: start, status, injected faults, and which processes are restarted."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import cairnkv
from cairnkv.errors import OptionError
from cairnkv.lab.cluster import ClusterError, LocalCluster, Process, State, end_left_over, watch
from cairnkv.lab.cluster.child import Identity, identity
from cairnkv.lab.cluster.health import READY, Health
from cairnkv.lab.cluster.state import load
from cairnkv.lab.cluster.supervised import BACKOFF_FIRST
from cairnkv.lab.cluster.supervisor import Supervisor
from cairnkv.lab.cluster.topology import ClusterSpec
from cairnkv.limits import MIB
from tests.lab.cluster.conftest import Told
from tests.lab.cluster.stand_in import failing, stand_in

PATIENCE = 20.0


def process(cluster: LocalCluster, name: str) -> Process:
    return next(one for host in cluster.hosts for one in host.processes if one.name == name)


def states(cluster: LocalCluster, number: int) -> list[State]:
    return [one.state for one in cluster.hosts[number - 1].processes]


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def whos(cluster: LocalCluster) -> list[Identity]:
    saved = load(cluster.directory)
    assert saved is not None
    assert saved.run is not None
    return [*saved.run.processes.values()]


def listens(address: str) -> bool:
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port), 0.5):
            return True
    except OSError:
        return False


# -- what there is -------------------------------------------------------------------------------------------------


def test_all_processes_are_ready_after_up(cluster: LocalCluster) -> None:
    assert [host.number for host in cluster.hosts] == [1, 2, 3]
    for number in (1, 2, 3):
        assert states(cluster, number) == [State.READY, State.READY]
    for address in cluster.addresses:
        with cairnkv.connect(address) as kv:
            assert kv.ping() == "PONG"
    with cairnkv.connect(cluster.url) as kv:
        assert kv.ping() == "PONG"


def test_every_nats_server_syncs_and_has_its_share_of_the_disk(cluster: LocalCluster) -> None:
    for number in (1, 2, 3):
        config = (cluster.directory / f"nats-{number}" / "nats.conf").read_text()
        assert "sync_interval: always" in config
        assert 'ping_interval: "1s"' in config, "or what is healed comes back late"
        (line,) = [line for line in config.splitlines() if "max_file_store" in line]
        disk = os.statvfs(cluster.directory)
        assert 2 * cluster.log_limit <= int(line.split()[1]) <= disk.f_blocks * disk.f_frsize // 3


def test_state_file_lists_all_processes(cluster: LocalCluster) -> None:
    pids = {one.pid for host in cluster.hosts for one in host.processes}
    assert {whom.pid for whom in whos(cluster)} == pids
    assert all(identity(whom.pid) == whom for whom in whos(cluster))


def test_command_lines_contain_no_password(cluster: LocalCluster) -> None:
    secret = urlsplit(cluster.nats_urls[0]).password
    assert secret
    for whom in whos(cluster):
        assert secret.encode() not in Path(f"/proc/{whom.pid}/cmdline").read_bytes()
        assert cluster.nats_system.encode() not in Path(f"/proc/{whom.pid}/cmdline").read_bytes()


# -- what is done to it --------------------------------------------------------------------------------------------


def test_killed_host_stays_down_until_it_is_started(cluster: LocalCluster, told: Told) -> None:
    cluster.kill(2)
    assert states(cluster, 2) == [State.KILLED, State.KILLED]
    assert not any(listens(one.address) for one in cluster.hosts[1].processes)
    time.sleep(BACKOFF_FIRST + 0.3)
    assert states(cluster, 2) == [State.KILLED, State.KILLED]
    cluster.start(2)
    assert states(cluster, 2) == [State.READY, State.READY]
    assert told == []


def test_kill_of_a_process_leaves_the_others_running(cluster: LocalCluster) -> None:
    cluster.kill("node-3")
    assert states(cluster, 3) == [State.READY, State.KILLED]
    cluster.start(3)
    assert states(cluster, 3) == [State.READY, State.READY]


def test_paused_node_keeps_its_connections_and_is_silent(cluster: LocalCluster) -> None:
    with cairnkv.connect(cluster.addresses[0], timeout=0.3, attempts=1) as kv:
        kv.ping()
        cluster.pause("node-1")
        assert states(cluster, 1) == [State.READY, State.PAUSED]
        with pytest.raises(cairnkv.TimedOut):
            kv.ping()
        cluster.resume(1)
        cluster.wait_ready()
        assert states(cluster, 1) == [State.READY, State.READY]
        assert kv.ping() == "PONG"


def test_paused_host_can_be_killed(cluster: LocalCluster) -> None:
    cluster.pause(1)
    cluster.kill(1)
    assert states(cluster, 1) == [State.KILLED, State.KILLED]


@pytest.mark.parametrize("name", ["nats-1", "node-1"])
def test_crashed_process_is_restarted(cluster: LocalCluster, told: Told, name: str) -> None:
    before = process(cluster, name)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: process(cluster, name).restarts == before.restarts + 1)
    cluster.wait_ready()
    after = process(cluster, name)
    assert (after.state, after.why) == (State.READY, "ended by SIGKILL")
    assert after.pid != before.pid
    assert any(line.startswith(f"{name} ended by SIGKILL; it restarts in ") for line in told)


def test_wiped_host_starts_without_data(cluster: LocalCluster) -> None:
    with cairnkv.connect(cluster.addresses[1]) as kv:
        kv["wiped"] = "no"
    cluster.wipe(2)
    assert not (cluster.directory / "nats-2" / "data").exists()
    cluster.start(2)
    with cairnkv.connect(cluster.addresses[1]) as kv:
        assert "wiped" not in kv


@pytest.mark.parametrize(
    ("verb", "what", "message"),
    [
        ("kill", 4, "is not in this cluster"),
        ("start", 1, "host 1 runs already"),
        ("resume", "node-1", "node-1 is not paused"),
        ("cut", 1, "--namespaces"),
        ("heal", 1, "--namespaces"),
        ("cut", "node-1", "needs a whole host"),
    ],
)
def test_meaningless_requests_are_refused(cluster: LocalCluster, verb: str, what: int | str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        getattr(cluster, verb)(what)


def test_killed_process_cannot_be_killed_again(cluster: LocalCluster) -> None:
    cluster.kill("node-2")
    with pytest.raises(OptionError, match="cannot kill node-2: it is killed already"):
        cluster.kill("node-2")
    cluster.kill(2)  # the other process of the host still runs
    cluster.wipe(2)


def test_state_of_a_node_is_in_the_status_and_in_events(
    cluster: LocalCluster, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {cluster.addresses[0]: Health(State.NO_QUORUM), cluster.addresses[1]: Health(State.STOPPED, "EIO")}
    monkeypatch.setattr(watch, "probe_node", lambda address: said.get(address, READY))
    eventually(lambda: [one.node.state for one in cluster.hosts] == [State.NO_QUORUM, State.STOPPED, State.READY])
    command = f"restart it: `cairn cluster start node-2 --dir {cluster.directory}`"
    assert process(cluster, "node-2").why == f"EIO; {command}"
    eventually(lambda: told == ["node-1 is without quorum", f"node-2 is stopped: EIO; {command}"])
    pid = process(cluster, "node-2").pid
    said.clear()
    cluster.start("node-2")
    assert process(cluster, "node-2").pid != pid
    eventually(lambda: process(cluster, "node-1").state is State.READY)
    eventually(lambda: "node-1 is ready again" in told)
    with pytest.raises(OptionError, match="runs already"):
        cluster.start("node-2")


def test_digests_of_users_are_in_the_status(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = dict(zip(cluster.addresses, ("aa", "bb", "aa"), strict=True))
    monkeypatch.setattr(watch, "probe_node", lambda address: Health(State.READY, users=digests[address]))
    eventually(lambda: [one.node.users for one in cluster.hosts] == ["aa", "bb", "aa"])
    assert [one.node.state for one in cluster.hosts] == [State.READY] * 3
    cluster.kill("node-2")
    assert process(cluster, "node-2").users == ""


def test_hanging_node_is_silent(cluster: LocalCluster, told: Told) -> None:
    pid = process(cluster, "node-1").pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: process(cluster, "node-1").state is State.UNRESPONSIVE)
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: process(cluster, "node-1").state is State.READY)
    eventually(lambda: [line.partition(":")[0] for line in told] == ["node-1 is unresponsive", "node-1 is ready again"])


def test_stopped_process_cannot_be_paused(cluster: LocalCluster) -> None:
    cluster.kill("nats-2")
    with pytest.raises(OptionError, match="cannot pause nats-2: it is killed"):
        cluster.pause("nats-2")


# -- by its directory ----------------------------------------------------------------------------------------------


def test_cluster_is_found_by_its_directory(cluster: LocalCluster) -> None:
    with LocalCluster.at(cluster.directory) as found:
        for what in ("addresses", "url", "name", "nats_urls", "nats_system", "can_cut", "log_limit", "directory"):
            assert getattr(found, what) == getattr(cluster, what)
        found.kill(1)
        assert states(cluster, 1) == [State.KILLED, State.KILLED]
        found.start(1)
        with pytest.raises(OptionError, match="is not in this cluster"):
            found.pause("seven")
    assert states(cluster, 1) == [State.READY, State.READY], "who found it does not stop it"


def test_second_supervisor_is_refused(cluster: LocalCluster) -> None:
    with pytest.raises(ClusterError, match=r"runs in .* already; `cairn cluster status"):
        LocalCluster.up(cluster.directory, command=stand_in)
    assert states(cluster, 1) == [State.READY, State.READY]


@pytest.mark.parametrize("line", [b"\n", b"{\n", b"[]\n", b'{"do": "dance"}\n', b'{"do": "kill"}\n', b"\xff\n", b""])
def test_malformed_request_gets_an_error(cluster: LocalCluster, line: bytes) -> None:
    saved = load(cluster.directory)
    assert saved is not None
    assert saved.run is not None
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(saved.run.socket)
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer = json.loads(connection.makefile("rb").readline())
    assert answer["caller"] is True
    assert "request" in answer["error"]


def test_missing_cluster_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no cluster runs in .*; `cairn cluster up --dir"):
        LocalCluster.at(tmp_path)
    assert end_left_over(tmp_path) == ()


# -- beginning and end ---------------------------------------------------------------------------------------------


def test_cluster_stops_completely_and_restarts_with_its_data(tmp_path: Path) -> None:
    """In a directory longer than a Unix socket path, with a supervisor that crashes, and the next one."""
    directory = tmp_path / ("long" * 30)
    program = (
        "import sys\nfrom cairnkv.lab.cluster import LocalCluster\nfrom tests.lab.cluster.stand_in import stand_in\n"
        "LocalCluster.up(sys.argv[1], name='lasting', log_limit=64 * 2**20, command=stand_in)\n"
        "print('up', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as crashing:
        assert crashing.stdout is not None
        assert crashing.stdout.readline() == b"up\n"
        found = LocalCluster.at(directory)
        with cairnkv.connect(found.addresses[0]) as kv:
            kv["lasting"] = "yes"
        crashing.kill()
    with pytest.raises(
        ClusterError, match=r"its supervisor crashed and left nats-1 \(pid \d+\), .* node-3 .* stop --dir"
    ):
        LocalCluster.at(directory)
    left = whos(found)
    told: list[str] = []
    for asked in ({"nodes": 5}, {"name": "other"}, {"log_limit": 65 * MIB}):
        with pytest.raises(OptionError, match="a cluster of 3 nodes named lasting, with a log of 64 MiB"):
            LocalCluster.up(directory, **asked, command=stand_in, notify=told.append)
    with LocalCluster.up(directory, command=stand_in, notify=told.append) as cluster:
        assert told[0].startswith("ending processes that a crashed supervisor left: nats-1, node-1, ")
        assert not any(identity(whom.pid) == whom for whom in left)
        assert (cluster.name, cluster.log_limit) == ("lasting", 64 * MIB)
        with cairnkv.connect(cluster.addresses[0]) as kv:
            assert kv["lasting"] == "yes"
        cluster.pause(1)
        cluster.kill(2)
        left = whos(cluster)
        assert len(left) == 4
    assert not any(identity(whom.pid) == whom for whom in left)
    saved = load(directory)
    assert saved is not None
    assert saved.run is None


def test_failed_start_of_a_node_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    seen: list[Identity] = []

    def notify(_: str) -> None:
        seen.extend(whos(LocalCluster.at(tmp_path)))

    with pytest.raises(ClusterError, match=r"node-\d ended with exit code 1; .*node.log:\nno serving today"):
        LocalCluster.up(tmp_path, command=failing, notify=notify)
    assert seen
    assert not any(identity(whom.pid) == whom for whom in seen)


@pytest.mark.parametrize("nodes", [0, 1, 2, 4, 7])
def test_unsupported_numbers_of_nodes_are_refused(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(OptionError, match=f"3 or 5 nodes, not {nodes}: 3 hosts store the log"):
        LocalCluster.up(tmp_path / "new", nodes=nodes)
    assert not (tmp_path / "new").exists()


def test_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(OptionError, match="has other files, and no cluster"):
        LocalCluster.up(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_log_larger_than_the_free_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has room for"):
        LocalCluster.up(tmp_path, log_limit=2**60)
    with pytest.raises(OptionError, match="the minimum is 64 MiB"):
        LocalCluster.up(tmp_path, log_limit=MIB)


def test_invalid_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="the cluster's name is 1 to 64 letters"):
        LocalCluster.up(tmp_path, name="a.b")


def test_ports_in_use_are_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OptionError, match=rf"cannot use port {port}: .*--port 0"):
            LocalCluster.up(tmp_path, port=port)
    with pytest.raises(OptionError, match="65400 is too high"):
        LocalCluster.up(tmp_path, port=65_400)
    assert load(tmp_path) is None, "what could not be started is no plan for the next attempt"


def test_cluster_continues_if_events_cannot_be_written(tmp_path: Path) -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError(text)

    supervisor = Supervisor(tmp_path / "cluster", ClusterSpec(command=stand_in), notify=gone)
    supervisor.start()
    try:
        cluster = LocalCluster(supervisor.execute, supervisor)
        for restarts in (1, 2):
            pid = process(cluster, "node-1").pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            eventually(lambda wanted=restarts: process(cluster, "node-1").restarts == wanted)  # type: ignore[misc]
            eventually(lambda: process(cluster, "node-1").state is State.READY)
    finally:
        supervisor.stop()

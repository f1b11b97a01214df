"""`cairn cluster`: its help, its output, and a cluster from `up` to Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli.cluster import _ACTIONS
from cairnkv.lab.cluster import LocalCluster
from cairnkv.lab.cluster.state import load
from cairnkv.testing import running_server
from tests.cli.conftest import SECONDS, Call
from tests.support.raw import eventually
from tests.support.raw_resp import Peer

UP = [sys.executable, "-m", "tests.lab.cluster.stand_in", "cluster", "up"]

ROWS = [f"{what}-{number}" for number in (1, 2, 3) for what in ("nats", "node")]


@pytest.mark.parametrize("action", _ACTIONS)
def test_every_action_has_a_help_text(cairn_here: Call, action: str) -> None:
    said = cairn_here("cluster", action, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: cairn cluster {action} ".encode())
    assert f"cairn cluster {action} " in said.out.decode().partition("examples:")[2]
    assert f"  {action} " in cairn_here("cluster", "--help").out.decode()


@pytest.mark.parametrize("action", _ACTIONS)
def test_every_action_needs_a_directory(cairn_here: Call, action: str) -> None:
    said = cairn_here("cluster", action)
    assert (said.code, said.out) == (2, b"")
    assert re.match(rf"cairn: cluster {action}: .*(--dir|DIR)", said.err)


@pytest.mark.parametrize("action", ["dance", "UP", ""])
def test_unknown_actions_are_refused(cairn_here: Call, action: str) -> None:
    said = cairn_here("cluster", action)
    assert said.code == 2
    assert "up" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "1"], "a local cluster has 3 or 5 nodes, not 1: 3 hosts store the log"),
        (["--nodes", "4"], "3 or 5 nodes, not 4"),
        (["--nodes", "many"], "invalid int value: 'many'"),
        (["--port", "65536"], "a number from 0 to 65,535"),
        (["--log-limit", "1MiB"], "the minimum is 64 MiB"),
        (["--log-limit", "much"], "--log-limit"),
        (["--name", "a b"], "letters, digits, - and _"),
    ],
)
def test_up_refuses_wrong_options(cairn_here: Call, tmp_path: Path, arguments: list[str], said: str) -> None:
    heard = cairn_here("cluster", "up", "--dir", str(tmp_path / "new"), *arguments)
    assert (heard.code, heard.out) == (2, b"")
    assert said in heard.err
    assert heard.err.count("\n") == 1


def test_namespaces_need_root(cairn_here: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = cairn_here("cluster", "up", "--dir", str(tmp_path), "--namespaces")
    assert said.code == 2
    assert "namespaces need root" in said.err


@pytest.mark.parametrize(("action", "code"), [("status", 1), ("stop", 2), ("kill", 2), ("start", 2), ("cut", 2)])
def test_actions_without_a_running_cluster_fail_with_a_message(
    cairn_here: Call, tmp_path: Path, action: str, code: int
) -> None:
    node = [] if action in ("status", "stop") else ["1"]
    said = cairn_here("cluster", action, *node, "--dir", str(tmp_path))
    assert (said.code, said.out) == (code, b"")
    assert said.err == f"cairn: no cluster runs in {tmp_path}; `cairn cluster up --dir {tmp_path}` starts one\n"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A cluster that runs: its directory, and what `up` has printed."""
    directory = tmp_path_factory.mktemp("cluster")
    with subprocess.Popen(
        [*UP, "--dir", directory, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or "ready in" not in lines[-1]:
            lines.append(process.stdout.readline())
            assert lines[-1]
        yield directory, lines
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (0, "")
        assert re.fullmatch(r"(\S+ .*\n)*\S+ stopping\n\S+ stopped\n", err)


def test_up_prints_the_nodes_and_a_command_to_try(up: tuple[Path, list[str]]) -> None:
    directory, lines = up
    heading, *rows, empty, ready = lines
    assert heading.split() == ["host", "process", "address", "pid", "state"]
    assert [row.split()[1] for row in rows] == ROWS
    assert all(re.fullmatch(r"\d +\S+ +(cairn|nats)://127\.0\.0\.1:\d+ +\d+ +ready\n", row) for row in rows)
    assert empty == "\n"
    url = LocalCluster.at(directory).url
    assert re.fullmatch(
        rf"cluster cairn ready in \d+\.\d s, pid \d+, on {url}; try: .*(cairn|-m cairnkv) set greeting hello "
        rf"--url {url}\n",
        ready,
    )


def test_status_shows_injected_faults(up: tuple[Path, list[str]], cairn_here: Call) -> None:
    directory = str(up[0])

    def states() -> dict[str, str]:
        rows = cairn_here("cluster", "status", "--dir", directory).out.decode().splitlines()[1:]
        return {row.split()[1]: " ".join(row.split()[4:]) for row in rows}

    def done(*arguments: str) -> str:
        said = cairn_here("cluster", *arguments, "--dir", directory)
        assert (said.code, said.err) == (0, "")
        return said.out.decode()

    ready = dict.fromkeys(ROWS, "ready")
    assert states() == ready
    assert done("kill", "node-2") == "node-2: killed\n"
    assert done("pause", "3") == "host 3: paused\n"
    assert states() == ready | {"node-2": "killed", "nats-3": "paused", "node-3": "paused"}
    assert done("resume", "3") == "host 3: resumed\n"
    assert done("start", "2") == "host 2: ready\n"
    LocalCluster.at(directory).wait_ready()  # what was away catches up first
    assert states() == ready
    with pytest.raises(cairnkv.CairnError, match="whole host"):
        LocalCluster.at(directory).cut("node-1")
    said = cairn_here("cluster", "cut", "1", "--dir", directory)
    assert (said.code, said.out) == (2, b"")
    assert "start it with --namespaces" in said.err


def test_status_prints_json(up: tuple[Path, list[str]], cairn_here: Call) -> None:
    said = cairn_here("cluster", "status", "--json", "--dir", str(up[0]))
    described = json.loads(said.out)
    assert [host["node"]["state"] for host in described["hosts"]] == ["ready"] * 3
    assert (described["name"], described["namespaces"]) == ("cairn", False)
    assert b"password" not in said.out
    assert not re.search(rb"nats://[^\"]*@", said.out)


def test_status_shows_nodes_with_different_users(up: tuple[Path, list[str]], cairn_here: Call) -> None:
    """The processes of this cluster are servers without a log, so one of them can have another user."""
    directory = up[0]
    addresses = LocalCluster.at(directory).addresses
    assert len({digest_of(address) for address in addresses}) == 1
    assert "users" not in cairn_here("cluster", "status", "--dir", str(directory)).out.decode()
    host, _, port = addresses[1].removeprefix("cairn://").rpartition(":")
    with Peer((host, int(port))) as client:
        assert client.ask(b"ACL", b"SETUSER", b"new", b"on") == b"+OK\r\n"
        other = digest_of(addresses[1])
        text = f"the users of the nodes differ (node-1 and node-3: {digest_of(addresses[0])}; node-2: {other})"
        eventually(lambda: text in cairn_here("cluster", "status", "--dir", str(directory)).out.decode())
        described = json.loads(cairn_here("cluster", "status", "--json", "--dir", str(directory)).out)
        assert described["hosts"][1]["node"]["users"] == other
        assert client.ask(b"ACL", b"DELUSER", b"new") == b":1\r\n"
    eventually(lambda: "users" not in cairn_here("cluster", "status", "--dir", str(directory)).out.decode())


def test_status_of_nodes_by_their_addresses(up: tuple[Path, list[str]], cairn_here: Call, unused_url: str) -> None:
    addresses = [address.removeprefix("cairn://") for address in LocalCluster.at(up[0]).addresses]
    said = cairn_here("cluster", "status", "--url", f"cairn://{','.join(addresses)}")
    assert (said.code, said.out.decode().splitlines()) == (0, [f"{address}  ready" for address in addresses])
    away = unused_url.removeprefix("cairn://")
    said = cairn_here("cluster", "status", "--json", "--url", f"cairn://{addresses[0]},{away}/?connect_timeout=1")
    ready, missing = json.loads(said.out)["nodes"]
    assert (said.code, ready["state"], ready["users"]) == (1, "ready", digest_of(f"cairn://{addresses[0]}"))
    assert (missing["address"], missing["state"], missing["users"]) == (away, "unresponsive", "")
    with running_server(password="s3cret") as server:
        both = f"127.0.0.1:{server.server.port},{addresses[0]}"
        assert "unresponsive: NOAUTH" in cairn_here("cluster", "status", "--url", f"cairn://{both}").out.decode()
        said = cairn_here("cluster", "status", "--url", f"cairn://default:s3cret@{both}")
        assert "the users of the nodes differ (" in said.out.decode()


def digest_of(address: str) -> object:
    with cairnkv.connect(address) as node:
        return node.info()["users_digest"]


def test_second_up_is_refused(up: tuple[Path, list[str]], cairn_here: Call) -> None:
    said = cairn_here("cluster", "up", "--dir", str(up[0]))
    assert said.code == 2
    assert "a cluster runs in" in said.err


def test_up_on_a_terminal_is_coloured_and_ctrl_c_stops_it_cleanly(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen(
        [*UP, "--dir", tmp_path, "--port", "0"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        screen = ""
        while "ready in" not in screen:
            screen += os.read(ours, 10_000).decode()
        assert "\x1b[32mready\x1b[0m" in screen
        saved = load(tmp_path)
        assert saved is not None
        assert saved.run is not None
        assert len(saved.run.processes) == 6
        process.send_signal(signal.SIGINT)
        until = time.monotonic() + SECONDS
        while "stopped" not in screen:
            assert time.monotonic() < until
            screen += os.read(ours, 10_000).decode()
        assert process.wait(SECONDS) == 0
    os.close(ours)
    with pytest.raises(cairnkv.CairnError, match="no cluster runs"):
        LocalCluster.at(tmp_path)
    assert not any(Path(f"/proc/{whom.pid}").exists() for whom in saved.run.processes.values())


def test_up_stops_cleanly_when_its_terminal_is_closed(tmp_path: Path) -> None:
    """`up` can no longer write to it then."""
    with subprocess.Popen(
        [*UP, "--dir", tmp_path, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while b"ready in" not in process.stdout.readline():
            pass
        saved = load(tmp_path)
        assert saved is not None
        assert saved.run is not None
        process.stderr.close()
        process.send_signal(signal.SIGHUP)
        assert process.wait(SECONDS) == 0
    assert not any(Path(f"/proc/{whom.pid}").exists() for whom in saved.run.processes.values())


def test_stop_ends_the_processes_of_a_crashed_supervisor(tmp_path: Path, cairn_here: Call) -> None:
    with subprocess.Popen(
        [*UP, "--dir", tmp_path, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        while b"ready in" not in process.stdout.readline():
            pass
        process.kill()
    said = cairn_here("cluster", "status", "--dir", str(tmp_path))
    assert said.code == 1
    assert "its supervisor crashed and left nats-1 (pid " in said.err
    said = cairn_here("cluster", "stop", "--dir", str(tmp_path))
    assert (said.code, said.err) == (0, "")
    assert said.out.decode() == f"ended the processes of a crashed cluster: {', '.join(ROWS)}\n"

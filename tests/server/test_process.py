"""Start and end of a server process: readiness, help, addresses, Unix sockets, signals and the drain."""

import os
import re
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv.commands import Get, Ping, Set
from cairnkv.errors import AddressError, OptionError
from cairnkv.installation import PURE_VARIABLE
from cairnkv.limits import MIB, UNIX_PATH_MAX
from cairnkv.protocol.native import Response, write_command
from cairnkv.server.run import REPEATED_SIGNAL_SECONDS
from cairnkv.server.server import _cannot_listen
from cairnkv.server.settings import OPTIONS, Settings
from cairnkv.testing import running_server
from cairnkv.version import VERSION
from tests.server.conftest import Start
from tests.support.raw import OK, PING, PONG, RawClient, ServerProcess, eventually, serve

BOTH_SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where a server's standard error goes."""
    return tmp_path / "log"


# -- the beginning -------------------------------------------------------------------------------------------------


def test_readiness_line(log: Path) -> None:
    """One line: address, pid, mode, native or pure path, and a command to try from another terminal."""
    with ServerProcess("--port", "0", log=log) as server:
        assert re.fullmatch(
            rf"cairnkv {re.escape(VERSION)} ready on cairn://127\.0\.0\.1:\d+, pid {server.process.pid}, "
            r"mode in-memory, (native|pure Python) on (uvloop|epoll and asyncio|asyncio).*; "
            rf"try: .*(cairn|-m cairnkv) set greeting hello --url cairn://127\.0\.0\.1:{server.address[1]}",
            server.readiness,
        )
        assert server.address[1] != 0
        with RawClient(server.address) as client:
            assert client.ask(Ping(b"")) == PONG


def test_help_lists_every_option_with_its_default() -> None:
    result = serve("--help")
    assert result.returncode == 0
    text = " ".join(result.stdout.partition("options:")[2].split())
    for name, option in OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        described = re.search(rf"{flag} {re.escape(option.metavar)} ?(.*?)\(default: (.*?)\)", text)
        assert described, flag
        # A line may end at a hyphen of a word.
        assert described[1].strip().replace("- ", "-") == " ".join(option.help.split()).replace("- ", "-")
        assert described[2] == option.shown
    assert "--config FILE" in text


def test_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = serve("--port", str(other.getsockname()[1]))
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"cairn: cannot listen on 127\.0\.0\.1:\d+: another process does already; .*\n", result.stderr)


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), OSError(99, "Cannot assign")])
def test_unavailable_address_is_an_error(error: OSError) -> None:
    message = _cannot_listen(Settings(host="nowhere", insecure=True), error)
    assert "nowhere:6555" in message
    assert "Unknown error" not in message


def test_servers_on_port_0_have_different_ports(start_on_both: Start) -> None:
    one, other = start_on_both(), start_on_both()
    assert one.address != other.address
    for server in (one, other):
        with RawClient(server.address) as client:
            assert client.ask(Ping(b"")) == PONG


# -- Unix sockets --------------------------------------------------------------------------------------------------


def test_unix_socket_is_private_and_removed_at_the_end(tmp_path_unix: str) -> None:
    path = Path(tmp_path_unix)
    with running_server(unix=tmp_path_unix) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert server.call(lambda: server.server.addresses)[1] == f"cairn+unix://{path}"
        for address in (tmp_path_unix, server.address):
            with RawClient(address) as client:
                assert client.ask(Ping(b"")) == PONG
    assert not path.exists()


@pytest.mark.parametrize("length", [UNIX_PATH_MAX + 1, 300])
def test_unix_socket_with_a_long_path_is_refused(length: int) -> None:
    path = "/tmp/" + "é" * ((length - 5) // 2)
    path += "x" * (length - len(path.encode()))
    result = serve("--unix", path, "--no-tcp")
    assert (result.returncode, result.stdout) == (2, "")
    why = f"the system takes paths of at most {UNIX_PATH_MAX} bytes, and this has {length}"
    assert result.stderr.endswith(f"cairn: cannot listen on {path}: {why}\n")
    with pytest.raises(AddressError, match=f"has at most {UNIX_PATH_MAX} bytes, and this one has {length}"):
        cairnkv.connect(f"cairn+unix://{path}")


def test_unix_socket_with_the_longest_path_serves(tmp_path_unix: str) -> None:
    path = f"{tmp_path_unix}{'x' * (UNIX_PATH_MAX - len(tmp_path_unix))}"
    with running_server(unix=path, no_tcp=True) as server, cairnkv.connect(server.url) as kv:
        assert kv.ping() == "PONG"


def test_server_may_listen_on_a_unix_socket_only(tmp_path_unix: str, log: Path) -> None:
    with ServerProcess("--unix", tmp_path_unix, "--no-tcp", log=log) as server:
        assert f"ready on cairn+unix://{tmp_path_unix}, pid" in server.readiness
        assert server.readiness.endswith(f"--url cairn+unix://{tmp_path_unix}")
        with RawClient(tmp_path_unix) as client:
            assert client.ask(Ping(b"")) == PONG
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
    assert not Path(tmp_path_unix).exists()


def test_stale_unix_socket_is_replaced(tmp_path_unix: str, log: Path) -> None:
    with ServerProcess("--unix", tmp_path_unix, "--no-tcp", log=log) as server:
        server.signal(signal.SIGKILL)
        server.exit_code()
    assert Path(tmp_path_unix).is_socket()
    with running_server(unix=tmp_path_unix, no_tcp=True), RawClient(tmp_path_unix) as client:
        assert client.ask(Ping(b"")) == PONG


def test_live_unix_socket_is_refused(tmp_path_unix: str) -> None:
    with running_server(unix=tmp_path_unix):
        result = serve("--unix", tmp_path_unix, "--no-tcp")
        assert result.returncode == 2
        assert result.stderr == f"cairn: cannot listen on {tmp_path_unix}: a server listens there already\n"
        with RawClient(tmp_path_unix) as client:
            assert client.ask(Ping(b"")) == PONG


@pytest.mark.parametrize("kind", ["file", "directory", "symbolic link"])
def test_file_that_is_no_socket_is_kept(start_on_both: Start, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    match kind:
        case "file":
            path.write_text("data")
        case "directory":
            path.mkdir()
        case _:
            path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="is no socket"):
        start_on_both(unix=str(path))
    assert path.is_symlink() or path.exists()


def test_path_that_cannot_be_bound_is_an_error(start_on_both: Start, tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "such" / "directory", tmp_path / ("long" * 50)):
        with pytest.raises(OptionError, match="cannot listen on"):
            start_on_both(unix=str(path))


def test_unix_socket_of_another_server_is_not_removed(tmp_path_unix: str) -> None:
    """It may have replaced the socket of this server."""
    path = Path(tmp_path_unix)
    with running_server(unix=tmp_path_unix):
        path.rename(path.with_name("elsewhere"))
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(tmp_path_unix)
            other.listen()
    assert path.is_socket()


def test_server_that_cannot_listen_everywhere_listens_nowhere(start_on_both: Start, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(OptionError):
        start_on_both(port=port, unix=str(precious))
    with pytest.raises(ConnectionRefusedError):
        RawClient(("127.0.0.1", port))


# -- the end -------------------------------------------------------------------------------------------------------


@BOTH_SIGNALS
def test_signal_ends_the_server_with_0(log: Path, number: signal.Signals) -> None:
    with ServerProcess("--port", "0", log=log) as server:
        server.signal(number)
        assert server.exit_code() == 0
        assert f"{number.name}: draining" in server.log()
        assert "Traceback" not in server.log()


@BOTH_SIGNALS
def test_read_commands_are_answered_before_the_end(log: Path, number: signal.Signals) -> None:
    count = 20_000
    with ServerProcess("--port", "0", log=log) as server, RawClient(server.address) as client:
        client.send(PING * count)  # 140,000 bytes: the server reads them in one go, and answers over many turns
        assert client.reply() == PONG
        server.signal(number)
        answered = client.rest()
        assert answered == [PONG] * len(answered)
        assert server.exit_code() == 0


def test_drain_answers_all_read_commands(start_on_both: Start) -> None:
    """They arrived in one packet, so a client that got the first reply gets all of them."""
    count = 9_000
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(PING * count)
        assert client.reply() == PONG
        server.call(lambda: [connection.drain() for connection in list(server.server._connections)])
        assert client.rest() == [PONG] * (count - 1)


def test_stopping_server_accepts_no_client(start_on_both: Start, tmp_path_unix: str) -> None:
    with running_server() as server:
        address = server.address
    with pytest.raises(ConnectionRefusedError):
        RawClient(address)


def stall(server: ServerProcess) -> RawClient:
    """A client that is owed 16 MiB and takes none of them."""
    client = RawClient(server.address, receive_buffer=4_096)
    assert client.ask(Set(b"k", bytes(4 * MIB))) == OK
    client.send(PING + write_command(Get(b"k")) * 4)
    assert client.reply() == PONG  # so the rest, which came with it, is under way
    return client


def test_signals_repeated_within_a_second_change_nothing(log: Path) -> None:
    with ServerProcess("--port", "0", "--drain-timeout", "20s", log=log) as server, stall(server) as client:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            server.signal(number)
        eventually(lambda: "draining" in server.log())
        assert client.rest() == [Response(True, bytes(4 * MIB))] * 4
        assert server.exit_code() == 0
        assert server.log().count("draining") == 1
        assert "again" not in server.log()


def test_continuous_signals_change_nothing_at_the_very_end(log: Path) -> None:
    """Also signals between the end of the loop and that of the process."""
    with ServerProcess("--port", "0", log=log) as server:
        while server.process.poll() is None:
            server.signal(signal.SIGTERM)
            time.sleep(0.001)
        assert server.exit_code() == 0


def test_second_signal_after_a_second_ends_the_server_at_once(log: Path) -> None:
    with ServerProcess("--port", "0", "--drain-timeout", "1h", log=log) as server, stall(server):
        server.signal(signal.SIGTERM)
        eventually(lambda: "draining" in server.log())
        time.sleep(REPEATED_SIGNAL_SECONDS + 0.2)
        assert server.process.poll() is None
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert "again: closing without waiting" in server.log()
        assert "Traceback" not in server.log()


def test_stalled_client_delays_the_drain_up_to_its_timeout(log: Path) -> None:
    with ServerProcess("--port", "0", "--drain-timeout", "500ms", log=log) as server, stall(server):
        server.signal(signal.SIGTERM)
        assert server.exit_code(10) == 0
        assert "did not read its last replies in time" in server.log()
        assert "Traceback" not in server.log()


def test_slow_client_gets_its_last_replies_within_the_drain_timeout(log: Path) -> None:
    """Even later than the time that the server waits for input behind the end."""
    with ServerProcess("--port", "0", "--drain-timeout", "20s", log=log) as server, stall(server) as client:
        server.signal(signal.SIGTERM)
        time.sleep(1.5)
        assert client.rest() == [Response(True, bytes(4 * MIB))] * 4
        assert server.exit_code() == 0


def test_idle_clients_do_not_delay_the_drain(log: Path) -> None:
    with ServerProcess("--port", "0", "--drain-timeout", "1h", log=log) as server:
        clients = [RawClient(server.address) for _ in range(20)]
        assert [client.ask(Ping(b"")) for client in clients] == [PONG] * 20
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert [client.rest() for client in clients] == [[]] * 20
        for client in clients:
            client.close()


def test_server_runs_as_a_module_without_uvloop(log: Path) -> None:
    """Without uvloop the loop is asyncio's, and the readiness line says so."""
    hide = "import sys, importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n == 'uvloop' else f(n)"
    with ServerProcess("--port", "0", log=log, prelude=hide) as server, RawClient(server.address) as client:
        assert f"asyncio of Python {sys.version_info.major}.{sys.version_info.minor}" in server.readiness
        assert client.ask(Ping(b"")) == PONG
        server.signal(signal.SIGTERM)
        assert client.rest() == []
        assert server.exit_code() == 0


LIKE_MACOS = """
import importlib.util, os, select, selectors
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "uvloop" else found(name)
for module, names in (selectors, ["EpollSelector"]), (select, ["epoll"]), (os, ["posix_fallocate"]):
    for name in names:
        delattr(module, name)
selectors.DefaultSelector = selectors.PollSelector
"""
"""Python that removes uvloop, and functions of Linux that macOS does not have."""


@pytest.mark.parametrize("durable", [False, True])
def test_server_runs_without_epoll(durable: bool, log: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")] if durable else []
    pure = {PURE_VARIABLE: "yes"}
    with (
        ServerProcess("--port", "0", *data, log=log, prelude=LIKE_MACOS, environment=pure) as server,
        RawClient(server.address) as client,
    ):
        assert "pure Python on asyncio" in server.readiness
        assert client.ask(Ping(b"")) == PONG
        server.signal(signal.SIGTERM)
        assert client.rest() == []
        assert server.exit_code() == 0


# -- a process that does not run for a while -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "answer", "rest", "want"),
    [
        (b"\0\0\1\0\0\0\1k\0\0\0\5ab", b"", b"cde", bytes.fromhex("00 30 00 00 00 02") + b"OK"),
        (b"\0\0\3\0\0\0\0", b"PONG", b"\0\0\3\0\0\0\0", bytes.fromhex("00 30 00 00 00 04") + b"PONG"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nab", b"", b"cde\r\n", b"+OK\r\n"),
        (b"PING\r\n", b"PONG", b"PING\r\n", b"+PONG\r\n"),
    ],
    ids=["half a frame", "quiet", "half a request, Redis", "quiet, Redis"],
)
def test_resumed_server_reads_input_before_it_times_out_clients(
    log: Path, first: bytes, answer: bytes, rest: bytes, want: bytes
) -> None:
    with (
        ServerProcess("--port", "0", "--frame-timeout", "2s", "--idle-timeout", "2s", log=log) as server,
        socket.create_connection(server.address, timeout=20) as client,
    ):
        client.sendall(first)
        if answer:
            assert client.recv(100).endswith(answer + b"\r\n"[: 2 * (b"\r\n" in first)])
        server.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
        client.sendall(rest)
        time.sleep(3)  # both timeouts pass while it does not run
        server.process.send_signal(signal.SIGCONT)
        assert client.recv(200) == want


def test_resumed_server_times_out_silent_clients(log: Path) -> None:
    with (
        ServerProcess("--port", "0", "--idle-timeout", "2s", log=log) as server,
        socket.create_connection(server.address, timeout=20) as client,
    ):
        client.sendall(b"\0\0\3\0\0\0\0")
        assert client.recv(100).endswith(b"PONG")
        server.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(3)
        server.process.send_signal(signal.SIGCONT)
        assert b"TIMEOUT" in client.recv(200)

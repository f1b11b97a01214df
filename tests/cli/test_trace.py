"""`cairn trace` as a proxy: it passes bytes unchanged and at once, passes on ends, and prints every frame."""

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

import cairnkv
from cairnkv.commands import OK, Get, Ping, Set
from cairnkv.protocol.native import write_command
from cairnkv.testing import running_server
from tests.cli.conftest import SECONDS, Call, cairn_process, command
from tests.cli.terminal import Terminal
from tests.client.test_sync import answer_everything
from tests.support.scripted import Conversation, scripted


class Tracing:
    """`cairn trace` in a process of its own."""

    def __init__(self, to: str, *options: str) -> None:
        self.process = subprocess.Popen(
            command("trace", "--listen", "127.0.0.1:0", "--to", to, *options), stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self._out = self.process.stdout
        ready = self._out.readline()
        found = re.search(r"tracing (cairn://(127\.0\.0\.1):(\d+)) to ", ready)
        assert found is not None, ready
        self.url = found[1]
        self.address = found[2], int(found[3])

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, SECONDS)

    def lines_up_to(self, pattern: str) -> list[str]:
        """The lines that are shown, up to one in which a pattern is found."""
        lines = []
        for line in self._out:
            lines.append(line.rstrip("\n"))
            if re.search(pattern, line):
                return lines
        raise AssertionError(f"never shown: {pattern!r}; shown: {lines}")

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self._out.close()


@contextlib.contextmanager
def tracing(to: str, *options: str) -> Iterator[Tracing]:
    trace = Tracing(to, *options)
    with contextlib.closing(_Closing(trace.end)):
        yield trace


class _Closing:
    def __init__(self, close: Callable[[], object]) -> None:
        self.close = close


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server of one connection; gives its URL."""

    def accept() -> None:
        connection, _ = listener.accept()
        connection.settimeout(SECONDS)
        with connection:
            serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        host, port = listener.getsockname()
        yield f"cairn://{host}:{port}"
        thread.join(SECONDS)
        assert not thread.is_alive()


def read_to_the_end(connection: socket.socket) -> bytes:
    data = bytearray()
    while piece := connection.recv(1 << 20):
        data += piece
    return bytes(data)


def test_trace_prints_a_connection_field_by_field(url: str) -> None:
    with tracing(url) as trace:
        with cairnkv.connect(trace.url) as kv:
            assert kv.set("greeting", "hello")
            assert kv.get("greeting") == "hello"
            assert kv.get("nothing") is None
        lines = trace.lines_up_to("#1 server, .* closed its side")
        assert trace.end() == 0
    shown = "\n".join(re.sub(r"\d+\.\d{3} s", "T", line) for line in lines)
    assert (
        """\
#1 client, T: GET, 15 bytes
    header      00                       no flags
    command     00 00                    0 = GET
    key length  00 00 00 08              8 bytes
    key         67 72 65 65 74 69 6e 67  greeting
#1 server, T: success, to GET, 11 bytes
    header   00              no flags
    status   30              success, '0' in ASCII
    length   00 00 00 05     5 bytes
    payload  68 65 6c 6c 6f  hello
"""
        in shown
    )
    headings = [line for line in shown.splitlines() if line.startswith("#")]
    assert headings[:6] == [
        "#1 client, T: SET, 24 bytes",
        "#1 server, T: success, to SET, 8 bytes",
        "#1 client, T: GET, 15 bytes",
        "#1 server, T: success, to GET, 11 bytes",
        "#1 client, T: GET, 14 bytes",
        "#1 server, T: not found, to GET, 19 bytes",
    ]
    assert sorted(headings[6:]) == ["#1 client, T: closed its side", "#1 server, T: closed its side"]


@pytest.mark.parametrize("width", [2, 4])
def test_both_command_number_widths_pass(url: str, width: int) -> None:
    frame = write_command(Ping(b"hello"), width=4 if width == 4 else 2)
    with tracing(url) as trace, trace.connect() as client:
        client.sendall(frame)
        client.shutdown(socket.SHUT_WR)
        assert read_to_the_end(client) == b"\x00\x30\x00\x00\x00\x05hello"
        lines = trace.lines_up_to("PING")
    assert lines[0].endswith(f"PING, {len(frame)} bytes")


def test_arbitrary_bytes_pass_unchanged() -> None:
    """The server echoes the bytes, so its frames break the protocol."""
    data = os.urandom(3_000_000)

    def echo(connection: socket.socket) -> None:
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)

    with serving(echo) as url, tracing(url) as trace, trace.connect() as client:
        reader = threading.Thread(target=lambda: _show_nothing(trace))
        reader.start()
        answer = bytearray()
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        answer += read_to_the_end(client)
        sender.join(SECONDS)
        assert bytes(answer) == data
        assert trace.process.poll() is None
        trace.process.send_signal(signal.SIGTERM)
        reader.join(SECONDS)


def _show_nothing(trace: Tracing) -> None:
    with contextlib.suppress(AssertionError):
        trace.lines_up_to("never")


def test_unfinished_frame_is_passed_on_at_once() -> None:
    """The first bytes of a frame arrive before the rest is sent, and the end of one side before the other's."""

    def serve(connection: socket.socket) -> None:
        assert connection.recv(100) == b"\x00"
        connection.sendall(b"1")
        assert connection.recv(100) == b""  # the client's end
        connection.sendall(b"2")

    with serving(serve) as url, tracing(url) as trace, trace.connect() as client:
        client.sendall(b"\x00")
        assert client.recv(1) == b"1"
        client.shutdown(socket.SHUT_WR)
        assert read_to_the_end(client) == b"2"
        lines = trace.lines_up_to("server.*closed its side")
    assert any("client" in line and "a frame, 1 byte, not finished" in line for line in lines)


def test_end_of_the_server_is_passed_on_while_the_client_sends() -> None:
    heard = bytearray()

    def serve(connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_WR)
        heard.extend(read_to_the_end(connection))

    with serving(serve) as url, tracing(url) as trace, trace.connect() as client:
        assert client.recv(1) == b""
        client.sendall(b"still here")
        client.shutdown(socket.SHUT_WR)
        trace.lines_up_to("client.*closed its side")
    assert heard == b"still here"


def test_reset_of_one_side_resets_the_other() -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(b"y")
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""

    with serving(serve) as url, tracing(url) as trace:
        client = trace.connect()
        assert client.recv(1) == b"y"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close resets
        client.close()
        assert "lost the client" in trace.lines_up_to("lost the")[-1]


def test_malformed_frame_is_passed_and_printed_raw(url: str) -> None:
    with tracing(url) as trace, trace.connect() as client:
        client.sendall(bytes.fromhex("00 000f") + b"what is this")
        client.shutdown(socket.SHUT_WR)
        assert b"BADFRAME" in read_to_the_end(client)
        lines = trace.lines_up_to("server.*closed its side")
    shown = "\n".join(lines)
    assert "12 bytes in no frame: command 15 is not assigned" in shown
    assert "what is this" in shown
    assert "BADFRAME command number 15 is not assigned" in shown


def test_long_value_is_passed_whole_and_printed_abbreviated(url: str) -> None:
    value = b"\0" + os.urandom(7_999_999)
    with tracing(url, "--bytes", "4") as trace:
        with cairnkv.connect(trace.url, codec="bytes") as kv:
            kv.set("big", value)
            assert kv.get("big") == value
        lines = trace.lines_up_to("server.*closed its side")
    assert max(map(len, lines)) < 400
    (line,) = [line for line in lines if line.startswith("    payload") and "…" in line]
    assert value[:4].hex(" ") + " …" in line
    assert "… and 7,999,996 bytes more" in line


def test_connections_are_numbered(url: str) -> None:
    with tracing(url) as trace:
        for number in (1, 2, 3):
            with cairnkv.connect(trace.url) as kv:
                kv.ping()
            assert trace.lines_up_to("closed its side")[0].startswith(f"#{number} client, ")
            trace.lines_up_to("closed its side")


def test_unix_socket_is_traced(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("u") / "s"
    with running_server(unix=str(path), no_tcp=True) as running, tracing(running.url) as trace:
        assert cairn_process("ping", "--url", trace.url).out == b"PONG\n"


def test_trace_reports_a_missing_server_and_continues(unused_url: str, url: str) -> None:
    with tracing(unused_url) as trace:
        for _ in range(2):
            with trace.connect() as client, contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""
            assert "cannot connect to 127.0.0.1:" in trace.lines_up_to("cannot connect")[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_trace_cleanly_within_a_frame(url: str, number: signal.Signals) -> None:
    with tracing(url) as trace, trace.connect() as client:
        client.sendall(write_command(Get(b"k")) + write_command(Set(b"k", b"v"))[:-1])
        trace.lines_up_to("not found, to GET")
        trace.process.send_signal(number)
        assert trace.process.wait(SECONDS) == 0


def test_trace_continues_after_an_ignored_hangup(url: str) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the process inherits it, as from nohup
    try:
        with tracing(url) as trace:
            trace.process.send_signal(signal.SIGHUP)
            with cairnkv.connect(trace.url) as kv:
                assert kv.ping() == "PONG"
            assert trace.end() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_trace_ends_when_its_output_is_closed(url: str) -> None:
    with tracing(url) as trace:
        trace._out.close()
        with contextlib.suppress(ConnectionError, cairnkv.CairnError), cairnkv.connect(trace.url) as kv:
            for _ in range(100):
                kv.ping()
        assert trace.process.wait(SECONDS) == 0


def test_trace_is_coloured_on_a_terminal(url: str) -> None:
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal("trace", "--listen", "0", "--to", url, **environment) as terminal:
            shown = terminal.expect(r"tracing cairn://127\.0\.0\.1:\d+ .*\n")
            found = re.search(r"cairn://[\d.:]+", shown)
            assert found is not None
            with cairnkv.connect(found[0]) as kv:
                kv.ping()
            assert ("\x1b[" in terminal.expect("PONG")) is coloured
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--listen", "nowhere:x"], "--listen takes HOST:PORT"),
        (["--listen", "127.0.0.1:70000"], "--listen takes HOST:PORT"),
        (["--listen", "0.0.0.0:0"], "not a loopback address"),
        (["--to", "redis://127.0.0.1"], "an address begins with cairn://"),
        (["--bytes", "0"], "--bytes"),
    ],
)
def test_addresses_that_cannot_be_traced_are_refused(cairn_here: Call, arguments: list[str], why: str) -> None:
    said = cairn_here("trace", *arguments)
    assert (said.code, said.out) == (2, b"")
    assert why in said.err
    assert said.err.count("\n") == 1


def test_port_in_use_is_an_error(cairn_here: Call, url: str) -> None:
    said = cairn_here("trace", "--listen", url.removeprefix("cairn://"), "--to", url)
    assert said.code == 2
    assert "cannot listen on 127.0.0.1:" in said.err


def test_trace_prints_a_redis_connection_field_by_field(url: str) -> None:
    with tracing(url) as trace:
        with trace.connect() as peer:
            peer.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nDBSIZE\r\n")
            peer.shutdown(socket.SHUT_WR)
            assert read_to_the_end(peer) == b"+OK\r\n$5\r\nhello\r\n:1\r\n"
        lines = trace.lines_up_to("#1 server, .* closed its side")
        assert trace.end() == 0
    titles = [line.split(": ")[1] for line in lines if line.startswith("#1")]
    assert [title for title in titles if title != "closed its side"] == [
        "SET, 31 bytes",
        "GET, 20 bytes",
        "DBSIZE, 8 bytes",
        "status, to SET, 5 bytes",
        "string, to GET, 11 bytes",
        "integer, to DBSIZE, 4 bytes",
    ]
    assert "    argument 2         68 65 6c 6c 6f 0d 0a  hello" in lines


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="there is no redis-cli: apt-get install redis-tools")
@pytest.mark.parametrize("version", ["-2", "-3"])
def test_redis_cli_works_through_trace(url: str, version: str) -> None:
    with tracing(url) as trace:
        port = str(trace.address[1])
        done = subprocess.run(
            ["redis-cli", version, "-p", port, "set", "k", "v"], capture_output=True, timeout=SECONDS, check=True
        )
        assert done.stdout == b"OK\n"
        lines = trace.lines_up_to("status, to SET")
    assert any(line.endswith(": SET, 27 bytes") for line in lines)
    assert not any("in no frame" in line or "is unknown" in line for line in lines)


def test_trace_connects_to_a_server_with_tls(tmp_path: Path) -> None:
    """The clients connect without TLS. The end of a client ends its connection to the server."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ended = threading.Event()

    def serve(conversation: Conversation) -> None:
        assert conversation.command() is not None
        conversation.say(OK)
        answer_everything(conversation)
        ended.set()

    with (
        scripted(serve, tls=context) as server,
        tracing(f"cairns://localhost:{server.port}/?ca={tmp_path / 'ca.pem'}") as trace,
    ):
        url = trace.url.replace("cairn://", "cairn://app:s3cret@")
        with cairnkv.connect(url) as kv:
            assert kv.get("greeting") == "greeting"
        lines = "\n".join(trace.lines_up_to("#1 server, .* closed its side"))
        assert ended.wait(SECONDS)
        assert trace.end() == 0
    assert "AUTH, 24 bytes" in lines
    assert "6 bytes, not shown" in lines
    assert "success, to GET" in lines
    assert "s3cret" not in lines


def test_trace_shows_why_it_does_not_trust_a_server() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with scripted(answer_everything, tls=context) as server, tracing(f"cairns://localhost:{server.port}") as trace:
        with trace.connect() as client:
            assert client.recv(1) == b""
        assert "is not valid" in trace.lines_up_to("#1, ")[-1]
        assert trace.end() == 0

"""A server of another protocol at the address: the error names its kind and the address, in every client."""

import asyncio
import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import cairnkv
import cairnkv.client.sync as sync_module
import cairnkv.client.wrong_server as stranger_module
from cairnkv.client.wrong_server import wrong_server

pytestmark = pytest.mark.same_code

Ask = Callable[[str], object]

TIMEOUT = 20.0


def get_sync(url: str) -> object:
    with cairnkv.connect(url, timeout=TIMEOUT) as kv:
        return kv.get("k")


def set_sync(url: str) -> object:
    with cairnkv.connect(url, timeout=TIMEOUT) as kv:
        return kv.set("k", "v")


def pipeline_sync(url: str) -> object:
    with cairnkv.connect(url, timeout=TIMEOUT) as kv, kv.pipeline() as pipeline:
        return pipeline.set("k", "v")


def get_async(url: str) -> object:
    async def ask() -> object:
        async with cairnkv.aio.connect(url, timeout=TIMEOUT) as kv:
            return await kv.get("k")

    return asyncio.run(ask())


def set_async(url: str) -> object:
    async def ask() -> object:
        async with cairnkv.aio.connect(url, timeout=TIMEOUT) as kv:
            return await kv.set("k", "v")

    return asyncio.run(ask())


@pytest.fixture(params=[get_sync, set_sync, pipeline_sync, get_async, set_async], ids=lambda ask: str(ask.__name__))
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@contextlib.contextmanager
def refused(ask: Ask, port: int, kind: str) -> Iterator[None]:
    """A proxy may have replied in the place of the server, so the outcome of a sent write is unknown."""
    reads = ask in (get_sync, get_async)
    error = cairnkv.WrongServer if reads else (cairnkv.WrongServer, cairnkv.OutcomeUnknown)
    with pytest.raises(error, match=f"127.0.0.1:{port} is {kind}, not cairnkv"):
        yield


@contextlib.contextmanager
def stranger(*, banner: bytes = b"", answer: bytes = b"", needs_line: bool = False) -> Iterator[int]:
    """The port of a server that sends a banner, and answers any bytes, or the first end of a line."""
    over = threading.Event()

    def serve(connected: socket.socket) -> None:
        with connected, contextlib.suppress(OSError):
            connected.sendall(banner)
            heard = b""
            while not over.is_set() and (data := connected.recv(4_096)):
                heard += data
                if answer and (not needs_line or (b"\n" in heard and heard[0])):
                    connected.sendall(answer)
                    return

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


ANSWERS = {
    "an HTTP server": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "a Redis server": b"-ERR unknown command '', with args beginning with: \r\n",
    "a TLS server": bytes.fromhex("15 03 03 00 02 02 46"),
    "a memcached server": b"ERROR\r\n",
}
BANNERS = {
    "an SSH server": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a NATS server": b'INFO {"server_id":"N","version":"2.10.0"}\r\n',
    "an SMTP or FTP server": b"220 mail.example ESMTP\r\n",
    "a MySQL server": b"J\0\0\0\x0a8.0.36\0" + bytes(60),
    "an HTTP/2 server": bytes.fromhex("00 00 06 04 00 00 00 00 00 00 05 00 00 40 00"),
}
WAITING = {
    "an HTTP server": b"<!DOCTYPE HTML>\n<html lang='en'>",
    "a Redis server": b"$12\r\n# Server\r\nre\r\n",
    "a memcached server": b"ERROR\r\n",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_server_with_other_answers_is_named_with_its_address(ask: Ask, kind: str) -> None:
    with stranger(answer=ANSWERS[kind]) as port, refused(ask, port, kind):
        ask(f"cairn://127.0.0.1:{port}")


@pytest.mark.parametrize("kind", BANNERS)
def test_server_that_sends_first_is_named(ask: Ask, kind: str) -> None:
    with stranger(banner=BANNERS[kind]) as port, refused(ask, port, kind):
        ask(f"cairn://127.0.0.1:{port}")


@pytest.fixture
def early_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe a silent server soon, and give it long to answer: the machine may be busy."""
    monkeypatch.setattr(stranger_module, "PROBE_SECONDS", 0.95 * TIMEOUT)
    monkeypatch.setattr(stranger_module, "PROBE_SHARE", 0.95)


@pytest.mark.usefixtures("early_probe")
@pytest.mark.parametrize("kind", WAITING)
def test_server_that_waits_for_a_line_is_probed_and_named(ask: Ask, kind: str) -> None:
    with stranger(answer=WAITING[kind], needs_line=True) as port, refused(ask, port, kind):
        ask(f"cairn://127.0.0.1:{port}")


@contextlib.contextmanager
def tls_server() -> Iterator[int]:
    """The port of a server that closes without a reply after anything but a ClientHello, as OpenSSL does."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connected, contextlib.suppress(OSError):
                    if connected.recv(100)[:3] == bytes.fromhex("16 03 01"):
                        connected.sendall(bytes.fromhex("15 03 03 00 02 02 28"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_tls_server_that_closes_silently_is_named(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stranger_module, "PROBE_SHARE", 0.5)
    monkeypatch.setattr(stranger_module, "PROBE_SECONDS", 10.0)
    monkeypatch.setattr(sync_module, "PROBE_SECONDS", 10.0)
    with tls_server() as port, refused(ask, port, "a TLS server"):
        ask(f"cairn://127.0.0.1:{port}")


@pytest.mark.usefixtures("early_probe")
@pytest.mark.filterwarnings("ignore")  # the server's own
def test_http_server_of_one_connection_at_a_time_is_named(ask: Ask) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        port = server.server_address[1]
        with refused(ask, port, "an HTTP server"):
            ask(f"cairn://127.0.0.1:{port}")
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("url", ["cairn://127.0.0.1:{}", "cairn://127.0.0.1:{},127.0.0.1:1"], ids=["one", "several"])
def test_command_line_names_the_wrong_server(url: str) -> None:
    with stranger(answer=ANSWERS["a Redis server"]) as port:
        ran = subprocess.run(
            [sys.executable, "-m", "cairnkv", "get", "k", "--url", url.format(port), "--timeout", "2s"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ran.returncode == 2
    assert f"127.0.0.1:{port} is a Redis server" in ran.stderr


@pytest.mark.usefixtures("early_probe")
@pytest.mark.parametrize("answer", [b"$24\r\ncairnkv_version:0.1.0\r\n\r\n", b"-NOAUTH Authentication required.\r\n"])
def test_slow_cairnkv_server_is_probed_and_awaited(answer: bytes) -> None:
    """cairnkv answers the probe as a Redis protocol server, but identifies itself."""
    probed = threading.Event()

    def first(connected: socket.socket) -> None:
        assert connected.recv(4_096)
        assert probed.wait(20)
        connected.sendall(bytes.fromhex("00 30 00 00 00 04") + b"late")

    def second(connected: socket.socket) -> None:
        assert connected.recv(4_096).startswith(b"INFO")
        connected.sendall(answer)
        probed.set()

    def serve() -> None:
        for script in (first, second):
            connected = listener.accept()[0]
            kept.append(connected)
            threading.Thread(target=script, args=(connected,), daemon=True).start()

    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        with cairnkv.connect(f"cairn://127.0.0.1:{port}", timeout=TIMEOUT, attempts=1) as kv:
            assert kv.get("k") == "late"
    for connected in kept:
        connected.close()


@pytest.mark.parametrize("data", [b"\xff" * 20, b"what?", b"\0\x7f", b""])
def test_random_bytes_are_no_known_protocol(data: bytes) -> None:
    assert wrong_server(data, "db1") is None


@pytest.mark.parametrize("header", [0x00, 0x01, 0x02, 0x04, 0x08])
@pytest.mark.parametrize("status", [0x00, 0x01, 0x30, 0x31])
def test_own_replies_are_not_mistaken_for_another_server(header: int, status: int) -> None:
    for length in (*range(70_000), 2**24, 2**24 + 4 * 2**16, 2**26):
        assert wrong_server(bytes((header, status)) + length.to_bytes(4, "big") + b"payload", "db1") is None

"""The native event path by itself: protocols of these tests over socket pairs, without a server."""

import asyncio
import contextlib
import gc
import select
import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from cairnkv.limits import HANDSHAKES_TOGETHER
from cairnkv.server.loop import ClientSelector, PolledLoop
from cairnkv.server.tls import TlsFiles, load
from tests.support.paths import BUILT, native_only
from tests.support.tls import Authority, Raw

if TYPE_CHECKING or BUILT:
    from cairnkv.server.poller_native import Transport

pytestmark = native_only


class Called(asyncio.Protocol):
    """Calls a function with the received bytes."""

    def __init__(self, function: Callable[[memoryview], object]) -> None:
        self._function = function

    def data_received(self, data: bytes) -> None:
        self._function(memoryview(data))

    def secured(self) -> None:
        """The TLS handshake is complete."""

    def tls_failed(self, reason: str) -> None:
        """TLS has failed."""


class Pairs:
    """A loop, and socket pairs of which it serves one end each."""

    def __init__(self) -> None:
        self.loop = PolledLoop(ClientSelector())
        self.wrong: list[BaseException] = []
        self.loop.set_exception_handler(lambda _loop, context: self.wrong.append(context["exception"]))
        self.sockets: list[socket.socket] = []
        self.transports: list[Transport] = []

    def serve(self, function: Callable[[memoryview], object], certificate: object = None) -> socket.socket:
        """Return a socket. The loop calls the function with the bytes sent through it. certificate: for TLS."""
        served, client = socket.socketpair()
        served.setblocking(False)
        client.settimeout(10)
        self.sockets.append(client)
        self.transports.append(Transport(self.loop.clients.poller, self.loop, served, Called(function)))
        if certificate is not None:
            self.transports[-1].offer_tls(certificate)
        return client

    def turn(self) -> None:
        """Let the loop run once."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self) -> None:
        for transport in self.transports:
            transport.abort()
        self.turn()
        self.loop.close()
        for client in self.sockets:
            client.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    with contextlib.closing(Pairs()) as made:
        yield made


def test_poll_refuses_to_be_called_by_what_it_calls(pairs: Pairs) -> None:
    heard: list[Any] = []

    def poll_again(data: memoryview) -> None:
        with pytest.raises(RuntimeError, match="inside of its own callbacks"):
            pairs.loop.clients.select(0)
        heard.append(bytes(data))

    pairs.serve(poll_again).send(b"one")
    pairs.serve(poll_again).send(b"two")
    pairs.turn()
    assert sorted(heard) == [b"one", b"two"]
    assert pairs.wrong == []


def test_poll_serves_all_clients_before_an_interrupt_stops_it(pairs: Pairs) -> None:
    heard: list[bytes] = []

    def interrupt(data: memoryview) -> None:
        heard.append(bytes(data))
        raise KeyboardInterrupt

    for text in (b"one", b"two", b"three"):
        pairs.serve(interrupt).send(text)
    with pytest.raises(KeyboardInterrupt):
        pairs.turn()
    assert sorted(heard) == [b"one", b"three", b"two"]
    pairs.turn()  # it was raised once, and the loop goes on


@pytest.mark.parametrize(
    "keep",
    [lambda data: data[1:], lambda data: memoryview(data), lambda data: data.cast("c")],
    ids=("slice", "view", "cast"),
)
def test_protocol_that_keeps_a_part_of_the_buffer_is_closed(
    pairs: Pairs, keep: Callable[[memoryview], memoryview]
) -> None:
    """The buffer is reused for the next client, and a kept slice would show that client's bytes."""
    kept: list[memoryview] = []
    client = pairs.serve(lambda data: kept.append(keep(data)))
    client.send(b"secret")
    pairs.turn()
    pairs.turn()
    assert client.recv(1) == b""
    assert [type(error) for error in pairs.wrong] == [BufferError]


def test_protocol_that_copies_may_keep_the_copy(pairs: Pairs) -> None:
    kept = bytearray()
    client = pairs.serve(kept.extend)
    client.send(b"some")
    pairs.turn()
    client.send(b" more")
    pairs.turn()
    assert kept == b"some more"
    assert pairs.wrong == []


def test_transport_that_cannot_be_watched_is_not_kept(pairs: Pairs, tmp_path: Path) -> None:
    """epoll refuses regular files."""
    refused = False
    with (tmp_path / "file").open("wb") as file:
        try:
            Transport(pairs.loop.clients.poller, pairs.loop, cast(socket.socket, file), Called(print))
        except PermissionError:
            refused = True
    gc.collect()
    assert refused
    assert not any(isinstance(one, Transport) for one in gc.get_objects())


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> object:
    identity = load(TlsFiles(*authority.issue("server")))
    if identity.native is None:
        pytest.skip("the module of TLS was not built: on Debian, apt-get install libssl-dev")
    return identity.native


def has_bytes(client: socket.socket) -> bool:
    """Whether bytes for a client have arrived."""
    return bool(select.select([client], [], [], 0)[0])


def test_steps_of_handshakes_are_few_and_the_newest_first(
    pairs: Pairs, authority: Authority, certificate: object
) -> None:
    heard: list[bytes] = []
    clients = [
        Raw(pairs.serve(lambda data: heard.append(bytes(data)), certificate), authority.trusting()) for _ in range(10)
    ]
    for client in clients:
        client.transmit(client.hello())
    plain = pairs.serve(lambda data: heard.append(bytes(data)))
    plain.send(b"plain")
    for turn in range(1, 11):
        pairs.turn()
        assert heard == [b"plain"]
        newest = min(10, turn * HANDSHAKES_TOGETHER)
        assert [has_bytes(client.socket) for client in clients] == [False] * (10 - newest) + [True] * newest
    for client in clients:
        client.take()
        client.tls.do_handshake()
        client.transmit(client.encrypted(b"secret"))
    for _ in range(11):
        pairs.turn()
    assert heard == [b"plain"] + [b"secret"] * 10
    assert pairs.wrong == []


def test_transports_end_while_their_handshakes_wait(pairs: Pairs, authority: Authority, certificate: object) -> None:
    clients = [Raw(pairs.serve(print, certificate), authority.trusting()) for _ in range(12)]
    for client in clients:
        client.transmit(client.hello())
    pairs.turn()
    for transport in pairs.transports[::2]:
        transport.abort()
    for transport in pairs.transports[1::4]:
        transport.close()
    dead = [weakref.ref(transport) for transport in pairs.transports]
    pairs.turn()
    pairs.turn()
    assert pairs.wrong == []
    pairs.transports.clear()
    del transport
    for client in clients:
        client.socket.close()
    for _ in range(3):
        pairs.turn()
    gc.collect()
    assert [one() for one in dead] == [None] * 12


@pytest.mark.parametrize("how", ["abort", "close", "write", "pause"])
def test_client_changes_others_whose_records_have_arrived(
    pairs: Pairs, authority: Authority, certificate: object, how: str
) -> None:
    """Each of them, in the wake-up in which all have sent bytes."""
    heard: list[int] = []

    def change(own: int) -> None:
        heard.append(own)
        for number, transport in enumerate(pairs.transports):
            if number != own:
                if how == "write":
                    transport.write(b"x" * 300_000)
                elif how == "pause":
                    transport.pause_reading()
                    transport.resume_reading()
                else:
                    getattr(transport, how)()

    clients = [
        Raw(pairs.serve(lambda data, own=own: change(own), certificate), authority.trusting())  # type: ignore[misc]
        for own in range(5)
    ]
    shake_hands(pairs, clients)
    for client in clients:
        client.transmit(client.encrypted(b"some" * 10_000))
    for _ in range(5):
        pairs.turn()
    assert set(heard) == ({0, 1, 2, 3, 4} if how in ("write", "pause") else {heard[0]})
    assert pairs.wrong == []


def shake_hands(pairs: Pairs, clients: list[Raw]) -> None:
    """Complete the handshakes of clients."""
    for client in clients:
        client.transmit(client.hello())
    waiting = list(clients)
    while waiting:
        pairs.turn()
        for client in [one for one in waiting if has_bytes(one.socket)]:
            client.take()
            client.tls.do_handshake()
            client.transmit(client.encrypted(b""))
            waiting.remove(client)
    for _ in clients:
        pairs.turn()


def test_writes_arrive_in_order_through_a_full_socket(pairs: Pairs, authority: Authority, certificate: object) -> None:
    client = Raw(pairs.serve(print, certificate), authority.trusting())
    shake_hands(pairs, [client])
    (transport,) = pairs.transports
    wanted = b""
    for number in range(200):
        piece = bytes((number,)) * (1 + number * 97)
        wanted += piece
        if number % 3:
            transport.write(piece)
        else:
            transport.writelines([piece[:5], piece[5:], b""])
    transport.write(b"y" * 1_000_000)
    wanted += b"y" * 1_000_000
    assert transport.get_write_buffer_size() > 0
    transport.write_eof()
    found = b""
    while len(found) < len(wanted):
        pairs.turn()
        if has_bytes(client.socket):
            client.take()
            with contextlib.suppress(ssl.SSLWantReadError):
                while piece := client.tls.read(1 << 18):
                    found += piece
    pairs.turn()
    assert found == wanted
    assert client.read() == b""
    assert pairs.wrong == []

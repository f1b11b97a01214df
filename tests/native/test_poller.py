"""The native event path by itself: protocols of these tests over socket pairs, without a server."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from cairnkv.server.loop import ClientSelector, PolledLoop
from tests.support.paths import BUILT, native_only

if TYPE_CHECKING or BUILT:
    from cairnkv.server.poller_native import Transport

pytestmark = native_only


class Called(asyncio.Protocol):
    """Calls a function with the received bytes."""

    def __init__(self, function: Callable[[memoryview], object]) -> None:
        self._function = function

    def data_received(self, data: bytes) -> None:
        self._function(memoryview(data))


class Pairs:
    """A loop, and socket pairs of which it serves one end each."""

    def __init__(self) -> None:
        self.loop = PolledLoop(ClientSelector())
        self.wrong: list[BaseException] = []
        self.loop.set_exception_handler(lambda _loop, context: self.wrong.append(context["exception"]))
        self.sockets: list[socket.socket] = []
        self.transports: list[Transport] = []

    def serve(self, function: Callable[[memoryview], object]) -> socket.socket:
        """Return a socket. The loop calls the function with the bytes sent through it."""
        served, client = socket.socketpair()
        served.setblocking(False)
        client.settimeout(10)
        self.sockets.append(client)
        self.transports.append(Transport(self.loop.clients.poller, self.loop, served, Called(function)))
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

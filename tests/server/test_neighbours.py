"""Clients served in one wake-up of the server: each gets its own replies, and its own commands are executed."""

import contextlib
import random
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import pytest

from cairnkv.commands import Append, Get, Set
from cairnkv.protocol.native import Response, write_command, write_response
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.late_storage import LateStorage
from tests.support.raw import SECONDS, Address, eventually
from tests.support.raw_resp import command

UNREAD_MAX: Final = 700_000
"""Bytes of replies that a client leaves unread; the server stops executing its commands at a larger limit."""

BIG: Final = 60_000
"""Bytes of a value that fills buffers."""

PENDING_MAX: Final = 262_144
"""Bytes of replies to a client that the native event path holds until they are committed (`poller_native.pyx`)."""


class Wire(Protocol):
    """Bytes of commands and of their replies in a protocol."""

    def set(self, key: bytes, value: bytes) -> bytes: ...
    def get(self, key: bytes) -> bytes: ...
    def append(self, key: bytes, value: bytes) -> bytes: ...
    def ok(self) -> bytes: ...
    def string(self, value: bytes) -> bytes: ...
    def number(self, value: int) -> bytes: ...


class Native:
    """The native protocol."""

    def set(self, key: bytes, value: bytes) -> bytes:
        return write_command(Set(key, value))

    def get(self, key: bytes) -> bytes:
        return write_command(Get(key))

    def append(self, key: bytes, value: bytes) -> bytes:
        return write_command(Append(key, value))

    def ok(self) -> bytes:
        return write_response(Response(True, b"OK"))

    def string(self, value: bytes) -> bytes:
        return write_response(Response(True, value))

    def number(self, value: int) -> bytes:
        return write_response(Response(True, b"%d" % value))


class Resp:
    """Redis' protocol."""

    def set(self, key: bytes, value: bytes) -> bytes:
        return command(b"SET", key, value)

    def get(self, key: bytes) -> bytes:
        return command(b"GET", key)

    def append(self, key: bytes, value: bytes) -> bytes:
        return command(b"APPEND", key, value)

    def ok(self) -> bytes:
        return b"+OK\r\n"

    def string(self, value: bytes) -> bytes:
        return b"$%d\r\n%s\r\n" % (len(value), value)

    def number(self, value: int) -> bytes:
        return b":%d\r\n" % value


class Client:
    """A client that knows its expected replies."""

    def __init__(self, address: Address, wire: Wire, name: bytes) -> None:
        self.wire = wire
        self.name = name
        self.values: dict[bytes, bytes] = {}
        self._expected: deque[bytes] = deque()
        self.unread = 0
        self._socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self._socket.settimeout(SECONDS)
        self._socket.connect(address)
        self._count = 0

    def close(self) -> None:
        self._socket.close()

    def _tell(self, said: bytes, reply: bytes) -> None:
        self._expected.append(reply)
        self.unread += len(reply)
        self._socket.sendall(said)

    def set(self, size: int = 0) -> None:
        """Store a value that names this client and no other command."""
        self._count += 1
        key = b"%s key %s" % (self.name, b"big" if size else b"%d" % (self._count % 5))
        value = b"%s value %d" % (self.name, self._count)
        self.values[key] = value.ljust(size, b".")
        self._tell(self.wire.set(key, self.values[key]), self.wire.ok())

    def get(self, key: bytes) -> None:
        """Read a value."""
        self._tell(self.wire.get(key), self.wire.string(self.values[key]))

    def append(self) -> None:
        """Say a command that only the pure Python path carries out."""
        key = b"%s log" % self.name
        self._count += 1
        self.values[key] = self.values.get(key, b"") + b"%d," % self._count
        self._tell(self.wire.append(key, b"%d," % self._count), self.wire.number(len(self.values[key])))

    def read(self, count: int | None = None) -> None:
        """Read the next replies, all by default, and compare them with the expected ones."""
        for _ in range(len(self._expected) if count is None else count):
            expected = self._expected.popleft()
            self.unread -= len(expected)
            got = b""
            while len(got) < len(expected):
                data = self._socket.recv(len(expected) - len(got))
                assert data, f"the server closed the connection of {self.name!r}"
                got += data
            assert got == expected, f"{self.name!r} expected {expected[:60]!r} and got {got[:60]!r}"

    @property
    def big(self) -> bytes:
        """The key of its value that fills buffers."""
        return b"%s key big" % self.name

    @property
    def expected(self) -> int:
        """How many replies are unread."""
        return len(self._expected)


WIRES: Final[dict[str, type[Wire]]] = {"native": Native, "resp": Resp}


@pytest.fixture(params=WIRES.values(), ids=[*WIRES])
def wire(request: pytest.FixtureRequest) -> Wire:
    made: Wire = request.param()
    return made


Connect = Callable[[bytes], Client]


@pytest.fixture
def clients(wire: Wire, tmp_path_unix: str) -> Iterator[Connect]:
    """Connects clients over a Unix socket, whose buffers are small."""
    with contextlib.ExitStack() as stack:

        def connect(name: bytes) -> Client:
            client = Client(tmp_path_unix, wire, name)
            stack.callback(client.close)
            return client

        yield connect


def together(server: RunningServer, *said: Callable[[], object]) -> None:
    """Have clients say something while the server's loop is blocked, in this order; it hears all of it at once.

    The turn of the loop before makes epoll forget whom it has named last, so that it names them in this order too.
    """
    server.call(lambda: None)
    server.call(lambda: [one() for one in said])


def stored(server: RunningServer, clients: Sequence[Client]) -> bool:
    """Whether the table holds what the clients have stored, and nothing else."""
    expected = {key: value for client in clients for key, value in client.values.items()}
    get = server.server.store.databases[0].get
    return server.call(lambda: {key: get(key) for key in expected}) == expected


def unsent(server: RunningServer) -> int:
    return server.call(lambda: sum(connection.unsent for connection in server.server._connections))


def fill(server: RunningServer, client: Client) -> None:
    """Have a client ask for replies and read none, until some of them wait in the server's memory."""
    client.set(BIG)
    client.read()
    while not unsent(server):
        client.get(client.big)
        assert client.unread < UNREAD_MAX, "the server has passed on all replies, though nobody reads them"


def test_slow_reader_leaves_commands_of_neighbours_alone(
    start_on_both: Start, clients: Connect, tmp_path_unix: str
) -> None:
    server = start_on_both(unix=tmp_path_unix)
    slow, first, second = clients(b"slow"), clients(b"first"), clients(b"second")
    fill(server, slow)
    for _ in range(20):
        together(server, first.set, second.set, slow.set)
        first.read()
        second.read()
        assert stored(server, [first, second])
    slow.read()
    assert stored(server, [slow, first, second])


def test_slow_reader_leaves_staged_writes_of_neighbours_alone(
    start_on_both: Start, clients: Connect, tmp_path_unix: str
) -> None:
    """On a durable store, the log has exactly the acknowledged writes."""
    storage = LateStorage(keeps_effects=True)
    server = start_on_both(storage=storage, unix=tmp_path_unix)
    slow, neighbour = clients(b"slow"), clients(b"neighbour")
    slow.set(BIG)
    eventually(lambda: server.call(lambda: len(storage.pending)) == 1)
    server.call(storage.commit)
    slow.read()
    while not unsent(server):
        slow.get(slow.big)
    for _ in range(20):
        together(server, neighbour.set, slow.set)
        eventually(lambda: stored(server, [slow, neighbour]))
        server.call(storage.commit)
        neighbour.read()
        kept = {effect[1]: effect[2] for entry in storage.committed for effect in entry.effects}
        assert kept.items() >= neighbour.values.items()
    slow.read()


def test_client_with_pending_replies_leaves_neighbours_alone(
    start_on_both: Start, clients: Connect, tmp_path_unix: str
) -> None:
    """The native event path holds a bounded number of bytes that wait for the log; beyond that the session does."""
    storage = LateStorage(keeps_effects=True)
    server = start_on_both(storage=storage, unix=tmp_path_unix)
    waiting, neighbour = clients(b"waiting"), clients(b"neighbour")
    for _ in range(5):
        waiting.set(BIG)
        eventually(lambda: stored(server, [waiting]))
        for _ in range(PENDING_MAX // BIG + 1):  # of what is not committed
            together(server, lambda: waiting.get(waiting.big))
        together(server, neighbour.set, waiting.set)
        eventually(lambda: stored(server, [waiting, neighbour]))
        server.call(storage.commit)
        neighbour.read()
        waiting.read()
        kept = {effect[1]: effect[2] for entry in storage.committed for effect in entry.effects}
        assert kept.items() >= neighbour.values.items()
        assert kept.items() >= waiting.values.items()


@pytest.mark.parametrize("mode", ["in-memory", "durable"])
def test_many_clients_at_different_speeds_get_their_own_replies(
    start_on_both: Start, clients: Connect, tmp_path_unix: str, tmp_path: Path, mode: str
) -> None:
    server = start_on_both(unix=tmp_path_unix, **({"data": str(tmp_path / "data")} if mode == "durable" else {}))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    everyone = [clients(b"client %d" % n) for n in range(24)]
    for client in everyone:
        client.set(BIG)
        client.read()
    kinds: list[Callable[[Client], object]] = [
        Client.set,
        Client.append,
        lambda client: client.get(chance.choice(list(client.values))),
    ]

    def talk() -> None:
        for client in chance.sample(everyone, chance.randrange(1, len(everyone))):
            for _ in range(chance.choice((1, 1, 1, 5, 20))):
                chance.choice(kinds)(client)

    for _ in range(100):
        server.call(talk)
        for client in everyone:
            if client.unread > UNREAD_MAX or (client is not everyone[0] and chance.random() < 0.5):
                client.read(client.expected if client.unread > UNREAD_MAX else chance.randint(0, client.expected))
    for client in everyone:
        client.read()
    assert stored(server, everyone)

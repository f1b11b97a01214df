"""Random clients of a server with TLS on the native path: cut, damaged, abandoned and killed streams.

Each client has keys of its own, so it knows every byte of its replies. Clients take turns in random steps. A damaged
stream must end without a wrong reply, and a server must serve others after it.
"""

import contextlib
import random
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cairnkv.testing import RunningServer, running_server
from tests.support.raw import RawClient
from tests.support.raw_resp import command
from tests.support.tls import Authority, Raw

LIVES_PER_SERVER = 40
SIZES = (0, 1, 100, 4_000, 16_383, 16_384, 16_385, 70_000, 400_000)


def fuzz_streams(seconds: float, first: int) -> int:
    """Run random clients until the time is up, at least one server. Returns 0."""
    from cairnkv.installation import features
    from cairnkv.server.loop import ClientSelector, PolledLoop

    print(f"fuzz: streams of TLS by {features()['tls']}, from seed {first}", flush=True)
    end = time.monotonic() + seconds
    seed = first
    with tempfile.TemporaryDirectory(prefix="cairn-fuzz-") as directory:
        authority = Authority(Path(directory))
        certificate, key = authority.issue("server")
        while seed == first or time.monotonic() < end:
            with running_server(
                new_event_loop=lambda: PolledLoop(ClientSelector()), tls_cert=str(certificate), tls_key=str(key)
            ) as server:
                for _ in range(LIVES_PER_SERVER):
                    try:
                        life(server, authority, random.Random(seed))
                    except BaseException:
                        print(f"fuzz: the streams of seed {seed} fail; repeat them with --seed {seed}", flush=True)
                        raise
                    seed += 1
                    if time.monotonic() > end:
                        break
    print(f"fuzz: {seed - first:,} lives of streams of TLS", flush=True)
    return 0


def life(server: RunningServer, authority: Authority, chance: random.Random) -> None:
    """Let some clients take turns, and check the server after them."""
    contexts = [authority.trusting(version=version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]
    ids: list[bytes] = []
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(chance.randrange(1, 7)):
            raw = stack.enter_context(Raw.to(server.address, chance.choice(contexts)))
            if chance.random() < 0.2:
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            clients.append(client(raw, chance, ids))
        while clients:
            one = chance.choice(clients)
            if next(one, None) is None:
                clients.remove(one)
    with RawClient(server.address) as plain:
        plain.send(b"PING\r\n")
        assert plain.socket.recv(100) == b"+PONG\r\n"


def client(raw: Raw, chance: random.Random, ids: list[bytes]) -> Iterator[bool]:
    """Be a client, in steps. ids: those of clients that another one may kill."""
    fate = chance.choices(("well", "damaged", "abandoned", "killed", "reset", "ended"), (10, 3, 1, 2, 1, 3))[0]
    if fate == "abandoned":
        hello = raw.hello()
        raw.transmit(hello[: chance.randrange(len(hello))], piece(chance))
        yield True
        return
    raw.handshake(chance.choice((1, 7, 1 << 20)))
    yield True
    if fate == "killed":
        raw.transmit(raw.encrypted(b"CLIENT ID\r\n"))
        own = raw.read().strip()[1:]
        ids.append(own)
        raw.transmit(raw.encrypted(command(b"SET", b"k", b"v" * chance.choice(SIZES)) * chance.randrange(20)))
        for _ in range(5):
            yield True
        if own in ids:
            ids.remove(own)
        else:
            drain(raw)
        return
    table: dict[bytes, bytes] = {}
    prefix = chance.randbytes(8).hex().encode()
    for _ in range(chance.randrange(1, 6)):
        sent, expected = commands(chance, prefix, table)
        if ids and fate == "well" and chance.random() < 0.5:
            victim = ids.pop()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                raw.transmit(raw.encrypted(command(b"CLIENT", b"KILL", b"ID", victim)))
            reply = receive(raw, 4)
            assert reply in (b":1\r\n", b":0\r\n"), reply
        records = b"".join(raw.encrypted(part) for part in cut(sent, chance))
        if fate == "damaged" and chance.random() < 0.5:
            at = chance.randrange(len(records))
            records = records[:at] + bytes((records[at] ^ 1 << chance.randrange(8),)) + records[at + 1 :]
            with contextlib.suppress(OSError):  # the server may have closed already
                raw.transmit(records, piece(chance))
                raw.socket.shutdown(socket.SHUT_WR)
                yield True
                found = drain(raw)
                assert expected.startswith(found[: found.rfind(b"-ERR")] if b"-ERR" in found else found)
            return
        if fate == "reset" and chance.random() < 0.5:
            raw.transmit(records[: chance.randrange(len(records))])
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        size = piece(chance)
        raw.transmit(records, size if len(records) / size < 2_000 else 1 << 20)
        yield True
        assert receive(raw, len(expected)) == expected
    if fate == "ended":
        sent, expected = commands(chance, prefix, table)
        raw.transmit(raw.encrypted(sent) + (raw.end() if chance.random() < 0.5 else b""))
        raw.socket.shutdown(socket.SHUT_WR)
        yield True
        assert drain(raw) == expected


def commands(chance: random.Random, prefix: bytes, table: dict[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return random commands on the keys of a client, and the replies to them."""
    sent, expected = [], []
    for _ in range(chance.choice((1, 2, 16, 64))):
        key = prefix + b"%d" % chance.randrange(5)
        kind = chance.randrange(4)
        if kind == 0:
            table[key] = chance.randbytes(8) + b"v" * chance.choice(SIZES[: chance.randrange(1, len(SIZES))])
            sent.append(command(b"SET", key, table[key]))
            expected.append(b"+OK\r\n")
        elif kind < 3 and sum(map(len, expected)) < 2_000_000:
            value = table.get(key)
            sent.append(command(b"GET", key))
            expected.append(b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value))
        else:
            sent.append(b"PING\r\n")
            expected.append(b"+PONG\r\n")
    return b"".join(sent) or b"PING\r\n", b"".join(expected) or b"+PONG\r\n"


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut bytes into parts."""
    places = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 1, 5))))
    return [part for begin, end in zip([0, *places], [*places, len(data)], strict=True) if (part := data[begin:end])]


def piece(chance: random.Random) -> int:
    """Return how many bytes to send at once."""
    return chance.choice((1, 5, 100, 1_400, 1 << 20))


def receive(raw: Raw, size: int) -> bytes:
    """Return so many decrypted bytes; fewer at the end of the stream."""
    found = b""
    while len(found) < size and (data := raw.read()):
        found += data
    return found


def drain(raw: Raw) -> bytes:
    """Return all decrypted bytes up to the end of the stream."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := raw.read():
            found += data
    return found

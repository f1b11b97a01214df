"""Clients of queues for `bench.py`, and workers: `queues.py LIBRARY PORT JOBS` prints the CPU time of a worker as JSON.

Each client has one connection. It sends all commands of a step before it reads their replies: first the puts, then the
takes, then the acks. A body has 100 bytes.

Invariants: a client checks the replies; an unexpected one ends the run. A worker's jobs do nothing, and they wait in
the queue before its time begins.

Out of scope: the rows (`bench`) and the servers (`servers`).
"""

import abc
import collections
import contextlib
import itertools
import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from servers import NATS_PASSWORD, Server

from cairnkv.lab.cluster.nats import STORE_USER

BODY_BYTES = 100
BODY = b"x" * BODY_BYTES
QUEUE = b"jobs"
SECONDS = 30.0
"""Timeout of a reply."""

AT_ONCE = 1_000
"""Messages of one command that loads a queue or leases many."""

PREFILLED = 1_000
"""Messages that wait in PostgreSQL's table, so that concurrent takes always find one."""


class Client(abc.ABC):
    """A connection to a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._socket = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send = self._socket.sendall
        self._replies = self._socket.makefile("rb", 1 << 18)

    def cpu(self) -> float:
        """Return the CPU time of the server's processes so far, in seconds: clock_getcpuclockid(3)."""
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in (self.server.pid, *self.server.others))

    def close(self) -> None:
        """Close the connection."""
        self._replies.close()
        self._socket.close()

    def _lines(self, count: int, beginning: bytes) -> list[bytes]:
        """Read lines that begin with these bytes."""
        lines = [self._replies.readline() for _ in range(count)]
        for line in lines:
            if not line.startswith(beginning):
                raise RuntimeError(f"{self.server.name} replied {line!r} and not {beginning!r}")
        return lines

    @abc.abstractmethod
    def put(self, count: int) -> None:
        """Put messages."""

    @abc.abstractmethod
    def take(self, count: int) -> list[Any]:
        """Take as many messages, and return what `ack` needs."""

    @abc.abstractmethod
    def ack(self, taken: list[Any]) -> None:
        """Ack messages."""


class Cairn(Client):
    """cairnkv, native protocol: PUT, TAKE and ACK of one message each."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._put = frame(64, QUEUE, BODY)
        self._take = frame(66, QUEUE, b"1")
        self.ping()  # a server closes a connection without a first frame

    def put(self, count: int) -> None:
        self._send(self._put * count)
        self._payloads(count)

    def take(self, count: int) -> list[Any]:
        self._send(self._take * count)
        return [strings(payload)[:2] for payload in self._payloads(count)]

    def ack(self, taken: list[Any]) -> None:
        self._send(b"".join([frame(68, number, lease) for number, lease in taken]))
        if set(self._payloads(len(taken))) != {b"\0\0\0\x011"}:
            raise RuntimeError("an ACK had no effect")

    def fill(self, count: int, delay: int = 0) -> None:
        """Load messages. Every fourth command delays its messages, the last ones by this number of milliseconds."""
        for begin in range(0, count, AT_ONCE):
            bodies = (BODY,) * min(AT_ONCE, count - begin)
            later = 0 if begin // AT_ONCE % 4 else delay * begin // count
            self._send(frame(65, QUEUE, b"%d" % later, b"1000", *bodies))
            self._payloads(1)

    def lease(self, count: int, until: float) -> None:
        """Take messages with leases that all end at a time, by `time.monotonic`."""
        for begin in range(0, count, AT_ONCE):
            milliseconds = b"%d" % max(1, int((until - time.monotonic()) * 1e3))
            self._send(frame(66, QUEUE, b"%d" % min(AT_ONCE, count - begin), b"LEASE", milliseconds))
            self._payloads(1)

    def stats(self, count: int) -> dict[bytes, bytes]:
        """Execute QUEUE_STATS several times, and return the last reply."""
        self._send(frame(79, QUEUE) * count)
        found = strings(self._payloads(count)[-1])
        return dict(zip(found[::2], found[1::2], strict=True))

    def ping(self) -> None:
        """Execute PING."""
        self._send(b"\0\0\x03" + struct.pack(">I", 0))
        self._payloads(1)

    def _payloads(self, count: int) -> list[bytes]:
        read, payloads = self._replies.read, []
        for _ in range(count):
            _, status, length = struct.unpack(">BBI", read(6))
            payloads.append(read(length))
            if status != ord("0"):
                raise RuntimeError(f"cairnkv replied {payloads[-1]!r}")
        return payloads


class CairnBatches(Cairn):
    """cairnkv, native protocol: one PUT_MANY, one TAKE and one ACK for all messages."""

    def put(self, count: int) -> None:
        self._send(frame(65, QUEUE, b"0", b"1000", *(BODY,) * count))
        self._payloads(1)

    def take(self, count: int) -> list[Any]:
        self._send(frame(66, QUEUE, b"%d" % count))
        found = strings(self._payloads(1)[0])
        return list(zip(found[::7], found[1::7], strict=True))

    def ack(self, taken: list[Any]) -> None:
        self._send(frame(68, *itertools.chain.from_iterable(taken)))
        if set(strings(self._payloads(1)[0])) != {b"1"}:
            raise RuntimeError("an ACK had no effect")


class CairnRedis(Client):
    """cairnkv, Redis protocol: QUEUE.PUT, QUEUE.TAKE and QUEUE.ACK of one message each."""

    def put(self, count: int) -> None:
        self._send(resp(b"QUEUE.PUT", QUEUE, BODY) * count)
        if self._integers(count, 2)[1::2] != [b":1\r\n"] * count:
            raise RuntimeError("a QUEUE.PUT had no effect")

    def take(self, count: int) -> list[Any]:
        self._send(resp(b"QUEUE.TAKE", QUEUE, b"1") * count)
        taken = []
        for _ in range(count):
            self._lines(1, b"*1")
            taken.append([line[1:-2] for line in self._integers(1, 7, 5)[:2]])
            self._lines(1, b"$0")  # the group
            self._lines(1, b"\r\n")
            self._lines(1, b"$%d" % BODY_BYTES)
            self._lines(1, BODY)
        return taken

    def ack(self, taken: list[Any]) -> None:
        self._send(b"".join([resp(b"QUEUE.ACK", number, lease) for number, lease in taken]))
        if set(self._integers(len(taken), 1)) != {b":1\r\n"}:
            raise RuntimeError("a QUEUE.ACK had no effect")

    def _integers(self, count: int, length: int, integers: int | None = None) -> list[bytes]:
        """Return the lines of the integers with which arrays of this length begin. integers: None: all strings."""
        found = []
        for _ in range(count):
            self._lines(1, b"*%d" % length)
            found += self._lines(integers or length, b":")
        return found


class Beanstalkd(Client):
    """beanstalkd: put, reserve-with-timeout 0, delete."""

    def put(self, count: int) -> None:
        self._send(b"put 0 0 60 %d\r\n%b\r\n" % (BODY_BYTES, BODY) * count)
        self._lines(count, b"INSERTED ")

    def take(self, count: int) -> list[Any]:
        self._send(b"reserve-with-timeout 0\r\n" * count)
        taken = []
        for _ in range(count):
            taken += [line.split()[1] for line in self._lines(1, b"RESERVED ")]
            self._replies.read(BODY_BYTES + 2)
        return taken

    def ack(self, taken: list[Any]) -> None:
        self._send(b"".join([b"delete %b\r\n" % number for number in taken]))
        self._lines(len(taken), b"DELETED")


class Redis(Client):
    """Redis lists: LPUSH, LMOVE to the list of taken messages, LREM from it."""

    def put(self, count: int) -> None:
        self._bodies = [b"%0*d" % (BODY_BYTES, number) for number in range(count)]  # LREM needs different bodies
        pushes = [b"*3\r\n$5\r\nLPUSH\r\n$4\r\njobs\r\n$%d\r\n%b\r\n" % (BODY_BYTES, body) for body in self._bodies]
        self._send(b"".join(pushes))
        self._lines(count, b":")

    def take(self, count: int) -> list[Any]:
        self._send(b"*5\r\n$5\r\nLMOVE\r\n$4\r\njobs\r\n$5\r\ntaken\r\n$5\r\nRIGHT\r\n$4\r\nLEFT\r\n" * count)
        expected = b"".join([b"$%d\r\n%b\r\n" % (BODY_BYTES, body) for body in self._bodies])
        if self._replies.read(len(expected)) != expected:
            raise RuntimeError("redis-server has returned other messages")
        return self._bodies

    def ack(self, taken: list[Any]) -> None:
        removals = [b"*4\r\n$4\r\nLREM\r\n$5\r\ntaken\r\n$2\r\n-1\r\n$%d\r\n%b\r\n" % (len(one), one) for one in taken]
        self._send(b"".join(removals))
        if self._replies.read(4 * len(taken)) != b":1\r\n" * len(taken):
            raise RuntimeError("redis-server has not removed a message")


class Nats(Client):
    """A work queue of NATS: publish and its acknowledgement, a pull of all messages, acks that are acknowledged."""

    replicas = 1

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._status = b""
        self._lines(1, b"INFO ")
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True}
        options |= {"user": STORE_USER, "pass": NATS_PASSWORD}  # a server without users accepts any
        self._send(b"CONNECT %b\r\nSUB replies 1\r\nSUB taken 2\r\n" % json.dumps(options).encode())
        stream = {"name": "Q", "subjects": ["jobs"], "retention": "workqueue", "num_replicas": self.replicas}
        self._ask(b"STREAM.CREATE.Q", stream)
        consumer = {"durable_name": "w", "ack_policy": "explicit", "max_ack_pending": 10_000}
        self._ask(b"CONSUMER.DURABLE.CREATE.Q.w", {"stream_name": "Q", "config": consumer})

    def _ask(self, what: bytes, request: dict[str, Any]) -> None:
        text = json.dumps(request).encode()
        until = time.monotonic() + SECONDS
        while True:
            self._send(b"PUB $JS.API.%b replies %d\r\n%b\r\n" % (what, len(text), text))
            ((_, reply),) = self._messages(1)
            if b'"error"' not in reply:
                return
            if time.monotonic() > until:  # the servers of a new cluster do not know each other at once
                raise RuntimeError(f"nats-server replied {reply!r}")
            time.sleep(0.2)

    def _messages(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return the reply subjects and the payloads of messages. A status in the place of the last one ends them."""
        found: list[tuple[bytes, bytes]] = []
        while len(found) < count:
            line = self._replies.readline()
            parts = line.split()
            if parts[0] == b"MSG":
                found.append((parts[-2], self._replies.read(int(parts[-1]) + 2)[:-2]))
            elif parts[0] == b"HMSG":  # no message here has headers
                self._status = self._replies.read(int(parts[-1]) + 2)
                break
            elif parts[0] == b"PING":
                self._send(b"PONG\r\n")
            else:
                raise RuntimeError(f"nats-server replied {line!r}")
        return found

    def put(self, count: int) -> None:
        self._send(b"PUB jobs replies %d\r\n%b\r\n" % (BODY_BYTES, BODY) * count)
        if any(b'"seq"' not in reply for _, reply in self._messages(count)):
            raise RuntimeError("nats-server has not stored a message")

    def take(self, count: int) -> list[Any]:
        taken: list[bytes] = []
        until = time.monotonic() + SECONDS
        while len(taken) < count:
            request = b'{"batch":%d}' % (count - len(taken))
            self._send(b"PUB $JS.API.CONSUMER.MSG.NEXT.Q.w taken %d\r\n%b\r\n" % (len(request), request))
            taken += [reply for reply, _ in self._messages(count - len(taken))]
            if len(taken) < count and time.monotonic() > until:  # a status ends a request, as when the leader changes
                raise RuntimeError(f"nats-server replied {self._status!r}")
        return taken

    def ack(self, taken: list[Any]) -> None:
        self._send(b"".join([b"PUB %b replies 4\r\n+ACK\r\n" % reply for reply in taken]))
        self._messages(len(taken))


class NatsReplicas(Nats):
    """A work queue of NATS with three replicas."""

    replicas = 3


class RabbitMQ(Client):
    """A quorum queue of RabbitMQ: publish and its confirm, deliveries to a consumer, acks, which have no reply.

    AMQP 0-9-1. Channel 1 publishes and channel 2 consumes, on one connection.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._published, self._unconfirmed, self._delivered = 0, set[int](), collections.deque[int]()
        self._send(b"AMQP\0\0\x09\x01")
        self._read_until(10, 10)
        login = short(b"PLAIN") + long(b"\0guest\0guest") + short(b"en_US")
        self._ask(0, 10, 11, long(b"") + login, (10, 30))
        self._send(method(0, 10, 31, struct.pack(">HIH", 8, 1 << 17, 0)))  # 8 channels, no heartbeats
        self._ask(0, 10, 40, short(b"/") + b"\0\0", (10, 41))
        self._ask(1, 20, 10, b"\0", (20, 11))
        self._ask(2, 20, 10, b"\0", (20, 11))
        kind = long(short(b"x-queue-type") + b"S" + long(b"quorum"))
        self._ask(1, 50, 10, b"\0\0" + short(QUEUE) + b"\x02" + kind, (50, 11))  # durable
        self._ask(1, 85, 10, b"\0", (85, 11))  # confirms
        self._ask(2, 60, 10, struct.pack(">IHB", 0, AT_ONCE, 0), (60, 11))  # limit of unacked messages
        self._ask(2, 60, 20, b"\0\0" + short(QUEUE) + short(b"") + b"\0" + long(b""), (60, 21))
        properties = struct.pack(">HHQHB", 60, 0, BODY_BYTES, 1 << 12, 2)  # persistent
        publish = method(1, 60, 40, b"\0\0" + short(b"") + short(QUEUE) + b"\0")
        self._put = publish + amqp_frame(2, 1, properties) + amqp_frame(3, 1, BODY)

    def put(self, count: int) -> None:
        tags = range(self._published + 1, self._published + count + 1)
        self._unconfirmed.update(tags)
        self._published += count
        self._send(self._put * count)
        while self._unconfirmed:
            self._read()

    def take(self, count: int) -> list[Any]:
        while len(self._delivered) < count:
            self._read()
        return [self._delivered.popleft() for _ in range(count)]

    def ack(self, taken: list[Any]) -> None:
        self._send(b"".join([method(2, 60, 80, struct.pack(">QB", tag, 0)) for tag in taken]))

    def _ask(self, channel: int, group: int, number: int, arguments: bytes, reply: tuple[int, int]) -> None:
        self._send(method(channel, group, number, arguments))
        self._read_until(*reply)

    def _read_until(self, group: int, number: int) -> None:
        while self._read() != (group, number):
            pass

    def _read(self) -> tuple[int, int] | None:
        """Read a frame. Returns the class and the number of its method, or None for a part of a message."""
        kind, _, length = struct.unpack(">BHI", self._replies.read(7))
        payload = self._replies.read(length + 1)
        if kind != 1:
            return None
        group, number = struct.unpack_from(">HH", payload)
        if (group, number) == (60, 80):  # confirms
            tag, several = struct.unpack_from(">QB", payload, 4)
            self._unconfirmed -= set(range(min(self._unconfirmed), tag + 1)) if several else {tag}
        elif (group, number) == (60, 60):
            self._delivered += struct.unpack_from(">Q", payload, 5 + payload[4])
        elif (group, number) in ((10, 50), (20, 40), (60, 120)):  # it closes, or refuses a message
            raise RuntimeError(f"RabbitMQ replied {payload!r}")
        return group, number


CLIENTS: dict[str, type[Client]] = {
    "cairn": Cairn,
    "beanstalkd": Beanstalkd,
    "redis-server": Redis,
    "nats-server": Nats,
    "nats-server R3": NatsReplicas,
    "RabbitMQ": RabbitMQ,
}
"""The client of each server, by the name of the server."""


def frame(number: int, *arguments: bytes) -> bytes:
    """Return a frame of the native protocol."""
    parts = [struct.pack(">BHI", 0, number, len(arguments))]
    for argument in arguments:
        parts += (struct.pack(">I", len(argument)), argument)
    return b"".join(parts)


def resp(*arguments: bytes) -> bytes:
    """Return a command of the Redis protocol."""
    return b"*%d\r\n" % len(arguments) + b"".join([b"$%d\r\n%b\r\n" % (len(one), one) for one in arguments])


def amqp_frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame of AMQP."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, group: int, number: int, arguments: bytes) -> bytes:
    """Return the frame of a method of AMQP."""
    return amqp_frame(1, channel, struct.pack(">HH", group, number) + arguments)


def short(text: bytes) -> bytes:
    """Return a short string of AMQP."""
    return bytes([len(text)]) + text


def long(text: bytes) -> bytes:
    """Return a long string of AMQP, or a table with these fields."""
    return struct.pack(">I", len(text)) + text


def strings(payload: bytes) -> list[bytes]:
    """Return the strings of a reply."""
    found, at = [], 0
    while at < len(payload):
        begin = at + 4
        at = begin + int.from_bytes(payload[at:begin])
        found.append(payload[begin:at])
    return found


@contextlib.contextmanager
def connected(server: Server, kind: type[Client] | None = None) -> Iterator[Any]:
    """Connect to a server. kind: None: the usual client of the server."""
    with contextlib.closing((kind or CLIENTS[server.name])(server)) as client:
        yield client


# -- measurements -----------------------------------------------------------------------------------------------------


def measured(client: Client, step: Callable[[], int], seconds: float) -> dict[str, float]:
    """Repeat a step until the time is up, and return the number of its commands and the times. The first is no part."""
    step()
    done, cpu, began = 0, client.cpu(), time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        done += step()
    return {"commands": done, "seconds": spent, "cpu_seconds": client.cpu() - cpu}


def cycles(client: Client, depth: int, seconds: float) -> dict[str, float]:
    """Put, take and ack messages. Each message counts as one command."""

    def cycle() -> int:
        client.put(depth)
        taken = client.take(depth)
        if len(taken) != depth:
            raise RuntimeError(f"{client.server.name} has returned {len(taken)} of {depth} messages")
        client.ack(taken)
        return depth

    return measured(client, cycle, seconds)


def statistics(client: Cairn, depth: int, seconds: float) -> dict[str, float]:
    """Execute QUEUE_STATS."""

    def some() -> int:
        client.stats(depth)
        return depth

    return measured(client, some, seconds)


MARGINS = (0.5, 4.0, 32.0)
"""Seconds between the estimated end of many leases or TTLs that begin, and their common end: of each trial."""

WATCHED = 0.8
"""Seconds for which steps are measured after the moment at which leases or keys expire."""


def longest_step(client: Cairn, steps: tuple[Callable[[], object], ...], end: float) -> dict[str, float]:
    """Repeat steps from shortly before a time, by `time.monotonic`, and return the longest ones."""
    time.sleep(max(0, end - 0.2 - time.monotonic()))
    longest_cpu = longest_wall = 0.0
    cpu, wall = client.cpu(), time.monotonic()
    for step in itertools.cycle(steps):
        step()
        last_cpu, cpu, last_wall, wall = cpu, client.cpu(), wall, time.monotonic()
        longest_cpu, longest_wall = max(longest_cpu, cpu - last_cpu), max(longest_wall, wall - last_wall)
        if wall > end + WATCHED:
            return {"cpu_ms": longest_cpu * 1e3, "ms": longest_wall * 1e3}
    raise AssertionError


def leases_that_end(server: Server, count: int) -> dict[str, float]:
    """Let leases end at the same moment, and return the longest step of the server."""
    with connected(server) as client:
        client.fill(count)
        begun = time.monotonic()
        client.lease(AT_ONCE, begun)  # ends at once, and shows how long the others take
        took = time.monotonic() - begun
        for margin in MARGINS:
            end = time.monotonic() + margin + 2 * took * count / AT_ONCE
            client.lease(count, end)
            stats = client.stats(1)
            leased, taken = int(stats[b"leased"]), stats[b"taken"]
            if leased >= count * 0.9:
                break
        else:
            raise RuntimeError(f"only {leased:,} of {count:,} leases were made in time")
        found = longest_step(client, (client.ping, lambda: client.stats(1), lambda: client.take(1)), end)
        if client.stats(1)[b"taken"] == taken:
            raise RuntimeError("the leases have not ended")
    return found


def keys_that_expire(server: Server, count: int) -> dict[str, float]:
    """Let keys expire at the same moment, and return the longest step: one slice of housekeeping."""
    import cairnkv

    with cairnkv.connect(f"cairn://127.0.0.1:{server.port}", codec="bytes") as kv:

        def load(begin: int, end: float) -> None:
            with kv.pipeline() as pipeline:
                for number in range(begin, min(begin + AT_ONCE, count)):
                    pipeline.set(b"key:%012d" % number, BODY, ttl=max(0.001, end - time.monotonic()))

        begun = time.monotonic()
        load(0, begun + SECONDS)  # shows how long the others take, which then replace these keys, too
        took = time.monotonic() - begun
        for margin in MARGINS:
            end = time.monotonic() + margin + 2 * took * count / AT_ONCE
            for begin in range(0, count, AT_ONCE):
                load(begin, end)
            if time.monotonic() < end - 0.1:
                break
        else:
            raise RuntimeError("the keys were not loaded in time")
    with connected(server) as client:
        return longest_step(client, (client.ping,), end)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

TABLE = f"""
CREATE TABLE jobs (id bigserial PRIMARY KEY, due timestamptz NOT NULL DEFAULT now(), attempts int NOT NULL DEFAULT 0,
                   body text NOT NULL);
CREATE INDEX ON jobs (due, id);
INSERT INTO jobs (body) SELECT repeat('x', {BODY_BYTES}) FROM generate_series(1, {PREFILLED});
"""
CYCLE = f"""
INSERT INTO jobs (body) VALUES ('{"x" * BODY_BYTES}');
UPDATE jobs SET due = now() + interval '60 s', attempts = attempts + 1 WHERE id = (SELECT id FROM jobs
    WHERE due <= now() ORDER BY due, id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id \\gset
DELETE FROM jobs WHERE id = :id;
"""


def make_table(server: Server) -> None:
    """Make the table of the queue in PostgreSQL."""
    run_postgres("psql", server, "-q", "-v", "ON_ERROR_STOP=1", "-c", TABLE)


def postgres_cycles(server: Server, clients: int, seconds: float) -> dict[str, float]:
    """Put, take and ack messages with pgbench, by this number of connections."""
    script = Path(f"/proc/{server.pid}/cwd/cycle.sql")
    script.write_text(CYCLE)
    flags = ("-n", "-M", "prepared", "-c", str(clients), "-T", str(max(1, round(seconds))), "-f", str(script))
    output = run_postgres("pgbench", server, *flags)
    done, rate = (re.search(pattern, output) for pattern in (r"processed: (\d+)", r"tps = ([\d.]+)"))
    if done is None or rate is None:
        raise RuntimeError(f"pgbench printed {output[-200:]!r}")
    return {"commands": float(done[1]), "seconds": float(done[1]) / float(rate[1])}


def run_postgres(program: str, server: Server, *flags: str) -> str:
    """Run a program of PostgreSQL and return its output."""
    where = ("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres")
    done = subprocess.run([program, *where, *flags, "postgres"], capture_output=True, text=True, timeout=SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"{program}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout


# -- workers ----------------------------------------------------------------------------------------------------------

THREADS = 8
"""Threads of a worker, if it has threads: dramatiq's default."""


def no_op(*_: object) -> None:
    """Do nothing."""


def work_cairnkv(port: int, jobs: int) -> Callable[[], None]:
    import cairnkv

    queue = cairnkv.connect(f"cairn://127.0.0.1:{port}").queue("jobs")
    queue.put_many(range(jobs))
    return lambda: queue.run(no_op, threads=THREADS, drain=True)


def work_dramatiq(port: int, jobs: int) -> Callable[[], None]:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(port=port)
    actor = dramatiq.actor(no_op, broker=broker, queue_name="jobs")
    for number in range(jobs):
        actor.send(number)

    def run() -> None:
        worker = dramatiq.Worker(broker, worker_threads=THREADS)
        worker.start()
        broker.join("jobs")
        worker.stop()

    return run


def work_rq(port: int, jobs: int) -> Callable[[], None]:
    import queues  # the functions of jobs have the name of their module
    import rq

    import redis

    connection = redis.Redis(port=port)
    queue = rq.Queue("jobs", connection=connection)
    for number in range(jobs):
        queue.enqueue(queues.no_op, number)
    return lambda: print(rq.SimpleWorker([queue], connection=connection).work(burst=True, logging_level="ERROR"))


WORKERS = {"cairnkv": work_cairnkv, "dramatiq": work_dramatiq, "rq": work_rq}


def main(library: str, port: str, jobs: str) -> int:
    """Run a worker, and print its number of jobs and its times."""
    run = WORKERS[library](int(port), int(jobs))
    cpu, began = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        run()
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({"commands": int(jobs), **spent}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

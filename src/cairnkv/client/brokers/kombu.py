"""A transport of kombu, the messaging library of Celery, over the queues of a store.

Importing this module makes `cairn://` and `cairns://` URLs known to kombu. The queues of kombu are queues of the store,
with the same names. Exchanges (direct, topic, fanout) are bindings that the store keeps as keys.

Options (`transport_options`, in Celery `broker_transport_options`): `lease`, the time of leases; default: that of each
queue.

Invariants: each channel with consumers has a thread that takes messages, up to the prefetch count. The threads only
take: the thread that calls `drain_events`, or the event loop of Celery, delivers.

Out of scope: the settings of Celery, and its results (`celery`).
"""

import collections
import contextlib
import datetime
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from queue import Empty
from typing import Any, Final, TypeAlias

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.transport.base import to_rabbitmq_queue_arguments
from kombu.utils.json import dumps, loads

from cairnkv.client.address import without_secrets
from cairnkv.client.brokers.keeper import Keeper
from cairnkv.client.entry import connect
from cairnkv.client.queue.calls import lease_milliseconds, take_any
from cairnkv.client.queue.jobs import Job
from cairnkv.client.queue.queues import REPLY_SECONDS, Queue
from cairnkv.client.queue.working import FIRST_PAUSE, LONGEST_PAUSE, Pauses
from cairnkv.client.sync import Client
from cairnkv.errors import BadCommand, CairnError, CallerError, OutcomeUnknown, Refused, Unavailable
from cairnkv.limits import DEFAULT_URL, DELAY_MAX, PRIORITY_DEFAULT, TAKE_MAX
from cairnkv.version import VERSION

logger: Final = logging.getLogger("cairnkv.brokers")

SCHEME: Final = "cairn"
SECURE_SCHEME: Final = "cairns"
"""The scheme of URLs with TLS."""

WAIT_SECONDS: Final = 2.0
"""Seconds that one TAKE waits for messages."""

UNLIMITED: Final = 10
"""Maximum messages that a channel without a prefetch count takes before it delivers them."""

AUTO_DELETE_SECONDS: Final = 60.0
"""Seconds for which a queue with auto_delete exists after its last consumer has stopped."""

DELAY_SECONDS: Final = DELAY_MAX / 1000 - 3_600
"""Maximum seconds of a delay, with an hour for clocks that differ."""

BINDINGS: Final = "kombu:exchange:"
"""The prefix of the keys of exchanges. The values are JSON: a list of routing keys and queues."""

IN_USE: Final = "kombu:in-use:"
"""The prefix of the keys of queues that expire. A consumer sets such a key again before its TTL ends."""


def store_url(url: str | None) -> str | None:
    """Return the address of a store in a URL as kombu and Celery pass it; None: the default of clients.

    >>> store_url("cairn://"), store_url("unix:///run/cairn.sock")
    (None, 'cairn+unix:///run/cairn.sock')
    """
    if url is None or "://" not in url or url.rstrip("/") == f"{SCHEME}:":
        return None
    return f"{SCHEME}+{url}" if url.startswith("unix://") else url.rstrip("/") if url.count("/") > 2 else url


class QoS:
    """The jobs that a channel has, from TAKE to their end."""

    def __init__(self, channel: "Channel") -> None:
        self._channel = channel
        self._count = 0
        self.jobs: dict[str, Job[bytes]] = {}  # by delivery tag

    @property
    def prefetch_count(self) -> int:
        """The maximum number of jobs; 0: no maximum."""
        return self._count

    @prefetch_count.setter
    def prefetch_count(self, count: int) -> None:
        self._count = count or 0
        self._channel.wants_more()

    def can_consume(self) -> bool:
        """Return whether the channel may take another message."""
        return not self._count or len(self.jobs) < self._count

    def append(self, message: Any, delivery_tag: str) -> None:
        """Do nothing: a job is in `jobs` since it was taken."""

    def ack(self, delivery_tag: str) -> None:
        """Delete a message."""
        if (job := self._ended(delivery_tag)) is not None:
            self._channel.keeper.ack(job)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Make a message ready again, as a counted attempt, or dead."""
        if (job := self._ended(delivery_tag)) is None:
            return
        if requeue:
            self._channel.keeper.nack(job, "requeued by its consumer", delay=0)
        else:
            self._channel.keeper.nack(job, "rejected by its consumer", dead=True)

    def restore_unacked(self) -> None:
        """Return all messages to their queues. The attempts do not count."""
        for tag in list(self.jobs):
            if (job := self._ended(tag)) is not None:
                self._channel.keeper.give_back(job)

    restore_unacked_once = restore_unacked

    def _ended(self, delivery_tag: str) -> Job[bytes] | None:
        job = self.jobs.pop(delivery_tag, None)
        self._channel.wants_more()
        return job


class Channel(virtual.Channel):
    """A channel: declares queues and exchanges, publishes, and takes messages for its consumers."""

    QoS = QoS
    supports_fanout = True
    max_priority = 255

    def __init__(self, connection: "Transport", **options: Any) -> None:
        super().__init__(connection, **options)
        lease = connection.client.transport_options.get("lease")
        self._lease_ms = None if lease is None else lease_milliseconds(lease)
        self._transport = connection
        self._kv = connection.kv
        self.keeper = connection.keeper
        self._changed = threading.Condition()  # guards all below
        self._names: list[str] = []  # queues with a consumer
        self._no_ack: set[str] = set()
        self._undelivered = 0
        self._expiring = connection.expiring
        self._taker: threading.Thread | None = None
        self._stopped = False
        self._jobs: dict[str, Job[bytes]] = self.qos.jobs

    # -- queues -------------------------------------------------------------------------------------------------

    def _queue(self, name: str) -> Queue[bytes]:
        return self._kv.queue(name, codec="bytes")

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        properties = message["properties"]
        milliseconds = properties.get("expiration")
        self._queue(queue).put(
            dumps(message).encode(),
            at=_ready_at(message.get("headers") or {}),
            priority=PRIORITY_DEFAULT - self._get_message_priority(message),
            expires=int(milliseconds) / 1000 if milliseconds else None,
        )

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        lease = None if self._lease_ms is None else self._lease_ms / 1000
        while (job := self._queue(queue).take(lease=lease)) is not None:
            self.keeper.add(job)
            if (payload := self._payload(job)) is not None:
                self._jobs[_tag(job)] = job
                return payload
        raise Empty

    def basic_get(self, queue: str, no_ack: bool = False, **options: Any) -> Any:
        """Return the next message of a queue, or None."""
        message = super().basic_get(queue, no_ack, **options)
        if message is not None and no_ack:
            self.qos.ack(message.delivery_tag)
        return message

    def _size(self, queue: str) -> int:
        try:
            return self._queue(queue).stats()["ready"]
        except BadCommand:  # there is no such queue yet
            return 0

    def _has_queue(self, queue: str, **_: Any) -> bool:
        try:
            self._queue(queue).stats()
        except BadCommand:
            return False
        return True

    def _purge(self, queue: str) -> int:
        if not self._has_queue(queue):
            return 0
        return self._queue(queue).purge("ready") + self._queue(queue).purge("delayed")

    def prepare_queue_arguments(self, arguments: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
        """Return the arguments of a queue, with its options as arguments of RabbitMQ."""
        prepared: dict[str, Any] = to_rabbitmq_queue_arguments(arguments or {}, **options)
        return prepared

    def _new_queue(
        self, queue: str, auto_delete: bool = False, arguments: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        arguments = arguments or {}
        settings: dict[str, Any] = {
            name: arguments[key]
            for name, key in (
                ("attempts", "x-delivery-limit"),
                ("max_bytes", "x-max-length-bytes"),
                ("max_messages", "x-max-length"),
            )
            if key in arguments
        }
        if "max_bytes" in settings or "max_messages" in settings:
            settings["when_full"] = "refuse" if arguments.get("x-overflow") == "reject-publish" else "drop"
        if "x-message-ttl" in arguments:
            settings["max_age"] = arguments["x-message-ttl"] / 1000
        if settings:
            self._queue(queue).set(**settings)
        seconds = arguments["x-expires"] / 1000 if "x-expires" in arguments else AUTO_DELETE_SECONDS
        if auto_delete or "x-expires" in arguments:
            self._expiring[queue] = seconds
            self._kv.set(IN_USE + queue, b"", ttl=seconds)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **_: Any) -> None:
        """Delete a queue with its messages and bindings."""
        if if_empty and self._size(queue):
            return
        for binding in self._bindings(queue):
            self._change_bindings(binding[1], remove=[queue])
        self._expiring.pop(queue, None)
        self.state.queue_bindings_delete(queue)
        self._kv.clear(IN_USE + queue)
        self._drop(queue)

    def _drop(self, queue: str) -> None:
        with contextlib.suppress(CallerError, Refused):  # it does not exist, or another client just put a message
            self._queue(queue).purge()
            self._queue(queue).drop()

    # -- exchanges ----------------------------------------------------------------------------------------------

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str | None, queue: str) -> None:
        self._change_bindings(exchange, add=[(routing_key, queue)])

    def queue_unbind(self, queue: str, exchange: str, routing_key: str = "", arguments: Any = None, **_: Any) -> None:
        """Delete the binding of a queue to an exchange."""
        self.state.binding_delete(queue, exchange, routing_key)
        self._change_bindings(exchange, remove=[queue], routing_key=routing_key)

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange with its bindings."""
        self.state.exchanges.pop(exchange, None)
        self._kv.clear(BINDINGS + exchange)

    def get_table(self, exchange: str) -> list[tuple[str, str | None, str]]:
        """Return the bindings of an exchange: routing keys, their patterns and queues."""
        prepare = self.typeof(exchange).prepare_bind
        table = _table(self._kv.get(BINDINGS + exchange))
        expired = self._expired(table)
        return [prepare(queue, exchange, key, None) for key, queue, _ in table if queue not in expired]

    def _expired(self, table: list[tuple[str, str, bool]]) -> set[str]:
        """Return the expired queues of a table: no consumer has renewed their keys in time."""
        expiring = {queue for _, queue, expires in table if expires}
        if not expiring:
            return expiring
        in_use = self._kv.get_many([IN_USE + queue for queue in expiring])
        return {queue for queue in expiring if (IN_USE + queue).encode() not in in_use}

    def _change_bindings(
        self,
        exchange: str,
        *,
        add: Iterable[tuple[str, str]] = (),
        remove: Iterable[str] = (),
        routing_key: str | None = None,
    ) -> None:
        """Add or remove bindings of an exchange, and delete its expired queues. routing_key: remove only with it."""
        key = BINDINGS + exchange
        added = {(routing, queue, queue in self._expiring) for routing, queue in add}
        done = False
        while not done:
            before = self._kv.get(key)
            table = _table(before)
            expired = self._expired(table) - {queue for _, queue, _ in added}
            left = {
                (routing, queue, expires)
                for routing, queue, expires in table
                if queue not in expired and not (queue in remove and routing_key in (None, routing))
            }
            after = json.dumps(sorted(left | added)).encode()
            if before is None:
                done = self._kv.set(key, after, if_absent=True)
            elif after == before:
                done = True
            else:
                done = self._kv.set(key, after, if_equals=before)
        for queue in expired:
            self._drop(queue)

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **_: Any) -> None:
        for queue in sorted({queue for _, _, queue in self.get_table(exchange)}):
            self._put(queue, message)

    def _stay_in_use(self, queues: list[str]) -> None:
        """Renew the keys of the queues that expire. Make a missing key again, with the bindings of its queue."""
        for queue in queues:
            if (seconds := self._expiring.get(queue)) is None:
                continue
            if not self._kv.expire(IN_USE + queue, seconds):  # the process was stopped, so the queue expired
                self._kv.set(IN_USE + queue, b"", ttl=seconds)
                for _, exchange, routing_key in self._bindings(queue):
                    self._change_bindings(exchange, add=[(routing_key, queue)])

    def _bindings(self, queue: str) -> list[tuple[str, str, str]]:
        """Return the bindings of a queue by this connection: the queue, exchanges and routing keys."""
        return list(self.state.queue_index.get(queue, ()))

    # -- consumers ----------------------------------------------------------------------------------------------

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> None:
        """Deliver messages of a queue to a callback from now on."""
        super().basic_consume(queue, no_ack, callback, consumer_tag, **options)
        with self._changed:
            (self._no_ack.add if no_ack else self._no_ack.discard)(queue)
            self._names = list(self._active_queues)
            if self._taker is None:
                self._taker = threading.Thread(target=self._take_jobs, name="cairnkv broker: takes", daemon=True)
                self._taker.start()
            self._changed.notify()
        self._kv._end_takes()  # a TAKE that waits does not include the queue

    def basic_cancel(self, consumer_tag: str) -> None:
        """Deliver no more messages to a consumer. Messages that wait for it return to the queue."""
        super().basic_cancel(consumer_tag)
        with self._changed:
            self._names = list(self._active_queues)
        self._kv._end_takes()  # a TAKE that waits still includes the queue
        self._transport.discard(self, self._names)

    def close(self) -> None:
        """Cancel all consumers, and return the unacked messages to their queues."""
        if not self.closed and self._transport.is_mine():
            with self._changed:
                self._stopped = True
                self._changed.notify()
            if self._taker is not None:
                while self._taker.is_alive():
                    self._kv._end_takes()
                    self._taker.join(FIRST_PAUSE)
            super().close()

    def wants_more(self) -> None:
        """Wake the thread that takes messages, which compares their number with the prefetch count."""
        with self._changed:
            self._changed.notify()

    def _room(self) -> int:
        """Return how many messages the channel may take."""
        count: int = self.qos.prefetch_count
        if count > 0:
            return min(TAKE_MAX, count - len(self._jobs))
        return UNLIMITED - self._undelivered

    def _take_jobs(self) -> None:
        pauses = Pauses()
        noted = -math.inf
        while True:
            with self._changed:
                if not (self._stopped or (self._names and self._room() > 0)):
                    self._changed.wait(self._wait(self._names))
                if self._stopped:
                    return
                names, room = self._names, self._room()
                self._names = [*names[1:], *names[:1]]  # TAKE prefers the first queue
            try:
                if time.monotonic() - noted > 1:
                    noted = time.monotonic()
                    self._stay_in_use(names)
                if names and room > 0:
                    self._take(names, room)
            except Exception as error:
                if isinstance(error, CairnError) and not isinstance(error, CallerError):
                    pause = pauses.after(error)
                else:
                    logger.exception("cannot take messages of the queues %s", ", ".join(names))
                    pause = LONGEST_PAUSE
                self._pause(pause)
            else:
                pauses.reset()

    def _wait(self, names: list[str]) -> float:
        """Return the seconds that the thread may wait for messages of some queues."""
        return min([WAIT_SECONDS, *(self._expiring[name] / 3 for name in names if name in self._expiring)])

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if not self._stopped:
                self._changed.wait(seconds)

    def _take(self, names: list[str], count: int) -> None:
        """Take messages of some queues once, waiting for the first."""
        sent = time.monotonic()
        wait = self._wait(names)
        taken = self._kv._do(take_any([name.encode() for name in names], count, self._lease_ms, round(wait * 1000)))
        now = time.monotonic()
        for name, one in taken:
            queue = name.decode()
            job = Job(self._kv, self._queue(queue)._calls, one, max(sent, now - REPLY_SECONDS))
            self.keeper.add(job)
            with self._changed:
                wanted = queue in self._names and not self._stopped
                if wanted:
                    self._jobs[_tag(job)] = job
                    self._undelivered += 1
            if wanted:
                self._transport.arrive(self, queue, _tag(job))
            else:
                self.keeper.give_back(job)

    def deliver(self, queue: str, tag: str) -> None:
        """Call the consumer of a queue with a message."""
        with self._changed:
            self._undelivered -= 1
            self._changed.notify()
        job = self._jobs.get(tag)
        if job is None:
            return
        callback = self._transport._callbacks.get(queue)
        if callback is None or queue not in self._active_queues:
            self._jobs.pop(tag)
            self.keeper.give_back(job)
            return
        payload = self._payload(job)
        if payload is None:
            self._jobs.pop(tag)
            return
        if queue in self._no_ack:
            self.qos.ack(tag)
        callback(payload)

    def _payload(self, job: Job[bytes]) -> dict[str, Any] | None:
        """Return the message of a job, as the channel that put it made it. Another message becomes dead: None."""
        with contextlib.suppress(ValueError):
            message = loads(job.data)
            if isinstance(message, dict) and isinstance(properties := message.get("properties"), dict):
                properties["delivery_tag"] = _tag(job)
                properties.setdefault("delivery_info", {})["redelivered"] = job.attempt > 1
                return message
        logger.error("message %d of the queue %r is not from kombu; it is dead now", job.id, job.queue)
        self.keeper.nack(job, "not a message of kombu", dead=True)
        return None


AnyChannel: TypeAlias = Channel
"""The class, within a class that also has an attribute of that name."""


class Transport(virtual.Transport):
    """The connection of kombu to a store, with the messages that wait for their consumers."""

    Channel = Channel
    can_parse_url = True
    driver_type = "cairn"
    driver_name = "cairnkv"
    connection_errors = (*virtual.Transport.connection_errors, Unavailable, OutcomeUnknown)
    channel_errors = (*virtual.Transport.channel_errors, Refused)
    recoverable_connection_errors = connection_errors
    recoverable_channel_errors = ()
    implements = virtual.Transport.implements.extend(
        asynchronous=True, exchange_type=frozenset(("direct", "topic", "fanout"))
    )

    kv: Client[bytes, bytes]
    keeper: Keeper

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.expiring: dict[str, float] = {}  # seconds by the names of queues that this connection declared
        self._process = os.getpid()
        self._arrived = threading.Condition()  # guards all below
        self._inbox: collections.deque[tuple[AnyChannel, str, str]] = collections.deque()  # queues and tags
        self._loop: Any = None  # the event loop of a worker of Celery, which reads a byte for messages
        self._pipe: tuple[int, int] | None = None

    def driver_version(self) -> str:
        """Return the version of cairnkv."""
        return VERSION

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return a URL, for a logger without the secret."""
        url = store_url(uri) or DEFAULT_URL
        return url if include_password else without_secrets(url)

    def is_mine(self) -> bool:
        """Return whether this process made the connection, and is no fork of that process."""
        return os.getpid() == self._process

    def establish_connection(self) -> Any:
        """Connect to the store, which must have queues."""
        self.kv = connect(store_url(self.client.hostname), codec="bytes")
        try:
            next(self.kv.queues(), None)
        except CairnError:
            self.kv.close()
            raise
        self.keeper = Keeper(self.kv)
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels, which return their messages."""
        if not self.is_mine():
            return
        super().close_connection(connection)
        self.keeper.close()
        self.kv.close()
        with self._arrived:
            pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self._loop.remove(pipe[0])
            os.close(pipe[0])
            os.close(pipe[1])

    # -- delivering ---------------------------------------------------------------------------------------------

    def arrive(self, channel: AnyChannel, queue: str, tag: str) -> None:
        """Add a message, which `drain_events` or the event loop delivers."""
        with self._arrived:
            self._inbox.append((channel, queue, tag))
            self._arrived.notify()
            self._wake_loop()

    def discard(self, channel: AnyChannel, queues: list[str]) -> None:
        """Return the waiting messages of a channel, except those of some queues."""
        with self._arrived:
            returned = [item for item in self._inbox if item[0] is channel and item[1] not in queues]
            for item in returned:
                self._inbox.remove(item)
        for _, queue, tag in returned:
            channel.deliver(queue, tag)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver the next message to its consumer. Raises `TimeoutError` if none comes in time."""
        if not self._deliver_next(timeout):
            raise TimeoutError("no message came")

    def _deliver_next(self, timeout: float | None) -> bool:
        """Deliver the next message to its consumer. Returns False if none comes in time."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._inbox, timeout):
                return False
            channel, queue, tag = self._inbox.popleft()
        channel.deliver(queue, tag)
        return True

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Make an event loop deliver the messages."""
        with self._arrived:
            if self._pipe is None:
                self._pipe = os.pipe()
                for end in self._pipe:
                    os.set_blocking(end, False)
            self._loop = loop
            loop.add_reader(self._pipe[0], self._deliver_all, connection, self._pipe[0])
            if self._inbox:
                self._wake_loop()

    def _wake_loop(self) -> None:
        if self._pipe is not None:
            with contextlib.suppress(BlockingIOError):  # then the loop has bytes to read
                os.write(self._pipe[1], b"m")

    def _deliver_all(self, connection: Any, end: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(end, 4096)
        try:
            while self._deliver_next(0):
                pass
        finally:
            with self._arrived:
                if self._inbox:  # a consumer has raised: the loop calls this again for the messages behind its own
                    self._wake_loop()


def _tag(job: Job[bytes]) -> str:
    """Return the delivery tag of a job: tokens are unique in the store."""
    return str(job.token)


def _table(stored: bytes | None) -> list[tuple[str, str, bool]]:
    """Return bindings: routing keys, queues, and whether the queues expire."""
    return [(key, queue, expires) for key, queue, expires in json.loads(stored or b"[]")]


def _ready_at(headers: Mapping[str, Any]) -> float | None:
    """Return the time at which a task of Celery may begin (`eta`), if it has one with a time zone.

    A worker waits for an `eta` by itself, so it also waits for one that this function leaves out.
    """
    eta = headers.get("eta")
    try:
        moment = eta if isinstance(eta, datetime.datetime) else datetime.datetime.fromisoformat(eta or "")
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        return None
    return min(moment.timestamp(), time.time() + DELAY_SECONDS)


TRANSPORT_ALIASES[SCHEME] = TRANSPORT_ALIASES[SECURE_SCHEME] = f"{__name__}:Transport"

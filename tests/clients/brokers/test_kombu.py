"""The transport of kombu, without Celery."""

import datetime
import doctest
import importlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cairnkv
from cairnkv.testing import running_server
from tests.clients.brokers.programs import SECONDS
from tests.support.raw import eventually

kombu = pytest.importorskip("kombu")
pytest.importorskip("cairnkv.client.brokers.kombu")  # it makes the URL known


@pytest.fixture
def connection(url: str, kv: cairnkv.Client[str, str]) -> Iterator[Any]:
    with kombu.Connection(url) as connection:
        yield connection


class Received:
    """A consumer that keeps its messages."""

    def __init__(self, connection: Any, queue: Any, **options: Any) -> None:
        self._connection = connection
        self.messages: list[Any] = []
        self.channel = connection.channel()
        self._consumer = self.channel.Consumer([queue], callbacks=[lambda _, message: self.messages.append(message)])
        self._consumer.qos(**options)
        self._consumer.consume()

    def wait(self, count: int) -> list[Any]:
        """Wait for messages. Returns their bodies."""
        while len(self.messages) < count:
            self._connection.drain_events(timeout=SECONDS)
        return [message.payload for message in self.messages]

    def cancel(self) -> None:
        self._consumer.cancel()


class EventLoop:
    """An event loop that watches one descriptor."""

    def add_reader(self, descriptor: int, callback: Callable[..., object], *arguments: object) -> None:
        self._descriptor, self._callback, self._arguments = descriptor, callback, arguments

    def remove(self, descriptor: int) -> None:
        assert descriptor == self._descriptor

    def run_once(self) -> None:
        readable, _, _ = select.select([self._descriptor], [], [], SECONDS)
        assert readable, "the transport does not wake the loop"
        self._callback(*self._arguments)


def publish(connection: Any, queue: str, *bodies: object, **options: Any) -> None:
    producer = connection.Producer()
    for body in bodies:
        producer.publish(body, routing_key=queue, **options)


def test_simple_queue_returns_what_was_put(connection: Any) -> None:
    with connection.SimpleQueue("simple") as queue:
        queue.put({"picture": 7})
        message = queue.get(timeout=SECONDS)
        assert message.payload == {"picture": 7}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get_nowait()
        assert queue.qsize() == 0


def test_higher_priority_is_delivered_first(connection: Any) -> None:
    for priority in (0, 9, 5):
        publish(connection, "work", priority, priority=priority)
    received = Received(connection, kombu.Queue("work"))
    assert received.wait(3) == [9, 5, 0]


def test_prefetch_count_limits_the_unacked_messages(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    publish(connection, "work", *range(4))
    received = Received(connection, kombu.Queue("work"), prefetch_count=2)
    assert received.wait(2) == [0, 1]
    stats = kv.queue("work").stats()
    assert (stats["leased"], stats["ready"]) == (2, 2)
    received.messages[0].ack()
    assert received.wait(3) == [0, 1, 2]


def test_requeued_message_is_redelivered_and_a_rejected_one_is_dead(
    connection: Any, kv: cairnkv.Client[str, str]
) -> None:
    publish(connection, "work", "body")
    received = Received(connection, kombu.Queue("work"))
    received.wait(1)
    assert received.messages[0].delivery_info["redelivered"] is False
    received.messages[0].requeue()
    received.wait(2)
    assert received.messages[1].delivery_info["redelivered"] is True
    received.messages[1].reject()
    (dead,) = kv.queue("work").peek("dead")
    assert (dead.attempts, dead.reason) == (2, "rejected by its consumer")


def test_closed_connection_returns_unacked_messages_uncounted(url: str, connection: Any, kv: Any) -> None:
    with kombu.Connection(url) as other:
        publish(other, "work", "acked", "not acked", "not delivered")
        received = Received(other, kombu.Queue("work"), prefetch_count=3)
        received.wait(2)
        received.messages[0].ack()
    messages = kv.queue("work").peek("ready")
    assert [message.attempts for message in messages] == [0, 0]
    assert kv.queue("work").stats()["leased"] == 0


def test_cancelled_consumer_gets_no_more_messages(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    received = Received(connection, kombu.Queue("work"))
    received.cancel()
    publish(connection, "work", "body")
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=0)
    eventually(lambda: kv.queue("work").stats()["ready"] == 1, SECONDS)  # a TAKE may have been waiting
    assert kv.queue("work").peek()[0].attempts == 0


def test_consumer_that_raises_delays_no_other_message(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    publish(connection, "work", *range(3))
    bodies: list[object] = []

    def receive(message: Any) -> None:
        bodies.append(message.payload)
        raise TimeoutError(f"the consumer fails with {message.payload}")

    loop = EventLoop()
    connection.connect()
    connection.transport.register_with_event_loop(connection.connection, loop)
    consumer = connection.channel().Consumer([kombu.Queue("work")], on_message=receive)
    consumer.consume()
    eventually(lambda: kv.queue("work").stats()["leased"] == 3, SECONDS)
    while len(bodies) < 3:
        with pytest.raises(TimeoutError, match="the consumer fails"):
            loop.run_once()
    assert bodies == [0, 1, 2]


def test_eta_with_a_time_zone_is_a_delay(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    publish(connection, "work", "aware", headers={"eta": eta.isoformat()})
    publish(connection, "work", "far", headers={"eta": (eta + datetime.timedelta(days=9_000)).isoformat()})
    publish(connection, "work", "naive", headers={"eta": eta.replace(tzinfo=None).isoformat()})
    publish(connection, "work", "none", headers={"eta": None})
    first, _ = kv.queue("work").peek("delayed")
    assert abs(first.due - eta.timestamp()) < 0.01
    assert kv.queue("work").stats()["ready"] == 2


def test_arguments_of_a_queue_are_settings(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    options: dict[str, Any] = {"max_length": 2, "message_ttl": 60, "queue_arguments": {"x-delivery-limit": 5}}
    kombu.Queue("short", channel=connection.default_channel, **options).declare()
    publish(connection, "short", 1, 2, 3)
    settings = kv.queue("short").settings()
    assert (settings["attempts"], settings["max_age"], settings["when_full"]) == (5, 60, "drop")
    assert Received(connection, kombu.Queue("short")).wait(2) == [2, 3]


def test_expiration_of_a_message_is_its_expiry(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    publish(connection, "work", "body", expiration=3_600)
    (message,) = kv.queue("work").peek()
    assert message.expires is not None
    assert abs(message.expires - message.put_at - 3_600) < 0.01


def test_purge_deletes_ready_and_delayed_messages(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    eta = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    publish(connection, "work", "now")
    publish(connection, "work", "later", headers={"eta": eta.isoformat()})
    assert connection.default_channel.queue_purge("work") == 2
    assert connection.default_channel.queue_purge("never made") == 0


def test_passive_declaration_of_an_absent_queue_fails(connection: Any) -> None:
    queue = kombu.Queue("absent", channel=connection.default_channel)
    with pytest.raises(kombu.exceptions.ChannelError, match="NOT_FOUND"):
        queue.queue_declare(passive=True)
    publish(connection, "absent", "body")
    assert queue.queue_declare(passive=True).message_count == 1


@pytest.mark.parametrize("kind", ["fanout", "topic", "direct"])
def test_exchange_of_another_connection_delivers(url: str, connection: Any, kind: str) -> None:
    """The consumer binds its queue on one connection; the other connection only knows the exchange."""
    exchange = kombu.Exchange(f"a {kind} exchange", type=kind)
    keys = {"fanout": "", "topic": "order.*", "direct": "order.paid"}
    received = Received(connection, kombu.Queue("orders", exchange, routing_key=keys[kind]))
    with kombu.Connection(url) as other:
        producer = other.Producer(exchange=exchange)
        producer.publish("paid", routing_key="order.paid")
        producer.publish("other", routing_key="invoice.paid")
        producer.publish("paid again", routing_key="order.paid")
    expected = ["paid", "other", "paid again"] if kind == "fanout" else ["paid", "paid again"]
    assert received.wait(len(expected)) == expected


def test_unbound_queue_gets_nothing(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    exchange = kombu.Exchange("news", type="fanout")
    bound = kombu.Queue("readers", exchange, channel=connection.default_channel)
    bound.declare()
    bound.unbind_from(exchange)
    connection.Producer(exchange=exchange).publish("body")
    assert "readers" not in list(kv.queues())
    bound.bind_to(exchange)
    bound.delete()
    connection.Producer(exchange=exchange).publish("body")
    assert "readers" not in list(kv.queues())


def test_expired_queue_is_deleted_at_the_next_binding(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    exchange = kombu.Exchange("news", type="fanout")
    kombu.Queue("first", exchange, expires=60, channel=connection.default_channel).declare()
    connection.Producer(exchange=exchange).publish("body")
    assert list(kv.queues()) == ["first"]
    kv.clear("kombu:in-use:first")  # as after 60 seconds
    connection.Producer(exchange=exchange).publish("body")
    assert kv.queue("first").stats()["ready"] == 1
    kombu.Queue("second", exchange, channel=connection.default_channel).declare()
    assert list(kv.queues()) == []


def test_message_of_another_program_becomes_dead(connection: Any, kv: cairnkv.Client[str, str]) -> None:
    kv.queue("work").put("not of kombu")
    publish(connection, "work", "body")
    assert Received(connection, kombu.Queue("work")).wait(1) == ["body"]
    assert kv.queue("work").peek("dead")[0].reason == "not a message of kombu"


def test_addresses_of_kombu_are_those_of_clients() -> None:
    results = doctest.testmod(importlib.import_module("cairnkv.client.brokers.kombu"))
    assert results.attempted == 1
    assert results.failed == 0


def test_connection_to_no_server_is_a_connection_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    connection = kombu.Connection(f"cairn://127.0.0.1:{port}/?attempts=1")
    with pytest.raises(cairnkv.Unavailable):
        connection.connect()
    with pytest.raises(kombu.exceptions.OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0)
    assert connection.as_uri() == f"cairn://127.0.0.1:{port}/?attempts=1"


def test_connection_logs_in_and_its_url_for_loggers_hides_the_secret() -> None:
    with running_server(password="s3cret") as server:
        host = server.url.removeprefix("cairn://")
        with kombu.Connection(f"cairn://default:s3cret@{host}") as connection:
            with connection.SimpleQueue("simple") as queue:
                queue.put("picture")
                message = queue.get(timeout=SECONDS)
                assert message.payload == "picture"
                message.ack()
            assert connection.as_uri() == f"cairn://default:***@{host}"
            assert connection.as_uri(include_password=True) == f"cairn://default:s3cret@{host}"
            assert "s3cret" not in repr(connection)
        wrong = kombu.Connection(f"cairn://default:wrong-one@{host}")
        with pytest.raises(cairnkv.LoginFailed) as caught:
            wrong.connect()
        assert "wrong-one" not in str(caught.value)


def test_urls_with_tls_are_known() -> None:
    connection = kombu.Connection("cairns://app:s3cret@db1/?ca=/etc/ca.pem")
    assert connection.as_uri() == "cairns://app:***@db1/?ca=/etc/ca.pem"
    assert type(connection.transport).__module__ == "cairnkv.client.brokers.kombu"

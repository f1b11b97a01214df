"""Queues: the sync client, the asyncio client and embedded stores give the same results and errors."""

import asyncio
import contextlib
import datetime
import inspect
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client.codec import Text
from cairnkv.client.queue.pipeline_queue import PipelineQueue
from cairnkv.limits import REASON_MAX, TAKE_MAX, WAIT_MAX
from cairnkv.store import wall_clock
from cairnkv.testing import ManualClock, running_server
from tests.conformance.drivers import a_node, quorum_simulated

Store = cairnkv.KeyValue[str, str]

SECONDS = 30.0
"""Maximum seconds until an expected event."""


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: queues have no native path in the clients."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["embedded", "client", "quorum, simulated"])
def kv(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            yield stack.enter_context(cairnkv.open(clock=clock))
        elif request.param == "quorum, simulated":
            yield stack.enter_context(quorum_simulated(clock, Text()))
        else:
            server = stack.enter_context(running_server(clock=clock))
            yield stack.enter_context(cairnkv.connect(server.url))


@pytest.fixture(params=["embedded", "client", "cluster"])
def in_real_time(request: pytest.FixtureRequest) -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            yield stack.enter_context(cairnkv.open())
        else:
            served = running_server if request.param == "client" else a_node
            yield stack.enter_context(cairnkv.connect(stack.enter_context(served(clock=wall_clock)).url))


def taken(queue: cairnkv.Queue[object], **options: object) -> cairnkv.Job[object]:
    job = queue.take(**options)  # type: ignore[arg-type]
    assert job is not None
    return job


def due_of(queue: cairnkv.Queue[object], message: int) -> float:
    looked = queue.look(message)
    assert looked is not None
    return looked.due


class TestPutAndTake:
    def test_acked_message_is_deleted(self, kv: Store) -> None:
        queue = kv.queue("emails")
        result = queue.put({"to": "anna", "n": [1, 2.5, None, True]}, group="tenant-7")
        assert result.new
        job = taken(queue)
        assert job.body == {"to": "anna", "n": [1, 2.5, None, True]}
        assert (job.id, job.attempt, job.group, job.lease, job.queue) == (result.id, 1, "tenant-7", 60.0, "emails")
        assert job.put_at == 1_000_000_000.0
        job.ack()
        assert job.settled
        assert queue.take() is None
        assert queue.look(result.id) is None
        assert queue.stats()["acked"] == 1

    def test_take_of_an_unknown_queue_returns_none(self, kv: Store) -> None:
        assert kv.queue("none").take() is None

    @pytest.mark.parametrize(
        ("codec", "body", "data"),
        [("text", "é", "é".encode()), ("bytes", b"\xff", b"\xff"), ("json", "é", '"é"'.encode())],
    )
    def test_codec_determines_the_body(self, kv: Store, codec: str, body: object, data: bytes) -> None:
        queue = kv.queue("q", codec=codec)  # type: ignore[call-overload]
        queue.put(body)
        job = taken(queue)
        assert (job.body, job.data) == (body, data)

    def test_json_refuses_bytes_and_names_the_codec(self, kv: Store) -> None:
        with pytest.raises(cairnkv.CodecError, match="codec='json' takes"):
            kv.queue("q").put(b"bytes")
        assert list(kv.queues()) == []

    def test_body_that_the_codec_cannot_decode_fails_in_the_job(self, kv: Store) -> None:
        kv.queue("q", codec="bytes").put(b"{")
        queue = kv.queue("q")
        with pytest.raises(cairnkv.CodecError), taken(queue) as job:
            assert job.body
        (message,) = queue.messages("delayed")
        assert message.reason.startswith("CodecError: b'{' is not JSON")

    def test_put_many_returns_the_ids_in_order(self, kv: Store) -> None:
        queue = kv.queue("q")
        ids = queue.put_many(range(TAKE_MAX + 5))
        assert ids == sorted(set(ids))
        assert queue.stats()["ready"] == len(ids) == TAKE_MAX + 5
        assert [job.body for job in queue.take_many(3)] == [0, 1, 2]
        assert queue.put_many([]) == []

    def test_put_many_with_delay_and_priority(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("default")
        queue.put_many(["first", "second"], delay="5s", priority=1)
        clock.advance(5)
        assert [job.body for job in queue.take_many(9)] == ["first", "second", "default"]

    @pytest.mark.parametrize("bodies", ["text", b"bytes", {"a": 1}, 5])
    def test_put_many_refuses_a_single_body(self, kv: Store, bodies: object) -> None:
        with pytest.raises(cairnkv.OptionError, match="put_many takes a list"):
            kv.queue("q").put_many(bodies)  # type: ignore[arg-type]

    def test_delay_and_at(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a", delay="1m")
        queue.put("b", delay=datetime.timedelta(minutes=2))
        queue.put("c", at=clock() / 1000 + 180)
        queue.put("d", at=datetime.datetime.fromtimestamp(clock() / 1000 + 240, datetime.UTC))
        assert queue.take() is None
        for body in "abcd":
            clock.advance("1m")
            with taken(queue) as job:
                assert job.body == body
            assert queue.take() is None

    def test_unique_name_gives_the_first_message(self, kv: Store) -> None:
        queue = kv.queue("q")
        first = queue.put("a", unique="welcome:42")
        again = queue.put("b", unique="welcome:42")
        assert (first.new, again.new, again.id) == (True, False, first.id)
        taken(queue).ack()
        assert queue.put("c", unique="welcome:42").new

    def test_unique_for_and_until_taken(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a", unique="window", unique_for="1m")
        queue.put("b", unique="waiting", until_taken=True)
        for job in queue.take_many(2):
            job.ack()
        assert not queue.put("c", unique="window").new
        assert queue.put("d", unique="waiting").new
        clock.advance("1m")
        assert queue.put("e", unique="window").new

    def test_groups_take_turns(self, kv: Store) -> None:
        queue = kv.queue("q")
        for body in ("a1", "a2", "a3", "b1"):
            queue.put(body, group=body[0])
        assert [job.body for job in queue.take_many(4)] == ["a1", "b1", "a2", "a3"]

    def test_limit_of_one_lease_keeps_the_order_of_a_group(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.set(per_group=1)
        for body in ("a1", "a2", "b1"):
            queue.put(body, group=body[0])
        first, second = queue.take_many(9)
        assert [first.body, second.body] == ["a1", "b1"]
        first.ack()
        assert taken(queue).body == "a2"

    def test_message_expires(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a", expires="1s")
        clock.advance(1)
        assert queue.take() is None

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"delay": "5 parsecs"}, "delay is a time such as"),
            ({"delay": -1}, "delay is a time from 0 to"),
            ({"lease": 0}, "lease is a time from 0.001 to 604,800 seconds, not 0"),
            ({"at": "tomorrow"}, "at is a datetime"),
            ({"until_taken": 1}, "until_taken is True or False"),
            ({"group": 5}, "a group is text or bytes"),
        ],
    )
    def test_wrong_options_are_refused_in_words(self, kv: Store, options: dict[str, object], text: str) -> None:
        with pytest.raises(cairnkv.CallerError, match=text):
            kv.queue("q").put("a", **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"priority": -1}, "priority"),
            ({"delay": 1, "at": 5}, "exclude each other"),
            ({"unique": ""}, "name has 1 to 255 bytes"),
            ({"unique_for": 5}, "need UNIQUE"),
        ],
    )
    def test_invalid_commands_are_refused_as_by_a_server(
        self, kv: Store, options: dict[str, object], text: str
    ) -> None:
        with pytest.raises(cairnkv.BadCommand, match=text) as raised:
            kv.queue("q").put("a", **options)  # type: ignore[arg-type]
        assert raised.value.code == "BADARGS"

    @pytest.mark.parametrize("name", ["", "x" * 256])
    def test_name_of_a_queue_has_1_to_255_bytes(self, kv: Store, name: str) -> None:
        with pytest.raises(cairnkv.BadCommand, match="queue has 1 to 255 bytes"):
            kv.queue(name).put("a")

    def test_name_of_a_queue_is_text_or_bytes(self, kv: Store) -> None:
        kv.queue(b"q").put("a")
        assert taken(kv.queue("q")).body == "a"
        with pytest.raises(cairnkv.CodecError, match="the name of a queue is text or bytes"):
            kv.queue(5)  # type: ignore[call-overload]

    def test_full_queue_refuses_a_put_and_serves_takes(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.set(max_messages=1)
        queue.put("a")
        began = time.monotonic()
        with pytest.raises(cairnkv.Refused, match="exceed its limit of 1 messages") as raised:
            queue.put("b")
        assert time.monotonic() - began < 1, "the client repeats a put to a full queue"
        assert (raised.value.code, raised.value.retry) == ("QUEUEFULL", True)
        taken(queue).ack()
        queue.put("b")

    def test_queue_cannot_be_pickled(self, kv: Store) -> None:
        import pickle

        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(kv.queue("q"))


class TestJobs:
    def test_statement_acks_at_its_end(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with taken(queue) as job:
            assert queue.stats()["leased"] == 1
        assert job.settled
        assert sum(queue.stats()[state] for state in ("ready", "delayed", "leased", "dead")) == 0

    def test_exception_nacks_with_backoff_and_reason(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with pytest.raises(ValueError, match="no address"), taken(queue):
            raise ValueError("no address")
        (message,) = queue.messages("delayed")
        assert (message.reason, message.attempts, message.body) == ("ValueError: no address", 1, "a")
        assert queue.take() is None
        clock.advance("1s")
        assert taken(queue).attempt == 2

    def test_interruption_gives_the_message_back_uncounted(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with pytest.raises(KeyboardInterrupt), taken(queue):
            raise KeyboardInterrupt
        assert taken(queue).attempt == 1

    def test_exit_of_the_program_counts_as_failure(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with pytest.raises(SystemExit), taken(queue):
            sys.exit(3)
        clock.advance("1s")
        assert taken(queue).attempt == 2

    def test_statement_leaves_a_settled_job_alone(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put_many(["a", "b"])
        with taken(queue) as job:
            job.nack("later", delay="1h")
        with taken(queue) as job:
            job.ack()
        assert (queue.stats()["delayed"], queue.stats()["acked"]) == (1, 1)

    def test_nack_with_priority_uncounted_and_dead(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put_many(["a", "b"])
        taken(queue).nack(counted=False, priority=2000)
        job = taken(queue)
        assert job.body == "b"
        job.nack("unreadable", dead=True)
        (message,) = queue.peek("dead")
        assert (message.id, message.reason, message.state) == (job.id, "unreadable", "dead")
        assert taken(queue).attempt == 1

    def test_reason_is_cut_to_its_maximum_length(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        taken(queue).nack("é" * REASON_MAX, dead=True)
        assert queue.peek("dead")[0].reason == "é" * (REASON_MAX // 2)

    def test_ended_lease_delivers_the_message_again(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        first = taken(queue, lease="10s")
        clock.advance("10s")
        second = taken(queue)
        assert (second.id, second.attempt) == (first.id, 2)
        assert second.token > first.token
        for call in (first.ack, first.nack, first.extend, first.check):
            with pytest.raises(cairnkv.LeaseLost, match=f"job {first.id} of the queue 'q' has lost its lease"):
                call()
        assert first.lost
        second.ack()

    def test_statement_raises_lease_lost_at_its_end(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(cairnkv.LeaseLost))
            stack.enter_context(taken(queue, lease="10s"))
            clock.advance("10s")
            other = taken(queue)
        assert not other.lost

    def test_exception_in_a_statement_hides_the_lost_lease(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with contextlib.ExitStack() as stack:
            stack.enter_context(pytest.raises(ValueError, match="bad"))
            stack.enter_context(taken(queue, lease="10s"))
            clock.advance("10s")
            taken(queue)
            raise ValueError("bad")

    def test_extend_keeps_the_lease(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue, lease="10s")
        clock.advance("6s")
        job.extend()
        clock.advance("6s")
        assert queue.take() is None
        job.extend("1m")
        assert job.lease == 60.0
        clock.advance("59s")
        assert queue.take() is None
        job.ack()

    def test_extend_after_the_end_of_the_lease_fails(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue, lease="10s")
        clock.advance("10s")
        with pytest.raises(cairnkv.LeaseLost, match="its time has ended"):
            job.extend()

    def test_job_counts_its_lease_as_lost_by_its_own_clock(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue, lease=0.001)
        deadline = time.monotonic() + 10
        while not job.lost:
            assert time.monotonic() < deadline
        with pytest.raises(cairnkv.LeaseLost):
            job.check()

    def test_ack_of_a_removed_message_raises_lease_lost(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue)
        assert queue.remove(job.id) == 1
        with pytest.raises(cairnkv.LeaseLost):
            job.ack()

    def test_message_without_attempts_left_is_dead(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.set(attempts=3, backoff=0)
        queue.put("poison")
        for attempt in (1, 2, 3):
            job = taken(queue)
            assert job.attempt == attempt
            with pytest.raises(ZeroDivisionError), job:
                raise ZeroDivisionError("division by zero")
        assert queue.take() is None
        (message,) = queue.peek("dead")
        assert (message.attempts, message.reason) == (3, "ZeroDivisionError: division by zero")
        assert queue.requeue() == 1
        assert taken(queue).attempt == 1


class TestIteration:
    def test_jobs_end_when_no_message_is_ready(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put_many(range(3))
        bodies = []
        for job in queue.jobs(wait=0):
            with job:
                bodies.append(job.body)
        assert bodies == [0, 1, 2]

    def test_iteration_waits_for_messages(self, kv: Store) -> None:
        queue = kv.queue("q")
        adding = threading.Timer(0.05, queue.put, ["late"])
        adding.start()
        for job in queue:
            with job:
                assert job.body == "late"
            break
        adding.join()

    def test_take_returns_none_after_its_wait(self, in_real_time: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for longest in (WAIT_MAX, 30):  # one command, and several
            monkeypatch.setattr("cairnkv.client.queue.queues.WAIT_MAX", longest)
            began = time.monotonic()
            assert in_real_time.queue("q").take(wait="100ms") is None
            assert 0.1 <= time.monotonic() - began < SECONDS

    def test_take_that_waits_stops_no_other_call(self, in_real_time: Store) -> None:
        queue = in_real_time.queue("q")
        found: list[object] = []
        taking = threading.Thread(target=lambda: found.append(taken(queue, wait=SECONDS).body))
        taking.start()
        began = time.monotonic()
        while in_real_time.info()["waiting_takes"] == 0:
            assert time.monotonic() - began < SECONDS
        queue.put("a")
        taking.join(SECONDS)
        assert found == ["a"]

    def test_lease_of_a_take_that_waited_counts_from_its_end(self, in_real_time: Store) -> None:
        queue = in_real_time.queue("q")
        queue.put("a", delay="2.5s")
        job = taken(queue, wait=SECONDS, lease="2.4s")
        assert not job.lost

    @pytest.mark.parametrize("wait", [-1, "soon", float("nan")])
    def test_wait_is_a_duration(self, kv: Store, wait: object) -> None:
        with pytest.raises(cairnkv.OptionError, match="wait is"):
            kv.queue("q").take(wait=wait)  # type: ignore[arg-type]


class TestMaintenance:
    def test_messages_show_their_state(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        queue.put("a", group="g", unique="u", priority=7, expires="1h")
        queue.put("b", delay=60)
        (ready,) = queue.messages()
        assert (ready.state, ready.body, ready.group, ready.unique, ready.priority) == ("ready", "a", "g", "u", 7)
        assert (ready.put_at, ready.expires, ready.token, ready.queue) == (1e9, 1e9 + 3600, 0, "q")
        (delayed,) = queue.messages("delayed")
        assert (delayed.state, delayed.due, delayed.group, delayed.expires) == ("delayed", 1e9 + 60, None, None)
        job = taken(queue)
        leased = queue.look(job.id)
        assert leased is not None
        assert (leased.state, leased.token, leased.due) == ("leased", job.token, 1e9 + 60)

    def test_peek_returns_up_to_count_messages_and_takes_none(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put_many(range(20))
        assert [message.body for message in queue.peek()] == list(range(10))
        assert len(queue.peek(count=3)) == 3
        assert len(list(queue.messages())) == 20
        assert queue.stats()["ready"] == 20

    def test_unknown_state_and_unknown_queue_are_refused(self, kv: Store) -> None:
        with pytest.raises(cairnkv.BadCommand, match="state is one of"):
            kv.queue("q").peek("alive")  # type: ignore[arg-type]
        queue = kv.queue("q")
        for refused in (queue.stats, queue.peek, queue.requeue, queue.purge, queue.drop):
            with pytest.raises(cairnkv.BadCommand, match="NOQUEUE there is no queue 'q'"):
                refused()
        assert queue.requeue(1) == 0

    def test_requeue_by_ids_and_by_state(self, kv: Store) -> None:
        queue = kv.queue("q")
        first, second = (queue.put(body, delay="1h").id for body in "ab")
        assert queue.requeue(second) == 1
        assert taken(queue).body == "b"
        assert queue.requeue(state="delayed") == 1
        assert taken(queue).id == first
        assert queue.requeue(first) == 0

    def test_purge_and_drop(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put_many(range(5))
        queue.put("late", delay="1h")
        with pytest.raises(cairnkv.Refused, match="QUEUEBUSY"):
            queue.drop()
        assert queue.purge("delayed") == 1
        assert queue.purge() == 5
        queue.drop()
        assert list(kv.queues()) == []

    def test_settings_are_those_that_were_set(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.set(lease="30s", attempts=5, backoff="2s", factor=3, backoff_max="1m", max_age="1d", when_full="drop")
        settings = queue.settings()
        assert settings["lease"] == 30.0
        assert (settings["attempts"], settings["when_full"], settings["paused"]) == (5, "drop", False)
        copy = kv.queue("copy")
        copy.set(**settings)
        assert copy.settings() == settings
        with pytest.raises(cairnkv.BadCommand, match="refuse, drop"):
            queue.set(when_full="panic")  # type: ignore[arg-type]

    def test_paused_queue_gives_no_message(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        queue.pause()
        assert queue.take() is None
        queue.resume()
        assert taken(queue).body == "a"

    def test_queues_are_listed_in_the_order_of_their_creation(self, kv: Store) -> None:
        for name in ("b", "a", "c"):
            kv.queue(name).put("x")
        assert list(kv.queues()) == ["b", "a", "c"]

    def test_clear_all_leaves_queues_alone(self, kv: Store) -> None:
        kv.queue("q").put("a")
        kv["q"] = "key"
        kv.clear_all()
        assert kv.count() == 0
        assert taken(kv.queue("q")).body == "a"


class _Cutting:
    """A relay to a server that ends a connection instead of passing on a reply, as often as it is asked to."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"cairn://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            with client, socket.create_connection(self._address) as server:
                while data := client.recv(65536):
                    server.sendall(data)
                    reply = server.recv(65536)
                    if self.cuts:
                        self.cuts -= 1
                        break
                    client.sendall(reply)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@pytest.fixture
def cutting(clock: ManualClock) -> Iterator[_Cutting]:
    with running_server(clock=clock) as server:
        assert server.address is not None
        relay = _Cutting(server.address)
        yield relay
        relay.close()


class TestLostReplies:
    def test_put_of_unknown_outcome_raises(self, cutting: _Cutting) -> None:
        with cairnkv.connect(cutting.url) as kv:
            cutting.cuts = 1
            with pytest.raises(cairnkv.OutcomeUnknown):
                kv.queue("q").put("a")

    def test_repeatable_put_makes_one_message(self, cutting: _Cutting) -> None:
        with cairnkv.connect(cutting.url) as kv:
            queue = kv.queue("q")
            cutting.cuts = 1
            result = queue.put("a", repeatable=True)
            assert [message.id for message in queue.messages()] == [result.id]
            taken(queue).ack()
            cutting.cuts = 1
            named = queue.put("b", unique="b", repeatable=True)
            assert [message.id for message in queue.messages()] == [named.id]

    def test_take_is_repeated_and_the_first_lease_ends(self, cutting: _Cutting, clock: ManualClock) -> None:
        with cairnkv.connect(cutting.url) as kv:
            queue = kv.queue("q")
            queue.put_many(["a", "b"])
            cutting.cuts = 1
            with taken(queue) as job:
                assert job.body == "b"
            clock.advance("1m")
            assert taken(queue).body == "a"

    def test_ack_whose_reply_is_lost_has_an_unknown_outcome(self, cutting: _Cutting) -> None:
        with cairnkv.connect(cutting.url) as kv:
            queue = kv.queue("q")
            queue.put("a")
            job = taken(queue)
            cutting.cuts = 1
            with pytest.raises(cairnkv.OutcomeUnknown):
                job.ack()
            assert queue.stats()["acked"] == 1

    def test_extend_is_repeated(self, cutting: _Cutting, clock: ManualClock) -> None:
        with cairnkv.connect(cutting.url) as kv:
            queue = kv.queue("q")
            queue.put("a")
            job = taken(queue)
            until = due_of(queue, job.id)
            clock.advance(5)
            cutting.cuts = 1
            job.extend()
            assert due_of(queue, job.id) == until + 5
            job.ack()


class TestTogether:
    """`tests/conformance` tests its effects in each mode."""

    def test_an_exception_sends_nothing_and_nacks_the_job(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue)
        both = job.together()
        stored = both.set("k", "v")
        with pytest.raises(ValueError, match="bad"), job, both:
            raise ValueError("bad")
        assert kv.get("k") is None
        assert [message.reason for message in queue.messages("delayed")] == ["ValueError: bad"]
        with pytest.raises(cairnkv.CallerError, match="has not been executed"):
            stored.result()

    def test_without_commands_only_the_job_is_acked(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        with taken(queue) as job, job.together():
            pass
        assert queue.stats()["acked"] == 1
        with kv.together():
            pass

    def test_execute_sends_the_commands_before_the_end_of_the_statement(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue)
        both = job.together()
        both.set("k", "v")
        both.execute()
        assert (kv.get("k"), job.settled) == ("v", True)

    def test_a_settled_job_has_lost_its_lease(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue)
        job.ack()
        with pytest.raises(cairnkv.LeaseLost), job.together() as both:
            both.set("k", "v")
        assert kv.get("k") is None
        with pytest.raises(cairnkv.LeaseLost):
            job.together()

    def test_error_for_a_settled_job_names_its_end(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put_many(["a", "b", "c"])
        acked, nacked, together = (taken(queue) for _ in range(3))
        acked.ack()
        nacked.nack(delay="1h")
        with together.together() as late:
            late.set("k", "v")
        for job, end in ((acked, "acked"), (nacked, "nacked"), (together, "acked")):
            for refused in (job.ack, job.nack, job.extend, job.together):
                with pytest.raises(cairnkv.LeaseLost, match=f"job {job.id} .* it was already {end}$"):
                    refused()
            assert (job.settled, job.lost) == (True, False)
        assert queue.stats()["delayed"] == 1

    def test_execution_together_with_a_settled_job_is_refused(self, kv: Store) -> None:
        queue = kv.queue("q")
        queue.put("a")
        job = taken(queue)
        both = job.together()
        both.set("k", "v")
        job.ack()
        with pytest.raises(cairnkv.LeaseLost, match="it was already acked"):
            both.execute()
        assert kv.get("k") is None

    def test_unique_name_of_the_job_is_free_for_the_next_message(self, kv: Store, clock: ManualClock) -> None:
        queue = kv.queue("q")
        first = queue.put("tick", unique="tick")
        with taken(queue) as job, job.together() as both:
            put = both.queue("q").put("tick", unique="tick", delay="1m")
        assert put.result().new
        assert put.result().id > first.id
        clock.advance("1m")
        assert taken(queue).attempt == 1

    @pytest.mark.parametrize("name", ["count", "clear_all", "info"])
    def test_commands_on_the_whole_store_are_refused(self, kv: Store, name: str) -> None:
        with pytest.raises(cairnkv.CallerError, match="concerns the whole store"):
            getattr(kv.together(), name)()

    def test_maximum_of_commands(self, kv: Store) -> None:
        with kv.together() as several:
            for _ in range(TAKE_MAX):
                last = several.incr("n")
        assert last.result() == TAKE_MAX
        queue = kv.queue("q")
        queue.put("a")
        both = taken(queue).together()
        for _ in range(TAKE_MAX):
            both.incr("n")
        with pytest.raises(cairnkv.OptionError, match="together takes at most 1,000 commands, not 1,001"):
            both.execute()
        assert kv.get("n") == str(TAKE_MAX)

    @pytest.mark.parametrize("bodies", [[], [0] * (TAKE_MAX + 1)], ids=len)
    def test_put_many_is_one_command(self, kv: Store, bodies: list[object]) -> None:
        with pytest.raises(cairnkv.OptionError, match="1 to 1,000 bodies"):
            kv.together().queue("q").put_many(bodies)

    def test_put_of_a_pipeline_has_the_options_of_a_queue(self) -> None:
        options = [inspect.signature(kind.put).parameters for kind in (cairnkv.Queue, PipelineQueue)]
        assert options[0].keys() - options[1].keys() == {"repeatable"}
        assert {name: options[0][name].default for name in options[1]} == {
            name: parameter.default for name, parameter in options[1].items()
        }

    def test_queue_in_a_pipeline(self, in_real_time: Store) -> None:
        with in_real_time.pipeline() as pipeline:
            pipeline.set("k", "v")
            put = pipeline.queue("q").put({"n": 1}, priority=3)
            assert pipeline.queue("q", codec="text").name == "q"
        job = taken(in_real_time.queue("q"))
        assert (job.id, job.body, in_real_time.get("k")) == (put.result().id, {"n": 1}, "v")

    def test_durability_memory(self, tmp_path: Path) -> None:
        with cairnkv.open(tmp_path) as kv:
            quick = kv.durability("memory")
            quick.queue("q").put("a")
            with taken(quick.queue("q")) as job, job.together() as both:
                both.set("k", "v")
            assert kv.get("k") == "v"

    def test_lost_reply_is_an_unknown_outcome_and_one_effect(self, cutting: _Cutting) -> None:
        with cairnkv.connect(cutting.url) as kv:
            queue = kv.queue("q")
            queue.put("a")
            job = taken(queue)
            cutting.cuts = 1
            with pytest.raises(cairnkv.OutcomeUnknown), job, job.together() as both:
                hits = both.incr("hits")
            with pytest.raises(cairnkv.OutcomeUnknown):
                hits.result()
            assert (kv.get("hits"), queue.stats()["acked"]) == ("1", 1)

    def test_asyncio(self, clock: ManualClock) -> None:
        async def main() -> None:
            async with aio.open(clock=clock) as kv:
                queue = kv.queue("q")
                await queue.put("a")
                job = await queue.take()
                assert job is not None
                async with job, job.together() as both:
                    both.set("k", "v")
                    put = both.queue("next").put("b")
                assert put.result().new
                async with kv.together() as several:
                    value = several.get("k")
                assert value.result() == "v"
                await queue.put("c")
                job = await queue.take(lease="1s")
                assert job is not None
                clock.advance(1)
                assert await queue.take() is not None
                with pytest.raises(cairnkv.LeaseLost):
                    async with job.together() as both:
                        both.set("k", "w")
                assert await kv.get("k") == "v"

        asyncio.run(main())


class TestAsyncio:
    @pytest.mark.parametrize("where", ["embedded", "client"])
    def test_same_methods_as_sync(self, where: str, clock: ManualClock) -> None:
        async def main(kv: aio.AsyncKeyValue[str, str]) -> None:
            queue = kv.queue("emails")
            first = await queue.put({"n": 1}, unique="one")
            assert not (await queue.put({"n": 1}, unique="one", repeatable=True)).new
            assert await queue.put_many([{"n": 2}, {"n": 3}]) == [first.id + 1, first.id + 2]
            job = await queue.take()
            assert job is not None
            async with job:
                assert job.body == {"n": 1}
                await job.extend("2m")
            async for job in queue:
                with pytest.raises(ValueError, match="bad"):
                    async with job:
                        raise ValueError("bad")
                break
            assert [message.reason for message in await queue.peek("delayed")] == ["ValueError: bad"]
            async for job in queue.jobs(wait=0):
                await job.nack("no", dead=True)
            assert (await queue.stats())["dead"] == 1
            assert await queue.requeue(state="delayed") == await queue.requeue() == 1
            lost = await queue.take(lease="1s")
            assert lost is not None
            clock.advance(1)
            assert len(await queue.take_many(5)) == 2
            with pytest.raises(cairnkv.LeaseLost):
                await lost.ack()
            assert [name async for name in kv.queues()] == ["emails"]
            assert await queue.purge() == 2
            await queue.drop()

        async def over(where: str) -> None:
            if where == "embedded":
                async with aio.open(clock=clock) as store:
                    await main(store)
            else:
                with running_server(clock=clock) as server:
                    async with aio.connect(server.url) as client:
                        await main(client)

        asyncio.run(over(where))

    def test_cancelled_job_is_given_back_uncounted(self) -> None:
        async def main() -> None:
            async with aio.open() as kv:
                queue = kv.queue("q")
                await queue.put("a")
                began = asyncio.Event()

                async def work() -> None:
                    job = await queue.take()
                    assert job is not None
                    async with job:
                        began.set()
                        await asyncio.Event().wait()

                task = asyncio.create_task(work())
                await began.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                job = await queue.take()
                assert job is not None
                assert job.attempt == 1

        asyncio.run(main())


def test_process_that_dies_leaves_the_message_to_the_next_worker(clock: ManualClock) -> None:
    program = (
        "import cairnkv, os, signal, sys\n"
        "job = cairnkv.connect(sys.argv[1]).queue('q').take(lease='30s')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with running_server(clock=clock) as server, cairnkv.connect(server.url) as kv:
        queue = kv.queue("q")
        queue.put("a")
        ran = subprocess.run([sys.executable, "-c", program, server.url], timeout=60, check=False)
        assert ran.returncode == -9
        assert queue.take() is None
        clock.advance("30s")
        with taken(queue) as job:
            assert (job.body, job.attempt) == ("a", 2)


def test_queue_on_disk_survives_a_restart(tmp_path: object) -> None:
    with cairnkv.open(str(tmp_path)) as kv:
        kv.queue("q").put_many(["a", "b"])
        taken(kv.queue("q")).ack()
    with cairnkv.open(str(tmp_path)) as kv:
        assert taken(kv.queue("q")).body == "b"

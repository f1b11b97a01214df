"""The clients' native and pure paths give equal results under faults of server, network and signals."""

import asyncio
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import cairnkv
from cairnkv.client.aio.connection import AWAKE_SECONDS, Connection
from cairnkv.commands import OK, Failure, Get, Ping, Set, failures
from cairnkv.errors import Unavailable
from cairnkv.protocol import StatusByte
from cairnkv.protocol.native import reply_parts
from tests.client.test_aio import RecordingTransport
from tests.client.test_sync import answer_everything, say_nothing
from tests.support.paths import twin
from tests.support.patience import AT_ONCE
from tests.support.scripted import Conversation, scripted

# -- bytes through a socket --------------------------------------------------------------------------------------


@pytest.fixture
def ends(path_in_use: str) -> Iterator[tuple[Any, socket.socket]]:
    """A line and the other end of its socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield twin("Line", path_in_use)(ours), theirs


def soon(seconds: float = 0.1) -> float:
    return time.monotonic() + seconds


class TestLine:
    def test_returns_available_bytes(self, ends: tuple[Any, socket.socket]) -> None:
        line, other = ends
        line.send(b"there", soon(5))
        assert other.recv(100) == b"there"
        for n in range(200):
            other.send(b"%d" % n)
            assert line.receive(soon(5)) == b"%d" % n

    def test_waits_for_late_bytes_repeatedly(self, ends: tuple[Any, socket.socket]) -> None:
        line, other = ends
        for n in range(10):
            later = threading.Timer(0.01, other.send, [b"%d" % n])
            later.start()
            assert line.receive(soon(5)) == b"%d" % n
            later.join()

    def test_gives_up_at_the_deadline(self, ends: tuple[Any, socket.socket]) -> None:
        line, _ = ends
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises((TimeoutError, BlockingIOError)):
                line.receive(soon())
            assert 0.09 <= time.monotonic() - began < AT_ONCE

    def test_gives_up_after_the_deadline_even_if_bytes_arrived(self, ends: tuple[Any, socket.socket]) -> None:
        line, other = ends
        other.send(b"too late")
        with pytest.raises(TimeoutError):
            line.receive(soon(-0.01))

    def test_gives_up_sending_to_a_peer_that_does_not_read(self, ends: tuple[Any, socket.socket]) -> None:
        line, _ = ends
        began = time.monotonic()
        with pytest.raises((TimeoutError, BlockingIOError)):
            line.send(bytes(10_000_000), soon(0.2))
        assert 0.15 <= time.monotonic() - began < AT_ONCE

    def test_sends_all_to_a_slow_peer(self, ends: tuple[Any, socket.socket]) -> None:
        line, other = ends
        heard = bytearray()

        def read() -> None:
            while len(heard) < 5_000_000:
                heard.extend(other.recv(300_000))

        reading = threading.Thread(target=read)
        reading.start()
        data = os.urandom(1_000) * 5_000
        line.send(data, soon(20))
        reading.join(20)
        assert heard == data

    def test_reports_a_closed_peer(self, ends: tuple[Any, socket.socket]) -> None:
        line, other = ends
        other.close()
        with pytest.raises(OSError, match="closed"):
            line.receive(soon(5))
        with pytest.raises(BrokenPipeError):  # and no SIGPIPE
            line.send(b"x", soon(5))

    def test_handled_signal_does_not_end_the_wait(self, ends: tuple[Any, socket.socket]) -> None:
        line, other = ends
        handled: list[int] = []
        before = signal.signal(signal.SIGALRM, lambda *_: handled.append(1))
        later = threading.Timer(0.2, other.send, [b"at last"])
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            later.start()
            assert line.receive(soon(10)) == b"at last"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            later.join()
        assert len(handled) > 3

    def test_interruption_ends_the_wait_at_once(self, ends: tuple[Any, socket.socket]) -> None:
        line, _ = ends

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                line.receive(soon(20))
            assert time.monotonic() - began < AT_ONCE
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


# -- a sync client and the worst moments -------------------------------------------------------------------------

REPLY = b"".join(reply_parts(b"value", StatusByte.ASCII))


@pytest.mark.parametrize("length", range(len(REPLY)))
class TestTruncatedReply:
    def test_from_a_closed_peer_is_an_error(self, length: int) -> None:
        def die(conversation: Conversation) -> None:
            conversation.command()
            conversation.raw(REPLY[:length])

        with scripted(die, die, answer_everything) as server, cairnkv.connect(server.url, attempts=1) as kv:
            with pytest.raises(cairnkv.Unavailable) as caught:
                kv.get("k")
            assert caught.value.retry is True
            with pytest.raises(cairnkv.OutcomeUnknown):
                kv.set("k", "v")
            assert kv.get("key") == "key"

    def test_is_awaited_until_the_timeout(self, length: int) -> None:
        def stop(conversation: Conversation) -> None:
            conversation.command()
            conversation.raw(REPLY[:length])
            say_nothing(conversation)

        with scripted(stop, answer_everything) as server:
            with cairnkv.connect(server.url, timeout=0.1, attempts=1) as kv, pytest.raises(cairnkv.TimedOut):
                kv.get("k")
            with cairnkv.connect(server.url) as kv:
                assert kv.get("key") == "key"

    def test_that_continues_later_is_complete(self, length: int) -> None:
        def pause(conversation: Conversation) -> None:
            conversation.command()
            conversation.raw(REPLY[:length])
            time.sleep(0.01)
            conversation.raw(REPLY[length:])
            answer_everything(conversation)

        with scripted(pause) as server, cairnkv.connect(server.url, attempts=1) as kv:
            assert kv.get("k") == "value"
            assert kv.get("key") == "key"


def test_malformed_reply_ends_the_connection() -> None:
    def babble(conversation: Conversation) -> None:
        conversation.command()
        conversation.raw(bytes.fromhex("00 7f 00 00 00 00"))

    with scripted(babble, answer_everything) as server, cairnkv.connect(server.url) as kv:
        with pytest.raises(cairnkv.PeerError, match="0x7f"):
            kv.get("k")
        assert kv.get("k") == "k"


@pytest.mark.parametrize("size", [65_529, 65_530, 65_531, 3_000_000])
def test_reply_longer_than_a_read(size: int) -> None:
    value = os.urandom(1_000) * (size // 1_000) + bytes(size % 1_000)

    def long(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(value)
        answer_everything(conversation)

    with scripted(long) as server, cairnkv.connect(server.url, codec="bytes") as kv:
        assert kv.get("k") == value
        assert kv.get("k") == b"k"


@pytest.mark.parametrize("extra", [REPLY, REPLY[:3], b"\0"], ids=["a whole reply", "half a head", "a byte"])
def test_unsolicited_bytes_are_not_read_as_the_next_reply(extra: bytes) -> None:
    def say_more(conversation: Conversation) -> None:
        conversation.command()
        conversation.raw(REPLY + extra)

    with scripted(say_more, answer_everything) as server, cairnkv.connect(server.url) as kv:
        assert kv.get("first") == "value"
        assert kv.set("k", "v") is True  # on a connection of its own, so that nothing is unknown
        assert kv.get("second") == "second"
    assert len(server.conversations) == 2


def test_close_waits_for_the_running_call() -> None:
    asked = threading.Event()

    def slow(conversation: Conversation) -> None:
        conversation.command()
        asked.set()
        time.sleep(0.1)
        conversation.say(b"value")

    with scripted(slow) as server:
        kv = cairnkv.connect(server.url)
        got: list[object] = []
        calling = threading.Thread(target=lambda: got.append(kv.get("k")))
        calling.start()
        assert asked.wait(10)
        kv.close()
        calling.join(10)
        assert got == ["value"]
        with pytest.raises(cairnkv.CallerError, match="closed"):
            kv.get("k")


def test_nothing_is_sent_without_time_left_for_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that waits too long for the connection is not executed, and its outcome is known."""
    with scripted(answer_everything) as server, cairnkv.connect(server.url, timeout=5) as kv:
        kv.ping()
        times = iter([time.monotonic()])
        late = SimpleNamespace(monotonic=lambda: next(times, time.monotonic() + 5), sleep=time.sleep)
        with monkeypatch.context() as patched:
            patched.setattr("cairnkv.client.sync.time", late)
            with pytest.raises(cairnkv.TimedOut, match="no time was left"):
                kv.set("k", "v")
        assert kv.ping() == "PONG"
    assert len(server.conversations) == 1


INTERRUPTED = """
import sys
import cairnkv
kv = cairnkv.connect(sys.argv[1], timeout=30)
try:
    print("calling", flush=True)
    kv.get("first")
except KeyboardInterrupt:
    print("interrupted", kv.get("second"), flush=True)
"""


def test_ctrl_c_ends_a_call_and_the_next_gets_its_own_reply() -> None:
    asked = threading.Event()

    def slow(conversation: Conversation) -> None:
        conversation.command()
        asked.set()
        time.sleep(0.5)
        conversation.say(b"of the first")

    with scripted(slow, answer_everything) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, server.url], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert asked.wait(20)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    assert said.split() == ["calling", "interrupted", "second"]


# -- asyncio: replies that are due -------------------------------------------------------------------------------


@pytest.fixture
async def make_future(path_in_use: str) -> Any:
    """Makes reply futures of one connection."""
    waking = twin("Waking", path_in_use)(asyncio.get_running_loop())
    return lambda: twin("ReplyFuture", path_in_use)(Get.spec, 0.0, waking)


class TestReplyFuture:
    async def test_returns_to_its_awaiting_task(self, make_future: Any) -> None:
        async def wait(due: Any) -> object:
            return await due

        dues = [make_future() for _ in range(10)]
        waiting = [asyncio.ensure_future(wait(due)) for due in dues]
        await asyncio.sleep(0)
        for n, due in enumerate(dues):
            assert not due.done()
            due.settle(n)
            assert due.done()
        assert not any(task.done() for task in waiting)
        assert await asyncio.gather(*waiting) == list(range(10))

    async def test_returns_at_once_if_the_reply_arrived_before(self, make_future: Any) -> None:
        due = make_future()
        due.settle(b"x")
        assert await due == b"x"

    async def test_raises_if_the_reply_cannot_arrive(self, make_future: Any) -> None:
        before, later = make_future(), make_future()
        before.fail(Unavailable("gone"))
        with pytest.raises(Unavailable, match="gone"):
            await before
        asyncio.get_running_loop().call_soon(later.fail, Unavailable("gone"))
        with pytest.raises(Unavailable, match="gone"):
            await later

    async def test_is_settled_once(self, make_future: Any) -> None:
        due = make_future()
        due.settle(b"first")
        due.settle(b"second")
        due.fail(Unavailable("late"))
        assert await due == b"first"

    async def test_can_be_cancelled_and_drops_a_later_reply(self, make_future: Any) -> None:
        due = make_future()

        async def wait() -> object:
            return await due

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel("enough")
        await asyncio.sleep(0)
        assert due.done()
        due.settle(b"late")
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_settled_then_cancelled_in_one_iteration_is_cancelled(self, make_future: Any) -> None:
        """As with asyncio's futures: the task is cancelled if it has not run since its reply."""
        due = make_future()

        async def wait() -> object:
            return await due

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        due.settle(b"x")
        assert waiting.cancel() is True
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_times_out_within_a_timeout(self, make_future: Any) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await make_future()

    async def test_wakes_each_task_in_its_own_context(self, make_future: Any) -> None:
        name = contextvars.ContextVar("name", default="nobody")

        async def wait(own: str, due: Any) -> tuple[str, object]:
            name.set(own)
            return name.get(), await due

        dues = [make_future() for _ in range(3)]
        waiting = [asyncio.ensure_future(wait(f"task {n}", due)) for n, due in enumerate(dues)]
        await asyncio.sleep(0)
        for due in dues:
            due.settle(b"x")
        assert await asyncio.gather(*waiting) == [(f"task {n}", b"x") for n in range(3)]
        assert name.get() == "nobody"

    def test_interruption_in_one_task_wakes_the_others(self, path_in_use: str) -> None:
        woken: list[int] = []

        async def wait(n: int, due: Any) -> None:
            await due
            woken.append(n)
            if n == 1:
                raise KeyboardInterrupt

        loop = asyncio.new_event_loop()
        waking = twin("Waking", path_in_use)(loop)
        dues = [twin("ReplyFuture", path_in_use)(Get.spec, 0.0, waking) for _ in range(4)]
        tasks = [loop.create_task(wait(n, due)) for n, due in enumerate(dues)]
        loop.run_until_complete(asyncio.sleep(0))
        for due in dues:
            loop.call_soon(due.settle, b"x")
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.sleep(5))
        loop.run_until_complete(asyncio.sleep(0.01))
        assert woken == [0, 1, 2, 3]
        assert isinstance(tasks[1].exception(), KeyboardInterrupt)
        loop.close()


# -- asyncio: a connection and the worst moments ----------------------------------------------------------------


async def connected() -> tuple[Connection, RecordingTransport]:
    connection = Connection(asyncio.get_running_loop(), "nowhere", 5)
    connection.connection_made(wire := RecordingTransport())
    return connection, wire


async def test_connection_reads_replies_cut_at_every_byte() -> None:
    loop = asyncio.get_running_loop()
    connection, _ = await connected()
    for at in range(len(REPLY) + 1):
        due = connection.submit(Get(b"k"), loop.time() + 5)
        connection.data_received(REPLY[:at])
        assert due.done() == (at == len(REPLY))
        connection.data_received(REPLY[at:])
        assert await due == b"value"
    connection.close("the test is over")


@pytest.mark.parametrize("extra", [REPLY, REPLY[:3], b"\0"], ids=["a whole reply", "half a head", "a byte"])
async def test_unsolicited_reply_ends_the_connection(extra: bytes) -> None:
    connection, _ = await connected()
    due = connection.submit(Get(b"k"), asyncio.get_running_loop().time() + 5)
    connection.data_received(REPLY + extra)
    assert await due == b"value"
    assert not connection.usable


async def test_first_command_leaves_at_once_and_later_ones_together() -> None:
    """After a pause, the first waits for the end of the loop iteration, since others may come; the next need not."""
    loop = asyncio.get_running_loop()
    connection, wire = await connected()
    for n in range(3):
        due = connection.submit(Get(b"%d" % n), loop.time() + 5)
        assert len(wire.writes) == n
        await asyncio.sleep(0)
        assert len(wire.writes) == n + 1
        connection.data_received(REPLY)
        await due
        if n == 0:
            break
    alone = connection.submit(Get(b"at once"), loop.time() + 5)
    assert len(wire.writes) == 2
    others = [connection.submit(Get(b"%d" % n), loop.time() + 5) for n in range(50)]
    assert len(wire.writes) == 2
    await asyncio.sleep(0)
    assert len(wire.writes) == 3
    connection.data_received(REPLY * 51)
    assert [await due for due in [alone, *others]] == [b"value"] * 51
    many = [connection.submit(Get(b"%d" % n), loop.time() + 5) for n in range(50)]
    assert len(wire.writes) == 3
    await asyncio.sleep(0)
    assert len(wire.writes) == 4
    connection.data_received(REPLY * 50)
    assert [await due for due in many] == [b"value"] * 50
    connection.close("the test is over")


async def test_loop_is_kept_awake_for_a_moment_only() -> None:
    loop = asyncio.get_running_loop()
    connection, _ = await connected()
    tries = 0
    for _ in range(40):
        due = connection.submit(Get(b"k"), loop.time() + 5)
        await asyncio.sleep(0)
        tries += bool(connection._awake_from)
        await asyncio.sleep(3 * AWAKE_SECONDS)
        await asyncio.sleep(0)
        assert not connection._awake_from
        connection.data_received(REPLY)
        await due
    assert tries <= 7  # each wait in vain doubles the number of those that are not tried
    connection.close("the test is over")


async def test_failure_that_closes_fails_later_commands_as_not_executed() -> None:
    loop = asyncio.get_running_loop()
    connection, _ = await connected()
    first = connection.submit(Set(b"k", b"v"), loop.time() + 5)
    behind = connection.submit(Set(b"k", b"v"), loop.time() + 5)
    busy = Failure(failures.BUSY, "too many")
    connection.data_received(
        b"".join(reply_parts(busy, StatusByte.ASCII)) + b"".join(reply_parts(OK, StatusByte.ASCII))
    )
    assert await first == busy
    with pytest.raises(Unavailable, match="not executed"):
        await behind
    assert await_nothing(connection.submit(Ping(b""), loop.time() + 5))


def await_nothing(due: Any) -> bool:
    """Whether it was over at once."""
    done: bool = due.done()
    due.__await__()
    return done

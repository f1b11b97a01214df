"""The asyncio client: replies reach their calls despite cancellation, writes are joined, and queues are bounded."""

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client.aio import connection as aio_connection
from cairnkv.client.aio.connection import Connection
from cairnkv.commands import OK, Failure, Get, failures
from cairnkv.testing import running_server
from tests.client.test_sync import answer_everything, hang_up_after_a_command, say_nothing
from tests.support.patience import AT_ONCE
from tests.support.scripted import Conversation, scripted


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so that happens in another thread."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(0.01)


# -- cancelling --------------------------------------------------------------------------------------------------


async def test_cancelled_call_does_not_disturb_other_calls() -> None:
    """Cancels after 0, 1, 2, ... loop iterations, and so at every await point, also while connecting."""
    with scripted(answer_everything) as server:
        for turns in range(40):
            async with aio.connect(server.url) as kv:
                if turns % 2:
                    await kv.ping()
                cancelled = asyncio.ensure_future(kv.get("cancelled"))
                others = [asyncio.ensure_future(kv.get(f"other {n}")) for n in range(5)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                cancelled.cancel()
                more = [asyncio.ensure_future(kv.get(f"more {n}")) for n in range(5)]
                assert await asyncio.gather(*others) == [f"other {n}" for n in range(5)]
                assert await asyncio.gather(*more) == [f"more {n}" for n in range(5)]
                outcome = (await asyncio.gather(cancelled, return_exceptions=True))[0]
                assert outcome == "cancelled" or isinstance(outcome, asyncio.CancelledError)


async def test_reply_to_a_cancelled_call_is_dropped() -> None:
    go_on = threading.Event()

    def late(conversation: Conversation) -> None:
        first = conversation.command()
        assert first is not None
        go_on.wait(10)
        conversation.say(b"of the cancelled call")
        answer_everything(conversation)

    with scripted(late) as server:
        async with aio.connect(server.url) as kv:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await kv.get("first")
            go_on.set()
            assert await kv.get("second") == "second"
        assert len(server.conversations) == 1


async def test_cancelling_one_call_during_connect_keeps_the_others() -> None:
    with running_server() as server:
        async with aio.connect(server.url) as kv:
            calls = [asyncio.ensure_future(kv.ping(f"{n}")) for n in range(50)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            assert await asyncio.gather(*calls[1::2]) == [f"{n}" for n in range(1, 50, 2)]
            assert (await kv.info())["connections_accepted"] == 1


# -- timeouts ----------------------------------------------------------------------------------------------------


async def test_calls_to_a_silent_server_time_out() -> None:
    with scripted(say_nothing) as server:
        async with aio.connect(server.url, timeout=0.3) as kv:
            began = time.monotonic()
            with pytest.raises(cairnkv.TimedOut):
                await kv.get("k")
            with pytest.raises(cairnkv.OutcomeUnknown):
                await kv.set("k", "v")
            assert time.monotonic() - began < AT_ONCE


async def test_slow_reply_times_out_its_own_call_only() -> None:
    """The server answers one call late while it answers others on the same connection: the slot is skipped."""
    asked = threading.Event()

    def slow_in_between(conversation: Conversation) -> None:
        conversation.say(_key(conversation))
        late = _key(conversation)
        asked.wait(10)
        conversation.say(late)
        answer_everything(conversation)

    with scripted(slow_in_between) as server:
        async with aio.connect(server.url, timeout=5, attempts=1) as kv:
            assert await kv.get("quick") == "quick"
            hurried = asyncio.ensure_future(asyncio.wait_for(kv.get("slow"), 0.05))
            with pytest.raises(TimeoutError):
                await hurried
            asked.set()
            assert await kv.get("behind it") == "behind it"
        assert len(server.conversations) == 1


def _key(conversation: Conversation) -> bytes:
    request = conversation.command()
    assert request is not None
    assert isinstance(request.command, Get)
    return request.command.key


# -- what is repeated --------------------------------------------------------------------------------------------


async def test_reads_are_repeated_after_a_lost_connection_and_writes_are_not() -> None:
    with scripted(hang_up_after_a_command, hang_up_after_a_command, answer_everything) as server:
        async with aio.connect(server.url) as kv:
            with pytest.raises(cairnkv.OutcomeUnknown):
                await kv.set("k", "v")
            assert len(server.conversations) == 1
            assert await kv.get("k") == "k"
    assert len(server.conversations) == 3


async def test_call_that_failed_as_not_executed_is_repeated() -> None:
    def undone_once(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(Failure(failures.UNDONE, "the log was busy"))
        answer_everything(conversation)

    with scripted(undone_once) as server:
        async with aio.connect(server.url) as kv:
            assert await kv.set("k", "v") is True


async def test_unsolicited_failure_ends_the_connection_not_the_client() -> None:
    said = threading.Event()

    def end_when_quiet(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(OK)
        conversation.fail(Failure(failures.TIMEOUT, "the client was idle for a while"))
        said.set()

    with scripted(end_when_quiet, answer_everything) as server:
        async with aio.connect(server.url) as kv:
            await kv.set("k", "1")
            await asyncio.to_thread(said.wait, 10)
            await asyncio.sleep(0.05)
            assert await kv.set("k", "2") is True
        assert len(server.conversations) == 2


async def test_several_addresses_are_tried_and_all_named_in_the_error() -> None:
    with scripted(answer_everything) as gone:
        dead = gone.port
    with scripted(answer_everything) as server:
        async with aio.connect(f"cairn://127.0.0.1:{dead},127.0.0.1:{server.port}") as kv:
            assert await kv.get("k") == "k"
    async with aio.connect(f"cairn://127.0.0.1:{dead}", attempts=2) as kv:
        with pytest.raises(cairnkv.Unavailable, match="cannot connect"):
            await kv.set("k", "v")


async def test_malformed_reply_is_an_error_and_the_next_call_works() -> None:
    def babble(conversation: Conversation) -> None:
        conversation.command()
        conversation.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with scripted(babble, answer_everything) as server:
        async with aio.connect(server.url) as kv:
            with pytest.raises(cairnkv.OutcomeUnknown):
                await kv.set("k", "v")
            assert await kv.get("k") == "k"


async def test_close_fails_waiting_calls() -> None:
    with scripted(say_nothing) as server:
        kv = aio.connect(server.url)
        waiting = [asyncio.ensure_future(kv.get("k")) for _ in range(3)]
        await until(lambda: bool(server.conversations))
        await asyncio.sleep(0.05)
        await kv.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, cairnkv.CairnError) for outcome in outcomes)
        with pytest.raises(cairnkv.CallerError, match="closed"):
            await kv.get("k")


# -- what leaves together, and what is bounded -------------------------------------------------------------------


class RecordingTransport(asyncio.Transport):
    """A transport that records each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: object) -> None:
        self.writes.append(b"".join(list_of_data))  # type: ignore[arg-type]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        pass


async def test_commands_of_one_loop_iteration_leave_in_one_write() -> None:
    loop = asyncio.get_running_loop()
    connection = Connection(loop, "nowhere", 5)
    connection.connection_made(wire := RecordingTransport())
    futures = [connection.submit(Get(b"%d" % n), loop.time() + 5) for n in range(100)]
    assert wire.writes == []
    await asyncio.sleep(0)
    assert len(wire.writes) == 1
    for n in range(100):
        connection.data_received(b"\x000\0\0\0\x04%04d" % n)
    assert [await future for future in futures] == [b"%04d" % n for n in range(100)]
    connection.close("the test is over")


async def test_calls_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_connection, "CLIENT_IN_FLIGHT_MAX", 4)
    go_on = threading.Event()
    heard = []

    def slow(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            heard.append(request)
            go_on.wait(10)
            assert isinstance(request.command, Get)
            conversation.say(request.command.key)

    with scripted(slow) as server:
        async with aio.connect(server.url) as kv:
            calls = [asyncio.ensure_future(kv.get(f"{n}")) for n in range(20)]
            await until(lambda: bool(heard))
            await asyncio.sleep(0.05)
            assert kv._connection is not None
            assert len(kv._connection._slots) == 4
            go_on.set()
            assert await asyncio.gather(*calls) == [f"{n}" for n in range(20)]


async def test_many_tasks_and_long_values() -> None:
    with running_server() as server:
        async with aio.connect(server.url, codec="bytes", timeout=30) as kv:

            async def use(n: int) -> None:
                key, value = b"%d" % n, bytes([n]) * (n * 20_000)
                for _ in range(5):
                    await kv.set(key, value)
                    assert await kv.get(key) == value

            await asyncio.gather(*(use(n) for n in range(1, 40)))
            assert (await kv.info())["connections_accepted"] == 1


# -- loops -------------------------------------------------------------------------------------------------------


def test_client_can_be_used_in_successive_loops() -> None:
    with running_server() as server:
        kv = aio.connect(server.url)

        async def use(n: int) -> str | None:
            await kv.set("k", f"{n}")
            return await kv.get("k")

        with warnings.catch_warnings():
            # asyncio complains of connections that were open when their loop ended. So they were, on purpose.
            warnings.simplefilter("ignore", ResourceWarning)
            assert [asyncio.run(use(n)) for n in range(3)] == ["0", "1", "2"]
            asyncio.run(kv.close())
            gc.collect()


async def test_client_refuses_a_second_running_loop() -> None:
    with running_server() as server:
        async with aio.connect(server.url) as kv:
            await kv.ping()

            def elsewhere() -> None:
                with pytest.raises(cairnkv.CallerError, match="another event loop"):
                    asyncio.run(kv.ping())

            await asyncio.to_thread(elsewhere)
            assert await kv.ping() == "PONG"


async def test_calls_after_a_failure_that_closes_are_repeated() -> None:
    with running_server(max_value="1MiB", max_frame="3MiB") as server:
        async with aio.connect(server.url) as kv:
            await kv.ping()
            big = kv.set("big", "x" * 1_048_577)
            rest = [kv.set(f"{n}", "x") for n in range(20)]
            outcomes = await asyncio.gather(big, *rest, return_exceptions=True)
            assert isinstance(outcomes[0], cairnkv.BadCommand)
            assert outcomes[1:] == [True] * 20
            assert await kv.count() == 20


async def test_more_tasks_than_slots_are_all_served() -> None:
    with running_server() as server:
        async with aio.connect(server.url, timeout=60) as kv:
            stored = await asyncio.gather(*(kv.set(f"{n}", "x") for n in range(25_000)))
            assert all(stored)
            assert await kv.count() == 25_000


async def test_slot_of_a_cancelled_call_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_connection, "CLIENT_IN_FLIGHT_MAX", 1)
    loop = asyncio.get_running_loop()
    connection = Connection(loop, "nowhere", 5)
    connection.connection_made(RecordingTransport())
    first = connection.submit(Get(b"k"), loop.time() + 5)
    given = asyncio.ensure_future(connection.room(loop.time() + 5))
    waiting = asyncio.ensure_future(connection.room(loop.time() + 5))
    await asyncio.sleep(0)
    connection.data_received(b"\x000\0\0\0\x01v")
    given.cancel()
    async with asyncio.timeout(AT_ONCE):
        await waiting
    assert await first == b"v"
    connection.close("the test is over")


@pytest.mark.parametrize("first", ["get", "gets", "set", "pipeline of get"])
async def test_client_works_with_a_server_of_four_byte_numbers(first: str) -> None:
    with running_server(command_width="4") as server:
        async with cairnkv.aio.connect(server.url) as kv:
            match first:
                case "get":
                    assert await kv.get("k") is None
                case "gets":
                    assert await asyncio.gather(*(kv.get(f"k{n}") for n in range(50))) == [None] * 50
                case "set":
                    assert await kv.set("k", "v")
                case _:
                    async with kv.pipeline() as pipeline:
                        missing, stored = pipeline.get("k"), pipeline.set("k", "v")
                    assert missing.result() is None
                    assert stored.result()
            assert await kv.set("k", "v")
            assert await kv.get("k") == "v"

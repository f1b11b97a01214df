"""Clients with several addresses: failover, repetition of commands, and the error if no address works."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client.aio import client as aio_client
from cairnkv.commands import CODES, OK, Code, Failure, Get, Ping, failures
from cairnkv.testing import running_server
from tests.client.test_aio import until
from tests.client.test_sync import answer_everything
from tests.conformance.drivers import Awaited, _loop_in_a_thread
from tests.support.patience import AT_ONCE
from tests.support.scripted import Conversation, Script, Scripted, scripted

pytestmark = pytest.mark.same_code

ELSEWHERE = [code for code in CODES.values() if code.elsewhere]


def url_of(*ports: int, **options: object) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"cairn://{hosts}/?" + "&".join(f"{name}={value}" for name, value in {"order": "given", **options}.items())


class Node:
    """A scripted server that greets, then answers everything with a failure, nothing, or success; it notes commands."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.got: list[str] = []

    def __call__(self, conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            command = request.command
            if isinstance(command, Ping):
                conversation.say(b"PONG")
                continue
            self.got.append(command.spec.name)
            if self.answer == "hang up":
                return
            if isinstance(self.answer, Failure):
                conversation.say(self.answer)
                if self.answer.code.closes:
                    return
            elif self.answer is None:
                conversation.say(command.key if isinstance(command, Get) else OK)

    def silent(self) -> "Node":
        self.answer = "nothing"
        return self


def refusing(code: Code) -> Node:
    return Node(Failure(code, "not here"))


@contextlib.contextmanager
def nodes(*scripts: Script) -> Iterator[list[Scripted]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(scripted(script)) for script in scripts]


@contextlib.contextmanager
def dead() -> Iterator[int]:
    """A port on which no server listens. Other programs cannot get it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """A port whose connections the system accepts for a server that does nothing, as for one that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Connect:
    """Creates clients of one kind, with the methods of the sync client."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    @contextlib.contextmanager
    def __call__(self, url: str) -> Iterator[Any]:
        if self._loop is None:
            with cairnkv.connect(url) as kv:
                yield kv
        else:
            store = Awaited(aio.connect(url), self._loop)  # type: ignore[arg-type]  # it is the same for text
            yield store
            store.close()


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    if request.param == "sync":
        yield Connect(None)
    else:
        with _loop_in_a_thread() as loop:
            yield Connect(loop)


# -- servers that come and go ------------------------------------------------------------------------------------


def test_client_continues_after_each_server_has_restarted(connect: Connect) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        one, other = first.enter_context(running_server()), second.enter_context(running_server())
        assert one.address is not None
        assert other.address is not None
        with connect(url_of(one.address[1], other.address[1])) as kv:
            kv.set("k", "on one")
            first.close()
            assert kv.get("k") is None
            kv.set("k", "on the other")
            with running_server(port=one.address[1]):
                assert kv.get("k") == "on the other", "it stays where it is served"
                second.close()
                assert kv.get("k") is None


def test_dead_and_mute_addresses_are_skipped_and_remembered(connect: Connect) -> None:
    node = Node()
    with dead() as nobody, mute() as silent, nodes(node) as [server]:
        url = url_of(nobody, silent, server.port, timeout=9)
        with connect(url) as kv:
            began = time.monotonic()
            assert kv.set("k", "v") is True
            assert time.monotonic() - began > 0.5, "the mute one has had its share of the time, and not all of it"
            for conversation in server.conversations:
                conversation.hang_up()
            time.sleep(0.1)
            assert kv.get("k") == "k", "that one as well: all had trouble, and it is tried last"
            for conversation in server.conversations:
                conversation.hang_up()
    assert node.got == ["SET", "GET"]


def test_unsent_write_is_executed_once_by_another_node(connect: Connect) -> None:
    node = Node()
    with mute() as silent, nodes(node) as [server], connect(url_of(silent, server.port, timeout=6)) as kv:
        assert kv.set("k", "v") is True
    assert node.got == ["SET"]


def test_error_names_every_address_with_its_reason(connect: Connect) -> None:
    def busy_at_once(conversation: Conversation) -> None:
        conversation.command()
        conversation.fail(Failure(failures.BUSY, "too many clients"))

    with dead() as nobody, mute() as silent, nodes(busy_at_once) as [busy]:
        url = url_of(nobody, silent, busy.port, timeout=3, attempts=1)
        with connect(url) as kv, pytest.raises(cairnkv.Unavailable) as caught:
            kv.set("k", "v")
    text = str(caught.value)
    assert text.startswith("cannot connect to ")
    assert f"127.0.0.1:{nobody}: Connect" in text or f"127.0.0.1:{nobody}: [Errno" in text
    assert f"127.0.0.1:{silent}: it accepts connections but does not answer" in text
    assert f"127.0.0.1:{busy.port}: BUSY too many clients" in text


def test_address_of_another_kind_of_server_is_skipped(connect: Connect) -> None:
    def http(conversation: Conversation) -> None:
        conversation.command()
        conversation.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with nodes(http, Node()) as [other, server], connect(url_of(other.port, server.port)) as kv:
        assert kv.get("k") == "k"


def test_one_address_is_not_greeted(connect: Connect) -> None:
    asked: list[str] = []

    def note(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            asked.append(request.command.spec.name)
            conversation.say(OK)

    with scripted(note) as server, connect(server.url) as kv:
        kv.set("k", "v")
    assert asked == ["SET"]


# -- what another node may do ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ELSEWHERE, ids=lambda code: code.name)
def test_command_refused_by_a_node_is_executed_by_the_next(connect: Connect, code: Code) -> None:
    here, there = refusing(code), Node()
    with nodes(here, there) as [one, other], connect(url_of(one.port, other.port, timeout=60)) as kv:
        began = time.monotonic()
        assert kv.set("k", "v") is True
        assert kv.get("k") == "k"
        assert time.monotonic() - began < AT_ONCE
    assert (here.got, there.got) == (["SET"], ["SET", "GET"])


@pytest.mark.parametrize("code", [failures.NOQUORUM, failures.LOADING], ids=lambda code: code.name)
def test_temporary_failure_is_repeated_at_all_nodes_within_bounds(connect: Connect, code: Code) -> None:
    three = [refusing(code) for _ in range(3)]
    with nodes(*three) as servers:
        ports = [server.port for server in servers]
        with connect(url_of(*ports, attempts=2)) as kv, pytest.raises(cairnkv.Refused) as caught:
            kv.set("k", "v")
    assert [len(node.got) for node in three] == [2, 1, 1], "attempts, and one more for each further address"
    assert caught.value.code == code.name
    assert caught.value.retry is True
    for port in ports:
        assert f"127.0.0.1:{port}: {code.name} not here" in str(caught.value)


@pytest.mark.parametrize("code", [failures.STOPPED, failures.READONLY, failures.DISKFULL], ids=lambda code: code.name)
def test_lasting_failure_is_tried_once_at_every_node(connect: Connect, code: Code) -> None:
    three = [refusing(code) for _ in range(3)]
    with nodes(*three) as servers:
        url = url_of(*(server.port for server in servers))
        with connect(url) as kv, pytest.raises(cairnkv.Refused, match=code.name):
            kv.set("k", "v")
    assert [len(node.got) for node in three] == [1, 1, 1]


@pytest.mark.parametrize("code", [failures.FULL, failures.LOGFULL, failures.UNDONE, failures.BADARGS, failures.UNKNOWN])
def test_failure_common_to_all_nodes_is_not_repeated_elsewhere(connect: Connect, code: Code) -> None:
    here, there = refusing(code), Node()
    with nodes(here, there) as [one, other]:
        url = url_of(one.port, other.port, attempts=1)
        with connect(url) as kv, pytest.raises(cairnkv.CairnError, match=code.name):
            kv.set("k", "v")
    assert "SET" not in there.got
    assert set(here.got) == {"SET"}


@pytest.mark.parametrize("code", [failures.LOADING, failures.RECOVERING, failures.NOQUORUM], ids=lambda code: code.name)
def test_single_address_is_asked_again_on_the_same_connection(connect: Connect, code: Code) -> None:
    here = refusing(code)
    with nodes(here) as [server], connect(url_of(server.port, attempts=3)) as kv:
        with pytest.raises(cairnkv.Refused, match=rf"^{code.name} not here$"):
            kv.set("k", "v")
        assert len(server.conversations) == 1
    assert here.got == ["SET"] * 3


# -- replies that do not come ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hang up", "nothing"])
def test_lost_read_moves_to_another_node_and_lost_write_is_unknown(connect: Connect, kind: str) -> None:
    here, there = Node(kind), Node()
    with nodes(here, there) as [one, other]:
        with connect(url_of(one.port, other.port, timeout=1)) as kv, pytest.raises(cairnkv.OutcomeUnknown):
            kv.set("k", "v")
        assert (here.got, there.got) == (["SET"], [])
        with connect(url_of(one.port, other.port, timeout=6)) as kv:
            assert kv.get("k") == "k", "a server that is silent has not had all of the time"
            assert kv.set("k", "v") is True, "and it is not asked again"
    assert (here.got, there.got) == (["SET", "GET"], ["GET", "SET"])


def test_node_with_an_unknown_outcome_gets_no_further_writes(connect: Connect) -> None:
    here, there = Node("hang up"), Node()
    with nodes(here, there) as [one, other], connect(url_of(one.port, other.port)) as kv:
        with pytest.raises(cairnkv.OutcomeUnknown):
            kv.set("k", "v")
        assert kv.set("k", "v") is True
    assert (here.got, there.got) == (["SET"], ["SET"])


def test_write_waits_for_the_whole_timeout(connect: Connect) -> None:
    def slow(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            if not isinstance(request.command, Ping):
                time.sleep(5)
            conversation.say(OK if request.command.spec.writes else b"PONG")

    there = Node()
    with nodes(slow, there) as [one, other], connect(url_of(one.port, other.port, timeout=8)) as kv:
        assert kv.set("k", "v") is True
    assert there.got == []


def test_read_waits_for_the_whole_timeout_without_better_nodes(connect: Connect) -> None:
    def slow(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            if isinstance(request.command, Get):
                time.sleep(3.5)
            conversation.say(b"late")

    with dead() as nobody, nodes(slow) as [server], connect(url_of(nobody, server.port, timeout=6)) as kv:
        assert kv.get("k") == "late"
        assert len(server.conversations) == 1


# -- threads -----------------------------------------------------------------------------------------------------


def test_threads_change_nodes_together() -> None:
    here, there = refusing(failures.NOQUORUM), Node()
    wrong: list[BaseException] = []

    def use() -> None:
        try:
            for _ in range(20):
                kv.set("k", "v")
        except BaseException as error:
            wrong.append(error)

    with nodes(here, there) as [one, other], cairnkv.connect(url_of(one.port, other.port)) as kv:
        threads = [threading.Thread(target=use) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(other.conversations) == 1
    assert wrong == []
    assert len(here.got) == 1
    assert len(there.got) == 120


# -- asyncio -----------------------------------------------------------------------------------------------------


async def test_tasks_change_nodes_together() -> None:
    here, there = refusing(failures.NOQUORUM), Node()
    with nodes(here, there) as [one, other]:
        async with aio.connect(url_of(one.port, other.port)) as kv:
            await asyncio.gather(*(kv.set(f"{n}", "v") for n in range(100)))
        assert (len(one.conversations), len(other.conversations)) == (1, 1)
    assert (len(here.got), len(there.got)) == (100, 100)


async def test_pending_replies_of_a_left_node_still_arrive() -> None:
    """A write at a silent node waits there for its reply while reads, and then all calls, use another node."""
    go_on = threading.Event()

    def late(conversation: Conversation) -> None:
        assert conversation.command() is not None
        conversation.say(b"PONG")
        assert conversation.command() is not None
        go_on.wait(10)
        conversation.say(OK)
        while conversation.command() is not None:
            pass

    there = Node()
    with nodes(late, there) as [one, other]:
        async with aio.connect(url_of(one.port, other.port, timeout=8, connect_timeout=0.5)) as kv:
            writing = asyncio.ensure_future(kv.set("k", "v"))
            await asyncio.sleep(0)
            assert await kv.get("k") == "k"
            assert await kv.set("k", "w") is True
            assert not writing.done()
            go_on.set()
            assert await writing is True
            await until(lambda: one.conversations[0].command() is None)  # it is of no more use, and was closed
    assert there.got == ["GET", "SET"]


async def test_close_ends_calls_that_await_a_left_node() -> None:
    here, there = Node().silent(), Node()
    with nodes(here, there) as [one, other]:
        kv = aio.connect(url_of(one.port, other.port, timeout=20, connect_timeout=0.5))
        writing = asyncio.ensure_future(kv.set("k", "v"))
        await asyncio.sleep(0)
        assert await kv.get("k") == "k"
        await kv.close()
        with pytest.raises(cairnkv.OutcomeUnknown, match="this client was closed"):
            await writing


async def test_connections_to_left_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_client, "LEFT_MAX", 0)
    here, there = Node().silent(), Node()
    with nodes(here, there) as [one, other]:
        async with aio.connect(url_of(one.port, other.port, timeout=20, connect_timeout=0.5)) as kv:
            writing = asyncio.ensure_future(kv.set("k", "v"))
            await asyncio.sleep(0)
            assert await kv.get("k") == "k"
            with pytest.raises(cairnkv.OutcomeUnknown, match="left for another node"):
                await writing


async def test_silent_server_is_detected_behind_an_older_call() -> None:
    """The oldest slot is from before the last sign of life and shows nothing; a later one does."""

    def once(conversation: Conversation) -> None:
        conversation.command()
        conversation.command()
        conversation.say(b"first")
        while conversation.command() is not None:
            pass

    with scripted(once, answer_everything) as server:
        async with aio.connect(server.url, timeout=0.5, attempts=1) as kv:
            first, second = asyncio.ensure_future(kv.get("first")), asyncio.ensure_future(kv.get("second"))
            assert await first == "first"
            third = asyncio.ensure_future(kv.get("third"))
            for call in (second, third):
                with pytest.raises(cairnkv.TimedOut):
                    await call
            await asyncio.sleep(0.1)
            assert await kv.get("fourth") == "fourth"
        assert len(server.conversations) == 2


# -- pipelines ---------------------------------------------------------------------------------------------------


def test_pipeline_refused_as_a_whole_is_executed_by_the_next_node() -> None:
    here, there = refusing(failures.NOQUORUM), Node()
    with nodes(here, there) as [one, other], cairnkv.connect(url_of(one.port, other.port)) as kv:
        with kv.pipeline() as pipeline:
            results = [pipeline.set("k", "v"), pipeline.get("k")]
        assert [result.result() for result in results] == [True, "k"]
    assert (here.got, there.got) == (["SET", "GET"], ["SET", "GET"])


def test_partly_executed_pipeline_is_not_repeated() -> None:
    def reads_only(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            writes = request.command.spec.writes
            conversation.say(Failure(failures.CLOCK, "the clock is off") if writes else b"v")

    there = Node()
    with nodes(reads_only, there) as [one, other], cairnkv.connect(url_of(one.port, other.port)) as kv:
        with pytest.raises(cairnkv.Refused, match="CLOCK"), kv.pipeline() as pipeline:
            written, read = pipeline.set("k", "v"), pipeline.get("k")
        assert read.result() == "v"
        with pytest.raises(cairnkv.Refused, match="CLOCK"):
            written.result()
        with kv.pipeline() as pipeline:
            pipeline.set("k", "v")
    assert there.got == ["SET"]


def test_lost_pipeline_is_repeated_only_if_it_has_no_writes() -> None:
    for here, outcome in ((Node("hang up"), "unknown"), (Node("hang up"), "read")):
        there = Node()
        with nodes(here, there) as [one, other], cairnkv.connect(url_of(one.port, other.port)) as kv:
            if outcome == "unknown":
                with pytest.raises(cairnkv.OutcomeUnknown), kv.pipeline() as pipeline:
                    pipeline.set("k", "v")
                assert there.got == []
            else:
                with kv.pipeline() as pipeline:
                    read = pipeline.get("k")
                assert read.result() == "k"


def test_pipeline_without_a_working_node_names_each_once() -> None:
    with dead() as one, dead() as other, cairnkv.connect(url_of(one, other)) as kv:
        pipeline = kv.pipeline()
        pipeline.set("k", "v")
        with pytest.raises(cairnkv.Unavailable, match=rf"{one}: .*; 127\.0\.0\.1:{other}: "):
            pipeline.execute()


def test_long_pipeline_continues_at_another_node() -> None:
    """Two thousand commands leave in several parts: the first node executed some of them, the next one the rest."""
    answered: list[str] = []

    def loses_its_quorum(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            if isinstance(request.command, Ping):
                conversation.say(b"PONG")
            elif len(answered) < 512:
                answered.append(request.command.spec.name)
                conversation.say(OK)
            else:
                conversation.say(Failure(failures.NOQUORUM, "no majority"))

    there = Node()
    with nodes(loses_its_quorum, there) as [one, other], cairnkv.connect(url_of(one.port, other.port)) as kv:
        with kv.pipeline() as pipeline:
            results = [pipeline.set("k", "v") for _ in range(2_000)]
        assert all(result.result() for result in results)
    assert (len(answered), len(there.got)) == (512, 2_000 - 512)


# -- views -------------------------------------------------------------------------------------------------------


def test_local_reads_move_to_another_node_too(connect: Connect) -> None:
    here, there = refusing(failures.LOADING), Node()
    with nodes(here, there) as [one, other], connect(url_of(one.port, other.port)) as kv:
        assert kv.local().get("k") == "k"
    assert there.got == ["GET"]

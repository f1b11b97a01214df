"""Clients with several addresses: when they go elsewhere, what is repeated there, and what is said when none works.

The servers here are stores of their own, or scripts: what nodes of a cluster agree on is their own affair. In most
tests `order=given` makes the first of them the one that is asked first.
"""

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
from tests.conformance.ways import Awaited, _loop_in_a_thread
from tests.support.patience import AT_ONCE
from tests.support.scripted import Conversation, Script, Scripted, scripted

ELSEWHERE = [code for code in CODES.values() if code.elsewhere]


def url_of(*ports: int, **options: object) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"cairn://{hosts}/?" + "&".join(f"{name}={value}" for name, value in {"order": "given", **options}.items())


class Node:
    """A script that greets, then answers everything with a failure, or with nothing, or well; it knows what it got."""

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
    """A port that nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """A port whose connections the system accepts for a server that does nothing, as for one that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class Connect:
    """Makes clients of one kind, with the methods of the sync one."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    @contextlib.contextmanager
    def __call__(self, url: str) -> Iterator[Any]:
        if self._loop is None:
            with cairnkv.connect(url) as kv:
                yield kv
        else:
            kv = Awaited(aio.connect(url), self._loop)  # type: ignore[arg-type]  # it is the same for text
            yield kv
            kv.close()


@pytest.fixture(params=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    if request.param == "sync":
        yield Connect(None)
    else:
        with _loop_in_a_thread() as loop:
            yield Connect(loop)


# -- servers that come and go ------------------------------------------------------------------------------------


def test_a_client_goes_on_when_its_server_ends_and_when_all_have_ended_once(connect: Connect) -> None:
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


def test_addresses_that_are_dead_or_mute_are_passed_by_and_remembered(connect: Connect) -> None:
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


def test_a_write_that_never_left_is_carried_out_elsewhere_once(connect: Connect) -> None:
    node = Node()
    with mute() as silent, nodes(node) as [server], connect(url_of(silent, server.port, timeout=6)) as kv:
        assert kv.set("k", "v") is True
    assert node.got == ["SET"]


def test_when_none_works_each_is_named_with_its_reason(connect: Connect) -> None:
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
    assert f"127.0.0.1:{silent}: it accepts connections and says nothing" in text
    assert f"127.0.0.1:{busy.port}: BUSY too many clients" in text


def test_what_is_no_server_of_ours_is_passed_by(connect: Connect) -> None:
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
def test_what_a_node_cannot_do_is_done_by_the_next(connect: Connect, code: Code) -> None:
    here, there = refusing(code), Node()
    with nodes(here, there) as [one, other], connect(url_of(one.port, other.port, timeout=60)) as kv:
        began = time.monotonic()
        assert kv.set("k", "v") is True
        assert kv.get("k") == "k"
        assert time.monotonic() - began < AT_ONCE
    assert (here.got, there.got) == (["SET"], ["SET", "GET"])


@pytest.mark.parametrize("code", [failures.NOQUORUM, failures.LOADING], ids=lambda code: code.name)
def test_what_passes_is_tried_everywhere_a_bounded_number_of_times(connect: Connect, code: Code) -> None:
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
def test_what_does_not_pass_by_itself_is_tried_once_everywhere(connect: Connect, code: Code) -> None:
    three = [refusing(code) for _ in range(3)]
    with nodes(*three) as servers:
        url = url_of(*(server.port for server in servers))
        with connect(url) as kv, pytest.raises(cairnkv.Refused, match=code.name):
            kv.set("k", "v")
    assert [len(node.got) for node in three] == [1, 1, 1]


@pytest.mark.parametrize("code", [failures.FULL, failures.LOGFULL, failures.UNDONE, failures.BADARGS, failures.UNKNOWN])
def test_what_is_no_better_elsewhere_stays(connect: Connect, code: Code) -> None:
    here, there = refusing(code), Node()
    with nodes(here, there) as [one, other]:
        url = url_of(one.port, other.port, attempts=1)
        with connect(url) as kv, pytest.raises(cairnkv.CairnError, match=code.name):
            kv.set("k", "v")
    assert "SET" not in there.got
    assert set(here.got) == {"SET"}


@pytest.mark.parametrize("code", [failures.LOADING, failures.RECOVERING, failures.NOQUORUM], ids=lambda code: code.name)
def test_with_one_address_it_is_asked_again_on_the_same_connection(connect: Connect, code: Code) -> None:
    here = refusing(code)
    with nodes(here) as [server], connect(url_of(server.port, attempts=3)) as kv:
        with pytest.raises(cairnkv.Refused, match=rf"^{code.name} not here$"):
            kv.set("k", "v")
        assert len(server.conversations) == 1
    assert here.got == ["SET"] * 3


# -- replies that do not come ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hang up", "nothing"])
def test_a_read_goes_elsewhere_and_a_write_is_of_unknown_outcome(connect: Connect, kind: str) -> None:
    here, there = Node(kind), Node()
    with nodes(here, there) as [one, other]:
        with connect(url_of(one.port, other.port, timeout=1)) as kv, pytest.raises(cairnkv.OutcomeUnknown):
            kv.set("k", "v")
        assert (here.got, there.got) == (["SET"], [])
        with connect(url_of(one.port, other.port, timeout=6)) as kv:
            assert kv.get("k") == "k", "a server that is silent has not had all of the time"
            assert kv.set("k", "v") is True, "and it is not asked again"
    assert (here.got, there.got) == (["SET", "GET"], ["GET", "SET"])


def test_a_write_of_unknown_outcome_is_not_followed_by_others_there(connect: Connect) -> None:
    here, there = Node("hang up"), Node()
    with nodes(here, there) as [one, other], connect(url_of(one.port, other.port)) as kv:
        with pytest.raises(cairnkv.OutcomeUnknown):
            kv.set("k", "v")
        assert kv.set("k", "v") is True
    assert (here.got, there.got) == (["SET"], ["SET"])


def test_a_write_has_all_of_the_time_since_it_cannot_be_had_elsewhere(connect: Connect) -> None:
    def slow(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            if not isinstance(request.command, Ping):
                time.sleep(5)
            conversation.say(OK if request.command.spec.writes else b"PONG")

    there = Node()
    with nodes(slow, there) as [one, other], connect(url_of(one.port, other.port, timeout=8)) as kv:
        assert kv.set("k", "v") is True
    assert there.got == []


def test_where_the_others_are_no_better_a_read_has_all_of_the_time(connect: Connect) -> None:
    def slow(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            if isinstance(request.command, Get):
                time.sleep(3.5)
            conversation.say(b"late")

    with dead() as nobody, nodes(slow) as [server], connect(url_of(nobody, server.port, timeout=6)) as kv:
        assert kv.get("k") == "late"
        assert len(server.conversations) == 1


# -- threads -----------------------------------------------------------------------------------------------------


def test_threads_go_elsewhere_together() -> None:
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


async def test_tasks_go_elsewhere_together() -> None:
    here, there = refusing(failures.NOQUORUM), Node()
    with nodes(here, there) as [one, other]:
        async with aio.connect(url_of(one.port, other.port)) as kv:
            await asyncio.gather(*(kv.set(f"{n}", "v") for n in range(100)))
        assert (len(one.conversations), len(other.conversations)) == (1, 1)
    assert (len(here.got), len(there.got)) == (100, 100)


async def test_what_others_await_of_a_node_that_is_left_still_comes() -> None:
    """A write whose node is silent waits there for its reply while reads, and then all others, go elsewhere."""
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


async def test_closing_a_client_ends_what_is_awaited_of_a_node_that_was_left() -> None:
    here, there = Node().silent(), Node()
    with nodes(here, there) as [one, other]:
        kv = aio.connect(url_of(one.port, other.port, timeout=20, connect_timeout=0.5))
        writing = asyncio.ensure_future(kv.set("k", "v"))
        await asyncio.sleep(0)
        assert await kv.get("k") == "k"
        await kv.close()
        with pytest.raises(cairnkv.OutcomeUnknown, match="this client was closed"):
            await writing


async def test_connections_that_were_left_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_client, "LEFT_MAX", 0)
    here, there = Node().silent(), Node()
    with nodes(here, there) as [one, other]:
        async with aio.connect(url_of(one.port, other.port, timeout=20, connect_timeout=0.5)) as kv:
            writing = asyncio.ensure_future(kv.set("k", "v"))
            await asyncio.sleep(0)
            assert await kv.get("k") == "k"
            with pytest.raises(cairnkv.OutcomeUnknown, match="left for another node"):
                await writing


async def test_a_server_that_falls_silent_is_dead_though_an_older_call_was_in_its_way() -> None:
    """The first slot was asked before the last sign of life, so its time says nothing; a later one's does."""

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


def test_a_pipeline_that_a_node_refuses_as_a_whole_is_carried_out_by_the_next() -> None:
    here, there = refusing(failures.NOQUORUM), Node()
    with nodes(here, there) as [one, other], cairnkv.connect(url_of(one.port, other.port)) as kv:
        with kv.pipeline() as pipeline:
            results = [pipeline.set("k", "v"), pipeline.get("k")]
        assert [result.result() for result in results] == [True, "k"]
    assert (here.got, there.got) == (["SET", "GET"], ["SET", "GET"])


def test_one_that_was_carried_out_in_part_is_not_but_the_next_one_goes_elsewhere() -> None:
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


def test_one_whose_writes_may_have_left_is_not_repeated_and_one_of_reads_is() -> None:
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


def test_a_pipeline_to_nobody_names_them_all_once() -> None:
    with dead() as one, dead() as other, cairnkv.connect(url_of(one, other)) as kv:
        pipeline = kv.pipeline()
        pipeline.set("k", "v")
        with pytest.raises(cairnkv.Unavailable, match=rf"{one}: .*; 127\.0\.0\.1:{other}: "):
            pipeline.execute()


def test_a_long_pipeline_goes_on_elsewhere_in_its_middle() -> None:
    """Two thousand commands leave in several parts: what the first node executed stays there, the rest is done once."""
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


def test_local_reads_go_elsewhere_too(connect: Connect) -> None:
    here, there = refusing(failures.LOADING), Node()
    with nodes(here, there) as [one, other], connect(url_of(one.port, other.port)) as kv:
        assert kv.local().get("k") == "k"
    assert there.got == ["GET"]

"""The login of clients: AUTH and PING begin each connection in one write, and a refused login is not repeated."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli import fast_get
from cairnkv.client.queue.working import LONGEST_PAUSE, Pauses
from cairnkv.commands import OK, Auth, Failure, Get, Items, Ping, Set, failures
from cairnkv.protocol.native import write_command
from cairnkv.testing import running_server
from tests.support.scripted import Conversation, Scripted, scripted

from .test_sync import answer_everything

SECRET = "s3cret"
LOGIN = Auth(b"app", SECRET.encode())
FIRST_WRITE = write_command(LOGIN) + write_command(Ping(b""))

Ask = Callable[[str], object]


def get_sync(url: str) -> object:
    with cairnkv.connect(url, timeout=30) as kv:
        return kv.get("k")


def set_sync(url: str) -> object:
    with cairnkv.connect(url, timeout=30) as kv:
        return kv.set("k", "v")


def pipeline_sync(url: str) -> object:
    with cairnkv.connect(url, timeout=30) as kv:
        with kv.pipeline() as pipeline:
            pending = pipeline.get("k")
        return pending.result()


def get_async(url: str) -> object:
    async def ask() -> object:
        async with cairnkv.aio.connect(url, timeout=30) as kv:
            return await kv.get("k")

    return asyncio.run(ask())


def set_async(url: str) -> object:
    async def ask() -> object:
        async with cairnkv.aio.connect(url, timeout=30) as kv:
            return await kv.set("k", "v")

    return asyncio.run(ask())


def pipeline_async(url: str) -> object:
    async def ask() -> object:
        async with cairnkv.aio.connect(url, timeout=30) as kv:
            async with kv.pipeline() as pipeline:
                pending = pipeline.get("k")
            return pending.result()

    return asyncio.run(ask())


@pytest.fixture(params=[get_sync, pipeline_sync, get_async, pipeline_async], ids=lambda ask: str(ask.__name__))
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


def log_in(conversation: Conversation) -> None:
    """Read the first write of a client, which must be AUTH and PING, and accept them."""
    received = conversation.socket.recv(4_096)
    assert received == FIRST_WRITE
    conversation.say(OK)
    conversation.say(b"PONG")


def serve(conversation: Conversation) -> None:
    log_in(conversation)
    answer_everything(conversation)


def refuse(conversation: Conversation) -> None:
    assert conversation.command() is not None
    conversation.say(Failure(failures.WRONGPASS, "wrong user or secret"))
    conversation.say(Failure(failures.NOAUTH, "log in first"))
    assert conversation.command() is not None, "the PING"
    assert conversation.command() is None, "the client closes the connection"


def with_login(server: Scripted, *others: Scripted) -> str:
    hosts = [one.url.removeprefix("cairn://") for one in (server, *others)]
    return f"cairn://app:{SECRET}@{','.join(hosts)}/?order=given"


def test_login_and_ping_are_the_first_write(ask: Ask) -> None:
    with scripted(serve) as server:
        assert ask(with_login(server)) == "k"
        assert len(server.conversations) == 1


def test_client_logs_in_again_after_it_lost_the_connection() -> None:
    def serve_once(conversation: Conversation) -> None:
        log_in(conversation)
        conversation.command()
        conversation.say(b"first")

    with scripted(serve_once, serve) as server, cairnkv.connect(with_login(server), timeout=30) as kv:
        assert [kv.get("k"), kv.get("k")] == ["first", "k"]
        assert len(server.conversations) == 2


def test_asyncio_client_logs_in_again_after_it_lost_the_connection() -> None:
    def serve_once(conversation: Conversation) -> None:
        log_in(conversation)
        conversation.command()
        conversation.say(b"first")

    async def ask(url: str) -> list[str | None]:
        async with cairnkv.aio.connect(url, timeout=30) as kv:
            return [await kv.get("k"), await kv.get("k")]

    with scripted(serve_once, serve) as server:
        assert asyncio.run(ask(with_login(server))) == ["first", "k"]
        assert len(server.conversations) == 2


@pytest.mark.parametrize("ask", [get_sync, pipeline_sync, get_async])  # an asyncio pipeline stays with its node
def test_client_logs_in_to_the_next_node(ask: Ask) -> None:
    def leave(conversation: Conversation) -> None:
        log_in(conversation)
        while conversation.command() is not None:
            conversation.say(Failure(failures.NOQUORUM, "no majority"))

    with scripted(leave) as first, scripted(serve) as second:
        assert ask(with_login(first, second)) == "k"
        assert len(second.conversations) == 1


def test_waiting_take_logs_in_on_its_own_connection() -> None:
    def serve_take(conversation: Conversation) -> None:
        log_in(conversation)
        conversation.command()
        conversation.say(Items((b"1", b"2", b"1", b"60000", b"0", b"", b'"message"')))
        conversation.command()

    with scripted(serve, serve_take) as server, cairnkv.connect(with_login(server), timeout=30) as kv:
        assert kv.get("k") == "k"
        job = kv.queue("q").take(wait=1)
        assert job is not None
        assert job.body == "message"
        assert len(server.conversations) == 2


def test_refused_login_is_an_error_and_is_not_repeated(ask: Ask) -> None:
    with scripted(refuse) as server:
        with pytest.raises(cairnkv.LoginFailed, match=r"^WRONGPASS login as 'app' at 127.0.0.1:\d+: wrong") as caught:
            ask(with_login(server))
        assert len(server.conversations) == 1
    assert caught.value.code == "WRONGPASS"
    assert not caught.value.retry
    assert isinstance(caught.value, cairnkv.AccessDenied)
    assert SECRET not in f"{caught.value!r}"


def test_next_call_tries_a_refused_login_once_more() -> None:
    with scripted(refuse, serve) as server, cairnkv.connect(with_login(server), timeout=30) as kv:
        with pytest.raises(cairnkv.LoginFailed):
            kv.set("k", "v")
        kv.set("k", "v")
        assert len(server.conversations) == 2


def test_node_that_refuses_the_login_is_left_for_another_one(ask: Ask) -> None:
    """Each node reads its own file of users, and a new secret may reach one later."""
    with scripted(refuse) as first, scripted(serve) as second:
        assert ask(with_login(first, second)) == "k"


def test_login_refused_by_all_nodes_is_tried_once_at_each(ask: Ask) -> None:
    with scripted(refuse) as first, scripted(refuse) as second:
        with pytest.raises(cairnkv.LoginFailed):
            ask(with_login(first, second))
        assert len(first.conversations) == len(second.conversations) == 1


def test_server_without_users_refuses_the_login(ask: Ask) -> None:
    def old(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            known = isinstance(request.command, Ping)
            conversation.say(b"PONG" if known else Failure(failures.NOCOMMAND, "command number 44"))

    with scripted(old) as server, pytest.raises(cairnkv.LoginFailed, match="NOCOMMAND login as 'app'"):
        ask(with_login(server))


@pytest.mark.parametrize("ask", [get_sync, get_async])  # a pipeline is not repeated
def test_full_server_is_no_refused_login(ask: Ask) -> None:
    def full(conversation: Conversation) -> None:
        conversation.command()
        conversation.fail(Failure(failures.BUSY, "too many connections"))

    with scripted(full, serve) as server:
        assert ask(with_login(server)) == "k"


@pytest.mark.parametrize("ask", [get_sync, get_async])
def test_silent_server_is_unavailable_and_the_error_names_the_delay(ask: Ask) -> None:
    def say_nothing(conversation: Conversation) -> None:
        while conversation.command() is not None:
            pass

    with scripted(say_nothing) as server:
        with pytest.raises(cairnkv.Unavailable, match="does not answer the login, or delays it after failed"):
            ask(f"{with_login(server)}&connect_timeout=2&attempts=1")
        assert len(server.conversations) == 1


def test_lost_login_ends_the_connection_and_the_next_call_logs_in() -> None:
    """The user was removed or disabled, and added again."""

    def end(conversation: Conversation) -> None:
        log_in(conversation)
        while conversation.command() is not None:
            conversation.say(Failure(failures.NOAUTH, "the user was removed"))

    with scripted(end, end, serve) as server, cairnkv.connect(with_login(server), timeout=30) as kv:
        with pytest.raises(cairnkv.LoginFailed, match=r"NOAUTH the user was removed$"):
            kv.get("k")
        pipeline = kv.pipeline()
        pending = [pipeline.get("k"), pipeline.set("k", "v")]
        with pytest.raises(cairnkv.LoginFailed):
            pipeline.execute()
        assert all(isinstance(one.error, cairnkv.LoginFailed) for one in pending)
        assert kv.get("k") == "k"
        assert len(server.conversations) == 3


def test_lost_login_ends_the_connection_of_an_asyncio_client() -> None:
    def end(conversation: Conversation) -> None:
        log_in(conversation)
        while conversation.command() is not None:
            conversation.say(Failure(failures.NOAUTH, "the user was removed"))

    async def ask(url: str) -> object:
        async with cairnkv.aio.connect(url, timeout=30) as kv:
            with pytest.raises(cairnkv.LoginFailed, match=r"NOAUTH the user was removed$"):
                await kv.get("k")
            with pytest.raises(cairnkv.LoginFailed):
                async with kv.pipeline() as pipeline:
                    pipeline.get("k")
            return await kv.get("k")

    with scripted(end, end, serve) as server:
        assert asyncio.run(ask(with_login(server))) == "k"
        assert len(server.conversations) == 3


def test_client_without_a_user_keeps_its_connection_and_gets_a_hint(ask: Ask) -> None:
    def closed(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            assert not isinstance(request.command, Auth)
            conversation.say(Failure(failures.NOAUTH, "log in first"))

    with scripted(closed) as server:
        with pytest.raises(cairnkv.LoginFailed, match="NOAUTH log in first"):
            ask(server.url)
        with cairnkv.connect(server.url) as kv:
            for _ in range(2):
                with pytest.raises(cairnkv.LoginFailed, match=r"cairn://USER:SECRET@HOST, or .*CAIRNKV__CREDENTIALS"):
                    kv.get("k")
        assert len(server.conversations) == 2


def test_missing_right_is_an_error_of_its_own(ask: Ask) -> None:
    def deny(conversation: Conversation) -> None:
        log_in(conversation)
        while (request := conversation.command()) is not None:
            assert isinstance(request.command, Get | Set)
            conversation.say(Failure(failures.NOPERM, "no permissions to run the 'get' command"))

    with scripted(deny) as server:
        with pytest.raises(cairnkv.AccessDenied, match="NOPERM no permissions") as caught:
            ask(with_login(server))
        assert len(server.conversations) == 1
    assert type(caught.value) is cairnkv.AccessDenied


@pytest.mark.parametrize("library", ["sync", "asyncio"])
def test_changed_file_counts_for_the_next_connection(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotated secret needs no restart. A file that does not fit does not replace the credentials."""
    path = tmp_path / "credentials"
    path.touch(0o600)
    seen: list[bytes] = []

    def serve_once(conversation: Conversation) -> None:
        request = conversation.command()
        assert request is not None
        assert isinstance(request.command, Auth)
        seen.append(request.command.secret)
        conversation.say(OK)
        conversation.command()
        conversation.say(b"PONG")
        conversation.command()
        conversation.say(b"v")

    def texts() -> Iterator[None]:
        for text in ("app:first", "app:second", "app", "app:third"):
            path.write_text(text)
            yield

    path.write_text("app:first")
    monkeypatch.setenv("CAIRNKV__CREDENTIALS", str(path))
    with scripted(serve_once) as server:

        async def ask() -> None:
            async with cairnkv.aio.connect(server.url, timeout=30) as kv:
                for _ in texts():
                    assert await kv.get("k") == "v"

        if library == "asyncio":
            asyncio.run(ask())
        else:
            with cairnkv.connect(server.url, timeout=30) as kv:
                for _ in texts():
                    assert kv.get("k") == "v"
    assert seen == [b"first", b"second", b"first", b"third"]


def test_file_may_be_a_pipe_that_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    monkeypatch.setenv("CAIRNKV__CREDENTIALS", str(pipe))
    writing = threading.Thread(target=pipe.write_text, args=(f"app:{SECRET}\n",))
    with scripted(serve) as server:
        writing.start()
        with cairnkv.connect(server.url, timeout=30) as kv:
            assert kv.get("k") == "k"
    writing.join(30)


# -- with a server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def protected() -> Iterator[str]:
    """The URL of a server with a password, without it."""
    with running_server(password="pass word/@") as server:
        yield server.url


def with_password(url: str, password: str = "pass%20word%2F%40") -> str:
    return url.replace("cairn://", f"cairn://default:{password}@")


def test_clients_log_in_to_a_server(ask: Ask, protected: str) -> None:
    with cairnkv.connect(with_password(protected)) as kv:
        kv.set("k", "v")
    assert ask(with_password(protected)) == "v"
    with pytest.raises(cairnkv.LoginFailed, match="WRONGPASS"):
        ask(with_password(protected, "wrong"))
    with pytest.raises(cairnkv.LoginFailed, match="NOAUTH"):
        ask(protected)


def test_file_of_the_environment_logs_clients_in(
    ask: Ask, protected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credentials"
    path.touch(0o600)
    path.write_text("default:pass word/@\n")
    monkeypatch.setenv("CAIRNKV__CREDENTIALS", str(path))
    with cairnkv.connect(protected) as kv:
        kv.set("k", "v")
    assert ask(protected) == "v"


@pytest.mark.parametrize("words", [["get", "k"], ["set", "k", "v"], ["queue", "put", "q", "m"]], ids=lambda one: one[0])
def test_command_line_logs_in(protected: str, tmp_path: Path, words: list[str]) -> None:
    def run(url: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cairnkv", *words, "--url", url]
        return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)

    with cairnkv.connect(with_password(protected)) as kv:
        kv.set("k", "v")
    path = tmp_path / "credentials"
    path.touch(0o600)
    path.write_text("default:pass word/@\n")
    assert run(with_password(protected)).returncode == 0
    assert run(protected, CAIRNKV__CREDENTIALS=str(path)).returncode == 0
    for url in (with_password(protected, "wrong-one"), protected):
        refused = run(url)
        assert refused.returncode == 2
        assert ("NOAUTH" if url == protected else "WRONGPASS") in refused.stderr
        assert "wrong-one" not in refused.stderr
    path.chmod(0o644)
    refused = run(protected, CAIRNKV__CREDENTIALS=str(path))
    assert refused.returncode == 2
    assert "chmod 600" in refused.stderr
    unknown = subprocess.run(
        [sys.executable, "-m", "cairnkv", *words, with_password(protected)], capture_output=True, text=True, timeout=60
    )
    assert unknown.returncode == 2
    assert "pass%20word" not in unknown.stderr


def refuse_late(conversation: Conversation) -> None:
    assert conversation.command() is not None
    threading.Event().wait(2 * fast_get.TIMEOUT)
    conversation.say(Failure(failures.WRONGPASS, "wrong user or secret"))


@pytest.mark.parametrize("script", [refuse, refuse_late])
def test_wrong_secret_counts_once_on_the_command_line(script: Callable[[Conversation], None]) -> None:
    """`cairn get` has a fast path, which leaves errors to the client."""
    with scripted(script) as server:
        ran = subprocess.run(
            [sys.executable, "-m", "cairnkv", "get", "k", "--url", with_login(server).partition("/?")[0]],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 2
        assert "WRONGPASS" in ran.stderr
        assert len(server.conversations) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["get", "k", "--url", "me:s3cret@host:1"],
        ["get", "k", "--url", "cairn://host:1,,me:s3cret"],
        ["set", "k", "v", "--url", "cairn://me:s3cret@127.0.0.1:1/?timeout=1"],
        ["get", "k", "cairn://me:s3cret@host"],
        ["cairn://me:s3cret@host"],
        ["get", "k", "--timeout", "cairn://me:s3cret@host"],
        ["backup", "--url", "cairns://me:s3cret@host", "name"],
        ["trace", "--to", "cairn://me:s3cret@host@host"],
        ["shell", "--url", "cairn://me:s3cret/@host"],
        ["queue", "put", "q", "m", "--url", "cairn://me:s3cret#@host"],
    ],
    ids=" ".join,
)
def test_command_line_shows_no_secret_of_a_url(words: list[str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cairnkv", *words], input="", capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("cairn: ")
    assert "s3cret" not in ran.stdout + ran.stderr


def test_consistency_check_refuses_a_secret_in_its_addresses() -> None:
    """The history of a run contains the addresses."""
    ran = subprocess.run(
        [sys.executable, "-m", "cairnkv", "check", "consistency", "cairn://app:s3cret@127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert "CAIRNKV__CREDENTIALS" in ran.stderr
    assert "s3cret" not in ran.stderr


def test_worker_pauses_long_after_a_refused_login() -> None:
    pauses = Pauses()
    assert pauses.after(cairnkv.LoginFailed("the user is disabled")) == LONGEST_PAUSE
    assert pauses.after(cairnkv.Unavailable("no connection")) == LONGEST_PAUSE
    pauses.reset()
    assert pauses.after(cairnkv.Unavailable("no connection")) < LONGEST_PAUSE

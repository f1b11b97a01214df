"""Each row of the table of test cases: pure and native paths of both protocols, all clients, the CLI, late commits."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cairnkv
import cairnkv.aio
from cairnkv.cli.main import main
from cairnkv.commands import COMMANDS, Failure, Set
from cairnkv.engine import Database, can_apply
from cairnkv.installation import native_path_in_use
from cairnkv.protocol.native import StatusByte, reply_parts, write_command
from cairnkv.session import ServerContext, Session, native_frame_executor
from cairnkv.store import LocalStore, PendingReply
from cairnkv.testing import RunningServer, running_server
from tests.commands.cases import CASES, Case
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.model import MODELLED
from tests.support.queue_model import MODELLED_QUEUE_COMMANDS
from tests.support.resp import decode, request
from tests.support.twins import WithPurePath

PATHS = ["pure", *(["native"] if native_path_in_use() else [])]


def having(*interfaces: str) -> list[Any]:
    """The cases that these interfaces have."""
    return [
        pytest.param(case, id=case.name)
        for case in CASES
        if all(getattr(case, interface) is not None for interface in interfaces)
    ]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def replies(case: Case, path: str, data: bytes) -> bytes:
    """Return the bytes that a session replies, after checking the database."""
    store = LocalStore(clock=HandClock())
    for key, value in case.before.items():
        store.database.put(key.encode(), value.encode(), None)
    context = ServerContext(store) if path == "native" else WithPurePath(store)
    executor = native_frame_executor(store) if path == "native" else None
    session = Session(store, wake=lambda: None, context=context, frame_executor=executor)
    session.receive(data)
    session.advance()
    heard = b"".join(session.output())
    assert content(store.database) == case.after
    store.database.check()
    return heard


def content(database: Database) -> dict[str, str]:
    """Return the keys and values of a database."""
    keys = database.slice(0, 1_000, b"")[1]
    return {key.decode(): (database.get(key) or b"").decode() for key in keys}


@pytest.mark.parametrize("case", having("native"))
def test_native_protocol(case: Case, path: str) -> None:
    command, reply = case.native
    expected = b"".join(reply_parts(reply, status_byte=StatusByte.ASCII))
    assert replies(case, path, write_command(command)) == expected


@pytest.mark.parametrize("case", having("resp"))
def test_redis_protocol(case: Case, path: str) -> None:
    assert case.resp is not None
    line, reply = case.resp
    assert decode(replies(case, path, request(*line.encode().split()))) == reply


@pytest.mark.parametrize("case", [case for case in having("native") if case.values[0].before != case.values[0].after])
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "failed commit"])
def test_changes_wait_for_their_commit(case: Case, commits: bool) -> None:
    storage = LateStorage()
    store = LocalStore(storage=storage, clock=HandClock())
    for key, value in case.before.items():
        store.execute(Set(key.encode(), value.encode()))
    storage.commit()
    command, reply = case.native
    pending = store.execute(command)
    assert isinstance(pending, PendingReply)
    assert pending.reply is None
    if commits:
        storage.commit()
        assert pending.reply == reply
    else:
        storage.fail()
        assert isinstance(pending.reply, Failure)
    assert content(store.database) == (case.after if commits else case.before)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningServer]:
    with running_server() as server:
        yield server


@pytest.fixture(params=["embedded", "client"])
def kv(request: pytest.FixtureRequest, running: RunningServer) -> Iterator[Any]:
    with cairnkv.open() if request.param == "embedded" else cairnkv.connect(running.url) as store:
        store.clear_all()
        yield store


def executed(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a call as a pipeline of one command."""

    def execute(store: Any) -> Any:
        with store.pipeline() as pipeline:
            pending = call(pipeline)
        return pending.result()

    return execute


@pytest.mark.parametrize("through", [lambda call: call, executed], ids=["store", "pipeline"])
@pytest.mark.parametrize("case", having("client"))
def test_clients(case: Case, kv: Any, through: Callable[[Any], Any]) -> None:
    assert case.client is not None
    call, result = case.client
    kv.set_many(case.before)
    assert through(call)(kv) == result
    assert dict(kv.items()) == case.after


@pytest.mark.parametrize("case", having("client"))
async def test_asyncio_clients(case: Case, running: RunningServer) -> None:
    assert case.client is not None
    call, result = case.client
    async with cairnkv.aio.connect(running.url) as kv:
        await kv.clear_all()
        await kv.set_many(case.before)
        assert await call(kv) == result
        assert await kv.get_many(list(case.after)) == case.after
        assert await kv.count() == len(case.after)


@pytest.mark.parametrize("case", having("cli"))
def test_command_line(case: Case, running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.cli is not None
    arguments, printed, code = case.cli
    with cairnkv.connect(running.url) as kv:
        kv.clear_all()
        kv.set_many(case.before)
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", out)
        with contextlib.redirect_stderr(io.StringIO()):
            assert main(["--url", running.url, *arguments.split()]) == code
        out.flush()
        assert out.buffer.getvalue().decode() == printed
        assert dict(kv.items()) == case.after


def test_every_applied_command_is_in_the_table_or_in_a_model() -> None:
    tested = {type(case.native[0]) for case in CASES}.union(MODELLED, MODELLED_QUEUE_COMMANDS)
    assert [command for command in COMMANDS if can_apply(command) and command not in tested] == []

"""Commands without system memory fail with the code of a full store, and change nothing."""

import re
import resource
from pathlib import Path

import pytest

from cairnkv.client.codec import Bytes
from cairnkv.client.embedded import Embedded
from cairnkv.commands import Append, Command, Get, Rename, SetBit, SetMany, SetManyIfAbsent, SetRange
from cairnkv.engine import Database
from cairnkv.limits import MIB
from cairnkv.store import LocalStore
from tests.session.native_client import NativeClient
from tests.support.raw import RawClient, ServerProcess
from tests.support.raw_resp import Peer

ROOM = 24 * MIB
"""Bytes of address space that the system gives a server beyond those that it has."""

OOM = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit, which Linux has")
@pytest.mark.parametrize("mode", ["memory", "disk"])
def test_server_without_memory_refuses_growing_commands(tmp_path: Path, mode: str) -> None:
    options = ["--data", str(tmp_path / "data")] if mode == "disk" else []
    offset = b"%d" % (60 * MIB)
    with (
        ServerProcess("--port", "0", *options, log=tmp_path / "log") as server,
        Peer(server.address) as redis,
        RawClient(server.address) as native,
    ):
        assert redis.ask(b"SET", b"k", b"v") == b"+OK\r\n"
        assert native.ask(Get(b"k")).payload == b"v"
        assert redis.ask(b"SETRANGE", b"long", b"%d" % (20 * MIB), b"x").startswith(b":")
        found = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
        assert found is not None
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_AS)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (int(found[1]) * 1024 + ROOM, hard))
        bit = b"%d" % (60 * MIB * 8)
        for words in (
            (b"SETBIT", b"k", bit, b"1"),
            (b"SETRANGE", b"k", offset, b"x"),
            (b"SETBIT", b"new", bit, b"1"),
        ):
            assert redis.ask(*words) == OOM
        redis.ask(b"MULTI")
        redis.ask(b"SET", b"k", b"w")
        redis.ask(b"SETRANGE", b"l", offset, b"x")
        assert redis.ask(b"EXEC") == OOM
        for command in (
            SetBit(b"k", 60 * MIB * 8, 1),
            SetRange(b"k", 60 * MIB, b"x"),
            SetRange(b"n", 60 * MIB, b"x"),
        ):
            response = native.ask(command)
            assert (response.ok, response.payload[:5]) == (False, b"FULL ")
        assert redis.ask(b"DBSIZE") == b":2\r\n"
        assert native.ask(Get(b"k")).payload == b"v"
        assert redis.ask(b"APPEND", b"k", b"w") == b":2\r\n"
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (hard, hard))
        assert redis.ask(b"SETRANGE", b"k", offset, b"x") == b":%d\r\n" % (60 * MIB + 1)


class Poor:
    """Makes keyspaces raise `MemoryError` when `left` more keys were stored; None: never."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        put = Database.put
        self.left: int | None = None

        def poor(database: Database, key: bytes, value: bytes, deadline: int | None) -> None:
            if self.left == 0:
                raise MemoryError
            if self.left is not None:
                self.left -= 1
            put(database, key, value, deadline)

        monkeypatch.setattr(Database, "put", poor)


COMMANDS: list[tuple[Command, int]] = [
    (Append(b"k", b"w"), 0),
    (SetRange(b"k", 3, b"w"), 0),
    (SetMany(0, ((b"k", b"w"), (b"m", b"w"), (b"n", b"w"))), 2),
    (SetManyIfAbsent(((b"m", b"w"), (b"n", b"w"))), 1),
    (Rename(b"k", b"m"), 0),
]


@pytest.mark.parametrize(("command", "puts"), COMMANDS)
@pytest.mark.parametrize("late", [False, True])
def test_command_without_memory_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, command: Command, puts: int, late: bool
) -> None:
    poor = Poor(monkeypatch)
    client = NativeClient(late=late)
    client.store.databases[0].put(b"k", b"v", None)
    poor.left = puts
    client.send(command)
    (response,) = client.hear()
    assert (response.ok, response.payload[:5]) == (False, b"FULL ")
    poor.left = None
    client.send(Get(b"k"), Get(b"m"), Get(b"n"))
    assert client.payloads()[0] == b"v"
    assert client.store.databases[0].count() == 1
    client.store.databases[0].check()


@pytest.mark.parametrize(("command", "puts"), COMMANDS)
def test_embedded_command_without_memory_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, command: Command, puts: int
) -> None:
    poor = Poor(monkeypatch)
    kv = Embedded(LocalStore(), Bytes(), Bytes())
    kv[b"k"] = b"v"
    poor.left = puts
    reply = kv._shared.execute(command)
    assert str(reply.message).startswith("FULL ")  # type: ignore[union-attr]
    poor.left = None
    assert dict(kv.get_many(list(kv.scan()))) == {b"k": b"v"}
    kv._shared._store.database.check()

"""File descriptors: clients never take those that the store, its backups and refused clients need."""

import os
import resource
from pathlib import Path

import pytest

from cairnkv.commands import Get, Ping, Set
from cairnkv.errors import OptionError
from cairnkv.limits import MIB
from cairnkv.server import descriptors
from cairnkv.server.settings import Settings
from cairnkv.storage.rocksdb import OPEN_TABLES_LEAST, OPEN_TABLES_MAX, open_tables
from tests.support.raw import OK, PONG, RawClient, ServerProcess, all_of, eventually, failed_with
from tests.support.resp import request

pytestmark = pytest.mark.same_code

MANY = 150


def allowing(soft: int, hard: int | None = None) -> str:
    """A prelude for a server process that may have so many open files."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard or soft}))"


def redis_ask(server: ServerProcess, *words: bytes) -> bytes:
    with RawClient(server.address) as client:
        client.send(request(*words))
        return client.socket.recv(100_000)


def test_max_connections_is_lowered_to_the_descriptor_limit(tmp_path: Path) -> None:
    """And the server tells so in its log, to CONFIG GET and in INFO."""
    for arguments in ((), ("--data", str(tmp_path / "data"))):
        log = tmp_path / f"log{len(arguments)}"
        with ServerProcess("--port", "0", *arguments, log=log, prelude=allowing(256)) as server:
            words = redis_ask(server, b"CONFIG", b"GET", b"maxclients").split(b"\r\n")
            fit = int(words[-2])
            assert 1 < fit < 256
            assert f"maxclients:{fit}\r\n".encode() in redis_ask(server, b"INFO", b"clients")
            assert f"max-connections is lowered from 10,000 to {fit}" in server.log()
            assert b"open files" in redis_ask(server, b"CONFIG", b"SET", b"maxclients", b"%d" % (fit + 1))


def test_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ("--port", "0", "--max-connections", "500", "--data", str(tmp_path / "data"))
    with ServerProcess(*options, log=log, prelude=allowing(200, 4_000)) as server:
        assert redis_ask(server, b"CONFIG", b"GET", b"maxclients").endswith(b"\r\n500\r\n")
        soft, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert soft >= 500 + OPEN_TABLES_LEAST
        assert "lowered" not in server.log()


def test_writes_and_backups_go_on_with_as_many_clients_as_come(tmp_path: Path) -> None:
    """More clients than descriptors; the store makes new logs and tables, and backups, meanwhile."""
    options = ("--port", "0", "--data", str(tmp_path / "data"), "--backup-dir", str(tmp_path / "backups"))
    with ServerProcess(*options, "--disk-limit", "400MiB", log=tmp_path / "log", prelude=allowing(160)) as server:
        with RawClient(server.address) as client, RawClient(server.address) as redis:
            assert client.ask(Ping(b"")) == PONG
            with all_of(RawClient(server.address) for _ in range(MANY)):
                for number in range(60):
                    assert client.ask(Set(b"%d" % number, os.urandom(MIB))) == OK
                    if number == 30:
                        redis.send(request(b"BGSAVE"))
                        assert redis.socket.recv(100).startswith(b"+Background saving")

                def backed_up() -> bool:
                    redis.send(request(b"INFO", b"persistence"))
                    told = redis.socket.recv(100_000)
                    assert b"last_bgsave_status:err" not in told
                    return b"bgsave_in_progress:0" in told

                eventually(backed_up)
                assert client.ask(Get(b"59")).ok
        assert "UNKNOWN" not in server.log()
    assert list((tmp_path / "backups").glob("*/*/MANIFEST-*")) or list((tmp_path / "backups").rglob("*.sst"))


@pytest.mark.parametrize("speak", [True, False], ids=["speaking", "silent"])
def test_every_refused_client_gets_an_answer(tmp_path: Path, speak: bool) -> None:
    """Also clients without a free descriptor, each in its own protocol."""
    with ServerProcess("--port", "0", log=tmp_path / "log", prelude=allowing(100)) as server:
        served = refused = 0
        with all_of(RawClient(server.address) for _ in range(MANY)) as crowd:
            for number, client in enumerate(crowd):
                if not speak:
                    continue
                if number % 2:
                    client.send(b"PING\r\n")
                    told = client.socket.recv(1_000)
                    served += told == b"+PONG\r\n"
                    refused += told.startswith((b"-ERR max number of clients reached", b"\x021"))
                else:
                    reply = client.ask(Ping(b""))
                    served += reply == PONG
                    refused += failed_with(reply, "BUSY")
            if not speak:
                for client in reversed(crowd):  # refused clients get an answer soon, even if they send nothing
                    client.socket.settimeout(3)
                    try:
                        refused += failed_with(client.reply(), "BUSY")
                    except TimeoutError:
                        served = MANY - refused
                        break
        assert served + refused == MANY
        assert served > 10
        assert refused > 10
        with RawClient(server.address) as next_one:
            eventually(lambda: next_one.ask(Ping(b"")) == PONG)


def test_server_without_enough_descriptors_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (60, 60))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert descriptors.connections_that_fit(Settings()) >= 1
    with pytest.raises(OptionError, match=r"allows 60 open files, and the server itself needs \d+: .*ulimit -n"):
        descriptors.connections_that_fit(Settings(data="data"))


def test_rocksdb_keeps_a_bounded_number_of_tables_open() -> None:
    assert open_tables(100) == OPEN_TABLES_LEAST
    assert open_tables(1_000) == 250
    assert open_tables(10**6) == OPEN_TABLES_MAX

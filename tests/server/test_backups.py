"""Backups that clients request from a server, over both protocols."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.client.calls import Call
from cairnkv.commands import Backup, Reply
from cairnkv.errors import BadCommand, OptionError, Refused
from cairnkv.server.settings import load
from cairnkv.storage import backup as backups
from cairnkv.storage import files
from cairnkv.storage.check import check_directory
from cairnkv.testing import RunningServer, running_server
from tests.support.raw_resp import Peer

PATIENCE = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(data=str(tmp_path / "data"), backup_dir=str(tmp_path / "backups")) as running:
        yield running


@pytest.fixture
def kv(server: RunningServer) -> Iterator[cairnkv.Client[str, str]]:
    with cairnkv.connect(server.url, attempts=1, timeout=PATIENCE) as client:
        yield client


def begin(kv: cairnkv.Client[Any, Any], name: bytes, keep: int | None = None) -> Reply:
    return kv._do(Call(Backup(name, keep), lambda reply: reply))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finished(kv: cairnkv.Client[Any, Any]) -> dict[str, str | int]:
    until(lambda: kv.info()["backup_state"] != "running")
    return kv.info()


def test_client_requests_a_backup(server: RunningServer, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    assert kv.info()["backup_state"] == "none"
    kv["a"] = "1"
    assert begin(kv, b"daily") == 1
    told = finished(kv)
    assert (told["backup_state"], told["backup_job"], told["backup_name"], told["backup_error"]) == (
        "done", 1, "daily", ""
    )  # fmt: skip
    assert told["backup_bytes"] == told["backup_bytes_done"] != 0
    made = tmp_path / "backups" / str(told["backup_made"])
    assert check_directory(made).entries == 1
    assert backups.read(made).size == told["backup_bytes"]
    assert begin(kv, b"daily", 1) == 2
    finished(kv)
    assert len(backups.listed(tmp_path / "backups" / "daily")) == 1


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"../x", b"/tmp/x", b"a/b", b".hidden", b"-x", b"a b", b"a\0b", b"x" * 65, b"\xff"]
)
def test_backup_names_cannot_leave_the_directory(kv: cairnkv.Client[str, str], tmp_path: Path, name: bytes) -> None:
    with pytest.raises(BadCommand, match="letters, digits"):
        begin(kv, name)
    assert kv.info()["backup_state"] == "none"
    assert not (tmp_path / "backups").exists()


def test_one_backup_runs_at_a_time_while_clients_are_served(
    server: RunningServer, kv: cairnkv.Client[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    sha256 = files.sha256

    def slow(path: Path, progress: Any) -> str:
        assert gate.wait(PATIENCE)
        return sha256(path, progress)

    monkeypatch.setattr(backups, "sha256", slow)
    begin(kv, b"first")
    with pytest.raises(Refused, match="UNDERWAY the backup first"):
        begin(kv, b"second")
    kv["a"] = "1"
    assert kv["a"] == "1"
    assert server.address is not None
    with Peer(server.address) as redis:
        assert redis.ask(b"BGSAVE") == b"-ERR Background save already in progress\r\n"
        assert b"rdb_bgsave_in_progress:1\r\n" in redis.ask(b"INFO", b"persistence")
    assert kv.info()["backup_state"] == "running"
    gate.set()
    assert finished(kv)["backup_state"] == "done"


def test_stop_ends_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = files.sha256
    began = threading.Event()

    def slow(path: Path, progress: Callable[[int], None]) -> str:
        began.set()
        for _ in range(10_000):
            time.sleep(0.002)
            progress(0)
        return sha256(path, progress)

    monkeypatch.setattr(backups, "sha256", slow)
    with running_server(data=str(tmp_path / "data"), backup_dir=str(tmp_path / "backups")) as running:
        with cairnkv.connect(running.url) as kv:
            begin(kv, b"daily")
        assert began.wait(PATIENCE)
    assert backups.listed(tmp_path / "backups" / "daily") == []
    assert check_directory(tmp_path / "data").problems == []


def test_failed_backup_gives_its_reason(server: RunningServer, kv: cairnkv.Client[str, str], tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("a file")
    begin(kv, b"daily")
    told = finished(kv)
    assert told["backup_state"] == "failed"
    assert "backups" in str(told["backup_error"])
    (tmp_path / "backups").unlink()
    begin(kv, b"daily")
    assert finished(kv)["backup_state"] == "done"


def test_bgsave_and_lastsave_make_and_report_a_backup(server: RunningServer, tmp_path: Path) -> None:
    assert server.address is not None
    with Peer(server.address) as redis:
        assert redis.ask(b"LASTSAVE") == b":0\r\n"
        assert b"rdb_last_bgsave_status:ok\r\n" in redis.ask(b"INFO", b"persistence")
        for _ in range(2):
            assert redis.ask(b"BGSAVE", b"SCHEDULE") == b"+Background saving started\r\n"
            until(lambda: b"rdb_bgsave_in_progress:0" in redis.ask(b"INFO", b"persistence"))
        assert abs(int(redis.ask(b"LASTSAVE")[1:]) - time.time()) < PATIENCE
        assert len(backups.listed(tmp_path / "backups" / "bgsave")) == 1
        assert redis.ask(b"BGSAVE", b"NOW") == b"-ERR syntax error\r\n"
        assert redis.ask(b"SAVE").startswith(b"-ERR SAVE would stop the service of other clients; use BGSAVE")
        redis.send(b"SHUTDOWN SAVE\r\n")
        with pytest.raises(ConnectionError):
            redis.reply()


def test_time_of_the_last_backup_survives_a_restart(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": str(tmp_path / "data"), "backup_dir": str(tmp_path / "backups")}
    with running_server(**settings) as running, cairnkv.connect(running.url) as kv:
        begin(kv, b"daily")
        last = finished(kv)["backup_last_ms"]
        assert last
    with running_server(**settings) as running, cairnkv.connect(running.url) as kv:
        assert kv.info()["backup_last_ms"] == last


@pytest.mark.parametrize("on_disk", [True, False])
def test_server_without_a_backup_directory_refuses(tmp_path: Path, on_disk: bool) -> None:
    settings: dict[str, Any] = {"data": str(tmp_path / "data")} if on_disk else {}
    with running_server(**settings) as running, cairnkv.connect(running.url) as kv:
        with pytest.raises(Refused, match="--backup-dir" if on_disk else "--data"):
            begin(kv, b"daily")
        assert "backup_state" not in kv.info()
        assert running.address is not None
        with Peer(running.address) as redis:
            refusal = redis.ask(b"BGSAVE")
            assert refusal.startswith(b"-ERR this server makes no backups: it needs --data and --backup-dir")
            assert redis.ask(b"LASTSAVE") == b":0\r\n"


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    for inside in ("data", "data/backups", "data/../data/x"):
        with pytest.raises(OptionError, match="in data"):
            load({"backup_dir": str(tmp_path / inside), "data": str(tmp_path / "data")}, environment={})

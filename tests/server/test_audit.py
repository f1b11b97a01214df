"""The audit log: JSON lines, in order and complete, beside disks that are slow or full."""

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnkv.errors import OptionError
from cairnkv.limits import AUDIT_EVENTS_WAITING_MAX
from cairnkv.server.audit import AuditLog
from tests.support.raw import eventually


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    log = AuditLog(str(path))
    yield log
    log.close()


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_event_is_a_json_line(log: AuditLog, path: Path) -> None:
    log.write("login", {"user": b"app \xff\n", "address": "127.0.0.1:5"})
    for number in range(3_000):
        log.write("denied", {"number": number})
    log.close()
    first, *others = events(path)
    assert (first["event"], first["user"], first["address"]) == ("login", "app \\xff\n", "127.0.0.1:5")
    assert first["time"].endswith("Z")
    assert [other["number"] for other in others] == list(range(3_000))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lines_are_appended(path: Path) -> None:
    for number in range(2):
        log = AuditLog(str(path))
        log.write("login", {"number": number})
        log.close()
    assert [event["number"] for event in events(path)] == [0, 1]


def test_renamed_file_is_followed_by_a_new_one(log: AuditLog, path: Path, tmp_path: Path) -> None:
    log.write("first", {})
    eventually(lambda: bool(events(path)))
    path.rename(tmp_path / "old")
    log.write("second", {})
    eventually(lambda: bool(events(path)))
    assert [event["event"] for event in events(tmp_path / "old")] == ["first"]
    assert [event["event"] for event in events(path)] == ["second"]


def test_full_disk_drops_events_and_counts_them(
    log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return written(descriptor, data[:10])  # a part of a line
        raise OSError(28, "No space left on device")

    log.write("before", {})
    eventually(lambda: bool(events(path)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        log.write("lost", {"text": "x" * 95})
        eventually(lambda: log.dropped == 1)
        log.write("lost too", {})
        eventually(lambda: log.dropped == 2)
    log.write("after", {})
    log.close()
    assert [event["event"] for event in events(path)] == ["before", "dropped", "after"]
    assert events(path)[1]["events"] == 2
    assert "No space left on device" in caplog.text


def test_slow_disk_blocks_no_event(log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write, written = threading.Event(), os.write

    def wait(descriptor: int, data: bytes) -> int:
        assert may_write.wait(60)
        return written(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", wait)
        for number in range(AUDIT_EVENTS_WAITING_MAX + 3_000):
            log.write("event", {"number": number})
        assert log.dropped > 0
        may_write.set()
        eventually(lambda: "dropped" in {event["event"] for event in events(path)})
    log.close()
    told = events(path)
    assert sum(event["event"] == "event" for event in told) + log.dropped == AUDIT_EVENTS_WAITING_MAX + 3_000
    assert sum(event.get("events", 0) for event in told) == log.dropped


def test_unwritable_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"audit-log: cannot write .*: No such file or directory"):
        AuditLog(str(tmp_path / "absent" / "audit.jsonl"))

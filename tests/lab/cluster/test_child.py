"""Child processes: only the intended process is signalled."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnkv.lab.cluster import child as module
from cairnkv.lab.cluster.child import Child, Identity, end_processes, identity, signal_process
from cairnkv.records import replace

SLEEPS = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)",
]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = Child("sleeper", tmp_path / "logs" / "log", SLEEPS)
    child.start()
    until_it_says(child)
    yield child
    child.kill()


def until_it_says(child: Child) -> None:
    until = time.monotonic() + 10
    while "here" not in child.new_lines():
        assert time.monotonic() < until
        time.sleep(0.01)


def stop(child: Child, timeout: float = 10.0) -> None:
    """End a child as the supervisor does: with SIGTERM, and after the timeout with SIGKILL."""
    child.terminate()
    if not child.wait(timeout):
        child.kill()


def test_child_runs_until_it_is_stopped(sleeper: Child) -> None:
    pid = sleeper.pid
    assert sleeper.running
    assert pid is not None
    assert os.getsid(pid) == pid, "a Ctrl-C in the terminal would reach it"
    stop(sleeper)
    assert (sleeper.running, sleeper.pid, sleeper.end) == (False, None, "ended by SIGTERM")


def test_paused_child_can_be_stopped(sleeper: Child) -> None:
    sleeper.pause()
    assert sleeper.running
    stop(sleeper, 5.0)
    assert sleeper.end == "ended by SIGTERM"


def test_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    child = Child("stubborn", tmp_path / "log", STUBBORN)
    child.start()
    until_it_says(child)
    stop(child, 0.1)
    assert child.end == "ended by SIGKILL"


def test_ended_child_is_restarted_and_its_log_file_continues(sleeper: Child) -> None:
    sleeper.kill()
    sleeper.start()
    assert sleeper.new_lines() == [], "what the one before said counts no more"
    until_it_says(sleeper)
    assert sleeper.log.read_text() == "here\nhere\n"
    assert sleeper.log_tail() == "here\n"


def test_long_log_file_is_rotated(sleeper: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper.kill()
    monkeypatch.setattr(module, "LOG_MAX", 4)
    sleeper.start()
    until_it_says(sleeper)
    assert sleeper.log.with_name("log.1").read_text() == "here\n"
    assert sleeper.log.read_text() == "here\n"


def test_only_complete_lines_count(tmp_path: Path) -> None:
    child = Child("nobody", tmp_path / "log")
    assert child.new_lines() == []
    child.log.write_bytes(b"one\ntw")
    assert child.new_lines() == ["one"]
    child.log.write_bytes(b"one\ntwo\n")
    assert child.new_lines() == ["two"]
    assert child.new_lines() == []


def test_only_the_process_with_the_right_identity_is_signalled(sleeper: Child) -> None:
    assert sleeper.pid is not None
    whom = identity(sleeper.pid)
    assert whom is not None
    assert not signal_process(replace(whom, started="at another time"), signal.SIGKILL)
    assert sleeper.running
    assert signal_process(whom, signal.SIGKILL)
    assert sleeper.wait(5.0)
    assert not signal_process(whom, signal.SIGKILL)
    assert identity(whom.pid) is None


def test_identities_of_processes_differ() -> None:
    first = identity(os.getpid())
    assert first == identity(os.getpid())
    with subprocess.Popen(SLEEPS, stdout=subprocess.DEVNULL) as other:
        assert identity(other.pid) != first
        other.kill()


def test_processes_of_other_parents_are_ended(sleeper: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = Child("stubborn", tmp_path / "stubborn", STUBBORN)
    stubborn.start()
    until_it_says(stubborn)
    pids = [child.pid for child in (sleeper, stubborn)]
    those = [whom for pid in pids if pid is not None and (whom := identity(pid)) is not None]
    sleeper.pause()
    end_processes([*those, Identity(2**22 + 1, "never")], 0.3)
    sleeper.wait(1.0)
    stubborn.wait(1.0)
    assert (sleeper.end, stubborn.end) == ("ended by SIGTERM", "ended by SIGKILL")

"""The file and the lock in a cluster's directory."""

import os
import stat
from pathlib import Path

import pytest

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import Identity, identity
from cairnkv.lab.cluster.hosts import ClusterError
from cairnkv.lab.cluster.state import (
    FILE,
    LOCK,
    Lock,
    Plan,
    Run,
    Saved,
    clean_up,
    is_empty,
    left_over,
    load,
    runs,
    save,
)

PLAN = Plan(3, "shop", 2**30)


def us() -> Identity:
    whom = identity(os.getpid())
    assert whom is not None
    return whom


@pytest.mark.parametrize("network", [None, (7, "0badcafe")])
def test_saved_state_is_loaded(tmp_path: Path, network: tuple[int, str] | None) -> None:
    saved = Saved(PLAN, Run(us(), "/somewhere/cluster.sock", network, {"nats-1": Identity(5, "then")}))
    assert load(tmp_path) is None
    save(tmp_path, saved)
    assert load(tmp_path) == saved
    save(tmp_path, Saved(PLAN, None))
    assert load(tmp_path) == Saved(PLAN, None)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"format": 1, "plan": {"nodes": 3}, "run": null}'])
def test_malformed_state_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(OptionError, match=FILE):
        load(tmp_path)


def test_lock_has_one_holder(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    with pytest.raises(ClusterError, match=r"a cluster runs in .* already"):
        Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()


def test_leftover_processes_are_those_still_running(tmp_path: Path) -> None:
    gone = Identity(us().pid, "at another time")
    saved = Saved(PLAN, Run(gone, "socket", None, {"nats-1": us(), "node-1": gone}))
    assert saved.run is not None
    assert not runs(saved.run)
    assert left_over(saved) == {"nats-1": us()}
    assert left_over(Saved(PLAN, None)) == left_over(None) == {}


def test_cleanup_does_not_signal_a_process_that_reuses_the_pid(tmp_path: Path) -> None:
    saved = Saved(PLAN, Run(us(), "socket", None, {"nats-1": Identity(us().pid, "at another time")}))
    save(tmp_path, saved)
    clean_up(tmp_path, saved)
    assert load(tmp_path) == Saved(PLAN, None)


def test_directory_without_a_state_file_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that was killed while it saved for the first time, or whose disk was full, can be followed."""
    Lock(tmp_path).release()

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, Saved(Plan(3, "x", 1), None))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".cluster.json.new", LOCK]
    assert load(tmp_path) is None
    assert is_empty(tmp_path)
    (tmp_path / "mine").touch()
    assert not is_empty(tmp_path)

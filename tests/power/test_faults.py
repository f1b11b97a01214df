"""File system calls that fail under a running server: failed writes are not shown, and the server recovers."""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Final, Self

import pytest

from cairnkv.commands import Failure, Set
from tests.power.test_power_loss import DIRECTORY, seeded
from tests.power.trace import KILL, Fault, Trace
from tests.support.histories import History, Told, Unsettled, Writer, check_all, entries_in
from tests.support.raw import eventually
from tests.support.raw_resp import Peer
from tests.support.serving import SMALL_MEMTABLES, Served, store_in

PATIENCE: Final = 20.0
WRITERS: Final = 3

FAULTS: Final = {
    "append fails": Fault("write", ".log"),
    "append fails once": Fault("write", ".log", times=1),
    "disk full at an append": Fault("write", ".log", errno.ENOSPC),
    "fsync fails": Fault("sync", ".log"),
    "fsync fails once": Fault("sync", ".log", times=1),
    "disk full at an fsync": Fault("sync", ".log", errno.ENOSPC),
    "new log cannot be made": Fault("open", ".log", errno.ENOSPC),
    "table cannot be made": Fault("open", ".sst", errno.EMFILE),
    "table's write fails": Fault("write", ".sst"),
    "disk full at a table's write": Fault("write", ".sst", errno.ENOSPC),
    "table's fsync fails": Fault("sync", ".sst"),
    "a later table's write fails, as in a compaction": Fault("write", ".sst", nth=12),
    "manifest's write fails": Fault("write", "MANIFEST"),
    "manifest's fsync fails": Fault("sync", "MANIFEST"),
    "disk full everywhere": Fault("write", DIRECTORY, errno.ENOSPC),
}


KILLED: Final = {
    "before an append": Fault("write", ".log", KILL, nth=3),
    "after an append, before its fsync": Fault("written", ".log", KILL, nth=3),
    "before an fsync": Fault("sync", ".log", KILL, nth=3),
    "after an fsync, before a reply": Fault("synced", ".log", KILL, nth=3),
    "before a table is made": Fault("open", ".sst", KILL),
    "within a table": Fault("written", ".sst", KILL),
    "before a table's fsync": Fault("sync", ".sst", KILL),
    "in a later table, as in a compaction": Fault("written", ".sst", KILL, nth=12),
    "before the manifest's fsync": Fault("sync", "MANIFEST", KILL),
    "after the manifest's fsync": Fault("synced", "MANIFEST", KILL),
    "as a new log begins": Fault("open", ".log", KILL),
}

LONG: Final = "CRASHES" in os.environ
MODES: Final = ("always", "none") if LONG else ("always",)
SHORT: Final = (
    "disk full at an append",
    "fsync fails",
    "table's write fails",
    "disk full everywhere",
    "after an append, before its fsync",
    "after an fsync, before a reply",
    "in a later table, as in a compaction",
)
"""The faults of `make test`; `make test-crash` has all."""


def some(faults: dict[str, Fault]) -> list[str]:
    """The names of those that this run has."""
    return [name for name in faults if LONG or name in SHORT]


class Failing:
    """A server under the shim, and writers. Use as a context manager, which ends it."""

    def __init__(self, scratch: Path, fault: Fault, sync: str) -> None:
        self.dice = seeded()
        self.trace = Trace(scratch / "disk", scratch / "trace")
        self.trace.root.mkdir()
        self.directory = self.trace.root / DIRECTORY
        self.histories = [History(db) for db in range(WRITERS)]
        self.served = Served(
            self.directory, "--sync", sync, tampering=[SMALL_MEMTABLES], environment=self.trace.environment(fault)
        )
        self.writers = [Writer(self.served.address, history, self.dice.randrange(2**32)) for history in self.histories]

    def __enter__(self) -> Self:
        for writer in self.writers:
            writer.start()
        time.sleep(self.dice.uniform(0.1, 0.3))
        assert all(writer.is_alive() for writer in self.writers)
        self.trace.switch.touch()
        for writer in self.writers:
            writer.join(PATIENCE)
            assert not writer.is_alive()
            assert not writer.wrong
        return self

    def __exit__(self, *_: object) -> None:
        self.served.kill()

    def check(self) -> None:
        """After it has ended: what was acknowledged is there, and it goes on."""
        with store_in(self.directory) as store:
            check_all(
                self.histories,
                entries_in(store),
                lambda history: history.acknowledged_by(0),
                lambda history: len(history.steps),
            )
            assert not isinstance(store.execute(Set(b"more", b"1")), Failure)


@pytest.mark.parametrize("sync", MODES)
@pytest.mark.parametrize("name", some(FAULTS))
def test_failed_write_is_not_shown_and_the_server_recovers(tmp_path: Path, name: str, sync: str) -> None:
    with Failing(tmp_path, FAULTS[name], sync) as failing:
        with Peer(failing.served.address) as peer:
            for writer, history in zip(failing.writers, failing.histories, strict=True):
                assert writer.failure is not None
                acknowledged = history.acknowledged_by(0)
                with contextlib.suppress(Unsettled):
                    history.check(Told(peer, history.db), acknowledged=acknowledged, said=acknowledged)
            assert peer.ask(b"SELECT", b"%d" % WRITERS) == b"+OK\r\n"
            refused = peer.ask(b"SET", b"more", b"1")
            assert refused.startswith(b"-MISCONF "), refused
            failing.trace.switch.unlink()
            eventually(lambda: peer.ask(b"SET", b"more", b"1") == b"+OK\r\n")
            for history in failing.histories:
                history.check(Told(peer, history.db), acknowledged=history.acknowledged_by(0), said=len(history.steps))
        if failing.dice.random() < 0.5:
            failing.served.stop()
    failing.check()


@pytest.mark.parametrize("sync", MODES)
@pytest.mark.parametrize("name", some(KILLED))
def test_server_killed_during_a_fault_keeps_acknowledged_writes(tmp_path: Path, name: str, sync: str) -> None:
    with Failing(tmp_path, KILLED[name], sync) as failing:
        assert all(writer.failure is None for writer in failing.writers)
        failing.served.process.wait(PATIENCE)
    failing.check()

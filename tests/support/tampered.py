"""`cairn` with a store on disk that was tampered with, for tests that have to see what then happens.

    python -m tests.support.tampered TAMPERING... -- serve --data DIR

TAMPERING: `no-fsync` takes the fsync of commits out; `split-scripts` makes each write of a script an entry of its own;
`memtable=BYTES` has RocksDB make files of so many bytes, so that
its flushes and compactions happen within a test.
"""

import sys
from collections.abc import Sequence

from cairnkv.cli.main import main
from cairnkv.commands import MISSING, OK, Failure, Reply, Step
from cairnkv.engine import Watched
from cairnkv.storage import rocksdb
from cairnkv.store import LocalStore, PendingReply, Script


def _no_sync(_: rocksdb.RocksDB) -> None:
    pass


def _execute_split(
    store: LocalStore, script: Script, watched: Sequence[tuple[int, Watched]] = (), **_: object
) -> Reply | PendingReply:
    newest: Reply | PendingReply = OK
    unchanged = store.execute_all((), watched)
    if (unchanged.outcome if isinstance(unchanged, PendingReply) else unchanged) is MISSING:
        return unchanged

    def execute(step: Step) -> Reply:
        nonlocal newest
        newest = store.execute(step.command, step.db)
        return newest.outcome if isinstance(newest, PendingReply) else newest

    reply = script.run(execute)
    return _AfterNewest(reply, newest) if isinstance(newest, PendingReply) else reply


class _AfterNewest(PendingReply):
    """The reply of a script, which waits for the commit of its newest command."""

    def __init__(self, reply: Reply, newest: PendingReply) -> None:
        super().__init__(reply)
        self._newest = newest
        newest.on_ready = self._ready

    def _ready(self) -> None:
        assert self._newest.reply is not None
        if isinstance(self._newest.reply, Failure):
            self.fail(self._newest.reply)
        else:
            self.release()
        self.on_ready()


def tamper(tampering: str) -> None:
    """Do one such thing to this process."""
    name, _, value = tampering.partition("=")
    if name == "no-fsync":
        rocksdb.RocksDB.sync = _no_sync  # type: ignore[method-assign, assignment]
    elif name == "split-scripts":
        LocalStore.execute_script = _execute_split  # type: ignore[method-assign, assignment]
    elif name == "memtable":
        rocksdb.MEMTABLE_BYTES = int(value)  # type: ignore[misc]
    else:
        raise SystemExit(f"no such tampering: {tampering}")


if __name__ == "__main__":
    split = sys.argv.index("--")
    for each in sys.argv[1:split]:
        tamper(each)
    sys.exit(main(sys.argv[split + 1 :]))

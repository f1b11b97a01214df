"""`cairn` with a store on disk that was tampered with, for tests that have to see what then happens.

    python -m tests.support.tampered TAMPERING... -- serve --data DIR

TAMPERING: `no-fsync` takes the fsync of commits out; `memtable=BYTES` has RocksDB make files of so many bytes, so that
its flushes and compactions happen within a test.
"""

import sys

from cairnkv.cli.main import main
from cairnkv.storage import rocksdb


def _no_sync(_: rocksdb.RocksDB) -> None:
    pass


def tamper(tampering: str) -> None:
    """Do one such thing to this process."""
    name, _, value = tampering.partition("=")
    if name == "no-fsync":
        rocksdb.RocksDB.sync = _no_sync  # type: ignore[method-assign, assignment]
    elif name == "memtable":
        rocksdb.MEMTABLE_BYTES = int(value)  # type: ignore[misc]
    else:
        raise SystemExit(f"no such tampering: {tampering}")


if __name__ == "__main__":
    split = sys.argv.index("--")
    for each in sys.argv[1:split]:
        tamper(each)
    sys.exit(main(sys.argv[split + 1 :]))

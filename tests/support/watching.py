"""WATCH of keys of a store."""

from cairnkv.commands import OK
from cairnkv.engine import Watched
from cairnkv.store import LocalStore


def watch(store: LocalStore, key: bytes, db: int = 0) -> tuple[int, Watched]:
    """Return a key's watched state with its database, for `execute_all`."""
    noted: dict[tuple[int, bytes], Watched] = {}
    assert store.watch([(db, key)], noted) is OK
    return db, noted[db, key]

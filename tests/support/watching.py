"""Watching keys of a store, as a transaction's WATCH does."""

from cairnkv.commands import OK
from cairnkv.engine import Watched
from cairnkv.store import Store


def watch(store: Store, key: bytes, space: int = 0) -> tuple[int, Watched]:
    """What a key is like now, with its keyspace, for `execute_all`."""
    noted: dict[tuple[int, bytes], Watched] = {}
    assert store.watch([(space, key)], noted) is OK
    return space, noted[space, key]

"""Housekeeping: bounded slices of work that no client waits for.

Invariants: no reply shows whether an expired key was removed, so removal is no entry of storage or the log.
"""

from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.engine import Database
from cairnkv.storage import Storage
from cairnkv.store.lru import Place

EXPIRED_PER_SLICE: Final = 200
"""Expired keys that one slice of housekeeping removes: about a millisecond."""


def remove_expired(
    databases: Sequence[Database], storage: Storage, forget: Callable[[Place], None] | None
) -> tuple[int, bool]:
    """Remove expired keys, and free a slice of each deleted table.

    forget: called with each removed key.
    Returns the number of removed keys, and whether more tables are to be freed.
    """
    more, left = False, EXPIRED_PER_SLICE
    for database in databases:
        expired = database.expired(left)
        if expired:
            storage.expired(database.number, expired, database.now)
        for key in expired:
            database.free_expired(key)
            if forget is not None:
                forget((database.number, key))
        left -= len(expired)
        more = (not more and database.free_slice()) or more
    return EXPIRED_PER_SLICE - left, more

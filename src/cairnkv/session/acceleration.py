"""The accelerator of a store, where there is one.

Not for what it does (`accelerator.pyx`) and when it may (`Session.acceleration`).
"""

from typing import TYPE_CHECKING

from cairnkv.installation import compiled
from cairnkv.store import Store

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator


def accelerator_of(store: Store) -> "Accelerator | None":
    """A new accelerator for a store; None where nothing is compiled, or the store needs a look at each command."""
    if not compiled() or not store.plain:
        return None
    from cairnkv.session.accelerator import Accelerator

    accelerator = Accelerator(store.keyspace, store.clock)
    store.count_also(accelerator)
    return accelerator

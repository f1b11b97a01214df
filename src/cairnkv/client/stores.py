"""Makes embedded stores: in memory or on disk, with direct calls where there are some.

Out of scope: the stores' methods (`embedded`, `aio.embedded`).
"""

import os
import sys
from collections.abc import Callable
from typing import Any, Literal, TypedDict, TypeVar

from cairnkv.client.address import without_secrets
from cairnkv.client.calls import K, V
from cairnkv.client.codec import Codec, CodecName, KeyCodec, key_codec, value_codec
from cairnkv.client.embedded import Embedded
from cairnkv.client.process import replaced
from cairnkv.errors import OptionError
from cairnkv.installation import native_path_in_use
from cairnkv.paths import user_path
from cairnkv.store import Clock, LocalStore, WhenFull, checked_clock

_EmbeddedT = TypeVar("_EmbeddedT")


class OpenOptions(TypedDict, total=False):
    """The options of `open` besides its path and its codec."""

    memory_limit: int | None
    when_full: Literal["refuse", "evict"]
    sync: str | None
    disk_limit: int | None
    clock: Clock


def opened(
    kind: Callable[[LocalStore, KeyCodec[Any], Codec[Any]], _EmbeddedT],
    codec: CodecName | Codec[Any],
    new: Callable[[], LocalStore],
) -> _EmbeddedT:
    """Check a codec, open a store, and return an embedded store of a kind. Leaves nothing open if that fails."""
    keys, values = key_codec(codec), value_codec(codec)
    make: Callable[..., Any] = embedded if kind is Embedded else kind
    store = new()
    try:
        made: _EmbeddedT = make(store, keys, values)
    except BaseException:
        store.close()
        raise
    return made


def embedded(store: LocalStore, keys: KeyCodec[K], values: Codec[V]) -> Embedded[K, V]:
    """Return an embedded store for sync code, with direct calls where there are some.

    A direct call is atomic because it keeps the interpreter's lock, so an interpreter without one has none.
    """
    gil_is_there: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    if not (native_path_in_use() and store.allows_direct_reads and gil_is_there):
        return Embedded(store, keys, values)
    from cairnkv.client.embedded_native import DirectEmbedded

    return DirectEmbedded(store, keys, values)


def new_store(
    path: str | os.PathLike[str] | None,
    memory_limit: int | None,
    when_full: str,
    sync: str | None,
    disk_limit: int | None,
    clock: Clock,
) -> LocalStore:
    """Return a store with the arguments of `cairnkv.open`. Raises `OptionError` for a wrong one."""
    limit: object = memory_limit  # callers may ignore the annotation
    if limit is not None and (isinstance(limit, bool) or not (isinstance(limit, int) and limit > 0)):
        raise OptionError(f"memory_limit is a number of bytes above 0, such as 64 * 1024**2, not {memory_limit!r}")
    place: object = path
    if path is not None and not isinstance(place, str | os.PathLike):
        raise OptionError(f"path is a directory, as text or a path, or None for a store in memory; not {place!r:.80}")
    if isinstance(place, str) and "://" in place:
        shown = without_secrets(place)
        raise OptionError(f"{shown!r:.80} is an address: cairnkv.connect takes it; cairnkv.open takes a directory")
    if when_full not in [known.value for known in WhenFull]:
        raise OptionError(f"when_full is 'refuse' or 'evict', not {when_full!r}")
    clock = checked_clock(clock)
    if path is None:
        for name, given in (("sync", sync), ("disk_limit", disk_limit)):
            if given is not None:
                raise OptionError(f"{name} is for a store on disk: cairnkv.open('data/', {name}=...)")
        return LocalStore(memory_limit=memory_limit, when_full=WhenFull(when_full), clock=clock)
    if replaced("thread") == "eventlet":
        raise OptionError(
            "a store on disk needs system threads, but eventlet replaced them in this process; serve the store "
            f"(cairn serve --data {path}) and use cairnkv.connect, which works with eventlet"
        )
    from cairnkv.storage.disk import DiskStorage
    from cairnkv.storage.space import LIMIT_LEAST as DISK_LIMIT_LEAST
    from cairnkv.storage.writer import Sync

    if when_full != "refuse":
        raise OptionError(
            "when_full is not for a store on disk: with a memory_limit values leave memory, and nothing is evicted"
        )
    try:
        if not isinstance(sync, str | None):
            raise ValueError(f"always, none, or a time such as 1s or 500ms, not {sync!r:.40}")
        mode = Sync.parse(sync or "always")
    except ValueError as error:
        raise OptionError(f"sync is {error}") from None
    most: object = disk_limit
    if most is not None and not (isinstance(most, int) and most >= DISK_LIMIT_LEAST):
        raise OptionError(f"disk_limit is a number of bytes, {DISK_LIMIT_LEAST:,} at least, not {disk_limit!r}")
    storage = DiskStorage(user_path(path, "path"), sync=mode, memory_limit=memory_limit, limit=disk_limit)
    return LocalStore(storage=storage, memory_limit=memory_limit, clock=clock)

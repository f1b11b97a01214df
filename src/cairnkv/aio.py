# Source of client/entry.py and client/opening.py: run tools/generate_clients.py after a change.
"""cairnkv for asyncio: `connect` to a server, or `open` a store in this process. Both have the same methods.

async with cairnkv.aio.connect("cairn://127.0.0.1:6555") as kv:
    await kv.set("greeting", "hello", ttl=60)
    print(await kv.get("greeting"))
"""

import os
from functools import partial
from typing import Any, Literal, Unpack, overload

from cairnkv.client.address import ConnectOptions, Seconds, parse
from cairnkv.client.aio.client import Client
from cairnkv.client.aio.embedded import Embedded
from cairnkv.client.aio.keyvalue import AsyncKeyValue
from cairnkv.client.aio.queue.jobs import AsyncJob
from cairnkv.client.aio.queue.queues import AsyncQueue
from cairnkv.client.aio.together import AsyncTogether
from cairnkv.client.calls import V
from cairnkv.client.codec import Codec, CodecName, key_codec, value_codec
from cairnkv.client.stores import OpenOptions, new_store, opened
from cairnkv.store import Clock, wall_clock

__all__ = ["AsyncJob", "AsyncKeyValue", "AsyncQueue", "AsyncTogether", "Client", "Embedded", "connect", "open"]


@overload
def connect(
    url: str | None = None, *, codec: Literal["text"] = "text", **options: Unpack[ConnectOptions]
) -> Client[str, str]: ...
@overload
def connect(
    url: str | None = None, *, codec: Literal["bytes"], **options: Unpack[ConnectOptions]
) -> Client[bytes, bytes]: ...
@overload
def connect(
    url: str | None = None, *, codec: Literal["json", "msgpack"], **options: Unpack[ConnectOptions]
) -> Client[str, Any]: ...
@overload
def connect(url: str | None = None, *, codec: Codec[V], **options: Unpack[ConnectOptions]) -> Client[str, V]: ...
def connect(
    url: str | None = None,
    *,
    codec: CodecName | Codec[Any] = "text",
    timeout: Seconds | None = None,
    connect_timeout: Seconds | None = None,
    attempts: int | None = None,
) -> Client[Any, Any]:
    """Return a client of the store at a URL. It connects at its first call, and again after it lost a connection.

    url: cairn://HOST[:PORT][,HOST[:PORT]...][/?OPTION=VALUE&...] or cairn+unix:///PATH, as `cairnkv.client.address`
    describes; default: the variable CAIRNKV_URL, else cairn://127.0.0.1:6555. Several hosts are nodes of one cluster:
    the client uses one node until it fails, then the next one.
    codec: the type of values: "text", "bytes", "json", "msgpack", or an object with encode and decode.
    timeout: the maximum time of a call with its repetitions: seconds, a timedelta, or text such as "500ms" or "5s"; of
    a pipeline, the maximum time between two replies. connect_timeout: the maximum time of a connection attempt to one
    address.
    attempts: how often the client tries a call that is safe to repeat. Each further host adds one.
    Raises `AddressError` for a wrong URL, `OptionError` for another wrong argument.
    """
    address = parse(url, timeout=timeout, connect_timeout=connect_timeout, attempts=attempts)
    return Client(address, key_codec(codec), value_codec(codec))


@overload
def open(
    path: str | os.PathLike[str] | None = None, *, codec: Literal["text"] = "text", **options: Unpack[OpenOptions]
) -> Embedded[str, str]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None, *, codec: Literal["bytes"], **options: Unpack[OpenOptions]
) -> Embedded[bytes, bytes]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None, *, codec: Literal["json", "msgpack"], **options: Unpack[OpenOptions]
) -> Embedded[str, Any]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None, *, codec: Codec[V], **options: Unpack[OpenOptions]
) -> Embedded[str, V]: ...
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: CodecName | Codec[Any] = "text",
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    sync: str | None = None,
    disk_limit: int | None = None,
    clock: Clock = wall_clock,
) -> Embedded[Any, Any]:
    """Return a store in this process: the engine of a server without the server.

    path: the directory of a store on disk, which is created if it is absent; None: a store in memory. codec: as for
    `cairnkv.aio.connect`.
    memory_limit: maximum bytes of keys and values in memory, by estimate. At the limit a store in memory refuses
    writes; with when_full="evict" it evicts the least recently used keys instead. A store on disk keeps all keys: it
    evicts the least recently used values from memory and reads them from disk again. It refuses writes only if keys
    take all of the memory.
    sync: when a write on disk is committed: "always" (after an fsync, before the call returns), an interval of fsyncs
    such as "1s", "none" (when the system writes). disk_limit: maximum bytes of the directory; None: the file system's.
    The store refuses writes at 90 % of it. clock: for tests.
    Raises `OptionError` if an argument is wrong, or if the directory is in use, damaged or unusable.
    """
    new = partial(new_store, path, memory_limit, when_full, sync, disk_limit, clock)
    return opened(Embedded, codec, new)

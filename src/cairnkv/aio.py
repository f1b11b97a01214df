"""cairnkv for asyncio: `connect` to a server, or `open` a store in this process; the same methods, awaited.

async with cairnkv.aio.connect("cairn://127.0.0.1:6555") as kv:
    await kv.set("greeting", "hello", ttl=60)
    print(await kv.get("greeting"))
"""

import os
from functools import partial
from typing import Any, Literal, overload

from cairnkv.client.address import Seconds, parse
from cairnkv.client.aio.client import Client
from cairnkv.client.aio.embedded import AsyncEmbedded as Embedded
from cairnkv.client.aio.keyvalue import AsyncKeyValue
from cairnkv.client.calls import V
from cairnkv.client.codec import Codec, CodecName, key_codec, value_codec
from cairnkv.client.opening import new_store, opened
from cairnkv.store import Clock, wall_clock

__all__ = ["AsyncKeyValue", "Client", "Embedded", "connect", "open"]


@overload
def connect(
    url: str | None = None,
    *,
    codec: Literal["text"] = "text",
    timeout: Seconds | None = None,
    connect_timeout: Seconds | None = None,
    attempts: int | None = None,
) -> Client[str, str]: ...
@overload
def connect(
    url: str | None = None,
    *,
    codec: Literal["bytes"],
    timeout: Seconds | None = None,
    connect_timeout: Seconds | None = None,
    attempts: int | None = None,
) -> Client[bytes, bytes]: ...
@overload
def connect(
    url: str | None = None,
    *,
    codec: Literal["json", "msgpack"],
    timeout: Seconds | None = None,
    connect_timeout: Seconds | None = None,
    attempts: int | None = None,
) -> Client[str, Any]: ...
@overload
def connect(
    url: str | None = None,
    *,
    codec: Codec[V],
    timeout: Seconds | None = None,
    connect_timeout: Seconds | None = None,
    attempts: int | None = None,
) -> Client[str, V]: ...
def connect(
    url: str | None = None,
    *,
    codec: CodecName | Codec[Any] = "text",
    timeout: Seconds | None = None,
    connect_timeout: Seconds | None = None,
    attempts: int | None = None,
) -> Client[Any, Any]:
    """A client of the store at a URL (default: CAIRNKV_URL, else this machine). It connects when first used.

    Arguments and errors are those of `cairnkv.connect`.
    """
    address = parse(url, timeout=timeout, connect_timeout=connect_timeout, attempts=attempts)
    return Client(address, key_codec(codec), value_codec(codec))


@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Literal["text"] = "text",
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    sync: str | None = None,
    disk_limit: int | None = None,
    clock: Clock = wall_clock,
) -> Embedded[str, str]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Literal["bytes"],
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    sync: str | None = None,
    disk_limit: int | None = None,
    clock: Clock = wall_clock,
) -> Embedded[bytes, bytes]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Literal["json", "msgpack"],
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    sync: str | None = None,
    disk_limit: int | None = None,
    clock: Clock = wall_clock,
) -> Embedded[str, Any]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Codec[V],
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    sync: str | None = None,
    disk_limit: int | None = None,
    clock: Clock = wall_clock,
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
    """A store in this process. Arguments are those of `cairnkv.open`."""
    new = partial(new_store, path, memory_limit, when_full, sync, disk_limit, clock)
    return opened(Embedded, codec, new)

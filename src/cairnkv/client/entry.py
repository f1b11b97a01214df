"""`cairnkv.connect` and `cairnkv.open`: the two ways to a store, for sync code.

`cairnkv.aio` has the same two for asyncio.
"""

import os
from typing import Any, Literal, overload

from cairnkv.client.address import parse
from cairnkv.client.calls import V
from cairnkv.client.codec import Codec, CodecName, key_codec, value_codec
from cairnkv.client.embedded import Embedded, new_store
from cairnkv.client.sync import Client
from cairnkv.store import Clock, wall_clock


@overload
def connect(
    url: str | None = None,
    *,
    codec: Literal["text"] = "text",
    timeout: float | None = None,
    connect_timeout: float | None = None,
    attempts: int | None = None,
) -> Client[str, str]: ...
@overload
def connect(
    url: str | None = None,
    *,
    codec: Literal["bytes"],
    timeout: float | None = None,
    connect_timeout: float | None = None,
    attempts: int | None = None,
) -> Client[bytes, bytes]: ...
@overload
def connect(
    url: str | None = None,
    *,
    codec: Literal["json", "msgpack"],
    timeout: float | None = None,
    connect_timeout: float | None = None,
    attempts: int | None = None,
) -> Client[str, Any]: ...
@overload
def connect(
    url: str | None = None,
    *,
    codec: Codec[V],
    timeout: float | None = None,
    connect_timeout: float | None = None,
    attempts: int | None = None,
) -> Client[str, V]: ...
def connect(
    url: str | None = None,
    *,
    codec: CodecName | Codec[Any] = "text",
    timeout: float | None = None,
    connect_timeout: float | None = None,
    attempts: int | None = None,
) -> Client[Any, Any]:
    """A client of the store at a URL. It connects when it is first used, and again when need be.

    url: as `cairnkv.client.address` describes; default: the variable CAIRNKV_URL, else cairn://127.0.0.1:6555.
    codec: what values are: "text", "bytes", "json", "msgpack", or an object with encode and decode.
    timeout: seconds that a call may take, repetitions included. connect_timeout: for one address.
    attempts: how often a call that is safe to repeat is tried.
    Raises `AddressError` or `OptionError` for what cannot be understood.
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
    clock: Clock = wall_clock,
) -> Embedded[str, str]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Literal["bytes"],
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    clock: Clock = wall_clock,
) -> Embedded[bytes, bytes]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Literal["json", "msgpack"],
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    clock: Clock = wall_clock,
) -> Embedded[str, Any]: ...
@overload
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: Codec[V],
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    clock: Clock = wall_clock,
) -> Embedded[str, V]: ...
def open(
    path: str | os.PathLike[str] | None = None,
    *,
    codec: CodecName | Codec[Any] = "text",
    memory_limit: int | None = None,
    when_full: Literal["refuse", "evict"] = "refuse",
    clock: Clock = wall_clock,
) -> Embedded[Any, Any]:
    """A store in this process: the engine that a server runs, without one.

    path: where it is kept; this version knows only None, memory. codec: as for `connect`.
    memory_limit: bytes that keys and values may take, by estimate; at the limit writes are refused, or with
    when_full="evict" the least recently used keys go. clock: for tests.

    >>> import cairnkv
    >>> kv = cairnkv.open()
    >>> kv["greeting"] = "hello"
    >>> kv.get("greeting"), kv.get("nobody", "default")
    ('hello', 'default')
    """
    return Embedded(new_store(path, memory_limit, when_full, clock), key_codec(codec), value_codec(codec))

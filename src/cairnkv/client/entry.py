"""`cairnkv.connect`: the way to a store at an address, for sync code.

`cairnkv.open` is the way to one in this process (`embedded`), and `cairnkv.aio` has both for asyncio.
"""

from typing import Any, Literal, overload

from cairnkv.client.address import Seconds, parse
from cairnkv.client.calls import V
from cairnkv.client.codec import Codec, CodecName, key_codec, value_codec
from cairnkv.client.sync import Client


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
    """A client of the store at a URL. It connects when it is first used, and again when need be.

    url: cairn://HOST[:PORT][,HOST[:PORT]...][/?OPTION=VALUE&...] or cairn+unix:///PATH, as `cairnkv.client.address`
    describes; default: the variable CAIRNKV_URL, else cairn://127.0.0.1:6555. Several hosts are nodes of one cluster:
    the client stays with one while that serves, and then goes on to the next.
    codec: what values are: "text", "bytes", "json", "msgpack", or an object with encode and decode.
    timeout: how long a call may take, repetitions included: seconds, a timedelta, or text such as "500ms" or "5s"; of a
    pipeline, how long between two replies. connect_timeout: how long one address may take.
    attempts: how often a call that is safe to repeat is tried; each further host is one more.
    Raises `AddressError` or `OptionError` for what cannot be understood.
    """
    address = parse(url, timeout=timeout, connect_timeout=connect_timeout, attempts=attempts)
    return Client(address, key_codec(codec), value_codec(codec))

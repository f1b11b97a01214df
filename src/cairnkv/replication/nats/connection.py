"""A connection to NATS that detects a silent server within seconds, and always reconnects.

Invariants: after the first connection, no error of nats-py is fatal or prints a traceback; it is logged in one line,
and the next server is tried. Without a connection, no message is kept for later. Replies of JetStream's API are plain
dictionaries, since nats-py's classes lack fields that are needed here.

Out of scope: credentials (`credentials`), and requests and messages (`stream`, `consumer`, `fsync_check`).
"""

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from nats import errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from cairnkv.errors import OptionError, Unavailable
from cairnkv.replication.nats.credentials import advice, credentials, is_refusal
from cairnkv.replication.nats.options import ClusterOptions

PING_INTERVAL: Final = 1
PINGS_MAX: Final = 2
"""Seconds between pings, and maximum unanswered pings. A paused server is left after about three seconds; with
nats-py's defaults, after minutes."""

CONNECT_TIMEOUT: Final = 1
"""Seconds for each step of a connection to one server, before the next server is tried."""

RECONNECT_WAIT: Final = 0.25
"""Seconds between two attempts at the same server."""

OPEN_TIMEOUT: Final = 30.0
"""Seconds for a connection, and for a leader of JetStream, before the start of a node fails. Hosts that boot together
need some time."""

ASK_TIMEOUT: Final = 1.0
"""Seconds for a reply of JetStream's API. It takes milliseconds, unless there is no leader."""

REPEAT_AFTER: Final = 30.0
"""Seconds before the same message is logged again."""

PUBLISHES: Final = ("$JS.>", "$O.>", "$KV.>", "cairn.>")
SUBSCRIBES: Final = ("_INBOX.>", "cairn.>")
"""Subjects that NATS must permit to a node's user: JetStream, its object stores and key-value stores, the log and
channels."""

Answer: TypeAlias = dict[str, Any]

logger: Final = logging.getLogger("cairnkv.cluster")


class NoAnswer(Exception):
    """JetStream did not answer, or there is no connection. The request may have been executed."""


class ApiError(Exception):
    """An error of JetStream.

    number: JetStream's error code, more specific than the status.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Connection(Client):
    """nats-py's client, with fixes.

    nats-py closes a connection gracefully before it tries the next server, but a paused server never reads the
    remaining data; and it leaks connections that were not answered. So this class aborts connections. nats-py stops at
    most errors of a server, such as a timeout of the authentication while that server was paused; this class
    reconnects.

    nats-py sends in a task, and has a task for each subscription, so a message takes several iterations of the event
    loop. `send` and `on_message` avoid that for log entries.
    """

    forbidden = ""
    """The last permissions error of this connection."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: dict[int, Callable[[Msg], None]] = {}  # by the number of the subscription

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Publish a message at once, to the system's buffer or to asyncio's. Raises nats-py's errors.

        reply: the subject for an answer, if one is wanted.
        """
        writer = self._writer
        # A lost connection may be closing before nats-py knows; then uvloop raises another kind of error.
        if not self.is_connected or writer is None or writer.transport.is_closing():
            raise errors.OutboundBufferLimitError
        if len(data) > self.max_payload:
            raise errors.MaxPayloadError
        head = f"PUB {subject} {reply} {len(data)}\r\n" if reply else f"PUB {subject} {len(data)}\r\n"
        writer.write(b"".join((head.encode(), data, b"\r\n")))

    @property
    def _writer(self) -> asyncio.StreamWriter | None:
        """The writer of the connection, or None before the first one."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer

    @property
    def unsent(self) -> int:
        """Bytes in asyncio's buffer."""
        writer = self._writer
        return writer.transport.get_write_buffer_size() if writer is not None else 0

    async def on_message(self, subject: str, callback: Callable[[Msg], None]) -> Subscription:
        """Subscribe: call `callback`, which must be fast, with each message when it is read. Raises nats-py's errors.

        An exception of the callback is logged as a bug, and the next message is delivered.
        """
        subscription = await self.subscribe(subject)
        self._callbacks[subscription._id] = callback
        # nats-py sends SUB in a task, but `send` and `flush` write at once: their bytes would overtake it.
        await self._flush_pending(force_flush=True)
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._callbacks.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        callback = self._callbacks.get(sid)
        if callback is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            callback(self._build_message(sid, subject, reply, data, await self._process_headers(headers)))
        except Exception:  # nats-py would stop reading
            logger.exception("a bug of cairnkv")

    async def leave(self, why: str) -> None:
        """Reconnect to a random server, maybe to the same one."""
        await self._process_op_err(errors.Error(why))

    def abort(self) -> None:
        """Close the connection at once, without sending the remaining data."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer: asyncio.StreamWriter | None = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()

    async def _connect_to_server(self, s: Srv) -> None:
        self.abort()
        self.forbidden = ""  # permissions may have changed
        await super()._connect_to_server(s)

    async def _process_op_err(self, e: Exception) -> None:
        if not self.is_closed and not self.is_reconnecting:
            note(f"NATS: left {_shown(self.connected_url)}: {text_of(e)}")
            self.abort()
        await super()._process_op_err(e)

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg:
            self.forbidden = err_msg
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(errors.Error(f"nats: {err_msg}"))


_noted: dict[str, float] = {}


def note(text: str) -> None:
    """Log a message, unless it was logged recently."""
    monotonic = time.monotonic()
    for old in [old for old, at in _noted.items() if monotonic - at > REPEAT_AFTER]:
        del _noted[old]
    if text not in _noted:
        _noted[text] = monotonic
        logger.info("%s", text)


def text_of(error: BaseException) -> str:
    """Return the text of an exception of nats-py on one line, or the name of its class."""
    return " ".join(str(error).split()) or type(error).__name__


def _host(url: Any) -> str:
    """Return the host and port of a URL."""
    return str(url.netloc.rpartition("@")[2])


def _shown(url: Any) -> str:
    return _host(url) if url is not None else "a server"


async def connect(
    options: ClusterOptions, what: str, *, back: Callable[[], None] | None = None, system: bool = False
) -> Connection:
    """Connect to any of the servers.

    what: name in NATS' list of connections. back: called after each reconnection. system: use the system account.
    Raises `OptionError` for wrong credentials or files, `Unavailable` after `OPEN_TIMEOUT`.
    """
    client = Connection()
    refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    last = "no answer"

    async def on_error(error: Exception) -> None:
        nonlocal last
        last = text_of(error)
        note(f"NATS: {last}")
        if not refused.done() and (is_refusal(last) or isinstance(error, ssl.SSLError)):
            refused.set_result(error)

    async def on_reconnect() -> None:
        note(f"NATS: reconnected to {_shown(client.connected_url)}")
        if back is not None:
            back()

    connecting = asyncio.ensure_future(
        client.connect(
            servers=[f"{parts.scheme}://{_host(parts)}" for parts in map(urlsplit, options.urls)],
            name=what,
            error_cb=on_error,
            reconnected_cb=on_reconnect,
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=PINGS_MAX,
            connect_timeout=CONNECT_TIMEOUT,
            reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # nats-py only sleeps for it
            max_reconnect_attempts=-1,
            no_echo=True,
            pending_size=0,
            **_tls(options),
            **credentials(options, system=system),
        )
    )
    either: set[asyncio.Future[Any]] = {connecting, refused}
    try:
        await asyncio.wait(either, timeout=OPEN_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _give_up(connecting, client)
        raise
    if not connecting.done():
        await _give_up(connecting, client)
        if refused.done():
            why = refused.result()
            if isinstance(why, ssl.SSLError):
                raise OptionError(f"TLS with NATS fails ({text_of(why)}): check --nats-ca, --nats-cert and --nats-key")
            raise OptionError(f"NATS refuses this node ({text_of(why)}): {advice(options, system=system)}")
        raise Unavailable(f"no NATS server of {_hosts(options)} has answered within {OPEN_TIMEOUT:g} s: {last}")
    refused.cancel()
    try:
        await connecting
    except (errors.Error, OSError, ValueError) as error:
        await close(client)
        raise OptionError(f"cannot connect to NATS: {text_of(error)}") from error
    if _wants_tls(options) and not client._server_info.get("tls_required"):
        await close(client)
        raise OptionError(
            f"NATS at {_hosts(options)} does not use TLS; without --nats-ca, the connection is not encrypted"
        )
    return client


async def _give_up(connecting: "asyncio.Future[Any]", client: Connection) -> None:
    connecting.cancel()
    with suppress(asyncio.CancelledError, errors.Error, OSError):
        await connecting
    await close(client)


async def close(client: Connection) -> None:
    """Close a connection in any state."""
    with suppress(errors.Error, OSError, asyncio.TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await client.close()
    client.abort()


async def ask(client: Connection, subject: str, request: Answer | None = None, seconds: float = ASK_TIMEOUT) -> Answer:
    """Send a request to JetStream's API, and return the reply. Raises `NoAnswer`, `ApiError`."""
    if not client.is_connected:  # nats-py would never complete the request
        raise NoAnswer("not connected to NATS")
    try:
        message = await client.request(subject, json.dumps(request).encode() if request else b"", timeout=seconds)
    except errors.NoRespondersError:
        raise NoAnswer("JetStream is not enabled, or has not started yet") from None
    except errors.TimeoutError:
        if lacking := _lacking(client.forbidden.lower(), subject):
            raise NoAnswer(
                f"the NATS user may not {lacking}: a node publishes to {', '.join(PUBLISHES)} and "
                f"subscribes to {', '.join(SUBSCRIBES)}"
            ) from None
        raise NoAnswer(f"JetStream has not answered within {seconds:g} s: it has no leader at present") from None
    except (errors.Error, OSError) as error:
        raise NoAnswer(text_of(error)) from error
    finally:
        # nats-py uses `asyncio.wait_for`, which in Python 3.11 loses a cancellation that arrives with the reply.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError
    answer: Answer = json.loads(message.data)
    if (wrong := answer.get("error")) is not None:
        raise ApiError(wrong.get("err_code", 0), wrong.get("description", "an error without a text"))
    return answer


def _lacking(forbidden: str, subject: str) -> str | None:
    """Return the missing permission that a request to a subject needs, or None."""
    if subject.lower() in forbidden:
        return f"publish to {subject}"
    return "subscribe to _INBOX.>, the subject of replies" if 'subscription to "_inbox.' in forbidden else None


def _hosts(options: ClusterOptions) -> str:
    return ", ".join(_shown(urlsplit(url)) for url in options.urls)


def _wants_tls(options: ClusterOptions) -> bool:
    return bool(options.ca or options.cert) or any(url.startswith("tls:") for url in options.urls)


def _tls(options: ClusterOptions) -> dict[str, Any]:
    """Return the TLS arguments of nats-py. Raises `OptionError`."""
    if not _wants_tls(options):
        return {}
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except (OSError, ValueError) as error:
        raise OptionError(f"cannot use nats-ca, nats-cert or nats-key: {error}") from error
    return {"tls": context}

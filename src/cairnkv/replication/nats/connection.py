"""A connection to NATS as a node needs it: it notices silence within seconds, and comes back for ever.

What always holds: nothing that nats-py meets on its way is fatal once the connection was made, and none of it prints a
traceback; it is logged in a line, and the next server tried. Nothing is kept to be sent later while there is no
connection. Answers of JetStream's API are plain dictionaries: what they leave out of nats-py's classes matters here.

Not for who a node is (`credentials`), nor for what is asked or consumed (`stream`, `consumer`, `fsync_check`).
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
from cairnkv.replication.nats.credentials import credentials, is_refusal, what_to_check
from cairnkv.replication.nats.options import ClusterOptions

PING_INTERVAL: Final = 1
PINGS_MAX: Final = 2
"""Seconds between pings, and how many may be without an answer: a server that is paused is left after some three
seconds. nats-py's defaults take minutes."""

CONNECT_PATIENCE: Final = 1
"""Seconds for each step of connecting to one server, before the next is tried."""

RECONNECT_WAIT: Final = 0.25
"""Seconds between two attempts at the same server."""

OPEN_PATIENCE: Final = 30.0
"""Seconds until there is a connection, and a JetStream with a leader, before a node gives up starting: machines that
boot together need some."""

ASK_PATIENCE: Final = 1.0
"""Seconds for one answer of JetStream's API, which takes milliseconds unless there is no leader."""

REPEAT_AFTER: Final = 30.0
"""Seconds before the same trouble is logged again."""

PUBLISHES: Final = ("$JS.>", "$O.>", "$KV.>", "cairn.>")
SUBSCRIBES: Final = ("_INBOX.>", "cairn.>")
"""What NATS has to permit a node's user: JetStream, its object stores and key-value stores, our log and channels."""

Answer: TypeAlias = dict[str, Any]

logger: Final = logging.getLogger("cairnkv.cluster")


class NoAnswer(Exception):
    """JetStream did not answer, or there is no connection: whether it did what it was asked is unknown."""


class ApiError(Exception):
    """JetStream answered with an error.

    number: JetStream's own, which says more than the status.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class Connection(Client):
    """nats-py's client, some of whose ways are mended here.

    It waits until a connection is closed in good order before it tries the next server, and a paused server never
    takes what is still to be sent; and it forgets connections that were not answered. So they are cut. It ends for good
    upon most errors that a server may name, such as an authentication that took too long while that server was paused.

    It has a task for what is sent, and one for each subscription, so a message takes several turns of the loop: what an
    entry waits for goes by `send` and `hear` instead.
    """

    forbidden = ""
    """What NATS said last that our user may not do, over this connection."""

    def __init__(self) -> None:
        super().__init__()
        self._hearers: dict[int, Callable[[Msg], None]] = {}  # by the number of their subscription

    def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Publish a message at once: the system has it, or asyncio until that takes it. Raises nats-py's errors.

        reply: where an answer goes to, if one is wanted.
        """
        writer = self._writer
        # One that is lost is closing before nats-py knows; then uvloop raises what is no error of a connection.
        if not self.is_connected or writer is None or writer.transport.is_closing():
            raise errors.OutboundBufferLimitError
        if len(data) > self.max_payload:
            raise errors.MaxPayloadError
        head = f"PUB {subject} {reply} {len(data)}\r\n" if reply else f"PUB {subject} {len(data)}\r\n"
        writer.write(b"".join((head.encode(), data, b"\r\n")))

    @property
    def _writer(self) -> asyncio.StreamWriter | None:
        """Where all is written to that is sent; None: there has been no connection yet."""
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken yet."""
        writer = self._writer
        return writer.transport.get_write_buffer_size() if writer is not None else 0

    async def hear(self, subject: str, told: Callable[[Msg], None]) -> Subscription:
        """Subscribe: `told` is called with each message as it is read; it is to be quick. Raises nats-py's errors.

        What it raises itself is logged as a fault of ours, and the next message is heard.
        """
        subscription = await self.subscribe(subject)
        self._hearers[subscription._id] = told
        # nats-py leaves SUB to a task, and `send` and its `flush` write at once: their bytes would leave before it.
        await self._flush_pending(force_flush=True)
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._hearers.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        told = self._hearers.get(sid)
        if told is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            told(self._build_message(sid, subject, reply, data, await self._process_headers(headers)))
        except Exception:  # nats-py would read nothing any more
            logger.exception("a fault of cairnkv itself")

    async def leave(self, why: str) -> None:
        """Go to another server, or maybe to this one again: which is left to chance."""
        await self._process_op_err(errors.Error(why))

    def cut(self) -> None:
        """End the connection to a server, whatever is still to be sent."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer: asyncio.StreamWriter | None = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()

    async def _connect_to_server(self, s: Srv) -> None:
        self.cut()
        self.forbidden = ""  # that may have changed meanwhile
        await super()._connect_to_server(s)

    async def _process_op_err(self, e: Exception) -> None:
        if not self.is_closed and not self.is_reconnecting:
            note(f"NATS: left {_shown(self.connected_url)}: {text_of(e)}")
            self.cut()
        await super()._process_op_err(e)

    async def _process_err(self, err_msg: str) -> None:
        if "permissions violation" in err_msg:
            self.forbidden = err_msg
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(errors.Error(f"nats: {err_msg}"))


_noted: dict[str, float] = {}


def note(text: str) -> None:
    """Log a trouble, but not the same one again and again."""
    now = time.monotonic()
    for old in [old for old, at in _noted.items() if now - at > REPEAT_AFTER]:
        del _noted[old]
    if text not in _noted:
        _noted[text] = now
        logger.info("%s", text)


def text_of(error: BaseException) -> str:
    """What an exception of nats-py says, on one line; some say nothing but their class."""
    return " ".join(str(error).split()) or type(error).__name__


def _host(url: Any) -> str:
    """What a URL names, without user and password."""
    return str(url.netloc.rpartition("@")[2])


def _shown(url: Any) -> str:
    return _host(url) if url is not None else "a server"


async def connect(
    options: ClusterOptions, what: str, *, back: Callable[[], None] | None = None, system: bool = False
) -> Connection:
    """Connect to any of the servers.

    what: shown in NATS' lists of connections. back: called upon each later connection. system: as one of the system
    account. Raises `OptionError` for credentials or files that are not right, `Unavailable` after `OPEN_PATIENCE`.
    """
    client = Connection()
    refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    last = "no answer"

    async def met(error: Exception) -> None:
        nonlocal last
        last = text_of(error)
        note(f"NATS: {last}")
        if not refused.done() and (is_refusal(last) or isinstance(error, ssl.SSLError)):
            refused.set_result(error)

    async def returned() -> None:
        note(f"NATS: back, by way of {_shown(client.connected_url)}")
        if back is not None:
            back()

    connecting = asyncio.ensure_future(
        client.connect(
            servers=[f"{parts.scheme}://{_host(parts)}" for parts in map(urlsplit, options.urls)],
            name=what,
            error_cb=met,
            reconnected_cb=returned,
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=PINGS_MAX,
            connect_timeout=CONNECT_PATIENCE,
            reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # it only sleeps so long
            max_reconnect_attempts=-1,
            no_echo=True,
            pending_size=0,
            **_tls(options),
            **credentials(options, system=system),
        )
    )
    either: set[asyncio.Future[Any]] = {connecting, refused}
    try:
        await asyncio.wait(either, timeout=OPEN_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        await _give_up(connecting, client)
        raise
    if not connecting.done():
        await _give_up(connecting, client)
        if refused.done():
            why = refused.result()
            if isinstance(why, ssl.SSLError):
                raise OptionError(f"TLS with NATS fails ({text_of(why)}): check --nats-ca, --nats-cert and --nats-key")
            raise OptionError(
                f"NATS does not let this node in ({text_of(why)}): {what_to_check(options, system=system)}"
            )
        raise Unavailable(f"no NATS server of {_hosts(options)} answers after {OPEN_PATIENCE:g} s: {last}")
    refused.cancel()
    try:
        await connecting
    except (errors.Error, OSError, ValueError) as error:
        await close(client)
        raise OptionError(f"cannot connect to NATS: {text_of(error)}") from error
    if _wants_tls(options) and not client._server_info.get("tls_required"):
        await close(client)
        raise OptionError(
            f"NATS at {_hosts(options)} does not speak TLS; without --nats-ca it is spoken to in the clear"
        )
    return client


async def _give_up(connecting: "asyncio.Future[Any]", client: Connection) -> None:
    connecting.cancel()
    with suppress(asyncio.CancelledError, errors.Error, OSError):
        await connecting
    await close(client)


async def close(client: Connection) -> None:
    """End a connection, whatever its state."""
    with suppress(errors.Error, OSError, asyncio.TimeoutError):
        async with asyncio.timeout(CONNECT_PATIENCE):
            await client.close()
    client.cut()


async def ask(
    client: Connection, subject: str, request: Answer | None = None, patience: float = ASK_PATIENCE
) -> Answer:
    """One request to JetStream's API. Raises `NoAnswer`, `ApiError`."""
    if not client.is_connected:  # nats-py would keep the request's future for ever
        raise NoAnswer("not connected to NATS")
    try:
        message = await client.request(subject, json.dumps(request).encode() if request else b"", timeout=patience)
    except errors.NoRespondersError:
        raise NoAnswer("JetStream is not enabled there, or not there yet") from None
    except errors.TimeoutError:
        if lacking := _lacking(client.forbidden.lower(), subject):
            raise NoAnswer(
                f"NATS does not let its user {lacking}: a node needs all of {', '.join(PUBLISHES)} and "
                f"subscribes to {', '.join(SUBSCRIBES)}"
            ) from None
        raise NoAnswer(f"JetStream does not answer within {patience:g} s: it has no leader at present") from None
    except (errors.Error, OSError) as error:
        raise NoAnswer(text_of(error)) from error
    finally:
        # It waits with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes with the answer.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError
    answer: Answer = json.loads(message.data)
    if (wrong := answer.get("error")) is not None:
        raise ApiError(wrong.get("err_code", 0), wrong.get("description", "an error without a text"))
    return answer


def _lacking(forbidden: str, subject: str) -> str | None:
    """What a request to a subject did not come to because of what NATS has forbidden, if anything."""
    if subject.lower() in forbidden:
        return f"publish to {subject}"
    return "subscribe to _INBOX.>, where answers come" if 'subscription to "_inbox.' in forbidden else None


def _hosts(options: ClusterOptions) -> str:
    return ", ".join(_shown(urlsplit(url)) for url in options.urls)


def _wants_tls(options: ClusterOptions) -> bool:
    return bool(options.ca or options.cert) or any(url.startswith("tls:") for url in options.urls)


def _tls(options: ClusterOptions) -> dict[str, Any]:
    """What nats-py is told of TLS. Raises `OptionError`."""
    if not _wants_tls(options):
        return {}
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.cert is not None:
            context.load_cert_chain(options.cert, options.key)
    except (OSError, ValueError) as error:
        raise OptionError(f"nats-ca, nats-cert or nats-key cannot be used: {error}") from error
    return {"tls": context}

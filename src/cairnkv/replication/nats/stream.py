"""The stream of a cluster: create or open it, publish, read and truncate it; and messages on channels.

Invariants: a stream is opened only with the configuration of a log (`stream_config`), and only if NATS fsyncs every
write, by a check or by an option (`fsync_check`). Only `entries` proves that an entry is in the log; neither an
acknowledgement nor JetStream's report of the stream's end does. All waits are bounded, except in `entries`, which
survives all failures of servers and connections.

Out of scope: the format of entries, and the entries that count (`entries`, `epochs`).
"""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, Literal, TypeAlias

from nats import errors
from nats.aio.msg import Msg

from cairnkv.errors import OptionError, Unavailable
from cairnkv.limits import KIB, MIB, REPLICAS
from cairnkv.replication.nats import connection, fsync_check
from cairnkv.replication.nats.connection import OPEN_TIMEOUT, Answer, ApiError, Connection, NoAnswer, ask, logger, note
from cairnkv.replication.nats.consumer import STREAM_NOT_FOUND, Consumption, Interrupted, PastEnd, Purged, Replaced
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.retry import NO_ROOM, retried
from cairnkv.replication.nats.stream_config import (
    Identity,
    StreamState,
    channels_subject,
    declared,
    leads_alone,
    log_subject,
    nanoseconds,
    problems,
    stream_name,
)

__all__ = ["Identity", "Interrupted", "Missing", "PastEnd", "Purged", "Replaced", "Stream", "StreamState", "Sync"]

Sync: TypeAlias = Literal["proven", "trusted", "unproven"]
"""Whether NATS fsyncs every write before it acknowledges it: checked; assumed by an option; found false after the
stream was opened."""

HEADERS_MAX: Final = KIB
"""Bytes of a message that are reserved for headers."""

CHECK_EVERY: Final = 1.0
"""Seconds between two requests for the state of the stream."""

UNANSWERED_MAX: Final = 6
"""Unanswered requests in a row, about two seconds each, after which another server is tried, since this one may be cut
off from the others. An election takes about six seconds."""

ACCOUNT_EVERY: Final = 5
"""One of so many requests also asks for the limits of the account."""

SYNC_EVERY: Final = 60.0
SYNC_UNSEEN_EVERY: Final = 5.0
"""Seconds between two fsync checks; the latter if a server of the stream has not been seen yet."""

REFUSAL_TIMEOUT: Final = 5.0
"""Seconds for which JetStream must refuse the stream before an error is raised: servers that have just started do not
know each other yet."""

RETRY_WAIT: Final = 0.1
"""Seconds between two attempts to open the stream."""

TRUNCATE_TIMEOUT: Final = 10.0
"""Seconds for a truncation, including an election."""

PUBLISHES_MAX: Final = 1_024
PUBLISH_BYTES_MAX: Final = 64 * MIB
"""Maximum unacknowledged messages, and their bytes; more are refused. A node has a few in flight."""

FORGET_AFTER: Final = 30.0
"""Seconds for the acknowledgement of a message."""

UNSENT_MAX: Final = 16 * MIB
"""Unsent bytes above which messages on channels are dropped, as after any other error."""

_OFFLINE: Final = "offline"
"""Part of JetStream's error for a stream with enough servers, of which too few are online."""

_DIFFERENT: Final = 10_058
_TEMPORARY: Final = (_DIFFERENT, 10_008, 10_009)
"""Error codes for a stream that another node has created, and for a missing or new leader."""
_NOT_ENABLED: Final = (10_035, 10_039, 10_076)
_PEERS: Final = (10_005, 10_023, 10_047, 10_074)
"""JetStream's error codes for a disabled JetStream, and for too few servers or too little space."""


class Missing(OptionError):
    """The stream does not exist."""


def _log_fault(error: BaseException) -> None:
    logger.error("a bug of cairnkv", exc_info=error)


class Stream:
    """A node's access to its cluster's log."""

    def __init__(self, options: ClusterOptions, *, replicas: int = REPLICAS) -> None:
        """replicas: number of servers that store the stream."""
        self._options = options
        self._replicas = replicas
        self._name = stream_name(options.name)
        self._log_subject = log_subject(options.name)
        self._channels_subject = channels_subject(options.name)
        self._client: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self.connections = 0
        """The number of reconnections."""
        self._consumptions: set[Consumption] = set()
        # Unacknowledged messages by number: time limit, callback for a refusal, bytes.
        self._awaited: dict[int, tuple[float, Callable[[str], None], int]] = {}
        self._awaited_bytes = 0
        self._number = 0
        self._answers_prefix = ""
        self._state: StreamState | None = None
        self._stream_fill = self._account_fill = self._servers_fill = 0.0
        self._payload: int | None = None
        self.sync: Sync = "unproven"
        """Whether NATS fsyncs every write."""
        self.sync_unseen: tuple[str, ...] = ()
        """Servers of the stream that did not answer the last fsync check."""
        self.on_broadcast: Callable[[bytes], object] = lambda data: None
        """Called with each message of another node."""
        self.failed: Callable[[BaseException], None] = _log_fault
        """Called after a bug, which makes this object unusable."""
        self.trouble: str | None = None
        """The error of the last request for the stream's state, or None."""

    # -- open and close ------------------------------------------------------------------------------------------------

    async def open(self, *, make: bool = True) -> None:
        """Connect, create the stream or check the existing one, and check fsync. Called once.

        make: whether to create a missing stream; if not, raises `Missing`. Raises `OptionError` for a wrong
        configuration, `Unavailable` if NATS or JetStream's leader is not available within `OPEN_TIMEOUT`.
        """
        options = self._options
        if options.system is None and not options.trust_sync:
            raise OptionError(fsync_check.UNKNOWN)
        self._client = await connection.connect(options, f"cairnkv {options.name}", back=self._reconnected)
        try:
            self._see_payload(self._client.max_payload)
            state = await self._existing(make=make)
            self._check(state.config)
            if (most := state.config.get("max_msg_size", -1)) > 0:
                self._see_payload(most)
            self._keep(state)
            await self._check_sync(state)
            self._answers_prefix = self._client.new_inbox()
            await self._client.on_message(f"{self._answers_prefix}.*", self._acknowledged)
            await self._client.on_message(self._channels_subject, self._received)
            await self._client.flush()
        except BaseException as error:
            await connection.close(self._client)
            if isinstance(error, errors.Error | OSError) and not isinstance(error, Unavailable):
                text = connection.text_of(error)
                raise Unavailable(f"the connection to NATS failed while the stream was opened: {text}") from error
            raise
        self._begin(self._check_often())
        if options.system is not None:
            self._begin(self._check_sync_often())

    async def close(self) -> None:
        """Close the connection, and end `entries`. Published messages may still be logged."""
        self._closed = True  # nats-py may swallow what cancels a task
        for consumption in self._consumptions:
            consumption.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await connection.close(self._client)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(error)

    async def _existing(self, *, make: bool) -> StreamState:
        """Return the state of the stream. make: create it if it is missing."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused: float | None = None  # since this time
        while True:
            try:
                try:
                    return await self.state()
                except ApiError as error:
                    if error.number != STREAM_NOT_FOUND:
                        raise
                    # Servers that have just started may not know the stream yet.
                    if not make and loop.time() - began > REFUSAL_TIMEOUT:
                        raise Missing(f"NATS has no stream {self._name}") from None
                if make:
                    await self._ask("STREAM.CREATE", declared(self._options, self._replicas))
                    continue
                await asyncio.sleep(RETRY_WAIT)
                continue
            except NoAnswer as error:
                trouble: Exception = error
                refused = None
            except ApiError as error:
                trouble = error
                temporary = error.number in _TEMPORARY or _OFFLINE in str(error)
                if not temporary:
                    refused = loop.time() if refused is None else refused
                    if loop.time() - refused > REFUSAL_TIMEOUT:
                        raise OptionError(self._refusal(error)) from None
            if loop.time() - began > OPEN_TIMEOUT:
                raise Unavailable(f"cannot open stream {self._name} within {OPEN_TIMEOUT:g} s: {trouble}")
            note(f"stream {self._name}: {trouble}")
            await asyncio.sleep(RETRY_WAIT)

    def _refusal(self, error: ApiError) -> str:
        text = f"NATS refuses to create the stream {self._name}: {error}"
        if error.number in _NOT_ENABLED:
            return f"{text}. Enable JetStream in the servers' configuration, and for this account"
        if error.number in _PEERS:
            return (
                f"{text}. The stream needs {self._replicas} servers of one cluster with JetStream, each with space for "
                f"{self._options.limit:,} more bytes (max_file_store of NATS, --log-limit of cairn)"
            )
        return text

    def _check(self, config: Answer) -> None:
        if found := problems(config, self._options, self._replicas):
            raise OptionError(
                f"stream {self._name} has a wrong configuration for a log: {'; '.join(found)}. "
                "Change it (nats stream edit), or use another --name"
            )

    # -- fsync checks --------------------------------------------------------------------------------------------------

    async def _check_sync(self, state: StreamState) -> None:
        if self._options.system is None:
            self.sync = "trusted"
            return
        found = await self._sync_findings(state)
        if not found.unsynced:
            self.sync = "proven"
        elif self._options.trust_sync:
            self.sync = "trusted"
            logger.error("%s; continuing because of --trust-nats-sync", found.unsynced_text)
        else:
            raise OptionError(found.unsynced_text)

    async def _sync_findings(self, state: StreamState) -> fsync_check.Findings:
        found = await fsync_check.check(self._options, state.cluster, state.peers)
        self._see_payload(found.payload)
        self._servers_fill = found.fill
        self.sync_unseen = found.unseen
        return found

    async def _check_sync_often(self) -> None:
        """Check at intervals, since servers may restart with another configuration, or be seen only later."""
        while not self._closed:
            await asyncio.sleep(SYNC_UNSEEN_EVERY if self.sync_unseen else SYNC_EVERY)
            assert self._state is not None
            try:
                found = await self._sync_findings(self._state)
            except (OptionError, Unavailable) as error:
                note(f"cannot check whether NATS fsyncs: {error}")
                continue
            if found.unsynced:
                logger.error("%s", found.unsynced_text)
            unsynced: Sync = "trusted" if self._options.trust_sync else "unproven"
            self.sync = unsynced if found.unsynced else "proven"

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def nc(self) -> Connection:
        """The connection. Call it only while the stream is open."""
        assert self._client is not None, "the stream is not open"
        return self._client

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a server. The server may be cut off from the others."""
        return self._client is not None and self._client.is_connected

    @property
    def led_alone(self) -> bool:
        """Whether the stream's leader was out of touch with a majority of its servers at the last request.

        False if it did not answer.
        """
        return self.trouble is None and self._last_state.led_alone

    @property
    def _last_state(self) -> StreamState:
        assert self._state is not None, "the stream is not open"
        return self._state

    @property
    def identity(self) -> Identity:
        """The identity of the stream. It does not change: `entries` raises `Replaced`."""
        return self._last_state.identity

    @property
    def first(self) -> int:
        """Position of the first message, at the last request."""
        return self._last_state.first

    @property
    def last(self) -> int:
        """Position of the last message, at the last request."""
        return self._last_state.last

    @property
    def fill(self) -> float:
        """The largest used part of the limits of the stream, the account and the servers' disks, at the last
        request."""
        return max(self._stream_fill, self._account_fill, self._servers_fill)

    @property
    def payload_max(self) -> int:
        """Maximum bytes of a message, for all servers seen so far."""
        assert self._payload is not None, "the stream is not open"
        return self._payload

    def _see_payload(self, most: int) -> None:
        most -= HEADERS_MAX
        if self._payload is None or most < self._payload:
            if self._payload is not None:
                logger.info("NATS accepts messages of at most %d bytes", most)
            self._payload = most

    def _reconnected(self) -> None:
        self.connections += 1
        self._see_payload(self.nc.max_payload)

    async def state(self) -> StreamState:
        """Request the state of the stream, which may be outdated. Raises `NoAnswer`, `ApiError`."""
        answer = await self._ask("STREAM.INFO")
        state, cluster = answer["state"], answer.get("cluster", {})
        peers = [cluster.get("leader", ""), *(peer["name"] for peer in cluster.get("replicas") or ())]
        return StreamState(
            identity=Identity(self._name, nanoseconds(answer["created"])),
            config=answer["config"],
            first=state["first_seq"],
            last=state["last_seq"],
            bytes=state["bytes"],
            cluster=cluster.get("name", ""),
            peers=frozenset(peer for peer in peers if peer),
            led_alone=leads_alone(cluster),
        )

    async def _ask(self, what: str, request: Answer | None = None) -> Answer:
        return await ask(self.nc, f"$JS.API.{what}.{self._name}", request)

    def _keep(self, state: StreamState) -> None:
        self._state = state
        self._stream_fill = state.bytes / min(self._options.limit, state.config["max_bytes"])

    async def _check_often(self) -> None:
        """Request the state of the stream every second."""
        requests = unanswered = 0
        while not self._closed:
            await asyncio.sleep(CHECK_EVERY)
            try:
                state = await self.state()
                if state.identity == self.identity:
                    self._keep(state)
                    for consumption in self._consumptions:
                        consumption.stream_ends(state.last)
                if requests % ACCOUNT_EVERY == 0:
                    account = await ask(self.nc, "$JS.API.INFO")
                    limit = account.get("limits", {}).get("max_storage", -1)
                    self._account_fill = account.get("storage", 0) / limit if limit > 0 else 0.0
                self.trouble = None
                unanswered = 0
            except (NoAnswer, ApiError) as error:
                self.trouble = str(error)
                note(f"stream {self._name}: {error}")
                unanswered = unanswered + 1 if isinstance(error, NoAnswer) and self.connected else 0
                if unanswered >= UNANSWERED_MAX:
                    unanswered = 0
                    await self.nc.leave("JetStream does not answer through it")
            requests += 1

    # -- publish -------------------------------------------------------------------------------------------------------

    def publish(self, data: bytes, refused: Callable[[str], None]) -> None:
        """Publish a message to the log, in the order of calls. Only `entries` proves that it was logged.

        refused: called with the reason if the message was not sent, or JetStream has refused it; then it was not
        logged. Never called before `publish` returns, nor for a missing acknowledgement.
        """
        loop = asyncio.get_running_loop()
        monotonic = loop.time()
        while self._awaited and next(iter(self._awaited.values()))[0] < monotonic:
            self._resolve(next(iter(self._awaited)))
        if not self.connected:
            loop.call_soon(refused, "no connection to NATS")
        elif len(data) > self.payload_max:
            loop.call_soon(refused, f"an entry has {len(data)} bytes, and NATS accepts at most {self.payload_max}")
        elif len(self._awaited) >= PUBLISHES_MAX or self._awaited_bytes + len(data) > PUBLISH_BYTES_MAX:
            loop.call_soon(refused, "NATS has not acknowledged earlier messages")
        else:
            self._number += 1
            self._awaited[self._number] = monotonic + FORGET_AFTER, refused, len(data)
            self._awaited_bytes += len(data)
            try:
                self.nc.send(self._log_subject, data, f"{self._answers_prefix}.{self._number}")
            except (errors.Error, OSError) as error:
                self._resolve(self._number)
                loop.call_soon(refused, f"sending to NATS failed: {connection.text_of(error)}")

    def _resolve(self, number: int) -> Callable[[str], None] | None:
        """Stop waiting for an acknowledgement. Returns the callback for a refusal."""
        awaited = self._awaited.pop(number, None)
        if awaited is None:
            return None
        self._awaited_bytes -= awaited[2]
        return awaited[1]

    def _acknowledged(self, message: Msg) -> None:
        """Handle an acknowledgement or a refusal of JetStream."""
        refused = self._resolve(int(message.subject.rpartition(".")[2]))
        if refused is None:
            return
        if not message.data:
            refused("the stream has no leader at present, or does not exist")
        elif b'"error"' in message.data:
            error = json.loads(message.data)["error"]
            if error.get("err_code") in NO_ROOM:
                self._stream_fill = 1.0  # until the next request
            refused(f"JetStream has refused it: {error.get('description', error)}")

    # -- read ----------------------------------------------------------------------------------------------------------

    async def entries(self, after: int) -> AsyncGenerator[list[tuple[int, bytes]], None]:
        """Yield every message after a position, with its position, in order, exactly once, until `close`.

        Each list has messages that arrived together. Raises `Purged` if the next message was purged, `PastEnd` if the
        stream ends before `after`, and `Replaced` if it was deleted or created again.
        """
        consumption = Consumption(self.nc, self.identity, after, self.state)
        self._consumptions.add(consumption)
        batches = consumption.batches()
        try:
            async for batch in batches:
                yield batch
        finally:
            self._consumptions.discard(consumption)
            await batches.aclose()

    async def truncate(self, up_to: int) -> None:
        """Delete all messages up to and including a position, which must not be after the end.

        Raises `Unavailable` if the outcome is unknown after `TRUNCATE_TIMEOUT`; a repetition is harmless. Raises
        `Replaced`.
        """

        async def ask() -> None:
            state = await self.state()
            if state.identity != self.identity:
                raise Replaced(state.identity)
            if up_to < state.first:
                return
            if up_to > state.last:  # a purge after the end would skip positions
                raise NoAnswer(f"the stream ends at position {state.last}")
            await self._ask("STREAM.PURGE", {"seq": up_to + 1})
            self._keep(await self.state())

        what = f"truncating stream {self._name} up to position {up_to}"
        await retried(self.nc, what, ask, TRUNCATE_TIMEOUT)

    async def begin_behind(self, position: int) -> None:
        """Delete all messages, and let the stream continue after a position, at or after its end.

        For repairs only. Raises `Unavailable`, and `OptionError` if something was logged meanwhile; then the stream may
        be empty.
        """
        await self._ask_of_operator("STREAM.PURGE", {"seq": position + 1})
        self._keep(await self.state())
        if (self.first, self.last) != (position + 1, position):
            raise OptionError(
                f"stream {self._name} has new entries from {self.first:,} to {self.last:,}: a node is running"
            )

    async def seconds_silent(self) -> float:
        """Return the age of the newest message, by the clocks of NATS. Raises `Unavailable`."""
        answer = await self._ask_of_operator("STREAM.INFO")
        newest, now = (nanoseconds(time) for time in (answer["state"]["last_ts"], answer["ts"]))
        return (now - newest) / 1e9 if newest > 0 else math.inf

    async def _ask_of_operator(self, what: str, request: Answer | None = None) -> Answer:
        try:
            return await self._ask(what, request)
        except (NoAnswer, ApiError) as error:
            raise Unavailable(f"stream {self._name}: {error}") from None

    # -- messages on channels ------------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """Send a message to the other nodes, at most once."""
        if self._payload is not None and len(data) > self._payload:
            note(
                f"a message of {len(data):,} bytes on a channel reaches only this node: NATS accepts {self._payload:,}"
            )
        elif self.connected and self.nc.unsent < UNSENT_MAX:
            with contextlib.suppress(errors.Error, OSError):
                self.nc.send(self._channels_subject, data)

    def _received(self, message: Msg) -> None:
        self.on_broadcast(message.data)

"""The way to the stream: open it or make it, publish to it, consume it, truncate it; and messages that are not kept.

What always holds: a stream is opened only if it is declared as a log has to be (`stream_config`), and only if NATS
syncs every write, as was seen or as we are told to trust (`fsync_check`). What comes back through `entries` is in the
log; nothing else proves that anything is: neither an acknowledgement nor what JetStream says of the stream's end.

Everything waits for a bounded time but `entries`, which goes on whatever happens to servers and connections. Not for
what stands in an entry, nor for which entries count (`entries`, `epochs`). Importing this imports nats-py.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Final, Literal, TypeAlias

from nats import errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from cairnkv.errors import OptionError, Unavailable
from cairnkv.limits import KIB, MIB, REPLICAS
from cairnkv.replication.nats import connection, fsync_check
from cairnkv.replication.nats.connection import OPEN_PATIENCE, Answer, ApiError, Connection, NoAnswer, ask, logger, note
from cairnkv.replication.nats.consumer import STREAM_NOT_FOUND, Consumption, Interrupted, PastEnd, Purged, Replaced
from cairnkv.replication.nats.leadership import leads_alone
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.retry import NO_ROOM, patiently
from cairnkv.replication.nats.stream_config import (
    Identity,
    StreamState,
    channels_subject,
    declared,
    log_subject,
    nanoseconds,
    problems,
    stream_name,
)

__all__ = ["Identity", "Interrupted", "Missing", "PastEnd", "Purged", "Replaced", "Stream", "StreamState", "Sync"]

Sync: TypeAlias = Literal["proven", "trusted", "unproven"]
"""Whether NATS syncs every write before it acknowledges it: seen; not seen, but we are told so; seen not to, after the
stream was opened."""

HEADERS_MAX: Final = KIB
"""Bytes of a message that are left to headers."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at how full the stream is."""

UNANSWERED_MAX: Final = 6
"""Looks in a row without an answer, some two seconds each, after which another server is tried: this one may be cut off
from the others, and we are not. An election takes about six seconds."""

ACCOUNT_EVERY: Final = 5
"""Of these looks one at the limits of the account."""

SYNC_EVERY: Final = 60.0
SYNC_UNSEEN_EVERY: Final = 5.0
"""Seconds between two looks at whether NATS syncs; the latter while a server of the stream was not seen yet."""

REFUSAL_PATIENCE: Final = 5.0
"""Seconds for which JetStream has to refuse the stream until that is believed: servers that have just started do not
know yet of each other."""

RETRY_WAIT: Final = 0.1
"""Seconds between two attempts, where one waits for a leader."""

TRUNCATE_PATIENCE: Final = 10.0
"""Seconds for a truncation, an election included."""

PUBLISHES_MAX: Final = 1_024
PUBLISH_BYTES_MAX: Final = 64 * MIB
"""Messages published that JetStream has neither taken nor refused, and their bytes; more are refused here. A node has
a few under way."""

FORGET_AFTER: Final = 30.0
"""Seconds after which an answer to a publish is not waited for any more."""

UNSENT_MAX: Final = 16 * MIB
"""Bytes that NATS has not taken from which on messages on channels are dropped, as they are on any other trouble."""

_OFFLINE: Final = "offline"
"""In JetStream's refusal of a stream for which there are servers enough, but not at present."""

_DIFFERENT: Final = 10_058
_PASSING: Final = (_DIFFERENT, 10_008, 10_009)
"""Another node was first; or JetStream itself says that it is temporary: it has no leader, or another one."""
_NOT_ENABLED: Final = (10_035, 10_039, 10_076)
_PEERS: Final = (10_005, 10_023, 10_047, 10_074)
"""JetStream's error numbers."""


class Missing(OptionError):
    """There is no such stream."""


def _log_fault(error: BaseException) -> None:
    logger.error("a fault of cairnkv itself", exc_info=error)


class Stream:
    """A node's way to its cluster's log."""

    def __init__(self, options: ClusterOptions, *, replicas: int = REPLICAS) -> None:
        """replicas: how many servers keep it."""
        self._options = options
        self._replicas = replicas
        self._name = stream_name(options.name)
        self._log_subject = log_subject(options.name)
        self._channels_subject = channels_subject(options.name)
        self._client: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._connections = 0
        self._consumptions: set[Consumption] = set()
        self._told: list[Callable[[bytes], None]] = []
        # Publishes by their number: until when an answer is waited for, whom to tell of a refusal, bytes.
        self._awaited: dict[int, tuple[float, Callable[[str], None], int]] = {}
        self._awaited_bytes = 0
        self._number = 0
        self._answers_prefix = ""
        self._state: StreamState | None = None
        self._stream_fill = self._account_fill = self._servers_fill = 0.0
        self._payload: int | None = None
        self._sync: Sync = "unproven"
        self._sync_unseen: tuple[str, ...] = ()
        self.failed: Callable[[BaseException], None] = _log_fault
        """Told of a fault of ours, behind which this is of no use any more."""
        self.trouble: str | None = None
        """What is wrong with JetStream as far as it can be seen without publishing, in words; None: nothing."""

    # -- open and close ------------------------------------------------------------------------------------------------

    async def open(self, *, make: bool = True) -> None:
        """Connect, make the stream or check the one there, and see whether NATS syncs. Called once.

        make: whether to make it where there is none; else that is `Missing`.
        Raises `OptionError` for what is not as it should be, saying what would be right; `Unavailable` where NATS or
        JetStream's leader is not there after `OPEN_PATIENCE`.
        """
        options = self._options
        if options.system is None and not options.trust_sync:
            raise OptionError(fsync_check.NOBODY_CAN_SEE)
        self._client = await connection.connect(options, f"cairnkv {options.name}", back=self._connected_again)
        try:
            self._see_payload(self._client.max_payload)
            state = await self._stream_there(make=make)
            self._check(state.config)
            if (most := state.config.get("max_msg_size", -1)) > 0:
                self._see_payload(most)
            self._keep(state)
            await self._see_sync(state)
            self._answers_prefix = self._client.new_inbox()
            await self._client.hear(f"{self._answers_prefix}.*", self._answered)
            await self._client.hear(self._channels_subject, self._heard)
            await self._client.flush()
        except Unavailable:  # it says why itself
            await connection.close(self._client)
            raise
        except (errors.Error, OSError) as error:
            await connection.close(self._client)
            raise Unavailable(f"NATS was lost while the stream was opened: {connection.text_of(error)}") from error
        except BaseException:
            await connection.close(self._client)
            raise
        self._begin(self._look())
        if options.system is not None:
            self._begin(self._look_at_sync())

    async def close(self) -> None:
        """End everything; `entries` ends too. What was published may still be logged."""
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

    async def _stream_there(self, *, make: bool) -> StreamState:
        """The stream, which is made if it is not there."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        refused: float | None = None  # since when
        while True:
            try:
                try:
                    return await self.state()
                except ApiError as error:
                    if error.number != STREAM_NOT_FOUND:
                        raise
                    # Servers that have just started do not know yet what there is.
                    if not make and loop.time() - began > REFUSAL_PATIENCE:
                        raise Missing(f"this NATS has no stream {self._name}") from None
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
                passes = error.number in _PASSING or _OFFLINE in str(error)
                if not passes:
                    refused = loop.time() if refused is None else refused
                    if loop.time() - refused > REFUSAL_PATIENCE:
                        raise OptionError(self._refusal(error)) from None
            if loop.time() - began > OPEN_PATIENCE:
                raise Unavailable(f"stream {self._name} cannot be opened after {OPEN_PATIENCE:g} s: {trouble}")
            note(f"stream {self._name}: {trouble}")
            await asyncio.sleep(RETRY_WAIT)

    def _refusal(self, error: ApiError) -> str:
        text = f"NATS does not make the stream {self._name}: {error}"
        if error.number in _NOT_ENABLED:
            return f"{text}. Enable JetStream in the servers' configuration, and for this account"
        if error.number in _PEERS:
            return (
                f"{text}. It needs {self._replicas} servers that are one cluster and have JetStream, each with room "
                f"for {self._options.limit:,} bytes more (max_file_store there, --log-limit here)"
            )
        return text

    def _check(self, config: Answer) -> None:
        if found := problems(config, self._options, self._replicas):
            raise OptionError(
                f"stream {self._name} of this NATS cannot be a log: {'; '.join(found)}. "
                "Change it (nats stream edit), or choose another --name"
            )

    # -- whether NATS syncs --------------------------------------------------------------------------------------------

    async def _see_sync(self, state: StreamState) -> None:
        if self._options.system is None:
            self._sync = "trusted"
            return
        sight = await self._sight(state)
        if not sight.unsynced:
            self._sync = "proven"
        elif self._options.trust_sync:
            self._sync = "trusted"
            logger.error("%s; --trust-nats-sync has us go on", sight.unsynced_text)
        else:
            raise OptionError(sight.unsynced_text)

    async def _sight(self, state: StreamState) -> fsync_check.Sight:
        sight = await fsync_check.look(self._options, state.cluster, state.peers)
        self._see_payload(sight.payload)
        self._servers_fill = sight.fill
        self._sync_unseen = sight.unseen
        return sight

    async def _look_at_sync(self) -> None:
        """A server may be started with another configuration, or be seen only later."""
        while not self._closed:
            await asyncio.sleep(SYNC_UNSEEN_EVERY if self._sync_unseen else SYNC_EVERY)
            assert self._state is not None
            try:
                sight = await self._sight(self._state)
            except (OptionError, Unavailable) as error:
                note(f"whether NATS syncs cannot be seen at present: {error}")
                continue
            if sight.unsynced:
                logger.error("%s", sight.unsynced_text)
            seen: Sync = "trusted" if self._options.trust_sync else "unproven"
            self._sync = seen if sight.unsynced else "proven"

    @property
    def sync(self) -> Sync:
        """Whether NATS syncs every write."""
        return self._sync

    @property
    def sync_unseen(self) -> tuple[str, ...]:
        """Servers that keep the stream and were down, or cut off, when it was last seen that all others sync."""
        return self._sync_unseen

    # -- what it is like -----------------------------------------------------------------------------------------------

    @property
    def nc(self) -> Connection:
        """The connection. Call it only while the stream is open."""
        assert self._client is not None, "the stream is not open"
        return self._client

    @property
    def js(self) -> JetStreamContext:
        """JetStream, for what else is kept there."""
        return self.nc.jetstream(timeout=connection.ASK_PATIENCE)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a server, which may be cut off itself."""
        return self._client is not None and self._client.is_connected

    @property
    def led_alone(self) -> bool:
        """Whether the stream's leader, when it was asked last, was out of touch with a majority of its servers.

        False where it did not answer: then nobody knows.
        """
        return self.trouble is None and self._seen.led_alone

    @property
    def connections(self) -> int:
        """How many connections there have been behind the first."""
        return self._connections

    @property
    def _seen(self) -> StreamState:
        assert self._state is not None, "the stream is not open"
        return self._state

    @property
    def identity(self) -> Identity:
        """Which stream it is. Does not change: `entries` says when another stands in its place."""
        return self._seen.identity

    @property
    def first(self) -> int:
        """Position of the first message, as last seen."""
        return self._seen.first

    @property
    def last(self) -> int:
        """Position of the last message, as last seen."""
        return self._seen.last

    @property
    def fill(self) -> float:
        """Part of the limit that is used, as last seen: of the stream's, the account's, or a server's disk's."""
        return max(self._stream_fill, self._account_fill, self._servers_fill)

    @property
    def payload_max(self) -> int:
        """Bytes that every server takes in one message, as far as they were seen."""
        assert self._payload is not None, "the stream is not open"
        return self._payload

    def _see_payload(self, most: int) -> None:
        most -= HEADERS_MAX
        if self._payload is None or most < self._payload:
            if self._payload is not None:
                logger.info("NATS takes messages of at most %d bytes", most)
            self._payload = most

    def _connected_again(self) -> None:
        self._connections += 1
        self._see_payload(self.nc.max_payload)

    async def state(self) -> StreamState:
        """Ask what the stream is like now. It may be behind. Raises `NoAnswer`, `ApiError`."""
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

    async def _look(self) -> None:
        """Look at the stream every second."""
        looks = unanswered = 0
        while not self._closed:
            await asyncio.sleep(LOOK_EVERY)
            try:
                state = await self.state()
                if state.identity == self.identity:
                    self._keep(state)
                    for consumption in self._consumptions:
                        consumption.stream_ends(state.last)
                if looks % ACCOUNT_EVERY == 0:
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
                    await self.try_another_server("JetStream does not answer by way of it")
            looks += 1

    async def try_another_server(self, why: str) -> None:
        """Leave this one, by way of which nothing seems to go on. The next may be the same, by chance."""
        await self.nc.leave(why)

    # -- publish -------------------------------------------------------------------------------------------------------

    def publish(self, data: bytes, refused: Callable[[str], None]) -> None:
        """Send a message to be logged, in the order of the calls; only `entries` tells whether it was.

        refused: called with the reason when it was not sent, or JetStream says that it does not take it; never within
        this call, and not for an answer that does not come. It was not logged then.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._awaited and next(iter(self._awaited.values()))[0] < now:
            self._resolve(next(iter(self._awaited)))
        if not self.connected:
            loop.call_soon(refused, "there is no connection to NATS")
        elif len(data) > self.payload_max:
            loop.call_soon(refused, f"an entry has {len(data)} bytes, more than the {self.payload_max} that NATS takes")
        elif len(self._awaited) >= PUBLISHES_MAX or self._awaited_bytes + len(data) > PUBLISH_BYTES_MAX:
            loop.call_soon(refused, "NATS has not answered to what was published before")
        else:
            self._number += 1
            self._awaited[self._number] = now + FORGET_AFTER, refused, len(data)
            self._awaited_bytes += len(data)
            try:
                self.nc.send(self._log_subject, data, f"{self._answers_prefix}.{self._number}")
            except (errors.Error, OSError) as error:
                self._resolve(self._number)
                loop.call_soon(refused, f"it was not sent to NATS: {connection.text_of(error)}")

    def _resolve(self, number: int) -> Callable[[str], None] | None:
        """Do not wait for this answer any more. Returns whom to tell of a refusal."""
        awaited = self._awaited.pop(number, None)
        if awaited is None:
            return None
        self._awaited_bytes -= awaited[2]
        return awaited[1]

    def _answered(self, message: Msg) -> None:
        """JetStream took a message, or did not."""
        refused = self._resolve(int(message.subject.rpartition(".")[2]))
        if refused is None:
            return
        if not message.data:
            refused("nobody takes what is published: the stream has no leader at present, or is gone")
        elif b'"error"' in message.data:
            error = json.loads(message.data)["error"]
            if error.get("err_code") in NO_ROOM:
                self._stream_fill = 1.0  # until it is looked at again
            refused(f"JetStream does not take it: {error.get('description', error)}")

    # -- consume -------------------------------------------------------------------------------------------------------

    def entries(self, after: int) -> AsyncGenerator[list[tuple[int, bytes]], None]:
        """Every message from position after + 1 on, with its position, in order, exactly once, until `close`.

        In lists of what has come together. Raises `Purged` when the next one is no longer there, `PastEnd` when the
        stream ends before `after`, `Replaced` when it was deleted or made anew.
        """
        return self._consume(after)

    async def _consume(self, after: int) -> AsyncGenerator[list[tuple[int, bytes]], None]:
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
        """Remove everything up to and with this position, which is not beyond the end.

        Raises `Unavailable` when it is not known after `TRUNCATE_PATIENCE` whether that was done; to do it again does
        no harm. Raises `Replaced`.
        """

        async def ask() -> None:
            state = await self.state()
            if state.identity != self.identity:
                raise Replaced(state.identity)
            if up_to < state.first:
                return
            if up_to > state.last:  # a purge beyond the end moves the end: positions would be left out
                raise NoAnswer(f"the stream ends at position {state.last}")
            await self._ask("STREAM.PURGE", {"seq": up_to + 1})
            self._keep(await self.state())

        what = f"stream {self._name} cannot be truncated up to position {up_to}"
        await patiently(self.nc, what, ask, TRUNCATE_PATIENCE)

    async def begin_behind(self, position: int) -> None:
        """Have the stream begin, and go on, behind a position at or beyond its end: all that it has is removed.

        For repair only. Raises `Unavailable`, `OptionError` where something was logged meanwhile; then it may be empty.
        """
        await self._ask_of_operator("STREAM.PURGE", {"seq": position + 1})
        self._keep(await self.state())
        if (self.first, self.last) != (position + 1, position):
            raise OptionError(
                f"stream {self._name} has entries from {self.first:,} to {self.last:,} now: "
                "somebody has logged meanwhile"
            )

    async def seconds_silent(self) -> float:
        """How long ago the newest message was logged, by the clocks of NATS. Raises `Unavailable`."""
        answer = await self._ask_of_operator("STREAM.INFO")
        newest, now = (nanoseconds(time) for time in (answer["state"]["last_ts"], answer["ts"]))
        return (now - newest) / 1e9 if newest > 0 else math.inf

    async def _ask_of_operator(self, what: str, request: Answer | None = None) -> Answer:
        try:
            return await self._ask(what, request)
        except (NoAnswer, ApiError) as error:
            raise Unavailable(f"stream {self._name}: {error}") from None

    # -- messages that are not kept ------------------------------------------------------------------------------------

    def broadcast(self, data: bytes) -> None:
        """Send a message to the other nodes: once, or not at all."""
        if self._payload is not None and len(data) > self._payload:
            note(f"a message of {len(data):,} bytes on a channel reaches this node only: NATS takes {self._payload:,}")
        elif self.connected and self.nc.unsent < UNSENT_MAX:
            with contextlib.suppress(errors.Error, OSError):
                self.nc.send(self._channels_subject, data)

    def on_broadcast(self, told: Callable[[bytes], None]) -> None:
        """Call this with each message that another node has broadcast."""
        self._told.append(told)

    def _heard(self, message: Msg) -> None:
        for told in self._told:
            told(message.data)

"""Read every message of the stream, in order, exactly once, despite failures of servers and connections.

JetStream pushes to a short-lived consumer of this node: in memory, on one server, without acknowledgements. Both the
stream and the consumer number its messages, so a lost message is detected. After a loss, or without heartbeats, a new
consumer begins where this one has stopped. A server that is behind the stream, as after a pause, still sends
heartbeats, which have the consumer's position and not the stream's; so the position is compared with that of the
stream's leader.

Invariants: each delivered message has position + 1, and comes from a consumer that was verified, after its creation, to
belong to the requested stream. The buffer for a slow reader is bounded: the consumer gets a signal to continue only if
little is buffered, and JetStream sends at most its window ahead.

nats-py has such a consumer too; with its defaults, it stalls for 18 s when a server dies.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from nats import errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from cairnkv.limits import MIB
from cairnkv.replication.nats.connection import ApiError, Connection, NoAnswer, ask, note
from cairnkv.replication.nats.stream_config import Identity, StreamState

HEARTBEAT: Final = 0.5
"""Seconds between two heartbeats of an idle consumer."""

CHECK_EVERY: Final = 0.25
SILENCES_MAX: Final = 6
"""A consumer without messages for so many checks in a row, so many seconds apart, is replaced: three heartbeats. Checks
are counted instead of time, so that a process that was paused itself first reads the messages of that time."""

STALLS_MAX: Final = 3
"""A consumer without messages, although the stream has new ones, is replaced after so many checks in a row, a second
apart."""

CREATE_TIMEOUT: Final = 1.0
"""Seconds for JetStream to create a consumer. It takes milliseconds, unless JetStream chooses a failed server."""

RETRY_WAIT: Final = 0.1
"""Seconds between two attempts to create one."""

ABANDONED_AFTER: Final = 5.0
"""Seconds after which JetStream deletes a consumer without a subscriber."""

BUFFER_LOW: Final = 8 * MIB
"""Maximum buffered bytes at which the consumer gets a signal to continue."""

BUFFER_MAX: Final = 64 * MIB
"""Maximum buffered bytes: `BUFFER_LOW`, and JetStream's window of at most 32 MiB. Further messages are dropped, and
requested again later."""

MESSAGE_COST: Final = 128
"""Estimated bytes of memory of a message besides its data."""

DOUBT: Final = 5.0
"""Seconds for which JetStream must report that the stream is missing, or ends before our position, before an error is
raised: a new leader may not have applied all its entries."""

SKIPS_MAX: Final = 3
"""Number of consumers that must skip the same message before it counts as purged: maybe only the first one's server
lacks it."""

STREAM_NOT_FOUND: Final = 10_059


class Interrupted(Exception):
    """The requested messages are not available. The text has the reason."""


class Purged(Interrupted):
    """The next message was purged.

    first: the stream's first position, or that of the next existing message.
    """

    def __init__(self, first: int) -> None:
        super().__init__(f"the stream begins at position {first}; earlier messages were purged")
        self.first = first


class PastEnd(Interrupted):
    """The stream ends before the requested position: it has lost messages, or is another one.

    last: its last position.
    """

    def __init__(self, last: int) -> None:
        super().__init__(f"the stream ends at position {last}, before messages that this node has read")
        self.last = last


class Replaced(Interrupted):
    """The stream was deleted, and maybe created again.

    identity: of the new stream, if there is one.
    """

    def __init__(self, identity: Identity | None) -> None:
        super().__init__(
            "the stream does not exist" if identity is None else "the stream was deleted and created again"
        )
        self.identity = identity


class Consumption:
    """A reader of the stream."""

    def __init__(
        self, client: Connection, identity: Identity, after: int, state: Callable[[], Awaitable[StreamState]]
    ) -> None:
        """state: asks JetStream for the state of the stream; raises `NoAnswer`, `ApiError`."""
        self._client = client
        self._identity = identity
        self._state = state
        self.position = after
        """The position of the newest accepted message."""
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._woken = asyncio.Event()
        self._stopped = False
        self._consumer: _Consumer | None = None  # the current one
        self._checked = after  # position at the last call of `stream_ends`
        self._stalls = 0  # calls in a row at this position, before the stream's end
        self._skips = 0  # consumers in a row that skipped the next message
        self._skipped_to = 0  # position to which the last of them skipped

    def stop(self) -> None:
        """End `batches`."""
        self._stopped = True
        self._woken.set()

    def stream_ends(self, last: int) -> None:
        """Report the position of the stream's end. Call it every second."""
        if last <= self.position or self.position != self._checked or not self.has_room or self._consumer is None:
            self._checked, self._stalls = self.position, 0
            return
        self._stalls += 1
        if self._stalls >= STALLS_MAX:
            self._stalls = 0
            self._consumer.end(f"its server is behind: the stream ends at position {last}, and it sends nothing")

    async def batches(self) -> AsyncGenerator[list[tuple[int, bytes]], None]:
        """Yield lists of positions and messages that arrived together, until `stop`. Raises `Interrupted`."""
        try:
            while not self._stopped:
                if (consumer := self._consumer) is None:
                    self._consumer = await self._begin()
                    continue
                if not self._waiting and consumer.ended is None:
                    await self._woken.wait()
                self._woken.clear()
                if self._waiting:
                    batch = self._waiting
                    self._waiting, self._waiting_bytes = [], 0
                    consumer.resume()
                    yield batch
                elif consumer.ended is not None:
                    if self._skips >= SKIPS_MAX:
                        raise Purged(self._skipped_to)
                    after = f"new consumer after position {self.position}"
                    note(f"stream {self._identity.stream}: {after}: {consumer.ended}")
                    self._consumer = None
                    await consumer.remove()
        finally:
            if self._consumer is not None:
                await self._consumer.remove()

    async def _begin(self) -> "_Consumer | None":
        """Create a consumer of the right stream at the right position; None after `stop`."""
        loop = asyncio.get_running_loop()
        doubted: float | None = None  # since this time
        while not self._stopped:
            doubt: Interrupted | None = None
            try:
                return await self._attempt(self.position)
            except PastEnd as error:
                doubt = error
            except NoAnswer as error:
                note(f"stream {self._identity.stream}: cannot create a consumer: {error}")
            except ApiError as error:
                note(f"stream {self._identity.stream}: cannot create a consumer: {error}")
                if error.number == STREAM_NOT_FOUND:
                    doubt = Replaced(None)
            if doubt is None:
                doubted = None
            elif doubted is None:
                doubted = loop.time()
            elif loop.time() - doubted > DOUBT:
                raise doubt
            await asyncio.sleep(RETRY_WAIT)
        return None

    async def _attempt(self, start: int) -> "_Consumer":
        """Create a consumer, and verify its stream. Raises `Interrupted`, `NoAnswer`, `ApiError`."""
        consumer = await _Consumer.make(self, self._client, self._identity.stream, start + 1)
        try:
            state = await self._state()
            if state.identity != self._identity:
                raise Replaced(state.identity)
            if state.first > start + 1:
                raise Purged(state.first)
            if state.last < start:
                raise PastEnd(state.last)
        except BaseException:
            # Its messages may be of another stream.
            self._waiting, self._waiting_bytes = [], 0
            self.position = start
            await consumer.remove()
            raise
        return consumer

    # -- called by consumers -------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether a consumer may continue."""
        return self._waiting_bytes < BUFFER_LOW

    def take(self, position: int, data: bytes) -> str | None:
        """Accept the next message of a consumer, or return the reason to end the consumer."""
        expected = self.position + 1
        if position < expected:  # a duplicate, since its server was behind at its creation
            return None
        if position > expected:
            return self.skipped(position)
        cost = len(data) + MESSAGE_COST
        if self._waiting_bytes + cost > BUFFER_MAX:
            self._woken.set()
            return "the reader is too slow"
        self._skips = 0
        self.position = position
        self._waiting.append((position, data))
        self._waiting_bytes += cost
        self._woken.set()
        return None

    def skipped(self, to: int) -> str:
        """Note that a consumer without lost messages has skipped positions. Returns the reason to end it."""
        self._skips += 1
        self._skipped_to = to
        self._woken.set()
        return f"it skips to position {to}"

    def wake(self) -> None:
        """Note that a consumer has ended."""
        self._woken.set()


class _Consumer:
    """A consumer of JetStream."""

    def __init__(self, consumption: Consumption, client: Connection, stream: str) -> None:
        self._consumption = consumption
        self._client = client
        self._stream = stream
        self._name = client.new_inbox().rpartition(".")[2]
        self._subscription: Subscription | None = None
        self._received = 0  # messages of the consumer
        self._stalled: str | None = None  # the subject for "continue", if it waits for that
        self._silences = 0  # checks in a row without a message
        self._next_check: asyncio.TimerHandle | None = None
        self.ended: str | None = None
        """The reason for its end, if it has ended."""

    @classmethod
    async def make(cls, consumption: Consumption, client: Connection, stream: str, start: int) -> "_Consumer":
        """Create one that begins at position `start`. Raises `NoAnswer`, `ApiError`."""
        self = cls(consumption, client, stream)
        if not client.is_connected:
            raise NoAnswer("not connected to NATS")
        inbox = client.new_inbox()
        try:
            self._subscription = await client.on_message(inbox, self._receive)
        except (errors.Error, OSError) as error:
            raise NoAnswer(f"cannot subscribe: {error}") from error
        config = {
            "name": self._name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * 1e9),
            "inactive_threshold": int(ABANDONED_AFTER * 1e9),
            "num_replicas": 1,
            "mem_storage": True,
        }
        request = {"stream_name": stream, "config": config, "action": "create"}
        try:
            await ask(client, f"$JS.API.CONSUMER.CREATE.{stream}.{self._name}", request, CREATE_TIMEOUT)
        except BaseException:
            await self.remove()
            raise
        if self.ended is None:
            self._schedule_check()
        return self

    def _schedule_check(self) -> None:
        self._next_check = asyncio.get_running_loop().call_later(CHECK_EVERY, self._check)

    def _check(self) -> None:
        self._silences += 1
        if self._silences >= SILENCES_MAX:
            self.end("it is silent")
        else:
            self._schedule_check()

    def _cancel_check(self) -> None:
        if self._next_check is not None:
            self._next_check.cancel()

    async def remove(self) -> None:
        """Delete it. If the request is lost, JetStream deletes it after `ABANDONED_AFTER`."""
        self.ended = self.ended or "it is not needed"
        self._cancel_check()
        if self._subscription is None:
            return
        with suppress(errors.Error, OSError):
            await self._subscription.unsubscribe()
            if self._client.is_connected:
                unused = self._client.new_inbox()
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"", reply=unused)

    def resume(self) -> None:
        """Tell it to continue, if it waits for that and there is room in the buffer."""
        if self._stalled is not None and self._consumption.has_room:
            subject, self._stalled = self._stalled, None
            with suppress(errors.Error, OSError):  # each heartbeat repeats that it is stalled
                self._client.send(subject, b"")

    def _receive(self, message: Msg) -> None:
        if self.ended is not None:
            return
        self._silences = 0
        headers = message.headers
        if headers and "Status" in headers and not message.data:
            self._control(message, headers)
            return
        tokens = message.reply.split(".")
        # $JS.ACK.STREAM.CONSUMER.DELIVERED.POSITION.NUMBER.TIME.PENDING, or with DOMAIN.ACCOUNT before the stream
        position, number = tokens[5:7] if len(tokens) == 9 else tokens[7:9]
        if int(number) != self._received + 1:
            self.end(f"its messages {self._received + 1} to {int(number) - 1} were lost")
            return
        self._received += 1
        if (reason := self._consumption.take(int(position), message.data)) is not None:
            self.end(reason)

    def _control(self, message: Msg, headers: dict[str, Any]) -> None:
        if headers["Status"] != "100":
            self.end(f"JetStream ended it: {headers['Status']} {headers.get('Description', '')}")
            return
        if message.reply:  # a flow control request
            self._stalled = message.reply
        elif "Nats-Consumer-Stalled" in headers:
            self._stalled = headers["Nats-Consumer-Stalled"]
        self.resume()
        sent = int(headers.get("Nats-Last-Consumer", self._received))
        if sent != self._received:
            self.end(f"its messages {self._received + 1} to {sent} were lost")
        elif (last := int(headers.get("Nats-Last-Stream", 0))) > self._consumption.position:
            self.end(self._consumption.skipped(last + 1))

    def end(self, reason: str) -> None:
        """End it: accept no more messages."""
        self.ended = reason
        self._cancel_check()
        self._consumption.wake()

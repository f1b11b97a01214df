"""Every message of the stream, in order, exactly once, across whatever happens to servers and connections.

JetStream pushes to a short-lived consumer of our own: in memory, on one server, without acknowledgements. Its messages
are numbered twice, by the stream and by the consumer, so that whatever is lost on the way shows; then, or when its
heartbeats stay away, another is made that begins where this one got to. A server that is behind the stream, as one may
be that was paused, sends heartbeats all the same, and they say how far the consumer is, not the stream: so that is held
against what the stream's leader says.

What always holds: what is handed out is position + 1, and was sent by a consumer of which it was seen, after it was
made, that it belongs to the stream that was asked for. How much waits for a slow reader is bounded: the consumer is
told to go on only when little waits, and JetStream sends at most its window ahead.

nats-py has such a consumer too; with its defaults it stalls for 18 s when a server dies.
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
"""Seconds between two heartbeats of a consumer that has nothing else to send."""

LOOK_EVERY: Final = 0.25
SILENCES_MAX: Final = 6
"""A consumer that was silent when it is looked at so many times in a row, so many seconds apart, is given up: three
heartbeats. Looks are counted, not time, so that a process that was paused itself reads first what came meanwhile."""

STALLS_MAX: Final = 3
"""A consumer that has sent nothing, though the stream went on, when it is looked at so many times in a row, a second
apart, is given up."""

CREATE_PATIENCE: Final = 1.0
"""Seconds for JetStream to make a consumer, which takes milliseconds, unless it chooses a server that is gone."""

RETRY_WAIT: Final = 0.1
"""Seconds between two attempts to make one."""

ABANDONED_AFTER: Final = 5.0
"""Seconds after which JetStream removes a consumer that nobody listens to."""

BUFFER_LOW: Final = 8 * MIB
"""Bytes that may wait for the reader while the consumer is told to go on."""

BUFFER_MAX: Final = 64 * MIB
"""Bytes that may wait at all: `BUFFER_LOW`, and JetStream's window of at most 32 MiB. More are not taken, and asked for
again when the reader comes."""

MESSAGE_COST: Final = 128
"""Bytes that a message takes beside its data, by estimate."""

DOUBT: Final = 5.0
"""Seconds for which JetStream has to say that a stream is gone, or ends before our position, until it is believed: a
leader that was just elected may not have applied all it has."""

SKIPS_MAX: Final = 3
"""Consumers that have to leave out the same message, until it is believed that the stream does not have it any more:
the server that the first was on may be the only one without it."""

STREAM_NOT_FOUND: Final = 10_059


class Interrupted(Exception):
    """The messages asked for cannot be had; the text says why."""


class Purged(Interrupted):
    """The next message is no longer there: the stream, or what is left of it, begins later.

    first: its first position, or that of the next message there is.
    """

    def __init__(self, first: int) -> None:
        super().__init__(f"the stream begins at position {first}; what comes before was purged")
        self.first = first


class PastEnd(Interrupted):
    """The stream ends before the position that was asked for: it has lost messages, or is another one.

    last: its last position.
    """

    def __init__(self, last: int) -> None:
        super().__init__(f"the stream ends at position {last}, before what was seen of it")
        self.last = last


class Replaced(Interrupted):
    """The stream was deleted, and maybe made anew.

    identity: of the one there is now, if there is one.
    """

    def __init__(self, identity: Identity | None) -> None:
        super().__init__("the stream is gone" if identity is None else "the stream was deleted and made anew")
        self.identity = identity


class Consumption:
    """One reader's way through the stream."""

    def __init__(
        self, client: Connection, identity: Identity, after: int, state: Callable[[], Awaitable[StreamState]]
    ) -> None:
        """state: asks JetStream what the stream is like now; raises `NoAnswer`, `ApiError`."""
        self._client = client
        self._identity = identity
        self._state = state
        self._position = after  # of the newest message taken
        self._waiting: list[tuple[int, bytes]] = []
        self._waiting_bytes = 0
        self._woken = asyncio.Event()
        self._stopped = False
        self._consumer: _Consumer | None = None  # the one at hand
        self._stood = after  # where it was as the stream's end was told last
        self._stalls = 0  # times in a row that it stood there, and the stream did not end there
        self._skips = 0  # consumers in a row that left out what comes next
        self._skipped_to = 0  # where the last of them went on

    def stop(self) -> None:
        """Have `batches` end."""
        self._stopped = True
        self._woken.set()

    def stream_ends(self, last: int) -> None:
        """The stream had come to this position a moment ago. To be told every second."""
        if last <= self._position or self._position != self._stood or not self.little_waits or self._consumer is None:
            self._stood, self._stalls = self._position, 0
            return
        self._stalls += 1
        if self._stalls >= STALLS_MAX:
            self._stalls = 0
            self._consumer.end(f"the stream has come to position {last}, and it sends nothing: its server is behind")

    async def batches(self) -> AsyncGenerator[list[tuple[int, bytes]], None]:
        """Positions and messages, in lists of what has come together, until `stop`. Raises `Interrupted`."""
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
                    consumer.go_on()
                    yield batch
                elif consumer.ended is not None:
                    if self._skips >= SKIPS_MAX:
                        raise Purged(self._skipped_to)
                    after = f"asking again after position {self._position}"
                    note(f"stream {self._identity.stream}: {after}: {consumer.ended}")
                    self._consumer = None
                    await consumer.remove()
        finally:
            if self._consumer is not None:
                await self._consumer.remove()

    async def _begin(self) -> "_Consumer | None":
        """A consumer of the right stream that begins at the right position; None: stopped."""
        loop = asyncio.get_running_loop()
        doubted: float | None = None  # since when
        while not self._stopped:
            doubt: Interrupted | None = None
            try:
                return await self._attempt(self._position)
            except PastEnd as error:
                doubt = error
            except NoAnswer as error:
                note(f"stream {self._identity.stream}: cannot be consumed: {error}")
            except ApiError as error:
                note(f"stream {self._identity.stream}: cannot be consumed: {error}")
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
        """Make a consumer, and then look whose it is. Raises `Interrupted`, `NoAnswer`, `ApiError`."""
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
            # What it sent meanwhile may be another stream's.
            self._waiting, self._waiting_bytes = [], 0
            self._position = start
            await consumer.remove()
            raise
        return consumer

    # -- what consumers say --------------------------------------------------------------------------------------------

    @property
    def little_waits(self) -> bool:
        """Whether a consumer may go on."""
        return self._waiting_bytes < BUFFER_LOW

    @property
    def position(self) -> int:
        """Of the newest message taken."""
        return self._position

    def take(self, position: int, data: bytes) -> str | None:
        """The next message of a consumer. Returns why it is not taken, if it is not."""
        expected = self._position + 1
        if position < expected:  # its server was behind as it was made
            return None
        if position > expected:
            return self.skipped(position)
        cost = len(data) + MESSAGE_COST
        if self._waiting_bytes + cost > BUFFER_MAX:
            self._woken.set()
            return "its reader is slow"
        self._skips = 0
        self._position = position
        self._waiting.append((position, data))
        self._waiting_bytes += cost
        self._woken.set()
        return None

    def skipped(self, to: int) -> str:
        """A consumer that has lost nothing goes on at a later position."""
        self._skips += 1
        self._skipped_to = to
        self._woken.set()
        return f"it goes on at position {to}"

    def wake(self) -> None:
        """A consumer has ended."""
        self._woken.set()


class _Consumer:
    """One consumer of JetStream's, from its making to its end."""

    def __init__(self, consumption: Consumption, client: Connection, stream: str) -> None:
        self._consumption = consumption
        self._client = client
        self._stream = stream
        self._name = client.new_inbox().rpartition(".")[2]
        self._subscription: Subscription | None = None
        self._received = 0  # messages, as the consumer counts them
        self._held_up: str | None = None  # where to say that it may go on
        self._silences = 0  # looks in a row between which nothing came
        self._next_look: asyncio.TimerHandle | None = None
        self.ended: str | None = None
        """Why nothing more is taken of it."""

    @classmethod
    async def make(cls, consumption: Consumption, client: Connection, stream: str, start: int) -> "_Consumer":
        """One that begins at position `start`. Raises `NoAnswer`, `ApiError`."""
        self = cls(consumption, client, stream)
        if not client.is_connected:
            raise NoAnswer("not connected to NATS")
        inbox = client.new_inbox()
        try:
            self._subscription = await client.hear(inbox, self._receive)
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
            await ask(client, f"$JS.API.CONSUMER.CREATE.{stream}.{self._name}", request, CREATE_PATIENCE)
        except BaseException:
            await self.remove()
            raise
        if self.ended is None:
            self._look_later()
        return self

    def _look_later(self) -> None:
        self._next_look = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)

    def _look(self) -> None:
        self._silences += 1
        if self._silences >= SILENCES_MAX:
            self.end("it is silent")
        else:
            self._look_later()

    def _look_no_more(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()

    async def remove(self) -> None:
        """Take no more of it; JetStream removes it when it hears of that, or soon by itself."""
        self.ended = self.ended or "it is not needed any more"
        self._look_no_more()
        if self._subscription is None:
            return
        with suppress(errors.Error, OSError):
            await self._subscription.unsubscribe()
            if self._client.is_connected:
                nobody = self._client.new_inbox()
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"", reply=nobody)

    def go_on(self) -> None:
        """Tell it so, if it waits for that and little waits here."""
        if self._held_up is not None and self._consumption.little_waits:
            subject, self._held_up = self._held_up, None
            with suppress(errors.Error, OSError):  # it says again that it is held up, with each heartbeat
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
            self.end(f"of its messages {self._received + 1} to {int(number) - 1} were lost")
            return
        self._received += 1
        if (reason := self._consumption.take(int(position), message.data)) is not None:
            self.end(reason)

    def _control(self, message: Msg, headers: dict[str, Any]) -> None:
        if headers["Status"] != "100":
            self.end(f"JetStream says {headers['Status']} {headers.get('Description', '')}")
            return
        if message.reply:  # asks whether it may go on
            self._held_up = message.reply
        elif "Nats-Consumer-Stalled" in headers:
            self._held_up = headers["Nats-Consumer-Stalled"]
        self.go_on()
        sent = int(headers.get("Nats-Last-Consumer", self._received))
        if sent != self._received:
            self.end(f"of its messages {self._received + 1} to {sent} were lost")
        elif (last := int(headers.get("Nats-Last-Stream", 0))) > self._consumption.position:
            self.end(self._consumption.skipped(last + 1))

    def end(self, reason: str) -> None:
        """Take no more of it."""
        self.ended = reason
        self._look_no_more()
        self._consumption.wake()

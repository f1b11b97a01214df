"""A connection of the asyncio client: sends commands in batches, and passes replies to their calls.

Invariants: replies arrive in the order of commands, and each has a slot. If a call is cancelled or times out, its slot
stays, and the connection discards the late reply. The commands of one step of the loop leave in one write; if calls
came one by one before, the first one leaves at once. The number of waiting calls has a limit.
"""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from cairnkv.client.address import Endpoint, shown
from cairnkv.client.aio.dialing import dial_async
from cairnkv.client.credentials import Credentials
from cairnkv.client.exchange import ReplyDecoder, command_parts, parts_with
from cairnkv.client.login import check_greeting, greeting
from cairnkv.client.retry import lost, not_reached
from cairnkv.client.wrong_server import (
    LINES,
    PROBE,
    PROBE_ANSWER_BYTES,
    TLS_PROBE,
    probe_at,
    probe_seconds,
    wrong_server,
    wrong_server_by_probe,
)
from cairnkv.commands import Command, Failure, Reply
from cairnkv.errors import PeerError, Unavailable, WrongServer
from cairnkv.installation import native_path_in_use
from cairnkv.limits import CLIENT_IN_FLIGHT_MAX
from cairnkv.protocol.native import CommandFlag
from cairnkv.sockets import end_sending_below_tls

if TYPE_CHECKING:
    from cairnkv.client.tls import Tls

if TYPE_CHECKING or not native_path_in_use():
    from cairnkv.client.aio.reply_future import ReplyFuture, Waking
else:
    from cairnkv.client.aio.reply_future_native import ReplyFuture, Waking

JOIN_BYTES: Final = 64 * 1024
"""Maximum bytes of commands that the connection joins for one write. It writes larger batches in pieces, uncopied."""

UNSENT_PAUSE: Final = 1024 * 1024
"""Bytes of unsent commands above which further calls wait."""

FINAL_FAILURE_BYTES: Final = 64 * 1024
"""Maximum bytes that the client reads after sending has failed."""

AWAKE_SECONDS: Final = 100e-6
"""Seconds that the loop polls for replies after a write. A server on the same computer often answers earlier, and
earlier than the system can wake a sleeping process."""

ASLEEP_MAX: Final = 64
"""Maximum number of writes without polling after polling was in vain."""

CHECKS_PER_TIMEOUT: Final = 10
"""Number of checks for timeouts in one timeout or silence: a call may time out a tenth late."""

Silence: TypeAlias = Callable[[float], float | None]
"""Returns, for a time of the loop, the seconds of silence after which reads fail, so that the client asks another node.
None: reads wait."""

_offer_processor: Final = getattr(os, "sched_yield", None)  # Windows has none


class Connection(asyncio.Protocol):
    """A connection.

    usable: whether it accepts calls. ended: the reason why it does not.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        timeout: float,
        silence: Silence | None = None,
        *,
        tls: bool = False,
    ) -> None:
        """silence: None if there is only one endpoint. tls: whether the transport has TLS."""
        self.endpoint = endpoint
        self.name = shown(endpoint)
        self.usable = True
        self.ended = ""
        self._loop = loop
        self._timeout = timeout
        self._silence = silence
        self._tls = tls
        self._lost_by: Exception | None = None
        self._retired = False
        self._transport: asyncio.Transport
        self._decoder = ReplyDecoder()
        self._answered = False
        self._probing: asyncio.Task[None] | None = None
        self._wrong: WrongServer | None = None
        self._peer: Any = None
        self._family = socket.AF_INET
        self._slots: deque[ReplyFuture] = deque()
        self._outbox: list[bytes] = []
        self._alone = False  # whether the last write was of one command, with no other waiting
        self._waking = Waking(loop)
        self._heard = loop.time()  # the time of the last received bytes, or of the connection
        self._checking: asyncio.TimerHandle | None = None
        self._awake_from = 0.0  # the time since which the loop polls for replies; 0 if it does not
        self._asleep = 0  # the number of next writes without polling
        self._asleep_next = 1  # that number after polling in vain
        self._paused = False
        self._at_work = False  # stays True if an exception of a signal handler interrupts a step
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()

    # -- calls ----------------------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """Whether calls must wait for `room`."""
        return self.usable and (self._paused or len(self._slots) >= CLIENT_IN_FLIGHT_MAX)

    async def room(self, deadline: float) -> None:
        """Wait until there may be room. Raises `Unavailable`, with nothing sent, after the deadline."""
        waiting = self._loop.create_future()
        self._waiting_for_room.append(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                await waiting
        except asyncio.CancelledError:
            self._let_in()  # another call may use the room of this one
            raise
        except TimeoutError:
            raise Unavailable(
                f"no room in time on the connection to {self.name}; {len(self._waiting_for_room):,} commands wait"
            ) from None

    def end_sending(self) -> None:
        """Let the server end a TAKE that waits. The reply still arrives, and the connection accepts no more calls."""
        self.retire()
        if not self.owes:
            return
        if self._tls:
            end_sending_below_tls(self._transport.get_extra_info("socket").fileno())
        else:
            self._transport.write_eof()

    def submit(self, command: Command, deadline: float, flag: CommandFlag | None = None) -> ReplyFuture:
        """Send a command together with the others of this step of the loop. Returns the future of the reply."""
        future = ReplyFuture(command.spec, deadline, self._waking)
        self._end_if_interrupted()
        if not self.usable:
            future.fail(self._wrong or Unavailable(f"the connection to {self.name} was lost"))
            return future
        at_once = self._alone and not self._slots  # calls come one by one, so waiting for others is of no use
        if not at_once and not self._outbox:
            self._loop.call_soon(self._flush)
        parts = command_parts(command) if flag is None else parts_with(flag, command)
        self._at_work = True
        self._outbox += parts
        self._slots.append(future)
        self._at_work = False
        if at_once:
            self._flush()
        if self._checking is None:
            self._check_later()
        return future

    async def greet(self, credentials: Credentials | None, deadline: float) -> None:
        """Log in and send a PING, in one write, and await the replies: the system also accepts for a hung server.

        Raises OSError, PeerError or `AccessDenied`.
        """
        commands = greeting(credentials)
        sent = [self.submit(command, deadline) for command in commands]
        try:
            outcomes = [await _outcome(future) for future in sent]
        finally:
            for future in sent:
                future.cancel()  # after a timeout
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, Unavailable):
                if self._tls and isinstance(self._lost_by, OSError):
                    from cairnkv.client.tls import handshake_error  # imported before

                    raise handshake_error(self._lost_by, self.name)
                raise ConnectionResetError(self.ended)
            if isinstance(outcome, PeerError):
                raise outcome
            check_greeting(command, outcome, self.name, credentials, tls=self._tls)
        if not self.usable:  # the reply was a failure that ends the connection
            raise ConnectionRefusedError(self.ended)

    @property
    def owes(self) -> bool:
        """Whether a call awaits a reply."""
        return not all(slot.done() for slot in self._slots)

    def retire(self) -> None:
        """Accept no more calls, and close the connection when no call awaits a reply."""
        if self.usable:
            self._flush()
            self.usable = False
            self._let_in()
        self._retired = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._retired and not self.owes:
            self.close(self.ended or "it was left for another node")

    def close(self, why: str) -> None:
        """Close the connection. Waiting calls fail with the reason."""
        self._transport.abort()  # first, so that `connection_lost` runs even if the rest is interrupted
        self._lose(why)

    def _end_if_interrupted(self) -> None:
        """Close the connection if an interruption may have mixed up commands, slots and replies."""
        if self._at_work:
            self.close("an exception interrupted it")

    def _flush(self) -> None:
        self._end_if_interrupted()
        self._at_work = True
        parts, self._outbox = self._outbox, []
        self._write(parts)
        self._at_work = False

    def _write(self, parts: list[bytes]) -> None:
        if not parts or not self.usable:
            return
        self._alone = len(self._slots) == 1
        if self._asleep:
            self._asleep -= 1
        elif not self._awake_from:
            self._awake_from = self._loop.time()
            self._loop.call_soon(self._stay_awake)
        if sum(map(len, parts)) <= JOIN_BYTES:
            self._transport.write(b"".join(parts))
        else:
            for part in parts:  # in some versions asyncio's writelines does not call pause_writing (CVE-2024-12254)
                self._transport.write(part)

    def _stay_awake(self) -> None:
        """Let the loop poll its sockets again at once, until a reply arrives or `AWAKE_SECONDS` have passed.

        Other callbacks run meanwhile.
        """
        if self._heard >= self._awake_from:
            self._awake_from = 0.0
            self._asleep_next = 1
        elif self._loop.time() < self._awake_from + AWAKE_SECONDS:
            if _offer_processor is not None:
                _offer_processor()  # the server may wait for it
            self._loop.call_soon(self._stay_awake)
        else:
            self._awake_from = 0.0
            self._asleep = self._asleep_next
            self._asleep_next = min(2 * self._asleep_next, ASLEEP_MAX)

    # -- callbacks of the loop ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not subclasses
        self._transport.set_write_buffer_limits(high=UNSENT_PAUSE)
        self._peer = transport.get_extra_info("peername")
        self._family = socket.AF_INET6 if isinstance(self._peer, tuple) and len(self._peer) == 4 else socket.AF_INET
        if isinstance(self.endpoint, str):
            self._peer, self._family = self.endpoint, socket.AF_UNIX

    def data_received(self, data: bytes) -> None:
        self._end_if_interrupted()
        self._heard = self._loop.time()
        if not self._answered:
            if (wrong := wrong_server(data, self.name)) is not None:
                self._lose_to(wrong)
                return
            self._answered = True
        decoder, slots = self._decoder, self._slots
        self._at_work = True
        decoder.feed(data)
        try:
            while slots and (reply := decoder.reply(slots[0].spec)) is not None:
                slots[0].settle(reply)  # first, so that an interruption leaves no call waiting
                slots.popleft()
                if isinstance(reply, Failure) and reply.code.closes:
                    self._transport.abort()
                    self._lose(reply.message, behind=reply)
                    return
            if not slots and decoder.pending:
                # The server ends a quiet connection with a failure that answers no command.
                self.close("it sent a reply to no command")
                return
        except PeerError as error:
            self._transport.abort()
            self._lose(str(error), wrong=error)
            return
        self._at_work = False
        self._let_in()
        if self._retired:
            self._end_if_done()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._let_in()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost_by = exc
        if exc is not None and self._slots and not self._tls:
            self._read_final_failure()
        why = f"connection lost ({exc or 'the server closed it'})"
        if self.usable and not self._answered and self._slots and not self._tls:
            self.usable = False
            self.ended = why
            self._probing = self._loop.create_task(self._probe_closed(why))
        else:
            self._lose(why)

    def _read_final_failure(self) -> None:
        """After sending has failed, read the failure with which the server ended the connection, if it arrived."""
        connected = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be closed or hidden
            if data := os.read(connected.fileno(), FINAL_FAILURE_BYTES):
                self.data_received(data)

    # -- ends -----------------------------------------------------------------------------------------------

    def _lose_to(self, wrong: WrongServer) -> None:
        """Close the connection: the server has another protocol."""
        self._wrong = wrong
        self._transport.abort()
        self._lose(str(wrong), wrong=wrong)

    def _lose(
        self, why: str, *, timed_out: bool = False, behind: Failure | None = None, wrong: PeerError | None = None
    ) -> None:
        """Become unusable: fail every slot, and wake the calls that wait for room."""
        self.usable = False
        self.ended = self.ended or why
        self._outbox.clear()
        if self._checking is not None:
            self._checking.cancel()
            self._checking = None
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None
        for slot in self._slots:
            if not slot.done():
                slot.fail(
                    lost(slot.spec, self.name, why, timed_out=timed_out, wrong=wrong)
                    if behind is None
                    else not_reached(slot.spec, self.name, behind)
                )
        self._slots.clear()
        self._let_in()

    def _let_in(self) -> None:
        """Wake as many waiting calls as there is room for; all of them if the connection is unusable."""
        room = CLIENT_IN_FLIGHT_MAX - len(self._slots)
        if self.usable and (self._paused or room <= 0):
            return
        while self._waiting_for_room and (room > 0 or not self.usable):
            waiting = self._waiting_for_room.popleft()
            if not waiting.done():
                waiting.set_result(None)
                room -= 1

    def _check_later(self) -> None:
        soonest = self._timeout
        if self._silence is not None:
            soonest = min(soonest, self._silence(self._loop.time()) or soonest)
        self._checking = self._loop.call_later(soonest / CHECKS_PER_TIMEOUT, self._check)

    def _check(self) -> None:
        """Fail the slots after their deadline. Close a connection that was silent for the whole time of a call."""
        self._checking = None
        self._end_if_interrupted()
        now = self._loop.time()
        why = f"no reply in {self._timeout:g} s"
        silent = not (self._answered or self._tls) and self._probing is None
        if silent and self._slots and now >= self._probe_at():
            self._probing = self._loop.create_task(self._probe_silent())
        if any(self._heard + self._timeout < slot.deadline <= now for slot in self._slots):
            self._transport.abort()
            self._lose(why, timed_out=True)
            return
        for slot in self._slots:
            if slot.deadline <= now and not slot.done():
                slot.fail(lost(slot.spec, self.name, why, timed_out=True))
        if self._silence is not None and self._slots and self.usable:
            self._check_silence(self._silence(now), now)
        if self._slots:
            self._check_later()
        if self._retired:
            self._end_if_done()

    def _probe_at(self) -> float:
        """Return the time to probe a silent server: at a check before the timeout of the oldest call."""
        deadline = self._slots[0].deadline
        return probe_at(deadline, deadline - self._timeout) - self._timeout / CHECKS_PER_TIMEOUT

    async def _probe_silent(self) -> None:
        """Probe a silent server: a server of another protocol may wait for the end of a line."""
        future = ReplyFuture(LINES.spec, self._slots[0].deadline, self._waking)
        future.settle(b"")  # no call waits for the reply
        self._slots.append(future)
        self._transport.write(b"".join(command_parts(LINES)))
        wrong = await self._probed(PROBE)
        if wrong is not None and not self._answered and self.usable:
            self._probing = None  # so that `_lose_to` does not cancel this task
            self._lose_to(wrong)

    async def _probe_closed(self, why: str) -> None:
        """Probe a server that closed before its first reply, as a TLS server does."""
        self._wrong = await self._probed(TLS_PROBE)
        self._probing = None
        self._lose(why if self._wrong is None else str(self._wrong), wrong=self._wrong)

    async def _probed(self, data: bytes) -> WrongServer | None:
        """Return the error that the reply to a probe on a second connection proves, or None."""
        if self._peer is None:
            return None
        with contextlib.suppress(OSError), socket.socket(self._family) as second:
            second.setblocking(False)
            async with asyncio.timeout(probe_seconds(self._timeout)):
                await self._loop.sock_connect(second, self._peer)
                await self._loop.sock_sendall(second, data)
                return wrong_server_by_probe(await self._loop.sock_recv(second, PROBE_ANSWER_BYTES), self.name)
        return None

    def _check_silence(self, silence: float | None, now: float) -> None:
        """If the server is silent, accept no more calls, and fail the reads. Writes wait: the server may have them."""
        asked = max(self._heard, self._slots[0].deadline - self._timeout)
        if silence is None or now < asked + silence:
            return
        self._flush()
        self.usable = False
        self.ended = f"no reply in {silence:.3g} s"
        for slot in self._slots:
            if not slot.spec.writes and not slot.done():
                slot.fail(lost(slot.spec, self.name, self.ended, timed_out=True))
        self._let_in()


async def _outcome(future: ReplyFuture) -> Reply | Unavailable | PeerError:
    try:
        return await future
    except (Unavailable, PeerError) as error:
        return error


async def open_connection(
    endpoint: Endpoint, seconds: float, call_timeout: float, silence: Silence | None = None, tls: "Tls | None" = None
) -> Connection:
    """Connect to an endpoint within some seconds. Raises OSError; PeerError or `AccessDenied` for a failure of TLS.

    call_timeout: the timeout of each call in seconds.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds

    def connection() -> Connection:
        return Connection(loop, endpoint, call_timeout, silence, tls=tls is not None)

    if isinstance(endpoint, str):
        try:
            async with asyncio.timeout(seconds):
                return (await loop.create_unix_connection(connection, endpoint))[1]
        except TimeoutError:
            raise TimeoutError("timed out") from None
    connected = await dial_async(*endpoint, seconds)
    try:
        if tls is None:
            return (await loop.create_connection(connection, sock=connected))[1]
        return await secured(tls, connection, connected, endpoint, until)
    except BaseException:
        connected.close()
        raise


_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.Protocol)


async def secured(
    tls: "Tls", protocol: Callable[[], _ProtocolT], connected: socket.socket, endpoint: tuple[str, int], until: float
) -> _ProtocolT:
    """Return the protocol of a connected socket after a handshake, until a time of the loop.

    Raises the errors of `open_connection`.
    """
    from cairnkv.client.tls import handshake_error, without_zone  # imported before

    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(until):
            name = without_zone(endpoint[0])
            made = await loop.create_connection(protocol, sock=connected, ssl=tls.context(), server_hostname=name)
    except OSError as error:
        raise handshake_error(error, shown(endpoint)) from None
    return made[1]

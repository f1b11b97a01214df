"""A connection: a socket and its session.

What always holds: reading stops while the session is blocked; one write for each batch of replies; a failure
that ends the connection is sent before its sending side is closed, and what the client still sends is thrown
away for a bounded time, so that the failure arrives.

Not for what the bytes mean (the session), and not for what concerns all connections together (the server).
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from cairnkv.commands import Failure, failures
from cairnkv.limits import (
    CLIENT_UNSENT_MAX,
    DISCARD_BYTES,
    DISCARD_TIMEOUT,
    KEEPALIVE_TIMEOUT,
    READ_AHEAD_MAX,
    UNSENT_PAUSE,
)
from cairnkv.server.loop import PolledLoop
from cairnkv.server.settings import Settings
from cairnkv.server.sharing import UNIX, network_of
from cairnkv.server.turns import Turns
from cairnkv.session import Acceleration, Peer, Session, State
from cairnkv.sockets import set_tcp_options

if TYPE_CHECKING:
    from cairnkv.server.poller import Transport as PolledTransport
    from cairnkv.store.hot_held import HeldRun

_log: Final = logging.getLogger("cairnkv.server")

REFUSAL_SECONDS: Final = 1.0
"""How long a client that is refused may take to tell its wire, before it is told so on the article's."""

JOIN_BYTES: Final = 64 * 1024
"""Batches of replies up to this size are joined and sent by one call; longer ones are handed over in pieces,
since copying them would cost more than the calls."""

SHORT_PIECE: Final = 4 * 1024
"""Average bytes per piece below which the connection joins pieces up to `JOIN_BYTES`: many short writes cost more."""


class Host(Protocol):
    """What a connection asks of, and tells, whoever looks after all connections together."""

    settings: Settings

    @property
    def turns(self) -> Turns:
        """The turns of all connections."""

    def new_session(self, wake: Callable[[], None], peer: Peer) -> Session:
        """A session for a client."""

    def connected(self, connection: "Connection") -> Failure | None:
        """A client has come; a failure when there is no room for it."""

    def disconnected(self, connection: "Connection") -> None:
        """A client has gone."""

    def buffered(self, connection: "Connection", size: int) -> None:
        """So many bytes of the client were read and not executed."""

    def unsent(self, connection: "Connection", size: int) -> None:
        """So many bytes for the client were not taken by it."""


class ConnectedPeer(Peer):
    """A client, as the conversations of others see it."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def age(self) -> float:
        """Since when it is connected."""
        return self._connection.now - self._connection.connected_at

    def idle(self) -> float:
        """Since when it has said nothing."""
        return self._connection.now - self._connection.heard

    def unsent(self) -> int:
        """Bytes of replies that it has not taken."""
        return self._connection.unsent

    def close(self, reason: str) -> None:
        """Close the connection at once."""
        self._connection.abort(reason, level=logging.INFO)


class Connection(asyncio.Protocol):
    """One client. Times are those of the loop's clock, in seconds."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._turn_is_due = False  # whether another turn is scheduled
        self._polled: PolledTransport | None = None  # the transport, if it is the compiled one
        self._accelerated: Acceleration | None = None  # what it was told last
        self._reading = True
        self._writing_paused = False  # whether the client does not read its replies
        self._input_ended = False  # whether the client closed its sending side
        self._discarded: int | None = None  # bytes thrown away since everything was said
        self._close_by = 0.0  # when to close, once everything was said
        self._aborted = False
        self._heard = self._loop.time()  # when the client last sent or took something
        self._unsent_before = 0  # at the last check of times
        self._given = 0  # bytes that the transport was given to send
        self._taken_before = 0  # how many of these the system had taken at the last check
        self._took = self._heard  # when the client last took something, or had nothing to take
        self._frame_since: tuple[int, float] | None = None  # an unfinished frame: which, and since when
        self.connected_at = self._heard
        self.name = "?"
        self.network = UNIX
        """The client's address for limits, by `network_of`."""
        self._peer = ConnectedPeer(self)
        self.session = server.new_session(self._wake, self._peer)

    # -- what the loop says -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's only look like one
        if isinstance(self._loop, PolledLoop):
            self._polled = cast("PolledTransport", transport)
        connected = self._transport.get_extra_info("socket")
        self._peer.local_address = _name(connected.getsockname())
        self._peer.is_local = connected.family == socket.AF_UNIX
        address = self._transport.get_extra_info("peername")
        if not self._peer.is_local:
            self.network = network_of(address[0]) if address else "?"  # the client may have disconnected already
            # Linux applies TCP_USER_TIMEOUT also to a client that acknowledges but reads nothing. Such a client may
            # stay until the stall timeout.
            limited = self._server.settings.stall_timeout < KEEPALIVE_TIMEOUT
            set_tcp_options(connected, acknowledged_in=KEEPALIVE_TIMEOUT if limited else None)
        self._peer.descriptor = connected.fileno()
        # The client of a Unix socket has no name: it goes by that of the socket, as in Redis.
        self._peer.address = _name(address) or self._peer.local_address
        self.name = self._peer.address
        self._transport.set_write_buffer_limits(high=UNSENT_PAUSE, low=UNSENT_PAUSE // 4)
        refusal = self._server.connected(self)
        if refusal is not None:
            self.session.refuse(refusal)
        self._watch_frame()

    def data_received(self, data: bytes | memoryview) -> None:
        self._heard = self._loop.time()
        if self._discarded is not None or self.session.state is not State.OPEN:
            self._discard(len(data))
            return
        self.session.receive(data)
        self._server.turns.run(self._turn, self._turn_later)

    def eof_received(self) -> bool:
        self._input_ended = True
        if self._discarded is not None:
            return False  # the client has seen the end, or gone: the transport closes
        self.session.end_of_input()
        self._turn()
        return True  # keep sending: replies may be due

    def take_over(self, runs: "list[HeldRun]") -> None:
        """The transport brings replies that it holds, since something comes behind them that it cannot do."""
        self.session.take_over(runs)
        self._let_accelerate()  # not any more, for now: what comes next stands behind these

    def resume_held(self) -> None:
        """The transport has brought replies of which some may leave now."""
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = self.session.paused = True
        self._server.unsent(self, self.unsent)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._heard = self._took = self._loop.time()
        self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.lost()
        self._server.disconnected(self)
        if exc is not None:
            _log.debug("%s: %s", self.name, exc)

    # -- what the server says ---------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    @property
    def heard(self) -> float:
        """When the client last sent or took something."""
        return self._heard if self._polled is None else max(self._heard, self._polled.heard)

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands."""
        return self.session.authenticated

    @property
    def unsent(self) -> int:
        """Bytes of replies and messages that the client's system has not taken."""
        return 0 if self._aborted else self._transport.get_write_buffer_size() + self.session.unsent

    def fail(self, failure: Failure) -> None:
        """Send a failure that ends the connection, behind the replies that are due."""
        self._take_back()
        self.session.fail(failure)
        self._turn()

    def refuse(self, failure: Failure) -> None:
        """Send a failure that ends the connection, in the protocol that the first byte selects."""
        self._take_back()
        self.session.refuse(failure)
        self._turn()

    def dismiss(self) -> None:
        """Close a refused client's connection to free its place. Send the reason first if it was not sent yet."""
        self.session.tell_refusal()
        self._turn()
        self._transport.close()

    def drain(self) -> None:
        """Answer what was read, then close."""
        self._take_back()
        self.session.drain()
        self._turn()

    def _take_back(self) -> None:
        """Let the transport hold no replies: the session is to say something behind them."""
        if self._polled is not None:
            self._polled.hand_over()

    def reconsider(self) -> None:
        """The server's settings have changed: what the transport may do ahead of the session may have, too."""
        self._let_accelerate()

    def abort(self, reason: str, *, level: int = logging.WARNING) -> None:
        """Close at once, with a logged reason; replies that were not taken are lost."""
        _log.log(level, "%s: closed: %s", self.name, reason)
        self._aborted = True
        self._server.unsent(self, 0)
        self._transport.abort()

    def check_times(self, now: float) -> None:
        """Close what has been silent, unfinished or stalled for too long. Called every now and then."""
        settings = self._server.settings
        self._heard = self.heard
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent_before:
            self._heard = now  # the client takes its replies, however slowly
            self._server.unsent(self, self.unsent)
        taken = self._given - unsent
        if not unsent or not self._unsent_before or taken > self._taken_before:
            self._took = now  # sending commands is no sign that it takes replies
        self._unsent_before, self._taken_before = unsent, taken
        quiet = now - self._heard
        if quiet >= REFUSAL_SECONDS and self.session.refused:
            self.session.tell_refusal()
            self._turn()
        if unsent:
            self._close_by = now + DISCARD_TIMEOUT
            if now - self._took >= settings.stall_timeout:
                self.abort(f"took none of its {unsent:,} bytes of replies in {settings.stall_timeout:g} s")
        elif self._discarded is not None:
            if now >= self._close_by:
                self._transport.close()
        elif self._frame_since is not None and now - self._frame_since[1] >= settings.frame_timeout:
            self._time_out(f"a frame was not finished in {settings.frame_timeout:g} s")
        elif settings.idle_timeout and quiet >= settings.idle_timeout and not self._silence_is_fine:
            self._time_out(f"nothing was said for {settings.idle_timeout:g} s")

    @property
    def _silence_is_fine(self) -> bool:
        return self.session.silence_is_fine or (self._polled is not None and self._polled.holds)

    def _time_out(self, text: str) -> None:
        _log.info("%s: %s", self.name, text)
        self.fail(Failure(failures.TIMEOUT, text))

    # -- turns ------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Replies that were held may leave. Many can be woken at once, so the turn comes later."""
        if not self._turn_is_due:
            self._turn_is_due = True
            self._server.turns.add(self._next_turn)

    def _turn_later(self) -> None:
        """Take a turn later. Until then the transport reads nothing, so it executes nothing before that turn."""
        self._wake()
        self._read_on(False)
        self._server.buffered(self, self.session.buffered)

    def _next_turn(self) -> None:
        self._turn_is_due = False
        if self._transport.is_closing():
            return
        if self._reading and self.session.only_sends and not self._writing_paused:
            self._send(self.session.output())
            self._server.unsent(self, self.unsent)
        else:
            self._turn()

    def _turn(self) -> None:
        """Execute some commands, send their replies in one write, and decide how to go on."""
        session = self.session
        session.paused = self._writing_paused and not self._has_to_answer
        session.advance()
        self._send(session.output())
        session.paused = self._writing_paused
        if session.overrun:
            self.abort("it did not take the messages that it has subscribed to")
            return
        if session.expects_tls:
            self.abort("it expects TLS, which is not spoken on this port", level=logging.INFO)
            return
        if session.runnable or self._has_to_answer:
            self._wake()
        ahead = self._writing_paused and not self._read_ahead_is_full
        self._read_on(not session.runnable and (ahead or not session.blocked))
        self._watch_frame()
        self._let_accelerate()
        self._server.buffered(self, session.buffered)
        self._server.unsent(self, self.unsent)
        if session.state is State.DONE and self._discarded is None:
            self._end()

    @property
    def _read_ahead_is_full(self) -> bool:
        """Whether the server stops reading from a client that reads no replies. It still completes a partial frame."""
        most = min(READ_AHEAD_MAX, self._server.settings.max_unfinished // 4)
        return self.session.has_commands and self.session.buffered >= most

    @property
    def _has_to_answer(self) -> bool:
        """Whether to execute commands of a client that reads no replies. A client may send all before it reads."""
        return self._writing_paused and self._read_ahead_is_full and self.unsent < CLIENT_UNSENT_MAX

    def _let_accelerate(self) -> None:
        """Let the transport of the compiled event path go ahead of the session, while nothing speaks against it."""
        acceleration = self.session.acceleration if self._reading else None
        if self._polled is not None and acceleration is not self._accelerated:
            self._accelerated = acceleration
            self._polled.accelerate(*(acceleration or (None, 2, (0, 0), 0, 0, False)))
        if self._polled is not None and acceleration is None and (missing := self.session.missing):
            self._polled.read_next(missing)

    def _send(self, pieces: list[bytes]) -> None:
        if len(pieces) > 1:
            size = sum(map(len, pieces))
            average = size // len(pieces) + 1
            if size <= JOIN_BYTES:
                pieces = [b"".join(pieces)]
            elif average < SHORT_PIECE:
                together = JOIN_BYTES // average
                pieces = [b"".join(pieces[at : at + together]) for at in range(0, len(pieces), together)]
        if not pieces:
            return
        self._given += sum(map(len, pieces))
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif self._polled is not None:
            self._polled.writelines(pieces)
        else:
            for piece in pieces:  # asyncio's own writelines pauses nobody in some versions (CVE-2024-12254)
                self._transport.write(piece)

    def _read_on(self, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _watch_frame(self) -> None:
        """Remember since when the frame that is unfinished now has been so."""
        if not self.session.unfinished:
            self._frame_since = None
        elif self._frame_since is None or self._frame_since[0] != self.session.consumed:
            self._frame_since = self.session.consumed, self._heard

    # -- the end ----------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Everything is said: close, or only the sending side while input may come that has to be thrown away."""
        self._discarded = 0
        self._frame_since = None
        self._close_by = self._loop.time() + DISCARD_TIMEOUT
        if self._transport.is_closing():
            return
        if self._input_ended:
            self._transport.close()  # once the client has taken the rest
            return
        self._read_on(True)
        try:
            self._transport.write_eof()
        except OSError as error:  # asyncio's own transports raise when the client has gone and they do not know yet
            self.abort(str(error), level=logging.DEBUG)

    def _discard(self, size: int) -> None:
        """Throw away what came behind the end."""
        if self._discarded is not None:
            self._discarded += size
            if self._discarded > DISCARD_BYTES:
                self._transport.close()


def _name(address: object) -> str:
    """An address as people, and Redis, write it; empty for the nameless client of a Unix socket."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{address}:0" if address else ""

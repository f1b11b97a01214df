"""A connection: a socket and its session.

Invariants: reading stops while the session is blocked. The replies of a slice are sent by as few writes as possible. A
failure that ends the connection is sent before its sending side closes, and the client's further bytes are discarded
for a bounded time, so that the failure arrives.

Out of scope: the meaning of bytes (the session), and limits on all connections together (the server).
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from cairnkv.commands import Failure, failures
from cairnkv.escapes import quoted
from cairnkv.limits import (
    CLIENT_UNSENT_MAX,
    DISCARD_BYTES,
    DISCARD_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    KEEPALIVE_TIMEOUT,
    LOGIN_TIMEOUT,
    READ_AHEAD_MAX,
    UNSENT_PAUSE,
)
from cairnkv.server.fair_share import UNIX, Scheduler, network_of
from cairnkv.server.settings import PlainText, Settings, is_loopback
from cairnkv.server.tls import CertificateRefused, Certificates, user_of
from cairnkv.session import CLIENT_LOGGER, NativePathSettings, Peer, Session, State
from cairnkv.sockets import set_tcp_options

if TYPE_CHECKING:
    from cairnkv.server.poller_native import Transport as PolledTransport
    from cairnkv.server.tls_transport import TlsTransport
    from cairnkv.store.pending_native import PendingBatch

logger: Final = logging.getLogger("cairnkv.server")
client_logger: Final = logging.getLogger(CLIENT_LOGGER)

REFUSAL_SECONDS: Final = 1.0
"""Seconds that the server waits for the first byte of a refused client, before it refuses in the native protocol."""

JOIN_BYTES: Final = 64 * 1024
"""Bytes of replies up to which they are joined and sent by one call. To copy more would cost more than the calls."""

SHORT_PIECE: Final = 4 * 1024
"""Average bytes per piece below which the connection joins pieces up to `JOIN_BYTES`: many short writes cost more."""


class Host(Protocol):
    """The interface of the server for its connections."""

    settings: Settings

    @property
    def certificates(self) -> Certificates | None:
        """The certificate; None: the server has no TLS."""

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of all connections."""

    def new_session(self, wake: Callable[[], None], peer: Peer) -> Session:
        """Return a session for a client."""

    def connected(self, connection: "Connection") -> Failure | None:
        """Add a client. Returns a failure if there is no room for it."""

    def disconnected(self, connection: "Connection") -> None:
        """Remove a client."""

    def transferred(self, *, received: int = 0, sent: int = 0) -> None:
        """Count bytes that the native path does not count."""

    def buffered(self, connection: "Connection", size: int) -> None:
        """Record the bytes that the client's session buffers."""

    def unsent(self, connection: "Connection", size: int) -> None:
        """Record the bytes that the client has not received."""


class Connection(asyncio.Protocol, Peer):
    """One client, also for the conversations of other clients. Times are those of the loop's clock, in seconds."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._slice_is_due = False  # whether a slice is scheduled
        self._polled: PolledTransport | None = None  # the transport, if it is the native path's
        self._tls: PolledTransport | TlsTransport | None = None  # the transport, if the client may begin TLS
        self._refuses_plain_text = False
        self._needs_certificate = False
        self._native_path_set: NativePathSettings | None = None  # the settings that it got last
        self._reading = True
        self._writing_paused = False  # whether the client does not read its replies
        self._input_ended = False  # whether the client closed its sending side
        self._discarded: int | None = None  # bytes that were discarded since the session is done
        self._close_by = 0.0  # when to close after that
        self._aborted = False
        self._heard = self._loop.time()  # when the client last sent or received bytes
        self._unsent_before = 0  # at the last `check_times`
        self._given = 0  # bytes that the transport got to send
        self._taken_before = 0  # the part of these that the system had taken at the last check
        self._took = self._heard  # when the client last received bytes, or there were none to receive
        self._frame_since: tuple[int, float] | None = None  # an incomplete frame: its begin, and since when
        self._connected_at = self._heard
        self._unauthenticated_since: float | None = None  # since when the client must log in
        self.name = "?"
        self.network = UNIX
        """The client's address for limits, by `network_of`."""
        self.session = server.new_session(self._wake, self)

    # -- events of the transport ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._use(cast(asyncio.Transport, transport))  # uvloop's only look like one
        connected = self._transport.get_extra_info("socket")
        self.local_address = _name(connected.getsockname())
        self.is_local = connected.family == socket.AF_UNIX
        address = self._transport.get_extra_info("peername")
        if not self.is_local:
            self.network = network_of(address[0]) if address else "?"  # the client may have disconnected already
            # Linux applies TCP_USER_TIMEOUT also to a client that acknowledges but reads nothing. Such a client may
            # stay until the stall timeout.
            limited = self._server.settings.stall_timeout < KEEPALIVE_TIMEOUT
            set_tcp_options(connected, acknowledged_in=KEEPALIVE_TIMEOUT if limited else None)
        self.descriptor = connected.fileno()
        # A client of a Unix socket has no address, so it gets that of the socket, as in Redis.
        self.address = _name(address) or self.local_address
        self.name = self.address
        self._transport.set_write_buffer_limits(high=UNSENT_PAUSE, low=UNSENT_PAUSE // 4)
        if (certificates := self._server.certificates) is not None:
            if self._polled is None:
                self._tls = cast("TlsTransport", transport)
            else:
                self._tls = self._polled
                self._polled.offer_tls(certificates.identity.native)
            self._refuses_plain_text = not self._may_speak_plainly(address)
            self._needs_certificate = self._refuses_plain_text and self._server.settings.wants_certificates
        refusal = self._server.connected(self)
        if refusal is not None:
            self.session.refuse(refusal)
        self._watch_frame()

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        if hasattr(transport, "set_native_path"):
            self._polled = cast("PolledTransport", transport)

    def _may_speak_plainly(self, address: tuple[str, int] | None) -> bool:
        policy = self._server.settings.plain_text
        if self.is_local or policy is PlainText.ALWAYS:
            return True
        return policy is PlainText.AUTO and address is not None and is_loopback(address[0])

    def data_received(self, data: bytes | memoryview) -> None:
        self._heard = self._loop.time()
        if self._polled is None:
            self._server.transferred(received=len(data))
        if self._refuses_plain_text:
            self._refuses_plain_text = False
            if self._tls is None or not self._tls.is_encrypted:
                text = "the server takes no plain text from this address; connect with TLS (cairns://, rediss://)"
                self.session.refuse(Failure(failures.NEEDTLS, text))
        if self._discarded is not None or self.session.state is not State.OPEN:
            self._discard(len(data))
            return
        self.session.receive(data)
        self._server.scheduler.run(self._run_slice, self._defer_slice)

    def eof_received(self) -> bool:
        self._input_ended = True
        if self._discarded is not None:
            return False  # the client has received all, or disconnected: the transport closes
        self.session.end_of_input()
        self._run_slice()
        return True  # keep sending: replies may be pending

    def add_batches(self, batches: "list[PendingBatch]") -> None:
        """Take the batches of the transport, which cannot execute the commands behind them."""
        self.session.add_batches(batches)
        self.update_native_path()  # off for now: the next commands stand behind these

    def resume_pending(self) -> None:
        """The transport has added batches of which some may leave now."""
        self._wake()

    def pause_writing(self) -> None:
        self._writing_paused = self.session.paused = True
        self._server.unsent(self, self.unsent)

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._heard = self._took = self._loop.time()
        self._run_slice()

    def connection_lost(self, exc: Exception | None) -> None:
        self.session.disconnected()
        self._server.disconnected(self)
        if exc is not None:
            logger.debug("%s: %s", self.name, exc)

    # -- events of TLS ----------------------------------------------------------------------------------------

    def secured(self) -> None:
        """The handshake is complete."""
        certificates = self._server.certificates
        assert certificates is not None
        assert self._tls is not None
        certificates.handshakes += 1
        self._heard = self._loop.time()
        source = self._server.settings.tls_user_from
        try:
            user = user_of(self._tls.peer_names(), source)
            if user is not None and not self.session.login.log_in_as(user):
                raise CertificateRefused(
                    f"there is no enabled user {quoted(user)}, which the client's certificate names"
                )
        except (CertificateRefused, ValueError) as error:  # ValueError: a name that is not UTF-8
            client_logger.info("%s: refused: %s", self.name, error)
            self.session.refuse(Failure(failures.NOAUTH, str(error)))
        self._server.buffered(self, self.session.buffered)  # the client may have logged in

    def tls_failed(self, reason: str) -> None:
        """TLS has failed, and the transport closes."""
        certificates = self._server.certificates
        assert certificates is not None
        assert self._tls is not None
        if self._tls.is_handshaking:
            certificates.failed_handshakes += 1
        client_logger.info("%s: closed: TLS: %s", self.name, reason)

    def without_tls(self, transport: asyncio.Transport) -> None:
        """The client speaks plain text through this transport, which was below the other one."""
        self._tls = None
        self._use(transport)

    # -- interface for other clients --------------------------------------------------------------------------

    def age(self) -> float:
        """Return the time since the client connected."""
        return self._loop.time() - self._connected_at

    def idle(self) -> float:
        """Return the time since the client last sent or received bytes."""
        return self._loop.time() - self.heard

    def close(self, reason: str) -> None:
        """Close the connection at once."""
        self.abort(reason, level=logging.INFO)

    # -- interface for the server -----------------------------------------------------------------------------

    @property
    def heard(self) -> float:
        """When the client last sent or received bytes."""
        return self._heard if self._polled is None else max(self._heard, self._polled.heard)

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands."""
        if self._needs_certificate and (self._tls is None or not self._tls.is_encrypted or self._tls.is_handshaking):
            return False
        return self.session.authenticated

    @property
    def unsent(self) -> int:
        """The bytes of replies and messages that the client's system has not received."""
        return 0 if self._aborted else self._transport.get_write_buffer_size() + self.session.unsent

    def fail(self, failure: Failure) -> None:
        """Send a failure that ends the connection, behind the queued replies."""
        self._take_batches()
        self.session.fail(failure)
        self._run_slice()

    def refuse(self, failure: Failure) -> None:
        """Send a failure that ends the connection, in the protocol that the first byte selects."""
        self._take_batches()
        self.session.refuse(failure)
        self._run_slice()

    def dismiss(self) -> None:
        """Close a refused client's connection to free its place. Send the reason first if it was not sent yet."""
        self._send_refusal()
        self._transport.close()

    def _send_refusal(self) -> None:
        """Send the reason of a refusal without the client's first byte; no plain text to a client that needs TLS."""
        if self._refuses_plain_text and (self._tls is None or not self._tls.is_encrypted):
            self._transport.close()
        else:
            self.session.send_refusal()
            self._run_slice()

    def drain(self) -> None:
        """Execute the commands that were read, then close."""
        self._take_batches()
        self.session.drain()
        self._run_slice()

    def _take_batches(self) -> None:
        """Move the batches of the transport to the session, which queues a reply behind them."""
        if self._polled is not None:
            self._polled.hand_over()

    def abort(self, reason: str, *, level: int = logging.WARNING) -> None:
        """Close at once, and log the reason. Unsent replies are lost."""
        client_logger.log(level, "%s: closed: %s", self.name, reason)
        self._aborted = True
        self._server.unsent(self, 0)
        self._transport.abort()

    def check_times(self, now: float) -> None:
        """Close the connection if it has been idle, incomplete or stalled for too long. Called at intervals."""
        settings = self._server.settings
        self._heard = self.heard
        if self.session.authenticated or self.session.refused or self._discarded is not None:
            self._unauthenticated_since = None
        elif self._unauthenticated_since is None:
            self._unauthenticated_since = now
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent_before:
            self._heard = now  # the client reads its replies, if slowly
            self._server.unsent(self, self.unsent)
        taken = self._given - unsent
        if not unsent or not self._unsent_before or taken > self._taken_before:
            self._took = now  # a client that sends commands may still read no replies
        self._unsent_before, self._taken_before = unsent, taken
        if self._tls is not None and self._tls.is_handshaking and self._discarded is None:
            if now - self._connected_at >= HANDSHAKE_TIMEOUT:
                self.abort(f"the TLS handshake took more than {HANDSHAKE_TIMEOUT:g} s", level=logging.INFO)
            return
        quiet = now - self._heard
        if quiet >= REFUSAL_SECONDS and self.session.refused:
            self._send_refusal()
        if self._unauthenticated_since is not None and now - self._unauthenticated_since >= LOGIN_TIMEOUT:
            text = f"the client did not log in within {LOGIN_TIMEOUT:g} s"
            if unsent:
                self.abort(text, level=logging.INFO)
            else:
                self._time_out(text)
        elif unsent:
            self._close_by = now + DISCARD_TIMEOUT
            if now - self._took >= settings.stall_timeout:
                self.abort(f"the client read none of its {unsent:,} bytes of replies in {settings.stall_timeout:g} s")
        elif self._discarded is not None:
            if now >= self._close_by:
                self._transport.close()
        elif self._frame_since is not None and now - self._frame_since[1] >= settings.frame_timeout:
            self._time_out(f"a frame was not finished in {settings.frame_timeout:g} s")
        elif settings.idle_timeout and quiet >= settings.idle_timeout and not self._may_idle:
            self._time_out(f"the client was idle for {settings.idle_timeout:g} s")

    @property
    def _may_idle(self) -> bool:
        return self.session.may_idle or (self._polled is not None and self._polled.holds)

    def _time_out(self, text: str) -> None:
        client_logger.info("%s: timed out: %s", self.name, text)
        self.fail(Failure(failures.TIMEOUT, text))

    # -- slices of work ---------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Schedule a slice: pending replies may leave. One commit may wake many connections."""
        if not self._slice_is_due:
            self._slice_is_due = True
            self._server.scheduler.add(self._next_slice)

    def _defer_slice(self) -> None:
        """Schedule a slice. Until then the transport reads nothing, so the native path executes nothing before it."""
        self._wake()
        self._read_on(False)
        self._server.buffered(self, self.session.buffered)

    def _next_slice(self) -> None:
        self._slice_is_due = False
        if self._transport.is_closing():
            return
        if self._reading and self.session.only_sends and not self._writing_paused:
            self._send(self.session.output())
            self._server.unsent(self, self.unsent)
        else:
            self._run_slice()

    def _run_slice(self) -> None:
        """Execute some commands, send their replies by as few writes as possible, and schedule the rest."""
        session = self.session
        session.paused = self._writing_paused and not self._has_to_answer
        session.advance()
        self._send(session.output())
        session.paused = self._writing_paused
        if session.overrun:
            self.abort("the client does not read the messages that it has subscribed to")
            return
        if session.expects_tls:
            self.abort("the client expects TLS, which this port does not have", level=logging.INFO)
            return
        if session.runnable or self._has_to_answer:
            self._wake()
        ahead = (self._writing_paused or session.waits_for_messages) and not self._read_ahead_is_full
        self._read_on(not session.runnable and (ahead or not session.blocked))
        self._watch_frame()
        self.update_native_path()
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

    def apply_users(self) -> None:
        """Apply a change of the users, from the client's next command on."""
        self.session.rights_changed()
        self.update_native_path()

    def update_native_path(self) -> None:
        """Let the transport use the native path without the session, while the session and the settings allow it."""
        native_path_settings = self.session.native_path_settings if self._reading else None
        if self._polled is not None and native_path_settings is not self._native_path_set:
            self._native_path_set = native_path_settings
            self._polled.set_native_path(*(native_path_settings or (None, 2, (0, 0), 0, 0, False, None)))
        if self._polled is not None and native_path_settings is None and (missing := self.session.missing):
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
        size = sum(map(len, pieces))
        self._given += size
        if self._polled is None:
            self._server.transferred(sent=size)
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        elif self._polled is not None:
            self._polled.writelines(pieces)
        else:
            for piece in pieces:  # asyncio's own writelines never pauses in some versions (CVE-2024-12254)
                self._transport.write(piece)

    def _read_on(self, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _watch_frame(self) -> None:
        """Record since when the current frame is incomplete."""
        if not self.session.unfinished:
            self._frame_since = None
        elif self._frame_since is None or self._frame_since[0] != self.session.consumed:
            self._frame_since = self.session.consumed, self._heard

    # -- the end ----------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Close the connection; only its sending side while input may arrive, which is discarded."""
        self._discarded = 0
        self._frame_since = None
        self._close_by = self._loop.time() + DISCARD_TIMEOUT
        if self._transport.is_closing():
            return
        if self._input_ended:
            self._transport.close()  # once the client has received the rest
            return
        self._read_on(True)
        try:
            self._transport.write_eof()
        except OSError as error:  # asyncio's transports, if they have not noticed yet that the client has disconnected
            self.abort(str(error), level=logging.DEBUG)

    def _discard(self, size: int) -> None:
        """Count discarded bytes, and close if they are too many."""
        if self._discarded is not None:
            self._discarded += size
            if self._discarded > DISCARD_BYTES:
                self._transport.close()


def _name(address: object) -> str:
    """Return an address as Redis writes it; empty for a client of a Unix socket."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{address}:0" if address else ""

"""The server: listens, applies limits to all connections together, does housekeeping, and stops in order.

Invariants: connections, incomplete frames and unsent replies are bounded over all clients together. Background work
runs in bounded slices. A server that stops executes the commands that it has read.

Out of scope: single clients (the connection and its session), signals and processes (`run`).
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import platform
import resource
import secrets
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from cairnkv.commands import Failure, failures
from cairnkv.errors import OptionError, missing_package
from cairnkv.installation import features
from cairnkv.limits import (
    DISCARD_TIMEOUT,
    TLS_LOOK_SECONDS,
    UNAUTHENTICATED_BYTES_MAX,
    UNAUTHENTICATED_PER_ADDRESS_MAX,
    UNIX_PATH_MAX,
)
from cairnkv.protocol.native import DecoderLimits
from cairnkv.server.activity import Activity
from cairnkv.server.audit import AuditLog
from cairnkv.server.backups import Backups
from cairnkv.server.connection import Connection
from cairnkv.server.descriptors import connections_that_fit, refused_at_once
from cairnkv.server.fair_share import Scheduler, first_to_pay
from cairnkv.server.loop import Listener, PolledLoop, bind, listen
from cairnkv.server.options import ServerOptions
from cairnkv.server.password_hashing import PasswordChecker
from cairnkv.server.settings import BREAK_VARIABLE, OPTIONS, PlainText, Settings, broken_on_purpose, is_loopback
from cairnkv.server.tls import Certificates, Identity, TlsFiles, load, newer
from cairnkv.server.tls_transport import Handshakes, TlsTransport
from cairnkv.server.unauthenticated import UnauthenticatedClients
from cairnkv.server.users import ServerUsers
from cairnkv.session import Peer, ServerContext, Session, native_frame_executor
from cairnkv.session.access.users import UsersRefused
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.scripting.runner import Runner
from cairnkv.storage import Storage
from cairnkv.storage.base import LoggedProgress, StartProgress
from cairnkv.store import Clock, LocalStore, Store, wall_clock
from cairnkv.store.base import Loaded

if TYPE_CHECKING:
    from cairnkv.replication.node import Node

logger: Final = logging.getLogger("cairnkv.server")

SWEEP_SECONDS: Final = 0.5
"""Maximum period of `check_times`; a timeout may be this much late. The period is a quarter of the shortest timeout, if
that is less."""

SWEPT_TOGETHER: Final = 500
"""Connections whose times one slice checks: some milliseconds. The slices of a period are spread over it."""

HOUSEKEEPING_SECONDS: Final = 0.1
"""Period of the store's housekeeping while it has nothing to do."""

HOUSEKEEPING_PAUSE: Final = 0.002
"""Seconds for clients between two slices of housekeeping."""


DIGEST_SHOWN: Final = 16
"""Characters of the digest of all users in INFO: enough to compare nodes."""


class Server:
    """A store behind sockets. Use within one event loop: `start`, then `stop`."""

    def __init__(
        self,
        settings: Settings,
        store: Store | None = None,
        *,
        clock: Clock = wall_clock,
        progress: StartProgress | None = None,
    ) -> None:
        """store: the store to serve, which may not be loaded yet; None: one with these settings.

        clock: of a new store. progress: called while the store loads or joins its cluster; None: log it.
        """
        self.settings = settings
        files = TlsFiles.of(settings)
        self.certificates: Final = None if files is None else Certificates(files)
        """The certificate of TLS; None: the server has none."""
        broken = broken_on_purpose(os.environ, allowed=settings.allow_broken)
        if broken and settings.cluster is None:
            raise OptionError(f"the variable {BREAK_VARIABLE} is for nodes of a cluster (--cluster); unset it")
        self.node: Node | None = None
        """The node of a server with `--cluster`."""
        if settings.cluster is not None:
            try:
                from cairnkv.server.cluster import node_from
            except ImportError as error:
                raise missing_package(error, "a node of a cluster (--cluster)", "cluster") from None
            self.node = node_from(settings, clock=clock, progress=progress or LoggedProgress())
            store = self.node.store
        elif store is None:
            store = new_store(settings, clock=clock, progress=progress)
        self.store: Final[Store] = store
        if broken:
            logger.warning("BROKEN ON PURPOSE, by the variable %s: %s", BREAK_VARIABLE, ", ".join(broken))
            self.store.reports.sources.append(lambda: (("broken_on_purpose", ",".join(broken)),))
        self.broken: Final = broken
        """The faults that CAIRNKV__BREAK injects into this server."""
        self.store.reports.sources.append(self._info)
        self._backups = Backups(store.back_up, settings.backup_dir)
        self.store.reports.begin_backup = self._backups.begin
        self.store.reports.sources.append(self._backups.info)
        self._limits = DecoderLimits(value=settings.max_value, frame=settings.max_frame)
        self.scheduler: Final = Scheduler()
        self._connections: set[Connection] = set()
        self._admitted: set[Connection] = set()  # connections within the limit
        self._refused: dict[Connection, None] = {}  # refused connections that stay to read the reason, oldest first
        self._refused_max = refused_at_once()
        # The connections within the limit that must log in.
        self._unauthenticated: UnauthenticatedClients[Connection] = UnauthenticatedClients()
        self._buffered: dict[Connection, int] = {}  # bytes that a session buffers
        self._buffered_total = 0
        self._unsent: dict[Connection, int] = {}  # unsent bytes at the last report
        self._unsent_total = 0
        self._unswept: list[Connection] = []  # whose times this period has not checked yet
        self._sweep_due = 0.0
        self._sweep_was_late = False
        self._frame_executor = native_frame_executor(self.store)
        self._users = ServerUsers(settings)
        self._passwords = PasswordChecker(lambda function: self._loop.call_soon_threadsafe(function))
        self._audit_log = None if settings.audit_log is None else AuditLog(settings.audit_log)
        self._scripts = Runner(
            self.store,
            seconds=time.monotonic,
            call_later=self._after,
            steps_max=settings.script_steps,
            memory_max=settings.script_memory,
        )
        self._use_script_times()
        self._context: ServerContext[RespConversation] = ServerContext(
            self.store,
            users=self._users.table,
            options=ServerOptions(self),
            shut_down=self._shut_down,
            load_users=self._users.load if self._users.has_file else None,
            save_users=self._users.save if self._users.has_file else None,
            random_bytes=secrets.token_bytes,
            passwords=self._passwords,
            after=self._after,
            audit=self.audit,
            scripts=self._scripts,
        )
        self._users.table.on_change.append(self._users_changed)
        if self.node is not None:
            self._context.pubsub.relay = self.node.publish_message
            self.node.on_message = self._context.pubsub.publish_here
        self._handshakes = Handshakes()
        self._look: asyncio.Task[None] | None = None  # at the files of TLS
        self._run_id = secrets.token_hex(20)
        self._stop_wanted = asyncio.Event()
        self._sockets: list[socket.socket] = []
        self._addresses: list[str] = []
        self.port = 0
        """The TCP port; 0: none."""
        self._listeners: list[asyncio.Server | Listener] = []
        self._unix_path: Path | None = None
        self._unix_identity = (0, 0)  # its device and inode
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._started = time.monotonic()
        self._activity = Activity(self.store, self._commands)
        self._accepted = 0
        self._refusals = 0
        self._stopping = False
        self._all_gone = asyncio.Event()

    # -- starting and stopping --------------------------------------------------------------------------------

    async def start(self) -> bool:
        """Listen, and load the store. Returns False if the server is stopped before the store is loaded.

        While the store loads, clients get `LOADING` for commands on the store.
        Raises `OptionError` if the server cannot listen on an address, or open the store; then it listens on none.
        """
        self._loop = asyncio.get_running_loop()
        if isinstance(self._loop, PolledLoop):
            self._activity.poller = self._loop.clients.poller
        self.store.deliver_by(self._loop.call_soon_threadsafe)
        self.store.waiters.set_timer = self._set_waiters_timer
        try:
            await self._listen()
            self._sweep()
            if self.store.loading and not await self._load():
                return False
        except BaseException:
            self._stop_accepting()
            for listening in self._sockets:
                listening.close()
            for connection in list(self._connections):
                connection.abort("the server could not start", level=logging.INFO)
            for timer in self._timers.values():
                timer.cancel()
            if self.node is not None:
                await self.node.leave()
            raise
        self._housekeep()
        if self.certificates is not None:
            self._later("look at the certificate", TLS_LOOK_SECONDS, self._look_at_certificate)
        self.audit("started", {"addresses": self.addresses})
        return True

    async def _load(self) -> bool:
        """Load the store in another thread, or join the cluster. Returns False if the server is stopped meanwhile."""
        node = self.node
        loading: asyncio.Task[Loaded | None] = asyncio.create_task(
            asyncio.to_thread(self.store.load) if node is None else node.join()
        )
        stopped = True  # also if this task is cancelled
        try:
            stopped = await self._stops_before(loading)
        finally:
            if stopped:
                if node is not None:
                    loading.cancel()
                    node.halt()
                self.store.close()  # this ends loading
                await asyncio.gather(loading, return_exceptions=True)
        if stopped:
            return False
        if (loaded := await loading) is not None:
            self.store.begin(loaded)
        for connection in self._connections:
            connection.update_native_path()
        return True

    async def _stops_before(self, task: asyncio.Task[Any]) -> bool:
        """Wait for a task. Return True if a stop of the server is requested before the task ends."""
        stop = asyncio.create_task(self.stop_requested())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            return stop.done()
        finally:
            stop.cancel()

    async def _listen(self) -> None:
        if not self.settings.no_tcp:
            try:
                self._sockets += await bind(self.settings.host, self.settings.port)
            except OSError as error:
                raise OptionError(_cannot_listen(self.settings, error)) from None
            self.port = self._sockets[0].getsockname()[1]
        if self.settings.unix is not None:
            path = Path(self.settings.unix)
            self._sockets.append(_bind_unix(path))
            self._unix_path, self._unix_identity = path, _identity(path)
        try:
            for listening in self._sockets:
                self._listeners.append(await listen(listening, self._new_protocol))
        except OSError as error:
            raise OptionError(_cannot_listen(self.settings, error)) from None
        self._addresses = [_address(listening, self.settings) for listening in self._sockets]

    def _new_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new client: its connection, or the layer of TLS above it."""
        connection = Connection(self)
        certificates = self.certificates
        if certificates is None:
            return connection
        if certificates.identity.native is not None and isinstance(asyncio.get_running_loop(), PolledLoop):
            return connection
        return TlsTransport(connection, lambda: certificates.identity, self._handshakes)

    @property
    def addresses(self) -> list[str]:
        """The addresses as clients write them: `cairn://HOST:PORT`, `cairns://` if it needs TLS, `cairn+unix:///PATH`."""
        return [] if self._stopping else self._addresses

    def change(self, settings: Settings, *, reload_tls: bool = False) -> None:
        """Use other settings, which differ only in options that can change while the server runs.

        reload_tls: load the certificate also from the same files.
        Raises `OptionError` if the system does not allow so many clients, the store does not allow the memory limit, or
        the server cannot use the files of TLS.
        """
        before = self.settings
        if settings.max_connections > before.max_connections:
            fit = connections_that_fit(settings)
            if fit < settings.max_connections:
                raise OptionError(f"this system allows open files for {fit:,} clients; raise ulimit -n for more")
        files = TlsFiles.of(settings)
        if (files is None) != (self.certificates is None):
            raise OptionError("a server has TLS from its start, or not at all; restart it")
        identity = load(files) if files is not None and (reload_tls or files != TlsFiles.of(before)) else None
        if settings.password != before.password:
            try:
                self._users.set_password(settings.password)
            except UsersRefused as refused:
                raise OptionError(str(refused)) from None
        changed = [name for name in OPTIONS if getattr(settings, name) != getattr(before, name)]
        self.store.limit_memory(settings.memory_limit, settings.when_full)
        if identity is not None:
            self._use_certificate(identity)
        self.settings = settings
        self._use_script_times()
        logger.info("CONFIG SET changed: %s", ", ".join(changed) or "nothing")
        self.audit("config_changed", {"options": changed})

    def _use_script_times(self) -> None:
        self._scripts.slice_seconds = self.settings.script_slice
        self._scripts.seconds_max = self.settings.script_time

    def _users_changed(self) -> None:
        users = self._users.table
        self.audit("users_changed", {"number": len(users), "digest": users.digest})
        for connection in list(self._connections):
            try:
                connection.apply_users()
                self._note_login(connection)
            except Exception:  # the client must not go on with its former rights, nor prevent that others change
                logger.exception("%s: cannot change its rights", connection.name)
                connection.abort("its rights have changed")

    @property
    def login_required(self) -> bool:
        """Whether clients must authenticate before other commands."""
        return self._users.table.required

    @property
    def reloads(self) -> bool:
        """Whether the server has files that `reload` reads again."""
        return self._users.has_file or self.certificates is not None

    def reload(self) -> None:
        """Read the users file and the certificate again. If one has an error, log it and keep the one before."""
        self._look_at_certificate(always=True)
        if not self._users.has_file:
            return
        try:
            self._users.load()
        except UsersRefused as refused:
            logger.error("the users stay as they are: %s", refused)

    def _after(self, seconds: float, callback: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(seconds, callback).cancel

    def audit(self, event: str, fields: Mapping[str, object]) -> None:
        """Write an event to the audit log, if there is one."""
        if self._audit_log is not None:
            self._audit_log.write(event, fields)

    def request_stop(self) -> None:
        """Ask the caller of `stop_requested` to stop this server."""
        self._stop_wanted.set()

    async def stop_requested(self) -> None:
        """Wait for `request_stop`."""
        await self._stop_wanted.wait()

    def _shut_down(self) -> None:
        logger.info("SHUTDOWN: draining")
        self.request_stop()

    async def stop(self) -> None:
        """Stop accepting clients, execute the commands that were read, and close. Takes the drain timeout at most."""
        self._stop_accepting()
        try:
            self._scripts.close()
            if self.node is not None and not self.store.loading:
                await self.node.refuse_clients()
            for connection in list(self._connections):
                connection.drain()
            if self._connections:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.drain_timeout):
                        await self._all_gone.wait()
        finally:  # also if the caller is cancelled
            for connection in list(self._connections):
                connection.abort("the client did not read its last replies in time")
            for timer in self._timers.values():
                timer.cancel()
            if self._look is not None:
                self._look.cancel()
            try:
                self._scripts.close()
                self._backups.stop()
                if self.node is not None:
                    await self.node.leave()
            finally:
                self._passwords.close()
                self.store.close()
                self.audit("stopped", {})
                if self._audit_log is not None:
                    self._audit_log.close()

    def _stop_accepting(self) -> None:
        """Close the listening sockets. Remove the Unix socket's file, unless it is another server's now."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        if self._unix_path is not None:
            with contextlib.suppress(OSError):
                if _identity(self._unix_path) == self._unix_identity:
                    self._unix_path.unlink()

    # -- interface for connections (`Host`) -------------------------------------------------------------------

    def new_session(self, wake: Callable[[], None], peer: Peer) -> Session:
        """Return a session for a client."""
        width = self.settings.command_width
        return Session(
            self.store,
            wake=wake,
            status_byte=self.settings.status_byte,
            width=None if width is None else 2 if width == 2 else 4,
            limits=self._limits,
            frame_executor=self._frame_executor,
            context=self._context,
            peer=peer,
        )

    def connected(self, connection: Connection) -> Failure | None:
        """Add a client. Returns a failure if there is no room for it."""
        self._connections.add(connection)
        self._accepted += 1
        if self._stopping:
            connection.abort("the server is stopping", level=logging.INFO)
            return None
        failure = None
        if len(self._admitted) >= self.settings.max_connections:
            text = f"{self.settings.max_connections:,} clients are connected; that is the limit"
            failure = Failure(failures.BUSY, text)
            oldest = self._unauthenticated.pop_oldest()
            self._note_refusal(oldest or connection, text)
            if oldest is None:
                return failure
            self._admitted.discard(oldest)
            oldest.refuse(failure)
        self._admitted.add(connection)
        self._note_login(connection)
        return None

    def _note_login(self, connection: Connection) -> None:
        """Apply the limits on unauthenticated clients to a client that must log in, and to no other."""
        if connection.authenticated:
            if len(self._unauthenticated):
                self._unauthenticated.remove(connection)
        elif connection in self._admitted and connection not in self._unauthenticated:
            places = self.settings.max_connections
            # Many clients of one address may begin TLS at once, when they reconnect. These lack only their certificate.
            most = places if connection.session.authenticated else UNAUTHENTICATED_PER_ADDRESS_MAX
            payer = self._unauthenticated.add(connection, places, per_address=most)
            if payer is not None:
                text = "too many clients have not logged in, and this one has waited for longest"
                self._note_refusal(payer, text)
                self._admitted.discard(payer)
                payer.refuse(Failure(failures.BUSY, text))

    def _limit_unauthenticated(self, connection: Connection) -> None:
        """If unauthenticated clients use too much memory together, fail those that use most."""
        if connection not in self._unauthenticated:
            return
        used = self._buffered.get(connection, 0) + self._unsent.get(connection, 0)
        for payer in self._unauthenticated.use(connection, used):
            text = f"clients that have not logged in use more than {UNAUTHENTICATED_BYTES_MAX:,} bytes together"
            if self._unsent.get(payer):
                payer.abort(text)
            else:
                logger.warning("%s: failed: %s", payer.name, text)
                payer.fail(Failure(failures.BUSY, text))

    def _note_refusal(self, connection: Connection, text: str) -> None:
        """Record a refused client. If too many refused clients are connected, dismiss the oldest."""
        self._refusals += 1
        # Clients that reconnect again and again must not flood the logger: one warning while any refused client stays.
        level = logging.WARNING if not self._refused else logging.DEBUG
        logger.log(level, "%s: refused: %s", connection.name, text)
        if len(self._refused) >= self._refused_max:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            oldest.dismiss()
        self._refused[connection] = None

    def disconnected(self, connection: Connection) -> None:
        """Remove a client."""
        self._connections.discard(connection)
        self._admitted.discard(connection)
        self._refused.pop(connection, None)
        self._unauthenticated.remove(connection)
        self.buffered(connection, 0)
        self.unsent(connection, 0)
        if self._stopping and not self._connections:
            self._all_gone.set()

    def buffered(self, connection: Connection, size: int) -> None:
        """Record the bytes that a client's session buffers. If all clients exceed the limit, fail one client.

        Called after each slice of a client, which may have logged in or out.
        """
        self._note_login(connection)
        before = self._buffered.get(connection, 0)
        if size == before:
            return
        self._buffered_total += size - before
        if size:
            self._buffered[connection] = size
        else:
            del self._buffered[connection]
        self._limit_unauthenticated(connection)
        if size > before and self._buffered_total > self.settings.max_unfinished:
            payer = next(first_to_pay(self._buffered))
            text = (
                f"unfinished frames, commands read ahead, transactions and subscriptions of all clients have "
                f"{self._buffered_total:,} bytes, {self._buffered[payer]:,} of them this client's; "
                f"the limit (--max-unfinished) is {self.settings.max_unfinished:,}"
            )
            logger.warning("%s: %s", payer.name, text)
            payer.fail(Failure(failures.BUSY, text))

    def unsent(self, connection: Connection, size: int) -> None:
        """Record a client's unsent bytes. If all clients exceed the limit, close some clients."""
        before = self._unsent.get(connection, 0)
        if size == before:
            return
        self._unsent_total += size - before
        if size:
            self._unsent[connection] = size
        else:
            del self._unsent[connection]
        self._limit_unauthenticated(connection)
        if size > before and self._unsent_total > self.settings.max_unsent:
            self._check_unsent()

    def _check_unsent(self) -> None:
        """Count the unsent bytes of all clients again, and close clients until the total is within the limit."""
        self._unsent = {connection: size for connection in self._unsent if (size := connection.unsent)}
        self._unsent_total = sum(self._unsent.values())
        payers = first_to_pay(dict(self._unsent))
        while self._unsent_total > self.settings.max_unsent:
            payer = next(payers)
            size = self._unsent[payer]
            payer.abort(  # calls `unsent` with 0
                f"all replies not taken together have {self._unsent_total:,} bytes, {size:,} of them this client's; "
                f"the limit (--max-unsent) is {self.settings.max_unsent:,}"
            )

    # -- background work ----------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Check the times of some connections; of all of them in each period."""
        settings = self.settings
        timeouts = (settings.idle_timeout, settings.frame_timeout, settings.stall_timeout, DISCARD_TIMEOUT)
        period = min(SWEEP_SECONDS, *(timeout / 4 for timeout in timeouts if timeout))
        if not self._unswept:
            self._unswept = list(self._connections)
        slices = max(1, -(-len(self._connections) // SWEPT_TOGETHER))
        now = asyncio.get_running_loop().time()
        late = now > self._sweep_due + period
        self._sweep_due = now + period / slices
        self._later("sweep", period / slices, self._sweep)
        if late and not self._sweep_was_late and self._unswept:
            # The process was paused (SIGSTOP, a suspended computer). Bytes that arrived during the pause arrived in
            # time, so the server reads them before it applies timeouts.
            self._sweep_was_late = True
            return
        self._sweep_was_late = False
        for connection in self._unswept[-SWEPT_TOGETHER:]:
            if connection in self._connections:
                connection.check_times(now)
        del self._unswept[-SWEPT_TOGETHER:]

    def _housekeep(self) -> None:
        """Do a slice of the store's housekeeping, and schedule the next one."""
        more = False
        try:
            more = self.store.housekeep()
            self._activity.sample()
        finally:
            self._later("housekeeping", HOUSEKEEPING_PAUSE if more else HOUSEKEEPING_SECONDS, self._housekeep)

    def _set_waiters_timer(self, seconds: float) -> None:
        if (timer := self._timers.get("waiters")) is not None:
            timer.cancel()
        self._later("waiters", seconds, self._serve_waiters)

    def _serve_waiters(self) -> None:
        self.store.waiters.timer_came()
        self.store.serve_waiters()

    def _later(self, name: str, delay: float, work: Callable[[], None]) -> None:
        if not (self._stopping and not self._connections):
            self._timers[name] = asyncio.get_running_loop().call_later(delay, work)

    @property
    def connections(self) -> frozenset[Connection]:
        """The connected clients."""
        return frozenset(self._connections)

    def _look_at_certificate(self, *, always: bool = False) -> None:
        """Use the certificate's files if they have changed. Reads and checks them in another thread."""
        if self.certificates is None or self._stopping:
            return
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().create_task(self._use_newer_certificate(always))
        if (timer := self._timers.get("look at the certificate")) is not None:
            timer.cancel()
        self._later("look at the certificate", TLS_LOOK_SECONDS, self._look_at_certificate)

    async def _use_newer_certificate(self, always: bool) -> None:
        files = TlsFiles.of(self.settings)
        assert files is not None
        assert self.certificates is not None
        try:
            identity = await asyncio.to_thread(newer, files, self.certificates.identity, always=always)
        except OptionError as error:
            if str(error) != self.certificates.failure:
                self.audit("tls_reload_failed", {"reason": str(error)})
            self.certificates.refuse(str(error))
            return
        if files != TlsFiles.of(self.settings):  # CONFIG SET has named others meanwhile
            return
        if identity is None:
            self.certificates.unchanged()
        else:
            self._use_certificate(identity)

    def _use_certificate(self, identity: Identity) -> None:
        assert self.certificates is not None
        self.certificates.use(identity)
        self.audit("tls_reloaded", {"expires": int(identity.expires)})

    # -- INFO ---------------------------------------------------------------------------------------------------

    def transferred(self, *, received: int = 0, sent: int = 0) -> None:
        """Count bytes that the native path does not count."""
        self._activity.received += received
        self._activity.sent += sent

    def _commands(self) -> int:
        return self.store.reports.commands(self.store.commands) + self._context.commands_executed

    def _info(self) -> Iterable[tuple[str, str | int]]:
        logins = self._context.logins
        return (
            ("loop", features()["loop"]),
            ("pid", os.getpid()),
            ("uptime_seconds", int(time.monotonic() - self._started)),
            ("addresses", " ".join(self.addresses)),
            ("connections", len(self._connections)),
            ("connections_accepted", self._accepted),
            ("connections_refused", self._refusals),
            ("unfinished_bytes", self._buffered_total),
            *self._activity.info(),
            *(self.certificates.info() if self.certificates is not None else ()),
            ("connections_unauthenticated", len(self._unauthenticated)),
            ("logins", logins.succeeded),
            ("logins_failed", logins.log.counts["auth"]),
            ("audit_events_dropped", 0 if self._audit_log is None else self._audit_log.dropped),
            *_process_info(),
            ("users", len(self._users.table)),
            ("users_digest", self._users.table.digest[:DIGEST_SHOWN]),
            ("run_id", self._run_id),
        )


def new_store(
    settings: Settings,
    *,
    storage: Storage | None = None,
    clock: Clock = wall_clock,
    progress: StartProgress | None = None,
) -> LocalStore:
    """Return a store with these settings. A store on disk is not loaded yet.

    storage: None: that of the settings. progress: called while the store loads; None: log it.
    """
    loads_later = storage is None and settings.data is not None
    if storage is None and settings.data is not None:
        from cairnkv.storage.disk import DiskStorage

        tell = progress or LoggedProgress()
        storage = DiskStorage(
            settings.data,
            sync=settings.sync,
            apart=True,
            progress=lambda read, records: tell(f"reading {settings.data}", read, records, "records"),
            limit=settings.disk_limit,
            memory_limit=settings.memory_limit,
        )
    return LocalStore(
        loads_later=loads_later,
        storage=storage,
        clock=clock,
        memory_limit=settings.memory_limit,
        when_full=settings.when_full,
        value_max=settings.max_value,
    )


@functools.cache
def _system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def _process_info() -> Iterator[tuple[str, str | int]]:
    """Yield what the system reports about this process."""
    yield "system", _system()
    yield "bits", struct.calcsize("P") * 8
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield "cpu_system_seconds", f"{usage.ru_stime:.6f}"
    yield "cpu_user_seconds", f"{usage.ru_utime:.6f}"
    with contextlib.suppress(OSError, ValueError, IndexError):  # only Linux has it
        yield "resident_bytes", int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _address(listening: socket.socket, settings: Settings) -> str:
    """Return the address of a socket as clients write it."""
    if listening.family == socket.AF_UNIX:
        return f"cairn+unix://{quote(os.fsencode(Path(listening.getsockname()).absolute()))}"
    host, port = listening.getsockname()[:2]
    takes_plain_text = settings.tls_cert is None or settings.plain_text is PlainText.ALWAYS
    if settings.plain_text is PlainText.AUTO and is_loopback(host):
        takes_plain_text = True
    scheme = "cairn" if takes_plain_text else "cairns"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _cannot_listen(settings: Settings, error: OSError) -> str:
    where = f"{settings.host}:{settings.port}"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {where}: another process does already; stop it, or use another --port (0: a free one)"
    if isinstance(error, socket.gaierror):  # its numbers are not errno
        return f"cannot listen on {where}: {error.strerror}"
    return f"cannot listen on {where}: {os.strerror(error.errno) if error.errno else error}"


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _bind_unix(path: Path) -> socket.socket:
    """Return a Unix socket bound to a path, for its owner only. Replaces a socket without a server."""
    if (length := len(os.fsencode(path))) > UNIX_PATH_MAX:
        raise OptionError(
            f"cannot listen on {path}: the system takes paths of at most {UNIX_PATH_MAX} bytes, and this has {length:,}"
        )
    if path.exists() or path.is_symlink():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OptionError(f"cannot listen on {path}: it exists and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                pass
            except OSError as error:
                raise OptionError(f"cannot listen on {path}: {error.strerror or error}") from None
            else:
                raise OptionError(f"cannot listen on {path}: a server listens there already")
        path.unlink()
    unix = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        unix.bind(str(path))
    except OSError as error:
        unix.close()
        raise OptionError(f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    return unix

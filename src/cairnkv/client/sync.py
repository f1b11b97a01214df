"""The sync client of a store at an address. Threads share its one connection.

Invariants: a call gets the reply to its own command: if a call ends before it has read its reply, the client closes the
connection. No wait is longer than the timeout, and the time for which a TAKE may wait for messages. A forked process
makes a connection of its own. An exception (of a signal handler, or set by another thread) may end a call between any
two steps: a call takes its turn out of a queue, and the connection out of the turn. If the call does not return them,
the client replaces them.

Out of scope: the meaning of a call (`calls`), the decision to repeat it (`retry`), and its endpoint (`endpoints`).
"""

import collections
import contextlib
import queue
import select
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from cairnkv.client import process
from cairnkv.client.address import Address, Endpoint, shown
from cairnkv.client.backup_progress import POLL_SECONDS, Watch
from cairnkv.client.calls import Call, K, T, V
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.client.credentials import Credentials
from cairnkv.client.dialing import connected_to, dial
from cairnkv.client.endpoints import Endpoints
from cairnkv.client.exchange import GreenLine, Line, PureLine, ReplyDecoder, command_parts, parts_with
from cairnkv.client.keyvalue import KeyValue
from cairnkv.client.login import check_greeting, greeting, no_answer, not_logged_in, tls_of
from cairnkv.client.pending import AnyPending
from cairnkv.client.pipeline import Pipeline
from cairnkv.client.process import replaced
from cairnkv.client.retry import lost, not_reached, pause_before, worth_repeating
from cairnkv.client.wrong_server import (
    LINES,
    PROBE,
    PROBE_ANSWER_BYTES,
    PROBE_SECONDS,
    TLS_PROBE,
    probe_at,
    wrong_server,
    wrong_server_by_probe,
)
from cairnkv.commands import Command, Failure, Reply
from cairnkv.commands.failures import NOAUTH
from cairnkv.errors import AccessDenied, CairnError, CallerError, PeerError, TimedOut, Unavailable, WrongServer
from cairnkv.records import replace
from cairnkv.sockets import end_sending_below_tls

if TYPE_CHECKING:
    from cairnkv.client.tls import Tls, TlsLine
    from cairnkv.storage import BackupResult

FINAL_FAILURE_BYTES: Final = 64 * 1024
"""Maximum bytes that the client reads after sending has failed."""

LOOK_AFTER_SECONDS: Final = 0.05
"""Quiet time after which the client checks a connection before it sends: if the server has closed the connection, the
client can safely use another one."""

LOST_TURN_SECONDS: Final = 0.05
"""Seconds that a call waits for its turn before it checks whether an interrupted call lost the turn."""

GREEN_LOOKS: Final = 50
"""How often a call in a green thread asks for its turn without a pause, because most calls are shorter than a pause."""

GREEN_PAUSE_SECONDS: Final = 0.002
"""Seconds that a call in a green thread waits before it asks for its turn again."""

WINDOW_BYTES: Final = 32 * 1024
WINDOW_COMMANDS: Final = 512
"""Maximum size of a window: the commands that a pipeline sends before it reads their replies. One larger command is a
window, too. Socket buffers hold a window, so that client and server never both wait for the other to read."""


class Client(KeyValue[K, V]):
    """A store at an address. Threads may share it; they take turns on its one connection.

    A TAKE that waits for messages has another connection meanwhile, because the calls behind it would wait, too. It
    connects at its first call, and again after it lost the connection. With several addresses it connects to the
    next one, also if a node refuses what another node may execute.
    """

    _survives_forks = True

    def __init__(self, address: Address, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values)
        self._address = address
        self._tls = tls_of(address)
        self._begin()
        self._generation = process.generation
        self._endpoints = Endpoints(address)
        self._closed = False
        self._takes_only = False
        self._taking_on: _Connection | None = None
        self._takers: list[Client[K, V]] = []  # clients for TAKE commands that wait: all of them
        self._idle_takers: list[Client[K, V]] = []

    def _begin(self) -> None:
        self._turn = _Turn()  # the valid turn: the queue or a call has it
        self._turns: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        self._turns.put(self._turn)
        self._waiting: collections.deque[queue.SimpleQueue[_Turn]] = collections.deque()  # longest first
        self._renewing = threading.RLock()  # a finalizer or a signal's handler may call while this thread has it

    def __repr__(self) -> str:
        return f"<cairnkv.Client {self._address}>"

    def close(self) -> None:
        """Close the connection as soon as no call uses it. Using the client afterwards is an error."""
        self._closed = True
        self._after_fork()
        self._close_idle()
        for taker in self._takers:
            taker.close()

    def pipeline(self) -> Pipeline[K, V]:
        """Return a pipeline. See `KeyValue.pipeline`. Each reply restarts the timeout.

        The client repeats no command, except with several nodes: if a node executed none of the commands in a window of
        some tens of KiB, the client sends them to another node.
        """
        return Pipeline(self._calls, self._execute_all)

    def backup(self, name: str, *, keep: int | None = None) -> "BackupResult":
        """Make a backup below the server's --backup-dir, and wait until it is complete.

        name: the name of the series of backups. keep: how many backups of that name remain, with this one; None: all.
        Returns its `path` on the server, its `size` in bytes, and the `new` bytes that earlier backups do not have.
        Raises `Refused` if the server makes no backups or the backup fails, `OutcomeUnknown` if the result is unknown.
        """
        begin = self._calls.backup(name, keep)
        # Once: a repetition might begin a second one.
        with Client(replace(self._address, attempts=1), self._calls._keys, self._calls._values) as once:
            watch = Watch(once._do(begin), time.monotonic())
            while True:
                facts = None
                with contextlib.suppress(Unavailable):
                    facts = once.info()
                if (made := watch.made(facts, time.monotonic())) is not None:
                    return made
                time.sleep(POLL_SECONDS)

    def _do(self, call: Call[T]) -> T:
        if self._generation != process.generation:
            self._after_fork()
        deadline = time.monotonic() + self._address.timeout
        if waiting_time := call.command.waiting_time():
            if not self._takes_only:
                return self._take(call)
            deadline += waiting_time / 1000
        attempt = 0
        while True:
            attempt += 1
            try:
                reply = self._exchange_in_turn(call, deadline)
            except Unavailable:
                if not self._may_retry(attempt, deadline, at_once=self._endpoints.fresh(time.monotonic())):
                    raise
                continue
            if not isinstance(reply, Failure):
                return call.result(reply)
            if self._endpoints.misread(call.command, reply):
                continue
            now = time.monotonic()
            at_once = reply.code.elsewhere and self._endpoints.fresh(now)
            if not (at_once or worth_repeating(reply)) or not self._may_retry(attempt, deadline, at_once=at_once):
                reply = not_logged_in(reply, self._address.credentials)
                return call.result(self._endpoints.with_other_failures(reply, now))

    def _take(self, call: Call[T]) -> T:
        """Execute a TAKE that waits, on a connection that no other call uses meanwhile."""
        if self._closed:
            raise CallerError("this client is closed")
        try:
            taker = self._idle_takers.pop()
        except IndexError:
            taker = Client(self._address, self._calls._keys, self._calls._values)
            taker._takes_only = True
            self._takers.append(taker)
        try:
            return taker._do(call)
        finally:
            taker._taking_on = None
            self._idle_takers.append(taker)

    def _end_takes(self) -> None:
        for taker in list(self._takers):
            if (connection := taker._taking_on) is not None:
                connection.end_sending()

    def _exchange_in_turn(self, call: Call[T], deadline: float) -> Reply:
        turn = self._take_turn(deadline)
        try:
            return self._exchange(call, turn, deadline)
        finally:
            self._give_back(turn)
            del turn

    def _take_turn(self, deadline: float) -> "_Turn":
        """Wait for the turn and take it. Raises `TimedOut`, with nothing sent, if other threads keep it too long."""
        with contextlib.suppress(queue.Empty):
            return self._turns.get_nowait()
        if self._holds_turn(sys._getframe(1).f_back, waits=True):
            return _Turn()  # for a signal handler or a finalizer that interrupts a call of this thread
        turn = self._await_green_turn(deadline) if replaced("socket") is not None else self._await_turn(deadline)
        if turn is None:
            raise TimedOut(f"other threads kept the connection to {self._address} for {self._address.timeout:g} s")
        return turn

    def _await_green_turn(self, deadline: float) -> "_Turn | None":
        handed: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        self._waiting.append(handed)
        looks = 0
        try:
            while time.monotonic() < deadline:
                # A wait in the queue would stop all green threads.
                time.sleep(0 if looks < GREEN_LOOKS else GREEN_PAUSE_SECONDS)
                looks += 1
                for turns in (handed, self._turns):
                    with contextlib.suppress(queue.Empty):
                        return turns.get_nowait()
            return None
        finally:
            self._stop_waiting(handed)

    def _await_turn(self, deadline: float) -> "_Turn | None":
        """Return the turn after the calls that waited before, or None after the deadline. Threads wait in order."""
        handed: queue.SimpleQueue[_Turn] = queue.SimpleQueue()
        self._waiting.append(handed)
        try:
            while (left := deadline - time.monotonic()) > 0:
                with contextlib.suppress(queue.Empty):
                    return self._turns.get_nowait()  # the call that gave it back did not see this one
                with contextlib.suppress(queue.Empty):
                    return handed.get(timeout=min(left, LOST_TURN_SECONDS))
                if not any(map(self._holds_turn, sys._current_frames().values())):
                    return self._new_turn()
            return None
        finally:
            self._stop_waiting(handed)

    def _stop_waiting(self, handed: "queue.SimpleQueue[_Turn]") -> None:
        with contextlib.suppress(ValueError):
            self._waiting.remove(handed)
        with contextlib.suppress(queue.Empty):
            self._give_back(handed.get_nowait())  # it arrived after the deadline

    def _holds_turn(self, frame: types.FrameType | None, *, waits: bool = False) -> bool:
        """Return whether this frame, or one of its callers, is a call that has the turn.

        waits: count a call that waits for the turn, too. A handler that interrupts that call must not wait behind it.
        """
        while frame is not None:
            if frame.f_code in _IN_TURN:
                known = frame.f_locals
                if known.get("self") is self and known.get("turn") is self._turn:
                    return True
            elif frame.f_code is _AWAITS_TURN:
                known = frame.f_locals
                handed = known.get("handed")
                if known.get("self") is self and handed is not None and (waits or not handed.empty()):
                    return True
            frame = frame.f_back
        return False

    def _new_turn(self) -> "_Turn":
        """Replace the turn, which an interrupted call did not return."""
        with self._renewing:
            with contextlib.suppress(queue.Empty):
                return self._turns.get_nowait()
            self._turn = _Turn()
            return self._turn

    def _give_back(self, turn: "_Turn") -> None:
        if turn is self._turn:
            self._pass_on(turn)
            if self._closed:
                self._close_idle()
        else:
            turn.drop()

    def _pass_on(self, turn: "_Turn") -> None:
        """Give the turn to the call that waits longest, or to the next call."""
        self._turns.put(turn)
        while self._waiting:
            try:
                turn = self._turns.get_nowait()
            except queue.Empty:
                return  # another call has taken it
            try:
                self._waiting.popleft().put(turn)
            except IndexError:
                self._turns.put(turn)
            else:
                return

    def _close_idle(self) -> None:
        """Close the connection unless a call uses it; that call closes the connection at its end."""
        with contextlib.suppress(queue.Empty):
            turn = self._turns.get_nowait()
            turn.drop()
            self._pass_on(turn)

    def _may_retry(self, attempt: int, deadline: float, *, at_once: bool) -> bool:
        """Return whether the client may try again. If so, wait before, unless it tries another endpoint at once."""
        if attempt >= self._endpoints.attempts:
            return False
        pause = 0.0 if at_once else pause_before(attempt)
        if time.monotonic() + pause >= deadline:
            return False
        time.sleep(pause)
        return True

    def _exchange(self, call: Call[T], turn: "_Turn", deadline: float) -> Reply:
        """Send a command and read its reply. Raises `Unavailable` if a repetition is safe."""
        connection = self._connected(turn, deadline)
        if self._takes_only:
            self._taking_on = connection
        command = call.command
        silence: float | None = None
        if self._endpoints.several and not command.spec.writes:
            silence = self._endpoints.silence(connection.endpoint, time.monotonic())
        try:
            parts = command_parts(command) if call.flag is None else parts_with(call.flag, command)
            connection.send(parts, deadline)
            reply = connection.receive(command, deadline, silence)
        except PeerError as error:
            self._leave(connection, str(error))
            raise lost(command.spec, connection.name, str(error), timed_out=False, wrong=error) from None
        except OSError as error:
            reply_before_the_end = connection.final_failure(command)
            if reply_before_the_end is not None:
                self._leave(connection, reply_before_the_end.message)
                return reply_before_the_end
            timed_out = isinstance(error, BlockingIOError | TimeoutError)
            raise lost(
                command.spec, connection.name, self._leave_after(connection, error, silence), timed_out=timed_out
            ) from None
        except BaseException:
            connection.close()  # the next call would read this call's late reply
            raise
        if not isinstance(reply, Failure) or self._heed(reply, connection):
            turn.connection = connection
        return reply

    def _heed(self, failure: Failure, connection: "_Connection") -> bool:
        """Act on a failure: close the connection or leave the endpoint. Returns whether the connection is usable."""
        if self._endpoints.several and failure.code.elsewhere:
            self._leave(connection, failure.message)
            return False
        if failure.code.closes or (failure.code is NOAUTH and self._address.logs_in):  # the next one logs in again
            connection.close()
            return False
        return True

    def _leave(self, connection: "_Connection", why: str) -> None:
        """Close the connection, and try other endpoints first for a while."""
        connection.close()
        self._endpoints.add_failure(connection.endpoint, why, time.monotonic())

    def _leave_after(self, connection: "_Connection", error: Exception, silence: float | None = None) -> str:
        """Leave an endpoint after an error or a timeout. Returns the reason, for an error message."""
        timed_out = isinstance(error, BlockingIOError | TimeoutError)
        limit = silence or self._address.timeout
        why = f"no reply in {limit:g} s" if timed_out else f"connection lost ({_why(error)})"
        self._leave(connection, why)
        return why + self._endpoints.other_failures(connection.endpoint, time.monotonic())

    def _connected(self, turn: "_Turn", deadline: float) -> "_Connection":
        """Return the turn's connection, or a new one if it is unusable. Raises `Unavailable` with nothing sent.

        Removes the connection from the turn. A call that has read all replies puts it back.
        """
        if self._closed:
            raise CallerError("this client is closed")
        connection, turn.connection = turn.connection, None
        if connection is None or not connection.is_good():
            if connection is not None:
                self._leave(connection, "connection lost (the server closed it)")
            connection = self._connect(deadline)
        if time.monotonic() >= deadline:
            turn.connection = connection
            raise TimedOut(f"no time was left to send anything to {connection.name}")
        return connection

    def _connect(self, deadline: float) -> "_Connection":
        """Return a new connection, to the first endpoint that accepts."""
        endpoints = self._endpoints
        in_order = endpoints.in_order(time.monotonic())
        refusal: CairnError | None = None
        for tried, endpoint in enumerate(in_order):
            now = time.monotonic()
            if now >= deadline:
                raise TimedOut(f"no time was left to connect to {endpoints.all_failures(now)}")
            try:
                connection = _Connection(endpoint, endpoints.timeout(deadline - now, len(in_order) - tried), self._tls)
                if endpoints.pings_first or self._takes_only:  # the reply to TAKE may come late
                    connection.greet(self._address.present_credentials())
            except (OSError, PeerError, AccessDenied) as error:
                endpoints.add_failure(endpoint, _why(error), time.monotonic())
                if isinstance(error, AccessDenied) or (isinstance(error, PeerError) and not endpoints.several):
                    refusal = error
            else:
                endpoints.prefer(endpoint)
                return connection
        if refusal is not None:
            raise refusal
        raise Unavailable(f"cannot connect to {endpoints.all_failures(time.monotonic())}")

    def _after_fork(self) -> None:
        """In a forked process, discard the parent's connection and a turn that a thread of the parent had."""
        if self._generation != process.generation:
            with process.FORK_LOCK:
                if self._generation != process.generation:
                    self._begin()
                    self._endpoints = Endpoints(self._address)  # in an order of its own
                    # Last, because another thread of this process may read it meanwhile.
                    self._generation = process.generation

    def _execute_all(self, pending: list[AnyPending]) -> None:
        """Execute the commands of a pipeline, and settle or fail each result."""
        self._after_fork()
        turn = self._take_turn(time.monotonic() + self._address.timeout)
        try:
            for window in _windows(pending):
                self._run_window(window, turn, time.monotonic() + self._address.timeout)
        finally:
            self._give_back(turn)
            del turn

    def _run_window(self, window: list[AnyPending], turn: "_Turn", deadline: float) -> None:
        """Execute a window of commands. If a node has executed none of them, try the next node."""
        for _ in range(self._endpoints.attempts):
            self._try_window(window, turn, deadline)
            if not self._endpoints.several:
                return
            refused = next(filter(None, (pending.refused_here for pending in window)), None)
            if turn.connection is not None and refused is not None:
                connection, turn.connection = turn.connection, None
                self._leave(connection, refused.message)
            now = time.monotonic()
            if now >= deadline or not self._endpoints.fresh(now) or not all(pending.unharmed for pending in window):
                return

    def _try_window(self, window: list[AnyPending], turn: "_Turn", deadline: float) -> None:
        """Send some commands together, read their replies, and settle or fail each result.

        Each reply restarts the timeout.
        """
        try:
            connection = self._connected(turn, deadline)
        except CairnError as error:
            for pending in window:
                pending.fail(error)
            return
        unanswered = list(window)
        try:
            parts: list[bytes] = []
            for pending in window:
                call = pending.call
                parts += command_parts(call.command) if call.flag is None else parts_with(call.flag, call.command)
            connection.send(parts, deadline)
            while unanswered:
                pending = unanswered[0]
                reply = connection.receive(pending.call.command, deadline)
                if pending is window[0] and self._endpoints.misread(pending.call.command, reply):
                    connection.close()
                    self._try_window(window, turn, deadline)
                    return
                unanswered.pop(0).settle(reply)
                deadline = time.monotonic() + self._address.timeout
                if isinstance(reply, Failure) and reply.code.closes and not self._heed(reply, connection):
                    for behind in unanswered:
                        behind.fail(not_reached(behind.call.command.spec, connection.name, reply))
                    return
        except WrongServer as wrong:
            self._leave(connection, str(wrong))
            for pending in unanswered:
                pending.fail(lost(pending.call.command.spec, connection.name, str(wrong), timed_out=False, wrong=wrong))
        except (OSError, PeerError) as error:
            final_failure = connection.final_failure(unanswered[0].call.command)
            if final_failure is not None and final_failure.code.closes:
                self._leave(connection, final_failure.message)
                first, *rest = unanswered
                first.settle(final_failure)
                for behind in rest:
                    behind.fail(not_reached(behind.call.command.spec, connection.name, final_failure))
                return
            timed_out = isinstance(error, BlockingIOError | TimeoutError)
            unreadable = error if isinstance(error, PeerError) else None
            why = self._leave_after(connection, error)
            for pending in unanswered:
                pending.fail(
                    lost(pending.call.command.spec, connection.name, why, timed_out=timed_out, wrong=unreadable)
                )
        except BaseException as interruption:
            connection.close()
            why = f"the pipeline was interrupted ({interruption!r:.80})"
            for pending in unanswered:
                pending.fail(lost(pending.call.command.spec, connection.name, why, timed_out=False))
            raise
        else:
            if window[-1].not_logged_in and self._address.logs_in:
                connection.close()
            else:
                turn.connection = connection


_IN_TURN: Final = frozenset((Client._exchange_in_turn.__code__, Client._execute_all.__code__))
"""The functions that hold the turn in their variable `turn`."""

_AWAITS_TURN: Final = Client._await_turn.__code__
"""The function that receives the turn by its variable `handed`."""


class _Turn:
    """The right to use a client's connection, with the connection. The client's queue or one call has it."""

    __slots__ = ("connection",)

    def __init__(self) -> None:
        self.connection: _Connection | None = None

    def drop(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class _Connection:
    """A connection to an endpoint."""

    def __init__(self, endpoint: Endpoint, connect_timeout: float, tls: "Tls | None" = None) -> None:
        """Raises OSError; PeerError or `AccessDenied` if TLS refuses the server or the server refuses the client."""
        self.endpoint = endpoint
        self.name = shown(endpoint)
        self._greet_until = time.monotonic() + connect_timeout
        if isinstance(endpoint, str):
            self._socket = connected_to((socket.AF_UNIX, endpoint), connect_timeout)
        else:
            self._socket = dial(*endpoint, connect_timeout)
        self._is_green = replaced("socket") is not None
        self._tls_line: TlsLine | None = None
        if tls is None or isinstance(endpoint, str):
            self._line: PureLine = GreenLine(self._socket) if self._is_green else Line(self._socket)
        else:
            self._begin_tls(tls, endpoint[0])
        self._decoder = ReplyDecoder()
        self._answered = False
        self._owes = False  # whether the reply to a probe is still missing
        self._ended_sending = False
        self._peer: Any = None
        with contextlib.suppress(OSError):
            self._peer = self._socket.getpeername()
        self._used = time.monotonic()
        if not self._is_green:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)

    def _begin_tls(self, tls: "Tls", host: str) -> None:
        from cairnkv.client.tls import TlsLine, handshake_error  # imported before

        try:
            self._socket = tls.handshake(self._socket, host, max(self._greet_until - time.monotonic(), 0.001))
        except OSError as error:
            raise handshake_error(error, self.name) from None
        self._line = self._tls_line = TlsLine(self._socket)

    def greet(self, credentials: Credentials | None) -> None:
        """Log in and send a PING, in one write, and read the replies: the system also accepts for a hung server.

        Raises OSError, PeerError or `AccessDenied`, and closes the connection, if that fails.
        """
        commands = greeting(credentials)
        try:
            self.send([part for command in commands for part in command_parts(command)], self._greet_until)
            for command in commands:
                reply = self.receive(command, self._greet_until)
                check_greeting(command, reply, self.name, credentials, tls=self._tls_line is not None)
        except (BlockingIOError, TimeoutError):
            self.close()
            raise no_answer(credentials) from None
        except OSError as error:
            refusal = self._refusal_of_tls(error)
            self.close()
            raise refusal from None
        except BaseException:
            self.close()
            raise

    def _refusal_of_tls(self, error: OSError) -> Exception:
        """Return the error for a failure of the first commands. With TLS 1.3, a server refuses a certificate after it.

        If sending failed, the reason may have arrived.
        """
        if self._tls_line is None or isinstance(error, ConnectionRefusedError):
            return error
        from cairnkv.client.tls import handshake_error, is_alert  # imported before

        try:
            self._tls_line.receive(self._greet_until)
        except OSError as reason:
            if is_alert(reason):
                error = reason
        return handshake_error(error, self.name)

    def is_good(self) -> bool:
        """Return whether the connection is usable: no unexpected bytes and, after some quiet time, no end."""
        if self._decoder.pending or self._owes or self._ended_sending:
            return False
        return time.monotonic() - self._used < LOOK_AFTER_SECONDS or self._is_quiet()

    def _is_quiet(self) -> bool:
        if self._tls_line is not None:
            return self._tls_line.is_quiet()
        if not self._is_green:
            return not self._poll.poll(0)
        try:  # eventlet has no poll
            self._socket.settimeout(0)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def send(self, parts: list[bytes], deadline: float) -> None:
        """Send bytes. Raises OSError; BlockingIOError or TimeoutError after the deadline."""
        self._line.send(b"".join(parts), deadline)

    def receive(self, command: Command, deadline: float, silence: float | None = None) -> Reply:
        """Return the next reply. Raises OSError; BlockingIOError or TimeoutError after the deadline.

        silence: maximum seconds without received bytes.
        """
        while (reply := self._decoder.reply(command.spec)) is None:
            until = deadline if silence is None else min(deadline, time.monotonic() + silence)
            self._decoder.feed(self._line.receive(until) if self._answered else self._first_bytes(until))
        self._used = time.monotonic()
        return reply

    def _first_bytes(self, until: float) -> bytes:
        """Return the first bytes that the server sends. Raises `WrongServer` if they are of another protocol."""
        data = self._line.receive(until) if self._tls_line is not None else self._first_or_probe(until)
        if (wrong := wrong_server(data, self.name)) is not None:
            raise wrong
        self._answered = True
        return data

    def _first_or_probe(self, until: float) -> bytes:
        """Return the first bytes. Probes a silent server, and one that closes the connection."""
        try:
            return self._line.receive(probe_at(until, time.monotonic()))
        except (BlockingIOError, TimeoutError):
            self._owes = True
            self.send(command_parts(LINES), until)
            if (wrong := wrong_server_by_probe(self._probe(PROBE, until), self.name)) is not None:
                raise wrong from None
            return self._line.receive(until)
        except OSError:
            with contextlib.suppress(OSError):
                self._socket.shutdown(
                    socket.SHUT_RDWR
                )  # a server of one connection at a time can then accept the probe
            if (wrong := wrong_server_by_probe(self._probe(TLS_PROBE, until), self.name)) is not None:
                raise wrong from None
            raise

    def _probe(self, data: bytes, until: float) -> bytes:
        """Return the reply to a probe on a second connection, or nothing if no reply comes soon."""
        if self._peer is not None:
            with contextlib.suppress(OSError), socket.socket(self._socket.family) as second:
                second.settimeout(max(min(PROBE_SECONDS, until - time.monotonic()) / 2, 0.001))
                second.connect(self._peer)
                second.sendall(data)
                return second.recv(PROBE_ANSWER_BYTES)
        return b""

    def final_failure(self, command: Command) -> Failure | None:
        """After sending has failed, return the failure with which the server ended the connection, if it arrived."""
        with contextlib.suppress(OSError, PeerError):
            self._socket.settimeout(0)  # a green socket would wait in spite of MSG_DONTWAIT
            self._decoder.feed(self._socket.recv(FINAL_FAILURE_BYTES))
            if isinstance(reply := self._decoder.reply(command.spec), Failure):
                return reply
        return None

    def end_sending(self) -> None:
        """Let the server end a TAKE that waits, from any thread. The reply still arrives."""
        self._ended_sending = True
        if self._tls_line is not None:
            end_sending_below_tls(self._socket.fileno())
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _windows(pending: list[AnyPending]) -> Iterator[list[AnyPending]]:
    """Yield the windows of a pipeline."""
    window: list[AnyPending] = []
    size = 0
    for result in pending:
        length = sum(map(len, command_parts(result.call.command)))
        if window and (size + length > WINDOW_BYTES or len(window) == WINDOW_COMMANDS):
            yield window
            window, size = [], 0
        window.append(result)
        size += length
    if window:
        yield window

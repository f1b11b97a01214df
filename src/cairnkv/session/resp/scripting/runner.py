"""The execution of scripts: attempts, slices of time, pauses, and SCRIPT KILL.

The first attempt of a script executes at once. If it takes longer than its slice, the store undoes it, other clients
get their turn, and a longer attempt follows. The last attempt, and a later one that has written, is not undone: when
the script has taken `seconds_max` altogether, it pauses. From then on it continues in short slices, and between them
the server answers other clients with BUSY, until the script ends, SCRIPT KILL ends it, or it exceeds its steps or its
memory.

Invariants: one script at a time has begun and not ended. A script that was undone or killed has changed nothing, and
its messages were not published. The messages of any other script are published after its commit.

Out of scope: the commands within a script (`host`), Lua (`cairnkv.scripts`), and the undo (`store`).
"""

import abc
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Protocol, TypeAlias

from cairnkv.commands import OK, Failure, Reply, failures
from cairnkv.engine import Watched
from cairnkv.errors import OptionError, missing_package
from cairnkv.limits import (
    SCRIPT_ATTEMPTS_MAX,
    SCRIPT_MEMORY_MAX,
    SCRIPT_PAUSED_SLICE,
    SCRIPT_SLICE,
    SCRIPT_STEPS_MAX,
    SCRIPT_TIME,
    TRANSACTION_BYTES_MAX,
)
from cairnkv.protocol.resp import Error
from cairnkv.scripts import Interpreter, ScriptAbort, ScriptCache
from cairnkv.session.access.rights import Rights
from cairnkv.session.conversation import UNFINISHED, Unfinished
from cairnkv.session.resp.command_spec import SCRIPT_BUSY, Refusal, Value, error_of
from cairnkv.session.resp.values import Job, Later
from cairnkv.store import RUN_ANEW, Execute, PendingExecution, PendingReply, Script, Store
from cairnkv.version import REDIS_VERSION

COST_PER_SECOND: Final = 30_000
"""The work of a second of a script, in commands of one key."""

CallLater: TypeAlias = Callable[[float, Callable[[], None]], object]
"""Calls a function after some seconds."""

_PAUSED: Final = object()
"""In the place of an outcome: the script has paused."""


class _GaveWay(ScriptAbort):
    """An attempt has exceeded its slice."""


class _Killed(ScriptAbort):
    """SCRIPT KILL, or the end of the server, has ended a script."""


class ScriptClient(Protocol):
    """The client of a script: its conversation."""

    @property
    def rights(self) -> Rights:
        """The rights of the client."""

    def costs(self, commands: int) -> None:
        """Add work to the current command, in commands of one key."""

    def publish(self, channel: bytes, message: bytes) -> int:
        """Publish a message to a channel. Returns the number of subscribers of this server."""


class ScriptTask(Script):
    """A script of a client, or a transaction with scripts, from its first attempt to its value.

    watched: the keys that the client watches, with their databases.
    """

    kept = 0
    """Estimated bytes of its arguments."""
    attempts = 0
    """Attempts that have exceeded their slices."""
    seconds = 0.0
    """The time of all attempts."""
    killed: Error | None = None
    """The value if the script is killed before it ends."""
    error: Error | None = None
    """The value of a script that was killed."""
    has_written = False
    """Whether the current run has executed a command that writes."""

    def __init__(self, client: ScriptClient, watched: Sequence[tuple[int, Watched]] = ()) -> None:
        self.client: Final = client
        self.watched: Final = watched
        self.rights = client.rights
        """The rights of the client at the beginning of the current run. The client may disconnect during a run."""
        self.messages: list[tuple[bytes, bytes]] = []
        """The channels and messages that the current run has published."""
        self.message_bytes = 0
        """About the bytes of memory that they take."""

    def run(self, execute: Execute) -> Reply:
        """Run from the beginning; see `Script`."""
        self.rights = self.client.rights
        self.has_written = False
        self.messages, self.message_bytes = [], 0
        return self.execute(execute)

    @abc.abstractmethod
    def execute(self, execute: Execute) -> Reply:
        """Do the work of `run`."""

    @abc.abstractmethod
    def show(self, reply: Reply) -> Value:
        """Return the value of the command. reply: that of `run`, or `MISSING` if a watched key has changed."""

    @abc.abstractmethod
    def settle(self, reply: Reply) -> int:
        """Prepare for the wait until the commit: the client's next commands may execute. Returns the bytes of values.

        reply: as for `show`.
        """

    def publish(self, reply: Reply) -> None:
        """Publish the messages of the script, unless it has failed to commit. reply: that of the store."""
        for channel, message in () if isinstance(reply, Failure) else self.messages:
            self.client.publish(channel, message)


class Runner:
    """Runs the scripts of a server, one at a time."""

    def __init__(
        self,
        store: Store,
        *,
        seconds: Callable[[], float] = lambda: 0.0,
        call_later: CallLater = lambda seconds, callback: None,
        slice_seconds: float = SCRIPT_SLICE,
        seconds_max: float = SCRIPT_TIME,
        steps_max: int = SCRIPT_STEPS_MAX,
        memory_max: int = SCRIPT_MEMORY_MAX,
    ) -> None:
        """seconds: a monotonic clock; without one, no script gives way or pauses."""
        self._store: Final = store
        self._seconds: Final = seconds
        self._call_later: Final = call_later
        self._steps_max: Final = steps_max
        self._memory_max: Final = memory_max
        self.slice_seconds = slice_seconds
        """The time of a first attempt. Each further attempt has twice the time of the one before."""
        self.seconds_max = seconds_max
        """The time of all attempts of a script until it pauses; 0: no script pauses."""
        self.cache: Final = ScriptCache()
        self._interpreter: Interpreter | None = None
        self._began = 0.0
        self._deadline = math.inf
        self._greenlet: Any = None  # that of an attempt that can pause
        self._paused: ScriptTask | None = None
        self._end_of_paused = PendingExecution()

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter of Lua. Raises `Refusal` if it is not installed."""
        if self._interpreter is None:
            try:
                import greenlet  # noqa: F401  `_attempt_in_greenlet` needs it

                self._interpreter = Interpreter(
                    memory_max=self._memory_max,
                    steps_max=self._steps_max,
                    version=REDIS_VERSION,
                    clock=self._seconds,
                )
            except ImportError as error:
                raise Refusal(f"ERR unknown command: {missing_package(error, 'a script')}") from None
            except OptionError as error:
                raise Refusal(f"ERR unknown command: {error}") from None
        return self._interpreter

    @property
    def is_busy(self) -> bool:
        """Whether a script has paused."""
        return self._paused is not None

    # -- execution ------------------------------------------------------------------------------------------------

    def execute(self, task: ScriptTask) -> Value:
        """Execute a script. Returns its value, or a job that continues with it."""
        outcome = self._attempt(task)
        return self._finished(task, outcome) if _is_final(outcome) else _Execution(task, self._slices(task, outcome))

    def execute_directly(self, task: ScriptTask) -> Value:
        """Execute a script if the store executes scripts directly and no script has paused; see `execute`."""
        began = self._began = self._seconds()
        self._deadline = began + self.slice_seconds
        try:
            reply = self._store.execute_script(task, bytes_max=TRANSACTION_BYTES_MAX)
        except _GaveWay:
            task.attempts += 1
            return _Execution(task, self._slices(task, RUN_ANEW))
        finally:
            task.seconds = self._seconds() - began
        assert not isinstance(reply, PendingReply)
        _published(task, reply)
        return self._finished(task, reply)

    def _slices(self, task: ScriptTask, outcome: Reply | PendingReply) -> Generator[Unfinished, None, Value]:
        """Yield after each slice, and return the value. outcome: of the first attempt."""
        while True:
            while isinstance(outcome, PendingReply) and not outcome.executed:
                yield Unfinished(outcome)
            if _is_final(outcome):
                return self._finished(task, outcome)
            if not isinstance(outcome, PendingReply):
                yield UNFINISHED  # other clients get their turn
            outcome = self._attempt(task)

    def _attempt(self, task: ScriptTask) -> Reply | PendingReply:
        """Execute a script once. Returns `RUN_ANEW` if the attempt was undone, or the end of a script that pauses."""
        if self._paused is not None:
            raise Refusal(SCRIPT_BUSY)
        self._began = self._seconds()
        self._deadline = self._began + self.slice_seconds * 2**task.attempts
        try:
            if task.attempts > 0:
                return self._attempt_in_greenlet(task)
            outcome = self._store.execute_script(task, task.watched, bytes_max=TRANSACTION_BYTES_MAX)
        except _GaveWay:
            task.attempts += 1
            return RUN_ANEW
        finally:
            task.seconds += self._seconds() - self._began
        return _published(task, outcome)

    def _attempt_in_greenlet(self, task: ScriptTask) -> Reply | PendingReply:
        from greenlet import greenlet

        def attempt() -> Reply | PendingReply:
            return self._store.execute_script(task, task.watched, bytes_max=TRANSACTION_BYTES_MAX)

        self._greenlet = greenlet(attempt)
        outcome: Any = None
        try:
            outcome = self._greenlet.switch()
        finally:
            if outcome is not _PAUSED:
                self._greenlet = None
        if outcome is not _PAUSED:
            return _published(task, outcome)
        self._store.hold()
        self._paused, self._end_of_paused = task, PendingExecution()
        self._call_later(0, self._continue)
        return self._end_of_paused

    def _finished(self, task: ScriptTask, outcome: Reply | PendingReply) -> Value:
        """Return the value of a script that has ended."""
        task.client.costs(int(task.seconds * COST_PER_SECOND))
        if task.error is not None:
            return task.error
        if isinstance(outcome, PendingReply):
            if outcome.reply is None:
                return Later(outcome, task.show, size=task.settle(outcome.outcome))
            outcome = outcome.reply
        return error_of(outcome) if isinstance(outcome, Failure) else task.show(outcome)

    # -- while a script executes ----------------------------------------------------------------------------------

    def tick(self, task: ScriptTask) -> None:
        """Give way or pause if it is time. Called by the script that executes, often."""
        if self._seconds() >= self._deadline:
            self._make_way(task)

    def _make_way(self, task: ScriptTask) -> None:
        if self._paused is None:
            if self._greenlet is None or (task.attempts < SCRIPT_ATTEMPTS_MAX - 1 and not task.has_written):
                raise _GaveWay
            self._deadline = self._began + self.seconds_max - task.seconds if self.seconds_max else math.inf
            if self._seconds() < self._deadline:
                return
        self._greenlet.parent.switch(_PAUSED)
        if task.killed is not None:
            raise _Killed

    # -- while a script pauses ------------------------------------------------------------------------------------

    def _continue(self) -> None:
        """Continue with the paused script for a slice."""
        task = self._paused
        if task is None:
            return
        self._deadline = self._seconds() + SCRIPT_PAUSED_SLICE
        outcome: Any
        try:
            outcome = self._greenlet.switch()
        except _Killed:
            task.error = task.killed
            outcome = OK
        except BaseException:
            self._end_pause(Failure(failures.INTERNAL, "the server's log has the details"))
            raise
        if outcome is _PAUSED:
            self._call_later(0, self._continue)
        else:
            self._end_pause(_published(task, outcome))

    def _end_pause(self, outcome: Reply | PendingReply) -> None:
        self._paused = self._greenlet = None
        self._store.release()
        end = self._end_of_paused
        if isinstance(outcome, PendingReply) and not outcome.executed:
            pending = outcome
            pending.on_ready = lambda: end.complete(pending.reply or OK)
        else:
            end.complete(outcome)

    def kill(self) -> None:
        """End the paused script, which is undone. Raises `Refusal` if there is none, or if it has written."""
        if self._paused is None:
            raise Refusal("NOTBUSY No scripts in execution right now.")
        if self._paused.has_written:
            raise Refusal(
                "UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait "
                "the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command."
            )
        self._paused.killed = Error("ERR Error running script: Script killed by user with SCRIPT KILL.")

    def close(self) -> None:
        """End the paused script, which is undone, because the server stops."""
        if self._paused is not None:
            self._paused.killed = Error("ERR the server stops; the script was undone")
            self._continue()


def _is_final(outcome: Reply | PendingReply) -> bool:
    """Whether an attempt has ended with the value of the script."""
    if isinstance(outcome, PendingReply):
        return outcome.executed and outcome.outcome is not RUN_ANEW
    return outcome is not RUN_ANEW


class _Execution(Job):
    """The execution of a script that takes several slices."""

    def __init__(self, task: ScriptTask, slices: Generator[Unfinished, None, Value]) -> None:
        self.kept = task.kept
        self._slices = slices

    def step(self) -> Value:
        try:
            slice = next(self._slices)
        except StopIteration as end:
            return end.value
        self.may_be_refused = slice is UNFINISHED  # an execution that has begun may take effect
        return slice


def _published(task: ScriptTask, outcome: Reply | PendingReply) -> Reply | PendingReply:
    """Publish the messages of a script when it has committed, also if its client has disconnected by then."""
    if not task.messages:
        return outcome
    if isinstance(outcome, PendingReply):
        if outcome.reply is None:
            return _Publication(task, outcome)
        task.publish(outcome.reply)
    else:
        task.publish(outcome)
    return outcome


class _Publication(PendingReply):
    """The pending reply to a script whose messages are published when it has committed."""

    __slots__ = ("_inner", "_task")

    def __init__(self, task: ScriptTask, inner: PendingReply) -> None:
        super().__init__(OK)
        self._task = task
        self._inner = inner
        inner.on_ready = self._committed

    @property
    def executed(self) -> bool:  # type: ignore[override]  # True for any other `PendingReply`
        """Whether the script has been executed."""
        return self._inner.executed

    @property
    def outcome(self) -> Reply:
        """The reply unless the commit fails."""
        return self._inner.outcome

    def _committed(self) -> None:
        reply = self.reply = self._inner.reply
        assert reply is not None
        self._task.publish(reply)
        self.on_ready()

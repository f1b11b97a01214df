"""Embedded stores: the engine that a server runs, in this process, behind the clients' methods.

Invariants: threads may share a store. Each call is atomic, like a command, even if an exception (of a signal handler,
or set by another thread) ends the call between any two steps, or if a signal handler or finalizer uses the store during
the call. A store in memory has no background thread unless a TAKE waits: calls do slices of the work that a server does
between commands. A forked process has its own copy of a store in memory; a store on disk stays with the process that
opened it. A TAKE that waits keeps no lock, and an exception that ends it leaves no waiter and no lease.
"""

import _thread
import abc
import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar, Final, cast

from cairnkv.client import process
from cairnkv.client.calls import Call, Durability, K, T, V
from cairnkv.client.codec import Codec, KeyCodec
from cairnkv.client.keyvalue import KeyValue
from cairnkv.client.pending import AnyPending
from cairnkv.client.pipeline import Pipeline
from cairnkv.client.uninterrupted import uninterrupted
from cairnkv.commands import NO_MEMORY, OK, Command, Failure, Ping, Reply, failures
from cairnkv.errors import CallerError, OptionError, PeerError, Refused
from cairnkv.limits import VALUE_MAX
from cairnkv.own_threads import OwnThread, is_own
from cairnkv.paths import user_path
from cairnkv.protocol.native import CommandFlag
from cairnkv.storage import BackupResult, StorageRefused
from cairnkv.store import LocalStore, PendingReply, Waiter

logger: Final = logging.getLogger("cairnkv.embedded")


CALLS_PER_SLICE: Final = 64
"""Number of calls between two slices of housekeeping."""


PIPELINE_COMMANDS: Final = 1_000
"""Commands of a pipeline whose replies may wait for the disk together."""


GRACE_SECONDS: Final = 0.5
"""Seconds after the end of a wait at which the waiting thread itself ends it. The timer's thread cannot while a signal
handler waits and the call that it interrupted keeps the lock of the store."""


class Shared(abc.ABC):
    """A store that several threads use, one at a time."""

    _store: LocalStore
    _closed: bool
    ends_waits: ClassVar[bool]
    """Whether a thread of the store ends each wait."""

    @abc.abstractmethod
    def execute(self, command: Command, flag: CommandFlag | None = None) -> Reply | PendingReply:
        """Execute a command. Returns its reply, or the pending reply."""

    @abc.abstractmethod
    def new_take(self, command: Command, flag: CommandFlag | None) -> PendingReply:
        """Return the pending reply to a TAKE that may wait. It has not begun."""

    @abc.abstractmethod
    def begin_take(self, take: PendingReply) -> None:
        """Execute a TAKE as soon as there are messages for it."""

    @abc.abstractmethod
    def end_take(self, take: PendingReply) -> None:
        """End a TAKE of which the caller uses no reply. It gives leases back."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the store."""

    def back_up(self, directory: Path, keep: int | None) -> BackupResult:
        """Make a backup. Other calls may run at the same time: a backup uses only the threads and files of storage."""
        make = self._store.back_up
        if make is None:
            raise CallerError("a store in memory has no backups; open a store on disk: cairnkv.open('data/')")
        if self._closed:
            raise CallerError("this store is closed")
        if is_own():
            raise CallerError(
                "backup was called by a finalizer that the garbage collector has run in a thread of the store itself, "
                "which cannot wait for the backup"
            )
        whole: object = keep  # whatever its annotation says
        if keep is not None and not (isinstance(whole, int) and whole > 0):
            raise OptionError(f"keep is a number of backups above 0, not {keep!r}")
        try:
            return make(directory, keep=keep)
        except StorageRefused as refused:
            raise Refused(str(refused)) from None


class _InMemory(Shared):
    """A store in memory. The calling thread executes each call.

    An interrupted call leaves `LocalStore.under_way` set. So does a call that still runs lower in the stack of the same
    thread. In both cases the next call uses a copy of the store without the changes of that call. If that call still
    runs, it sees at its end that the store was replaced, and executes again.

    Both the copy and the second execution are `uninterrupted`, since they may take longer than the interval of a timer
    whose signal handler uses the store: the handlers would nest until the stack is full, or the call would never end.
    """

    ends_waits = False

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._lock = threading.RLock()  # in C: no exception between acquiring and entering the block
        self._generation = process.generation
        self._calls = 0
        self._closed = False
        self.around: Callable[[Callable[[], None]], None] = lambda function: function()
        """Calls a function with the store marked as in use."""
        self._timer: _Timer | None = None
        store.waiters.set_timer = self._set_timer

    def _look_for_fork(self) -> None:
        if self._generation != process.generation:
            with process.FORK_LOCK:
                if self._generation != process.generation:
                    # A thread of the parent may have held the lock at the fork, and no thread here would release it.
                    self._lock = threading.RLock()
                    self._timer = None
                    self._store.waiters.clear()
                    # Last, because another thread of this process may read it meanwhile.
                    self._generation = process.generation

    def execute(self, command: Command, flag: CommandFlag | None = None) -> Reply | PendingReply:
        self._look_for_fork()
        try:
            with self._lock:
                outcome = self._execute(command)
        except MemoryError:  # the next call undoes the changes of this one
            return NO_MEMORY
        return outcome

    def _execute(self, command: Command) -> Reply | PendingReply:
        again = False
        while True:
            store = self._store
            if store.under_way is not None:
                uninterrupted(partial(self._undo, store))
                continue
            if self._closed:
                raise CallerError("this store is closed")
            try:
                if again:
                    outcome = uninterrupted(partial(self._call, store, command))
                else:
                    outcome = self._call(store, command)
            finally:
                if self._store.waiters:
                    self._serve()
            if outcome is not None:
                return outcome
            again = True

    def _call(self, store: LocalStore, command: Command) -> Reply | PendingReply | None:
        """Execute a call. Returns None if the store was replaced during the call."""
        store.begin_call()
        self._calls += 1
        if self._calls % CALLS_PER_SLICE == 0:
            store.housekeep()
        outcome = store.execute(command)
        store.end_call()
        return outcome if self._store is store else None

    def _undo(self, store: LocalStore) -> None:
        """Replace a store by a copy without the changes of an interrupted call."""
        whole = store.undone()
        if self._store is store:
            whole.take_waiters(store)
            self._store = whole

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._store.waiters:
                self._use(lambda store: store.end_waiters())
            if self._timer is not None:
                self._timer.set(0)

    # -- TAKE commands that wait --------------------------------------------------------------------------------

    def new_take(self, command: Command, flag: CommandFlag | None) -> Waiter:
        return Waiter(command)

    def begin_take(self, take: PendingReply) -> None:
        assert isinstance(take, Waiter)
        self._look_for_fork()
        with self._lock:
            if self._closed:
                raise CallerError("this store is closed")
            self._use(lambda store: store.begin_take(take))

    def end_take(self, take: PendingReply) -> None:
        assert isinstance(take, Waiter)
        with self._lock:
            self._use(lambda store: store.end_take(take, gives_back=True))

    def _use(self, function: Callable[[LocalStore], None]) -> None:
        """Call a function with the store, uninterrupted, and undo an interrupted call before."""
        uninterrupted(lambda: self.around(lambda: self._use_now(function)))

    def _use_now(self, function: Callable[[LocalStore], None]) -> None:
        if self._store.under_way is not None:
            self._undo(self._store)
        function(self._store)

    def _serve(self) -> None:
        """Execute TAKE for waiters that may get messages after the last call."""
        while self._store.under_way is None and self._store.waiters.may_get_messages(self._store.queues):
            self._use(lambda store: store.serve_waiters())

    def _set_timer(self, seconds: float) -> None:
        """Let `_timer_came` be called in so many seconds. The caller has the lock."""
        if self._timer is None:
            self._timer = _Timer(self._timer_came)
        self._timer.set(seconds)

    def _timer_came(self) -> bool:
        """Do what the timer was set for. Returns whether the timer may be set again: whether a TAKE waits."""
        with self._lock:
            self._store.waiters.timer_came()
            if self._store.waiters:
                self._use(lambda store: store.serve_waiters())
                self._serve()
            if not self._store.waiters:
                self._timer = None
            return self._timer is not None


class _Timer:
    """Calls a function at a time, in a thread of its own, which ends when the function returns False."""

    def __init__(self, function: Callable[[], bool]) -> None:
        self._function = function
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()
        OwnThread(self._work, "cairnkv waiters").start()

    def set(self, seconds: float) -> None:
        """Set the time, instead of an earlier one."""
        self._times.put(time.monotonic() + seconds)

    def _work(self) -> None:
        at: float | None = None
        while True:
            try:
                at = self._times.get(timeout=None if at is None else max(0.0, at - time.monotonic()))
            except queue.Empty:
                at = None
                if not self._function():
                    return


class _Job(PendingReply):
    """A call that the thread of a store executes, and its pending reply."""

    __slots__ = ("_command", "_flag", "_waiter", "blocks")

    blocks: bool  # type: ignore[misc]  # an attribute here, a constant in `PendingReply`

    def __init__(self, command: Command, flag: CommandFlag | None, *, blocks: bool, waits: bool = False) -> None:
        """waits: whether the command is a TAKE that may wait."""
        super().__init__(OK)
        self._command = command
        self._flag = flag
        self._waiter = Waiter(command) if waits else None
        self.blocks = blocks

    def run(self, store: LocalStore) -> None:
        """Execute the command, and settle the reply after the commit that it waits for."""
        outcome: Reply | PendingReply
        if self._waiter is None:
            outcome = store.execute(self._command)
        else:
            outcome = self._waiter
            store.begin_take(self._waiter)
        if self._flag is CommandFlag.MEMORY_IS_ENOUGH and isinstance(outcome, PendingReply):
            outcome = outcome.reply_before_commit()
        if isinstance(outcome, PendingReply) and outcome.reply is None:
            pending_reply = outcome
            pending_reply.on_ready = lambda: self.settle(pending_reply.reply)
        else:
            self.settle(outcome.reply if isinstance(outcome, PendingReply) else outcome)

    def end(self, store: LocalStore) -> None:
        """End a TAKE of which the caller uses no reply."""
        if self._waiter is not None:
            store.end_take(self._waiter, gives_back=True)

    def settle(self, reply: Reply | None) -> None:
        """Set the reply."""
        self.reply = reply
        self.on_ready()


class _End(_Job):
    """Ends a TAKE, in the thread of its store."""

    __slots__ = ("_take",)

    def __init__(self, take: _Job) -> None:
        super().__init__(Ping(b""), None, blocks=False)
        self._take = take

    def run(self, store: LocalStore) -> None:
        self._take.end(store)


class _OnDisk(Shared):
    """A store on disk. A thread of the store executes all calls; signals and exceptions of other threads do not reach
    it.

    The caller waits for the reply. If an exception interrupts the caller, the call still runs, or never runs.
    """

    ends_waits = True

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._lock = threading.Lock()  # only threads of the store acquire it
        self._generation = process.generation
        self._calls = 0
        self._closed = False
        self._ended = False
        self._caches = not store.allows_direct_reads
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # in C, and re-entrant
        self.around: Callable[[Callable[[], None]], None] = lambda function: function()
        """Calls a function with the store marked as in use."""
        self._serve_at: float | None = None  # when to serve waiters
        store.waiters.set_timer = self._set_timer
        store.deliver_by(self.call)
        self._thread = OwnThread(self._work, "cairnkv store")
        self._thread.start()
        _ON_DISK.add(self)

    def call(self, function: Callable[[], None]) -> None:
        """Call a function with exclusive use of the store. Only threads of the store may do so."""
        with self._lock:
            self.around(function)

    def execute(self, command: Command, flag: CommandFlag | None = None) -> PendingReply:
        # With a memory limit, a command that must read from disk may execute after later commands.
        job = _Job(command, flag, blocks=self._caches and bool(command.places_read(0)))
        self._begin(job)
        return job

    def _begin(self, job: _Job) -> None:
        if self._generation != process.generation:
            raise CallerError(
                "the parent process opened this store on disk before the fork, and only one process can use it: "
                "use it in the parent only, or serve it (cairn serve --data) and connect from both processes"
            )
        if self._closed:
            raise CallerError("this store is closed")
        self._jobs.put(job)
        if self._ended:
            self._refuse_the_rest()

    def new_take(self, command: Command, flag: CommandFlag | None) -> _Job:
        return _Job(command, flag, blocks=True, waits=True)

    def begin_take(self, take: PendingReply) -> None:
        assert isinstance(take, _Job)
        self._begin(take)

    def end_take(self, take: PendingReply) -> None:
        assert isinstance(take, _Job)
        if not self._closed:  # otherwise the store ends all waits
            self._begin(_End(take))

    def close(self) -> None:
        if self._generation != process.generation:
            return
        self._closed = True
        self._jobs.put(None)
        if not is_own():
            self._thread.wait()

    def abandon(self) -> None:
        """Leave the store to the parent process, in a forked process."""
        self._closed = True
        self._store.close()

    # -- in the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            try:
                self._job = job
                self.call(self._run_job)
            except MemoryError:
                job.settle(NO_MEMORY)
            except Exception:  # a bug in cairnkv
                logger.exception("a call of a store on disk failed")
                job.settle(Failure(failures.INTERNAL, "the log has the details"))
        try:
            # It also ends direct reads (`around`), which check `_closed` only when they begin again.
            self.call(self._store.end_waiters)
            # Without the lock: storage may need it to settle the last writes.
            self._store.close()
        finally:
            self._ended = True
            self._refuse_the_rest()

    def _next_job(self) -> _Job | None:
        """Return the next job; serve waiters at the time that the store has requested."""
        while True:
            left = None if self._serve_at is None else self._serve_at - time.monotonic()
            if left is None or left > 0:
                with contextlib.suppress(queue.Empty):
                    return self._jobs.get(timeout=left)
            self.call(self._serve)

    def _serve(self) -> None:
        self._serve_at = None
        self._store.waiters.timer_came()
        self._store.serve_waiters()

    def _set_timer(self, seconds: float) -> None:
        self._serve_at = time.monotonic() + seconds
        if threading.current_thread() is not self._thread:
            self._jobs.put(_Job(Ping(b""), None, blocks=False))  # a thread of storage calls; the other one may wait

    def _run_job(self) -> None:
        self._calls += 1
        if self._calls % CALLS_PER_SLICE == 0:
            self._store.housekeep()
        self._job.run(self._store)

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                job.settle(Failure(failures.READONLY, "this store was closed before the call ran"))


def share(store: LocalStore) -> Shared:
    """Return a store that threads can share."""
    return _InMemory(store) if store.interruptible else _OnDisk(store)


_ON_DISK: "Final[weakref.WeakSet[_OnDisk]]" = weakref.WeakSet()
"""The open stores on disk, to close before the interpreter exits."""


def _close_all() -> None:
    """Close all open stores at exit: a thread inside RocksDB would crash the exiting process."""
    for shared in list(_ON_DISK):
        shared.close()


def _abandon_all() -> None:
    """Abandon all stores on disk in a forked process, which must not use or free them."""
    for shared in list(_ON_DISK):
        shared.abandon()


os.register_at_fork(after_in_child=_abandon_all)
atexit.register(_close_all)


class Embedded(KeyValue[K, V]):
    """A store in this process.

    >>> import cairnkv
    >>> kv = cairnkv.open()
    >>> kv["greeting"] = "hello"
    >>> kv.get("greeting"), kv.get("other", "default")
    ('hello', 'default')
    """

    def __init__(self, store: LocalStore, keys: KeyCodec[K], values: Codec[V]) -> None:
        super().__init__(keys, values, value_max=VALUE_MAX)
        self._shared = share(store)
        self._in_memory = store.allows_direct_calls

    def __repr__(self) -> str:
        return "<cairnkv.Embedded>"

    def durability(self, how: Durability) -> KeyValue[K, V]:
        """Return this store with another durability of its writes. A store in memory has no other.

        >>> import cairnkv
        >>> kv = cairnkv.open()
        >>> quick = kv.durability("memory")
        >>> quick["seen"] = "1"
        >>> kv["seen"]
        '1'
        """
        asked = super().durability(how)
        return self if self._in_memory else asked

    def local(self) -> KeyValue[K, V]:
        """Return this store, whose reads are local.

        >>> import cairnkv
        >>> kv = cairnkv.open()
        >>> kv["seen"] = "1"
        >>> kv.local()["seen"]
        '1'
        """
        return self

    def close(self) -> None:
        """Close the store. Using it afterwards is an error."""
        self._shared.close()

    def backup(self, directory: str | os.PathLike[str], *, keep: int | None = None) -> BackupResult:
        """Make a backup of a store on disk in a directory, which is created if it is absent.

        It contains every write that returned before. Other threads may use the store meanwhile. `cairn restore` makes a
        store from a backup.
        keep: how many of the newest backups remain in the directory, with this one; None: all.
        Returns its `path`, its `size` in bytes, and the `new` bytes that earlier backups do not have.
        Raises `CallerError` for a store in memory, `OptionError` if another backup in the directory is in progress,
        `Refused` if a write has failed or the store is closed meanwhile, and `OSError`.
        """
        return self._shared.back_up(user_path(directory, "the directory for backups"), keep)

    def pipeline(self) -> Pipeline[K, V]:
        """Return a pipeline. See `KeyValue.pipeline`. On disk, its commands share an fsync.

        >>> import cairnkv
        >>> kv = cairnkv.open()
        >>> with kv.pipeline() as pipeline:
        ...     stored = pipeline.set("a", "1")
        ...     total = pipeline.incr("hits")
        >>> stored.result(), total.result()
        (True, 1)
        """
        return Pipeline(self._calls, self._execute_all)

    def _execute_all(self, pending: list[AnyPending]) -> None:
        if is_own() and not self._in_memory:
            raise CallerError(
                "a finalizer executed a pipeline in a thread of the store itself, where the garbage collector ran it; "
                "that thread cannot wait for replies: use single writes in finalizers"
            )
        for begin in range(0, len(pending), PIPELINE_COMMANDS):
            self._execute_some(pending[begin : begin + PIPELINE_COMMANDS])

    def _execute_some(self, pending: list[AnyPending]) -> None:
        """Execute some commands, and wait once for their pending replies."""
        outcomes: list[tuple[AnyPending, Reply | PendingReply]] = []
        try:
            for one in pending:
                outcome: Reply | PendingReply
                if one.call.command.waiting_time():
                    outcome = self._take(Call(one.call.command, reply_itself))
                else:
                    outcome = self._shared.execute(one.call.command, one.call.flag)
                if isinstance(outcome, PendingReply) and outcome.blocks:
                    outcome = _awaited(outcome)  # it has not run yet, and later commands must run after it
                outcomes.append((one, outcome))
        finally:
            for one, outcome in outcomes:
                one.settle(_awaited(outcome))

    def _do(self, call: Call[T]) -> T:
        if call.command.waiting_time():
            return self._take(call)
        outcome = self._shared.execute(call.command, call.flag)
        if is_own() and isinstance(outcome, PendingReply):
            return _without_waiting(call, outcome)
        return call.result(_awaited(outcome))

    def _take(self, call: Call[T]) -> T:
        """Execute a TAKE that may wait."""
        if is_own():
            raise CallerError(
                f"a finalizer called {call.command.spec.name} in a thread of the store itself, where the garbage "
                "collector ran it; that thread cannot wait for messages"
            )
        shared = self._shared
        ready = _thread.allocate_lock()
        ready.acquire()
        take = shared.new_take(call.command, call.flag)
        take.on_ready = partial(_release, ready)
        try:
            shared.begin_take(take)
            if take.reply is None:
                ready.acquire(timeout=-1 if shared.ends_waits else call.command.waiting_time() / 1000 + GRACE_SECONDS)
            if take.reply is None:
                shared.end_take(take)
            assert take.reply is not None
            return call.result(take.reply)
        except BaseException:
            shared.end_take(take)
            raise


def reply_itself(reply: Reply) -> Reply:
    """Decode nothing."""
    return reply


def _release(lock: _thread.LockType) -> None:
    with contextlib.suppress(RuntimeError):  # it was released before
        lock.release()


def _awaited(outcome: Reply | PendingReply) -> Reply:
    """Wait for the reply to a command."""
    if not isinstance(outcome, PendingReply):
        return outcome
    ready = _thread.allocate_lock()
    ready.acquire()
    outcome.on_ready = ready.release
    if outcome.reply is None:
        ready.acquire()
    assert outcome.reply is not None
    return outcome.reply


def _without_waiting(call: Call[T], pending_reply: PendingReply) -> T:
    """Return the result of a call by a finalizer in a thread of the store itself, which executes the call later."""

    def tell_log() -> None:
        if isinstance(pending_reply.reply, Failure):
            logger.warning("%s, called by a finalizer: %s", call.command.spec.name, pending_reply.reply.message)

    pending_reply.on_ready = tell_log
    if not call.command.spec.writes:
        raise CallerError(
            f"a finalizer called {call.command.spec.name} in a thread of the store itself, where the garbage collector "
            "ran it; that thread cannot wait for the reply: finalizers may write, but should not read"
        )
    try:
        return call.decode(OK)
    except PeerError:
        return cast(T, None)  # the result is not known yet

"""The protocol of stores: what sessions and servers need of one.

Invariants of every implementation:
- A reply that reports a write as successful leaves when the write is committed as the store's mode promises.
- A reply shows no value that a crash could still undo.
- One thread at a time uses a store. Stores have no lock.

Out of scope: calls of embedded stores (`store.local`), and the log of replicated stores (`replication.store`).
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

from cairnkv.commands import Command, Reply, Step
from cairnkv.engine import Database, QueueDatabase, Watched
from cairnkv.protocol.native import BatchExecutor
from cairnkv.storage import Deliver, MakeBackup
from cairnkv.store.clock import Clock
from cairnkv.store.info import DirectExecutor, StoreInfo
from cairnkv.store.lru import Place
from cairnkv.store.memory import Memory
from cairnkv.store.pending import PendingReply
from cairnkv.store.script import Script
from cairnkv.store.waiters import Waiter, Waiters


class WhenFull(enum.Enum):
    """The treatment of a write that exceeds the memory limit."""

    REFUSE = "refuse"
    EVICT = "evict"


class Loaded(NamedTuple):
    """Databases that storage has loaded and the store does not use yet, and the sequence number of its newest entry."""

    databases: tuple[Database, ...]
    queues: QueueDatabase
    sequence: int


class NativeExecutor(DirectExecutor, BatchExecutor, Protocol):
    """An executor of the native path."""


ExecutorT = TypeVar("ExecutorT", bound=NativeExecutor)


class ExecutorFactory(Protocol[ExecutorT]):
    """Makes executors of the native path for frames of one protocol."""

    is_log_format: bool
    """Whether entries of the log contain frames of this protocol."""

    def executing(self, database: Database, clock: Clock, collector: object) -> ExecutorT:
        """Return an executor that changes a database.

        collector: receives the changes, as `BatchUndo` does; None: they need no commit.
        """

    def proposing(self, store: "Store", executor: ExecutorT) -> ExecutorT:
        """Return an executor that proposes commands to a replicated store, and `executor` executes them later."""


class Store(Protocol):
    """Databases, and when replies about them may leave."""

    @property
    def databases(self) -> Sequence[Database]:
        """The databases by number."""

    @property
    def mode(self) -> str:
        """The mode: in-memory, durable or replicated."""

    @property
    def clock(self) -> Clock:
        """The clock that log time follows."""

    @property
    def loading(self) -> bool:
        """Whether the store cannot execute commands yet."""

    @property
    def is_behind(self) -> bool:
        """Whether a client with pending writes should wait for them before it executes more commands."""

    @property
    def memory(self) -> Memory:
        """The memory of the databases, and its limit."""

    @property
    def commands(self) -> int:
        """The number of commands, without those of executors of the native path."""

    @property
    def reports(self) -> StoreInfo:
        """The sources of INFO, and the function that executes BACKUP."""

    @property
    def back_up(self) -> MakeBackup | None:
        """Makes a backup, in any thread; None if the store keeps nothing on disk."""

    def load(self) -> Loaded:
        """Read what storage has kept. Any thread may call this; it changes nothing that clients see.

        Raises `OptionError` if storage cannot be opened, `LoadingStopped` if the store is closed meanwhile.
        """

    def begin(self, loaded: Loaded) -> None:
        """Use what `load` returned."""

    def execute(
        self, command: Command, db: int = 0, *, touch: bool = True, local: bool = False
    ) -> Reply | PendingReply:
        """Execute a command on a database; return its reply, or a pending reply.

        touch: whether LRU counts this as a use of the keys.
        local: whether a read may return a value that is not the newest.
        """

    def execute_all(
        self,
        steps: Sequence[Step],
        watched: Sequence[tuple[int, Watched]] = (),
        *,
        bytes_max: int | None = None,
        blocks: bool = False,
        whole: bool = False,
    ) -> Reply | PendingReply:
        """Execute several commands as one; return their `Replies`. All of them commit, or none.

        One command may fail while the others succeed. If there are commands on queues among them, or with `whole`, none
        is executed if one fails or has a lease that is not the newest; the reply is that failure.
        watched: keys with their databases; if one of them has changed, nothing is executed and the reply is `MISSING`.
        bytes_max: maximum bytes of values that the commands read or make; beyond it, all are undone. None: no maximum.
        blocks: whether the client's next commands must wait for the execution.
        """

    @property
    def executes_scripts_directly(self) -> bool:
        """Whether `execute_script` returns a reply that is not pending, or raises an exception."""

    def execute_script(
        self, script: Script, watched: Sequence[tuple[int, Watched]] = (), *, bytes_max: int | None = None
    ) -> Reply | PendingReply:
        """Execute a script. All its changes commit together, or none. It sees all earlier writes.

        If the reply is `RUN_ANEW`, execute the same object again; the number of such replies is bounded. Raises the
        exception that the script raises; then the script is undone.
        watched: as in `execute_all`. bytes_max: maximum bytes of values that the script reads or writes; beyond it,
        its commands fail. None: no maximum.
        """

    def hold(self) -> None:
        """Execute nothing else until `release`: the script that executes now pauses between two of its commands.

        Meanwhile commands fail, except PING and INFO, and reports of storage wait.
        """

    def release(self) -> None:
        """Execute other commands again: the script that paused has ended."""

    def watch(self, places: Sequence[Place], into: dict[Place, Watched]) -> Reply | PendingReply:
        """Record the state of keys for `execute_all`. The record is complete when the reply is there."""

    def read_ahead(self, step: Step) -> bool:
        """Begin to read the values that a later command needs. Returns False if no more values can be read now."""

    @property
    def waiters(self) -> Waiters:
        """The TAKE commands that wait for messages. Its `set_timer` requests a later call of `serve_waiters`."""

    def begin_take(self, waiter: Waiter) -> None:
        """Execute a TAKE as soon as there are messages for it, and at its time without.

        The TAKE that waits longest gets the next messages of a queue.
        """

    def end_take(self, waiter: Waiter, *, gives_back: bool) -> None:
        """End the wait of a TAKE: the reply is empty.

        gives_back: the client receives no reply: if the TAKE is executed, give its leases back, uncounted.
        """

    def give_back(self, returns: Sequence[Step]) -> None:
        """Give leases back that no client receives. returns: from `returns_of`."""

    def serve_waiters(self) -> None:
        """Do one bounded slice of the work for waiters: execute TAKE for them, and end those whose time has come."""

    def housekeep(self) -> bool:
        """Do one bounded slice of background work: remove expired keys, free deleted tables.

        Returns whether more is to be done now.
        """

    def info(self) -> list[tuple[str, str | int]]:
        """Return the names and values of INFO."""

    def limit_memory(self, limit: int | None, when_full: WhenFull) -> None:
        """Change the memory limit, from the next write on. Raises `OptionError` if the store cannot change it."""

    def new_frame_executor(self, factory: ExecutorFactory[ExecutorT], db: int) -> ExecutorT:
        """Return a new executor of the native path for a database. It is off while it must not execute commands."""

    def deliver_by(self, deliver: Deliver) -> None:
        """Set the function through which threads of storage call into the thread of the store."""

    def close(self) -> None:
        """Commit or fail pending writes, and take no more commands."""

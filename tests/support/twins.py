"""Two sessions that get the same bytes: one uses the pure path, the other the native path."""

from typing import TYPE_CHECKING, Any

from cairnkv.protocol import DecoderLimits, StatusByte
from cairnkv.protocol.native import DEFAULT_LIMITS, Width
from cairnkv.session import ServerContext, Session
from cairnkv.storage import Storage
from cairnkv.store import LocalStore
from tests.support.clock import HandClock
from tests.support.paths import on_path
from tests.support.rights import limit_session

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor


class WithPurePath(ServerContext[Any]):
    """A server context without the native path."""

    def frame_executor(self, db: int) -> "FrameExecutor | None":
        """None."""


class WithNativePath(ServerContext[Any]):
    """Use the native path, even if CAIRNKV__PURE disables it."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store)
        self._local = store
        self._made: dict[int, FrameExecutor] = {}

    def frame_executor(self, db: int) -> "FrameExecutor | None":
        """The one of a keyspace."""
        from cairnkv.session.resp.frames_native import RespFrameExecutor

        if db not in self._made:
            database = self.store.databases[db]
            self._made[db] = RespFrameExecutor(database, self._local.log_clock, self._local.collector(db))
            self._local.add_executor(self._made[db])
        return self._made[db]


class Twins:
    """The two sessions, each with its own store, and one clock. The first bytes decide the protocol."""

    def __init__(
        self,
        *,
        width: Width | None = None,
        status_byte: StatusByte = StatusByte.ASCII,
        limits: DecoderLimits = DEFAULT_LIMITS,
        logs: "tuple[Storage, Storage] | None" = None,
    ) -> None:
        """logs: None: those that commit at once."""
        from cairnkv.session.native.frames_native import NativeFrameExecutor

        self.clock = HandClock()
        pure, native = logs or (None, None)
        with on_path("pure"):
            pure_store = LocalStore(clock=self.clock, storage=pure)
        with on_path("native"):
            native_store = LocalStore(clock=self.clock, storage=native)
        self.stores = pure_store, native_store
        for store in self.stores:
            store.elapsed = lambda: self.clock.now  # real time would end the wait of a TAKE in only one of them
        self.frame_executor = NativeFrameExecutor(
            native_store.database, native_store.log_clock, native_store.collector(0)
        )
        self.stores[1].add_executor(self.frame_executor)
        self.context = WithPurePath(self.stores[0]), WithNativePath(self.stores[1])
        self.sessions = tuple(
            Session(
                store,
                wake=lambda: None,
                width=width,
                status_byte=status_byte,
                limits=limits,
                frame_executor=self.frame_executor if store is self.stores[1] else None,
                context=context,
            )
            for store, context in zip(self.stores, self.context, strict=True)
        )
        self.heard = [b"", b""]

    @property
    def executed_natively(self) -> int:
        """The number of commands that the native path executed, over both protocols."""
        found = [self.context[1].frame_executor(db) for db in range(len(self.stores[1].databases))]
        return self.frame_executor.commands + sum(one.commands for one in found if one is not None)

    def say(self, data: bytes) -> None:
        """Send the same bytes to both."""
        for n, session in enumerate(self.sessions):
            session.receive(data)
            session.advance()
            self.heard[n] += b"".join(session.output())
            while session.runnable:
                session.advance()
                self.heard[n] += b"".join(session.output())

    def limit(self, *rules: str) -> None:
        """Give the user of both these rules, and none besides."""
        for context, session in zip(self.context, self.sessions, strict=True):
            limit_session(context, session, b"limited", *rules)

    def settle(self) -> None:
        """Let both send replies whose commits have ended."""
        self.say(b"")

    def say_in_pieces(self, data: bytes, cuts: list[int]) -> None:
        """Send the same bytes to both, cut at these places."""
        at = 0
        for end in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            self.say(data[at:end])
            at = end

    def agree(self) -> None:
        """Assert that both have sent equal replies and are in equal states."""
        pure, native = self.heard
        assert pure == native
        assert self.sessions[0].state is self.sessions[1].state
        assert self.sessions[0].buffered == self.sessions[1].buffered
        assert self.sessions[0].consumed == self.sessions[1].consumed
        for store in self.stores:
            store.log_clock()  # whether a PING did that shows nowhere
        for one, other in zip(*((*store.databases, store.queues) for store in self.stores), strict=True):
            one.check()
            other.check()
            assert (one.now, one.used_bytes, one.count()) == (other.now, other.used_bytes, other.count())
            assert sorted(one._table) == sorted(other._table)
        assert self.stores[0].database.shared.versions == self.stores[1].database.shared.versions

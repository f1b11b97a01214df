"""Two sessions that are told the same: one goes the readable way, the other through the compiled hot path."""

from typing import TYPE_CHECKING

from cairnkv.session import Session
from cairnkv.store import Store
from cairnkv.wire import Dialect, Limits
from cairnkv.wire.article import DEFAULT_LIMITS, Width
from tests.support.clock import HandClock

if TYPE_CHECKING:
    pass


class Twins:
    """The two, each with a store of its own, and one clock."""

    def __init__(
        self,
        *,
        width: Width | None = None,
        dialect: Dialect = Dialect.ARTICLE,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        from cairnkv.session.accelerator import Accelerator

        self.clock = HandClock()
        self.stores = Store(clock=self.clock), Store(clock=self.clock)
        self.accelerator: Accelerator = Accelerator(self.stores[1].keyspace, self.clock)
        self.stores[1].count_also(self.accelerator)
        self.sessions = tuple(
            Session(
                store,
                wake=lambda: None,
                width=width,
                dialect=dialect,
                limits=limits,
                accelerator=self.accelerator if store is self.stores[1] else None,
            )
            for store in self.stores
        )
        self.heard = [b"", b""]

    def say(self, data: bytes) -> None:
        """Tell both the same bytes at once."""
        for n, session in enumerate(self.sessions):
            session.receive(data)
            session.advance()
            self.heard[n] += b"".join(session.output())
            while session.runnable:
                session.advance()
                self.heard[n] += b"".join(session.output())

    def say_in_pieces(self, data: bytes, cuts: list[int]) -> None:
        """Tell both the same bytes, cut at these places."""
        at = 0
        for end in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            self.say(data[at:end])
            at = end

    def agree(self) -> None:
        """Assert that both have answered the same, and are in the same state."""
        plain, swift = self.heard
        assert plain == swift
        assert self.sessions[0].state is self.sessions[1].state
        assert self.sessions[0].buffered == self.sessions[1].buffered
        assert self.sessions[0].consumed == self.sessions[1].consumed
        one, other = (store.keyspace for store in self.stores)
        one.check()
        other.check()
        assert (one.now, one.used_bytes, one.count()) == (other.now, other.used_bytes, other.count())
        assert sorted(one._table) == sorted(other._table)

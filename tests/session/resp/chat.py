"""The client's side of a session of the Redis protocol, without a socket."""

from typing import Any

from cairnkv.protocol.native import DEFAULT_LIMITS, DecoderLimits
from cairnkv.session import Session
from cairnkv.session.context import Peer, ServerContext
from cairnkv.store import LocalStore
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.resp import ReplyDecoder, request


class Chat:
    """A session on a store of its own, or on that of another chat; it commits late if `late` is set."""

    def __init__(
        self,
        beside: "Chat | None" = None,
        *,
        late: bool = False,
        store: LocalStore | None = None,
        peer: Peer | None = None,
        limits: DecoderLimits = DEFAULT_LIMITS,
        value_max: int | None = None,
    ) -> None:
        self.clock: HandClock = beside.clock if beside else HandClock()
        self.storage: LateStorage = beside.storage if beside else LateStorage()
        more: dict[str, Any] = {} if value_max is None else {"value_max": value_max}
        self.store: LocalStore = (
            store
            or (beside.store if beside else None)
            or LocalStore(storage=self.storage if late else None, clock=self.clock, **more)
        )
        self.context: ServerContext[Any] = beside.context if beside else ServerContext(self.store)
        self.session = Session(self.store, wake=lambda: None, context=self.context, limits=limits, peer=peer)
        self._replies = ReplyDecoder()

    def __call__(self, text: str) -> Any:
        """The reply to a command that is written in words between blanks."""
        return self.say(*text.encode().split())

    def say(self, *words: bytes) -> Any:
        """The reply to a command."""
        self.send(*words)
        (reply,) = self.hear()
        return reply

    def send(self, *words: bytes) -> None:
        """Bring a command, and let the session execute for one turn."""
        self.session.receive(request(*words))
        self.session.advance()

    def hear(self) -> list[Any]:
        """All replies, with as many turns as the session has something to do for."""
        self.session.advance()
        found = self._replies.feed(b"".join(self.session.output()))
        while self.session.runnable:
            self.session.advance()
            found += self._replies.feed(b"".join(self.session.output()))
        assert self._replies.pending == 0, "only whole replies leave"
        return found

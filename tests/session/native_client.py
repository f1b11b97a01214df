"""A client's side of a conversation with a session, without a socket, and what its connection would do."""

from typing import Any

from cairnkv.commands import Command
from cairnkv.protocol import DecoderLimits, Response, ResponseDecoder, StatusByte, write_command
from cairnkv.protocol.native import DEFAULT_LIMITS, Width
from cairnkv.session import ServerContext, Session, native_frame_executor
from cairnkv.store import LocalStore, Store
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage


class NativeClient:
    """A session on a store of its own, which commits late if `late` is set. natively: use the native path, too."""

    def __init__(
        self,
        *,
        late: bool = False,
        store: Store | None = None,
        status_byte: StatusByte = StatusByte.ASCII,
        width: Width | None = None,
        limits: DecoderLimits = DEFAULT_LIMITS,
        natively: bool = False,
    ) -> None:
        self.storage = LateStorage()
        self.store: Store = store or LocalStore(storage=self.storage if late else None, clock=HandClock())
        self.context: ServerContext[Any] = ServerContext(self.store)
        self.woken = 0
        self.session = Session(
            self.store,
            wake=self._wake,
            status_byte=status_byte,
            width=width,
            limits=limits,
            frame_executor=native_frame_executor(self.store) if natively else None,
            context=self.context,
        )
        self._responses = ResponseDecoder()

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *said: Command | bytes) -> None:
        """Bring commands, or bytes, in one piece, and let the session execute for one turn."""
        self.session.receive(b"".join(one if isinstance(one, bytes) else write_command(one) for one in said))
        self.session.advance()

    def send_all(self, *said: Command | bytes) -> None:
        """Like `send`, with as many turns as the session takes without the client taking a reply."""
        self.send(*said)
        while self.session.runnable:
            self.session.advance()

    def take(self) -> list[Response]:
        """The responses that may leave now; nothing is executed for it."""
        self._responses.feed(b"".join(self.session.output()))
        found = []
        while (response := self._responses.next()) is not None:
            found.append(response)
        assert self._responses.pending == 0, "only whole frames leave"
        return found

    def hear(self) -> list[Response]:
        """All responses, with as many turns as the session has something to do for, as a connection gives it."""
        self.session.advance()
        found = self.take()
        while self.session.runnable:
            self.session.advance()
            found += self.take()
        return found

    def payloads(self) -> list[bytes]:
        """Return the payloads of `hear`."""
        return [response.payload for response in self.hear()]

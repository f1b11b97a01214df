"""What the Redis conversations of one server share, and what they may ask of the server around them.

What always holds: everything here is found or made by the server; without one, as in tests, there is nobody else and
nothing to configure. Who is registered here is taken out by `Conversation.end`.

Not for what one conversation knows of itself.
"""

import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from cairnkv.session.native_path import resp_frame_executor
from cairnkv.session.resp.pubsub import PubSub
from cairnkv.store import Store

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor


class Registered(Protocol):
    """A conversation that is registered here."""

    @property
    def id(self) -> int:
        """Its number."""


C = TypeVar("C", bound=Registered)

DEFAULT_USER: Final = b"default"


class Peer:
    """Who is at the other end of a conversation. Times in seconds; addresses as HOST:PORT, or a path and `:0`."""

    address: str = "?:0"
    local_address: str = "?:0"
    descriptor: int = -1
    is_local: bool = False
    """Whether it came through a Unix socket."""

    def age(self) -> float:
        """Since when it is connected."""
        return 0.0

    def idle(self) -> float:
        """Since when it has said nothing."""
        return 0.0

    def unsent(self) -> int:
        """Bytes of replies that it has not taken."""
        return 0

    def close(self, reason: str) -> None:
        """Close the connection at once; what was not taken is lost."""


class OptionRefused(Exception):
    """An option cannot have a value: which, and why, in Redis' words where it has some."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


class Options(Protocol):
    """What CONFIG reads and changes: names and values as Redis has them, and as this server's own options have them."""

    def all(self) -> Mapping[str, str]:
        """Every option there is, and its value now."""

    def get(self, name: str) -> str | None:
        """Return the value of an option, or None for an unknown option."""

    def set(self, values: Mapping[str, str]) -> None:
        """Change these, which all exist; all or none. Raises `OptionRefused`."""


class NoOptions:
    """There is nothing to configure."""

    def all(self) -> Mapping[str, str]:
        """None."""
        return {}

    def get(self, name: str) -> str | None:
        """None."""
        return None

    def set(self, values: Mapping[str, str]) -> None:
        """Nobody has one to set."""


class ServerContext(Generic[C]):
    """What conversations share.

    clients: every Redis conversation by its id, the oldest first.
    """

    def __init__(
        self,
        store: Store,
        *,
        password: str | None = None,
        options: Options | None = None,
        shut_down: Callable[[], None] | None = None,
    ) -> None:
        """password: what clients have to say before anything else; None: nothing.

        shut_down: stops the server; None: there is none to stop.
        """
        self.store: Final = store
        self.pubsub: Final = PubSub()
        self.clients: Final[dict[int, C]] = {}
        self.options: Final[Options] = options or NoOptions()
        self.shut_down: Final = shut_down
        self.commands_executed = 0
        """Commands that acted on a conversation and never reached the store."""
        self.counted_before: dict[str, int] = {}
        """What counters of `Store.info` stood at, and of this, when CONFIG RESETSTAT was last said."""
        self._password: bytes | None = None
        self.want_password(password)
        self._last_id = 0
        self._frame_executors: dict[int, FrameExecutor | None] = {}  # by keyspace

    @property
    def wants_password(self) -> bool:
        """Whether clients have to authenticate."""
        return self._password is not None

    def want_password(self, password: str | None) -> None:
        """Want this password from clients that come from now on; None: none."""
        self._password = password.encode("utf-8", "surrogateescape") if password else None

    def accepts(self, user: bytes, password: bytes) -> bool:
        """Whether this is the password, if one is wanted. Takes as long whatever is wrong with it.

        There is one user, `default`.
        """
        right = hmac.compare_digest(password, self._password or b"") or self._password is None
        return right and user == DEFAULT_USER

    def frame_executor(self, db: int) -> "FrameExecutor | None":
        """The compiled hot path of a keyspace, where there is one."""
        if db not in self._frame_executors:
            self._frame_executors[db] = resp_frame_executor(self.store, db)
        frame_executor = self._frame_executors[db]
        return None if frame_executor is None or frame_executor.off else frame_executor

    def enter(self, conversation: C) -> int:
        """A new conversation; the id that nobody else ever has."""
        self._last_id += 1
        self.clients[self._last_id] = conversation
        return self._last_id

    def leave(self, conversation: C) -> None:
        """A conversation is over."""
        self.clients.pop(conversation.id, None)

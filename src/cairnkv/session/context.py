"""The state that the conversations of one server share, and their interface to the server.

Invariants: the server makes everything here. Without a server, as in tests, there are no other clients and no options.
`Conversation.end` removes a registered conversation.

Out of scope: the state of one conversation.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from cairnkv.session.access.login import After, Logins, Passwords, at_once, no_audit
from cairnkv.session.access.users import Users, default_user, encoded
from cairnkv.session.native_path import resp_frame_executor
from cairnkv.session.resp.pubsub import PubSub
from cairnkv.session.resp.scripting.runner import Runner
from cairnkv.store import Store

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor


C = TypeVar("C")

CLIENT_LOGGER: Final = "cairnkv.clients"
"""The name of the logger for lines that a client can cause without a login. The server limits their rate."""


class Peer:
    """The client of a conversation. Times in seconds; addresses as HOST:PORT, or a path and `:0`."""

    address: str = "?:0"
    local_address: str = "?:0"
    descriptor: int = -1
    network: str = "?"
    """Its address for limits; for IPv6 that of its /64 network."""
    is_local: bool = False
    """Whether it has connected through a Unix socket."""

    def age(self) -> float:
        """Return the time since it connected."""
        return 0.0

    def idle(self) -> float:
        """Return the time since it last sent or received bytes."""
        return 0.0

    @property
    def unsent(self) -> int:
        """The bytes of replies that it has not received."""
        return 0

    def close(self, reason: str) -> None:
        """Close the connection at once. Unsent replies are lost."""


class OptionRefused(Exception):
    """An option cannot have a value. The reason is the text of Redis where it has one."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name
        self.reason = reason


class Options:
    """The options of CONFIG: names and values of Redis, and those of this server. Without a server there are none."""

    def all(self) -> Mapping[str, str]:
        """Return every option with its value."""
        return {}

    def get(self, name: str) -> str | None:
        """Return the value of an option, or None for an unknown option."""
        return None

    def set(self, values: Mapping[str, str]) -> None:
        """Change existing options: all of these, or none. Raises `OptionRefused`."""


class ServerContext(Generic[C]):
    """The shared state of conversations.

    clients: every Redis conversation by its id, the oldest first.
    """

    def __init__(
        self,
        store: Store,
        *,
        users: Users | None = None,
        password: str | None = None,
        options: Options | None = None,
        shut_down: Callable[[], None] | None = None,
        load_users: Callable[[], None] | None = None,
        save_users: Callable[[], None] | None = None,
        random_bytes: Callable[[int], bytes] | None = None,
        passwords: Passwords | None = None,
        after: After = at_once,
        audit: Callable[[str, Mapping[str, object]], None] = no_audit,
        scripts: Runner | None = None,
    ) -> None:
        """users: None: only the user `default`, with all rights and with `password`; None: clients need none.

        shut_down: stops the server; None: there is no server.
        load_users, save_users: read the users file, and write it. They raise `UsersRefused`. None: there is no file.
        random_bytes: returns bytes that cannot be guessed; None: there is no source of them.
        passwords, after, audit: see `Logins`.
        scripts: runs scripts; None: without a clock, so that no script gives way.
        """
        self.store: Final = store
        self.users: Final = Users([default_user(encoded(password))]) if users is None else users
        self.load_users: Final = load_users
        self.save_users: Final = save_users
        self.random_bytes: Final = random_bytes
        self.logins: Final = Logins(self.users, store.clock, passwords=passwords, after=after, audit=audit)
        self.pubsub: Final = PubSub()
        self.scripts: Final = Runner(store) if scripts is None else scripts
        self.clients: Final[dict[int, C]] = {}
        self.options: Final[Options] = options or Options()
        self.shut_down: Final = shut_down
        self.commands_executed = 0
        """Commands that acted on a conversation and never reached the store."""
        self.counted_before: dict[str, int] = {}
        """The counters of `Store.info`, and this one, at the last CONFIG RESETSTAT."""
        self._last_id = 0
        self._frame_executors: dict[int, FrameExecutor | None] = {}  # by database

    def frame_executor(self, db: int) -> "FrameExecutor | None":
        """Return the native path's executor of a database; None if there is none, or it is off."""
        if db not in self._frame_executors:
            self._frame_executors[db] = resp_frame_executor(self.store, db)
        frame_executor = self._frame_executors[db]
        return None if frame_executor is None or frame_executor.off else frame_executor

    def enter(self, conversation: C) -> int:
        """Register a new conversation; return its id, which no other conversation ever has."""
        self._last_id += 1
        self.clients[self._last_id] = conversation
        return self._last_id

    def leave(self, number: int) -> None:
        """Remove the conversation with this id, which has ended."""
        self.clients.pop(number, None)

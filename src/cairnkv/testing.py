"""Fixtures for tests of programs that use cairnkv: isolated stores and real servers, with a clock that tests advance.

Pytest finds the fixtures in every environment with cairnkv:

    def test_remembers(cairn):
        cairn.set("greeting", "hello")
        assert cairn.get("greeting") == "hello"

    def test_session_expires(cairn, cairn_clock):
        cairn.set("session", "42", ttl=60)
        cairn_clock.advance(60)
        assert cairn.get("session") is None

    def test_over_the_network(cairn_server):
        with cairnkv.connect(cairn_server.url) as kv: ...

Invariants: each test gets a new store or server, which ends with the test. Every wait has a timeout. An error in a
server's thread fails the test that uses the server. Pytest imports this module in every run, so it imports slow modules
only for tests that use a fixture.

Out of scope: benchmarks, because the server shares its interpreter with the test.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from cairnkv.client.address import Seconds
    from cairnkv.client.embedded import Embedded
    from cairnkv.server.server import Server
    from cairnkv.server.settings import Settings
    from cairnkv.storage import Storage
    from cairnkv.store import Clock

_T = TypeVar("_T")

EPOCH_MS: Final = 1_000_000_000_000
"""The first time of a `ManualClock`: 2001-09-09, 01:46:40 UTC. Any fixed time would do."""

START_SECONDS: Final = 30.0
"""Maximum seconds until a server listens."""

STOP_SECONDS: Final = 30.0
"""Maximum seconds that a server takes to end after its drain timeout."""

CALL_SECONDS: Final = 30.0
"""Maximum seconds that `RunningServer.call` waits."""


class ManualClock:
    """A clock that stands still until a test advances it. Threads may share it.

    >>> clock = ManualClock()
    >>> before = clock()
    >>> clock.advance(1.5)
    >>> clock() - before
    1500
    """

    def __init__(self, now_ms: int = EPOCH_MS) -> None:
        self._lock = threading.Lock()
        self._now = now_ms

    def __call__(self) -> int:
        """Return the time in milliseconds since 1970."""
        return self._now

    def advance(self, time: "Seconds") -> None:
        """Advance the clock by a duration, in any form that `ttl` accepts. A negative duration sets the clock back."""
        from cairnkv.units import duration

        passed = duration(time)
        with self._lock:
            self._now += round(passed * 1000)


class RunningServer:
    """A server in a thread of its own, from `running_server`.

    url: the address for clients.
    address: the same as (host, port); None if the server listens only on a Unix socket.
    clock: the clock of the server.
    server: the server itself. Use it only in its thread, through `call`.
    """

    def __init__(self, server: "Server", clock: "Clock", loop: "asyncio.AbstractEventLoop") -> None:
        self.server = server
        self.clock = clock
        self.url = server.addresses[0]
        self.address: tuple[str, int] | None = None
        if not server.settings.no_tcp:
            host, _, port = self.url.removeprefix("cairn://").rpartition(":")
            self.address = host.strip("[]"), int(port)
        self._loop = loop

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the server's thread. Returns what the function returns, and raises what it raises.

        >>> with running_server() as running:
        ...     running.call(lambda: running.server.store.databases[0].count())
        0
        """
        from concurrent.futures import Future

        answer: Future[_T] = Future()
        self._loop.call_soon_threadsafe(_answer, answer, function)
        return answer.result(CALL_SECONDS)


def _answer(answer: "Future[_T]", function: Callable[[], _T]) -> None:
    try:
        answer.set_result(function())
    except BaseException as error:  # the caller gets it
        answer.set_exception(error)


@contextlib.contextmanager
def running_server(
    *,
    clock: "Clock | None" = None,
    storage: "Storage | None" = None,
    new_event_loop: "Callable[[], asyncio.AbstractEventLoop] | None" = None,
    **settings: Any,
) -> Iterator[RunningServer]:
    """Run a server on a free port of 127.0.0.1 in a thread of its own, and stop it at the end.

    clock: the clock of the server; None: a new `ManualClock`.
    storage: the storage of the server; None: that of its settings.
    new_event_loop: makes the server's event loop; None: uvloop if it is installed.
    settings: options of `cairn serve`, with underscores. Text values are parsed as on the command line.
    Raises `OptionError` for an unknown option or a wrong value, and at the end the errors of the server's thread.

    >>> import socket
    >>> from cairnkv.commands import Ping
    >>> from cairnkv.protocol import write_command
    >>> with running_server(max_value="1MiB") as running, socket.create_connection(running.address, 10) as client:
    ...     client.sendall(write_command(Ping(b"")))
    ...     client.recv(100)
    b'\\x000\\x00\\x00\\x00\\x04PONG'
    """
    thread = _ServerThread(_settings(settings), clock or ManualClock(), storage, new_event_loop)
    running = thread.start()
    try:
        yield running
    finally:
        thread.stop()


def _settings(given: dict[str, Any]) -> "Settings":
    from cairnkv.server.settings import OPTIONS, Settings, load

    texts = {name: value for name, value in given.items() if isinstance(value, str) or name not in OPTIONS}
    load(texts, environment={})  # checks names and values
    values = {name: OPTIONS[name].parse(value) if name in texts else value for name, value in given.items()}
    return Settings(**{"port": 0, **values})


class _ServerThread:
    """A thread with an event loop that runs a server."""

    def __init__(
        self,
        settings: "Settings",
        clock: "Clock",
        storage: "Storage | None",
        new_event_loop: "Callable[[], asyncio.AbstractEventLoop] | None",
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._storage = storage
        self._new_event_loop = new_event_loop
        self._started = threading.Event()
        self._running: RunningServer | None = None
        self._stop: Callable[[], object] = _nothing
        self._wrong: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="cairnkv server", daemon=True)

    def start(self) -> RunningServer:
        self._thread.start()
        if not self._started.wait(START_SECONDS):
            raise TimeoutError(f"the server did not start within {START_SECONDS:g} s")
        if self._running is None:
            self._thread.join(STOP_SECONDS)
            self._complain()
        assert self._running is not None
        return self._running

    def stop(self) -> None:
        self._stop()
        seconds = self._settings.drain_timeout + STOP_SECONDS
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"the server did not stop within {seconds:g} s")
        self._complain()

    def _complain(self) -> None:
        if len(self._wrong) == 1:
            raise self._wrong[0]
        if self._wrong:
            raise BaseExceptionGroup("errors in the server's thread", self._wrong)

    def _run(self) -> None:
        import asyncio

        from cairnkv.server.loop import new_event_loop

        try:
            with asyncio.Runner(loop_factory=self._new_event_loop or new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # the test's thread raises it
            self._wrong.append(error)
        finally:
            self._started.set()

    async def _serve(self) -> None:
        import asyncio

        from cairnkv.server.server import Server, new_store

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_complains)
        settings = self._settings
        if settings.cluster is None:
            server = Server(settings, new_store(settings, storage=self._storage, clock=self._clock))
        else:
            server = Server(settings, clock=self._clock)
        try:
            await server.start()
        except BaseException:
            server.store.close()
            raise
        self._stop = lambda: loop.call_soon_threadsafe(server.request_stop)
        self._running = RunningServer(server, self._clock, loop)
        self._started.set()
        await server.stop_requested()
        self._stop = _nothing
        await server.stop()

    def _loop_complains(self, _loop: "asyncio.AbstractEventLoop", context: dict[str, Any]) -> None:
        self._wrong.append(context.get("exception") or RuntimeError(str(context.get("message"))))


def _nothing() -> None:
    pass


# -- fixtures ----------------------------------------------------------------------------------------------------


@pytest.fixture
def cairn_clock() -> ManualClock:
    """The clock of the fixtures `cairn` and `cairn_server`. It stands still until the test advances it.

    def test_session_expires(cairn, cairn_clock):
        cairn.set("k", "v", ttl=1)
        cairn_clock.advance(1)
        assert "k" not in cairn
    """
    return ManualClock()


@pytest.fixture
def cairn(cairn_clock: ManualClock) -> "Iterator[Embedded[str, str]]":
    """An empty store in this process, for one test.

    def test_remembers(cairn):
        cairn["greeting"] = "hello"
        assert cairn["greeting"] == "hello"
    """
    import cairnkv

    with cairnkv.open(clock=cairn_clock) as store:
        yield store


@pytest.fixture
def cairn_server(cairn_clock: ManualClock) -> Iterator[RunningServer]:
    """A server with an empty store on a free port, for one test.

    def test_over_the_network(cairn_server):
        with cairnkv.connect(cairn_server.url) as kv:
            kv.set("greeting", "hello")
    """
    with running_server(clock=cairn_clock) as running:
        yield running

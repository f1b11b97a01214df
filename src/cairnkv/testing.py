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

    from cairnkv.client.address import Seconds
    from cairnkv.client.embedded import Embedded
    from cairnkv.client.queue.queues import Queue
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
    server, loop: the server itself, and its event loop. Use them only in its thread, through `call`.
    """

    def __init__(self, server: "Server", clock: "Clock", loop: "asyncio.AbstractEventLoop") -> None:
        self.server = server
        self.clock = clock
        self.url = server.addresses[0]
        self.address: tuple[str, int] | None = None
        if not server.settings.no_tcp:
            host, _, port = self.url.partition("://")[2].rpartition(":")
            self.address = host.strip("[]"), int(port)
        self.loop = loop

    def call(self, function: Callable[[], _T]) -> _T:
        """Call a function in the server's thread. Returns what the function returns, and raises what it raises.

        >>> with running_server() as running:
        ...     running.call(lambda: running.server.store.databases[0].count())
        0
        """
        import asyncio

        async def called() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(CALL_SECONDS)


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
    import asyncio
    from concurrent.futures import CancelledError, Future

    from cairnkv.server.loop import new_event_loop as usual_event_loop
    from cairnkv.server.server import Server, new_store

    parsed = _settings(settings)
    the_clock = clock or ManualClock()
    started: Future[RunningServer] = Future()
    errors: list[BaseException] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(_error_in(context)))
        if parsed.cluster is None:
            server = Server(parsed, new_store(parsed, storage=storage, clock=the_clock))
        else:
            server = Server(parsed, clock=the_clock)
        try:
            await server.start()
        except BaseException:
            server.store.close()
            raise
        started.set_result(RunningServer(server, the_clock, loop))
        await server.stop_requested()
        await server.stop()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop or usual_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:  # the test's thread raises it
            errors.append(error)
        finally:
            started.cancel()  # no effect after the start

    thread = threading.Thread(target=run, name="cairnkv server", daemon=True)
    thread.start()
    try:
        running = started.result(START_SECONDS)
    except CancelledError:
        raise _together(errors) from None
    except TimeoutError:
        raise TimeoutError(f"the server did not start within {START_SECONDS:g} s") from None
    try:
        yield running
    finally:
        with contextlib.suppress(RuntimeError):  # the server has ended, and its loop is closed
            running.loop.call_soon_threadsafe(running.server.request_stop)
        seconds = parsed.drain_timeout + STOP_SECONDS
        thread.join(seconds)
        if thread.is_alive():
            raise TimeoutError(f"the server did not stop within {seconds:g} s")
        if errors:
            raise _together(errors)


def _error_in(context: dict[str, Any]) -> BaseException:
    """Return the error that an event loop reports."""
    return context.get("exception") or RuntimeError(str(context.get("message")))


def _together(errors: list[BaseException]) -> BaseException:
    return errors[0] if len(errors) == 1 else BaseExceptionGroup("errors in the server's thread", errors)


def _settings(given: dict[str, Any]) -> "Settings":
    from cairnkv.server.settings import OPTIONS, Settings, load

    texts = {name: value for name, value in given.items() if isinstance(value, str) or name not in OPTIONS}
    load(texts, environment={})  # checks names and values
    values = {name: OPTIONS[name].parse(value) if name in texts else value for name, value in given.items()}
    return Settings(**{"port": 0, **values})


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
def cairn_queue(cairn: "Embedded[str, str]") -> "Queue[Any]":
    """An empty queue in the store of `cairn`, for one test. `cairn_clock` ends its delays and leases.

    def test_failed_mail_is_sent_again(cairn_queue, cairn_clock):
        cairn_queue.put({"to": "anna"})
        cairn_queue.run(send, drain=True)      # the handler of the program; here, the mail server is down
        cairn_clock.advance("1h")              # the backoff ends
        cairn_queue.run(send, drain=True)
        assert cairn_queue.stats()["acked"] == 1
    """
    return cairn.queue("test")


@pytest.fixture
def cairn_server(cairn_clock: ManualClock) -> Iterator[RunningServer]:
    """A server with an empty store on a free port, for one test.

    def test_over_the_network(cairn_server):
        with cairnkv.connect(cairn_server.url) as kv:
            kv.set("greeting", "hello")
    """
    with running_server(clock=cairn_clock) as running:
        yield running

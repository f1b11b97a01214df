"""The server's address, threads and tasks that contend, and the command line of the programs beside this file.

A program has a function for each use of its package. `run` calls the function that the command line names. A use fails
by an exception.
"""

import asyncio
import inspect
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

HOST = os.environ["HOST"]
PORT = int(os.environ["PORT"])
URL = f"redis://{HOST}:{PORT}"

THREADS = 4
TIMES = 50
SECONDS = 60.0
"""The limit of each wait. Only a use that fails reaches it."""

client = redis.Redis(HOST, PORT)
"""The connection by which programs look at keys."""


def run(*uses: Callable[[], Any]) -> None:
    """Call the use that the command line names."""
    (name,) = sys.argv[1:]
    use = {use.__name__: use for use in uses}[name]
    if inspect.iscoroutinefunction(use):
        asyncio.run(asyncio.wait_for(use(), SECONDS))
    else:
        use()


def in_threads(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Call a function in several threads at once, each with a number. Return the results, or raise the first error."""
    results: list[Any] = []
    errors: list[BaseException] = []
    together = threading.Barrier(threads)

    def call(number: int) -> None:
        try:
            together.wait(SECONDS)
            results.append(work(number))
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(SECONDS)
    if errors:
        raise errors[0]
    assert len(results) == threads, f"{threads - len(results)} threads hang"
    return results


async def in_tasks(work: Callable[[int], Awaitable[Any]], tasks: int = THREADS) -> list[Any]:
    """Await a function in several tasks, each with a number. Return the results."""
    return list(await asyncio.gather(*(work(number) for number in range(tasks))))


def add_one(key: str = "count") -> None:
    """Add 1 to a number by a read and a write, which loses additions unless a lock excludes others."""
    before = int(client.get(key) or 0)
    client.ping()  # others run in between
    client.set(key, before + 1)


async def add_one_in_task(key: str = "count") -> None:
    """The same for tasks."""
    before = int(client.get(key) or 0)
    await asyncio.sleep(0.001)  # others run in between
    client.set(key, before + 1)


def assert_count(expected: int, key: str = "count") -> None:
    """Compare the number that `add_one` counts with its expected value."""
    assert int(client.get(key) or 0) == expected, (client.get(key), expected)


def assert_no_lock_left(*others: str) -> None:
    """Assert that the server has no key except the count and these."""
    left = {key.decode() for key in client.keys("*")} - {"count", *others}
    assert not left, f"keys remain: {left}"


@contextmanager
def raises(kind: Any, text: str = "") -> Iterator[None]:
    """Assert that a block raises an exception of these kinds, with a text in its message."""
    try:
        yield
    except kind as error:
        assert text in str(error), error  # noqa: PT017  these programs run without pytest
    else:
        raise AssertionError(f"{kind} was not raised")


def wait_for_subscribers(channel: str, count: int = 1) -> None:
    """Wait until a channel has so many subscribers."""
    while client.pubsub_numsub(channel)[0][1] < count:
        time.sleep(0.01)


def is_allowed(limit: int, calls: list[bool]) -> None:
    """Assert that a limit allowed exactly so many of the calls."""
    assert sum(calls) == limit, f"{sum(calls)} of {len(calls)} calls were allowed, the limit is {limit}"


def django(**settings: Any) -> None:
    """Set up Django with these settings."""
    import django
    from django.conf import settings as configured

    configured.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        SECRET_KEY="tests only",
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        **settings,
    )
    django.setup()


@contextmanager
def flask_client(application: Any) -> Iterator[Any]:
    """Yield a test client of a Flask application, in its context."""
    with application.app_context(), application.test_client() as test_client:
        yield test_client

"""Servers for these tests, on either event loop, and room for many sockets at once."""

import asyncio
import contextlib
import resource
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from cairnkv.server.loop import ClientSelector, PolledLoop
from cairnkv.testing import RunningServer, running_server

DESCRIPTORS = 8_192
"""File descriptors that the largest test needs, with both ends of each connection in one process."""

Start = Callable[..., RunningServer]


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, which are stopped when the test is over: `start(**settings)`."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_server(**settings))


def polled_loop() -> PolledLoop:
    return PolledLoop(ClientSelector())


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop, "polled": polled_loop}


@pytest.fixture(autouse=True)
def _both_paths(path_in_use: str) -> None:
    """Use the fixture `path_in_use`: every test of this directory runs on the pure path and on the native path."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the native event loop on the pure path."""
    polled = [
        item
        for item in items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("start_on_both") is polled_loop
        and item.callspec.params.get("path_in_use") == "pure"
    ]
    items[:] = [item for item in items if item not in polled]
    config.hook.pytest_deselected(items=polled)


@pytest.fixture(params=LOOPS.values(), ids=[*LOOPS])
def start_on_both(request: pytest.FixtureRequest) -> Iterator[Start]:
    """As `start`, and the test runs once with each event loop."""

    def start(**settings: Any) -> RunningServer:
        return stack.enter_context(running_server(new_event_loop=request.param, **settings))

    with contextlib.ExitStack() as stack:
        yield start


@pytest.fixture
def tmp_path_unix() -> Iterator[str]:
    """A path for a Unix socket, short enough for one; its buffers are small and do not grow."""
    with tempfile.TemporaryDirectory(prefix="cairn-") as directory:
        yield f"{directory}/socket"

"""Nodes of a test's own cluster, on the NATS servers of this process."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import cairnkv
from cairnkv.store import wall_clock
from cairnkv.testing import RunningServer, running_server
from tests.support.nats import STREAM_LIMIT, Nats

PATIENCE: Final = 30.0


class Nodes:
    """Runs nodes, by the names of their directories."""

    def __init__(self, nats: Nats, directory: Path) -> None:
        self.nats = nats
        self.name = nats.fresh_name()
        self.directory = directory

    def settings(self, directory: str = "a") -> dict[str, Any]:
        """Return the settings of a node."""
        return {
            "cluster": ",".join(self.nats.urls),
            "nats_system": self.nats.system,
            "name": self.name,
            "log_limit": STREAM_LIMIT,
            "data": str(self.directory / directory),
        }

    @contextlib.contextmanager
    def __call__(self, directory: str = "a", **settings: Any) -> Iterator[RunningServer]:
        """Run a node, and yield its server."""
        with running_server(**{"clock": wall_clock, **self.settings(directory), **settings}) as server:
            yield server


def client(server: RunningServer) -> "cairnkv.Client[str, str]":
    """Return a client with a long timeout."""
    return cairnkv.connect(server.url, timeout=PATIENCE)


def told(server: RunningServer) -> dict[str, Any]:
    """Return the fields of INFO."""
    return dict(server.call(server.server.store.info))


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)

"""Fixtures: three NATS servers, and nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.nodes import Nodes
from tests.support.nats import Nats, nats

__all__ = ["nats", "node"]


@pytest.fixture
def node(nats: Nats, tmp_path: Path) -> Iterator[Nodes]:
    """Return a function that runs a node of the test's own cluster, by the name of its directory."""
    nodes = Nodes(nats, tmp_path)
    yield nodes
    nats.forget(nodes.name)

"""Three NATS servers for these tests, and nodes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replication.nodes import Nodes
from tests.support.nats import Nats, nats

__all__ = ["nats", "node"]


@pytest.fixture
def node(nats: Nats, tmp_path: Path) -> Iterator[Nodes]:
    """Runs a node of a cluster of this test's own, by the name of its directory."""
    nodes = Nodes(nats, tmp_path)
    yield nodes
    nats.forget(nodes.name)

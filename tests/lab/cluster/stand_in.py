"""`cairn` with a cluster of nodes without a log, for tests of the supervisor.

python -m tests.lab.cluster.stand_in cluster up --dir DIR
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cairnkv.cli.main import main
from cairnkv.lab.cluster import topology
from cairnkv.lab.cluster.node import NodeConfig


def stand_in(config: NodeConfig) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    """Return the command of `cairn serve` with a store on disk."""
    words = [sys.executable, "-m", "cairnkv", "serve", "--host", config.host, "--port", str(config.port)]
    return [*words, "--data", config.data, *config.flags], dict(config.environment)


def failing(config: NodeConfig) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    """Print a reason and fail."""
    return [sys.executable, "-c", "raise SystemExit('no serving today')"], {}


if __name__ == "__main__":
    topology.ClusterSpec = functools.partial(topology.ClusterSpec, command=stand_in)  # type: ignore[assignment,misc]
    sys.exit(main())

"""A cluster of stand-in nodes, one for all tests of a process, complete again before each test."""

from collections.abc import Iterator

import pytest

from cairnkv.lab.cluster import LocalCluster, State
from tests.lab.cluster.stand_in import stand_in


class Told(list[str]):
    """The notes of a supervisor."""


@pytest.fixture(scope="session")
def told() -> Told:
    """Return the notes of the supervisor of this process."""
    return Told()


@pytest.fixture(scope="session")
def _cluster(tmp_path_factory: pytest.TempPathFactory, told: Told) -> Iterator[LocalCluster]:
    with LocalCluster.up(tmp_path_factory.mktemp("cluster"), command=stand_in, notify=told.append) as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: LocalCluster, told: Told) -> LocalCluster:
    """Return the cluster of this process after all its processes are ready."""
    for host in _cluster.hosts:
        for process in host.processes:
            if process.state is State.PAUSED:
                _cluster.resume(process.name)
            if process.state is State.KILLED:
                _cluster.start(process.name, wait=0)
    _cluster.wait_ready()
    told.clear()
    return _cluster

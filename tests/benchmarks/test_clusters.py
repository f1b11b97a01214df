"""The counts of the cluster benchmark: failover gaps, failed calls and missing peers."""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.test_smoke import ROOT, loaded
from tests.support.patience import AT_ONCE

H2LOAD = """
finished in 1.30s, {done}.00 req/s, 93.98KB/s
requests: {done} total, {done} started, {done} done, {done} succeeded, {failed} failed, 0 errored, 0 timeout
"""


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return loaded(ROOT / "benchmarks" / "clusters.py")


def test_missing_peer_is_named(clusters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(clusters.Missing, match="apt-get install nghttp2-client"), clusters.etcd():
        pass


def test_longest_gap_is_the_failover(clusters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "HEAD_SECONDS", 0.1)
    killed: list[float] = []

    def write() -> None:
        time.sleep(0.001)
        if killed and time.monotonic() < killed[0] + 0.3:
            raise OSError("nobody there")

    found = clusters.longest_gap(write, lambda: killed.append(time.monotonic()), 0.5)
    assert 0.29 < found["longest_gap_seconds"] < AT_ONCE
    assert found["failed"] > 0
    assert found["writes"] > 0


def test_run_ends_if_the_cluster_does_not_recover(clusters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "HEAD_SECONDS", 0.0)
    monkeypatch.setattr(clusters, "FAILOVER_SECONDS", 0.2)
    killed: list[bool] = []

    def write() -> None:
        if killed:
            raise OSError("nobody there")

    with pytest.raises(RuntimeError, match="nobody there"):
        clusters.longest_gap(write, lambda: killed.append(True), 5.0)


@pytest.mark.parametrize(
    ("codes", "failed", "measured"),
    [
        ({"OK": 130, "Unknown": 3, "Canceled": 1}, 0, True),  # what was under way at the end
        ({"OK": 130, "Unknown": 5}, 0, False),  # more than that
        ({"OK": 130, "Unavailable": 1}, 0, False),
        ({"OK": 130}, 1, False),
    ],
)
def test_etcd_is_measured_only_where_no_call_failed(
    clusters: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codes: dict[str, int],
    failed: int,
    measured: bool,
) -> None:
    found = generated(clusters, tmp_path, monkeypatch, codes, failed, revisions=130)
    assert (found is not None) == measured
    if found is not None:
        assert (found["commands"], found["seconds"]) == (100, 1.0)


@pytest.mark.parametrize(("codes", "revisions"), [({"OK": 130}, 99), ({"OK": 99}, 130)])
def test_writes_unknown_to_etcd_end_the_run(
    clusters: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], revisions: int
) -> None:
    with pytest.raises(RuntimeError, match="h2load counts 100 calls"):
        generated(clusters, tmp_path, monkeypatch, codes, 0, revisions)


def generated(
    clusters: Any, directory: Path, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], failed: int, revisions: int
) -> dict[str, float] | None:
    """What comes of 100 calls that h2load counts, four of them at a time. codes, revisions: what etcd counts."""
    monkeypatch.setattr(clusters, "installed_program", str)
    monkeypatch.setattr(clusters, "run_all", lambda commands: [H2LOAD.format(done=100, failed=failed)])
    cluster = clusters.EtcdCluster(directory)
    counters, numbers = itertools.chain([{}], itertools.repeat(codes)), itertools.chain([1], [1 + revisions])
    monkeypatch.setattr(cluster, "_handled", lambda method: dict(next(counters)))
    monkeypatch.setattr(cluster, "_revision", lambda: next(numbers))
    monkeypatch.setattr(cluster, "leader_port", lambda: 1)
    found: dict[str, float] | None = cluster._generate("set", 2, 2, 1.0, 0.3, False)
    return found

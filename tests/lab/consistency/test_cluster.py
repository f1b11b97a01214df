"""A local cluster is consistent under faults; a cluster that is broken on purpose is detected."""

import asyncio
import os
import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import cairnkv
from cairnkv.lab.cluster import LocalCluster
from cairnkv.lab.cluster.network import missing_requirement as missing_for_network
from cairnkv.lab.consistency.history import Outcome
from cairnkv.lab.consistency.keys import checks, verdict
from cairnkv.lab.consistency.keys.checks import Kind, Report
from cairnkv.lab.consistency.keys.workload import Options, Run
from cairnkv.lab.consistency.nemesis import FaultKind, Nemesis
from cairnkv.lab.consistency.queues import checks as queue_checks
from cairnkv.lab.consistency.queues import history as queue_history
from cairnkv.lab.consistency.queues import verdict as queue_verdict
from cairnkv.lab.consistency.queues import workload as queue_workload
from cairnkv.lab.consistency.run import Injection
from cairnkv.lab.consistency.verdict import details
from cairnkv.replication import broken
from tests.lab.consistency import power
from tests.lab.consistency.keys.simulated import save

GIVEN = float(os.environ.get("CLUSTER_SECONDS") or 0)
LONG = GIVEN > 0
SECONDS = GIVEN or 3.0
"""How long each kind of fault is done."""

SEED = int(os.environ.get("SEED") or random.randrange(1_000_000))

ALONE = [(fault,) for fault in FaultKind]
MIXED = (FaultKind.KILL, FaultKind.PAUSE, FaultKind.CUT, FaultKind.WIPE)
FAULTS = [*ALONE, MIXED, tuple(FaultKind)] if LONG else [(FaultKind.KILL, FaultKind.PAUSE, FaultKind.WIPE)]

QUEUE_ALONE = [(FaultKind.KILL,), (FaultKind.PAUSE,), (FaultKind.CUT,), (FaultKind.MAJORITY,)]
QUEUE_FAULTS = [*QUEUE_ALONE, MIXED] if LONG else [(FaultKind.KILL, FaultKind.PAUSE)]

FAILOVER_SECONDS = 12.0
"""Within which a cluster whose majority is there answers again, whatever was done to the rest."""

ATTEMPTS = 20
"""To find out nodes that are broken: where a machine is slow, few reads come at the moment at which they show it."""

HARM_SECONDS = 10.0
"""How long `majority` and the others last at most (`cairnkv.lab.consistency.nemesis`)."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Run a correct cluster."""
    with LocalCluster.up(tmp_path_factory.mktemp("cluster"), namespaces=LONG and not missing_for_network()) as cluster:
        yield cluster


def judged(
    cluster: LocalCluster,
    path: Path,
    nemesis: Injection | None = None,
    *,
    seconds: float = SECONDS,
    rate: float | None = 500.0,
    keys: int = 8,
    seed: int = SEED,
    scripts: bool = True,
) -> Report:
    """Use a cluster, check the history, and print the verdict."""
    scripts = scripts and find_spec("lupa") is not None
    options = Options(cluster.addresses, seconds=seconds, clients=10, keys=keys, rate=rate, seed=seed, scripts=scripts)
    run = Run(options)
    history = asyncio.run(run.run(nemesis))
    report = checks.check(history)
    print(f"seed {seed}: {verdict.verdict(history, report)}", *history.actions, sep="\n  ")
    if not report.consistent:
        save(history, path / "history.jsonl")
        print(*details(report.violations), f"the history is in {path / 'history.jsonl'}", sep="\n")
    return report


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: "-".join(fault.value for fault in faults))
def test_cluster_is_consistent_under_faults(
    cluster: LocalCluster, faults: tuple[FaultKind, ...], tmp_path: Path
) -> None:
    if FaultKind.CUT in faults and not cluster.can_cut:
        pytest.skip(f"NOT TESTED HERE: {missing_for_network()}")
    nemesis = Nemesis(cluster, faults, seconds=SECONDS, seed=SEED)
    report = judged(cluster, tmp_path, nemesis)
    assert report.consistent is True, report
    assert not nemesis.problems
    assert report.outcomes[Outcome.OK] > 50
    assert report.recovery < FAILOVER_SECONDS * 1e9, f"nothing was answered for {report.recovery / 1e9:.1f} s"


_STALE = {Kind.STALE, Kind.OWN_WRITE, Kind.BACKWARDS, Kind.LOST}


# A node that replies early answers from a state that the log never has, such as a sum of other numbers.
@pytest.mark.parametrize(
    ("how", "expected", "keys"),
    [
        ("early-replies", {*_STALE, Kind.INVENTED}, 1),
        ("stale-reads", _STALE, 1),
        ("unwatched-scripts", {Kind.LOST}, 4),
    ],
)
def test_broken_nodes_are_detected(how: str, expected: set[Kind], keys: int, tmp_path: Path) -> None:
    """The check reports what the fault causes, whatever other violations it finds."""
    kinds: set[Kind] = set()
    scripts = how == "unwatched-scripts"
    if scripts:
        pytest.importorskip("lupa")
    broken = {"flags": ["--allow-broken"], "environment": {"CAIRNKV__BREAK": how}}
    with LocalCluster.up(tmp_path / "cluster", **broken) as cluster:  # type: ignore[arg-type]
        with cairnkv.connect(cluster.url) as kv:
            assert kv.info()["broken_on_purpose"] == how
        log = (tmp_path / "cluster" / "node-1" / "node.log").read_text()
        assert f"WARNING cairnkv.server: BROKEN ON PURPOSE, by the variable CAIRNKV__BREAK: {how}" in log
        assert f"BROKEN ON PURPOSE, by CAIRNKV__BREAK: {how}" in log.rpartition(" ready on ")[2]
        for attempt in range(ATTEMPTS):
            report = judged(cluster, tmp_path, seconds=2.0, keys=keys, rate=None, seed=SEED + attempt, scripts=scripts)
            kinds |= {violation.kind for violation in report.violations}
            if kinds & expected:
                assert report.consistent is False
                return
    raise AssertionError(f"only {kinds} were seen")


# -- queues ------------------------------------------------------------------------------------------------------------


def queues_judged(
    cluster: LocalCluster, path: Path, nemesis: Injection | None = None, *, seconds: float = SECONDS, seed: int = SEED
) -> queue_checks.Report:
    """Use the queues of a cluster, check the history, and print the verdict."""
    options = queue_workload.Options(cluster.addresses, seconds=seconds, clients=10, rate=300.0, seed=seed)
    with queue_history.Saver(path / "queues.jsonl", options.about()) as saver:
        history = asyncio.run(queue_workload.Run(options, saver=saver).run(nemesis))
    report = queue_checks.check(history)
    print(f"seed {seed}: {queue_verdict.verdict(history, report)}", *history.actions, sep="\n  ")
    if not report.consistent:
        print(*details(report.violations), f"the history is in {path / 'queues.jsonl'}", sep="\n")
    return report


@pytest.mark.parametrize("faults", QUEUE_FAULTS, ids=lambda faults: "-".join(fault.value for fault in faults))
def test_queues_of_a_cluster_are_consistent_under_faults(
    cluster: LocalCluster, faults: tuple[FaultKind, ...], tmp_path: Path
) -> None:
    if FaultKind.CUT in faults and not cluster.can_cut:
        pytest.skip(f"NOT TESTED HERE: {missing_for_network()}")
    nemesis = Nemesis(cluster, faults, seconds=SECONDS, seed=SEED)
    report = queues_judged(cluster, tmp_path, nemesis)
    assert report.consistent is True, report
    assert not nemesis.problems
    assert report.deliveries > 0


BROKEN_QUEUES = {
    broken.UNLOGGED_LEASES: queue_checks.Kind.TWO_LEASES,
    broken.UNCHECKED_TOKENS: queue_checks.Kind.STALE,
    broken.LOCAL_EXPIRY: queue_checks.Kind.TWO_LEASES,
}
"""The faults of nodes, and the violation that each shows."""


@pytest.mark.parametrize(
    "how",
    [(fault,) for fault in BROKEN_QUEUES] if LONG else [(broken.UNLOGGED_LEASES, broken.UNCHECKED_TOKENS)],
    ids="-".join,
)
def test_broken_queues_of_nodes_are_detected(how: tuple[str, ...], tmp_path: Path) -> None:
    missing = {BROKEN_QUEUES[fault] for fault in how}
    environment = {"CAIRNKV__BREAK": ",".join(how)}
    with LocalCluster.up(tmp_path / "cluster", flags=["--allow-broken"], environment=environment) as cluster:
        for attempt in range(ATTEMPTS):
            report = queues_judged(cluster, tmp_path, seconds=3.0, seed=SEED + attempt)
            missing -= {violation.kind for violation in report.violations}
            if not missing:
                return
    raise AssertionError(f"not found: {missing}")


if LONG:

    @pytest.mark.skipif(bool(power.lacking()), reason=f"NOT TESTED HERE: {power.lacking()}")
    @pytest.mark.parametrize("syncs", [True, False], ids=["syncs", "does-not-sync"])
    def test_power_failure_of_all_hosts_needs_a_log_that_syncs(syncs: bool, tmp_path: Path) -> None:
        """Killed processes lose no written data, so only a power failure shows the difference.

        The log that does not fsync is NATS with its default of two minutes, which needs --trust-nats-sync.
        """
        sync, flags = ("always", ()) if syncs else (None, ("--trust-nats-sync",))
        with power.disk(tmp_path) as disk, LocalCluster.up(disk.cluster, sync=sync, flags=flags) as cluster:
            report = judged(cluster, tmp_path, power.PowerFailures(cluster, disk, after=2.0), seconds=4.0)
        assert report.consistent is syncs
        kinds = {violation.kind for violation in report.violations}
        assert syncs or kinds & {Kind.LOST, Kind.STALE, Kind.OWN_WRITE}

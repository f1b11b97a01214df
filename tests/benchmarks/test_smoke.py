"""Proves that the benchmarks run from beginning to end, with the smallest sizes; their figures are of no meaning here.

Peers that are not installed are left out, as they are in a real run.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 600.0
"""How long a smoke run may take; it needs about eighty where nothing else runs, most of them for clusters."""

ROW = {"group", "what", "peer", "unit", "ours", "theirs", "ratio", "spread", "target", "verdict"}


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "bench.py", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=SECONDS,
    )


def loaded(path: Path) -> Any:
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_run_writes_results_tables_and_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = bench("--smoke", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "latest.json").read_text())
    assert set(results) == {"made", "notes", "rows", "rounds"}
    assert results["made"]["profile"] == "smoke"
    assert results["made"]["cairnkv"]["version"]
    for row in results["rows"]:
        assert set(row) == ROW
        assert row["ours"] > 0
        assert (row["theirs"] is None) == (row["ratio"] is None)
        assert row["spread"][0] <= (row["ours"] if row["ratio"] is None else row["ratio"]) <= row["spread"][1]
        assert (row["verdict"] == "report") == (row["target"] is None)
    for samples in results["rounds"].values():
        assert all(len(rounds) == 1 for rounds in samples.values())
    groups = {row["group"] for row in results["rows"]}
    assert "a whole `cairn get k` process" in groups
    assert "longest step while leases end" in groups
    assert "PUT to the reply of a waiting TAKE: p99 latency" in groups
    for program in ("beanstalkd", "redis-server"):
        for protocol in ("", "Redis protocol: "):
            begin = f"{protocol}queue in memory"
            measured = any(row["what"].startswith(begin) and row["peer"] == program for row in results["rows"])
            assert measured == (shutil.which(program) is not None)
    on_disk = importlib.util.find_spec("rocksdict") and importlib.util.find_spec("nats")
    if on_disk and not any("nats-server" in note for note in results["notes"]):
        peers = {row["peer"] for row in results["rows"] if row["what"].startswith("queue on three nodes")}
        assert {"nats-server R3", "its own SET"} <= peers
        assert ("RabbitMQ" in peers) != any("rabbitmq-server" in note for note in results["notes"])
    if shutil.which("cc"):
        assert "server CPU per GET while keys grow" in groups
        if shutil.which("redis-server"):
            assert "GET, SET not in a pipeline: server CPU per command" in groups
            assert "SET with fsync: commands/s" in groups
        assert "p99 latency of GET under a full load of SETs with fsync" in groups
        assert "opening a store on disk" in groups
        if importlib.util.find_spec("nats") and importlib.util.find_spec("rocksdict"):
            assert "a cluster's failover" in groups
            both = bool(shutil.which("etcd") and shutil.which("h2load"))
            assert both != any("etcd-server" in note or "nghttp2-client" in note for note in results["notes"])
            if both:
                assert "writes/s of a cluster at 1,000 concurrent" in groups
                assert "linearizable reads/s of a cluster at 1,000 concurrent" in groups
    if any(importlib.util.find_spec(name) for name in ("diskcache", "sqlitedict")):
        assert "embedded on disk, in a loop" in groups
    for program in ("redis-server", "memcached"):
        left_out = any(f"{program} is not installed" in note for note in results["notes"])
        assert left_out == (shutil.which("cc") is not None and shutil.which(program) is None)
    assert ElementTree.parse(tmp_path / "latest.svg").getroot().tag.endswith("svg")
    tables = loaded(ROOT / "docs" / "tables.py")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "latest.json")
    assert all(f"| {row['what']} | {row['peer']} |" in tables.performance() for row in results["rows"])
    assert "| a whole `cairn get k` process |" in tables.headlines()


def test_machine_without_compiler_and_peers(tmp_path: Path) -> None:
    """A smoke run measures the rest; any other run names the missing programs."""
    empty = tmp_path / "bin"
    empty.mkdir()
    done = bench("--smoke", "--output", str(tmp_path), PATH=str(empty))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "latest.json").read_text())
    assert any("C compiler" in note for note in results["notes"])
    assert "a whole `cairn get k` process" in {row["group"] for row in results["rows"]}
    done = bench("--output", str(tmp_path / "none"), PATH=str(empty))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "bench: the load generator needs a C compiler; on Debian: apt-get install gcc libc6-dev"
    ]
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_durable_rows_store_on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = loaded(ROOT / "benchmarks" / "servers.py")
    monkeypatch.setattr(servers.tempfile, "gettempdir", lambda: "/dev/shm")
    assert servers.disk_directory() != Path("/dev/shm")
    monkeypatch.setattr(
        servers, "IN_MEMORY", {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    )
    with pytest.raises(servers.Missing, match="name a directory in TMPDIR"):
        servers.disk_directory()


def test_tables_without_results_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = loaded(ROOT / "docs" / "tables.py")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "latest.json")
    assert tables.performance() == tables.headlines() == "no results; run make bench"


def test_arguments_select_rows(tmp_path: Path) -> None:
    assert "not 'tiny'" in bench("--output", str(tmp_path), BENCH="tiny").stderr
    assert "--output" in bench("--smoke").stderr
    assert "--output" in bench("--only", "imports").stderr
    assert "there is no part 'all'" in bench("--only", "all", "--output", str(tmp_path)).stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc libc6-dev")
def test_all_paths_are_measured() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "loops.py", "--rounds", "1", "--seconds", "0.02"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if "CAIRNKV__PURE" in os.environ or importlib.util.find_spec("cairnkv.server.poller_native") is None:
        assert "loops: this installation has no native path" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| uvloop |") == 6


def test_backup_benchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "backup.py", "5", "1"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "with a backup: longest wait" in done.stdout

"""Runs the tests of redis-py or ioredis about scripts and locks from a checkout: `make test-client-suite SUITE=DIR`.

    python -m tests.redis.client_suites DIR [--record]

TARGET names the server, as for all tests here: with TARGET=redis, the same tests run with redis-server. The checkout is
copied to a temporary directory, and what its tests need is installed there by pip or npm; nothing of it comes into this
repository. Change to ioredis: its default port becomes that of the server, since its tests use that.

`--record` keeps the counts, and the names of failed tests, for docs/redis.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.client_suites import RECORD, markdown

from tests.redis.suite import commit_of
from tests.support import targets
from tests.support.targets import Target

RUN_SECONDS = 900.0
"""How long an installation, or the tests of one client, may take."""

TEXT = 160
"""Characters of a failure that are kept."""

REDIS_PY = (
    "tests/test_scripting.py", "tests/test_lock.py", "tests/test_asyncio/test_scripting.py",
    "tests/test_asyncio/test_lock.py",
)  # fmt: skip
IOREDIS = (
    "test/functional/scripting.ts", "test/functional/commands/eval.ts", "test/functional/commands/eval_ro.ts",
    "test/functional/commands/evalsha.ts", "test/functional/commands/evalsha_ro.ts",
    "test/functional/commands/script.ts", "test/functional/show_friendly_error_stack.ts",
)  # fmt: skip

PIP_PACKAGES = ("pytest>=8.3,<9", "pytest-asyncio", "packaging", "redis-entraid", "coverage")
NPM_PACKAGES = (
    "mocha", "ts-node", "typescript@5", "chai@4", "chai-as-promised@7", "sinon@13", "server-destroy", "uuid@9",
)  # fmt: skip


@dataclass
class Results:
    """The results of the tests of a client. failed: the reasons by the names of tests."""

    passed: int
    skipped: int
    failed: dict[str, str]


@dataclass(frozen=True)
class Client:
    """A client, and how its tests run: `run` gets the copy of the checkout and the server."""

    name: str
    files: tuple[str, ...]
    version_file: str
    version: str  # a pattern that finds the version in that file
    run: Callable[[Path, Target], Results]


def main(arguments: Sequence[str]) -> int:
    """Run the tests; 0 if all pass that are not skipped."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.redis.client_suites", description="run the tests of a client about scripts"
    )
    parser.add_argument("suite", type=Path, help="a checkout of redis-py or ioredis")
    parser.add_argument("--record", action="store_true", help=f"keep the count in docs/{RECORD.name}")
    given = parser.parse_args(arguments)
    client = next((client for client in CLIENTS if (given.suite / client.files[0]).exists()), None)
    if client is None:
        parser.error(f"{given.suite} is no checkout of {' or '.join(client.name for client in CLIENTS)}")
    found = re.search(client.version, (given.suite / client.version_file).read_text())
    version = found[1] if found else "unknown"
    with tempfile.TemporaryDirectory(prefix="cairn-client-") as directory, targets.chosen() as target:
        copy = Path(directory) / "checkout"
        shutil.copytree(given.suite, copy, ignore=shutil.ignore_patterns(".git", "node_modules"), symlinks=True)
        results = client.run(copy, target)
    counted = {
        "client": client.name,
        "version": f"{version}, commit {commit}" if (commit := commit_of(given.suite)) else version,
        "files": list(client.files),
        "passed": results.passed,
        "skipped": results.skipped,
        "failed": results.failed,
    }
    if given.record:
        record(counted)
    print(markdown([counted]))
    return 1 if results.failed else 0


def record(counted: dict[str, Any]) -> None:
    """Put the results of a client in the place of its former ones."""
    kept = json.loads(RECORD.read_text()) if RECORD.exists() else []
    others = [client for client in kept if client["client"] != counted["client"]]
    RECORD.write_text(json.dumps(sorted([*others, counted], key=lambda client: client["client"]), indent=1) + "\n")


def run(command: Iterable[str | Path], cwd: Path, **environment: str) -> str:
    """Run a command to its end. Returns its output, also if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_SECONDS,
    )
    return done.stdout


def shortened(text: str) -> str:
    """The first line of a failure, as long as fits in a table."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= TEXT else line[: TEXT - 1] + "…"


# -- redis-py ----------------------------------------------------------------------------------------------------------


def run_redis_py(copy: Path, target: Target) -> Results:
    """Run the tests of redis-py in an environment of their own."""
    environment = copy.parent / "environment"
    told = run([sys.executable, "-m", "venv", environment], copy)
    python = environment / "bin" / "python"
    told += run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PIP_PACKAGES], copy)
    report = copy.parent / "report.xml"
    flags = [
        "-p",
        "no:cacheprovider",
        "-q",
        "--color=no",
        "-m",
        "not onlycluster",
        f"--redis-url={target.url}/0",
        f"--junitxml={report}",
    ]
    told += run([python, "-m", "pytest", *flags, *REDIS_PY], copy, PYTHONPATH=str(copy))
    if not report.exists():
        raise SystemExit(f"make: the tests of redis-py did not run:\n{told}")
    return of_junit(report.read_text())


def of_junit(report: str) -> Results:
    """Read a report of pytest."""
    results = Results(0, 0, {})
    for case in ElementTree.fromstring(report).iter("testcase"):
        wrong = next((child for child in case if child.tag in ("failure", "error")), None)
        if wrong is not None:
            results.failed[f"{case.get('classname')}.{case.get('name')}"] = shortened(wrong.get("message") or "")
        elif case.find("skipped") is not None:
            results.skipped += 1
        else:
            results.passed += 1
    return results


# -- ioredis -----------------------------------------------------------------------------------------------------------


def run_ioredis(copy: Path, target: Target) -> Results:
    """Run the tests of ioredis with packages of their own."""
    package = json.loads((copy / "package.json").read_text())
    wanted = [f"{name}@{version}" for name, version in package["dependencies"].items()]
    package.pop("devDependencies")
    (copy / "package.json").write_text(json.dumps(package))
    (copy / "package-lock.json").unlink(missing_ok=True)
    quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--no-save", "--ignore-scripts", "--loglevel", "error"]
    told = run(["npm", "install", *quiet, *wanted, *NPM_PACKAGES], copy)
    for name in ("lib/redis/RedisOptions.ts", "lib/Redis.ts"):
        file = copy / name
        file.write_text(re.sub(r"\b6379\b", str(target.port), file.read_text()))
    report = copy.parent / "report.json"
    flags = ["--no-experimental-strip-types", "--reporter", "json", "--reporter-option", f"output={report}"]
    mocha = copy / "node_modules" / ".bin" / "mocha"
    if mocha.exists():
        told += run(
            [mocha, *flags, "test/helpers/*.ts", *IOREDIS], copy, TS_NODE_TRANSPILE_ONLY="true", NODE_ENV="test"
        )
    if not report.exists():
        raise SystemExit(f"make: the tests of ioredis did not run:\n{told}")
    return of_mocha(report.read_text())


def of_mocha(report: str) -> Results:
    """Read a report of mocha."""
    found = json.loads(report)
    failed = {test["fullTitle"]: shortened(test["err"].get("message", "")) for test in found["failures"]}
    return Results(len(found["passes"]), len(found["pending"]), failed)


CLIENTS = (
    Client("redis-py", REDIS_PY, "redis/__init__.py", r'__version__ = "([^"]+)"', run_redis_py),
    Client("ioredis", IOREDIS, "package.json", r'"version": "([^"]+)"', run_ioredis),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

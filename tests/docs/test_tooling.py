"""The tools for documents, benchmarks and the demo import only packages of their own extras, and no test module."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLING = {"docs": ("docs",), "benchmarks": ("bench", "all"), "demo": ("all",), "tools": ()}
"""The directories, and the extras that `make` installs before it runs their programs."""

MODULES = {"valkey-glide": "glide", "nats-py": "nats", "mkdocs-material": "mkdocs", "mkdocstrings": "griffe"}
"""The module of a distribution, if its name differs from the distribution's."""

SECONDS = 120.0


def wanted(extra: str) -> Iterator[str]:
    """Yield the requirements of an extra and of the extras that it names."""
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]:
        if named := re.fullmatch(r"cairnkv\[(.*)\]", line):
            for other in named[1].split(","):
                yield from wanted(other)
        else:
            yield line


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names of all modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("directory", TOOLING)
def test_tooling_imports_only_what_its_extras_install(directory: str) -> None:
    names = [match[0] for extra in TOOLING[directory] for line in wanted(extra) if (match := re.match(r"[\w-]+", line))]
    known = {MODULES.get(name, name) for name in names} | {"cairnkv", "docs"} | set(sys.stdlib_module_names)
    files = sorted((ROOT / directory).rglob("*.py"))
    assert files
    for path in files:
        unknown = set(imported(path)) - known - {beside.stem for beside in files}
        assert not unknown, f"{path.relative_to(ROOT)} imports {unknown}"


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Copy the tooling of this clone without the package and the tests."""
    for name in ("docs", "benchmarks", "tests/clients"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


WITHOUT_PYTEST = """
import runpy, sys
sys.modules["pytest"] = None
runpy.run_path("docs/tables.py", run_name="__main__")
"""


def test_tables_are_made_where_there_is_no_pytest(clone: Path) -> None:
    readme = clone / "README.md"
    right = readme.read_text()
    readme.write_text(right.replace("| met |", "| perhaps |"))
    done = run(sys.executable, "-c", WITHOUT_PYTEST, cwd=clone)
    assert done.returncode == 0, done.stderr
    assert "renewed README.md" in done.stdout
    assert readme.read_text() == right


def test_check_of_the_tables_writes_nothing(clone: Path) -> None:
    readme = clone / "README.md"
    readme.write_text(readme.read_text().replace("| met |", "| perhaps |"))
    before = readme.read_text()
    done = run(sys.executable, "docs/tables.py", "--check", cwd=clone)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert readme.read_text() == before


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc libc6-dev")
@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("docs/tables.py", "import no_such_module\n", "No module named 'no_such_module'"),
        ("benchmarks/results/latest.json", "{", "Expecting property name"),
        ("README.md", "<!-- table: nothing -->\n<!-- end -->\n", "KeyError: 'nothing'"),
    ],
    ids=["a module is missing", "the last results are broken", "a table is unknown"],
)
def test_bench_fails_before_it_measures_when_its_end_would_fail(
    clone: Path, file: str, text: str, message: str
) -> None:
    (clone / file).write_text(text)
    done = run(sys.executable, "benchmarks/bench.py", cwd=clone)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench: docs/tables.py cannot make the tables of the documents: ")
    assert message in line

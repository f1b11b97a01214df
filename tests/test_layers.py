"""The rooms of the design: each imports only rooms below it, and those that are sans-IO do no I/O.

Read from the source with `ast`, so that an import within a function counts like any other.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv

PACKAGE = Path(cairnkv.__file__).parent

LEVELS = [
    {"docstrings", "escapes", "limits", "own_threads", "records", "units", "version"},
    {"commands", "sockets"},
    {"errors"},
    {"installation", "paths"},
    {"engine"},
    {"protocol"},
    {"scripts", "storage"},
    {"store"},
    {"replication"},
    {"client"},
    {"aio"},
    {"__init__"},
    {"session"},
    {"server"},
    {"lab"},
    {"cli"},
    {"testing"},
    {"__main__"},
]
"""From the bottom to the top; `aio` and `__init__` are the face of the clients, which the command line uses as
anybody does. What is at one level does not import anything of the same level, itself aside."""

LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

SANS_IO = ["commands", "engine", "protocol", "scripts", "session"]
NO_IO = {"asyncio", "socket", "ssl", "time", "random", "select", "selectors", "secrets", "threading", "datetime"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """The full names of all modules, or of things in modules, that a file imports."""
    package = ["cairnkv", *file.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_imported(file: Path) -> set[str]:
    found = set()
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top == "cairnkv":
            room = rest.partition(".")[0]
            found.add(room if room in LEVEL_OF else "__init__")
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
class TestEachModule:
    def test_belongs_to_a_package_of_the_design(self, file: Path) -> None:
        """Of a new one, say above where it stands."""
        assert room_of(file) in LEVEL_OF

    def test_imports_only_packages_below_its_own(self, file: Path) -> None:
        room = room_of(file)
        for other in rooms_imported(file) - {room}:
            assert LEVEL_OF[other] < LEVEL_OF[room], f"{room} imports {other}, which is not below it"

    def test_does_no_io_in_a_sans_io_package(self, file: Path) -> None:
        if room_of(file) in SANS_IO:
            assert not {name.partition(".")[0] for name in imported(file)} & NO_IO


def test_every_package_of_the_design_exists() -> None:
    there = {room_of(file) for file in MODULES}
    assert {
        "cli",
        "lab",
        "server",
        "session",
        "client",
        "replication",
        "store",
        "storage",
        "protocol",
        "scripts",
        "engine",
        "commands",
    } <= there
    assert set(SANS_IO) <= there


def test_forbidden_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any form, anywhere in the file."""
    monkeypatch.setattr("tests.test_layers.PACKAGE", tmp_path)
    (tmp_path / "protocol").mkdir()
    file = tmp_path / "protocol" / "bad.py"
    for line in ("import asyncio", "import asyncio.events", "from asyncio import run", "def f():\n    import asyncio"):
        file.write_text(line)
        assert {name.partition(".")[0] for name in imported(file)} & NO_IO
    for line in ("from cairnkv.store import Store", "import cairnkv.store.local", "from cairnkv import store"):
        file.write_text(line)
        assert rooms_imported(file) == {"store"}
    for line in ("from ..store import Store", "from .. import store"):
        file.write_text(line)
        assert rooms_imported(file) == {"store"}


def imports_of_files() -> dict[str, set[str]]:
    """Of each module those that its files import: for types only, within functions and by Cython, too."""
    files = [file for file in PACKAGE.rglob("*.*") if file.suffix in (".py", ".pyi", ".pyx", ".pxd")]
    names = {
        file: ".".join(("cairnkv", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for file in files
    }
    modules = set(names.values())
    found: dict[str, set[str]] = {module: set() for module in modules}
    for file, module in names.items():
        for name in imported(file) if file.suffix in (".py", ".pyi") else imported_by_cython(file):
            there = name if name in modules else name.rpartition(".")[0]
            if there in modules and there != module:
                found[module].add(there)
    return found


def imported_by_cython(file: Path) -> Iterator[str]:
    for line in file.read_text().splitlines():
        match = re.match(r"\s*from (cairnkv[\w.]*) c?import (.*)", line)
        if match:
            yield from (f"{match[1]}.{name}" for name in re.findall(r"\w+", match[2]) or [""])


def in_cycles(imports: dict[str, set[str]]) -> set[str]:
    """The modules that cannot be put in an order in which each comes after those that it imports."""
    left = set(imports)
    while ready := {module for module in left if not imports[module] & left}:
        left -= ready
    return left


def test_no_files_import_each_other() -> None:
    assert in_cycles(imports_of_files()) == set()


def test_import_cycle_is_found() -> None:
    assert in_cycles({"a": {"b"}, "b": {"a"}, "c": set()}) == {"a", "b"}

"""The page on the native path lists every native function of the package, and each name on it exists."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "cairnkv"
PAGE = (ROOT / "docs" / "native.md").read_text()
ROWS = [row.split(" | ") for row in re.findall(r"^\| (`.*) \|$", PAGE, re.MULTILINE)]


def named(cell: str) -> dict[str, list[str]]:
    """Return the names in a cell of the form `file`: `name`, `name`; `file`: `name`, by file."""
    found = {}
    for part in cell.split("; "):
        file, *names = re.findall(r"`([\w./]+)`", part)
        found[file] = names
    return found


def defined_in_pure(path: Path) -> set[str]:
    """Return the functions, classes and methods of a Python file; a method as Class.method."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def defined_in_native(path: Path) -> set[str]:
    """Return the functions and classes at the top level of a Cython file."""
    return set(re.findall(r"^(?:cdef|cpdef|def|class)\b[^=\n]*?\b(\w+)(?:\(.*)?:$", path.read_text(), re.MULTILINE))


def public_in(path: Path) -> set[str]:
    """Return the names that Python code can import from a Cython file."""
    return set(re.findall(r"^(?:cdef class|class|cpdef \w+|def) ([a-zA-Z]\w*)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.pyx")), ids=lambda file: file.stem)
def test_each_public_native_name_is_on_the_page(file: Path) -> None:
    listed = {name for row in ROWS for name in named(row[0]).get(str(file.relative_to(PACKAGE)), [])}
    assert public_in(file) <= listed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].replace("`", ""))
def test_names_on_the_native_page_exist(row: list[str]) -> None:
    native, pure, tests = row
    for file, names in named(native).items():
        assert set(names) <= defined_in_native(PACKAGE / file), file
    if pure.startswith("asyncio's"):
        (name,) = re.findall(r"`([\w.]+)`", pure)
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)
    else:
        for file, names in named(pure).items():
            assert names
            assert set(names) <= defined_in_pure(PACKAGE / file), file
    for file in re.findall(r"`([^`]+)`", tests):
        assert (ROOT / file).is_file()


def test_there_are_rows() -> None:
    assert len(ROWS) > 30

"""The examples in the package's docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import cairnkv

PACKAGE = Path(cairnkv.__file__).parent
MODULES = sorted(
    ".".join(["cairnkv", *file.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
    if file.stem != "__main__"  # importing it is running it
    and file.parent.name != "brokers"  # these need the extra `clients`: tests/clients/brokers imports them
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_are_true(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), verbose=False)
    assert results.failed == 0


def test_docstrings_have_examples() -> None:
    """Otherwise the test above would prove nothing."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(
        len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples
    )
    assert count >= 10


def test_docstring_examples_of_test_support_are_true() -> None:
    results = doctest.testmod(importlib.import_module("tests.support.crc"))
    assert results.attempted >= 1
    assert results.failed == 0

"""The command line without the extra `cli`: everything works, and one line names the extra where it would help."""

import os
import sys
from pathlib import Path

import pytest

import cairnkv
from tests.cli.terminal import Terminal

Store = cairnkv.Client[bytes, bytes]


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    """Return variables with which rich and prompt_toolkit cannot be imported."""
    for package in ("rich", "prompt_toolkit"):
        (tmp_path / "missing" / package).mkdir(parents=True)
        (tmp_path / "missing" / package / "__init__.py").write_text(
            f"raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
        )
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path / "missing"), *filter(None, sys.path)])}


def test_import_without_rich_prints_one_line_instead_of_a_bar(
    kv: Store, tmp_path: Path, without: dict[str, str]
) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("a\t1\nb\t2\n")
    with Terminal("import", str(file), **without) as terminal:
        assert terminal.wait() == 0, terminal.screen
    needs = "cairn: a progress bar needs the package rich, which is not installed; pip install 'cairnkv[cli]'"
    assert terminal.screen.count("rich") == 1
    assert needs in terminal.screen
    assert "imported 2 rows" in terminal.screen
    assert kv.get("b") == b"2"


def test_shell_on_a_terminal_without_prompt_toolkit_names_the_extra(kv: Store, without: dict[str, str]) -> None:
    with Terminal("shell", **without) as terminal:
        assert terminal.wait() == 2
    assert terminal.screen.splitlines() == [
        "cairn: cairn shell needs the package prompt_toolkit, which is not installed; pip install 'cairnkv[cli]'"
    ]

"""Generated files of the clients are those that their sources give."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


TOOL = Path(__file__).parents[2] / "tools/generate_clients.py"


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="needs ruff, which formats the generated files")
def test_generated_files_are_fresh() -> None:
    ran = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")

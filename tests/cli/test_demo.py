"""The demo runs as a test: it imports and exports a real data set and compares."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import SECONDS

DEMO = Path(__file__).parents[2] / "demo" / "demo.py"
SOURCES = ["modules", *(["packages"] if shutil.which("dpkg-query") else [])]


@pytest.mark.parametrize("source", SOURCES)
def test_demo_succeeds(source: str) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--data", source], capture_output=True, text=True, timeout=4 * SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "went in and came back the same, every time." in done.stdout
    assert "read, asyncio client, again" in done.stdout


def test_demo_fails_if_a_key_is_lost(tmp_path: Path) -> None:
    """A wrapper around the command line loses one key."""
    script = (
        "import runpy, sys\n"
        f"demo = runpy.run_path({str(DEMO)!r})\n"
        "read = demo['read_sync']\n"
        "demo['main'].__globals__['read_sync'] = lambda url, keys: read(url, keys[1:])\n"
        "sys.argv[1:] = ['--data', 'modules']\n"
        "sys.exit(demo['main']())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=4 * SECONDS, check=False
    )
    assert done.returncode == 1
    assert "demo: sync client: " in done.stderr
    assert "the first that differs is " in done.stderr

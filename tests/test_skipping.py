"""With CI=true a skipped test is a failure, as this directory's conftest promises."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import pytest

def test_that_runs():
    pass

@pytest.mark.skipif({skips}, reason="not here")
def test_that_may_not():
    pass
"""


@pytest.mark.parametrize(
    ("ci", "skips", "status"), [("true", True, 1), ("true", False, 0), ("", True, 0), ("false", True, 0)]
)
def test_skipped_test_fails_the_run_with_ci_true(tmp_path: Path, ci: str, skips: bool, status: int) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_it.py").write_text(PROGRAM.format(skips=skips))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)},  # conftest.py imports `tests.support`
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    assert ("SKIPPED TESTS ARE FAILURES" in run.stdout) == (status == 1)

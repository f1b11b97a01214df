"""The choice of the path: the values of `CAIRNKV__PURE`, and the report of `features()`."""

import os
import subprocess
import sys

import pytest

import cairnkv
from tests.support.paths import BUILT


def run(code: str, pure: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CAIRNKV__PURE": pure}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, env=environment
    )


@pytest.mark.parametrize("pure", ["1", "0"])
def test_variable_disables_the_native_path(pure: str) -> None:
    done = run("import cairnkv; print(cairnkv.features()['path'])", pure)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("native" if BUILT and pure == "0" else "pure Python")


@pytest.mark.parametrize("code", ["import cairnkv; cairnkv.connect()", "import cairnkv; cairnkv.features()"])
@pytest.mark.parametrize("pure", ["maybe", "2", "none"])
def test_variable_for_the_pure_path_is_yes_or_no(code: str, pure: str) -> None:
    assert run(code, pure).stderr.endswith(
        f"OptionError: the variable CAIRNKV__PURE has to be yes or no, not '{pure}'\n"
    )


def test_features_name_the_path_in_use(path_in_use: str) -> None:
    assert cairnkv.features()["path"] == ("native" if path_in_use == "native" else "pure Python")

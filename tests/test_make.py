"""make with missing programs names them and their Debian packages, and makes a half-made environment again."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )


def fake_python(path: Path, script: str) -> str:
    interpreter = path / "python"
    interpreter.write_text(f"#!/bin/sh\n{script}\n")
    interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
    return str(interpreter)


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    ran = make(f"PYTHON={tmp_path}/nothing", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.made")
    assert ran.returncode != 0
    assert "apt-get install python3 python3-venv" in ran.stderr


def test_too_old_interpreter_is_named(tmp_path: Path) -> None:
    old = fake_python(tmp_path, '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; exit 1')
    ran = make(f"PYTHON={old}", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.made")
    assert ran.returncode != 0
    assert "needs Python 3.11 or newer; this is Python 3.9.2" in ran.stderr


def test_missing_venv_package_is_named(tmp_path: Path) -> None:
    bare = fake_python(tmp_path, f'case "$2" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"')
    ran = make(f"PYTHON={bare}", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/.made")
    assert ran.returncode != 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"apt-get install python{version}-venv" in ran.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("stamp", [False, True], ids=["without its stamp", "with an interpreter that is gone"])
def test_half_made_environment_is_made_again(tmp_path: Path, stamp: bool) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    (venv / "rest of another").touch()
    if stamp:
        (venv / ".made").touch()
    ran = make(f"PYTHON={sys.executable}", f"VENV={venv}", f"{venv}/.made")
    assert ran.returncode == 0, ran.stderr
    assert (venv / ".made").exists()
    assert not (venv / "rest of another").exists()
    assert subprocess.run([venv / "bin" / "python", "-m", "pip", "--version"], capture_output=True, check=False).stdout


def test_help_lists_the_targets() -> None:
    said = make("help").stdout
    assert all(f"make {target}" in said for target in ("serve", "test", "check", "demo", "bench"))


def installed(tmp_path: Path, script: str) -> subprocess.CompletedProcess[str]:
    """`tools/install.py` with a script in the place of pip."""
    (tmp_path / "pip.py").write_text(script)
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "install.py", ".[cluster]"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )


def test_installation_prints_a_line_for_each_step(tmp_path: Path) -> None:
    ran = installed(
        tmp_path,
        """
print("Looking in indexes: https://somewhere")
print("  Collecting Cython<4,>=3.1")
print("Processing /some/where/rich-15.0.0-py3-none-any.whl (from x)")
print("  [ 1/13] Cythonizing src/cairnkv/client/aio/reply_future_native.pyx")
print("  building 'cairnkv.store.pending_native' extension")
print("Successfully installed cairnkv-0.1.0")
""",
    )
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr.splitlines() == [
        "make: getting Cython<4,>=3.1",
        "make: getting rich-15.0.0-py3-none-any.whl",
        "make: translating src/cairnkv/client/aio/reply_future_native.pyx to C (1 of 13)",
        "make: compiling cairnkv.store.pending_native",
    ]


def test_failed_installation_prints_all_output_of_pip(tmp_path: Path) -> None:
    ran = installed(tmp_path, 'import sys; print("Collecting x"); print("ERROR: no x", file=sys.stderr); sys.exit(3)')
    assert ran.returncode == 3
    assert "ERROR: no x\n" in ran.stderr
    assert ran.stderr.splitlines()[-1] == "make: pip could not install .[cluster]; all that it printed is above"

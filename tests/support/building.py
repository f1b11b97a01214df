"""Other builds of the project, each in a directory of its own."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ("src", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
"""Files and directories that a build needs."""


def copy_project(place: Path) -> None:
    """Copy the project without build results."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, place / name)


def install(place: Path, environment: Mapping[str, str]) -> Path:
    """Build a copy of the project with these variables, such as CFLAGS; returns the directory to import it from."""
    build = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*build, "--target", "built", "."], cwd=place, env=environment, check=True)
    return place / "built"

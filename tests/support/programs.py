"""Programs of the system that tests run."""

import shutil

import pytest


def program(name: str, package: str) -> str:
    """Return the path of a program. Skips the test, with the name of the Debian package, if there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name}; on Debian: apt-get install {package}")
    return path

"""Every test of this directory runs on the pure path and on the native path."""

import pytest


@pytest.fixture(autouse=True)
def _both_paths(path_in_use: str) -> None:
    """Use the fixture `path_in_use`."""

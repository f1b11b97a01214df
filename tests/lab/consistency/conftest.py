"""An address without a server, and the command line as in its own tests."""

import socket
from collections.abc import Iterator

import pytest

from tests.cli.conftest import cairn_here

__all__ = ["cairn_here"]


@pytest.fixture
def unused_address() -> Iterator[str]:
    """Return an address whose port is bound and refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"cairn://127.0.0.1:{taken.getsockname()[1]}"

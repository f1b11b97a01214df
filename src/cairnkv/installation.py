"""Which optional parts this installation has, and so what it runs on."""

import functools
import importlib.metadata
import importlib.util
import sys


@functools.cache
def features() -> dict[str, str]:
    """What is in use: the form of the hot path, and the event loop that a server here takes.

    The compiled hot path is not there in this version.

    >>> features()["hot path"]
    'plain Python'
    """
    return {"hot path": "plain Python", "loop": _loop()}


def uvloop_is_there() -> bool:
    """Whether the faster event loop is installed."""
    return importlib.util.find_spec("uvloop") is not None


def _loop() -> str:
    if uvloop_is_there():
        return f"uvloop {importlib.metadata.version('uvloop')}"
    return f"asyncio of Python {sys.version_info.major}.{sys.version_info.minor}"

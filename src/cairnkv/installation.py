"""Detects the optional parts of this installation, such as the native path."""

import functools
import importlib.machinery
import importlib.util
import os
import sys
from typing import Final

PURE_VARIABLE: Final = "CAIRNKV__PURE"
"""The variable that disables the native path: yes or no; empty: no."""

NATIVE_MODULES: Final = (
    "cairnkv.engine.table_native",
    "cairnkv.engine.sorted_list_native",
    "cairnkv.engine.queue_native",
    "cairnkv.protocol.resp.requests_native",
    "cairnkv.storage.recorder_native",
    "cairnkv.store.clock_native",
    "cairnkv.replication.proposals_native",
    "cairnkv.store.pending_native",
    "cairnkv.session.executor_native",
    "cairnkv.session.queue_frames_native",
    "cairnkv.session.native.frames_native",
    "cairnkv.session.proposals_native",
    "cairnkv.session.resp.frames_native",
    "cairnkv.server.poller_native",
    "cairnkv.client.embedded_native",
    "cairnkv.client.exchange_native",
    "cairnkv.client.aio.reply_future_native",
)
"""The compiled modules."""

NATIVE_TLS: Final = "cairnkv.server.tls_native"
"""The compiled module of TLS, which is missing if the computer that compiled had no headers of OpenSSL."""


@functools.cache
def native_path_in_use() -> bool:
    """Return whether the native path is installed and enabled. Raises `OptionError` for an invalid variable."""
    return not _pure_is_wanted() and all(map(_is_installed, NATIVE_MODULES))


@functools.cache
def native_tls_in_use() -> bool:
    """Return whether the native path encrypts with libssl. Otherwise servers encrypt with Python's `ssl`."""
    return native_path_in_use() and _is_installed(NATIVE_TLS)


def _pure_is_wanted() -> bool:
    text = os.environ.get(PURE_VARIABLE, "")
    if not text.strip():
        return False
    from cairnkv.errors import OptionError  # this and the next import are slow, and few set the variable
    from cairnkv.units import switch

    try:
        return switch(text)
    except ValueError as error:
        raise OptionError(f"the variable {PURE_VARIABLE} has to be {error}") from None


def _is_installed(name: str) -> bool:
    """Return whether a module of this package is installed, without an import of the packages around it."""
    package = __file__.replace(os.sep, "/").rpartition("/")[0]
    folders = name.split(".")[1:-1]
    return importlib.machinery.PathFinder.find_spec(name, ["/".join((package, *folders))]) is not None


@functools.cache
def features() -> dict[str, str]:
    """Return the parts in use: the native or the pure Python path, the event loop of servers, and the library of TLS.

    >>> features()["path"] in ("native", "pure Python")
    True
    """
    return {"path": "native" if native_path_in_use() else "pure Python", "loop": _loop(), "tls": _tls()}


def python_command(*arguments: str) -> list[str]:
    """Return the command of a Python process that imports this package, and nothing from the working directory.

    Use it with the environment `python_environment()`.
    """
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """Return this process's environment, with the path of this package added if only `sys.path[0]` has it.

    This is the case for `python -m cairnkv` in a checkout's `src`. Without -P, a child process would also import
    modules from its working directory.
    """
    root = __file__.replace(os.sep, "/").rpartition("/")[0].rpartition("/")[0]
    paths = os.environ.get("PYTHONPATH")
    if root in sys.path[1:]:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join((root, paths) if paths else (root,))}


def has_uvloop() -> bool:
    """Return whether uvloop is installed."""
    return importlib.util.find_spec("uvloop") is not None


def _loop() -> str:
    if native_path_in_use():
        return f"epoll and {_asyncio()}"
    if has_uvloop():
        import importlib.metadata  # a slow import, and rarely used

        return f"uvloop {importlib.metadata.version('uvloop')}"
    return _asyncio()


def _tls() -> str:
    return "libssl" if native_tls_in_use() else "ssl of Python"


def _asyncio() -> str:
    return f"asyncio of Python {sys.version_info.major}.{sys.version_info.minor}"

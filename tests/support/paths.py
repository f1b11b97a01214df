"""The fixture `path_in_use`: tests that use it run on the pure path and on the native path."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, Final

import pytest

from cairnkv.installation import PURE_VARIABLE, features, native_path_in_use, native_tls_in_use

BUILT: Final = importlib.util.find_spec("cairnkv.session.executor_native") is not None
native_only: Final = pytest.mark.skipif(not BUILT, reason="the native modules were not built here")
PATHS: Final = [pytest.param("pure", marks=pytest.mark.pure), pytest.param("native", marks=native_only)]

CLIENT: Final = "cairnkv.client"
TWINS: Final = {
    "Line": (f"{CLIENT}.exchange.PureLine", f"{CLIENT}.exchange_native.Line"),
    "ReplyDecoder": ("cairnkv.protocol.native.ReplyDecoder", f"{CLIENT}.exchange_native.ReplyDecoder"),
    "command_parts": ("cairnkv.protocol.native.command_parts", f"{CLIENT}.exchange_native.command_parts"),
    "ReplyFuture": (f"{CLIENT}.aio.reply_future.ReplyFuture", f"{CLIENT}.aio.reply_future_native.ReplyFuture"),
    "Waking": (f"{CLIENT}.aio.reply_future.Waking", f"{CLIENT}.aio.reply_future_native.Waking"),
}
"""The pure and the native twin of a name of the clients."""

CHOSEN_AT_IMPORT: Final = {
    "cairnkv.client.exchange": ("Line", "ReplyDecoder", "command_parts"),
    "cairnkv.client.sync": ("Line", "ReplyDecoder", "command_parts"),
    "cairnkv.client.aio.connection": ("ReplyDecoder", "command_parts", "ReplyFuture", "Waking"),
}
"""The names that modules of the clients take from one of the twins when they are imported."""


def twin(name: str, path: str) -> Any:
    """Return the twin of a name on a path."""
    module, _, attribute = TWINS[name][path == "native"].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def use(path: str, patch: pytest.MonkeyPatch) -> None:
    """Use a path in this process and in the processes that it starts."""
    patch.setenv(PURE_VARIABLE, "1" if path == "pure" else "0")
    native_path_in_use.cache_clear()
    native_tls_in_use.cache_clear()
    features.cache_clear()
    if BUILT:
        for importer, names in CHOSEN_AT_IMPORT.items():
            for name in names:
                patch.setattr(importlib.import_module(importer), name, twin(name, path))


@contextlib.contextmanager
def on_path(path: str) -> Iterator[None]:
    """Use a path for the objects that are made meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        use(path, patch)
        yield
    native_path_in_use.cache_clear()
    native_tls_in_use.cache_clear()
    features.cache_clear()


@pytest.fixture(scope="module", params=PATHS)
def path_in_use(request: pytest.FixtureRequest) -> Iterator[str]:
    """The path in use: "pure" or "native"."""
    with on_path(request.param):
        yield request.param

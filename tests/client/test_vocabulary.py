"""The methods: sync, async and pipeline have the same, with the same options and defaults."""

import inspect
import subprocess
import sys

import pytest

import cairnkv
from cairnkv import aio
from cairnkv.client.aio.pipeline import AsyncPipeline
from cairnkv.client.calls import Calls


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


MAPPING = {"keys", "values", "items", "pop", "popitem", "setdefault", "update"}
NOT_IN_PIPELINES = {"together", "queues", "scan", "clear_prefix", "close", "pipeline"} | MAPPING


def methods(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def parameters(signature: inspect.Signature) -> list[tuple[str, object, object]]:
    return [(name, parameter.kind, parameter.default) for name, parameter in signature.parameters.items()]


def test_methods_are_the_calls_and_those_of_the_list() -> None:
    one_key = {"set", "get", "swap", "clear", "clear_if_equals", "exists", "incr", "ttl", "expire", "persist"}
    several = {"get_many", "set_many", "clear_many"}
    calls = set(methods(Calls))
    assert one_key | several | {"count", "clear_all", "ping", "info"} <= calls
    assert set(methods(cairnkv.KeyValue)) == calls | {"scan", "clear_prefix", "close"} | MAPPING | {
        "durability",
        "local",
        "queue",
        "queues",
        "together",
        "pipeline",
    }


def test_embedded_and_sync_client_have_the_same_methods() -> None:
    embedded, sync = methods(cairnkv.Embedded), methods(cairnkv.Client)
    assert set(embedded) == set(sync)
    assert set(methods(aio.Embedded)) == set(methods(aio.Client)) == set(sync)


def test_asyncio_client_has_the_same_methods() -> None:
    sync, asynchronous = methods(cairnkv.KeyValue), methods(aio.AsyncKeyValue)
    assert set(sync) == set(asynchronous)
    for name in sync:
        assert parameters(sync[name]) == parameters(asynchronous[name]), name


def test_pipelines_have_the_same_methods() -> None:
    sync = methods(cairnkv.KeyValue)
    for kind in (cairnkv.Pipeline, AsyncPipeline):
        pipeline = methods(kind)
        assert set(pipeline) - {"execute"} == set(sync) - NOT_IN_PIPELINES
        for name in set(pipeline) - {"execute"}:
            assert parameters(sync[name]) == parameters(pipeline[name]), name


def test_every_method_has_a_docstring() -> None:
    for kind in (cairnkv.KeyValue, aio.AsyncKeyValue):
        for name in methods(kind):
            assert (getattr(kind, name).__doc__ or "").strip(), f"{kind.__name__}.{name}"


def test_client_does_not_import_embedded_stores() -> None:
    """`connect` is what most programs import, and many of them are short."""
    code = "import sys, cairnkv; cairnkv.connect; print([m for m in sys.modules if m.startswith(%r)])"
    others = (
        *("cairnkv.store", "cairnkv.engine", "cairnkv.storage"),
        *("json", "random", "importlib.metadata", "logging", "dataclasses", "inspect", "pathlib", "urllib"),
    )
    ran = subprocess.run(
        [sys.executable, "-c", code % (others,)], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout == "[]\n"


def test_package_imports_no_event_loop_and_no_terminal_modules() -> None:
    code = "import sys, cairnkv; cairnkv.connect; cairnkv.open; print([m for m in sys.modules if m in %r])"
    heavy = {"asyncio", "uvloop", "rich", "prompt_toolkit", "pytest", "argparse", "tomllib", "msgpack", "ssl"}
    ran = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "[]\n"

"""Introspection of the package: `dir`, completion, `help`, docstrings and signatures."""

import copy
import functools
import inspect
import pickle
import pydoc
import rlcompleter
from collections.abc import Callable, KeysView
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.client.embedded import Embedded
from cairnkv.client.keyvalue import KeyValue


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


def test_dir_shows_all_public_names() -> None:
    assert set(cairnkv.__all__) <= set(dir(cairnkv))
    for name in cairnkv.__all__:
        assert getattr(cairnkv, name) is not None


def test_star_import_gives_all_public_names() -> None:
    names: dict[str, object] = {}
    exec("from cairnkv import *", names)
    assert set(cairnkv.__all__) <= names.keys()


def test_completion_finds_lazily_imported_names() -> None:
    completer = rlcompleter.Completer({"cairnkv": cairnkv})
    for beginning, whole in (("cairnkv.con", "cairnkv.connect("), ("cairnkv.Unav", "cairnkv.Unavailable(")):
        assert str(completer.complete(beginning, 0)).startswith(whole)


def test_help_of_the_package_explains_the_first_steps() -> None:
    page = pydoc.render_doc(
        cairnkv,
        renderer=pydoc.plaintext,  # type: ignore[attr-defined]  # typeshed lacks it
    )
    for part in ("connect(", "open(", "class Client", "class Unavailable", "class OutcomeUnknown"):
        assert part in page


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cairnkv' has no attribute 'opne'"):
        _ = cairnkv.opne


@pytest.mark.parametrize("store", [cairnkv.open(), cairnkv.connect()], ids=["embedded", "sync"])
def test_every_public_method_has_docstring_and_signature(store: KeyValue[str, str]) -> None:
    for name in dir(store):
        if name.startswith("_") or not callable(method := getattr(type(store), name)):
            continue
        assert inspect.getdoc(method), name
        assert "(self" in str(inspect.signature(method)), name


OPENED: list[Callable[[Path], Any]] = [
    lambda path: cairnkv.open(),
    lambda path: cairnkv.open(memory_limit=2**20),
    lambda path: cairnkv.open(path),
    lambda path: cairnkv.open(path).durability("memory"),
    lambda path: cairnkv.open().keys(),
    lambda path: cairnkv.connect(),
    lambda path: cairnkv.connect(codec="json").durability("memory"),
    lambda path: cairnkv.connect().local(),
    lambda path: cairnkv.connect().pipeline(),
    lambda path: cairnkv.aio.open(),
    lambda path: cairnkv.aio.open(path),
    lambda path: cairnkv.aio.connect(),
    lambda path: cairnkv.aio.connect().local(),
    lambda path: cairnkv.aio.connect().pipeline(),
]


@pytest.mark.parametrize("opened", OPENED)
def test_stores_and_pipelines_cannot_be_pickled_or_copied(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    store = opened(tmp_path / "data")
    copies: list[Callable[[Any], object]] = [copy.deepcopy]
    if not isinstance(store, KeysView):  # the copy of a view uses the same store
        copies.append(copy.copy)
    copies += [functools.partial(pickle.dumps, protocol=number) for number in range(pickle.HIGHEST_PROTOCOL + 1)]
    for attempt in copies:
        with pytest.raises(TypeError, match="cannot be pickled or copied; open or connect it again"):
            attempt(store)


def test_native_methods_have_the_signatures_of_the_pure_ones() -> None:
    native = type(cairnkv.open())
    for name in ("get", "set", "exists"):
        ours, theirs = (
            [
                str(one.replace(annotation=one.empty))
                for one in inspect.signature(getattr(kind, name)).parameters.values()
            ]
            for kind in (native, Embedded)
        )
        assert ours == theirs
        assert getattr(native, name).__doc__ == getattr(Embedded, name).__doc__


def test_pipeline_methods_are_documented() -> None:
    for name, method in vars(cairnkv.Pipeline).items():
        assert name.startswith("_") or method.__doc__, name

"""Introspection of the package: `dir`, completion, `help`, docstrings and signatures."""

import inspect
import pydoc
import rlcompleter

import pytest

import cairnkv
from cairnkv.client.embedded import Embedded
from cairnkv.client.keyvalue import KeyValue


def test_dir_shows_everything_that_is_public() -> None:
    assert set(cairnkv.__all__) <= set(dir(cairnkv))
    for name in cairnkv.__all__:
        assert getattr(cairnkv, name) is not None


def test_star_import_gives_everything_that_is_public() -> None:
    names: dict[str, object] = {}
    exec("from cairnkv import *", names)
    assert set(cairnkv.__all__) <= names.keys()


def test_completion_finds_what_is_imported_later() -> None:
    completer = rlcompleter.Completer({"cairnkv": cairnkv})
    for beginning, whole in (("cairnkv.con", "cairnkv.connect("), ("cairnkv.Unav", "cairnkv.Unavailable(")):
        assert str(completer.complete(beginning, 0)).startswith(whole)


def test_help_of_the_package_explains_how_to_begin() -> None:
    page = pydoc.render_doc(cairnkv, renderer=pydoc.plaintext)
    for part in ("connect(", "open(", "class Client", "class Unavailable", "class OutcomeUnknown"):
        assert part in page


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cairnkv' has no attribute 'opne'"):
        _ = cairnkv.opne  # type: ignore[attr-defined]


@pytest.mark.parametrize("store", [cairnkv.open(), cairnkv.connect()], ids=["embedded", "sync"])
def test_every_public_method_has_docstring_and_signature(store: KeyValue[str, str]) -> None:
    for name in dir(store):
        if name.startswith("_") or not callable(method := getattr(type(store), name)):
            continue
        assert inspect.getdoc(method), name
        assert "(self" in str(inspect.signature(method)), name


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

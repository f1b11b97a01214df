"""Docstrings of classes and functions, which -OO drops, for errors and help texts that show them."""

import functools
import sys
from collections.abc import Callable
from typing import Any


def docstring(of: Callable[..., Any]) -> str:
    """Return the docstring of a class or function. Under -OO, which drops docstrings, read it from the source if
    available."""
    if of.__doc__ or sys.flags.optimize < 2:
        return of.__doc__ or ""
    return _docstrings(of.__module__).get(of.__qualname__, "")


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Read the docstrings of a module's classes and functions from its source."""
    import ast
    import inspect

    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:
        return {}
    documented = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef))
    return {node.name: ast.get_docstring(node, clean=False) or "" for node in documented}

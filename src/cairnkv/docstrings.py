"""Docstrings of classes, which -OO drops, for errors and help texts that show them."""

import functools
import sys


def docstring(of: type) -> str:
    """Return the docstring of a class. Under -OO, which drops docstrings, read it from the source if available."""
    if of.__doc__ or sys.flags.optimize < 2:
        return of.__doc__ or ""
    return _docstrings(of.__module__).get(of.__qualname__, "")


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Read the docstrings of a module's classes from its source."""
    import ast
    import inspect

    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:
        return {}
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return {node.name: ast.get_docstring(node, clean=False) or "" for node in classes}

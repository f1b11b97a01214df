"""The libraries bit, cjson, cmsgpack and struct, as scripts have them in redis-server. They are written in Lua."""

from importlib.resources import files
from typing import Final

SHARED: Final = "shared"
NAMES: Final = ("bit", "struct", "cjson", "cmsgpack")
"""In the order in which they are loaded: struct uses what bit adds to the shared part."""


def source(name: str) -> bytes:
    """Return the Lua source of a library, or of the part that they share.

    The shared chunk returns a table. The chunk of each library takes that table, and returns the library and, where the
    library has settings, a function that resets them. All read the real globals when they are loaded, `debug.getinfo`
    and `newproxy` too.
    """
    return (files(__package__) / f"{name}.lua").read_bytes()

"""Lua scripts, sans-IO: they know no store and no session."""

from cairnkv.scripts.abort import ScriptAbort

__all__ = ["ScriptAbort"]

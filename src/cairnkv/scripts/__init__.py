"""Lua scripts, sans-IO: they know no store and no session."""

from cairnkv.scripts.abort import ScriptAbort
from cairnkv.scripts.cache import ScriptCache
from cairnkv.scripts.interpreter import Host, Interpreter
from cairnkv.scripts.source import ScriptRefused, flags_of

__all__ = ["Host", "Interpreter", "ScriptAbort", "ScriptCache", "ScriptRefused", "flags_of"]

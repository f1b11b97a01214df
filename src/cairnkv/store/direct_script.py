"""The execution of a script on a store in memory that needs no commit and has no memory limit.

`LocalStore.execute_script` serves every store. Here no reply waits, no value is cold, and no write lacks memory, so a
command takes a few steps. `tests/session/resp/test_direct_scripts.py` compares both.

Invariants: the journal has all changes of the script; if the script raises an exception, the store undoes them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from cairnkv.commands import Reply, Step
from cairnkv.engine import Database
from cairnkv.limits import KEY_MAX, KIB
from cairnkv.store.script import WRITE_BYTES, ScriptWork

SHORT: Final = 64 * KIB
"""Maximum bytes of a value that `DirectScript` stores without the checks of the store."""


class DirectScript(ScriptWork):
    """The commands of one run: an `Execute`, with shorter paths for a few commands.

    The methods for commands take a database and a request. They return NotImplemented if they cannot execute it, and
    then they have changed nothing.
    """

    def __init__(self, databases: Sequence[Database], bytes_max: int, execute: Callable[[Step], Reply]) -> None:
        """execute: executes a command with all checks, and its changes go to the journal."""
        super().__init__(databases, bytes_max)
        self._limit = bytes_max
        self._execute = execute
        self.hits = self.misses = 0
        """The keys that short paths have found, and not found."""

    def __call__(self, step: Step) -> Reply:
        if failure := self.refusal(step):
            return failure
        reply = self._execute(step)
        self.count(reply)
        return reply

    def get(self, db: int, arguments: list[bytes]) -> Any:
        """Execute GET: return the value of a key, or None if it is absent."""
        _, key = arguments
        if self.bytes > self._limit or not 0 < len(key) <= KEY_MAX:
            return NotImplemented
        self.commands += 1
        value = self._databases[db].get(key)
        if value is None:
            self.misses += 1
        else:
            self.hits += 1
            self.bytes += len(value)
        return value

    def set(self, db: int, arguments: list[bytes]) -> Any:
        """Execute SET without options: return True."""
        _, key, value = arguments
        used = self.bytes + WRITE_BYTES + len(key) + len(value)
        database = self._databases[db]
        if used > self._limit or not 0 < len(key) <= KEY_MAX or len(value) > SHORT or database.is_crowded:
            return NotImplemented
        self.commands += 1
        self.bytes = used
        database.put(key, value, None)
        return True

    def delete(self, db: int, arguments: list[bytes]) -> Any:
        """Execute DEL: return the number of deleted keys."""
        _, key = arguments
        used = self.bytes + WRITE_BYTES + len(key)
        if used > self._limit or not 0 < len(key) <= KEY_MAX:
            return NotImplemented
        self.commands += 1
        self.bytes = used
        return int(self._databases[db].delete(key))

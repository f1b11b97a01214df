"""Scripts: programs that execute commands one after another, each depending on the replies to earlier ones.

A store executes a script as one entry: all its changes commit together, or none. It may run a script several times,
because a value is not in memory, or because another client has changed a key. It undoes a run before the next one.

Invariants: commands that a script has executed before an error of its own stay executed. If `Script.run` raises, the
store undoes the run. No other command executes during a run.

Out of scope: Lua (`cairnkv.scripts`), and the time that a run may take (`cairnkv.session.resp.scripting`).
"""

import abc
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from cairnkv.commands import Failure, Reply, Scope, Step, failures
from cairnkv.engine import Database, Shared, undo
from cairnkv.engine.database import Change, version_slot
from cairnkv.scripts import ScriptAbort
from cairnkv.store.admission import bytes_made
from cairnkv.store.lru import Place
from cairnkv.store.pending import size_of

RUN_ANEW: Final = Failure(failures.UNDONE, "the script was undone before it had ended; send it again")
"""The reply of a store that has undone a script without a fault of the script: execute the same object again. Compare
by identity."""

HELD: Final = Failure(failures.SCRIPTBUSY, "a script runs for too long; try again later")
"""The failure of commands while a store is held."""

WRITE_BYTES: Final = 512
"""Estimated bytes that a write takes until its script has ended, besides its arguments and the values that it makes."""

Execute: TypeAlias = Callable[[Step], Reply]
"""Executes a command on a database, as a part of a script, and returns its reply.

It may raise a `ScriptAbort`, which `Script.run` must not catch.
"""


class Script(abc.ABC):
    """A script, with the state of one call of it.

    places: keys that it names beforehand, with their databases. If a run needs a value that is not in memory, the store
    reads the values of these keys, too.
    state: notes of the store between two runs.
    """

    places: Sequence[Place] = ()
    state: object = None

    @abc.abstractmethod
    def run(self, execute: Execute) -> Reply:
        """Run the script from its beginning. Returns the reply, also if the script has failed after some writes."""


class NeedsValues(ScriptAbort):
    """A script needs values that are not in memory.

    places: their keys, with their databases.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        super().__init__()
        self.places = places


class RunJournal(list[Change]):
    """The journal of a run. It also keeps the version of each slot before its first change.

    No client has seen a version of the run when the run is undone before its end.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self._shared = shared
        self.versions: dict[int, int] = {}

    def append(self, change: Change) -> None:
        """Add a change that is about to happen."""
        super().append(change)
        for key in change.keys:
            slot = version_slot(change.database.number, key)
            self.versions.setdefault(slot, self._shared.versions[slot])

    def undo(self) -> None:
        """Undo all changes, also those of versions."""
        undo(self)
        self.restore_versions()

    def restore_versions(self) -> None:
        """Undo the changes of versions, when all others are undone."""
        for slot, version in self.versions.items():
            self._shared.versions[slot] = version


class ScriptWork:
    """The work of one run of a script, and its limit: the bytes of values that it reads and writes."""

    def __init__(self, databases: Sequence[Database], bytes_max: int | None) -> None:
        """bytes_max: None: no limit."""
        self._databases = databases
        self._bytes_max = bytes_max
        self.commands = 0
        """Executed commands."""
        self.bytes = 0
        """The bytes."""

    def refusal(self, step: Step) -> Failure | None:
        """Count a command before its execution; return a failure if a script must not execute it."""
        command = step.command
        if command.spec.scope is Scope.QUEUES:
            return Failure(failures.BADARGS, f"{command.spec.name} is a command on queues, which scripts cannot use")
        self.commands += 1
        if self._bytes_max is None:
            return None
        more = 0
        if command.spec.writes:
            more = WRITE_BYTES + sum(map(len, command.arguments())) + bytes_made(self._databases[step.db], command)
        if self.bytes + more > self._bytes_max:
            text = f"the script works on more than {self._bytes_max:,} bytes of values"
            return Failure(failures.BIGREPLY, text)
        self.bytes += more
        return None

    def count(self, reply: Reply) -> None:
        """Count a reply. The next command fails if the replies exceed the limit."""
        self.bytes += size_of(reply)

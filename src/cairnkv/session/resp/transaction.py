"""A client's transaction: its queued commands, their estimated work, and its watched keys.

Out of scope: the commands MULTI, EXEC and WATCH (`commands.transactions`).
"""

import dataclasses
from collections.abc import Iterable
from typing import Final

from cairnkv.engine import Watched
from cairnkv.limits import SCAN_COUNT_MAX, TRANSACTION_COST_MAX, WATCHED_MAX
from cairnkv.session.conversation import ARGUMENTS_PER_COST, KEYS_PER_COST, WHOLE_TABLE_COST
from cairnkv.session.resp.command_spec import Arguments, Call, Refusal, RespCommandSpec

ARGUMENT_BYTES: Final = 64
"""Estimated overhead of a queued argument in bytes."""

WATCHED_BYTES: Final = 256
"""Estimated overhead of a watched key in bytes."""

REPORT_COST: Final = 256
"""Work of a queued command that reports about the server, in commands of one key. COMMAND DOCS takes milliseconds."""


SCRIPT_COST: Final = 4
"""Work of a queued script, in commands of one key, without its loops, whose time is limited."""


@dataclasses.dataclass(slots=True)
class QueuedCommand:
    """A command that EXEC will execute. request: its name and arguments."""

    spec: RespCommandSpec
    request: list[bytes]


class Transaction:
    """The state of one client between MULTI or WATCH and EXEC."""

    def __init__(self, bytes_max: int) -> None:
        """bytes_max: maximum bytes of the queued commands."""
        self.queue: list[QueuedCommand] | None = None
        """The queued commands; None before MULTI."""
        self.queued_bytes = 0
        self.queued_cost = 0
        self.is_spoilt = False
        """Whether a command could not be queued, so that EXEC will fail."""
        self.watched: dict[tuple[int, bytes], Watched] = {}
        """The watched keys with their databases, each with its state when WATCH was executed."""
        self._kinds: set[str] = set()  # groups of the queued commands
        self._watched_bytes = 0
        self._bytes_max = bytes_max

    @property
    def kept(self) -> int:
        """Estimated bytes that the transaction keeps in memory."""
        return self.queued_bytes + self._watched_bytes

    def add(self, spec: RespCommandSpec, request: list[bytes]) -> None:
        """Queue a command. Raises `Refusal` if that is not possible, and then EXEC will fail."""
        assert self.queue is not None
        try:
            self._admit(spec, request)
        except Refusal:
            self.is_spoilt = True
            raise
        self.queue.append(QueuedCommand(spec, request))

    def _admit(self, spec: RespCommandSpec, request: list[bytes]) -> None:
        if "no-multi" in spec.flags:
            raise Refusal("ERR Command not allowed inside a transaction")
        self._kinds.add(spec.group)
        if {"queue", "scripting"} <= self._kinds:
            raise Refusal("ERR a transaction cannot have commands on queues and scripts")
        if spec.group == "queue" and spec.on_keys is not None:  # a transaction with queues is executed whole, or not
            call = spec.on_keys(Arguments(spec.name, request[1:]))
            if isinstance(call, Call) and call.command.waiting_time():
                raise Refusal(f"ERR {spec.name} cannot wait inside a transaction; leave the time to wait out")
        self.queued_bytes += sum(map(len, request)) + ARGUMENT_BYTES * len(request)
        self.queued_cost += _cost(spec, len(request))
        if self.queued_bytes > self._bytes_max:
            raise Refusal(f"ERR a transaction of more than {self._bytes_max} bytes")
        if self.queued_cost > TRANSACTION_COST_MAX:
            raise Refusal(f"ERR a transaction that is more work than {TRANSACTION_COST_MAX} commands of one key")

    def watch(self, db: int, keys: Iterable[bytes]) -> list[tuple[int, bytes]]:
        """Make room for keys to watch; return those that are not watched yet. Raises `Refusal` for too many keys."""
        places = [(db, key) for key in dict.fromkeys(keys) if (db, key) not in self.watched]
        if len(self.watched) + len(places) > WATCHED_MAX:
            raise Refusal(f"ERR more than {WATCHED_MAX} keys are watched")
        self._watched_bytes += sum(len(key) + WATCHED_BYTES for _, key in places)
        return places

    def unwatch(self) -> None:
        """Stop watching all keys."""
        self.watched = {}
        self._watched_bytes = 0


def _cost(spec: RespCommandSpec, arguments: int) -> int:
    """Return the estimated work of a command in commands of one key. arguments: their number, with the name."""
    if "scans" in spec.flags:
        cost = SCAN_COUNT_MAX // KEYS_PER_COST
    elif spec.numkeys:
        cost = SCRIPT_COST
    elif spec.on_keys is not None:
        cost = 1 if spec.keys[0] else WHOLE_TABLE_COST
    else:
        cost = 1 if "fast" in spec.flags else REPORT_COST
    return cost + arguments // ARGUMENTS_PER_COST

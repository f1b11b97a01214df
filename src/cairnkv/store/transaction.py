"""Several commands as one entry: their execution, and the effects of their changes."""

from collections.abc import Callable, Sequence

from cairnkv.commands import (
    Ack,
    Command,
    Extend,
    Failure,
    Items,
    Nack,
    Replies,
    Reply,
    Scope,
    Step,
    failures,
)
from cairnkv.engine import Database, Journal
from cairnkv.engine.database import Before
from cairnkv.storage import Effect
from cairnkv.storage.base import LARGE_VALUE_BYTES, Redated
from cairnkv.store.admission import bytes_made_together, length_after
from cairnkv.store.lru import Place
from cairnkv.store.pending import size_of


class TooMuch(Exception):
    """A transaction is more work than it may be."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(
            f"a transaction works on more than {bytes_max:,} bytes of values; send its commands in several transactions"
        )


class Unexecuted(Exception):
    """A transaction in which a command fails, or has a lease that is not the newest."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def is_whole(steps: Sequence[Step]) -> bool:
    """Return whether a command that fails undoes the whole transaction: it has commands on queues."""
    return any(step.command.spec.scope is Scope.QUEUES for step in steps)


def _failure_of(number: int, command: Command, reply: Reply) -> Failure | None:
    """Return the failure of a whole transaction because of the reply to one of its commands, or None."""
    name = f"command {number}, {command.spec.name}"
    if isinstance(reply, Failure):
        return Failure(reply.code, f"{name}: {reply.text}")
    stale = reply == 0 if isinstance(command, Nack) else isinstance(reply, Items) and b"0" in reply.values
    if isinstance(command, Ack | Nack | Extend) and stale:
        return Failure(failures.STALE, f"{name}: a lease is not the newest of its message")
    return None


def refusal_to_wait(steps: Sequence[Step]) -> Failure | None:
    """Return a failure if one of several commands would wait for messages."""
    for step in steps:
        if step.command.waiting_time():
            name = step.command.spec.name
            return Failure(
                failures.BADARGS, f"{name} with a time to wait cannot be part of several commands; let it not wait"
            )
    return None


def execute_steps(
    databases: Sequence[Database],
    steps: Sequence[Step],
    execute: Callable[[Step], Reply],
    bytes_max: int | None,
    *,
    whole: bool = False,
    value_max: int | None = None,
    size: Callable[[Step, Reply], int] = lambda _, reply: size_of(reply),
) -> Replies:
    """Execute commands in their order. Raises `TooMuch` if values and replies have more than `bytes_max` bytes.

    whole: whether to raise `Unexecuted` if a command fails, or has a lease that is not the newest.
    value_max: bytes of a value; `execute` refuses a longer one. size: bytes of a reply that count.
    """
    replies: list[Reply] = []
    worked = 0
    if bytes_max is not None and bytes_made_together(databases, steps, value_max) > bytes_max:
        raise TooMuch(bytes_max)  # before the work is done
    for number, step in enumerate(steps, 1):
        if bytes_max is not None:
            length = length_after(databases[step.db], step.command)
            worked += length if value_max is None or length <= value_max else 0
        if bytes_max is None or worked <= bytes_max:
            replies.append(execute(step))
            if whole and (failure := _failure_of(number, step.command, replies[-1])) is not None:
                raise Unexecuted(failure)
            worked += size(step, replies[-1])
        if bytes_max is not None and worked > bytes_max:
            raise TooMuch(bytes_max)
    return Replies(tuple(replies))


def effects_of(journal: Journal) -> list[Effect]:
    """Return the effects of a journal's changes. The deletion of all keys comes before the keys set after it."""
    cleared: dict[int, Effect] = {}
    keys: dict[Place, Effect] = {}
    for change in journal:
        database = change.database
        if isinstance(change, Before):
            place = database.number, change.key
            if place not in keys:
                value, expiry = database.entry(change.key) or (None, None)
                keys[place] = (*place, value, expiry)
                if value is not None and len(value) > LARGE_VALUE_BYTES and (change.entry or (None,))[0] is value:
                    keys[place] = Redated(*place, value, expiry)
        else:
            cleared[database.number] = (database.number, None, None, None)
    return [*cleared.values(), *keys.values()]

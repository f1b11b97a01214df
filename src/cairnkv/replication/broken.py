"""Faults on queues that a node injects on purpose, for tests of consistency checks: it executes other commands.

Invariants: a node without the variable CAIRNKV__BREAK does not use this module.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final, TypeAlias

from cairnkv.commands import Ack, Command, Extend, Items, Look, Nack, Peek, Reply, Take, TakeAny, Together
from cairnkv.commands.queue_vocabulary import LEASED, LOOK_STRINGS
from cairnkv.limits import TAKE_MAX
from cairnkv.records import replace

UNLOGGED_LEASES: Final = "unlogged-leases"
"""The log does not have the lease of a TAKE: it ends after a millisecond."""

UNCHECKED_TOKENS: Final = "unchecked-tokens"
"""ACK, NACK and EXTEND are executed with the newest lease of the message, not with the one that the client sent."""

LOCAL_EXPIRY: Final = "local-expiry"
"""Leases end by the clock of the node that gets a TAKE, and this clock is ahead by `AHEAD_MS`."""

QUEUE_BREAKS: Final = (UNLOGGED_LEASES, UNCHECKED_TOKENS, LOCAL_EXPIRY)

AHEAD_MS: Final = 4_000

Execute: TypeAlias = Callable[[Command], Reply]

_DUE, _LEASE = 4, 5  # of the strings of LOOK and PEEK


def with_unlogged_lease(command: Command) -> Command:
    """Return a TAKE whose lease ends at once; other commands as they are."""
    return replace(command, lease=1) if isinstance(command, Take | TakeAny) else command


def with_newest_tokens(command: Command, read: Execute) -> Command:
    """Return a command with the newest leases of its messages. read: executes LOOK."""

    def newest(message: int, lease: int) -> tuple[int, int]:
        found = read(Look(message))
        return message, (int(found.values[_LEASE] or b"") if isinstance(found, Items) else 0) or lease

    match command:
        case Ack(leases) | Extend(_, leases):
            return replace(command, leases=tuple(newest(*lease) for lease in leases))
        case Nack():
            return replace(command, lease=newest(command.message, command.lease)[1])
        case Together(commands):
            return Together(tuple(with_newest_tokens(one, read) for one in commands))
    return command


def ended_locally(command: Command, read: Execute, now: int) -> Iterator[Command]:
    """Yield the commands that end the leases that have ended by a clock that is ahead.

    command: only a TAKE ends leases, those of its queues. read: executes PEEK. now: the time of the right clock.
    """
    names = command.names if isinstance(command, TakeAny) else (command.queue,) if isinstance(command, Take) else ()
    for name in names:
        found = read(Peek(name, LEASED, 0, TAKE_MAX))
        strings = found.values[1:] if isinstance(found, Items) else ()
        for begin in range(0, len(strings), LOOK_STRINGS):
            message, due, lease = (int(strings[begin + at] or b"") for at in (0, _DUE, _LEASE))
            if due < now + AHEAD_MS:
                yield Extend(1, ((message, lease),))


def altered(
    command: Command, faults: Collection[str], read: Execute, execute: Callable[[Command], object], now: int
) -> Command:
    """Return the command that a broken node executes instead of a client's.

    faults: some of `QUEUE_BREAKS`. read, now: see above. execute: executes another command before it.
    """
    if LOCAL_EXPIRY in faults:
        for ending in tuple(ended_locally(command, read, now)):
            execute(ending)
    if UNLOGGED_LEASES in faults:
        command = with_unlogged_lease(command)
    if UNCHECKED_TOKENS in faults:
        command = with_newest_tokens(command, read)
    return command

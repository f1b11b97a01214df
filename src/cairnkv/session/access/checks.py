"""The decisions about the commands of both protocols: whether the rights of a client allow a command.

A client needs the rights to the command, to its keys and queues, and to its channels. The Redis protocol decodes
requests to commands of the registry, so one function decides about the keys of both protocols.

Invariants: a refused command has changed nothing. A refusal shows no value, no key and no queue.

Out of scope: the language of rules (`rights`), and the native path, which executes only allowed commands
(`rights_native`) and leaves all others to these functions.
"""

import enum
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cairnkv.commands import Access, Command, Failure, Together, failures
from cairnkv.engine import Database
from cairnkv.engine.queue import queues_of
from cairnkv.limits import PATTERN_MAX
from cairnkv.records import record
from cairnkv.session.resp.glob import literal_prefix

if TYPE_CHECKING:
    from cairnkv.session.access.rights import Rights


ALL_KEYS: Final = b"*"
"""The name in a denial of a command that needs all keys."""


class Reason(enum.Enum):
    """The right that is missing, in the words of ACL LOG."""

    COMMAND = "command"
    KEY = "key"
    CHANNEL = "channel"


@record
class Denial:
    """The reason why a client may not execute a command: the name of that command, or a key or a channel of it."""

    reason: Reason
    name: bytes

    def failure(self, user: bytes) -> Failure:
        """Return the failure of the command of a user, with the text of Redis."""
        match self.reason:
            case Reason.COMMAND:
                command = self.name.decode()
                shown = user.decode("utf-8", "surrogateescape")
                return Failure(failures.NOPERM, f"User {shown} has no permissions to run the '{command}' command")
            case Reason.KEY:
                return Failure(failures.NOPERM, "No permissions to access a key")
            case Reason.CHANNEL:
                return Failure(failures.NOPERM, "No permissions to access a channel")


def denial_of_names(rights: "Rights", names: Iterable[str]) -> Denial | None:
    """Return why a client may not execute a command that needs the rights to these commands of Redis, or None."""
    for name in names:
        if not rights.may_execute(name):
            return Denial(Reason.COMMAND, name.encode())
    return None


def denial_of_keys(rights: "Rights", command: Command, database: Database) -> Denial | None:
    """Return which key or queue of a command its client may not use, or None.

    database: one of the store, which knows the queues of messages.
    """
    if isinstance(command, Together):
        denials = (denial_of_keys(rights, part, database) for part in command.commands)
        return next((denial for denial in denials if denial is not None), None)
    for key, access in command.accesses():
        if not allows(rights, key, access):
            return Denial(Reason.KEY, key or ALL_KEYS)
    if (messages := command.message_ids()) and not allows(rights, b"", command.spec.access):
        queues = queues_of(database.shared)
        newest = queues.index.counters.id
        for number in messages:
            message = queues.message(number)
            # A deleted message stays deleted. A message that this node does not have yet may be in any queue.
            queue = message.queue if message is not None else b"" if number > newest else None
            if queue is not None and not allows(rights, queue, command.spec.access):
                return Denial(Reason.KEY, queue)
    return None


def denial_of(rights: "Rights", command: Command, database: Database) -> Denial | None:
    """Return why a client of the native protocol may not execute a command, or None. See `denial_of_keys`."""
    return denial_of_names(rights, command.redis_names()) or denial_of_keys(rights, command, database)


def denial_of_channels(rights: "Rights", channels: Iterable[bytes]) -> Denial | None:
    """Return which of these channels a client may not use, or None."""
    for channel in channels:
        if not rights.may_use_channel(channel):
            return Denial(Reason.CHANNEL, channel)
    return None


def denial_of_patterns(rights: "Rights", patterns: Iterable[bytes]) -> Denial | None:
    """Return which of these patterns matches a channel that the client may not use, or None."""
    for pattern in patterns:
        if not rights.may_use_channel(literal_prefix(pattern) if len(pattern) <= PATTERN_MAX else b""):
            return Denial(Reason.CHANNEL, pattern)
    return None


def allows(rights: "Rights", key: bytes, access: Access) -> bool:
    """Return whether a client has this access to a key, or to all keys with this prefix."""
    if not access:
        return rights.may_read(key) or rights.may_write(key)
    return (Access.READ not in access or rights.may_read(key)) and (Access.WRITE not in access or rights.may_write(key))

"""One run of a script for a client: the execution of the commands that the script calls.

Invariants: a command executes with the rights of the script's client, and in the database that the script has selected.
Commands of the connection, and commands that wait, are refused. No effect of a command leaves the run before its
commit.

Out of scope: the conversion of values to Lua (`cairnkv.scripts`), and the time that a run may take (`runner`).
"""

import logging
from collections.abc import Sequence
from typing import Final, Literal

from cairnkv.commands import Command, Failure, Replies, Reply, Step
from cairnkv.escapes import escaped
from cairnkv.limits import BYTES_PER_COST, CHANNEL_MAX, SCRIPT_MESSAGES_BYTES_MAX
from cairnkv.protocol.resp import OK, Error, Simple
from cairnkv.session.context import CLIENT_LOGGER
from cairnkv.session.conversation import UNFINISHED
from cairnkv.session.resp.command_spec import (
    RESP_COMMANDS,
    Arguments,
    Call,
    Refusal,
    RespCommandSpec,
    Value,
    error_of,
    wrong_number,
)
from cairnkv.session.resp.commands.scan import keys_at_once
from cairnkv.session.resp.conversation import RespConversation, failed
from cairnkv.session.resp.scripting.runner import ScriptTask
from cairnkv.session.resp.values import Job, Prepared, Several
from cairnkv.store import DirectScript, Execute

client_logger: Final = logging.getLogger(CLIENT_LOGGER)

LOG_LEVELS: Final = (logging.DEBUG, logging.DEBUG, logging.INFO, logging.WARNING)
"""The levels of the server for those of Redis."""

LOG_MAX: Final = 1_024
"""Maximum bytes of a line of a script in the log, as in Redis."""

MESSAGE_BYTES: Final = 128
"""Estimated bytes of a message besides its text and its channel."""

CALLS_PER_LOOK: Final = 32
"""Commands of a script between two looks at the clock: some tenths of a millisecond."""

UNKNOWN: Final = Error("ERR Unknown Redis command called from script")
WRONG_NUMBER: Final = Error("ERR Wrong number of args calling Redis command from script")
NOT_ALLOWED: Final = Error("ERR This Redis command is not allowed from script")
READ_ONLY: Final = Error("ERR Write commands are not allowed from read-only scripts.")


def _spec_of(arguments: Sequence[bytes]) -> RespCommandSpec | None:
    """Return the command with these arguments, or None for an unknown one."""
    spec = RESP_COMMANDS.get(arguments[0].upper())
    if spec is None or not spec.subcommands or len(arguments) == 1:
        return spec
    is_container = spec.on_keys is None and spec.in_conversation is None
    return spec.subcommands.get(arguments[1].upper(), None if is_container else spec)


class ScriptHost:
    """The commands of one run of a script, as the interpreter calls them."""

    __slots__ = (
        "_calls",
        "_conversation",
        "_db",
        "_direct",
        "_execute",
        "_is_limited",
        "_reads_only",
        "_runner",
        "_task",
        "protocol",
    )

    def __init__(
        self, conversation: RespConversation, task: ScriptTask, execute: Execute, db: int, *, reads_only: bool
    ) -> None:
        """execute: executes a command on keys. reads_only: whether commands that write are refused."""
        self._conversation = conversation
        self._runner = conversation.context.scripts
        self._task = task
        self._execute = execute
        self._db = db
        self._reads_only = reads_only
        self._is_limited = reads_only or not task.rights.unlimited
        self._calls = 0
        self._direct = execute if isinstance(execute, DirectScript) and not self._is_limited else None
        self.protocol: Literal[2, 3] = 2
        """The version of the Redis protocol whose values the script gets."""

    def tick(self, steps: int) -> None:
        """Give way to other clients, or pause, if it is time. steps: see `Host`."""
        self._runner.tick(self._task)

    def log(self, level: int, text: bytes) -> None:
        """Write a line to the server's logger. level: that of Redis, 0 (debug) to 3 (warning)."""
        shown = escaped(text[:LOG_MAX])
        client_logger.log(LOG_LEVELS[level], "%s: script: %s", self._conversation.peer.address, shown)

    def permits(self, arguments: list[bytes]) -> bool | None:
        """Return whether the client has the right to a command; None: there is no such command."""
        spec = _spec_of(arguments)
        if spec is None:
            return None
        return self._conversation.denial(spec, arguments, self._task.rights) is None

    def call(self, arguments: list[bytes]) -> Value:
        """Execute a command. Returns its value, or an `Error`."""
        self._calls += 1
        if self._calls % CALLS_PER_LOOK == 0:
            self._runner.tick(self._task)
        if self._direct is not None and (short := _SHORT.get(arguments[0])) is not None:
            method, count, writes = short
            if len(arguments) == count:
                if writes:
                    self._task.has_written = True
                found: Value = method(self._direct, self._db, arguments)
                if found is True:
                    return OK
                if found is not NotImplemented:
                    if type(found) is bytes and len(found) > BYTES_PER_COST:
                        self._runner.tick(self._task)
                    return found
        spec = _spec_of(arguments)
        if spec is None:
            return UNKNOWN
        if not spec.fits(len(arguments)):
            return WRONG_NUMBER
        if "noscript" in spec.flags:
            return NOT_ALLOWED
        if self._is_limited and (refused := self._refused(spec, arguments)) is not None:
            return refused
        try:
            if spec.on_keys is None or spec.name == "keys":
                return self._execute_other(spec, arguments)
            call = spec.on_keys(Arguments(spec.name, arguments[2 if "|" in spec.name else 1 :], self._db))
        except Refusal as refusal:
            return Error(str(refusal))
        except Exception as error:
            return failed(error, spec.name)
        if not spec.keys[0]:
            self._conversation.audit(spec)
        if isinstance(call, Call):
            command = call.command
            if command.spec.writes:
                self._task.has_written = True
            reply = self._execute(Step(self._db, command))
            errors = call.errors
        else:
            errors = None
            self._task.has_written |= "write" in spec.flags
            reply = Replies(tuple(map(self._execute, call.steps)))
        if isinstance(reply, Failure):
            return error_of(reply, errors)
        value = call.show(reply)
        if isinstance(value, bytes) and len(value) > BYTES_PER_COST:
            self._runner.tick(self._task)
        return value

    def _refused(self, spec: RespCommandSpec, arguments: Sequence[bytes]) -> Error | None:
        """Return the error if the script or its client may not execute a command."""
        conversation = self._conversation
        denial = conversation.denial(spec, arguments, self._task.rights)
        if denial is not None:
            reason = conversation.refused(denial, "lua").text
            return Error(f"NOPERM ACL failure in script: {reason}")
        if self._reads_only and ("write" in spec.flags or spec.name == "publish"):
            return READ_ONLY
        return None

    def _execute_other(self, spec: RespCommandSpec, arguments: Sequence[bytes]) -> Value:
        """Execute a command that acts on the conversation, or KEYS."""
        conversation = self._conversation
        given = Arguments(spec.name, arguments[2 if "|" in spec.name else 1 :], self._db)
        match spec.name:
            case "select":
                self._db = given.db_number()
                return OK
            case "ping":
                if len(given) > 1:
                    raise Refusal(wrong_number(spec.name))
                return given.take() if len(given) else Simple("PONG")
            case "publish":
                channel, message = given.take(), given.take()
                if len(channel) > CHANNEL_MAX:
                    return 0  # no client can subscribe to it
                self._task.message_bytes += len(channel) + len(message) + MESSAGE_BYTES
                if self._task.message_bytes > SCRIPT_MESSAGES_BYTES_MAX:
                    raise Refusal(f"ERR the script publishes more than {SCRIPT_MESSAGES_BYTES_MAX:,} bytes")
                self._task.messages.append((channel, message))
                receivers = conversation.context.pubsub.receivers(channel)
                conversation.costs(receivers + conversation.context.pubsub.patterns())
                return receivers
            case "keys":
                return self._keys(given.take())
        assert spec.in_conversation is not None
        value = spec.in_conversation(conversation, given)
        if isinstance(value, Job):
            value = value.finish()
        return NOT_ALLOWED if isinstance(value, Prepared | Several) else value

    def _keys(self, pattern: bytes) -> Value:
        def execute(command: Command) -> Reply:
            return self._execute(Step(self._db, command))

        value: Value = None
        for value in keys_at_once(pattern, execute, self._conversation.limits.frame):
            if value is UNFINISHED:
                self._runner.tick(self._task)
        return value


_SHORT: Final = {
    name: (method, count, writes)
    for text, method, count, writes in (
        (b"GET", DirectScript.get, 2, False),
        (b"SET", DirectScript.set, 3, True),
        (b"DEL", DirectScript.delete, 2, True),
    )
    for name in (text, text.lower())
}
"""Commands that scripts often call, by the usual forms of their names: the method for a number of arguments, and
whether it writes."""

"""The call of a script by EVAL or EVALSHA: its arguments, its source, and its value.

Invariants: the arguments are checked, with the texts of Redis, before the script begins.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cairnkv.commands import OK, Reply
from cairnkv.scripts import ScriptRefused, flags_of
from cairnkv.session.resp.command_spec import Arguments, Refusal, Value
from cairnkv.session.resp.scripting.host import ScriptHost
from cairnkv.session.resp.scripting.runner import Runner, ScriptTask
from cairnkv.session.resp.values import Prepared, bytes_of
from cairnkv.store import Execute

if TYPE_CHECKING:
    from cairnkv.session.resp.conversation import RespConversation

SHA_LENGTH: Final = 40
"""Hexadecimal digits of a SHA-1."""

NO_SCRIPT: Final = "NOSCRIPT No matching script. Please use EVAL."


@dataclasses.dataclass(slots=True)
class ScriptCall:
    """One call of a script.

    script: its source, or its SHA-1 in hexadecimal digits.
    reads_only: whether commands that write are refused.
    source: None until `find`.
    """

    script: bytes
    is_sha: bool
    keys: Sequence[bytes]
    arguments: Sequence[bytes]
    db: int
    reads_only: bool
    source: bytes | None = None

    @classmethod
    def of(cls, arguments: Arguments) -> "ScriptCall":
        """Return the call of a command. Raises `Refusal`."""
        script = arguments.take()
        is_sha = arguments.name.startswith("evalsha")
        if is_sha and len(script) != SHA_LENGTH:
            raise Refusal(NO_SCRIPT)
        count = arguments.integer()
        rest = arguments.rest()
        if count > len(rest):
            raise Refusal("ERR Number of keys can't be greater than number of args")
        if count < 0:
            raise Refusal("ERR Number of keys can't be negative")
        return cls(script, is_sha, rest[:count], rest[count:], arguments.db, arguments.name.endswith("_ro"))

    def find(self, runner: Runner) -> bytes:
        """Return the source. Raises `Refusal` if it is unknown or no valid script."""
        if self.source is None:
            if self.is_sha:
                self.source = runner.cache.get(self.script)
                if self.source is None:
                    _ = runner.interpreter  # without Lua, the error names the extra
                    raise Refusal(NO_SCRIPT)
            else:
                keep(runner, self.script)
                self.source = self.script
            if self.source.startswith(b"#!"):
                self._apply(flags_of(self.source) or frozenset())
        return self.source

    def _apply(self, flags: frozenset[str]) -> None:
        """Apply the flags of a script that declares some."""
        if "no-writes" in flags:
            self.reads_only = True
        elif self.reads_only:
            raise Refusal("ERR Can not execute a script with write flag using *_ro command.")


def keep(runner: Runner, source: bytes) -> bytes:
    """Keep a script for EVALSHA, and return its SHA-1. Raises `Refusal` if it is no valid script."""
    interpreter = runner.interpreter
    try:
        interpreter.compile(source)
    except ScriptRefused as refused:
        raise Refusal(str(refused)) from None
    return runner.cache.add(source)


def evaluated(conversation: "RespConversation", task: ScriptTask, call: ScriptCall, execute: Execute) -> Value:
    """Run a script. Returns its value, which may be an `Error`. Raises `Refusal` if the script is unknown."""
    runner = conversation.context.scripts
    source = call.find(runner)
    host = ScriptHost(conversation, task, execute, call.db, reads_only=call.reads_only)
    return runner.interpreter.run(source, call.keys, call.arguments, host)


class EvalTask(ScriptTask):
    """The script of one EVAL or EVALSHA."""

    def __init__(self, conversation: "RespConversation", call: ScriptCall) -> None:
        super().__init__(conversation)
        self._conversation = conversation
        self._call = call
        self._value: Value = None

    @property
    def kept(self) -> int:  # type: ignore[override]  # rarely read
        """Estimated bytes of its arguments."""
        return sum(map(len, self._call.keys)) + sum(map(len, self._call.arguments))

    @property
    def places(self) -> Sequence[tuple[int, bytes]]:  # type: ignore[override]  # rarely read
        """The keys that the call names, with their database."""
        return [(self._call.db, key) for key in self._call.keys]

    @classmethod
    def of_known(
        cls, conversation: "RespConversation", source: bytes, keys: list[bytes], arguments: list[bytes]
    ) -> "EvalTask":
        """Return the task of a script without flags whose source is known."""
        return cls(conversation, ScriptCall(source, False, keys, arguments, conversation.db, False, source))

    def execute(self, execute: Execute) -> Reply:
        self._value = evaluated(self._conversation, self, self._call, execute)
        return OK

    def show(self, reply: Reply) -> Value:
        return self._value

    def settle(self, reply: Reply) -> int:
        conversation = self._conversation
        pieces = bytes_of(self._value, conversation.protocol, conversation.limits.frame)
        self._value = Prepared(pieces)
        return sum(map(len, pieces))

"""What words of several modules share: HELP, made from what they declare, and the patterns that they are given."""

from collections.abc import Sequence
from typing import Final

from cairnkv.limits import PATTERN_MAX, PATTERNS_BYTES_MAX
from cairnkv.protocol.resp import Simple
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Arguments, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.glob import Matcher, matcher

PATTERN_BYTES_PER_COST: Final = 8
"""Bytes of a pattern that are as much work to make ready as a command of one key."""


def matchers(talk: RespConversation, patterns: Sequence[bytes]) -> list[Matcher]:
    """What tells whether strings match glob patterns, which are bounded for one command."""
    together = sum(map(len, patterns))
    talk.costs(together // PATTERN_BYTES_PER_COST)
    if any(len(pattern) > PATTERN_MAX for pattern in patterns):
        raise Refusal(f"ERR a pattern has at most {PATTERN_MAX} bytes here")
    if together > PATTERNS_BYTES_MAX:
        raise Refusal(f"ERR the patterns of a command have at most {PATTERNS_BYTES_MAX} bytes together here")
    return list(map(matcher, patterns))


def help_of(name: str, *, since: str) -> None:
    """Declare HELP for a word with others behind it, which all are declared already."""
    spec = RESP_COMMANDS[name.encode()]

    @in_conversation(f"{name} HELP", "loading", group=spec.group, since=since, summary="What can be said here.")
    def say_help(_talk: object, _arguments: Arguments) -> Value:
        lines = [f"{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
        for second, behind in sorted(spec.behind.items()):
            lines += (f"{second.decode()} {behind.syntax}".rstrip(), f"    {behind.summary}")
        return [Simple(line) for line in lines]

"""Functions of several modules: HELP, from declarations, and glob patterns in arguments."""

from collections.abc import Sequence
from typing import Final

from cairnkv.limits import PATTERN_MAX, PATTERNS_BYTES_MAX
from cairnkv.protocol.resp import Simple
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Arguments, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.glob import Matcher, matcher

PATTERN_BYTES_PER_COST: Final = 8
"""Bytes of a pattern whose preparation is as much work as a command of one key."""


def matchers(conversation: RespConversation, patterns: Sequence[bytes]) -> list[Matcher]:
    """Return functions that match glob patterns. The number of bytes in the patterns of one command is limited."""
    together = sum(map(len, patterns))
    conversation.costs(together // PATTERN_BYTES_PER_COST)
    if any(len(pattern) > PATTERN_MAX for pattern in patterns):
        raise Refusal(f"ERR a pattern has at most {PATTERN_MAX} bytes here")
    if together > PATTERNS_BYTES_MAX:
        raise Refusal(f"ERR the patterns of a command have at most {PATTERNS_BYTES_MAX} bytes together here")
    return list(map(matcher, patterns))


def help_of(name: str, *, since: str) -> None:
    """Declare HELP for a container, after its other subcommands."""
    in_conversation(f"{name} HELP", "loading", group=RESP_COMMANDS[name.encode()].group, since=since)(_help)


def _help(_conversation: object, arguments: Arguments) -> Value:
    """List the subcommands."""
    name = arguments.name.partition("|")[0].upper()
    lines = [f"{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    for second, subcommand in sorted(RESP_COMMANDS[name.encode()].subcommands.items()):
        lines += (f"{second.decode()} {subcommand.syntax}".rstrip(), f"    {subcommand.summary}")
    return [Simple(line) for line in lines]

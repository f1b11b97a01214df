"""COMMAND: information about commands, from their declarations."""

import functools
from collections.abc import Callable
from typing import Final

from cairnkv.protocol.resp import Resp, encode_parts
from cairnkv.session.access.categories import categories
from cairnkv.session.resp import command_docs as command_docs_module
from cairnkv.session.resp.command_spec import (
    REPEATED_MAX,
    RESP_COMMANDS,
    SYNTAX,
    Arguments,
    Refusal,
    RespCommandSpec,
    Value,
    every_spec,
    find_spec,
    in_conversation,
    repeated,
)
from cairnkv.session.resp.commands.help import help_of, matchers
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.values import Prepared

NAMES_MAX: Final = 512
"""Maximum number of commands in one request: some tens of milliseconds of work, and more than there are commands."""

COST_OF_NAME: Final = 4
"""The work for each name, in commands of one key."""

COST_OF_ALL: Final = 16
"""The work of a reply about all commands, which copies some hundred kilobytes."""


@in_conversation("COMMAND [unknown ...]", "loading", group="server", since="2.8.13")
def command(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the name, the arity and the key positions of every command."""
    if len(arguments):
        shown = repeated(arguments.take(), REPEATED_MAX)
        raise Refusal(f"ERR unknown subcommand '{shown}'. Try COMMAND HELP.")
    conversation.costs(COST_OF_ALL)
    return _prepared(_all_described, conversation.protocol)


def _all_described() -> Value:
    return [command_docs_module.described(spec) for spec in RESP_COMMANDS.values()]


def _all_documented() -> Value:
    return {spec.name.encode(): command_docs_module.documented(spec) for spec in RESP_COMMANDS.values()}


@functools.cache
def _prepared(value: Callable[[], Value], protocol: Resp) -> Prepared:
    """Return a reply that never changes. It is cached, because its encoding takes milliseconds."""
    return Prepared([b"".join(encode_parts(value(), protocol))])


@in_conversation("COMMAND COUNT", "loading", group="server", since="2.8.13")
def command_count(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the number of commands."""
    return len(RESP_COMMANDS)


@in_conversation("COMMAND INFO [command-name [command-name ...]]", "loading", group="server", since="2.8.13")
def command_info(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the details of COMMAND for these commands; null for an unknown command."""
    if not len(arguments):
        conversation.costs(COST_OF_ALL)
        return _prepared(_all_described, conversation.protocol)
    specs = _named(conversation, arguments)
    return [None if spec is None else command_docs_module.described(spec) for spec in specs]


@in_conversation("COMMAND DOCS [command-name [command-name ...]]", "loading", group="server", since="7.0.0")
def command_docs(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the summaries and the arguments of commands."""
    if not len(arguments):
        conversation.costs(COST_OF_ALL)
        return _prepared(_all_documented, conversation.protocol)
    conversation.costs(len(RESP_COMMANDS))
    specs = _named(conversation, arguments)
    return {spec.name.encode(): command_docs_module.documented(spec) for spec in specs if spec is not None}


def _named(conversation: RespConversation, arguments: Arguments) -> list[RespCommandSpec | None]:
    """Return the specs of the commands with these names."""
    conversation.costs(COST_OF_NAME * len(arguments))
    if len(arguments) > NAMES_MAX:
        raise Refusal(f"ERR more than {NAMES_MAX} names of commands at once")
    return list(map(find_spec, arguments.rest()))


@in_conversation(
    "COMMAND LIST [FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
    "loading",
    group="server",
    since="7.0.0",
)
def command_list(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the names of all commands, or of those in a category or matching a glob pattern."""
    conversation.costs(len(RESP_COMMANDS))
    specs = list(every_spec())
    if len(arguments):
        if arguments.keyword() != b"FILTERBY" or len(arguments) != 2:
            raise Refusal(SYNTAX)
        kind, text = arguments.keyword(), arguments.take().lower()
        match kind:
            case b"MODULE":
                specs = []
            case b"ACLCAT":
                category = text.decode("utf-8", "replace")
                specs = [spec for spec in specs if category in categories(spec)]
            case b"PATTERN":
                (matches,) = matchers(conversation, [text])
                specs = [spec for spec in specs if matches(spec.name.encode())]
            case _:
                raise Refusal(SYNTAX)
    return [spec.name.encode() for spec in specs]


@in_conversation("COMMAND GETKEYS command [arg ...]", "loading", group="server", since="2.8.13")
def command_getkeys(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the keys among the arguments of a command."""
    request = arguments.rest()
    spec = RESP_COMMANDS.get(request[0].upper())
    if spec is not None and len(request) > 1:
        spec = spec.subcommands.get(request[1].upper(), spec)
    if spec is None:
        raise Refusal("ERR Invalid command specified")
    if not spec.keys[0] and not spec.numkeys:
        raise Refusal("ERR The command has no key arguments")
    if not spec.fits(len(request)):
        raise Refusal("ERR Invalid number of arguments specified for command")
    return spec.keys_in(request)


help_of("COMMAND", since="5.0.0")

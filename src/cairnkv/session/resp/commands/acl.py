"""ACL: the users of the server and their rights.

A change is in force before its reply. It lasts until the server stops, or until ACL SAVE writes the users file.

Invariants: no reply and no error shows a password. Nodes of a cluster refuse changes: each node reads its own users
file, and a change of one node would make the nodes differ.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final

from cairnkv.limits import DEFAULT_USER
from cairnkv.protocol.resp import OK
from cairnkv.session.access.attempts import Entry
from cairnkv.session.access.categories import CATEGORIES, names_by_category
from cairnkv.session.access.checks import Reason
from cairnkv.session.access.rights import RuleError
from cairnkv.session.access.users import User, UsersRefused, check_name
from cairnkv.session.resp.command_spec import (
    REPEATED_MAX,
    RESP_COMMANDS,
    Arguments,
    Refusal,
    Value,
    container,
    in_conversation,
    integer,
    repeated,
    wrong_number,
)
from cairnkv.session.resp.commands.help import help_of
from cairnkv.session.resp.conversation import RespConversation

GENPASS_BITS: Final = 256
GENPASS_BITS_MAX: Final = 4096

NO_FILE: Final = (
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER "
    "command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store "
    "users in the Redis configuration."
)
NOT_LOADED: Final = "WARNING: ACL errors detected, no change to the previously active ACL rules was performed"
NOT_SAVED: Final = "ERR There was an error trying to save the ACLs. Please check the server logs for more information"
IN_CLUSTER: Final = (
    "ERR a node of a cluster does not change its users: change the users file of each node (`cairn user`), then send "
    "ACL LOAD or SIGHUP to each node"
)

container("ACL", group="server", since="6.0.0", summary="Inspect and change users and their rights.")


def _too_many(arguments: Arguments) -> Refusal:
    """Return the refusal of more arguments than a subcommand has, with the text of Redis."""
    subcommand = arguments.name.partition("|")[2].upper()
    return Refusal(f"ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try ACL HELP.")


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@in_conversation("ACL LIST", "admin noscript loading", group="server", since="6.0.0")
def acl_list(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the users, as lines of the users file."""
    users = conversation.context.users
    conversation.costs(len(users))
    return [_octets(user.line) for user in users]


@in_conversation("ACL USERS", "admin noscript loading", group="server", since="6.0.0")
def acl_users(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the names of the users."""
    users = conversation.context.users
    conversation.costs(len(users))
    return [user.name for user in users]


@in_conversation("ACL GETUSER username", "admin noscript loading", group="server", since="6.0.0")
def acl_getuser(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the state, the password hashes and the rights of a user; null for an unknown user."""
    user = conversation.context.users.get(arguments.take())
    if user is None:
        return None
    rights = user.rights
    return {
        b"flags": [flag.encode() for flag in user.flags],
        b"passwords": [_octets(secret.text.removeprefix("#")) for secret in user.secrets],
        b"commands": _octets(rights.all_command_rules),
        b"keys": _octets(rights.key_rules),
        b"channels": _octets(rights.channel_patterns),
        b"selectors": [],
    }


@in_conversation("ACL SETUSER username [rule [rule ...]]", "admin noscript loading", group="server", since="6.0.0")
def acl_setuser(conversation: RespConversation, arguments: Arguments) -> Value:
    """Make or change a user by rules: all of them, or none."""
    _check_changeable(conversation)
    users = conversation.context.users
    name = arguments.take()
    user = users.get(name)
    if user is None:
        try:
            check_name(name)
        except ValueError as error:
            raise Refusal(f"ERR {error}") from None
        user = User(name)
    if len(arguments) > RULES_MAX:
        raise Refusal(f"ERR more than {RULES_MAX} rules at once")
    rules = [rule.decode("utf-8", "surrogateescape") for rule in arguments.rest()]
    conversation.costs(COST_OF_RULE * len(rules))
    try:
        user = user.changed(rules)
    except RuleError as error:
        raise Refusal(f"ERR {error}") from None
    _change(lambda: users.set(user))
    return OK


RULES_MAX: Final = 1_024
"""Maximum number of rules in one ACL SETUSER: tens of milliseconds of work."""

COST_OF_RULE: Final = 32
"""The work of a rule, in commands of one key: it computes the names of all allowed commands."""


@in_conversation("ACL DELUSER username [username ...]", "admin noscript loading", group="server", since="6.0.0")
def acl_deluser(conversation: RespConversation, arguments: Arguments) -> Value:
    """Remove users. Returns the number of users that existed."""
    _check_changeable(conversation)
    names = arguments.rest()
    if DEFAULT_USER in names:
        raise Refusal("ERR The 'default' user cannot be removed")
    users = conversation.context.users
    removed = sum(users.get(name) is not None for name in set(names))
    _change(lambda: users.remove(names))
    return removed


def _check_changeable(conversation: RespConversation) -> None:
    if conversation.store.mode == "replicated":
        raise Refusal(IN_CLUSTER)


def _change(change: Callable[[], object]) -> None:
    try:
        change()
    except UsersRefused as refused:
        raise Refusal(f"ERR {refused}") from None


@in_conversation("ACL LOAD", "admin noscript loading", group="server", since="6.0.0")
def acl_load(conversation: RespConversation, arguments: Arguments) -> Value:
    """Read the users file again. If it has an error, nothing changes."""
    load = conversation.context.load_users
    if load is None:
        raise Refusal(NO_FILE)
    try:
        load()
    except UsersRefused as refused:
        raise Refusal(f"ERR {refused}. {NOT_LOADED}") from None
    return OK


@in_conversation("ACL SAVE", "admin noscript loading", group="server", since="6.0.0")
def acl_save(conversation: RespConversation, arguments: Arguments) -> Value:
    """Write the users to the users file."""
    save = conversation.context.save_users
    if save is None:
        raise Refusal(NO_FILE)
    try:
        save()
    except UsersRefused:
        raise Refusal(NOT_SAVED) from None
    return OK


@in_conversation("ACL CAT [category]", "noscript loading", group="server", since="6.0.0")
def acl_cat(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the categories of commands, or the commands of a category."""
    if not len(arguments):
        return [name.encode() for name in CATEGORIES]
    if len(arguments) > 1:
        raise _too_many(arguments)
    given = arguments.take()
    found = names_by_category().get(given.lower().decode("utf-8", "replace"))
    if found is None:
        raise Refusal(f"ERR Unknown category '{repeated(given, REPEATED_MAX)}'")
    return [name.encode() for name in sorted(found)]


@in_conversation("ACL DRYRUN username command [arg [arg ...]]", "admin noscript loading", group="server", since="7.0.0")
def acl_dryrun(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return OK if a user may execute a command, else the reason why not. It is not executed."""
    name = arguments.take()
    user = conversation.context.users.get(name)
    if user is None:
        raise Refusal(f"ERR User '{repeated(name, REPEATED_MAX)}' not found")
    request = arguments.rest()
    spec = RESP_COMMANDS.get(request[0].upper())
    if spec is not None and spec.subcommands and len(request) > 1:
        spec = spec.subcommands.get(request[1].upper(), spec if spec.in_conversation is not None else None)
    if spec is None:
        raise Refusal(f"ERR Command '{repeated(request[0], REPEATED_MAX)}' not found")
    if not spec.fits(len(request)):
        raise Refusal(wrong_number(spec.name))
    denial = conversation.denial(spec, request, user.rights)
    if denial is None:
        return OK
    verb = b"run" if denial.reason is Reason.COMMAND else b"access"
    kind = denial.reason.value.encode()
    return b"User %s has no permissions to %s the '%s' %s" % (name, verb, denial.name, kind)


@in_conversation("ACL GENPASS [bits]", "noscript loading", group="server", since="6.0.0")
def acl_genpass(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return a random password in hexadecimal, by default of 256 bits."""
    if len(arguments) > 1:
        raise _too_many(arguments)
    bits = integer(arguments.take()) if len(arguments) else GENPASS_BITS
    if not 1 <= bits <= GENPASS_BITS_MAX:
        raise Refusal(
            "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to "
            f"{GENPASS_BITS_MAX}"
        )
    random_bytes = conversation.context.random_bytes
    if random_bytes is None:
        raise Refusal("ERR there is no source of random bytes here")
    characters = (bits + 3) // 4
    return random_bytes((characters + 1) // 2).hex()[:characters].encode()


@in_conversation("ACL WHOAMI", "noscript loading", group="server", since="6.0.0")
def acl_whoami(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the name of the user as which the client is logged in."""
    user = conversation.login.user
    return None if user is None else user.name


@in_conversation("ACL LOG [count | RESET]", "admin noscript loading", group="server", since="6.0.0")
def acl_log(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the newest failed logins and refused commands, by default 10, or remove all. The log has 128 entries."""
    if len(arguments) > 1:
        raise _too_many(arguments)
    log = conversation.context.logins.log
    count = ENTRIES_SHOWN
    if len(arguments):
        given = arguments.take()
        if given.upper() == b"RESET":
            log.reset()
            return OK
        count = max(0, integer(given))
    conversation.costs(COST_OF_RULE)
    return [_entry(entry, log.clock()) for entry in islice(log, count)]


ENTRIES_SHOWN: Final = 10
"""Entries that ACL LOG returns without a count, as in Redis."""


def _entry(entry: Entry, now: int) -> Value:
    return {
        b"count": entry.count,
        b"reason": entry.reason.encode(),
        b"context": entry.context.encode(),
        b"object": entry.object,
        b"username": entry.user,
        b"age-seconds": b"%.3f" % (max(0, now - entry.updated) / 1000),
        b"client-info": _octets(entry.client),
        b"entry-id": entry.number,
        b"timestamp-created": entry.created,
        b"timestamp-last-updated": entry.updated,
    }


help_of("ACL", since="6.0.0")

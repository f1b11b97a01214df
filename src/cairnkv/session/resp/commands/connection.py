"""Commands on the connection: authentication, protocol version, database.

Out of scope: CLIENT (`clients`).
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from cairnkv.commands import Failure, Reply
from cairnkv.limits import CLIENT_NAME_MAX, DEFAULT_USER
from cairnkv.protocol.resp import OK, Resp, Simple
from cairnkv.session.conversation import Unfinished
from cairnkv.session.resp.command_spec import (
    SYNTAX,
    Arguments,
    Refusal,
    Value,
    error_of,
    in_conversation,
    repeated,
    wrong_number,
)
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.values import Job
from cairnkv.store import PendingReply
from cairnkv.version import REDIS_VERSION, VERSION

NAME: Final = re.compile(rb"[!-~]*")
"""A client's name: letters, digits and signs without blanks, so that programs can parse CLIENT LIST."""


class _LoggingIn(Job):
    """A login, and the steps after its success. Other clients do not wait for it."""

    def __init__(self, outcome: Reply | PendingReply, then: Callable[[], Value]) -> None:
        self._outcome = outcome
        self._then = then

    def step(self) -> Value:
        outcome = self._outcome
        if isinstance(outcome, PendingReply):
            if outcome.reply is None:
                return Unfinished(outcome)
            outcome = outcome.reply
        return error_of(outcome) if isinstance(outcome, Failure) else self._then()


@in_conversation("PING [message]", "fast subscribed allow-busy", group="connection", since="1.0.0")
def ping(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return PONG, or the message."""
    if len(arguments) > 1:
        raise Refusal(wrong_number(arguments.name))
    message = arguments.take() if len(arguments) else None
    if conversation.is_subscribed and conversation.protocol == 2:
        return [b"pong", message or b""]
    return Simple("PONG") if message is None else message


@in_conversation("ECHO message", "loading fast", group="connection", since="1.0.0")
def echo(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the message."""
    return arguments.take()


@in_conversation(
    "QUIT [argument ...]",
    "noscript loading fast no-auth in-multi subscribed allow-busy",
    group="connection",
    since="1.0.0",
)
def quit_(conversation: RespConversation, arguments: Arguments) -> Value:
    """Close the connection."""
    conversation.closing = True
    return OK


def _reads_locally(conversation: RespConversation, wanted: bool) -> Value:
    if conversation.store.mode != "replicated":
        raise Refusal("ERR This instance has cluster support disabled")
    conversation.reads_locally = wanted
    return OK


@in_conversation("READONLY", "noscript loading fast", group="cluster", since="3.0.0")
def readonly(conversation: RespConversation, arguments: Arguments) -> Value:
    """Allow local reads, which may miss the newest writes."""
    return _reads_locally(conversation, True)


@in_conversation("READWRITE", "noscript loading fast", group="cluster", since="3.0.0")
def readwrite(conversation: RespConversation, arguments: Arguments) -> Value:
    """Make reads linearizable again."""
    return _reads_locally(conversation, False)


@in_conversation(
    "RESET", "noscript loading fast no-auth in-multi subscribed allow-busy", group="connection", since="6.2.0"
)
def reset(conversation: RespConversation, arguments: Arguments) -> Value:
    """Reset the connection to its initial state."""
    conversation.reset()
    return Simple("RESET")


@in_conversation("SELECT index", "loading fast", group="connection", since="1.0.0")
def select(conversation: RespConversation, arguments: Arguments) -> Value:
    """Select a database, 0 to 15."""
    conversation.db = arguments.db_number()
    return OK


@in_conversation(
    "AUTH [username] password", "noscript loading fast no-auth no-multi allow-busy", group="connection", since="1.0.0"
)
def auth(conversation: RespConversation, arguments: Arguments) -> Value:
    """Log in as a user with a password or a token. Without a name: as the user default."""
    if len(arguments) > 2:
        raise Refusal(SYNTAX)
    if len(arguments) == 1 and not conversation.context.users.required:
        raise Refusal(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    user = arguments.take() if len(arguments) == 2 else DEFAULT_USER
    return _LoggingIn(conversation.login.log_in(user, arguments.take()), lambda: OK)


_PROTOCOLS: Final[dict[int, Resp]] = {2: 2, 3: 3}


@in_conversation(
    "HELLO [protover [AUTH username password] [SETNAME clientname]]",
    "noscript loading fast no-auth no-multi allow-busy",
    group="connection",
    since="6.0.0",
)
def hello(conversation: RespConversation, arguments: Arguments) -> Value:
    """Choose the protocol version, authenticate and set a name. Returns information about the server."""
    protocol = conversation.protocol
    if len(arguments):
        asked = arguments.integer("ERR Protocol version is not an integer or out of range")
        if asked not in _PROTOCOLS:
            raise Refusal("NOPROTO unsupported protocol version")
        protocol = _PROTOCOLS[asked]
    credentials: tuple[bytes, bytes] | None = None
    name: bytes | None = None
    while len(arguments):
        option = arguments.take()
        if option.upper() == b"AUTH" and len(arguments) >= 2:
            credentials = arguments.take(), arguments.take()
        elif option.upper() == b"SETNAME" and len(arguments) >= 1:
            name = client_name(arguments.take())
        else:
            raise Refusal(f"ERR Syntax error in HELLO option '{repeated(option)}'")
    greet = partial(_greet, conversation, protocol, name)
    if credentials is not None:
        return _LoggingIn(conversation.login.log_in(*credentials), greet)
    if not conversation.login.authenticated:
        raise Refusal(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
            "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the "
            "same time"
        )
    return greet()


def _greet(conversation: RespConversation, protocol: Resp, name: bytes | None) -> Value:
    if name is not None:
        conversation.name = name
    conversation.protocol = protocol
    return {
        b"server": b"redis",  # clients recognise the supported commands by it
        b"version": REDIS_VERSION.encode(),
        b"cairnkv_version": VERSION.encode(),
        b"proto": protocol,
        b"id": conversation.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def client_name(name: bytes) -> bytes:
    """Return a client's name. Raise `Refusal` if it is not valid."""
    if not NAME.fullmatch(name):
        raise Refusal("ERR Client names cannot contain spaces, newlines or special characters.")
    if len(name) > CLIENT_NAME_MAX:
        raise Refusal(f"ERR a client's name has at most {CLIENT_NAME_MAX} bytes here")
    return name

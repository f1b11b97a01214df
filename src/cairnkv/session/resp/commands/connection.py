"""The words on the connection: who speaks, how, with which keyspace, and whether it is still there.

What a client can say of itself and of other clients is in `clients`.
"""

import re
from typing import Final

from cairnkv.limits import CLIENT_NAME_MAX
from cairnkv.protocol.resp import OK, Resp, Simple
from cairnkv.session.context import DEFAULT_USER
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Refusal, Value, in_conversation, repeated, wrong_number
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.version import REDIS_VERSION, VERSION

NAME: Final = re.compile(rb"[!-~]*")
"""What a client may call itself: letters, digits and signs without blanks, so that CLIENT LIST can be read."""

WRONG_PASSWORD: Final = "WRONGPASS invalid username-password pair or user is disabled."


@in_conversation(
    "PING [message]", "fast subscribed", group="connection", since="1.0.0", summary="A sign of life, or the message."
)
def ping(talk: RespConversation, arguments: Arguments) -> Value:
    if len(arguments) > 1:
        raise Refusal(wrong_number(arguments.name))
    message = arguments.take() if len(arguments) else None
    if talk.is_subscribed and talk.protocol == 2:
        return [b"pong", message or b""]
    return Simple("PONG") if message is None else message


@in_conversation("ECHO message", "loading fast", group="connection", since="1.0.0", summary="The message.")
def echo(talk: RespConversation, arguments: Arguments) -> Value:
    return arguments.take()


@in_conversation(
    "QUIT [argument ...]",
    "noscript loading fast no-auth in-multi subscribed",
    group="connection",
    since="1.0.0",
    summary="End the conversation.",
)
def quit_(talk: RespConversation, arguments: Arguments) -> Value:
    talk.closing = True
    return OK


def _reads_locally(talk: RespConversation, wanted: bool) -> Value:
    if talk.store.mode != "replicated":
        raise Refusal("ERR This instance has cluster support disabled")
    talk.reads_locally = wanted
    return OK


@in_conversation(
    "READONLY",
    "loading fast",
    group="cluster",
    since="3.0.0",
    summary="Let reads show what this node has, which may be behind.",
)
def readonly(talk: RespConversation, arguments: Arguments) -> Value:
    return _reads_locally(talk, True)


@in_conversation(
    "READWRITE", "loading fast", group="cluster", since="3.0.0", summary="Let reads show the newest again."
)
def readwrite(talk: RespConversation, arguments: Arguments) -> Value:
    return _reads_locally(talk, False)


@in_conversation(
    "RESET",
    "noscript loading fast no-auth in-multi subscribed",
    group="connection",
    since="6.2.0",
    summary="Be as a conversation is that has just begun.",
)
def reset(talk: RespConversation, arguments: Arguments) -> Value:
    talk.reset()
    return Simple("RESET")


@in_conversation(
    "SELECT index",
    "loading fast",
    group="connection",
    since="1.0.0",
    summary="Speak of another of the keyspaces, 0 to 15.",
)
def select(talk: RespConversation, arguments: Arguments) -> Value:
    talk.db = arguments.db_number()
    return OK


@in_conversation(
    "AUTH [username] password",
    "noscript loading fast no-auth",
    group="connection",
    since="1.0.0",
    summary="Say the password; there is one user, named default.",
)
def auth(talk: RespConversation, arguments: Arguments) -> Value:
    if len(arguments) > 2:
        raise Refusal(SYNTAX)
    if len(arguments) == 1 and not talk.context.wants_password:
        raise Refusal(
            "ERR AUTH <password> called without any password configured for the default user. "
            "Are you sure your configuration is correct?"
        )
    user = arguments.take() if len(arguments) == 2 else DEFAULT_USER
    if not talk.context.accepts(user, arguments.take()):
        raise Refusal(WRONG_PASSWORD)
    talk.let_in()
    return OK


_PROTOCOLS: Final[dict[int, Resp]] = {2: 2, 3: 3}


@in_conversation(
    "HELLO [protover [AUTH username password] [SETNAME clientname]]",
    "noscript loading fast no-auth",
    group="connection",
    since="6.0.0",
    summary="Choose a version of the protocol, say the password and a name at once; who the server is.",
)
def hello(talk: RespConversation, arguments: Arguments) -> Value:
    protocol = talk.protocol
    if len(arguments):
        asked = arguments.integer("ERR Protocol version is not an integer or out of range")
        if asked not in _PROTOCOLS:
            raise Refusal("NOPROTO unsupported protocol version")
        protocol = _PROTOCOLS[asked]
    said: tuple[bytes, bytes] | None = None
    name: bytes | None = None
    while len(arguments):
        option = arguments.take()
        if option.upper() == b"AUTH" and len(arguments) >= 2:
            said = arguments.take(), arguments.take()
        elif option.upper() == b"SETNAME" and len(arguments) >= 1:
            name = client_name(arguments.take())
        else:
            raise Refusal(f"ERR Syntax error in HELLO option '{repeated(option)}'")
    if said is not None:
        if not talk.context.accepts(*said):
            raise Refusal(WRONG_PASSWORD)
        talk.let_in()
    if not talk.authenticated:
        raise Refusal(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
            "<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the "
            "same time"
        )
    if name is not None:
        talk.name = name
    talk.protocol = protocol
    return {
        b"server": b"redis",  # by which clients know what they may say
        b"version": REDIS_VERSION.encode(),
        b"cairnkv_version": VERSION.encode(),
        b"proto": protocol,
        b"id": talk.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def client_name(name: bytes) -> bytes:
    """The name that a client gives itself; an empty one takes it away."""
    if not NAME.fullmatch(name):
        raise Refusal("ERR Client names cannot contain spaces, newlines or special characters.")
    if len(name) > CLIENT_NAME_MAX:
        raise Refusal(f"ERR a client's name has at most {CLIENT_NAME_MAX} bytes here")
    return name

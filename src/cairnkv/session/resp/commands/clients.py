"""CLIENT: what the server knows of its clients on this wire, and what each may choose for itself.

Clients on the article's wire are not among them.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from cairnkv.limits import CLIENT_NAME_MAX
from cairnkv.protocol.resp import OK, Verbatim
from cairnkv.session.context import DEFAULT_USER
from cairnkv.session.conversation import UNFINISHED
from cairnkv.session.resp.command_spec import (
    SYNTAX,
    Arguments,
    Refusal,
    Value,
    container,
    in_conversation,
    integer,
    repeated,
)
from cairnkv.session.resp.commands.connection import NAME, client_name
from cairnkv.session.resp.commands.help import help_of
from cairnkv.session.resp.conversation import NOTHING, Job, RespConversation

LISTED_TOGETHER: Final = 500
"""Clients that CLIENT LIST looks at in one go: some milliseconds."""

container("CLIENT", group="connection", since="2.4.0", summary="What is known of clients, and what they choose.")


@in_conversation(
    "CLIENT ID",
    "noscript loading",
    group="connection",
    since="5.0.0",
    summary="The number that this client alone ever has.",
)
def client_id(talk: RespConversation, arguments: Arguments) -> Value:
    return talk.id


@in_conversation(
    "CLIENT GETNAME",
    "noscript loading",
    group="connection",
    since="2.6.9",
    summary="The name that this client has chosen.",
)
def client_getname(talk: RespConversation, arguments: Arguments) -> Value:
    return talk.name or None


@in_conversation(
    "CLIENT SETNAME connection-name",
    "noscript loading",
    group="connection",
    since="2.6.9",
    summary="Choose a name for this client; an empty one for none.",
)
def client_setname(talk: RespConversation, arguments: Arguments) -> Value:
    talk.name = client_name(arguments.take())
    return OK


@in_conversation(
    "CLIENT SETINFO <LIB-NAME libname | LIB-VER libver>",
    "noscript",
    group="connection",
    since="7.2.0",
    summary="Say with which library this client speaks, or which version of it.",
)
def client_setinfo(talk: RespConversation, arguments: Arguments) -> Value:
    option, value = arguments.take(), arguments.take()
    name, version = talk.library
    shown = repeated(option)
    if option.upper() not in (b"LIB-NAME", b"LIB-VER"):
        raise Refusal(f"ERR Unrecognized option '{shown}'")
    if not NAME.fullmatch(value):
        raise Refusal(f"ERR {shown} cannot contain spaces, newlines or special characters.")
    if len(value) > CLIENT_NAME_MAX:
        raise Refusal(f"ERR {shown} has at most {CLIENT_NAME_MAX} bytes here")
    talk.library = (value, version) if option.upper() == b"LIB-NAME" else (name, value)
    return OK


@in_conversation(
    "CLIENT NO-EVICT <ON | OFF>",
    "admin noscript loading",
    group="connection",
    since="7.0.0",
    summary="Set or clear the flag e in CLIENT LIST; it exempts the client from no limit.",
)
def client_no_evict(talk: RespConversation, arguments: Arguments) -> Value:
    talk.no_evict = _switch(arguments)
    return OK


@in_conversation(
    "CLIENT NO-TOUCH <ON | OFF>",
    "noscript",
    group="connection",
    since="7.2.0",
    summary="Let reads of this client not count as uses of the keys, or count again.",
)
def client_no_touch(talk: RespConversation, arguments: Arguments) -> Value:
    talk.no_touch = _switch(arguments)
    return OK


def _switch(arguments: Arguments) -> bool:
    word = arguments.keyword()
    if word not in (b"ON", b"OFF"):
        raise Refusal(SYNTAX)
    return word == b"ON"


@in_conversation(
    "CLIENT REPLY <ON | OFF | SKIP>",
    "noscript loading",
    group="connection",
    since="3.2.0",
    summary="Get replies, or none at all, or none to the next command.",
)
def client_reply(talk: RespConversation, arguments: Arguments) -> Value:
    match arguments.keyword():
        case b"ON":
            talk.muted = talk.skipped = False
            return OK
        case b"OFF":
            talk.muted = True
        case b"SKIP":
            talk.skip_next = not talk.muted
        case _:
            raise Refusal(SYNTAX)
    return NOTHING


# -- about clients -----------------------------------------------------------------------------------------

_TYPES: Final = {
    b"normal": "normal",
    b"pubsub": "pubsub",
    b"master": "master",
    b"replica": "replica",
    b"slave": "replica",
}


def _type_of(talk: RespConversation) -> str:
    return "pubsub" if talk.is_subscribed else "normal"


def _type(text: bytes) -> str:
    """A type of clients by its name; there are no masters and no replicas, but they may be asked for."""
    if text.lower() not in _TYPES:
        raise Refusal(f"ERR Unknown client type '{repeated(text)}'")
    return _TYPES[text.lower()]


def _flags(talk: RespConversation) -> str:
    flags = "P" * talk.is_subscribed + "x" * (talk.queue is not None) + "c" * talk.closing
    flags += "U" * talk.peer.is_local + "e" * talk.no_evict + "T" * talk.no_touch
    return flags or "N"


def _line(talk: RespConversation) -> bytes:
    """A client as CLIENT LIST shows it, with all fields of Redis, since clients rely on them.

    Those on buffers of a fixed size, which nobody has here, are 0.
    """
    peer = talk.peer
    name, version = talk.library
    queued = talk.queued_bytes if talk.queue is not None else 0
    pending, unsent = talk.pending, peer.unsent()
    # One expression, because it is fast: CLIENT LIST makes a line for each client.
    line = (
        f"id={talk.id} addr={peer.address} laddr={peer.local_address} fd={peer.descriptor} name={talk.name.decode()} "
        f"age={int(peer.age())} idle={int(peer.idle())} flags={_flags(talk)} db={talk.db} sub={len(talk.channels)} "
        f"psub={len(talk.patterns)} ssub=0 multi={-1 if talk.queue is None else len(talk.queue)} "
        f"qbuf={pending - queued} qbuf-free=0 argv-mem=0 multi-mem={queued} rbs=0 rbp=0 obl=0 oll=0 omem={unsent} "
        f"tot-mem={pending + unsent} events=r cmd={talk.last_command or 'NULL'} user={_USER} redir=-1 "
        f"resp={talk.protocol} lib-name={name.decode()} lib-ver={version.decode()}\n"
    )
    return line.encode("utf-8", "surrogateescape")


_USER: Final = DEFAULT_USER.decode()


class _Listing(Job):
    """The lines of many clients, some at a time; who has gone meanwhile has none."""

    def __init__(self, talk: RespConversation, clients: Iterable[RespConversation]) -> None:
        self._present = talk.context.clients
        self._room = talk.limits.frame
        self._clients = deque(clients)
        self._lines: list[bytes] = []

    def step(self) -> Value:
        for _ in range(min(LISTED_TOGETHER, len(self._clients))):
            client = self._clients.popleft()
            if client.id in self._present:
                self._lines.append(_line(client))
                self.kept += len(self._lines[-1])
        # What is longer than a reply may be is refused where it is made into bytes.
        return UNFINISHED if self._clients and self.kept <= self._room else Verbatim(b"".join(self._lines))


@in_conversation(
    "CLIENT INFO", "noscript loading", group="connection", since="6.2.0", summary="What is known of this client."
)
def client_info(talk: RespConversation, arguments: Arguments) -> Value:
    return Verbatim(_line(talk))


@in_conversation(
    "CLIENT LIST [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
    "admin noscript loading",
    group="connection",
    since="2.4.0",
    summary="What is known of the clients on this wire.",
)
def client_list(talk: RespConversation, arguments: Arguments) -> Value:
    clients = talk.context.clients
    talk.costs(len(clients))
    if not len(arguments):
        return _Listing(talk, clients.values())
    option = arguments.keyword()
    if option == b"TYPE" and len(arguments) == 1:
        kind = _type(arguments.take())
        return _Listing(talk, (client for client in clients.values() if _type_of(client) == kind))
    if option == b"ID" and len(arguments):
        ids = dict.fromkeys(integer(text, "ERR Invalid client ID") for text in arguments.rest())
        return _Listing(talk, (clients[number] for number in ids if number in clients))
    raise Refusal(SYNTAX)


@in_conversation(
    "CLIENT KILL <ip:port | [ID client-id] [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [USER username] [ADDR ip:port] "
    "[LADDR ip:port] [SKIPME <YES | NO>]>",
    "admin noscript",
    group="connection",
    since="2.4.0",
    summary="Close clients: one by its address, or all that fit.",
)
def client_kill(talk: RespConversation, arguments: Arguments) -> Value:
    if len(arguments) == 1:
        address = _text(arguments.take())
        if not _kill(talk, [client for client in talk.context.clients.values() if client.peer.address == address]):
            raise Refusal("ERR No such client")
        return OK
    wanted: list[Callable[[RespConversation], bool]] = []
    skip_me = True
    while len(arguments):
        option = arguments.keyword()
        if not len(arguments):
            raise Refusal(SYNTAX)
        value = arguments.take()
        if option == b"SKIPME":
            if value.upper() not in (b"YES", b"NO"):
                raise Refusal(SYNTAX)
            skip_me = value.upper() == b"YES"
        else:
            wanted.append(_filter(option, value))
    clients = talk.context.clients.values()
    talk.costs(len(clients))
    return _kill(
        talk,
        [client for client in clients if all(fits(client) for fits in wanted) and not (skip_me and client is talk)],
    )


def _filter(option: bytes, value: bytes) -> Callable[[RespConversation], bool]:
    text = _text(value)
    match option:
        case b"ID":
            number = integer(value, "ERR client-id should be greater than 0", least=1)
            return lambda client: client.id == number
        case b"TYPE":
            kind = _type(value)
            return lambda client: _type_of(client) == kind
        case b"USER":
            if value != DEFAULT_USER:
                raise Refusal(f"ERR No such user '{repeated(value)}'")
            return lambda client: client.authenticated
        case b"ADDR":
            return lambda client: client.peer.address == text
        case b"LADDR":
            return lambda client: client.peer.local_address == text
        case _:
            raise Refusal(SYNTAX)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _kill(talk: RespConversation, clients: list[RespConversation]) -> int:
    """Close clients, the one that speaks behind its reply; how many."""
    for client in clients:
        if client is talk:
            talk.closing = True
        else:
            client.end()  # nobody sees it any more, though its connection may take a moment
            client.peer.close(f"client {talk.id} has said so, {talk.peer.address}")
    return len(clients)


help_of("CLIENT", since="5.0.0")

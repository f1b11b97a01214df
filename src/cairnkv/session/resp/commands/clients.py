"""CLIENT: information about the clients of the Redis protocol, and their settings.

Out of scope: clients of the native protocol.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from cairnkv.limits import CLIENT_NAME_MAX
from cairnkv.protocol.resp import OK, Verbatim
from cairnkv.session.access.users import shown_name
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
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.values import NOTHING, Job

LISTED_TOGETHER: Final = 500
"""Clients in one slice of CLIENT LIST: some milliseconds of work."""

container("CLIENT", group="connection", since="2.4.0", summary="Inspect and manage clients.")


@in_conversation("CLIENT ID", "noscript loading", group="connection", since="5.0.0")
def client_id(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the unique number of this client."""
    return conversation.id


@in_conversation("CLIENT GETNAME", "noscript loading", group="connection", since="2.6.9")
def client_getname(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the name of this client."""
    return conversation.name or None


@in_conversation("CLIENT SETNAME connection-name", "noscript loading", group="connection", since="2.6.9")
def client_setname(conversation: RespConversation, arguments: Arguments) -> Value:
    """Set the name of this client. An empty name removes it."""
    conversation.name = client_name(arguments.take())
    return OK


@in_conversation("CLIENT SETINFO <LIB-NAME libname | LIB-VER libver>", "noscript", group="connection", since="7.2.0")
def client_setinfo(conversation: RespConversation, arguments: Arguments) -> Value:
    """Set the name or the version of this client's library."""
    option, value = arguments.take(), arguments.take()
    name, version = conversation.library
    shown = repeated(option)
    if option.upper() not in (b"LIB-NAME", b"LIB-VER"):
        raise Refusal(f"ERR Unrecognized option '{shown}'")
    if not NAME.fullmatch(value):
        raise Refusal(f"ERR {shown} cannot contain spaces, newlines or special characters.")
    if len(value) > CLIENT_NAME_MAX:
        raise Refusal(f"ERR {shown} has at most {CLIENT_NAME_MAX} bytes here")
    conversation.library = (value, version) if option.upper() == b"LIB-NAME" else (name, value)
    return OK


@in_conversation("CLIENT NO-EVICT <ON | OFF>", "admin noscript loading", group="connection", since="7.0.0")
def client_no_evict(conversation: RespConversation, arguments: Arguments) -> Value:
    """Set or clear the flag e in CLIENT LIST. It exempts the client from no limit."""
    conversation.no_evict = _switch(arguments)
    return OK


@in_conversation("CLIENT NO-TOUCH <ON | OFF>", "noscript", group="connection", since="7.2.0")
def client_no_touch(conversation: RespConversation, arguments: Arguments) -> Value:
    """Choose whether reads of this client count as uses of keys for eviction."""
    conversation.no_touch = _switch(arguments)
    return OK


def _switch(arguments: Arguments) -> bool:
    keyword = arguments.keyword()
    if keyword not in (b"ON", b"OFF"):
        raise Refusal(SYNTAX)
    return keyword == b"ON"


@in_conversation("CLIENT REPLY <ON | OFF | SKIP>", "noscript loading", group="connection", since="3.2.0")
def client_reply(conversation: RespConversation, arguments: Arguments) -> Value:
    """Turn replies on or off, or skip the next reply."""
    match arguments.keyword():
        case b"ON":
            conversation.muted = conversation.skipped = False
            return OK
        case b"OFF":
            conversation.muted = True
        case b"SKIP":
            conversation.skip_next = not conversation.muted
        case _:
            raise Refusal(SYNTAX)
    return NOTHING


# -- about clients -----------------------------------------------------------------------------------------

_TYPES: Final = frozenset({b"normal", b"pubsub", b"master", b"replica", b"slave"})


def _type_of(client: RespConversation) -> bytes:
    return b"pubsub" if client.is_subscribed else b"normal"


def _type(text: bytes) -> bytes:
    """Return the name of a type of clients. No client is a master or a replica, but these names are valid."""
    if text.lower() not in _TYPES:
        raise Refusal(f"ERR Unknown client type '{repeated(text)}'")
    return text.lower()


def _flags(client: RespConversation) -> str:
    flags = "P" * client.is_subscribed + "x" * (client.transaction.queue is not None) + "c" * client.closing
    flags += "U" * client.peer.is_local + "e" * client.no_evict + "T" * client.no_touch
    return flags or "N"


def _line(client: RespConversation) -> bytes:
    """Return the line of a client in CLIENT LIST, with all fields of Redis, because programs rely on them.

    The fields about buffers of a fixed size are 0, because there are no such buffers.
    """
    peer = client.peer
    name, version = client.library
    queued = client.transaction.queued_bytes
    pending, unsent = client.pending, peer.unsent
    user = "(superuser)" if client.login.user is None else shown_name(client.login.user.name)
    # One expression, because it is fast.
    line = (
        f"id={client.id} addr={peer.address} laddr={peer.local_address} fd={peer.descriptor} "
        f"name={client.name.decode()} age={int(peer.age())} idle={int(peer.idle())} flags={_flags(client)} "
        f"db={client.db} sub={len(client.channels)} psub={len(client.patterns)} ssub=0 "
        f"multi={-1 if client.transaction.queue is None else len(client.transaction.queue)} "
        f"qbuf={pending - queued} qbuf-free=0 argv-mem=0 multi-mem={queued} rbs=0 rbp=0 obl=0 oll=0 omem={unsent} "
        f"tot-mem={pending + unsent} events=r cmd={client.last_command or 'NULL'} user={user} redir=-1 "
        f"resp={client.protocol} lib-name={name.decode()} lib-ver={version.decode()}\n"
    )
    return line.encode("utf-8", "surrogateescape")


class _Listing(Job):
    """CLIENT LIST, slice by slice. A client that disconnects before its slice has no line."""

    def __init__(self, conversation: RespConversation, clients: Iterable[RespConversation]) -> None:
        self._present = conversation.context.clients
        self._room = conversation.limits.frame
        self._clients = deque(clients)
        self._lines: list[bytes] = []

    def step(self) -> Value:
        for _ in range(min(LISTED_TOGETHER, len(self._clients))):
            client = self._clients.popleft()
            if client.id in self._present:
                self._lines.append(_line(client))
                self.kept += len(self._lines[-1])
        # The encoder refuses a reply that is too long.
        return UNFINISHED if self._clients and self.kept <= self._room else Verbatim(b"".join(self._lines))


@in_conversation("CLIENT INFO", "noscript loading", group="connection", since="6.2.0")
def client_info(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return information about this client."""
    return Verbatim(_line(conversation))


@in_conversation(
    "CLIENT LIST [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [ID client-id [client-id ...]]",
    "admin noscript loading",
    group="connection",
    since="2.4.0",
)
def client_list(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return information about the clients of the Redis protocol."""
    clients = conversation.context.clients
    conversation.costs(len(clients))
    if not len(arguments):
        return _Listing(conversation, clients.values())
    option = arguments.keyword()
    if option == b"TYPE" and len(arguments) == 1:
        kind = _type(arguments.take())
        return _Listing(conversation, (client for client in clients.values() if _type_of(client) == kind))
    if option == b"ID" and len(arguments):
        ids = dict.fromkeys(integer(text, "ERR Invalid client ID") for text in arguments.rest())
        return _Listing(conversation, (clients[number] for number in ids if number in clients))
    raise Refusal(SYNTAX)


@in_conversation(
    "CLIENT KILL <ip:port | [ID client-id] [TYPE <NORMAL | MASTER | REPLICA | PUBSUB>] [USER username] [ADDR ip:port] "
    "[LADDR ip:port] [SKIPME <YES | NO>] [MAXAGE maxage]>",
    "admin noscript",
    group="connection",
    since="2.4.0",
)
def client_kill(conversation: RespConversation, arguments: Arguments) -> Value:
    """Close connections: one by its address, or all that match the filters."""
    if len(arguments) == 1:
        if not _kill(conversation, [_filter(conversation, b"ADDR", arguments.take())]):
            raise Refusal("ERR No such client")
        return OK
    wanted: list[_Filter] = []
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
            wanted.append(_filter(conversation, option, value))
    if skip_me:
        wanted.append(lambda client: client is not conversation)
    conversation.costs(len(conversation.context.clients))
    return _kill(conversation, wanted)


_Filter: TypeAlias = Callable[[RespConversation], bool]


def _filter(conversation: RespConversation, option: bytes, value: bytes) -> _Filter:
    text = value.decode("utf-8", "surrogateescape")
    match option:
        case b"ID":
            number = integer(value, "ERR client-id should be greater than 0", least=1)
            return lambda client: client.id == number
        case b"TYPE":
            kind = _type(value)
            return lambda client: _type_of(client) == kind
        case b"USER":
            if conversation.context.users.get(value) is None:
                raise Refusal(f"ERR No such user '{repeated(value)}'")
            return lambda client: client.login.user is not None and client.login.user.name == value
        case b"ADDR":
            return lambda client: client.peer.address == text
        case b"LADDR":
            return lambda client: client.peer.local_address == text
        case b"MAXAGE":
            seconds = integer(value, "ERR maxage is not an integer or out of range")
            if seconds <= 0:
                raise Refusal("ERR maxage should be greater than 0")
            return lambda client: int(client.peer.age()) >= seconds
        case _:
            raise Refusal(SYNTAX)


def _kill(conversation: RespConversation, wanted: list[_Filter]) -> int:
    """Close the connections of the clients that pass all filters, that of the caller after its reply. Return their
    number."""
    clients = [client for client in conversation.context.clients.values() if all(fits(client) for fits in wanted)]
    for client in clients:
        if client is conversation:
            conversation.closing = True
        else:
            client.end()  # its commands have no effect from now on, though its connection closes later
            client.peer.close(f"CLIENT KILL by client {conversation.id}, {conversation.peer.address}")
    return len(clients)


help_of("CLIENT", since="5.0.0")

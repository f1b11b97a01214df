"""The rights of a user hold for every command of both protocols.

The tests follow from the registries of commands, so a new command is in them. `tests/native` compares both paths.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from cairnkv.commands import (
    COMMANDS,
    Access,
    Command,
    CommandSpec,
    Get,
    Ping,
    PutMany,
    QueueStats,
    RandomKey,
    Scan,
    SetMany,
    Take,
    Together,
)
from cairnkv.commands.grammar import KeyKind, Kind, NumberKind, Place, Slot
from cairnkv.commands.queue_vocabulary import ID, LEASE, QUEUE, ChoiceKind, FrameKind
from cairnkv.commands.vocabulary import NAME, PREFIX
from cairnkv.protocol import Response
from cairnkv.protocol.resp import Error
from cairnkv.session.access.categories import names_for_everyone
from cairnkv.session.resp.command_spec import RESP_COMMANDS, RespCommandSpec
from cairnkv.store import LocalStore
from tests.session.native_client import NativeClient
from tests.session.resp.chat import Chat
from tests.support.clock import HandClock
from tests.support.rights import limit

FIRST_MESSAGE = 2
"""The id of the first message of `app:q`, whose number is 1."""


def filled_store() -> LocalStore:
    """Return a store with keys and messages below `app:` and `other:`. The first message of each queue is leased."""
    store = LocalStore(clock=HandClock())
    for prefix in (b"app:", b"other:"):
        store.execute(SetMany(0, tuple((prefix + b"%d" % number, b"1") for number in range(1, 4))))
        store.execute(PutMany(prefix + b"q", 0, 1, (b"m", b"n")))
        store.execute(Take(prefix + b"q", 1))
    return store


def content(store: LocalStore) -> object:
    """Return the keys with their values, and the counts of the queues."""
    found = store.execute(Scan(0, 1000, b""))
    return found, [store.execute(Get(key)) for key in keys_of(found)], stats(store)


def keys_of(found: Any) -> Iterable[bytes]:
    return sorted(found.values[1:])


def stats(store: LocalStore) -> object:
    return [store.execute(QueueStats(prefix + b"q")) for prefix in (b"app:", b"other:")]


# -- the native protocol -------------------------------------------------------------------------------------------


def value_of(kind: Kind) -> Any:
    """Return an argument of a command on the keys and queues below `app:`."""
    if isinstance(kind, KeyKind):
        return b"app:1"
    if isinstance(kind, FrameKind):
        return Get(b"app:1")
    if isinstance(kind, ChoiceKind):
        return kind.choices[0]
    if isinstance(kind, NumberKind):
        return {ID: FIRST_MESSAGE, LEASE: 1}.get(kind, max(kind.lowest, min(1, kind.highest)))
    return {QUEUE: b"app:q", PREFIX: b"app:", NAME: b"name"}.get(kind, b"1")


def argument_of(slot: Slot) -> Any:
    values = tuple(map(value_of, slot.kinds))
    if slot.place is Place.REST:
        return (values if len(values) > 1 else values[0],) * 2
    return values[0] if values else True


def samples(spec: CommandSpec) -> Iterator[Command]:
    """Return a command without options, and one with each option."""
    needed = {name: argument_of(slot) for name, slot in spec.fields if not slot.keyword}
    yield spec.command(**needed)
    for name, slot in spec.fields:
        if slot.keyword:
            yield spec.command(**needed, **{name: argument_of(slot)})


def parts(command: Command) -> tuple[Command, ...]:
    return command.commands if isinstance(command, Together) else (command,)


def access_of(command: Command) -> set[Access]:
    """Return every access to a key or queue that the command needs."""
    accesses = {access for part in parts(command) for _, access in part.accesses()}
    return accesses | {part.spec.access for part in parts(command) if part.message_ids()}


def is_on_all_keys(command: Command) -> bool:
    return any(prefix == b"" for part in parts(command) for prefix, _ in part.accesses())


def said(store: LocalStore, command: Command, *rules: str) -> Response:
    """Return the response to a user with these rules."""
    client = NativeClient(store=store, natively=True)
    client.send(Ping(b""))
    client.hear()
    limit(client, *rules)
    client.send(command)
    (response,) = client.hear()
    return response


def refuses(command: Command, *rules: str) -> bool:
    """Return whether the server refuses a command of a user. A refused command changes nothing."""
    store = filled_store()
    before = content(store)
    refused = said(store, command, *rules).payload.startswith(b"NOPERM ")
    assert not refused or content(store) == before
    return refused


SPECS = [pytest.param(command.spec, id=command.spec.name) for command in COMMANDS]


@pytest.mark.parametrize("spec", SPECS)
class TestNativeProtocol:
    def test_command_needs_the_rights_to_its_redis_commands(self, spec: CommandSpec) -> None:
        for command in samples(spec):
            for name in command.redis_names():
                is_refused = refuses(command, "+@all", f"-{name}", "~*", "&*")
                assert is_refused == (name not in names_for_everyone())

    def test_command_needs_the_right_to_its_keys(self, spec: CommandSpec) -> None:
        for command in samples(spec):
            assert refuses(command, "+@all", "~other:*") == bool(access_of(command))
            assert refuses(command, "+@all", "~app:*") == is_on_all_keys(command)

    def test_command_needs_the_rights_to_read_and_to_write(self, spec: CommandSpec) -> None:
        for command in samples(spec):
            for allowed, other in ((Access.READ, Access.WRITE), (Access.WRITE, Access.READ)):
                rule = "%R~*" if allowed is Access.READ else "%W~*"
                assert refuses(command, "+@all", rule) == any(other in access for access in access_of(command))

    def test_user_with_just_these_rights_gets_the_reply_of_an_administrator(self, spec: CommandSpec) -> None:
        for command in samples(spec):
            prefix = "" if is_on_all_keys(command) else "app:"
            letters = {Access.READ: f"%R~{prefix}*", Access.WRITE: f"%W~{prefix}*"}
            keys = {rule for access, rule in letters.items() if any(access in each for each in access_of(command))}
            names = [f"+{name}" for name in command.redis_names()]
            stores = filled_store(), filled_store()
            one = said(stores[0], command, "-@all", *names, *(keys or {f"%W~{prefix}*"}))
            other = said(stores[1], command, "allcommands", "allkeys", "allchannels")
            assert one == other or spec.command is RandomKey
            assert not one.payload.startswith(b"NOPERM")
            assert content(stores[0]) == content(stores[1])


# -- the Redis protocol --------------------------------------------------------------------------------------------

SAMPLES = {
    "key": b"app:1",
    "newkey": b"app:9",
    "source": b"app:1",
    "destination": b"app:9",
    "channel": b"news:1",
    "queue": b"app:q",
    "id": b"%d" % FIRST_MESSAGE,
    "pattern": b"app:*",
    "cursor": b"0",
    "state": b"dead",
}
"""Arguments by their names in the syntax. Any other argument is `1`."""

WHOLE_DATABASE = {"dbsize", "randomkey", "scan", "flushdb", "flushall", "queue.list"}

RESP_SPECS = [
    pytest.param(spec, id=spec.name)
    for top in RESP_COMMANDS.values()
    for spec in (*([top] if top.on_keys or top.in_conversation else []), *top.subcommands.values())
]


def request_of(spec: RespCommandSpec) -> list[bytes]:
    """Return a command with its required arguments, on keys and queues below `app:` and channels below `news:`."""
    depth, required = 0, ""
    for character in spec.syntax:
        depth += (character in "[<") - (character in "]>")
        required += character if depth == 0 and character not in "]>" else "x" if character == "<" else ""
    words = [SAMPLES.get(name, b"1") for name in required.split()]
    if spec.name == "psubscribe":
        words = [b"news:*"]
    request = [*spec.name.upper().encode().split(b"|"), *words]
    return request + [b"1"] * (abs(spec.arity) - len(request))


def reply_to(store: LocalStore, request: list[bytes], *rules: str) -> Any:
    """Return the first reply to a user with these rules; None if there is none."""
    chat = Chat(store=store)
    chat("PING")
    limit(chat, *rules)
    chat.send(*request)
    return next(iter(chat.hear()), None)


def denies(request: list[bytes], *rules: str) -> bool:
    """Return whether the server refuses a request of a user. A refused request changes nothing."""
    store = filled_store()
    before = content(store)
    reply = reply_to(store, request, *rules)
    is_refused = isinstance(reply, Error) and "NOPERM " in reply.text  # that of EXEC begins with EXECABORT
    assert not is_refused or content(store) == before
    return is_refused


def uses_keys(spec: RespCommandSpec) -> bool:
    return bool(spec.keys[0]) or spec.group == "queue" or spec.name in {*WHOLE_DATABASE, "keys"}


@pytest.mark.parametrize("spec", RESP_SPECS)
class TestRedisProtocol:
    def test_command_needs_the_right_to_execute_it(self, spec: RespCommandSpec) -> None:
        is_refused = denies(request_of(spec), "+@all", f"-{spec.name}", "~*", "&*")
        assert is_refused == (spec.name not in names_for_everyone())

    def test_command_needs_the_right_to_its_keys(self, spec: RespCommandSpec) -> None:
        request = request_of(spec)
        assert denies(request, "+@all", "~other:*", "&*") == uses_keys(spec)
        assert denies(request, "+@all", "~app:*", "&*") == (spec.name in WHOLE_DATABASE)
        assert not denies(request, "+@all", "~*", "&*")

    def test_command_needs_the_right_to_its_channels(self, spec: RespCommandSpec) -> None:
        request = request_of(spec)
        assert denies(request, "+@all", "~*", "&other:*") == (spec.name in {"subscribe", "psubscribe", "publish"})
        assert not denies(request, "+@all", "~*", "&news:*")

    def test_user_with_just_these_rights_gets_the_reply_of_an_administrator(self, spec: RespCommandSpec) -> None:
        if spec.on_keys is None or spec.name == "randomkey":
            return
        stores = filled_store(), filled_store()
        keys = "~*" if spec.name in WHOLE_DATABASE else "~app:*"
        one = reply_to(stores[0], request_of(spec), "-@all", f"+{spec.name}", keys)
        other = reply_to(stores[1], request_of(spec), "allcommands", "allkeys", "allchannels")
        assert one == other
        assert content(stores[0]) == content(stores[1])

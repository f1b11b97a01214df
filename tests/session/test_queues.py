"""Commands on queues over the native protocol."""

import pytest

from cairnkv.commands import (
    Ack,
    Command,
    Get,
    Items,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    Reply,
    Set,
    Take,
    Together,
)
from cairnkv.limits import TAKE_MAX
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag, Width, reply_in
from cairnkv.session.conversation import cost_of
from tests.session.native_client import NativeClient
from tests.support.clock import HandClock


def replies(client: NativeClient, *commands: Command) -> list[Reply]:
    client.send_all(*commands)
    return [reply_in(response, command.spec) for command, response in zip(commands, client.hear(), strict=True)]


@pytest.mark.parametrize("width", [2, 4])
def test_messages_are_put_taken_and_acknowledged(width: Width) -> None:
    client = NativeClient(width=width)
    commands = (
        Put(b"q", b"one", delay=0, group=b"g"),
        Put(b"q", b"two", unique=b"n"),
        Put(b"q", b"two", unique=b"n"),
        Take(b"q", 5),
        Ack(((2, 1), (3, 9))),
        Nack(3, 2, dead=True, reason=b"bad"),
        Look(2),
    )
    client.send_all(*(write_command(command, width=width) for command in commands))
    said = [reply_in(response, command.spec) for command, response in zip(commands, client.hear(), strict=True)]
    now = b"%d" % HandClock().now
    assert said[:6] == [
        Items((b"2", b"1")),
        Items((b"3", b"1")),
        Items((b"3", b"0")),
        Items((b"3", b"1", b"1", b"60000", now, b"", b"two", b"2", b"2", b"1", b"60000", now, b"g", b"one")),
        Items((b"0", b"0")),
        0,
    ]
    assert isinstance(said[6], Items)


def test_commands_are_executed_together() -> None:
    client = NativeClient()
    _, _, together, got = replies(
        client, Put(b"q", b"one"), Take(b"q", 1), Together((Ack(((2, 1),)), Set(b"k", b"v"), Get(b"k"))), Get(b"k")
    )
    assert together == Items((b"\0\0\0\x011", b"OK", b"v"))
    assert got == b"v"


def test_a_stale_lease_is_a_failure() -> None:
    client = NativeClient()
    client.send(Put(b"q", b"one"), Take(b"q", 1), Together((Set(b"k", b"v"), Ack(((2, 7),)))), Get(b"k"))
    assert client.payloads()[2:] == [
        b"STALE command 2, ACK: a lease is not the newest of its message",
        b"Key not found",
    ]


def test_replies_with_new_leases_wait_for_their_commit_with_any_flags() -> None:
    client = NativeClient(late=True)
    client.send(Put(b"q", b"one"))
    client.storage.commit()
    assert len(client.hear()) == 1
    client.send(write_command(Take(b"q", 1), flags=CommandFlag.MEMORY_IS_ENOUGH))
    assert client.hear() == []
    client.storage.commit()
    assert len(client.hear()) == 1


def test_the_cost_of_a_command_is_that_of_its_messages() -> None:
    one = cost_of(Take(b"q", 1), Items((b"",) * 7), 0)
    assert one == 1
    assert cost_of(Take(b"q", 1_000), Items((b"",) * 7_000), 0) > 100 * one
    assert cost_of(Take(b"q", 1_000), Items(()), 0) == one
    assert cost_of(PutMany(b"q", 0, 0, (b"",) * 1_000), Items((b"2", b"1000")), 0) > 100 * one
    assert cost_of(Ack(((1, 1),) * 1_000), Items((b"0",) * 1_000), 0) > 100 * one
    assert cost_of(Purge(b"q", b"all", 0), Items((b"0", b"0")), 0) >= TAKE_MAX // 2
    assert cost_of(Together((Get(b"k"),) * 1_000), Items(()), 0) > 100 * one
    assert cost_of(Peek(b"q", b"ready", 0, 1_000), Items((b"",) * 13_001), 0) > 100 * one

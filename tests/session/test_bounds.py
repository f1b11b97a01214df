"""Bounds of one session: commands of a turn, pending replies, unsent bytes and buffered input."""

import pytest

from cairnkv.commands import Append, Command, Copy, Get, GetMany, Ping, Set, SetBit, SetRange
from cairnkv.limits import BYTES_PER_COST, COMMANDS_PER_SLICE, PENDING_REPLIES_MAX, UNSENT_PAUSE
from cairnkv.protocol import Response, write_command, write_response
from cairnkv.session import Session, State
from cairnkv.session.conversation import ARGUMENTS_PER_COST
from cairnkv.store import LocalStore
from tests.session.native_client import NativeClient
from tests.support.late_storage import LateStorage

RESPONSE_HEAD = 6


class TestTurns:
    def test_end_after_a_number_of_commands(self) -> None:
        client = NativeClient()
        client.send(*[Ping(b"%d" % number) for number in range(COMMANDS_PER_SLICE + 1)])
        assert len(client.take()) == COMMANDS_PER_SLICE
        assert client.session.runnable
        client.session.advance()
        assert [response.payload for response in client.take()] == [b"%d" % COMMANDS_PER_SLICE]
        assert not client.session.runnable

    def test_count_malformed_commands_too(self) -> None:
        client = NativeClient()
        client.send(*[Ping(b"first")], *[Get(b"")] * (2 * COMMANDS_PER_SLICE))
        assert len(client.take()) == COMMANDS_PER_SLICE

    @pytest.mark.parametrize(
        "command",
        [Append(b"k", b"x"), SetRange(b"k", 0, b"x"), SetBit(b"k", 9, 1), Copy(b"k", b"l", replace=True), Get(b"k")],
        ids=lambda command: type(command).__name__,
    )
    def test_count_copied_bytes(self, command: Command) -> None:
        """As on the Redis protocol: a few bytes could block all other clients otherwise."""
        client = NativeClient()
        client.send(SetRange(b"k", 10 * BYTES_PER_COST, b"x"))
        client.hear()
        client.send(*[command] * 100)
        said = len(client.take())
        assert said <= -(-COMMANDS_PER_SLICE // 10)
        assert len(client.hear()) == 100 - said

    def test_count_keys(self) -> None:
        client = NativeClient()
        keys = ARGUMENTS_PER_COST * COMMANDS_PER_SLICE // 2
        client.send(Ping(b"first"), *[GetMany((b"none",) * keys)] * 10)
        assert len(client.take()) == 3

    def test_keep_bytes_that_arrive_between_them_in_order(self) -> None:
        client = NativeClient()
        client.send(*[Ping(b"%d" % number) for number in range(COMMANDS_PER_SLICE + 5)])
        client.session.receive(b"\0\0\3\0\0\0\4last")
        assert client.payloads() == [b"%d" % number for number in range(COMMANDS_PER_SLICE + 5)] + [b"last"]

    def test_count_pieces_that_arrive_between_them_as_buffered(self) -> None:
        commands = [Ping(b"%d" % number) for number in range(3 * COMMANDS_PER_SLICE)]
        sent = b"".join(map(write_command, commands))
        client = NativeClient()
        client.session.paused = True
        for at in range(0, len(sent), 7):
            client.session.receive(sent[at : at + 7])
            client.session.advance()
        client.session.receive(sent[:5])
        assert client.session.buffered == len(sent) + 5
        client.session.paused = False
        client.session.drain()
        assert client.payloads() == [command.text for command in commands]
        assert client.session.state is State.DONE


class TestReplies:
    def test_unsent_replies_are_bounded(self) -> None:
        value = b"v" * (UNSENT_PAUSE // 4 - RESPONSE_HEAD)
        client = NativeClient()
        client.send(Set(b"k", value))
        client.take()
        client.send(*[Get(b"k")] * 3)
        assert not client.session.blocked, "three quarters"
        client.send(*[Get(b"k")] * 3)
        assert client.session.blocked, "and a whole"
        assert not client.session.runnable
        assert len(client.take()) == 4
        assert not client.session.blocked
        assert client.session.runnable
        assert [response.payload for response in client.hear()] == [value] * 2

    def test_one_byte_less_than_the_bound_does_not_block(self) -> None:
        for length, blocked in ((UNSENT_PAUSE - RESPONSE_HEAD - 1, False), (UNSENT_PAUSE - RESPONSE_HEAD, True)):
            client = NativeClient()
            client.send(Ping(b"p" * length))
            assert client.session.blocked == blocked

    def test_session_executes_nothing_while_replies_are_not_taken(self) -> None:
        client = NativeClient()
        client.session.paused = True
        client.send(Set(b"k", b"v"), Ping(b""))
        assert client.take() == []
        assert client.store.databases[0].count() == 0
        assert client.session.blocked
        assert not client.session.runnable
        assert not client.session.unfinished, "it is our delay, not the client's"
        client.session.paused = False
        assert client.session.runnable
        assert client.payloads() == [b"OK", b"PONG"]

    def test_output_is_bounded_by_the_pause_and_one_reply(self) -> None:
        client = NativeClient()
        value = b"v" * 300_000
        client.send(Set(b"k", value))
        client.take()
        for _ in range(20):
            client.send(*[Get(b"k")] * 20)
        assert sum(map(len, client.session.output())) < UNSENT_PAUSE + len(value) + RESPONSE_HEAD


class TestPendingReplies:
    def test_number_is_bounded(self) -> None:
        client = NativeClient(late=True)
        for number in range(0, PENDING_REPLIES_MAX - 1, 91):
            client.send_all(*[Set(b"k", b"%d" % n) for n in range(number, number + 91)])
        assert len(client.storage.pending) == PENDING_REPLIES_MAX - 1
        assert not client.session.blocked
        client.send(Set(b"k", b"one more"), Set(b"k", b"too many"), Ping(b""))
        assert len(client.storage.pending) == PENDING_REPLIES_MAX
        assert client.session.blocked
        assert not client.session.runnable
        client.storage.commit(1)
        assert client.payloads() == [b"OK"]
        assert len(client.storage.pending) == PENDING_REPLIES_MAX, "there was room for one"
        client.storage.commit()
        assert client.payloads() == [b"OK"] * PENDING_REPLIES_MAX + [b"PONG"]

    def test_count_also_behind_another(self) -> None:
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v"))
        client.send_all(*[Ping(b"")] * (2 * PENDING_REPLIES_MAX))
        assert client.session.blocked
        client.storage.commit()
        assert client.payloads() == [b"OK"] + [b"PONG"] * (2 * PENDING_REPLIES_MAX)

    @pytest.mark.parametrize("size", [UNSENT_PAUSE // 3, UNSENT_PAUSE, 2 * UNSENT_PAUSE])
    def test_released_together_leave_in_bounded_steps(self, size: int) -> None:
        """No more than the bound at a time, without further input."""
        client = NativeClient(late=True)
        value = b"v" * size
        client.send(Set(b"k", value), *[Get(b"k")] * 9)
        assert client.take() == []
        client.storage.commit()
        client.session.advance()
        assert sum(map(len, client.session.output())) < UNSENT_PAUSE + size + RESPONSE_HEAD
        assert client.session.runnable, "there is more to be sent"
        rest = client.payloads()
        assert rest[-1] == value
        assert not client.session.waiting

    def test_full_queue_of_ready_replies_empties(self) -> None:
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v" * 1_000))
        for _ in range(20):
            client.send_all(*[Get(b"k")] * 300)
        assert client.session.blocked
        client.storage.commit()
        assert len(client.hear()) == 6_001

    def test_are_kept_while_the_client_takes_nothing(self) -> None:
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v"))
        client.session.paused = True
        client.storage.commit()
        assert client.hear() == []
        assert client.session.waiting
        client.session.paused = False
        assert client.payloads() == [b"OK"]

    def test_of_a_closed_session_leave_the_store(self) -> None:
        """Its replies are dropped, and commits continue for other sessions."""
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v"))
        client.session.paused = True
        client.storage.commit()
        other = NativeClient(store=client.store)
        other.send(Get(b"k"))
        assert other.payloads() == [b"v"]


def test_buffered_bytes_are_those_not_executed() -> None:
    client = NativeClient()
    client.send(b"\0\0\3\0\0\0\5part")
    assert client.session.buffered == 11
    assert client.session.unfinished
    consumed = client.session.consumed
    client.send(b"y")
    assert client.session.buffered == 0
    assert not client.session.unfinished
    assert client.session.consumed == consumed + 12
    assert client.payloads() == [b"party"]
    assert client.session.state is State.OPEN


def test_bytes_of_pending_replies_are_bounded() -> None:
    """Long values that are overwritten while they wait are kept by nothing but their replies."""
    storage = LateStorage()
    session = Session(LocalStore(storage=storage), wake=lambda: None)
    value = bytes(UNSENT_PAUSE // 4)
    both = Set(b"k", value), Get(b"k")
    session.receive(b"".join(write_command(command) for _ in range(50) for command in both))
    session.advance()
    while session.runnable:
        session.advance()
    assert session.blocked
    assert len(storage.pending) <= 5
    said = b"".join(session.output())
    while storage.pending or session.runnable:
        storage.commit()
        session.advance()
        said += b"".join(session.output())
    assert said == (write_response(Response(True, b"OK")) + write_response(Response(True, value))) * 50

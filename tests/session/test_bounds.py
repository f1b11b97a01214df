"""Bounds of one session: commands of a turn, pending replies, unsent bytes and buffered input."""

import pytest

from cairnkv.commands import Append, Command, Copy, Get, GetMany, Ping, Set, SetBit, SetRange
from cairnkv.limits import BYTES_PER_COST, COMMANDS_PER_SLICE, PENDING_REPLIES_MAX, UNSENT_PAUSE
from cairnkv.protocol import Response, write_command, write_response
from cairnkv.session import Session, State
from cairnkv.session.conversation import ARGUMENTS_PER_COST
from cairnkv.store import LocalStore
from tests.session.talk import Talk
from tests.support.late_storage import LateStorage

RESPONSE_HEAD = 6


class TestTurns:
    def test_end_after_a_number_of_commands(self) -> None:
        talk = Talk()
        talk.send(*[Ping(b"%d" % number) for number in range(COMMANDS_PER_SLICE + 1)])
        assert len(talk.take()) == COMMANDS_PER_SLICE
        assert talk.session.runnable
        talk.session.advance()
        assert [response.payload for response in talk.take()] == [b"%d" % COMMANDS_PER_SLICE]
        assert not talk.session.runnable

    def test_count_malformed_commands_too(self) -> None:
        talk = Talk()
        talk.send(*[Ping(b"first")], *[Get(b"")] * (2 * COMMANDS_PER_SLICE))
        assert len(talk.take()) == COMMANDS_PER_SLICE

    @pytest.mark.parametrize(
        "command",
        [Append(b"k", b"x"), SetRange(b"k", 0, b"x"), SetBit(b"k", 9, 1), Copy(b"k", b"l", replace=True), Get(b"k")],
        ids=lambda command: type(command).__name__,
    )
    def test_count_copied_bytes(self, command: Command) -> None:
        """As on the Redis protocol: a few bytes could block all other clients otherwise."""
        talk = Talk()
        talk.send(SetRange(b"k", 10 * BYTES_PER_COST, b"x"))
        talk.hear()
        talk.send(*[command] * 100)
        said = len(talk.take())
        assert said <= -(-COMMANDS_PER_SLICE // 10)
        assert len(talk.hear()) == 100 - said

    def test_count_keys(self) -> None:
        talk = Talk()
        keys = ARGUMENTS_PER_COST * COMMANDS_PER_SLICE // 2
        talk.send(Ping(b"first"), *[GetMany((b"none",) * keys)] * 10)
        assert len(talk.take()) == 3

    def test_keep_bytes_that_arrive_between_them_in_order(self) -> None:
        talk = Talk()
        talk.send(*[Ping(b"%d" % number) for number in range(COMMANDS_PER_SLICE + 5)])
        talk.session.receive(b"\0\0\3\0\0\0\4last")
        assert talk.payloads() == [b"%d" % number for number in range(COMMANDS_PER_SLICE + 5)] + [b"last"]

    def test_count_pieces_that_arrive_between_them_as_buffered(self) -> None:
        commands = [Ping(b"%d" % number) for number in range(3 * COMMANDS_PER_SLICE)]
        sent = b"".join(map(write_command, commands))
        talk = Talk()
        talk.session.paused = True
        for at in range(0, len(sent), 7):
            talk.session.receive(sent[at : at + 7])
            talk.session.advance()
        talk.session.receive(sent[:5])
        assert talk.session.buffered == len(sent) + 5
        talk.session.paused = False
        talk.session.drain()
        assert talk.payloads() == [command.text for command in commands]
        assert talk.session.state is State.DONE


class TestReplies:
    def test_unsent_replies_are_bounded(self) -> None:
        value = b"v" * (UNSENT_PAUSE // 4 - RESPONSE_HEAD)
        talk = Talk()
        talk.send(Set(b"k", value))
        talk.take()
        talk.send(*[Get(b"k")] * 3)
        assert not talk.session.blocked, "three quarters"
        talk.send(*[Get(b"k")] * 3)
        assert talk.session.blocked, "and a whole"
        assert not talk.session.runnable
        assert len(talk.take()) == 4
        assert not talk.session.blocked
        assert talk.session.runnable
        assert [response.payload for response in talk.hear()] == [value] * 2

    def test_one_byte_less_than_the_bound_does_not_block(self) -> None:
        for length, blocked in ((UNSENT_PAUSE - RESPONSE_HEAD - 1, False), (UNSENT_PAUSE - RESPONSE_HEAD, True)):
            talk = Talk()
            talk.send(Ping(b"p" * length))
            assert talk.session.blocked == blocked

    def test_session_executes_nothing_while_replies_are_not_taken(self) -> None:
        talk = Talk()
        talk.session.paused = True
        talk.send(Set(b"k", b"v"), Ping(b""))
        assert talk.take() == []
        assert talk.store.databases[0].count() == 0
        assert talk.session.blocked
        assert not talk.session.runnable
        assert not talk.session.unfinished, "it is our delay, not the client's"
        talk.session.paused = False
        assert talk.session.runnable
        assert talk.payloads() == [b"OK", b"PONG"]

    def test_output_is_bounded_by_the_pause_and_one_reply(self) -> None:
        talk = Talk()
        value = b"v" * 300_000
        talk.send(Set(b"k", value))
        talk.take()
        for _ in range(20):
            talk.send(*[Get(b"k")] * 20)
        assert sum(map(len, talk.session.output())) < UNSENT_PAUSE + len(value) + RESPONSE_HEAD


class TestPendingReplies:
    def test_number_is_bounded(self) -> None:
        talk = Talk(late=True)
        for number in range(0, PENDING_REPLIES_MAX - 1, 91):
            talk.send_all(*[Set(b"k", b"%d" % n) for n in range(number, number + 91)])
        assert len(talk.storage.pending) == PENDING_REPLIES_MAX - 1
        assert not talk.session.blocked
        talk.send(Set(b"k", b"one more"), Set(b"k", b"too many"), Ping(b""))
        assert len(talk.storage.pending) == PENDING_REPLIES_MAX
        assert talk.session.blocked
        assert not talk.session.runnable
        talk.storage.commit(1)
        assert talk.payloads() == [b"OK"]
        assert len(talk.storage.pending) == PENDING_REPLIES_MAX, "there was room for one"
        talk.storage.commit()
        assert talk.payloads() == [b"OK"] * PENDING_REPLIES_MAX + [b"PONG"]

    def test_count_also_behind_another(self) -> None:
        talk = Talk(late=True)
        talk.send(Set(b"k", b"v"))
        talk.send_all(*[Ping(b"")] * (2 * PENDING_REPLIES_MAX))
        assert talk.session.blocked
        talk.storage.commit()
        assert talk.payloads() == [b"OK"] + [b"PONG"] * (2 * PENDING_REPLIES_MAX)

    @pytest.mark.parametrize("size", [UNSENT_PAUSE // 3, UNSENT_PAUSE, 2 * UNSENT_PAUSE])
    def test_released_together_leave_in_bounded_steps(self, size: int) -> None:
        """No more than the bound at a time, without further input."""
        talk = Talk(late=True)
        value = b"v" * size
        talk.send(Set(b"k", value), *[Get(b"k")] * 9)
        assert talk.take() == []
        talk.storage.commit()
        talk.session.advance()
        assert sum(map(len, talk.session.output())) < UNSENT_PAUSE + size + RESPONSE_HEAD
        assert talk.session.runnable, "there is more to be sent"
        rest = talk.payloads()
        assert rest[-1] == value
        assert not talk.session.waiting

    def test_full_queue_of_ready_replies_empties(self) -> None:
        talk = Talk(late=True)
        talk.send(Set(b"k", b"v" * 1_000))
        for _ in range(20):
            talk.send_all(*[Get(b"k")] * 300)
        assert talk.session.blocked
        talk.storage.commit()
        assert len(talk.hear()) == 6_001

    def test_are_kept_while_the_client_takes_nothing(self) -> None:
        talk = Talk(late=True)
        talk.send(Set(b"k", b"v"))
        talk.session.paused = True
        talk.storage.commit()
        assert talk.hear() == []
        assert talk.session.waiting
        talk.session.paused = False
        assert talk.payloads() == [b"OK"]

    def test_of_a_closed_session_leave_the_store(self) -> None:
        """Nobody takes its replies; commits go on for the others."""
        talk = Talk(late=True)
        talk.send(Set(b"k", b"v"))
        talk.session.paused = True
        talk.storage.commit()
        other = Talk(store=talk.store)
        other.send(Get(b"k"))
        assert other.payloads() == [b"v"]


def test_buffered_bytes_are_those_not_executed() -> None:
    talk = Talk()
    talk.send(b"\0\0\3\0\0\0\5part")
    assert talk.session.buffered == 11
    assert talk.session.unfinished
    consumed = talk.session.consumed
    talk.send(b"y")
    assert talk.session.buffered == 0
    assert not talk.session.unfinished
    assert talk.session.consumed == consumed + 12
    assert talk.payloads() == [b"party"]
    assert talk.session.state is State.OPEN


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

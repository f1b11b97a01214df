"""The end of a session: by the client, by the server, by a failure. Pending replies leave first, in order."""

import itertools
from typing import Any

import pytest

from cairnkv.commands import Command, Count, Failure, Get, Ping, Reply, Set, failures
from cairnkv.limits import COMMANDS_PER_SLICE, UNSENT_PAUSE
from cairnkv.session import TRANSITIONS, Event, Session, State
from cairnkv.store import LocalStore, PendingReply
from tests.session.native_client import NativeClient
from tests.support.clock import HandClock

BAD_FRAME = b"\0\0\x0f"


class TestStateTable:
    def test_leads_from_every_state_to_done(self) -> None:
        for state in State:
            reached = {state}
            for _ in State:
                reached |= {to for (begin, _), to in TRANSITIONS.items() if begin in reached}
            assert State.DONE in reached

    def test_leads_nowhere_from_done(self) -> None:
        assert not [begin for begin, _ in TRANSITIONS if begin is State.DONE]

    def test_reaches_every_state_from_open(self) -> None:
        assert set(TRANSITIONS.values()) | {State.OPEN} == set(State)

    def test_never_leads_back(self) -> None:
        order = [State.OPEN, State.HALF_CLOSED, State.DRAINING, State.FAILED, State.DONE]
        assert all(order.index(begin) < order.index(to) for (begin, _), to in TRANSITIONS.items())

    def test_reaches_done_only_after_all_replies(self) -> None:
        assert {event for (_, event), to in TRANSITIONS.items() if to is State.DONE} == {Event.ALL_SENT}

    @pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
    def test_equals_the_behaviour_of_a_session(self, state: State, event: Event) -> None:
        """A session brought to each state, with a reply that waits so that it stays there, takes each event."""
        client = _in_state(state)
        session = client.session
        assert session.state is state
        match event:
            case Event.END_OF_INPUT:
                session.end_of_input()
            case Event.DRAIN:
                session.drain()
            case Event.FAILURE:
                session.fail(Failure(failures.TIMEOUT, "too slow"))
            case Event.ALL_SENT:
                client.storage.commit()
                session.advance()
        assert session.state is TRANSITIONS.get((state, event), state)


def _in_state(state: State) -> NativeClient:
    client = NativeClient(late=True)
    client.send(Set(b"k", b"v"))
    match state:
        case State.HALF_CLOSED:
            client.session.end_of_input()
        case State.DRAINING:
            client.session.drain()
        case State.FAILED:
            client.send(BAD_FRAME)
        case State.DONE:
            client.session.end_of_input()
            client.storage.commit()
            client.session.advance()
    return client


class TestEndOfInput:
    def test_every_received_command_is_answered(self) -> None:
        client = NativeClient(late=True)
        client.send(*[Ping(b"%d" % number) for number in range(COMMANDS_PER_SLICE + 10)], Set(b"k", b"v"))
        client.session.end_of_input()
        assert len(client.hear()) == COMMANDS_PER_SLICE + 10
        assert client.session.state is State.HALF_CLOSED, "one reply waits for the log"
        client.storage.commit()
        assert client.payloads() == [b"OK"]
        assert client.session.state is State.DONE

    def test_untaken_replies_are_awaited(self) -> None:
        client = NativeClient()
        client.send(Set(b"k", b"v" * UNSENT_PAUSE))
        client.take()
        client.send(*[Get(b"k")] * 3)
        client.session.end_of_input()
        client.session.advance()
        assert client.session.state is State.HALF_CLOSED
        assert len(client.hear()) == 3
        assert client.session.state is State.DONE

    def test_an_unfinished_frame_is_no_command(self) -> None:
        client = NativeClient()
        client.send(Ping(b"1"), b"\0\0\1\0\0\0\1k\0\0\0\5hal")
        client.session.end_of_input()
        assert client.payloads() == [b"1"]
        assert client.session.state is State.DONE
        assert client.store.databases[0].count() == 0

    def test_of_an_idle_client_ends_the_session(self) -> None:
        client = NativeClient()
        client.session.end_of_input()
        assert client.hear() == []
        assert client.session.state is State.DONE


class TestDraining:
    def test_answers_received_commands_only(self) -> None:
        client = NativeClient()
        client.session.receive(b"\0\0\3\0\0\0\1a")
        client.session.drain()
        client.session.receive(b"\0\0\3\0\0\0\1b")
        assert client.payloads() == [b"a"]
        assert client.session.state is State.DONE

    def test_awaits_pending_replies(self) -> None:
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v"))
        client.session.drain()
        assert client.hear() == []
        assert client.session.state is State.DRAINING
        client.storage.commit()
        assert client.payloads() == [b"OK"]
        assert client.session.state is State.DONE

    def test_twice_equals_once(self) -> None:
        client = NativeClient()
        client.session.drain()
        client.session.drain()
        assert client.hear() == []
        client.session.drain()
        assert client.session.state is State.DONE


class TestFailures:
    def test_that_close_are_the_last_reply(self) -> None:
        client = NativeClient()
        client.send(Ping(b"1"), BAD_FRAME, Set(b"k", b"v"))
        client.send(Set(b"k", b"v"))
        ping, failure = client.hear()
        assert ping.payload == b"1"
        assert failure.payload.startswith(b"BADFRAME ")
        assert failure.header == 0x02
        assert client.session.state is State.DONE
        assert client.store.databases[0].count() == 0
        assert client.session.buffered == 0

    def test_that_close_wait_for_earlier_replies(self) -> None:
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v"), BAD_FRAME)
        assert client.hear() == []
        assert client.session.state is State.FAILED
        assert client.session.buffered == 0, "nothing behind it is kept"
        client.storage.commit()
        ok, failure = client.payloads()
        assert ok == b"OK"
        assert failure.startswith(b"BADFRAME ")
        assert client.session.state is State.DONE

    def test_that_do_not_close_cost_one_reply(self) -> None:
        client = NativeClient()
        client.send(Ping(b"1"), Get(b""), Ping(b"2"))
        one, failure, two = client.payloads()
        assert (one, two) == (b"1", b"2")
        assert failure.startswith(b"BADKEY ")
        assert client.session.state is State.OPEN

    @pytest.mark.parametrize("begun", [b"", b"\0\0\1\0\0"])
    def test_of_the_connection_follow_pending_replies(self, begun: bytes) -> None:
        client = NativeClient(late=True)
        client.send(Set(b"k", b"v"), begun)
        client.session.fail(Failure(failures.TIMEOUT, "too slow"))
        assert client.hear() == []
        client.storage.commit()
        assert client.payloads() == [b"OK", b"TIMEOUT too slow"]
        assert client.session.state is State.DONE
        assert client.session.buffered == 0

    def test_of_the_connection_are_sent_once(self) -> None:
        client = NativeClient()
        for _ in range(3):
            client.session.fail(Failure(failures.BUSY, "no room"))
        assert client.payloads() == [b"BUSY no room"]
        client.session.fail(Failure(failures.TIMEOUT, "too slow"))
        assert client.hear() == []

    def test_of_the_connection_stop_commands_that_were_not_executed(self) -> None:
        client = NativeClient()
        client.session.receive(b"\0\0\2\0\0\0\1k")
        client.session.fail(Failure(failures.BUSY, "no room"))
        assert client.payloads() == [b"BUSY no room"]

    def test_of_the_server_end_their_session_only(self, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(LocalStore):
            def execute(self, command: Command, db: int = 0, **options: Any) -> Reply | PendingReply:
                if isinstance(command, Count):
                    raise RuntimeError("a fault of ours")
                return super().execute(command, db, **options)

        store = Broken(clock=HandClock())
        client, other = NativeClient(store=store), NativeClient(store=store)
        client.send(Ping(b"1"), Count(), Ping(b"2"))
        ping, failure = client.hear()
        assert ping.payload == b"1"
        assert failure.payload.startswith(b"INTERNAL ")
        assert failure.header == 0x04, "nobody can tell what it did"
        assert b"fault of ours" not in failure.payload
        assert client.session.state is State.DONE
        assert "a fault of ours" in caplog.text
        other.send(Ping(b"3"))
        assert other.payloads() == [b"3"]


def test_events_after_done_have_no_effect() -> None:
    client = _in_state(State.DONE)
    client.take()
    session: Session = client.session
    session.receive(b"\0\0\3\0\0\0\0")
    session.advance()
    session.drain()
    session.end_of_input()
    session.fail(Failure(failures.TIMEOUT, "too slow"))
    assert client.hear() == []
    assert session.state is State.DONE
    assert session.buffered == 0

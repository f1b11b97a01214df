"""Commands of the Redis protocol on queues: the same commands as on the native protocol, with typed replies."""

import pytest

from cairnkv.commands import BY_NUMBER, Scope
from cairnkv.protocol.resp import OK, Error, Simple
from cairnkv.session.resp.command_spec import RESP_COMMANDS
from cairnkv.session.resp.commands.queues import name_of
from tests.session.resp.chat import Chat
from tests.support.clock import HandClock

NOW = HandClock().now


def test_every_command_on_queues_has_a_name() -> None:
    specs = [spec for spec in BY_NUMBER.values() if spec.scope is Scope.QUEUES and not spec.by_store]
    assert len(specs) == 17
    for spec in specs:
        ours = RESP_COMMANDS[name_of(spec).encode()]
        assert spec.redis == (ours.name,)
        assert ours.flags & {"readonly", "write"} == {"write" if spec.writes else "readonly"}
        assert ours.keys == (0, 0, 0), "names of queues are no keys"
        assert ("denyoom" in ours.flags) == spec.grows
        assert ours.summary == spec.summary


def test_messages_are_put_taken_and_acknowledged(chat: Chat) -> None:
    assert chat("QUEUE.PUT q one") == [2, 1]
    assert chat("queue.put q two GROUP g UNIQUE n delay 0 priority 5") == [3, 1]
    assert chat("QUEUE.PUT q two UNIQUE n") == [3, 0]
    assert chat("QUEUE.PUTMANY q 0 9 three four") == [4, 2]
    assert chat("QUEUE.TAKE q 2 lease 5000") == [
        [3, 1, 1, 5_000, NOW, b"g", b"two"],
        [4, 2, 1, 5_000, NOW, b"", b"three"],
    ]
    assert chat("QUEUE.TAKEANY 1 0 0 none q") == [[b"q", 5, 3, 1, 60_000, NOW, b"", b"four"]]
    assert chat("QUEUE.EXTEND 9000 3 1 4 1") == [1, 0]
    assert chat("QUEUE.ACK 3 1 3 1 4 2") == [1, 0, 1]
    assert chat("QUEUE.NACK 5 3 DEAD REASON bad") == 1
    assert chat("QUEUE.TAKE none 1") == []


def test_keywords_in_lower_case_leave_values_as_they_are(chat: Chat) -> None:
    chat("QUEUE.PUT q unique unique group group unique")
    assert chat("QUEUE.LOOK 2")[9:] == [b"unique", b"group", b"", b"unique"]


def test_messages_are_shown_with_their_types(chat: Chat) -> None:
    chat("QUEUE.PUT q one DELAY 1000")
    shown = [2, b"q", b"delayed", 1_000, NOW + 1_000, 0, 0, NOW, 0, b"", b"", b"", b"one"]
    assert chat("QUEUE.LOOK 2") == shown
    assert chat("QUEUE.LOOK 99") is None
    assert chat("QUEUE.PEEK q delayed 0 10") == [b"0", [shown]]
    assert chat("QUEUE.PEEK q ready 0 1") == [b"2", []]
    assert chat("QUEUE.LIST 0 10") == [b"0", [b"q"]]


def test_stats_are_a_map(chat: Chat) -> None:
    chat("QUEUE.PUT q one")
    assert chat("QUEUE.SET q whenfull drop MAXMESSAGES 5") == OK
    chat("HELLO 3")
    stats = chat("QUEUE.STATS q")
    assert isinstance(stats, dict)
    assert (stats[b"ready"], stats[b"max_messages"], stats[b"when_full"]) == (1, 5, b"drop")


def test_queues_are_maintained(chat: Chat) -> None:
    chat("QUEUE.PUTMANY q 5000 0 one two three")
    assert chat("QUEUE.REQUEUE q delayed 1") == 1
    assert chat("QUEUE.REQUEUEIDS 3 99") == 1
    assert chat("QUEUE.REMOVE 3 99") == 1
    assert chat("QUEUE.PURGE q all 0") == [b"0", 2]
    assert chat("QUEUE.DROP q") == OK
    assert chat("QUEUE.STATS q") == Error("ERR NOQUEUE there is no queue 'q'")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("QUEUE.PUT q", "ERR wrong number of arguments for 'queue.put' command"),
        ("QUEUE.TAKE q 0", "ERR count is a decimal number from 1 to 1000, not '0'"),
        ("QUEUE.PEEK q waiting 0 1", "ERR state is one of ready, delayed, leased, dead, not 'waiting'"),
        ("QUEUE.DROP q q", "ERR wrong number of arguments for 'queue.drop' command"),
    ],
)
def test_bad_arguments_are_refused(chat: Chat, line: str, error: str) -> None:
    assert chat(line) == Error(error)


@pytest.mark.parametrize("line", ["QUEUE.PUT q body DELAY", "QUEUE.PUT q body LATER 5", "QUEUE.ACK 1 1 2"])
def test_usage_is_that_of_this_protocol(chat: Chat, line: str) -> None:
    reply = chat(line)
    assert isinstance(reply, Error)
    assert reply.text.startswith(f"ERR usage: {line.split()[0]} ")


def test_databases_and_flushall_leave_queues_alone(chat: Chat) -> None:
    chat("QUEUE.PUT q one")
    chat("SELECT 3")
    assert chat("DBSIZE") == 0
    chat("FLUSHALL")
    chat("FLUSHDB")
    assert chat("QUEUE.TAKE q 1")[0][0] == 2
    assert chat("KEYS *") == []


def test_a_transaction_acknowledges_and_stores(chat: Chat) -> None:
    chat("QUEUE.PUT q one")
    chat("QUEUE.TAKE q 1")
    chat("MULTI")
    assert chat("QUEUE.ACK 2 1") == Simple("QUEUED")
    chat("SET k done")
    chat("SELECT 1")
    chat("SET k other")
    assert chat("EXEC") == [[1], OK, OK, OK]
    assert chat("GET k") == b"other"
    assert chat("QUEUE.LOOK 2") is None


def test_a_stale_lease_undoes_a_transaction(chat: Chat) -> None:
    chat("QUEUE.PUT q one")
    chat("QUEUE.TAKE q 1")
    for line in ("MULTI", "SET k v", "QUEUE.PUT q two", "QUEUE.ACK 2 7"):
        chat(line)
    assert chat("EXEC") == Error("ERR STALE command 3, ACK: a lease is not the newest of its message")
    assert chat("GET k") is None
    assert chat("QUEUE.LOOK 3") is None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("QUEUE.PUT q two PRIORITY -1", "ERR priority is "),
        ("QUEUE.PUT q two NACK", "ERR "),
        ("QUEUE.ACK 2 x", "ERR "),
        (f"QUEUE.PUT {'q' * 256} two", "ERR "),
        ("QUEUE.TAKE q 0", "ERR "),
    ],
)
def test_a_command_with_wrong_arguments_ends_a_transaction(chat: Chat, line: str, problem: str) -> None:
    chat("MULTI")
    chat("QUEUE.PUT q one")
    assert chat(line).text.startswith(problem)
    chat("SET k v")
    assert chat("EXEC").text.startswith("EXECABORT ")
    assert chat("GET k") is None
    assert chat("QUEUE.LOOK 2") is None


def test_replies_wait_for_their_commit() -> None:
    chat = Chat(late=True)
    chat.send(b"QUEUE.PUT", b"q", b"one")
    assert chat.hear() == []
    chat.storage.commit()
    assert chat.hear() == [[2, 1]]

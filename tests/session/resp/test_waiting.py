"""TAKE commands that wait for messages, in the Redis protocol."""

import pytest

from cairnkv.protocol.resp import OK, Simple
from tests.session.resp.chat import Chat

PONG, QUEUED = Simple("PONG"), Simple("QUEUED")


@pytest.mark.parametrize("text", ["QUEUE.TAKE q 1 wait 100", "QUEUE.TAKEANY 1 0 100 q"])
def test_transaction_refuses_to_wait(chat: Chat, text: str) -> None:
    chat("MULTI")
    assert chat("SET k v") == QUEUED
    assert "cannot wait inside a transaction" in chat(text).text
    assert chat("EXEC").text.startswith("EXECABORT")
    assert chat("GET k") is None


def test_transaction_takes_without_waiting(chat: Chat) -> None:
    chat("MULTI")
    for text in ("QUEUE.PUT q body", "SET k v", "QUEUE.TAKE q 5"):
        assert chat(text) == QUEUED
    put, stored, (taken,) = chat("EXEC")
    assert (put, stored, taken[-1]) == ([2, 1], OK, b"body")


def test_take_waits_and_commands_behind_it_wait_too(chat: Chat) -> None:
    other = Chat(beside=chat)
    chat.send(b"QUEUE.TAKE", b"q", b"1", b"WAIT", b"1000")
    chat.send(b"PING")
    assert chat.hear() == []
    assert other("QUEUE.PUT q body") == [2, 1]
    (taken,), pong = chat.hear()
    assert (taken[-1], pong) == (b"body", PONG)


def test_wait_ends_with_an_empty_array(chat: Chat) -> None:
    chat.send(b"QUEUE.TAKEANY", b"1", b"0", b"1000", b"q", b"r")
    chat.clock.advance(1_000)
    chat.store.housekeep()
    assert chat.hear() == [[]]


def test_too_long_a_wait_is_refused(chat: Chat) -> None:
    assert "from 1 to 20000" in chat("QUEUE.TAKE q 1 WAIT 20001").text


def test_reply_that_is_not_wanted_still_takes_the_message(chat: Chat) -> None:
    other = Chat(beside=chat)
    chat.send(b"CLIENT", b"REPLY", b"SKIP")
    chat.send(b"QUEUE.TAKE", b"q", b"1", b"WAIT", b"1000")
    other("QUEUE.PUT q body")
    assert chat("PING") == PONG
    assert other("QUEUE.STATS q")[4:6] == [b"leased", 1]


def test_client_list_shows_the_command_that_waits(chat: Chat) -> None:
    other = Chat(beside=chat)
    chat.send(b"QUEUE.TAKE", b"q", b"1", b"WAIT", b"1000")
    assert b"cmd=queue.take" in other("CLIENT LIST")


def test_commands_that_may_wait_are_blocking(chat: Chat) -> None:
    ((_, _, flags, *_),) = chat("COMMAND INFO QUEUE.TAKE")
    assert Simple("blocking") in flags or "blocking" in flags

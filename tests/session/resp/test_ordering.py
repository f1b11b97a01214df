"""Promise 3 on this wire: whatever waits for the log, replies leave in the order of their commands, each once; a
message never comes between the replies of one command; and what a failed commit has undone, nobody was shown."""

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Incr, Reply
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error, Push, Simple
from cairnkv.session import State
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Call, Value
from tests.session.resp.chat import Chat
from tests.support.resp import request

QUEUED = Simple("QUEUED")


def test_transaction_with_a_failed_commit_is_undone_and_fails_once() -> None:
    chat = Chat(late=True)
    chat.send(b"SET", b"k", b"1")
    chat.storage.commit()
    assert chat.hear() == [OK]
    for words in ("MULTI", "INCR k", "GET k", "SET other 1", "EXEC", "PING", "GET k"):
        chat.send(*words.encode().split())
    assert chat.hear() == [OK, QUEUED, QUEUED, QUEUED]
    chat.storage.fail("the disk is gone")
    undone, pong, read = chat.hear()
    assert undone.text.startswith("ERR UNDONE")
    assert pong == Simple("PONG")
    assert read.text.startswith("ERR UNDONE"), "it would have shown what is undone"
    assert chat("GET k") == b"1"
    assert chat("GET other") is None


def test_watched_key_with_an_undone_change() -> None:
    """It may be taken for changed, but what EXEC does is still what it says."""
    chat = Chat(late=True)
    other = Chat(chat)
    chat("WATCH k")
    other.send(b"SET", b"k", b"theirs")
    chat.storage.fail()
    assert isinstance(other.hear()[0], Error)
    chat("MULTI")
    chat("SET k ours")
    chat.send(b"EXEC")
    chat.storage.commit()
    (reply,) = chat.hear()
    assert reply in ([OK], NULL_ARRAY, None)
    assert chat("GET k") == (b"ours" if reply == [OK] else None)


def test_aborted_transaction_waits_for_the_commit_of_the_change() -> None:
    chat = Chat(late=True)
    other = Chat(chat)
    chat("WATCH k")
    other.send(b"SET", b"k", b"theirs")
    chat("MULTI")
    chat("SET k ours")
    chat.send(b"EXEC")
    assert chat.hear() == [], "that the key has changed is not safe yet"
    chat.storage.commit()
    assert len(chat.hear()) == 1
    assert chat("GET k") == b"theirs"


@pytest.mark.parametrize("late", [False, True], ids=["in-memory", "durable"])
@pytest.mark.parametrize(
    ("queued", "replies"),
    [
        (["SET k new"], [OK]),
        (["GET k", "STRLEN k"], [b"1", 1]),
        (["ECHO text"], [b"text"]),
        (["PUBLISH news text", "DEL k"], [0, 1]),
        ([], []),
    ],
    ids=["write", "reads", "no keys", "message and write", "nothing"],
)
def test_exec_succeeds_with_a_pending_write_of_a_watched_key(late: bool, queued: list[str], replies: list[Any]) -> None:
    """The last write of the watched key came before WATCH, and is not committed yet."""
    chat = Chat(late=late)
    for words in ("SET k 1", "WATCH k", "MULTI", *queued, "EXEC"):
        chat.send(*words.encode().split())
    if late:
        chat.storage.commit()
    assert chat.hear() == [OK, OK, OK, *[QUEUED] * len(queued), replies]


def test_exec_fails_on_a_change_while_other_writes_are_pending() -> None:
    chat = Chat(late=True)
    other = Chat(chat)
    chat.send(b"SET", b"k", b"1")
    chat.send(b"WATCH", b"k")
    other.send(b"SET", b"k", b"theirs")
    for words in ("MULTI", "SET k ours", "PUBLISH news text", "EXEC", "GET k"):
        chat.send(*words.encode().split())
    chat.storage.commit()
    assert chat.hear() == [OK, OK, OK, QUEUED, QUEUED, NULL_ARRAY, b"theirs"]


def test_keys_reply_waits_for_commits_of_other_clients() -> None:
    chat = Chat(late=True)
    other = Chat(chat)
    other.send(b"SET", b"k", b"v")
    chat.send(b"KEYS", b"*")
    chat.send(b"PING")
    assert chat.hear() == []
    chat.storage.fail()
    refused, pong = chat.hear()
    assert refused.text.startswith("ERR UNDONE")
    assert pong == Simple("PONG")
    assert chat("KEYS *") == []


def test_client_closes_during_a_long_command() -> None:
    chat = Chat()
    for n in range(40_000):
        chat.store.database.put(b"%d" % n, b"", None)
    chat.session.receive(request(b"KEYS", b"*[^a]" * 100))
    chat.session.advance()
    assert chat.session.runnable
    assert not chat.session.output()
    chat.session.disconnected()
    chat.session.advance()
    assert chat.session.buffered == 0
    assert Chat(chat)("DBSIZE") == 40_000


def test_messages_do_not_split_the_replies_of_a_command() -> None:
    chat = Chat(late=True)
    listener = Chat(chat)
    listener("HELLO 3")
    listener.send(b"SET", b"k", b"v")
    listener.send(b"SUBSCRIBE", b"a", b"b")
    Chat(chat)("PUBLISH a x")
    listener.send(b"PING")
    assert listener.hear() == [], "all stands behind the SET"
    chat.storage.commit()
    kinds = [one.items[0] if isinstance(one, Push) else one for one in listener.hear()]
    assert kinds == [OK, b"subscribe", b"subscribe", b"message", Simple("PONG")]


SOME_KEYS = st.sampled_from([b"a", b"b"])
PLAIN = st.one_of(
    st.tuples(st.just(b"SET"), SOME_KEYS, st.sampled_from([b"1", b"2"])),
    st.tuples(st.just(b"GET"), SOME_KEYS),
    st.tuples(st.just(b"INCR"), SOME_KEYS),
    st.tuples(st.just(b"MGET"), SOME_KEYS, SOME_KEYS),
    st.tuples(st.just(b"DEL"), SOME_KEYS, SOME_KEYS),
    st.tuples(st.just(b"KEYS"), st.just(b"*")),
    st.tuples(st.just(b"SCAN"), st.just(b"0")),
    st.tuples(st.just(b"DBSIZE")),
    st.tuples(st.just(b"FLUSHALL")),
    st.tuples(st.just(b"PUBLISH"), st.just(b"c"), st.just(b"m")),
    st.tuples(st.just(b"CLIENT"), st.just(b"LIST")),
    st.tuples(st.just(b"NONSENSE")),
)
SAID = st.one_of(
    PLAIN.map(lambda words: [words]),
    st.lists(PLAIN, max_size=4).map(lambda queued: [(b"MULTI",), *queued, (b"EXEC",)]),
    st.lists(PLAIN, max_size=2).map(lambda queued: [(b"WATCH", b"a"), (b"MULTI",), *queued, (b"EXEC",)]),
    st.just([(b"SUBSCRIBE", b"c")]),
    st.just([(b"UNSUBSCRIBE", b"c")]),
)


@given(
    said=st.lists(
        st.tuples(st.integers(0, 2), SAID, st.sampled_from(["nothing", "commit one", "commit all", "fail"])),
        min_size=1,
        max_size=12,
    ),
    paused=st.integers(0, 3),
)
def test_clients_get_one_reply_to_each_command_in_order(
    said: list[tuple[int, list[tuple[bytes, ...]], str]], paused: int
) -> None:
    """Three clients, one storage; one of them may take nothing until the end. An ECHO tells the replies apart."""
    first = Chat(late=True)
    chats = [first, Chat(first), Chat(first)]
    sent: list[list[bytes]] = [[], [], []]
    heard: list[list[object]] = [[], [], []]
    for chat in chats:
        chat("HELLO 3")
    if paused < len(chats):
        chats[paused].session.paused = True
    for who, commands, outcome in said:
        for words in commands:
            place = b"%d of %d" % (len(sent[who]), who)
            chats[who].send(*words)
            sent[who].append(words[0])
            if words[0] == b"EXEC" or len(commands) == 1:
                chats[who].send(b"ECHO", place)
                sent[who].append(place)
        match outcome:
            case "commit one":
                first.storage.commit(1)
            case "commit all":
                first.storage.commit()
            case "fail":
                first.storage.fail()
        for n, chat in enumerate(chats):
            heard[n] += chat.hear()
    for chat in chats:
        chat.session.paused = False
    for _ in range(2):
        for n, chat in enumerate(chats):
            heard[n] += chat.hear()
        first.storage.commit()
    for n, chat in enumerate(chats):
        heard[n] += chat.hear()
        messages = Counter(isinstance(one, Push) and one.items[0] == b"message" for one in heard[n])
        replies = [one for one in heard[n] if not (isinstance(one, Push) and one.items[0] == b"message")]
        assert len(replies) == len(sent[n])
        assert messages[True] <= sum(words == (b"PUBLISH", b"c", b"m") for _, some, _ in said for words in some)
        for word, reply in zip(sent[n], replies, strict=True):
            if b" of " in word:
                assert reply == word
            elif word in (b"MULTI", b"WATCH"):
                assert reply == OK
            elif word in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
                assert isinstance(reply, Push)
                assert reply.items[0] == word.lower()
        assert not chat.session.waiting
        assert chat.session.state is State.OPEN
        assert chat.session.buffered == 0 or b"SUBSCRIBE" in sent[n]


def test_reply_that_cannot_be_shown_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, the client would take each later reply for the one before."""
    chat = Chat(late=True)

    def show(_: Reply) -> Value:
        raise ValueError("a bug")

    spec = dataclasses.replace(RESP_COMMANDS[b"INCR"], on_keys=lambda arguments: Call(Incr(arguments.key(), 1), show))
    monkeypatch.setitem(RESP_COMMANDS, b"BROKEN", spec)
    chat.send(b"BROKEN", b"k")
    chat.send(b"ECHO", b"next")
    chat.storage.commit()
    error, following = chat.hear()
    assert "INTERNAL" in error.text
    assert following == b"next"

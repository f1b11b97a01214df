"""Bounds on the Redis protocol: loop time, memory and waiting that one client can cause."""

import time

import pytest

from cairnkv.limits import (
    BYTES_PER_COST,
    CHANNEL_MAX,
    CLIENT_NAME_MAX,
    COMMANDS_PER_SLICE,
    KIB,
    MIB,
    PATTERN_MAX,
    REDIS_ARGUMENTS_MAX,
    REDIS_KEYLESS_ARGUMENTS_MAX,
    SCAN_COUNT_MAX,
    UNSENT_PAUSE,
    WATCHED_MAX,
)
from cairnkv.protocol.native import DecoderLimits
from cairnkv.protocol.resp import OK, Error, Simple
from cairnkv.protocol.resp.requests import EMPTY_PER_LOOK
from cairnkv.session import State
from cairnkv.session.conversation import KEYS_PER_COST
from cairnkv.session.resp import pubsub, transaction
from cairnkv.session.resp.commands import clients, transactions
from cairnkv.session.resp.commands import pubsub as words
from tests.session.resp.chat import Chat
from tests.support.resp import request

QUEUED = Simple("QUEUED")
FRAME = 20_000
SCAN_COST = SCAN_COUNT_MAX // KEYS_PER_COST


@pytest.fixture
def narrow() -> Chat:
    """A chat whose frames are short."""
    return Chat(limits=DecoderLimits(value=10_000, frame=FRAME))


def replies_of_a_turn(chat: Chat, data: bytes) -> int:
    chat.session.receive(data)
    chat.session.advance()
    return b"".join(chat.session.output()).count(b"\r\n")


def too_long(reply: object) -> bool:
    return isinstance(reply, Error) and reply.text.startswith("ERR BIGREPLY ")


# -- replies ---------------------------------------------------------------------------------------------------


class TestReplies:
    def test_are_no_longer_than_a_frame(self, narrow: Chat) -> None:
        """Their bytes are not even made: a long value requested a thousand times would be gigabytes."""
        assert narrow.say(b"SET", b"k", b"v" * 9_950) == OK
        assert narrow("MGET k k") == [b"v" * 9_950] * 2
        assert too_long(narrow("MGET k k k"))
        assert too_long(narrow.say(b"MGET", *[b"k"] * 2_000))
        assert narrow("GET k") == b"v" * 9_950

    @pytest.mark.parametrize("text", ["COMMAND", "COMMAND DOCS", "COMMAND INFO", "CLIENT LIST"])
    def test_of_any_kind_are_bounded(self, text: str) -> None:
        chat = Chat(limits=DecoderLimits(value=10, frame=100))
        assert too_long(chat(text))
        assert chat("PING") == Simple("PONG")

    def test_of_keys_that_do_not_fit_are_an_error(self, narrow: Chat) -> None:
        for n in range(500):
            narrow.say(b"SET", b"k" * 40 + b"%d" % n, b"v")
        assert len(narrow("KEYS *1*")) == 176
        assert isinstance(narrow("KEYS *"), Error)
        assert narrow("PING") == Simple("PONG")

    def test_of_a_transaction_are_returned_as_far_as_they_fit(self, narrow: Chat) -> None:
        """All commands were executed, so the client must get their replies."""
        narrow.say(b"SET", b"k", b"v" * 9_000)
        for text in ("MULTI", "GET k", "INCR n", "GET k", "GET k", "INCR n"):
            narrow(text)
        first, one, second, third, two = narrow("EXEC")
        assert (first, second) == (b"v" * 9_000,) * 2
        assert (one, two) == (1, 2)
        assert too_long(third)

    def test_pending_count_with_their_bytes(self) -> None:
        """Also replies without store access: COMMAND DOCS during a late commit."""
        chat = Chat(late=True)
        chat.send(b"SET", b"k", b"v")
        chat.session.receive(request(b"COMMAND", b"DOCS") * 200)
        for _ in range(200):
            chat.session.advance()
        assert chat.session.blocked
        assert chat.session.buffered > 100 * len(request(b"COMMAND", b"DOCS")), "so many are not carried out"
        chat.storage.commit()
        assert len(chat.hear()) == 201

    @pytest.mark.parametrize("words", [["MGET", *["none"] * 1_000], ["EXEC"]])
    def test_pending_count_with_the_memory_of_their_parts(self, words: list[str]) -> None:
        """Also if each part is empty or a number."""
        chat = Chat(late=True)
        chat.send(b"SET", b"none", b"")
        if words == ["EXEC"]:
            said = request(b"MULTI") + request(b"EXISTS", b"none") * 1_000 + request(b"EXEC")
        else:
            said = request(*(word.encode() for word in words))
        chat.session.receive(said * 500)
        for _ in range(2_000):
            chat.session.advance()
        assert chat.session.blocked
        assert chat.session.buffered > 100 * len(said)

    def test_fault_of_one_command_in_a_transaction_spares_the_others(self, chat: Chat) -> None:
        for text in ("MULTI", "CLIENT REPLY SKIP", "SET k v"):
            assert chat(text) in (OK, QUEUED)
        assert chat("EXEC") == [None, OK]


# -- turns -----------------------------------------------------------------------------------------------------


class TestTurns:
    def test_end_sooner_after_commands_of_many_arguments(self, chat: Chat) -> None:
        many = request(b"EXISTS", *[b"k"] * (KEYS_PER_COST * COMMANDS_PER_SLICE // 2))
        assert replies_of_a_turn(chat, many * 10) < 3

    def test_end_after_a_scan(self, chat: Chat) -> None:
        scan = request(b"SCAN", b"0")
        assert replies_of_a_turn(chat, scan * 10) == replies_of_a_turn(Chat(), scan)

    def test_end_sooner_after_commands_on_long_values(self, chat: Chat) -> None:
        chat.say(b"SETRANGE", b"k", b"%d" % (COMMANDS_PER_SLICE // 5 * BYTES_PER_COST), b"x")
        for said in (request(b"BITCOUNT", b"k"), request(b"APPEND", b"k", b"x"), request(b"SETBIT", b"k", b"9", b"1")):
            assert replies_of_a_turn(chat, said * 100) < 6
            chat.hear()

    @pytest.mark.parametrize("name", ["COPY k l REPLACE", "SETRANGE k 0 x"])
    def test_end_sooner_after_copied_bytes(self, chat: Chat, name: str) -> None:
        chat.say(b"SETRANGE", b"k", b"%d" % (COMMANDS_PER_SLICE // 5 * BYTES_PER_COST), b"x")
        assert replies_of_a_turn(chat, request(*name.encode().split()) * 100) < 6

    @pytest.mark.parametrize("text", ["COMMAND", "COMMAND INFO", "COMMAND DOCS", "COMMAND LIST"])
    def test_end_sooner_after_long_replies_of_the_server(self, chat: Chat, text: str) -> None:
        said = request(*text.encode().split())
        chat.session.receive(said * 600)
        chat.session.advance()
        assert chat.session.consumed <= 64 * len(said)

    def test_end_sooner_after_watched_keys_and_queued_bytes(self, chat: Chat) -> None:
        watch = request(b"WATCH", *[b"%d" % n for n in range(4_000)])
        once = watch + request(b"MULTI") + request(b"EXEC")
        assert replies_of_a_turn(chat, once * 10) == 1, "WATCH takes a turn for itself"
        chat = Chat()
        chat.say(b"SETRANGE", b"k", b"%d" % (100 * BYTES_PER_COST), b"x")
        once = request(b"MULTI") + request(b"APPEND", b"k", b"x") * 3 + request(b"EXEC")
        assert replies_of_a_turn(chat, once * 10) == 8, "one transaction"

    @pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"*0\r\n", b"*-1\r\n", b"   \r\n"])
    def test_end_after_many_empty_requests(self, chat: Chat, empty: bytes) -> None:
        chat.send(b"PING")
        turns = 0
        chat.session.receive(empty * 100_000 + request(b"PING"))
        chat.session.advance()
        while chat.session.runnable:
            chat.session.advance()
            turns += 1
        assert turns >= 100_000 // EMPTY_PER_LOOK - 1
        assert chat.hear() == [Simple("PONG")] * 2

    def test_longest_command_takes_seconds_at_most(self, chat: Chat) -> None:
        """About two where it was measured; the bound here is ten times that."""
        words = [b"k%d" % n for n in range(REDIS_ARGUMENTS_MAX - 1)]
        for name in (b"MSET", b"MGET", b"EXISTS", b"DEL"):
            data = request(name, *(words if name != b"MSET" else words[:-1]))
            begun = time.process_time()
            chat.session.receive(data + request(b"PING"))
            chat.session.advance()
            assert time.process_time() - begun < 20
            first = b"".join(chat.session.output())
            assert not first.endswith(b"+PONG\r\n")
            assert len(first) > 4
            assert chat.hear() == [Simple("PONG")]
        chat.send(b"EXISTS", *words, b"one more")
        (reply,) = chat.hear()
        assert reply.text.startswith("ERR Protocol error: invalid multibulk length")
        assert chat.session.state is State.DONE

    @pytest.mark.parametrize(
        "command", [b"SUBSCRIBE", b"COMMAND INFO", b"PUBSUB NUMSUB", b"CLIENT LIST ID", b"CONFIG GET"]
    )
    def test_keyless_commands_have_fewer_arguments(self, chat: Chat, command: bytes) -> None:
        begin = command.split()
        chat.send(*begin, *[b"1"] * (REDIS_KEYLESS_ARGUMENTS_MAX + 1 - len(begin)))
        (error,) = chat.hear()
        assert error.text.startswith("ERR too many arguments for '")
        assert chat.session.state is State.OPEN


# -- transactions ----------------------------------------------------------------------------------------------


class TestTransactions:
    @pytest.fixture
    def _little_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (transaction, transactions):
            monkeypatch.setattr(module, "TRANSACTION_COST_MAX", 1_000)

    @pytest.mark.usefixtures("_little_work")
    @pytest.mark.parametrize(
        ("text", "cost"),
        [("GET k", 1), ("SCAN 0", SCAN_COST), ("KEYS *", SCAN_COST), ("DBSIZE", 64), ("COMMAND DOCS", 256)],
    )
    def test_queued_work_is_bounded(self, chat: Chat, text: str, cost: int) -> None:
        chat("MULTI")
        for _ in range(1_000 // cost):
            assert chat(text) == QUEUED
        refused = chat(text)
        assert isinstance(refused, Error)
        assert "more work" in refused.text
        assert chat("EXEC").code == "EXECABORT"
        assert chat("GET k") is None

    @pytest.mark.usefixtures("_little_work")
    def test_unforeseeable_work_ends_within_the_transaction(self, chat: Chat) -> None:
        """The number of subscribers of a message is not known before."""
        listeners = [Chat(chat) for _ in range(300)]
        for listener in listeners:
            listener("SUBSCRIBE c")
        chat("MULTI")
        for _ in range(10):
            chat("PUBLISH c x")
        chat("SET k v")
        *told, done = chat("EXEC")
        assert told[:4] == [300] * 4
        assert all(isinstance(one, Error) for one in told[4:])
        assert done == OK
        assert len(listeners[0].hear()) == 4

    def test_transaction_on_too_many_bytes_is_not_executed(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        """A short command may do much work, such as appending a byte to a long value, a thousand times."""
        monkeypatch.setattr(transactions, "TRANSACTION_BYTES_MAX", 10 * MIB)
        chat("SET before 1")
        chat.say(b"SETRANGE", b"k", b"%d" % MIB, b"x")
        for text in ("APPEND k x", "BITCOUNT k", "SETBIT k 1 1", "STRLEN k"):
            for count, done in ((9, True), (11, False)):
                chat("MULTI")
                chat("INCR before")
                for _ in range(count):
                    chat(text)
                before = chat.store.database.get(b"before")
                reply = chat("EXEC")
                assert isinstance(reply, list) == done
                assert (chat.store.database.get(b"before") == before) != done

    @pytest.mark.parametrize(
        ("queued", "executes"),
        [
            (["SETBIT k 8388607 1"] * 10, True),
            (["SETBIT k 8388607 1"] * 11, False),
            (["SETRANGE k 1048575 x"] * 11, False),
            (["SETRANGE k 1048574 x", *["APPEND k x"] * 10], False),
            (["SETRANGE k 1048575 x", *["SETBIT k 0 1"] * 10], False),
            (["SETRANGE k 1048575 x", "SET k 1", *["SETBIT k 0 1"] * 10], True),
            (["SETRANGE k 1048575 x", "DEL k", *["APPEND k x"] * 10], True),
            (["SETRANGE k 1048575 x", "FLUSHDB", "SET done 1", *["APPEND k x"] * 10], True),
            (["SETRANGE k 1048575 x", "SELECT 1", *["SETBIT k 0 1"] * 10], True),
            (["SETRANGE k 1048575 x", "RENAME k other", *["APPEND other x"] * 10], False),
            (["SETBIT k 4294967295 1"] * 11, True),  # fail one by one: the value would be too long
        ],
    )
    def test_transaction_of_too_many_bytes_is_refused_as_a_whole(
        self, chat: Chat, monkeypatch: pytest.MonkeyPatch, queued: list[str], executes: bool
    ) -> None:
        monkeypatch.setattr(transactions, "TRANSACTION_BYTES_MAX", 10 * MIB)
        chat("MULTI")
        chat("SET done 1")
        for text in queued:
            assert chat(text) == QUEUED
        reply = chat("EXEC")
        chat("SELECT 0")
        assert isinstance(reply, list) == executes
        assert chat("GET done") == (b"1" if executes else None)
        if not executes:
            assert "bytes of values" in reply.text
            assert chat("DBSIZE") == 0

    def test_transaction_that_would_make_too_many_bytes_begins_no_work(
        self, chat: Chat, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the transaction began and was undone, the watched key would count as changed."""
        monkeypatch.setattr(transactions, "TRANSACTION_BYTES_MAX", 10 * MIB)
        for text in ("SETBIT k 8388607 1", "SETRANGE k 1048575 x", "APPEND k x"):
            chat("SETRANGE k 1048575 y")
            other = Chat(chat)
            assert other("WATCH k") == OK
            chat("MULTI")
            for _ in range(11):
                chat(text)
            assert isinstance(chat("EXEC"), Error)
            other("MULTI")
            other("STRLEN k")
            assert other("EXEC") == [MIB]

    def test_queued_commands_count_with_unfinished_frames(self, chat: Chat) -> None:
        assert chat.session.buffered == 0
        chat("MULTI")
        chat.say(b"SET", b"k", b"v" * 50_000)
        assert 50_000 < chat.session.buffered < 52_000
        assert not chat.session.unfinished, "nothing has to come for it"
        chat("EXEC")
        assert chat.session.buffered == 0
        chat("MULTI")
        chat.say(b"SET", b"k", b"v" * 50_000)
        chat("DISCARD")
        assert chat.session.buffered == 0

    def test_watched_keys_at_the_bound_and_one_more(self, chat: Chat) -> None:
        """One by one, at a cost that does not grow with their number."""
        assert chat.say(b"WATCH", *[b"k%d" % n for n in range(WATCHED_MAX - 1)]) == OK
        assert chat("WATCH last") == OK
        assert chat("WATCH last k1") == OK, "these are watched already"
        assert isinstance(chat("WATCH one-more"), Error)
        assert chat.session.buffered > 256 * WATCHED_MAX
        assert chat("UNWATCH") == OK
        assert chat.session.buffered == 0
        assert chat("WATCH one-more") == OK
        chat.session.disconnected()
        assert chat.session.buffered == 0


# -- channels --------------------------------------------------------------------------------------------------


class TestChannels:
    def test_subscriptions_are_counted_while_they_exist(self, chat: Chat) -> None:
        chat("SUBSCRIBE a")
        one = chat.session.buffered
        assert one > 100
        chat("SUBSCRIBE a")
        assert chat.session.buffered == one
        chat("PSUBSCRIBE p*")
        chat("PSUBSCRIBE p*")
        assert chat.session.buffered > one
        chat("PUNSUBSCRIBE p*")
        assert chat.session.buffered == one
        chat("RESET")
        assert chat.session.buffered == 0

    def test_message_to_many_subscribers_is_encoded_once(self, chat: Chat) -> None:
        listeners = [Chat(chat) for _ in range(3)]
        listeners[2]("HELLO 3")
        for listener in listeners:
            listener.send(b"SUBSCRIBE", b"c")
            listener.hear()
        text = b"x" * 100_000
        assert chat.say(b"PUBLISH", b"c", text) == 3
        first, second, third = (listener.session.output() for listener in listeners)
        assert b"".join(first) == b"".join(second)
        assert all(one is other for one, other in zip(first, second, strict=True))
        assert b"".join(third)[:1] == b">"

    def test_unsent_messages_wait_and_are_bounded(self, chat: Chat) -> None:
        """Before the subscriber's connection has sent anything."""
        listener = Chat(chat)
        listener("SUBSCRIBE c")
        for _ in range(100):
            chat.say(b"PUBLISH", b"c", b"x" * MIB)
        assert listener.session.overrun
        assert sum(map(len, listener.session.output())) < 2 * UNSENT_PAUSE + KIB

    def test_pattern_matching_is_bounded_over_all_clients(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pubsub, "SEARCHED_BYTES_MAX", 10)
        other = Chat(chat)
        assert chat("PSUBSCRIBE *a*b*")[2] == 1
        assert other("PSUBSCRIBE *a*b*")[2] == 1, "it is searched for once"
        assert isinstance(other("PSUBSCRIBE simple:* *a*b*c"), Error)
        assert other("PSUBSCRIBE simple:*")[2] == 2
        other("RESET")
        assert isinstance(other("PSUBSCRIBE *a*b*c"), Error)
        chat("RESET")
        assert other("PSUBSCRIBE *a*b*c")[2] == 1

    def test_patterns_that_are_slow_to_compile(self, chat: Chat) -> None:
        patterns = [b"%d" % n + b"[^a]" * 250 for n in range(17)]
        assert all(len(pattern) <= PATTERN_MAX for pattern in patterns)
        assert isinstance(chat.say(b"PSUBSCRIBE", *patterns), Error)
        assert chat.context.pubsub.patterns() == 0, "what is refused has changed nothing"
        chat.send(b"PSUBSCRIBE", *patterns[:16])
        assert len(chat.hear()) == 16

    def test_length_of_names_is_bounded(self, chat: Chat) -> None:
        assert chat.say(b"SUBSCRIBE", b"c" * CHANNEL_MAX)[2] == 1
        assert isinstance(chat.say(b"SUBSCRIBE", b"c" * (CHANNEL_MAX + 1)), Error)

    def test_names_of_one_command_are_bounded(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(words, "NAMES_MAX", 2)
        for name in ("SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE"):
            chat.send(*f"{name} a b".encode().split())
            assert len(chat.hear()) == 2
            assert isinstance(chat(f"{name} a b c"), Error)

    def test_channels_are_matched_in_bounded_steps(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(words, "MATCHED_TOGETHER", 10)
        listener = Chat(chat)
        listener.send(b"SUBSCRIBE", *[b"channel %d" % n for n in range(100)])
        chat.send(b"PUBSUB", b"CHANNELS", b"*[02468]")
        assert chat.session.runnable
        assert not chat.session.output()
        (found,) = chat.hear()
        assert sorted(found) == sorted(b"channel %d" % n for n in range(0, 100, 2))


# -- patterns --------------------------------------------------------------------------------------------------


class TestPatterns:
    @pytest.mark.parametrize("text", ["CONFIG GET", "PSUBSCRIBE"])
    def test_of_one_command_are_bounded(self, chat: Chat, text: str) -> None:
        patterns = [b"%05d" % n + b"?" * 1_019 for n in range(17)]
        assert isinstance(chat.say(*text.encode().split(), *patterns), Error)
        chat.send(*text.encode().split(), *patterns[:16])
        assert not any(isinstance(reply, Error) for reply in chat.hear())

    def test_that_are_slow_to_match_are_matched_with_few_keys(self, chat: Chat) -> None:
        """The longest keys, and a pattern made for them: a slice of ten thousand would take minutes."""
        slow = b"*" + b"[ab]" * 200 + b"c*"
        for n in range(300):
            chat.store.database.put(b"a" * 60_000 + b"%d" % n, b"", None)
        begun = time.process_time()
        cursor, _ = chat.say(b"SCAN", b"0", b"COUNT", b"10000", b"MATCH", slow)
        assert cursor != b"0"
        assert time.process_time() - begun < 2
        cursor, found = chat.say(b"SCAN", b"0", b"COUNT", b"10000", b"MATCH", b"*a*b*")
        assert (cursor, found) == (b"0", [])


# -- clients ---------------------------------------------------------------------------------------------------


class TestClients:
    @pytest.mark.parametrize("text", ["CLIENT SETNAME", "HELLO 2 SETNAME", "CLIENT SETINFO lib-ver"])
    def test_length_of_names_is_bounded(self, chat: Chat, text: str) -> None:
        words = text.encode().split()
        assert not isinstance(chat.say(*words, b"n" * CLIENT_NAME_MAX), Error)
        assert isinstance(chat.say(*words, b"n" * (CLIENT_NAME_MAX + 1)), Error)

    def test_many_are_listed_in_bounded_steps(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clients, "LISTED_TOGETHER", 3)
        crowd = [Chat(chat) for _ in range(1_000)]
        for one in crowd:
            one("PING")
        chat.send(*b"CLIENT LIST TYPE normal".split())
        assert chat.session.runnable
        gone = crowd.pop()
        gone.session.disconnected()
        (listed,) = chat.hear()
        assert listed.count(b"\n") == 1_000
        assert chat("MULTI") == OK
        chat("CLIENT LIST")
        assert [one.count(b"\n") for one in chat("EXEC")] == [1_000]

"""The native path of the Redis protocol equals the pure path: replies and databases, for any bytes in any pieces."""

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairnkv.commands import QueueSet
from cairnkv.protocol import DecoderLimits
from cairnkv.protocol.native import BATCH_BYTES
from cairnkv.session.resp.command_spec import RESP_COMMANDS
from tests.session.access.test_enforcement import request_of
from tests.support.crc import keys_at
from tests.support.lives import SOME_KEYS, flipped, lively_redis
from tests.support.paths import BUILT, native_only
from tests.support.resp import request
from tests.support.rights import SOME_RULES
from tests.support.twins import Twins

pytestmark = native_only

NAMES = [b"GET", b"SET", b"DEL", b"MGET", b"INCR"]
if BUILT:
    from cairnkv.session.resp.frames_native import SERVED

    NAMES = [name.encode() for name in SERVED]
ARGUMENTS = {
    "PING": [],
    "QUEUE.PUT": [b"5", b"v"],
    "QUEUE.PUTMANY": [b"5", b"0", b"7", b"v"],
    "QUEUE.TAKE": [b"5", b"1"],
    "QUEUE.ACK": [b"5", b"1"],
}
COMMANDS = st.one_of(
    st.lists(st.sampled_from([*NAMES, b"EX", b"PX", b"k", b"1", b""]), min_size=1),
    st.builds(
        lambda name, words: [name, *words], st.sampled_from(NAMES), st.lists(st.sampled_from([b"k", b"l", b"1"]))
    ),
    st.lists(st.binary(max_size=4), min_size=1, max_size=4),
)


@given(st.lists(COMMANDS, max_size=20), st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_equal_for_commands_in_any_pieces(said: list[list[bytes]], cuts: list[int], third: bool) -> None:
    twins = Twins()
    twins.say(request(b"HELLO", b"3" if third else b"2"))
    twins.say_in_pieces(b"".join(request(*words) for words in said), cuts)
    twins.agree()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
@example(b"2\r\n$3\r\nGET\r\n$1\r\nk\r\n*2\rX$3\r\nGET\r\n$1\r\nk\r\n", [])
@example(b"2\r\n$3\r\nGETXX$1\r\nkYY", [])
@example(b"02\r\n$3\r\nGET\r\n$1\r\nk\r\n", [3])
@example(b"2\r\n$3\r\nGET\r\n$+1\r\nk\r\n", [])
@example(b"2\r\n$3\r\nGET\r\n$99999999999\r\nk\r\n", [])
def test_equal_for_any_bytes(said: bytes, cuts: list[int]) -> None:
    twins = Twins()
    twins.say_in_pieces(b"*" + said, cuts)
    twins.agree()


@given(st.integers(0, 2**32))
def test_equal_for_random_programs(seed: int) -> None:
    """Few keys and many commands, with TTLs, passing time, several databases, transactions and damage."""
    chance = random.Random(seed)
    twins = Twins(limits=DecoderLimits(value=2_000, frame=80_000))
    for _ in range(12):
        twins.clock.advance(chance.randrange(-1_000, 3_000))
        said = b"".join(lively_redis(chance) for _ in range(chance.randrange(80)))
        if chance.random() < 0.1:
            said = flipped(said, chance)
        twins.say_in_pieces(said, [chance.randrange(len(said) + 1) for _ in range(chance.randrange(4))])
        twins.agree()


@given(st.integers(0, 2**32))
def test_equal_for_users_with_some_rights(seed: int) -> None:
    """Rights change between the pieces, also within transactions."""
    chance = random.Random(seed)
    twins = Twins()
    twins.say(request(b"PING"))
    for _ in range(8):
        rules = chance.choice(SOME_RULES)
        twins.limit(*rules)
        said = b"".join(lively_redis(chance) for _ in range(chance.randrange(60)))
        if chance.random() < 0.1:
            said = flipped(said, chance)
        twins.say_in_pieces(said, [chance.randrange(len(said) + 1) for _ in range(chance.randrange(4))])
        twins.agree()


@pytest.mark.parametrize("name", NAMES)
def test_command_is_executed_only_with_its_rights(name: bytes) -> None:
    words = request_of(RESP_COMMANDS[name])
    is_ping, own = name == b"PING", "~*" if name == b"QUEUE.ACK" else "~app:*"
    right = f"+{name.decode().lower()}"
    for rules, executes in (
        (("+@all", "&*", "~*"), True),
        ((right, own), True),
        (("+@all", f"-{right[1:]}", "~*"), is_ping),
        (("+@all", "~other:*", "~app:1:*"), is_ping),
        (("+@all",), is_ping),
    ):
        twins = Twins()
        twins.say(b"".join(request(b"SET", b"app:%d" % number, b"1") for number in range(300)))
        twins.say(request(b"QUEUE.PUTMANY", b"app:q", b"0", b"0", b"m", b"n"))
        twins.limit(*rules)
        before = twins.executed_natively
        twins.say(request(*words))
        twins.agree()
        assert (twins.executed_natively == before + 1) == executes, rules


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 1_048_560, 1_048_576, 3_000_000])
def test_equal_for_long_values(length: int) -> None:
    twins = Twins()
    value = bytes(length)
    said = request(b"SET", b"k", value) + request(b"GET", b"k") + request(b"MGET", b"k", b"no", b"k")
    twins.say(said + request(b"PING", value) + request(b"DEL", b"k"))
    twins.agree()


@pytest.mark.parametrize("over", [0, 1])
def test_equal_at_the_limits(over: int) -> None:
    """A value, a frame, a key, a number of arguments: the longest, and one more."""
    for words in (
        [b"SET", b"k", bytes(1_000 + over)],
        [b"MGET", *[bytes(999)] * 3, bytes(860 + over)],
        [b"GET", b"k" * (65_535 + over)],
        [b"MGET", *[b"k"] * (127 + over)],
    ):
        twins = Twins(limits=DecoderLimits(value=1_000 if words[0] != b"GET" else 70_000, frame=71_000))
        twins.say(request(*words))
        twins.agree()


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("size", [10, 5_000])
def test_equal_replies_at_the_limit(size: int, over: int) -> None:
    """Several values may be longer than a frame; then both reply with an error."""
    count = 4 if size > 1_000 else 100
    reply = len(b"*%d\r\n" % count) + count * len(b"$%d\r\n\r\n" % size) + count * size
    twins = Twins(limits=DecoderLimits(value=10_000, frame=max(reply, size + 100) - over))
    twins.say(request(b"SET", b"k", bytes(size)) + request(b"MGET", *[b"k"] * count))
    twins.agree()
    assert (b"-ERR BIGREPLY" in twins.heard[1]) == bool(over)
    assert twins.executed_natively == 2 - over


@pytest.mark.parametrize("third", [False, True])
def test_served_commands_are_registered(third: bool) -> None:
    """Each command of the list is served, in both versions of the protocol."""
    for name in SERVED:
        assert name.encode() in RESP_COMMANDS
        twins = Twins()
        twins.say(request(b"HELLO", b"3" if third else b"2"))
        twins.say(b"".join(request(b"SET", key, b"1") for key in SOME_KEYS[:100]))
        for store in twins.stores:
            store.execute(QueueSet(b"5"))
        before = twins.executed_natively
        twins.say(request(name.encode(), *ARGUMENTS.get(name, [b"5", b"v"] if name.endswith("SET") else [b"5"])))
        assert twins.executed_natively == before + 1, name
        twins.agree()


def test_commands_with_another_meaning_are_not_served() -> None:
    """In a transaction, with replies off, and as a subscriber in version 2."""
    for begin in (["MULTI"], ["CLIENT", "REPLY", "OFF"], ["CLIENT", "REPLY", "SKIP"], ["SUBSCRIBE", "c"]):
        twins = Twins()
        twins.say(request(*(word.encode() for word in begin)) + request(b"PING"))
        assert twins.executed_natively == 0
        twins.agree()


def test_selected_database_has_its_own_executor() -> None:
    twins = Twins()
    twins.say(request(b"SELECT", b"3") + request(b"SET", b"k", b"v") + request(b"SELECT", b"0") + request(b"GET", b"k"))
    assert twins.executed_natively == 2
    assert [db.count() for db in twins.stores[1].databases].index(1) == 3
    twins.agree()


def test_change_is_visible_to_watch() -> None:
    twins = Twins()
    twins.say(request(b"SET", b"k", b"1") + request(b"WATCH", b"k") + request(b"SET", b"k", b"2", b"EX", b"9"))
    twins.say(request(b"MULTI") + request(b"GET", b"k") + request(b"EXEC"))
    twins.agree()
    assert twins.heard[1].endswith(b"*-1\r\n")
    assert twins.executed_natively >= 2


@pytest.mark.parametrize("count", [3, 50])
def test_commands_of_many_keys_are_atomic(count: int) -> None:
    """Also if one of the keys would split a bucket, or empty it, or a key is named twice."""
    twins = Twins()
    for begin in range(0, 600, count):
        keys = [b"%d" % n for n in range(begin, begin + count)]
        pairs = itertools.chain.from_iterable((key, b"v") for key in [*keys, keys[0], b"0"])
        twins.say(request(b"MSET", *pairs))
    twins.agree()
    assert twins.executed_natively > 0
    for begin in range(0, 600, count):
        keys = [b"%d" % n for n in range(begin, begin + count)]
        twins.say(request(b"DEL", *keys, keys[0]))
    twins.agree()


def test_equal_for_keys_of_one_crc() -> None:
    """Their bucket keeps an order of its keys, which the native path must update or leave to the pure path."""
    crowd = [*itertools.islice(keys_at(0xABCD_1234), 2_000)]
    twins = Twins()
    twins.say(request(b"HELLO", b"2"))
    for key in crowd:
        twins.say(request(b"SET", key, b"value"))
    for key in crowd[::3]:
        twins.say(request(b"SET", key, b"other", b"EX", b"100") + request(b"GET", key))
    for key in crowd[::2]:
        twins.say(request(b"DEL", key) + request(b"GET", key))
    for cursor in (0, 0xABCD_1234 << 21, (0xABCD_1234 << 21) + 2**20):
        twins.say(request(b"SCAN", b"%d" % cursor, b"COUNT", b"50"))
    twins.agree()
    assert twins.executed_natively > len(crowd)


def test_turn_ends_after_its_bytes_of_commands() -> None:
    """Other clients get their turn, even if more commands were read ahead."""
    twins = Twins()
    twins.say(b"PING\r\n")
    ping = request(b"PING")
    native = twins.sessions[1]
    native.receive(ping * (4 * BATCH_BYTES // len(ping)))
    turns = 0
    while native.runnable:
        native.advance()
        assert sum(map(len, native.output())) <= len(b"+PONG\r\n") * (BATCH_BYTES // len(ping) + 2)
        turns += 1
    assert turns >= 4

"""Commands on queues on the native path equal those on the pure path, on both protocols, in memory and with commits."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Ack, ClearAll, Command, Get, Nack, Ping, Put, PutMany, QueueSet, Set, Take
from cairnkv.limits import MESSAGE_HEAD_MAX, MIB, QUEUE_NAME_MAX, TAKE_BYTES, TAKE_MAX, WAIT_MAX
from cairnkv.protocol import DecoderLimits, write_command
from cairnkv.session import Session
from tests.native.test_pending import LateTwins, live
from tests.support.late_storage import LateStorage
from tests.support.lives import flipped, lively_queue_frame, on_redis
from tests.support.paths import native_only
from tests.support.resp import request
from tests.support.twins import Twins

pytestmark = native_only

Write = Callable[[Command], bytes]


PROTOCOLS = pytest.mark.parametrize("write", [write_command, on_redis], ids=["native", "redis"])


def begin(write: Write, twins: Twins) -> None:
    """Select the protocol, and make the queue `q` on the pure path."""
    twins.say(write(Ping(b"x")))
    for store in twins.stores:
        store.execute(QueueSet(b"q", attempts=5))
    if isinstance(twins, LateTwins):
        twins.commit()


def all_of(write: Write, *commands: Command) -> bytes:
    return b"".join(map(write, commands))


def written(chance: random.Random, twins: Twins, *, redis: bool) -> bytes:
    return lively_queue_frame(chance, twins.stores[0].queues, redis=redis)


@given(st.integers(0, 2**32), st.booleans())
def test_equal_for_random_programs(seed: int, redis: bool) -> None:
    chance = random.Random(seed)
    twins = Twins(limits=DecoderLimits(value=2_000, frame=80_000) if chance.random() < 0.2 else DecoderLimits())
    begin(on_redis if redis else write_command, twins)
    for _ in range(12):
        said = b"".join(written(chance, twins, redis=redis) for _ in range(chance.randrange(40)))
        if chance.random() < 0.1:
            said = flipped(said, chance)
        twins.say_in_pieces(said, [chance.randrange(len(said) + 1) for _ in range(chance.randrange(4))])
        twins.agree()
        pass_time(twins, chance.choice([0, 300, 2_000, 2 * WAIT_MAX]))


def pass_time(twins: Twins, milliseconds: int) -> None:
    """Let time pass. It ends the waits that it reaches."""
    twins.clock.advance(milliseconds)
    for store in twins.stores:
        store.housekeep()
    twins.settle()


@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_equal_for_random_programs_with_late_and_failing_commits(seed: int, redis: bool, reuse: bool) -> None:
    chance = random.Random(seed)
    twins = LateTwins(reuse_sequences=reuse)
    begin(on_redis if redis else write_command, twins)
    for _ in range(15):
        live(twins, chance, b"".join(written(chance, twins, redis=redis) for _ in range(chance.randrange(20))))
        pass_time(twins, chance.choice([0, 0, 300, 2_000, 2 * WAIT_MAX]))
    twins.refuse(None)
    twins.commit()
    twins.agree()


SCRIPT: tuple[Command, ...] = (
    Put(b"q", b"one"),
    PutMany(b"q", 0, 7, (b"two", b"")),
    Take(b"q", 2, lease=900),
    Set(b"k", b"v"),
    Ack(((3, 1), (4, 2), (9, 9))),
    Take(b"q", 1, wait=5),
    Get(b"k"),
)


@PROTOCOLS
def test_equal_if_cut_at_any_byte(write: Write) -> None:
    said = all_of(write, *SCRIPT)
    for cut in range(len(said) + 1):
        twins = Twins()
        begin(write, twins)
        twins.say_in_pieces(said, [cut])
        twins.agree()


@PROTOCOLS
def test_common_commands_are_executed_natively(write: Write) -> None:
    """Otherwise the comparisons above would compare the pure path with itself."""
    twins = Twins()
    begin(write, twins)
    before = twins.executed_natively
    twins.say(all_of(write, *SCRIPT))
    twins.agree()
    assert twins.executed_natively == before + len(SCRIPT)


@pytest.mark.parametrize("protocol", [2, 3])
def test_keywords_of_the_redis_protocol_have_any_case(protocol: int) -> None:
    twins = Twins()
    twins.say(request(b"HELLO", b"%d" % protocol))
    begin(on_redis, twins)
    before = twins.executed_natively
    twins.say(request(b"queue.Put", b"q", b"x") + request(b"Queue.TAKE", b"q", b"1", b"Lease", b"9", b"wait", b"7"))
    twins.agree()
    assert twins.executed_natively == before + 2
    twins.say(
        request(b"queue:put", b"q", b"x") + request(b"queue\x0eput", b"q", b"x") + request(b"\x80put", b"q", b"x")
    )
    twins.agree()


def test_keywords_of_the_native_protocol_are_in_capitals() -> None:
    twins = Twins()
    begin(write_command, twins)
    twins.say(write_command(Take(b"q", 1, lease=9)).replace(b"LEASE", b"lease"))
    twins.agree()
    assert b"BADARGS" in twins.heard[1]


@PROTOCOLS
@pytest.mark.parametrize(
    "words",
    [
        [b"PUT", b"q"],
        [b"PUT", b"", b"x"],
        [b"PUT", b"q" * QUEUE_NAME_MAX, b"x"],
        [b"PUT", b"q" * (QUEUE_NAME_MAX + 1), b"x"],
        [b"PUT", b"q", b"x", b"DELAY"],
        [b"PUTMANY", b"q", b"0", b"1"],
        [b"PUTMANY", b"q", b"00", b"1", b"x"],
        [b"PUTMANY", b"q", b"0", b"4294967296", b"x"],
        [b"PUTMANY", b"q", b"0", b"-1", b"x"],
        [b"TAKE", b"q"],
        [b"TAKE", b"q", b"0"],
        [b"TAKE", b"q", b"1001"],
        [b"TAKE", b"q", b"01"],
        [b"TAKE", b"q", b"1", b"LEASE"],
        [b"TAKE", b"q", b"1", b"LEASE", b"0"],
        [b"TAKE", b"q", b"1", b"LEASE", b"9", b"LEASE", b"9"],
        [b"TAKE", b"q", b"1", b"WAIT", b"9", b"WAIT", b"9"],
        [b"TAKE", b"q", b"1", b"WAIT", b"20001"],
        [b"TAKE", b"q", b"1", b"WAIT", b"0"],
        [b"TAKE", b"q", b"1", b"EVER", b"1"],
        [b"ACK"],
        [b"ACK", b"1"],
        [b"ACK", b"0", b"1"],
        [b"ACK", b"1", b"0"],
        [b"ACK", b"1", b"1", b"x", b"1"],
        [b"ACK", b"9223372036854775807", b"9223372036854775807"],
        [b"ACK", b"9223372036854775808", b"1"],
    ],
    ids=b" ".join,
)
def test_equal_for_bad_arguments(write: Write, words: list[bytes]) -> None:
    twins = Twins()
    begin(write, twins)
    twins.say(write(Put(b"q", b"first")))
    twins.say(counted(*words) if write is write_command else request(b"QUEUE." + words[0], *words[1:]))
    twins.say(write(Ping(b"still here")))
    twins.agree()


def counted(name: bytes, *strings: bytes) -> bytes:
    """Return a frame with any strings."""
    number = {b"PUT": 64, b"PUTMANY": 65, b"TAKE": 66, b"ACK": 68}[name]
    parts = [b"\0", number.to_bytes(2), len(strings).to_bytes(4)]
    return b"".join([*parts, *(len(string).to_bytes(4) + string for string in strings)])


@PROTOCOLS
@pytest.mark.parametrize("count", [60, TAKE_MAX, TAKE_MAX + 1])
def test_equal_for_many_messages(write: Write, count: int) -> None:
    twins = Twins()
    begin(write, twins)
    first = twins.stores[0].queues.index.counters.id + 1
    twins.say(write(PutMany(b"q", 0, 1_000, (b"body",) * count)))
    twins.say(write(Take(b"q", count)))
    twins.say(write(Ack(tuple((first + n, n + 1) for n in range(count)))))
    twins.agree()


@PROTOCOLS
@pytest.mark.parametrize("length", [0, 1, 65_536, MIB - 200, MIB, 3 * MIB])
def test_equal_for_long_bodies(write: Write, length: int) -> None:
    twins = Twins()
    begin(write, twins)
    twins.say(all_of(write, Put(b"q", bytes(length)), Put(b"q", bytes(length)), Put(b"q", b"x")))
    twins.say(all_of(write, Take(b"q", 2), Take(b"q", 2)))
    twins.agree()


@PROTOCOLS
@pytest.mark.parametrize("less", [0, 1, 100, 300])
def test_equal_for_replies_at_the_limit(write: Write, less: int) -> None:
    twins = Twins(limits=DecoderLimits(value=1_000, frame=2_300 - less))
    begin(write, twins)
    twins.say(all_of(write, *[Put(b"q", bytes(1_000))] * 2, Take(b"q", 2), Put(b"q", b"x"), Take(b"q", 1)))
    twins.agree()


@PROTOCOLS
@pytest.mark.parametrize("more", [-1, 0])
def test_equal_for_as_many_messages_as_a_frame_has_room_for(write: Write, more: int) -> None:
    twins = Twins(limits=DecoderLimits(value=1_000, frame=TAKE_BYTES + 3 * MESSAGE_HEAD_MAX + more))
    begin(write, twins)
    before = twins.executed_natively
    twins.say(all_of(write, *[Put(b"q", b"x")] * 3, Take(b"q", 3)))
    twins.agree()
    assert twins.executed_natively == before + 4 + more


@PROTOCOLS
def test_a_long_pipeline_leaves_room_for_other_clients(write: Write) -> None:
    twins = Twins()
    begin(write, twins)
    twins.say(all_of(write, *[Put(b"q", b"x")] * 3_000))
    twins.agree()
    assert twins.stores[1].queues.index.queues[b"q"].counts(twins.clock())[0] == 3_000


# -- waiting -------------------------------------------------------------------------------------------------------


def other_session(twins: Twins, at: int) -> Session:
    """Return a second client of one of the stores, which uses the same paths."""
    return Session(
        twins.stores[at],
        wake=lambda: None,
        width=2,
        frame_executor=twins.frame_executor if at else None,
        context=twins.context[at],
    )


def said_by(session: Session, data: bytes = b"") -> bytes:
    session.receive(data)
    session.advance()
    return b"".join(session.output())


@PROTOCOLS
def test_message_goes_to_the_client_that_waits(write: Write) -> None:
    twins = Twins()
    begin(write, twins)
    others = [other_session(twins, at) for at in range(2)]
    for session in others:
        assert said_by(session, write_command(Take(b"q", 1, wait=WAIT_MAX))) == b""
    twins.say(all_of(write, Put(b"q", b"first"), Put(b"q", b"second"), Take(b"q", 1)))
    twins.agree()
    pure, native = (said_by(session) for session in others)
    assert pure == native
    assert native.endswith(b"first")
    twins.say(write(Put(b"q", b"third")))
    assert [said_by(session, write_command(Take(b"q", 1, wait=WAIT_MAX)))[-5:] for session in others] == [b"third"] * 2
    twins.agree()


@PROTOCOLS
def test_end_of_a_lease_limit_serves_the_client_that_waits(write: Write) -> None:
    """An ACK may make a message of its group ready."""
    twins = Twins()
    begin(write, twins)
    for store in twins.stores:
        store.execute(QueueSet(b"r", per_group=1))
    others = [other_session(twins, at) for at in range(2)]
    twins.say(all_of(write, Put(b"r", b"first", group=b"g"), Put(b"r", b"second", group=b"g"), Take(b"r", 1)))
    for session in others:
        assert said_by(session, write_command(Take(b"r", 1, wait=WAIT_MAX))) == b""
    twins.say(write(Ack(((twins.stores[0].queues.index.counters.id - 1, 1),))))
    twins.agree()
    pure, native = (said_by(session) for session in others)
    assert pure == native
    assert native.endswith(b"second")


# -- commits -------------------------------------------------------------------------------------------------------


@PROTOCOLS
def test_batch_is_one_entry(write: Write) -> None:
    twins = LateTwins()
    begin(write, twins)
    twins.say(all_of(write, *[Put(b"q", b"x"), Set(b"k", b"v"), Take(b"q", 1)] * 20))
    assert len(twins.logs[1].pending) < 5 < 60 <= len(twins.logs[0].pending)
    twins.commit()
    twins.agree()


@PROTOCOLS
@pytest.mark.parametrize("unknown", [False, True])
def test_failed_batch_is_undone_as_a_whole(write: Write, unknown: bool) -> None:
    twins = LateTwins()
    begin(write, twins)
    twins.say(all_of(write, Put(b"q", b"safe"), Set(b"k", b"safe")))
    twins.commit()
    twins.say(all_of(write, Take(b"q", 1), Set(b"k", b"lost"), Put(b"q", b"lost"), Ack(((2, 1),)), Get(b"k")))
    twins.fail(unknown=unknown)
    twins.agree()
    twins.say(all_of(write, Take(b"q", 1), Get(b"k")))
    twins.commit()
    twins.agree()
    assert twins.heard[1].count(b"safe") == 2


@PROTOCOLS
def test_reply_about_an_empty_queue_waits_for_what_it_shows(write: Write) -> None:
    twins = LateTwins()
    begin(write, twins)
    twins.say(write(Put(b"q", b"x")))
    twins.commit()
    twins.say(write(Take(b"q", 1)))
    before = [len(heard) for heard in twins.heard]
    twins.say(all_of(write, Take(b"q", 1), Ack(((2, 9),))))
    assert [len(heard) for heard in twins.heard] == before
    twins.fail(unknown=False)
    twins.agree()
    assert twins.heard[1].count(b"UNDONE") == 3


def test_reply_about_a_queue_waits_for_no_keys() -> None:
    twins = LateTwins()
    begin(write_command, twins)
    twins.say(all_of(write_command, Set(b"k", b"v"), ClearAll()))
    twins.say(all_of(write_command, Take(b"q", 1), Get(b"k")))
    twins.fail(unknown=False)
    twins.agree()


def test_batch_refused_at_the_last_moment_is_undone() -> None:
    storage = LateStorage(keeps_effects=True)
    twins = Twins(width=2, logs=(LateStorage(keeps_effects=True), storage))
    native = twins.sessions[1]
    said_by(native, all_of(write_command, Ping(b""), Put(b"q", b"safe"), Set(b"k", b"safe")))
    storage.commit()
    said_by(native)
    storage.surprise = "the disk has failed meanwhile"
    assert said_by(native, all_of(write_command, Put(b"q", b"x"), Set(b"k", b"x"), Take(b"q", 2), Nack(2, 1))) == b""
    storage.surprise = None
    twins.stores[1].queues.check()
    assert twins.stores[1].queues.index.queues[b"q"].counts(twins.clock()) == (1, 0, 0, 0)
    assert twins.stores[1].database.get(b"k") == b"safe"

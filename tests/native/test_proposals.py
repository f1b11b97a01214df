"""Proposals and replies of a native node equal those of a pure node.

Two clusters in one thread get the same bytes: one node of the first uses the pure path for every command, one node of
the second proposes batches of bytes. Other nodes apply the log, and states are compared at every log index.
"""

import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    Ack,
    Clear,
    ClearAll,
    ClearMany,
    Command,
    Count,
    Exists,
    Failure,
    Get,
    GetMany,
    Incr,
    Ping,
    Put,
    PutMany,
    Set,
    SetMany,
    SetWith,
    Take,
    failures,
)
from cairnkv.limits import MIB
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag, DecoderLimits, Response, ResponseDecoder, Width
from cairnkv.replication.entries import ItemKind, items, parsed
from cairnkv.replication.store import ReplicatedStore
from cairnkv.session import Session
from tests.support.cluster_twins import Clients, agree, live, twins
from tests.support.lives import lively_queue_frame, on_redis
from tests.support.paths import native_only
from tests.support.resp import request
from tests.support.rights import SOME_RULES, limit_session

pytestmark = native_only


@pytest.fixture(autouse=True)
def compiled_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where CAIRNKV__PURE keeps it out of use."""
    monkeypatch.setattr("cairnkv.session.native_path.native_path_in_use", lambda: True)


@given(st.integers(0, 2**32), st.sampled_from([2, 4]), st.sampled_from([100, 400, 100_000]))
def test_equal_for_random_clients_of_the_native_protocol(seed: int, width: Width, room: int) -> None:
    chance = random.Random(seed)
    both = twins(3, width=width, room=room)
    for _ in range(4):
        live(both, chance, width, on_redis=False)


@given(st.integers(0, 2**32))
def test_equal_for_random_clients_of_the_redis_protocol(seed: int) -> None:
    chance = random.Random(seed)
    both = twins(2, width=None, room=1_000)
    for _ in range(3):
        live(both, chance, 2, on_redis=True)


@given(st.integers(0, 2**32), st.booleans())
def test_equal_for_random_clients_with_some_rights(seed: int, redis: bool) -> None:
    chance = random.Random(seed)
    both = twins(3, width=None if redis else 2, room=1_000)
    for clients in both:
        for client in range(3):
            clients.say(client, on_redis(Ping(b"x")) if redis else write_command(Ping(b"x")))
    for _ in range(4):
        for client in range(3):
            rules = chance.choice(SOME_RULES)
            for clients in both:
                limit_session(clients.context, clients.sessions[client], b"user%d" % client, *rules)
        live(both, chance, 2, on_redis=redis)


@given(st.integers(0, 2**32), st.booleans(), st.sampled_from([400, 100_000]))
def test_equal_for_a_random_client_of_queues(seed: int, redis: bool, room: int) -> None:
    chance = random.Random(seed)
    both = twins(1, width=None, room=room)
    queues = both[0].node.running.queues
    ping = Ping(b"x")
    for _ in range(6):
        count = chance.randrange(30)
        some = [lively_queue_frame(chance, queues, redis=redis, waits=False) for _ in range(count)]
        said = (on_redis(ping) if redis else write_command(ping)) + b"".join(some)
        cut = chance.randrange(len(said) + 1)
        forward = chance.choice([0, 0.3, 2])
        for clients in both:
            clients.cluster.now += forward
            clients.say(0, said[:cut])
            clients.say(0, said[cut:])
            clients.deliver()
        agree(*both)


@pytest.mark.parametrize("write", [write_command, on_redis], ids=["native", "redis"])
def test_take_leases_only_messages_that_a_frame_has_room_for(write: Callable[[Command], bytes]) -> None:
    both = twins(1, width=None, room=MIB, limits=DecoderLimits(value=60_000, frame=100_000))
    for clients in both:
        clients.say(0, write(Ping(b"x")))
        for _ in range(4):
            clients.say(0, write(Put(b"q", bytes(50_000))))
            clients.deliver()
        clients.say(0, write(Take(b"q", 3)))
        clients.deliver()
    agree(*both)
    assert [clients.node.running.queues.index.counts(0)[2] for clients in both] == [1, 1]


@pytest.mark.parametrize("write", [write_command, on_redis])
def test_commands_on_queues_are_proposed_as_batches(write: Callable[[Command], bytes]) -> None:
    both = twins(1, width=None, room=100_000)
    for clients in both:
        for some in (
            [Ping(b"x"), Put(b"q", b"first")],
            [*[Put(b"q", b"x", priority=7, lease=900)] * 9, PutMany(b"q", 0, 5, (b"y", b"z")), Set(b"k", b"v")],
            [*[Take(b"q", 1, lease=900)] * 3, Take(b"q", 20)],
            [Ack(((2, 1),)), Ack(((3, 2), (4, 3), (5, 9)))],
        ):
            clients.say(0, b"".join(map(write, some)).replace(b"LEASE", b"lease" if write is on_redis else b"LEASE"))
            clients.deliver()
    agree(*both)
    executor = both[1].context.frame_executor(0) if write is on_redis else both[1].frame_executor
    assert executor is not None
    assert executor.commands == 18


@pytest.mark.parametrize("leave", [Session.disconnected, Session.end_of_input])
@pytest.mark.parametrize("write", [write_command, on_redis], ids=["native", "redis"])
def test_take_of_a_client_that_has_left_gives_its_leases_back(
    write: Callable[[Command], bytes], leave: Callable[[Session], None]
) -> None:
    both = twins(2, width=None, room=MIB)
    for clients in both:
        clients.say(0, write(Ping(b"x")))
        clients.say(1, write(Ping(b"x")))
        clients.say(1, write(PutMany(b"q", 0, 5, tuple(b"body %d" % number for number in range(4)))))
        clients.deliver()
        clients.say(0, write(Set(b"k", b"v")) + write(Take(b"q", 2)) + write(Set(b"n", b"1")) + write(Take(b"q", 1)))
        clients.say(1, write(Take(b"q", 1)))
        leave(clients.sessions[0])
        clients.deliver()
        queues = clients.node.running.queues
        assert queues.index.counts(queues.now) == (3, 0, 1, 0)
        messages = [queues.message(number) for number in range(2, 6)]
        assert [message and (bool(message.lease), message.attempts) for message in messages] == [
            (False, 0),
            (False, 0),
            (False, 0),
            (True, 1),
        ]
        assert clients.node.running.databases[0].count() == 2, "its other commands are executed"
        assert b"body" not in clients.heard[0]
    agree(*both)


def test_commands_are_proposed_as_batches() -> None:
    clients = Clients(1, native_path_in_use=True, room=100_000)
    clients.say(0, frames(*[Set(b"%d" % n, b"x") for n in range(100)], *[Get(b"%d" % n) for n in range(100)]))
    clients.deliver()
    assert clients.frame_executor is not None
    assert clients.frame_executor.commands == 200
    assert clients.node.running.proposer.waiting == 0
    assert len(responses(clients.heard[0])) == 200


def responses(data: bytes) -> list[Response]:
    decoder = ResponseDecoder()
    decoder.feed(data)
    return list(iter(decoder.next, None))


def frames(*commands: Command, flags: int = 0) -> bytes:
    return b"".join(write_command(command, flags=flags) for command in commands)


def said(clients: Clients, client: int = 0) -> Iterator[tuple[bool, bytes]]:
    return ((response.ok, response.payload) for response in responses(clients.heard[client]))


def codes(clients: Clients, client: int = 0) -> list[str]:
    """The replies, failures by their codes."""
    return [payload.decode() if success else payload.split()[0].decode() for success, payload in said(clients, client)]


def test_equal_for_buckets_that_split_within_a_batch() -> None:
    both = twins(2, room=100_000)
    for clients in both:
        clients.say(0, frames(*(Set(b"%d" % n, b"%d" % n) for n in range(2_000))))
        clients.say(1, frames(*(Get(b"%d" % n) for n in range(2_000))))
        clients.deliver()
        clients.say(0, frames(*(Clear(b"%d" % n) for n in range(2_000)), Count()))
        clients.deliver()
    agree(*both)


def test_replies_that_are_longer_than_the_room_for_them() -> None:
    both = twins(1, room=1_000_000)
    for clients in both:
        clients.say(0, frames(*(Set(b"%d" % n, bytes([n]) * 300_000) for n in range(9))))
        clients.deliver()
        clients.say(0, frames(*[Get(b"%d" % n) for n in range(9)], GetMany(tuple(b"%d" % n for n in range(9)))))
        clients.deliver()
    agree(*both)


@pytest.mark.parametrize("on_redis", [False, True])
def test_long_replies_are_not_copied_before_they_are_sent(on_redis: bool) -> None:
    """The length of the replies was unknown when the reads were proposed."""
    both = twins(2, width=None, room=1_000_000)
    value, count = bytes(60_000), 300
    for clients in both:
        if on_redis:
            clients.say(
                0, resp((b"SET", b"k", value), *[(b"GET", b"k")] * count, (b"MGET", b"k", b"l"), (b"INCR", b"n"))
            )
            clients.say(1, resp(*[(b"GET", b"k"), (b"EXISTS", b"k")] * count))
        else:
            some = [Get(b"k")] * count, GetMany((b"k", b"l")), Incr(b"n", 1), Incr(b"k", 1)
            clients.say(0, frames(Set(b"k", value), *some[0], *some[1:]))
            clients.say(1, frames(*[Get(b"k"), Exists((b"k",))] * count))
        clients.node.pump()
        while clients.cluster.flying:
            clients.cluster.arrive()
        tracemalloc.start()
        clients.node.follow(1_000)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        tracemalloc.stop()
        clients.deliver()
    agree(*both)
    assert len(both[1].heard[0]) > count * len(value)


def test_commands_left_to_the_pure_path_keep_their_order() -> None:
    both = twins(2)
    for clients in both:
        clients.say(0, frames(Set(b"a", b"text"), Incr(b"a", 1), Get(b"a"), Set(b"n", b"9" * 18), Incr(b"n", 1)))
        clients.say(
            0, frames(Incr(b"n", 9 * 10**18), SetMany(0, ((b"k", b"1"), (b"l", b"2"), (b"k", b"3"))), Get(b"k"))
        )
        clients.say(1, frames(Ping(b"now"), Count()))
        clients.deliver()
    agree(*both)


def local(*commands: Command) -> bytes:
    """Their frames, with the flag that says that a moment ago is good enough."""
    return frames(*commands, flags=CommandFlag.LOCAL_READ)


def readable(store: ReplicatedStore) -> list[Command]:
    """Return a list that collects the commands which the store executes on the pure path from now on."""
    asked: list[Command] = []
    execute = store.execute

    def noting(command: Command, *arguments: Any, **options: Any) -> Any:
        asked.append(command)
        return execute(command, *arguments, **options)

    store.execute = noting  # type: ignore[method-assign]
    return asked


class TestLocalReads:
    def test_are_answered_at_once_without_a_proposal(self) -> None:
        for clients in twins(2):
            clients.say(0, frames(Set(b"k", b"1"), Set(b"l", b"2")))
            clients.deliver()
            clients.say(0, frames(Set(b"k", b"3")))
            logged, said = len(clients.cluster.stream), len(clients.cluster.flying)
            asked = readable(clients.node.running)
            clients.say(1, local(Get(b"k"), GetMany((b"k", b"l")), Exists((b"k", b"m")), Get(b"m")) * 2)
            assert codes(clients, 1) == ["1", "\0\0\0\x011\0\0\0\x012", "1", "Key"] * 2
            assert (len(clients.cluster.stream), len(clients.cluster.flying)) == (logged, said)
            assert len(asked) == (0 if clients.frame_executor else 8)

    def test_show_own_writes(self) -> None:
        for clients in twins(2):
            clients.say(0, frames(Set(b"k", b"1")))
            clients.deliver()
            clients.say(0, frames(Set(b"k", b"2")))
            clients.say(0, local(Get(b"k")))
            clients.say(1, local(Get(b"k")))
            assert codes(clients, 1) == ["1"]
            clients.say(1, local(Get(b"k"), Set(b"l", b"3"), Get(b"l")))
            assert codes(clients, 1) == ["1", "1"]
            clients.deliver()
            assert codes(clients) == ["OK", "OK", "2"]
            assert codes(clients, 1) == ["1", "1", "OK", "3"]
            clients.say(1, local(Get(b"l")))
            assert codes(clients, 1)[4:] == ["3"]

    def test_flag_of_a_write_is_not_in_the_log(self) -> None:
        clients = Clients(1, native_path_in_use=True, room=100_000)
        clients.say(0, local(Set(b"k", b"1"), Get(b"k"), Incr(b"n", 1)))
        clients.deliver()
        assert logged_with(clients, b"k") == frames(Set(b"k", b"1"), Incr(b"n", 1))

    def test_execute_at_once_behind_pending_reads_and_reply_in_order(self) -> None:
        for clients in twins(2):
            clients.say(0, frames(Set(b"k", b"1")))
            clients.deliver()
            clients.say(1, frames(Set(b"k", b"2")))
            clients.say(0, frames(Get(b"k")))
            clients.say(0, local(Get(b"k")) + frames(Get(b"k")) + local(Get(b"k")))
            assert codes(clients) == ["OK"]
            clients.deliver()
            assert codes(clients) == ["OK", "2", "1", "2", "1"]

    def test_continue_while_nothing_can_be_proposed(self) -> None:
        """Without a quorum, with a full log, on a stopped node; but not before the node has caught up."""
        for clients in twins(1):
            running = clients.node.running
            clients.say(0, frames(Set(b"k", b"1")))
            clients.deliver()
            asked = readable(running)
            said = local(Get(b"k")) + frames(Set(b"k", b"2"))
            running.refuses_growth = Failure(failures.LOGFULL, "the log is full")
            clients.say(0, said)
            running.refuses_growth = None
            clients.say(0, frames(Get(b"k")))
            clients.lose_quorum(12)
            clients.say(0, said)
            running.leave("it was told to")
            clients.say(0, said)
            assert codes(clients) == ["OK", "1", "LOGFULL", "NOQUORUM", "1", "NOQUORUM", "1", "STOPPED"]
            if clients.frame_executor:
                assert [type(command) for command in asked] == [Set] * 3
            running.loading = True
            clients.say(0, local(Get(b"k")))
            assert codes(clients)[-1] == "LOADING"

    def test_see_the_current_table(self) -> None:
        """After CLEAR_ALL, and after a snapshot has replaced the node's state."""
        for clients in twins(1):
            clients.say(0, frames(Set(b"k", b"1"), Set(b"l", b"2")))
            clients.deliver()
            early = clients.node.disk.copy()
            clients.say(0, local(Get(b"k")) + frames(ClearAll()))
            clients.deliver()
            clients.say(0, local(Get(b"k")))
            assert codes(clients) == ["OK", "OK", "1", "OK", "Key"]
            clients.node.take_snapshot(early)
            clients.say(0, local(Get(b"k")))
            assert codes(clients)[5:] == ["LOADING"]
            clients.cluster.settle()
            clients.say(0, local(Get(b"k")) + frames(Set(b"k", b"3")))
            clients.deliver()
            clients.say(0, local(Get(b"k")))
            assert codes(clients)[6:] == ["Key", "OK", "3"]

    def test_replies_that_are_longer_than_the_room_for_them(self) -> None:
        both = twins(2, room=1_000_000)
        for clients in both:
            clients.say(0, frames(*(Set(b"%d" % n, bytes([n]) * 300_000) for n in range(9))))
            clients.deliver()
            several = GetMany(tuple(b"%d" % n for n in range(9)))
            clients.say(1, local(*[Get(b"%d" % n) for n in range(9)], several, *[Get(b"1")] * 20))
        agree(*both)
        assert len(responses(both[1].heard[1])) == 30

    @given(st.integers(0, 2**32))
    def test_never_miss_own_writes(self, seed: int) -> None:
        """At any delay of entries, while another client writes the same keys."""
        chance = random.Random(seed)
        clients = Clients(2, native_path_in_use=True, room=chance.choice([100, 100_000]))
        written = [0, 0, 0]
        expected: list[int | None] = []
        for step in range(1, 40):
            said = b""
            for number in range(step * 10, step * 10 + chance.randrange(5)):
                key = chance.randrange(3)
                if writes := chance.random() < 0.4:
                    written[key] = number
                expected.append(None if writes else written[key])
                name = b"%d" % key
                said += frames(Set(name, b"%d" % number)) if writes else chance.choice([local, frames])(Get(name))
            clients.say(0, said)
            clients.say(1, frames(Set(b"%d" % chance.randrange(3), b"%d" % (1_000 + step))))
            for _ in range(chance.randrange(4)):
                node = chance.choice(clients.cluster.nodes)
                chance.choice((node.pump, node.follow, lambda: clients.cluster.flying and clients.cluster.arrive()))()
            for client in range(2):
                clients.turn(client)
        clients.deliver()
        replies = codes(clients)
        assert len(replies) == len(expected)
        effects = (effect for _, effects in clients.node.disk.commits for effect in effects)
        logged = [value for db, _, value, _ in effects if db == 0]
        for own, reply in zip(expected, replies, strict=True):
            if own is None:
                assert reply == "OK"
            elif own:
                shown = logged.index(reply.encode())
                assert shown >= logged.index(b"%d" % own), "it is the own write, or one behind it"


class TestFailures:
    def test_lost_entry_is_executed_once(self) -> None:
        both = twins(1, room=10_000)
        for clients in both:
            clients.say(0, frames(Incr(b"n", 1), Get(b"n"), Incr(b"n", 1), Set(b"k", b"v")))
            clients.node.pump()
            assert clients.cluster.flying
            while clients.cluster.flying:
                clients.cluster.refuse()
            clients.cluster.settle()
            clients.turn(0)
            assert codes(clients) == ["1", "1", "2", "OK"]

    def test_without_quorum_nothing_is_proposed(self) -> None:
        both = twins(1)
        for clients in both:
            clients.say(0, frames(Set(b"k", b"1")))
            clients.node.pump()
            clients.cluster.flying.clear()
            clients.lose_quorum(6)
            clients.say(0, frames(Set(b"k", b"2"), Get(b"k"), Ping(b"")))
            clients.lose_quorum(12)
        assert codes(both[0]) == ["UNKNOWN", "NOQUORUM", "NOQUORUM", "PONG"]
        assert codes(both[1]) == codes(both[0])

    def test_loss_of_the_quorum_fails_pending_commands(self) -> None:
        """Writes in flight fail as unknown, reads as not executed."""
        both = twins(2, room=10_000)
        for clients in both:
            clients.say(0, frames(Set(b"k", b"1"), Get(b"k"), Incr(b"n", 1)))
            clients.node.pump()
            clients.say(1, frames(Get(b"k")))
            clients.cluster.flying.clear()
            clients.lose_quorum(6)
            assert codes(clients, 0) == []
            assert codes(clients, 1) == ["NOQUORUM"]
            clients.lose_quorum(12)
            assert codes(clients, 0) == ["UNKNOWN", "NOQUORUM", "UNKNOWN"]

    def test_late_entry_counts_and_its_reply_is_discarded(self) -> None:
        """It counts on all nodes; a client that has already received UNKNOWN gets no second reply."""
        clients = Clients(1, native_path_in_use=True, room=10_000)
        clients.say(0, frames(Set(b"k", b"1"), Get(b"k"), Incr(b"n", 5)))
        clients.node.pump()
        clients.lose_quorum(16)
        assert codes(clients) == ["UNKNOWN", "NOQUORUM", "UNKNOWN"]
        clients.cluster.settle()
        clients.turn(0)
        assert codes(clients) == ["UNKNOWN", "NOQUORUM", "UNKNOWN"]
        assert clients.node.running.databases[0].get(b"n") == b"5"
        clients.say(0, frames(Get(b"k"), Incr(b"n", 1)))
        clients.deliver()
        assert codes(clients)[3:] == ["1", "6"]

    def test_closed_client(self) -> None:
        clients = Clients(1, native_path_in_use=True)
        clients.say(0, frames(Set(b"k", b"1"), Get(b"k")))
        clients.sessions[0].disconnected()
        clients.deliver()
        assert clients.node.running.databases[0].get(b"k") == b"1"

    def test_stopped_node(self) -> None:
        clients = Clients(1, native_path_in_use=True)
        clients.say(0, frames(Set(b"k", b"1"), Get(b"k")))
        clients.node.pump()
        clients.node.running.leave("it was told to")
        clients.turn(0)
        assert codes(clients) == ["UNKNOWN", "STOPPED"]
        clients.say(0, frames(Set(b"k", b"1"), Get(b"k")))
        assert codes(clients)[2:] == ["STOPPED", "STOPPED"]

    @given(st.integers(0, 2**32))
    def test_each_command_is_answered_once(self, seed: int) -> None:
        """Under loss, delay and repetition of entries."""
        chance = random.Random(seed)
        clients = Clients(3, native_path_in_use=True, room=chance.choice([100, 100_000]))
        expected = [0, 0, 0]
        flying = clients.cluster.flying
        for _ in range(30):
            client = chance.randrange(3)
            some = [chance.choice([Set(b"k", b"1"), Get(b"k"), Incr(b"n", 1), Count()]) for _ in range(6)]
            expected[client] += len(some)
            clients.say(client, frames(*some))
            clients.node.pump()
            clients.cluster.now += chance.choice([0, 0, 1, 6])
            clients.node.tick()
            for _ in range(chance.randrange(4)):
                if flying:
                    at = chance.randrange(len(flying))
                    what = chance.random()
                    if what < 0.5:
                        clients.cluster.arrive(0, again=chance.random() < 0.1)
                    elif what < 0.7:
                        clients.cluster.lose(at)
                    elif what < 0.9:
                        clients.cluster.refuse(at)
            clients.node.follow(chance.randrange(4))
        clients.cluster.settle()
        for _ in range(100):
            for client in range(3):
                clients.turn(client)
            clients.cluster.settle()
        assert [len(list(said(clients, client))) for client in range(3)] == expected


def test_refused_writes_get_the_reason() -> None:
    """Nothing is proposed while writes are refused."""
    both = twins(1)
    for clients in both:
        clients.node.running.refuses_growth = Failure(failures.LOGFULL, "the log is full")
        clients.say(0, frames(Set(b"k", b"1"), Get(b"k"), Clear(b"k")))
        clients.deliver()
        assert codes(clients)[0] == "LOGFULL"
    agree(*both)


def logged_with(clients: Clients, part: bytes, *, db: int = 0) -> bytes:
    """The frames of the one entry that has these bytes, of which all are for one keyspace."""
    (body,) = (parsed(data).body for data in clients.cluster.stream if part in parsed(data).body)
    (item,) = items(body)
    assert (item.kind, item.db) == (ItemKind.COMMANDS, db)
    return item.payload


def resp(*commands: tuple[bytes, ...]) -> bytes:
    return b"".join(request(*command) for command in commands)


def test_redis_commands_are_logged_as_native_frames() -> None:
    clients = Clients(1, native_path_in_use=True, width=None, room=100_000)
    clients.say(0, resp((b"SELECT", b"3"), (b"set", b"k", b"v"), (b"INCR", b"n"), (b"DEL", b"a", b"k", b"k")))
    clients.deliver()
    assert logged_with(clients, b"k", db=3) == frames(Set(b"k", b"v"), Incr(b"n", 1), ClearMany((b"a", b"k", b"k")))
    assert clients.heard[0] == b"+OK\r\n+OK\r\n:1\r\n:1\r\n"


def test_ttls_and_conditions_are_in_the_log() -> None:
    both = twins(1, width=None, room=100_000)
    for clients in both:
        asked = readable(clients.node.running)
        clients.say(
            0,
            resp(
                (b"SET", b"k", b"v", b"EX", b"10"),
                (b"set", b"l", b"v", b"nx", b"px", b"1"),
                (b"SET", b"l", b"w", b"PX", b"20", b"NX"),
                (b"SET", b"m", b"", b"XX"),
                (b"MSET", b"m", b"1", b"k", b"2", b"m", b"3"),
                (b"SET", b"m", b"4", b"XX"),
            ),
        )
        clients.deliver()
        assert clients.heard[0] == b"+OK\r\n+OK\r\n$-1\r\n$-1\r\n+OK\r\n+OK\r\n"
        assert len(asked) == (0 if clients.frame_executor else 6)
    agree(*both)
    assert logged_with(both[1], b"k") == frames(
        SetWith(b"k", b"v", ttl=10_000),
        SetWith(b"l", b"v", ttl=1, if_absent=True),
        SetWith(b"l", b"w", ttl=20, if_absent=True),
        SetWith(b"m", b"", if_present=True),
        SetMany(0, ((b"m", b"1"), (b"k", b"2"), (b"m", b"3"))),
        SetWith(b"m", b"4", if_present=True),
    )


def test_key_expired_in_log_time_is_absent_for_conditions() -> None:
    both = twins(1, width=None, room=100_000)
    for clients in both:
        clients.say(0, resp(*[(b"SET", key, b"v", b"PX", b"5") for key in (b"k", b"l", b"m")]))
        clients.deliver()
        clients.cluster.now += 1
        asked = readable(clients.node.running)
        clients.heard[0] = b""
        clients.say(
            0,
            resp(
                (b"SET", b"k", b"w", b"NX"),
                (b"SET", b"l", b"w", b"XX"),
                (b"SET", b"m", b"w", b"NX", b"PX", b"900"),
                (b"MGET", b"k", b"l", b"m"),
            ),
        )
        clients.deliver()
        assert clients.heard[0] == b"+OK\r\n$-1\r\n+OK\r\n*3\r\n$1\r\nw\r\n$-1\r\n$1\r\nw\r\n"
        assert len(asked) == (0 if clients.frame_executor else 4)
        entries = [clients.node.running.databases[0].entry(key) for key in (b"k", b"m")]
        assert [entry is not None and entry[1] is not None for entry in entries] == [False, True], (
            "of the old one nothing is left"
        )
    agree(*both)


def test_ttl_is_proposed_on_the_native_protocol_too() -> None:
    both = twins(1, room=100_000)
    some = frames(
        SetWith(b"k", b"v", ttl=5), SetMany(7, ((b"l", b"1"), (b"m", b"2"))), SetWith(b"k", b"", keep_ttl=True)
    )
    for clients in both:
        asked = readable(clients.node.running)
        clients.say(0, some + frames(Get(b"k")))
        clients.deliver()
        assert codes(clients) == ["1", "OK", "1", ""]
        assert len(asked) == (1 if clients.frame_executor else 4)
    agree(*both)


def test_a_readonly_connection_reads_locally() -> None:
    for clients in twins(2, width=None, room=100_000):
        clients.say(0, resp((b"SET", b"k", b"1"), (b"SET", b"l", b"2")))
        clients.say(1, resp((b"READONLY",)))
        clients.deliver()
        clients.say(0, resp((b"SET", b"k", b"3")))
        asked = readable(clients.node.running)
        clients.heard[1] = b""
        clients.say(1, resp((b"GET", b"k"), (b"MGET", b"k", b"no"), (b"EXISTS", b"k", b"l")))
        assert clients.heard[1] == b"$1\r\n1\r\n*2\r\n$1\r\n1\r\n$-1\r\n:2\r\n"
        assert len(asked) == (0 if clients.frame_executor else 3)
        clients.say(1, resp((b"SET", b"l", b"4"), (b"GET", b"l")))
        clients.deliver()
        assert clients.heard[1].endswith(b"+OK\r\n$1\r\n4\r\n")
        clients.say(1, resp((b"READWRITE",), (b"GET", b"k")))
        assert clients.heard[1].endswith(b"+OK\r\n")
        clients.deliver()
        assert clients.heard[1].endswith(b"+OK\r\n$1\r\n3\r\n")


def test_redis_commands_left_to_the_pure_path_keep_their_order() -> None:
    both = twins(2, width=None, room=100_000)
    for clients in both:
        clients.say(0, resp((b"SET", b"a", b"text"), (b"INCR", b"a"), (b"MGET", b"a", b"b"), (b"GET", b"a")))
        clients.say(1, resp(*((b"SET", b"%d" % n, b"x" * 3_000) for n in range(1_000))))
        clients.deliver()
        clients.say(1, resp((b"MGET", *(b"%d" % n for n in range(100))), *((b"DEL", b"%d" % n) for n in range(1_000))))
        clients.say(0, resp((b"READONLY",), (b"INCR", b"n"), (b"GET", b"n"), (b"PING",)))
        clients.deliver()
    agree(*both)


def test_loss_of_the_quorum_is_reported_on_the_redis_protocol() -> None:
    for clients in twins(1, width=None, room=10_000):
        clients.say(0, resp((b"SET", b"k", b"1"), (b"GET", b"k")))
        clients.node.pump()
        clients.cluster.flying.clear()
        clients.lose_quorum(18)
        unknown, no_quorum = clients.heard[0].splitlines()
        assert b"UNKNOWN" in unknown
        assert no_quorum.startswith(b"-CLUSTERDOWN")

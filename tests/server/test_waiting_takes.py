"""TAKE commands that wait for messages, over real servers on each event loop."""

import random
import threading
from collections.abc import Callable

import pytest

from cairnkv.commands import Ack, Look, Ping, Put, PutMany, QueueStats, Set, Take, TakeAny
from cairnkv.protocol.native import Response, write_command
from cairnkv.store import wall_clock
from cairnkv.testing import ManualClock, RunningServer
from tests.server.conftest import Start
from tests.support.late_storage import LateStorage
from tests.support.raw import OK, PONG, RawClient, all_of, eventually, failed_with

EMPTY = Response(True, b"")
WAIT = Take(b"q", 1, wait=20_000)


def waiting(server: RunningServer) -> int:
    """The number of TAKE commands that wait."""
    return int(dict(server.call(server.server.store.info))["waiting_takes"])


def wait_for(server: RunningServer, count: int) -> None:
    """Wait until so many TAKE commands wait."""
    eventually(lambda: waiting(server) == count)


def strings(reply: Response) -> list[bytes]:
    """The strings of a successful reply."""
    assert reply.ok, reply
    found, at = [], 0
    while at < len(reply.payload):
        length = int.from_bytes(reply.payload[at : at + 4])
        found.append(reply.payload[at + 4 : at + 4 + length])
        at += 4 + length
    return found


def body(reply: Response) -> bytes:
    """The body of the only message of a reply."""
    *_, last = strings(reply)
    return last


def counts(client: RawClient) -> list[int]:
    """The ready, delayed, leased and dead messages of the queue."""
    return [int(value) for value in strings(client.ask(QueueStats(b"q")))[1:9:2]]


@pytest.fixture
def server(start_on_both: Start) -> RunningServer:
    """A server in memory."""
    return start_on_both()


def test_take_waits_for_a_put_of_another_client(server: RunningServer) -> None:
    with RawClient(server.address) as taker, RawClient(server.address) as producer:
        taker.send_commands([WAIT])
        wait_for(server, 1)
        assert strings(producer.ask(Put(b"q", b"work"))) == [b"2", b"1"]
        assert body(taker.reply()) == b"work"
        assert waiting(server) == 0


def test_commands_behind_a_waiting_take_wait_and_others_do_not(server: RunningServer) -> None:
    with RawClient(server.address) as taker, RawClient(server.address) as other:
        taker.send_commands([Set(b"k", b"1"), WAIT, Set(b"k", b"2"), Ping(b"")])
        assert taker.reply() == OK
        wait_for(server, 1)
        taker.send_commands([Set(b"k", b"3"), TakeAny(1, 0, 20_000, (b"q", b"r"))])
        assert other.ask(Ping(b"")) == PONG
        assert server.call(lambda: server.server.store.databases[0].get(b"k")) == b"1"
        other.ask(Put(b"q", b"work"))
        assert body(taker.reply()) == b"work"
        assert taker.replies(3) == [OK, PONG, OK]
        wait_for(server, 1)
        other.ask(Put(b"r", b"more work"))
        assert body(taker.reply()) == b"more work"


def test_wait_ends_with_an_empty_reply_at_its_time(server: RunningServer) -> None:
    assert isinstance(server.clock, ManualClock)
    with RawClient(server.address) as taker:
        taker.send_commands([Take(b"q", 1, wait=5_000), Ping(b"")])
        wait_for(server, 1)
        server.clock.advance(5)
        assert taker.replies(2) == [EMPTY, PONG]


def test_waits_and_delays_of_real_time_end_by_a_timer(start_on_both: Start) -> None:
    server = start_on_both(clock=wall_clock)
    with RawClient(server.address) as taker:
        assert taker.ask(Take(b"q", 1, wait=20)) == EMPTY
        taker.send_commands([Put(b"q", b"later", delay=30), WAIT])
        assert taker.reply().ok
        assert body(taker.reply()) == b"later"


def test_waiting_take_gets_a_message_at_the_end_of_its_delay(server: RunningServer) -> None:
    assert isinstance(server.clock, ManualClock)
    with RawClient(server.address) as taker, RawClient(server.address) as producer:
        producer.ask(Put(b"q", b"later", delay=3_000))
        taker.send_commands([WAIT])
        wait_for(server, 1)
        server.clock.advance(3)
        assert body(taker.reply()) == b"later"


def test_too_long_a_wait_is_refused(server: RunningServer) -> None:
    with RawClient(server.address) as client:
        longer = write_command(WAIT).replace(b"20000", b"20001")
        client.send(longer)
        assert failed_with(client.reply(), "BADARGS")
        assert client.ask(Ping(b"")) == PONG


# -- commits ------------------------------------------------------------------------------------------------------


def test_reply_leaves_when_the_lease_is_committed(start_on_both: Start) -> None:
    storage = LateStorage(keeps_effects=True)
    server = start_on_both(storage=storage)
    with RawClient(server.address) as taker, RawClient(server.address) as producer:
        taker.send_commands([WAIT, Ping(b"")])
        wait_for(server, 1)
        producer.send_commands([Put(b"q", b"work")])
        wait_for(server, 0)
        taker.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            taker.reply()
        taker.socket.settimeout(20)
        server.call(storage.commit)
        assert body(taker.reply()) == b"work"
        assert taker.reply() == PONG
        assert strings(producer.reply()) == [b"2", b"1"]


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, RawClient.half_close])
def test_lease_is_given_back_if_the_client_leaves_before_the_commit(
    start_on_both: Start, leave: Callable[[RawClient], None]
) -> None:
    storage = LateStorage(keeps_effects=True)
    server = start_on_both(storage=storage)
    with RawClient(server.address) as taker, RawClient(server.address) as producer:
        taker.send_commands([WAIT])
        wait_for(server, 1)
        producer.send_commands([Put(b"q", b"work")])
        wait_for(server, 0)
        entries = server.call(lambda: len(storage.pending))
        leave(taker)
        eventually(lambda: server.call(lambda: len(storage.pending)) > entries)
        server.call(storage.commit)
        assert strings(producer.reply()) == [b"2", b"1"]
        assert counts(producer) == [1, 0, 0, 0]
        looked = strings(producer.ask(Look(2)))
        assert (looked[2], looked[6]) == (b"ready", b"0"), "the attempt does not count"
        if leave is RawClient.half_close:
            assert taker.reply() == EMPTY


# -- clients that disconnect --------------------------------------------------------------------------------------


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset, RawClient.half_close])
def test_client_that_leaves_takes_nothing(server: RunningServer, leave: Callable[[RawClient], None]) -> None:
    with RawClient(server.address) as taker, RawClient(server.address) as producer:
        taker.send_commands([WAIT])
        wait_for(server, 1)
        leave(taker)
        wait_for(server, 0)
        producer.ask(Put(b"q", b"work"))
        assert counts(producer) == [1, 0, 0, 0]


def test_disconnect_is_noticed_behind_commands_that_wait(server: RunningServer) -> None:
    with RawClient(server.address) as taker, RawClient(server.address) as other:
        taker.send_commands([WAIT, *[Set(b"k", b"v")] * 1_000])
        wait_for(server, 1)
        taker.close()
        wait_for(server, 0)
        assert other.ask(Ping(b"")) == PONG


def test_client_that_sends_no_more_gets_its_replies_without_waiting(server: RunningServer) -> None:
    with RawClient(server.address) as taker:
        taker.send_commands([WAIT, Ping(b""), WAIT, Ping(b"")])
        taker.half_close()
        assert taker.rest() == [EMPTY, PONG, EMPTY, PONG]


def test_server_that_stops_ends_waits(start: Start) -> None:
    server = start()
    with RawClient(server.address) as taker:
        taker.send_commands([WAIT, Ping(b"")])
        wait_for(server, 1)
        server.call(server.server.request_stop)
        assert taker.rest() == [EMPTY, PONG]


def test_waiting_client_is_not_idle(start_on_both: Start) -> None:
    server = start_on_both(idle_timeout="100ms")
    with RawClient(server.address) as taker:
        taker.send_commands([WAIT])
        wait_for(server, 1)
        for _ in range(2):
            with RawClient(server.address) as idle:
                assert idle.ask(Ping(b"")) == PONG
                assert failed_with(idle.reply(), "TIMEOUT"), "a client that has been idle for a shorter time"
        assert waiting(server) == 1


def test_waiting_client_does_not_fill_the_server(start: Start) -> None:
    """The server reads on behind a waiting TAKE, up to a limit."""
    server = start(max_value="1MiB", max_frame="2MiB", max_unfinished="8MiB")
    with RawClient(server.address) as taker, RawClient(server.address) as producer:
        taker.send_commands([WAIT])
        wait_for(server, 1)
        value = write_command(Set(b"k", bytes(1_000)))
        sent = taker.send_until_refused(value * 100, most=64 * 2**20, quiet=0.3)
        assert sent < 32 * 2**20
        producer.ask(Put(b"q", b"work"))
        assert body(taker.reply()) == b"work"
        assert taker.replies(sent // len(value)) == [OK] * (sent // len(value))


# -- many ---------------------------------------------------------------------------------------------------------


def test_a_thousand_waiting_clients_and_a_burst(start_on_both: Start) -> None:
    server = start_on_both()
    with all_of(RawClient(server.address) for _ in range(1_000)) as takers, RawClient(server.address) as producer:
        for taker in takers:
            taker.send_commands([WAIT])
        wait_for(server, 1_000)
        bodies = tuple(b"%d" % at for at in range(1_000))
        assert producer.ask(PutMany(b"q", 0, 1_000, bodies)).ok
        assert producer.ask(Ping(b"")) == PONG
        got = [body(taker.reply()) for taker in takers]
        assert sorted(got) == sorted(bodies)
        assert counts(producer) == [0, 0, 1_000, 0]
        wait_for(server, 0)


def test_each_message_is_done_once_though_workers_disconnect(start_on_both: Start) -> None:
    clock = ManualClock()
    server = start_on_both(clock=clock)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    sent = [b"%d" % at for at in range(300)]
    done: list[bytes] = []

    def work() -> None:
        with RawClient(server.address) as worker:
            while b"end" not in (found := strings(worker.ask(Take(b"q", 2, wait=20_000)))):
                pairs = list(zip(found[::7], found[1::7], found[6::7], strict=True))
                acked = Ack(tuple((int(number), int(lease)) for number, lease, _ in pairs))
                done.extend(
                    message for (*_, message), ok in zip(pairs, strings(worker.ask(acked)), strict=True) if ok == b"1"
                )

    workers = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    with RawClient(server.address) as producer:
        for worker in workers:
            worker.start()
        for message in sent:
            assert producer.ask(Put(b"q", message, lease=1_000)).ok
            if chance.random() < 0.2:
                with RawClient(server.address) as leaver:
                    leaver.send_commands([WAIT])
                    if chance.random() < 0.5:
                        leaver.reset()

        def all_done() -> bool:
            clock.advance(1)  # leases of clients that have left end
            return not any(counts(producer))

        eventually(all_done)
        for _ in workers:
            producer.ask(PutMany(b"q", 0, 1_000, (b"end", b"end")))
        for worker in workers:
            worker.join(60)
            assert not worker.is_alive()
    assert sorted(done) == sorted(sent)

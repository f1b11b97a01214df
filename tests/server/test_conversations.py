"""Every client gets all of its replies in order, under any behaviour of this and other clients."""

import contextlib
import logging
import threading
import time
from pathlib import Path

import pytest

from cairnkv.commands import ClearAll, Get, GetMany, Info, Ping, Scan, Set
from cairnkv.limits import COMMANDS_PER_SLICE, DISCARD_BYTES, DISCARD_TIMEOUT, MIB, UNSENT_PAUSE
from cairnkv.protocol.native import Response, Width, unpack_strings, write_command
from cairnkv.server import connection
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.late_storage import LateStorage
from tests.support.raw import OK, PING, PING_4, PONG, RawClient, all_of, eventually, failed_with
from tests.support.resp import request

BAD_FRAME = bytes.fromhex("00000f000000016b")

WIDTHS: list[Width] = [2, 4]


def connections(server: RunningServer) -> int:
    """How many connections the server has."""
    return int(info(server)["connections"])


def info(server: RunningServer) -> dict[str, str | int]:
    """Return the fields of INFO."""
    return dict(server.call(server.server.store.info))


# -- pieces ------------------------------------------------------------------------------------------------------


def test_thousand_connections_within_a_frame(start_on_both: Start) -> None:
    server = start_on_both()
    frames = [write_command(Set(b"key-%d" % n, b"value-%d" % n), width=WIDTHS[n % 2]) for n in range(1_000)]
    with all_of(RawClient(server.address) for _ in frames) as clients:
        for client, frame in zip(clients, frames, strict=True):
            client.send(frame[: len(frame) // 2])
        half = sum(len(frame) // 2 for frame in frames)
        eventually(lambda: info(server)["unfinished_bytes"] == half)
        assert info(server)["keys"] == 0
        for client, frame in zip(clients, frames, strict=True):
            client.send(frame[len(frame) // 2 :])
        assert [client.reply() for client in clients] == [OK] * 1_000
        for n, client in enumerate(clients):
            assert client.ask(Get(b"key-%d" % n), width=WIDTHS[n % 2]) == Response(True, b"value-%d" % n)
    assert info(server)["unfinished_bytes"] == 0


def test_clients_ready_at_once_get_their_own_replies(start_on_both: Start) -> None:
    """The native event path serves some of them in one batch; the bytes of one do not affect the others."""
    server = start_on_both()
    value = {n: b"value-%d" % n * (1 + n * 97 % 2_000) for n in range(60)}
    with all_of(RawClient(server.address) for _ in value) as clients:
        for n, client in enumerate(clients):
            assert client.ask(Set(b"key-%d" % n, value[n])) == OK

        def say() -> None:  # in the server's thread, which looks when all has been said
            for n, client in enumerate(clients):
                own = [Get(b"key-%d" % n), Ping(b"%d" % n), Get(b"key-%d" % n)]
                match n % 6:
                    case 0 | 1:
                        client.send_commands(own * 20)
                    case 2:
                        client.send_commands([*own, Scan(0, 1, b""), *own])  # one for the readable way in between
                    case 3:
                        client.send(b"".join(map(write_command, own)) + BAD_FRAME)
                    case 4:
                        client.send(b"".join(map(write_command, own)) + PING[:-1])
                    case 5:
                        client.send_commands(own)
                        client.reset()

        server.call(say)
        for n, client in enumerate(clients):
            own_replies = [Response(True, value[n]), Response(True, b"%d" % n), Response(True, value[n])]
            match n % 6:
                case 0 | 1:
                    assert client.replies(60) == own_replies * 20
                case 2:
                    replies = client.replies(7)
                    assert replies[:3] + replies[4:] == own_replies * 2
                case 3:
                    assert client.replies(3) == own_replies
                    assert failed_with(client.reply(), "BADFRAME")
                case 4:
                    client.send(PING[-1:])
                    assert client.replies(4) == [*own_replies, PONG]
    eventually(lambda: connections(server) == 0)


def test_large_value_in_pieces_beside_small_commands(start_on_both: Start) -> None:
    server = start_on_both()
    value = bytes(range(256)) * 4 * 1024
    frame = write_command(Set(b"large", value)) + PING
    with RawClient(server.address) as slow, RawClient(server.address) as other:
        for at in range(0, len(frame), 100_000):
            slow.send(frame[at : at + 100_000])
            assert other.ask(Ping(b"%d" % at)) == Response(True, b"%d" % at)
        assert slow.replies(2) == [OK, PONG]
        assert other.ask(Get(b"large")) == Response(True, value)


# -- clients that go ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", PING[:1], write_command(Set(b"k", b"v" * MIB))[:-1], PING * 10_000])
def test_reset_connection_leaves_nothing_behind(start_on_both: Start, sent: bytes) -> None:
    server = start_on_both()
    with RawClient(server.address) as other:
        client = RawClient(server.address)
        client.send(sent)
        client.reset()
        eventually(lambda: info(server)["connections_accepted"] == 2 and connections(server) == 1)
        eventually(lambda: info(server)["unfinished_bytes"] == 0)
        assert info(server)["keys"] == 0
        assert other.ask(Ping(b"")) == PONG


def test_reset_client_does_not_block_the_drain(start_on_both: Start) -> None:
    """The server gets its stop signal in the very loop iteration in which a client's reset has arrived."""
    server = start_on_both()
    clients = [RawClient(server.address) for _ in range(20)]
    for client in clients:
        assert client.ask(Ping(b"")) == PONG
    all_reset = threading.Event()

    def drain_unawares() -> None:
        assert all_reset.wait(20)
        for one in list(server.server._connections):
            one.drain()

    caller = threading.Thread(target=server.call, args=(drain_unawares,))
    caller.start()
    for client in clients:
        client.reset()
    all_reset.set()
    caller.join(20)
    eventually(lambda: connections(server) == 0)


@pytest.mark.parametrize("ping", [PING, PING_4], ids=["two-byte", "four-byte"])
def test_half_closed_client_gets_every_reply(start_on_both: Start, ping: bytes) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(ping * 5_000 + ping[:3])
        client.half_close()
        assert client.rest() == [PONG] * 5_000
    eventually(lambda: connections(server) == 0)


def test_slow_half_closed_client_gets_every_reply(start_on_both: Start, tmp_path_unix: str) -> None:
    """Also after the time that the server waits for input behind the end."""
    value = b"v" * (UNSENT_PAUSE - 10_000)
    server = start_on_both(unix=tmp_path_unix)
    with RawClient(tmp_path_unix, receive_buffer=4_096) as client:
        client.send_commands([Set(b"k", value), Get(b"k")])
        client.half_close()
        assert client.reply() == OK
        time.sleep(DISCARD_TIMEOUT + 0.7)
        assert client.rest() == [Response(True, value)]
    eventually(lambda: connections(server) == 0)


def test_half_closed_client_frees_its_connection_at_once(start_on_both: Start) -> None:
    """No input can arrive, so its place is free for another client."""
    server = start_on_both(max_connections=1)
    begun = time.monotonic()
    for _ in range(20):
        with RawClient(server.address) as client:
            client.send(PING)
            client.half_close()
            assert client.rest() == [PONG]
        eventually(lambda: connections(server) == 0)
    assert time.monotonic() - begun < 20 * DISCARD_TIMEOUT / 2


def test_pending_replies_reach_a_half_closed_client(start_on_both: Start) -> None:
    storage = LateStorage()
    server = start_on_both(storage=storage)
    with RawClient(server.address) as client, RawClient(server.address) as other:
        client.send_commands([Set(b"k", b"1"), Get(b"k"), Ping(b"behind")])
        client.half_close()
        eventually(lambda: server.call(lambda: len(storage.pending)) == 1)
        assert other.ask(Ping(b"")) == PONG
        server.call(storage.commit)
        assert client.rest() == [OK, Response(True, b"1"), Response(True, b"behind")]


def test_pending_replies_leave_before_a_drain_ends(start_on_both: Start) -> None:
    storage = LateStorage()
    server = start_on_both(storage=storage)
    with RawClient(server.address) as client:
        client.send_commands([Set(b"k", b"1"), Ping(b"behind")])
        eventually(lambda: server.call(lambda: len(storage.pending)) == 1)
        server.call(lambda: [connection.drain() for connection in list(server.server._connections)])
        server.call(storage.commit)
        assert client.rest() == [OK, Response(True, b"behind")]


# -- failures that end a connection --------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1, 100_000, DISCARD_BYTES - 100_000])
def test_failure_arrives_while_the_client_still_sends(start_on_both: Start, behind: int) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(PING + BAD_FRAME)
        client.send(b"\xff" * behind)
        assert client.reply() == PONG
        assert failed_with(client.reply(), "BADFRAME")
        assert client.is_closed()


def test_client_that_never_stops_sending_is_closed(start_on_both: Start) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(BAD_FRAME)
        with pytest.raises(ConnectionError):
            client.send(bytes(1_000 * MIB))
    eventually(lambda: connections(server) == 0)


def test_client_that_trickles_after_a_failure_is_closed(start_on_both: Start) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(BAD_FRAME)
        with pytest.raises(ConnectionError):
            client.send_in_pieces(bytes(2_000), pause=0.01)
    eventually(lambda: connections(server) == 0)


def test_commands_after_a_failure_are_not_executed(start_on_both: Start) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        client.send(write_command(Set(b"before", b"")) + BAD_FRAME + write_command(Set(b"behind", b"")) * 100)
        assert client.reply() == OK
        assert failed_with(client.reply(), "BADFRAME")
        assert client.is_closed()
    assert info(server)["keys"] == 1


# -- times -------------------------------------------------------------------------------------------------------


def test_unfinished_frame_times_out(start_on_both: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The time counts from the first byte of the frame, not from the last one received."""
    caplog.set_level(logging.INFO, "cairnkv.clients")
    server = start_on_both(frame_timeout=0.5)
    with RawClient(server.address) as client:
        assert client.ask(Ping(b"")) == PONG
        client.socket.settimeout(0.05)
        client.send(write_command(Set(b"k", b"v" * 10_000))[:-5_000])
        end = time.monotonic() + 20
        answer = b""
        while not answer and time.monotonic() < end:
            client.send(b"v")
            with contextlib.suppress(TimeoutError):
                answer = client.socket.recv(1_000)
        client.decoder.feed(answer)
        assert failed_with(client.reply(), "TIMEOUT")
        client.socket.settimeout(20)
        assert client.is_closed()
    assert "not finished in 0.5 s" in caplog.text


def test_frame_timeout_is_per_frame(start: Start) -> None:
    server = start(frame_timeout=3)
    with RawClient(server.address) as client:
        end = time.monotonic() + 4
        while time.monotonic() < end:  # each frame lasts a tenth of the timeout, and there is always one begun
            client.send(PING[3:] + PING[:3] if client.decoder.consumed else PING + PING[:3])
            assert client.reply() == PONG
            time.sleep(0.25)


def test_idle_client_times_out(start_on_both: Start) -> None:
    server = start_on_both(idle_timeout=0.3)
    with RawClient(server.address) as silent, RawClient(server.address) as spoke_once:
        assert spoke_once.ask(Ping(b"")) == PONG
        for client in (silent, spoke_once):
            assert failed_with(client.reply(), "TIMEOUT")
            assert client.is_closed()


def test_idle_timeout_of_zero_is_unlimited(start: Start) -> None:
    server = start(idle_timeout="0")
    with RawClient(server.address) as client:
        assert client.ask(Ping(b"")) == PONG
        ahead = server.call(lambda: server.loop.time()) + 1_000_000
        server.call(lambda: [connection.check_times(ahead) for connection in server.server._connections])
        assert client.ask(Ping(b"")) == PONG


def test_client_that_never_reads_is_bounded_and_closed(
    start_on_both: Start, caplog: pytest.LogCaptureFixture, tmp_path_unix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps as many of its commands and replies as the limits allow, and closes it in the end."""
    monkeypatch.setattr(connection, "READ_AHEAD_MAX", 2 * MIB)
    monkeypatch.setattr(connection, "CLIENT_UNSENT_MAX", 8 * MIB)
    value = b"v" * MIB
    server = start_on_both(unix=tmp_path_unix, stall_timeout=4.0)
    get = write_command(Get(b"k"))
    with RawClient(server.address) as other, RawClient(tmp_path_unix) as client:
        assert other.ask(Set(b"k", value)) == OK
        assert 2 * MIB < client.send_until_refused(get * 1_000, most=100 * MIB, quiet=0.3) < 20 * MIB
        held = server.call(lambda: [one.unsent for one in server.server._connections])
        assert 7 * MIB < max(held) <= 8 * MIB + len(value) + 100
        assert MIB <= int(info(server)["unfinished_bytes"]) <= 3 * MIB
        assert other.ask(Ping(b"")) == PONG
        eventually(lambda: connections(server) == 1)
    assert "read none of its" in caplog.text


def test_client_that_sends_but_never_reads_times_out(start_on_both: Start, tmp_path_unix: str) -> None:
    """Commands are no sign of life while unsent replies wait."""
    server = start_on_both(unix=tmp_path_unix, stall_timeout=1.0)
    with RawClient(server.address) as other, RawClient(tmp_path_unix) as client:
        assert other.ask(Set(b"k", b"v" * MIB)) == OK
        client.send(write_command(Get(b"k")) * 4)
        until = time.monotonic() + 20
        while connections(server) == 2:
            assert time.monotonic() < until
            with contextlib.suppress(OSError):
                client.send(write_command(Ping(b"")))
            time.sleep(0.1)


def test_slow_reader_does_not_time_out(start_on_both: Start, tmp_path_unix: str) -> None:
    """Taken bytes count, even if a single reply lasts longer than the timeout."""
    value = b"v" * (4 * MIB)
    start_on_both(unix=tmp_path_unix, stall_timeout=1.0)
    with RawClient(tmp_path_unix) as client:
        assert client.ask(Set(b"k", value)) == OK
        client.send(write_command(Get(b"k")))
        received = 0
        while received < len(value) + 6:
            data = client.socket.recv(256 * 1024)
            assert data, "closed by the server"
            received += len(data)
            time.sleep(0.15)


# -- pipelines ---------------------------------------------------------------------------------------------------


def set_k(protocol: str, value: bytes) -> bytes:
    """A SET of the key k."""
    return write_command(Set(b"k", value)) if protocol == "native" else request(b"SET", b"k", value)


def got(protocol: str, value: bytes) -> bytes:
    """The reply to GET_K."""
    if protocol == "native":
        return b"\x000%b%b" % (len(value).to_bytes(4, "big"), value)
    return b"$%d\r\n%b\r\n" % (len(value), value)


GET_K = {"native": write_command(Get(b"k")), "Redis": request(b"GET", b"k")}
SET_REPLY = {"native": b"\x000\0\0\0\x02OK", "Redis": b"+OK\r\n"}


def bytes_of(client: RawClient, size: int) -> bytes:
    """So many bytes from the server."""
    received = bytearray()
    while len(received) < size:
        data = client.socket.recv(min(MIB, size - len(received)))
        assert data, f"closed after {len(received):,} of {size:,} bytes"
        received += data
    return bytes(received)


@pytest.mark.parametrize("protocol", ["native", "Redis"])
@pytest.mark.parametrize(("count", "size"), [(100_000, 100), (20_000, 1_000), (40, MIB)])
def test_pipeline_sent_before_any_read_gets_all_replies(
    start_on_both: Start, protocol: str, count: int, size: int
) -> None:
    """As most Redis clients send a pipeline: nothing is read before all is sent."""
    value = bytes(size)
    with RawClient(start_on_both().address) as client:
        client.send(set_k(protocol, value) + GET_K[protocol] * count)
        assert bytes_of(client, len(SET_REPLY[protocol])) == SET_REPLY[protocol]
        reply = got(protocol, value)
        for _ in range(0, count, count // 40):
            assert bytes_of(client, len(reply) * (count // 40)) == reply * (count // 40)


@pytest.mark.parametrize("protocol", ["native", "Redis"])
def test_long_commands_sent_before_any_read_get_all_replies(
    start_on_both: Start, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands beyond the read-ahead limit are executed, though replies wait; frames longer than it are read, too."""
    monkeypatch.setattr(connection, "READ_AHEAD_MAX", MIB)
    with RawClient(start_on_both().address) as client:
        values = [bytes((number % 256,)) * (3 * MIB if number % 100 == 7 else 20_000) for number in range(1_000)]
        pairs = [set_k(protocol, value) + GET_K[protocol] for value in values]
        client.send(b"".join(pairs))
        for value in values:
            reply = SET_REPLY[protocol] + got(protocol, value)
            assert bytes_of(client, len(reply)) == reply


@pytest.mark.parametrize("protocol", ["native", "Redis"])
def test_disk_pipeline_sent_before_any_read_gets_all_replies(start: Start, protocol: str, tmp_path: Path) -> None:
    with RawClient(start(data=str(tmp_path / "data")).address) as client:
        value = bytes(2_000)
        client.send((set_k(protocol, value) + GET_K[protocol] * 9) * 2_000)
        reply = SET_REPLY[protocol] + got(protocol, value) * 9
        for _ in range(20):
            assert bytes_of(client, len(reply) * 100) == reply * 100


def test_pipeline_longer_than_many_turns(start_on_both: Start) -> None:
    count = 20 * COMMANDS_PER_SLICE + 1
    texts = [b"%d" % n for n in range(count)]
    with RawClient(start_on_both().address) as client:
        sender = threading.Thread(target=client.send_commands, args=([Ping(text) for text in texts],))
        sender.start()
        assert [reply.payload for reply in client.replies(count)] == texts
        sender.join(20)


def test_pipeline_with_more_replies_than_may_wait_unsent(start_on_both: Start) -> None:
    """Both directions are full at times; all replies arrive in order once the client reads."""
    keys = [b"key-%d" % n for n in range(10)]
    values = {key: key * 30_000 for key in keys}
    with RawClient(start_on_both().address) as client:
        for key in keys:
            assert client.ask(Set(key, values[key])) == OK
        wanted = keys * 20
        assert sum(len(values[key]) for key in wanted) > 20 * UNSENT_PAUSE
        sender = threading.Thread(target=client.send_commands, args=([Get(key) for key in wanted],))
        sender.start()
        for key in wanted:
            assert client.reply() == Response(True, values[key])
        sender.join(20)
        assert client.ask(GetMany(tuple(keys))).payload.count(b"key-1key-1") > 0


def test_huge_pipeline_does_not_starve_another_client(start_on_both: Start) -> None:
    count = 400_000
    server = start_on_both()
    with RawClient(server.address) as greedy, RawClient(server.address) as modest:
        done = threading.Event()

        def read_all() -> None:
            assert greedy.replies(count) == [PONG] * count
            done.set()

        threads = [threading.Thread(target=greedy.send, args=(PING * count,)), threading.Thread(target=read_all)]
        for thread in threads:
            thread.start()
        for n in range(10):
            assert modest.ask(Ping(b"%d" % n)) == Response(True, b"%d" % n)
        assert not done.is_set(), "ten pings took as long as four hundred thousand"
        for thread in threads:
            thread.join(60)
        assert done.is_set()


def test_scans_of_a_large_table_do_not_starve_another_client(start: Start) -> None:
    """A frame of 40 bytes can ask for milliseconds of work: a turn has few of them."""
    server = start()

    def fill() -> None:
        for n in range(100_000):
            server.server.store.execute(Set(b"key-%d" % n, b""))

    scan = Scan(0, 10_000, b"no key begins so")
    server.call(fill)
    begun = time.monotonic()
    server.call(lambda: [server.server.store.execute(scan) for _ in range(100)])
    one_scan = (time.monotonic() - begun) / 100
    with RawClient(server.address) as greedy, RawClient(server.address) as modest:
        greedy.send_commands([scan] * 10_000)
        begun = time.monotonic()
        for _ in range(20):
            assert modest.ask(Ping(b"")) == PONG
        # Turns of nothing but scans would take each ping some seconds here, and all of them half a minute.
        assert time.monotonic() - begun < max(10, 20 * COMMANDS_PER_SLICE / 5 * one_scan)
        greedy.reset()


# -- the background ------------------------------------------------------------------------------------------------


def test_clear_of_a_large_table_does_not_stall_other_clients(start_on_both: Start) -> None:
    server = start_on_both()

    def fill() -> None:
        for n in range(200_000):
            server.server.store.execute(Set(b"key-%d" % n, b"value"))

    server.call(fill)
    with RawClient(server.address) as client, RawClient(server.address) as other:
        client.send_commands([ClearAll()])
        longest = 0.0
        freed = False
        end = time.monotonic() + 20
        while not freed:
            begun = time.monotonic()
            assert begun < end
            assert other.ask(Ping(b"")) == PONG
            longest = max(longest, time.monotonic() - begun)
            freed = info(server)["keys"] == info(server)["garbage_bytes"] == 0
        assert client.reply() == OK
        assert longest < 2


def test_info_over_a_socket(start_on_both: Start) -> None:
    server = start_on_both()
    with RawClient(server.address) as client:
        assert client.ask(Set(b"k", b"v")) == OK
        strings = unpack_strings(client.ask(Info()).payload)
        told = dict(zip(strings[::2], strings[1::2], strict=True))
        assert told[b"keys"] == b"1"
        assert told[b"connections"] == b"1"
        assert told[b"addresses"] == server.url.encode()
        assert int(told[b"used_bytes"] or 0) > 0
        assert {b"pid", b"loop", b"uptime_seconds", b"unfinished_bytes", b"log_position"} <= told.keys()

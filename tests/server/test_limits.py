"""Each limit of the server at N and at N + 1; memory stays bounded under any input."""

import logging
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from cairnkv.commands import ClearMany, Command, Count, Get, GetMany, Ping, Set, SetMany
from cairnkv.limits import ARGUMENTS_MAX, KEY_MAX, KIB, MIB, UNFINISHED_MAX
from cairnkv.protocol.native import Response, write_command
from cairnkv.server import connection as connection_module
from cairnkv.server.descriptors import REFUSED_MAX
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.patience import AT_ONCE
from tests.support.raw import OK, PONG, RawClient, ServerProcess, all_of, eventually, failed_with

ROOM = KEY_MAX + KIB
"""What max-frame has to have beyond max-value."""


def info(server: RunningServer, name: str) -> int:
    """A number that the server tells of itself."""
    return int(dict(server.call(server.server.store.info))[name])


# -- connections ---------------------------------------------------------------------------------------------------


def test_connections_at_the_limit_and_one_more(start_on_both: Start) -> None:
    server = start_on_both(max_connections=3)
    with all_of(RawClient(server.address) for _ in range(3)) as clients:
        assert [client.ask(Ping(b"")) for client in clients] == [PONG] * 3
        with RawClient(server.address) as one_more:
            assert failed_with(one_more.reply(), "BUSY")
            assert one_more.is_closed()
        assert [client.ask(Ping(b"")) for client in clients] == [PONG] * 3


def test_refused_client_takes_no_place(start_on_both: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "DISCARD_TIMEOUT", 10 * AT_ONCE)
    server = start_on_both(max_connections=1)
    first = RawClient(server.address)
    assert first.ask(Ping(b"")) == PONG
    with RawClient(server.address) as refused, RawClient(server.address) as refused_too:
        assert failed_with(refused.reply(), "BUSY")
        assert failed_with(refused_too.reply(), "BUSY")
        first.close()  # and the refused ones stay as long as they are let
        begun = time.monotonic()
        while True:
            with RawClient(server.address) as next_one:
                if next_one.ask(Ping(b"")) == PONG:
                    break
            assert time.monotonic() - begun < AT_ONCE, "a place that is free was not given"


def test_many_clients_over_the_limit(start_on_both: Start, caplog: pytest.LogCaptureFixture) -> None:
    """More clients are refused than may stay connected. All get the reason, and admitted clients are not affected."""
    server = start_on_both(max_connections=2)
    with RawClient(server.address) as client:
        assert client.ask(Ping(b"")) == PONG
        with all_of(RawClient(server.address) for _ in range(REFUSED_MAX + 100)) as crowd:
            told = [client.rest() for client in crowd[1:]]
            assert [len(replies) for replies in told] == [1] * len(told)
            assert client.ask(Ping(b"")) == PONG
        eventually(lambda: info(server, "connections") == 1)
    assert 1 <= len([one for one in caplog.records if one.levelno >= logging.WARNING]) < 20


def test_more_connections_than_the_system_allows(tmp_path: Path) -> None:
    """Without free descriptors, the server serves its clients, and accepts others when some have closed."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))"
    with ServerProcess("--port", "0", log=tmp_path / "log", prelude=code) as server:
        with RawClient(server.address) as client:
            assert client.ask(Ping(b"")) == PONG
            with all_of(RawClient(server.address) for _ in range(200)):
                for _ in range(10):
                    assert client.ask(Ping(b"")) == PONG
            assert client.ask(Ping(b"")) == PONG

        def served_again() -> bool:
            try:
                with RawClient(server.address, seconds=1) as other:
                    return other.ask(Ping(b"")) == PONG
            except OSError:
                return False

        eventually(served_again)


# -- frames --------------------------------------------------------------------------------------------------------


def test_values_at_the_limit_and_one_more(start_on_both: Start) -> None:
    with RawClient(start_on_both(max_value=1_000).address) as client:
        assert client.ask(Set(b"k", b"v" * 1_000)) == OK
        assert client.ask(Get(b"k")) == Response(True, b"v" * 1_000)
        assert client.ask(Ping(b"p" * 1_000)) == Response(True, b"p" * 1_000)
        assert failed_with(client.ask(Set(b"k", b"v" * 1_001)), "TOOBIG")
        assert client.is_closed()


def test_keys_at_the_limit_and_one_more(start_on_both: Start) -> None:
    with RawClient(start_on_both().address) as client:
        assert client.ask(Set(b"k" * KEY_MAX, b"v")) == OK
        assert client.ask(Get(b"k" * KEY_MAX)) == Response(True, b"v")
        assert failed_with(client.ask(Set(b"k" * (KEY_MAX + 1), b"v")), "TOOBIG")
        assert client.is_closed()


def set_many_of(length: int) -> Command:
    """A command whose frame has this length."""
    pairs = [(b"%03d" % n, b"v" * 900) for n in range(length // 1_000)]
    pairs.append((b"last", b""))
    missing = length - len(write_command(SetMany(0, tuple(pairs))))
    pairs[-1] = (b"last", b"v" * missing)
    return SetMany(0, tuple(pairs))


def test_frames_at_the_limit_and_one_more(start_on_both: Start) -> None:
    limit = 10_000 + ROOM
    server = start_on_both(max_value=10_000, max_frame=limit)
    assert len(write_command(set_many_of(limit))) == limit
    with RawClient(server.address) as client:
        assert client.ask(set_many_of(limit)) == OK
        assert failed_with(client.ask(set_many_of(limit + 1)), "TOOBIG")
        assert client.is_closed()


def test_frame_over_the_limit_is_refused_by_its_declared_length(start_on_both: Start) -> None:
    """From the declared lengths: of 64 MiB and a byte none has to arrive, and none is kept."""
    server = start_on_both()
    head = write_command(Set(b"k", b""))[:-4]
    with RawClient(server.address) as client:
        client.send(head + struct.pack(">I", 64 * MIB + 1))
        assert failed_with(client.reply(), "TOOBIG")
    with RawClient(server.address) as client:
        client.send(head + struct.pack(">I", 64 * MIB) + b"v")
        eventually(lambda: info(server, "unfinished_bytes") == len(head) + 5)


def test_arguments_at_the_limit_and_one_more(start: Start) -> None:
    server = start()
    with RawClient(server.address) as client:
        assert client.ask(ClearMany((b"k",) * ARGUMENTS_MAX)) == Response(True, b"0")
        client.send(write_command(ClearMany((b"k",) * (ARGUMENTS_MAX + 1)))[:100])
        assert failed_with(client.reply(), "TOOBIG")
        assert client.is_closed()


def test_replies_at_the_frame_limit_and_one_more(start: Start) -> None:
    """A reply over the limit becomes a failure that leaves the connection usable."""
    reply = 6 + 100 * (4 + 1_000)
    for limit, fits in ((reply, True), (reply - 1, False)):
        with RawClient(start(max_value=1_000, max_frame=limit).address) as client:
            assert client.ask(Set(b"k", b"v" * 1_000)) == OK
            response = client.ask(GetMany((b"k",) * 100))
            assert response.ok if fits else failed_with(response, "BIGREPLY")
            assert client.ask(Ping(b"")) == PONG


# -- unfinished frames of all together -------------------------------------------------------------------------------


def test_unfinished_frames_at_the_limit_and_beyond(start_on_both: Start) -> None:
    """The largest fails and its connection closes; the others can be finished."""
    value = MIB - 10_000
    server = start_on_both(max_value=value, max_frame=2 * MIB, max_unfinished=4 * MIB)
    frame = write_command(Set(b"k", b"v" * value))
    quarter = 4 * MIB // 8
    with all_of(RawClient(server.address) for _ in range(8)) as clients, RawClient(server.address) as last:
        for client in clients[1:]:
            client.send(frame[:quarter])
        clients[0].send(frame[: quarter - 1_000])
        last.send(frame[:1_000])
        eventually(lambda: info(server, "unfinished_bytes") == 4 * MIB)
        last.send(frame[1_000:1_001])
        # One byte over, and the largest is one of those with a quarter, not the one that sent the last byte.
        eventually(lambda: info(server, "unfinished_bytes") == 4 * MIB + 1 - quarter)
        for client in (*clients, last):
            client.socket.setblocking(False)
        eventually(lambda: any(_has_data(client) for client in clients))
        failed = [client for client in clients if _has_data(client)]
        assert len(failed) == 1
        for client in (*clients, last):
            client.socket.settimeout(20)
        assert failed_with(failed[0].reply(), "BUSY")
        assert failed[0].is_closed()
        for client in clients:
            if client not in failed:
                client.send(frame[quarter if client is not clients[0] else quarter - 1_000 :])
                assert client.reply() == OK
        last.send(frame[1_001:])
        assert last.reply() == OK


def _has_data(client: RawClient) -> bool:
    try:
        return bool(client.socket.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_unfinished_frame_of_a_half_closed_client_is_freed(start_on_both: Start) -> None:
    """The client cannot finish it, so the server frees its bytes at once."""
    server = start_on_both(max_value=MIB, max_frame=2 * MIB, max_unfinished=4 * MIB)
    most = 0
    with all_of(RawClient(server.address) for _ in range(20)) as clients:
        for client in clients:
            client.send(write_command(Set(b"k", b"v" * MIB))[:-1])
            client.half_close()
            most = max(most, info(server, "unfinished_bytes"))
        eventually(lambda: info(server, "unfinished_bytes") == 0)
    assert most <= 4 * MIB


def test_unfinished_frames_of_64_mib_stay_within_the_limit(tmp_path: Path) -> None:
    """100 clients with 63 MiB of an unfinished frame each want 6.2 GiB; the server keeps to its 256 MiB."""
    size = 63 * MIB
    frame_head = write_command(Set(b"k", b""))[:-4] + struct.pack(">I", size)
    chunk = bytes(MIB)
    with ServerProcess("--port", "0", log=tmp_path / "log") as server:
        before = server.memory_mib()
        with RawClient(server.address) as bystander, all_of(RawClient(server.address) for _ in range(100)) as clients:
            sent = dict.fromkeys(clients, 0)
            for client in clients:
                client.send(frame_head)
            failed: list[RawClient] = []
            while any(count < size - 1 for count in sent.values()):
                for client in list(sent):
                    piece = chunk[: min(MIB, size - 1 - sent[client])]
                    try:
                        client.send(piece)
                    except ConnectionError:
                        failed.append(client)
                        del sent[client]
                    else:
                        sent[client] += len(piece)
                assert bystander.ask(Ping(b"")) == PONG
            # Bytearrays grow by an eighth more than they need, and the allocator has holes; nothing else.
            assert server.memory_mib("VmHWM") - before < 2.5 * UNFINISHED_MAX / MIB
            for client in list(sent):
                client.send(b"v")
            replies = [client.reply() for client in sent]
            assert [reply for reply in replies if reply.ok] == [OK] * replies.count(OK)
            assert all(failed_with(reply, "BUSY") for reply in replies if not reply.ok)
            assert replies.count(OK) >= 3
            told = [client.rest() for client in failed]
            assert all(failed_with(reply, "BUSY") for replies in told for reply in replies)
            with RawClient(server.address) as newcomer:
                assert newcomer.ask(Count()) == Response(True, b"1")
                assert newcomer.ask(Set(b"k", b"small")) == OK
        eventually(lambda: server.memory_mib() - before < 150)


def test_large_frame_leaves_no_memory_behind(tmp_path: Path) -> None:
    """A connection that once sent a large frame, and then nothing, does not keep its buffer."""
    with ServerProcess("--port", "0", log=tmp_path / "log") as server:
        before = server.memory_mib()
        frame = write_command(Set(b"k", bytes(60 * MIB)))
        with all_of(RawClient(server.address) for _ in range(8)) as clients:
            for n, client in enumerate(clients):
                client.send(frame + b"\0" * (n % 2))  # with and without the first byte of another
                assert client.reply() == OK
            assert clients[0].ask(Set(b"k", b"")) == OK
            eventually(lambda: server.memory_mib() - before < 150)


# -- replies that nobody takes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "gets"), [(4 * MIB, 1), (700 * KIB, 1), (2_000, 500)])
def test_unread_replies_are_bounded_over_all_clients(
    start_on_both: Start, tmp_path_unix: str, caplog: pytest.LogCaptureFixture, value: int, gets: int
) -> None:
    """Also if each client has few of them."""
    limit = 12 * MIB
    server = start_on_both(unix=tmp_path_unix, max_unsent=limit)
    with RawClient(server.address) as other, all_of(RawClient(tmp_path_unix) for _ in range(40)) as clients:
        assert other.ask(Set(b"k", b"v" * value)) == OK
        together = threading.Event()
        held_up = threading.Thread(target=server.call, args=(lambda: together.wait(20),))
        held_up.start()
        for client in clients:  # all of it arrives in one turn of the loop
            client.send(write_command(Get(b"k")) * gets)
        together.set()
        held_up.join(20)

        def unsent() -> int:
            return server.call(lambda: sum(connection.unsent for connection in server.server._connections))

        eventually(lambda: "all replies not taken together" in caplog.text)
        eventually(lambda: unsent() <= limit)
        assert 1 < info(server, "connections") < 41
        assert other.ask(Ping(b"")) == PONG

"""Scripts that run for too long, over sockets: clients of both protocols, the event loop, and the end of the server."""

import pytest

from cairnkv.commands import Get, Ping, Put, Set, Take
from cairnkv.protocol.resp import OK, Error
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.server.test_redis import SAID, RedisClient
from tests.support.raw import OK as RAW_OK
from tests.support.raw import PONG, RawClient, eventually, failed_with

pytest.importorskip("lupa")

ENDLESS = b"while true do end"


def is_busy(redis: RedisClient) -> bool:
    """Whether a script has paused."""
    reply = redis("GET nothing")
    return isinstance(reply, Error) and reply.code == "BUSY"


@pytest.fixture
def server(start_on_both: Start) -> RunningServer:
    """A server whose scripts pause after a tenth of a second."""
    return start_on_both(script_time=0.1)


def test_clients_of_both_protocols_are_answered_while_a_script_pauses(server: RunningServer) -> None:
    with RedisClient(server.address) as sender, RedisClient(server.address) as redis, RawClient(server.address) as raw:
        assert raw.ask(Set(b"k", b"v")) == RAW_OK
        sender.send(b"EVAL", ENDLESS, b"0")
        eventually(lambda: is_busy(redis))
        assert redis("PING") == SAID
        assert raw.ask(Ping(b"")) == PONG
        for command in (Get(b"k"), Set(b"k", b"w"), Put(b"q", b"m")):
            assert failed_with(raw.ask(command), "SCRIPTBUSY")
        assert redis("SCRIPT KILL") == OK
        assert isinstance(sender.hear(), Error)
        assert raw.ask(Get(b"k")).payload == b"v"
        assert redis("SET k w") == OK
        assert sender("GET k") == b"w"


def test_waiting_take_gets_its_message_after_a_script(server: RunningServer) -> None:
    with RedisClient(server.address) as sender, RedisClient(server.address) as redis, RawClient(server.address) as raw:
        raw.send_commands([Take(b"q", 1, wait=20_000)])
        eventually(lambda: int(dict(server.call(server.server.store.info))["waiting_takes"]) == 1)
        sender.send(b"EVAL", ENDLESS, b"0")
        eventually(lambda: is_busy(redis))
        assert redis("SCRIPT KILL") == OK
        assert isinstance(sender.hear(), Error)
        redis("QUEUE.PUT q m")
        assert b"m" in raw.reply().payload


def test_long_scripts_of_a_pipeline_all_end(start_on_both: Start) -> None:
    server = start_on_both(script_slice=0.001)
    with RedisClient(server.address) as sender, RedisClient(server.address) as other:
        script = b"for i = 1, 200000 do end return redis.call('incr', 'k')"
        for _ in range(5):
            sender.send(b"EVAL", script, b"0")
        assert other("PING") == SAID
        assert [sender.hear() for _ in range(5)] == [1, 2, 3, 4, 5]


def test_server_stops_while_a_script_pauses(start: Start, tmp_path_unix: str) -> None:
    server = start(script_time=0.1, unix=tmp_path_unix)
    with RedisClient(server.address) as sender, RedisClient(server.address) as redis:
        sender.send(b"EVAL", b"redis.call('set', 'k', 'v') " + ENDLESS, b"0")
        eventually(lambda: is_busy(redis))
        redis.send(b"SHUTDOWN", b"NOSAVE")
        assert redis.rest() == []
        (reply,) = sender.rest()
        assert reply == Error("ERR the server stops; the script was undone")


def test_times_change_while_the_server_runs(start: Start) -> None:
    server = start()
    with RedisClient(server.address) as sender, RedisClient(server.address) as redis:
        assert redis("CONFIG GET lua-time-limit") == [b"lua-time-limit", b"5000"]
        assert redis("CONFIG SET busy-reply-threshold 50") == OK
        assert redis("CONFIG GET script-time") == [b"script-time", b"0.05"]
        sender.send(b"EVAL", ENDLESS, b"0")
        eventually(lambda: is_busy(redis))
        assert redis("SCRIPT KILL") == OK
        assert isinstance(sender.hear(), Error)
        assert redis("CONFIG SET lua-time-limit -1") == OK
        assert redis("CONFIG GET busy-reply-threshold") == [b"busy-reply-threshold", b"0"]

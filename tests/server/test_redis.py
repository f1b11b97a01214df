"""The Redis protocol over sockets: the server's and its connections' additions to a session."""

import logging
import socket
import time
from typing import Any, Self

import pytest

import cairnkv
from cairnkv.commands import Auth, Get, GetMany, Ping, Whoami
from cairnkv.limits import KIB, MIB
from cairnkv.protocol import write_command
from cairnkv.protocol.resp import OK, Error, Push, Simple, Verbatim
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.raw import OK as RAW_OK
from tests.support.raw import PONG, SECONDS, Address, RawClient, ServerProcess, eventually, failed_with
from tests.support.resp import ReplyDecoder, request

SAID = Simple("PONG")


class RedisClient:
    """A socket that speaks the Redis protocol. Use as a context manager."""

    def __init__(self, address: Address | None, *, receive_buffer: int | None = None) -> None:
        assert address is not None
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(SECONDS)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(address)
        self._decoder = ReplyDecoder()
        self._heard: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def __call__(self, text: str) -> Any:
        """The reply to a command that is written in words between blanks."""
        self.send(*text.encode().split())
        return self.hear()

    def send(self, *words: bytes) -> None:
        """Send a command."""
        self.socket.sendall(request(*words))

    def hear(self) -> Any:
        """The next reply, or push; ConnectionError when the server closes instead."""
        while not self._heard:
            data = self.socket.recv(256 * KIB)
            if not data:
                raise ConnectionError("closed by the server")
            self._heard += self._decoder.feed(data)
        return self._heard.pop(0)

    def rest(self) -> list[Any]:
        """All that is said until the server closes, which it has to do."""
        while data := self.socket.recv(256 * KIB):
            self._heard += self._decoder.feed(data)
        assert self._decoder.pending == 0
        return self._heard

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        told = self(f"INFO {section}")
        text = told.text if isinstance(told, Verbatim) else told
        return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


# -- which wire --------------------------------------------------------------------------------------------


def test_both_protocols_share_one_port_and_one_store(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis, cairnkv.connect(server.url) as kv:
        assert redis("SET k v") == OK
        assert kv.get("k") == "v"
        kv.set("k", "w")
        assert redis("GET k") == b"w"
        assert redis("SELECT 1") == OK
        assert redis("GET k") is None


def test_inline_commands_byte_by_byte(start_on_both: Start) -> None:
    with RedisClient(start_on_both().address) as redis:
        redis.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b'ping "a b"\r\nPING\n':
            redis.socket.sendall(bytes((byte,)))
        assert [redis.hear(), redis.hear()] == [b"a b", SAID]


@pytest.mark.parametrize("pieces", ["whole", "byte by byte"])
def test_tls_handshake_is_detected_and_closed(
    start_on_both: Start, pieces: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    with RawClient(start_on_both().address) as client:
        if pieces == "whole":
            client.send(hello)
        else:
            client.send_in_pieces(hello[:2], pause=0.05)
        assert client.is_closed()
    assert "expects TLS" in caplog.text


@pytest.mark.parametrize(
    "said",
    [b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET k v\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET k v\r\n"],
)
def test_http_request_is_closed(start_on_both: Start, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis:
        redis.socket.sendall(said)
        assert all(isinstance(reply, Error) for reply in redis.rest())
    assert "it sends HTTP" in caplog.text
    with RedisClient(server.address) as redis:
        assert redis("EXISTS k") == 0


def test_endless_line_is_an_error_and_closes(start_on_both: Start) -> None:
    with RedisClient(start_on_both().address) as redis:
        redis.socket.sendall(b"a" * (64 * KIB + 1))
        assert redis.rest() == [Error("ERR Protocol error: too big inline request")]


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\n\r\n", b"\n\n\n"])
@pytest.mark.parametrize("command", [b"PING\r\n", b"*1\r\n$4\r\nPING\r\n"])
def test_empty_line_starts_the_redis_protocol(start_on_both: Start, empty: bytes, command: bytes) -> None:
    server = start_on_both()
    with RedisClient(server.address) as whole:
        whole.socket.sendall(empty + command)
        assert whole.hear() == SAID
    with RedisClient(server.address) as cut:
        for byte in empty + command:
            cut.socket.sendall(bytes((byte,)))
        assert cut.hear() == SAID


@pytest.mark.parametrize("said", [b"", b"\x16", b"PIN", b"*2\r\n$3\r\nGET\r\n"])
def test_unfinished_request_times_out(start_on_both: Start, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The wait for the first byte, which decides the protocol, counts as well."""
    caplog.set_level(logging.INFO)
    begun = time.monotonic()
    with RawClient(start_on_both(frame_timeout=0.5, idle_timeout=60).address) as client:
        client.send(said)
        while client.socket.recv(KIB):
            pass
    assert 0.4 < time.monotonic() - begun < SECONDS
    assert "a frame was not finished in 0.5 s" in caplog.text


# -- too many, too slow ------------------------------------------------------------------------------------


def test_refused_client_gets_the_error_in_its_own_protocol(start_on_both: Start) -> None:
    server = start_on_both(max_connections=1)
    with RedisClient(server.address) as redis:
        assert redis("PING") == SAID
        with RedisClient(server.address) as other:
            other.send(b"PING")
            (error,) = other.rest()
            assert error.text.startswith("ERR max number of clients reached")
        with RawClient(server.address) as client:
            client.send(write_command(Ping(b"")))
            assert failed_with(client.reply(), "BUSY")
        assert int(redis.info("stats")["rejected_connections"]) == 2


def test_subscriber_is_not_idle(start_on_both: Start) -> None:
    server = start_on_both(idle_timeout=0.3)
    with RedisClient(server.address) as listener, RedisClient(server.address) as other:
        listener("SUBSCRIBE a")
        assert other("PING") == SAID
        assert other.rest() == [Error("ERR TIMEOUT the client was idle for 0.3 s")]
        with RedisClient(server.address) as speaker:
            assert speaker("PUBLISH a x") == 1
        assert listener.hear() == [b"message", b"a", b"x"]


def test_subscriber_that_does_not_read_is_closed(
    start_on_both: Start, tmp_path_unix: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_on_both(unix=tmp_path_unix)
    message = bytes(MIB)
    with RedisClient(tmp_path_unix) as listener, RedisClient(server.address) as speaker:
        assert listener("SUBSCRIBE a") == [b"subscribe", b"a", 1]
        told = 0
        for _ in range(60):
            speaker.send(b"PUBLISH", b"a", message)
            told += speaker.hear()
        assert 30 < told < 40
    assert "does not read the messages" in caplog.text


# -- clients -----------------------------------------------------------------------------------------------


def test_client_list_shows_the_sockets(start_on_both: Start, tmp_path_unix: str) -> None:
    server = start_on_both(unix=tmp_path_unix)
    with RedisClient(server.address) as redis, RedisClient(tmp_path_unix) as local:
        assert redis("PING") == local("PING") == SAID
        first, second = (
            dict(field.split("=", 1) for field in line.split(" "))
            for line in local("CLIENT LIST").decode().splitlines()
        )
        unix, tcp = (first, second) if "U" in first["flags"] else (second, first)
        host, port = redis.socket.getsockname()
        assert tcp["addr"] == f"{host}:{port}"
        assert tcp["laddr"] == f"127.0.0.1:{redis.socket.getpeername()[1]}"
        assert int(tcp["fd"]) > 2
        assert unix["flags"] == "U"
        assert unix["addr"] == unix["laddr"] == f"{tmp_path_unix}:0"


def test_client_kill_closes_connections(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis, RedisClient(server.address) as other:
        assert redis("PING") == other("PING") == SAID
        host, port = other.socket.getsockname()
        assert redis(f"CLIENT KILL {host}:{port}") == OK
        with pytest.raises(ConnectionError):
            other.hear()
        assert redis("CLIENT KILL TYPE normal SKIPME no") == 1
        assert redis.rest() == []


def test_client_kill_closes_old_connections(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as old, RedisClient(server.address) as redis:
        assert old("PING") == SAID
        assert redis("CLIENT KILL MAXAGE 1000") == 0
        assert old("PING") == SAID
        eventually(lambda: redis("CLIENT KILL MAXAGE 1") == 1)
        with pytest.raises(ConnectionError):
            old.hear()


# -- a password --------------------------------------------------------------------------------------------


def test_password_protects_both_protocols(start_on_both: Start) -> None:
    server = start_on_both(password="open sesame")
    with RedisClient(server.address) as redis, RawClient(server.address) as client:
        assert redis("GET k") == Error("NOAUTH Authentication required.")
        assert failed_with(client.ask(Get(b"k")), "NOAUTH")
        assert failed_with(client.ask(Ping(b"")), "NOAUTH"), "the connection goes on"
        redis.send(b"AUTH", b"open sesame")
        assert redis.hear() == OK
        assert redis("GET k") is None
        assert failed_with(client.ask(Get(b"k")), "NOAUTH")
        assert failed_with(client.ask(Whoami()), "NOAUTH")
        assert failed_with(client.ask(Auth(b"default", b"sesame")), "WRONGPASS")
        assert failed_with(client.ask(Auth(b"other", b"open sesame")), "WRONGPASS")
        assert client.ask(Auth(b"default", b"open sesame")) == RAW_OK
        assert client.ask(Whoami()).payload == b"default"
        assert client.ask(Ping(b"")) == PONG


def test_later_password_applies_to_later_logins(start_on_both: Start) -> None:
    """Of both protocols. A client that has sent nothing begins with its first bytes."""
    server = start_on_both()
    with RedisClient(server.address) as redis, RawClient(server.address) as client, RawClient(server.address) as silent:
        assert client.ask(Ping(b"")) == client.ask(Ping(b"")) == PONG
        assert redis("CONFIG SET requirepass secret") == OK
        assert client.ask(Ping(b"")) == PONG, "as user default, which still exists"
        assert redis("PING") == SAID
        assert failed_with(silent.ask(Ping(b"")), "NOAUTH")
        with RedisClient(server.address) as other, RawClient(server.address) as another:
            assert other("PING").code == "NOAUTH"
            assert other("AUTH secret") == OK
            assert failed_with(another.ask(Ping(b"")), "NOAUTH")
            assert another.ask(Auth(b"default", b"secret")) == RAW_OK
        assert redis("CONFIG GET requirepass") == [b"requirepass", b"(hidden)"]
        assert redis("CONFIG SET requirepass (hidden)").code == "ERR"
        redis.send(b"CONFIG", b"SET", b"requirepass", b"")
        assert redis.hear() == OK
        assert client.ask(Ping(b"")) == PONG


def test_readiness_line_mentions_the_login(tmp_path: Any) -> None:
    with ServerProcess("--port", "0", log=tmp_path / "log", environment={"CAIRNKV__PASSWORD": "hush"}) as process:
        assert "clients must log in" in process.readiness
        assert "hush" not in process.readiness


# -- CONFIG ------------------------------------------------------------------------------------------------


@pytest.fixture
def redis(start: Start) -> Any:
    with RedisClient(start().address) as client:
        yield client


def get(redis: RedisClient, text: str) -> dict[str, str]:
    told = redis(f"CONFIG GET {text}")
    return {name.decode(): value.decode() for name, value in zip(told[::2], told[1::2], strict=True)}


def test_config_get_returns_matching_settings(redis: RedisClient) -> None:
    assert get(redis, "maxmemory") == {"maxmemory": "0"}
    assert get(redis, "MAXMEMORY* save") == {"maxmemory": "0", "maxmemory-policy": "noeviction", "save": ""}
    assert get(redis, "nonesuch") == {}
    everything = get(redis, "*")
    assert everything["databases"] == "16"
    assert everything["appendonly"] == "no"
    assert everything["port"] == str(redis.socket.getpeername()[1])
    assert everything["proto-max-bulk-len"] == everything["max-value"] == str(64 * MIB)
    assert everything["command-width"] == "auto"
    assert "password" not in everything


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nonesuch 1", "ERR Unknown option or number of arguments for CONFIG SET - 'nonesuch'"),
        ("maxmemory lots", "argument must be a memory value"),
        ("maxmemory -1", "argument must be a memory value"),
        ("maxclients 0", "argument must be between 1 and 1000000 inclusive"),
        ("maxclients many", "argument couldn't be parsed into an integer"),
        ("timeout -1", "argument must be between 0 and 2147483647 inclusive"),
        ("maxmemory-policy volatile-lfu", "argument(s) must be one of the following: noeviction, allkeys-lru"),
        ("appendonly yes", "can't set immutable config"),
        ("port 1", "can't set immutable config"),
        ("timeout 1 timeout 2", "duplicate parameter"),
        ("timeout 1 idle-timeout 2s", "duplicate parameter"),
        ("frame-timeout 0", "frame-timeout must be more than 0"),
        ("max-unfinished 1", "a single frame may have"),
    ],
)
def test_failed_config_set_changes_nothing(redis: RedisClient, text: str, error: str) -> None:
    before = get(redis, "*")
    refused = redis(f"CONFIG SET stall-timeout 7 {text}")
    assert isinstance(refused, Error)
    assert error in refused.text
    assert get(redis, "*") == before


def test_fixed_setting_may_be_set_to_its_value(redis: RedisClient) -> None:
    assert redis("CONFIG SET appendonly no databases 16") == OK


def test_values_of_config_get_can_be_set(redis: RedisClient) -> None:
    told = redis("CONFIG GET *")
    assert len(told) > 40
    for name, value in zip(told[::2], told[1::2], strict=True):
        if name == b"requirepass":
            continue  # an empty one is none, of which the log warns
        redis.send(b"CONFIG", b"SET", name, value)
        assert redis.hear() == OK, name
    assert redis("CONFIG GET *") == told


def test_config_set_limits_memory(start_on_both: Start) -> None:
    """For native connections as well, also on the native event path."""
    server = start_on_both()
    with RedisClient(server.address) as redis, cairnkv.connect(server.url, codec="bytes") as kv:
        for number in range(100):
            kv.set(b"%d" % number, bytes(1000))
        assert redis("CONFIG SET maxmemory 100kb") == OK
        assert get(redis, "memory-limit") == {"memory-limit": "102400"}
        assert redis("SET k v") == Error("OOM command not allowed when used memory > 'maxmemory'.")
        with pytest.raises(cairnkv.Refused, match="FULL"):
            kv.set(b"k", b"v")
        assert redis("CONFIG SET maxmemory-policy allkeys-lru") == OK
        assert redis("SET k v") == OK
        assert redis("DBSIZE") < 100
        assert redis("CONFIG SET maxmemory 0") == OK
        kv.set(b"k", bytes(MIB))


def test_config_set_limits_clients(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis:
        assert redis("CONFIG SET maxclients 1") == OK
        with RedisClient(server.address) as other:
            other.send(b"PING")
            assert isinstance(other.rest()[0], Error)
        assert redis("CONFIG SET maxclients 2") == OK

        def has_room() -> bool:
            with RedisClient(server.address) as other:
                return bool(other("PING") == SAID)

        eventually(has_room)


def test_config_set_changes_the_idle_timeout(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis:
        assert redis("CONFIG SET idle-timeout 300ms") == OK
        assert redis.rest() == [Error("ERR TIMEOUT the client was idle for 0.3 s")]


def test_more_clients_than_the_system_allows(tmp_path: Any) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))"
    options = ("--port", "0", "--max-connections", "100")
    with (
        ServerProcess(*options, log=tmp_path / "log", prelude=limited) as process,
        RedisClient(process.address) as redis,
    ):
        assert redis("CONFIG SET maxclients 200") == OK
        assert "this system allows open files for" in redis("CONFIG SET maxclients 5000").text
        assert get(redis, "maxclients") == {"maxclients": "200"}


# -- INFO --------------------------------------------------------------------------------------------------


def test_info_has_true_values(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis, RawClient(server.address) as client:
        client.ask(Ping(b""))
        redis("SET k v EX 100")
        about = redis.info("server")
        assert about["redis_version"] == "7.2.0"
        assert about["cairnkv_version"]
        assert int(about["tcp_port"]) == redis.socket.getpeername()[1]
        assert len(about["run_id"]) == 40
        assert redis.info("clients")["connected_clients"] == "2"
        assert redis.info("keyspace") == {"db0": "keys=1,expires=1,avg_ttl=0"}
        assert int(redis.info("memory")["used_memory"]) > 0
        assert float(redis.info("cpu")["used_cpu_user"]) > 0


@pytest.mark.parametrize("in_transaction", [False, True])
def test_info_counts_lookups(start_on_both: Start, in_transaction: bool) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis, RawClient(server.address) as client:
        redis("MSET a 1 b 2")
        if in_transaction:
            redis("MULTI")
        for command in ("GET a", "GET x", "MGET a x b y", "EXISTS a a x", "PTTL b", "STRLEN x", "SET a 2 NX", "INCR c"):
            redis(command)
        if in_transaction:
            redis("EXEC")
        told = redis.info("stats")
        assert (told["keyspace_hits"], told["keyspace_misses"]) == ("6", "5")
        client.ask(Get(b"a"))
        client.ask(GetMany((b"a", b"x")))
        told = redis.info("stats")
        assert (told["keyspace_hits"], told["keyspace_misses"]) == ("8", "6")


def test_info_counts_bytes_and_shows_peaks_and_rates(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis:
        redis.send(b"SET", b"k", bytes(MIB))
        assert redis.hear() == OK
        assert len(redis("GET k")) == MIB
        redis("PING")
        told = redis.info("stats")
        for name in ("total_net_input_bytes", "total_net_output_bytes"):
            assert MIB < int(told[name]) < MIB + 10_000
        redis("DEL k")
        told = redis.info("memory")
        assert int(told["used_memory_peak"]) > MIB > int(told["used_memory"])
        assert told["used_memory_peak_human"].startswith("1.")
        eventually(lambda: int(redis.info("stats")["instantaneous_ops_per_sec"]) > 0)
        told = redis.info("stats")
        assert float(told["instantaneous_input_kbps"]) > 0
        assert float(told["instantaneous_output_kbps"]) > 0


def test_resetstat_resets_counters(redis: RedisClient) -> None:
    for _ in range(10):
        redis("SET k v")
    redis("GET k")
    assert int(redis.info("stats")["total_commands_processed"]) >= 10
    assert redis("CONFIG RESETSTAT") == OK
    told = redis.info("stats")
    assert int(told["total_commands_processed"]) <= 2
    assert told["total_connections_received"] == told["keyspace_hits"] == "0"


# -- SHUTDOWN ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["SHUTDOWN", "SHUTDOWN NOSAVE", "shutdown now force", "SHUTDOWN SAVE FORCE"])
def test_shutdown_stops_the_server_without_a_reply(start_on_both: Start, text: str) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis, RawClient(server.address) as client:
        assert client.ask(Ping(b"")) == PONG
        redis.send(*text.encode().split())
        assert redis.rest() == []
        assert client.is_closed()


def test_shutdown_ends_a_process(tmp_path: Any) -> None:
    with ServerProcess("--port", "0", log=tmp_path / "log") as process:
        with RedisClient(process.address) as redis:
            redis.send(b"SHUTDOWN")
            assert redis.rest() == []
        assert process.process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("SHUTDOWN ABORT", "ERR No shutdown in progress."),
        ("SHUTDOWN SAVE NOSAVE", "ERR syntax error"),
        ("SHUTDOWN ABORT NOW", "ERR syntax error"),
        ("SHUTDOWN FOO", "ERR syntax error"),
        ("SHUTDOWN SAVE", "ERR this server keeps everything in memory"),
    ],
)
def test_wrong_shutdown_options_are_refused(redis: RedisClient, text: str, error: str) -> None:
    assert redis(text).text.startswith(error)
    assert redis("PING") == SAID


def test_pushes_reach_a_silent_client(start_on_both: Start) -> None:
    server: RunningServer = start_on_both()
    with RedisClient(server.address) as listener, RedisClient(server.address) as speaker:
        listener("HELLO 3")
        assert listener("SUBSCRIBE a") == Push((b"subscribe", b"a", 1))
        for number in range(100):
            assert speaker(f"PUBLISH a {number}") == 1
        assert [listener.hear().items[2] for _ in range(100)] == [b"%d" % number for number in range(100)]

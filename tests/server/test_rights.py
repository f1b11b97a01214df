"""Changed rights reach the open connections of a server, on every event loop, on the native and on the pure path."""

import pytest

from cairnkv.commands import Ack, Auth, Get, Ping, Put, Set, SetMany, Take
from cairnkv.protocol import write_command
from cairnkv.protocol.resp import OK, Error
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.server.test_redis import RedisClient
from tests.support.raw import OK as RAW_OK
from tests.support.raw import PONG, RawClient, eventually, failed_with

RULES = "resetkeys resetchannels -@all"
NO_KEY = Error("NOPERM No permissions to access a key")


def set_user(redis: RedisClient, rules: str) -> None:
    assert redis(f"ACL SETUSER app on nopass {RULES} {rules}") == OK


def logged_in(server: RunningServer) -> RawClient:
    client = RawClient(server.address)
    assert client.ask(Auth(b"app", b"")) == RAW_OK
    return client


def test_lost_right_is_refused_from_the_next_command_on(start_on_both: Start) -> None:
    """Also of a client that the native path serves without its session."""
    server = start_on_both()
    with RedisClient(server.address) as redis:
        set_user(redis, "~app:* +@all")
        with logged_in(server) as client, RedisClient(server.address) as other:
            assert other("AUTH app x") == OK
            for _ in range(3):
                assert client.ask(Set(b"app:1", b"v")) == RAW_OK
                assert client.ask(Get(b"app:1")).payload == b"v"
                assert other("SET app:2 w") == OK
                assert failed_with(client.ask(Get(b"other:1")), "NOPERM")
                assert other("GET other:1") == NO_KEY
            set_user(redis, "~app:* +get")
            assert failed_with(client.ask(Set(b"app:1", b"w")), "NOPERM")
            assert other("SET app:2 x").text.startswith("NOPERM User app has no permissions to run the 'set' command")
            assert client.ask(Get(b"app:1")).payload == b"v"
            set_user(redis, "~other:* +@all")
            assert failed_with(client.ask(Get(b"app:1")), "NOPERM")
            assert other("GET app:2") == NO_KEY
            set_user(redis, "~* &* +@all")
            assert client.ask(Get(b"app:1")).payload == b"v"
            assert other("GET app:2") == b"w"


@pytest.mark.parametrize("rule", ["off", None])
def test_client_of_a_disabled_or_removed_user_must_log_in(start_on_both: Start, rule: str | None) -> None:
    server = start_on_both(password="secret")
    with RedisClient(server.address) as redis:
        assert redis("AUTH secret") == OK
        set_user(redis, "~* +@all")
        with logged_in(server) as client, RedisClient(server.address) as other:
            assert other("AUTH app x") == OK
            assert client.ask(Ping(b"")) == PONG
            assert other("MULTI") == OK
            other("SET k v")
            assert redis("ACL DELUSER app" if rule is None else "ACL SETUSER app off") in (1, OK)
            assert failed_with(client.ask(Get(b"k")), "NOAUTH")
            assert other("EXEC").text.startswith("EXECABORT Transaction discarded because of: NOAUTH")
            assert redis("GET k") is None


def test_pipeline_of_a_limited_user_gets_its_replies_in_order(start_on_both: Start) -> None:
    """Commands that the native path executes, and those that it leaves to be refused."""
    server = start_on_both()
    with RedisClient(server.address) as redis:
        set_user(redis, "%R~app:* %W~app:1* +get +set +mset +queue.put +queue.take +queue.ack")
        with logged_in(server) as client:
            sent = [
                Set(b"app:1", b"v"),
                Get(b"app:1"),
                Set(b"app:2", b"v"),
                Get(b"other"),
                SetMany(0, ((b"app:1", b"w"), (b"app:2", b"w"))),
                Get(b"app:1"),
                Put(b"app:1q", b"m"),
                Put(b"app:2q", b"m"),
                Take(b"app:1q", 1),
                Ack(((2, 1),)),
                Get(b"app:1"),
            ]
            client.send(b"".join(map(write_command, sent * 20)))
            for _ in range(20):
                replies = [client.reply() for _ in sent]
                assert [reply.ok for reply in replies] == [
                    *(True, True, False, False, False),
                    *(True, True, False, True, True, True),
                ]
                assert all(reply.ok or failed_with(reply, "NOPERM") for reply in replies)
                assert {replies[place].payload for place in (1, 5, 10)} == {b"v"}


def test_lost_right_ends_waits_and_subscriptions(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis:
        set_user(redis, "~app:* &news:* +@all")
        with logged_in(server) as client, RedisClient(server.address) as subscriber:
            assert subscriber("AUTH app x") == OK
            subscriber("SUBSCRIBE news:1")
            client.send(write_command(Take(b"app:q", 1, wait=20_000)))
            eventually(lambda: redis("INFO clients").count(b"blocked_clients:1\r"))
            set_user(redis, "~other:* &other:* +@all")
            assert client.reply().payload == b""
            assert failed_with(client.ask(Take(b"app:q", 1)), "NOPERM")
            with pytest.raises(ConnectionError):
                subscriber.hear()
            assert redis("PUBLISH news:1 m") == 0


def test_clients_that_do_not_log_in_have_the_rights_of_the_default_user(start_on_both: Start) -> None:
    server = start_on_both()
    with RedisClient(server.address) as redis:
        redis("ACL SETUSER admin on >secret allkeys allchannels allcommands")
        redis("ACL SETUSER default resetkeys resetchannels -@all ~public:* +@read")
        with RawClient(server.address) as client:
            assert client.ask(Get(b"public:1")).payload == b"Key not found"
            assert failed_with(client.ask(Get(b"private:1")), "NOPERM")
            assert failed_with(client.ask(Set(b"public:1", b"v")), "NOPERM")

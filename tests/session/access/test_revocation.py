"""Rights in transactions, subscriptions and waits; rights that change while they are in use; and public holes."""

from typing import Any

import pytest

from cairnkv.commands import (
    Ack,
    ClearMany,
    ClearPrefix,
    Exists,
    Get,
    GetMany,
    Look,
    Ping,
    Put,
    Remove,
    Scan,
    Set,
    SetMany,
    SetManyIfAbsent,
    Step,
    Take,
    Together,
)
from cairnkv.protocol.resp import OK as RESP_OK
from cairnkv.protocol.resp import Error, Simple
from cairnkv.session.access.users import User
from cairnkv.session.context import Peer
from cairnkv.session.resp.command_spec import RespCommandSpec
from tests.session.access.test_enforcement import RESP_SPECS, filled_store, reply_to, request_of
from tests.session.native_client import NativeClient
from tests.session.resp.chat import Chat
from tests.support.rights import limit

QUEUED = Simple("QUEUED")
NO_KEY = Error("NOPERM No permissions to access a key")
NO_CHANNEL = Error("NOPERM No permissions to access a channel")
REVOKED = "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call"


def no_command(name: str) -> Error:
    return Error(f"NOPERM User limited has no permissions to run the '{name}' command")


@pytest.fixture
def chat() -> Chat:
    chat = Chat()
    chat("PING")
    return chat


@pytest.fixture
def native() -> NativeClient:
    client = NativeClient(store=filled_store(), natively=True)
    client.send(Ping(b""))
    client.hear()
    return client


class TestTransactions:
    def test_forbidden_command_is_not_queued(self, chat: Chat) -> None:
        limit(chat, "+@all", "-incr", "~app:*")
        assert chat("MULTI") == RESP_OK
        assert chat("SET app:1 v") == QUEUED
        assert chat("SET other:1 v") == NO_KEY
        assert chat("INCR app:2") == no_command("incr")
        assert chat("EXEC") == Error("EXECABORT Transaction discarded because of previous errors.")
        assert chat("GET app:1") is None

    def test_redis_15673_rights_are_checked_again_at_exec(self, chat: Chat) -> None:
        """Redis before 8.10.2 executed queued commands with rights that the user had lost."""
        limit(chat, "+@all", "~*")
        for words in ("SET app:1 v", "SET other:1 v", "INCR app:2", "PUBLISH news 1", "CONFIG GET port"):
            assert chat("MULTI") == RESP_OK
            assert chat(words) == QUEUED
            limit(chat, "+@all", "-incr", "-config", "~app:*")
            (reply,) = chat("EXEC")
            assert (reply == RESP_OK) == (words == "SET app:1 v")
            assert reply == RESP_OK or reply.text.startswith(REVOKED)
            limit(chat, "+@all", "~*", "&*")
        assert chat("MGET app:1 other:1 app:2") == [b"v", None, None]

    def test_transaction_with_queues_executes_whole_or_not(self, chat: Chat) -> None:
        limit(chat, "+@all", "~*")
        chat("MULTI")
        assert chat("QUEUE.PUT app:q m") == QUEUED
        assert chat("SET other:1 v") == QUEUED
        limit(chat, "+@all", "~app:*")
        reply = chat("EXEC")
        assert reply.text.startswith(f"EXECABORT Transaction discarded because of: {REVOKED}")
        limit(chat, "+@all", "~*")
        assert chat("QUEUE.TAKE app:q 1") == Error("ERR NOQUEUE there is no queue 'app:q'") or chat("DBSIZE") == 0

    def test_select_without_right_selects_no_database(self, chat: Chat) -> None:
        chat("MULTI")
        chat("SELECT 3")
        chat("SET k v")
        limit(chat, "+@all", "-select", "~*")
        first, second = chat("EXEC")
        assert first.text.startswith(REVOKED)
        assert second == RESP_OK
        assert chat("GET k") == b"v"

    def test_exec_needs_a_right(self, chat: Chat) -> None:
        chat("MULTI")
        chat("SET k v")
        limit(chat, "+@all", "-exec", "~*")
        assert chat("EXEC").text.startswith("EXECABORT Transaction discarded because of: NOPERM ")
        assert chat("GET k") is None

    def test_together_needs_the_rights_of_its_parts(self, native: NativeClient) -> None:
        both = Together((Set(b"app:1", b"v"), Put(b"other:q", b"m")))
        for rules in (("+@all", "~app:*"), ("+@all", "-queue.put", "~*"), ("+@all", "-exec", "~*")):
            limit(native, *rules)
            native.send(both)
            assert native.payloads()[0].startswith(b"NOPERM ")
        limit(native, "+@all", "~app:*")
        native.send(Together((Set(b"app:1", b"v"), Put(b"app:q", b"m"))), Get(b"app:1"))
        assert native.payloads()[1] == b"v"


class TestAccessLog:
    def test_denials_of_both_protocols_are_recorded(self, chat: Chat, native: NativeClient) -> None:
        limit(chat, "+@all", "-incr", "~app:*", "&news:*")
        chat("GET other:1")
        chat("PUBLISH other m")
        chat("MULTI")
        chat("INCR app:1")
        chat("EXEC")
        entries = [(entry.reason, entry.context, entry.object, entry.user) for entry in chat.context.logins.log]
        assert entries == [
            ("command", "multi", b"incr", b"limited"),
            ("channel", "toplevel", b"other", b"limited"),
            ("key", "toplevel", b"other:1", b"limited"),
        ]
        limit(native, "+@all", "~app:*")
        native.send(Get(b"other:1"), Get(b"other:1"))
        assert len(native.payloads()) == 2
        assert [(entry.reason, entry.object, entry.count) for entry in native.context.logins.log] == [
            ("key", b"other:1", 2)
        ]

    def test_right_that_ends_before_exec_is_recorded(self, chat: Chat) -> None:
        limit(chat, "+@all", "~*")
        chat("MULTI")
        chat("INCR k")
        limit(chat, "+@all", "-incr", "~*")
        chat("EXEC")
        (entry,) = chat.context.logins.log
        assert (entry.reason, entry.context, entry.object) == ("command", "multi", b"incr")


class TestWholeDatabase:
    def test_scan_needs_a_pattern_within_a_prefix(self, chat: Chat) -> None:
        chat("MSET app:1 a other:1 b")
        limit(chat, "+@all", "%R~app:*", "%W~other:*")
        assert chat("SCAN 0 MATCH app:*") == [b"0", [b"app:1"]]
        assert chat("SCAN 0 MATCH app:[0-9]") == [b"0", [b"app:1"]]
        assert chat("KEYS app:*") == [b"app:1"]
        for pattern in ("*", "ap*", "other:*", "?pp:*", "[a]pp*", "\\app*"):
            assert chat(f"SCAN 0 MATCH {pattern}") == NO_KEY, pattern
            assert chat(f"KEYS {pattern}") == NO_KEY, pattern
        assert chat("SCAN 0") == NO_KEY

    def test_clear_prefix_needs_a_prefix_that_the_user_may_write(self, native: NativeClient) -> None:
        limit(native, "+@all", "%R~*", "%W~app:*")
        native.send(ClearPrefix(b"app:1", 0), ClearPrefix(b"app", 0), ClearPrefix(b"", 0), Scan(0, 9, b""))
        first, second, third, scanned = native.payloads()
        assert not first.startswith(b"NOPERM")
        assert second == third == b"NOPERM No permissions to access a key"
        assert b"app:2" in scanned

    def test_keys_ends_when_its_right_ends(self, chat: Chat) -> None:
        chat.send(b"MSET", *[part for n in range(10_000) for part in (b"%d" % n, b"v")])
        chat.hear()
        chat.send(b"KEYS", b"*")
        limit(chat, "+@all", "~app:*")
        assert chat.hear() == [NO_KEY]


class TestMessages:
    """A command that names messages needs the right to their queues."""

    def test_message_of_another_queue_is_refused(self, native: NativeClient) -> None:
        native.send(Put(b"app:q", b"new"), Put(b"other:q", b"new"))
        mine, others = (int(payload[4:5]) for payload in native.payloads())
        limit(native, "+@all", "~app:*")
        native.send(Look(mine), Look(others), Remove((mine, others)), Ack(((others, 2),)))
        first, *refused = native.payloads()
        assert b"app:q" in first
        assert refused == [b"NOPERM No permissions to access a key"] * 3

    def test_deleted_message_belongs_to_no_queue(self, native: NativeClient) -> None:
        limit(native, "+@all", "~app:*")
        native.send(Remove((2, 3)), Remove((2, 3)), Ack(((2, 1),)), Look(2))
        removed, again, acked, looked = native.hear()
        assert (removed.payload, again.payload) == (b"2", b"0")
        assert acked.ok
        assert looked.payload == b"Key not found"

    def test_unknown_message_is_refused(self, native: NativeClient) -> None:
        """On a node of a cluster that is behind, it may be a message of another queue."""
        limit(native, "+@all", "~app:*")
        native.send(Remove((1_000,)))
        assert native.payloads() == [b"NOPERM No permissions to access a key"]


class TestWaitingTakes:
    def test_lost_right_ends_the_wait(self, native: NativeClient) -> None:
        native.send(Take(b"empty", 1, wait=20_000), Get(b"app:1"))
        assert native.hear() == []
        limit(native, "+@all", "~app:*")
        native.session.rights_changed()
        assert native.payloads() == [b"", b"1"]
        limit(native, "+@all", "~*")
        native.send(Put(b"empty", b"m"), Take(b"empty", 1))
        assert len(native.hear()) == 2, "the message is not leased"

    def test_kept_right_keeps_the_wait(self, native: NativeClient) -> None:
        limit(native, "+@all", "~empty*")
        native.send(Take(b"empty", 1, wait=20_000))
        limit(native, "+queue.take", "~e*")
        native.session.rights_changed()
        assert native.hear() == []
        native.store.execute(Put(b"empty", b"m"))
        assert len(native.hear()) == 1


class ClosedPeer(Peer):
    """A client whose connection notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def close(self, reason: str) -> None:
        self.closed = True


class TestChannels:
    def test_patterns_of_channels_need_a_right_to_all_their_matches(self, chat: Chat) -> None:
        limit(chat, "+@all", "&news:*")
        assert chat("PUBLISH news:1 m") == 0
        assert chat("PUBLISH other m") == NO_CHANNEL
        assert chat("SUBSCRIBE news:1 other") == NO_CHANNEL
        for pattern in ("*", "new*", "[nx]ews:*", "other*"):
            assert chat(f"PSUBSCRIBE {pattern}") == NO_CHANNEL, pattern
        assert not isinstance(chat("PSUBSCRIBE news:a*"), Error)

    def test_channels_of_others_are_not_listed(self, chat: Chat) -> None:
        Chat(chat)("SUBSCRIBE other:1")
        Chat(chat)("SUBSCRIBE news:1")
        assert chat("PUBSUB CHANNELS") == [b"other:1", b"news:1"]
        limit(chat, "+@all", "&news:*")
        assert chat("PUBSUB CHANNELS") == [b"news:1"]
        assert chat("PUBSUB CHANNELS *") == [b"news:1"]

    @pytest.mark.parametrize("words", ["SUBSCRIBE news:1", "PSUBSCRIBE news:*"])
    def test_lost_right_ends_the_connection_of_a_subscriber(self, words: str) -> None:
        peer = ClosedPeer()
        chat = Chat(peer=peer)
        chat("PING")
        limit(chat, "+@all", "&news:*")
        chat(words)
        limit(chat, "+@read", "&news:*", "&other:*")
        chat.session.rights_changed()
        assert not peer.closed
        limit(chat, "+@all", "&other:*")
        chat.session.rights_changed()
        assert peer.closed
        assert Chat(chat)("PUBLISH news:1 m") == 0


class TestReadAhead:
    def test_reads_no_value_that_the_client_may_not_read(self, chat: Chat) -> None:
        (conversation,) = chat.context.clients.values()
        conversation.feed(b"GET app:1\r\nGET other:1\r\nGET app:2\r\n")
        limit(chat, "+@all", "~app:*")
        assert conversation.upcoming()[0] == [Step(0, Get(b"app:1"))]
        limit(chat, "+@all", "~*")
        assert len(conversation.upcoming()[0]) == 3


# -- public holes --------------------------------------------------------------------------------------------------

OF_MANY_KEYS = [
    lambda *keys: SetMany(1_000, tuple((key, b"v") for key in keys)),
    lambda *keys: SetManyIfAbsent(tuple((key, b"v") for key in keys)),
    lambda *keys: GetMany(keys),
    lambda *keys: ClearMany(keys),
    lambda *keys: Exists(keys),
]


@pytest.mark.parametrize("of", OF_MANY_KEYS)
@pytest.mark.parametrize("place", range(3))
def test_redis_14659_every_key_of_a_command_is_checked(native: NativeClient, of: Any, place: int) -> None:
    """In Redis, MSETEX skipped key patterns."""
    limit(native, "+@all", "~app:*")
    keys = [b"app:1", b"app:2", b"app:3"]
    native.send(of(*keys))
    assert not native.payloads()[0].startswith(b"NOPERM")
    keys[place] = b"other:1"
    native.send(of(*keys))
    assert native.payloads() == [b"NOPERM No permissions to access a key"]


@pytest.mark.parametrize("name", ["MSET", "MSETNX", "MGET", "DEL", "UNLINK", "EXISTS", "TOUCH"])
@pytest.mark.parametrize("place", range(3))
def test_redis_14659_every_key_of_a_redis_command_is_checked(chat: Chat, name: str, place: int) -> None:
    limit(chat, "+@all", "~app:*")
    keys = ["app:1", "app:2", "app:3"]
    keys[place] = "other:1"
    assert chat(f"{name} {' '.join(f'{key} v' if name.startswith('MSET') else key for key in keys)}") == NO_KEY


@pytest.mark.parametrize("spec", RESP_SPECS)
def test_redis_15371_no_reply_shows_a_key_that_the_user_may_not_use(spec: RespCommandSpec) -> None:
    """In Redis, client-side caching showed the names of all keys. There is no CLIENT TRACKING here."""
    reply = reply_to(filled_store(), request_of(spec), "+@all", "~app:*", "&news:*")
    assert "other:" not in repr(reply)
    if spec.name == "client|list":
        tracking = reply_to(filled_store(), [b"CLIENT", b"TRACKING", b"ON"], "+@all", "~app:*")
        assert isinstance(tracking, Error)


@pytest.mark.parametrize("rules", [("on", "certonly"), ("on", ">secret", "certonly"), ("on", "nopass", "certonly")])
def test_redis_14638_user_for_certificates_does_not_log_in_with_a_secret(chat: Chat, rules: tuple[str, ...]) -> None:
    """In Redis, such a user has `nopass`, so any password logs it in."""
    chat.context.users.set(User(b"machine").changed((*rules, "+@all", "~*")))
    for secret in ("secret", "x", '""'):
        assert chat(f"AUTH machine {secret}").text.startswith("WRONGPASS")
        assert chat(f"HELLO 3 AUTH machine {secret}").text.startswith("WRONGPASS")
    assert chat("ACL WHOAMI") == b"default"


def test_garnet_258_password_of_a_user_can_have_a_slow_salted_hash(chat: Chat) -> None:
    """Garnet keeps an unsalted SHA-256 of each password, which is cheap to guess. Here that is for random tokens."""
    hashed = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2g"
    chat.context.users.set(User(b"person").changed(("on", hashed, "+@all", "~*")))
    person = chat.context.users.get(b"person")
    assert person is not None
    assert not person.secrets[0].is_digest
    assert chat("AUTH person aGFzaGhhc2hoYXNoaGFzaGhhc2g").text.startswith("WRONGPASS")

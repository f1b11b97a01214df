"""Redis commands about connections: protocol version, password, client names, and disabled replies."""

import pytest

from cairnkv.protocol.resp import OK, Error, Push, Simple, Verbatim
from cairnkv.session.access.users import default_user
from tests.session.resp.chat import Chat

PONG = Simple("PONG")
SYNTAX = Error("ERR syntax error")
WRONG_PASSWORD = Error("WRONGPASS invalid username-password pair or user is disabled.")
NO_PASSWORD_SAID = Error("NOAUTH Authentication required.")


@pytest.fixture
def stranger(chat: Chat) -> Chat:
    """A client that has not said the password, which is `secret`."""
    chat.context.users.set(default_user(b"secret"))
    return Chat(chat)


# -- signs of life, keyspaces, the end ---------------------------------------------------------------------


def test_ping_and_echo(chat: Chat) -> None:
    assert chat("PING") == PONG
    assert chat("ping there") == b"there"
    assert chat("PING a b") == Error("ERR wrong number of arguments for 'ping' command")
    assert chat("ECHO hello") == b"hello"


def test_each_database_has_its_own_keys(chat: Chat) -> None:
    chat("SET k 0")
    assert chat("SELECT 15") == OK
    assert chat("GET k") is None
    chat("SET k 15")
    chat("SELECT 0")
    assert chat("GET k") == b"0"


@pytest.mark.parametrize("index", ["16", "-1"])
def test_sixteen_databases_exist(chat: Chat, index: str) -> None:
    assert chat(f"SELECT {index}") == Error("ERR DB index is out of range")
    assert chat("SELECT zero") == Error("ERR value is not an integer or out of range")


def test_commands_after_quit_are_not_executed(chat: Chat) -> None:
    chat.send(b"QUIT")
    chat.send(b"SET", b"k", b"v")
    assert chat.hear() == [OK]
    assert Chat(chat)("EXISTS k") == 0


def test_reset_restores_the_initial_state(chat: Chat) -> None:
    for text in ("SELECT 3", "CLIENT SETNAME me", "SUBSCRIBE news", "HELLO 3", "MULTI"):
        chat(text)
    assert chat("RESET") == Simple("RESET")
    assert chat("EXEC") == Error("ERR EXEC without MULTI")
    assert chat("CLIENT GETNAME") is None
    assert chat("PUBSUB NUMSUB news") == [b"news", 0]
    chat("SET k v")
    assert chat.store.databases[0].get(b"k") == b"v"


# -- the protocol's version --------------------------------------------------------------------------------


def test_hello_describes_the_server(chat: Chat) -> None:
    told = chat("HELLO 3")
    assert told[b"server"] == b"redis"
    assert told[b"version"] == b"7.2.0"
    assert told[b"cairnkv_version"]
    assert (told[b"proto"], told[b"mode"], told[b"role"], told[b"modules"]) == (3, b"standalone", b"master", [])
    assert told[b"id"] == chat("CLIENT ID")


def test_hello_without_a_version_keeps_it(chat: Chat) -> None:
    assert isinstance(chat("HELLO"), list)
    assert isinstance(chat("HELLO 3"), dict)
    assert isinstance(chat("HELLO"), dict)
    assert isinstance(chat("HELLO 2"), list)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("HELLO three", "ERR Protocol version is not an integer or out of range"),
        ("HELLO 1", "NOPROTO unsupported protocol version"),
        ("HELLO 4", "NOPROTO unsupported protocol version"),
        ("HELLO 3 FOO", "ERR Syntax error in HELLO option 'FOO'"),
        ("HELLO 3 AUTH default", "ERR Syntax error in HELLO option 'AUTH'"),
        ("HELLO 3 SETNAME", "ERR Syntax error in HELLO option 'SETNAME'"),
        ("HELLO 3 SETNAME a\tb", "ERR Client names cannot contain spaces, newlines or special characters."),
        ("HELLO 3 AUTH somebody secret", WRONG_PASSWORD.text),
    ],
)
def test_refused_hello_changes_nothing(chat: Chat, text: str, error: str) -> None:
    assert chat.say(*text.encode().split(b" ")) == Error(error)
    assert isinstance(chat("HELLO"), list)
    assert chat("CLIENT GETNAME") is None


# -- a password --------------------------------------------------------------------------------------------


def test_unauthenticated_client_may_only_authenticate_or_quit(stranger: Chat) -> None:
    for text in ("GET k", "PING", "SUBSCRIBE c", "MULTI", "CLIENT ID", "COMMAND"):
        assert stranger(text) == NO_PASSWORD_SAID
    assert stranger("EXEC") == Error("EXECABORT Transaction discarded because of: NOAUTH Authentication required.")
    assert stranger("FOO").text.startswith("ERR unknown command")
    assert stranger("HELLO 3").code == "NOAUTH"
    assert stranger("RESET") == Simple("RESET")
    assert stranger("QUIT") == OK


@pytest.mark.parametrize("text", ["AUTH secret", "AUTH default secret", "HELLO 2 AUTH default secret"])
def test_right_password_authenticates(stranger: Chat, text: str) -> None:
    assert not isinstance(stranger(text), Error)
    assert stranger("PING") == PONG


@pytest.mark.parametrize("text", ["AUTH Secret", "AUTH secre", "AUTH somebody secret", "HELLO 2 AUTH default x"])
def test_wrong_password_does_not_authenticate(stranger: Chat, text: str) -> None:
    assert stranger(text) == WRONG_PASSWORD
    assert stranger("PING") == NO_PASSWORD_SAID


def test_reset_ends_the_authentication(stranger: Chat) -> None:
    stranger("AUTH secret")
    stranger("RESET")
    assert stranger("PING") == NO_PASSWORD_SAID


def test_connected_client_stays_authenticated_when_a_password_is_set(chat: Chat) -> None:
    chat("PING")
    chat.context.users.set(default_user(b"new"))
    assert chat("PING") == PONG
    assert Chat(chat)("PING") == NO_PASSWORD_SAID


def test_unauthenticated_client_has_small_limits(stranger: Chat) -> None:
    """As in Redis, so that unauthenticated clients cannot fill memory."""
    stranger.session.receive(b"*11\r\n")
    assert stranger.hear() == [Error("ERR Protocol error: unauthenticated multibulk length")]
    other = Chat(stranger)
    other.session.receive(b"*2\r\n$4\r\nAUTH\r\n$1025\r\n")
    assert other.hear() == [Error("ERR Protocol error: unauthenticated bulk length")]


def test_authenticated_client_has_the_general_limits(stranger: Chat) -> None:
    stranger("AUTH secret")
    assert stranger.say(b"SET", b"k", bytes(20_000)) == OK


def test_auth_without_a_password_is_an_error(chat: Chat) -> None:
    assert chat("AUTH x").text.startswith("ERR AUTH <password> called without any password configured")
    assert chat("AUTH default x") == OK
    assert chat("AUTH somebody x") == WRONG_PASSWORD
    assert chat("AUTH a b c") == SYNTAX


def test_password_may_be_any_bytes(chat: Chat) -> None:
    chat.context.users.set(default_user(b"\xff\xc3\xbc"))
    assert chat.say(b"AUTH", b"default", b"") == WRONG_PASSWORD
    assert chat.say(b"AUTH", b"default", b"\xff\xc3\xbc") == OK


def test_refused_exec_ends_the_transaction(chat: Chat) -> None:
    chat("MULTI")
    reason = "wrong number of arguments for 'exec' command"
    assert chat("EXEC now") == Error(f"EXECABORT Transaction discarded because of: {reason}")
    assert chat("EXEC") == Error("ERR EXEC without MULTI")


# -- what a client says of itself --------------------------------------------------------------------------


def test_client_ids_are_unique(chat: Chat) -> None:
    first, other = chat("CLIENT ID"), Chat(chat)
    second = other("CLIENT ID")
    other.session.disconnected()
    assert first < second < Chat(chat)("CLIENT ID")


def test_client_names(chat: Chat) -> None:
    assert chat("CLIENT SETNAME mine") == OK
    assert chat("CLIENT GETNAME") == b"mine"
    error = Error("ERR Client names cannot contain spaces, newlines or special characters.")
    assert chat.say(b"CLIENT", b"SETNAME", b"not mine") == error
    assert chat("CLIENT GETNAME") == b"mine"
    assert chat.say(b"CLIENT", b"SETNAME", b"") == OK
    assert chat("CLIENT GETNAME") is None


def test_library_name_and_version(chat: Chat) -> None:
    assert chat("CLIENT SETINFO LIB-NAME redis-py") == OK
    assert chat("CLIENT SETINFO lib-ver 8.1.0") == OK
    assert chat("CLIENT SETINFO FOO x") == Error("ERR Unrecognized option 'FOO'")
    assert chat.say(b"CLIENT", b"SETINFO", b"LIB-NAME", b"a b").code == "ERR"
    assert b"lib-name=redis-py lib-ver=8.1.0" in chat("CLIENT INFO")


FIELDS = [
    "id", "addr", "laddr", "fd", "name", "age", "idle", "flags", "db", "sub", "psub", "ssub", "multi", "qbuf",
    "qbuf-free", "argv-mem", "multi-mem", "rbs", "rbp", "obl", "oll", "omem", "tot-mem", "events", "cmd", "user",
    "redir", "resp", "lib-name", "lib-ver",
]  # fmt: skip
"""Those of Redis 7.2. Clients take it for granted that they are there."""


def fields(chat: Chat, text: str) -> list[dict[str, str]]:
    """Return the fields of CLIENT LIST or INFO by client."""
    told = chat(text)
    lines = (told.text if isinstance(told, Verbatim) else told).decode().splitlines()
    return [dict(field.split("=", 1) for field in line.split(" ")) for line in lines]


def test_client_info(chat: Chat) -> None:
    chat("SELECT 3")
    chat("MULTI")
    (before,) = fields(Chat(chat), "CLIENT LIST ID 1 99")
    assert (before["db"], before["multi"], before["flags"], before["cmd"]) == ("3", "0", "x", "multi")
    chat("DISCARD")
    chat("HELLO 3")
    (told,) = fields(chat, "CLIENT INFO")
    assert list(told) == FIELDS
    assert (told["resp"], told["flags"], told["user"], told["cmd"]) == ("3", "N", "default", "client|info")


def test_client_list_shows_all_redis_clients(chat: Chat) -> None:
    chat("PING")
    other = Chat(chat)
    other("SUBSCRIBE a")
    assert [told["sub"] for told in fields(chat, "CLIENT LIST")] == ["0", "1"]
    assert [told["flags"] for told in fields(chat, "CLIENT LIST TYPE pubsub")] == ["P"]
    assert [told["flags"] for told in fields(chat, "CLIENT LIST TYPE normal")] == ["N"]
    assert fields(chat, "CLIENT LIST TYPE replica") == []
    assert chat("CLIENT LIST TYPE foo") == Error("ERR Unknown client type 'foo'")
    assert chat("CLIENT LIST ID one") == Error("ERR Invalid client ID")
    assert chat("CLIENT LIST FOO") == SYNTAX


def test_killed_client_is_closed(chat: Chat) -> None:
    other = Chat(chat)
    other("SUBSCRIBE a")
    (told,) = fields(chat, "CLIENT LIST TYPE pubsub")
    assert chat(f"CLIENT KILL ID {told['id']}") == 1
    assert chat("PUBLISH a x") == 0
    assert len(fields(chat, "CLIENT LIST")) == 1


def test_client_kill_spares_the_caller_by_default(chat: Chat) -> None:
    for _ in range(3):
        Chat(chat)
        Chat(chat)("PING")
    assert chat("CLIENT KILL TYPE normal") == 3
    assert chat("CLIENT KILL USER default") == 0
    assert chat("CLIENT KILL USER default SKIPME no") == 1
    chat.send(b"PING")
    assert chat.hear() == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("CLIENT KILL 127.0.0.1:1", "ERR No such client"),
        ("CLIENT KILL ID 0", "ERR client-id should be greater than 0"),
        ("CLIENT KILL TYPE foo", "ERR Unknown client type 'foo'"),
        ("CLIENT KILL USER foo", "ERR No such user 'foo'"),
        ("CLIENT KILL SKIPME yes ID", "ERR syntax error"),
        ("CLIENT KILL FOO 1", "ERR syntax error"),
        ("CLIENT FOO", "ERR unknown subcommand 'FOO'. Try CLIENT HELP."),
        ("CLIENT", "ERR wrong number of arguments for 'client' command"),
        ("CLIENT ID x", "ERR wrong number of arguments for 'client|id' command"),
        ("CLIENT NO-EVICT perhaps", "ERR syntax error"),
        ("CLIENT REPLY perhaps", "ERR syntax error"),
    ],
)
def test_wrong_arguments_are_refused(chat: Chat, text: str, error: str) -> None:
    assert chat(text) == Error(error)


# -- replies that are not wanted ---------------------------------------------------------------------------


def test_reply_off_until_on(chat: Chat) -> None:
    for text in ("CLIENT REPLY OFF", "SET k v", "FOO", "CLIENT REPLY SKIP"):
        chat.send(*text.encode().split())
    assert chat.hear() == []
    assert chat("CLIENT REPLY ON") == OK
    assert chat("GET k") == b"v"


def test_reply_skip_is_for_one_command(chat: Chat) -> None:
    chat.send(b"CLIENT", b"REPLY", b"SKIP")
    chat.send(b"SET", b"k", b"v")
    chat.send(b"GET", b"k")
    assert chat.hear() == [b"v"]


def test_reset_is_skipped_too_and_enables_replies(chat: Chat) -> None:
    chat.send(b"CLIENT", b"REPLY", b"SKIP")
    chat.send(b"RESET")
    chat.send(b"CLIENT", b"REPLY", b"OFF")
    chat.send(b"RESET")
    assert chat.hear() == [Simple("RESET")]


def test_reply_on_is_answered_even_after_skip(chat: Chat) -> None:
    chat.send(b"CLIENT", b"REPLY", b"SKIP")
    assert chat("CLIENT REPLY ON") == OK


def test_pending_replies_are_skipped_too() -> None:
    chat = Chat(late=True)
    chat.send(b"CLIENT", b"REPLY", b"SKIP")
    chat.send(b"SET", b"k", b"v")
    chat.send(b"PING")
    chat.storage.commit()
    assert chat.hear() == [PONG]


def test_subscriber_without_replies_still_gets_messages(chat: Chat) -> None:
    chat("HELLO 3")
    chat.send(b"CLIENT", b"REPLY", b"OFF")
    assert chat("SUBSCRIBE a") == Push((b"subscribe", b"a", 1))
    Chat(chat)("PUBLISH a x")
    assert chat.hear() == [Push((b"message", b"a", b"x"))]


def test_client_help(chat: Chat) -> None:
    lines = [line.text for line in chat("CLIENT HELP")]
    assert "SETNAME connection-name" in lines
    assert lines[0].startswith("CLIENT <subcommand>")

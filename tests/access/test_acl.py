"""The command ACL: users, rules, categories and passwords, with the texts of Redis."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from cairnkv.protocol.resp import OK, Error
from cairnkv.session.access.categories import CATEGORIES
from cairnkv.session.access.users import UsersRefused
from cairnkv.session.context import ServerContext
from cairnkv.session.resp.commands.acl import RULES_MAX
from tests.session.resp.chat import Chat


@pytest.fixture
def chat() -> Chat:
    return Chat()


def with_context(**given: Any) -> Chat:
    """Return a chat whose server has these hooks."""
    chat = Chat()
    chat.context = ServerContext(chat.store, **given)
    return Chat(chat)


class TestUsers:
    def test_default_user_is_the_first(self, chat: Chat) -> None:
        assert chat("ACL USERS") == [b"default"]
        assert chat("ACL LIST") == [b"user default on nopass ~* &* +@all"]

    def test_new_user_is_disabled_without_rights(self, chat: Chat) -> None:
        assert chat("ACL SETUSER app") == OK
        assert chat("ACL USERS") == [b"app", b"default"]
        assert chat("ACL LIST")[0] == b"user app off resetchannels -@all"

    def test_rules_apply_in_order(self, chat: Chat) -> None:
        assert chat("ACL SETUSER app on >s3cret ~app:* +@all -@dangerous") == OK
        digest = hashlib.sha256(b"s3cret").hexdigest()
        assert chat("ACL LIST")[0] == f"user app on #{digest} ~app:* resetchannels +@all -@dangerous".encode()
        assert chat("ACL SETUSER app off -@all") == OK
        assert chat("ACL LIST")[0] == f"user app off #{digest} ~app:* resetchannels -@all".encode()

    def test_getuser_shows_state_hashes_and_rights(self, chat: Chat) -> None:
        chat("HELLO 3")
        chat("ACL SETUSER app on >s3cret ~app:* %R~ro:* &news:* +@all -get")
        shown = chat("ACL GETUSER app")
        assert shown == {
            b"flags": [b"on"],
            b"passwords": [hashlib.sha256(b"s3cret").hexdigest().encode()],
            b"commands": b"+@all -get",
            b"keys": b"~app:* %R~ro:*",
            b"channels": b"&news:*",
            b"selectors": [],
        }
        assert chat("ACL GETUSER absent") is None

    def test_getuser_in_resp2_is_a_flat_array(self, chat: Chat) -> None:
        assert chat("ACL GETUSER default")[:2] == [b"flags", [b"on", b"nopass"]]

    @pytest.mark.parametrize(
        ("rule", "reason"),
        [
            ("+nothing", "Unknown command or category name in ACL"),
            ("~a?", "a pattern must be a prefix with a final *, such as app:*"),
            ("<absent", "The password you are trying to remove from the user does not exist"),
        ],
    )
    def test_wrong_rule_changes_nothing(self, chat: Chat, rule: str, reason: str) -> None:
        reply = chat(f"ACL SETUSER app on +get {rule}")
        assert isinstance(reply, Error)
        assert reply.text.startswith("ERR Error in ACL SETUSER modifier '")
        assert reply.text.endswith(f"': {reason}")
        assert "absent" not in reply.text
        assert chat("ACL USERS") == [b"default"]

    def test_number_of_rules_at_once_is_limited(self, chat: Chat) -> None:
        assert chat("ACL SETUSER app" + " on" * RULES_MAX) == OK
        assert chat("ACL SETUSER app" + " off" * (RULES_MAX + 1)) == Error("ERR more than 1024 rules at once")
        assert chat("ACL GETUSER app")[:2] == [b"flags", [b"on"]]

    def test_names_of_users_have_no_spaces(self, chat: Chat) -> None:
        text = "ERR Usernames can't contain spaces or null characters"
        assert chat.say(b"ACL", b"SETUSER", b"a a") == Error(text)
        assert chat.say(b"ACL", b"SETUSER", b"a\0a") == Error(text)

    def test_deluser_counts_users_that_existed(self, chat: Chat) -> None:
        chat("ACL SETUSER a")
        chat("ACL SETUSER b")
        assert chat("ACL DELUSER a b a absent") == 2
        assert chat("ACL DELUSER absent") == 0
        assert chat("ACL DELUSER default") == Error("ERR The 'default' user cannot be removed")

    @pytest.mark.parametrize("rule", ["off", "-@all", "-get", "resetpass", "reset"])
    def test_last_administrator_cannot_be_reduced(self, chat: Chat, rule: str) -> None:
        assert chat(f"ACL SETUSER default {rule}").text.startswith("ERR the last administrator cannot be removed")
        assert chat("ACL SETUSER admin on >s3cret allcommands") == OK
        assert chat(f"ACL SETUSER default {rule}") == OK

    def test_nodes_of_a_cluster_change_no_users(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(chat.store), "mode", "replicated")
        for text in ("ACL SETUSER app on", "ACL DELUSER app"):
            assert chat(text).text.startswith("ERR a node of a cluster does not change its users")
        assert chat("ACL USERS") == [b"default"]


class TestFile:
    @pytest.mark.parametrize("word", ["LOAD", "SAVE"])
    def test_server_without_users_file_has_the_error_of_redis(self, chat: Chat, word: str) -> None:
        reply = chat(f"ACL {word}")
        assert reply.text.startswith("ERR This Redis instance is not configured to use an ACL file.")

    def test_load_and_save_call_the_server(self) -> None:
        calls: list[str] = []

        def record(name: str) -> Callable[[], None]:
            return lambda: calls.append(name)

        chat = with_context(load_users=record("load"), save_users=record("save"))
        assert (chat("ACL LOAD"), chat("ACL SAVE"), calls) == (OK, OK, ["load", "save"])

    def test_refused_load_reports_that_nothing_changed(self) -> None:
        def refuse() -> None:
            raise UsersRefused("users.acl:3: Syntax error")

        chat = with_context(load_users=refuse, save_users=refuse)
        assert chat("ACL LOAD") == Error(
            "ERR users.acl:3: Syntax error. WARNING: ACL errors detected, no change to the previously active ACL rules "
            "was performed"
        )
        assert chat("ACL SAVE").text.startswith("ERR There was an error trying to save the ACLs.")


class TestCat:
    def test_cat_lists_all_categories(self, chat: Chat) -> None:
        assert chat("ACL CAT") == [name.encode() for name in CATEGORIES]

    def test_cat_lists_the_commands_of_a_category(self, chat: Chat) -> None:
        assert {b"get", b"mget", b"queue.peek"} <= set(chat("ACL CAT Read"))
        assert b"set" not in chat("ACL CAT read")
        assert b"acl|setuser" in chat("ACL CAT dangerous")
        assert chat("ACL CAT geo") == []

    def test_every_listed_category_can_be_granted(self, chat: Chat) -> None:
        for name in chat("ACL CAT"):
            assert chat.say(b"ACL", b"SETUSER", b"app", b"+@" + name) == OK

    def test_unknown_category_is_refused(self, chat: Chat) -> None:
        assert chat("ACL CAT nothing") == Error("ERR Unknown category 'nothing'")


class TestDryrun:
    @pytest.fixture
    def chat(self) -> Chat:
        chat = Chat()
        assert chat("ACL SETUSER app ~app:* %R~ro:* &news:* +@all -config|set -flushall") == OK
        return chat

    @pytest.mark.parametrize(
        "command",
        [
            "GET app:1",
            "get ro:1",
            "COPY ro:1 app:1",
            "MSET app:1 a app:2 b",
            "CONFIG GET x",
            "CONFIG HELP",
            "PUBLISH news:1 x",
            "PSUBSCRIBE news:*",
            "SCAN 0 MATCH app:*",
            "COMMAND",
            "COMMAND DOCS",
            "QUEUE.PUT app:jobs x",
        ],
    )
    def test_allowed_command_is_ok(self, chat: Chat, command: str) -> None:
        assert chat(f"ACL DRYRUN app {command}") == OK

    @pytest.mark.parametrize(
        ("command", "text"),
        [
            ("SET ro:1 x", "access the 'ro:1' key"),
            ("MSET app:1 a other b", "access the 'other' key"),
            ("COPY app:1 ro:1", "access the 'ro:1' key"),
            ("FLUSHALL", "run the 'flushall' command"),
            ("CONFIG SET a b", "run the 'config|set' command"),
            ("PUBLISH other x", "access the 'other' channel"),
            ("SUBSCRIBE news:1 other", "access the 'other' channel"),
            ("QUEUE.PUT other x", "access the 'other' key"),
        ],
    )
    def test_refused_command_has_the_reason(self, chat: Chat, command: str, text: str) -> None:
        assert chat(f"ACL DRYRUN app {command}") == f"User app has no permissions to {text}".encode()
        assert chat("DBSIZE") == 0

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ("absent GET k", "User 'absent' not found"),
            ("app LPUSH k v", "Command 'LPUSH' not found"),
            ("app CONFIG NOTHING", "Command 'CONFIG' not found"),
            ("app GET", "wrong number of arguments for 'get' command"),
            ("app CONFIG SET a", "wrong number of arguments for 'config|set' command"),
        ],
    )
    def test_wrong_arguments_have_the_texts_of_redis(self, chat: Chat, words: str, text: str) -> None:
        assert chat(f"ACL DRYRUN {words}") == Error(f"ERR {text}")


class TestGenpass:
    @pytest.mark.parametrize(("text", "length"), [("", 64), ("256", 64), ("5", 2), ("1", 1), ("12", 3), ("4096", 1024)])
    def test_password_has_the_bits_in_hexadecimal(self, text: str, length: int) -> None:
        chat = with_context(random_bytes=lambda size: b"\xa5" * size)
        assert chat(f"ACL GENPASS {text}") == (b"a5" * 1024)[:length]

    @pytest.mark.parametrize("text", ["0", "-1", "4097"])
    def test_wrong_number_of_bits_is_refused(self, chat: Chat, text: str) -> None:
        assert chat(f"ACL GENPASS {text}").text.startswith("ERR ACL GENPASS argument must be the number of bits")

    def test_text_is_no_number_of_bits(self, chat: Chat) -> None:
        assert chat("ACL GENPASS many") == Error("ERR value is not an integer or out of range")


@pytest.mark.parametrize("subcommand", ["CAT", "GENPASS", "LOG"])
def test_too_many_arguments_have_the_text_of_redis(chat: Chat, subcommand: str) -> None:
    text = f"ERR unknown subcommand or wrong number of arguments for '{subcommand}'. Try ACL HELP."
    assert chat(f"ACL {subcommand.lower()} a b") == Error(text)


def test_acl_help_lists_the_subcommands(chat: Chat) -> None:
    lines = [line.text for line in chat("ACL HELP")]
    assert "SETUSER username [rule [rule ...]]" in lines


def test_unknown_subcommand_is_refused(chat: Chat) -> None:
    assert chat("ACL NOTHING") == Error("ERR unknown subcommand 'NOTHING'. Try ACL HELP.")


class TestWhoami:
    def test_returns_the_user_of_the_login(self, chat: Chat) -> None:
        assert chat("ACL WHOAMI") == b"default"
        chat("ACL SETUSER app on >s3cret +@all")
        assert chat("AUTH app s3cret") == OK
        assert chat("ACL WHOAMI") == b"app"
        assert chat("RESET").text == "RESET"
        assert chat("ACL WHOAMI") == b"default"

    def test_client_list_and_kill_know_the_user(self, chat: Chat) -> None:
        chat("ACL SETUSER app on >s3cret +@all")
        other = Chat(chat)
        assert other("HELLO 2 AUTH app s3cret SETNAME web")[:2] == [b"server", b"redis"]
        assert b"name=web" in (listed := chat("CLIENT LIST"))
        assert b" user=app " in listed
        assert chat("CLIENT KILL USER nobody") == Error("ERR No such user 'nobody'")
        assert chat("CLIENT KILL USER app") == 1


def test_administrative_commands_are_audited_also_in_transactions() -> None:
    commands: list[object] = []
    chat = with_context(audit=lambda event, fields: commands.append((event, fields.get("command"))))
    for text in ("SET k v", "FLUSHDB", "MULTI", "FLUSHALL", "GET k", "CONFIG RESETSTAT"):
        chat(text)
    assert commands == [("command", "flushdb")]
    chat("EXEC")
    assert commands[1:] == [("command", "flushall"), ("command", "config|resetstat")]


class TestLog:
    def test_equal_failures_are_one_entry(self, chat: Chat) -> None:
        for _ in range(3):
            assert chat("AUTH nobody wrong").code == "WRONGPASS"
        chat("HELLO 3")
        (entry,) = chat("ACL LOG")
        assert entry.pop(b"client-info").startswith(b"addr=?:0 ")
        assert entry == {
            b"count": 3,
            b"reason": b"auth",
            b"context": b"toplevel",
            b"object": b"AUTH",
            b"username": b"nobody",
            b"age-seconds": b"0.000",
            b"entry-id": 0,
            b"timestamp-created": chat.clock.now,
            b"timestamp-last-updated": chat.clock.now,
        }

    def test_newest_is_first_and_the_default_count_is_ten(self, chat: Chat) -> None:
        for number in range(12):
            chat.context.logins.failed.forget("?", b"user%d" % number)
            Chat(chat)(f"AUTH user{number} wrong")
        assert len(chat("ACL LOG")) == 10
        assert len(chat("ACL LOG 100")) == 12
        assert chat("ACL LOG 0") == chat("ACL LOG -5") == []
        (newest,) = chat("ACL LOG 1")
        assert newest[newest.index(b"username") + 1] == b"user11"

    def test_missing_right_to_all_keys_has_a_star_as_object(self, chat: Chat) -> None:
        chat("ACL SETUSER app on nopass +@all ~app:*")
        app = Chat(chat)
        assert app("AUTH app x") == OK
        assert app("DBSIZE") == Error("NOPERM No permissions to access a key")
        (entry,) = chat("ACL LOG")
        assert entry[entry.index(b"object") + 1] == b"*"

    def test_reset_removes_all(self, chat: Chat) -> None:
        chat("AUTH nobody wrong")
        assert chat("ACL LOG reset") == OK
        assert chat("ACL LOG") == []
        assert b"acl_access_denied_auth:1" in chat("INFO stats")
        assert chat("ACL LOG many") == Error("ERR value is not an integer or out of range")
        assert chat("ACL LOG 1 2").code == "ERR"

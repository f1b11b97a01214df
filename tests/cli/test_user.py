"""`cairn user`: its actions on a users file, its output on a terminal and in a pipe, and its errors."""

import json
import re
import stat
from pathlib import Path

import pytest

from cairnkv.cli.user import ACTIONS
from cairnkv.limits import CREDENTIALS_MAX
from cairnkv.server.users_file import read
from cairnkv.session.access.users import User
from tests.cli.conftest import Call, Said
from tests.cli.terminal import Terminal

TOKEN = re.compile(rb"ck_[A-Za-z0-9_-]{43}\n")

ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMjM0$" + "A" * 43


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The users file of the environment, which does not exist yet."""
    path = tmp_path / "users.acl"
    monkeypatch.setenv("CAIRNKV__USERS", str(path))
    return path


@pytest.fixture
def _hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords without the package and its 19 MiB."""
    monkeypatch.setattr("cairnkv.server.password_hashing.require_argon2", lambda: None)
    monkeypatch.setattr("cairnkv.server.password_hashing.hash_password", lambda password: ARGON2)


def user(file: Path, name: bytes = b"app") -> User:
    (found,) = [user for user in read(file) if user.name == name]
    return found


def token_of(said: Said) -> bytes:
    assert (said.code, said.err) == (0, "")
    assert TOKEN.fullmatch(said.out)
    return said.out.strip()


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_a_help_text(cairn_here: Call, action: str) -> None:
    said = cairn_here("user", action, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: cairn user {action} ".encode())
    assert f"cairn user {action} " in said.out.decode().partition("examples:")[2]
    assert f"  {action} " in cairn_here("user", "--help").out.decode()


@pytest.mark.parametrize("action", ["dance", "ADD", ""])
def test_unknown_action_is_refused(cairn_here: Call, action: str) -> None:
    said = cairn_here("user", action)
    assert said.code == 2
    assert "use one of add, list" in said.err


class TestAdd:
    def test_add_prints_a_token_and_keeps_its_digest(self, cairn_here: Call, file: Path) -> None:
        token = token_of(cairn_here("user", "add", "app", "~app:*", "+@read", "-get"))
        made = user(file)
        assert made.secrets[0].matches(token)
        assert made.line.endswith(" ~app:* resetchannels -@all +@read -get")
        assert made.enabled
        assert token not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_tokens_differ(self, cairn_here: Call, file: Path) -> None:
        assert token_of(cairn_here("user", "add", "a")) != token_of(cairn_here("user", "add", "b"))

    def test_file_of_the_option_wins(self, cairn_here: Call, file: Path, tmp_path: Path) -> None:
        token_of(cairn_here("user", "add", "app", "--users", str(tmp_path / "other.acl")))
        assert not file.exists()
        assert user(tmp_path / "other.acl").enabled

    def test_user_without_a_secret_gets_no_token(self, cairn_here: Call, file: Path) -> None:
        for name, rule in (("default", "nopass"), ("gateway", "certonly"), ("hashed", "#" + "ab" * 32)):
            assert cairn_here("user", "add", name, rule) == Said(0, b"", "")
        assert [one.line.split()[3] for one in read(file)] == ["nopass", "certonly", "#" + "ab" * 32]

    @pytest.mark.usefixtures("_hashing")
    def test_password_is_read_from_standard_input(self, cairn_here: Call, file: Path) -> None:
        said = cairn_here("user", "add", "app", "--password", stdin=b"s3cret\n")
        assert said == Said(0, b"", "")
        assert user(file).secrets[0].text == ARGON2

    @pytest.mark.usefixtures("_hashing")
    def test_empty_password_is_refused(self, cairn_here: Call, file: Path) -> None:
        said = cairn_here("user", "add", "app", "--password")
        assert said == Said(2, b"", "cairn: the password is empty; nothing is changed\n")
        assert not file.exists()

    @pytest.mark.usefixtures("_hashing")
    def test_length_of_name_and_password_is_limited(self, cairn_here: Call, file: Path) -> None:
        longest = b"x" * (CREDENTIALS_MAX - len("app"))
        said = cairn_here("user", "add", "app", "--password", stdin=longest + b"x\n")
        assert (said.code, file.exists()) == (2, False)
        assert "clients send name and password in at most 1,000 bytes" in said.err
        assert cairn_here("user", "add", "app", "--password", stdin=longest + b"\n").code == 0

    def test_json_has_user_and_token(self, cairn_here: Call, file: Path) -> None:
        shown = json.loads(cairn_here("user", "add", "app", "+get", "--json").out)
        assert shown.keys() == {"user", "token", "rules"}
        assert user(file).secrets[0].matches(shown["token"].encode())

    def test_existing_user_is_not_replaced(self, cairn_here: Call, file: Path) -> None:
        token_of(cairn_here("user", "add", "app"))
        before = file.read_bytes()
        said = cairn_here("user", "add", "app", "+get")
        assert said.code == 2
        assert "has a user 'app' already; `cairn user set` changes it" in said.err
        assert file.read_bytes() == before


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["add", "app", "+renmae"], "the rule '+renmae': Unknown command or category name in ACL; did you mean"),
            (["add", "app", "+renmae"], "'+rename'?"),
            (["add", "app", "+read"], "did you mean '+@read'?"),
            (["add", "app", "+@raed"], "did you mean '+@read'?"),
            (["add", "app", "-@wirte"], "did you mean '-@write'?"),
            (["add", "app", "~app"], "the rule '~app': a pattern must be a prefix with a final *"),
            (
                ["add", "app", "app:*"],
                "the rule '(hidden)': Syntax error; a rule is a word such as allkeys, or begins with",
            ),
            (["add", "app", ">s3cret"], "all users of this computer can read a password in arguments; use --password"),
            (["add", "a b"], "Usernames can't contain spaces or null characters"),
            (["add", "a:b"], "a user's name with a colon cannot be written in USER:SECRET"),
            (["add"], "NAME"),
            (["set", "app"], "there are no rules"),
            (["rotate", "app", "--finish", "--password"], "--finish adds no secret"),
            (["list", "-x"], "there is no option '-x'"),
        ],
    )
    def test_error_is_one_line_and_changes_nothing(
        self, cairn_here: Call, file: Path, arguments: list[str], text: str
    ) -> None:
        said = cairn_here("user", *arguments)
        assert (said.code, said.out) == (2, b"")
        assert text in said.err
        assert said.err.count("\n") == 1
        assert "s3cret" not in said.err
        assert not file.exists()

    def test_file_must_be_named(self, cairn_here: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CAIRNKV__USERS", raising=False)
        said = cairn_here("user", "list")
        assert said.code == 2
        assert "name the users file: --users FILE, or CAIRNKV__USERS in the environment" in said.err

    @pytest.mark.parametrize("action", ["list", "set", "rotate", "disable", "remove"])
    def test_missing_file_is_an_error(self, cairn_here: Call, file: Path, action: str) -> None:
        said = cairn_here("user", action, *(["app"] if action != "list" else []), *(["on"] if action == "set" else []))
        assert (said.code, said.out) == (2, b"")
        assert f"cannot read the users file: {file}: No such file" in said.err

    @pytest.mark.parametrize("action", ["set", "rotate", "disable", "remove"])
    def test_missing_user_has_the_exit_code_1(self, cairn_here: Call, file: Path, action: str) -> None:
        token_of(cairn_here("user", "add", "app"))
        said = cairn_here("user", action, "apq", *(["on"] if action == "set" else []))
        assert said == Said(1, b"", f"cairn: {file} has no user 'apq'; did you mean 'app'?\n")

    def test_open_file_is_refused_with_the_remedy(self, cairn_here: Call, file: Path) -> None:
        token_of(cairn_here("user", "add", "app"))
        file.chmod(0o644)
        said = cairn_here("user", "list")
        assert said.code == 2
        assert f"chmod 600 {file}" in said.err

    @pytest.mark.parametrize("arguments", [["remove", "boss"], ["disable", "boss"], ["set", "boss", "-@all"]])
    def test_last_administrator_stays(self, cairn_here: Call, file: Path, arguments: list[str]) -> None:
        token_of(cairn_here("user", "add", "boss", "allcommands"))
        said = cairn_here("user", *arguments)
        assert said.code == 2
        assert "the last administrator cannot be removed, disabled or reduced" in said.err
        assert user(file, b"boss").is_administrator


class TestChanges:
    def test_rules_may_follow_options(self, cairn_here: Call, file: Path) -> None:
        assert (
            cairn_here("user", "add", "--json", "app", "-@all", "--users", str(file), "+get", "-get", "+set").code == 0
        )
        assert user(file).rights.all_command_rules == "-@all -get +set"

    def test_set_applies_rules_after_the_others(self, cairn_here: Call, file: Path) -> None:
        token = token_of(cairn_here("user", "add", "app", "~app:*", "+@read"))
        assert cairn_here("user", "set", "app", "+@write", "-set", "off") == Said(0, b"", "")
        assert user(file).rights.rules == "~app:* resetchannels -@all +@read +@write -set"
        assert not user(file).enabled
        assert user(file).secrets[0].matches(token)

    def test_rotation_has_two_secrets_until_its_end(self, cairn_here: Call, file: Path) -> None:
        def accepted() -> list[bool]:
            return [any(secret.matches(token) for secret in user(file).secrets) for token in tokens]

        tokens = [token_of(cairn_here("user", "add", "app", "+get"))]
        tokens.append(token_of(cairn_here("user", "rotate", "app")))
        assert accepted() == [True, True]
        tokens.append(token_of(cairn_here("user", "rotate", "app")))
        assert accepted() == [False, True, True]
        assert cairn_here("user", "rotate", "app", "--finish") == Said(0, b"", "")
        assert accepted() == [False, False, True]
        assert user(file).rights.may_execute("get")

    @pytest.mark.usefixtures("_hashing")
    def test_rotation_to_a_password(self, cairn_here: Call, file: Path) -> None:
        token = token_of(cairn_here("user", "add", "app"))
        assert cairn_here("user", "rotate", "app", "--password", stdin=b"new\n").code == 0
        assert [secret.is_digest for secret in user(file).secrets] == [True, False]
        assert user(file).secrets[0].matches(token)

    def test_rotation_needs_a_secret(self, cairn_here: Call, file: Path) -> None:
        cairn_here("user", "add", "default", "nopass")
        said = cairn_here("user", "rotate", "default")
        assert said == Said(2, b"", "cairn: default has no secret: it is on nopass\n")

    def test_disable_and_on_again(self, cairn_here: Call, file: Path) -> None:
        token_of(cairn_here("user", "add", "app"))
        assert cairn_here("user", "disable", "app").code == 0
        assert not user(file).enabled
        assert cairn_here("user", "set", "app", "on").code == 0
        assert user(file).enabled

    def test_remove_keeps_comments_and_others(self, cairn_here: Call, file: Path) -> None:
        for name in ("a", "b"):
            token_of(cairn_here("user", "add", name))
        file.write_text(f"# services\n{file.read_text()}")
        assert cairn_here("user", "remove", "a") == Said(0, b"", "")
        assert [line.split()[:2] for line in file.read_text().splitlines()] == [["#", "services"], ["user", "b"]]


class TestList:
    @pytest.fixture(autouse=True)
    def _users(self, cairn_here: Call, file: Path) -> None:
        cairn_here("user", "add", "boss", "allkeys", "allchannels", "allcommands")
        cairn_here("user", "add", "app", "~app:*", "+@read", "off")
        cairn_here("user", "add", "default", "nopass", "+@read")
        cairn_here("user", "rotate", "boss")

    def test_table_in_a_pipe_is_plain(self, cairn_here: Call) -> None:
        said = cairn_here("user", "list")
        assert (said.code, said.err) == (0, "")
        assert [line.split(maxsplit=2) for line in said.out.decode().splitlines()] == [
            ["user", "state", "login        rules"],
            ["app", "off", "1 token      ~app:* resetchannels -@all +@read"],
            ["boss", "on", "2 tokens     ~* &* +@all"],
            ["default", "on", "no password  resetchannels -@all +@read"],
        ]

    def test_json_has_a_line_for_each_user(self, cairn_here: Call) -> None:
        lines = [json.loads(line) for line in cairn_here("user", "list", "--json").out.splitlines()]
        assert [line["user"] for line in lines] == ["app", "boss", "default"]
        assert lines[1] == {
            "user": "boss",
            "enabled": True,
            "login": "2 tokens",
            "administrator": True,
            "keys": "~*",
            "channels": "&*",
            "commands": "+@all",
        }

    def test_list_shows_no_hash(self, cairn_here: Call, file: Path) -> None:
        hashes = re.findall("[0-9a-f]{64}", file.read_text())
        assert len(hashes) == 3
        shown = cairn_here("user", "list").out + cairn_here("user", "list", "--json").out
        assert not any(one.encode() in shown for one in hashes)

    def test_terminal_gets_no_control_sequence_of_the_file(self, file: Path) -> None:
        with file.open("a") as opened:
            opened.write("user x\x1b]0;title\x07 on ~\x1b\x07* +get\n")
        with Terminal("user", "list", NO_COLOR="1") as terminal:
            assert terminal.wait() == 0
            assert "\x1b" not in terminal.screen
            assert "title" in terminal.screen

    def test_error_about_the_file_has_no_control_sequence(self, cairn_here: Call, file: Path) -> None:
        with file.open("a") as opened:
            opened.write("user x on +\x1b]0;title\x07\n")
        said = cairn_here("user", "list")
        assert said.code == 2
        assert "'+\\x1b]0;title\\x07'" in said.err

    def test_terminal_has_colours(self) -> None:
        with Terminal("user", "list") as terminal:
            terminal.expect("\x1b\\[1mapp")
            terminal.expect("\x1b\\[31moff")
            assert terminal.wait() == 0


def test_terminal_asks_for_a_password_twice(file: Path) -> None:
    with Terminal("user", "add", "app", "--password") as terminal:
        terminal.expect("password: ")
        terminal.type("s3cret\r")
        terminal.expect("the same again: ")
        terminal.type("other\r")
        terminal.expect("the two passwords differ; nothing is changed")
        assert terminal.wait() == 2
    assert not file.exists()
    with Terminal("user", "add", "app", "--password") as terminal:
        terminal.expect("password: ")
        terminal.type("s3cret\r")
        shown = terminal.expect("the same again: ")
        terminal.type("s3cret\r")
        assert terminal.wait() == 0
        assert "s3cret" not in shown + terminal.screen
    assert user(file).secrets[0].text.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_terminal_shows_the_token_with_a_note(file: Path) -> None:
    with Terminal("user", "add", "app") as terminal:
        terminal.expect("a running server reads it after SIGHUP or ACL LOAD")
        terminal.expect("app may do nothing yet")
        terminal.expect("\x1b\\[36mck_[A-Za-z0-9_-]{43}")
        terminal.expect("this token is not shown again")
        assert terminal.wait() == 0

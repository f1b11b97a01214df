"""The users of a running server: file and password together, reload by ACL LOAD and SIGHUP, and INFO."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnkv.errors import OptionError
from cairnkv.server.settings import Settings
from cairnkv.server.users import ServerUsers
from cairnkv.session.access.users import User, UsersRefused
from tests.support.raw import ServerProcess, eventually
from tests.support.raw_resp import Peer, Value, value_of

ADMIN = "user default on nopass ~* &* +@all\n"
APP = "user app on >s3cret ~app:* +@read\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A users file of an administrator and an application."""
    path = tmp_path / "users.acl"
    write(path, ADMIN + APP)
    return path


def write(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o600)


def names(users: ServerUsers) -> list[bytes]:
    return [user.name for user in users.table]


class TestTable:
    def test_server_without_options_has_the_default_user(self) -> None:
        users = ServerUsers(Settings())
        assert names(users) == [b"default"]
        assert not users.table.required
        assert not users.has_file

    def test_password_is_that_of_default(self, file: Path) -> None:
        users = ServerUsers(Settings(password="s3cret"))
        default = users.table.get(b"default")
        assert default is not None
        assert default.secrets[0].matches(b"s3cret")
        assert users.table.required
        write(file, APP)
        both = ServerUsers(Settings(password="s3cret", users=str(file)))
        assert names(both) == [b"app", b"default"]
        assert both.table.get(b"default") == default

    def test_file_without_default_has_none(self, file: Path) -> None:
        write(file, APP)
        users = ServerUsers(Settings(users=str(file)))
        assert names(users) == [b"app"]
        assert users.table.required

    def test_two_defaults_are_refused(self, file: Path) -> None:
        with pytest.raises(OptionError, match="has a user default, and --password is a second definition"):
            ServerUsers(Settings(password="s3cret", users=str(file)))

    def test_bad_file_is_an_error_of_options(self, file: Path) -> None:
        write(file, ADMIN + "user x +nothing\n")
        with pytest.raises(OptionError, match=r"users\.acl:2: "):
            ServerUsers(Settings(users=str(file)))

    def test_open_default_on_a_network_is_refused(self, file: Path) -> None:
        with pytest.raises(OptionError, match="the user default has all rights and no password"):
            ServerUsers(Settings(users=str(file), host="0.0.0.0"))
        ServerUsers(Settings(users=str(file), host="0.0.0.0", insecure=True))
        write(file, "user default on nopass ~public:* +@read\n" + APP)
        users = ServerUsers(Settings(users=str(file), host="0.0.0.0"))
        default = users.table.get(b"default")
        assert default is not None
        with pytest.raises(UsersRefused, match="any client that reaches the port"):
            users.table.set(default.changed(["allkeys", "allchannels", "allcommands"]))

    def test_changed_password_keeps_the_rights(self, file: Path) -> None:
        write(file, "user default on nopass ~public:* +@read\nuser admin on >x +@all\n")
        users = ServerUsers(Settings(users=str(file)))
        users.set_password("s3cret")
        default = users.table.get(b"default")
        assert default is not None
        assert default.rights.read == (b"public:",)
        assert users.table.required
        users.set_password(None)
        assert not users.table.required


class TestReload:
    def test_load_reads_the_file_again(self, file: Path) -> None:
        users = ServerUsers(Settings(users=str(file)))
        write(file, ADMIN)
        users.load()
        assert names(users) == [b"default"]

    @pytest.mark.parametrize(
        ("content", "text"), [(ADMIN + "user x ~a", r"acl:2: "), (APP, "the last administrator"), ("", "administrator")]
    )
    def test_bad_file_changes_nothing(self, file: Path, content: str, text: str) -> None:
        users = ServerUsers(Settings(users=str(file)))
        before = users.table.version
        write(file, content)
        with pytest.raises(UsersRefused, match=text):
            users.load()
        assert (names(users), users.table.version) == ([b"app", b"default"], before)
        with pytest.raises(UsersRefused, match="has changed since it was loaded"):
            users.save()  # it would overwrite what could not be loaded
        assert file.read_text() == content

    def test_changed_password_survives_a_reload(self, file: Path) -> None:
        write(file, APP)
        users = ServerUsers(Settings(users=str(file), password="one"))
        users.set_password("two")
        users.load()
        default = users.table.get(b"default")
        assert default is not None
        assert default.secrets[0].matches(b"two")

    def test_save_writes_changes_and_not_the_password(self, file: Path) -> None:
        write(file, "# services\n" + APP)
        users = ServerUsers(Settings(users=str(file), password="s3cret"))
        users.table.set(User(b"new").changed(["on", "nopass"]))
        users.save()
        assert [line.split()[:2] for line in file.read_text().splitlines()] == [
            ["#", "services"],
            ["user", "app"],
            ["user", "new"],
        ]
        users.load()
        assert names(users) == [b"app", b"default", b"new"]

    def test_save_over_a_changed_file_is_refused(self, file: Path) -> None:
        users = ServerUsers(Settings(users=str(file)))
        write(file, ADMIN)
        with pytest.raises(UsersRefused, match="has changed since it was loaded"):
            users.save()


@pytest.fixture
def server(file: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process with the users file."""
    with ServerProcess("--port", "0", "--users", str(file), log=tmp_path / "log") as running:
        yield running


def ask(client: Peer, *words: bytes) -> Value:
    return value_of(client.ask(*words))


def users_of(client: Peer) -> list[bytes]:
    _, lines = ask(client, b"ACL", b"LIST")
    return [line for _, line in lines]


class TestProcess:
    def test_sighup_reads_the_file_again(self, server: ServerProcess, file: Path) -> None:
        with Peer(server.address) as client:
            assert len(users_of(client)) == 2
            write(file, ADMIN + APP + "user new off\n")
            server.signal(signal.SIGHUP)
            eventually(lambda: len(users_of(client)) == 3)
            write(file, ADMIN + "user new ~a\n")
            server.signal(signal.SIGHUP)
            eventually(lambda: "the users stay as they are" in server.log())
            assert f"{file}:2: " in server.log()
            assert len(users_of(client)) == 3
            server.signal(signal.SIGTERM)
        assert server.exit_code() == 0

    def test_reloads_disturb_no_client(self, server: ServerProcess, file: Path) -> None:
        with Peer(server.address) as client:
            assert client.ask(b"SET", b"k", b"v") == b"+OK\r\n"
            for number in range(50):
                write(file, ADMIN + (APP if number % 2 else ""))
                server.signal(signal.SIGHUP)
                assert client.ask(b"GET", b"k") == b"$1\r\nv\r\n"
            eventually(lambda: len(users_of(client)) == 2)

    def test_info_has_the_digest_of_the_users(self, server: ServerProcess, file: Path) -> None:
        with Peer(server.address) as client:

            def digest() -> bytes:
                _, text = ask(client, b"INFO", b"server")
                (line,) = [line for line in text.split(b"\r\n") if line.startswith(b"users_digest:")]
                return bytes(line)

            before = digest()
            assert ask(client, b"ACL", b"SETUSER", b"new", b"on") == (b"+", b"OK")
            assert digest() != before
            assert ask(client, b"ACL", b"LOAD") == (b"+", b"OK")
            assert digest() == before

    def test_saved_users_survive_a_restart(self, server: ServerProcess, file: Path) -> None:
        with Peer(server.address) as client:
            assert ask(client, b"ACL", b"SETUSER", b"new", b"on", b">s3cret") == (b"+", b"OK")
            assert ask(client, b"ACL", b"SAVE") == (b"+", b"OK")
        assert ServerUsers(Settings(users=str(file))).table.get(b"new") is not None

    def test_random_passwords_differ(self, server: ServerProcess) -> None:
        with Peer(server.address) as client:
            passwords = {ask(client, b"ACL", b"GENPASS") for _ in range(5)}
        assert len(passwords) == 5

    def test_password_in_config_becomes_that_of_default(self, server: ServerProcess) -> None:
        with Peer(server.address) as client:
            assert ask(client, b"CONFIG", b"SET", b"requirepass", b"s3cret") == (b"+", b"OK")
            assert ask(client, b"ACL", b"LIST")[0] == b"*"
            with Peer(server.address) as other:
                assert ask(other, b"GET", b"k") == (b"-", b"NOAUTH Authentication required.")
                assert ask(other, b"AUTH", b"s3cret") == (b"+", b"OK")

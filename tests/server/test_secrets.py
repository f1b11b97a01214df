"""No output of a server contains a secret: replies, its logger, the list of processes, core files."""

import importlib.util
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cairnkv.errors import OptionError
from cairnkv.server.settings import OPTIONS, Settings, load
from cairnkv.storage.replay import SHORT_BYTES, replay
from tests.support.raw import ServerProcess, clean_environment, eventually, serve
from tests.support.raw_resp import Peer, command

SECONDS = 60.0
HAS_ARGON2 = importlib.util.find_spec("argon2") is not None

CANARY = "canary-9b1f-of-the-server"
SECOND = "canary-77d2-that-replaces-it"
WRONG = "canary-03ac-that-is-wrong"
CANARIES = [canary.encode() for canary in (CANARY, SECOND, WRONG)]

# None of these is an unknown command, whose refusal repeats its arguments. No secret is in the place of a name.
SAID = [
    ["PING"],
    ["AUTH", WRONG],
    ["AUTH", "default", WRONG],
    ["AUTH", "default", CANARY, "surplus"],
    ["HELLO", "3", "AUTH", "default", WRONG],
    ["HELLO", "3", "AUTH", CANARY],
    ["HELLO", "3", "SETNAME", "name", "AUTH", "default", CANARY],
    ["AUTH", CANARY],
    ["MULTI"],
    ["AUTH", "default", WRONG],
    ["EXEC"],
    ["CONFIG", "SET", "requirepass", CANARY, "maxmemory", "much"],
    ["CONFIG", "SET", "requirepass", CANARY, "requirepass", SECOND],
    ["CONFIG", "SET", "requirepass", SECOND, "no-such-option", "1"],
    ["CONFIG", "SET", "requirepass", SECOND],
    ["CONFIG", "GET", "*"],
    ["CONFIG", "GET", "requirepass"],
    ["ACL", "SETUSER", "new", "on", f">{SECOND}", "~*", "+@all"],
    ["ACL", "SETUSER", "new", f">{WRONG}", "+no-such-command"],
    ["ACL", "SETUSER", "new", f"<{WRONG}"],
    ["AUTH", "new", SECOND],
    ["AUTH", "new", WRONG],
    ["ACL", "WHOAMI"],
    ["ACL", "USERS"],
    ["ACL", "LIST"],
    ["ACL", "GETUSER", "new"],
    ["ACL", "LOG"],
    ["INFO", "everything"],
    ["INFO", "commandstats"],
    ["CLIENT", "LIST"],
    ["CLIENT", "INFO"],
    ["COMMAND", "COUNT"],
]
"""Commands with secrets, and those that report about the server."""


def said_by(server: ServerProcess) -> bytes:
    """Return all replies to these commands, on one connection. Delayed replies come, too."""
    with Peer(server.address) as peer:
        peer.socket.settimeout(SECONDS)
        peer.send(b"".join(command(*(word.encode() for word in words)) for words in SAID))
        return b"".join(peer.reply() for _ in SAID)


def holds_no_canary(output: bytes) -> bool:
    """Return whether an output contains none of the secrets."""
    found = [canary for canary in CANARIES if canary in output]
    assert not found, output[max(0, output.index(found[0]) - 200) : output.index(found[0]) + 80]
    return True


def test_no_reply_and_no_log_line_contains_a_password(tmp_path: Path) -> None:
    environment = {"CAIRNKV__PASSWORD": CANARY}
    audit = tmp_path / "audit"
    flags = ["--port", "0", "--log-level", "debug", "--audit-log", str(audit)]
    with ServerProcess(*flags, log=tmp_path / "log", environment=environment) as server:
        replies = said_by(server)
        assert replies.count(b"+OK\r\n") >= 2, "it has logged in, and changed the password"
        assert holds_no_canary(replies)
        assert holds_no_canary(server.readiness.encode())
        command_line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        assert holds_no_canary(command_line)
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        (cores,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
        assert cores == ["0", "0"]
        eventually(lambda: b'"login_failed"' in audit.read_bytes(), SECONDS)
    assert holds_no_canary(server.log().encode())
    assert holds_no_canary(audit.read_bytes())


@pytest.mark.skipif(not HAS_ARGON2, reason="needs argon2-cffi")
def test_no_output_contains_a_password_of_the_users_file(tmp_path: Path) -> None:
    users = tmp_path / "users.acl"
    for name, rules in (("default", ["allkeys", "+@all"]), ("app", ["~app:*", "+get"])):
        ran = subprocess.run(
            [sys.executable, "-m", "cairnkv", "user", "add", name, *rules, "--password", "--users", str(users)],
            input=f"{CANARY}\n",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
            env=clean_environment(),
        )
        assert holds_no_canary((ran.stdout + ran.stderr).encode())
    assert holds_no_canary(users.read_bytes())
    flags = ["--port", "0", "--log-level", "debug", "--audit-log", str(tmp_path / "audit"), "--users", str(users)]
    with ServerProcess(*flags, log=tmp_path / "log") as server:
        with Peer(server.address) as peer:
            assert peer.ask(b"AUTH", b"app", CANARY.encode()) == b"+OK\r\n"
            heard = peer.ask(b"SET", b"k", b"v") + peer.ask(b"GET", b"other")
            assert heard.count(b"-NOPERM") == 2
            assert holds_no_canary(heard)
        assert holds_no_canary(said_by(server))
    assert holds_no_canary(server.log().encode())
    assert holds_no_canary((tmp_path / "audit").read_bytes())


def test_password_on_the_command_line_gives_a_warning(tmp_path: Path) -> None:
    with ServerProcess("--port", "0", "--password", CANARY, log=tmp_path / "log") as server:
        pass
    (warning,) = [line for line in server.log().splitlines() if "WARNING" in line]
    assert "all users of this computer can read --password: use CAIRNKV__PASSWORD" in warning
    assert holds_no_canary(server.log().encode())


def test_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{CANARY}\nanother line\n")
    file.chmod(0o600)
    assert load({"password_file": str(file)}, environment={}).password == CANARY
    with ServerProcess("--port", "0", "--password-file", str(file), log=tmp_path / "log") as server:
        assert holds_no_canary(said_by(server))
    assert "--password" not in server.log()


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o620, 0o666])
def test_file_of_a_password_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(CANARY)
    file.chmod(mode)
    refused = serve("--port", "0", "--password-file", str(file))
    assert refused.returncode == 2
    assert f"other users can use {file}, which has mode 0{stat.S_IMODE(mode):o}; run: chmod 600" in refused.stderr
    assert holds_no_canary((refused.stdout + refused.stderr).encode())


def test_unusable_files_of_passwords_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\nsecret\n")
    empty.chmod(0o600)
    with pytest.raises(OptionError, match="has to be the password, and is empty"):
        load({"password_file": str(empty)}, environment={})
    with pytest.raises(OptionError, match="cannot read the password"):
        load({"password_file": str(tmp_path / "absent")}, environment={})
    with pytest.raises(OptionError, match="exclude each other"):
        load({"password_file": str(empty)}, environment={"CAIRNKV__PASSWORD": CANARY})


def test_process_that_reads_a_log_gets_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRNKV__PASSWORD", CANARY)
    environments = []

    def started(*_: object, env: dict[str, str], **__: object) -> None:
        environments.append(env)
        raise OSError("no process for this test")

    monkeypatch.setattr("cairnkv.storage.replay.subprocess.Popen", started)
    (tmp_path / "000001.log").write_bytes(bytes(2 * SHORT_BYTES))
    with pytest.raises(OSError, match="no process"):
        replay(tmp_path, None, lambda: False)
    (environment,) = environments
    assert environment["PATH"]
    assert holds_no_canary(repr(environment).encode())


def test_no_error_about_an_option_contains_its_secret() -> None:
    wrong = {"password": "", "cluster": f"http://user:{CANARY}@host", "nats_system": "\0"}
    assert wrong.keys() <= OPTIONS.keys()
    for option, text in wrong.items():
        with pytest.raises(OptionError) as refused:
            load({option: text}, environment={})
        assert holds_no_canary(str(refused.value).encode())
    settings = Settings(
        password=CANARY, cluster=(f"nats://user:{CANARY}@host",), data="data", nats_system=f"a:{CANARY}"
    )
    assert holds_no_canary(repr(settings).encode())

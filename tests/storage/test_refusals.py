"""Errors of permissions name the path and the user, and never report damage. The error for an open store names the
process. Root may read and write all files, so as root these tests change to another user.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli.main import main
from cairnkv.errors import OptionError
from cairnkv.installation import python_command, python_environment
from tests.support.raw import SECONDS, ServerProcess

NOBODY = 65_534

AS_NOBODY = f"""
import os, sys, tempfile, traceback
import rich.console, rich.progress, rocksdict
import cairnkv.cli.backup, cairnkv.cli.serve, cairnkv.storage.repair, cairnkv.storage.replay
import cairnkv.storage.disk
from cairnkv.cli.main import main
from cairnkv.server.server import Server
from cairnkv.server.settings import Settings
import asyncio, encodings.idna
from cairnkv.server.loop import new_event_loop
with asyncio.Runner(loop_factory=new_event_loop) as runner:  # whatever is imported late
    async def once():
        server = Server(Settings(port=0))
        await server.start()
        await server.stop()
    runner.run(once())
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
os.chdir("/")
sys.exit(main(sys.argv[1:]))
"""
"""A process that may only what others may. It imports everything before, which may lie where they cannot read."""


def _as_nobody(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        python_command("-c", AS_NOBODY, *arguments),
        capture_output=True,
        text=True,
        env=python_environment(),
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others can get to, unlike those of pytest, with a store and a backup of it."""
    with tempfile.TemporaryDirectory(prefix="cairn-") as name:
        place = Path(name)
        with cairnkv.open(place / "store") as kv:
            kv["a"] = "1"
            kv.backup(place / "backups")
            place.chmod(0o777)
        yield place
        for path in place.rglob("*"):
            path.chmod(0o700)


def _backup(place: Path) -> Path:
    (backup,) = (path for path in (place / "backups").iterdir() if not path.name.startswith("."))
    return backup


def _everything_readable_but(place: Path, *closed: Path) -> None:
    for path in place.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for path in closed:
        path.chmod(0o000)


@pytest.mark.parametrize("arguments", ["serve --port 0 --data {}/store/x", "check {}/store", "repair {}/store {}/new"])
def test_unreadable_directory_is_not_reported_as_damaged(arguments: str, place: Path) -> None:
    _everything_readable_but(place, place / "store")
    ended = _as_nobody(*(word.format(place) for word in arguments.split()))
    _is_a_refusal(ended, place / "store")


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst", "LOCK"])
@pytest.mark.parametrize("arguments", ["serve --port 0 --data {}/store", "check {}/store", "repair {}/store {}/new"])
def test_unreadable_file_is_not_reported_as_damaged(arguments: str, pattern: str, place: Path) -> None:
    file = next(iter((place / "store").glob(pattern)))
    _everything_readable_but(place, file)
    ended = _as_nobody(*(word.format(place) for word in arguments.split()))
    _is_a_refusal(ended, file)
    assert not (place / "new").exists()


@pytest.mark.parametrize("pattern", ["backup.json", "CURRENT", "*.sst"])
@pytest.mark.parametrize("arguments", ["verify", "restore"])
def test_unreadable_file_of_a_backup_is_not_reported_as_damaged(arguments: str, pattern: str, place: Path) -> None:
    backup = _backup(place)
    file = next(iter(backup.glob(pattern)))
    _everything_readable_but(place, file)
    ended = _as_nobody(arguments, str(backup), *([str(place / "new")] if arguments == "restore" else []))
    _is_a_refusal(ended, file)
    assert not (place / "new").exists()


def test_unwritable_backup_directory_is_reported_at_the_start(place: Path) -> None:
    _everything_readable_but(place, place / "backups")
    ended = _as_nobody("serve", "--port", "0", "--data", f"{place}/new", "--backup-dir", f"{place}/backups")
    _is_a_refusal(ended, place / "backups")


def _is_a_refusal(ended: "subprocess.CompletedProcess[str]", path: Path) -> None:
    assert ended.returncode == 2, (ended.stdout, ended.stderr)
    last = ended.stderr.splitlines()[-1]
    assert "Permission denied" in last
    assert str(path) in last
    assert "user" in last
    for wrong in ("damaged", "has no store", "restore a", "Traceback", "fault of cairnkv"):
        assert wrong not in ended.stderr + ended.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none", "has no store: the directory does not exist"),
        ("file", "file: Not a directory"),
        ("empty", "has no store"),
    ],
)
def test_check_of_a_missing_store_gives_the_reason(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / name)]) == 2
    assert says in capsys.readouterr().err


# -- a store that is open -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["open", "check", "repair", "backup", "serve"])
def test_error_of_an_open_store_names_its_process_and_a_remedy(how: str, tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    with ServerProcess("--port", "0", "--data", data, log=tmp_path / "log") as server:
        server.log()
        pid = server.process.pid
        commands = {
            "open": ["-c", f"import cairnkv; cairnkv.open({data!r})"],
            "check": ["-m", "cairnkv", "check", data],
            "repair": ["-m", "cairnkv", "repair", data, str(tmp_path / "new")],
            "backup": ["-m", "cairnkv", "backup", str(tmp_path / "b"), "--data", data],
            "serve": ["-m", "cairnkv", "serve", "--port", "0", "--data", data],
        }
        ended = subprocess.run(
            python_command(*commands[how]), capture_output=True, text=True, env=python_environment(), check=False
        )
        said = ended.stderr.splitlines()[-1]
        assert ended.returncode != 0
        assert f"is already open in process {pid}" in said
        assert f"cairn serve --data {data}" in said
        with cairnkv.connect(f"cairn://127.0.0.1:{server.address[1]}") as kv:  # and it has kept its lock
            kv["a"] = "1"
        again = subprocess.run(
            python_command(*commands["open"]), capture_output=True, text=True, env=python_environment(), check=False
        )
        assert "is already open" in again.stderr


def test_error_of_a_store_open_in_this_process_says_so(tmp_path: Path) -> None:
    with (
        cairnkv.open(tmp_path / "data"),
        pytest.raises(OptionError, match="is already open in this process: use the open store"),
    ):
        cairnkv.open(tmp_path / "data")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="NOT TESTED HERE: needs root to mount")
def test_check_reads_a_store_on_a_read_only_file_system(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "store") as kv:
        kv["a"] = "1"
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && shift 0 && exec "$@"'
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("NOT TESTED HERE: no namespaces")
    command = python_command("-m", "cairnkv", "check", "--json", str(tmp_path / "store"))
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path / "store"), *command],
        capture_output=True,
        text=True,
        env=python_environment(),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["ok"]

"""The command line in unusual environments: closed terminals, closed or full standard streams, a deleted working
directory, special files as targets of exports, network file systems.
"""

import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli.main import main
from cairnkv.cli.progress import terminated_like_interrupted
from cairnkv.installation import python_command, python_environment
from cairnkv.server.settings import Settings
from cairnkv.storage.base import StartProgress
from tests.cli.conftest import SECONDS, Call
from tests.support.raw import ServerProcess, eventually

Store = cairnkv.Client[bytes, bytes]


def _started(*arguments: str, **options: object) -> "subprocess.Popen[str]":
    environment = {name: text for name, text in python_environment().items() if not name.startswith("CAIRNKV_")}
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        python_command("-m", "cairnkv", *arguments),
        **{"env": environment, "stderr": subprocess.PIPE, "text": True, **options},
    )


@pytest.fixture
def unix(tmp_path: Path) -> str:
    """Return a path for a Unix socket, so that a test knows the address before the server prints it."""
    return str(tmp_path / "s")


def _serves(unix: str) -> bool:
    try:
        with cairnkv.connect(f"cairn+unix://{unix}", attempts=1) as kv:
            kv.ping()
    except cairnkv.CairnError:
        return False
    return True


# -- signals --------------------------------------------------------------------------------------------------------


def test_server_drains_when_its_terminal_closes(tmp_path: Path) -> None:
    with ServerProcess("--port", "0", "--data", str(tmp_path / "data"), log=tmp_path / "log") as server:
        with cairnkv.connect(f"cairn://127.0.0.1:{server.address[1]}") as kv:
            kv["a"] = "1"
        server.signal(signal.SIGHUP)
        assert server.exit_code() == 0
        assert "SIGHUP: draining" in server.log()
        assert "stopped" in server.log()


def test_server_continues_after_an_ignored_hangup(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with ServerProcess("--port", "0", log=tmp_path / "log", prelude=ignoring) as server:
        server.signal(signal.SIGHUP)
        with cairnkv.connect(f"cairn://127.0.0.1:{server.address[1]}") as kv:
            kv["a"] = "1"
            assert kv["a"] == "1"
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert "SIGHUP" not in server.log()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_terminated_import_reports_its_progress(number: signal.Signals, url: str, kv: Store) -> None:
    with _started("import", "-", "--format", "tsv", "--url", url, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write("".join(f"{row}\tx\n" for row in range(1_000)))
        process.stdin.flush()
        eventually(lambda: kv.count() == 1_000)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(SECONDS) == 2
    unsure = "cairn: imported 0 rows; interrupted; the outcome of lines 1 to 1,000 is unknown\n"
    assert said in ("cairn: imported 1,000 rows; interrupted\n", unsure)  # by whether it has read the replies


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_termination_signals_interrupt_a_command(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
    signal.signal(number, signal.SIG_IGN)
    try:
        with terminated_like_interrupted():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


# -- standard streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pipe closed", "disk full", "closed", "all closed"])
def test_server_runs_with_any_standard_output(how: str, unix: str) -> None:
    closing = {"closed": ">&-", "all closed": "<&- >&- 2>&-"}
    command = python_command("-m", "cairnkv", "serve", "--no-tcp", "--unix", unix)
    if how in closing:
        command = ["sh", "-c", f'exec "$@" {closing[how]}', "sh", *command]
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        stdout = writer if how == "pipe closed" else full
        process = subprocess.Popen(command, env=python_environment(), stdout=stdout, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    with process:
        eventually(lambda: _serves(unix) or process.poll() is not None)
        assert _serves(unix)
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(SECONDS) == 0
    assert "Traceback" not in said
    assert ("cannot write to standard output" in said) is (how not in closing)


def test_server_continues_when_its_terminal_disappears(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def gone(*_: object) -> Iterator[None]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
        yield

    def serves(
        settings: Settings, *, ready: Callable[[str], None], progress: StartProgress, warnings: Sequence[str]
    ) -> None:
        progress("reading", 1, 2, "records")
        progress("reading", 2, 2, "records")
        ready("it is ready")

    monkeypatch.setattr("cairnkv.cli.serve.on_terminal", lambda stream: True)
    monkeypatch.setattr("cairnkv.cli.serve.shown", gone)
    monkeypatch.setattr("cairnkv.cli.serve.serve", serves)
    assert main(["serve", "--port", "0"]) == 0
    assert "it is ready" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["get", "--help"], ["serve", "--help"], ["cluster", "up", "--help"]])
def test_unwritable_help_is_an_error(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full, _started(*arguments, stdout=full) as process:  # noqa: PTH123
        assert process.stderr is not None
        assert process.stderr.read() == "cairn: [Errno 28] No space left on device\n"
        assert process.wait(SECONDS) == 2


def test_command_ends_normally_with_a_closed_standard_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with _started("frobnicate", stderr=writer) as process:
        os.close(writer)
        assert process.wait(SECONDS) == 2


# -- the working directory ------------------------------------------------------------------------------------------


def _from_a_deleted_directory(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    command = ["sh", "-c", script, "sh", str(tmp_path / "gone"), *python_command("-m", "cairnkv", *arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=python_environment(), timeout=SECONDS, check=False
    )


def test_server_starts_in_a_directory_that_is_deleted(tmp_path: Path, unix: str) -> None:
    with _started("serve", "--no-tcp", "--unix", unix, "--data", str(tmp_path / "d"), cwd=tmp_path) as process:
        eventually(lambda: _serves(unix))
        process.terminate()
        assert process.wait(SECONDS) == 0
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    command = python_command("-m", "cairnkv", "serve", "--no-tcp", "--unix", unix, "--data", str(tmp_path / "d"))
    with subprocess.Popen(
        ["sh", "-c", script, "sh", str(tmp_path / "gone"), *command], env=python_environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b" ready on " in process.stdout.readline()
        assert _serves(unix)
        process.terminate()
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("arguments", [["get", "a"], ["scan"], ["export", "-"], ["export", "{}/x.csv"]])
def test_commands_work_in_a_directory_that_is_deleted(
    arguments: list[str], url: str, kv: Store, tmp_path: Path
) -> None:
    kv.set("a", b"1")
    ended = _from_a_deleted_directory(tmp_path, *(word.format(tmp_path) for word in arguments))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("arguments", [["serve", "--port", "0", "--data", "d"], ["cluster", "up", "--dir", "c"]])
def test_relative_path_in_a_deleted_directory_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    ended = _from_a_deleted_directory(tmp_path, *arguments)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "the working directory was deleted" in ended.stderr


# -- targets of exports ---------------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path, kv: Store) -> Path:
    """An existing file for an export to replace."""
    kv.set("a", b"1")
    file = tmp_path / "old.tsv"
    file.write_text("old\n" * 100)
    return file


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES])
def test_export_writes_into_a_file_that_cannot_be_replaced(
    number: int, old: Path, cairn_here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fails)
    inode = old.stat().st_ino
    assert cairn_here("export", str(old)).code == 0
    assert old.read_text() == "a\t1\n"
    assert old.stat().st_ino == inode
    assert [path.name for path in old.parent.iterdir()] == ["old.tsv"]


def test_export_into_a_directory_that_may_not_be_written(
    old: Path, cairn_here: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != old.parent and real(path, mode))
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "elsewhere")))
    assert cairn_here("export", str(old)).code == 0
    assert old.read_text() == "a\t1\n"


def test_export_takes_the_longest_name(kv: Store, cairn_here: Call, tmp_path: Path) -> None:
    kv.set("a", b"1")
    file = tmp_path / f"{'x' * 251}.tsv"
    assert cairn_here("export", str(file)).code == 0
    assert file.read_text() == "a\t1\n"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="NOT TESTED HERE: there is no /dev/shm")
def test_export_that_fails_leaves_a_file_in_memory_as_it_was(kv: Store, cairn_here: Call) -> None:
    kv.set(b"a", b"\xff")
    file = Path(f"/dev/shm/cairn-test-{os.getpid()}.csv")
    file.write_text("old\n")
    try:
        said = cairn_here("export", str(file))
        assert said.code == 2
        assert f"({file} is unchanged)" in said.err
        assert file.read_text() == "old\n"
        kv.set(b"a", b"1")
        assert cairn_here("export", str(file)).code == 0
        assert file.read_text().splitlines()[1:] == ["a,1,"]
    finally:
        file.unlink()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_export_appends_to_standard_output_by_its_names(name: str, old: Path, url: str) -> None:
    if name == "link":
        (old.parent / "link").symlink_to("/dev/stdout")
        name = str(old.parent / "link")
    with old.open("ab") as stdout:
        inode = old.stat().st_ino
        with _started("export", name, "--format", "tsv", "--url", url, stdout=stdout) as process:
            assert process.wait(SECONDS) == 0
    assert old.stat().st_ino == inode
    assert "a\t1\n" in old.read_text()


def test_export_to_links_in_a_circle_is_one_line(kv: Store, cairn_here: Call, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").symlink_to(tmp_path / "b.tsv")
    (tmp_path / "b.tsv").symlink_to(tmp_path / "a.tsv")
    said = cairn_here("export", str(tmp_path / "a.tsv"))
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "fault of cairnkv" not in said.err


# -- file systems of shares -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_backup_and_restore_work_on_a_limited_network_share(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cairn_here: Call
) -> None:
    share = tmp_path / "share"
    share.mkdir()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(share) and path.is_dir():
            raise OSError(number, os.strerror(number))
        real(descriptor)

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fchmod", fails)
    with cairnkv.open(tmp_path / "store") as kv:
        kv["a"] = "1"
        link = os.link

        def only_here(source: Path, target: Path) -> None:
            fails() if Path(target).is_relative_to(share) else link(source, target)

        monkeypatch.setattr(os, "link", only_here)
        made = kv.backup(share / "backups", keep=1)
        made = kv.backup(share / "backups", keep=1)
    assert cairn_here("restore", str(made.path), str(share / "restored")).code == 0
    with cairnkv.open(share / "restored") as kv:
        assert kv["a"] == "1"


def test_backup_fails_with_the_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cairnkv.open(tmp_path / "store") as kv:
        kv["a"] = "1"

        def fails(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as failing:
            failing.setattr("cairnkv.storage.files.os.fsync", fails)
            with pytest.raises(OSError, match="Input/output error"):
                kv.backup(tmp_path / "backups")

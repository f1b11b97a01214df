"""Import and export with a server: exported rows equal imported rows; interrupted runs report their progress."""

import contextlib
import io
import os
import queue
import re
import select
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cairnkv
from cairnkv.cli import transfer
from cairnkv.cli.formats import CSV, FORMATS, JSONL, TSV, Line, Row
from cairnkv.cli.main import main
from cairnkv.protocol import ResponseDecoder
from cairnkv.testing import EPOCH_MS, running_server
from tests.cli.conftest import SECONDS, Call, cairn_process, command
from tests.cli.terminal import Terminal

Store = cairnkv.Client[bytes, bytes]


def jsonl(rows: list[Row]) -> bytes:
    return b"".join(JSONL.write(rows))


def numbered(count: int) -> list[Row]:
    return [Row(b"key %d" % number, b"value %d" % number) for number in range(count)]


def held(kv: Store) -> dict[bytes, bytes]:
    return kv.get_many(list(kv.scan()))


# -- round trips -------------------------------------------------------------------------------------------------


@pytest.fixture
def same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line's clock stands still where the server's does, so that expiries come back exactly."""
    monkeypatch.setattr(time, "time_ns", lambda: EPOCH_MS * 1_000_000)


BINARY = st.binary(min_size=1, max_size=20)
TEXT = st.text(min_size=1, max_size=10).map(str.encode)


@pytest.mark.parametrize(
    ("name", "some"), [("jsonl", BINARY), ("tsv", BINARY), ("csv", TEXT)], ids=["jsonl", "tsv", "csv"]
)
def test_imported_rows_are_exported(name: str, some: st.SearchStrategy[bytes], tmp_path: Path, same_time: None) -> None:
    expiry = st.none() | st.integers(EPOCH_MS + 1, EPOCH_MS + 10**12)
    tables = st.dictionaries(some, st.tuples(some | st.just(b""), expiry), max_size=30)
    before, after = tmp_path / f"before.{name}", tmp_path / f"after.{name}"

    with running_server() as running, cairnkv.connect(running.url, codec="bytes") as kv:

        @settings(max_examples=25)
        @given(table=tables)
        def round_trip(table: dict[bytes, tuple[bytes, int | None]]) -> None:
            kv.clear_all()
            rows = [Row(key, value, expires) for key, (value, expires) in table.items()]
            before.write_bytes(b"".join(FORMATS[name].write(rows)))
            assert main(["import", str(before), "--url", running.url]) == 0
            assert held(kv) == {row.key: row.value for row in rows}
            assert main(["export", str(after), "--url", running.url]) == 0
            with after.open("rb") as file:
                found = [line.row for line in FORMATS[name].read(file) if isinstance(line, Line)]
            assert sorted(found) == sorted(rows)

        round_trip()


def test_several_batches_are_transferred(cairn_here: Call, kv: Store, tmp_path: Path) -> None:
    rows = numbered(3_456)
    file = tmp_path / "rows.tsv"
    file.write_bytes(b"".join(TSV.write(rows)))
    said = cairn_here("import", str(file))
    assert said.code == 0
    assert said.out == b""
    assert re.fullmatch(r"cairn: imported 3,456 rows in \d+\.\d\d s \([\d,]+/s\)\n", said.err)
    assert kv.count() == 3_456
    said = cairn_here("export", "-", "--format", "csv")
    assert re.fullmatch(r"cairn: exported 3,456 keys in \d+\.\d\d s \([\d,]+/s\)\n", said.err)
    lines = CSV.read(io.BytesIO(said.out))
    assert sorted(line.row for line in lines if isinstance(line, Line)) == sorted(rows)


def test_large_values_take_batches_of_their_own(cairn_here: Call, kv: Store) -> None:
    rows = [Row(b"key %d" % number, os.urandom(700_000)) for number in range(12)]
    assert cairn_here("import", "-", stdin=jsonl(rows)).code == 0
    assert held(kv) == {row.key: row.value for row in rows}
    out = cairn_here("export", "-").out
    assert sorted(line.row for line in JSONL.read(io.BytesIO(out)) if isinstance(line, Line)) == sorted(rows)


def test_export_requests_fewer_values_if_a_reply_is_too_long(cairn_here: Call) -> None:
    with running_server(max_value="64KiB", max_frame="130KiB") as running:
        rows = [Row(b"key %d" % number, os.urandom(60_000 if number % 7 else 1)) for number in range(50)]
        said = cairn_here("import", "-", "--url", running.url, stdin=jsonl(rows[:0]))
        assert said.code == 0
        with cairnkv.connect(running.url, codec="bytes") as kv:
            for row in rows:
                kv.set(row.key, row.value)
        out = cairn_here("export", "-", "--url", running.url).out
    assert sorted(line.row for line in JSONL.read(io.BytesIO(out)) if isinstance(line, Line)) == sorted(rows)


def test_last_row_of_a_key_wins(cairn_here: Call, kv: Store, same_time: None) -> None:
    rows = [Row(b"k", b"1"), Row(b"k", b"2", EPOCH_MS + 5_000), Row(b"k", b"3"), Row(b"l", b"1"), Row(b"l", b"2")]
    assert cairn_here("import", "-", stdin=jsonl(rows)).code == 0
    assert held(kv) == {b"k": b"3", b"l": b"2"}
    assert kv.ttl("k") == float("inf")


def test_export_by_prefix(cairn_here: Call, kv: Store) -> None:
    kv.set_many({"a:1": b"x", "b:1": b"y"})
    assert cairn_here("export", "-", "--prefix", "a:").out == b'{"key": "a:1", "value": "x"}\n'


def test_expired_keys_are_omitted_and_counted(cairn_here: Call, kv: Store, same_time: None) -> None:
    rows = [Row(b"gone", b"1", EPOCH_MS), Row(b"going", b"2", EPOCH_MS + 1_500), Row(b"staying", b"3")]
    said = cairn_here("import", "-", stdin=jsonl(rows))
    assert said.code == 0
    assert said.err.startswith("cairn: imported 2 rows, 1 had expired in ")
    assert held(kv) == {b"going": b"2", b"staying": b"3"}
    assert kv.ttl("going") == 1.5


def test_import_of_absent_keys_only(cairn_here: Call, kv: Store, same_time: None) -> None:
    kv.set("b", b"old")
    rows = [Row(b"a", b"new", EPOCH_MS + 9_000), Row(b"b", b"new"), Row(b"c", b"new")]
    said = cairn_here("import", "-", "--if-absent", stdin=jsonl(rows))
    assert said.code == 0
    assert said.err.startswith("cairn: imported 2 rows, 1 already existed in ")
    assert held(kv) == {b"a": b"new", b"b": b"old", b"c": b"new"}
    assert kv.ttl("a") == 9


def test_key_deleted_during_export_is_omitted(kv: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    get_many = kv.get_many

    def others_clear_meanwhile(keys: Iterable[str | bytes]) -> dict[bytes, bytes]:
        kv.clear("before its value")
        found = get_many(keys)
        kv.clear("before its expiry")
        return found

    kv.set_many({"staying": b"1", "before its value": b"2", "before its expiry": b"3"})
    monkeypatch.setattr(kv, "get_many", others_clear_meanwhile)
    assert list(transfer._rows(kv, b"")) == [Row(b"staying", b"1")]


# -- half-way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [0, 1, 999, 1_000, 1_001, 2_500])
def test_import_stops_at_a_bad_line_and_stores_the_lines_before(cairn_here: Call, kv: Store, good: int) -> None:
    rows = numbered(good)
    said = cairn_here("import", "-", stdin=jsonl(rows) + b"oops\n" + jsonl(numbered(5_000)))
    assert said.code == 2
    noun = "row" if good == 1 else "rows"
    assert said.err.startswith(f"cairn: imported {good:,} {noun}; line {good + 1:,}: not JSON")
    assert said.err.count("\n") == 1
    assert kv.count() == good


def test_import_names_every_bad_line_that_it_skips(cairn_here: Call, kv: Store) -> None:
    stdin = b"a\t1\nbad\nb\t2\nc\t\\x\nd\t4\n"
    said = cairn_here("import", "-", "--format", "tsv", "--skip-bad", stdin=stdin)
    assert said.code == 0
    first, second, summary = said.err.splitlines()
    assert first.startswith("cairn: line 2: ")
    assert second.startswith("cairn: line 4: there is no escape \\x")
    assert summary.startswith("cairn: imported 3 rows, skipped 2 bad lines in ")
    assert held(kv) == {b"a": b"1", b"b": b"2", b"d": b"4"}


def test_import_stops_if_the_server_refuses_a_write(cairn_here: Call) -> None:
    with running_server(memory_limit="400KiB") as running:
        rows = [Row(b"key %d" % number, b"x" * 10_000) for number in range(300)]
        said = cairn_here("import", "-", "--url", running.url, stdin=jsonl(rows))
        assert said.code == 2
        found = re.match(r"cairn: imported (\d+) rows; lines? ([\d,]+).*: FULL ", said.err)
        assert found is not None, said.err
        with cairnkv.connect(running.url) as kv:
            assert kv.count() == int(found[1])


def test_import_stops_if_the_connection_is_lost(cairn_here: Call) -> None:
    """The server closes without a reply to the second batch, so its outcome is unknown."""
    with running_server() as running, breaking_after(1, running.address) as url:
        rows = numbered(2_500)
        said = cairn_here("import", "-", "--url", url, stdin=jsonl(rows))
    assert said.code == 2
    assert said.err.startswith("cairn: imported 1,000 rows; lines 1,001 to 2,000: SET_MANY to ")
    assert "it was executed, or it was not" in said.err


def test_interrupted_import_reports_its_progress(
    kv: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            if line := super().readline(size):
                return line
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Interrupted(jsonl(numbered(2_500)))))
    assert main(["import", "-"]) == 2
    assert capfd.readouterr().err == "cairn: imported 2,000 rows; interrupted\n"
    assert kv.count() == 2_000


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("options", [[], ["--skip-bad"]])
def test_import_of_another_encoding_stores_nothing(
    encoding: str, options: list[str], cairn_here: Call, kv: Store, tmp_path: Path
) -> None:
    file = tmp_path / "rows.tsv"
    file.write_bytes("\ufeffk\tv\r\nk2\tv2\r\n".encode(encoding))
    said = cairn_here("import", str(file), *options)
    why = f"line 1: {encoding[:6].upper()}; save the file as UTF-8"
    assert (said.code, said.err) == (2, f"cairn: imported 0 rows; {why}\n")
    assert kv.count() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_import_reports_rows_of_unknown_outcome(number: signal.Signals, tmp_path: Path) -> None:
    """The signal arrives while the second batch is in flight."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(jsonl(numbered(2_500)))
    started: queue.Queue[subprocess.Popen[bytes]] = queue.Queue()

    def interrupt(client: socket.socket) -> None:
        started.get(timeout=SECONDS).send_signal(number)
        while client.recv(1 << 20):
            pass

    with (
        running_server() as running,
        breaking_after(1, running.address, then=interrupt) as url,
        subprocess.Popen(command("import", str(file), "--url", url), stderr=subprocess.PIPE) as process,
    ):
        started.put(process)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(SECONDS) == 2
    assert said == b"cairn: imported 1,000 rows; interrupted; the outcome of lines 1,001 to 2,000 is unknown\n"


def test_interrupted_export_leaves_the_file_unchanged(cairn_here: Call, kv: Store, tmp_path: Path) -> None:
    file = tmp_path / "keys.csv"
    file.write_text("precious")
    kv.set_many({b"a": b"text", b"b": b"\xff"})
    said = cairn_here("export", str(file))
    assert said.code == 2
    assert re.match(r"cairn: stopped after [01] keys? \(.*/keys.csv is unchanged\); key 'b': CSV is for ", said.err)
    assert file.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [file]


def test_export_without_a_server_leaves_the_file_unchanged(cairn_here: Call, unused_url: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    assert cairn_here("export", str(file), "--url", unused_url).code == 2
    assert list(tmp_path.iterdir()) == []


def test_export_replaces_the_file_and_keeps_its_mode(cairn_here: Call, kv: Store, tmp_path: Path) -> None:
    file, link = tmp_path / "keys.tsv", tmp_path / "link.tsv"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    kv.set("a", b"b")
    assert cairn_here("export", str(link)).code == 0
    assert file.read_bytes() == b"a\tb\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_export_writes_into_a_device(kv: Store) -> None:
    kv.set("a", b"b")
    said = cairn_process("export", "/dev/stdout", "--format", "tsv")
    assert (said.code, said.out) == (0, b"a\tb\n")
    full = cairn_process("export", "/dev/full", "--format", "tsv")
    assert (full.code, full.err.count("\n")) == (2, 1)
    assert "No space left on device" in full.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["import", "/nowhere/a.csv"], "cannot read /nowhere/a.csv: No such file"),
        (["import", "/tmp", "--format", "csv"], "cannot read /tmp: Is a directory"),
        (["import", "a.txt"], "unknown suffix"),
        (["export", "a.txt"], "unknown suffix"),
        (["export", "/nowhere/a.csv"], "No such file"),
        (["import", "-", "--format", "xml"], "there is no 'xml'"),
    ],
)
def test_unusable_files_are_refused(cairn_here: Call, url: str, arguments: list[str], why: str) -> None:
    said = cairn_here(*arguments)
    assert said.code == 2
    assert why in said.err
    assert said.err.count("\n") == 1


def test_transfer_shows_a_progress_bar_on_a_terminal(kv: Store, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(jsonl(numbered(5_000)))
    with Terminal("import", str(file)) as terminal:
        assert terminal.wait() == 0
        assert "importing" in terminal.screen
        assert "imported 5,000 rows in " in terminal.screen.splitlines()[-1]
    with Terminal("export", str(file)) as terminal:
        assert terminal.wait() == 0
        assert "exporting" in terminal.screen


# -- helpers -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def breaking_after(
    replies: int, address: tuple[str, int] | None, *, then: Callable[[socket.socket], None] = lambda client: None
) -> Iterator[str]:
    """A way to a server that ends, without a word, with the first command behind so many replies; gives its URL.

    then: done with the client before the end.
    """
    assert address is not None

    def pass_on() -> None:
        client, _ = listener.accept()
        decoder = ResponseDecoder()
        with client, socket.create_connection(address, SECONDS) as server:
            client.settimeout(SECONDS)
            for _ in range(replies):
                while decoder.next() is None:
                    ready, _, _ = select.select([client, server], [], [], SECONDS)
                    for side in ready:
                        data = side.recv(1 << 20)
                        (server if side is client else client).sendall(data)
                        if side is server:
                            decoder.feed(data)
            client.recv(1)
            then(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pass_on)
        thread.start()
        host, port = listener.getsockname()
        yield f"cairn://{host}:{port}"
        thread.join(SECONDS)

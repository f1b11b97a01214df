"""Backups: complete or absent, of one moment, with shared files; every changed byte is detected."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv.errors import CallerError, OptionError, Refused
from cairnkv.storage import backup as backups
from cairnkv.storage import checkpoint
from cairnkv.storage.check import check_directory
from cairnkv.storage.files import sha256
from cairnkv.storage.writer import State
from cairnkv.testing import running_server

PATIENCE = 30.0
WRITERS = 3


def filled(directory: Path, keys: int = 500, *, first: int = 0) -> None:
    with cairnkv.open(directory, sync="none") as kv:
        kv.set_many({f"key {number}": f"{number} " * 40 for number in range(first, first + keys)})
        kv.set("large", random.Random(first).randbytes(300_000).hex())


def test_backup_is_of_one_moment_while_writers_run(tmp_path: Path) -> None:
    """Each writer counts its keys up: the backup has all earlier acknowledged writes and a prefix of others."""
    acknowledged = [0] * WRITERS
    said = [0] * WRITERS
    stop = threading.Event()
    made = []
    with cairnkv.open(tmp_path / "data", sync="1s") as kv:

        def write(writer: int) -> None:
            while not stop.is_set():
                said[writer] += 1
                kv.set(f"{writer}:{said[writer]}", "v" * 500)
                acknowledged[writer] = said[writer]

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(6):
                time.sleep(0.15)
                before = list(acknowledged)
                done = kv.backup(tmp_path / "backups")
                made.append((before, done, list(said)))
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
    assert made[0][1].new == made[0][1].size
    assert any(done.new < done.size for _, done, _ in made[1:]), "later ones share files"
    for number, (before, done, after) in enumerate(made):
        backup = backups.read(done.path)
        backups.restore(backup, tmp_path / f"restored {number}")
        with cairnkv.open(tmp_path / f"restored {number}") as kv:
            for writer in range(WRITERS):
                there = {int(key.split(":")[1]) for key in kv.scan(f"{writer}:")}
                assert there == set(range(1, len(there) + 1)), "a prefix"
                assert before[writer] <= len(there) <= after[writer]
        assert check_directory(done.path).sequence >= backup.sequence >= sum(before) - WRITERS


def test_restore_returns_everything_and_changes_no_backup(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    with cairnkv.open(tmp_path / "data") as kv:
        kv.set("short", "lived", ttl=3_600)
        made = kv.backup(tmp_path / "backups")
        kv.clear_all()
        expected = {"large": random.Random(0).randbytes(300_000).hex(), "short": "lived", "key 7": "7 " * 40}
    hashes = {path.name: sha256(path) for path in made.path.iterdir()}
    backups.restore(backups.read(made.path), tmp_path / "new" / "data")
    with cairnkv.open(tmp_path / "new" / "data") as kv:
        assert kv.count() == 502
        assert kv.get_many(list(expected)) == expected
        assert 3_590 < (kv.ttl("short") or 0) <= 3_600
        kv.clear_all()
    assert {path.name: sha256(path) for path in made.path.iterdir()} == hashes
    assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700
    with pytest.raises(OptionError, match="is not empty"):
        backups.restore(backups.read(made.path), tmp_path / "new" / "data")
    (tmp_path / "empty").mkdir()
    backups.restore(backups.read(made.path), tmp_path / "empty")
    assert check_directory(tmp_path / "empty").entries == 502


def test_files_are_shared_and_removal_keeps_newer_backups(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    with cairnkv.open(tmp_path / "data") as kv:
        first = kv.backup(tmp_path / "backups")
        kv.set("more", "1")
        second = kv.backup(tmp_path / "backups")
        assert 0 < second.new < second.size // 2
        inodes = [{path.stat().st_ino for path in made.path.glob("*.sst")} for made in (first, second)]
        assert inodes[0] < inodes[1]
        third = kv.backup(tmp_path / "backups", keep=2)
        assert [backup.path for backup in backups.listed(tmp_path / "backups")] == [second.path, third.path]
        last = kv.backup(tmp_path / "backups", keep=1)
    assert [backup.path for backup in backups.listed(tmp_path / "backups")] == [last.path]
    shutil.rmtree(tmp_path / "data")
    assert backups.damaged_files(backups.read(last.path)) == []
    assert check_directory(last.path).entries == 502


def test_files_are_shared_after_a_restore_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a file is another one that holds the same; and what has the same name may hold something else."""
    filled(tmp_path / "data")
    first = backups.make_of_closed(tmp_path / "data", tmp_path / "backups")
    backups.restore(backups.read(first.path), tmp_path / "other")
    second = backups.make_of_closed(tmp_path / "other", tmp_path / "backups")
    assert second.new < first.size // 2

    def not_from_the_store(source: Path, target: Path) -> bool:
        if checkpoint.STAGE in source.parts:
            return False
        os.link(source, target)
        return True

    monkeypatch.setattr(backups, "linked", not_from_the_store)
    filled(tmp_path / "third", first=7_000)
    names = {path.name for made in (first, second) for path in made.path.glob("*.sst")}
    third = backups.make_of_closed(tmp_path / "third", tmp_path / "backups")
    assert names & {path.name for path in third.path.glob("*.sst")}
    again = backups.make_of_closed(tmp_path / "third", tmp_path / "backups")
    assert again.new < third.new // 2
    shutil.rmtree(tmp_path / "third")
    for made in (first, second, third, again):
        assert backups.damaged_files(backups.read(made.path)) == []
        assert check_directory(made.path).problems == []
    assert "key 7007" in {key[2:].decode() for key in _keys(third.path)}


def _keys(directory: Path) -> list[bytes]:
    from cairnkv.storage.check import opened, readable

    with opened(directory) as database:
        return [key for key, _ in readable(database, []) if key[:1] == b"\1"]


KILLED = """
import os, signal, sys
from pathlib import Path
import cairnkv
from cairnkv.storage import backup, files

steps = int(sys.argv[3])
def step(*arguments):
    global steps
    steps -= 1
    if steps < 0:
        os.kill(os.getpid(), signal.SIGKILL)

sync = files.sync
def counted_sync(path):
    step()
    sync(path)
files.sync = backup.sync = counted_sync
make, rename = Path.mkdir, Path.rename
Path.rename = lambda path, to: (step(), rename(path, to))[1]
with cairnkv.open(sys.argv[1]) as kv:
    kv._shared._store.back_up(Path(sys.argv[2]), keep=1, progress=step)
print("whole")
"""


def test_interrupted_backup_is_absent_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    directory = tmp_path / "backups"
    first = backups.make_of_closed(tmp_path / "data", directory)
    killed = 0
    for steps in range(0, 60, 3):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(directory), str(steps)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        there = backups.listed(directory)
        assert there, "the one before is only removed when the next one is whole"
        for backup in there:
            assert backups.damaged_files(backup) == []
        if ran.returncode == -signal.SIGKILL:
            killed += 1
        else:
            assert ran.stdout == "whole\n", ran.stderr
            break
    assert killed > 5
    assert backups.listed(directory)[-1].path != first.path
    assert [path.name for path in directory.iterdir() if path.name.startswith(".")] == [".lock"]
    assert not (tmp_path / "data" / checkpoint.STAGE).exists()
    assert check_directory(tmp_path / "data").problems == []


def test_every_flipped_byte_is_detected(tmp_path: Path) -> None:
    filled(tmp_path / "data", 50)
    made = backups.make_of_closed(tmp_path / "data", tmp_path / "backups")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for path in sorted(made.path.iterdir()):
        whole = path.read_bytes()
        every = (
            range(len(whole)) if path.name == backups.MANIFEST else dice.sample(range(len(whole)), min(len(whole), 40))
        )
        path.unlink()  # the store has the same file
        for place in every:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << dice.randrange(8)
            path.write_bytes(damaged)
            try:
                wrong = backups.damaged_files(backups.read(made.path))
            except OptionError as error:
                wrong = [str(error).partition("damaged: ")[2]]
                assert backups.listed(tmp_path / "backups") == []
            assert [line.split()[0] for line in wrong] == [path.name], (path.name, place)
        path.write_bytes(whole[:-1])
        with pytest.raises(OptionError, match=r"nothing was restored|has changed"):
            backups.restore(backups.read(made.path), tmp_path / "restored")
        assert not (tmp_path / "restored").exists()
        path.write_bytes(whole)
    assert backups.damaged_files(backups.read(made.path)) == []


def test_one_backup_at_a_time_in_a_directory(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    inner: list[str] = []

    def progress(_: int) -> None:
        if not inner:
            with pytest.raises(OptionError, match="is running") as refused:
                backups.make_of_closed(tmp_path / "other", tmp_path / "backups")
            inner.append(str(refused.value))

    filled(tmp_path / "other")
    backups.make_of_closed(tmp_path / "data", tmp_path / "backups", progress=progress)
    assert inner
    assert len(backups.listed(tmp_path / "backups")) == 1


def test_failed_backup_leaves_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "data")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    with cairnkv.open(tmp_path / "data") as kv:
        make = kv._shared._store.back_up
        assert make is not None
        with pytest.raises(OSError, match="no space"):
            make(tmp_path / "backups", progress=full)
        assert [path.name for path in (tmp_path / "backups").iterdir()] == [".lock"]
        assert not (tmp_path / "data" / checkpoint.STAGE).exists()
        make(tmp_path / "backups")
        assert len(backups.listed(tmp_path / "backups")) == 1


def test_close_ends_a_backup(tmp_path: Path) -> None:
    filled(tmp_path / "data")
    kv = cairnkv.open(tmp_path / "data")
    make = kv._shared._store.back_up
    assert make is not None
    closing = threading.Thread(target=kv.close)

    def progress(_: int) -> None:
        if not closing.is_alive():
            closing.start()
        time.sleep(0.2)

    with pytest.raises(Exception, match="is closed"):
        make(tmp_path / "backups", progress=progress)
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert backups.listed(tmp_path / "backups") == []
    with pytest.raises(CallerError, match="closed"):
        kv.backup(tmp_path / "backups")


def test_unsupported_backups_of_embedded_stores_raise(tmp_path: Path) -> None:
    with cairnkv.open() as kv, pytest.raises(CallerError, match="in memory"):
        kv.backup(tmp_path / "backups")
    with cairnkv.open(tmp_path / "data") as kv, pytest.raises(OptionError, match="above 0"):
        kv.backup(tmp_path / "backups", keep=0)


@pytest.mark.parametrize("within", ["", "backups", "deep/er", "../link/backups", "../data/backups"])
def test_backup_within_store_is_refused(within: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("data")

    async def in_asyncio() -> None:
        async with cairnkv.aio.open(tmp_path / "data") as kv:
            with pytest.raises(OptionError, match=r"cannot write to .*: it is in "):
                await kv.backup(tmp_path / "data" / within)

    with cairnkv.open(tmp_path / "data") as kv:
        kv["a"] = "1"
        with pytest.raises(OptionError, match=r"cannot write to .* is in .*data; use a directory outside of that"):
            kv.backup(tmp_path / "data" / within)
        made = kv.backup(tmp_path / "data-backups")
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
    assert check_directory(made.path).entries == 1
    asyncio.run(in_asyncio())


def test_server_refuses_backup_by_link_into_store(tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "daily").symlink_to("../data")
    with (
        running_server(data=str(tmp_path / "data"), backup_dir=str(tmp_path / "backups")) as server,
        cairnkv.connect(server.url) as kv,
        pytest.raises(Refused, match=r"cannot write to .*daily: it is in "),
    ):
        kv.backup("daily")


def test_after_a_failed_write_nothing_is_backed_up(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data") as kv:
        storage = kv._shared._store._storage
        storage._writer.state = State.RECOVERING  # type: ignore[attr-defined]
        with pytest.raises(Refused, match="would be unknown"):
            kv.backup(tmp_path / "backups")
        storage._writer.state = State.OK  # type: ignore[attr-defined]


def test_asyncio_store_makes_a_backup(tmp_path: Path) -> None:
    async def main() -> int:
        async with cairnkv.aio.open(tmp_path / "data") as kv:
            await kv.set("a", "1")
            made = await kv.backup(tmp_path / "backups")
            return check_directory(made.path).entries

    assert asyncio.run(main()) == 1


def test_backup_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "data", 1)
    made = backups.make_of_closed(tmp_path / "data", tmp_path / "backups")
    backup = backups.read(made.path)
    bad = backup._replace(files=(*backup.files, backups.File("../stolen", 0, "")))
    (made.path / backups.MANIFEST).write_bytes(backups._rendered(backups._manifest(bad)))
    with pytest.raises(OptionError, match="files outside of it"):
        backups.read(made.path)


def test_tables_are_linked_again_if_the_manifest_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a compaction ends between: its new table is in MANIFEST and among the links, or neither."""
    filled(tmp_path / "data")
    link = checkpoint._link
    flushes: list[Path] = []
    with cairnkv.open(tmp_path / "data") as kv:
        engine = kv._shared._store._storage._rocksdb  # type: ignore[attr-defined]

        def linked_late(table: Path, name: Path) -> None:
            link(table, name)
            if len(flushes) < 3:
                kv.set(f"late {len(flushes)}", "1")
                engine.flush()
                flushes.append(table)

        monkeypatch.setattr(checkpoint, "_link", linked_late)
        made = kv.backup(tmp_path / "backups")
    found = check_directory(made.path)
    assert (found.problems, found.entries) == ([], 504)


def test_cold_values_are_in_the_backup(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data", memory_limit=500_000, sync="none") as kv:
        for number in range(500):
            kv.set(f"key {number}", f"{number} " * 1_000)
        made = kv.backup(tmp_path / "backups")
    assert check_directory(made.path).problems == []
    backups.restore(backups.read(made.path), tmp_path / "restored")
    with cairnkv.open(tmp_path / "restored") as kv:
        assert kv.count() == 500
        assert all(kv[f"key {number}"] == f"{number} " * 1_000 for number in range(500))


def test_backup_shares_no_files_with_a_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "data")
    monkeypatch.setattr(backups, "linked", lambda source, target: False)  # as on another file system
    first = backups.make_of_closed(tmp_path / "data", tmp_path / "backups")
    monkeypatch.undo()
    table = next(first.path.glob("*.sst"))
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)

    def not_from_the_store(source: Path, target: Path) -> bool:
        if checkpoint.STAGE in source.parts:
            return False
        os.link(source, target)
        return True

    monkeypatch.setattr(backups, "linked", not_from_the_store)
    second = backups.make_of_closed(tmp_path / "data", tmp_path / "backups")
    assert backups.damaged_files(backups.read(first.path)) != []
    assert backups.damaged_files(backups.read(second.path)) == []


@pytest.mark.parametrize("text", ["[]", "3", '"text"'])
def test_malformed_manifest_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "backup.json").write_text(text)
    with pytest.raises(OptionError, match="is damaged"):
        backups.read(tmp_path)

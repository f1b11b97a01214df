"""Power failures: acknowledged writes survive any loss of unsynced data."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from cairnkv.errors import OptionError
from tests.power.failure import Disk, Metadata
from tests.power.trace import Note, Trace
from tests.support.histories import History, Lost, Writer, check_all, entries_in
from tests.support.serving import SMALL_MEMTABLES, Served, store_in

LONG: Final = "CRASHES" in os.environ
POINTS: Final = int(os.environ.get("CRASHES", "8"))
"""Power failures for each test."""

POINTS_PER_RUN: Final = 20
"""Power failures that are tried of one run of a server."""

RUN_SECONDS: Final = 0.7
WRITERS: Final = 3

OFTEN: Final = "50ms"
OFTEN_SLACK: Final = 1.0
"""Seconds beyond the interval in which an fsync has to have come to its end, on a machine with other work to do."""

DIRECTORY: Final = "data"


def seeded() -> random.Random:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    return random.Random(seed)


class Run:
    """One run of a server, its notes, and what writers know of it."""

    def __init__(self, root: Path, scratch: Path, histories: list[History], metadata: Metadata) -> None:
        """root: the disk, in which the server's directory is."""
        self._scratch = scratch
        self._trace = Trace(root, scratch / f"{root.name}.trace")
        self._disk = Disk(self._trace, metadata)
        self._histories = histories
        self._notes: list[Note] = []

    def serve(
        self, dice: random.Random, sync: str, *tampering: str, seconds: float = RUN_SECONDS, stopped: float = 0.3
    ) -> None:
        """Have the writers write for some time, and end it. stopped: how probably in good order, not by SIGKILL."""
        writers = []
        with Served(
            self._trace.root / DIRECTORY, "--sync", sync, tampering=tampering, environment=self._trace.environment()
        ) as served:
            for history in self._histories:
                writers.append(Writer(served.address, history, dice.randrange(2**32), lambda: self._trace.length))
                writers[-1].start()
            time.sleep(seconds)
            if dice.random() < stopped:
                served.stop()
        for writer in writers:
            writer.join(20)
            assert not writer.is_alive()
            assert not writer.wrong
        self._notes = list(self._trace.notes())

    def points(self, dice: random.Random, count: int) -> list[int]:
        """Numbers of notes behind which the power may fail, in order."""
        return sorted(dice.randint(0, len(self._notes)) for _ in range(count))

    def fail(self, dice: random.Random, sync: str, points: list[int]) -> "tuple[Path, list[History]]":
        """Have the power fail at each of these points. Returns what the last one left, and its histories."""
        done = 0
        assert points
        for number, point in enumerate(points):
            for note in self._notes[done:point]:
                self._disk.follow(note)
            done = point
            left = self._scratch / f"{self._trace.root.name}.{number}"
            self._disk.left(dice, left)
            opened = self._scratch / "opened"
            shutil.copytree(left, opened)
            place = self._notes[point - 1].end if point else 0
            moment = self._notes[point - 1].time if point else 0
            text = f"after {point:,} of {len(self._notes):,} notes of {left}"
            try:
                with store_in(opened / DIRECTORY) as store:
                    there = check_all(
                        self._histories,
                        entries_in(store),
                        lambda history: acknowledged(history, sync, place, moment),  # noqa: B023  # called at once
                        lambda history: history.said_by(place),  # noqa: B023
                    )
                    histories = [
                        history.go_on(entries_in(store)[history.db], steps)
                        for history, steps in zip(self._histories, there, strict=True)
                    ]
            except OptionError as error:
                raise AssertionError(f"{text}: {error}") from None
            except Lost as error:
                raise Lost(f"{text}: {error}") from None
            shutil.rmtree(opened)
            if number < len(points) - 1:
                shutil.rmtree(left)
        assert not self._disk.strange, self._disk.strange
        return left, histories

    def check_notes(self) -> None:
        """Whether the notes tell all that happened: what they come to is what is there. Instead of `fail`."""
        for note in self._notes:
            self._disk.follow(note)
        assert not self._disk.strange, self._disk.strange
        told = self._scratch / "told"
        self._disk.whole(told)
        compared = subprocess.run(["diff", "-r", told, self._trace.root], capture_output=True, text=True, check=False)
        assert not compared.returncode, compared.stdout + compared.stderr


def acknowledged(history: History, sync: str, place: int, moment: int) -> int:
    """How many steps a power failure there has to leave."""
    if sync == "always":
        return history.acknowledged_by(place)
    if sync == OFTEN:
        return history.acknowledged_before(moment - int((0.05 + OFTEN_SLACK) * 1e9))
    return 0


def crash(tmp_path: Path, sync: str, metadata: Metadata, *tampering: str, seconds: float = RUN_SECONDS) -> None:
    """Run servers and have the power fail, POINTS times in all."""
    dice = seeded()
    root = tmp_path / "disk"
    root.mkdir()
    histories = [History(db) for db in range(WRITERS)]
    left = POINTS
    while left > 0:
        count = min(left, POINTS_PER_RUN, max(POINTS // 2, 1))
        run = Run(root, tmp_path, histories, metadata)
        run.serve(dice, sync, *tampering, seconds=seconds)
        assert any(step.acknowledged is not None for history in histories for step in history.steps)
        before = root
        root, histories = run.fail(dice, sync, run.points(dice, count))
        shutil.rmtree(before)
        root = root.rename(tmp_path / f"disk-{left}")
        left -= count


@pytest.mark.parametrize("metadata", Metadata if LONG else [Metadata.STRICT])
@pytest.mark.parametrize("sync", ["always", OFTEN, "none"])
def test_acknowledged_writes_survive_a_power_failure(tmp_path: Path, sync: str, metadata: Metadata) -> None:
    crash(tmp_path, sync, metadata, SMALL_MEMTABLES, seconds=2 * OFTEN_SLACK if sync == OFTEN else RUN_SECONDS)


def test_build_without_fsync_is_detected(tmp_path: Path) -> None:
    # What is missing shows as steps that are, or, where a later log is there, as damage.
    with pytest.raises(AssertionError, match=r"what the first [0-9,]+ steps come to|is damaged"):
        crash(tmp_path, "always", Metadata.ORDERED, "no-fsync")


def test_build_whose_scripts_are_several_entries_is_detected(tmp_path: Path) -> None:
    pytest.importorskip("lupa")

    def crash_until_found() -> None:
        for number in range(20):
            root = tmp_path / str(number)
            root.mkdir()
            crash(root, "always", Metadata.ORDERED, "split-scripts")

    # A part of a script shows after the power failure, or a client reads one before.
    with pytest.raises(AssertionError, match=r"what no number of steps come to|' reads b"):
        crash_until_found()


def test_trace_records_all_file_system_calls(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    run = Run(root, tmp_path, [History(db) for db in range(WRITERS)], Metadata.STRICT)
    run.serve(seeded(), "always", SMALL_MEMTABLES, stopped=1)  # SIGKILL may come between a write and its note
    run.check_notes()


SYNCS_HALF: Final = """
import os, sys
root = sys.argv[1]
def made(name, data, *, sync, sync_directory):
    file = os.open(f"{root}/{name}", os.O_WRONLY | os.O_CREAT)
    os.write(file, data)
    if sync:
        os.fsync(file)
    os.write(file, b"more")
    os.close(file)
    if sync_directory:
        directory = os.open(root, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
made("kept", b"synced", sync=True, sync_directory=True)
made("unnamed", b"synced", sync=True, sync_directory=False)
os.rename(f"{root}/kept", f"{root}/renamed")
"""


@pytest.mark.parametrize("metadata", Metadata)
def test_model_keeps_synced_data_and_any_part_of_the_rest(tmp_path: Path, metadata: Metadata) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    trace = Trace(root, tmp_path / "trace")
    disk = Disk(trace, metadata)
    subprocess.run([sys.executable, "-c", SYNCS_HALF, str(root)], env=trace.environment(), check=True)
    for note in trace.notes():
        disk.follow(note)
    dice = seeded()
    names: set[frozenset[str]] = set()
    contents: set[bytes] = set()
    for number in range(200):
        left = tmp_path / str(number)
        disk.left(dice, left)
        found = {path.name: path.read_bytes() for path in left.iterdir()}
        names.add(frozenset(found))
        contents |= set(found.values())
    both = {frozenset({"kept", "unnamed"}), frozenset({"renamed", "unnamed"})}
    assert names == (both if metadata is Metadata.ORDERED else both | {frozenset({"kept"}), frozenset({"renamed"})})
    assert all(
        b"syncedmore".startswith(content.rstrip(b"\0")) and content.startswith(b"synced") for content in contents
    )
    assert {b"synced", b"syncedm", b"syncedmore", b"synced\0\0\0\0"} <= contents

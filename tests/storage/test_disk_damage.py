"""Flipped bits in every file of a store are reported at the start, or change nothing: no data is lost silently."""

import os
import random
import re
import shutil
import time
from pathlib import Path
from typing import Final

import pytest

from cairnkv.errors import OptionError
from tests.support.histories import History, Writer
from tests.support.raw_resp import Peer
from tests.support.serving import SMALL_MEMTABLES, Served, store_in

PLACES: Final = min(int(os.environ.get("CRASHES", "4")), 200)
"""Bits that are flipped in each file."""

CLEAR: Final = r"; nothing was changed: .*estore a backup"
"""What a report says: what is wrong, and what to do."""

Content = dict[tuple[int, bytes], tuple[bytes, int | None]]


def content_of(directory: Path) -> Content:
    with store_in(directory) as store:
        return {
            (database.number, key): entry
            for database in (*store.databases, store.queues)
            for key in database.slice(0, 1_000_000, b"")[1]
            if (entry := database.entry(key)) is not None and not key.startswith(b"brief")
        }


@pytest.fixture(scope="module")
def dice() -> random.Random:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, dice: random.Random) -> Path:
    """The directory of a server that was killed: some in tables, some in the log, values in parts."""
    directory = tmp_path_factory.mktemp("killed") / "data"
    with Served(directory, tampering=[SMALL_MEMTABLES]) as served:
        writers = [Writer(served.address, History(db), dice.randrange(2**32)) for db in range(3)]
        for writer in writers:
            writer.start()
        time.sleep(0.5)
        assert writers[0].is_alive()
        with Peer(served.address) as peer:
            assert peer.ask(b"SET", b"the large", b"large" * 100_000) == b"+OK\r\n"
            assert peer.ask(b"SET", b"the last", b"last") == b"+OK\r\n"
        served.kill()
    for writer in writers:
        writer.join(20)
    return directory


def report_on(directory: Path, whole: Content, where: str) -> str:
    """Return the error of the start, or None if all data is there."""
    try:
        found = content_of(directory)
    except OptionError as error:
        return str(error)
    assert found == whole, f"{where}: there is something else"
    return ""


def test_flipped_bits_are_reported_or_harmless(killed: Path, tmp_path: Path, dice: random.Random) -> None:
    copy = tmp_path / "data"
    shutil.copytree(killed, copy)
    whole = content_of(copy)
    shutil.rmtree(copy)
    assert whole
    kinds: set[str] = set()
    for path in sorted(killed.iterdir()):
        data = path.read_bytes()
        for place in {dice.randrange(len(data)) for _ in range(PLACES if data else 0)}:
            shutil.copytree(killed, copy)
            damaged = bytearray(data)
            damaged[place] ^= 1 << dice.randrange(8)
            (copy / path.name).write_bytes(damaged)
            where = f"byte {place:,} of {path.name}"
            if report := report_on(copy, whole, where):
                assert re.search(CLEAR, report), f"{where}: {report}"
                kinds.add(path.suffix or path.name.partition("-")[0])
            shutil.rmtree(copy)
    assert {".log", ".sst", "MANIFEST", "CURRENT"} <= kinds

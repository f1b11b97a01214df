"""A server killed with SIGKILL at random moments has all acknowledged writes after a restart."""

import os
import random
import time
from pathlib import Path
from typing import Final

import pytest

from cairnkv.errors import OptionError
from tests.support.histories import ArticleWriter, History, Writer, check_all, entries_in
from tests.support.serving import SMALL_MEMTABLES, Served, store_in

pytestmark = pytest.mark.usefixtures("path_in_use")

CRASHES: Final = int(os.environ.get("CRASHES", "2"))
WRITERS: Final = 4

PATIENCE: Final = 20.0
"""Seconds that writers may take to begin, or to end."""

MEMORY: Final = {"all in memory": (), "a cache": ("--memory-limit", "120000")}
"""Flags of `cairn serve` about memory, by what they come to."""


def any_acknowledged(histories: list[History]) -> bool:
    return any(step.acknowledged is not None for history in histories for step in history.steps)


@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY.keys())
@pytest.mark.parametrize("sync", ["always", "1s", "none"])
def test_acknowledged_writes_survive_sigkill(tmp_path: Path, sync: str, memory: tuple[str, ...]) -> None:
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    dice = random.Random(seed)
    histories = [History(db) for db in range(WRITERS)]
    for _ in range(CRASHES):
        # The first keyspace is the article's, and Redis' wire has it as well.
        kinds = [dice.choice((Writer, ArticleWriter)), *[Writer] * (WRITERS - 1)]
        with Served(tmp_path / "data", "--sync", sync, *memory, tampering=[SMALL_MEMTABLES]) as served:
            writers = [
                kind(served.address, history, dice.randrange(2**32), large=not memory)
                for kind, history in zip(kinds, histories, strict=True)
            ]
            for writer in writers:
                writer.start()
            until = time.monotonic() + PATIENCE
            while not any_acknowledged(histories):
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(dice.uniform(0.1, 0.6))
            with pytest.raises(OptionError, match="already open"), store_in(tmp_path / "data"):
                pass  # whoever is refused has mended nothing there
            served.kill()
        for writer in writers:
            writer.join(PATIENCE)
            assert not writer.is_alive()
            assert writer.failure is None, writer.wrong
        with store_in(tmp_path / "data") as store:
            there = check_all(
                histories,
                entries_in(store),
                lambda history: history.acknowledged_by(0),
                lambda history: len(history.steps),
            )
            histories = [
                history.go_on(entries_in(store)[history.db], steps)
                for history, steps in zip(histories, there, strict=True)
            ]

"""The same commands at the same times make the same replies and the same content, on any two keyspaces: that is
what lets several machines agree by agreeing on the order of commands."""

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import COMMANDS, Command, SetMany
from cairnkv.engine import Database, apply, can_apply, discard
from cairnkv.engine.database import Journal
from tests.engine.test_model import EASILY_MET, STEPS, content
from tests.support.strategies import commands

APPLIED = [command for command in COMMANDS if can_apply(command)]
HISTORIES = st.lists(st.tuples(commands(APPLIED, EASILY_MET), STEPS), max_size=40)
FILLING = SetMany(0, tuple((b"bulk:%d" % number, b"") for number in range(700)))


@given(history=HISTORIES, filled=st.booleans())
def test_databases_with_equal_commands_give_equal_replies(history: list[tuple[Command, int]], filled: bool) -> None:
    """One of them also records effects, and frees cleared keys in between."""
    one, other = Database(), Database()
    now = 0
    if filled:
        apply(one, FILLING, now)
        apply(other, FILLING, now)
    for command, step in history:
        now += step
        journal: Journal = []
        other.shared.journal = journal
        replies = apply(one, command, now), apply(other, command, now)
        other.shared.journal = None
        discard(journal)
        other.free_slice()
        assert replies[0] == replies[1]
        assert one.now == other.now
    assert content(one) == content(other)
    assert (one.count(), one.used_bytes) == (other.count(), other.used_bytes)


@given(history=HISTORIES)
def test_time_that_goes_back_counts_as_the_greatest_so_far(history: list[tuple[Command, int]]) -> None:
    """The proposer's clock may jump; log time is the greatest time so far."""
    one, other = Database(), Database()
    greatest = now = 10_000
    one.advance(now)
    other.advance(now)
    for number, (command, step) in enumerate(history):
        now += step if number % 3 else -step
        greatest = max(greatest, now)
        assert apply(one, command, now) == apply(other, command, greatest)
    assert content(one) == content(other)


_PROGRAM = """
from cairnkv.commands import Clear, Scan, SetMany
from cairnkv.engine import Database, apply
database = Database()
apply(database, SetMany(0, tuple((b"%d" % n, b"v") for n in range(2000))), 1)
for n in range(0, 2000, 3):
    apply(database, Clear(b"%d" % n), 2)
cursor = 0
while True:
    reply = apply(database, Scan(cursor, 100, b""), 3)
    print(reply)
    cursor = int(reply.values[0])
    if not cursor:
        break
"""


def test_hash_seed_of_python_does_not_matter() -> None:
    """The bucket of a key comes from its CRC-32, so cursors survive a restart."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) > 10

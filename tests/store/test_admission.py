"""The growth of a command is never less than the memory that it then adds, and not much more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairnkv.commands import (
    BY_NAME,
    BY_NUMBER,
    COMMANDS,
    Answer,
    Append,
    Command,
    Copy,
    Expire,
    GetWith,
    Incr,
    IncrFloat,
    Rename,
    Reply,
    Set,
    SetBit,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Step,
)
from cairnkv.commands.grammar import argument, command_spec, rest
from cairnkv.commands.vocabulary import DB, DECIMAL, KEY, VALUE
from cairnkv.engine import Database, Shared, apply, can_apply
from cairnkv.engine.expiry import TICK_BYTES
from cairnkv.store.admission import growth
from tests.engine.test_model import EASILY_MET, STEPS
from tests.support.strategies import Kinds, commands

APPLIED = [command for command in COMMANDS if can_apply(command)]
KINDS = Kinds(
    {
        **EASILY_MET,
        KEY: st.sampled_from([b"a", b"b", b"c" * 30]),
        VALUE: st.sampled_from([b"", b"9", b"-99", b"0.1", b"1e300", b"-1e300", b"9" * 18, b"v" * 50]),
        DECIMAL: st.sampled_from([b"1", b"-0.5", b"1e300", b"-1e300", b"1e4000", b"1e-10", b"x"]),
        DB: st.integers(0, 1),
    }
)
HISTORIES = st.lists(
    st.tuples(st.builds(Step, st.integers(0, 1), commands(APPLIED, KINDS)), STEPS), min_size=1, max_size=40
)


@given(history=HISTORIES)
@settings(max_examples=5 * settings().max_examples)
def test_no_command_adds_more_memory_than_its_growth(history: list[tuple[Step, int]]) -> None:
    shared = Shared()
    databases = [Database(shared) for _ in range(2)]
    for (db, command), step in history:
        shared.advance(shared.now + step)
        before = sum(database.used_bytes for database in databases)
        said = growth(databases[db], command)
        apply(databases[db], command, shared.now)
        grown = sum(database.used_bytes for database in databases) - before
        assert grown <= max(said, 0), f"the growth of {command} is {said}, and it added {grown}"


@pytest.mark.parametrize(
    "command",
    [
        Set(b"a", b"v" * 50),
        Set(b"new", b"v" * 50),
        SetWith(b"new", b"v" * 50, ttl=5),
        SetWith(b"a", b"v" * 50, keep_ttl=True),
        SetWith(b"expires", b"v" * 50, keep_ttl=True),
        SetWith(b"expires", b"v" * 200),
        SetManyIfAbsent(((b"new", b"1"), (b"newer", b"2"), (b"new", b"333"))),
        GetWith(b"a", ttl=5),
        GetWith(b"expires", ttl=5),
        Expire(b"a", 5),
        Append(b"a", b"1"),
        Append(b"new", b""),
        SetRange(b"a", 7, b"1"),
        SetRange(b"new", 7, b""),
        SetBit(b"new", 70, 1),
        Incr(b"new", -70),
        IncrFloat(b"a", b"1e4000"),
        IncrFloat(b"new", b"1e4000"),
        Rename(b"a", b"longer"),
        Rename(b"nothing", b"longer"),
        Copy(b"a", b"new"),
        Copy(b"a", b"expires"),
        Copy(b"expires", b"new"),
        Copy(b"expires", b"a", db=1),
        Copy(b"expires", b"a", replace=True),
        Copy(b"expires", b"there", db=1),
    ],
    ids=str,
)
def test_growth_of_single_commands_is_exact(command: Command) -> None:
    shared = Shared()
    database, elsewhere = Database(shared), Database(shared)
    for filling in (Set(b"a", b"1"), SetWith(b"expires", b"1" * 20, ttl=100)):
        apply(database, filling, 1)
    apply(elsewhere, Set(b"there", b""), 1)
    before = database.used_bytes + elsewhere.used_bytes, database.index_bytes + elsewhere.index_bytes
    said = growth(database, command)
    apply(database, command, 1)
    entries = database.used_bytes + elsewhere.used_bytes - before[0]
    assert said - entries in (0, TICK_BYTES)
    assert entries + database.index_bytes + elsewhere.index_bytes - before[1] <= said


def test_growth_of_a_sum_is_at_most_one_digit() -> None:
    database = Database()
    apply(database, Set(b"a", b"95"), 1)
    assert growth(database, Incr(b"a", 5)) == 1
    assert growth(database, Incr(b"a", 1_000)) == 3
    assert growth(database, Incr(b"a", -5)) == 1


@command_spec(60_000, answer=Answer.NUMBER, redis=("set",))
class Prepend(Command):
    """Prepend a string to the values of keys. It expires in an hour."""

    value: bytes = argument(VALUE)
    names: tuple[bytes, ...] = rest(KEY)


del BY_NUMBER[60_000], BY_NAME["PREPEND"]


def prepend(database: Database, command: Prepend) -> Reply:
    for key in command.names:
        database.put(key, command.value + (database.get(key) or b""), database.now + 3_600_000)
    return 1


@given(
    history=st.lists(
        st.builds(SetWith, KINDS[KEY], KINDS[VALUE], st.sampled_from([None, 1_000])) | commands([Prepend], KINDS),
        max_size=20,
    )
)
def test_a_command_without_a_case_has_a_bound_from_its_declaration(history: list[Command]) -> None:
    assert Prepend.spec.grows
    database = Database()
    for command in history:
        before = database.used_bytes
        bound = growth(database, command)
        if isinstance(command, Prepend):
            prepend(database, command)
        else:
            apply(database, command, 1)
        assert database.used_bytes - before <= max(bound, 0)


def test_growth_is_known_of_every_command() -> None:
    @given(command=commands([command for command in COMMANDS if command.spec.grows], KINDS))
    def any_command(command: Command) -> None:
        shared = Shared()
        Database(shared)
        assert isinstance(growth(Database(shared), command), int)

    any_command()

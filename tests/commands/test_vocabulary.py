"""The registry is consistent: numbers, names, types of replies, and the properties that other packages look up.

These tests hold for every command, including future ones. The conformance suite tests the meaning of each command.
"""

import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import find, given

from cairnkv import commands as commands_module
from cairnkv.commands import (
    BY_NAME,
    BY_NUMBER,
    COMMANDS,
    COUNTED_FROM,
    Access,
    Ack,
    Answer,
    ClearPrefix,
    Command,
    CommandSpec,
    Copy,
    Count,
    ExpireWith,
    Get,
    GetWith,
    Put,
    Rename,
    Scan,
    Scope,
    SetMany,
    SetWith,
    Swap,
    Take,
    TakeAny,
    Together,
)
from cairnkv.commands import queue_vocabulary as queue_vocabulary_module
from cairnkv.commands import vocabulary as vocabulary_module
from cairnkv.commands.grammar import KeyKind, Place, argument, command_spec
from cairnkv.commands.vocabulary import KEY
from cairnkv.engine import can_apply
from cairnkv.limits import QUEUE_DB
from cairnkv.session.resp.command_spec import RESP_COMMANDS
from tests.support import strategies

EVERY = Access.READ | Access.WRITE

SPECS = [pytest.param(command.spec, id=command.spec.name) for command in COMMANDS]


def test_declared_commands_are_registered_and_exported() -> None:
    declared = {
        thing
        for module in (vocabulary_module, queue_vocabulary_module)
        for _, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, Command) and hasattr(thing, "spec")
    }
    assert declared == set(COMMANDS)
    assert all(getattr(commands_module, command.__name__) is command for command in COMMANDS)


@pytest.fixture
def undeclared() -> Iterator[None]:
    """Remove the commands that a test declares."""
    yield
    for command in [spec.command for spec in BY_NUMBER.values() if spec.command not in COMMANDS]:
        del BY_NUMBER[command.spec.number], BY_NAME[command.spec.name]


@pytest.mark.usefixtures("undeclared")
def test_defaults_of_a_declaration_are_safe() -> None:
    @command_spec(60_000, answer=Answer.OK, redis=("set",))
    class ChangePair(Command):
        """Change two keys."""

        one: bytes = argument(KEY)
        other: bytes = argument(KEY)

    @command_spec(60_001, answer=Answer.OK, redis=("flushdb",))
    class ChangeTable(Command):
        """Change all keys."""

    spec = BY_NAME["CHANGE_PAIR"]
    assert (spec.scope, spec.access, spec.key_fields) == (Scope.KEYS, EVERY, ("one", "other"))
    assert spec.reads
    assert spec.writes
    assert spec.grows
    assert spec.stores_several
    assert not spec.by_store
    assert BY_NUMBER[60_001].scope is Scope.TABLE
    assert ChangePair(b"a", b"b").places_read(3) == ((3, b"a"), (3, b"b"))
    assert ChangePair(b"a", b"b").accesses() == ((b"a", EVERY), (b"b", EVERY))
    assert ChangeTable().accesses() == ((b"", EVERY),)


def test_a_taken_number_or_name_is_refused() -> None:
    for number, name in ((16, "Other"), (60_000, "SetWith")):
        with pytest.raises(ValueError, match="SET_WITH, number 16"):
            command_spec(number, answer=Answer.OK, redis=("set",))(type(name, (Command,), {"__annotations__": {}}))
    assert 60_000 not in BY_NUMBER


def test_only_commands_of_several_keys_are_declared_so() -> None:
    several = {spec.name for spec in BY_NUMBER.values() if spec.stores_several}
    of_queues = {spec.name for spec in BY_NUMBER.values() if spec.scope is Scope.QUEUES and spec.writes}
    assert several == {"SET_MANY", "SET_MANY_IF_ABSENT", "RENAME", "COPY"} | of_queues


def test_only_commands_that_change_a_part_of_a_value_resize_it() -> None:
    assert {spec.name for spec in BY_NUMBER.values() if spec.resizes} == {"APPEND", "SET_RANGE", "SET_BIT"}


def test_every_command_declares_the_redis_commands_whose_rights_it_needs() -> None:
    known = {spec.name for top in RESP_COMMANDS.values() for spec in (top, *top.subcommands.values())}
    undeclared = {
        spec.name: spec.redis for spec in BY_NUMBER.values() if not spec.redis or not known.issuperset(spec.redis)
    }
    assert undeclared == {}


@given(strategies.commands())
def test_every_command_knows_its_rights(command: Command) -> None:
    parts = command.commands if isinstance(command, Together) else (command,)
    needed = {name for part in (command, *parts) for name in part.spec.redis}
    assert command.redis_names()
    assert needed.issuperset(command.redis_names())
    for part in parts:
        access = [part.spec.access] * len(part.message_ids()) + [access for _, access in part.accesses()]
        assert any(Access.WRITE in each for each in access) == part.spec.writes, "the right to write is for writes"
        if part.spec.scope is Scope.NOTHING:
            assert part.accesses() == part.message_ids() == ()
        elif part.spec.scope is Scope.QUEUES:
            assert part.accesses() or part.message_ids()
            assert part.spec.access in (Access.READ, Access.WRITE)
        elif part.named_keys():
            assert {key for key, _ in part.accesses()} == set(part.named_keys())
        else:
            assert part.accesses()


def test_access_to_keys_is_that_of_redis() -> None:
    """ACCESS, and INSERT, UPDATE or DELETE in the key specifications of Redis. COPY and RENAME have a test below."""
    of_keys: dict[Access, set[str]] = {}
    for spec in BY_NUMBER.values():
        if spec.scope is not Scope.QUEUES:
            of_keys.setdefault(spec.access, set()).add(spec.name)
    assert of_keys[Access.EXISTENCE] == {"EXISTS"}
    assert of_keys[Access.WRITE] == {
        *("SET", "CLEAR", "SET_MANY", "CLEAR_MANY", "EXPIRE", "PERSIST", "CLEAR_ALL", "CLEAR_PREFIX", "EXPIRE_WITH"),
        *("APPEND", "SET_RANGE", "SET_MANY_IF_ABSENT"),
    }
    assert of_keys[EVERY] >= {
        *("SET_WITH", "SWAP", "GET_WITH", "CLEAR_IF_EQUALS", "INCR", "SET_BIT", "INCR_FLOAT", "RENAME", "COPY"),
    }


def test_options_change_rights() -> None:
    assert GetWith(b"k", clear=True).redis_names() == ("getdel",)
    assert GetWith(b"k", ttl=1).redis_names() == ("getex",)
    assert ExpireWith(b"k", 1, at=True).redis_names() == ("pexpireat",)
    assert ExpireWith(b"k", 1).redis_names() == ("pexpire",)
    assert Rename(b"k", b"l", if_absent=True).redis_names() == ("renamenx",)
    assert Rename(b"k", b"l").redis_names() == ("rename",)
    assert Rename(b"k", b"l").accesses() == ((b"k", EVERY), (b"l", Access.WRITE))
    assert Copy(b"k", b"l").accesses() == ((b"k", Access.READ), (b"l", Access.WRITE))
    assert SetWith(b"k", b"v").accesses() == ((b"k", Access.WRITE),)
    assert SetWith(b"k", b"v", if_equals=b"w").accesses() == ((b"k", EVERY),)
    assert Swap(b"k", b"v").accesses() == ((b"k", EVERY),)
    assert Scan(0, 1, b"p:").accesses() == ((b"p:", Access.READ),)
    assert ClearPrefix(b"p:", 0).accesses() == ((b"p:", Access.WRITE),)
    assert Take(b"q", 1).accesses() == ((b"q", Access.WRITE),)
    assert TakeAny(1, 0, 0, (b"q", b"r")).accesses() == ((b"q", Access.WRITE), (b"r", Access.WRITE))
    assert Ack(((1, 2), (3, 4))).message_ids() == (1, 3)
    assert Together((Get(b"k"), Put(b"q", b"m"))).redis_names() == ("multi", "exec", "get", "queue.put")
    assert Together((Get(b"k"), Put(b"q", b"m"))).accesses() == ((b"k", Access.READ), (b"q", Access.WRITE))


def test_numbers_and_names_are_unique() -> None:
    assert len(BY_NUMBER) == len(BY_NAME) == len(COMMANDS) == len(set(COMMANDS))
    for command in COMMANDS:
        assert BY_NUMBER[command.spec.number].command is command
        assert BY_NAME[command.spec.name].command is command


def test_numbers_0_to_3_are_those_of_the_article() -> None:
    assert {number: spec.name for number, spec in BY_NUMBER.items() if number < COUNTED_FROM} == {
        0: "GET",
        1: "SET",
        2: "CLEAR",
        3: "PING",
    }


def test_numbers_4_to_15_stay_unassigned() -> None:
    assert COUNTED_FROM == 16
    assert not set(range(4, 16)) & set(BY_NUMBER)


def test_numbers_fit_two_bytes() -> None:
    assert all(0 <= number <= 0xFFFF for number in BY_NUMBER)


def test_published_commands_keep_their_numbers() -> None:
    """Numbers are in protocols and logs, so none may change its meaning."""
    published = """
        SET_WITH SWAP GET_WITH CLEAR_IF_EQUALS EXISTS GET_MANY SET_MANY CLEAR_MANY INCR TTL EXPIRE PERSIST SCAN
        COUNT CLEAR_ALL CLEAR_PREFIX INFO EXPIRE_WITH DEADLINE APPEND SET_RANGE SET_BIT INCR_FLOAT RENAME COPY
        SET_MANY_IF_ABSENT RANDOM_KEY BACKUP AUTH WHOAMI
    """
    assert [BY_NUMBER[number].name for number in range(16, 46)] == published.split()
    of_queues = """
        PUT PUT_MANY TAKE TAKE_ANY ACK NACK EXTEND PEEK LOOK REQUEUE REQUEUE_IDS REMOVE PURGE QUEUE_SET QUEUE_DROP
        QUEUE_STATS QUEUES TOGETHER
    """
    assert [BY_NUMBER[number].name for number in range(64, 82)] == of_queues.split()


def test_places_are_the_keys_in_order_with_their_databases() -> None:
    pairs = ((b"b", b"1"), (b"a", b"2"), (b"b", b"3"))
    assert SetMany(0, pairs).places(3) == ((3, b"b"), (3, b"a"), (3, b"b"))
    assert Rename(b"from", b"to").places(3) == ((3, b"from"), (3, b"to"))
    assert Copy(b"from", b"to").places(3) == ((3, b"from"), (3, b"to"))
    assert Copy(b"from", b"to", db=0).places(3) == ((3, b"from"), (0, b"to"))
    assert Count().places(3) == ()


@pytest.mark.parametrize("spec", SPECS)
class TestEachSpec:
    def test_has_keys_if_its_scope_is_keys(self, spec: CommandSpec) -> None:
        assert bool(spec.key_fields) == (spec.scope is Scope.KEYS)

    def test_of_queues_touches_only_records_of_queues(self, spec: CommandSpec) -> None:
        """Otherwise a reply could show a message without waiting for its commit."""
        if spec.scope is Scope.QUEUES:
            places = find(strategies.commands([spec.command]), lambda _: True).places(3)
            assert places
            assert {db for db, _ in places} <= {QUEUE_DB, *([3] if spec.command is Together else [])}

    def test_lists_all_its_key_fields(self, spec: CommandSpec) -> None:
        """Otherwise a reply could show a key without waiting for its commit."""
        of_keys = [name for name, slot in spec.fields if any(isinstance(kind, KeyKind) for kind in slot.kinds)]
        assert list(spec.key_fields) == of_keys
        slots = dict(spec.fields)
        for name in of_keys:
            assert isinstance(slots[name].kinds[0], KeyKind), "a key comes before its value"
            assert slots[name].place in (Place.ARGUMENT, Place.REST), "a key is never optional"

    def test_grows_only_if_it_writes(self, spec: CommandSpec) -> None:
        assert spec.writes or not spec.grows

    def test_is_applied_by_the_engine_unless_the_store_answers_it(self, spec: CommandSpec) -> None:
        assert can_apply(spec.command) != spec.by_store

    def test_answered_by_the_store_writes_nothing(self, spec: CommandSpec) -> None:
        assert not (spec.by_store and spec.writes) or spec.command is Together  # it executes its parts

    def test_without_scope_writes_nothing(self, spec: CommandSpec) -> None:
        assert not (spec.scope is Scope.NOTHING and spec.writes)

    def test_has_a_reply_type(self, spec: CommandSpec) -> None:
        assert spec.answer in Answer

    def test_excludes_only_its_own_options(self, spec: CommandSpec) -> None:
        slots = dict(spec.fields)
        for group in spec.exclusive:
            assert len(group) > 1
            for name in group:
                assert slots[name].place in (Place.OPTION, Place.SWITCH)

    def test_with_uncounted_frame_has_only_positional_arguments(self, spec: CommandSpec) -> None:
        """Its frame has no count of arguments, so the number must determine it."""
        if spec.number < COUNTED_FROM:
            assert all(slot.place is Place.ARGUMENT for _, slot in spec.fields)

    def test_has_rest_only_at_the_end(self, spec: CommandSpec) -> None:
        places = [slot.place for _, slot in spec.fields]
        assert Place.REST not in places[:-1]

    def test_has_positional_arguments_before_options(self, spec: CommandSpec) -> None:
        optional = [slot.place in (Place.OPTION, Place.SWITCH) for _, slot in spec.fields]
        assert optional == sorted(optional)

    def test_has_a_summary_of_one_line(self, spec: CommandSpec) -> None:
        assert spec.summary.endswith(".")
        assert "\n" not in spec.summary


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("GET", "GET key"),
        ("SET", "SET key value"),
        ("PING", "PING text"),
        ("COUNT", "COUNT"),
        (
            "SET_WITH",
            "SET_WITH key value [TTL milliseconds] [KEEPTTL] [IFABSENT] [IFPRESENT] [IFEQUALS value] "
            "[AT unix-milliseconds]",
        ),
        (
            "SWAP",
            "SWAP key value [TTL milliseconds] [KEEPTTL] [IFABSENT] [IFPRESENT] [IFEQUALS value] "
            "[AT unix-milliseconds]",
        ),
        ("GET_WITH", "GET_WITH key [CLEAR] [TTL milliseconds] [PERSIST] [AT unix-milliseconds]"),
        ("EXPIRE_WITH", "EXPIRE_WITH key milliseconds [AT] [IFNONE] [IFSOME] [IFLATER] [IFSOONER]"),
        ("COPY", "COPY source target [SPACE database] [REPLACE]"),
        ("INCR_FLOAT", "INCR_FLOAT key decimal"),
        ("GET_MANY", "GET_MANY key [key ...]"),
        ("SET_MANY", "SET_MANY milliseconds-or-0 key value [key value ...]"),
        ("INCR", "INCR key n"),
        ("SCAN", "SCAN cursor count prefix"),
        ("CLEAR_PREFIX", "CLEAR_PREFIX prefix cursor"),
    ],
)
def test_usage_shows_the_grammar_in_one_line(name: str, usage: str) -> None:
    assert BY_NAME[name].usage == usage


def test_descriptions_survive_python_without_docstrings() -> None:
    code = "from cairnkv.commands import BY_NAME; print([(spec.name, spec.description) for spec in BY_NAME.values()])"
    told = [
        subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, check=True, timeout=60).stdout
        for flags in ([], ["-OO"])
    ]
    assert told[0] == told[1]
    assert all(spec.description and spec.summary for spec in BY_NAME.values())

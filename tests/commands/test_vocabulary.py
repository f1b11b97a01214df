"""The vocabulary is consistent: numbers, names, kinds of answer, and what the rooms above look up in it.

Nothing here lists what each command means; that is the conformance suite's. It lists what must hold for any
command that will ever be added.
"""

import inspect
import subprocess
import sys

import pytest

from cairnkv.commands import (
    BY_NAME,
    BY_NUMBER,
    COMMANDS,
    COUNTED_FROM,
    Answer,
    Command,
    CommandSpec,
    Copy,
    Count,
    Rename,
    Scope,
    SetMany,
)
from cairnkv.commands import vocabulary as vocabulary_module
from cairnkv.commands.grammar import KeyKind, Place
from cairnkv.engine import can_apply

RESP_COMMANDS = [pytest.param(command.spec, id=command.spec.name) for command in COMMANDS]


def test_every_command_of_the_module_is_in_the_vocabulary() -> None:
    declared = {
        thing
        for _, thing in inspect.getmembers(vocabulary_module, inspect.isclass)
        if issubclass(thing, Command) and thing is not Command
    }
    assert declared == set(COMMANDS)


def test_numbers_and_names_are_unique() -> None:
    assert len(BY_NUMBER) == len(BY_NAME) == len(COMMANDS) == len(set(COMMANDS))
    for command in COMMANDS:
        assert BY_NUMBER[command.spec.number].command is command
        assert BY_NAME[command.spec.name].command is command


def test_the_articles_numbers_are_the_articles() -> None:
    assert {number: word.name for number, word in BY_NUMBER.items() if number < COUNTED_FROM} == {
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


def test_the_commands_that_were_published_keep_their_numbers() -> None:
    """Numbers are on wires and in logs: none may ever mean something else."""
    published = """
        SET_WITH SWAP GET_WITH CLEAR_IF_EQUALS EXISTS GET_MANY SET_MANY CLEAR_MANY INCR TTL EXPIRE PERSIST SCAN
        COUNT CLEAR_ALL CLEAR_PREFIX INFO EXPIRE_WITH DEADLINE APPEND SET_RANGE SET_BIT INCR_FLOAT RENAME COPY
        SET_MANY_IF_ABSENT RANDOM_KEY BACKUP
    """
    assert [BY_NUMBER[number].name for number in range(16, 44)] == published.split()


def test_keys_are_named_in_their_order_each_with_its_keyspace() -> None:
    pairs = ((b"b", b"1"), (b"a", b"2"), (b"b", b"3"))
    assert SetMany(0, pairs).places(3) == ((3, b"b"), (3, b"a"), (3, b"b"))
    assert Rename(b"from", b"to").places(3) == ((3, b"from"), (3, b"to"))
    assert Copy(b"from", b"to").places(3) == ((3, b"from"), (3, b"to"))
    assert Copy(b"from", b"to", db=0).places(3) == ((3, b"from"), (0, b"to"))
    assert Count().places(3) == ()


@pytest.mark.parametrize("word", RESP_COMMANDS)
class TestEachWord:
    def test_names_its_keys_exactly_when_its_scope_is_keys(self, word: CommandSpec) -> None:
        assert bool(word.key_fields) == (word.scope is Scope.KEYS)

    def test_names_all_its_keys(self, word: CommandSpec) -> None:
        """Else a reply could touch keys that nobody waits for."""
        of_keys = [name for name, slot in word.fields if any(isinstance(kind, KeyKind) for kind in slot.kinds)]
        assert list(word.key_fields) == of_keys
        slots = dict(word.fields)
        for name in of_keys:
            assert isinstance(slots[name].kinds[0], KeyKind), "keys come before what belongs to them"
            assert slots[name].place in (Place.ARGUMENT, Place.REST), "a key that may be left out is not foreseen"

    def test_grows_only_if_it_writes(self, word: CommandSpec) -> None:
        assert word.writes or not word.grows

    def test_can_be_applied_unless_the_store_answers_it(self, word: CommandSpec) -> None:
        assert can_apply(word.command) != word.by_store

    def test_of_the_store_writes_nothing(self, word: CommandSpec) -> None:
        assert not (word.by_store and word.writes)

    def test_that_touches_nothing_writes_nothing(self, word: CommandSpec) -> None:
        assert not (word.scope is Scope.NOTHING and word.writes)

    def test_has_an_answer_that_a_client_can_read_back(self, word: CommandSpec) -> None:
        assert word.answer in Answer

    def test_excludes_fields_that_it_has_and_that_can_be_left_out(self, word: CommandSpec) -> None:
        slots = dict(word.fields)
        for group in word.exclusive:
            assert len(group) > 1
            for name in group:
                assert slots[name].place in (Place.OPTION, Place.SWITCH)

    def test_of_the_article_has_only_positional_arguments(self, word: CommandSpec) -> None:
        """Its frame has no count, so it must be known from the number alone."""
        if word.number < COUNTED_FROM:
            assert all(slot.place is Place.ARGUMENT for _, slot in word.fields)

    def test_has_all_that_follow_only_at_the_end(self, word: CommandSpec) -> None:
        places = [slot.place for _, slot in word.fields]
        assert Place.REST not in places[:-1]

    def test_has_positional_arguments_before_options(self, word: CommandSpec) -> None:
        optional = [slot.place in (Place.OPTION, Place.SWITCH) for _, slot in word.fields]
        assert optional == sorted(optional)

    def test_is_summarised_in_a_sentence(self, word: CommandSpec) -> None:
        assert word.summary.endswith(".")
        assert "\n" not in word.summary


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
def test_the_grammar_in_one_line(name: str, usage: str) -> None:
    assert BY_NAME[name].usage == usage


def test_descriptions_are_there_where_python_drops_docstrings() -> None:
    code = "from cairnkv.commands import BY_NAME; print([(word.name, word.description) for word in BY_NAME.values()])"
    told = [
        subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, check=True, timeout=60).stdout
        for flags in ([], ["-OO"])
    ]
    assert told[0] == told[1]
    assert all(word.description and word.summary for word in BY_NAME.values())

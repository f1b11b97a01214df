"""Arguments become strings and strings arguments, for every command; what does not fit is refused with the
failure that says so."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    COMMANDS,
    ArgumentFault,
    Clear,
    ClearAll,
    Command,
    CommandSpec,
    Exists,
    Get,
    GetMany,
    GetWith,
    Incr,
    Ping,
    Scan,
    Set,
    SetMany,
    SetWith,
    Swap,
    failures,
)
from cairnkv.commands.grammar import KeyKind, Kind, NumberKind, Place
from cairnkv.limits import (
    ATTEMPTS_MAX,
    BACKOFF_FACTOR_MAX,
    DELAY_MAX,
    INTEGER_MAX,
    INTEGER_MIN,
    KEY_MAX,
    LEASE_MAX,
    SCAN_COUNT_MAX,
    TAKE_MAX,
    TTL_MAX,
    WAIT_MAX,
)
from cairnkv.records import replace
from tests.support.strategies import commands

RESP_COMMANDS = [pytest.param(command.spec, id=command.spec.name) for command in COMMANDS]


def refusal(command: type[Command], *strings: bytes) -> ArgumentFault:
    with pytest.raises(ArgumentFault) as raised:
        command.from_arguments(strings)
    return raised.value


@pytest.mark.parametrize("word", RESP_COMMANDS)
@given(data=st.data())
def test_command_survives_a_round_trip_through_its_strings(word: CommandSpec, data: st.DataObject) -> None:
    command = data.draw(commands([word.command]))
    strings = command.arguments()
    assert all(isinstance(string, bytes) for string in strings)
    again = word.command.from_arguments(strings)
    assert again == command
    assert type(again) is type(command)
    assert hash(again) == hash(command)


@given(command=commands([SetWith, Swap, GetWith]), data=st.data())
def test_options_may_stand_in_any_order(command: Command, data: st.DataObject) -> None:
    positional = sum(slot.place is Place.ARGUMENT for _, slot in command.spec.fields)
    options = [
        replace(type(command)(*command.arguments()[:positional]), **{name: getattr(command, name)}).arguments()[
            positional:
        ]
        for name, slot in command.spec.fields
        if slot.keyword
    ]
    shuffled = data.draw(st.permutations(options))
    strings = command.arguments()[:positional] + [string for option in shuffled for string in option]
    assert type(command).from_arguments(strings) == command


@given(command=st.sampled_from(COMMANDS), strings=st.lists(st.binary(max_size=8), max_size=6))
def test_unknown_strings_are_refused_without_other_errors(command: type[Command], strings: list[bytes]) -> None:
    understood, code = None, None
    try:
        understood = command.from_arguments(strings)
    except ArgumentFault as fault:
        code = fault.code
    if understood is None:
        assert code in (failures.BADARGS, failures.BADKEY)
    else:
        assert command.from_arguments(understood.arguments()) == understood


@pytest.mark.parametrize("word", RESP_COMMANDS)
@given(data=st.data())
def test_command_with_a_missing_string_is_refused(word: CommandSpec, data: st.DataObject) -> None:
    fewest = sum(
        {Place.ARGUMENT: 1, Place.REST: len(slot.kinds)}.get(slot.place, 0) for _, slot in word.fields
    )  # strings that must be there
    strings = data.draw(commands([word.command])).arguments()[: fewest - 1] if fewest else None
    if strings is None:
        assert word.command.from_arguments([]) == word.command()
    else:
        fault = refusal(word.command, *strings)
        assert fault.code is failures.BADARGS
        assert word.usage in fault.text


EXCLUSIVE = [command.spec for command in COMMANDS if command.spec.exclusive]


@pytest.mark.parametrize("word", EXCLUSIVE, ids=lambda spec: spec.name)
@given(data=st.data())
def test_options_that_exclude_each_other_are_refused_together(word: CommandSpec, data: st.DataObject) -> None:
    group = data.draw(st.sampled_from(word.exclusive))
    together = data.draw(st.lists(st.sampled_from(group), min_size=2, unique=True))
    strings = data.draw(commands([word.command])).arguments()
    positional = strings[: sum(slot.place is Place.ARGUMENT for _, slot in word.fields)]
    for name in together:
        slot = dict(word.fields)[name]
        positional += [slot.keyword, b"1"] if slot.kinds else [slot.keyword]
    fault = refusal(word.command, *positional)
    assert fault.code is failures.BADARGS
    assert "exclude each other" in fault.text
    for name in together:
        assert dict(word.fields)[name].keyword.decode() in fault.text


@pytest.mark.parametrize(
    ("command", "strings"),
    [
        pytest.param(Get, (b"k", b"extra"), id="one argument too many"),
        pytest.param(ClearAll, (b"k",), id="an argument where there is none"),
        pytest.param(SetWith, (b"k", b"v", b"NX"), id="an option that does not exist"),
        pytest.param(SetWith, (b"k", b"v", b"ttl", b"5"), id="an option in small letters"),
        pytest.param(SetWith, (b"k", b"v", b"TTL"), id="an option without its value"),
        pytest.param(SetWith, (b"k", b"v", b"TTL", b"5", b"TTL", b"5"), id="an option twice"),
        pytest.param(GetWith, (b"k", b"CLEAR", b"CLEAR"), id="a switch twice"),
        pytest.param(SetMany, (b"0", b"k", b"v", b"k"), id="a key without its value"),
        pytest.param(SetMany, (b"0",), id="no pairs"),
        pytest.param(GetMany, (), id="no keys"),
    ],
)
def test_strings_outside_the_grammar_are_refused(command: type[Command], strings: tuple[bytes, ...]) -> None:
    assert refusal(command, *strings).code is failures.BADARGS


def test_option_names_may_be_keys_and_values() -> None:
    assert SetWith.from_arguments([b"TTL", b"KEEPTTL"]) == SetWith(b"TTL", b"KEEPTTL")
    assert SetWith.from_arguments([b"k", b"v", b"IFEQUALS", b"TTL"]) == SetWith(b"k", b"v", if_equals=b"TTL")
    assert Exists.from_arguments([b"TTL", b"TTL"]) == Exists((b"TTL", b"TTL"))


def test_empty_compare_value_differs_from_no_value() -> None:
    command = SetWith(b"k", b"v", if_equals=b"")
    assert command.arguments() == [b"k", b"v", b"IFEQUALS", b""]
    assert SetWith.from_arguments(command.arguments()) == command


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (Get(b"k"), (b"k",)),
        (Set(b"k", b"v"), (b"k",)),
        (Clear(b"k"), (b"k",)),
        (SetMany(0, ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"))), (b"a", b"b", b"a")),
        (Exists((b"a", b"b")), (b"a", b"b")),
        (Ping(b"k"), ()),
        (Scan(0, 1, b"k"), ()),
    ],
)
def test_command_lists_its_keys(command: Command, keys: tuple[bytes, ...]) -> None:
    assert command.named_keys() == keys


class TestKeys:
    def test_have_1_to_65_535_bytes(self) -> None:
        assert Get.from_arguments([b"k"]) == Get(b"k")
        assert Get.from_arguments([b"k" * KEY_MAX]) == Get(b"k" * KEY_MAX)
        assert refusal(Get, b"").code is failures.BADKEY
        assert refusal(Get, b"k" * (KEY_MAX + 1)).code is failures.BADKEY


NUMBER_KINDS = sorted(
    {
        (kind.placeholder, kind.lowest, kind.highest): kind
        for command in COMMANDS
        for _, slot in command.spec.fields
        for kind in slot.kinds
        if isinstance(kind, NumberKind)
    }.values(),
    key=lambda kind: kind.placeholder,
)


@pytest.mark.parametrize("kind", NUMBER_KINDS, ids=lambda kind: kind.placeholder)
class TestNumbers:
    def test_range_from_the_lowest_to_the_highest(self, kind: NumberKind) -> None:
        for number in (kind.lowest, kind.highest):
            assert kind.read(kind.write(number)) == number
        for number in (kind.lowest - 1, kind.highest + 1):
            with pytest.raises(ArgumentFault) as raised:
                kind.read(kind.write(number))
            assert raised.value.code is failures.BADARGS

    @given(data=st.data())
    def test_have_one_text_each(self, kind: NumberKind, data: st.DataObject) -> None:
        number = data.draw(st.integers(kind.lowest, kind.highest))
        assert kind.write(number) == str(number).encode()
        assert kind.read(kind.write(number)) == number

    @pytest.mark.parametrize(
        "text", [b"", b" 1", b"1 ", b"+1", b"01", b"-0", b"-01", b"1_0", b"0x1", b"1.0", b"1e3", b"one", b"9" * 5_000]
    )
    def test_have_no_other_text(self, kind: NumberKind, text: bytes) -> None:
        with pytest.raises(ArgumentFault) as raised:
            kind.read(text)
        assert raised.value.code is failures.BADARGS
        assert len(str(raised.value)) < 300, "what is shown of a bad number is bounded"

    def test_in_another_script_are_refused(self, kind: NumberKind) -> None:
        with pytest.raises(ArgumentFault):
            kind.read("٣".encode())


def test_kinds_of_numbers_are_documented() -> None:
    assert {(kind.placeholder, kind.lowest, kind.highest) for kind in NUMBER_KINDS} == {
        ("milliseconds", 1, TTL_MAX),
        ("milliseconds-or-0", 0, TTL_MAX),
        ("milliseconds", 1, WAIT_MAX),
        ("milliseconds-or-0", 0, WAIT_MAX),
        ("n", INTEGER_MIN, INTEGER_MAX),
        ("cursor", 0, 2**53 - 1),
        ("count", 1, SCAN_COUNT_MAX),
        ("bit", 0, 1),
        ("offset", 0, 2**29 - 1),
        ("offset", 0, 2**32 - 1),
        ("milliseconds", -(2**53), 2**53),
        ("unix-milliseconds", 1, 2**53),
        ("database", 0, 15),
        ("backups", 1, 1_000),
        ("id", 1, INTEGER_MAX),
        ("lease", 1, INTEGER_MAX),
        ("priority", 0, 2**32 - 1),
        ("milliseconds", 0, DELAY_MAX),
        ("milliseconds", 1, DELAY_MAX),
        ("milliseconds-or-0", 0, DELAY_MAX),
        ("milliseconds", 1, LEASE_MAX),
        ("milliseconds-or-0", 0, LEASE_MAX),
        ("count", 1, TAKE_MAX),
        ("cursor", 0, INTEGER_MAX),
        ("n", 1, ATTEMPTS_MAX),
        ("n", 1, BACKOFF_FACTOR_MAX),
        ("n-or-0", 0, INTEGER_MAX),
        ("1-or-0", 0, 1),
    }


def test_incr_reads_the_ends_of_64_bits() -> None:
    for n in (INTEGER_MIN, INTEGER_MAX):
        assert Incr.from_arguments([b"k", b"%d" % n]) == Incr(b"k", n)


@pytest.mark.parametrize(
    "command", [Set(b"k", b"v"), SetWith(b"k", b"v"), Exists((b"k",)), ClearAll()], ids=lambda c: c.spec.name
)
def test_commands_cannot_be_changed(command: Any) -> None:
    for name in [name for name, _ in command.spec.fields] or ["word"]:
        with pytest.raises((AttributeError, TypeError)):
            setattr(command, name, b"other")


@given(text=st.binary(max_size=300))
def test_free_string_may_be_any_bytes(text: bytes) -> None:
    kind = Kind("value")
    assert kind.read(kind.write(text)) == text
    assert KeyKind("key").write(text) == text

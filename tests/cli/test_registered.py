"""The subcommands that the registry adds: their arguments, output and exit codes."""

import contextlib
import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv
from cairnkv.cli import registered
from cairnkv.cli.arguments import store_parser
from cairnkv.cli.main import SUBCOMMANDS
from cairnkv.cli.registered import COVERED, command_of, commands, lines, summaries
from cairnkv.commands import (
    BY_NAME,
    OK,
    Append,
    ClearMany,
    Command,
    Copy,
    Deadline,
    ExpireWith,
    Get,
    GetMany,
    GetWith,
    Incr,
    IncrFloat,
    Items,
    Reply,
    Scan,
    Scope,
    Set,
    SetBit,
    SetMany,
    SetRange,
    SetWith,
    Swap,
)
from cairnkv.commands.grammar import Kind, Place
from cairnkv.commands.vocabulary import MILLISECONDS, MILLISECONDS_OR_NONE, NO_TTL, TIME, UNIX_MILLISECONDS
from cairnkv.errors import CallerError
from tests.cli.conftest import Call
from tests.support import strategies

Store = cairnkv.Client[bytes, bytes]
SPECS = {name: spec for spec in BY_NAME.values() if (name := spec.name.lower().replace("_", "-")) in commands()}


def parsed(line: str) -> Command:
    name, *arguments = shlex.split(line)
    parser = store_parser(name, commands()[name], in_shell=True)
    return command_of(SPECS[name], parser.parse_args(arguments), parser)


def test_every_command_on_keys_is_a_subcommand() -> None:
    of_their_own = {name.lower() for name in BY_NAME} & SUBCOMMANDS.keys()
    assert {name.upper().replace("-", "_") for name in commands()} == BY_NAME.keys() - {
        *COVERED,
        *(spec.name for spec in BY_NAME.values() if spec.scope is Scope.QUEUES),
        *(name.upper() for name in of_their_own),
    }
    assert commands().keys() == summaries().keys()


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("get-with k --clear", GetWith(b"k", clear=True)),
        ("get-with a --at 1767225600500ms", GetWith(b"a", at=1_767_225_600_500)),
        ("set-with a b", SetWith(b"a", b"b")),
        ("set-with a b --ttl 500ms", SetWith(b"a", b"b", ttl=500)),
        ("set-with a b --ttl 1.5 --if-absent", SetWith(b"a", b"b", ttl=1_500, if_absent=True)),
        ("set-with a b --if-equals ''", SetWith(b"a", b"b", if_equals=b"")),
        ("set-with a b --if-equals 'x = y' --keep-ttl", SetWith(b"a", b"b", if_equals=b"x = y", keep_ttl=True)),
        ("set-with a b --at 1767225600", SetWith(b"a", b"b", at=1_767_225_600_000)),
        ("swap a b --if-present", Swap(b"a", b"b", if_present=True)),
        ("get-many a --", GetMany((b"a",))),
        ("get-many a ttl=5", GetMany((b"a", b"ttl=5"))),
        ("set-many a 1 b 2", SetMany(0, ((b"a", b"1"), (b"b", b"2")))),
        ("set-many --ttl 2s a 1", SetMany(2_000, ((b"a", b"1"),))),
        ("expire-with a 30s --if-none", ExpireWith(b"a", 30_000, if_none=True)),
        ("expire-with a 1767225600 --at --if-later", ExpireWith(b"a", 1_767_225_600_000, at=True, if_later=True)),
        ("expire-with a -- -30s", ExpireWith(b"a", -30_000)),
        ("set-range a 5 b", SetRange(b"a", 5, b"b")),
        ("set-bit a 5 1", SetBit(b"a", 5, 1)),
        ("incr-float a 0.5", IncrFloat(b"a", b"0.5")),
        ("copy a b --db 2 --replace", Copy(b"a", b"b", db=2, replace=True)),
        ("deadline a", Deadline(b"a")),
        ("append clé v", Append("clé".encode(), b"v")),
    ],
)
def test_arguments_become_commands(line: str, command: Command) -> None:
    assert parsed(line) == command


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("append a", "the following arguments are required: VALUE"),
        ("append a b c", "'c' is one argument too many"),
        ("append '' b", "a key has 1 to 65,535 bytes"),
        ("swap a b --ttl soon", "argument --ttl: it takes a time such as 30s"),
        ("swap a b --ttl 0", "it takes a time from 1ms to "),
        ("swap a b --ttl", "expected one argument"),
        ("swap a b --if-absent=1", "ignored explicit argument"),
        ("swap a b --tll 5", "did you mean '--ttl'?"),
        ("swap a b --ttl 1 --keep-ttl", "--ttl and --keep-ttl exclude each other"),
        ("set-many a", "the last key has no value"),
        ("set-many", "are required: KEY VALUE"),
        ("get-many a ''", "a key has 1 to 65,535 bytes"),
        ("set-with a b --at=-5s", "it takes a time from 1ms"),
        ("expire-with a 5s --if-none --if-some", "--if-none and --if-some exclude each other"),
        ("set-bit a 0 2", "bit is a decimal number from 0 to 1"),
        ("copy a b --db 16", "database is a decimal number from 0 to 15"),
        ("random-key all", "'all' is one argument too many"),
    ],
)
def test_wrong_arguments_give_the_reason(line: str, why: str) -> None:
    with pytest.raises(CallerError) as refused:
        parsed(line)
    assert why in str(refused.value)
    assert str(refused.value).endswith(f"; `help {line.split()[0]}` explains it")
    assert "\n" not in str(refused.value)


TIMES = st.integers(1, 999_999_999)


@given(
    command=strategies.commands(
        [spec.command for spec in SPECS.values()],
        kinds=strategies.Kinds(
            {
                MILLISECONDS: TIMES,
                MILLISECONDS_OR_NONE: st.just(NO_TTL) | TIMES,
                TIME: st.integers(-999_999_999, 999_999_999) | st.just(9_999_999_999_999),
                UNIX_MILLISECONDS: TIMES | st.just(9_999_999_999_999),
            }
        ),
    )
)
def test_every_command_is_accepted_with_every_option(command: Command) -> None:
    assert parsed(typed(command)) == command


def typed(command: Command) -> str:
    positional, options = [], []
    for name, slot in command.spec.fields:
        value = getattr(command, name)
        option = f"--{name.replace('_', '-')}"
        match slot.place:
            case Place.REST:
                groups = value if len(slot.kinds) > 1 else [(part,) for part in value]
                positional += [
                    typed_as(kind, part) for group in groups for kind, part in zip(slot.kinds, group, strict=True)
                ]
            case Place.SWITCH:
                options += [option] if value else []
            case Place.OPTION:
                options += [f"{option}={typed_as(slot.kinds[0], value)}"] if value is not None else []
            case Place.ARGUMENT if slot.kinds[0] is MILLISECONDS_OR_NONE:
                options += [f"{option}={value}ms"] if value else []
            case Place.ARGUMENT:
                positional.append(typed_as(slot.kinds[0], value))
    return shlex.join(
        [command.spec.name.lower().replace("_", "-"), *options, *(["--", *positional] if positional else [])]
    )


def typed_as(kind: Kind, value: Any) -> str:
    text = kind.write(value).decode("utf-8", "surrogateescape")
    return f"{text}ms" if kind in registered.TIMES else text


@pytest.mark.parametrize(
    ("command", "reply", "expected"),
    [
        (Set(b"a", b"b"), OK, ["OK"]),
        (Get(b"a"), b"b", [b"b"]),
        (Incr(b"a", 1), -4, ["-4"]),
        (Deadline(b"a"), -1, ["never"]),
        (Deadline(b"a"), 1_767_225_600_500, ["1767225600.500"]),
        (GetMany((b"a", b"b")), Items((b"x", None)), [b"x", "(not found)"]),
        (Scan(0, 1, b""), Items(()), []),
        (ClearMany((b"a",)), 0, ["0"]),
    ],
)
def test_replies_are_printed(command: Command, reply: Reply, expected: list[bytes | str]) -> None:
    assert list(lines(command.spec, reply)) == expected


@pytest.mark.parametrize("name", commands())
def test_help_describes_times_and_replies_as_users_see_them(cairn_here: Call, name: str) -> None:
    said = cairn_here(name, "--help")
    text = said.out.decode()
    assert said.code == 0
    assert text.startswith(f"usage: cairn {name} ")
    assert "millisecond" not in text + summaries()[name]
    assert "`MISSING`" not in text
    assert ("TIME" in text.replace("--timeout TIME", "")) == (registered.TIME_HELP in text)


def test_help_of_deadline_is_in_seconds() -> None:
    assert "seconds since 1970, or `never` if" in commands()["deadline"].description


def test_output_and_exit_codes(cairn_here: Call, kv: Store) -> None:
    kv.set("a", b"\xff")
    said = cairn_here("append", "a", "b")
    assert (said.code, said.out) == (0, b"2\n")
    said = cairn_here("get-many", "a", "b")
    assert (said.code, said.out) == (0, b"\xffb\n(not found)\n")
    said = cairn_here("swap", "c", "1", "--if-absent", "--durability", "memory")
    assert (said.code, said.out, said.err) == (1, b"", "")
    assert kv.get("c") == b"1"
    assert cairn_here("set-many", "d", "1", "--json").out == b'{"reply": "OK"}\n'
    assert json.loads(cairn_here("append", "d", "2", "--json").out) == {"reply": 2}
    assert json.loads(cairn_here("get-with", "d", "--json").out) == {"reply": "12"}
    assert json.loads(cairn_here("get-with", "e", "--json").out) == {"reply": None}
    assert json.loads(cairn_here("--json", "get-many", "d", "a", "e").out) == {
        "replies": [{"value": "12"}, {"value_b64": "/2I="}, None]
    }
    said = cairn_here("incr-float", "a", "1")
    assert (said.code, said.out, said.err.count("\n")) == (2, b"", 1)


@given(
    words=st.lists(
        st.sampled_from(["--ttl", "--at", "5", "-5s", "a", "--", "-", "--json", "--db=1", ""]) | st.text(max_size=9)
    ),
    name=st.sampled_from(sorted(commands())),
)
def test_no_arguments_crash_the_parser(name: str, words: list[str]) -> None:
    with contextlib.suppress(CallerError):
        parsed(shlex.join([name, *(word for word in words if word not in ("-h", "--help"))]))

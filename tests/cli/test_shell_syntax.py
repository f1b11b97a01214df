"""The shell's syntax: it accepts every command of the registry, and refuses everything else with the usage."""

import re
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.cli import shell_syntax
from cairnkv.cli.shell_syntax import NotUnderstood, Statement
from cairnkv.commands import (
    BY_NAME,
    MISSING,
    OK,
    Clear,
    ClearPrefix,
    Command,
    Copy,
    Count,
    Deadline,
    Exists,
    Expire,
    ExpireWith,
    Get,
    GetMany,
    GetWith,
    Incr,
    IncrFloat,
    Info,
    Items,
    Ping,
    Reply,
    Scan,
    Set,
    SetBit,
    SetMany,
    SetRange,
    SetWith,
    Swap,
    Ttl,
)
from cairnkv.commands.grammar import Kind, Place
from cairnkv.commands.vocabulary import (
    AMOUNT,
    COUNT,
    CURSOR,
    MILLISECONDS,
    MILLISECONDS_OR_NONE,
    NO_TTL,
    PREFIX,
    TEXT,
    TIME,
    UNIX_MILLISECONDS,
)
from cairnkv.limits import SCAN_COUNT
from tests.support.strategies import Kinds, commands


def said(line: str) -> Statement:
    return shell_syntax.statement(shell_syntax.split(line))


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("get greeting", Get(b"greeting")),
        ("GET greeting", Get(b"greeting")),
        ("  get 'two words'  ", Get(b"two words")),
        ("get clé", Get("clé".encode())),
        ("get clear", Get(b"clear")),
        ("get k clear", GetWith(b"k", clear=True)),
        ("get k TTL=1m", GetWith(b"k", ttl=60_000)),
        ("set a b", Set(b"a", b"b")),
        ("set a ''", Set(b"a", b"")),
        ("set a ttl=5s", Set(b"a", b"ttl=5s")),
        ("set a b ttl=500ms", SetWith(b"a", b"b", ttl=500)),
        ("set a b ttl=1.5 ifabsent", SetWith(b"a", b"b", ttl=1_500, if_absent=True)),
        ("set a b if_absent", SetWith(b"a", b"b", if_absent=True)),
        ("set a b ifequals=", SetWith(b"a", b"b", if_equals=b"")),
        ("set a b 'ifequals=x = y' keepttl", SetWith(b"a", b"b", if_equals=b"x = y", keep_ttl=True)),
        ("set_with a b", SetWith(b"a", b"b")),
        ("swap a b ifpresent", Swap(b"a", b"b", if_present=True)),
        ("clear a", Clear(b"a")),
        ("exists a b", Exists((b"a", b"b"))),
        ("get_many a ttl=5", GetMany((b"a", b"ttl=5"))),
        ("get-many a", GetMany((b"a",))),
        ("set_many a 1 b 2", SetMany(0, ((b"a", b"1"), (b"b", b"2")))),
        ("set_many ttl=2s a 1", SetMany(2_000, ((b"a", b"1"),))),
        ("set_many ttl 1", SetMany(0, ((b"ttl", b"1"),))),
        ("incr n", Incr(b"n", 1)),
        ("incr n -5", Incr(b"n", -5)),
        ("incr n n=7", Incr(b"n", 7)),
        ("set a b at=1767225600", SetWith(b"a", b"b", at=1_767_225_600_000)),
        ("get a at=1767225600500ms", GetWith(b"a", at=1_767_225_600_500)),
        ("expire a 30s", Expire(b"a", 30_000)),
        ("expire a 30s ifnone", ExpireWith(b"a", 30_000, if_none=True)),
        ("expire a 1767225600 at iflater", ExpireWith(b"a", 1_767_225_600_000, at=True, if_later=True)),
        ("expire_with a -30s", ExpireWith(b"a", -30_000)),
        ("set_range a 5 b", SetRange(b"a", 5, b"b")),
        ("set_bit a 5 1", SetBit(b"a", 5, 1)),
        ("incr_float a 0.5", IncrFloat(b"a", b"0.5")),
        ("copy a b space=2 replace", Copy(b"a", b"b", db=2, replace=True)),
        ("deadline a", Deadline(b"a")),
        ("ttl a", Ttl(b"a")),
        ("ping", Ping(b"")),
        ("ping hello", Ping(b"hello")),
        ("count", Count()),
        ("scan cursor=5 count=10 a", Scan(5, 10, b"a")),
        ("scan a cursor=0", Scan(0, SCAN_COUNT, b"a")),
        ("scan prefix=count=5 cursor=0", Scan(0, SCAN_COUNT, b"count=5")),
        ("clear_prefix a cursor=7", ClearPrefix(b"a", 7)),
        ("info", Info()),
    ],
)
def test_lines_become_commands(line: str, command: Command):
    assert said(line) == Statement(command)


@pytest.mark.parametrize(
    ("line", "command"), [("scan", Scan(0, SCAN_COUNT, b"")), ("clear_prefix a", ClearPrefix(b"a", 0))]
)
def test_scan_without_a_cursor_scans_everything(line: str, command: Command):
    assert said(line) == Statement(command, slices=True)


@pytest.mark.parametrize("line", ["", "   ", "# set a b", "  #"])
def test_empty_lines_and_comments_are_ignored(line: str):
    assert shell_syntax.split(line) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("gte a", "did you mean 'get'?"),
        ("frobnicate", "`help` lists the commands"),
        ("get", "too few arguments; get key"),
        ("get a b", "'b' is one argument too many"),
        ("get 'a", "no closing quotation"),
        ("get ''", "a key has 1 to 65,535 bytes"),
        ("set a b ttl=soon", "ttl takes a time such as 30s"),
        ("set a b ttl=0", "set: TIME is from 1ms to "),
        ("set a b ttl=1 ttl=2", "ttl stands there twice"),
        ("set a b ttl", "one argument too many"),
        ("set a b ifabsent=1", "one argument too many"),
        ("set a b tll=5", "no option; did you mean 'ttl='?"),
        ("set a b ifabsnt", "no option; did you mean 'ifabsent'?"),
        ("set a b ttl=1 keepttl", "TTL and KEEPTTL exclude each other"),
        ("set_many a", "group of key value is incomplete"),
        ("set_many", "too few"),
        ("exists", "too few"),
        ("set a b at=-5s", "at takes a time such as 30s"),
        ("expire a -5s", "expire: TIME is from 1ms to "),
        ("expire a 5s ifnone ifsome", "IFNONE and IFSOME exclude each other"),
        ("set_bit a 0 2", "bit is a decimal number from 0 to 1"),
        ("incr_float a", "too few arguments"),
        ("copy a b space=16", "database is a decimal number from 0 to 15"),
        ("incr a x", "n is a decimal number"),
        ("scan count=0", "count is a decimal number from 1"),
        ("clear_prefix", "too few arguments"),
        ("count all", "one argument too many"),
    ],
)
def test_wrong_lines_give_the_reason_and_the_usage(line: str, why: str):
    with pytest.raises(NotUnderstood) as refused:
        said(line)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


TIMES = st.integers(1, 999_999_999)
"""Times in milliseconds as they are typed."""


@given(
    command=commands(
        kinds=Kinds(
            {
                MILLISECONDS: TIMES,
                MILLISECONDS_OR_NONE: st.just(NO_TTL) | TIMES,
                TIME: st.integers(-999_999_999, 999_999_999) | st.just(9_999_999_999_999),
                UNIX_MILLISECONDS: TIMES | st.just(9_999_999_999_999),
            }
        )
    )
)
def test_every_command_is_accepted_with_every_option(command: Command):
    assert said(typed(command)).command == command


def typed(command: Command) -> str:
    """A line that means a command, by the rules of the language alone."""
    positional, named = [command.spec.name.lower()], []
    for name, slot in command.spec.fields:
        value = getattr(command, name)
        match slot.place:
            case Place.REST:
                groups = value if len(slot.kinds) > 1 else [(part,) for part in value]
                positional += [
                    typed_as(kind, part) for group in groups for kind, part in zip(slot.kinds, group, strict=True)
                ]
            case Place.SWITCH:
                named += [name] if value else []
            case Place.OPTION:
                named += [f"{name}={typed_as(slot.kinds[0], value)}"] if value is not None else []
            case Place.ARGUMENT if slot.kinds[0] in MAY_BE_LEFT_OUT and (name, command.spec.writes) != ("prefix", True):
                named.append(f"{name}={typed_as(slot.kinds[0], value)}")
            case Place.ARGUMENT:
                positional.append(typed_as(slot.kinds[0], value))
    if any(slot.place is Place.REST for _, slot in command.spec.fields):
        return shlex.join([positional[0], *named, *positional[1:]])
    return shlex.join([*positional, *named])


MAY_BE_LEFT_OUT = (PREFIX, TEXT, AMOUNT, CURSOR, COUNT, MILLISECONDS_OR_NONE)


def typed_as(kind: Kind, value: Any) -> str:
    text = kind.write(value).decode("utf-8", "surrogateescape")
    return f"{text}ms" if kind in (MILLISECONDS, MILLISECONDS_OR_NONE, TIME, UNIX_MILLISECONDS) else text


@given(line=st.text(max_size=60) | st.lists(st.sampled_from([*shell_syntax.names(), "ttl=5", "a", "'"])).map(" ".join))
def test_no_line_crashes_the_parser(line: str):
    try:
        words = shell_syntax.split(line)
        if words:
            shell_syntax.statement(words)
    except NotUnderstood:
        pass


def test_help_covers_the_registry():
    overview = shell_syntax.overview()
    for name in shell_syntax.names():
        word = shell_syntax.spec_of(name)
        assert f"  {shell_syntax.usage(word)}\n" in overview
        assert shell_syntax.explain(word).startswith(f"{shell_syntax.usage(word)}\n")
    with_options = {"SET_WITH", "GET_WITH", "EXPIRE_WITH"}
    assert set(shell_syntax.names()) == {name.lower() for name in BY_NAME if name not in with_options}
    assert "SET_WITH, number 16" in shell_syntax.explain(shell_syntax.spec_of("set"))


@pytest.mark.parametrize(
    ("command", "reply", "lines"),
    [
        (Set(b"a", b"b"), OK, ["OK"]),
        (Get(b"a"), MISSING, ["(not found)"]),
        (Get(b"a"), b"b", [b"b"]),
        (Incr(b"a", 1), -4, ["-4"]),
        (Ttl(b"a"), -1, ["never"]),
        (Ttl(b"a"), 1_500, ["1.500"]),
        (Deadline(b"a"), -1, ["never"]),
        (Deadline(b"a"), 1_767_225_600_500, ["1767225600.500"]),
        (GetMany((b"a", b"b")), Items((b"x", None)), [b"x", "(not found)"]),
        (Scan(0, 1, b""), Items(()), []),
        (Info(), Items((b"keys", b"3")), ["keys: 3"]),
    ],
)
def test_replies_are_printed(command: Command, reply: Reply, lines: list[bytes | str]):
    assert list(shell_syntax.lines(command, reply)) == lines


@pytest.mark.parametrize("name", shell_syntax.names())
def test_help_describes_the_shell_form_of_a_command(name: str):
    text = shell_syntax.explain(shell_syntax.spec_of(name))
    assert "millisecond" not in text
    assert "`MISSING`" not in text
    assert ("TIME" in shell_syntax.usage(shell_syntax.spec_of(name))) == (shell_syntax.TIME_HELP in text)


@pytest.mark.parametrize("name", ["ttl", "deadline"])
def test_help_documents_that_times_are_shown_in_seconds(name: str):
    assert re.search(r"seconds .*`never` if", shell_syntax.explain(shell_syntax.spec_of(name)))

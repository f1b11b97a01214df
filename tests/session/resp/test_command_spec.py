"""Declarations of Redis commands: safe defaults, and refusals of declarations that do not fit."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from cairnkv.commands import Get
from cairnkv.session.access.categories import categories
from cairnkv.session.resp import command_spec
from cairnkv.session.resp.command_spec import RESP_COMMANDS, Arguments, Call, on_keys
from cairnkv.session.resp.commands.replies import value_or_null


def get_number(arguments: Arguments) -> Call:
    """Return a number."""
    return Call(Get(arguments.key()), value_or_null)


@pytest.fixture
def undeclared() -> Iterator[None]:
    """Remove the commands that a test declares."""
    before = dict(RESP_COMMANDS)
    yield
    RESP_COMMANDS.clear()
    RESP_COMMANDS.update(before)


@pytest.mark.usefixtures("undeclared")
def test_a_command_without_flags_may_write_and_needs_memory() -> None:
    on_keys("GETNUMBER key", group="string", since="0.0.0")(get_number)
    spec = RESP_COMMANDS[b"GETNUMBER"]
    assert spec.flags == {"write", "denyoom"}
    assert "write" in categories(spec)
    assert (spec.arity, spec.keys) == (2, (1, 1, 1))
    assert spec.summary == "Return a number."


@pytest.mark.parametrize(
    ("syntax", "flags", "error"),
    [("GETNUMBER key", "readonly quick", "GETNUMBER key: there is no flag quick"), ("GET key", "write", "get is decl")],
)
def test_an_unknown_flag_and_a_taken_name_are_refused(syntax: str, flags: str, error: str) -> None:
    before = dict(RESP_COMMANDS)
    with pytest.raises(ValueError, match=error):
        on_keys(syntax, flags, group="string", since="0.0.0")(get_number)
    assert before == RESP_COMMANDS


@pytest.mark.parametrize(
    ("name", "category"),
    [
        (b"GET", "read"),
        (b"SET", "write"),
        (b"GETDEL", "write"),
        (b"SHUTDOWN", "admin"),
        (b"BGSAVE", "admin"),
        (b"PING", None),
        (b"HELLO", None),
    ],
)
def test_category_of_rights(name: bytes, category: str | None) -> None:
    found = {"read", "write", "admin"}.intersection(categories(RESP_COMMANDS[name]))
    assert found == ({category} if category else set())


def test_summaries_survive_python_without_docstrings() -> None:
    code = (
        "import cairnkv.session; from cairnkv.session.resp.command_spec import every_spec;"
        " print([(spec.name, spec.summary) for spec in every_spec()])"
    )
    told = [
        subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, check=True, timeout=60).stdout
        for flags in ([], ["-OO"])
    ]
    assert told[0] == told[1]
    assert all(spec.summary.endswith(".") for spec in command_spec.every_spec())

"""The entry: help, exit codes, and errors in one line."""

import pytest

from cairnkv.cli.main import ERROR, FOUND, NOT_FOUND, SUBCOMMANDS
from cairnkv.version import VERSION
from tests.cli.conftest import Call, cairn_process


def test_the_exit_codes_are_those_of_the_contract():
    assert (FOUND, NOT_FOUND, ERROR) == (0, 1, 2)


def test_without_a_command_it_says_which_there_are(cairn_here: Call):
    said = cairn_here()
    assert said.code == 2
    assert said.out == b""
    assert all(f"  {name} " in said.err for name in SUBCOMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(cairn_here: Call, arguments: list[str]):
    said = cairn_here(*arguments)
    assert said.code == 0
    assert all(f"  {name} " in said.out.decode() for name in SUBCOMMANDS)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_explains_itself(cairn_here: Call, name: str):
    said = cairn_here(name, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: cairn {name} ".encode())
    assert f"examples:\n  cairn {name}" in said.out.decode()
    assert cairn_here("help", name) == said


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_wrong_arguments_are_said_in_one_line(cairn_here: Call, name: str):
    said = cairn_here(name, "--no-such-option")
    assert (said.code, said.out) == (2, b"")
    assert said.err.startswith(f"cairn: {name}: ")
    assert said.err.count("\n") == 1


def test_an_unknown_command_is_an_error(cairn_here: Call):
    said = cairn_here("fetch")
    assert said.code == 2
    assert said.err.startswith("cairn: there is no command 'fetch'; there are serve, get")


@pytest.mark.parametrize("argument", ["--version", "version", "-V"])
def test_version(cairn_here: Call, argument: str):
    assert cairn_here(argument).out == f"cairnkv {VERSION}\n".encode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "k"],
        ["set", "k", "v"],
        ["clear", "k"],
        ["scan"],
        ["count"],
        ["ping"],
        ["incr", "k"],
        ["ttl", "k"],
        ["info"],
        ["export", "-"],
    ],
)
def test_no_server_is_one_line_and_exit_code_2(cairn_here: Call, arguments: list[str], unused_url: str):
    said = cairn_here(*arguments, "--url", unused_url)
    assert said.code == 2
    assert said.out == b""
    assert said.err.startswith("cairn: ")
    assert "cannot connect to 127.0.0.1:" in said.err
    assert said.err.count("\n") == 1


def test_an_address_that_cannot_be_understood_is_an_error(cairn_here: Call):
    said = cairn_here("get", "k", "--url", "localhost:6555")
    assert said.code == 2
    assert "cairn://localhost:6555" in said.err


def test_the_module_is_the_command(url: str):
    assert cairn_process("set", "greeting", "hello").out == b"OK\n"
    assert cairn_process("get", "greeting").out == b"hello\n"
    missing = cairn_process("get", "nothing")
    assert (missing.code, missing.out, missing.err) == (1, b"", "")
    assert cairn_process("get", "").code == 2

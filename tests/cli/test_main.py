"""The entry: help, exit codes, and errors in one line."""

import pytest

from cairnkv.cli.main import ERROR, FOUND, NOT_FOUND, SUBCOMMANDS
from cairnkv.version import VERSION
from tests.cli.conftest import Call, cairn_process


def test_exit_codes_are_documented() -> None:
    assert (FOUND, NOT_FOUND, ERROR) == (0, 1, 2)


def test_cairn_without_a_command_lists_the_commands(cairn_here: Call) -> None:
    said = cairn_here()
    assert said.code == 2
    assert said.out == b""
    assert all(f"  {name} " in said.err for name in SUBCOMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(cairn_here: Call, arguments: list[str]) -> None:
    said = cairn_here(*arguments)
    assert said.code == 0
    assert all(f"  {name} " in said.out.decode() for name in SUBCOMMANDS)


def test_help_lists_the_commands_of_the_registry(cairn_here: Call) -> None:
    assert "  append              append a string to the value of a key\n" in cairn_here("--help").out.decode()
    assert cairn_here("help", "append") == cairn_here("append", "--help")
    assert "did you mean 'append'?" in cairn_here("apend").err


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_has_a_help_text(cairn_here: Call, name: str) -> None:
    said = cairn_here(name, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: cairn {name} ".encode())
    assert f"examples:\n  cairn {name}" in said.out.decode()
    assert cairn_here("help", name) == said


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_wrong_arguments_are_an_error_of_one_line(cairn_here: Call, name: str) -> None:
    said = cairn_here(name, "--no-such-option")
    assert (said.code, said.out) == (2, b"")
    assert said.err.startswith(f"cairn: {name}: ")
    assert said.err.count("\n") == 1


def test_an_unknown_command_is_an_error(cairn_here: Call) -> None:
    said = cairn_here("fetch")
    assert said.code == 2
    assert said.err.startswith("cairn: there is no command 'fetch'; use one of serve, get")


@pytest.mark.parametrize(
    ("typed", "meant"), [("gte", "get"), ("exprot", "export"), ("clustr", "cluster"), ("incrr", "incr")]
)
@pytest.mark.parametrize("before", [[], ["help"], ["--json"]])
def test_misspelt_command_gets_a_suggestion(cairn_here: Call, typed: str, meant: str, before: list[str]) -> None:
    said = cairn_here(*before, typed)
    assert (said.code, said.out) == (2, b"")
    assert said.err.startswith(f"cairn: there is no command {typed!r}; did you mean {meant!r}?; use one of serve, get")


@pytest.mark.parametrize(
    ("arguments", "typed", "meant"),
    [
        (["get", "--rwa", "k"], "--rwa", "--raw"),
        (["set", "k", "v", "--if-absnt"], "--if-absnt", "--if-absent"),
        (["set", "--tll=5s", "k", "v"], "--tll", "--ttl"),
        (["get", "--ulr", "cairn://127.0.0.1:1", "k"], "--ulr", "--url"),
        (["get", "--jsn"], "--jsn", "--json"),
        (["serve", "--memroy-limit", "1GiB"], "--memroy-limit", "--memory-limit"),
        (["cluster", "status", "--dri", "x"], "--dri", "--dir"),
        (["--jsno", "get", "k"], "--jsno", "--json"),
    ],
)
def test_misspelt_option_gets_a_suggestion(cairn_here: Call, arguments: list[str], typed: str, meant: str) -> None:
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert f"there is no option {typed!r}" in said.err
    assert f"did you mean {meant!r}?" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [(["cluster", "stauts"], "status"), (["set", "k", "v", "--durability", "memry"], "memory")],
)
def test_misspelt_choice_gets_a_suggestion(cairn_here: Call, arguments: list[str], meant: str) -> None:
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert f"there is no {arguments[-1]!r}; did you mean {meant!r}?" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "{url}", "get", "k"],
        ["--url={url}", "get", "k"],
        ["--timeout", "5s", "--url", "{url}", "get", "k"],
        ["--url", "{url}", "get", "--", "k"],
        ["--url", "cairn://127.0.0.1:1", "get", "k", "--url", "{url}"],
        ["get", "--url", "{url}", "k"],
    ],
)
def test_options_may_stand_before_the_command(
    cairn_here: Call, url: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cairn_here("set", "k", "v").code == 0
    monkeypatch.setenv("CAIRNKV_URL", "cairn://127.0.0.1:1")
    said = cairn_here(*(argument.format(url=url) for argument in arguments))
    assert (said.code, said.out) == (0, b"v\n"), said.err


@pytest.mark.parametrize("arguments", [["get", "k"], ["set", "k", "v"], ["ping"], ["shell"], ["trace"]])
def test_variable_with_two_underscores_is_refused(
    cairn_here: Call, url: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAIRNKV_URL", url)
    monkeypatch.setenv("CAIRNKV__URL", "cairn://127.0.0.1:1")
    assert cairn_here("get", "k").code == 1, "CAIRNKV_URL wins"
    monkeypatch.delenv("CAIRNKV_URL")
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert "the variable of clients is CAIRNKV_URL, with one underscore" in said.err


def test_json_option_works_before_the_command(cairn_here: Call, url: str) -> None:
    assert cairn_here("set", "k", "v").code == 0
    assert cairn_here("--json", "get", "k").out == cairn_here("get", "k", "--json").out != b"v\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--raw", "get", "k"], "there is no option '--raw' before a command; use one of --url, --timeout, --json"),
        (["--url", "get"], "the command after --url is missing"),
        (["--url"], "the command after --url is missing"),
        (["--json"], "the command after --json is missing"),
        (["--url", "x", "serve"], "serve: there is no option '--url'"),
    ],
)
def test_wrong_options_before_the_command_are_refused(cairn_here: Call, arguments: list[str], text: str) -> None:
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert said.err.startswith(f"cairn: {text}")


@pytest.mark.parametrize("arguments", [["--url", "x", "--help"], ["--json", "-h"], ["--json", "help"]])
def test_help_after_options_lists_the_commands(cairn_here: Call, arguments: list[str]) -> None:
    assert cairn_here(*arguments).out == cairn_here("--help").out


@pytest.mark.parametrize("argument", ["--version", "version", "-V"])
def test_version_is_printed(cairn_here: Call, argument: str) -> None:
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
def test_no_server_is_one_line_and_exit_code_2(cairn_here: Call, arguments: list[str], unused_url: str) -> None:
    said = cairn_here(*arguments, "--url", unused_url)
    assert said.code == 2
    assert said.out == b""
    assert said.err.startswith("cairn: ")
    assert "cannot connect to 127.0.0.1:" in said.err
    assert said.err.count("\n") == 1


def test_malformed_address_is_an_error(cairn_here: Call) -> None:
    said = cairn_here("get", "k", "--url", "localhost:6555")
    assert said.code == 2
    assert "cairn://localhost:6555" in said.err


def test_python_m_cairnkv_runs_cairn(url: str) -> None:
    assert cairn_process("set", "greeting", "hello").out == b"OK\n"
    assert cairn_process("get", "greeting").out == b"hello\n"
    missing = cairn_process("get", "nothing")
    assert (missing.code, missing.out, missing.err) == (1, b"", "")
    assert cairn_process("get", "").code == 2

"""The subcommands for keys: their output, their effect on the store and their exit codes."""

import json
import math
import os

import pytest

import cairnkv
from cairnkv.protocol.native import CommandFlag
from cairnkv.testing import running_server
from tests.cli.conftest import Call, Said, cairn_process
from tests.cli.terminal import Terminal
from tests.support.late_storage import LateStorage
from tests.support.scripted import Conversation, scripted

Store = cairnkv.Client[bytes, bytes]

OK = Said(0, b"OK\n", "")
NO = Said(1, b"", "")


def test_set_and_get(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("set", "greeting", "hello") == OK
    assert kv.get("greeting") == b"hello"
    assert kv.ttl("greeting") == math.inf
    assert cairn_here("get", "greeting") == Said(0, b"hello\n", "")
    assert cairn_here("get", "--raw", "greeting") == Said(0, b"hello", "")
    assert cairn_here("get", "nothing") == NO


def test_any_bytes_pass_as_arguments(kv: Store) -> None:
    key, value = b"k\xff\xfe", b"v\x80 \xc3\xa9"
    assert cairn_process("set", key, value) == OK
    assert kv.get(key) == value
    assert cairn_process("get", key).out == value + b"\n"


def test_arguments_may_begin_with_a_dash(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("set", "--", "-k", "--ttl") == OK
    assert kv.get("-k") == b"--ttl"
    assert cairn_here("get", "--", "-k").out == b"--ttl\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["set", "--", "k", "--"], OK),
        (["set", "k", "--", "--"], OK),
        (["set", "--", "--", "v"], OK),
        (["set", "k", "--ttl", "5s", "--", "--"], OK),
        (["set", "k", "--", "-5C"], OK),
        (["get", "--", "--"], NO),
        (["exists", "--", "--"], Said(1, b"", "no\n")),
        (["set", "k", "v", "--if-equals=--"], Said(1, b"", "not stored\n")),
        (["clear", "--", "--", "k"], Said(1, b"0\n", "")),
        (["clear", "--prefix=--", "--yes"], Said(0, b"0\n", "")),
        (["incr", "--", "--", "-3"], Said(0, b"-3\n", "")),
        (["incr", "k", "-3"], Said(0, b"-3\n", "")),
    ],
)
def test_two_dashes_are_a_value_behind_two_dashes(
    cairn_here: Call, kv: Store, arguments: list[str], said: Said
) -> None:
    ran = cairn_here(*arguments)
    assert (ran.code, ran.out) == (said.code, said.out), ran.err
    if said == OK:
        key = "--" if arguments[1:3] == ["--", "--"] else "k"
        assert kv.get(key) == arguments[-1].encode()


@pytest.mark.parametrize("arguments", [["set", "temp", "-5C"], ["get", "-x"], ["set", "-x", "v"], ["exists", "-k"]])
def test_value_that_looks_like_an_option_gets_a_hint(cairn_here: Call, url: str, arguments: list[str]) -> None:
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert "write a value that begins with a dash after '--'" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("value", [b"", b"no newline", b"\x00\xff\r\n\n", os.urandom(300_000)])
def test_set_reads_the_exact_bytes_of_standard_input(cairn_here: Call, kv: Store, value: bytes) -> None:
    assert cairn_here("set", "k", "-", stdin=value) == OK
    assert kv.get("k") == value
    assert cairn_here("get", "--raw", "k").out == value


def test_set_with_ttl(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("set", "k", "v", "--ttl", "1500ms") == OK
    assert kv.ttl("k") == 1.5
    assert cairn_here("ttl", "k") == Said(0, b"1.500\n", "")
    assert cairn_here("set", "k", "w", "--keep-ttl") == OK
    assert kv.ttl("k") == 1.5
    assert cairn_here("set", "k", "w") == OK
    assert cairn_here("ttl", "k") == Said(0, b"never\n", "")
    assert cairn_here("ttl", "nothing") == NO


def test_set_with_conditions(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("set", "k", "1", "--if-present") == NO
    assert cairn_here("set", "k", "1", "--if-absent", "--ttl", "5m") == OK
    assert cairn_here("set", "k", "2", "--if-absent") == NO
    assert cairn_here("set", "k", "2", "--if-equals", "0") == NO
    assert kv.get("k") == b"1"
    assert cairn_here("set", "k", "2", "--if-equals", "1") == OK
    assert cairn_here("set", "k", "", "--if-present") == OK
    assert cairn_here("set", "k", "3", "--if-equals", "") == OK
    assert kv.get("k") == b"3"


@pytest.mark.parametrize(
    "arguments",
    [
        ["set", "k"],
        ["set", "k", "v", "w"],
        ["set", "k", "v", "--ttl", "soon"],
        ["set", "k", "v", "--ttl", "0"],
        ["set", "k", "v", "--ttl", "1s", "--keep-ttl"],
        ["set", "k", "v", "--if-absent", "--if-present"],
        ["set", "k", "v", "--durability", "disk"],
        ["set", "", "v"],
        ["set", "k" * 65_536, "v"],
        ["get"],
        ["get", ""],
        ["get", "k", "--clear", "--persist"],
        ["get", "k", "--timeout", "never"],
        ["get", "k", "--timeout", "0"],
        ["incr", "k", "x"],
        ["incr", "k", str(2**63)],
        ["expire", "k"],
        ["expire", "k", "later"],
        ["clear"],
        ["clear", "k", "--all"],
        ["clear", "k", "l", "--if-equals", "v"],
        ["clear", "--all"],
        ["clear", "--prefix", ""],
        ["exists"],
    ],
)
def test_wrong_arguments_are_one_line_and_change_nothing(cairn_here: Call, kv: Store, arguments: list[str]) -> None:
    kv.set("there", b"1")
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert said.err.startswith("cairn: ")
    assert said.err.count("\n") == 1
    assert kv.get_many(kv.scan()) == {b"there": b"1"}


def test_get_with_delete_or_expiry_options(cairn_here: Call, kv: Store) -> None:
    kv.set("k", b"v")
    assert cairn_here("get", "k", "--ttl", "30s").out == b"v\n"
    assert kv.ttl("k") == 30
    assert cairn_here("get", "k", "--persist").out == b"v\n"
    assert kv.ttl("k") == math.inf
    assert cairn_here("get", "k", "--clear").out == b"v\n"
    assert cairn_here("get", "k", "--clear") == NO


def test_clear_deletes_keys(cairn_here: Call, kv: Store) -> None:
    kv.set_many({"a": b"", "b": b"", "c": b"", "d": b"x"})
    assert cairn_here("clear", "a") == OK
    assert cairn_here("clear", "a") == OK
    assert cairn_here("clear", "a", "b", "c", "z") == Said(0, b"2\n", "")
    assert cairn_here("clear", "a", "b") == Said(1, b"0\n", "")
    assert cairn_here("clear", "d", "--if-equals", "y") == NO
    assert cairn_here("clear", "d", "--if-equals", "x") == OK
    assert kv.count() == 0


def test_clear_by_prefix_and_all(cairn_here: Call, kv: Store) -> None:
    kv.set_many({f"{letter}:{number}": b"" for letter in "ab" for number in range(50)})
    assert cairn_here("clear", "--prefix", "a:") == Said(0, b"50\n", "")
    assert set(map(bytes.decode, kv.scan())) == {f"b:{number}" for number in range(50)}
    assert cairn_here("clear", "--all", "--yes") == Said(0, b"50\n", "")
    assert kv.count() == 0


def test_clear_asks_for_confirmation_on_a_terminal(kv: Store) -> None:
    kv.set_many({"a": b"", "b": b""})
    with Terminal("clear", "--all") as terminal:
        terminal.expect(r"every key of 2 keys in the store\? \[y/N\] ")
        terminal.type("\r")
        assert terminal.wait() == 2
        assert "nothing was cleared" in terminal.screen
    assert kv.count() == 2
    with Terminal("clear", "--prefix", "a") as terminal:
        terminal.expect(r"that begin with 'a'.*\? \[y/N\] ")
        terminal.type("y\r")
        assert terminal.wait() == 0
    assert list(kv.scan()) == [b"b"]


def test_exists_incr_expire_persist(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("exists", "n") == NO
    assert cairn_here("incr", "n") == Said(0, b"1\n", "")
    assert cairn_here("incr", "n", "-5") == Said(0, b"-4\n", "")
    assert cairn_here("exists", "n") == Said(0, b"yes\n", "")
    assert cairn_here("expire", "n", "2m") == OK
    assert kv.ttl("n") == 120
    assert cairn_here("persist", "n") == OK
    assert cairn_here("persist", "n") == NO
    assert cairn_here("expire", "nothing", "2m") == NO
    kv.set("text", b"abc")
    assert cairn_here("incr", "text").code == 2


def test_durability_memory_does_not_wait_for_the_commit(cairn_here: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LateStorage()
    with running_server(storage=storage) as server:
        monkeypatch.setenv("CAIRNKV_URL", server.url)
        for arguments in (["set", "k", "1"], ["incr", "k"], ["expire", "k", "1m"], ["persist", "k"], ["clear", "k"]):
            assert cairn_here(*arguments, "--durability", "memory").code == 0
        assert server.call(lambda: len(storage.pending)) == 5
        said = cairn_here("set", "k", "2", "--timeout", "100ms")
        assert (said.code, "it was executed, or it was not" in said.err) == (2, True)
        server.call(storage.commit)
        assert cairn_here("get", "k") == Said(0, b"2\n", "")


def test_any_of_several_addresses_serves(cairn_here: Call, unused_url: str, url: str, kv: Store) -> None:
    kv.set("k", b"v")
    hosts = ",".join(address.removeprefix("cairn://") for address in (unused_url, url))
    for arguments in (["get", "k"], ["set", "k", "w"], ["exists", "k"]):
        assert cairn_here(*arguments, "--url", f"cairn://{hosts}/?order=given").code == 0
    said = cairn_here("get", "k", "--url", f"{unused_url},{url.removeprefix('cairn://')}:x")
    assert (said.code, "is no HOST or HOST:PORT" in said.err) == (2, True)
    said = cairn_here("get", "k", "--url", f"{unused_url},[::1]:1", "--timeout", "1s")
    assert said.code == 2
    assert unused_url.removeprefix("cairn://") in said.err
    assert "[::1]:1: " in said.err


def test_local_read_is_answered_by_the_asked_node(cairn_here: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[int] = []

    def answer(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            flags.append(request.flags)
            conversation.say(b"old")

    with scripted(answer) as server:
        monkeypatch.setenv("CAIRNKV_URL", server.url)
        for arguments in (["--local"], ["--local", "--timeout", "5s"], []):
            assert cairn_here("get", "k", *arguments) == Said(0, b"old\n", "")
        for more in (["--clear"], ["--ttl", "1s"], ["--persist"]):
            said = cairn_here("get", "k", "--local", *more)
            assert (said.code, "--local reads only" in said.err) == (2, True)
    assert flags == [CommandFlag.LOCAL_READ, CommandFlag.LOCAL_READ, 0]


@pytest.mark.parametrize(
    ("arguments", "code", "answer"),
    [
        (["get", "k"], 0, {"key": "k", "found": True, "value": "v"}),
        (["get", "none"], 1, {"key": "none", "found": False}),
        (["get", "binary"], 0, {"key": "binary", "found": True, "value_b64": "/w=="}),
        (["set", "k", "w"], 0, {"key": "k", "stored": True}),
        (["set", "k", "w", "--if-absent"], 1, {"key": "k", "stored": False}),
        (["exists", "k"], 0, {"key": "k", "found": True}),
        (["exists", "none"], 1, {"key": "none", "found": False}),
        (["incr", "n", "4"], 0, {"key": "n", "value": 4}),
        (["ttl", "k"], 0, {"key": "k", "found": True, "ttl": 90.0}),
        (["ttl", "binary"], 0, {"key": "binary", "found": True, "ttl": None}),
        (["ttl", "none"], 1, {"key": "none", "found": False}),
        (["expire", "k", "1s"], 0, {"key": "k", "found": True}),
        (["persist", "k"], 0, {"key": "k", "changed": True}),
        (["clear", "k", "none"], 0, {"cleared": 1}),
        (["clear", "--all", "--yes"], 0, {"cleared": 2}),
        (["clear", "k", "--if-equals", "x"], 1, {"key": "k", "cleared": False}),
    ],
)
def test_json_output(cairn_here: Call, kv: Store, arguments: list[str], code: int, answer: dict[str, object]) -> None:
    kv.set("k", b"v", ttl=90)
    kv.set("binary", b"\xff")
    said = cairn_here(*arguments, "--json")
    assert (said.code, json.loads(said.out), said.err) == (code, answer, "")


def test_commands_work_with_a_server_of_four_byte_numbers(cairn_here: Call) -> None:
    with running_server(command_width="4") as server:
        assert cairn_here("set", "greeting", "hello", "--url", server.url) == OK
        assert cairn_here("get", "greeting", "--url", server.url) == Said(0, b"hello\n", "")
        assert cairn_here("get", "nothing", "--url", server.url) == NO
        assert cairn_here("scan", "--url", server.url).out == b"greeting\n"

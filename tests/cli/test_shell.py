"""The shell: scripts through a pipe, and dialogues on a terminal."""

import contextlib
import io
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.application import create_app_session
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import DummyOutput

import cairnkv
from cairnkv.cli.main import SUBCOMMANDS
from cairnkv.cli.shell import (
    TYPED_AT_ONCE,
    _pasted,
    _session,
    completions,
    help_text,
    run_line,
    split,
    subcommand,
    subcommands,
    summaries,
)
from cairnkv.client.calls import Call as ClientCall
from cairnkv.client.calls import T
from cairnkv.client.codec import Bytes
from cairnkv.client.embedded import Embedded
from cairnkv.commands import (
    Append,
    Clear,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Count,
    Exists,
    Expire,
    Get,
    GetMany,
    GetWith,
    Incr,
    Info,
    Persist,
    Ping,
    Scan,
    Set,
    SetWith,
    Ttl,
)
from cairnkv.errors import CairnError, CallerError
from cairnkv.limits import SCAN_COUNT
from cairnkv.store import LocalStore
from tests.cli.conftest import Call, cairn_process
from tests.cli.terminal import Terminal

Store = cairnkv.Client[bytes, bytes]


def test_script_runs_through_a_pipe(url: str) -> None:
    said = cairn_process("shell", stdin=b"set a 1\nget a\n\n# nothing\nincr a 41\nget b\n")
    assert said.code == 0
    assert said.out == b"OK\n1\n42\n(not found)\n"
    assert said.err == ""


def test_error_sets_the_exit_code_and_the_script_continues(cairn_here: Call, kv: Store) -> None:
    said = cairn_here("shell", stdin=b"set a x\nfrob\nincr a\nget a")
    assert said.code == 2
    assert said.out == b"OK\nx\n"
    first, second = said.err.splitlines()
    assert first == "cairn: line 2: there is no command 'frob'; `help` lists the commands"
    assert second.startswith("cairn: line 3: NOTINT ")


@pytest.mark.parametrize("leave", [b"exit", b"quit", b"EXIT"])
def test_script_may_exit(cairn_here: Call, kv: Store, leave: bytes) -> None:
    assert cairn_here("shell", stdin=b"set a 1\n" + leave + b"\nset a 2\n").code == 0
    assert kv.get("a") == b"1"


def test_values_pass_through_a_pipe_unchanged(cairn_here: Call, kv: Store) -> None:
    kv.set("k", b"\x00\xff\x1b[0m")
    assert cairn_here("shell", stdin=b"get k\nget_many k z\n").out == b"\x00\xff\x1b[0m\n" * 2 + b"(not found)\n"
    assert cairn_here("shell", stdin=b"set '\xff' \xfe\n").out == b"OK\n"
    assert kv.get(b"\xff") == b"\xfe"


def test_scan_and_clear_by_prefix_run_to_the_end(cairn_here: Call, kv: Store) -> None:
    names = {f"a:{number}".encode() for number in range(3_000)}
    kv.set_many(dict.fromkeys(names, b""))
    kv.set("b", b"")
    assert set(cairn_here("shell", stdin=b"scan a:").out.splitlines()) == names
    assert cairn_here("shell", stdin=b"clear --prefix a:").out == b"3000\n"
    assert list(kv.scan()) == [b"b"]


def test_help_lists_commands(cairn_here: Call, url: str) -> None:
    assert cairn_here("shell", stdin=b"help").out.decode() == help_text(None) + "\n"
    assert cairn_here("shell", stdin=b"help set").out.startswith(b"usage: set [-h] [--json] [--ttl TIME | --keep-ttl]")
    assert cairn_here("shell", stdin=b"set --help\nhelp SET").out == cairn_here("shell", stdin=b"help set").out * 2
    assert cairn_here("shell", stdin=b"help frob").code == 2


def test_queues(cairn_here: Call, kv: Store) -> None:
    script = b"queue put q 'a b' --priority 1\nQUEUE PUT q c\nqueue take q --ack\nqueue peek q\nqueue stats none"
    said = cairn_here("shell", stdin=script)
    assert (said.code, said.out) == (2, b"2\n3\na b\n3\tc\n")
    assert said.err.startswith("cairn: line 5: NOQUEUE ")
    assert kv.queue("q").stats()["ready"] == 1


def test_queue_names_its_actions(cairn_here: Call, url: str) -> None:
    listed = cairn_here("shell", stdin=b"help queue").out.decode()
    assert listed.startswith("  queue put ")
    assert "get" not in listed.split()[:3]
    assert cairn_here("shell", stdin=b"help queue put").out.startswith(b"usage: queue put [-h] [--json]")
    said = cairn_here("shell", stdin=b"queue\nqueue frob\nqueue work q -- true\nqueue put q --lines")
    first, second, third, fourth = said.err.splitlines()
    assert first.startswith("cairn: line 1: queue: name an action: put, take, ")
    assert second.startswith("cairn: line 2: there is no command 'queue frob'")
    assert third.startswith("cairn: line 3: there is no command 'queue work'")
    assert fourth.startswith("cairn: line 4: queue put: the shell itself reads standard input")


def test_every_line_fails_without_a_server(cairn_here: Call, unused_url: str) -> None:
    said = cairn_here("shell", "--url", unused_url, stdin=b"get a\nget b\n")
    assert said.code == 2
    assert [line[:14] for line in said.err.splitlines()] == ["cairn: line 1:", "cairn: line 2:"]


@pytest.mark.parametrize(
    ("before", "some"),
    [
        ([], {"get", "set", "set-many", "help", "exit"}),
        (["help"], {"get", "append"}),
        (["set"], {"--ttl", "--if-absent", "--if-equals", "--keep-ttl"}),
        (["swap"], {"--ttl", "--if-absent", "--if-equals", "--keep-ttl", "--at"}),
        (["get", "--clear"], {"--ttl", "--persist"}),
        (["queue"], {"put", "take", "stats"}),
        (["queue", "put"], {"--delay", "--priority", "--unique"}),
        (["help", "queue"], {"put"}),
        (["frob"], set()),
    ],
)
def test_completions_come_from_the_registry(before: list[str], some: set[str]) -> None:
    found = {text for text, _ in completions(before)}
    assert some <= found
    assert bool(some) == bool(found)
    assert not found & {*before, "--help", "--url"}


def test_dialogue_on_a_terminal(url: str, tmp_path: Path) -> None:
    with Terminal("shell", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.expect(r"`help` lists the commands.*cairn>")
        terminal.type("set greeting 'hello world'\r")
        terminal.expect("OK.*cairn>")
        terminal.type("get greeting\r")
        terminal.expect("hello world\r.*cairn>")
        terminal.type("incr greeting\r")
        terminal.expect("NOTINT.*cairn>")
        terminal.type("set b '\r")
        terminal.expect("no closing quotation.*cairn>")
        terminal.type("forget this\x03")  # Ctrl-C gives up the line
        terminal.expect("cairn>")
        terminal.type("exis\t")
        terminal.expect("exis.*ts")
        terminal.type(" greeting\r")
        terminal.expect("yes.*cairn>")
        terminal.type("\x04")  # Ctrl-D
        assert terminal.wait() == 0
    history = tmp_path / "cairnkv" / "history"
    assert "+set greeting 'hello world'\n" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700

    with Terminal("shell", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.expect("cairn>")
        terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A\r")  # four lines up
        terminal.expect("hello world\r")
        terminal.type("exit\r")
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("clear --all", "Clear every key of 2 keys"),
        ("clear --prefix a", "begin with 'a'"),
        ("clear --prefix ''", "every key"),
    ],
)
def test_clear_of_many_keys_asks_for_confirmation_on_a_terminal(
    kv: Store, tmp_path: Path, line: str, question: str
) -> None:
    kv.set_many({"a": b"1", "b": b"2"})
    with Terminal("shell", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.expect("cairn>")
        terminal.type(f"{line}\r")
        terminal.expect(question)
        terminal.type("\r")
        terminal.expect("nothing was cleared.*cairn>")
        assert kv.count() == 2
        terminal.type(f"{line}\r")
        terminal.expect(question)
        terminal.type("y\r")
        terminal.expect("cairn>")
        terminal.type("exit\r")
        assert terminal.wait() == 0
    assert kv.get("a") is None
    assert "+y\n" not in (tmp_path / "cairnkv" / "history").read_text()


@pytest.mark.parametrize("line", [b"clear --all --yes", b"clear --prefix '' --yes"])
def test_script_clears_many_keys_without_confirmation(cairn_here: Call, kv: Store, line: bytes) -> None:
    kv.set_many({"a": b"1", "b": b"2"})
    assert cairn_here("shell", stdin=line).code == 0
    assert kv.count() == 0


@pytest.mark.parametrize("line", [b"clear --all", b"clear --prefix ''"])
def test_script_that_clears_all_keys_needs_yes(cairn_here: Call, kv: Store, line: bytes) -> None:
    kv.set("a", b"1")
    said = cairn_here("shell", stdin=line)
    assert (said.code, "--yes is missing" in said.err, kv.count()) == (2, True, 1)


def test_times_are_in_seconds(cairn_here: Call, kv: Store) -> None:
    said = cairn_here("shell", stdin=b"help swap\nset k v --ttl 1500\nttl k").out.decode()
    assert "ttl: TIME until the key expires" in cairn_here("shell", stdin=b"help set_with").out.decode()
    assert "a number alone is in seconds" in said
    assert said.splitlines()[-1] == "1500.000"


def test_negative_answers_are_lines(cairn_here: Call, kv: Store) -> None:
    script = b"set a 1 --if-present\nexists a\nttl a\nexpire a 1m\npersist a\nswap a 2\nclear b --if-equals 1"
    said = cairn_here("shell", stdin=script)
    assert (said.code, said.err) == (0, "")
    assert said.out.decode().splitlines() == [
        "(not stored)",
        "(no)",
        "(not found)",
        "(not found)",
        "(had no TTL, or does not exist)",
        "(not found)",
        "(not cleared)",
    ]


def test_a_dash_is_a_value(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("shell", stdin=b"set k -\nget k").out == b"OK\n-\n"


def test_json(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("shell", stdin=b"get k --json").out == b'{"key": "k", "found": false}\n'


# -- lines ---------------------------------------------------------------------------------------------------


class Recorded(Embedded[bytes, bytes]):
    """A store that records the commands that it executes."""

    def __init__(self) -> None:
        super().__init__(LocalStore(), Bytes(), Bytes())
        self.commands: list[Command] = []

    def _do(self, call: ClientCall[T]) -> T:
        self.commands.append(call.command)
        return super()._do(call)


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("get greeting", [Get(b"greeting")]),
        ("GET greeting", [Get(b"greeting")]),
        ("  get 'two words'  ", [Get(b"two words")]),
        ("get clé", [Get("clé".encode())]),
        ("get clear", [Get(b"clear")]),
        ("get k --clear", [GetWith(b"k", clear=True)]),
        ("get k --ttl 1m", [GetWith(b"k", ttl=60_000)]),
        ("set a b", [Set(b"a", b"b")]),
        ("set a ''", [Set(b"a", b"")]),
        ("set a ttl=5s", [Set(b"a", b"ttl=5s")]),
        ("set a -- --ttl", [Set(b"a", b"--ttl")]),
        ("set a b --ttl 500ms", [SetWith(b"a", b"b", ttl=500)]),
        ("set a b --ttl=1.5 --if-absent", [SetWith(b"a", b"b", ttl=1_500, if_absent=True)]),
        ("set a b --if-equals ''", [SetWith(b"a", b"b", if_equals=b"")]),
        ("set a b '--if-equals=x = y' --keep-ttl", [SetWith(b"a", b"b", if_equals=b"x = y", keep_ttl=True)]),
        ("clear a", [Clear(b"a")]),
        ("clear a b", [ClearMany((b"a", b"b"))]),
        ("clear a --if-equals 1", [ClearIfEquals(b"a", b"1")]),
        ("clear --prefix a", [ClearPrefix(b"a", 0)]),
        ("exists a", [Exists((b"a",))]),
        ("get-many a b", [GetMany((b"a", b"b"))]),
        ("Get_Many a b", [GetMany((b"a", b"b"))]),
        ("incr n", [Incr(b"n", 1)]),
        ("incr n -5", [Incr(b"n", -5)]),
        ("expire a 30s", [Expire(b"a", 30_000)]),
        ("persist a", [Persist(b"a")]),
        ("append a b", [Append(b"a", b"b")]),
        ("ttl a", [Ttl(b"a")]),
        ("ping", [Ping(b""), Ping(b"")]),
        ("ping hello", [Ping(b""), Ping(b"hello")]),
        ("count", [Count()]),
        ("scan", [Scan(0, SCAN_COUNT, b"")]),
        ("scan count=5", [Scan(0, SCAN_COUNT, b"count=5")]),
        ("info", [Info()]),
    ],
)
def test_lines_execute_commands(line: str, commands: list[Command]) -> None:
    kv = Recorded()
    assert run_line(kv, line)
    assert kv.commands == commands


@pytest.mark.parametrize("line", ["", "   ", "# set a b", "  #"])
def test_empty_lines_and_comments_are_ignored(line: str) -> None:
    assert split(line) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("gte a", "did you mean 'get'?"),
        ("frobnicate", "`help` lists the commands"),
        ("get", "the following arguments are required: key"),
        ("get a b", "'b' is one argument too many"),
        ("get 'a", "no closing quotation"),
        ("get ''", "a key has 1 to 65,535 bytes"),
        ("set a b --ttl soon", "argument --ttl: it takes a time such as 30s"),
        ("set a b --ttl 0", "a ttl is above 0 seconds"),
        ("set a b --ttl", "expected one argument"),
        ("set a b --tll 5", "did you mean '--ttl'?"),
        ("set a b --if-absnt", "did you mean '--if-absent'?"),
        ("set a b --ttl 1 --keep-ttl", "not allowed with argument --ttl"),
        ("set a b --url cairn://other", "there is no option '--url'"),
        ("exists", "are required"),
        ("expire a", "are required: time"),
        ("incr a x", "argument n: invalid int value: 'x'"),
        ("clear", "name keys, or --prefix PREFIX, or --all"),
        ("count all", "one argument too many"),
        ("serve", "there is no command 'serve'"),
    ],
)
def test_wrong_lines_give_the_reason_and_execute_nothing(line: str, why: str) -> None:
    kv = Recorded()
    with pytest.raises(CallerError) as refused:
        run_line(kv, line)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert kv.commands == []


@given(line=st.text(max_size=60) | st.lists(st.sampled_from([*subcommands(), "--ttl", "a", "'"])).map(" ".join))
def test_no_line_crashes_the_shell(line: str) -> None:
    kv = Recorded()
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), contextlib.suppress(CairnError):
        run_line(kv, line)


def test_help_lists_the_subcommands_and_explains_each() -> None:
    for name, summary in summaries().items():
        assert f"  {name} " in help_text(None)
        assert summary in help_text(None)
        assert help_text(name).startswith(f"usage: {name} ")
    assert summaries().keys() == subcommands().keys()


@pytest.mark.parametrize("name", sorted(subcommands().keys() & SUBCOMMANDS.keys()))
def test_command_line_and_shell_have_the_same_options(cairn_here: Call, name: str) -> None:
    on_command_line = cairn_here(name, "--help").out.decode()
    options = [option for option, _ in subcommand(name)[1].options()]
    assert set(re.findall(r"^  (--[a-z-]+)", on_command_line, re.M)) == {*options, "--url", "--timeout"}


# -- terminals -------------------------------------------------------------------------------------------------


def test_shell_runs_if_the_history_cannot_be_stored(url: str, tmp_path: Path) -> None:
    (tmp_path / "cairnkv").write_text("in the way")
    with Terminal("shell", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.expect("no history: .*cairn>")
        terminal.type("ping\r")
        terminal.expect("PONG.*cairn>")
        terminal.type("\x04")
        assert terminal.wait() == 0


@pytest.mark.parametrize("place", ["directory", "pipe", "link in a circle", "relative", "no home"])
def test_shell_runs_without_a_usable_history(place: str, url: str, tmp_path: Path) -> None:
    history = tmp_path / "cairnkv" / "history"
    history.parent.mkdir()
    environment = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    match place:
        case "directory":
            history.mkdir()
        case "pipe":
            os.mkfifo(history)
        case "link in a circle":
            history.symlink_to(history)
        case "relative":
            environment["XDG_STATE_HOME"] = "state"
        case "no home":
            environment = {"XDG_STATE_HOME": "", "HOME": "/dev/null"}
    with Terminal("shell", **environment) as terminal:
        terminal.expect("cairn>" if place == "relative" else "no history: .*cairn>")
        terminal.type("ping\r")
        terminal.expect("PONG.*cairn>")
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert place != "relative" or (tmp_path / ".local" / "state" / "cairnkv" / "history").exists()


def test_history_without_a_home_directory_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fails)
    with create_app_session(output=DummyOutput()):
        assert type(_session().history) is InMemoryHistory


def test_history_on_a_full_disk_does_not_end_the_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_app_session(output=DummyOutput()):
        history = _session().history
    file = tmp_path / "cairnkv" / "history"
    file.unlink()
    file.symlink_to("/dev/full")
    history.append_string("set a 1")
    assert "not in the history: [Errno 28]" in capsys.readouterr().err
    file.unlink()
    history.append_string("set a \udcff")
    assert history.get_strings()[-2:] == ["set a 1", "set a \udcff"]


def test_script_lines_are_not_in_the_history(url: str, tmp_path: Path) -> None:
    assert cairn_process("shell", stdin=b"set secret 1\n", XDG_STATE_HOME=str(tmp_path)).code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begin", ["", "# mine\r\n", "\n"])
def test_utf8_byte_order_mark_belongs_to_no_line_of_a_script(begin: str, cairn_here: Call, kv: Store) -> None:
    said = cairn_here("shell", stdin=f"\ufeff{begin}set a 1\nget a\n".encode())
    assert (said.code, said.out, said.err) == (0, b"OK\n1\n", "")


def test_long_lines_without_bracketed_paste_are_read_in_one_step(kv: Store, tmp_path: Path) -> None:
    value = "0123456789" * 10_000
    with Terminal("shell", XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.expect("cairn>")
        terminal.type(f"set k {value}\r")
        terminal.expect("OK.*cairn>")
        terminal.type(f"set k {value}\x03")  # Ctrl-C gives up the line
        terminal.expect("cairn>")
        terminal.type(f"set l {value}9\x7f8\x1b[D\x1b[D\x1b[D\x1b[3~\r")  # Backspace, three times Left, Delete
        terminal.expect("OK.*cairn>")
        terminal.type("exit\r")
        assert terminal.wait() == 0
    assert kv[b"k"] == value.encode()
    assert kv[b"l"] == value[:-2].encode() + b"98"


def test_only_long_sequences_of_plain_keys_become_a_paste() -> None:
    typed = [KeyPress(key) for key in "get k"]
    assert _pasted(typed) == typed
    special = [KeyPress(Keys.Escape), *(KeyPress(key) for key in "b" + "x" * TYPED_AT_ONCE), KeyPress(Keys.ControlM)]
    assert _pasted(special) == [
        KeyPress(Keys.Escape),
        KeyPress("b"),
        KeyPress(Keys.BracketedPaste, "x" * TYPED_AT_ONCE),
        KeyPress(Keys.ControlM),
    ]

"""`cairn check consistency`: its output, its files and its exit codes."""

import asyncio
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.cli import consistency
from cairnkv.lab.consistency.history import Action
from cairnkv.lab.consistency.keys.history import History, Operation, Verb, load
from cairnkv.lab.consistency.keys.workload import Options
from cairnkv.testing import running_server
from tests.cli.conftest import SECONDS, Call, command
from tests.cli.terminal import Terminal
from tests.lab.consistency.keys.simulated import save

QUICK = ("--seconds", "500ms", "--clients", "4", "--keys", "4", "--rate", "400")


@pytest.fixture
def url() -> Iterator[str]:
    with running_server() as server:
        yield server.url


@pytest.fixture
def stale(tmp_path: Path) -> str:
    """Save a history with a stale read, and return its path."""
    path = tmp_path / "stale.jsonl"
    operations = [
        Operation(1, Verb.SET, "r1", 0, 10, value="1-1"),
        Operation(1, Verb.SET, "r1", 20, 30, value="1-2"),
        Operation(2, Verb.GET, "r1", 40, 50, result="1-1"),
    ]
    save(History(operations, about={"seed": 9}), path)
    return str(path)


def test_server_is_consistent(url: str, cairn_here: Call) -> None:
    said = cairn_here("check", "consistency", url.removeprefix("cairn://"), *QUICK)
    assert (said.code, said.err) == (0, "")
    lines = said.out.decode().splitlines()
    assert max(map(len, lines)) <= 100
    line = " ".join(lines)
    assert line.startswith("Consistent: every key is linearizable. ")
    assert re.search(
        r" 4 clients executed [\d,]+ operations on 4 keys at 1 address in \d\.\d s: [\d,]+ succeeded, ", line
    )


def test_two_independent_servers_are_not_consistent(url: str, cairn_here: Call, tmp_path: Path) -> None:
    with running_server() as other:
        kept, page = tmp_path / "history.jsonl", tmp_path / "page.html"
        both = f"{url},{other.url.removeprefix('cairn://')}"
        said = cairn_here(
            "check", "consistency", both, *QUICK, "--save", str(kept), "--timeline", str(page), "--seed", "3"
        )
        for one in (url, other.url):
            with cairnkv.connect(one) as kv:
                kv.clear_all()
    assert (said.code, said.err) == (1, "")
    first, *rest = said.out.decode().splitlines()
    assert first.startswith("NOT consistent: 4 of 4 keys with violations: ")
    assert any(line.startswith("    client ") for line in rest)
    assert load(kept).about["seed"] == 3
    assert "<svg" in page.read_text()
    again = cairn_here("check", "consistency", "--replay", str(kept))
    assert (again.code, again.out) == (1, said.out)


def test_history_is_replayed(stale: str, cairn_here: Call, tmp_path: Path) -> None:
    said = cairn_here("check", "consistency", "--replay", stale, "--timeline", str(tmp_path / "page.html"))
    assert said.code == 1
    assert said.out.decode().splitlines()[0].startswith("NOT consistent: 1 of 1 key with violations: a stale read (1).")
    assert (
        "a stale read, key r1: '1-1' was seen, although set r1 '1-2' of client 1 had ended before" in said.out.decode()
    )
    assert "a stale read, key r1" in (tmp_path / "page.html").read_text()


def test_verdict_is_printed_as_json(stale: str, cairn_here: Call) -> None:
    said = cairn_here("check", "consistency", "--replay", stale, "--json")
    told = json.loads(said.out)
    assert (said.code, told["consistent"], told["operations"], told["seed"]) == (1, False, 3, 9)
    assert told["violations"][0]["kind"] == "stale"
    assert len(told["violations"][0]["operations"]) == 3


def test_fault_that_was_not_injected_is_named(cairn_here: Call, tmp_path: Path) -> None:
    path = tmp_path / "calm.jsonl"
    history = History([Operation(1, Verb.SET, "r1", 0, 10, value="a")], about={"nemesis": ["kill", "cut", "wipe"]})
    history.actions.append(Action("cut", "1", 2, 4))
    save(history, path)
    said = cairn_here("check", "consistency", "--replay", str(path))
    text = " ".join(said.out.decode().split())
    assert "The nemesis injected 1 fault (cut 1). " in text
    assert text.endswith(" Not injected: kill, wipe.")
    told = json.loads(cairn_here("check", "consistency", "--replay", str(path), "--json").out)
    assert told["faults_not_injected"] == ["kill", "wipe"]


def test_undecided_verdict_is_an_error(stale: str, cairn_here: Call, tmp_path: Path) -> None:
    path = tmp_path / "unfinished.jsonl"
    save(History([Operation(1, Verb.SET, "r1", 0, 10, value="a")], about={"addresses": ["cairn://a:1"]}), path)
    said = cairn_here("check", "consistency", "--replay", str(path))
    assert said.code == 2
    assert said.out.decode().startswith("Undecided: no violation was found, but the final reads failed at cairn://a:1")


def test_run_without_replies_is_an_error(unused_address: str, cairn_here: Call) -> None:
    said = cairn_here("check", "consistency", unused_address, *QUICK, "--timeout", "200ms")
    assert (said.code, said.out, said.err.count("\n")) == (2, b"", 1)
    assert "no operation succeeded at" in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "one of ADDRESS, --cluster and --replay"),
        (("a:1", "--replay", "file"), "one of ADDRESS, --cluster and --replay"),
        (("a:1", "--nemesis", "kill"), "name its directory with --cluster"),
        (("--replay", "file", "--save", "other"), "remove --save"),
        (("--cluster", ".", "--nemesis", "kil"), "some of kill, pause, cut, wipe, majority"),
        (("a:1", "--clients", "0"), "from 1 to 1,000"),
        (("a:1", "--rate", "fast"), "or max"),
        (("a:1", "--seed", "x"), "a number from 0 to 9,999"),
        (("http://a", "--seconds", "1"), "begins with cairn://"),
        (("--replay", "no such file"), "No such file"),
    ],
)
def test_meaningless_options_are_refused(arguments: tuple[str, ...], says: str, cairn_here: Call) -> None:
    said = cairn_here("check", "consistency", *arguments)
    assert (said.code, said.out, said.err.count("\n")) == (2, b"", 1)
    assert says in said.err


def test_directory_named_consistency_can_be_checked(
    cairn_here: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cairnkv.open(tmp_path / "consistency") as kv:
        kv.set("k", "v")
    monkeypatch.chdir(tmp_path)
    said = cairn_here("check", "./consistency")
    assert said.code == 0
    assert said.out.decode().endswith("no damage found\n")


def test_progress_is_shown_on_a_terminal(url: str) -> None:
    with Terminal("check", "consistency", url, *QUICK, "--seed", "5") as terminal:
        terminal.expect("seed 5, cairn://127")
        terminal.expect("running")
        terminal.expect("Consistent")
        assert terminal.wait() == 0


def test_consistent_run_is_drawn(url: str, cairn_here: Call, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert cairn_here("check", "consistency", url, *QUICK, "--timeline", str(page)).code == 0
    assert "the whole run" in page.read_text()
    assert "<svg" in page.read_text()


def interrupted(url: str, *options: str, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
    """Interrupt a run of an hour after its first writes. Return the exit code, the output and the errors."""
    process = subprocess.Popen(
        command("check", "consistency", url, "--seconds", "1h", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = threading.Timer(SECONDS, process.kill)
    end.start()
    try:
        with cairnkv.connect(url, timeout=SECONDS) as kv:
            while not kv.count():
                assert process.poll() is None
                time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate()
        return process.returncode, out, err
    finally:
        end.cancel()
        process.kill()


@pytest.mark.parametrize("options", [(), ("--rate", "1"), ("--json",)], ids=["", "slow", "json"])
def test_ctrl_c_gives_the_verdict_on_the_partial_history(url: str, options: tuple[str, ...]) -> None:
    code, out, err = interrupted(url, *options)
    assert code == 0, err
    if options == ("--json",):
        assert json.loads(out)["consistent"] is True
    else:
        assert out.startswith("Consistent: every key is linearizable. ")
    with cairnkv.connect(url) as kv:
        assert kv.count() == 0, "the keys of the run are cleared"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("options", [("--rate", "max"), ("--rate", "1")], ids=["fast", "slow"])
def test_signal_gives_the_verdict_on_the_partial_history(
    url: str, number: signal.Signals, options: tuple[str, ...]
) -> None:
    code, out, err = interrupted(url, *options, number=number)
    assert (code, err) == (0, "")
    assert out.startswith("Consistent: every key is linearizable. ")
    with cairnkv.connect(url) as kv:
        assert kv.count() == 0, "the keys of the run are cleared"


class Endless:
    """A run that never ends."""

    def __init__(self) -> None:
        self.options = Options((), 1.0, 1, None, 1, 1.0)
        self.stopping = asyncio.Event()

    @property
    def stopped(self) -> bool:
        return self.stopping.is_set()

    def stop(self) -> None:
        self.stopping.set()

    def now(self) -> int:
        return 0

    async def run(self, *_: object) -> History:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM)])
def test_second_signal_ends_the_run_at_once(numbers: tuple[signal.Signals, ...]) -> None:
    endless = Endless()

    async def drive() -> None:
        driving = asyncio.create_task(consistency._until_stopped(endless, None, print))  # type: ignore[arg-type]
        await asyncio.sleep(0)  # it handles signals from now on
        for number in numbers:
            assert not driving.cancelling()
            signal.raise_signal(number)
            await endless.stopping.wait()
        await driving

    handlers = [signal.getsignal(number) for number in consistency.STOPPING]
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(drive())
    assert [signal.getsignal(number) for number in consistency.STOPPING] == handlers


def test_run_continues_after_an_ignored_hangup(url: str, cairn_here: Call) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGHUP,))
    timer.start()
    try:
        said = cairn_here("check", "consistency", url, *QUICK)
        assert (said.code, signal.getsignal(signal.SIGHUP)) == (0, signal.SIG_IGN)
    finally:
        timer.cancel()
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_leaves_a_history_that_can_be_replayed(url: str, cairn_here: Call, tmp_path: Path) -> None:
    kept = tmp_path / "history.jsonl"
    code, out, err = interrupted(url, "--save", str(kept))
    assert code == 0, err
    again = cairn_here("check", "consistency", "--replay", str(kept))
    assert (again.code, again.out.decode()) == (0, out)

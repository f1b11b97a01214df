"""`cairn queue`: its output, its effect on queues and its exit codes, and workers in any language."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.cli.queue import ACTIONS
from cairnkv.testing import ManualClock, RunningServer, running_server
from tests.cli.conftest import SECONDS, Call, Said, command
from tests.cli.terminal import Terminal

OK = Said(0, b"OK\n", "")
NO = Said(1, b"", "")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def server(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    with running_server(clock=clock) as running:
        monkeypatch.setenv("CAIRNKV_URL", running.url)
        yield running


@pytest.fixture
def queue(server: RunningServer) -> Iterator[cairnkv.Queue[bytes]]:
    with cairnkv.connect(server.url) as kv:
        yield kv.queue("q", codec="bytes")


def lines(said: Said) -> list[Any]:
    """Return the objects of JSON output."""
    return [json.loads(line) for line in said.out.splitlines()]


class TestPutAndTake:
    def test_put_prints_the_id_and_take_prints_the_lease(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        put = cairn_here("queue", "put", "q", '{"to": "anna"}')
        taken = cairn_here("queue", "take", "q")
        assert (put.code, taken.code) == (0, 0)
        lease, body = taken.out.rstrip(b"\n").split(b"\t")
        assert (lease.split(b":")[0], body) == (put.out.strip(), b'{"to": "anna"}')
        assert cairn_here("queue", "ack", lease.decode()) == OK
        assert cairn_here("queue", "ack", lease.decode()) == NO
        assert queue.stats()["acked"] == 1

    def test_body_comes_from_standard_input(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        assert cairn_here("queue", "put", "q", "-", stdin=b"a\0\n\xff").code == 0
        assert cairn_here("queue", "take", "q", "--ack", "--raw") == Said(0, b"a\0\n\xff", "")
        assert queue.stats()["acked"] == 1

    def test_lines_become_messages(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        body = b"".join(b"%d\n" % number for number in range(2_500))
        assert cairn_here("queue", "put", "q", "--lines", "--priority", "5", stdin=body) == Said(0, b"2500\n", "")
        assert queue.peek(count=3)[2].body == b"2"
        assert cairn_here("queue", "take", "q", "--count", "2", "--ack").out == b"0\n1\n"

    def test_options_of_put(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        put = cairn_here(
            *("queue", "put", "q", "x", "--delay", "1m", "--priority", "7", "--group", "g", "--unique", "u"),
            *("--unique-for", "1h", "--until-taken", "--expires", "1d", "--lease", "5s", "--json"),
        )
        (message,) = queue.messages("delayed")
        assert lines(put) == [{"id": message.id, "new": True}]
        assert (message.priority, message.group, message.unique, message.due) == (7, "g", "u", 1e9 + 60)

    def test_taken_name_gives_exit_code_1(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        first = cairn_here("queue", "put", "q", "a", "--unique", "u")
        assert cairn_here("queue", "put", "q", "b", "--unique", "u") == Said(1, first.out, "")
        assert queue.stats()["ready"] == 1

    def test_take_of_an_empty_queue(self, cairn_here: Call, server: RunningServer) -> None:
        assert cairn_here("queue", "take", "q") == NO
        assert cairn_here("queue", "take", "q", "--json") == NO

    def test_take_waits_for_a_message(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        putting = threading.Timer(0.1, queue.put, [b"late"])
        putting.start()
        assert cairn_here("queue", "take", "q", "--wait", "20s", "--ack") == Said(0, b"late\n", "")
        putting.join()

    def test_take_in_json(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"\xff", group="g")
        (taken,) = lines(cairn_here("queue", "take", "q", "--lease", "5m", "--json"))
        assert taken.keys() == {"id", "token", "attempt", "lease", "put_at", "group", "body_b64"}
        assert (taken["lease"], taken["group"], taken["body_b64"]) == (300.0, "g", "/w==")

    def test_nack_and_extend(self, cairn_here: Call, queue: cairnkv.Queue[bytes], clock: ManualClock) -> None:
        queue.put_many([b"a", b"b"])
        leases = [
            line.split(b"\t")[0].decode() for line in cairn_here("queue", "take", "q", "--count", "2").out.splitlines()
        ]
        assert cairn_here("queue", "extend", *leases, "--lease", "5m") == OK
        clock.advance("4m")
        assert queue.take() is None
        assert cairn_here("queue", "nack", leases[0], "--reason", "no route", "--delay", "1h") == OK
        assert cairn_here("queue", "nack", leases[1], "--dead", "--reason", "unreadable") == OK
        assert [message.reason for message in queue.messages("delayed")] == ["no route"]
        assert cairn_here("queue", "nack", *leases, "--uncounted").code == 1
        stale = cairn_here("queue", "extend", leases[0], "--json")
        assert (stale.code, lines(stale)[0]["extended"]) == (1, False)


class TestLooking:
    def test_peek_and_dead(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        ids = queue.put_many([b"a", b"b"])
        assert cairn_here("queue", "peek", "q").out == b"%d\ta\n%d\tb\n" % tuple(ids)
        assert cairn_here("queue", "dead", "q") == NO
        job = queue.take()
        assert job is not None
        job.nack("unreadable", dead=True)
        (dead,) = lines(cairn_here("queue", "dead", "q", "--json"))
        assert (dead["id"], dead["reason"], dead["body"], dead["attempts"]) == (ids[0], "unreadable", "a", 1)
        assert cairn_here("queue", "dead", "q").out == b"%d\ta\tunreadable\n" % ids[0]
        assert cairn_here("queue", "peek", "q", "--state", "dead").out == b"%d\ta\n" % ids[0]
        assert cairn_here("queue", "requeue", "q") == Said(0, b"1\n", "")
        assert cairn_here("queue", "requeue", "q", str(ids[0])) == Said(1, b"0\n", "")

    def test_reason_is_the_last_column_of_one_line(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        ids = queue.put_many([b"a\tb", b"c"])
        for reason in ("line 1\nline\t2", None):
            job = queue.take()
            assert job is not None
            job.nack(reason, dead=True)
        assert cairn_here("queue", "dead", "q").out == b"%d\ta\tb\tline 1\\nline\\t2\n%d\tc\t\n" % tuple(ids)

    def test_stats_and_list(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        assert cairn_here("queue", "list") == NO
        queue.put(b"abc")
        queue.put(b"d", delay=60)
        assert cairn_here("queue", "list").out == b"q\t1\t1\t0\t0\t4\n"
        assert lines(cairn_here("queue", "list", "--json")) == [
            {"queue": "q", "ready": 1, "delayed": 1, "leased": 0, "dead": 0, "bytes": 4}
        ]
        (stats,) = lines(cairn_here("queue", "stats", "q", "--json"))
        assert (stats["ready"], stats["put"], stats["lease"], stats["paused"]) == (1, 2, 60.0, False)
        assert b"\nlease            60 s\n" in cairn_here("queue", "stats", "q").out
        missing = cairn_here("queue", "stats", "none")
        assert (missing.code, missing.out) == (2, b"")
        assert "NOQUEUE" in missing.err

    def test_terminal_shows_reasons_and_no_control_sequences(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"\x1b[2Jbody")
        job = queue.take()
        assert job is not None
        job.nack("bad \x1b[2J reason", dead=True)
        with Terminal("queue", "dead", "q") as terminal:
            assert terminal.wait() == 0
            assert "1 attempt" in terminal.screen
            assert "bad " in terminal.screen
            assert "\x1b[2J" not in terminal.screen
        with Terminal("queue", "list") as terminal:
            assert terminal.wait() == 0
            assert "leased" in terminal.screen

    def test_watch_shows_a_live_table(self, queue: cairnkv.Queue[bytes]) -> None:
        pytest.importorskip("rich")
        queue.put(b"a")
        with Terminal("queue", "watch", "--interval", "20ms") as terminal:
            terminal.expect("acked/s")
            for body in (b"b", b"c"):
                queue.put(body)
            terminal.expect(r"q\s+│\s+3\s")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.wait() == 0

    def test_watch_prints_lines_into_a_pipe(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        with subprocess.Popen(command("queue", "watch", "--interval", "10ms"), stdout=subprocess.PIPE) as watching:
            assert watching.stdout is not None
            assert re.fullmatch(rb"q\t1\t0\t0\t0\t1\t[0-9]+\.[0-9]\t0\.0\t0\.0\t0\.0\n", watching.stdout.readline())
            watching.kill()


class TestMaintenance:
    def test_settings(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        assert cairn_here("queue", "set", "q", "--lease", "5m", "--attempts", "3", "--when-full", "drop") == OK
        settings = queue.settings()
        assert (settings["lease"], settings["attempts"], settings["when_full"]) == (300.0, 3, "drop")
        nothing = cairn_here("queue", "set", "q")
        assert (nothing.code, nothing.err.count("\n")) == (2, 1)

    def test_pause_and_resume(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        assert cairn_here("queue", "pause", "q") == OK
        assert cairn_here("queue", "take", "q") == NO
        assert cairn_here("queue", "resume", "q", "--json").out == b'{"ok": true}\n'
        assert cairn_here("queue", "take", "q").code == 0

    def test_remove_purge_and_drop(self, cairn_here: Call, queue: cairnkv.Queue[bytes]) -> None:
        ids = queue.put_many([b"a", b"b", b"c"])
        assert cairn_here("queue", "remove", "q", str(ids[0]), str(ids[0] + 99)) == Said(0, b"1\n", "")
        refused = cairn_here("queue", "purge", "q")
        assert (refused.code, "--yes is missing" in refused.err) == (2, True)
        assert "QUEUEBUSY" in cairn_here("queue", "drop", "q").err
        assert cairn_here("queue", "purge", "q", "--yes", "--json").out == b'{"deleted": 2}\n'
        assert cairn_here("queue", "drop", "q") == OK
        assert cairn_here("queue", "list") == NO

    def test_purge_asks_on_a_terminal(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        with Terminal("queue", "purge", "q") as terminal:
            terminal.expect(r"Delete 1 message of the queue 'q'\? \[y/N\]")
            terminal.type("n\r")
            assert terminal.wait() == 2
        assert queue.stats()["ready"] == 1
        with Terminal("queue", "purge", "q") as terminal:
            terminal.expect("y/N")
            terminal.type("y\r")
            assert terminal.wait() == 0
        assert queue.stats()["ready"] == 0


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["fly"], "there is no 'fly'"),
            (["put", "q"], "the body is missing"),
            (["put", "q", "x", "--lines"], "--lines"),
            (["put", "q", "x", "--delay", "5 parsecs"], "--delay"),
            (["ack", "17"], "ID:TOKEN"),
            (["nack", "1:1", "--dead", "--delay", "1s"], "exclude each other"),
            (["take", "q", "--raw"], "--raw needs --ack"),
            (["take", "q", "--count", "0"], "from 1 to 1,000"),
            (["work", "q", "--", "./no-such-program"], "there is no program './no-such-program'"),
            (["work", "q"], "PROGRAM"),
        ],
    )
    def test_errors_are_one_line(
        self, cairn_here: Call, server: RunningServer, arguments: list[str], text: str
    ) -> None:
        said = cairn_here("queue", *arguments)
        assert (said.code, said.out) == (2, b"")
        assert said.err.count("\n") == 1
        assert text in said.err

    def test_program_without_permission_is_not_executable(self, cairn_here: Call, tmp_path: Path) -> None:
        program = tmp_path / "send mail.sh"
        program.write_text("#!/bin/sh\n")
        said = cairn_here("queue", "work", "q", "--", str(program))
        assert said == Said(2, b"", f"cairn: '{program}' is not executable; run chmod +x '{program}'\n")

    @pytest.mark.parametrize("action", [*ACTIONS, "work"])
    def test_help_has_an_example(self, cairn_here: Call, action: str) -> None:
        said = cairn_here("queue", action, "--help")
        assert said.code == 0
        assert f"examples:\n  cairn queue {action}".encode() in said.out

    def test_help_lists_the_actions(self, cairn_here: Call) -> None:
        said = cairn_here("queue", "--help")
        for action in (*ACTIONS, "work"):
            assert f"\n  {action} ".encode() in said.out


@contextlib.contextmanager
def work(*arguments: str, log: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `cairn queue work` in a process."""
    with subprocess.Popen(
        command("queue", "work", "q", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as ran:
        try:
            yield ran
        finally:
            ran.kill()


def worked(*arguments: str) -> Said:
    """Run `cairn queue work --drain` to its end."""
    done = subprocess.run(
        command("queue", "work", "q", "--drain", *arguments), capture_output=True, timeout=SECONDS, check=False
    )
    return Said(done.returncode, done.stdout, done.stderr.decode())


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, which another process makes true."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the expected event did not come"
        time.sleep(0.01)


class TestWork:
    def test_program_gets_the_body_and_the_variables(self, queue: cairnkv.Queue[bytes]) -> None:
        result = queue.put(b"body" * 50_000, group="g")
        said = worked("--", "sh", "-c", "echo $CAIRN_QUEUE $CAIRN_JOB $CAIRN_ATTEMPT $CAIRN_TOKEN $CAIRN_GROUP; wc -c")
        assert said.code == 0, said.err
        assert said.out.split() == [b"q", str(result.id).encode(), b"1", b"1", b"g", b"200000"]
        assert queue.stats()["acked"] == 1

    def test_failure_keeps_the_end_of_standard_error(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        said = worked("--", "sh", "-c", "head -c 5000 /dev/zero | tr '\\0' x >&2; echo no route to host >&2; exit 3")
        (message,) = queue.messages("delayed")
        assert message.reason.startswith("exit code 3: xxx")
        assert message.reason.endswith("xxxno route to host")
        assert "no route to host" in said.err
        assert queue.stats()["nacked"] == 1

    def test_temporary_failure_does_not_count(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        assert worked("--retry", "1h", "--", "sh", "-c", "exit 75").code == 0
        (message,) = queue.messages("delayed")
        assert (message.attempts, message.reason, message.due) == (0, "temporary failure", 1e9 + 3600)

    def test_signal_that_ends_the_program_is_a_failure(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        worked("--", "sh", "-c", "kill -SEGV $$")
        (message,) = queue.messages("delayed")
        assert (message.attempts, message.reason) == (1, "killed by SIGSEGV")

    def test_programs_run_at_the_same_time(self, queue: cairnkv.Queue[bytes], tmp_path: Path) -> None:
        queue.put_many([b"a", b"b", b"c"])
        # Each program waits until there are three files.
        script = f"touch {tmp_path}/$CAIRN_JOB; while [ $(ls {tmp_path} | wc -l) -lt 3 ]; do sleep 0.02; done"
        assert worked("-j", "3", "--", "sh", "-c", script).code == 0
        assert queue.stats()["acked"] == 3

    def test_max_runtime_stops_the_program(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        began = time.monotonic()
        assert worked("--max-runtime", "200ms", "--", "sleep", "600").code == 0
        assert time.monotonic() - began < SECONDS
        (message,) = queue.messages("delayed")
        assert message.reason == "ran longer than 0.2 s"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signal_finishes_running_programs(self, queue: cairnkv.Queue[bytes], tmp_path: Path, number: int) -> None:
        queue.put_many([b"a", b"b"])
        go = tmp_path / "go"
        with work("--", "sh", "-c", f"echo began; while ! [ -e {go} ]; do sleep 0.02; done") as worker:
            assert worker.stdout is not None
            assert worker.stderr is not None
            assert worker.stdout.readline() == b"began\n"
            worker.send_signal(number)
            assert worker.stderr.readline() == b"cairn: the worker stops; 1 job still runs\n"
            go.touch()
            assert worker.wait(SECONDS) == 0
        assert (queue.stats()["acked"], queue.stats()["ready"]) == (1, 1)

    def test_program_that_does_not_end_is_killed_and_its_job_given_back(self, queue: cairnkv.Queue[bytes]) -> None:
        queue.put(b"a")
        with work("--stop-timeout", "100ms", "--", "sh", "-c", "echo $$; exec sleep 600") as worker:
            assert worker.stdout is not None
            program = int(worker.stdout.readline())
            worker.terminate()
            assert worker.wait(SECONDS) == 0
        until(lambda: not running(program))
        job = queue.take()
        assert job is not None
        assert job.attempt == 1

    def test_killed_worker_leaves_its_message_to_the_next(
        self, queue: cairnkv.Queue[bytes], clock: ManualClock
    ) -> None:
        queue.put(b"a")
        with work("--lease", "30s", "--", "sh", "-c", "echo $$; exec sleep 600") as worker:
            assert worker.stdout is not None
            program = int(worker.stdout.readline())
            worker.kill()
            worker.wait(SECONDS)
        os.kill(program, signal.SIGKILL)
        assert queue.take() is None
        clock.advance("30s")
        assert worked("--", sys.executable, "-c", "import os; print(os.environ['CAIRN_ATTEMPT'])").out == b"2\n"

    def test_program_whose_job_has_lost_its_lease_is_stopped(
        self, queue: cairnkv.Queue[bytes], clock: ManualClock
    ) -> None:
        queue.put(b"a")
        with work("--lease", "1s", "--", "sh", "-c", "echo $$; exec sleep 600") as worker:
            assert worker.stdout is not None
            program = int(worker.stdout.readline())
            (message,) = queue.messages("leased")
            queue.remove(message.id)
            until(lambda: not running(program))
            worker.terminate()
            assert worker.wait(SECONDS) == 0


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False

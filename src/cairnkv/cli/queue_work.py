"""`cairn queue work`: a worker in any language. It runs a program for each message.

The program reads the body on standard input. Its exit code decides:

    0       ack: the message is deleted
    75      temporary failure (EX_TEMPFAIL of sysexits.h): the program runs again later, and the attempt does not count
    other   failure: the program runs again after the backoff of the queue, until all attempts have failed

The reason of a failure has the end of the program's standard error.

Invariants: a program whose job has lost its lease is stopped. No program outlives the worker.
"""

import contextlib
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, client, duration, number, octets
from cairnkv.cli.main import FOUND
from cairnkv.errors import CallerError, LeaseLost
from cairnkv.limits import REASON_MAX

if TYPE_CHECKING:
    from cairnkv.client.queue.jobs import Job

TEMPORARY: Final = 75
"""The exit code of a temporary failure, EX_TEMPFAIL of sysexits.h."""

LOOK_SECONDS: Final = 0.2
"""Seconds between two checks whether a program has ended and whether its job still has its lease."""

KILL_SECONDS: Final = 5.0
"""Seconds between SIGTERM and SIGKILL for a program whose job has lost its lease."""

NOT_STARTED: Final = 127
"""The exit code that shells use for a program that cannot be started."""


def work(name: str, arguments: Sequence[str]) -> int:
    """Run a worker until SIGTERM or SIGINT."""
    parser = Parser(
        name,
        description="Run a program for each message of a queue, until Ctrl-C or SIGTERM. The body is on its standard\n"
        "input. Exit code 0 acks the message. 75 means a temporary failure: the message returns after the time of\n"
        "--retry, and the attempt does not count. Any other code is a failure: the message returns after the backoff\n"
        "of the queue, with the end of standard error as the reason. After its last attempt, it is dead.\n\n"
        "cairn extends the lease while the program runs. The program has these variables: CAIRN_QUEUE, CAIRN_JOB (the\n"
        "id), CAIRN_ATTEMPT, CAIRN_TOKEN (rises with each lease), CAIRN_GROUP.",
        example="cairn queue work emails -j 4 -- ./send.sh\n"
        "cairn queue work pictures --max-runtime 5m -- convert - -resize 200x200 thumbnail.png\n"
        "cairn queue work emails --drain -- ./send.sh      # end when no message is ready",
        address=True,
    )
    parser.add_argument("queue", type=octets, help="the name of the queue")
    parser.add_argument("program", nargs="+", metavar="PROGRAM", help="after --: the program and its arguments")
    parser.add_argument(
        "-j", "--jobs", type=number(1, 1_000), metavar="N", default=1, help="programs at the same time (default: 1)"
    )
    parser.option("--lease", duration, "TIME", "duration of leases (default: that of the message or the queue)")
    parser.option(
        "--max-runtime", duration, "TIME", "time after which cairn stops a program, and the attempt has failed"
    )
    parser.option("--retry", duration, "TIME", "delay after a temporary failure (default: 10s)", 10.0)
    parser.option(
        "--stop-timeout",
        duration,
        "TIME",
        "time for which running programs may continue after a signal (default: 25s)",
        25.0,
    )
    parser.switch("--drain", "end when no message is ready")
    options = parser.parse_args(arguments)
    if shutil.which(options.program[0]) is None:
        raise CallerError(_no_program(options.program[0]))
    logging.basicConfig(level=logging.INFO, format="cairn: %(message)s")
    programs = _Programs(list(map(str, options.program)), options.retry)
    with client(options) as kv:
        try:
            kv.queue(options.queue, codec="bytes").run(
                programs.run,
                threads=options.jobs,
                lease=options.lease,
                max_runtime=options.max_runtime,
                stop_timeout=options.stop_timeout,
                drain=options.drain,
            )
        finally:
            programs.stop()
    return FOUND


def _no_program(program: str) -> str:
    if "/" in program and Path(program).is_file():
        return f"{program!r} is not executable; run chmod +x {shlex.quote(program)}"
    return f"there is no program {program!r}; use a name on the PATH or a path such as ./send.sh"


class _Programs:
    """The running programs of a worker."""

    def __init__(self, arguments: list[str], retry: float) -> None:
        self._arguments = arguments
        self._retry = retry
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, job: "Job[bytes]") -> None:
        """Run the program for a job, and nack the job if the program fails."""
        code, errors = self._execute(job)
        if code == 0:
            return
        with contextlib.suppress(LeaseLost):  # the worker has already given it back
            if code == TEMPORARY:
                job.nack(_reason("temporary failure", errors), counted=False, delay=self._retry)
            else:
                why = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
                job.nack(_reason(why, errors))

    def stop(self) -> None:
        """Kill the programs that still run."""
        with self._lock:
            running = list(self._running)
        for program in running:
            _signal(program, signal.SIGKILL)

    def _execute(self, job: "Job[bytes]") -> tuple[int, bytes]:
        """Run the program. Returns its exit code, and the end of its standard error."""
        facts = {
            "QUEUE": job.queue,
            "JOB": job.id,
            "ATTEMPT": job.attempt,
            "TOKEN": job.token,
            "GROUP": job.group or "",
        }
        variables = {f"CAIRN_{name}": str(value) for name, value in facts.items()}
        with tempfile.TemporaryFile() as body:
            body.write(job.data)
            body.seek(0)
            try:
                program = subprocess.Popen(
                    self._arguments,
                    stdin=body,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **variables},
                    process_group=0,  # Ctrl-C reaches only the worker, which lets programs finish
                )
            except OSError as error:
                return NOT_STARTED, str(error).encode()
        with self._lock:
            self._running.add(program)
        try:
            with program:
                errors = _follow(program, job)
                return program.wait(), errors
        finally:
            with self._lock:
                self._running.discard(program)


def _follow(program: "subprocess.Popen[bytes]", job: "Job[bytes]") -> bytes:
    """Copy the standard error of a program until it ends. Returns the end. Stops it if its job has lost its lease."""
    assert program.stderr is not None
    descriptor = program.stderr.fileno()
    errors, is_open = b"", True
    kill_at: float | None = None
    while True:
        if is_open and select.select([descriptor], [], [], LOOK_SECONDS)[0]:
            data = os.read(descriptor, 65_536)
            is_open = bool(data)
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
            errors = (errors + data)[-REASON_MAX:]
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(0 if is_open else LOOK_SECONDS)
                return errors
        if job.lost:
            if kill_at is None:
                kill_at = time.monotonic() + KILL_SECONDS
                _signal(program, signal.SIGTERM)
            elif time.monotonic() >= kill_at:
                _signal(program, signal.SIGKILL)


def _signal(program: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to a program and the processes that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program.pid, number)


def _reason(why: str, errors: bytes) -> str:
    """Return the reason of a failure: its kind, and the end of standard error."""
    end = errors.strip()[-(REASON_MAX - len(why) - 2) :].decode("utf-8", "ignore")
    return f"{why}: {end}" if end else why

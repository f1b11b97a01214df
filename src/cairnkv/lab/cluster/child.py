"""A child process with a log file, and the identity of a process.

Invariants: a signal never reaches another process that has the same process ID by now. The system reserves the ID of a
child until its parent waits for it; for other processes, which an earlier supervisor may have left, the start time must
match. Ctrl-C in the terminal does not reach a child.

Out of scope: the programs that the processes run (`nats`, `node`).
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cairnkv.limits import KIB, MIB
from cairnkv.records import record

STOP_TIMEOUT: Final = 10.0
"""Seconds that a process may take to exit after SIGTERM, before SIGKILL."""

KILL_TIMEOUT: Final = 10.0
"""Seconds that the system may take to end a killed process, which may be writing to the disk."""

PAUSE_TIMEOUT: Final = 1.0
"""Seconds that the system may take to stop all threads of a process, one of which may be writing to the disk."""

LOG_MAX: Final = 16 * MIB
"""Size in bytes above which a start renames the log file; one old file is kept."""

LOG_TAIL: Final = 4 * KIB
"""Bytes at the end of a log file that `log_tail` returns."""

_POLL_INTERVAL: Final = 0.02


@record
class Identity:
    """A process ID, and the start time, which distinguishes the process from later ones with the same ID."""

    pid: int
    started: str


def identity(pid: int) -> Identity | None:
    """Return the identity of the process that has an ID now, or None if no process has it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _identity_from_ps(pid)
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else Identity(pid, f"{boot} {fields[18]}")


def _identity_from_ps(pid: int) -> Identity | None:
    """Return the identity on a system without /proc."""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return Identity(pid, done.stdout.strip()) if done.stdout.strip() else None


def signal_process(process: Identity, number: signal.Signals) -> bool:
    """Signal a process that need not be a child. Return whether it existed. Raises `PermissionError`."""
    if not hasattr(os, "pidfd_open"):
        if identity(process.pid) != process:
            return False
        os.kill(process.pid, number)
        return True
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:  # the descriptor refers to one process, even if the ID is reused after this check
        if identity(process.pid) != process:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_processes(processes: Sequence[Identity], timeout: float = STOP_TIMEOUT) -> None:
    """End processes that need not be children: with SIGTERM, and after the timeout with SIGKILL. Raises `OSError`."""
    for process in processes:
        signal_process(process, signal.SIGCONT)
        signal_process(process, signal.SIGTERM)
    if not _have_ended(processes, timeout):
        for process in processes:
            signal_process(process, signal.SIGKILL)
        if not _have_ended(processes, KILL_TIMEOUT):
            raise TimeoutError(f"processes {', '.join(str(one.pid) for one in processes)} survive SIGKILL")


def _have_ended(processes: Sequence[Identity], timeout: float) -> bool:
    until = time.monotonic() + timeout
    while any(identity(process.pid) == process for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(_POLL_INTERVAL)
    return True


class Child:
    """A program and its current process, if any. `start` may follow the end of a process."""

    def __init__(
        self, name: str, log: Path, command: Sequence[str | Path] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """name: for messages. log: the file for its output. environment: all variables; None: those of this process."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0
        self._log_seen = 0

    @property
    def pid(self) -> int | None:
        """The process ID, or None without a process."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process exists; it may be paused."""
        return self._process is not None and self._process.poll() is None

    @property
    def end(self) -> str:
        """How the last process ended, as text."""
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "did not end"
        return f"ended with exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

    def start(self) -> None:
        """Start a process. Raises `OSError`."""
        assert not self.running, "the process runs already"
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_MAX:
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))
        with self.log.open("ab") as log:
            self._log_begin = self._log_seen = log.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def new_lines(self) -> list[str]:
        """Return the complete lines that the process has added to the log since the last call."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_seen)
                whole, newline, _ = log.read(MIB).rpartition(b"\n")
        except OSError:
            return []
        self._log_seen += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()

    def log_tail(self) -> str:
        """Return the end of the current or last process's output."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_begin, size - LOG_TAIL))
                return log.read().decode(errors="replace")
        except OSError as error:
            return str(error)

    def terminate(self) -> None:
        """Send SIGTERM, also to a paused process."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the process. Return whether it has ended."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(timeout, 0.0))
        return not self.running

    def kill(self) -> None:
        """End the process with SIGKILL. Raises `TimeoutError`."""
        self._signal(signal.SIGKILL)
        if not self.wait(KILL_TIMEOUT):
            raise TimeoutError(f"{self.name} survives SIGKILL")

    def pause(self) -> None:
        """Stop the process with SIGSTOP, until `resume`. Its connections stay open.

        A thread stops when the system schedules it next; this waits for all threads, if the system shows their states.
        """
        self._signal(signal.SIGSTOP)
        until = time.monotonic() + PAUSE_TIMEOUT
        while self.running and not self._has_stopped and time.monotonic() < until:
            time.sleep(_POLL_INTERVAL / 10)

    @property
    def _has_stopped(self) -> bool:
        """Whether all threads have stopped."""
        if self.pid is None or not Path("/proc/self/task").exists():
            return True
        try:
            states = [
                (task / "stat").read_text().rpartition(")")[2].split()[0]
                for task in Path(f"/proc/{self.pid}/task").iterdir()
            ]
        except OSError:  # a thread has ended meanwhile
            return False
        return all(state in "TtZX" for state in states)

    def resume(self) -> None:
        """Continue a paused process."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

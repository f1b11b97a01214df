"""A child process with a log file: started, signalled, waited for. And who a process is, so that no other is signalled.

What always holds: a signal goes to the process that was meant, or to none. Of a child that is so until it has been
waited for; of others, which an earlier supervisor may have left, the time when they were started has to be the same. A
Ctrl-C in the terminal does not reach a child: who started it ends it.

Not for what the processes are.
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

STOP_PATIENCE: Final = 10.0
"""Seconds that a process may take to end in good order, before it is killed."""

KILL_PATIENCE: Final = 10.0
"""Seconds that the system may take to end a killed process, which may be in the midst of a write."""

PAUSE_PATIENCE: Final = 1.0
"""Seconds that the system may take to stop a process, some thread of which may be in the midst of a write."""

LOG_MAX: Final = 16 * MIB
"""Bytes from which a log is put aside when its process is started again; one earlier log is kept."""

LOG_TAIL: Final = 4 * KIB
"""Bytes of a log's end that are looked at."""

_LOOK_EVERY: Final = 0.02


@record
class Identity:
    """A process: its number, and when it was started, which no later process of that number has in common with it."""

    pid: int
    started: str


def identity(pid: int) -> Identity | None:
    """Who has this process number now; None: nobody."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _asked_identity(pid)
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else Identity(pid, f"{boot} {fields[18]}")


def _asked_identity(pid: int) -> Identity | None:
    """The same where there is no /proc."""
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return Identity(pid, asked.stdout.strip()) if asked.stdout.strip() else None


def signal_process(whom: Identity, number: signal.Signals) -> bool:
    """Signal a process that need not be a child; gives whether it was there. Raises `PermissionError`."""
    if not hasattr(os, "pidfd_open"):
        if identity(whom.pid) != whom:
            return False
        os.kill(whom.pid, number)
        return True
    try:
        descriptor = os.pidfd_open(whom.pid)
    except ProcessLookupError:
        return False
    try:  # it is looked at while it is held: from here on the number cannot come to mean another
        if identity(whom.pid) != whom:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_processes(those: Sequence[Identity], patience: float = STOP_PATIENCE) -> None:
    """End processes that need not be children, in good order if that does not take too long. Raises `OSError`."""
    for whom in those:
        signal_process(whom, signal.SIGCONT)
        signal_process(whom, signal.SIGTERM)
    if not _gone(those, patience):
        for whom in those:
            signal_process(whom, signal.SIGKILL)
        if not _gone(those, KILL_PATIENCE):
            raise TimeoutError(f"processes {', '.join(str(whom.pid) for whom in those)} do not end, although killed")


def _gone(those: Sequence[Identity], patience: float) -> bool:
    until = time.monotonic() + patience
    while any(identity(whom.pid) == whom for whom in those):
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_EVERY)
    return True


class Child:
    """A program's process, or none. One that has ended can be started again."""

    def __init__(
        self, name: str, log: Path, command: Sequence[str | Path] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        """name: for messages. log: the file that it writes to. environment: all of its variables; None: ours."""
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0
        self._log_seen = 0

    @property
    def pid(self) -> int | None:
        """Of its process; None: there is none."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether there is a process, which may be paused."""
        return self._process is not None and self._process.poll() is None

    @property
    def end(self) -> str:
        """How its last process ended."""
        code = None if self._process is None else self._process.returncode
        if code is None:
            return "did not end"
        return f"ended with exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"

    def start(self) -> None:
        """Have a process. Raises `OSError`."""
        assert not self.running, "a child is started once"
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
        """The whole lines that the present process has added to its log since this was asked last."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_seen)
                whole, newline, _ = log.read(MIB).rpartition(b"\n")
        except OSError:
            return []
        self._log_seen += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()

    def log_tail(self) -> str:
        """The end of what the present or last process wrote."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_begin, size - LOG_TAIL))
                return log.read().decode(errors="replace")
        except OSError as error:
            return str(error)

    def tell_to_stop(self) -> None:
        """Have it end in good order, also if it is paused."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def wait(self, patience: float) -> bool:
        """Wait until there is no process; gives whether there is none."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(patience, 0.0))
        return not self.running

    def stop(self, patience: float = STOP_PATIENCE) -> None:
        """End it in good order, or kill it when that takes longer."""
        self.tell_to_stop()
        if not self.wait(patience):
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL)
        if not self.wait(KILL_PATIENCE):
            raise TimeoutError(f"{self.name} does not end, although killed")

    def pause(self) -> None:
        """Stop it as it is, until `resume`: its connections stay open, and say nothing.

        Each thread stops when the system runs it next; that is waited for, where the system tells.
        """
        self._signal(signal.SIGSTOP)
        until = time.monotonic() + PAUSE_PATIENCE
        while self.running and not self._stands and time.monotonic() < until:
            time.sleep(_LOOK_EVERY / 10)

    @property
    def _stands(self) -> bool:
        """Whether all its threads are stopped."""
        if self.pid is None or not Path("/proc/self/task").exists():
            return True
        try:
            states = [
                (task / "stat").read_text().rpartition(")")[2].split()[0]
                for task in Path(f"/proc/{self.pid}/task").iterdir()
            ]
        except OSError:  # one has ended meanwhile
            return False
        return all(state in "TtZX" for state in states)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

"""A pseudo-terminal with a process in it. Every wait has a timeout."""

import os
import pty
import re
import select
import subprocess
import time
from typing import Self

from tests.cli.conftest import SECONDS, command


class Terminal:
    """`cairn` on a terminal. Use it as a context manager, which ends the process."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._ours, theirs = pty.openpty()
        # This terminal does not answer requests for the position of the cursor.
        plain = {"TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, **plain, **environment},
            start_new_session=True,
        )
        os.close(theirs)
        self.screen = ""

    def type(self, keys: str) -> None:
        """Press keys; Enter is \\r."""
        os.write(self._ours, keys.encode())

    def expect(self, pattern: str) -> str:
        """Wait until the screen shows a pattern. Returns the text up to the pattern, and removes it from `screen`."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.screen, re.DOTALL)) is None:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"the terminal never showed {pattern!r}; it shows {self.screen!r}")
        shown, self.screen = self.screen[: found.end()], self.screen[found.end() :]
        return shown

    def wait(self) -> int:
        """Wait until the process ends. Returns its exit code; `screen` has its last output."""
        deadline = time.monotonic() + SECONDS
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(SECONDS)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self._ours, 65_536)
        except OSError:  # the other end is closed: the process has ended
            return False
        self.screen += data.decode("utf-8", "replace")
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

"""The audit log: logins, refusals, changes and administrative commands as JSON lines.

Each line is an object with `time` (UTC), `event` and fields of the event. Values of keys and secrets are never in it.

Invariants: a slow or full disk does not stop the server: a thread writes, and events beyond a bounded number are
dropped and counted; the next line that can be written names their number. Lines are complete, and in order. If the file
is renamed or removed, as by logrotate, the next lines go to a new one.

Out of scope: the events (`cairnkv.session.access.login`).
"""

import contextlib
import datetime
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.limits import AUDIT_EVENTS_WAITING_MAX
from cairnkv.paths import os_error_text

logger: Final = logging.getLogger("cairnkv.audit")

STANDARD_OUTPUT: Final = "-"
"""The name of the file for standard output."""

TOGETHER: Final = 1_000
"""Maximum lines of one write."""

END_SECONDS: Final = 5.0
"""Seconds that `close` waits for the last lines."""


class AuditLog:
    """Writes events to a file, from a thread."""

    def __init__(self, path: str) -> None:
        """path: of the file, to which lines are appended; `-`: standard output. Raises `OptionError`."""
        self._path = path
        try:
            self._descriptor = self._opened()
        except OSError as error:
            raise OptionError(f"audit-log: cannot write {os_error_text(error)}") from None
        self._events: queue.Queue[tuple[float, str, Mapping[str, object]] | None]
        self._events = queue.Queue(AUDIT_EVENTS_WAITING_MAX)
        self._lock = threading.Lock()
        self._dropped = 0  # events that no line names yet
        self.dropped = 0
        """The number of events that the log lacks."""
        self._thread = threading.Thread(target=self._run, name="cairnkv audit log", daemon=True)
        self._thread.start()

    def write(self, event: str, fields: Mapping[str, object]) -> None:
        """Add an event. Never waits. Values are texts and numbers, bytes that become text, and lists of these."""
        try:
            self._events.put_nowait((time.time(), event, fields))
        except queue.Full:
            self._drop(1)

    def close(self) -> None:
        """Write the last events. Call it once, when no more events come."""
        with contextlib.suppress(queue.Full):
            self._events.put(None, timeout=END_SECONDS)
            self._thread.join(END_SECONDS)

    def _drop(self, number: int) -> None:
        with self._lock:
            self._dropped += number
            self.dropped += number

    # -- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        events: list[tuple[float, str, Mapping[str, object]] | None] = []
        while None not in events:
            events = [self._events.get()]
            with contextlib.suppress(queue.Empty):
                while len(events) < TOGETHER:
                    events.append(self._events.get_nowait())
            self._write_all([line(*event) for event in events if event is not None])
        if self._path != STANDARD_OUTPUT:
            os.close(self._descriptor)

    def _write_all(self, lines: list[bytes]) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        gap = [line(time.time(), "dropped", {"events": dropped})] if dropped else []
        if not gap and not lines:
            return
        try:
            self._follow()
            _write_whole(self._descriptor, b"".join([*gap, *lines]))
        except OSError as error:
            logger.warning("audit log: cannot write %s: %s; events are dropped", self._path, error.strerror)
            self._drop(len(lines))
            with self._lock:
                self._dropped += dropped

    def _opened(self) -> int:
        if self._path == STANDARD_OUTPUT:
            return sys.stdout.fileno()
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _follow(self) -> None:
        """Open the file again if its name belongs to another one, or to none."""
        if self._path == STANDARD_OUTPUT:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(Path(self._path).stat(), os.fstat(self._descriptor)):
                return
        descriptor = self._opened()
        os.close(self._descriptor)
        self._descriptor = descriptor


def line(time: float, event: str, fields: Mapping[str, object]) -> bytes:
    r"""Return the line of an event. time: in seconds since 1970.

    >>> line(0, "login", {"user": b"app", "failures": 2})
    b'{"time": "1970-01-01T00:00:00.000Z", "event": "login", "user": "app", "failures": 2}\n'
    """
    moment = datetime.datetime.fromtimestamp(time, datetime.UTC)
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": stamp, "event": event, **fields}, default=_text).encode() + b"\n"


def _text(value: object) -> str:
    assert isinstance(value, bytes), value
    return value.decode("utf-8", "backslashreplace")


def _write_whole(descriptor: int, data: bytes) -> None:
    """Write all bytes; if that fails, remove those that were written, so that no line is partial. Raises `OSError`."""
    written = 0
    try:
        while written < len(data):
            written += os.write(descriptor, data[written:])
    except OSError:
        if written:
            with contextlib.suppress(OSError):  # a pipe
                os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
        raise

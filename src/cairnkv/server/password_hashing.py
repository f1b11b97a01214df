"""Passwords that people choose: argon2id in one thread.

A check takes tens of milliseconds and 19 MiB, so that guessing is slow (RFC 9106; the parameters are OWASP's). Tokens
are random and need none of this.

Invariants: no check runs on the event loop, and one runs at a time. At most `PASSWORDS_WAITING_MAX` wait; equal ones
wait together. A success is remembered as a hash with a key of this process, which `forget` and a new hash of the user's
password make useless. The memory does not grow: `PASSWORDS_KEPT_MAX`.

Out of scope: users, and the login after a success (`cairnkv.session.access.login`).
"""

import contextlib
import hashlib
import logging
import os
import queue
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from cairnkv.errors import missing_package
from cairnkv.limits import PASSWORDS_KEPT_MAX, PASSWORDS_WAITING_MAX
from cairnkv.records import record

LESS_PRIORITY: Final = 10
"""The niceness of the thread above that of the server: where CPU is short, clients come before checks."""

logger: Final = logging.getLogger("cairnkv.logins")

MEMORY_KIB: Final = 19 * 1024
PASSES: Final = 2
LANES: Final = 1
"""The parameters of new hashes. With more lanes, a check delays other clients although another thread runs it."""


def require_argon2() -> None:
    """Raise `OptionError` if the package for passwords is not installed."""
    try:
        import argon2.low_level  # noqa: F401
    except ImportError as error:
        raise missing_package(error, "a password (argon2id)", "auth") from None


def hash_password(password: bytes) -> str:
    """Return the hash of a new password. Raises `OptionError` without the package."""
    require_argon2()
    from argon2.low_level import Type, hash_secret

    salt = secrets.token_bytes(16)
    made = hash_secret(
        password, salt, time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES, hash_len=32, type=Type.ID
    )
    return made.decode()


def matches(text: str, password: bytes) -> bool:
    """Return whether a password has a hash. Takes tens of milliseconds."""
    from argon2.exceptions import Argon2Error
    from argon2.low_level import Type, verify_secret

    try:
        return verify_secret(text.encode(), password, Type.ID)
    except (Argon2Error, ValueError):
        return False


Done: TypeAlias = Callable[[bool], None]


@record
class _Job:
    """A check. age: how often successes were forgotten before it."""

    digest: bytes
    hashes: tuple[str, ...]
    password: bytes
    age: int


class PasswordChecker:
    """Checks passwords against hashes in one thread, which begins with the first check."""

    def __init__(
        self, deliver: Callable[[Callable[[], None]], object], *, check: Callable[[str, bytes], bool] = matches
    ) -> None:
        """deliver: calls a function in the thread of the server's event loop. check: `matches`."""
        self._deliver = deliver
        self._check = check
        self._key = secrets.token_bytes(32)
        self._proven: OrderedDict[bytes, None] = OrderedDict()  # the least recently used first
        self._waiting: dict[bytes, list[Done]] = {}
        self._age = 0  # how often `forget` was called
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """The number of checks that wait or run."""
        return len(self._waiting)

    def verify(self, hashes: Sequence[str], password: bytes, done: Done) -> bool:
        """Call `done` with whether a password has one of some hashes, now or later. Returns False if too many wait."""
        job = self._digest(hashes, password)
        if job in self._proven:
            self._proven.move_to_end(job)
            done(True)
            return True
        if job in self._waiting:
            self._waiting[job].append(done)
            return True
        if len(self._waiting) >= PASSWORDS_WAITING_MAX:
            return False
        self._waiting[job] = [done]
        self._jobs.put(_Job(job, tuple(hashes), password, self._age))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cairnkv passwords", daemon=True)
            self._thread.start()
        return True

    def forget(self) -> None:
        """Remove all successes, because users have changed."""
        self._age += 1
        self._proven.clear()

    def close(self) -> None:
        """End the thread after the check that runs. Waiting checks are lost."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)

    def _digest(self, hashes: Sequence[str], password: bytes) -> bytes:
        keyed = hashlib.blake2b("\n".join(hashes).encode(), key=self._key)
        keyed.update(b"\0" + password)
        return keyed.digest()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # on Linux, of this thread only
            if sys.platform == "linux":
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + LESS_PRIORITY)
        while (job := self._jobs.get()) is not None:
            try:
                right = any(self._check(text, job.password) for text in job.hashes)
            except Exception:  # the thread must go on
                logger.exception("the check of a password failed")
                right = False
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._deliver(partial(self._finish, job, right))

    def _finish(self, job: "_Job", right: bool) -> None:
        if right and job.age == self._age:
            self._proven[job.digest] = None
            if len(self._proven) > PASSWORDS_KEPT_MAX:
                self._proven.popitem(last=False)
        for done in self._waiting.pop(job.digest, ()):
            done(right)

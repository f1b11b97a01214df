"""The knowledge of a process about the lease of a job.

In a worker with processes, the parent process extends the lease of a job that a child process has. Both see the state
in shared memory.

Invariants: a state belongs to one lease. Shared memory of an earlier lease has no effect on it.
"""

import mmap
import struct
from typing import Final

_END: Final = struct.Struct("=Qd")
_LOSS: Final = struct.Struct("=QH")
_LOSS_AT: Final = 64
_TEXT_AT: Final = _LOSS_AT + _LOSS.size
_TEXT_MAX: Final = 512


class LeaseState:
    """The time from which a lease counts as lost, by `time.monotonic`, and why it is already lost, or None."""

    until = 0.0
    why_lost: str | None = None


def shared_memory() -> mmap.mmap:
    """Return memory for one state at a time, which forked processes share."""
    return mmap.mmap(-1, mmap.PAGESIZE)


class SharedLeaseState(LeaseState):
    """The state of a lease with this token, in shared memory."""

    def __init__(self, memory: mmap.mmap, token: int) -> None:
        self._memory = memory
        self._token = token
        self._first_until: float | None = None

    @property
    def until(self) -> float:
        token, until = _END.unpack_from(self._memory)
        return until if token == self._token or self._first_until is None else self._first_until

    @until.setter
    def until(self, until: float) -> None:
        if self._first_until is None:
            self._first_until = until
        _END.pack_into(self._memory, 0, self._token, until)

    @property
    def why_lost(self) -> str | None:
        token, length = _LOSS.unpack_from(self._memory, _LOSS_AT)
        if token != self._token:
            return None
        return self._memory[_TEXT_AT : _TEXT_AT + length].decode("utf-8", "replace")

    @why_lost.setter
    def why_lost(self, why: str | None) -> None:
        text = (why or "").encode()[:_TEXT_MAX]
        self._memory[_TEXT_AT : _TEXT_AT + len(text)] = text
        _LOSS.pack_into(self._memory, _LOSS_AT, self._token, len(text))

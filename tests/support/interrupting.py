"""Interrupts at every point of a call at which CPython may run a signal handler or raise another thread's exception.

Such a point is the start of a function, a jump back, and the instruction behind a call: the interpreter looks at its
pending work there and nowhere else. `at_each_point` makes a call once for each of them.
"""

import dis
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import cairnkv

PACKAGE = str(Path(cairnkv.__file__).parent)

LOOKS = ("RESUME", "JUMP_BACKWARD")
"""Prefixes of the names of opcodes before which the interpreter checks for pending work."""

CALLS = ("CALL",)
"""Prefixes of the names of opcodes after which the interpreter checks for pending work."""


class Interruption(BaseException):
    """The exception of a signal handler."""


def points_of(code: CodeType, known: dict[CodeType, frozenset[int]]) -> frozenset[int]:
    """The offsets of a function's instructions before which something may come in between."""
    if code not in known:
        found, behind_call = set[int](), False
        for instruction in dis.get_instructions(code):
            if behind_call or instruction.opname.startswith(LOOKS):
                found.add(instruction.offset)
            behind_call = instruction.opname.startswith(CALLS)
        known[code] = frozenset(found)
    return known[code]


class Points:
    """Counts the points of a call in the modules of the package, and does something at one of them, once."""

    _known: dict[CodeType, frozenset[int]] = {}  # noqa: RUF012  # shared: code objects do not change

    def __init__(self, number: int, action: Callable[[], None]) -> None:
        self._left = number
        self._action = action
        self.reached = False

    def _trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if event == "call":
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode" and not self.reached and frame.f_lasti in points_of(frame.f_code, self._known):
            if self._left == 0:
                self.reached = True
                sys.settrace(None)
                self._action()
            self._left -= 1
        return self._trace

    def run(self, call: Callable[[], object]) -> None:
        """Make the call."""
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            call()
        finally:
            sys.settrace(before)


def interrupt() -> None:
    """Raise what a signal handler would."""
    raise Interruption


def at_each_point(
    prepare: Callable[[], Callable[[], object]], action: Callable[[], None] = interrupt, step: int = 1
) -> Iterator[bool]:
    """Make a call as often as it has points, and do something at another one each time.

    prepare: gives the call. step: points from one to the next. Yields, behind each, whether it was interrupted.
    """
    number = 0
    while True:
        call = prepare()
        points = Points(number, action)
        interrupted = False
        try:
            points.run(call)
        except Interruption:
            interrupted = True
        if not points.reached:
            return
        yield interrupted
        number += step

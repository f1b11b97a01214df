"""Interrupts at every point of a call at which CPython may run a signal handler or raise another thread's exception.

Such a point is the start of a function, the resumption of a generator, a jump back, and the instruction behind a call:
the interpreter looks at its pending work there and nowhere else. `at_each_point` makes a call once for each of them.
"""

import dis
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import cairnkv

PACKAGE = str(Path(cairnkv.__file__).parent)

CALLS = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
"""Opcodes after which the interpreter checks for pending work."""

JUMPS = ("JUMP_BACKWARD", "POP_JUMP_BACKWARD_IF_")
"""Prefixes of the names of opcodes at which it checks, too. Before Python 3.12, conditional jumps back were opcodes."""

NO_CHECK = "JUMP_BACKWARD_NO_INTERRUPT"
"""The jump back of `await` and `yield from`. The interpreter does not check there."""

LEAST_POINTS = 20
"""Fewest points of a call of the package, unless native code executes it."""


class Interruption(BaseException):
    """The exception of a signal handler."""


def checks(instruction: dis.Instruction) -> bool:
    """Return whether the interpreter checks for pending work at this instruction."""
    if instruction.opname == "RESUME":
        return instruction.arg is not None and instruction.arg & 3 < 2  # from 2 on: behind `yield from` and `await`
    return instruction.opname.startswith(JUMPS) and instruction.opname != NO_CHECK


def points_of(code: CodeType, known: dict[CodeType, frozenset[int]]) -> frozenset[int]:
    """The offsets of a function's instructions before which something may come in between."""
    if code not in known:
        found, behind_call = set[int](), False
        for instruction in dis.get_instructions(code):
            if behind_call or checks(instruction):
                found.add(instruction.offset)
            behind_call = instruction.opname in CALLS
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
            # Python 3.13 reports the opcodes of a function from the first call on only if `f_trace` is set before.
            frame.f_trace = self._trace
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        # The start of a function and the resumption of a generator are calls, not opcodes, to a trace function.
        if event in ("call", "opcode") and not self.reached and frame.f_lasti in points_of(frame.f_code, self._known):
            if self._left == 0:
                self.reached = True
                sys.settrace(None)
                self._action()
            self._left -= 1
        return self._trace

    def run(self, call: Callable[[], object]) -> None:
        """Make the call."""
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = (
            True  # Python 3.12 reports opcodes if a frame asked for them before `settrace`
        )
        sys.settrace(self._trace)
        try:
            call()
        finally:
            sys.settrace(before)


def interrupt() -> None:
    """Raise what a signal handler would."""
    raise Interruption


def at_each_point(
    prepare: Callable[[], Callable[[], object]],
    action: Callable[[], None] = interrupt,
    step: int = 1,
    least: int = LEAST_POINTS,
) -> Iterator[bool]:
    """Make a call as often as it has points, and do something at another one each time.

    prepare: gives the call. step: points from one to the next. least: fewest points that the call must have, so that no
    test passes because nothing was interrupted. Yields, behind each, whether it was interrupted.
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
            assert number >= least, f"the call has {number} points to interrupt it at, not {least} or more"
            return
        yield interrupted
        number += step

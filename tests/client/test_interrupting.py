"""The points at which the interruption tests interrupt are those at which this interpreter runs signal handlers."""

import dis
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType

import pytest

from tests.support import interrupting
from tests.support.interrupting import CALLS, at_each_point, checks


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


PATIENCE = 60.0

HANDLED = 2_000
"""Signals whose places are compared with the points."""


def nothing() -> None:
    pass


def loop() -> None:
    for _ in range(3):
        len("a")


def wait_in_loop() -> None:
    left = [1, 2, 3]
    while left:
        left.pop()


def block() -> None:
    with threading.RLock():
        nothing()


def arguments() -> None:
    sorted("ba", reverse=True)
    max(*"ab")


def numbers() -> Iterator[int]:
    yield 1
    yield from (2, 3)


def generator() -> None:
    list(numbers())


SAMPLES: dict[Callable[[], None], int] = {
    nothing: 1,  # its start
    loop: 1 + 1 + 3 * 2,  # its start, behind `range`, and in each pass behind `len` and at the jump back
    block: 1 + 3 + 1,  # its start, behind `RLock`, `nothing` and `__exit__`, the start of `nothing`
    arguments: 1 + 2,  # its start, behind `sorted` and `max`
    generator: 1 + 2 + 2,  # its start, behind `numbers` and `list`, in `numbers` its start and behind `yield`
}
"""Functions, and the number of points of a call."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupting, "PACKAGE", __file__)


@pytest.mark.parametrize("function", SAMPLES)
def test_call_is_interrupted_at_each_point(function: Callable[[], None]) -> None:
    interrupted = list(at_each_point(lambda: function, least=1))
    assert interrupted == [True] * SAMPLES[function]


def test_loop_with_condition_is_interrupted_in_each_pass() -> None:
    # A last jump that is not taken counts before Python 3.12, which has conditional jumps back.
    assert len(list(at_each_point(lambda: wait_in_loop, least=1))) in (1 + 3 + 2, 1 + 3 + 3)


def test_call_without_points_is_an_error() -> None:
    with pytest.raises(AssertionError, match="0 points"):
        list(at_each_point(lambda: "".upper))


FIRST = """
from tests.support import interrupting
interrupting.PACKAGE = "<string>"
def call():
    for _ in range(9):
        len("a")
print(len(list(interrupting.at_each_point(lambda: call))))
"""


def test_first_call_of_a_process_has_the_same_points_as_later_calls() -> None:
    """Python 3.12 and 3.13 report no opcodes of it unless they are asked in the right order."""
    ran = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ran.stdout, ran.stderr) == ("20\n", "")


def test_signal_handlers_run_only_at_points() -> None:
    """A Python version that fails here runs signal handlers elsewhere: `points_of` must find those points, too."""
    places = list[tuple[CodeType, int]]()

    def note(_: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename == __file__:
            places.append((frame.f_code, frame.f_lasti))

    before = signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        while len(places) < HANDLED:
            for function in (*SAMPLES, wait_in_loop):
                function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # `f_lasti` is a call, not the instruction behind it. Python 3.11 joins CALL, and a jump, with the one before.
    joined = 2 if sys.version_info < (3, 12) else 1
    for code, offset in set(places):
        instructions = [each for each in dis.get_instructions(code) if each.offset >= offset][:joined]
        assert any(checks(each) or each.opname in CALLS for each in instructions), instructions

"""Records behave as frozen dataclasses with slots, at a lower cost."""

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import ClassVar, Generic, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.records import record, replace

T = TypeVar("T")


@record
class Point:
    """A place."""

    DIMENSIONS: ClassVar[int] = 2

    x: int
    y: int = 0

    def moved(self, by: int) -> "Point":
        """It, further on."""
        return replace(self, x=self.x + by)


@record
class Named(Point):
    name: str = "somewhere"


class Undeclared(Point):
    """A subclass that adds no fields."""

    __slots__ = ()


@record
class Nothing:
    pass


@record
class Box(Generic[T]):
    content: T


@record
class Checked:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("below 0")


@dataclasses.dataclass(frozen=True, slots=True)
class Like:
    x: int
    y: int = 0


@given(st.integers(), st.integers(), st.integers(), st.integers())
def test_records_are_equal_as_dataclasses_are(a: int, b: int, c: int, d: int) -> None:
    one, other = Point(a, b), Point(c, y=d)
    assert (one == other) == (Like(a, b) == Like(c, d))
    assert (one == Point(a, b), hash(one) == hash(Point(a, b))) == (True, True)
    assert repr(one) == repr(Like(a, b)).replace("Like", "Point")


def test_records_of_other_classes_are_not_equal() -> None:
    assert Point(1) != Undeclared(1)
    assert Undeclared(1) == Undeclared(1, 0)
    assert Point(1) != Named(1)
    assert Point(1) != (1, 0)
    assert Nothing() == Nothing()
    assert Nothing() != Count()


@record
class Count:
    pass


@pytest.mark.parametrize("one", [Point(1), Named(1, 2, "here"), Undeclared(3), Nothing(), Box([1])])
def test_records_are_immutable(one: object) -> None:
    for name in ("x", "content", "other"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(one, name, 5)
        with pytest.raises(AttributeError, match="immutable"):
            delattr(one, name)
    assert not hasattr(one, "__dict__")


@pytest.mark.parametrize("one", [Point(1), Named(1, 2, "here"), Undeclared(3), Nothing(), Box([1])], ids=repr)
def test_records_can_be_copied_and_pickled(one: object) -> None:
    for again in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one)), replace(one)):
        assert again == one
        assert type(again) is type(one)


def test_fields_of_a_base_come_first() -> None:
    assert repr(Named(1, 2, "here")) == "Named(x=1, y=2, name='here')"
    assert Named(1) == Named(1, 0, "somewhere")
    assert isinstance(Named(1), Point)
    assert Named(1, 2, "here").moved(3) == Named(4, 2, "here")
    assert Undeclared(1).moved(3) == Undeclared(4)


def test_records_match_patterns() -> None:
    match Named(1, 2, "here"):
        case Named(x, y, name):
            assert (x, y, name) == (1, 2, "here")
    match Point(1):
        case Point(x=5):
            raise AssertionError
        case Point(1, y):
            assert y == 0


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})],
    ids=["too few", "too many", "twice", "unknown"],
)
def test_wrong_arguments_are_refused(values: tuple[int, ...], named: dict[str, int]) -> None:
    for _ in range(2):  # before the constructor is compiled, and after
        with pytest.raises(TypeError, match="__init__"):
            Point(*values, **named)


def test_methods_of_the_class_are_kept() -> None:
    assert Point.__doc__ == "A place."
    assert Point.DIMENSIONS == 2
    assert (Point.__module__, Point.__qualname__) == (__name__, "Point")
    assert Point.__match_args__ == ("x", "y")
    assert Checked(0) == Checked(0)
    with pytest.raises(ValueError, match="below 0"):
        Checked(-1)
    Point(1)
    assert list(inspect.signature(Point).parameters) == ["x", "y"]


def test_records_are_declared_without_compiling_code() -> None:
    """Dataclasses compile code, which would slow the start of every program for each command."""
    code = """
import sys
native_path_in_use = []
sys.addaudithook(lambda event, given: native_path_in_use.append(str(given[0])) if event == "compile" else None)
import cairnkv.commands
constructors = [text for text in native_path_in_use if "set_key(" in text]
for _ in range(2):
    cairnkv.commands.Swap(b"k", b"v")
print(len(constructors), sum("set_key(" in text for text in native_path_in_use), "dataclasses" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "0 1 False\n"

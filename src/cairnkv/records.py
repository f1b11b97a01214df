"""Records: small immutable classes, which are equal if their classes and fields are equal.

They replace `dataclasses.dataclass(frozen=True, slots=True)` in modules that every program imports. A dataclass
compiles six methods when its class is declared, which is most of the import time. Records share their methods, except
the constructor, which is compiled for the first instance.

Invariants: a record never changes, and has no attributes but its fields.

Out of scope: mutable classes and default factories; use dataclasses.
"""

import operator
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform, get_origin

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def record(plain: type[_T]) -> type[_T]:
    """Make a class a record. Its fields are its annotations, in order, with their values as defaults.

    The fields of base classes that are records come first. The constructor calls `__post_init__` at its end.

    >>> @record
    ... class Point:
    ...     x: int
    ...     y: int = 0
    >>> Point(1), Point(1) == Point(1, 0)
    (Point(x=1, y=0), True)
    """
    of_class: Any = ClassVar
    own = [name for name, kind in plain.__annotations__.items() if get_origin(kind) is not of_class]
    inherited: tuple[str, ...] = getattr(plain, "__match_args__", ())
    names = (*inherited, *(name for name in own if name not in inherited))
    namespace = {name: thing for name, thing in vars(plain).items() if name not in own}
    for name in ("__dict__", "__weakref__"):  # a class with slots must not have them
        namespace.pop(name, None)
    for name, method in _METHODS.items():
        namespace.setdefault(name, method)
    namespace |= {
        "__slots__": tuple(name for name in own if name not in inherited),
        "__match_args__": names,
        "__qualname__": plain.__qualname__,
        # Without fields, the class is the only value.
        "_values": operator.attrgetter(*names or ("__class__",)),
        "_defaults": {
            **getattr(plain, "_defaults", {}),
            **{name: vars(plain)[name] for name in own if name in vars(plain)},
        },
    }
    metaclass: Any = type(plain)
    made: Any = metaclass(plain.__name__, plain.__bases__, namespace)

    def __init__(self: Any, *values: Any, **named: Any) -> None:  # noqa: N807 - for the first instance
        made.__init__ = _constructor(made)
        made.__init__(self, *values, **named)

    made.__init__ = __init__
    finished: type[_T] = made
    return finished


def fields_of(one: Any) -> dict[str, Any]:
    """Return the values of a record's fields, by name."""
    return {name: getattr(one, name) for name in type(one).__match_args__}


def replace(one: _T, **changes: Any) -> _T:
    """Return a copy of a record with other values of the named fields."""
    return type(one)(**fields_of(one) | changes)


def _constructor(made: Any) -> Callable[..., None]:
    """Compile the `__init__` of a record. It uses the setters of slots, because the class refuses assignments."""
    names, defaults = made.__match_args__, made._defaults
    scope: dict[str, Any] = {f"set_{name}": getattr(made, name).__set__ for name in names}
    scope |= {f"default_{name}": default for name, default in defaults.items()}
    parameters = [f"{name}=default_{name}" if name in defaults else name for name in names]
    steps = [f"set_{name}(self, {name})" for name in names]
    if hasattr(made, "__post_init__"):
        steps.append("self.__post_init__()")
    exec(f"def __init__({', '.join(['self', *parameters])}): {'; '.join(steps) or 'pass'}", scope)
    constructor: Callable[..., None] = scope["__init__"]
    return constructor


# -- shared methods ----------------------------------------------------------------------------------------------------


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return self._values(self) == self._values(other)


def _hash(self: Any) -> int:
    return hash(self._values(self))


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({shown})"


def _reduce(self: Any) -> tuple[Any, ...]:
    return type(self), tuple(getattr(self, name) for name in self.__match_args__)


def _refuse_to_set(self: Any, name: str, value: object) -> None:
    raise AttributeError(f"cannot set {name!r}: a {type(self).__name__} is immutable")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise AttributeError(f"cannot delete {name!r}: a {type(self).__name__} is immutable")


_METHODS: dict[str, Any] = {
    "__eq__": _equal,
    "__hash__": _hash,
    "__repr__": _repr,
    "__reduce__": _reduce,
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
}

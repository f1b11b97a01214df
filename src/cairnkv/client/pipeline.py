"""Pipelines of the sync client: commands that leave together.

Not for async code: there, calls that are issued in one turn of the loop leave together by themselves.
"""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, overload

from cairnkv.client.calls import (
    UNSET,
    Call,
    Calls,
    D,
    Durability,
    K,
    Key,
    NotCopied,
    Seconds,
    T,
    Unset,
    V,
    Values,
    from_memory,
    locally,
    memory_is_enough,
)
from cairnkv.commands import Failure, InMemory, Reply
from cairnkv.errors import CairnError, CallerError, Unavailable, error_of


class Pending(Generic[T]):
    """A result of a pipeline, to be had once the pipeline was carried out."""

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self._reply: Reply | None = None
        self._error: CairnError | None = None

    def settle(self, reply: Reply) -> None:
        """The reply has come."""
        self._reply, self._error = reply, None

    def fail(self, error: CairnError) -> None:
        """No reply will come."""
        self._reply, self._error = None, error

    @property
    def refused_here(self) -> Failure | None:
        """The failure, if it says that another node may well do what this one could not."""
        return self._reply if isinstance(self._reply, Failure) and self._reply.code.elsewhere else None

    @property
    def unharmed(self) -> bool:
        """Whether the command was certainly not executed, or only reads, and may be carried out by another node."""
        return self.refused_here is not None or (self._reply is None and isinstance(self._error, Unavailable))

    @property
    def error(self) -> CairnError | None:
        """What `result` would raise because the command failed."""
        if isinstance(self._reply, Failure):
            return error_of(self._reply, writes=self.call.command.spec.writes)
        return self._error

    def result(self) -> T:
        """The result; raises what went wrong with this command."""
        return self.call.result(self._answer())

    @property
    def reached(self) -> Durability:
        """How safe a write was when its reply left: "memory" only where that was asked for; raises as `result`."""
        return "memory" if isinstance(self._answer(), InMemory) else "committed"

    def _answer(self) -> Reply:
        if (error := self.error) is not None:
            raise error
        if self._reply is None:
            raise CallerError("the pipeline was not carried out yet: leave its with statement, or call execute()")
        return self._reply


AnyPending: TypeAlias = Pending[Any]


class Commands(NotCopied, Generic[K, V]):
    """The methods of pipelines. Each adds a command, and returns a `Pending` for its result."""

    def __init__(self, calls: Calls[K, V]) -> None:
        self._calls = calls
        self._pending: list[AnyPending] = []

    def _add(self, call: Call[T]) -> Pending[T]:
        pending = Pending(call)
        self._pending.append(pending)
        return pending

    def _take(self) -> list[AnyPending]:
        pending = list(self._pending)
        self._pending.clear()
        return pending

    def __len__(self) -> int:
        return len(self._pending)

    @overload
    def get(
        self, key: Key, default: None = None, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> Pending[V | None]: ...
    @overload
    def get(
        self, key: Key, default: D, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> Pending[V | D]: ...
    def get(
        self,
        key: Key,
        default: D | None = None,
        *,
        clear: bool = False,
        ttl: Seconds | None = None,
        persist: bool = False,
    ) -> Pending[Any]:
        return self._add(self._calls.get(key, default, clear=clear, ttl=ttl, persist=persist))

    def set(
        self,
        key: Key,
        value: V,
        *,
        ttl: Seconds | None = None,
        keep_ttl: bool = False,
        if_absent: bool = False,
        if_present: bool = False,
        if_equals: V | Unset = UNSET,
    ) -> Pending[bool]:
        return self._add(
            self._calls.set(
                key,
                value,
                ttl=ttl,
                keep_ttl=keep_ttl,
                if_absent=if_absent,
                if_present=if_present,
                if_equals=if_equals,
            )
        )

    def swap(
        self,
        key: Key,
        value: V,
        *,
        ttl: Seconds | None = None,
        keep_ttl: bool = False,
        if_absent: bool = False,
        if_present: bool = False,
        if_equals: V | Unset = UNSET,
    ) -> Pending[V | None]:
        return self._add(
            self._calls.swap(
                key,
                value,
                ttl=ttl,
                keep_ttl=keep_ttl,
                if_absent=if_absent,
                if_present=if_present,
                if_equals=if_equals,
            )
        )

    def clear(self, key: Key) -> Pending[None]:
        return self._add(self._calls.clear(key))

    def clear_if_equals(self, key: Key, value: V) -> Pending[bool]:
        return self._add(self._calls.clear_if_equals(key, value))

    def exists(self, key: Key) -> Pending[bool]:
        return self._add(self._calls.exists(key))

    def incr(self, key: Key, n: int = 1) -> Pending[int]:
        return self._add(self._calls.incr(key, n))

    def ttl(self, key: Key) -> Pending[float | None]:
        return self._add(self._calls.ttl(key))

    def expire(self, key: Key, ttl: Seconds) -> Pending[bool]:
        return self._add(self._calls.expire(key, ttl))

    def persist(self, key: Key) -> Pending[bool]:
        return self._add(self._calls.persist(key))

    def get_many(self, keys: Iterable[Key]) -> Pending[dict[K, V]]:
        return self._add(self._calls.get_many(keys))

    def set_many(self, values: Values[V], *, ttl: Seconds | None = None) -> Pending[None]:
        return self._add(self._calls.set_many(values, ttl=ttl))

    def clear_many(self, keys: Iterable[Key]) -> Pending[int]:
        return self._add(self._calls.clear_many(keys))

    def count(self) -> Pending[int]:
        return self._add(self._calls.count())

    def clear_all(self) -> Pending[None]:
        return self._add(self._calls.clear_all())

    def ping(self, text: str = "") -> Pending[str]:
        return self._add(self._calls.ping(text))

    def info(self) -> Pending[dict[str, str | int]]:
        return self._add(self._calls.info())


def raise_first(pending: list[AnyPending]) -> None:
    """Raise the first error of executed commands."""
    for error in filter(None, (result.error for result in pending)):
        raise error


class Pipeline(Commands[K, V]):
    """Commands that the client sends together. Each method returns a `Pending`; `execute` sends the commands.

    The commands execute in order, one by one. Commands of other clients may execute in between. No command is repeated,
    except at several nodes: if a node executed none of the commands in a window of some tens of KiB, the client sends
    them to another node.
    """

    def __init__(self, calls: Calls[K, V], carry_out: Callable[[list[AnyPending]], None]) -> None:
        super().__init__(calls)
        self._carry_out = carry_out

    def execute(self) -> None:
        """Execute the commands. Afterwards raises the first error; each result has its own error."""
        pending = self._take()
        self._carry_out(pending)
        raise_first(pending)

    def durability(self, how: Durability) -> "Pipeline[K, V]":
        """Return this pipeline with another durability of its writes. See `KeyValue.durability`."""
        return _FromMemory(self) if memory_is_enough(how) else self

    def local(self) -> "Pipeline[K, V]":
        """Return this pipeline with local reads. See `KeyValue.local`."""
        return _Local(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.execute()


class _View(Pipeline[K, V]):
    """A pipeline that adds its calls to another one, in its own way."""

    def __init__(self, pipeline: Pipeline[K, V]) -> None:
        self._calls = pipeline._calls
        self._pipeline = pipeline

    def execute(self) -> None:
        self._pipeline.execute()

    def __len__(self) -> int:
        return len(self._pipeline)


class _FromMemory(_View[K, V]):
    """A pipeline whose writes are answered once they are in memory."""

    def _add(self, call: Call[T]) -> Pending[T]:
        return self._pipeline._add(from_memory(call))

    def durability(self, how: Durability) -> Pipeline[K, V]:
        return self if memory_is_enough(how) else self._pipeline


class _Local(_View[K, V]):
    """A pipeline whose reads are answered by the node that is asked."""

    def _add(self, call: Call[T]) -> Pending[T]:
        return self._pipeline._add(locally(call))

    def durability(self, how: Durability) -> Pipeline[K, V]:
        pipeline = self._pipeline.durability(how)
        return self if pipeline is self._pipeline else _Local(pipeline)

    def local(self) -> Pipeline[K, V]:
        return self

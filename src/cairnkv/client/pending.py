"""Results of pipelines, and the calls that a pipeline collects.

Out of scope: the methods that add calls (`pipeline_methods`), and their execution (`pipeline`, `aio.pipeline`).
"""

from typing import Any, Generic, TypeAlias

from cairnkv.client.calls import Call, Calls, Durability, K, NotCopied, T, V, with_leeway
from cairnkv.commands import Failure, InMemory, Reply
from cairnkv.commands.failures import NOAUTH
from cairnkv.errors import CairnError, CallerError, Unavailable, error_of


class Pending(Generic[T]):
    """The result of a command in a pipeline, which is there once the pipeline has been executed."""

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self._reply: Reply | None = None
        self._error: CairnError | None = None

    def settle(self, reply: Reply) -> None:
        """Set the reply."""
        self._reply, self._error = reply, None

    def fail(self, error: CairnError) -> None:
        """Set the reason why there is no reply."""
        self._reply, self._error = None, error

    @property
    def refused_here(self) -> Failure | None:
        """The failure, if another node may be able to execute the command."""
        return self._reply if isinstance(self._reply, Failure) and self._reply.code.elsewhere else None

    @property
    def unharmed(self) -> bool:
        """Whether another node may execute the command: this one has not, or the command only reads."""
        return self.refused_here is not None or (self._reply is None and isinstance(self._error, Unavailable))

    @property
    def not_logged_in(self) -> bool:
        """Whether the command failed because the connection is not logged in."""
        return isinstance(self._reply, Failure) and self._reply.code is NOAUTH

    @property
    def error(self) -> CairnError | None:
        """The error that `result` raises because the command failed, or None."""
        if isinstance(self._reply, Failure):
            return error_of(self._reply, writes=self.call.command.spec.writes)
        return self._error

    def result(self) -> T:
        """Return the result. Raises the error of this command."""
        return self.call.result(self._answer())

    @property
    def reached(self) -> Durability:
        """The durability of a write when its reply was sent: "memory" only if the call asked for it.

        Raises the error of this command.
        """
        return "memory" if isinstance(self._answer(), InMemory) else "committed"

    def _answer(self) -> Reply:
        if (error := self.error) is not None:
            raise error
        if self._reply is None:
            raise CallerError("the pipeline has not been executed yet: leave its with statement, or call execute()")
        return self._reply


AnyPending: TypeAlias = Pending[Any]


class PendingCalls(NotCopied, Generic[K, V]):
    """The calls that a pipeline has collected and not yet executed."""

    def __init__(self, calls: Calls[K, V]) -> None:
        self._calls = calls
        self._pending: list[AnyPending] = []
        self._memory = self._local = False

    def _add(self, call: Call[T]) -> Pending[T]:
        if self._memory or self._local:
            call = with_leeway(call, memory=self._memory, local=self._local)
        pending = Pending(call)
        self._pending.append(pending)
        return pending

    def _take(self) -> list[AnyPending]:
        pending = list(self._pending)
        self._pending.clear()
        return pending

    def __len__(self) -> int:
        return len(self._pending)


def raise_first(pending: list[AnyPending]) -> None:
    """Raise the first error of executed commands."""
    for error in filter(None, (result.error for result in pending)):
        raise error

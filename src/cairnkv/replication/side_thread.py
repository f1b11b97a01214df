"""One thread beside the event loop, for what reads, writes, hashes and syncs files.

What always holds: its jobs run one after the other. So what removes a directory runs behind what still writes to it,
also where nobody waits for that any more because its task was cancelled.

Not for work that takes many processors.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")


class SideThread:
    """The thread, which is there once it has something to do."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    def close(self) -> None:
        """Let it end when it has done what it was given."""
        self._executor.shutdown(wait=False)

    async def run(self, job: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """What a job returns, or raises. It is not stopped when the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: job(*args, **named))

    @contextlib.asynccontextmanager
    async def entered(self, manager: contextlib.AbstractContextManager[_T]) -> AsyncIterator[_T]:
        """A context manager that is entered and left there. One that swallows what is raised within does not here."""
        value = await self.run(manager.__enter__)
        try:
            yield value
        except BaseException as error:
            await asyncio.shield(self.run(manager.__exit__, type(error), error, error.__traceback__))
            raise
        await asyncio.shield(self.run(manager.__exit__, None, None, None))

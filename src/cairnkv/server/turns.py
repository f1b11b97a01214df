"""The order of the turns of connections. The server reads from its sockets between them.

Invariants: an iteration of the event loop runs at least one turn that is due, and begins no other one after
`TURNS_SECONDS`. So a client that sends one short command waits for a few turns of other clients at most, however many
of them send long pipelines or commands on long values.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from cairnkv.limits import TURNS_SECONDS


class Turns:
    """The turns that are due in the running event loop."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._is_scheduled = False
        self._is_late = False  # whether a long turn has run in this iteration

    def run(self, turn: Callable[[], None], later: Callable[[], None]) -> None:
        """Run a turn at once; or, if a long one has run since the sockets were looked at, call `later`."""
        if self._is_late:
            later()
            return
        time = asyncio.get_running_loop().time
        by = time() + TURNS_SECONDS
        turn()
        if time() >= by:
            self._is_late = True
            self._schedule()

    def add(self, turn: Callable[[], None]) -> None:
        """Run a turn after those that were added before."""
        self._due.append(turn)
        self._schedule()

    def _schedule(self) -> None:
        if (self._due or self._is_late) and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = self._is_late = False
        loop = asyncio.get_running_loop()
        by = loop.time() + TURNS_SECONDS
        try:
            for _ in range(len(self._due)):  # a turn that a turn adds belongs to the next iteration
                self._due.popleft()()
                if loop.time() >= by:
                    break
        finally:
            self._schedule()

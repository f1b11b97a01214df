"""A reply that is due: what a call awaits, and the slot that its connection keeps for it.

What always holds: it is settled, failed or cancelled once, and what comes later is dropped. One task awaits it, the
one whose call it is.

This is the readable one, over asyncio's future. `reply_future_native.pyx` has its twin, which wakes all whose replies
came together in one step of the loop. Not for when a reply comes or is given up (`connection`).
"""

import asyncio
from collections.abc import Generator
from typing import Any

from cairnkv.commands import CommandSpec, Reply
from cairnkv.errors import CairnError


class Waking:
    """How those who await replies on a connection are woken: by the loop, one by one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop


class ReplyFuture:
    """A reply that is due.

    spec: of the command that it answers. deadline: when it is given up, in the loop's time.
    """

    __slots__ = ("_future", "deadline", "spec")

    def __init__(self, spec: CommandSpec, deadline: float, waking: Waking) -> None:
        self.spec = spec
        self.deadline = deadline
        self._future: asyncio.Future[Reply] = waking.loop.create_future()

    def __await__(self) -> Generator[Any, None, Reply]:
        return self._future.__await__()

    def done(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._future.done()

    def settle(self, reply: Reply) -> None:
        """The reply has come; of no effect when it is done."""
        if not self._future.done():
            self._future.set_result(reply)

    def fail(self, error: CairnError) -> None:
        """The reply will not come; of no effect when it is done."""
        if not self._future.done():
            self._future.set_exception(error)

"""The future of a reply: a call awaits it, and its connection settles it.

Invariants: a reply settles, an error fails, or a task cancels a future once; later outcomes have no effect. Only one
task, that of the call, awaits it.

`reply_future_native.pyx` has the native twin, which wakes all tasks whose replies arrived together in one step of the
loop. Out of scope: the arrival and the timeout of a reply (`connection`).
"""

import asyncio

from cairnkv.commands import CommandSpec, Reply
from cairnkv.errors import CairnError


class Waking:
    """Wakes the tasks that await replies on a connection. Here the loop wakes them one by one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop


class ReplyFuture(asyncio.Future[Reply]):
    """The future of a reply.

    spec: the spec of its command. deadline: the time of its timeout, in the loop's time.
    """

    def __init__(self, spec: CommandSpec, deadline: float, waking: Waking) -> None:
        super().__init__(loop=waking.loop)
        self.spec = spec
        self.deadline = deadline

    def settle(self, reply: Reply) -> None:
        """Set the reply. No effect if there is an outcome."""
        if not self.done():
            self.set_result(reply)

    def fail(self, error: CairnError) -> None:
        """Set the error. No effect if there is an outcome."""
        if not self.done():
            self.set_exception(error)

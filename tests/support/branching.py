"""Scripts without Lua: a program whose next command depends on all earlier replies."""

import zlib
from collections.abc import Callable, Sequence

from cairnkv.commands import Failure, Replies, Reply, Step
from cairnkv.store import Execute, Script


class Branching(Script):
    """A script that executes one of several commands at each of its stages: which one depends on earlier replies.

    last: commands that it executes at its end. writes: whether one of its commands may change a database.
    runs: number of its runs so far.
    """

    def __init__(self, stages: Sequence[Sequence[Step]], last: Sequence[Step] = ()) -> None:
        self.stages = stages
        self.last = last
        self.runs = 0
        self.writes = any(step.command.spec.writes for stage in (*stages, last) for step in stage)

    def run(self, execute: Execute) -> Reply:
        """Execute the program; return all replies."""
        self.runs += 1
        return self.replies(execute)

    def replies(self, execute: Callable[[Step], Reply]) -> Replies:
        """Return the replies to the commands, without the texts of failures."""
        replies: list[Reply] = []

        def call(step: Step) -> None:
            reply = execute(step)
            replies.append(Failure(reply.code, "") if isinstance(reply, Failure) else reply)

        for stage in self.stages:
            call(stage[zlib.crc32(repr(replies).encode()) % len(stage)])
        for step in self.last:
            call(step)
        return Replies(tuple(replies))

"""A store in each mode, without sockets: the reply to a command is there when the call returns."""

from collections.abc import Callable
from typing import Any

from cairnkv.commands import Command, Items, QueueStats, Reply, Take
from cairnkv.store import Clock, LocalStore, PendingReply
from tests.support.late_storage import LateStorage
from tests.support.simulated import Cluster

MODES = ["in memory", "durable", "replicated"]


class StoreInMode:
    """A store in one of the modes. Each command goes to the next node of a cluster."""

    def __init__(self, mode: str, clock: Clock | None) -> None:
        """clock: None: the nodes of a cluster have their own clock."""
        self.progress: Callable[[], object] = lambda: None
        self.nodes: list[Any]
        if mode == "replicated":
            cluster = Cluster(2, room=2**20, clock=clock)
            cluster.settle()
            self.nodes = [node.running for node in cluster.nodes]
            self.progress = cluster.settle
            return
        storage = LateStorage(keeps_effects=True) if mode == "durable" else None
        assert clock is not None
        self.nodes = [LocalStore(storage=storage, clock=clock)]
        if storage is not None:
            self.progress = storage.commit

    def say(self, command: Command) -> Reply:
        """Execute a command."""
        self.nodes.append(self.nodes.pop(0))
        outcome: Reply | PendingReply = self.nodes[0].execute(command)
        self.progress()
        if not isinstance(outcome, PendingReply):
            return outcome
        assert outcome.reply is not None
        return outcome.reply

    def strings(self, command: Command) -> tuple[bytes, ...]:
        """Execute a command whose reply is several strings."""
        reply = self.say(command)
        assert isinstance(reply, Items), reply
        return tuple(string or b"" for string in reply.values)

    def taken(self, count: int = 1, queue: bytes = b"q") -> list[tuple[int, int]]:
        """Take messages, and return their leases."""
        strings = self.strings(Take(queue, count))
        return [(int(number), int(lease)) for number, lease in zip(strings[::7], strings[1::7], strict=True)]

    def stats(self, queue: bytes = b"q") -> dict[str, int]:
        """Return the numbers of messages, and totals."""
        strings = self.strings(QueueStats(queue))
        pairs = zip(strings[::2], strings[1::2], strict=True)
        return {name.decode(): int(value) for name, value in pairs if value.isdigit()}

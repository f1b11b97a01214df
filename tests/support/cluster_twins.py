"""Clients of two clusters that get the same bytes: a pure node serves the first, a native node the second.

Each cluster runs in one thread (`simulated`), which compares the states of its nodes at every log index.
"""

import random
from typing import TYPE_CHECKING

from cairnkv.commands.vocabulary import ClearPrefix
from cairnkv.protocol.native import DEFAULT_LIMITS, DecoderLimits, Width
from cairnkv.session import ServerContext, Session, native_frame_executor
from tests.support.lives import flipped, lively_frame, lively_redis
from tests.support.simulated import Cluster
from tests.support.twins import WithPurePath

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor


class Clients:
    """Clients of the first node of a cluster, which others follow."""

    def __init__(
        self,
        count: int,
        *,
        native_path_in_use: bool,
        width: Width | None = 2,
        room: int = 400,
        limits: DecoderLimits = DEFAULT_LIMITS,
    ) -> None:
        self.cluster = Cluster(3, room=room)
        self.node = self.cluster.nodes[0]
        store = self.node.running
        for node in self.cluster.nodes[2 if native_path_in_use else 0 :]:
            node.running.queues.native = None
        self.frame_executor: FrameExecutor | None = native_frame_executor(store) if native_path_in_use else None
        if native_path_in_use:
            native_frame_executor(self.cluster.nodes[1].running)  # the third node uses the pure path
        self.context = context = ServerContext(store) if native_path_in_use else WithPurePath(store)
        self.sessions = [
            Session(
                store,
                wake=lambda: None,
                width=width,
                limits=limits,
                frame_executor=self.frame_executor,
                context=context,
            )
            for _ in range(count)
        ]
        self.heard = [b""] * count
        self.cluster.settle()
        assert not store.loading

    def say(self, client: int, data: bytes) -> None:
        """Send bytes of a client, and collect its replies."""
        session = self.sessions[client]
        session.receive(data)
        self.turn(client)

    def turn(self, client: int) -> None:
        """Let its session go on."""
        session = self.sessions[client]
        session.advance()
        self.heard[client] += b"".join(session.output())
        while session.runnable:
            session.advance()
            self.heard[client] += b"".join(session.output())

    def deliver(self) -> None:
        """Let everything that is on its way come, at this moment."""
        for _ in range(10_000):
            self.node.pump()
            while self.cluster.flying:
                self.cluster.arrive()
            for node in self.cluster.nodes:
                node.follow(1_000)
            for client in range(len(self.sessions)):
                self.turn(client)
            if not self.node.running.proposer.waiting:
                return
        raise AssertionError("it does not come to rest")

    def lose_quorum(self, seconds: float) -> None:
        """Let time go on while nothing comes."""
        until = self.cluster.now + seconds
        while self.cluster.now < until:
            self.cluster.now += 0.1
            self.node.tick()
            self.cluster.flying[:] = self.cluster.flying[:4]
        for client in range(len(self.sessions)):
            self.turn(client)


def twins(
    count: int, *, width: Width | None = 2, room: int = 400, limits: DecoderLimits = DEFAULT_LIMITS
) -> tuple[Clients, Clients]:
    """The same clients of two clusters."""
    return (
        Clients(count, native_path_in_use=False, width=width, room=room, limits=limits),
        Clients(count, native_path_in_use=True, width=width, room=room, limits=limits),
    )


def agree(pure: Clients, native: Clients) -> None:
    """Assert that both have said the same and are in the same state."""
    assert pure.heard == native.heard
    for one, other in zip(pure.sessions, native.sessions, strict=True):
        assert one.state is other.state
        assert one.consumed == other.consumed
        assert one.buffered == other.buffered
    stores = pure.node.running, native.node.running
    assert stores[0].digest == stores[1].digest
    assert stores[0]._shared.now == stores[1]._shared.now
    for databases in zip(*((*store.databases, store.queues) for store in stores), strict=True):
        databases[1].check()
        assert sorted(databases[0]._table) == sorted(databases[1]._table)


def blocks(said: bytes, width: Width, *, on_redis: bool) -> bool:
    """Whether a client's next commands wait until this one has had its turn."""
    if on_redis:
        return any(word in said.upper() for word in (b"KEYS", b"WATCH", b"EXEC"))
    return int.from_bytes(said[1 : 1 + width]) == ClearPrefix.spec.number


def live(both: tuple[Clients, Clients], chance: random.Random, width: Width, *, on_redis: bool) -> None:
    """Have all clients say something, in pieces; then let all of it come.

    One client alone says what blocks it: of two, nobody promises whose next commands come first. Nor what a local read
    shows while entries come, so that client says none: of the others all are there before any has come.
    """
    blocked = chance.randrange(len(both[0].sessions))
    forward = chance.random() * 2
    for clients in both:
        clients.cluster.now += forward
    for _ in range(chance.randrange(5)):
        client = chance.randrange(len(both[0].sessions))
        count = chance.randrange(30)
        is_blocked = client == blocked
        pieces = [
            lively_redis(chance) if on_redis else lively_frame(chance, width, local=not is_blocked)
            for _ in range(count)
        ]
        if is_blocked:
            pieces = [b"*1\r\n$9\r\nREADWRITE\r\n" * on_redis, *(piece for piece in pieces if b"READONLY" not in piece)]
        said = b"".join(piece for piece in pieces if is_blocked or not blocks(piece, width, on_redis=on_redis))
        if chance.random() < 0.05:
            said = flipped(said, chance)
        cuts = sorted(chance.randrange(len(said) + 1) for _ in range(chance.randrange(3)))
        for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
            for clients in both:
                clients.say(client, said[begin:end])
    for clients in both:
        clients.deliver()
    agree(*both)

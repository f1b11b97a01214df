"""Scripts of several clients at once, with attempts, pauses, kills, disconnections and failed commits.

Each command has all of its effects, once, or none, and its reply says which.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.protocol.resp import Error, Push
from cairnkv.session.context import ServerContext
from cairnkv.session.resp.scripting.runner import Runner
from tests.session.resp.chat import Chat

pytest.importorskip("lupa")

CLIENTS = 3

SCRIPT = b"""
if ARGV[3] ~= 'last' then redis.call('append', 'log', ARGV[1]) end
redis.call('publish', 'c', ARGV[1])
for i = 1, tonumber(ARGV[2]) do end
if ARGV[3] == 'last' then redis.call('append', 'log', ARGV[1]) end
if ARGV[3] == 'fails' then redis.call('incr', 'log') end
return ARGV[1]
"""
"""Appends its name to a log, before or after a loop, and publishes it. An error at the end undoes nothing."""

ROUNDS = {"short": 10, "long": 3_000, "longer": 20_000, "too long": 200_000}
"""Rounds of the loop: within the first slice, within the second, within the last attempt, and beyond it."""

clients = st.integers(0, CLIENTS - 1)
events = st.one_of(
    st.tuples(st.just("script"), clients, st.sampled_from([*ROUNDS]), st.sampled_from(["first", "last", "fails"])),
    st.tuples(st.just("transaction"), clients, st.sampled_from([*ROUNDS]), st.sampled_from(["first", "last", "fails"])),
    st.tuples(st.sampled_from(["append", "advance", "leave"]), clients),
    st.tuples(st.sampled_from(["timer", "kill", "commit", "fail"])),
)


class World:
    """Clients of one server, with a clock that each look advances, and their commands."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timer: list[Callable[[], None]] = []
        self.first = Chat(late=True)
        self.first.store.deliver_by(lambda call: call())
        self.runner = Runner(
            self.first.store,
            seconds=self.clock,
            call_later=lambda _, callback: self.timer.append(callback),
            slice_seconds=0.002,
            seconds_max=0.1,
        )
        self.first.context = ServerContext(self.first.store, scripts=self.runner)
        self.watcher = Chat(self.first)
        self.watcher("HELLO 3")
        self.watcher("SUBSCRIBE c")
        self.chats = [Chat(self.first) for _ in range(CLIENTS)]
        self.waiting: list[list[bytes]] = [[] for _ in range(CLIENTS)]
        """By client: the names of the commands without replies."""
        self.done: set[bytes] = set()
        self.not_done: set[bytes] = set()
        self.scripts: set[bytes] = set()
        self.published: list[bytes] = []
        self.number = 0

    def clock(self) -> float:
        """Return a time that is later at each look."""
        self.now += 0.001
        return self.now

    def name(self, client: int) -> bytes:
        """Return the name of a client's next command."""
        self.number += 1
        self.waiting[client].append(b"%d," % self.number)
        return b"%d," % self.number

    def on_script(self, client: int, rounds: str, kind: str) -> None:
        name = self.name(client)
        self.scripts.add(name)
        self.chats[client].send(b"EVAL", SCRIPT, b"0", name, b"%d" % ROUNDS[rounds], kind.encode())

    def on_transaction(self, client: int, rounds: str, kind: str) -> None:
        """Send a transaction of a script and another command, whose reply comes after two others."""
        chat = self.chats[client]
        self.waiting[client] += [b"", b""]
        chat.send(b"MULTI")
        name = self.name(client)
        self.scripts.add(name)
        self.waiting[client][-1:] = [b"", name]
        chat.send(b"EVAL", SCRIPT, b"0", name, b"%d" % ROUNDS[rounds], kind.encode())
        chat.send(b"INCR", b"transactions")
        chat.send(b"EXEC")

    def on_append(self, client: int) -> None:
        self.chats[client].send(b"APPEND", b"log", self.name(client))

    def on_advance(self, client: int) -> None:
        for reply in self.chats[client].hear():
            name = self.waiting[client].pop(0)
            if name:
                (self.not_done if self.is_failure(reply) else self.done).add(name)

    @staticmethod
    def is_failure(reply: Any) -> bool:
        """Whether a reply says that nothing was executed."""
        return isinstance(reply, Error) and "not an integer" not in reply.text

    def on_leave(self, client: int) -> None:
        self.on_advance(client)
        self.chats[client].session.disconnected()
        self.chats[client] = Chat(self.first)
        self.waiting[client] = []

    def on_timer(self) -> None:
        waiting, self.timer[:] = list(self.timer), []
        for callback in waiting:
            callback()

    def on_kill(self) -> None:
        self.first("SCRIPT KILL")

    def on_commit(self) -> None:
        """Report a commit as storage does: while a script pauses, the report waits."""
        self.first.storage.deliver(self.first.storage.commit)

    def on_fail(self) -> None:
        self.first.storage.deliver(self.first.storage.fail)

    def note_messages(self) -> None:
        """Take the messages that the subscriber has received."""
        for message in self.watcher.hear():
            assert isinstance(message, Push)
            name = message.items[2]
            assert isinstance(name, bytes)
            self.published.append(name)

    def end(self) -> None:
        """Let everything end and commit."""
        while self.timer:
            self.on_timer()
        for client in range(CLIENTS):
            self.on_advance(client)
            while self.runner.is_busy:
                self.on_timer()
                self.on_commit()
                self.on_advance(client)
            self.on_commit()
            self.on_advance(client)


@given(st.lists(events, max_size=25))
def test_each_command_takes_effect_once_or_not_at_all(sent: list[tuple[Any, ...]]) -> None:
    world = World()
    for name, *arguments in sent:
        getattr(world, f"on_{name}")(*arguments)
    world.end()
    world.note_messages()
    assert world.waiting == [[]] * CLIENTS
    value = world.first("GET log")
    log = [name + b"," for name in (value or b"").split(b",")[:-1]]
    assert len(set(log)) == len(log)
    assert world.done <= set(log)
    assert not world.not_done & set(log)
    assert world.published == [name for name in log if name in world.scripts]

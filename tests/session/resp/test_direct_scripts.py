"""Scripts on a store that executes them directly give the replies and the changes that they give on any other store."""

import itertools
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.limits import COMMANDS_PER_SLICE, KEY_MAX
from cairnkv.session.context import ServerContext
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.scripting.runner import Runner
from cairnkv.session.session import Session
from cairnkv.store import LocalStore
from tests.support.raw_resp import Words, command

pytest.importorskip("lupa")

SCRIPTS: Final = (
    b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
    b"return redis.call('SET', KEYS[1], ARGV[1] or 'v')",
    b"local k = KEYS[1] return {redis.call('GET', k), redis.call('DEL', k), redis.call('GET', k)}",
    b"redis.call('set', KEYS[1], 'w', 'PX', 1000) return redis.call('set', KEYS[1], ARGV[1], 'NX')",
    b"redis.call('set', 'a', '1') redis.call('incr', 'a') redis.call('lpush', 'a', '1') return 'never'",
    b"return redis.pcall('get', '', 'b') or redis.call('get')",
    b"return redis.call('del', KEYS[1], 'b') + redis.call('del', 'c')",
    b"redis.call('publish', 'channel', 'x') return redis.call('get', KEYS[1])",
    b"redis.call('select', 1) redis.call('set', KEYS[1], 'other') return redis.call('get', KEYS[1])",
    b"return redis.call('get', string.rep('k', %d))" % (KEY_MAX + 1),
    b"return redis.call('set', '', 'v')",
    b"redis.call('set', 'd', string.rep('v', 70000)) return #redis.call('get', 'd')",
    b"return {1, 2.5, 'x', false, {ok='fine'}, {err='MY error'}}",
    b"return redis.status_reply('FINE')",
    b"error('x')",
    b"#!lua flags=no-writes\nreturn redis.call('set', 'a', '1')",
    b"",
)


class Client:
    """One client of a store with some scripts."""

    def __init__(self, *, directly: bool) -> None:
        self.store = LocalStore(clock=lambda: 1_000_000, memory_limit=None if directly else 1 << 40)
        assert self.store.executes_scripts_directly == directly
        self._context: ServerContext[RespConversation] = ServerContext(self.store, scripts=Runner(self.store))
        self.reset()
        self.shas = [self.ask(command(b"SCRIPT", b"LOAD", script))[5:-2] for script in SCRIPTS]

    @property
    def commands(self) -> int:
        """The number of executed commands, on both paths."""
        return self.store.commands + sum(executor.commands for executor in self.store.reports.executors)

    def reset(self) -> None:
        """Delete all keys, and begin a new session."""
        self._session = Session(self.store, wake=lambda: None, context=self._context)
        self.ask(command(b"FLUSHALL"))

    def ask(self, *pieces: bytes) -> bytes:
        output: list[bytes] = []
        for piece in pieces:
            self._session.receive(piece)
            while self._session.runnable:
                self._session.advance()
                output += self._session.output()
        return b"".join(output)


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, Words]:
    """The number of a script and the arguments behind its SHA-1; for -1, another command."""
    script = draw(st.integers(-1, len(SCRIPTS) - 1))
    key = st.sampled_from([b"a", b"b", b"c"])
    if script < 0:
        others = [
            (b"GET", draw(key)),
            (b"SET", draw(key), b"x"),
            (b"MULTI",),
            (b"EXEC",),
            (b"EVALSHA", b"no", b"0"),
            (),
        ]
        return script, draw(st.sampled_from(others))
    count = draw(st.sampled_from([b"1", b"1", b"1", b"1", b"0", b"2", b"9", b"-1", b"x", b"01"]))
    return script, (count, *draw(st.lists(st.sampled_from([b"a", b"b", b"v", b"x"]), max_size=3)))


def bytes_of(client: Client, asked: Sequence[tuple[int, Words]]) -> bytes:
    names = b"EVALSHA", b"evalsha", b"EvalSha"
    return b"".join(
        command(*words) if script < 0 else command(names[len(words) % 3], client.shas[script], *words)
        for script, words in asked
        if script >= 0 or words
    )


@pytest.fixture(scope="module")
def both() -> tuple[Client, Client]:
    """The client of a store that executes scripts directly, and that of another one."""
    return Client(directly=True), Client(directly=False)


@given(asked=st.lists(requests(), max_size=3 * COMMANDS_PER_SLICE), cuts=st.lists(st.integers(0, 2_000), max_size=3))
def test_replies_and_changes_are_equal(
    both: tuple[Client, Client], asked: Sequence[tuple[int, Words]], cuts: Sequence[int]
) -> None:
    direct, other = both
    for client in both:
        client.reset()
    data = bytes_of(direct, asked)
    ends = [0, *sorted(cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(ends)]
    assert direct.ask(*pieces) == other.ask(data)
    for db in (0, 1):
        mine, theirs = direct.store.databases[db], other.store.databases[db]
        assert mine.count() == theirs.count()
        assert all(mine.entry(key) == theirs.entry(key) for key in (b"a", b"b", b"c", b"d", b""))
    assert direct.commands == other.commands
    assert direct.store.reports.lookups == other.store.reports.lookups


def test_undone_script_leaves_no_trace() -> None:
    """A script that exceeds its slice is undone and continues in a later attempt, behind the replies before it."""
    store = LocalStore()
    times = iter(range(1, 1_000_000))
    runner = Runner(store, seconds=lambda: next(times) / 100)
    context: ServerContext[RespConversation] = ServerContext(store, scripts=runner)
    session = Session(store, wake=lambda: None, context=context)
    steps = b"redis.call('set', 'a', 'first') for i = 1, 20000 do end return redis.call('get', 'a')"
    short = b"return redis.call('incr', 'n')"
    asked = (short, steps, short)
    session.receive(b"".join(command(b"SCRIPT", b"LOAD", source) for source in asked[:2]))
    session.advance()
    shas = [line for line in b"".join(session.output()).split(b"\r\n") if len(line) == 40]
    session.receive(b"".join(command(b"EVALSHA", shas[asked.index(source)], b"0") for source in asked))
    watched = store.database.watch(b"a")
    session.advance()
    assert b"".join(session.output()) == b":1\r\n"
    assert store.database.get(b"a") is None
    assert store.database.is_unchanged(watched)
    output = b""
    while session.runnable:
        session.advance()
        output += b"".join(session.output())
    assert output == b"$5\r\nfirst\r\n:2\r\n"

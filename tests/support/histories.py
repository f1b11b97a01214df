"""Writers that keep a history: what they said to a server and what it acknowledged; and what a store may hold then.

Each writer has a keyspace of Redis' wire and a queue to itself and says many kinds of writes, some in pipelines,
transactions and scripts.

What always holds: a store that lost nothing has, in a writer's keyspace, exactly what the first n of its steps come to,
for an n of at least those that were acknowledged and at most those that were said. A step is one command, one script or
one transaction: half of one is never there.
"""

import dataclasses
import importlib.util
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, Self

import cairnkv
from cairnkv.commands import Failure, Items, Peek, failures
from cairnkv.commands.queue_vocabulary import LOOK_STRINGS
from cairnkv.engine import apply
from cairnkv.limits import TAKE_MAX
from cairnkv.store import LocalStore
from tests.support.raw_resp import Peer, command, value_of

KEYS: Final = 12
"""Keys of each kind that a writer uses."""

LONG_TTL_SECONDS: Final = 10_000

BRIEF_TTL_MS: Final = 300

LOG_TIME_AHEAD_MS: Final = 2_000
"""How far log time may be ahead of the clock, since it outlives crashes."""

CLOCK_SLACK_MS: Final = 500
"""How much older than a command the server's look at the clock may be."""

MESSAGES_MAX: Final = 6
DEAD_MAX: Final = 2
NACKED_MAX: Final = 10
"""Maximum messages of a writer's queue, about; dead ones; and attempts, of 20, after which a message is acked."""

LARGE_BYTES: Final = (200_000, 900_000)
"""Lengths of large values, which stand in parts or in their records."""

CACHED_BYTES: Final = (8_000, 12_000)
"""Lengths of the largest values where memory is limited to 120,000 bytes: a transaction needs several at once."""


@dataclasses.dataclass(frozen=True)
class Value:
    """A value, and the deadlines (ms since 1970) that it may have: from the earliest, to the latest."""

    value: bytes
    earliest: int | None = None
    latest: int | None = None

    def allows(self, found: tuple[bytes, int | None]) -> bool:
        """Whether a store may hold this for it."""
        value, deadline = found
        if self.earliest is None or self.latest is None:
            return value == self.value and deadline is None
        return value == self.value and deadline is not None and self.earliest <= deadline <= self.latest

    def may_be_over(self, now: int) -> bool:
        """Whether its time may be over."""
        return self.earliest is not None and self.earliest <= now + LOG_TIME_AHEAD_MS


@dataclasses.dataclass(frozen=True)
class Queued(Value):
    """A message of a queue. value: its state and its attempts. number, token: of its newest lease; 0: unknown."""

    number: int = 0
    token: int = 0

    def allows(self, found: tuple[bytes, int | None]) -> bool:
        """Whether a store may hold this for it."""
        value, number, token = found[0].rsplit(b" ", 2)
        return value == self.value and self.number in (0, int(number)) and self.token in (0, int(token))

    def completed(self, found: tuple[bytes, int | None]) -> "Queued":
        """Return the same with the numbers that a store has."""
        _, number, token = found[0].rsplit(b" ", 2)
        return dataclasses.replace(self, number=int(number), token=int(token))

    @property
    def attempts(self) -> int:
        """The number of its attempts."""
        return int(self.value.split()[1])


MESSAGES: Final = b"message:"
"""The beginning of the key of a message in a state; its body follows."""

State = dict[bytes, Value]
Change = Callable[[State, int, int], None]
"""What a command does to a state; between two times in ms."""


@dataclasses.dataclass
class Step:
    """A request, and when it was sent: a place that the test counts, and the monotonic time in ns.

    acknowledged: the place at which the reply was read; None: it was not.
    learn: called with the reply; returns the fault in it, or an empty string.
    """

    change: Change
    said: int
    clock: int
    acknowledged: int | None = None
    time: int | None = None
    clock_after: int = 0
    learn: Callable[[bytes], str] | None = None

    def apply(self, state: State) -> None:
        """Change a state as the store does."""
        self.change(state, self.clock, self.clock_after or _clock() + LOG_TIME_AHEAD_MS)


def _clock() -> int:
    return time.time_ns() // 1_000_000


class Entries(Protocol):
    """The content of a database, as `Database` gives it."""

    def slice(self, cursor: int, count: int, prefix: bytes) -> tuple[int, list[bytes]]:
        """Keys."""

    def entry(self, key: bytes) -> tuple[bytes, int | None] | None:
        """A value and its deadline."""


GONE: Final = -2
"""What PEXPIRETIME says of a key that is not there."""


class WithMessages:
    """The content of a database and of the queue of its writer."""

    def __init__(self, database: Entries, described: Sequence[Sequence[bytes | int | None]]) -> None:
        """described: each message as PEEK describes it."""
        self._database = database
        self._messages: dict[bytes, tuple[bytes, int | None]] = {}
        for one in described:
            state, body = one[2], one[12]
            assert isinstance(state, bytes)
            assert isinstance(body, bytes)
            number, lease, attempts = (int(one[at] or 0) for at in (0, 5, 6))
            self._messages[MESSAGES + body] = b"%s %d %d %d" % (state, attempts, number, lease), None

    def slice(self, cursor: int, count: int, prefix: bytes) -> tuple[int, list[bytes]]:
        """All keys and messages."""
        following, keys = self._database.slice(cursor, count, prefix)
        return following, [*keys, *self._messages]

    def entry(self, key: bytes) -> tuple[bytes, int | None] | None:
        """Return the entry of a key or message."""
        return self._messages.get(key) or self._database.entry(key)


STATES: Final = (b"ready", b"leased", b"dead")


def queue_of(db: int) -> bytes:
    """Return the name of the queue of a writer."""
    return b"jobs:%d" % db


def entries_in(store: LocalStore) -> list[WithMessages]:
    """Return the content of all databases of a store, with the queues of their writers."""
    found: list[WithMessages] = []
    for db, database in enumerate(store.databases):
        described: list[Sequence[bytes | None]] = []
        for state in STATES:
            peeked = apply(database, Peek(queue_of(db), state, 0, TAKE_MAX), 0)
            if isinstance(peeked, Failure):
                assert peeked.code is failures.NOQUEUE
                continue
            assert isinstance(peeked, Items)
            strings = peeked.values[1:]
            described += [strings[at : at + LOOK_STRINGS] for at in range(0, len(strings), LOOK_STRINGS)]
        found.append(WithMessages(database, described))
    return found


class Unsettled(Exception):
    """The server tells nothing of a keyspace: it does not know what of it the disk has."""


class Told:
    """The content of a database, as a server gives it. Raises `Unsettled`."""

    def __init__(self, peer: Peer, db: int) -> None:
        assert peer.ask(b"SELECT", b"%d" % db) == b"+OK\r\n"
        self._entries: dict[bytes, tuple[bytes, int | None]] = {}
        said = peer.ask(b"KEYS", b"*")
        if said.startswith(b"-MISCONF RECOVERING"):
            raise Unsettled(said)
        _, keys = value_of(said)
        for _, key in keys:
            _, value = value_of(peer.ask(b"GET", key))
            _, deadline = value_of(peer.ask(b"PEXPIRETIME", key))
            if value is not None and deadline != GONE:
                self._entries[key] = value, None if deadline < 0 else deadline
        described: list[list[bytes | int | None]] = []
        for state in STATES:
            said = peer.ask(b"QUEUE.PEEK", queue_of(db), state, b"0", b"%d" % TAKE_MAX)
            if said.startswith(b"-MISCONF RECOVERING"):
                raise Unsettled(said)
            kind, peeked = value_of(said)
            if kind == b"*":
                described += [[value for _, value in strings] for _, strings in peeked[1][1]]
        messages = WithMessages(self, described)
        self._entries |= {key: entry for key in messages.slice(0, 0, b"")[1] if (entry := messages.entry(key))}

    def slice(self, cursor: int, count: int, prefix: bytes) -> tuple[int, list[bytes]]:
        """All keys."""
        return 0, list(self._entries)

    def entry(self, key: bytes) -> tuple[bytes, int | None] | None:
        """Return the entry of a key."""
        return self._entries.get(key)


class Lost(AssertionError):
    """A store does not hold what it has to."""


class History:
    """One writer's steps, on top of what its keyspace held before."""

    def __init__(self, db: int) -> None:
        self.db: Final = db
        self.before: State = {}
        self.steps: list[Step] = []
        self.token = 0
        """The newest lease before, as far as it is known."""

    def check(self, database: Entries, *, acknowledged: int, said: int) -> int:
        """How many steps the keyspace holds. Raises `Lost` if not between these numbers, or none exactly."""
        _, keys = database.slice(0, 1_000_000, b"")
        found = {key: entry for key in keys if (entry := database.entry(key)) is not None}
        state = dict(self.before)
        matching: int | None = None
        latest = _clock()
        explained = ""
        for number in range(said + 1):
            if number:
                self.steps[number - 1].apply(state)
            if difference := _difference(state, found, latest):
                explained = explained if number > acknowledged else difference
            else:
                matching = number
        if matching is None or matching < acknowledged:
            what = "no number of steps" if matching is None else f"the first {matching:,} steps"
            raise Lost(
                f"keyspace {self.db}: {acknowledged:,} of {said:,} steps have to be there, and what is there is "
                f"what {what} come to. After {acknowledged:,} steps: {explained}"
            )
        return matching

    def go_on(self, database: Entries, number: int) -> "History":
        """A history of what comes after a crash that left this many steps."""
        following = History(self.db)
        state = dict(self.before)
        for step in self.steps[:number]:
            step.apply(state)
        following.before = {
            key: value.completed(entry) if isinstance(value, Queued) else value
            for key, value in state.items()
            if (entry := database.entry(key)) is not None
        }
        there = [value.token for value in following.before.values() if isinstance(value, Queued)]
        taken = [step.change.token for step in self.steps[:number] if isinstance(step.change, _Taking)]
        following.token = max([self.token, *there, *taken])
        return following

    def acknowledged_by(self, place: int) -> int:
        """How many steps were acknowledged at this place of the test's counting."""
        return sum(step.acknowledged is not None and step.acknowledged <= place for step in self.steps)

    def acknowledged_before(self, moment: int) -> int:
        """How many steps were acknowledged before this time."""
        return sum(step.time is not None and step.time < moment for step in self.steps)

    def said_by(self, place: int) -> int:
        """How many steps were said before."""
        return max(sum(step.said < place for step in self.steps), self.acknowledged_by(place))


def _difference(state: State, found: dict[bytes, tuple[bytes, int | None]], now: int) -> str:
    for key, value in state.items():
        if key not in found:
            if not value.may_be_over(now):
                return f"{key!r} is not there, which should be {value.value[:20]!r}"
        elif not value.allows(found[key]):
            return f"{key!r} is {found[key][0][:20]!r}, until {found[key][1]}, and not {str(value)[:100]}"
    for key in found:
        if key not in state:
            return f"{key!r} is there, which should not be"
    return ""


class Writer(threading.Thread):
    """A writer that runs until the server ends, or it is stopped. Use as a context manager, which ends it."""

    def __init__(
        self,
        address: tuple[str, int],
        history: History,
        seed: int,
        place: Callable[[], int] = lambda: 0,
        *,
        large: bool = True,
    ) -> None:
        """place: where the test is; counts up. large: whether values may be larger than the server's memory limit."""
        super().__init__(name=f"writer {history.db}", daemon=True)
        self._address = address
        self._history = history
        self._dice = random.Random(seed)
        self._place = place
        self._number = len(history.before) + self._dice.randrange(1_000_000)
        self._large_bytes = LARGE_BYTES if large else CACHED_BYTES
        self._state = dict(history.before)
        self._token = history.token
        self._leases = {
            key: value
            for key, value in history.before.items()
            if isinstance(value, Queued) and value.value.startswith(b"leased")
        }
        self._stopped = threading.Event()
        self.failure: bytes | None = None
        """The error reply that it ended with, if it did."""
        self.wrong = ""
        """What it read that was wrong."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join(60)
        assert not self.is_alive()

    def run(self) -> None:
        """Say them."""
        try:
            with Peer(self._address) as peer:
                assert peer.ask(b"SELECT", b"%d" % self._history.db) == b"+OK\r\n"
                while not self._stopped.is_set() and self.failure is None:
                    self._say_some(peer)
        except OSError:  # the server is gone
            return

    def _noted(self, step: Step) -> Step:
        """Note a step that is about to be said."""
        step.said, step.clock = self._place(), _clock()
        self._history.steps.append(step)
        return step

    def _acknowledged(self, step: Step) -> None:
        step.acknowledged, step.time = self._place(), time.monotonic_ns()
        step.clock_after = _clock() + LOG_TIME_AHEAD_MS
        step.apply(self._state)

    def _say_some(self, peer: Peer) -> None:
        dice = self._dice
        count = 1 if dice.random() < 0.7 else dice.randint(2, 20)
        said: list[tuple[Step, int]] = []
        data = b""
        for _ in range(count):
            step, sent, replies = self._step()
            said.append((step, replies))
            data += sent
        for step, _ in said:
            self._noted(step)
        peer.send(data)
        for step, replies in said:
            for _ in range(replies):
                reply = peer.reply()
                seen = PLANNED.sub(b"", reply[:2_000].replace(NO_SUCH_KEY, b""))
                if seen[:1] == b"-" or b"\r\n-" in seen or reply == GIVEN_UP:
                    self.failure = reply
                    return
            if step.learn is not None and (wrong := step.learn(reply)):
                self.wrong, self.failure = wrong, reply
                return
            self._acknowledged(step)
        if dice.random() < 0.2:
            self._read(peer, b"%s:%d" % (dice.choice((b"key", b"count")), dice.randrange(KEYS)))

    def _read(self, peer: Peer, key: bytes) -> None:
        """Check that reads return acknowledged writes."""
        raw = peer.ask(b"GET", key)
        kind, value = value_of(raw)
        if kind == b"-":
            self.failure = raw
        elif value != (expected := self._state[key].value if key in self._state else None):
            self.wrong = f"{key!r} reads {value!r:.50}, not {expected!r:.50}"
            self.failure = raw

    def _step(self) -> tuple[Step, bytes, int]:
        """A step, its bytes, and how many replies it gets."""
        if self._dice.random() < 0.1:
            # A RENAME that fails undoes commands on queues, too. A transaction with a script cannot have them.
            without = self._dice.choice((("rename", "script"), ("queue",)))
            parts = [self._command(*without) for _ in range(self._dice.randint(2, 5))]
            data = command(b"MULTI") + b"".join(sent for _, sent in parts) + command(b"EXEC")
            watches = self._dice.random() < 0.5
            if watches:  # there is no other writer, so each transaction succeeds
                data = command(b"WATCH", *[b"key:%d" % self._dice.randrange(KEYS) for _ in range(3)]) + data
            changes = [change for change, _ in parts]

            def change_all(state: State, begin: int, end: int) -> None:
                for each in changes:
                    each(state, begin, end)

            return Step(change_all, 0, 0), data, watches + len(parts) + 2
        change, sent = self._command()
        return Step(change, 0, 0, learn=getattr(change, "learn", None)), sent, 1

    def _command(self, *without: str) -> tuple[Change, bytes]:
        """A command and its change. without: kinds that it is not."""
        dice = self._dice
        self._number += 1
        number = dice.randrange(KEYS)
        key, text = b"key:%d" % number, b"%d:" % self._number
        kinds = {kind: weight for kind, weight in _KINDS.items() if kind not in without}
        match dice.choices(list(kinds), list(kinds.values()))[0]:
            case "set":
                value = text + dice.choice((b"", b"x" * 100, b"y" * 3_000))
                return _setting(key, value), command(b"SET", key, value)
            case "large":
                value = text * (dice.randint(*self._large_bytes) // len(text))
                return _setting(key, value), command(b"SET", key, value)
            case "lasting":
                ttl = LONG_TTL_SECONDS + dice.randrange(1_000)
                return _setting(key, text, ttl * 1_000), command(b"SET", key, text, b"EX", b"%d" % ttl)
            case "brief":
                key = b"brief:%d" % number
                return _setting(key, text, BRIEF_TTL_MS), command(b"SET", key, text, b"PX", b"%d" % BRIEF_TTL_MS)
            case "increment":
                key = b"count:%d" % number
                return _incrementing(key), command(b"INCR", key)
            case "delete":
                return _deleting(key), command(b"DEL", key)
            case "append":
                return _appending(key, text), command(b"APPEND", key, text)
            case "range":
                offset = dice.randrange(3_000)
                return _overwriting(key, offset, text), command(b"SETRANGE", key, b"%d" % offset, text)
            case "rename" | "copy" as kind:
                other = b"key:%d" % ((number + dice.randrange(1, KEYS)) % KEYS)
                if kind == "rename":
                    return _renaming(key, other), command(b"RENAME", key, other)
                return _copying(key, other), command(b"COPY", key, other, b"REPLACE")
            case "expire":
                ttl = LONG_TTL_SECONDS + dice.randrange(1_000)
                return _expiring(key, ttl * 1_000), command(b"EXPIRE", key, b"%d" % ttl)
            case "persist":
                return _expiring(key, None), command(b"PERSIST", key)
            case "queue":
                return self._on_queue()
            case "script":
                return self._script()
            case _:
                return _clearing, command(b"FLUSHDB")

    def _script(self) -> tuple[Change, bytes]:
        """A script: several commands, or a change of a key if it has a value. Every other one ends with an error."""
        dice = self._dice
        if dice.random() < 0.3:
            key, expected = b"key:%d" % dice.randrange(KEYS), b"absent"
            if key in self._state and dice.random() < 0.8:
                expected = self._state[key].value
            return _replacing(key, expected, b"%d:" % self._number), command(
                b"EVAL", REPLACE, b"1", key, expected, b"%d:" % self._number
            )
        parts = [self._command("queue", "script") for _ in range(dice.randint(2, 5))]
        arguments: list[bytes] = []
        keys: list[bytes] = []
        for _, sent in parts:
            words = [word for _, word in value_of(sent)[1]]
            arguments += [b"%d" % len(words), *words]
            keys += words[1:2]

        def change_all(state: State, begin: int, end: int) -> None:
            for change, _ in parts:
                change(state, begin, end)

        source = EXECUTE_ALL + dice.choice((b"return 'ended'", b"redis.call('PLANNED')"))
        return change_all, command(b"EVAL", source, b"%d" % len(keys), *keys, *arguments)

    def _on_queue(self) -> tuple[Change, bytes]:
        """A command on the queue. The priorities of messages are their order."""
        dice, queue = self._dice, queue_of(self._history.db)
        count = sum(key.startswith(MESSAGES) for key in self._state)
        if self._leases and dice.random() < 0.6:
            key = dice.choice(list(self._leases))
            lease = self._leases.pop(key)
            names = b"%d" % lease.number, b"%d" % lease.token
            dead = sum(value.value.startswith(b"dead") for value in self._state.values())
            if dice.random() < 0.7 or lease.attempts >= NACKED_MAX:
                return _Settling(key, None, b"*1\r\n:1\r\n"), command(b"QUEUE.ACK", *names)
            if dice.random() < 0.1 and dead < DEAD_MAX:
                left = dataclasses.replace(lease, value=b"dead %d" % lease.attempts, token=0)
                return _Settling(key, left, b":1\r\n"), command(b"QUEUE.NACK", *names, b"DEAD")
            left = dataclasses.replace(lease, value=b"ready %d" % lease.attempts, token=0)
            return _Settling(key, left, b":1\r\n"), command(b"QUEUE.NACK", *names, b"DELAY", b"0")
        if count < MESSAGES_MAX and dice.random() < 0.5:
            body = b"%d:" % self._number + dice.choice((b"", b"x" * 100))
            return _putting(body), command(b"QUEUE.PUT", queue, body, b"PRIORITY", b"%d" % self._number)
        return _Taking(self), command(b"QUEUE.TAKE", queue, b"1", b"LEASE", b"%d" % (LONG_TTL_SECONDS * 1_000))

    def learn_lease(self, reply: bytes) -> tuple[Queued | None, str]:
        """Learn the reply to a TAKE. Returns the message that it leased, and the fault in the reply."""
        key, expected = _first_ready(self._state)
        _, messages = value_of(reply)
        bodies = [MESSAGES + strings[6][1] for _, strings in messages]
        if bodies != ([] if key is None else [key]):
            return None, f"TAKE returned {bodies!r:.80}, not {key!r:.40}"
        if key is None or expected is None:
            return None, ""
        number, token, attempt = (messages[0][1][at][1] for at in range(3))
        if attempt != expected.attempts + 1:
            return None, f"attempt {attempt} of {key!r:.40}, after {expected.attempts}"
        if token <= self._token:
            return None, f"lease {token} after lease {self._token}"
        self._token = token
        lease = Queued(b"leased %d" % attempt, number=number, token=token)
        self._leases[key] = lease
        return lease, ""


_KINDS: Final = {
    "set": 40,
    "large": 0.5,
    "lasting": 10,
    "brief": 3,
    "increment": 25,
    "delete": 10,
    "append": 3,
    "range": 2,
    "rename": 4,
    "copy": 4,
    "expire": 4,
    "persist": 2,
    "queue": 30,
    "script": 15 if importlib.util.find_spec("lupa") else 0,
    "clear": 0.4,
}
"""What writers do, and how often."""

EXECUTE_ALL: Final = b"""
local at = 1
while ARGV[at] do
    local count = tonumber(ARGV[at])
    redis.pcall(unpack(ARGV, at + 1, at + count))
    at = at + count + 1
end
"""
"""A script that executes commands, each with the number of its words before it."""

REPLACE: Final = b"""
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
    return redis.call('SET', KEYS[1], ARGV[2])
end
"""

PLANNED: Final = re.compile(rb"-ERR Unknown Redis command[^\r]*\r\n")
"""The reply to a script that ends with an error: its writes stay."""

NO_SUCH_KEY: Final = b"-ERR no such key\r\n"
"""The reply to RENAME of an absent key, which changes nothing."""

GIVEN_UP: Final = b"*-1\r\n"
"""The reply to EXEC if a watched key has changed."""


class ArticleWriter(Writer):
    """The same in plain words over the article's wire, in the one keyspace that it has: SET, and nothing else."""

    def run(self) -> None:
        """Say them."""
        host, port = self._address
        try:
            with cairnkv.connect(f"cairn://{host}:{port}", timeout=20, attempts=1) as kv:
                while not self._stopped.is_set():
                    self._number += 1
                    key, value = (
                        f"key:{self._number % KEYS}",
                        f"{self._number}:" + "x" * self._dice.choice((0, 50, 5_000)),
                    )
                    step = self._noted(Step(_setting(key.encode(), value.encode()), 0, 0))
                    kv.set(key, value)
                    self._acknowledged(step)
        except cairnkv.CairnError:
            return


def _setting(key: bytes, value: bytes, ttl_ms: int | None = None) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        state[key] = Value(value) if ttl_ms is None else Value(value, begin + ttl_ms - CLOCK_SLACK_MS, end + ttl_ms)

    return change


def _incrementing(key: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        state[key] = Value(b"%d" % (int(state[key].value if key in state else b"0") + 1))

    return change


def _deleting(key: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        state.pop(key, None)

    return change


def _appending(key: bytes, text: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        old = state.get(key, Value(b""))
        state[key] = dataclasses.replace(old, value=old.value + text)

    return change


def _overwriting(key: bytes, offset: int, text: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        old = state.get(key, Value(b""))
        whole = old.value[:offset].ljust(offset, b"\0") + text + old.value[offset + len(text) :]
        state[key] = dataclasses.replace(old, value=whole)

    return change


def _replacing(key: bytes, expected: bytes, value: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        if key in state and state[key].value == expected:
            _setting(key, value)(state, begin, end)

    return change


def _renaming(key: bytes, other: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        if key in state:
            state[other] = state.pop(key)

    return change


def _copying(key: bytes, other: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        if key in state:
            state[other] = state[key]

    return change


def _expiring(key: bytes, ttl_ms: int | None) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        if key in state:
            _setting(key, state[key].value, ttl_ms)(state, begin, end)

    return change


def _clearing(state: State, begin: int, end: int) -> None:
    for key in [key for key in state if not key.startswith(MESSAGES)]:  # a queue is not in a database
        del state[key]


def _putting(body: bytes) -> Change:
    def change(state: State, begin: int, end: int) -> None:
        state[MESSAGES + body] = Queued(b"ready 0")

    return change


def _first_ready(state: State) -> tuple[bytes | None, Queued | None]:
    """Return the message that TAKE returns next, and its key."""
    ready = [key for key, value in state.items() if isinstance(value, Queued) and value.value.startswith(b"ready")]
    if not ready:
        return None, None
    key = min(ready, key=lambda key: int(key.removeprefix(MESSAGES).partition(b":")[0]))
    value = state[key]
    assert isinstance(value, Queued)
    return key, value


class _Taking:
    """A TAKE of one message."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._lease: Queued | None = None  # of the reply

    def __call__(self, state: State, begin: int, end: int) -> None:
        key, message = _first_ready(state)
        if key is not None and message is not None:
            state[key] = self._lease or Queued(b"leased %d" % (message.attempts + 1), number=message.number)

    @property
    def token(self) -> int:
        """The token in the reply; 0: unknown."""
        return 0 if self._lease is None else self._lease.token

    def learn(self, reply: bytes) -> str:
        self._lease, wrong = self._writer.learn_lease(reply)
        return wrong


class _Settling:
    """An ACK or a NACK of a message. left: the message after it."""

    def __init__(self, key: bytes, left: Queued | None, expected: bytes) -> None:
        self._key = key
        self._left = left
        self._expected = expected

    def __call__(self, state: State, begin: int, end: int) -> None:
        if self._left is None:
            state.pop(self._key, None)
        else:
            state[self._key] = self._left

    def learn(self, reply: bytes) -> str:
        return "" if reply == self._expected else f"{reply!r} to an ACK or NACK of {self._key!r:.40}"


def check_all(
    histories: Sequence[History],
    databases: Sequence[Entries],
    acknowledged: Callable[[History], int],
    said: Callable[[History], int],
) -> list[int]:
    """Check every history; how many steps of each are there."""
    return [
        history.check(databases[history.db], acknowledged=acknowledged(history), said=said(history))
        for history in histories
    ]

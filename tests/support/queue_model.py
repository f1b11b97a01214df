"""The plain model of queues: a list of messages that each command scans in full.

No index and no records. The engine must give the same replies, also after undo, restarts and late commits. Expired
messages stay in the list until a command on their queue removes them, because the bytes of a queue include them.
"""

import copy
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cairnkv.commands import (
    COMMANDS,
    MISSING,
    OK,
    Ack,
    Command,
    Extend,
    Failure,
    Items,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    QueueDrop,
    Queues,
    QueueSet,
    QueueStats,
    Remove,
    Reply,
    Requeue,
    RequeueIds,
    Take,
    TakeAny,
    failures,
)

DEFAULTS: dict[str, Any] = {
    "lease": 60_000,
    "attempts": 20,
    "backoff": 1_000,
    "factor": 2,
    "backoff_max": 3_600_000,
    "per_group": 0,
    "max_messages": 0,
    "max_bytes": 2**30,
    "max_age": 0,
    "dead_max": 100_000,
    "dead_age": 0,
    "when_full": b"refuse",
    "paused": 0,
}
TOTALS = ("put", "taken", "acked", "nacked", "expired", "died", "removed", "requeued", "dropped")


@dataclasses.dataclass
class Message:
    """A message."""

    number: int
    queue: bytes
    group: bytes
    unique: bytes
    priority: int
    due: int
    put_at: int
    expires: int
    lease_ms: int
    until: int
    until_taken: bool
    body: bytes
    lease: int = 0
    attempts: int = 0
    dead: bool = False
    reason: bytes = b""

    def state(self, now: int) -> bytes | None:
        """None: expired."""
        expired = self.expires and self.expires <= now
        if self.dead:
            return None if expired else b"dead"
        if self.due > now:
            return b"leased" if self.lease else b"delayed"
        return None if expired else b"ready"


@dataclasses.dataclass
class Queue:
    """A queue. turns: by priority and group of the live messages."""

    number: int
    settings: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(DEFAULTS))
    totals: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(TOTALS, 0))
    turn: int = 0
    turns: dict[tuple[int, bytes], int] = dataclasses.field(default_factory=dict)


class QueueModel:
    """All queues of a store."""

    def __init__(self) -> None:
        self.now = self.lead = 0
        self.messages: list[Message] = []
        self.queues: dict[bytes, Queue] = {}
        self.names: dict[tuple[bytes, bytes], tuple[int, int | None]] = {}
        """The message that has, or had, a unique name, and the time until which the name stays taken without it."""
        self.newest = self.newest_lease = 0

    def copy(self) -> "QueueModel":
        """Another one with the same messages."""
        return copy.deepcopy(self)

    def apply(self, command: Command, now: int) -> Reply:
        """Execute a command."""
        self.now = max(self.now, now)
        work: Callable[[Any], Reply] = getattr(self, f"_{command.spec.name.lower()}")
        return work(command)

    def _after(self, elapsed: int) -> int:
        """When so much has elapsed: at half speed until log time and the clock meet."""
        return max(self.now + -(-elapsed // 2), self.now - self.lead + elapsed) if self.lead else self.now + elapsed

    def _at(self, unix: int) -> int:
        return self._after(unix - self.now + self.lead) if self.lead else unix

    def _shown(self, time: int) -> int:
        """Return the time of the clock at a log time."""
        ahead = time - self.now
        return self.now - self.lead + min(2 * ahead, ahead + self.lead) if self.lead and ahead > 0 else time

    # -- the parts of commands ------------------------------------------------------------------------------------

    def _find(self, number: int) -> Message | None:
        return next((it for it in self.messages if it.number == number), None)

    def _owned(self, number: int, lease: int) -> Message | None:
        found = self._find(number)
        return found if found and found.lease == lease and found.state(self.now) else None

    def of(self, queue: bytes, *states: bytes | None) -> list[Message]:
        """The messages of a queue in these states."""
        return [it for it in self.messages if it.queue == queue and it.state(self.now) in states]

    def _live(self, queue: bytes) -> list[Message]:
        return [it for it in self.messages if it.queue == queue and not it.dead]

    def _delete(self, message: Message, total: str) -> None:
        self.messages.remove(message)
        self.queues[message.queue].totals[total] += 1
        if not message.dead:
            self._leave(message)

    def _leave(self, message: Message) -> None:
        turns = self.queues[message.queue].turns
        live = {(it.priority, it.group) for it in self._live(message.queue)}
        for line in turns.keys() - live:
            del turns[line]
        self._free_name(message)

    def _free_name(self, message: Message) -> None:
        key = message.queue, message.unique
        if self.names.get(key) == (message.number, None):
            del self.names[key]
            if message.until > self.now:
                self.names[key] = message.number, message.until

    def _die(self, message: Message) -> None:
        queue = self.queues[message.queue]
        age = queue.settings["dead_age"]
        message.dead, message.due, message.lease = True, self.now, 0
        message.expires = self._after(age) if age else 0
        queue.totals["died"] += 1
        self._leave(message)
        self._limit_dead(message.queue)

    def _limit_dead(self, name: bytes) -> None:
        limit = self.queues[name].settings["dead_max"]
        dead = [it for it in self.messages if it.queue == name and it.dead]
        for message in dead[: max(0, len(dead) - limit)] if limit else ():
            self._delete(message, "dropped" if message.state(self.now) else "expired")

    def _sweep(self, name: bytes) -> None:
        for message in self.of(name, None):
            self._delete(message, "expired")
        self._limit_dead(name)

    def _join(self, queue: Queue, message: Message) -> None:
        others = any(priority == message.priority for priority, _ in queue.turns)
        queue.turns.setdefault((message.priority, message.group), queue.turn if others else 0)

    def _make(self, name: bytes) -> Queue:
        if name not in self.queues:
            self.newest += 1
            self.queues[name] = Queue(self.newest)
        return self.queues[name]

    def _described(self, it: Message) -> tuple[bytes, ...]:
        numbers = it.priority, self._shown(it.due), it.lease, it.attempts, it.put_at, self._shown(it.expires)
        state = it.state(self.now)
        assert state is not None
        texts = it.group, it.unique, it.reason, it.body
        return (b"%d" % it.number, it.queue, state, *(b"%d" % number for number in numbers), *texts)

    # -- commands -------------------------------------------------------------------------------------------------

    def _put(self, command: Put) -> Reply:
        if command.unique is None and (command.unique_for is not None or command.until_taken):
            return Failure(failures.BADARGS, "")
        settings = self.queues[command.queue].settings if command.queue in self.queues else DEFAULTS
        if command.priority is not None and command.group is not None and settings["per_group"] == 1:
            return Failure(failures.BADARGS, "")
        holder, until = self.names.get((command.queue, command.unique or b""), (0, None))
        if holder and until is None:
            held = self._find(holder)
            assert held is not None
            taken = held.state(self.now) is not None or held.until > self.now
        else:
            taken = until is not None and until > self.now
        if taken:
            return Items((b"%d" % holder, b"0"))
        due = self._after(command.delay) if command.delay else max(self.now, self._at(command.at or 0))
        message = Message(
            0,
            command.queue,
            command.group or b"",
            command.unique or b"",
            1_000 if command.priority is None else command.priority,
            due,
            self.now,
            self._after(command.expires) if command.expires else 0,
            command.lease or 0,
            self._after(command.unique_for) if command.unique_for else 0,
            command.until_taken,
            b"",
        )
        return self._put_all(message, (command.body,), b"1")

    def _put_many(self, command: PutMany) -> Reply:
        name, due = command.queue, self._after(command.delay)
        message = Message(0, name, b"", b"", command.priority, due, self.now, 0, 0, 0, False, b"")
        return self._put_all(message, command.bodies, b"%d" % len(command.bodies))

    def _put_all(self, message: Message, bodies: Iterable[bytes], count: bytes) -> Reply:
        name, bodies = message.queue, list(bodies)
        settings = self.queues[name].settings if name in self.queues else DEFAULTS
        drops: list[Message] = []
        candidates = [it for it in self._live(name) if it.state(self.now) != b"leased"]
        while self._is_full(name, drops, bodies, settings):
            if settings["when_full"] == b"refuse" or not candidates:
                return Failure(failures.QUEUEFULL, "")
            drops.append(candidates.pop(0))
        queue = self._make(name)
        for dropped in drops:
            self._delete(dropped, "dropped")
        self._sweep(name)
        if age := settings["max_age"]:
            message.expires = min(message.expires or self._after(age), self._after(age))
        self._join(queue, message)
        first = self.newest + 1
        for body in bodies:
            self.newest += 1
            self.messages.append(dataclasses.replace(message, number=self.newest, body=body))
        if message.unique:
            self.names[name, message.unique] = first, None
        queue.totals["put"] += len(bodies)
        return Items((b"%d" % first, count))

    def _is_full(self, name: bytes, drops: list[Message], bodies: list[bytes], settings: dict[str, Any]) -> bool:
        left = [it for it in self.messages if it.queue == name and it not in drops]
        live = [it for it in left if it.state(self.now) not in (None, b"dead")]
        size = sum(len(it.body) for it in left if it.state(self.now) is not None) + sum(map(len, bodies))
        most, octets = settings["max_messages"], settings["max_bytes"]
        return bool(most and len(live) + len(bodies) > most) or bool(octets and size > octets)

    def _take(self, command: Take) -> Reply:
        return Items(sum(self._take_some(command.queue, command.count, command.lease), ()))

    def _take_any(self, command: TakeAny) -> Reply:
        for name in command.names:
            if taken := self._take_some(name, command.count, command.lease or None):
                return Items(sum(((name, *strings) for strings in taken), ()))
        return Items(())

    def _take_some(self, name: bytes, count: int, lease_ms: int | None) -> list[tuple[bytes, ...]]:
        taken: list[tuple[bytes, ...]] = []
        queue = self.queues.get(name)
        if queue is None or queue.settings["paused"]:
            return taken
        if self._eligible(name) or self.of(name, None):
            self._sweep(name)
        while len(taken) < count and (eligible := self._eligible(name)):
            turns = queue.turns
            it = min(eligible, key=lambda it: (it.priority, turns[it.priority, it.group], it.group, it.due, it.number))
            if it.attempts >= queue.settings["attempts"]:
                self._die(it)
                continue
            self.newest_lease += 1
            milliseconds = lease_ms or it.lease_ms or queue.settings["lease"]
            it.due, it.lease, it.attempts = self._after(milliseconds), self.newest_lease, it.attempts + 1
            if it.until_taken:
                self._free_name(it)
                it.until_taken, it.unique = False, b""
            if sum(priority == it.priority for priority, _ in turns) > 1:
                queue.turn += 1
                turns[it.priority, it.group] = queue.turn
            numbers = it.number, it.lease, it.attempts, milliseconds, it.put_at
            taken.append((*(b"%d" % number for number in numbers), it.group, it.body))
        queue.totals["taken"] += len(taken)
        return taken

    def _eligible(self, name: bytes) -> list[Message]:
        limit = self.queues[name].settings["per_group"]
        found = []
        for it in self.of(name, b"ready", None):
            if it.dead:
                continue
            others = [other for other in self._live(name) if other.group == it.group]
            leased = [other for other in others if other.state(self.now) == b"leased"]
            if it.group and limit == 1:
                if it.number == min(other.number for other in others):
                    found.append(it)
            elif not (it.group and limit and len(leased) >= limit):
                found.append(it)
        return found

    def _takeable_since(self, name: bytes) -> Iterator[int]:
        """Yield, for each group and priority, the time from which on its first message can be taken."""
        limit = self.queues[name].settings["per_group"]
        live = self._live(name)
        for priority, group in {(it.priority, it.group) for it in live}:
            of_group = [it for it in live if it.group == group]
            line = [it for it in of_group if it.priority == priority]
            leases = sorted(it.due for it in of_group if it.lease)
            if group and limit == 1:
                yield min(line, key=lambda it: it.number).due
            elif group and limit and len(leases) >= limit:
                yield max(leases[-limit], min(it.due for it in line))
            else:
                yield min(it.due for it in line)

    def keep_leases(self, begin: int, end: int) -> None:
        """Let the leases that end after a time end later: log time went from it to `end` without elapsed time."""
        for message in self.messages:
            if begin < end and message.lease and not message.dead and message.due > begin:
                message.due += end - begin

    def _ack(self, command: Ack) -> Reply:
        replies = []
        for number, lease in command.leases:
            message = self._owned(number, lease)
            if message:
                self._delete(message, "acked")
            replies.append(b"1" if message else b"0")
        return Items(tuple(replies))

    def _nack(self, command: Nack) -> Reply:
        it = self._owned(command.message, command.lease)
        if it is None:
            return 0
        queue = self.queues[it.queue]
        settings = queue.settings
        if command.priority is not None:
            if it.group and settings["per_group"] == 1:
                return Failure(failures.BADARGS, "")
            if it.priority != command.priority:
                it.priority, before = command.priority, it.priority
                self._join(queue, it)
                if all((other.priority, other.group) != (before, it.group) for other in self._live(it.queue)):
                    del queue.turns[before, it.group]
        if command.reason is not None:
            it.reason = command.reason
        queue.totals["nacked"] += 1
        if command.dead or (it.attempts >= settings["attempts"] and not command.uncounted):
            self._die(it)
            return 1
        delay = command.delay
        if command.uncounted:
            it.attempts -= 1
        elif delay is None:
            steps = settings["factor"] ** min(it.attempts - 1, 40)
            full = min(settings["backoff"] * steps, settings["backoff_max"])
            delay = full - zlib.crc32(b"%d %d" % (it.number, it.attempts)) % (full // 2 + 1)
        it.due, it.lease = self._after(delay or 0), 0
        return 1

    def _extend(self, command: Extend) -> Reply:
        replies = []
        for number, lease in command.leases:
            it = self._owned(number, lease)
            alive = it is not None and it.due > self.now
            if it is not None and alive:
                it.due = self._after(command.lease)
            replies.append(b"1" if alive else b"0")
        return Items(tuple(replies))

    def _peek(self, command: Peek) -> Reply:
        if command.queue not in self.queues:
            return Failure(failures.NOQUEUE, "")
        dead = command.state == b"dead"
        later = [it for it in self.messages if it.queue == command.queue and it.dead is dead]
        later = [it for it in later if it.number > command.cursor][: command.count]
        found = [self._described(it) for it in later if it.state(self.now) == command.state]
        following = later[-1].number if len(later) == command.count else 0
        return Items((b"%d" % following, *sum(found, ())))

    def _look(self, command: Look) -> Reply:
        it = self._find(command.message)
        return MISSING if it is None or it.state(self.now) is None else Items(self._described(it))

    def _requeue(self, command: Requeue) -> Reply:
        if command.queue not in self.queues:
            return Failure(failures.NOQUEUE, "")
        self._sweep(command.queue)
        found = self.of(command.queue, command.state)
        if command.state == b"delayed":
            found.sort(key=lambda it: (it.due, it.number))
        return self._revive(found[: command.count])

    def _requeue_ids(self, command: RequeueIds) -> Reply:
        return sum(self._revive([it]) for number in command.messages if (it := self._find(number)))

    def _revive(self, messages: list[Message]) -> int:
        count = 0
        for it in messages:
            if it.state(self.now) not in (b"dead", b"delayed"):
                continue
            queue = self.queues[it.queue]
            if it.dead:
                it.dead, it.expires, it.unique, it.until, it.until_taken = False, 0, b"", 0, False
                if it.group and queue.settings["per_group"] == 1:
                    it.priority = 1_000
                self._join(queue, it)
            it.due, it.lease, it.attempts = self.now, 0, 0
            queue.totals["requeued"] += 1
            count += 1
        return count

    def _remove(self, command: Remove) -> Reply:
        found = [it for number in dict.fromkeys(command.messages) if (it := self._find(number)) and it.state(self.now)]
        for it in found:
            self._delete(it, "removed")
        return len(found)

    def _purge(self, command: Purge) -> Reply:
        if command.queue not in self.queues:
            return Failure(failures.NOQUEUE, "")
        if command.state == b"expired":
            count = len(self.of(command.queue, None))
            self._sweep(command.queue)
            return Items((b"0", b"%d" % count))
        examined = [it for it in self.messages if it.queue == command.queue and it.number > command.cursor]
        if command.state != b"all":
            examined = [it for it in examined if it.dead is (command.state == b"dead")]
        removed = [it for it in examined if it.state(self.now) and command.state in (b"all", it.state(self.now))]
        for it in examined:
            if it in removed or it.state(self.now) is None:
                self._delete(it, "removed" if it in removed else "expired")
        return Items((b"0", b"%d" % len(removed)))

    def _queue_set(self, command: QueueSet) -> Reply:
        given = {name: value for name in DEFAULTS if (value := getattr(command, name)) is not None}
        before = self.queues[command.queue].settings if command.queue in self.queues else DEFAULTS
        if given.get("per_group", before["per_group"]) != before["per_group"] and self._live(command.queue):
            return Failure(failures.QUEUEBUSY, "")
        self._make(command.queue).settings.update(given)
        self._sweep(command.queue)
        return OK

    def _queue_drop(self, command: QueueDrop) -> Reply:
        if command.queue not in self.queues:
            return Failure(failures.NOQUEUE, "")
        if self.of(command.queue, b"ready", b"delayed", b"leased", b"dead"):
            return Failure(failures.QUEUEBUSY, "")
        self._sweep(command.queue)
        del self.queues[command.queue]
        return OK

    def _queue_stats(self, command: QueueStats) -> Reply:
        queue = self.queues.get(command.queue)
        if queue is None:
            return Failure(failures.NOQUEUE, "")
        name, states = command.queue, (b"ready", b"delayed", b"leased", b"dead")
        shown: dict[str, Any] = {state.decode(): len(self.of(name, state)) for state in states}
        shown["bytes"] = sum(len(it.body) for it in self.messages if it.queue == name)
        shown["groups"] = len({group for _, group in queue.turns} - {b""})
        shown["oldest_ready_ms"] = max(0, self.now - min(self._takeable_since(name), default=self.now))
        shown |= queue.totals
        shown["expired"] += len(self.of(name, None))
        shown |= queue.settings
        shown["when_full"] = queue.settings["when_full"].decode()
        return Items(tuple(str(part).encode() for pair in shown.items() for part in pair))

    def _queues(self, command: Queues) -> Reply:
        later = sorted((queue.number, name) for name, queue in self.queues.items() if queue.number > command.cursor)
        found = later[: command.count]
        following = found[-1][0] if len(found) == command.count else 0
        return Items((b"%d" % following, *(name for _, name in found)))


MODELLED_QUEUE_COMMANDS = [command for command in COMMANDS if hasattr(QueueModel, f"_{command.spec.name.lower()}")]


def same(reply: Reply, expected: Reply) -> bool:
    """Whether two replies are equal. The texts of failures may differ."""
    if isinstance(reply, Failure) and isinstance(expected, Failure):
        return reply.code is expected.code
    return reply == expected

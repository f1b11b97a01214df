"""Estimates of a proposed command on queues, from the state of the node that proposes it: its work, and its effects.

Invariants: no reply and no entry of the log depends on them.

Out of scope: the memory that a command needs (`cairnkv.store.admission`).
"""

from cairnkv.commands import (
    Ack,
    Command,
    Extend,
    Look,
    Nack,
    Peek,
    Purge,
    Put,
    PutMany,
    Remove,
    Requeue,
    RequeueIds,
    Take,
    TakeAny,
)
from cairnkv.engine import QueueDatabase
from cairnkv.limits import TAKE_BYTES, TAKE_MAX


def cost_of(queues: QueueDatabase, command: Command) -> int:
    """Return the work of a command, in commands of one key: the maximum number of messages that it changes."""
    match command:
        case Take(queue, count) | Requeue(queue, _, count):
            return 1 + _messages(queues, queue, count)
        case TakeAny(count=count, names=names):
            return len(names) + max(_messages(queues, name, count) for name in names)
        case Purge(queue):
            return 1 + _messages(queues, queue, TAKE_MAX)
        case PutMany(bodies=bodies):
            return len(bodies)
        case Ack() | Extend() | Remove() | RequeueIds():
            return len(command.places(0))
    return 1


def length_of_reply(queues: QueueDatabase, command: Command) -> int:
    """Return the bytes of the bodies in the reply to a command."""
    match command:
        case Take(queue) | Peek(queue):
            return _body_bytes(queues, queue)
        case TakeAny(names=names):
            return max(_body_bytes(queues, name) for name in names)
        case Look(number):
            message = queues.message(number)
            return 0 if message is None else message.size
    return 0


def made_ready(queues: QueueDatabase, command: Command) -> tuple[bytes, int] | None:
    """Return the queue of which a command makes messages ready at once, and their number; or None."""
    match command:
        case Put(queue) if not command.delay and command.at is None:
            return queue, 1
        case PutMany(queue, delay=0):
            return queue, len(command.bodies)
        case Nack(number, uncounted=True) if not command.delay:
            message = queues.message(number)
            return None if message is None else (message.queue, 1)
    return None


def _messages(queues: QueueDatabase, name: bytes, most: int) -> int:
    queue = queues.index.queues.get(name)
    return 0 if queue is None else min(len(queue.live) + len(queue.dead), most)


def _body_bytes(queues: QueueDatabase, name: bytes) -> int:
    queue = queues.index.queues.get(name)
    return 0 if queue is None else min(queue.size, TAKE_BYTES)

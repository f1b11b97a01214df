"""Small servers with queues, each with one fault; and correct ones, one of which closes connections."""

import asyncio
import random
import time

from cairnkv.commands import (
    Ack,
    Command,
    Extend,
    Failure,
    Items,
    Nack,
    Put,
    QueueSet,
    QueueStats,
    Remove,
    Replies,
    Reply,
    RequeueIds,
    Take,
    Together,
    failures,
)
from cairnkv.commands.queue_vocabulary import TAKE_STRINGS
from cairnkv.records import replace
from cairnkv.replication import broken
from cairnkv.store import LocalStore, PendingReply
from tests.lab.consistency.servers import LAG, Right, Unpleasant

OFTEN = 1 / 10
"""The share of the commands at which a fault shows."""


class RightQueues(Right):
    """A correct server with queues. A TAKE does not wait."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.store = LocalStore(clock=self.clock)

    def clock(self) -> int:
        """Return the time, in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Take):
            command = replace(command, wait=None)
        return self.now(command)

    def now(self, command: Command) -> Reply:
        """Execute a command that does not wait."""
        outcome = self.store.execute(command)
        if not isinstance(outcome, PendingReply):
            return outcome
        assert outcome.reply is not None
        return outcome.reply


class UnpleasantQueues(Unpleasant, RightQueues):
    """Closes the connection at a tenth of all commands, before, after or long before their execution."""


class Altered(RightQueues):
    """Executes other commands than the clients send."""

    def carry_out(self, address: int, command: Command) -> Reply:
        return super().carry_out(address, self.altered(command))

    def altered(self, command: Command) -> Command:
        return command


class LeaseNotLogged(Altered):
    """Leases end at once."""

    def altered(self, command: Command) -> Command:
        return broken.with_unlogged_lease(command)


class TokenNotChecked(Altered):
    """Accepts each token of a message that is leased."""

    def altered(self, command: Command) -> Command:
        return broken.with_newest_tokens(command, self.now)


class ExpiryByLocalClock(RightQueues):
    """The clock of the second address is ahead, and leases end by it."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if address == 1:
            for ending in tuple(broken.ended_locally(command, self.now, self.clock())):
                self.now(ending)
        return super().carry_out(address, command)


class LosesMessages(RightQueues):
    """Deletes some messages after their PUT."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        if isinstance(command, Put) and isinstance(reply, Items) and self.dice.random() < OFTEN:
            super().carry_out(address, Remove((int(reply.values[0] or b""),)))
        return reply


class DoublesPuts(RightQueues):
    """Executes some PUTs twice."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Put) and self.dice.random() < OFTEN:
            super().carry_out(address, replace(command, unique=None))
        return super().carry_out(address, command)


class RefusesWhatItDoes(RightQueues):
    """Reports some PUTs as not executed, and executes them."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        if isinstance(command, Put) and self.dice.random() < OFTEN:
            return Failure(failures.UNDONE, "undone")
        return reply


class ForgetsAcks(RightQueues):
    """Acknowledges some ACKs without their execution. The message returns after its lease."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Ack) and self.dice.random() < OFTEN:
            command = Extend(1, command.leases)
        return super().carry_out(address, command)


class RefusesLeases(RightQueues):
    """Answers some ACKs as if the lease had ended."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Ack) and self.dice.random() < OFTEN:
            return Items((b"0",))
        return super().carry_out(address, command)


class RepeatsTokens(RightQueues):
    """Gives some leases the token of the lease before, as after a restart."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        repeats = isinstance(command, Take) and self.dice.random() < OFTEN
        if repeats and isinstance(reply, Items) and len(reply.values) == TAKE_STRINGS:
            token = int(reply.values[1] or b"") - 1
            return Items((reply.values[0], b"%d" % token, *reply.values[2:]))
        return reply


class IgnoresDelays(Altered):
    """Makes messages ready at once."""

    def altered(self, command: Command) -> Command:
        return replace(command, delay=0) if isinstance(command, Put | Nack) and command.delay else command


class IgnoresGroups(Altered):
    """Does not limit the leases of groups."""

    def altered(self, command: Command) -> Command:
        return replace(command, per_group=0) if isinstance(command, QueueSet) else command


class IgnoresAttempts(Altered):
    """Lets no message die, and each return at once."""

    def altered(self, command: Command) -> Command:
        if isinstance(command, Nack) and not command.dead:
            return replace(command, delay=0)
        return replace(command, attempts=1_000) if isinstance(command, QueueSet) else command


class RevivesTheDead(RightQueues):
    """Delivers dead messages again."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        if isinstance(command, Nack) and command.dead:
            self.now(RequeueIds((command.message,)))
        return reply


class IgnoresNames(Altered):
    """Puts each message, whether or not its name is free."""

    def altered(self, command: Command) -> Command:
        return replace(command, unique=None) if isinstance(command, Put) else command


class Miscounts(RightQueues):
    """Counts one message too many."""

    def carry_out(self, address: int, command: Command) -> Reply:
        reply = super().carry_out(address, command)
        if isinstance(command, QueueStats) and isinstance(reply, Items):
            ready = int(reply.values[1] or b"") + 1
            return Items((reply.values[0], b"%d" % ready, *reply.values[2:]))
        return reply


class TearsTogether(RightQueues):
    """Executes the commands of TOGETHER one by one, also if the lease is stale."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if not isinstance(command, Together):
            return super().carry_out(address, command)
        replies = [self.carry_out(address, one) for one in command.commands]
        if replies[0] == Items((b"0",)):
            return Failure(failures.STALE, "stale")
        return Replies(tuple(replies))


class SplitBrain(RightQueues):
    """Has an own store for each of two addresses."""

    def __init__(self) -> None:
        super().__init__()
        self._stores = [self.store, LocalStore(clock=self.clock)]

    def carry_out(self, address: int, command: Command) -> Reply:
        self.store = self._stores[address]
        return super().carry_out(address, command)


class AcksEarly(RightQueues):
    """Acknowledges an ACK some time before it executes it."""

    def carry_out(self, address: int, command: Command) -> Reply:
        if isinstance(command, Ack):
            asyncio.get_running_loop().call_later(LAG * random.random(), super().carry_out, address, command)
            return Items((b"1",))
        return super().carry_out(address, command)

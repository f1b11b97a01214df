"""TAKE commands that wait at one node of a cluster: which of them the node proposes, and when.

    begin → waits in its line → proposed → its entry comes back → reply
                  ↑                             │
                  └───── it found no message ←──┘

The log knows only TAKE commands, not that they wait. The order of the log decides which message each of them gets. When
a message becomes ready, each node with waiters proposes a TAKE. One TAKE gets the message, and the waiters of the other
nodes continue to wait.

Invariants:
- A node proposes another TAKE for a queue only while those in flight ask for fewer messages than the queue has, as far
  as the node knows. So a message causes at most one TAKE of each node.
- A TAKE that found no message returns to its former place in its line. The node proposes it again when a message is
  ready by the entries that the node has applied, or after `AHEAD_PAUSE` milliseconds.
- A TAKE without a message gets its reply from an entry that this node published after it had received the TAKE.
- If the client of a lease does not get the reply, the node gives the lease back through the log, uncounted, unless the
  node crashes.

Out of scope: lines and times of waiters (`store.waiters`), and proposals (`proposals`, `proposer`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cairnkv.commands import OK, Command, Failure, Nack, Reply, Step, Take, TakeAny
from cairnkv.engine import QueueDatabase
from cairnkv.engine.queue_records import queue_key
from cairnkv.replication.entry_codec import command_item
from cairnkv.replication.proposals import Changes, PendingProposal
from cairnkv.replication.queue_estimates import cost_of, made_ready
from cairnkv.store.waiters import NEVER, NO_MESSAGES, Waiter, Waiters, returns_of

PROPOSED_TOGETHER: Final = 100
"""Maximum TAKE commands that one slice proposes: about a millisecond. A timer proposes the others."""

LOSS_MAX: Final = 10_000
"""Milliseconds without a quorum after which all waits end. An election takes about six seconds, of which a node does
not notice the first five."""

AHEAD_PAUSE: Final = 1_000
"""Milliseconds after which the node proposes a TAKE again that came too early: the log time of its entry was before the
end of the delay or the lease. This happens if log time does not follow this node's clock."""


class WaitingTakes:
    """The waiters of one node, and their proposals."""

    def __init__(
        self,
        queues: QueueDatabase,
        waiters: Waiters,
        *,
        propose: Callable[[PendingProposal], None],
        change: Callable[[Step, Changes], Reply],
        refusal: Callable[[Step | None], Failure | None],
        loss: Callable[[], Failure | None],
        log_time: Callable[[], int],
        elapsed: Callable[[], int],
    ) -> None:
        """change: executes a command of an entry. log_time: that of an entry that is published now.

        refusal: returns the failure of a command that this node cannot propose now; None: of any command. It ignores
        the quorum. loss: returns the failure if the quorum is missing.
        elapsed: the elapsed time in milliseconds.
        """
        self._queues: Final = queues
        self._waiters: Final = waiters
        self._propose: Final = propose
        self._change: Final = change
        self._refusal: Final = refusal
        self._loss: Final = loss
        self._log_time: Final = log_time
        self._elapsed: Final = elapsed
        self._in_flight: dict[int, tuple[PendingProposal, bytes, int]] = {}
        """By the number of a waiter: its proposal, the key of the queue, and the number of messages."""
        self._wanted: dict[bytes, int] = {}
        """By the key of a queue: the messages that the TAKE commands in flight may get."""
        self._unreturned: list[Step] = []
        """Commands that give leases back, and that the node could not propose."""
        self._lost_at: int | None = None
        """Elapsed time from which on the quorum is missing; None: it is not missing."""
        self._ahead_from = 0
        """Elapsed time from which on a TAKE may be proposed for a time that log time has not reached."""
        queues.watched = waiters.lines

    def __len__(self) -> int:
        return len(self._waiters) + len(self._in_flight)

    # -- called by the store --------------------------------------------------------------------------------------

    def begin(self, waiter: Waiter) -> None:
        """Add a waiter."""
        failure = self._refusal(Step(0, waiter.command)) or self._loss() or self._waiters.add(waiter, self._elapsed())
        if failure is not None:
            waiter.complete(failure)
            return
        self._queues.changed |= dict.fromkeys(waiter.keys)
        self.serve()

    def end(self, waiter: Waiter, *, gives_back: bool) -> None:
        """End a wait, or give its leases back; see `Store.end_take`."""
        if waiter.executed:
            if gives_back and (returns := waiter.leases):
                waiter.withdraw()
                self.give_back(returns)
            return
        self._waiters.remove(waiter)
        waiter.end = 0  # it does not return to its line
        if gives_back:
            if (in_flight := self._forget(waiter)) is not None:
                in_flight.given_up = True
            waiter.complete(NO_MESSAGES)
            self.serve()
        elif waiter.number not in self._in_flight:
            self._end_without_message((waiter,))

    def end_all(self, failure: Failure) -> None:
        """Fail all waiters except those whose TAKE is in flight."""
        for waiter in self._waiters.all():
            self._waiters.remove(waiter)
            waiter.complete(failure)

    def serve(self) -> None:
        """Do one bounded slice of the work for waiters; see `Store.serve_waiters`."""
        if not self._waiters:
            return
        elapsed, loss = self._elapsed(), self._loss()
        if loss is None:
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = elapsed
        failure = loss if self._lost_at is not None and elapsed - self._lost_at >= LOSS_MAX else self._refusal(None)
        if failure is not None:
            self.end_all(failure)
            return
        log_time = self._log_time()
        if loss is None:
            self._serve_queues(log_time)
        if loss is not None or not self._queues.changed:
            self._end_without_message(self._waiters.ended(elapsed))
        if self._waiters:
            self._waiters.request_timer(self._queues, elapsed, log_time, blocked=loss is not None)

    def serve_with(self, steps: Iterable[Step]) -> None:
        """Propose TAKE commands behind commands that make messages ready, for the same entry."""
        if not self._waiters:
            return
        for step in steps:
            if (ready := made_ready(self._queues, step.command)) is not None:
                name, count = ready
                self._propose_takes(queue_key(name), count, PROPOSED_TOGETHER)

    def housekeep(self) -> None:
        """Serve waiters, and give leases back that no entry has given back yet."""
        self.serve()
        if self._unreturned:
            steps, self._unreturned = self._unreturned, []
            self.give_back([step for step in steps if self._is_leased(step)])

    # -- queues ---------------------------------------------------------------------------------------------------

    def _serve_queues(self, log_time: int) -> None:
        """Propose TAKE commands for the oldest waiters of changed queues, up to a number."""
        self._waiters.note_due(self._queues, log_time)
        left = PROPOSED_TOGETHER
        while self._queues.changed and left > 0:
            key = next(iter(self._queues.changed))
            del self._queues.changed[key]
            left -= 1 + self._serve_queue(key, log_time, left)

    def _serve_queue(self, key: bytes, log_time: int, most: int) -> int:
        """Propose TAKE commands for the oldest waiters of a queue, if it has messages. Returns their number."""
        if key not in self._waiters.lines:
            return 0
        now = self._queues.now
        at = self._queues.ready_at(key)
        if at is None or at > log_time:
            self._waiters.set_due(key, NEVER if at is None else at)
            return 0
        if at <= now:
            ready = self._queues.index.queues[key[1:]].counts(now)[0]
        elif self._elapsed() < self._ahead_from:
            self._waiters.set_due(key, log_time + AHEAD_PAUSE)
            return 0
        else:
            ready = 1
        self._waiters.set_due(key, NEVER)
        # If only expired messages are left, TAKE deletes them.
        proposed = self._propose_takes(key, max(1, ready) - self._wanted.get(key, 0), most, at)
        if proposed == most and key in self._waiters.lines:
            self._queues.changed[key] = None
        return proposed

    def _propose_takes(self, key: bytes, messages: int, most: int, at: int = 0) -> int:
        """Propose TAKE commands for the oldest waiters of a queue. Returns their number.

        at: the log time from which on there are messages.
        """
        proposed = 0
        while messages > 0 and proposed < most and (waiter := self._waiters.oldest(key, self._queues)) is not None:
            self._propose_take(waiter, key, at)
            messages -= _count_of(waiter.command)
            proposed += 1
        return proposed

    def _propose_take(self, waiter: Waiter, key: bytes, at: int = 0) -> None:
        """Propose the TAKE of a waiter. key: that of the queue with messages. at: see above."""
        self._waiters.remove(waiter)
        step = Step(0, waiter.command)
        if (failure := self._refusal(step)) is not None:
            waiter.complete(failure)
            return

        def execute(changes: Changes) -> Reply:
            reply = self._change(step, changes)
            if proposal.given_up:  # its client has left, or knows that the outcome is unknown
                self.give_back(returns_of(waiter.command, reply))
            return reply

        proposal = PendingProposal((command_item(step),), execute, cost=cost_of(self._queues, waiter.command))
        proposal.on_ready = lambda: self._taken(waiter, proposal.outcome, at)
        count = _count_of(waiter.command)
        self._in_flight[waiter.number] = proposal, key, count
        self._wanted[key] = self._wanted.get(key, 0) + count
        self._propose(proposal)

    def _taken(self, waiter: Waiter, reply: Reply, at: int) -> None:
        """Handle the reply to the TAKE of a waiter. at: the log time for which it was proposed."""
        self._forget(waiter)
        if waiter.executed:  # its client has left
            return
        missed = reply == NO_MESSAGES or (isinstance(reply, Failure) and reply == self._loss())
        if not missed or waiter.end <= self._elapsed():
            waiter.complete(reply)
            return
        self._waiters.put_back((waiter,))
        self._queues.changed |= dict.fromkeys(waiter.keys)
        if reply == NO_MESSAGES and self._queues.now < at:
            self._ahead_from = self._elapsed() + AHEAD_PAUSE

    def _forget(self, waiter: Waiter) -> PendingProposal | None:
        """Return the proposal of a waiter, which is no longer in flight. `serve` then serves its queue."""
        in_flight = self._in_flight.pop(waiter.number, None)
        if in_flight is None:
            return None
        proposal, key, count = in_flight
        self._wanted[key] -= count
        if not self._wanted[key]:
            del self._wanted[key]
        if key in self._waiters.lines:
            self._queues.changed[key] = None
        return proposal

    def _end_without_message(self, waiters: Sequence[Waiter]) -> None:
        """End waits by a read of their queues. A waiter whose queue has a message then takes it."""
        if not waiters:
            return

        def look(_: Changes) -> Reply:
            for waiter in waiters:
                if waiter.executed or waiter.number in self._in_flight:  # another read has found a message
                    continue
                key = next((key for key in waiter.keys if self.has_messages(key)), None)
                if key is None:
                    waiter.complete(NO_MESSAGES)
                else:
                    self._propose_take(waiter, key)
            return OK

        def fail() -> None:
            if read.given_up:
                for waiter in waiters:
                    if not waiter.executed and waiter.number not in self._in_flight:
                        waiter.complete(read.outcome)

        read = PendingProposal((), look)
        read.on_ready = fail
        self._propose(read)

    def has_messages(self, key: bytes) -> bool:
        """Return whether TAKE finds messages of a queue, by the entries that this node has applied."""
        at = self._queues.ready_at(key)
        return at is not None and at <= self._queues.now

    # -- leases ---------------------------------------------------------------------------------------------------

    def give_back(self, steps: Sequence[Step]) -> None:
        """Give leases back. If that fails, `housekeep` repeats it."""
        if not steps:
            return

        def execute(changes: Changes) -> Reply:
            for step in steps:
                self._change(step, changes)
            return OK

        def repeat() -> None:
            if proposal.given_up:
                self._unreturned += steps

        proposal = PendingProposal([command_item(step) for step in steps], execute, cost=len(steps))
        proposal.on_ready = repeat
        if (self._refusal(steps[0]) or self._loss()) is not None:
            self._unreturned += steps
            return
        self._propose(proposal)
        self.serve_with(steps)

    def _is_leased(self, step: Step) -> bool:
        """Return whether the lease in a command that gives it back is still the newest of its message."""
        command = step.command
        assert isinstance(command, Nack)
        message = self._queues.message(command.message)
        return message is not None and message.lease == command.lease


def _count_of(command: Command) -> int:
    assert isinstance(command, Take | TakeAny)
    return command.count

"""Scripts at one node of a cluster: the node runs a script itself, and proposes its writes as a transaction.

    execute → run on the applied state → undo → transaction → its entry comes back → reply
                 ↑                                                   │
                 └──────────── a key of the run has changed ←────────┘

The log contains no script, so no state depends on Lua. The transaction has the writes of the run, and watches every key
that the run has used. A run without writes proposes a read, which checks the same when it comes back.

Invariants:
- A run leaves no trace in the state that nodes share: the node undoes it, versions of slots included, before it does
  anything else.
- If the transaction of a run is executed, the run would have the same replies at that log index. There are two
  exceptions, whose replies are of the time of the run: commands that list or count keys, and the time that a key has
  left.
- A script sees each write that was acknowledged before the script arrived.
- Of the scripts of this node that write the same slot, one has a transaction in flight. The others wait for it, in
  their order.
- A script that has had no conflict lets the scripts of other nodes that had one go first. Otherwise the node that gets
  entries first would execute all its scripts before those of the others.

Out of scope: the time of a run (`cairnkv.session.resp.scripting`).
"""

import collections
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from cairnkv.commands import (
    MISSING,
    OK,
    Clear,
    Command,
    Deadline,
    ExpireWith,
    Failure,
    GetWith,
    Replies,
    Reply,
    Scope,
    SetWith,
    Step,
    Ttl,
    failures,
)
from cairnkv.commands.vocabulary import ClearPrefix, RandomKey
from cairnkv.engine import Database, Shared, Watched, apply
from cairnkv.engine.database import version_slot
from cairnkv.limits import SCRIPT_CONFLICTS_MAX, TRANSACTION_COST_MAX
from cairnkv.records import replace
from cairnkv.replication.entry_codec import Transaction, Watch, track_item, transaction_item
from cairnkv.replication.proposals import BlockingProposal, Changes
from cairnkv.scripts.abort import ScriptAbort
from cairnkv.store.lru import Place
from cairnkv.store.pending import PendingReply
from cairnkv.store.script import RUN_ANEW, RunJournal, Script, ScriptWork

GIVE_WAY_MS: Final = 100
"""Milliseconds for which a script waits for another node, from the transaction of that node that had a conflict on. The
next one takes the time of a write."""


class _Abandoned(ScriptAbort):
    """The databases were replaced during the run."""


class _Notes:
    """The state of a script between two runs.

    is_fresh: whether this node has applied all writes that were acknowledged before the script arrived.
    has_waited: whether the script has waited for another one.
    conflicts: runs after which a key had changed.
    """

    __slots__ = ("conflicts", "has_waited", "is_fresh")

    def __init__(self) -> None:
        self.has_waited = self.is_fresh = False
        self.conflicts = 0

    def conflict(self) -> Failure:
        """Count a run after which a key had changed. Returns the reply to that run."""
        self.conflicts += 1
        if self.conflicts < SCRIPT_CONFLICTS_MAX:
            return RUN_ANEW
        text = f"other clients changed keys of the script during each of its {self.conflicts} runs; send it again"
        return Failure(failures.UNDONE, text)


class _Run:
    """One run of a script: the keys that it has used, and its writes.

    watched: the state of the keys before the run. steps: the commands that have changed a database. cost: their work.
    lists_keys, shows_time: whether a reply is of the time of the run.
    reply: of the script; None until the run has ended.
    """

    def __init__(self, shared: Shared) -> None:
        self.journal: Final = RunJournal(shared)
        self.watched: dict[Place, Watched] = {}
        self.steps: list[Step] = []
        self.cost = 0
        self.lists_keys = self.shows_time = False
        self.reply: Reply | None = None
        self._expiries: dict[int, int] = {}  # by slot: the first expiry that changes a reply of the run

    def watch(self, place: Place, database: Database) -> None:
        """Note that the next command uses a key."""
        if place not in self.watched:
            watched, slot = database.watch(place[1]), version_slot(*place)
            # The run may have changed another key of the slot.
            self.watched[place] = replace(watched, version=self.journal.versions.get(slot, watched.version))
            self.note_expiry(slot, watched.expiry)

    def note_expiry(self, slot: int, expiry: int | None) -> None:
        """Note an expiry that changes a reply of the run."""
        if expiry is not None:
            self._expiries[slot] = min(expiry, self._expiries.get(slot, expiry))

    @property
    def slots(self) -> set[int]:
        """The slots of the keys that the run has used."""
        return {version_slot(*place) for place in self.watched}

    @property
    def uses_keys(self) -> bool:
        """Whether the run depends on a database, or changes one."""
        return bool(self.watched or self.steps or self.lists_keys)

    def watches(self) -> list[Watch]:
        """Return the state of slots with which the run has the same replies."""
        versions = {version_slot(*place): watched.version for place, watched in self.watched.items()}
        return [Watch(slot, version, self._expiries.get(slot, 0)) for slot, version in sorted(versions.items())]

    def expires_before(self, time: int) -> bool:
        """Return whether a key that the run has used expires before a log time."""
        return min(self._expiries.values(), default=time) < time


class _ScriptTransaction(BlockingProposal):
    """The proposal of a script's writes.

    slots: those that it writes. on_end: called when the proposal has ended.
    """

    __slots__ = ("on_end", "slots")

    slots: Collection[int]
    on_end: Callable[["_ScriptTransaction"], None]

    def complete(self, reply: Reply) -> None:
        """Set the reply."""
        self.reply = reply
        self.on_end(self)


class _FreshRead(BlockingProposal):
    """The proposal of a read, maybe with slots to track, before a script runs."""

    __slots__ = ()

    def fail(self, failure: Failure, of_reads: Failure | None = None) -> None:
        """Fail it. The script is not executed, also if the log has the slots."""
        super().fail(of_reads or failure)


class Scripts:
    """The scripts of one node."""

    def __init__(
        self,
        shared: Shared,
        databases: Sequence[Database],
        *,
        propose: Callable[[BlockingProposal], Reply | PendingReply],
        execute: Callable[[Transaction, Changes], Reply],
        changed: Callable[[Sequence[Watch]], bool],
        read: Callable[[Step], Reply],
        refusal: Callable[[Step], Failure | None],
        cost_of: Callable[[Step], int],
        tracked: Callable[[], Collection[int]],
        track: Callable[[Sequence[int], Changes], None],
        log_time: Callable[[], int],
        elapsed: Callable[[], int],
        watches: bool = True,
    ) -> None:
        """execute: executes a transaction if no watched key has changed. changed: returns whether one has.

        read: executes a command that only reads.

        refusal: returns the failure of a write that this node must not propose. tracked, track: the slots whose
        versions are part of the state. log_time: that of an entry that is published now.
        elapsed: the elapsed time in milliseconds.
        watches: False: break the promises, for tests of consistency checks.
        """
        self._shared: Final = shared
        self._databases: Final = databases
        self._propose: Final = propose
        self._execute: Final = execute
        self._changed: Final = changed
        self._read: Final = read
        self._refusal: Final = refusal
        self._cost_of: Final = cost_of
        self._tracked: Final = tracked
        self._track: Final = track
        self._log_time: Final = log_time
        self._elapsed: Final = elapsed
        self._watches: Final = watches
        self.commands = 0
        """The commands that scripts have executed, in all their runs."""
        self._current: _Run | None = None
        self._in_flight: dict[int, _ScriptTransaction] = {}
        """By slot: the newest transaction in flight that writes it."""
        self._lines: dict[int, collections.deque[BlockingProposal]] = {}
        """By slot: the pending replies of the scripts that wait for this transaction, or for other nodes."""
        self._losers: dict[int, dict[int, int]] = {}
        """By slot: the other nodes whose newest transaction had a conflict, with the elapsed time until which this node
        waits for the next one."""

    def execute(
        self, script: Script, watched: Sequence[tuple[int, Watched]], bytes_max: int | None
    ) -> Reply | PendingReply:
        """Run a script, and propose its writes; see `Store.execute_script`."""
        watches = [Watch(version_slot(db, watch.key), watch.version, watch.expiry or 0) for db, watch in watched]
        if self._changed(watches):
            return MISSING
        run = self._run(script, ScriptWork(self._databases, bytes_max))
        if run.reply is None:
            return RUN_ANEW
        outcome = self._outcome_of(script, run, run.reply, watches)
        self._pass_on(run.slots)
        return outcome

    def _outcome_of(self, script: Script, run: _Run, reply: Reply, watches: Sequence[Watch]) -> Reply | PendingReply:
        """Return the reply to a script that has run, or propose the entry that it needs first."""
        notes = script.state = script.state if isinstance(script.state, _Notes) else _Notes()
        if not run.uses_keys and not watches:
            return reply
        expires = run.expires_before(self._log_time() + 1)
        if not notes.is_fresh and (run.lists_keys or run.shows_time or expires):
            return self._run_after(notes)
        if not run.steps:
            return reply if notes.is_fresh else self._confirm(run, reply, watches, notes)
        if not self._watches:
            return self._transaction(Transaction((), run.steps, 0), run, reply, notes)
        for slot in run.slots:
            if slot in self._in_flight or (not notes.conflicts and self._has_losers(slot)):
                return self._wait(slot, notes)
        used = run.slots.union(version_slot(*place) for place in script.places)
        if untracked := sorted(used.difference(self._tracked())):
            return self._run_after(notes, untracked)
        return self._transaction(Transaction([*watches, *run.watches()], run.steps, 0), run, reply, notes)

    def _run_after(self, notes: _Notes, untracked: Sequence[int] = ()) -> Reply | PendingReply:
        """Let a script run after a read through the log. untracked: slots to track by the same entry."""

        def work(changes: Changes) -> Reply:
            self._track(untracked, changes)
            notes.is_fresh = True
            return RUN_ANEW

        return self._propose(_FreshRead((track_item(untracked),) if untracked else (), work))

    def _confirm(self, run: _Run, reply: Reply, watches: Sequence[Watch], notes: _Notes) -> Reply | PendingReply:
        """Return the reply to a script without writes when a read through the log shows that nothing has changed."""

        def work(_: Changes) -> Reply:
            notes.is_fresh = True
            same = all(self._databases[db].is_unchanged(watched) for (db, _), watched in run.watched.items())
            return reply if same and not self._changed(watches) else notes.conflict()

        return self._propose(BlockingProposal((), work))

    def _transaction(self, transaction: Transaction, run: _Run, reply: Reply, notes: _Notes) -> Reply | PendingReply:
        """Propose the writes of a script."""

        def work(changes: Changes) -> Reply:
            notes.is_fresh = True
            outcome = self._execute(transaction, changes)
            return notes.conflict() if outcome is MISSING else reply if isinstance(outcome, Replies) else outcome

        proposal = _ScriptTransaction((transaction_item(transaction),), work, cost=max(1, run.cost))
        proposal.slots, proposal.on_end = run.journal.versions, self._end
        self._in_flight |= dict.fromkeys(proposal.slots, proposal)
        return self._propose(proposal)

    # -- runs -------------------------------------------------------------------------------------------------

    def _run(self, script: Script, work: ScriptWork) -> _Run:
        """Run a script on the applied state, and undo it."""
        run = self._current = _Run(self._shared)
        self._shared.journal = run.journal
        try:
            reply = script.run(lambda step: self._execute_step(step, run, work))
            if self._current is run:
                run.reply = reply
        except _Abandoned:
            pass
        finally:
            self.commands += work.commands
            if self._current is run:
                self.abandon()
        return run

    def abandon(self) -> None:
        """Undo the current run, if there is one. It executes no further command."""
        if self._current is not None:
            self._shared.journal = None
            self._current.journal.undo()
            self._current = None

    def _execute_step(self, step: Step, run: _Run, work: ScriptWork) -> Reply:
        if self._current is not run:
            raise _Abandoned
        if refusal := work.refusal(step):
            return refusal
        command = step.command
        run.lists_keys = run.lists_keys or command.spec.scope is Scope.TABLE
        for place in command.places(step.db):
            run.watch(place, self._databases[place[0]])
        if isinstance(command, ClearPrefix) or (command.spec.by_store and not isinstance(command, RandomKey)):
            return Failure(failures.BADARGS, "no command for a script")
        if command.spec.writes:
            reply = self._write(step, run)
        else:
            run.shows_time = run.shows_time or isinstance(command, Ttl | Deadline)
            reply = self._read(step)
        work.count(reply)
        return reply

    def _write(self, step: Step, run: _Run) -> Reply:
        if refusal := self._refusal(step):
            return refusal
        cost = self._cost_of(step)
        if run.cost + cost > TRANSACTION_COST_MAX:
            text = f"the writes of a script are more work than {TRANSACTION_COST_MAX:,} commands of one key"
            return Failure(failures.BIGREPLY, text)
        changes = len(run.journal)
        reply = apply(self._databases[step.db], step.command, self._shared.now)
        if len(run.journal) == changes:
            return reply
        if (time := _given_expiry(step.command)) is not None:
            ((db, key),) = step.command.places(step.db)
            entry = self._databases[db].stored(key)
            if entry is None:  # the time was past. After a correction of the clock, it may be in the future again
                step = Step(db, Clear(key))
            elif entry[1] is not None:
                run.note_expiry(version_slot(db, key), min(time, entry[1]))
        run.steps.append(step)
        run.cost += cost
        return reply

    # -- order ------------------------------------------------------------------------------------------------

    def _wait(self, slot: int, notes: _Notes) -> PendingReply:
        """Let a script run when the transaction in flight that writes a slot has come back."""
        wait = BlockingProposal((), lambda _: OK)
        line = self._lines.setdefault(slot, collections.deque())
        (line.appendleft if notes.has_waited else line.append)(wait)
        notes.has_waited = True
        return wait

    def _end(self, transaction: _ScriptTransaction) -> None:
        for slot in transaction.slots:
            if self._in_flight.get(slot) is transaction:
                del self._in_flight[slot]
        transaction.on_ready()
        if transaction.reply is not RUN_ANEW:  # otherwise this script is the next one
            self._pass_on(transaction.slots)

    def _pass_on(self, slots: Iterable[int]) -> None:
        """Let the next script of each slot run that no transaction in flight writes."""
        for slot in slots:
            line = self._lines.get(slot)
            if line is not None and slot not in self._in_flight and not self._has_losers(slot):
                wait = line.popleft()
                if not line:
                    del self._lines[slot]
                wait.complete(RUN_ANEW)

    def note_other(self, node: int, watches: Iterable[Watch], *, executed: bool) -> None:
        """Note the transaction of another node: whether it was executed, or had a conflict."""
        if executed and not self._losers:
            return
        slots = {slot for slot, _, _ in watches}
        for slot in slots:
            if not executed:
                self._losers.setdefault(slot, {})[node] = self._elapsed() + GIVE_WAY_MS
            elif slot in self._losers:
                self._losers[slot].pop(node, None)
        self._pass_on(slots)

    def _has_losers(self, slot: int) -> bool:
        """Return whether another node shall go first."""
        if slot not in self._losers:
            return False
        elapsed = self._elapsed()
        left = {node: until for node, until in self._losers[slot].items() if until > elapsed}
        if left:
            self._losers[slot] = left
        else:
            del self._losers[slot]
        return bool(left)

    def housekeep(self) -> None:
        """Let scripts run that wait behind a script whose client has left, or for a node that does not go first."""
        for slot in tuple(self._losers):
            self._has_losers(slot)
        self._pass_on(tuple(self._lines))


def _given_expiry(command: Command) -> int | None:
    """Return the expiry time that a command gives, in milliseconds since 1970; None: it gives none, or a TTL.

    It may come before the entry. A TTL begins with the entry.
    """
    if isinstance(command, ExpireWith):
        return command.time if command.at else None
    return command.at if isinstance(command, SetWith | GetWith) else None

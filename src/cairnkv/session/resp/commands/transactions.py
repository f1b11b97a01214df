"""Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

Invariants: the commands on keys of one transaction reach the store together, as one entry. If a watched key has
changed, no command of the transaction is executed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final

from cairnkv.commands import MISSING, Replies, Reply, Step
from cairnkv.engine import Watched
from cairnkv.limits import BYTES_PER_COST, TRANSACTION_BYTES_MAX, TRANSACTION_COST_MAX
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error
from cairnkv.session.access.checks import Reason
from cairnkv.session.conversation import ARGUMENTS_PER_COST, bytes_of_outcome
from cairnkv.session.resp.command_spec import Arguments, Calls, Errors, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import RespConversation, failed
from cairnkv.session.resp.scripting.evaluation import ScriptCall, evaluated
from cairnkv.session.resp.scripting.runner import ScriptTask
from cairnkv.session.resp.transaction import QueuedCommand
from cairnkv.session.resp.values import NOTHING, Job, Later, Prepared, Several, Together, bytes_of, shown
from cairnkv.store import Execute, PendingRead, PendingReply, bytes_made
from cairnkv.store.transaction import is_whole


@in_conversation("MULTI", "noscript loading fast in-multi allow-busy", group="transactions", since="1.2.0")
def multi(conversation: RespConversation, arguments: Arguments) -> Value:
    """Begin a transaction. The server queues the commands that follow."""
    if conversation.transaction.queue is not None:
        raise Refusal("ERR MULTI calls can not be nested")
    conversation.transaction.queue = []
    return OK


@in_conversation("DISCARD", "noscript loading fast in-multi allow-busy", group="transactions", since="2.0.0")
def discard(conversation: RespConversation, arguments: Arguments) -> Value:
    """Discard the open transaction."""
    if conversation.transaction.queue is None:
        raise Refusal("ERR DISCARD without MULTI")
    conversation.end_transaction()
    return OK


@in_conversation("WATCH key [key ...]", "noscript loading fast in-multi", group="transactions", since="2.2.0")
def watch(conversation: RespConversation, arguments: Arguments) -> Value:
    """Watch keys. If one of them changes before EXEC, the transaction is not executed."""
    transaction = conversation.transaction
    if transaction.queue is not None:
        raise Refusal("ERR WATCH inside MULTI is not allowed")
    places = transaction.watch(conversation.db, arguments.keys())
    return Later(conversation.store.watch(places, transaction.watched), lambda _: OK)


@in_conversation("UNWATCH", "noscript loading fast allow-busy", group="transactions", since="2.2.0")
def unwatch(conversation: RespConversation, arguments: Arguments) -> Value:
    """Stop watching all keys."""
    conversation.transaction.unwatch()
    return OK


@dataclasses.dataclass(slots=True)
class _Planned:
    """The source of a queued command's value: the replies to its steps, or a given value.

    joined: whether `show` gets the `Replies` to all steps; otherwise it gets the reply to the only one.
    queued: a command for the conversation, which has not been executed yet.
    script: a script.
    denied: whether the client has no right to the command.
    """

    show: Callable[[Reply], Value] | None = None
    value: Value = None
    errors: Errors | None = None
    steps: Sequence[Step] = ()
    joined: bool = False
    queued: QueuedCommand | None = None
    script: ScriptCall | None = None
    denied: bool = False

    @property
    def is_about_scripts(self) -> bool:
        """Whether it is a SCRIPT command."""
        return self.queued is not None and self.queued.spec.group == "scripting"

    def act(self, conversation: RespConversation) -> None:
        """Execute a command for the conversation, once."""
        queued, self.queued = self.queued, None
        if queued is not None:
            self.value = _executed(conversation, queued)

    def value_from(self, replies: Iterator[Reply]) -> Value:
        """Take the command's replies from those to all steps, and return its value."""
        if self.show is None:
            return self.value
        own = tuple(islice(replies, len(self.steps)))
        return shown(self.show, Replies(own) if self.joined else own[0], self.errors)


@in_conversation("EXEC", "noscript loading in-multi", group="transactions", since="1.2.0")
def execute(conversation: RespConversation, arguments: Arguments) -> Value:
    """Execute the queued commands atomically."""
    transaction = conversation.transaction
    queue = transaction.queue
    if queue is None:
        raise Refusal("ERR EXEC without MULTI")
    watched = [(db, before) for (db, _), before in transaction.watched.items()]
    conversation.end_transaction()
    if transaction.is_spoilt:
        raise Refusal("EXECABORT Transaction discarded because of previous errors.")
    planned = _planned(conversation, queue)
    if any(one.script is not None for one in planned):
        conversation.costs(transaction.queued_cost)
        return conversation.context.scripts.execute(
            _TransactionTask(conversation, planned, watched, transaction.queued_bytes)
        )
    steps = [step for one in planned for step in one.steps]
    denied = next((one for one in planned if one.denied), None)
    if denied is not None and is_whole(steps):
        raise Refusal(f"EXECABORT Transaction discarded because of: {denied.value.text}")
    acts = any(one.queued is not None for one in planned)

    def act(reply: Reply) -> None:
        if isinstance(reply, Replies):
            for one in planned:
                one.act(conversation)

    made = sum(bytes_made(conversation.store.databases[step.db], step.command) for step in steps)
    most = TRANSACTION_BYTES_MAX
    if is_whole(steps):  # a TAKE among them must not lease messages that the reply has no room for
        most = min(most, conversation.room_for(steps))
    outcome = conversation.store.execute_all(steps, watched, bytes_max=most, blocks=acts)
    if not isinstance(outcome, PendingReply):
        act(outcome)
    elif isinstance(outcome, PendingRead):  # the client's next commands do not wait for its reply
        outcome.on_outcome = act
    elif outcome.executed:
        act(outcome.outcome)
    conversation.own_writes.note(outcome)
    worked = min(made, TRANSACTION_BYTES_MAX) + bytes_of_outcome(outcome)
    cost = transaction.queued_cost + len(watched) // ARGUMENTS_PER_COST + worked // BYTES_PER_COST
    return Later(
        outcome,
        partial(_shown_together, conversation, planned),
        cost=cost,
        size=transaction.queued_bytes,
        acts=acts,
    )


def _shown_together(conversation: RespConversation, planned: Sequence[_Planned], reply: Reply) -> Value:
    """Return the value of EXEC. The commands for the conversation execute now, if they have not yet."""
    if reply is MISSING:
        return NULL_ARRAY
    assert isinstance(reply, Replies)
    replies = iter(reply.values)
    values: list[Value] = []
    for one in planned:
        one.act(conversation)
        values.append(one.value_from(replies))
    return Together(values)


class _TransactionTask(ScriptTask):
    """A transaction with scripts. SCRIPT commands execute in their order, so that EVALSHA finds what LOAD has kept."""

    def __init__(
        self,
        conversation: RespConversation,
        planned: Sequence[_Planned],
        watched: Sequence[tuple[int, Watched]],
        kept: int,
    ) -> None:
        super().__init__(conversation, watched)
        self.kept = kept
        self._conversation = conversation
        self._planned = planned
        self._size = 0
        scripts = [one.script for one in planned if one.script is not None and not one.script.reads_only]
        self.places = [(script.db, key) for script in scripts for key in script.keys]

    def execute(self, execute: Execute) -> Reply:
        conversation = self._conversation
        replies: list[Reply] = []
        self._size = 0
        for one in self._planned:
            conversation.context.scripts.tick(self)
            if one.script is not None:
                value = self._value_of(one.script, execute)
                pieces = bytes_of(value, conversation.protocol, conversation.limits.frame)
                self._size += sum(map(len, pieces))
                one.value = Prepared(pieces)
                if self._size > TRANSACTION_BYTES_MAX:  # the encoder would refuse it
                    one.value = Error(f"ERR BIGREPLY the values exceed the limit of {TRANSACTION_BYTES_MAX:,} bytes")
            elif one.queued is not None and one.is_about_scripts:
                one.value = _executed(conversation, one.queued)
            else:
                self.has_written |= any(step.command.spec.writes for step in one.steps)
                replies += map(execute, one.steps)
        return Replies(tuple(replies))

    def _value_of(self, script: ScriptCall, execute: Execute) -> Value:
        try:
            return evaluated(self._conversation, self, script, execute)
        except Refusal as refusal:
            return Error(str(refusal))

    def settle(self, reply: Reply) -> int:
        for one in self._planned if isinstance(reply, Replies) else ():
            if one.is_about_scripts:
                one.queued = None  # it has been executed
            one.act(self._conversation)
        return self._size

    def show(self, reply: Reply) -> Value:
        self.settle(reply)
        return _shown_together(self._conversation, self._planned, reply)


def _planned(conversation: RespConversation, queue: Sequence[QueuedCommand]) -> list[_Planned]:
    """Return how the queued commands execute. Those for the conversation execute after the reply of the store.

    SELECT applies to the commands behind it; the conversation selects the database when EXEC executes.
    """
    db = conversation.db
    try:
        return [_plan(conversation, queued) for queued in queue]
    finally:
        conversation.db = db


def _plan(conversation: RespConversation, queued: QueuedCommand) -> _Planned:
    spec = queued.spec
    refusal = _no_longer_allowed(conversation, queued)
    if refusal is not None:
        return _Planned(value=refusal, denied=True)
    try:
        if spec.on_keys is None:
            if spec.name == "select":
                conversation.db = conversation.arguments(spec, queued.request).db_number()
            if spec.numkeys:
                return _Planned(script=ScriptCall.of(conversation.arguments(spec, queued.request)))
            return _Planned(queued=queued)
        call = spec.on_keys(conversation.arguments(spec, queued.request))
    except Refusal as refusal:
        return _Planned(value=Error(str(refusal)))
    conversation.audit(spec)
    if isinstance(call, Calls):
        return _Planned(call.show, steps=call.steps, joined=True)
    return _Planned(call.show, errors=call.errors, steps=(Step(conversation.db, call.command),))


NO_LONGER_ALLOWED: Final = (
    "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. "
    "This command is no longer allowed for the following reason: "
)

_REASONS: Final = {
    Reason.COMMAND: "no permission to execute the command or subcommand",
    Reason.KEY: "no permission to touch the specified keys",
    Reason.CHANNEL: "no permission to access one of the channels used as arguments to the command",
}


def _no_longer_allowed(conversation: RespConversation, queued: QueuedCommand) -> Error | None:
    """Return the error if the client has lost the right to a queued command."""
    denial = conversation.denial(queued.spec, queued.request)
    if denial is None:
        return None
    conversation.refused(denial, "multi")
    return Error(NO_LONGER_ALLOWED + _REASONS[denial.reason])


def _executed(conversation: RespConversation, queued: QueuedCommand) -> Value:
    try:
        if conversation.ended and "noscript" in queued.spec.flags:  # its connection is closed
            return None
        if conversation.cost > TRANSACTION_COST_MAX:
            raise Refusal("ERR not executed: the transaction has exceeded its limit of work")
        if (no_right := _no_longer_allowed(conversation, queued)) is not None:
            return no_right
        value = conversation.execute(queued.spec, queued.request)
        if isinstance(value, Job):
            value = value.finish()
    except Refusal as refusal:
        value = Error(str(refusal))
    except Exception as error:
        value = failed(error, queued.spec.name)
    if isinstance(value, Several):
        value = value.values[-1]
    return None if value is NOTHING else value

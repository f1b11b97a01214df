"""Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

Invariants: the commands on keys of one transaction reach the store together, as one entry. If a watched key has
changed, no command of the transaction is executed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from cairnkv.commands import MISSING, Replies, Reply, Step
from cairnkv.limits import BYTES_PER_COST, TRANSACTION_BYTES_MAX, TRANSACTION_COST_MAX
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error
from cairnkv.session.access.checks import Reason
from cairnkv.session.conversation import ARGUMENTS_PER_COST, bytes_of_outcome
from cairnkv.session.resp.command_spec import Arguments, Calls, Errors, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import RespConversation, failed
from cairnkv.session.resp.transaction import QueuedCommand
from cairnkv.session.resp.values import NOTHING, Job, Later, Several, Together, shown
from cairnkv.store import PendingRead, PendingReply, bytes_made
from cairnkv.store.transaction import is_whole


@in_conversation("MULTI", "loading fast in-multi", group="transactions", since="1.2.0")
def multi(conversation: RespConversation, arguments: Arguments) -> Value:
    """Begin a transaction. The server queues the commands that follow."""
    if conversation.transaction.queue is not None:
        raise Refusal("ERR MULTI calls can not be nested")
    conversation.transaction.queue = []
    return OK


@in_conversation("DISCARD", "loading fast in-multi", group="transactions", since="2.0.0")
def discard(conversation: RespConversation, arguments: Arguments) -> Value:
    """Discard the open transaction."""
    if conversation.transaction.queue is None:
        raise Refusal("ERR DISCARD without MULTI")
    conversation.end_transaction()
    return OK


@in_conversation("WATCH key [key ...]", "loading fast in-multi", group="transactions", since="2.2.0")
def watch(conversation: RespConversation, arguments: Arguments) -> Value:
    """Watch keys. If one of them changes before EXEC, the transaction is not executed."""
    transaction = conversation.transaction
    if transaction.queue is not None:
        raise Refusal("ERR WATCH inside MULTI is not allowed")
    places = transaction.watch(conversation.db, arguments.keys())
    return Later(conversation.store.watch(places, transaction.watched), lambda _: OK)


@in_conversation("UNWATCH", "loading fast", group="transactions", since="2.2.0")
def unwatch(conversation: RespConversation, arguments: Arguments) -> Value:
    """Stop watching all keys."""
    conversation.transaction.unwatch()
    return OK


@dataclasses.dataclass(slots=True)
class _Planned:
    """The source of a queued command's value: the reply to the next step or to several steps, or a given value.

    queued: a command for the conversation, which has not been executed yet.
    denied: whether the client has no right to the command.
    """

    show: Callable[[Reply], Value] | None = None
    value: Value = None
    errors: Errors | None = None
    several: int = 0
    queued: QueuedCommand | None = None
    denied: bool = False

    def act(self, conversation: RespConversation) -> None:
        """Execute a command for the conversation, once."""
        queued, self.queued = self.queued, None
        if queued is not None:
            self.value = _executed(conversation, queued)

    def value_from(self, replies: Iterator[Reply]) -> Value:
        """Take the command's replies from those to all steps, and return its value."""
        if self.show is None:
            return self.value
        reply = Replies(tuple(islice(replies, self.several))) if self.several else next(replies)
        return shown(self.show, reply, self.errors)


@in_conversation("EXEC", "loading in-multi", group="transactions", since="1.2.0")
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
    steps: list[Step] = []
    planned = _planned(conversation, queue, steps)
    denied = next((one for one in planned if one.denied), None)
    if denied is not None and is_whole(steps):
        raise Refusal(f"EXECABORT Transaction discarded because of: {denied.value.text}")
    acts = any(one.queued is not None for one in planned)

    def act(reply: Reply) -> None:
        if isinstance(reply, Replies):
            for one in planned:
                one.act(conversation)

    def show(reply: Reply) -> Value:
        if reply is MISSING:
            return NULL_ARRAY
        act(reply)
        replies = iter(reply.values if isinstance(reply, Replies) else ())
        return Together([one.value_from(replies) for one in planned])

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
    return Later(outcome, show, cost=cost, size=transaction.queued_bytes, acts=acts)


def _planned(conversation: RespConversation, queue: Sequence[QueuedCommand], steps: list[Step]) -> list[_Planned]:
    """Append the commands on keys to the steps for the store. The other commands execute after its reply.

    SELECT applies to the steps behind it; the conversation selects the database when EXEC executes.
    """
    db = conversation.db
    try:
        return [_plan(conversation, queued, steps) for queued in queue]
    finally:
        conversation.db = db


def _plan(conversation: RespConversation, queued: QueuedCommand, steps: list[Step]) -> _Planned:
    spec = queued.spec
    refusal = _no_longer_allowed(conversation, queued)
    if refusal is not None:
        return _Planned(value=refusal, denied=True)
    try:
        if spec.on_keys is None:
            if spec.name == "select":
                conversation.db = conversation.arguments(spec, queued.request).db_number()
            return _Planned(queued=queued)
        call = spec.on_keys(conversation.arguments(spec, queued.request))
    except Refusal as refusal:
        return _Planned(value=Error(str(refusal)))
    conversation.audit(spec)
    if isinstance(call, Calls):
        steps += call.steps
        return _Planned(call.show, several=len(call.steps))
    steps.append(Step(conversation.db, call.command))
    return _Planned(call.show, errors=call.errors)


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
    conversation.refused(denial, in_transaction=True)
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

"""Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

What always holds: the words on keys of one transaction reach the store together, as one entry of its log; if a
watched key has changed, nothing is carried out, not even what does not speak of keys.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from cairnkv.commands import MISSING, Replies, Reply, Step
from cairnkv.limits import BYTES_PER_COST, TRANSACTION_BYTES_MAX, TRANSACTION_COST_MAX, WATCHED_MAX
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error
from cairnkv.session.conversation import WORDS_PER_COST, bytes_of_outcome
from cairnkv.session.resp.command_spec import Arguments, Calls, Errors, Refusal, Value, in_conversation
from cairnkv.session.resp.conversation import NOTHING, Job, Later, Queued, RespConversation, failed
from cairnkv.session.resp.encoding import Several, Together, shown
from cairnkv.store import PendingCommand, PendingReply

WATCHED_BYTES: Final = 256
"""Bytes that a watched key takes besides its own, near enough."""


@in_conversation(
    "MULTI",
    "loading fast in-multi",
    group="transactions",
    since="1.2.0",
    summary="Begin a transaction: queue what follows.",
)
def multi(talk: RespConversation, arguments: Arguments) -> Value:
    if talk.queue is not None:
        raise Refusal("ERR MULTI calls can not be nested")
    talk.queue = []
    talk.queued_bytes = talk.queued_cost = 0
    talk.spoilt = False
    return OK


@in_conversation(
    "DISCARD",
    "loading fast in-multi",
    group="transactions",
    since="2.0.0",
    summary="Forget the transaction that is open.",
)
def discard(talk: RespConversation, arguments: Arguments) -> Value:
    if talk.queue is None:
        raise Refusal("ERR DISCARD without MULTI")
    talk.forget_transaction()
    return OK


@in_conversation(
    "WATCH key [key ...]",
    "loading fast in-multi",
    group="transactions",
    since="2.2.0",
    summary="Let the next transaction be given up if one of these keys changes before.",
)
def watch(talk: RespConversation, arguments: Arguments) -> Value:
    if talk.queue is not None:
        raise Refusal("ERR WATCH inside MULTI is not allowed")
    keys = dict.fromkeys(arguments.keys())
    places = [(talk.db, key) for key in keys if (talk.db, key) not in talk.watched]
    if len(talk.watched) + len(places) > WATCHED_MAX:
        raise Refusal(f"ERR more than {WATCHED_MAX} keys are watched")
    talk.watched_bytes += sum(len(key) + WATCHED_BYTES for _, key in places)
    return Later(talk.store.watch(places, talk.watched), lambda _: OK)


@in_conversation("UNWATCH", "loading fast", group="transactions", since="2.2.0", summary="Watch no key any more.")
def unwatch(talk: RespConversation, arguments: Arguments) -> Value:
    talk.forget_watched()
    return OK


@dataclasses.dataclass(slots=True)
class _Planned:
    """What will be shown for a queued command: the reply to the next step, or to several, or a value.

    queued: a word that is not the store's, which is yet to be carried out for its value.
    """

    show: Callable[[Reply], Value] | None = None
    value: Value = None
    errors: Errors | None = None
    several: int = 0
    queued: Queued | None = None

    def act(self, talk: RespConversation) -> None:
        """Carry out what is not the store's, once."""
        queued, self.queued = self.queued, None
        if queued is not None:
            self.value = _carried(talk, queued)

    def say(self, replies: Iterator[Reply]) -> Value:
        """Take what it is out of the replies to all steps."""
        if self.show is None:
            return self.value
        reply = Replies(tuple(islice(replies, self.several))) if self.several else next(replies)
        return shown(self.show, reply, self.errors)


@in_conversation(
    "EXEC",
    "loading in-multi",
    group="transactions",
    since="1.2.0",
    summary="Carry the queued commands out, all at once.",
)
def execute(talk: RespConversation, arguments: Arguments) -> Value:
    if talk.queue is None:
        raise Refusal("ERR EXEC without MULTI")
    queue = talk.queue
    watched = [(db, before) for (db, _), before in talk.watched.items()]
    talk.forget_transaction()
    if talk.spoilt:
        raise Refusal("EXECABORT Transaction discarded because of previous errors.")
    steps: list[Step] = []
    planned = _planned(talk, queue, steps)
    acts = any(one.queued is not None for one in planned)

    def act(reply: Reply) -> None:
        if isinstance(reply, Replies):
            for one in planned:
                one.act(talk)

    def show(reply: Reply) -> Value:
        if reply is MISSING:
            return NULL_ARRAY
        act(reply)
        replies = iter(reply.values if isinstance(reply, Replies) else ())
        return Together([one.say(replies) for one in planned])

    made = sum(talk.store.bytes_made(step.command, step.db) for step in steps)
    outcome = talk.store.execute_all(steps, watched, bytes_max=TRANSACTION_BYTES_MAX, blocks=acts)
    if not isinstance(outcome, PendingReply):
        act(outcome)
    elif isinstance(outcome, PendingCommand):  # what its client says next does not wait for its reply
        outcome.on_outcome = act
    elif outcome.executed:
        act(outcome.outcome)
    talk.own_writes.note(outcome)
    worked = min(made, TRANSACTION_BYTES_MAX) + bytes_of_outcome(outcome)
    cost = talk.queued_cost + len(watched) // WORDS_PER_COST + worked // BYTES_PER_COST
    return Later(outcome, show, cost=cost, size=talk.queued_bytes, acts=acts)


def _planned(talk: RespConversation, queue: Sequence[Queued], steps: list[Step]) -> list[_Planned]:
    """Take the words on keys into the steps for the store; the others have their turn when its reply is known.

    But for SELECT, which says what the words behind it are about, and is taken back.
    """
    db = talk.db
    try:
        return [_plan(talk, queued, steps) for queued in queue]
    finally:
        talk.db = db


def _plan(talk: RespConversation, queued: Queued, steps: list[Step]) -> _Planned:
    spec = queued.spec
    try:
        if spec.on_keys is None:
            if spec.name == "select":
                talk.db = talk.arguments(spec, queued.words).db_number()
            return _Planned(queued=queued)
        call = spec.on_keys(talk.arguments(spec, queued.words))
    except Refusal as refusal:
        return _Planned(value=Error(str(refusal)))
    if isinstance(call, Calls):
        steps += call.steps
        return _Planned(call.show, several=len(call.steps))
    steps.append(Step(talk.db, call.command))
    return _Planned(call.show, errors=call.errors)


def _carried(talk: RespConversation, queued: Queued) -> Value:
    try:
        if talk.ended and "noscript" in queued.spec.flags:  # its connection has ended
            return None
        if talk.cost > TRANSACTION_COST_MAX:
            raise Refusal("ERR not carried out: the transaction has been too much work already")
        value = talk.carry(queued.spec, queued.words)
        if isinstance(value, Job):
            value = value.finish()
    except Refusal as refusal:
        value = Error(str(refusal))
    except Exception as error:
        value = failed(error, queued.spec.name)
    if isinstance(value, Several):
        value = value.values[-1]
    return None if value is NOTHING else value

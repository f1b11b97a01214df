"""The checks of queues: find and name the violations in a history.

Tokens are the order of leases: if the promises hold, a higher token is a later TAKE. Most rules therefore compare the
tokens of a message, and need no times. The others use the time between the invocation and the completion of an
operation, within which it took effect.

Invariants: a reported violation is a violation for all possible outcomes of the unknown operations, each of which took
effect at any time after its invocation, or never. A lease ends in log time, which may be ahead of the clients' clocks:
the checks count on a lease, and on a delay, only until `SLACK_MS` before its end. The checks are a pure function of
the history.

Out of scope: expiry, limits of queues, REQUEUE and PURGE, which the workload does not use.
"""

import collections
import enum
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final

from cairnkv.lab.consistency.history import MAJORITY, Outcome
from cairnkv.lab.consistency.queues.history import Delivery, Found, History, Operation, Rules, Verb
from cairnkv.lab.consistency.verdict import gaps_of, outcomes_of
from cairnkv.records import record, replace

SLACK_MS: Final = 2_000
"""Milliseconds by which a lease or a delay may end early or late: log time may be a second ahead of the clients, and
proceeds by up to a second at a restart."""

STUCK_SECONDS: Final = 20.0
"""Seconds of the final TAKE commands after which a message that they have not returned is stuck, unless it is dead. All
leases and delays of the workload are shorter."""

VIOLATIONS_PER_KIND_MAX: Final = 20
"""Maximum violations of a kind that are reported. One cause often shows many times."""


class Kind(enum.Enum):
    """The kinds of violations."""

    LOST = "an acknowledged message was lost"
    DOUBLED = "a message was put twice"
    INVENTED = "a message that no client put"
    REFUSED = "a message exists whose put was not executed"
    STUCK = "a message is not delivered any more"
    TOKENS = "the token of a lease did not rise"
    TWO_LEASES = "a message had two leases at the same time"
    EARLY = "a message was delivered before its time"
    AFTER_END = "a message was delivered after it was deleted"
    STALE = "a lease that had ended was accepted"
    LIVE_REFUSED = "a lease that had not ended was refused"
    ORDER = "a group was delivered out of order"
    GROUP = "a group had too many leases at the same time"
    ATTEMPTS = "the number of an attempt is wrong"
    DEAD = "a message is dead too early, or was delivered although it is dead"
    NAME = "a unique name had two messages, or was refused although it was free"
    COUNTS = "the counts of a queue are wrong"
    TOGETHER = "a part of TOGETHER had an effect without the other parts"
    MINORITY = "a command succeeded without a majority"


@record
class Violation:
    """A violation of a promise. text: one sentence. operations: the evidence; the first one is the impossible one."""

    kind: Kind
    queue: str
    text: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        shown = "".join(f"\n    {one}" for one in self.operations)
        return f"{self.kind.value}, queue {self.queue}: {self.text}{shown}"


@record
class Report:
    """The result of the checks.

    violations: ordered by time, at most `VIOLATIONS_PER_KIND_MAX` of a kind. unfinished: reasons why a part of the
    history could not be checked. queues, messages, deliveries, dead: their numbers. outcomes, gap, recovery: as in the
    report on keys.
    """

    violations: tuple[Violation, ...]
    unfinished: tuple[str, ...]
    queues: int
    messages: int
    deliveries: int
    dead: int
    outcomes: dict[Outcome, int]
    gap: int
    recovery: int

    @property
    def consistent(self) -> bool | None:
        """Whether the history is consistent; None: undecided."""
        if self.violations:
            return False
        return None if self.unfinished else True


def check(history: History, *, progress: Callable[[int], None] = lambda done: None) -> Report:
    """Check a history. progress: called with the number of checked operations."""
    operations = _with_known_outcomes(history.by_time())
    rules = history.rules()
    by_queue: dict[str, list[Operation]] = {name: [] for name in rules}
    for one in operations:
        by_queue.setdefault(one.queue, []).append(one)
    found = list(_tokens(operations))
    unfinished: list[str] = []
    messages = dead = 0
    for done, (name, of_queue) in enumerate(by_queue.items(), 1):
        queue = _Queue(name, rules.get(name, Rules(1)), of_queue)
        found += queue.violations()
        unfinished += queue.unfinished()
        messages += len(queue.messages)
        dead += sum(message.dead is not None for message in queue.messages.values())
        progress(len(operations) * done // len(by_queue))
    found += _without_majority(history)
    found.sort(key=lambda one: one.operations[0].completed)
    counted: collections.Counter[Kind] = collections.Counter()
    reported = []
    for violation in found:
        counted[violation.kind] += 1
        if counted[violation.kind] <= VIOLATIONS_PER_KIND_MAX:
            reported.append(violation)
    return Report(
        tuple(reported),
        tuple(unfinished),
        len(by_queue),
        messages,
        sum(len(one.deliveries) for one in operations),
        dead,
        outcomes_of(history),
        *gaps_of(history),
    )


def _with_known_outcomes(operations: Sequence[Operation]) -> list[Operation]:
    """Return the operations with the outcome of each TOGETHER whose effect was read."""
    read = {one.effect: one for one in operations if one.verb is Verb.READ and one.succeeded}
    return [
        replace(one, outcome=Outcome.OK, done=True, completed=max(one.completed, seen.completed))
        if one.verb is Verb.TOGETHER
        and one.outcome is Outcome.UNKNOWN
        and (seen := read.get(one.body or "")) is not None
        else one
        for one in operations
    ]


def _tokens(operations: Sequence[Operation]) -> Iterator[Violation]:
    """Yield the leases whose token is not higher than that of an earlier lease of any queue."""
    takes = [one for one in operations if one.deliveries]
    ended = sorted(takes, key=lambda one: one.completed)
    moments = [one.completed for one in ended]
    highest = list(accumulate(ended, lambda *two: max(two, key=_highest_token)))
    first: dict[int, Operation] = {}
    for one in takes:
        before = bisect_left(moments, one.invoked)
        tokens = [delivery.token for delivery in one.deliveries]
        if before and _highest_token(highest[before - 1]) >= min(tokens):
            text = f"lease {min(tokens)} is not higher than lease {_highest_token(highest[before - 1])} from before"
            yield Violation(Kind.TOKENS, one.queue, text, (one, highest[before - 1]))
            continue
        if tokens != sorted(set(tokens)):
            yield Violation(Kind.TOKENS, one.queue, f"the tokens of its leases are {_listed(tokens)}", (one,))
        for token in tokens:
            if (other := first.setdefault(token, one)) is not one:
                yield Violation(Kind.TOKENS, one.queue, f"lease {token} was given twice", (one, other))


def _highest_token(take: Operation) -> int:
    return max(delivery.token for delivery in take.deliveries)


def _without_majority(history: History) -> Iterator[Violation]:
    """Yield the operations that succeeded without a majority: their result is on too few disks, or may be outdated."""
    for action in history.actions:
        if action.what == MAJORITY:
            for one in history.operations:
                if one.outcome is Outcome.OK and action.began < one.invoked and one.completed < action.ended:
                    yield Violation(Kind.MINORITY, one.queue, f"it succeeded during {action}", (one,))


# -- messages ----------------------------------------------------------------------------------------------------------


@record
class _Lease:
    """A lease. take: the operation that returned it. settling, extending: the operations that name it."""

    take: Operation
    delivery: Delivery
    settling: list[Operation]
    extending: list[Operation]

    @property
    def token(self) -> int:
        return self.delivery.token

    def surely_until(self, moment: float) -> float:
        """Return the time until which the lease certainly holds, unless it is settled, as far as known at a moment."""
        extends: list[Operation] = []
        ends = [self.take.invoked + (self.take.lease or self.delivery.lease) * 1_000_000]
        for one in sorted(self.extending, key=lambda one: one.invoked):
            if not one.possible or one.invoked >= moment:
                continue
            end = one.invoked + one.lease * 1_000_000
            if one.succeeded and one.completed < moment:
                # It replaces those that had ended before; the unknown ones may come later.
                extends = [other for other in extends if not other.succeeded or other.completed > one.invoked]
                ends = [other.invoked + other.lease * 1_000_000 for other in extends]
            extends.append(one)
            ends.append(end)
        return min(ends) - SLACK_MS * 1_000_000

    def surely_ended(self, moment: float) -> float:
        """Return the time from which the lease has certainly ended, unless it is extended after a moment."""
        extends = [one for one in self.extending if one.possible and one.invoked < moment]
        if not all(one.succeeded for one in extends):
            return math.inf
        ends = [self.take.completed + (self.take.lease or self.delivery.lease) * 1_000_000]
        ends += [one.completed + one.lease * 1_000_000 for one in extends]
        return max(ends) + SLACK_MS * 1_000_000

    def settled_after(self) -> float:
        """Return the earliest time at which the lease may have been settled."""
        return min((one.invoked for one in self.settling if one.possible), default=math.inf)


class _Message:
    """The operations about one message.

    put: the operation that put it, or None if it is unknown. leases: ordered by token. removes: REMOVE and others that
    name it. listed: the listings that show it, by time. dead: the first of them that shows it dead.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.put: Operation | None = None
        self.body: str | None = None
        self.group = ""
        self.leases: list[_Lease] = []
        self.removes: list[Operation] = []
        self.listed: list[tuple[Operation, Found]] = []
        self.dead: Operation | None = None

    @property
    def first_seen(self) -> Operation:
        """The first operation whose result has the message."""
        seen = [one for one, _ in self.listed] + [lease.take for lease in self.leases]
        return min([*([self.put] if self.put else []), *seen], key=lambda one: one.completed)

    @property
    def last_token(self) -> int:
        return self.leases[-1].token if self.leases else 0

    def kills(self, lease: _Lease, one: Operation, rules: Rules) -> bool:
        """Whether a NACK makes the message dead."""
        exhausted = lease.delivery.attempt >= rules.attempts and one.counted
        return one.verb is Verb.NACK and (one.dead or exhausted)

    def ends(self, rules: Rules) -> Iterator[Operation]:
        """Yield the operations that delete the message or make it dead, if they have an effect."""
        yield from self.removes
        for lease in self.leases:
            yield from (one for one in lease.settling if one.verb is not Verb.NACK or self.kills(lease, one, rules))

    def possible_end(self, rules: Rules, *, listed: bool) -> float:
        """Return the earliest time at which the message can have been deleted or dead; infinity: it was not.

        listed: whether the final listing of the queue shows all dead messages.
        """
        end = min((one.invoked for one in self.ends(rules) if one.possible), default=math.inf)
        if self.may_have_died(listed=listed):
            end = min(end, self.leases[-1].take.invoked if self.leases else self.first_seen.invoked)
        live = [one.invoked for one, found in self.listed if not found.dead]
        return max(end, *live) if live else end

    def may_have_died(self, *, listed: bool) -> bool:
        """Whether a TAKE may have found that the message has had all its attempts.

        The final listing shows all dead messages that were not removed. listed: whether there is one.
        """
        return self.dead is not None or not listed or any(one.possible for one in self.removes)

    def certain_end(self, rules: Rules) -> Operation | None:
        """Return the operation after which the message was certainly deleted or dead."""
        ends = [one for one in self.ends(rules) if one.succeeded]
        if self.dead is not None:
            ends.append(self.dead)
        return min(ends, key=lambda one: one.completed, default=None)


class _Queue:
    """The operations on one queue, and its rules."""

    def __init__(self, name: str, rules: Rules, operations: Sequence[Operation]) -> None:
        self.name = name
        self.messages: dict[int, _Message] = {}
        self._rules = rules
        self._operations = operations
        self._puts = {one.body: one for one in operations if one.body is not None}
        self._ids: dict[str, dict[int, Operation]] = {}  # the messages that have a body, and where they are seen
        self._leases: dict[int, _Lease] = {}
        self._unknown_takes = sorted(
            one.invoked for one in operations if one.verb is Verb.TAKE and one.outcome is Outcome.UNKNOWN
        )
        self._listings = [one for one in operations if one.verb is Verb.LIST and one.final and one.succeeded]
        self._counts = [one for one in operations if one.verb is Verb.STATS and one.succeeded]
        self._gather()

    def _gather(self) -> None:
        """Sort the operations by messages."""
        for one in self._operations:
            for delivery in one.deliveries:
                lease = _Lease(one, delivery, [], [])
                self._leases.setdefault(delivery.token, lease)
                message = self._seen(delivery.message, delivery.body, delivery.group, one)
                message.leases.append(lease)
            for found in one.found:
                message = self._seen(found.message, found.body, found.group, one)
                message.listed.append((one, found))
                if found.dead and message.dead is None:
                    message.dead = one
            if one.verb is Verb.PUT and one.succeeded:
                assert one.body is not None
                self._seen(one.message, one.body, one.group, one)
        for message in self.messages.values():
            message.put = self._puts.get(message.body or "")
            message.leases.sort(key=lambda lease: lease.token)
        for one in self._operations:
            if one.verb is Verb.REMOVE and one.message in self.messages:
                self.messages[one.message].removes.append(one)
            named = self._leases.get(one.token) if one.verb.settles or one.verb is Verb.EXTEND else None
            if named is not None and named.delivery.message == one.message:
                (named.settling if one.verb.settles else named.extending).append(one)

    def _seen(self, number: int, body: str, group: str, one: Operation) -> _Message:
        message = self.messages.setdefault(number, _Message(number))
        if message.body is None:
            message.body, message.group = body, group
        self._ids.setdefault(body, {}).setdefault(number, one)
        return message

    def violations(self) -> Iterator[Violation]:
        """Yield all violations."""
        for message in self.messages.values():
            yield from self._of_deliveries(message)
            yield from self._of_leases(message)
            yield from self._of_attempts(message)
        yield from self._of_puts()
        yield from self._of_the_end()
        yield from self._of_groups()
        yield from self._of_names()
        yield from self._of_counts()
        yield from self._of_effects()

    def unfinished(self) -> Iterator[str]:
        """Yield the reasons why the end of the queue could not be checked."""
        if not self._listings:
            yield f"the final listing of {self.name} failed"
        elif self._left():
            yield f"{self.name} was not drained"

    def _violation(self, kind: Kind, text: str, *operations: Operation | None) -> Violation:
        return Violation(kind, self.name, text, tuple(one for one in operations if one is not None))

    # -- puts ----------------------------------------------------------------------------------------------------------

    def _of_puts(self) -> Iterator[Violation]:
        """(b) A put made each message, and each put made one message at most."""
        for body, ids in self._ids.items():
            put = self._puts.get(body)
            number, seen = next(iter(ids.items()))
            if put is None or seen.completed < put.invoked:
                yield self._violation(Kind.INVENTED, f"no client put {body!r} before", seen, put)
            elif len(ids) > 1:
                other = list(ids.values())[1]
                yield self._violation(Kind.DOUBLED, f"{body!r} is in messages {_listed(ids)}", other, seen, put)
            elif not put.possible:
                why = f"the put of {body!r} had the reply {put.reply!r}"
                yield self._violation(Kind.REFUSED, f"message {number} exists, although {why}", seen, put)
            elif self.messages[number].group != put.group or self.messages[number].body != body:
                yield self._violation(Kind.INVENTED, f"message {number} has another group or body", seen, put)

    def _of_the_end(self) -> Iterator[Violation]:
        """(a) Every acknowledged message was deleted, or is dead, or exists at the end."""
        if not self._listings:
            return
        for message in self.messages.values():
            if not self._is_explained(message):
                text = f"message {message.number} is missing at the end"
                yield self._violation(Kind.LOST, text, message.first_seen)
        for body, put in self._puts.items():  # TOGETHER does not return the id of its message
            if put.verb is Verb.TOGETHER and put.succeeded and body not in self._ids:
                yield self._violation(Kind.LOST, f"the message {body!r} is missing at the end", put)
        for found in self._left():
            if self._waited() and not any(lease.take.final for lease in self.messages[found.message].leases):
                text = f"message {found.message} is {found.state}, and no TAKE returns it"
                yield self._violation(Kind.STUCK, text, self._listings[-1], self.messages[found.message].put)

    def _is_explained(self, message: _Message) -> bool:
        """Whether a message may have been deleted, or was seen at the end."""
        if any(one.final for one, _ in message.listed) or any(lease.take.final for lease in message.leases):
            return True
        return any(one.possible for one in message.ends(self._rules) if one.verb is not Verb.NACK)

    def _left(self) -> list[Found]:
        """Return the messages of the last listing that are not dead."""
        return [found for found in self._listings[-1].found if not found.dead]

    def _waited(self) -> bool:
        """Whether the final TAKE commands had enough time to return all messages."""
        return self._listings[-1].invoked - self._listings[0].completed > STUCK_SECONDS * 1e9

    # -- deliveries and leases -----------------------------------------------------------------------------------------

    def _of_deliveries(self, message: _Message) -> Iterator[Violation]:
        """(c), (d) No delivery before the message's time, within another lease, or after the end of the message."""
        if message.leases and message.put is not None and message.put.delay:
            first = message.leases[0].take
            if first.completed < message.put.invoked + (message.put.delay - SLACK_MS) * 1_000_000:
                text = f"the delay of message {message.number} had not ended"
                yield self._violation(Kind.EARLY, text, first, message.put)
        for lease, following in pairwise(message.leases):
            take = following.take
            end = lease.surely_until(take.completed)
            if take.completed < min(end, lease.settled_after()):
                text = f"lease {lease.token} of message {message.number} had {_seconds(end - take.completed)} left"
                yield self._violation(Kind.TWO_LEASES, text, take, lease.take)
            for nack in lease.settling:
                delay = (nack.delay or 0) - SLACK_MS
                if nack.verb is Verb.NACK and nack.succeeded and take.completed < nack.invoked + delay * 1_000_000:
                    text = f"the delay of message {message.number} had not ended"
                    yield self._violation(Kind.EARLY, text, take, nack)
        for lease in message.leases:
            for one in lease.settling:
                if not one.succeeded or lease.token == message.last_token:
                    continue
                later = next(other for other in message.leases if other.token > lease.token)
                if one.verb is not Verb.NACK:
                    text = f"message {message.number} was deleted with lease {lease.token}"
                    yield self._violation(Kind.AFTER_END, text, later.take, one)
                elif message.kills(lease, one, self._rules):
                    text = f"message {message.number} was dead after the NACK of lease {lease.token}"
                    yield self._violation(Kind.DEAD, text, later.take, one)
        last = max((lease.take for lease in message.leases), key=lambda take: take.invoked, default=None)
        for removed in message.removes:
            if removed.succeeded and last is not None and last.invoked > removed.completed:
                text = f"message {message.number} was removed"
                yield self._violation(Kind.AFTER_END, text, last, removed)
        for one, _ in message.listed:
            deleted = [other for other in message.ends(self._rules) if other.succeeded and other.verb is not Verb.NACK]
            gone = min(deleted, key=lambda other: other.completed, default=None)
            if gone is not None and gone.completed < one.invoked:
                text = f"message {message.number} is listed, although it was deleted"
                yield self._violation(Kind.AFTER_END, text, one, gone)
                break

    def _of_leases(self, message: _Message) -> Iterator[Violation]:
        """(d) Only the newest lease of a message is accepted, once, and it is accepted until it ends."""
        for number, lease in enumerate(message.leases):
            following = [other.take for other in message.leases[number + 1 :]]
            settled = [one for one in lease.settling if one.succeeded]
            for one in (*settled, *(one for one in lease.extending if one.succeeded)):
                newer = next((take for take in following if take.completed < one.invoked), None)
                ended = (*settled, *(other for other in message.removes if other.succeeded))
                before = next((other for other in ended if other is not one and other.completed < one.invoked), None)
                if newer is not None:
                    text = f"lease {lease.token} of message {message.number} was no longer the newest"
                    yield self._violation(Kind.STALE, text, one, newer, lease.take)
                elif before is not None:
                    text = f"another operation had ended lease {lease.token} of message {message.number}"
                    yield self._violation(Kind.STALE, text, one, before, lease.take)
            for one in lease.extending:
                if one.succeeded and one.invoked > lease.surely_ended(one.invoked):
                    text = f"the time of lease {lease.token} of message {message.number} had ended"
                    yield self._violation(Kind.STALE, text, one, lease.take)
            if len(settled) > 1 and not any(a.completed < b.invoked for a, b in itertools.permutations(settled, 2)):
                text = f"lease {lease.token} of message {message.number} ended twice"
                yield self._violation(Kind.STALE, text, *settled, lease.take)
            for one in (*lease.settling, *lease.extending):
                if one.outcome is Outcome.OK and not one.done and not self._may_refuse(message, lease, one):
                    text = f"lease {lease.token} of message {message.number} was the newest"
                    yield self._violation(Kind.LIVE_REFUSED, text, one, lease.take)

    def _may_refuse(self, message: _Message, lease: _Lease, one: Operation) -> bool:
        """Whether a reply that a lease has ended can be right."""
        others = (*message.removes, *lease.settling)
        if any(other.possible and other.invoked < one.completed for other in others if other is not one):
            return True
        if one.completed < lease.surely_until(one.completed):
            return False
        if one.verb is Verb.EXTEND:
            return True
        # Its time may have ended. The store accepts it nevertheless until the next TAKE of the message.
        return (
            any(other.token > lease.token and other.take.invoked < one.completed for other in message.leases)
            or bisect_right(self._unknown_takes, one.completed) > 0
            or message.may_have_died(listed=bool(self._listings))
        )

    def _of_attempts(self, message: _Message) -> Iterator[Violation]:
        """(f) Attempts count up to the limit. Only after the last one, the message is dead, and it stays dead."""
        most, number = self._rules.attempts, message.number
        for lease, following in pairwise([None, *message.leases]):
            assert following is not None
            attempt, take = following.delivery.attempt, following.take
            least = greatest = 1 if lease is None else lease.delivery.attempt + 1
            uncounted = [] if lease is None else [one for one in lease.settling if not one.counted]
            least -= any(one.possible for one in uncounted)
            greatest += bisect_right(self._unknown_takes, take.completed) - any(one.succeeded for one in uncounted)
            if attempt > most:
                yield self._violation(
                    Kind.ATTEMPTS, f"attempt {attempt} of message {number} exceeds the limit of {most} attempts", take
                )
            elif attempt < least:
                before = None if lease is None else lease.take
                yield self._violation(
                    Kind.ATTEMPTS,
                    f"message {number} was delivered as attempt {attempt}, and must be attempt {least} or later",
                    take,
                    before,
                )
            elif attempt > greatest:
                before = None if lease is None else lease.take
                text = f"attempt {attempt} of message {number} is higher than the number of TAKE commands, {greatest}"
                yield self._violation(Kind.ATTEMPTS, text, take, before)
        dead = message.dead
        if dead is None:
            return
        found = next(found for one, found in message.listed if one is dead)
        nacks = [one for lease in message.leases for one in lease.settling if one.verb is Verb.NACK and one.dead]
        if found.attempts < most and not any(one.possible for one in nacks):
            text = f"message {number} is dead after {found.attempts} of {most} attempts"
            yield self._violation(Kind.DEAD, text, dead, message.leases[-1].take if message.leases else None)
        for later in (
            *(lease.take for lease in message.leases if lease.take.invoked > dead.completed),
            *(one for one, found in message.listed if one.invoked > dead.completed and not found.dead),
        ):
            yield self._violation(Kind.DEAD, f"message {number} was dead before", later, dead)

    # -- groups and names ----------------------------------------------------------------------------------------------

    def _of_groups(self) -> Iterator[Violation]:
        """(e), (h) The order of a group, and the number of its leases."""
        most = self._rules.per_group
        if not most:
            return
        groups: dict[str, list[_Message]] = {}
        for _, message in sorted(self.messages.items()):
            if message.group:
                groups.setdefault(message.group, []).append(message)
        for messages in groups.values():
            if most == 1:
                yield from self._of_order(messages)
            leases = sorted((lease for message in messages for lease in message.leases), key=lambda one: one.token)
            yield from self._of_group_limit(leases, most)

    def _of_order(self, messages: Sequence[_Message]) -> Iterator[Violation]:
        """Yield the deliveries before the end of an earlier message of the group. messages: in the order of ids."""
        latest: tuple[float, _Message] | None = None  # the earlier message that may have ended last
        newest: _Message | None = None  # the earlier message with the newest lease
        for message in messages:
            for lease in message.leases:
                if newest is not None and newest.last_token > lease.token:
                    text = f"message {message.number} was delivered, and message {newest.number} after it"
                    yield self._violation(Kind.ORDER, text, lease.take, newest.leases[-1].take)
                elif latest is not None and latest[0] >= lease.take.completed:
                    text = f"message {message.number} was delivered before the end of message {latest[1].number}"
                    yield self._violation(Kind.ORDER, text, lease.take, latest[1].put)
            end = message.possible_end(self._rules, listed=bool(self._listings))
            latest = max(latest or (end, message), (end, message), key=lambda pair: pair[0])
            newest = max(newest or message, message, key=lambda one: one.last_token)

    def _of_group_limit(self, leases: Sequence[_Lease], most: int) -> Iterator[Violation]:
        """Yield the deliveries during too many leases of other messages. leases: of a group, in the order of tokens."""
        held: list[_Lease] = []
        for lease in leases:
            now = lease.take.completed
            held = [
                other
                for other in held
                if now < other.settled_after()
                and other.delivery.message != lease.delivery.message
                and now < self._possible_end(other.delivery.message)
            ]
            during = [other for other in held if now < other.surely_until(now)]
            if len(during) >= most:
                text = f"the group {lease.delivery.group!r} had {len(during)} other leases, and its limit is {most}"
                yield self._violation(Kind.GROUP, text, lease.take, *(other.take for other in during))
            held.append(lease)

    def _possible_end(self, number: int) -> float:
        return self.messages[number].possible_end(self._rules, listed=bool(self._listings))

    def _of_names(self) -> Iterator[Violation]:
        """(g) A unique name has one message at a time. PUT refuses a name only while a message has it."""
        named = [one for one in self._operations if one.verb is Verb.PUT and one.unique]
        numbers = {
            number: put
            for number, message in self.messages.items()
            if (put := message.put) is not None and put.unique and put.possible
        }
        by_name: dict[str, list[int]] = {}
        for number, put in sorted(numbers.items()):
            by_name.setdefault(put.unique, []).append(number)
        for name, ids in by_name.items():
            latest: tuple[float, int] | None = None
            for number in ids:
                put = numbers[number]
                if put.outcome is Outcome.OK and latest is not None and latest[0] >= put.completed:
                    text = f"message {latest[1]} had the name {name!r} until later"
                    yield self._violation(Kind.NAME, text, put, numbers[latest[1]])
                end = self._possible_end(number)
                latest = max(latest or (end, number), (end, number))
        for one in named:
            if one.outcome is not Outcome.OK or one.done:
                continue
            holder = self.messages.get(one.message)
            if holder is not None and holder.put is not None and holder.put.unique != one.unique:
                yield self._violation(Kind.NAME, f"message {one.message} has another name", one, holder.put)
            end_ = None if holder is None else holder.certain_end(self._rules)
            if end_ is not None and end_.completed < one.invoked:
                yield self._violation(Kind.NAME, f"message {one.message} had ended before", one, end_)

    # -- counts and effects --------------------------------------------------------------------------------------------

    def _of_counts(self) -> Iterator[Violation]:
        """(i) The counts are those of the messages."""
        verbs: dict[str, Callable[[Operation], int]] = {
            "put": lambda one: (one.verb is Verb.PUT) + (one.verb is Verb.TOGETHER),
            "taken": lambda one: len(one.deliveries) if one.outcome is Outcome.OK else one.count,
            "acked": lambda one: (one.verb is Verb.ACK) + (one.verb is Verb.TOGETHER),
            # A server nacks the leases of a TAKE whose client has disconnected.
            "nacked": lambda one: (one.verb is Verb.NACK) + (one.count if one.outcome is Outcome.UNKNOWN else 0),
            "removed": lambda one: one.verb is Verb.REMOVE,
        }
        bounds = {name: _Bounds(self._operations, number) for name, number in verbs.items()}
        for one in self._counts:
            counts = one.counts
            assert counts is not None
            there = counts.ready + counts.delayed + counts.leased + counts.dead
            ended = counts.acked + counts.expired + counts.removed + counts.dropped
            if counts.put != there + ended:
                text = f"{counts.put:,} messages were put, {ended:,} ended, and {there:,} are there"
                yield self._violation(Kind.COUNTS, text, one)
                continue
            for name, bound in bounds.items():
                least, most = bound.at(one)
                if not least <= getattr(counts, name) <= most:
                    text = f"{name} is {getattr(counts, name):,}, and must be from {least:,} to {most:,}"
                    yield self._violation(Kind.COUNTS, text, one)
        yield from self._of_listings()

    def _of_listings(self) -> Iterator[Violation]:
        """Yield final counts that differ from the listing before by more than what unknown operations may change."""
        unknown = sum(one.outcome is Outcome.UNKNOWN and one.verb.writes for one in self._operations)
        removed = sum(one.verb is Verb.REMOVE and one.possible for one in self._operations)
        final = [one for one in self._operations if one.final and one.verb in (Verb.LIST, Verb.STATS)]
        for listing, one in pairwise(final):
            if listing.verb is not Verb.LIST or one.counts is None or not listing.succeeded:
                continue
            dead = sum(found.dead for found in listing.found)
            there = one.counts.ready + one.counts.delayed + one.counts.leased
            if abs(dead - one.counts.dead) > unknown or abs(len(listing.found) - dead - there) > unknown:
                text = f"there are {len(listing.found) - dead:,} messages that are not dead, and {dead:,} dead ones"
                yield self._violation(Kind.COUNTS, text, one, listing)
            elif not 0 <= one.counts.died - one.counts.dead <= removed:
                text = f"{one.counts.died:,} messages died, and {one.counts.dead:,} are dead"
                yield self._violation(Kind.COUNTS, text, one)

    def _of_effects(self) -> Iterator[Violation]:
        """(j) TOGETHER has acked its message, set its effect, and put its message, or has done none of this."""
        reads = {one.message: one for one in self._operations if one.verb is Verb.READ and one.outcome is Outcome.OK}
        together = [one for one in self._operations if one.verb is Verb.TOGETHER]
        possible = {(one.message, one.body) for one in together if one.possible}
        for one in together:
            read = reads.get(one.message)
            if one.succeeded and read is not None and read.effect != one.body and one.completed < read.invoked:
                yield self._violation(Kind.TOGETHER, f"the effect of message {one.message} is missing", read, one)
            seen = self._ids.get(one.body or "")
            if read is None or seen is None or one.outcome is not Outcome.UNKNOWN or read.effect == one.body:
                continue
            message_seen = min(seen.values(), key=lambda other: other.completed)
            if message_seen.completed < read.invoked:
                text = f"{one.body!r} was put, and the effect of message {one.message} is missing"
                yield self._violation(Kind.TOGETHER, text, read, message_seen, one)
        for number, read in reads.items():
            if read.effect and (number, read.effect) not in possible:
                tried = [one for one in together if one.body == read.effect]
                text = f"message {number} has the effect {read.effect!r}, whose TOGETHER was not executed"
                yield self._violation(Kind.TOGETHER, text, read, *tried)


class _Bounds:
    """The bounds of a total: the operations that certainly count, and those that may count, until a moment."""

    def __init__(self, operations: Iterable[Operation], number: Callable[[Operation], int]) -> None:
        certain = sorted((one.completed, number(one)) for one in operations if one.succeeded)
        possible = sorted((one.invoked, number(one)) for one in operations if one.possible)
        self._certain, self._possible = _Sums(certain), _Sums(possible)

    def at(self, one: Operation) -> tuple[int, int]:
        """Return the least and the greatest total that an operation may return."""
        return self._certain.before(one.invoked), self._possible.before(one.completed)


class _Sums:
    """The sums of numbers until each moment."""

    def __init__(self, numbers: Sequence[tuple[int, int]]) -> None:
        self._moments = [moment for moment, _ in numbers]
        self._sums = [0, *accumulate(number for _, number in numbers)]

    def before(self, moment: int) -> int:
        return self._sums[bisect_left(self._moments, moment)]


def _listed(ids: Iterable[int]) -> str:
    return " and ".join(map(str, ids))


def _seconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e9:.1f} s"

"""The ten promises, on histories written by hand: each has a history that breaks it, and a correct one that is close.

Times are milliseconds. Each history ends with a listing of the queue, unless the case says otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cairnkv.lab.consistency.history import Action, Outcome
from cairnkv.lab.consistency.queues import checks
from cairnkv.lab.consistency.queues.checks import SLACK_MS, Kind, Report
from cairnkv.lab.consistency.queues.history import Counts, Delivery, Found, History, Operation, Rules, Verb
from cairnkv.records import fields_of, replace

UNKNOWN, REFUSED = Outcome.UNKNOWN, Outcome.NOT_EXECUTED
END = 100_000
LONG = 60_000
"""Milliseconds of a lease that outlasts the history, and of one whose end the checks cannot know."""
BRIEF = 100


def at(begin: float, end: float, verb: Verb, **fields: Any) -> Operation:
    return Operation(fields.pop("client", 1), verb, "q", round(begin * 1e6), round(end * 1e6), **fields)


def put(begin: float, end: float, message: int, body: str = "", **fields: Any) -> Operation:
    return at(begin, end, Verb.PUT, message=message, body=body or f"b{message}", **fields)


def take(begin: float, end: float, *deliveries: tuple[int, ...], lease: int = LONG, **fields: Any) -> Operation:
    """deliveries: message, token, attempt (default: 1)."""
    made = tuple(
        Delivery(message, token, (attempt or [1])[0], lease, fields.get("group", ""), f"b{message}")
        for message, token, *attempt in deliveries
    )
    return at(begin, end, Verb.TAKE, count=max(1, len(made)), lease=lease, deliveries=made, **{**fields, "group": ""})


def on(verb: Verb, begin: float, end: float, message: int, token: int = 0, **fields: Any) -> Operation:
    return at(begin, end, verb, message=message, token=token, **fields)


def ack(*given: Any, **fields: Any) -> Operation:
    return on(Verb.ACK, *given, **fields)


def nack(*given: Any, **fields: Any) -> Operation:
    return on(Verb.NACK, *given, **fields)


def extend(*given: Any, **fields: Any) -> Operation:
    return on(Verb.EXTEND, *given, **fields)


def remove(*given: Any, **fields: Any) -> Operation:
    return on(Verb.REMOVE, *given, **fields)


def together(begin: float, end: float, message: int, token: int, body: str, **fields: Any) -> Operation:
    return on(Verb.TOGETHER, begin, end, message, token, body=body, **fields)


def read(message: int, effect: str) -> Operation:
    return on(Verb.READ, END + 10, END + 11, message, effect=effect, final=True)


def found(message: int, state: str = "ready", attempts: int = 0, body: str = "", **fields: Any) -> Found:
    return Found(message, state, attempts, fields.pop("token", 0), fields.pop("group", ""), "", body or f"b{message}")


def listing(*there: Found, begin: float = END, final: bool = True) -> Operation:
    return at(begin, begin + 1, Verb.LIST, found=there, final=final)


def counts(begin: float, **numbers: int) -> Operation:
    zero = dict.fromkeys(Counts.__match_args__, 0)
    return at(begin, begin + 1, Verb.STATS, counts=Counts(**zero | numbers))


def judged(operations: Sequence[Operation], rules: Rules = Rules(3), *actions: Action) -> Report:  # noqa: B008
    return checks.check(History(operations, actions, {"queues": {"q": list(fields_of(rules).values())}}))


NOTHING = listing()
LATER = SLACK_MS + BRIEF
"""Milliseconds after which the checks do not count on a brief lease any more."""

BROKEN: dict[str, tuple[Kind, list[Operation]]] = {
    # (a) Every acknowledged message was acked, removed, dead or there at the end.
    "a: a put is missing": (Kind.LOST, [put(0, 1, 1), NOTHING]),
    "a: a message is missing after a nack": (Kind.LOST, [put(0, 1, 1), take(2, 3, (1, 1)), nack(4, 5, 1, 1), NOTHING]),
    "a: a message is missing whose ack was refused": (
        Kind.LOST,
        [put(0, 1, 1), take(2, 3, (1, 1)), take(4, 5, (1, 2, 2)), ack(6, 7, 1, 1, done=False), NOTHING],
    ),
    "a: an unknown put was delivered and is missing": (
        Kind.LOST,
        [put(0, 1, 1, outcome=UNKNOWN), take(2, 3, (1, 1)), NOTHING],
    ),
    "a: a message stays ready": (
        Kind.STUCK,
        [put(0, 1, 1), listing(found(1)), take(END + 5, END + 6, final=True), listing(found(1), begin=END + 30_000)],
    ),
    # (b) Nothing is delivered that was not put, and no put makes two messages.
    "b: a message that no client put": (Kind.INVENTED, [take(2, 3, (1, 1)), listing(found(1))]),
    "b: delivered before it was put": (Kind.INVENTED, [take(2, 3, (1, 1)), put(4, 5, 1), listing(found(1))]),
    "b: an unknown put made two messages": (
        Kind.DOUBLED,
        [put(0, 1, 0, "x", outcome=UNKNOWN), listing(found(1, body="x"), found(2, body="x"))],
    ),
    "b: a refused put was executed": (
        Kind.REFUSED,
        [put(0, 1, 0, "b1", outcome=REFUSED), take(2, 3, (1, 1)), listing(found(1))],
    ),
    "b: a put that found its name taken was executed": (
        Kind.REFUSED,
        [
            put(0, 1, 1, unique="u"),
            put(2, 3, 1, "b2", unique="u", done=False),
            listing(found(1), found(2)),
        ],
    ),
    # (c) Tokens rise; leases of a message do not overlap; nothing is delivered before its time.
    "c: a token that is lower than one before": (
        Kind.TOKENS,
        [put(0, 1, 1), put(0, 1, 2), take(2, 3, (1, 7)), take(4, 5, (2, 6)), listing(found(1), found(2))],
    ),
    "c: a token twice": (
        Kind.TOKENS,
        [put(0, 1, 1), put(0, 1, 2), take(2, 5, (1, 7)), take(3, 4, (2, 7), client=2), listing(found(1), found(2))],
    ),
    "c: two leases at the same time": (
        Kind.TWO_LEASES,
        [put(0, 1, 1), take(2, 3, (1, 1)), take(4, 5, (1, 2, 2)), listing(found(1))],
    ),
    "c: a lease within an extended lease": (
        Kind.TWO_LEASES,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1), lease=BRIEF),
            extend(4, 5, 1, 1, lease=LONG),
            take(2 + LATER, 3 + LATER, (1, 2, 2)),
            listing(found(1)),
        ],
    ),
    "c: a delayed message at once": (
        Kind.EARLY,
        [put(0, 1, 1, delay=LONG), take(2, 3, (1, 1)), listing(found(1))],
    ),
    "c: a delayed message after its nack": (
        Kind.EARLY,
        [put(0, 1, 1), take(2, 3, (1, 1)), nack(4, 5, 1, 1, delay=LONG), take(6, 7, (1, 2, 2)), listing(found(1))],
    ),
    # (d) After ACK = 1 there is no delivery, and only the newest lease is accepted.
    "d: delivered after its ack": (
        Kind.AFTER_END,
        [put(0, 1, 1), take(2, 3, (1, 1)), ack(4, 5, 1, 1), take(6, 7, (1, 2, 2)), listing(found(1))],
    ),
    "d: delivered after its removal": (
        Kind.AFTER_END,
        [put(0, 1, 1), remove(2, 3, 1), take(4, 5, (1, 1)), NOTHING],
    ),
    "d: listed after its ack": (
        Kind.AFTER_END,
        [put(0, 1, 1), take(2, 3, (1, 1)), ack(4, 5, 1, 1), listing(found(1))],
    ),
    "d: a stale nack was accepted": (
        Kind.STALE,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1), lease=BRIEF),
            take(2 + LATER, 3 + LATER, (1, 2, 2)),
            nack(4 + LATER, 5 + LATER, 1, 1),
            listing(found(1)),
        ],
    ),
    "d: a stale extend was accepted": (
        Kind.STALE,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1), lease=BRIEF),
            take(2 + LATER, 3 + LATER, (1, 2, 2)),
            extend(4 + LATER, 5 + LATER, 1, 1, lease=LONG),
            listing(found(1)),
        ],
    ),
    "d: a lease was extended whose time had ended": (
        Kind.STALE,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1), lease=BRIEF),
            extend(4 + LATER, 5 + LATER, 1, 1, lease=LONG),
            listing(found(1)),
        ],
    ),
    "d: an ack was accepted twice": (
        Kind.STALE,
        [put(0, 1, 1), take(2, 3, (1, 1)), ack(4, 6, 1, 1), ack(5, 7, 1, 1, client=2), NOTHING],
    ),
    "d: an ack was accepted after a removal": (
        Kind.STALE,
        [put(0, 1, 1), take(2, 3, (1, 1)), remove(4, 5, 1), ack(6, 7, 1, 1), NOTHING],
    ),
    "d: the ack of a live lease was refused": (
        Kind.LIVE_REFUSED,
        [put(0, 1, 1), take(2, 3, (1, 1)), ack(4, 5, 1, 1, done=False), listing(found(1))],
    ),
    "d: the ack of the newest lease was refused after its end": (
        Kind.LIVE_REFUSED,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1), lease=BRIEF),
            ack(4 + LATER, 5 + LATER, 1, 1, done=False),
            listing(found(1)),
        ],
    ),
    # (f) Attempts end at the limit, and a message is then dead.
    "f: an attempt too many": (
        Kind.ATTEMPTS,
        [put(0, 1, 1), take(2, 3, (1, 1, 4)), listing(found(1))],
    ),
    "f: an attempt twice": (
        Kind.ATTEMPTS,
        [put(0, 1, 1), take(2, 3, (1, 1)), nack(4, 5, 1, 1), take(6, 7, (1, 2, 1)), listing(found(1))],
    ),
    "f: an attempt without a TAKE": (
        Kind.ATTEMPTS,
        [put(0, 1, 1), take(2, 3, (1, 1)), nack(4, 5, 1, 1), take(6, 7, (1, 2, 3)), listing(found(1))],
    ),
    "f: delivered although it is dead": (
        Kind.DEAD,
        [put(0, 1, 1), take(2, 3, (1, 1)), nack(4, 5, 1, 1, dead=True), take(6, 7, (1, 2, 2)), listing(found(1))],
    ),
    "f: delivered after it was listed as dead": (
        Kind.DEAD,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1, 3), lease=BRIEF),
            take(2, 3, outcome=UNKNOWN),
            take(2, 3, outcome=UNKNOWN),
            listing(found(1, "dead", 3), begin=LATER, final=False),
            take(2 + LATER, 3 + LATER, (1, 2, 3)),
            listing(found(1, "dead", 3)),
        ],
    ),
    "f: dead with attempts left": (
        Kind.DEAD,
        [put(0, 1, 1), take(2, 3, (1, 1)), nack(4, 5, 1, 1), listing(found(1, "dead", 1))],
    ),
    # (i) The counts are those of the messages.
    "i: the parts are not the whole": (Kind.COUNTS, [put(0, 1, 1), counts(2, put=1), listing(found(1))]),
    "i: a put is not counted": (
        Kind.COUNTS,
        [put(0, 1, 1), put(0, 1, 2), counts(2, put=1, ready=1), listing(found(1), found(2))],
    ),
    "i: an ack is counted twice": (
        Kind.COUNTS,
        [
            put(0, 1, 1),
            put(0, 1, 2),
            take(2, 3, (1, 1), (2, 2)),
            ack(4, 5, 1, 1),
            counts(6, put=2, taken=2, acked=2),
            listing(found(2, "leased", 1)),
        ],
    ),
    "i: a message died twice": (
        Kind.COUNTS,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1)),
            nack(4, 5, 1, 1, dead=True),
            listing(found(1, "dead", 1)),
            replace(counts(END + 5, put=1, taken=1, nacked=1, dead=1, died=2), final=True),
        ],
    ),
    "i: counts differ from the listing": (
        Kind.COUNTS,
        [
            put(0, 1, 1),
            put(0, 1, 2),
            remove(2, 3, 2),
            listing(found(1), found(2, "delayed")),
            replace(counts(END + 5, put=2, ready=1, removed=1), final=True),
        ],
    ),
    # (j) The SET of TOGETHER is there if and only if its ACK gave 1.
    "j: the effect is missing": (
        Kind.TOGETHER,
        [put(0, 1, 1), take(2, 3, (1, 1)), together(4, 5, 1, 1, "next"), listing(found(2, body="next")), read(1, "")],
    ),
    "j: an effect of a refused TOGETHER": (
        Kind.TOGETHER,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1)),
            ack(4, 5, 1, 1),
            together(6, 7, 1, 1, "next", done=False),
            NOTHING,
            read(1, "next"),
        ],
    ),
    "j: the put of an unknown TOGETHER without its effect": (
        Kind.TOGETHER,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1)),
            together(4, 5, 1, 1, "next", outcome=UNKNOWN),
            listing(found(2, body="next")),
            read(1, ""),
        ],
    ),
    "j: the effect of an unknown TOGETHER without its ack": (
        Kind.AFTER_END,
        [
            put(0, 1, 1),
            take(2, 3, (1, 1), lease=BRIEF),
            together(4, 5, 1, 1, "next", outcome=UNKNOWN),
            take(2 + LATER, 3 + LATER, (1, 2, 2)),
            listing(found(1), found(2, body="next")),
            read(1, "next"),
        ],
    ),
    "j: the put of TOGETHER is missing": (
        Kind.LOST,
        [put(0, 1, 1), take(2, 3, (1, 1)), together(4, 5, 1, 1, "next"), NOTHING, read(1, "next")],
    ),
}
"""The kind of a violation, and a history that has it."""

CORRECT: dict[str, list[Operation]] = {
    "a: an unknown put never appears": [put(0, 1, 0, "x", outcome=UNKNOWN), NOTHING],
    "a: an unknown ack deleted the message": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        ack(4, 5, 1, 1, outcome=UNKNOWN),
        NOTHING,
    ],
    "a: an unknown ack did not": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        ack(4, 5, 1, 1, outcome=UNKNOWN),
        take(2 + LATER, 3 + LATER, (1, 2, 2)),
        listing(found(1, "leased", 2)),
    ],
    "a: taken at the end": [
        put(0, 1, 1),
        listing(found(1)),
        take(END + 5, END + 6, (1, 1), final=True),
        ack(END + 7, END + 8, 1, 1, final=True),
        listing(begin=END + 30_000),
    ],
    "b: an unknown put appears late": [
        put(0, 1, 0, "b1", outcome=UNKNOWN),
        take(2, 3),
        take(500, 501, (1, 1)),
        listing(found(1, "leased", 1)),
    ],
    "b: delivered before the reply of its put": [take(2, 3, (1, 1)), put(1, 9, 1), listing(found(1, "leased", 1))],
    "c: tokens of takes at the same time": [
        put(0, 1, 1),
        put(0, 1, 2),
        take(2, 5, (1, 7)),
        take(3, 4, (2, 6), client=2),
        listing(found(1), found(2)),
    ],
    "c: a lease after the end of another": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        take(2 + BRIEF, 3 + BRIEF, (1, 2, 2)),
        listing(found(1)),
    ],
    "c: a lease after a nack whose reply came later": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        nack(4, 9, 1, 1),
        take(5, 6, (1, 2, 2), client=2),
        listing(found(1)),
    ],
    "c: a lease after an unknown nack": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        nack(4, 5, 1, 1, outcome=UNKNOWN),
        take(50, 51, (1, 2, 2)),
        listing(found(1)),
    ],
    "c: a lease after one that an extension has shortened": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        extend(4, 5, 1, 1, lease=1),
        take(6, 7, (1, 2, 2)),
        listing(found(1)),
    ],
    "c: a lease that an unknown extension may have shortened": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        extend(4, 5, 1, 1, lease=1, outcome=UNKNOWN),
        take(6, 7, (1, 2, 2)),
        listing(found(1)),
    ],
    "c: a delay that ended within the slack": [
        put(0, 1, 1, delay=LATER),
        take(BRIEF + 1, BRIEF + 2, (1, 1)),
        listing(found(1)),
    ],
    "d: a stale ack was refused": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        take(4 + BRIEF, 5 + BRIEF, (1, 2, 2)),
        ack(6 + BRIEF, 7 + BRIEF, 1, 1, done=False),
        listing(found(1)),
    ],
    "d: an ack was refused at the time of another take": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        take(4 + BRIEF, 9 + BRIEF, (1, 2, 2), client=2),
        ack(6 + BRIEF, 7 + BRIEF, 1, 1, done=False),
        listing(found(1)),
    ],
    "d: an ack after the end of its lease was accepted": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        ack(4 + LATER, 5 + LATER, 1, 1),
        NOTHING,
    ],
    "d: an ack was refused after an unknown take": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        take(4 + BRIEF, 5 + BRIEF, outcome=UNKNOWN),
        ack(4 + LATER, 5 + LATER, 1, 1, done=False),
        listing(found(1)),
    ],
    "d: an extend after the end of its lease was refused": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        extend(4 + LATER, 5 + LATER, 1, 1, lease=LONG, done=False),
        listing(found(1)),
    ],
    "d: a lease was extended whose time had been extended": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        extend(4, 5, 1, 1, lease=LONG),
        extend(4 + LATER, 5 + LATER, 1, 1, lease=LONG),
        listing(found(1)),
    ],
    "d: an ack was refused by a message that was dead, and then removed": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        nack(4, 5, 1, 1),
        take(6, 7, (1, 2, 2)),
        nack(8, 9, 1, 2),
        take(10, 11, (1, 3, 3), lease=BRIEF),
        take(2 + LATER, 3 + LATER),
        ack(4 + LATER, 5 + LATER, 1, 3, done=False),
        remove(6 + LATER, 7 + LATER, 1),
        NOTHING,
    ],
    "d: a lease was extended, whose time had perhaps been extended before": [
        put(0, 1, 1),
        take(2, 3, (1, 1), lease=BRIEF),
        extend(4, 5, 1, 1, lease=LONG, outcome=UNKNOWN),
        extend(4 + LATER, 5 + LATER, 1, 1, lease=LONG),
        listing(found(1)),
    ],
    "d: one of two acks was refused": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        ack(4, 8, 1, 1),
        ack(5, 6, 1, 1, client=2, done=False),
        NOTHING,
    ],
    "d: an ack at the time of a removal": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        remove(4, 7, 1),
        ack(5, 6, 1, 1, done=False, client=2),
        NOTHING,
    ],
    "f: the last attempt, then dead": [
        put(0, 1, 1),
        take(2, 3, (1, 1, 1)),
        nack(4, 5, 1, 1),
        take(6, 7, (1, 2, 2)),
        nack(8, 9, 1, 2),
        take(10, 11, (1, 3, 3)),
        nack(12, 13, 1, 3),
        take(14, 15),
        listing(found(1, "dead", 3)),
    ],
    "f: an unknown take had an attempt": [
        put(0, 1, 1),
        take(2, 3, outcome=UNKNOWN),
        take(4, 5, (1, 2, 2)),
        listing(found(1)),
    ],
    "f: an attempt that does not count": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        nack(4, 5, 1, 1, counted=False),
        take(6, 7, (1, 2, 1)),
        listing(found(1)),
    ],
    "f: an attempt that may not count": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        nack(4, 5, 1, 1, counted=False, outcome=UNKNOWN),
        take(6, 7, (1, 2, 2)),
        listing(found(1)),
    ],
    "f: an unknown nack made it dead": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        nack(4, 5, 1, 1, dead=True, outcome=UNKNOWN),
        listing(found(1, "dead", 1)),
    ],
    "i: an unknown put is counted": [
        put(0, 1, 1),
        put(0, 1, 0, "x", outcome=UNKNOWN),
        counts(2, put=2, ready=2),
        listing(found(1), found(2, body="x")),
    ],
    "i: a put at the time of the counts": [put(0, 9, 1), counts(2), listing(found(1))],
    "i: a server nacked an unknown take": [
        put(0, 1, 1),
        take(2, 3, outcome=UNKNOWN),
        counts(4, put=1, ready=1, taken=1, nacked=1),
        listing(found(1)),
    ],
    "j: a TOGETHER": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        together(4, 5, 1, 1, "next"),
        listing(found(2, body="next")),
        read(1, "next"),
    ],
    "j: an unknown TOGETHER with all its parts": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        together(4, 5, 1, 1, "next", outcome=UNKNOWN),
        listing(found(2, body="next")),
        read(1, "next"),
    ],
    "j: an unknown TOGETHER without any": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        together(4, 5, 1, 1, "next", outcome=UNKNOWN),
        listing(found(1, "leased", 1)),
        read(1, ""),
    ],
    "j: a TOGETHER, and an unknown one with the same lease": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        together(4, 5, 1, 1, "next"),
        together(6, 7, 1, 1, "other", outcome=UNKNOWN),
        listing(found(2, body="next")),
        read(1, "next"),
    ],
    "j: a refused TOGETHER after an ack": [
        put(0, 1, 1),
        take(2, 3, (1, 1)),
        ack(4, 5, 1, 1),
        together(6, 7, 1, 1, "next", done=False),
        NOTHING,
        read(1, ""),
    ],
}
"""Histories that break no promise."""


@pytest.mark.parametrize("name", BROKEN)
def test_broken_promise_is_found_and_named(name: str) -> None:
    kind, operations = BROKEN[name]
    report = judged(operations)
    assert kind in {violation.kind for violation in report.violations}, report.violations
    assert report.consistent is False
    for violation in report.violations:
        assert violation.text
        assert violation.operations
        assert kind is not violation.kind or violation.kind.value in str(violation)


@pytest.mark.parametrize("name", CORRECT)
def test_kept_promise_is_accepted(name: str) -> None:
    report = judged(CORRECT[name])
    assert report.violations == ()


# -- groups and names --------------------------------------------------------------------------------------------------

ONE, TWO = Rules(3, 1), Rules(3, 2)


def in_group(*messages: int) -> list[Operation]:
    return [put(0, 1, message, group="g") for message in messages]


def there(*messages: int, **fields: Any) -> Operation:
    return listing(*(found(message, group="g", **fields) for message in messages))


def of_group(*given: Any, **fields: Any) -> Operation:
    return take(*given, group="g", **fields)


ORDERED: dict[str, tuple[Kind | None, Rules, list[Operation]]] = {
    # (e) With a limit of 1, deliveries are in the order of ids, and only after the end of the message before.
    "e: a later message first": (
        Kind.ORDER,
        ONE,
        [*in_group(1, 2), of_group(2, 3, (2, 1)), ack(4, 5, 2, 1), of_group(6, 7, (1, 2)), there(1)],
    ),
    "e: the next one before the end": (
        Kind.ORDER,
        ONE,
        [
            *in_group(1, 2),
            of_group(2, 3, (1, 1), lease=BRIEF),
            of_group(2 + LATER, 3 + LATER, (2, 2)),
            there(1, 2),
        ],
    ),
    "e: the next one after the ack": (
        None,
        ONE,
        [*in_group(1, 2), of_group(2, 3, (1, 1)), ack(4, 9, 1, 1), of_group(6, 7, (2, 2), client=2), there(2)],
    ),
    "e: the next one after an unknown ack": (
        None,
        ONE,
        [
            *in_group(1, 2),
            of_group(2, 3, (1, 1)),
            ack(4, 5, 1, 1, outcome=UNKNOWN),
            of_group(6, 7, (2, 2)),
            there(2),
        ],
    ),
    "e: the next one, and the unknown ack had no effect": (
        Kind.ORDER,
        ONE,
        [
            *in_group(1, 2),
            of_group(2, 3, (1, 1)),
            ack(4, 5, 1, 1, outcome=UNKNOWN),
            of_group(6, 7, (2, 2)),
            there(1, 2),
        ],
    ),
    "e: the next one after the death": (
        None,
        ONE,
        [
            *in_group(1, 2),
            of_group(2, 3, (1, 1)),
            nack(4, 5, 1, 1, dead=True),
            of_group(6, 7, (2, 2)),
            listing(found(1, "dead", 1, group="g"), found(2, group="g")),
        ],
    ),
    "e: the next one after a death, and the removal of the dead message": (
        None,
        ONE,
        [
            *in_group(1, 2),
            of_group(2, 3, (1, 1)),
            nack(4, 5, 1, 1),
            of_group(6, 7, (1, 2, 2)),
            nack(8, 9, 1, 2),
            of_group(10, 11, (1, 3, 3), lease=BRIEF),
            of_group(2 + LATER, 3 + LATER, (2, 4)),
            remove(4 + LATER, 5 + LATER, 1),
            there(2),
        ],
    ),
    "e: another group": (
        None,
        ONE,
        [put(0, 1, 1, group="g"), put(0, 1, 2), take(2, 3, (2, 1)), listing(found(1, group="g"), found(2))],
    ),
    "e: no order without the limit": (
        None,
        TWO,
        [*in_group(1, 2), of_group(2, 3, (2, 1)), ack(4, 5, 2, 1), of_group(6, 7, (1, 2)), there(1)],
    ),
    # (h) Never more leases of a group than its limit.
    "h: three leases of two": (
        Kind.GROUP,
        TWO,
        [*in_group(1, 2, 3), of_group(2, 3, (1, 1)), of_group(4, 5, (2, 2), (3, 3)), there(1, 2, 3)],
    ),
    "h: two leases of two": (
        None,
        TWO,
        [*in_group(1, 2, 3), of_group(2, 3, (1, 1)), of_group(4, 5, (2, 2)), there(1, 2, 3)],
    ),
    "h: a third lease during an ack": (
        None,
        TWO,
        [
            *in_group(1, 2, 3),
            of_group(2, 3, (1, 1), (2, 2)),
            ack(4, 9, 1, 1),
            of_group(5, 6, (3, 3), client=2),
            there(2, 3),
        ],
    ),
    "h: a third lease after the end of one": (
        None,
        TWO,
        [
            *in_group(1, 2, 3),
            of_group(2, 3, (1, 1), lease=BRIEF),
            of_group(4, 5, (2, 2)),
            of_group(4 + BRIEF, 5 + BRIEF, (3, 3)),
            there(1, 2, 3),
        ],
    ),
    # (g) A name has one message at a time.
    "g: two messages of a name": (
        Kind.NAME,
        Rules(3),
        [put(0, 1, 1, unique="u"), put(2, 3, 2, unique="u"), listing(found(1), found(2))],
    ),
    "g: refused although the message is deleted": (
        Kind.NAME,
        Rules(3),
        [
            put(0, 1, 1, unique="u"),
            take(2, 3, (1, 1)),
            ack(4, 5, 1, 1),
            put(6, 7, 1, "b2", unique="u", done=False),
            NOTHING,
        ],
    ),
    "g: refused for a message with another name": (
        Kind.NAME,
        Rules(3),
        [put(0, 1, 1, unique="u"), put(2, 3, 1, "b2", unique="w", done=False), listing(found(1))],
    ),
    "g: the name after an ack": (
        None,
        Rules(3),
        [
            put(0, 1, 1, unique="u"),
            take(2, 3, (1, 1)),
            ack(4, 7, 1, 1),
            put(5, 6, 2, unique="u", client=2),
            listing(found(2)),
        ],
    ),
    "g: the name after the death": (
        None,
        Rules(3),
        [
            put(0, 1, 1, unique="u"),
            take(2, 3, (1, 1)),
            nack(4, 5, 1, 1, dead=True),
            put(6, 7, 2, unique="u"),
            listing(found(1, "dead", 1), found(2)),
        ],
    ),
    "g: refused while the message is there": (
        None,
        Rules(3),
        [put(0, 1, 1, unique="u"), put(2, 3, 1, "b2", unique="u", done=False), listing(found(1))],
    ),
    "g: an unknown put had the name": (
        None,
        Rules(3),
        [
            put(0, 1, 0, "b1", unique="u", outcome=UNKNOWN),
            put(2, 3, 1, "b2", unique="u", done=False),
            listing(found(1)),
        ],
    ),
}


@pytest.mark.parametrize("name", ORDERED)
def test_groups_and_names_are_checked(name: str) -> None:
    kind, rules, operations = ORDERED[name]
    kinds = {violation.kind for violation in judged(operations, rules).violations}
    assert kinds == set() if kind is None else kind in kinds


# -- the report --------------------------------------------------------------------------------------------------------


def test_history_without_a_final_listing_is_undecided() -> None:
    report = judged([put(0, 1, 1)])
    assert (report.consistent, report.unfinished) == (None, ("the final listing of q failed",))


def test_messages_that_are_left_leave_the_verdict_open() -> None:
    report = judged([put(0, 1, 1), listing(found(1))])
    assert (report.consistent, report.unfinished) == (None, ("q was not drained",))


def test_command_without_a_majority_is_a_violation() -> None:
    operations = [put(0, 9, 1), put(11, 19, 2), take(21, 29, (1, 1), (2, 2)), ack(31, 39, 1, 1), NOTHING]
    majority = Action("majority", "kill 1 and 2", 10_000_000, 20_000_000)
    kinds = [violation.kind for violation in judged(operations, Rules(3), majority).violations]
    assert kinds.count(Kind.MINORITY) == 1
    elsewhere = Action("kill", "1", 10_000_000, 20_000_000)
    assert Kind.MINORITY not in {one.kind for one in judged(operations, Rules(3), elsewhere).violations}


def test_violations_of_a_kind_are_limited_and_numbers_are_counted() -> None:
    puts = [put(number, number + 1, number) for number in range(1, 101)]
    report = judged([*puts, take(200, 201, (1, 1)), nack(202, 203, 1, 1, dead=True), listing(found(1, "dead", 1))])
    assert [violation.kind for violation in report.violations] == [Kind.LOST] * checks.VIOLATIONS_PER_KIND_MAX
    assert (report.queues, report.messages, report.deliveries, report.dead) == (1, 100, 1, 1)
    assert report.outcomes == {Outcome.OK: 103, UNKNOWN: 0, REFUSED: 0}


def test_consistency_page_lists_every_kind_of_violation_on_queues() -> None:
    page = (Path(__file__).parents[4] / "docs" / "consistency.md").read_text()
    for kind in Kind:
        assert f"| {kind.value} |" in page

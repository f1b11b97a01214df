"""Commands on few queues, few groups and few messages, at short times: so that they meet."""

from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cairnkv.commands import COMMANDS, Ack, Command, Extend, Nack, Put, QueueSet, Scope, Take
from cairnkv.commands import queue_vocabulary as words
from cairnkv.commands.vocabulary import UNIX_MILLISECONDS
from tests.support.clock import HandClock
from tests.support.queue_model import QueueModel
from tests.support.strategies import Kinds, commands

START: Final = HandClock().now
QUEUES: Final = (b"q", b"r")
TIMES: Final = st.sampled_from([1, 40, 700, 1_500, 3_000])
STEPS: Final = st.sampled_from([0, 0, 0, 1, 39, 699, 1_400, 2_999, 70_000])
"""Milliseconds that go by between two commands."""

KINDS: Final = Kinds(
    {
        words.QUEUE: st.sampled_from([b"q", b"q", b"q", b"r"]),
        words.GROUP: st.sampled_from([b"g", b"h", b"i"]),
        words.UNIQUE_NAME: st.sampled_from([b"n", b"o"]),
        words.REASON: st.sampled_from([b"", b"why"]),
        words.BODY: st.sampled_from([b"", b"body", b"a longer body"]),
        words.ID: st.integers(1, 20),
        words.LEASE: st.integers(1, 10),
        words.PRIORITY: st.sampled_from([0, 1_000, 2_000]),
        words.DELAY: st.just(0) | TIMES,
        words.AGE: TIMES,
        words.AGE_OR_NONE: st.just(0) | TIMES,
        words.LEASE_TIME: TIMES,
        words.LEASE_TIME_OR_NONE: st.just(0) | TIMES,
        words.WAIT: TIMES,
        words.WAIT_OR_NONE: st.just(0) | TIMES,
        words.MESSAGE_COUNT: st.sampled_from([1, 1, 2, 5]),
        words.MESSAGE_CURSOR: st.just(0) | st.integers(0, 20),
        words.ATTEMPTS: st.integers(1, 3),
        words.FACTOR: st.integers(1, 3),
        words.NUMBER_OR_NONE: st.sampled_from([0, 1, 2, 5, 30]),
        UNIX_MILLISECONDS: st.sampled_from([START - 5, START + 1_000, START + 4_000]),
    }
)

QUEUE_COMMANDS: Final = [
    command for command in COMMANDS if command.spec.scope is Scope.QUEUES and not command.spec.by_store
]
ANY: Final = commands(QUEUE_COMMANDS, KINDS)

_PUTS: Final = st.builds(
    Put,
    KINDS[words.QUEUE],
    KINDS[words.BODY],
    group=st.sampled_from([None, b"g", b"h", b"i"]),
    priority=st.sampled_from([None, None, None, 0, 2_000]),
    delay=st.sampled_from([None, None, None, 700]),
    expires=st.sampled_from([None, None, None, 40, 1_500]),
)
_UNIQUE_PUTS: Final = st.builds(
    Put,
    KINDS[words.QUEUE],
    KINDS[words.BODY],
    group=st.sampled_from([None, b"g"]),
    unique=KINDS[words.UNIQUE_NAME],
    unique_for=st.sampled_from([None, None, 1_500]),
    until_taken=st.booleans(),
    expires=st.sampled_from([None, None, 40]),
)
_TAKES: Final = st.builds(Take, KINDS[words.QUEUE], KINDS[words.MESSAGE_COUNT], lease=st.sampled_from([None, 40, 700]))
USUAL: Final = st.one_of(_PUTS, _PUTS, _UNIQUE_PUTS, _TAKES, _TAKES)
"""Commands that put and take."""

SETTINGS: Final = st.builds(
    QueueSet,
    st.sampled_from(QUEUES),
    lease=st.sampled_from([None, 1_500]),
    attempts=st.sampled_from([1, 2, 3, 20]),
    per_group=st.sampled_from([0, 1, 1, 2, 2]),
    max_messages=st.sampled_from([None, None, None, 4]),
    max_bytes=st.sampled_from([None, None, None, 30]),
    max_age=st.sampled_from([None, None, None, 3_000]),
    dead_max=st.sampled_from([None, None, 2]),
    dead_age=st.sampled_from([None, None, 1_500]),
    when_full=st.sampled_from([None, b"drop"]),
)
"""Settings with which commands meet limits."""


@st.composite
def about_messages(draw: st.DrawFn, model: QueueModel) -> Command:
    """A command about messages that exist, mostly with their newest leases."""
    chosen = draw(st.lists(st.sampled_from(model.messages), min_size=1, max_size=3))
    leases = tuple((it.number, draw(st.sampled_from([it.lease or 1, it.lease or 1, 1]))) for it in chosen)
    number, lease = leases[0]
    how: dict[str, Any] = draw(
        st.sampled_from(
            [{}, {"delay": 0}, {"delay": 700}, {"priority": 0}, {"uncounted": True}, {"dead": True}, {"reason": b"bad"}]
        )
    )
    choices: tuple[SearchStrategy[Command], ...] = (
        st.just(Ack(leases)),
        st.just(Nack(number, lease, **how)),
        st.builds(Extend, TIMES, st.just(leases)),
        *(commands([kind], Kinds({**KINDS, words.ID: st.just(number)})) for kind in QUEUE_COMMANDS if _names(kind)),
    )
    return draw(st.one_of(choices))


def _names(kind: type[Command]) -> bool:
    return kind not in (Ack, Extend, Nack) and any(words.ID in slot.kinds for _, slot in kind.spec.fields)

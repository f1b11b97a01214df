"""A conversation on Redis' wire: who the client is, what it has chosen, and the way of its commands.

A command is a list of words. It is found in `WORDS`, held against its declaration, queued if a transaction is open,
and carried out: a word on keys becomes a command of the vocabulary for the store, any other acts on this object.

What always holds: a command that is refused has changed nothing; within MULTI nothing is carried out before EXEC, and
then all of it in one step of the store.

Not for what single words mean (`words`).
"""

import abc
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, failures
from cairnkv.keyspace import Watched
from cairnkv.limits import BYTES_PER_COST, REDIS_KEYLESS_ARGUMENTS_MAX, SCAN_COUNT_MAX, TRANSACTION_COST_MAX
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    KEYS_PER_COST,
    TOLD_PER_COST,
    UNFINISHED,
    WHOLE_TABLE_COST,
    WORDS_PER_COST,
    Acceleration,
    Due,
    Encode,
    OwnWrites,
    Unfinished,
    bytes_of_outcome,
    cost_of,
)
from cairnkv.session.redis.grammar import (
    LOADING,
    REPEATED_MAX,
    WORDS,
    Arguments,
    Call,
    Calls,
    Errors,
    Refusal,
    Value,
    Word,
    error_of,
    repeated,
    wrong_number,
)
from cairnkv.session.redis.surroundings import Peer, Surroundings
from cairnkv.store import Held, Store
from cairnkv.wire.article import Limits
from cairnkv.wire.redis import Error, ProtocolFault, RequestDecoder, Resp, Simple, TooLong, array_head, encode_parts

if TYPE_CHECKING:
    from cairnkv.session.accelerator import Accelerator
    from cairnkv.store.hot_held import HeldRun
    from cairnkv.store.replicated import ReplicatedStore
    from cairnkv.store.turns import Changes

_log: Final = logging.getLogger("cairnkv.session")

QUEUED: Final = Simple("QUEUED")

BROWSER_WORDS: Final = frozenset({b"POST", b"HOST:"})
"""How a line begins that a web browser sends, which a page of somebody else's can make it send to any port."""


Said: TypeAlias = Callable[[Resp], Sequence[bytes]]
"""The bytes of something, in a version of the protocol."""


class Nothing:
    """The type of `NOTHING`."""


NOTHING: Final = Nothing()
"""In the place of a value: no reply at all."""


@dataclasses.dataclass(slots=True)
class Several:
    """In the place of a value: several replies to one command, one behind the other."""

    values: list[Value]


@dataclasses.dataclass(slots=True)
class Prepared:
    """In the place of a value: its bytes, which are the same in both versions of the protocol."""

    pieces: list[bytes]


@dataclasses.dataclass(slots=True)
class Together:
    """In the place of a value: an array of values, of which one that the reply has no room for becomes an error."""

    values: list[Value]


@dataclasses.dataclass(slots=True)
class Later:
    """In the place of a value: what is due when the store is done, and how the reply is shown."""

    outcome: Reply | Held
    show: Callable[[Reply], Value]
    cost: int = 1  # how many commands of one key it was as much work as
    errors: Errors | None = None
    size: int = 0  # bytes that are kept to show it, besides the outcome
    acts: bool = False  # whether to show it does something, also for a client that wants no replies


class Job(abc.ABC):
    """A command that takes several turns; `step` does one slice.

    kept: bytes that it keeps in memory between two of them, near enough.
    """

    kept = 0

    @abc.abstractmethod
    def step(self) -> Value:
        """One slice; the value of the command once it is done, and `UNFINISHED` before."""

    def finish(self) -> Value:
        """The value, without a pause: within a transaction, where nothing may come in between."""
        while (value := self.step()) is UNFINISHED:
            pass
        return value


@dataclasses.dataclass(slots=True)
class Queued:
    """A command that waits for EXEC."""

    word: Word
    words: list[bytes]


class RedisConversation:
    """One client on Redis' wire."""

    def __init__(
        self,
        store: Store,
        surroundings: Surroundings,
        peer: Peer,
        *,
        push: Callable[[Due, int], None],
        limits: Limits,
    ) -> None:
        """push: says something unasked; told what, and how many bytes that is, near enough."""
        self.store: Final = store
        self.surroundings: Final = surroundings
        self.peer: Final = peer
        self.limits: Final = limits
        self._push = push
        self._decoder = RequestDecoder(limits)
        self.own_writes: Final = OwnWrites()
        self._acceleration: Acceleration | None = None
        self._accelerated = (0, 0, False)  # the keyspace, the protocol and the kind of reads that it is for
        self._job: Job | None = None
        self._ended = False
        self.last_word = ""
        self._is_carrying_out = False
        self.cost = 0  # of the command at hand, besides that of one key
        self.skipped = False  # whether the command at hand came behind CLIENT REPLY SKIP
        # What a command has said to its own client, unasked; bounded by the work that one command may be.
        self._own_pushes: deque[tuple[Said, int]] = deque()
        self.library = b"", b""  # what the client says it is, and its version
        self.channels: Final[dict[bytes, None]] = {}
        self.patterns: Final[dict[bytes, None]] = {}
        self.subscribed_bytes = 0  # that all these keep in memory, as the registry counts them
        self.id: Final = surroundings.enter(self)
        self.reset()

    def reset(self) -> None:
        """Be as a conversation is that has just begun."""
        self.protocol: Resp = 2
        self.space = 0
        self.name = b""
        self.authenticated = not self.surroundings.wants_password
        self._decoder.trusted = self.authenticated
        self.queue: list[Queued] | None = None  # None: no transaction is open
        self.queued_bytes = self.queued_cost = 0
        self.spoilt = False  # whether a command could not be queued, so that EXEC will refuse
        self.watched: dict[tuple[int, bytes], Watched] = {}  # by keyspace and key
        self.watched_bytes = 0
        self.surroundings.pubsub.leave(self)
        self.muted = False  # CLIENT REPLY OFF
        self.skip_next = False  # CLIENT REPLY SKIP
        self.reads_locally = False
        """Whether reads may show what was true a moment ago: READONLY."""
        self.no_touch = False
        self.no_evict = False
        self.closing = False  # whether the conversation ends behind the reply to this command

    def let_in(self) -> None:
        """The client has said the password."""
        self.authenticated = self._decoder.trusted = True

    def costs(self, commands: int) -> None:
        """The command at hand is as much more work as so many commands of one key: others get their turn the sooner."""
        self.cost += commands

    # -- what the session asks of every wire ----------------------------------------------------------------

    def feed(self, data: bytes | memoryview) -> None:
        """Take bytes of the client."""
        self._decoder.feed(data)

    def next(self) -> Due | Unfinished | None:
        """Carry out the next command, or go on with the one at hand."""
        if self._job is not None:
            return self._go_on(self._job)
        while self._own_pushes:
            self.push(*self._own_pushes.popleft())
        words = self._decoder.next()
        if words is None:
            return None
        if words == []:
            return UNFINISHED
        if isinstance(words, ProtocolFault):
            _log.info("%s: %s", self.peer.address, words.text)
            return Due(0, partial(self._say, Error(words.text), self.protocol), closes=True)
        return self._due(words)

    def upcoming(self) -> tuple[list[Step], int]:
        """Some of the commands that come next, up to the first that is not on keys."""
        steps: list[Step] = []
        if self.queue is not None or self._job is not None:
            return steps, 0
        ahead = self._decoder.copy(AHEAD_BYTES)
        while len(steps) < AHEAD_COMMANDS and isinstance(words := ahead.next(), list) and words:
            word = WORDS.get(words[0].upper())
            if word is None or word.on_keys is None or word.behind or not word.fits(len(words)):
                break
            try:
                call = word.on_keys(self.arguments(word, words))
            except Refusal:
                break
            if isinstance(call, Calls):
                break
            steps.append(Step(self.space, call.command))
        return steps, ahead.consumed

    def failure(self, failure: Failure) -> Due:
        """A failure that no command has asked for."""
        error = error_of(failure)
        if failure.code is failures.BUSY:
            error = Error(f"ERR max number of clients reached; {failure.text}")
        return Due(failure, partial(self._say, error, self.protocol), closes=failure.code.closes)

    def said(self, run: "HeldRun") -> None:
        """Commands of the client are on their way past this."""
        self.own_writes.note_run(run)

    def carry_out(self) -> "Accelerator | None":
        """Let the compiled hot path have the first look, unless something is under way that only this knows of."""
        accelerator = self._usable_accelerator
        if accelerator is None:
            return None
        carried = self._decoder.carry_out(
            accelerator,
            self.protocol,
            reads_locally=self.reads_locally,
            own_writes_there=self.own_writes.are_there,
        )
        return accelerator if carried else None

    @property
    def acceleration(self) -> Acceleration | None:
        """What the accelerator has to know, between two commands."""
        accelerator = self._usable_accelerator
        if accelerator is None or self._decoder.pending:
            return None
        chosen = self.space, self.protocol, self.reads_locally
        if self._acceleration is None or self._accelerated != chosen:
            self._accelerated = chosen
            limits = self.limits
            self._acceleration = accelerator, self.protocol, (0, 0), limits.value, limits.frame, self.reads_locally
        return self._acceleration

    @property
    def _usable_accelerator(self) -> "Accelerator | None":
        """That of the selected keyspace, where a command has no other meaning than it has by itself."""
        plain = self.authenticated and self.queue is None and not self.muted and not self.skip_next
        if not plain or self._job is not None or self._own_pushes or (self.is_subscribed and self.protocol == 2):
            return None
        return self.surroundings.accelerator(self.space)

    @property
    def missing(self) -> int:
        """Bytes that a long string lacks; 0 if no long string is partial."""
        return self._decoder.missing

    @property
    def pending(self) -> int:
        """Bytes of commands that are not whole, or not carried out."""
        return self._decoder.pending

    @property
    def kept(self) -> int:
        """Bytes of an open transaction, of keys that are watched, of subscriptions, and of a job under way."""
        queued = self.queued_bytes if self.queue is not None else 0
        found = self._job.kept if self._job is not None else 0
        return queued + self.watched_bytes + self.subscribed_bytes + found

    @property
    def consumed(self) -> int:
        """Bytes of commands that came whole."""
        return self._decoder.consumed

    def end(self) -> None:
        """Be nobody's: take no messages, wait for nothing, hold nothing."""
        if not self._ended:
            self._ended = True
            self.surroundings.pubsub.leave(self)
            self.surroundings.leave(self)
            self._job = None
            self.forget_transaction()
            self._decoder = RequestDecoder(self.limits)

    @property
    def ended(self) -> bool:
        """Whether the client disconnected, or the server reads nothing more from it."""
        return self._ended

    def forget_transaction(self) -> None:
        """Let no transaction be open, and watch nothing."""
        self.queue = None
        self.forget_watched()

    def forget_watched(self) -> None:
        """Watch nothing."""
        self.watched = {}
        self.watched_bytes = 0

    # -- the way of a command -------------------------------------------------------------------------------

    def _due(self, words: list[bytes]) -> Due | Unfinished:
        """Carry out a command, and say what is due for it."""
        self.skipped, self.skip_next = self.skip_next, False
        self.cost = len(words) // WORDS_PER_COST
        value: Value
        self._is_carrying_out = True
        try:
            word = self._found(words)
            self.last_word = word.name
            if self.queue is not None and "in-multi" not in word.flags:
                value = self._enqueue(word, words)
            else:
                value = self.carry(word, words)
        except Refusal as refusal:
            value = Error(str(refusal))
        except Exception as error:
            value = failed(error, self.last_word)
        finally:
            self._is_carrying_out = False
        if isinstance(value, Job):
            self._job = value
            return self._go_on(value)
        return self._due_for(value)

    def _go_on(self, job: Job) -> Due | Unfinished:
        try:
            value = job.step()
        except Exception as error:
            value = failed(error, self.last_word)
        if isinstance(value, Unfinished):
            return value
        self._job = None
        due = self._due_for(value)
        due.cost = WHOLE_TABLE_COST
        return due

    def _due_for(self, value: Value) -> Due:
        closes, self.closing = self.closing, False
        # What is said of subscriptions is said even so, as what is said on channels is.
        silent = (self.muted or self.skipped) and not isinstance(value, Several)
        if isinstance(value, Later):
            encode: Encode = partial(self._say_later, value, self.protocol)
            if silent:
                encode = partial(_act, value) if value.acts else _silence
            return Due(value.outcome, encode, value.cost + self.cost, closes, value.size)
        if silent or value is NOTHING:
            return Due(0, _silence, 1 + self.cost, closes)
        # It is made into bytes at once, so that it is known how many are kept if others have to leave before.
        pieces = self._said(value, self.protocol)
        size = sum(map(len, pieces))
        return Due(0, lambda _: pieces, 1 + self.cost + size // TOLD_PER_COST, closes, size=size)

    def _found(self, words: list[bytes]) -> Word:
        """The word that a command begins with, if it may be said now and fits; within MULTI, any fault spoils it.

        An EXEC that does not fit ends the transaction all the same, as in Redis.
        """
        try:
            return self._find(words)
        except Refusal as refusal:
            if self.queue is not None:
                self.spoilt = True
            if words[0].upper() != b"EXEC":
                raise
            self.forget_transaction()
            reason = str(refusal).removeprefix("ERR ")
            raise Refusal(f"EXECABORT Transaction discarded because of: {reason}") from None

    def _find(self, words: list[bytes]) -> Word:
        name = words[0].upper()
        word = WORDS.get(name)
        if word is None:
            if name in BROWSER_WORDS:
                _log.warning(
                    "%s: speaks HTTP, as a browser does that a web page has sent here; closed", self.peer.address
                )
                self.closing = True
                self.skipped = True  # nor is a browser told anything
                raise Refusal("ERR this is not a web server")
            raise Refusal(_unknown(words))
        if word.behind and len(words) > 1:
            second = word.behind.get(words[1].upper())
            if second is None and word.on_keys is None and word.in_conversation is None:
                shown = repeated(words[1], REPEATED_MAX)
                raise Refusal(f"ERR unknown subcommand '{shown}'. Try {word.name.upper()} HELP.")
            word = second or word
        if not word.fits(len(words)):
            raise Refusal(wrong_number(word.name))
        if len(words) > REDIS_KEYLESS_ARGUMENTS_MAX and word.on_keys is None:
            raise Refusal(
                f"ERR too many arguments for '{word.name}' command, the limit is {REDIS_KEYLESS_ARGUMENTS_MAX:,}"
            )
        if not self.authenticated and "no-auth" not in word.flags:
            raise Refusal("NOAUTH Authentication required.")
        if self.store.loading and "loading" not in word.flags:
            raise Refusal(LOADING)
        if self.is_subscribed and self.protocol == 2 and "subscribed" not in word.flags:
            raise Refusal(
                f"ERR Can't execute '{word.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
                "allowed in this context"
            )
        return word

    def _enqueue(self, word: Word, words: list[bytes]) -> Value:
        assert self.queue is not None
        if "no-multi" in word.flags:
            self.spoilt = True
            raise Refusal("ERR Command not allowed inside a transaction")
        self.queued_bytes += sum(map(len, words)) + WORD_BYTES * len(words)
        self.queued_cost += _cost_in_transaction(word, len(words))
        if self.queued_bytes > self.limits.frame:
            self.spoilt = True
            raise Refusal(f"ERR a transaction of more than {self.limits.frame} bytes")
        if self.queued_cost > TRANSACTION_COST_MAX:
            self.spoilt = True
            raise Refusal(f"ERR a transaction that is more work than {TRANSACTION_COST_MAX} commands of one key")
        self.queue.append(Queued(word, words))
        return QUEUED

    def carry(self, word: Word, words: Sequence[bytes]) -> Value:
        """Carry a word out now."""
        arguments = self.arguments(word, words)
        if word.in_conversation is None:
            assert word.on_keys is not None
            return self._ask(word.on_keys(arguments))
        self.surroundings.words_carried_out += 1
        return word.in_conversation(self, arguments)

    def arguments(self, word: Word, words: Sequence[bytes]) -> Arguments:
        """Those of a command that begins with this word."""
        return Arguments(word.name, words[2 if "|" in word.name else 1 :], self.space)

    def _ask(self, call: Call | Calls) -> Later:
        """Let the store carry out what a word on keys stands for."""
        if isinstance(call, Calls):
            made = sum(self.store.bytes_made(step.command, step.space) for step in call.steps)
            several = self.store.execute_all(call.steps)
            self.own_writes.note(several)
            return Later(several, call.show, WHOLE_TABLE_COST + (made + bytes_of_outcome(several)) // BYTES_PER_COST)
        touch = call.touch if call.touch is not None else not self.no_touch
        made = self.store.bytes_made(call.command, self.space)
        writes = call.command.word.writes
        local = self.reads_locally and not writes and self.own_writes.are_there
        outcome = self.store.execute(call.command, self.space, touch=touch, local=local)
        if writes:
            self.own_writes.note(outcome)
        return Later(outcome, call.show, cost_of(call.command, outcome, made), call.errors)

    # -- what is said ---------------------------------------------------------------------------------------

    def push(self, said: Said, size: int) -> None:
        """Say something unasked; behind the reply, if this client's own command says it.

        size: in bytes, near enough.
        """
        if self._is_carrying_out:
            self._own_pushes.append((said, size))
            return
        protocol = self.protocol
        self._push(Due(0, lambda _: said(protocol)), size)

    @property
    def is_subscribed(self) -> bool:
        """Whether the client listens to channels."""
        return bool(self.channels or self.patterns)

    def _say(self, value: Value, protocol: Resp, _reply: Reply) -> Sequence[bytes]:
        return self._said(value, protocol)

    def _say_later(self, later: Later, protocol: Resp, reply: Reply) -> Sequence[bytes]:
        return self._said(shown(later.show, reply, later.errors), protocol)

    def _said(self, value: Value, protocol: Resp) -> list[bytes]:
        return bytes_of(value, protocol, self.limits.frame)


def bytes_of(value: Value, protocol: Resp, limit: int) -> list[bytes]:
    """The bytes of a reply, which are no more than a frame may have; of any other, those of an error."""
    if isinstance(value, Several):
        return [piece for one in value.values for piece in bytes_of(one, protocol, limit)]
    if not isinstance(value, Together):
        return _bytes_within(value, protocol, limit, limit)
    room = limit
    pieces = [array_head(len(value.values))]
    for one in value.values:
        said = _bytes_within(one, protocol, room, limit)
        room -= sum(map(len, said))
        pieces += said
    return pieces


def _bytes_within(value: Value, protocol: Resp, room: int, limit: int) -> list[bytes]:
    try:
        if not isinstance(value, Prepared):
            return encode_parts(value, protocol, room)
        if sum(map(len, value.pieces)) <= room:
            return value.pieces
        raise TooLong
    except TooLong:
        text = f"the reply would be longer than the limit of {limit:,} bytes"
        return encode_parts(error_of(Failure(failures.BIGREPLY, text)), protocol)


def said_in_turn(
    store: "ReplicatedStore",
    changes: "Changes",
    command: bytes,
    *,
    space: int,
    protocol: Resp,
    string_max: int,
    frame_max: int,
) -> Due:
    """What is due for a command whose turn in the log it is: the compiled hot path has left it."""
    decoder = RequestDecoder(Limits(value=string_max, frame=frame_max))
    decoder.trusted = True
    decoder.feed(command)
    words = decoder.next()
    assert isinstance(words, list), "it was scanned"
    word = WORDS[words[0].upper()]
    assert word.on_keys is not None
    call = word.on_keys(Arguments(word.name, words[1:], space))
    assert isinstance(call, Call)
    reply = store.take_turn(Step(space, call.command), changes)
    return Due(reply, lambda reply: bytes_of(shown(call.show, reply, call.errors), protocol, frame_max))


WORD_BYTES: Final = 64
"""Bytes that a queued word takes besides its own."""


TELLING_COST: Final = 256
"""What a word counts as in a transaction that tells of the server, such as COMMAND DOCS, which takes milliseconds."""


def _cost_in_transaction(word: Word, words: int) -> int:
    """How much work a queued command will be, as far as that can be told of it before."""
    if "scans" in word.flags:
        cost = SCAN_COUNT_MAX // KEYS_PER_COST
    elif word.on_keys is not None:
        cost = 1 if word.keys[0] else WHOLE_TABLE_COST
    else:
        cost = 1 if "fast" in word.flags else TELLING_COST
    return cost + words // WORDS_PER_COST


def failed(error: Exception, name: str) -> Error:
    """The reply to a command that raised an exception which is no refusal."""
    if isinstance(error, MemoryError):
        return error_of(NO_MEMORY)
    _log.error("%s failed", name, exc_info=error)
    return Error("ERR INTERNAL the server's log has the details")


def shown(show: Callable[[Reply], Value], reply: Reply, errors: Errors | None = None) -> Value:
    """A reply as a value."""
    try:
        return error_of(reply, errors) if isinstance(reply, Failure) else show(reply)
    except MemoryError:
        return error_of(NO_MEMORY)


def _act(later: Later, reply: Reply) -> Sequence[bytes]:
    shown(later.show, reply, later.errors)
    return ()


def _silence(_reply: Reply) -> Sequence[bytes]:
    return ()


def _unknown(words: Sequence[bytes]) -> str:
    """What is said of a command that nobody knows, with as much of it as helps."""
    name = repeated(words[0], REPEATED_MAX)
    arguments, room = "", REPEATED_MAX
    for word in words[1:]:
        if room <= 0:
            break
        quoted = f"'{repeated(word, room)}' "
        arguments += quoted
        room -= len(quoted.encode("utf-8", "surrogateescape"))
    return f"ERR unknown command '{name}', with args beginning with: {arguments}"

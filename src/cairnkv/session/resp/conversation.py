"""The conversation of one client in the Redis protocol: its settings, and the execution of its commands.

A request is a list: the name of a command and its arguments. `RESP_COMMANDS` has the declaration of the command. Within
MULTI the conversation queues the command. Otherwise it executes it: a command on keys becomes a command of the store,
any other command acts on the conversation.

Invariants: a refused command has changed nothing. Within MULTI no command executes before EXEC.

Out of scope: single commands (`commands`).
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cairnkv.commands import NO_MEMORY, Failure, Reply, Step, Take, TakeAny, failures
from cairnkv.escapes import escaped
from cairnkv.limits import BYTES_PER_COST, COMMANDS_PER_SLICE, REDIS_KEYLESS_ARGUMENTS_MAX
from cairnkv.protocol.native import DecoderLimits
from cairnkv.protocol.resp import Error, ProtocolFault, RequestDecoder, Resp, Simple
from cairnkv.session.access.checks import (
    Denial,
    Reason,
    allows,
    denial_of_channels,
    denial_of_keys,
    denial_of_names,
    denial_of_patterns,
)
from cairnkv.session.access.login import Login
from cairnkv.session.access.rights import Rights
from cairnkv.session.context import CLIENT_LOGGER, Peer, ServerContext
from cairnkv.session.conversation import (
    AHEAD_BYTES,
    AHEAD_COMMANDS,
    ARGUMENTS_PER_COST,
    REPORT_BYTES_PER_COST,
    UNFINISHED,
    WHOLE_TABLE_COST,
    Conversation,
    Encode,
    QueuedReply,
    Unfinished,
    bytes_of_outcome,
    cost_of,
    fitting,
)
from cairnkv.session.resp.command_spec import (
    LOADING,
    LONG_PATH,
    REPEATED_MAX,
    RESP_COMMANDS,
    SCRIPT_BUSY,
    SHORT_COMMANDS,
    Arguments,
    Call,
    Calls,
    Refusal,
    RespCommandSpec,
    Value,
    error_of,
    repeated,
    wrong_number,
)
from cairnkv.session.resp.transaction import Transaction
from cairnkv.session.resp.values import NOTHING, Job, Later, PushEncoder, Several, bytes_of, shown
from cairnkv.store import Store, bytes_made

if TYPE_CHECKING:
    from cairnkv.session.executor_native import FrameExecutor

logger: Final = logging.getLogger("cairnkv.session")
client_logger: Final = logging.getLogger(CLIENT_LOGGER)

QUEUED: Final = Simple("QUEUED")

SHORT_PER_COST: Final = 2
"""Commands on a short path whose work is that of one other command, besides the time of scripts."""

AUDITED: Final = frozenset({"flushall", "flushdb"})
"""The commands whose execution is an event of the audit log, besides those with the flag `admin`."""

BROWSER_COMMANDS: Final = frozenset({b"POST", b"HOST:"})
"""The first words of lines that a web browser sends. A page of an attacker can make a browser send them to any port."""


class RespConversation(Conversation):
    """The conversation of one client."""

    def __init__(
        self,
        store: Store,
        context: "ServerContext[RespConversation]",
        peer: Peer,
        *,
        login: Login,
        push: Callable[[QueuedReply, int], None],
        limits: DecoderLimits,
    ) -> None:
        """push: sends a message that answers no command; its arguments are the message and its estimated bytes."""
        super().__init__(store, login=login, limits=limits)
        self.context: Final = context
        self.peer: Final = peer
        self._push = push
        self._decoder: RequestDecoder = RequestDecoder(limits)
        self._job: Job | None = None
        self._next_request: list[bytes] | ProtocolFault | None = None  # decoded already
        self._job_of: tuple[RespCommandSpec, Sequence[bytes]] | None = None  # its command
        self._ended = False
        self.last_command = ""
        self._is_executing = False
        self.cost = 0  # work of the current command, besides that of one key
        self.skipped = False  # whether the current command follows CLIENT REPLY SKIP
        # Messages of a command to its own client. The work that one command may be bounds them.
        self._own_pushes: deque[tuple[PushEncoder, int]] = deque()
        self.library = b"", b""  # name and version of the client library
        self.channels: dict[bytes, None] = {}
        self.patterns: dict[bytes, None] = {}
        self.subscribed_bytes = 0  # estimated bytes of these subscriptions
        login.protocol = "redis"
        self.id: Final = context.enter(self)
        self.reset()

    def reset(self) -> None:
        """Set everything that the client can set to its default."""
        self.login.reset()
        self.protocol: Resp = 2
        self.db = 0
        self.name = b""
        self.end_transaction()
        self.context.pubsub.leave(self)
        self.muted = False  # CLIENT REPLY OFF
        self.skip_next = False  # CLIENT REPLY SKIP
        self.reads_locally = False  # READONLY
        self.no_touch = False
        self.no_evict = False
        self.closing = False  # whether the conversation ends after the reply to this command

    @property
    def name(self) -> bytes:
        """The name of the client, by CLIENT SETNAME."""
        return self.login.name

    @name.setter
    def name(self, name: bytes) -> None:
        self.login.name = name

    def costs(self, commands: int) -> None:
        """Add work to the current command, in commands of one key. Then other clients are served sooner."""
        self.cost += commands

    # -- as for each protocol (`Conversation`) ----------------------------------------------------------------

    def next(self) -> QueuedReply | Unfinished | None:
        """Execute the next command, or the next slice of the current one."""
        if self._job is not None:
            return self._go_on(self._job)
        while self._own_pushes:
            self.push(*self._own_pushes.popleft())
        self._decoder.trusted = self.login.authenticated
        request, self._next_request = self._next_request, None
        if request is None:
            request = self._decoder.next()
            if request is None:
                return None
            if request == []:
                return UNFINISHED
        if isinstance(request, ProtocolFault):
            shown = escaped(request.text.encode("utf-8", "surrogateescape"))
            client_logger.info("%s: refused: %s", self.peer.address, shown)
            return QueuedReply(0, partial(self._encode, Error(request.text), self.protocol), closes=True)
        if request[0] in SHORT_COMMANDS and self._is_plain and self.store.executes_scripts_directly:
            return self._short_replies(request) or self._queued_reply(request)
        return self._queued_reply(request)

    def upcoming(self) -> tuple[list[Step], int]:
        """Return the commands that come next, up to the first that is not on keys, and their bytes."""
        steps: list[Step] = []
        if self.transaction.queue is not None or self._job is not None or not self.login.authenticated:
            return steps, 0
        ahead = self._decoder.copy(AHEAD_BYTES)
        while len(steps) < AHEAD_COMMANDS and isinstance(request := ahead.next(), list) and request:
            spec = RESP_COMMANDS.get(request[0].upper())
            if spec is None or spec.on_keys is None or spec.subcommands or not spec.fits(len(request)):
                break
            try:
                call = spec.on_keys(self.arguments(spec, request))
            except Refusal:
                break
            if isinstance(call, Calls) or self.denial(spec, request) is not None:
                break
            steps.append(Step(self.db, call.command))
        return steps, ahead.consumed

    def failure(self, failure: Failure) -> QueuedReply:
        """Return the reply for a failure of the connection."""
        error = error_of(failure)
        if failure.code is failures.BUSY:
            error = Error(f"ERR max number of clients reached; {failure.text}")
        return QueuedReply(failure, partial(self._encode, error, self.protocol), closes=failure.code.closes)

    @property
    def _executor(self) -> "FrameExecutor | None":
        return self.context.frame_executor(self.db) if self._is_plain and self._next_request is None else None

    @property
    def _is_plain(self) -> bool:
        """Whether no state of the client changes the effect of its next command or suppresses its reply."""
        plain = self.login.authenticated and self.transaction.queue is None and not self.muted and not self.skip_next
        return plain and self._job is None and not self._own_pushes and not (self.is_subscribed and self.protocol == 2)

    @property
    def _width(self) -> int:
        return self.protocol

    @property
    def kept(self) -> int:
        """Estimated bytes of the transaction, of subscriptions, and of the current job."""
        found = self._job.kept if self._job is not None else 0
        if isinstance(self._next_request, list):
            found += sum(map(len, self._next_request))
        return self.transaction.kept + self.subscribed_bytes + found

    def end(self) -> None:
        """Unsubscribe, and free what the conversation keeps. May be called again."""
        if not self._ended:
            self._ended = True
            self.context.pubsub.leave(self)
            self.context.leave(self.id)
            self._job = None
            self.end_transaction()
            self._decoder = RequestDecoder(self.limits)
            self._next_request = None

    @property
    def ended(self) -> bool:
        """Whether the client disconnected, or the server reads nothing more from it."""
        return self._ended

    def end_transaction(self) -> None:
        """Discard queued commands and watch no keys."""
        self.transaction = Transaction(self.limits.frame)

    # -- execution --------------------------------------------------------------------------------------------

    def _queued_reply(self, request: list[bytes]) -> QueuedReply | Unfinished:
        self.skipped, self.skip_next = self.skip_next, False
        self.cost = len(request) // ARGUMENTS_PER_COST
        value: Value
        self._is_executing = True
        try:
            spec = self._found(request)
            self.last_command = spec.name
            if self.transaction.queue is not None and "in-multi" not in spec.flags:
                self.transaction.add(spec, request)
                value = QUEUED
            else:
                value = self.execute(spec, request)
        except Refusal as refusal:
            value = Error(str(refusal))
        except Exception as error:
            value = failed(error, self.last_command)
        finally:
            self._is_executing = False
        if isinstance(value, Job):
            self._job, self._job_of = value, (spec, request)
            return self._go_on(value)
        return self._queued_reply_for(value)

    def _short_replies(self, request: list[bytes]) -> QueuedReply | None:
        """Execute commands of `SHORT_COMMANDS`, up to the work of a slice. Returns one queued reply for all of them.

        Returns None if the first one takes the long path.
        """
        pieces: list[bytes] = []
        count = cost = 0
        self.skipped = False
        self._is_executing = True
        try:
            while True:
                self.cost = len(request) // ARGUMENTS_PER_COST
                value = SHORT_COMMANDS[request[0]](self, request)
                if value is LONG_PATH:
                    self._next_request = request
                    break
                if type(value) is int:
                    pieces.append(b":%d\r\n" % value)
                elif isinstance(value, Job):
                    self._job, self._job_of = value, (self._find(request), request)
                    break
                else:
                    encoded = bytes_of(value, self.protocol, self.limits.frame)
                    self.cost += sum(map(len, encoded)) // REPORT_BYTES_PER_COST
                    pieces += encoded
                count += 1
                cost += self.cost
                if cost + count // SHORT_PER_COST >= COMMANDS_PER_SLICE:
                    break
                following = self._decoder.next()
                if not isinstance(following, list) or not following or following[0] not in SHORT_COMMANDS:
                    self._next_request = following or None
                    break
                request = following
        finally:
            self._is_executing = False
        if not pieces and self._job is None:
            self._next_request = None
            return None
        return QueuedReply(0, lambda _: pieces, 1 + cost + count // SHORT_PER_COST, size=sum(map(len, pieces)))

    def _go_on(self, job: Job) -> QueuedReply | Unfinished:
        assert self._job_of is not None
        self._is_executing = True
        try:
            if job.may_be_refused:
                self._check_rights(*self._job_of)
            value = job.step()
        except Refusal as refusal:
            value = Error(str(refusal))
        except Exception as error:
            value = failed(error, self.last_command)
        finally:
            self._is_executing = False
        if isinstance(value, Unfinished):
            return value
        self._job = None
        reply = self._queued_reply_for(value)
        reply.cost = WHOLE_TABLE_COST
        return reply

    def _queued_reply_for(self, value: Value) -> QueuedReply:
        closes, self.closing = self.closing or self.login.exhausted, False
        # CLIENT REPLY suppresses neither messages nor the replies about subscriptions.
        silent = (self.muted or self.skipped) and not isinstance(value, Several)
        if isinstance(value, Later):
            encode: Encode = partial(self._encode_later, value, self.protocol)
            if silent:
                encode = partial(_act, value) if value.acts else _encode_nothing
            return QueuedReply(value.outcome, encode, value.cost + self.cost, closes, value.size, value.take)
        if silent or value is NOTHING:
            return QueuedReply(0, _encode_nothing, 1 + self.cost, closes)
        # Encode it now: the size of a reply that waits behind others must be known.
        pieces = bytes_of(value, self.protocol, self.limits.frame)
        size = sum(map(len, pieces))
        return QueuedReply(0, lambda _: pieces, 1 + self.cost + size // REPORT_BYTES_PER_COST, closes, size=size)

    def _found(self, request: list[bytes]) -> RespCommandSpec:
        """Return the declaration of a command that may execute now. Raises `Refusal`, which spoils a transaction.

        A refused EXEC ends the transaction, as in Redis.
        """
        try:
            return self._find(request)
        except Refusal as refusal:
            if self.transaction.queue is not None:
                self.transaction.is_spoilt = True
            if request[0].upper() != b"EXEC":
                raise
            self.end_transaction()
            reason = str(refusal).removeprefix("ERR ")
            raise Refusal(f"EXECABORT Transaction discarded because of: {reason}") from None

    def _find(self, request: list[bytes]) -> RespCommandSpec:
        name = request[0].upper()
        spec = RESP_COMMANDS.get(name)
        if spec is None:
            if name in BROWSER_COMMANDS:
                logger.warning("%s: closed, because it sends HTTP, like a browser on a hostile page", self.peer.address)
                self.closing = True
                self.skipped = True  # a browser gets no reply
                raise Refusal("ERR this is not a web server")
            raise Refusal(_unknown(request))
        if spec.subcommands and len(request) > 1:
            second = spec.subcommands.get(request[1].upper())
            if second is None and spec.on_keys is None and spec.in_conversation is None:
                shown = repeated(request[1], REPEATED_MAX)
                raise Refusal(f"ERR unknown subcommand '{shown}'. Try {spec.name.upper()} HELP.")
            spec = second or spec
        if not spec.fits(len(request)):
            raise Refusal(wrong_number(spec.name))
        if len(request) > REDIS_KEYLESS_ARGUMENTS_MAX and spec.on_keys is None:
            raise Refusal(
                f"ERR too many arguments for '{spec.name}' command, the limit is {REDIS_KEYLESS_ARGUMENTS_MAX:,}"
            )
        if not self.login.authenticated and "no-auth" not in spec.flags:
            raise Refusal("NOAUTH Authentication required.")
        self._check_rights(spec, request)
        if self.store.loading and "loading" not in spec.flags:
            raise Refusal(LOADING)
        if self.context.scripts.is_busy and "allow-busy" not in spec.flags:
            raise Refusal(SCRIPT_BUSY)
        if self.is_subscribed and self.protocol == 2 and "subscribed" not in spec.flags:
            raise Refusal(
                f"ERR Can't execute '{spec.name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are "
                "allowed in this context"
            )
        return spec

    # -- rights -----------------------------------------------------------------------------------------------

    def denial(self, spec: RespCommandSpec, request: Sequence[bytes], rights: Rights | None = None) -> Denial | None:
        """Return why the client may not execute a command, or None. rights: None: those of the client."""
        if rights is None:
            rights = self.rights
        if rights.unlimited:
            return None
        found = denial_of_names(rights, (spec.name,))
        if found is not None:
            return found
        if spec.on_keys is None:
            keys = (Denial(Reason.KEY, key) for key in spec.keys_in(request) if not allows(rights, key, spec.access))
            channels = spec.channels_in(request)
            by_pattern = spec.name == "psubscribe"
            return next(keys, None) or (denial_of_patterns if by_pattern else denial_of_channels)(rights, channels)
        try:
            call = spec.on_keys(self.arguments(spec, request))
        except Refusal:
            return None  # the command will be refused for this reason
        commands = [call.command] if isinstance(call, Call) else [step.command for step in call.steps]
        denials = (denial_of_keys(rights, command, self.store.databases[0]) for command in commands)
        return next((denial for denial in denials if denial is not None), None)

    def _check_rights(self, spec: RespCommandSpec, request: Sequence[bytes]) -> None:
        """Raise `Refusal` if the client may not execute a command."""
        denial = self.denial(spec, request)
        if denial is not None:
            context = "toplevel" if self.transaction.queue is None else "multi"
            raise Refusal(self.refused(denial, context).message)

    def end_forbidden_subscriptions(self) -> None:
        """Close the connection of a client with subscriptions that its rights no longer allow, as Redis does."""
        rights = self.rights
        if not self.is_subscribed or (self.login.authenticated and rights.has_all_channels):
            return
        denied = denial_of_channels(rights, self.channels) or denial_of_patterns(rights, self.patterns)
        if self.login.authenticated and denied is None:
            return
        if self._is_executing:
            self.closing = True  # after the reply
        else:
            self.end()
            self.peer.close("the user has no right to a channel of its subscriptions any more")

    # -- execution of one command -----------------------------------------------------------------------------

    def execute(self, spec: RespCommandSpec, request: Sequence[bytes]) -> Value:
        """Execute a command now."""
        arguments = self.arguments(spec, request)
        self.audit(spec)
        if spec.in_conversation is None:
            assert spec.on_keys is not None
            return self._execute_on_keys(spec.on_keys(arguments))
        self.context.commands_executed += 1
        return spec.in_conversation(self, arguments)

    def audit(self, spec: RespCommandSpec) -> None:
        """Write an event to the audit log before the execution of an administrative command."""
        if "admin" in spec.flags or spec.name in AUDITED:
            self.login.note("command", command=spec.name)

    def arguments(self, spec: RespCommandSpec, request: Sequence[bytes]) -> Arguments:
        """Return the arguments of a request for this command."""
        return Arguments(spec.name, request[2 if "|" in spec.name else 1 :], self.db)

    def _execute_on_keys(self, call: Call | Calls) -> Later:
        if isinstance(call, Calls):
            made = sum(bytes_made(self.store.databases[step.db], step.command) for step in call.steps)
            several = self.store.execute_all(call.steps)
            self.own_writes.note(several)
            return Later(several, call.show, WHOLE_TABLE_COST + (made + bytes_of_outcome(several)) // BYTES_PER_COST)
        touch = call.touch if call.touch is not None else not self.no_touch
        made = bytes_made(self.store.databases[self.db], call.command)
        writes = call.command.spec.writes
        local = self.reads_locally and not writes and self.own_writes.are_executed
        command = fitting(call.command, self.limits.frame)
        if command.waiting_time():
            outcome = self.begin_take(command)
        else:
            outcome = self.store.execute(command, self.db, touch=touch, local=local)
        if writes:
            self.own_writes.note(outcome)
        cost = cost_of(command, outcome, made)
        if isinstance(command, Take | TakeAny):
            return Later(outcome, partial(self._show_taken, call), cost, call.errors, take=command)
        return Later(outcome, call.show, cost, call.errors)

    def _show_taken(self, call: Call, reply: Reply) -> Value:
        return shown(call.show, self.within_frame(call.command, reply), call.errors)

    # -- output -----------------------------------------------------------------------------------------------

    def push(self, encoder: PushEncoder, size: int) -> None:
        """Send a message that answers no command. A message of the client's own command follows the reply to it.

        size: its estimated bytes.
        """
        if self._is_executing:
            self._own_pushes.append((encoder, size))
            return
        protocol = self.protocol
        self._push(QueuedReply(0, lambda _: encoder(protocol)), size)

    def publish(self, channel: bytes, message: bytes) -> int:
        """Publish a message to a channel. Returns the number of subscribers of this server."""
        return self.context.pubsub.publish(channel, message)

    @property
    def is_subscribed(self) -> bool:
        """Whether the client subscribes to channels or patterns."""
        return bool(self.channels or self.patterns)

    def _encode(self, value: Value, protocol: Resp, _reply: Reply) -> Sequence[bytes]:
        return bytes_of(value, protocol, self.limits.frame)

    def _encode_later(self, later: Later, protocol: Resp, reply: Reply) -> Sequence[bytes]:
        try:
            value = shown(later.show, reply, later.errors)
        except Exception as error:  # without a reply, the client would take the next one for it
            value = failed(error, "a reply")
        return bytes_of(value, protocol, self.limits.frame)


def failed(error: Exception, name: str) -> Error:
    """Return the reply to a command that raised an exception other than `Refusal`."""
    if isinstance(error, MemoryError):
        return error_of(NO_MEMORY)
    logger.error("%s failed", name, exc_info=error)
    return Error("ERR INTERNAL the server's log has the details")


def _act(later: Later, reply: Reply) -> Sequence[bytes]:
    shown(later.show, reply, later.errors)
    return ()


def _encode_nothing(_reply: Reply) -> Sequence[bytes]:
    return ()


def _unknown(request: Sequence[bytes]) -> str:
    """Return the refusal of an unknown command, with the beginning of its arguments."""
    name = repeated(request[0], REPEATED_MAX)
    arguments, room = "", REPEATED_MAX
    for argument in request[1:]:
        if room <= 0:
            break
        quoted = f"'{repeated(argument, room)}' "
        arguments += quoted
        room -= len(quoted.encode("utf-8", "surrogateescape"))
    return f"ERR unknown command '{name}', with args beginning with: {arguments}"

"""The declarations of the commands of the Redis protocol: their syntax and their handlers.

The syntax of a command, as in the Redis manual, determines the number of its arguments and the positions of its keys.
The handler of a command on keys (`on_keys`) parses the arguments and returns a `Call`: a command of the registry, and a
function that shows the reply. The handler of any other command (`in_conversation`) acts on the conversation. Parser,
COMMAND and docs/redis.md use `RESP_COMMANDS`.

Invariants: the case of a command's name does not matter. Arguments that do not fit raise a `Refusal` with the text of
Redis, before the command changes anything.

Out of scope: encoding (`cairnkv.protocol.resp`), and the effects of commands (`cairnkv.engine.operations`).
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from cairnkv.commands import Access, Command, Failure, Reply, Step, failures
from cairnkv.commands.failures import Code
from cairnkv.docstrings import docstring
from cairnkv.limits import DATABASES, INTEGER_MAX, INTEGER_MIN, KEY_MAX
from cairnkv.protocol.resp import Error

Value: TypeAlias = Any
"""A value that `cairnkv.protocol.resp` can encode: None, bool, int, bytes, `Simple`, `Error`, a list, a dict ..."""


class Refusal(Exception):
    """The refusal of a command. The text is the error reply of Redis, which begins with a code."""


SYNTAX: Final = "ERR syntax error"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NOT_A_FLOAT: Final = "ERR value is not a valid float"
WRONG_DB: Final = "ERR DB index is out of range"
NO_SUCH_KEY: Final = "ERR no such key"
LOADING: Final = "LOADING Redis is loading the dataset in memory"
SCRIPT_BUSY: Final = "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."
TOO_LONG: Final = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

_ERRORS: Final = {
    failures.NOTINT: NOT_AN_INTEGER,
    failures.OVERFLOW: "ERR increment or decrement would overflow",
    failures.NOTFLOAT: NOT_A_FLOAT,
    failures.TOOLONG: TOO_LONG,
    failures.FULL: "OOM command not allowed when used memory > 'maxmemory'.",
    failures.LOADING: LOADING,
    failures.SCRIPTBUSY: SCRIPT_BUSY,
}
"""The failures for which Redis has a text."""

_MISCONF: Final = frozenset({failures.DISKFULL, failures.RECOVERING, failures.READONLY, failures.LOGFULL})
"""The failures for which Redis has a code, with a text that names the reason: the server cannot persist writes. Redis'
READONLY means something else: a replica sends it, and clients then look for another server. The reply to any other
failure is `ERR` and the text of the store."""

_REDIS_CODES: Final = frozenset({failures.NOAUTH, failures.NOPERM, failures.WRONGPASS})
"""The failures whose codes are those of Redis."""

_CLUSTERDOWN: Final = frozenset({failures.NOQUORUM, failures.CLOCK, failures.STOPPED})
"""The failures of one node that another node may not have."""

Errors: TypeAlias = Mapping[Code, str]
"""The texts of failures that differ from `_ERRORS` for one command."""


def error_of(failure: Failure, errors: Errors | None = None) -> Error:
    """Return the error reply for a failure."""
    own = errors.get(failure.code) if errors else None
    if failure.code in _REDIS_CODES:
        return Error(failure.message)
    if failure.code in _MISCONF:
        return Error(f"MISCONF {failure.message}")
    if failure.code in _CLUSTERDOWN:
        return Error(f"CLUSTERDOWN {failure.message}")
    return Error(own or _ERRORS.get(failure.code) or f"ERR {failure.message}")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A command of the registry, and a function that shows its reply if that is not a failure.

    show: may return an `Error`.
    touch: whether the command counts as a use of its keys. None: it does unless the client has set CLIENT NO-TOUCH.
    """

    command: Command
    show: Callable[[Reply], Value]
    errors: Errors | None = None
    touch: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Calls:
    """Several commands of the registry, and a function that shows their `Replies`."""

    steps: tuple[Step, ...]
    show: Callable[[Reply], Value]


ToCall: TypeAlias = Callable[["Arguments"], Call | Calls]
_ToCall = TypeVar("_ToCall", bound=ToCall)
InConversation: TypeAlias = Callable[[Any, "Arguments"], Value]
"""A handler that acts on a `RespConversation`, which this module does not import."""


# -- arguments -------------------------------------------------------------------------------------------

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
"""The range of `int` in C, which Redis uses for the number of a database and shows in an error."""

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")


def is_integer(text: bytes) -> bool:
    """Return whether a text is a decimal number of 64 signed bits in its shortest form."""
    return _INTEGER.fullmatch(text) is not None and INTEGER_MIN <= int(text) <= INTEGER_MAX


def integer(text: bytes, refusal: str = NOT_AN_INTEGER, *, least: int = INTEGER_MIN, most: int = INTEGER_MAX) -> int:
    """Return the number of a decimal text. Raise `Refusal` if there is none in the range."""
    if not is_integer(text) or not least <= int(text) <= most:
        raise Refusal(refusal)
    return int(text)


class Arguments:
    """The arguments of one command without its name. A handler takes one after the other."""

    def __init__(self, name: str, texts: Sequence[bytes], db: int = 0) -> None:
        self.name = name
        """The name of the command in lower case, as in errors."""
        self.db = db
        """The database that the client has selected."""
        self._texts = texts
        self._next = 0

    def __len__(self) -> int:
        """Return the number of arguments that are left."""
        return len(self._texts) - self._next

    def take(self) -> bytes:
        """Return the next argument."""
        if self._next >= len(self._texts):
            raise Refusal(SYNTAX)
        self._next += 1
        return self._texts[self._next - 1]

    def rest(self) -> Sequence[bytes]:
        """Return all arguments that are left."""
        texts = self._texts[self._next :]
        self._next = len(self._texts)
        return texts

    def key(self) -> bytes:
        """Return the next argument as a key."""
        return key(self.take())

    def keys(self) -> tuple[bytes, ...]:
        """Return all arguments that are left as keys."""
        return tuple(map(key, self.rest()))

    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return all arguments that are left as pairs of a key and a value."""
        texts = self.rest()
        if len(texts) % 2:
            raise Refusal(wrong_number(self.name))
        return tuple((key(texts[at]), texts[at + 1]) for at in range(0, len(texts), 2))

    def integer(self, refusal: str = NOT_AN_INTEGER, *, least: int = INTEGER_MIN, most: int = INTEGER_MAX) -> int:
        """Return the next argument as a number."""
        return integer(self.take(), refusal, least=least, most=most)

    def db_number(self) -> int:
        """Return the next argument as the number of a database."""
        number = self.integer()
        if not INT_MIN <= number <= INT_MAX:
            raise Refusal(f"ERR value is out of range, value must between {INT_MIN} and {INT_MAX}")
        if not 0 <= number < DATABASES:
            raise Refusal(WRONG_DB)
        return number

    def keyword(self) -> bytes:
        """Return the next argument in capitals: the keyword of an option, whose case does not matter."""
        return self.take().upper()

    def end(self, refusal: str = SYNTAX) -> None:
        """Raise `Refusal` if arguments are left."""
        if len(self):
            raise Refusal(refusal)


def key(text: bytes) -> bytes:
    """Return a key. Raise `Refusal` if it is empty or too long, though Redis accepts such keys."""
    if not 1 <= len(text) <= KEY_MAX:
        raise Refusal(f"ERR a key has 1 to {KEY_MAX} bytes here, this one {len(text)}")
    return text


REPEATED_MAX: Final = 128
"""Maximum bytes of a name, and of all arguments, in an error about an unknown command. As in Redis."""


def repeated(text: bytes, most: int | None = None) -> str:
    """Return input of a client for an error: at most `most` bytes, up to the first zero byte.

    A zero byte ends a string in C, and so in Redis' errors.
    """
    return text[:most].partition(bytes(1))[0].decode("utf-8", "surrogateescape")


def wrong_number(name: str) -> str:
    """Return the error for too many or too few arguments."""
    return f"ERR wrong number of arguments for '{name}' command"


def wrong_time(name: str) -> str:
    """Return the error for a time to live, or an expiry, outside the limits."""
    return f"ERR invalid expire time in '{name}' command"


# -- specs -------------------------------------------------------------------------------------------------------

KEY_NAMES: Final = ("key", "newkey", "source", "destination")
CHANNEL_NAMES: Final = ("channel", "pattern")
"""The names of arguments that are keys, and, with the flag `pubsub`, channels or patterns of channels."""

NOWHERE: Final = (0, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True)
class RespCommandSpec:
    """The declaration of a command of the Redis protocol, or of a subcommand such as `CLIENT ID`.

    name: in lower case, with a bar between command and subcommand. syntax: the arguments, as in the Redis manual.
    arity: the number of strings of a request, including the name; negative: so many or more.
    keys: the positions of the first and the last key (-1: the last string), and the step between keys; 0, 0, 0: none.
    channels: the same for channels, or for patterns of channels, for which a client needs a right.
    numkeys: the position of the number of keys, behind which the keys follow; 0: no such number.
    access: the access to its keys that a client needs, if the handler is `in_conversation`.
    flags: see `FLAGS`. summary: the first line of the handler's docstring.
    on_keys, in_conversation: the handlers. A command with both uses on_keys in transactions only; a container has none.
    """

    name: str
    syntax: str
    arity: int
    keys: tuple[int, int, int]
    channels: tuple[int, int, int]
    flags: frozenset[str]
    group: str
    since: str
    summary: str
    on_keys: ToCall | None = None
    in_conversation: InConversation | None = None
    numkeys: int = 0
    access: Access = Access.EXISTENCE
    subcommands: dict[bytes, "RespCommandSpec"] = dataclasses.field(default_factory=dict)

    def fits(self, count: int) -> bool:
        """Return whether a request can have this number of strings, including the name."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity

    def keys_in(self, request: Sequence[bytes]) -> list[bytes]:
        """Return the keys among the strings of a request; none if the request has no valid number of keys."""
        if not self.numkeys:
            return _at(self.keys, request)
        count = request[self.numkeys] if len(request) > self.numkeys else b""
        first = self.numkeys + 1
        fits = is_integer(count) and 0 <= int(count) <= len(request) - first
        return list(request[first : first + int(count)]) if fits else []

    def channels_in(self, request: Sequence[bytes]) -> list[bytes]:
        """Return the channels, or the patterns of channels, among the strings of a request."""
        return _at(self.channels, request)


def _at(places: tuple[int, int, int], request: Sequence[bytes]) -> list[bytes]:
    first, last, step = places
    if not first:
        return []
    return list(request[first : (last if last >= 0 else len(request) + last) + 1 : step])


RESP_COMMANDS: Final[dict[bytes, RespCommandSpec]] = {}
"""Every command, by its name in capitals."""

LONG_PATH: Final = object()
"""In the place of a value: a short path does not execute this request, and has changed nothing."""

SHORT_COMMANDS: Final[dict[bytes, Callable[[Any, list[bytes]], Value]]] = {}
"""Short paths for usual forms of some commands, by the usual forms of their names. Their arguments are the conversation
and the request. A conversation uses them if the store executes scripts directly."""


def find_spec(name: bytes) -> RespCommandSpec | None:
    """Return the command with a name, which has a bar before a subcommand, or None."""
    first, bar, second = name.upper().partition(b"|")
    spec = RESP_COMMANDS.get(first)
    return spec.subcommands.get(second) if bar and spec is not None else spec


def every_spec() -> Iterator[RespCommandSpec]:
    """Return all commands, each before its subcommands."""
    for spec in RESP_COMMANDS.values():
        yield spec
        yield from spec.subcommands.values()


FLAGS: Final = (
    *("write", "readonly", "denyoom", "admin", "pubsub", "noscript"),
    *("blocking", "loading", "fast", "no-auth", "no-multi", "movablekeys", "allow-busy", "no-mandatory-keys"),
)
"""The flags that COMMAND shows, in Redis' order."""

OWN_FLAGS: Final = ("in-multi", "scans", "subscribed")
"""The flags of this server: MULTI does not queue the command; it reads the table; subscribers may use it in RESP2."""


def on_keys(
    syntax: str,
    flags: str = "write denyoom",
    *,
    group: str,
    since: str,
    summary: str | None = None,
    outside_transactions: InConversation | None = None,
) -> Callable[[_ToCall], _ToCall]:
    """Declare a command on keys; see `RespCommandSpec`. Without flags, it may write and may need memory.

    summary: None: the first line of the handler's docstring.
    outside_transactions: a handler to use outside of transactions.
    """

    def declare(function: _ToCall) -> _ToCall:
        first_line = docstring(function).partition("\n")[0] if summary is None else summary
        _add(syntax, flags, group, since, first_line, on_keys=function, in_conversation=outside_transactions)
        return function

    return declare


def in_conversation(
    syntax: str, flags: str, *, group: str, since: str, access: Access = Access.EXISTENCE
) -> Callable[[InConversation], InConversation]:
    """Declare a command that acts on the conversation; see `RespCommandSpec`."""

    def declare(function: InConversation) -> InConversation:
        first_line = docstring(function).partition("\n")[0]
        _add(syntax, flags, group, since, first_line, in_conversation=function, access=access)
        return function

    return declare


def container(name: str, *, group: str, since: str, summary: str) -> None:
    """Declare a command that has only subcommands."""
    _register(
        RESP_COMMANDS, name, RespCommandSpec(name.lower(), "", -2, NOWHERE, NOWHERE, frozenset(), group, since, summary)
    )


def _add(syntax: str, flags: str, group: str, since: str, summary: str, **run: Any) -> None:
    names = re.match(r"[A-Z]+(?:[-._][A-Z]+)*(?: [A-Z]+(?:-[A-Z]+)*(?= |$))?", syntax)
    assert names is not None, syntax
    name, _, second = names.group().partition(" ")
    arguments = syntax[names.end() :].strip()
    before = 2 if second else 1
    spec = RespCommandSpec(
        name=names.group().lower().replace(" ", "|"),
        syntax=arguments,
        arity=_arity(arguments, before),
        keys=_places(arguments, before, KEY_NAMES),
        channels=_places(arguments, before, CHANNEL_NAMES) if "pubsub" in flags.split() else NOWHERE,
        numkeys=_places(arguments, before, ("numkeys",))[0],
        flags=frozenset(flags.split()),
        group=group,
        since=since,
        summary=summary,
        **run,
    )
    if unknown := spec.flags.difference(FLAGS, OWN_FLAGS):
        raise ValueError(f"{syntax}: there is no flag {' '.join(unknown)}")
    _register(RESP_COMMANDS[name.encode()].subcommands if second else RESP_COMMANDS, second or name, spec)


def _register(specs: dict[bytes, RespCommandSpec], name: str, spec: RespCommandSpec) -> None:
    if name.encode() in specs:
        raise ValueError(f"{spec.name} is declared twice")
    specs[name.encode()] = spec


def _required(arguments: str) -> list[str]:
    """Return the required arguments, with the first of each group of alternatives."""
    depth, kept = 0, ""
    for character in arguments:
        depth += {"[": 1, "]": -1}.get(character, 0)
        kept += character if depth == 0 and character != "]" else ""
    kept = re.sub(r"<([^|>]*)[^>]*>", r"\1", kept)
    return kept.split()


def _arity(arguments: str, before: int) -> int:
    count = before + len(_required(arguments))
    return -count if "[" in arguments else count


def _places(arguments: str, before: int, names: Sequence[str]) -> tuple[int, int, int]:
    """Return the positions of the required arguments with these names."""
    required = _required(arguments)
    at = [before + place for place, name in enumerate(required) if name in names]
    if not at:
        return NOWHERE
    repeated = re.search(rf"\[((?:{'|'.join(names)})(?: \w+)*) \.\.\.\]", arguments)
    if repeated:
        return at[0], -1, len(repeated.group(1).split())
    return at[0], at[-1], 1

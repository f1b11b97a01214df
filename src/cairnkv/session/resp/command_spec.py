"""How a word of Redis is declared: its syntax, and what it means here.

A word's syntax, written as Redis' manual writes it, is its declaration: how many arguments there must be and which of
them are keys follow from it. Words that speak of keys (`on_keys`) turn their arguments into a `Call`: a command of
the vocabulary, and what to make of the reply. The others (`in_conversation`) act on the conversation that says them.
Parser, COMMAND and docs/redis.md draw from `RESP_COMMANDS`.

What always holds: a word is found whatever its case; an argument that does not fit raises a `Refusal` with the text
that Redis has for it, before anything was done.

Not for the wire (`cairnkv.protocol.resp`), and not for what commands do (`cairnkv.engine.operations`).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from cairnkv.commands import Command, Failure, Reply, Step, failures
from cairnkv.commands.failures import Code
from cairnkv.limits import DATABASES, INTEGER_MAX, INTEGER_MIN, KEY_MAX
from cairnkv.protocol.resp import Error

Value: TypeAlias = Any
"""What `cairnkv.protocol.resp` can write: None, bool, int, float, bytes, `Simple`, `Error`, lists, dicts, ..."""


class Refusal(Exception):
    """A command that does not fit; the text is what Redis answers, its code first."""


SYNTAX: Final = "ERR syntax error"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NOT_A_FLOAT: Final = "ERR value is not a valid float"
WRONG_DB: Final = "ERR DB index is out of range"
NO_SUCH_KEY: Final = "ERR no such key"
LOADING: Final = "LOADING Redis is loading the dataset in memory"
TOO_LONG: Final = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

_ERRORS: Final = {
    failures.NOTINT: NOT_AN_INTEGER,
    failures.OVERFLOW: "ERR increment or decrement would overflow",
    failures.NOTFLOAT: NOT_A_FLOAT,
    failures.TOOLONG: TOO_LONG,
    failures.FULL: "OOM command not allowed when used memory > 'maxmemory'.",
    failures.LOADING: LOADING,
}
"""Failures that Redis has a text of its own for."""

_MISCONF: Final = frozenset({failures.DISKFULL, failures.RECOVERING, failures.READONLY, failures.LOGFULL})
"""Failures that Redis has a code for, and a text that names the reason: writes are refused because they cannot be kept.
Its READONLY is another matter: a replica says it, and clients go and look for another server.
All other failures are `ERR` and what the store says."""

_CLUSTERDOWN: Final = frozenset({failures.NOQUORUM, failures.CLOCK, failures.STOPPED})
"""Likewise: this node cannot, and another may well be able to."""

Errors: TypeAlias = Mapping[Code, str]
"""Texts for failures, where a word of Redis has others than most have."""


def error_of(failure: Failure, errors: Errors | None = None) -> Error:
    """How a failure is said."""
    own = errors.get(failure.code) if errors else None
    if failure.code in _MISCONF:
        return Error(f"MISCONF {failure.message}")
    if failure.code in _CLUSTERDOWN:
        return Error(f"CLUSTERDOWN {failure.message}")
    return Error(own or _ERRORS.get(failure.code) or f"ERR {failure.message}")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A command of the vocabulary, and what to make of a reply that is no failure.

    show: may give an `Error`.
    touch: whether this counts as a use of the keys; None: unless the client has said that nothing of it does.
    """

    command: Command
    show: Callable[[Reply], Value]
    errors: Errors | None = None
    touch: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Calls:
    """Several commands that are one word of Redis; show: is given their `Replies`."""

    steps: tuple[Step, ...]
    show: Callable[[Reply], Value]


ToCall: TypeAlias = Callable[["Arguments"], Call | Calls]
_ToCall = TypeVar("_ToCall", bound=ToCall)
InConversation: TypeAlias = Callable[[Any, "Arguments"], Value]
"""Acts on a `RespConversation`, which this module does not import."""


# -- arguments -------------------------------------------------------------------------------------------

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
"""C's `int`, which Redis keeps numbers of databases in, and names in an error."""

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")


def is_integer(text: bytes) -> bool:
    """Whether this is a number of 64 signed bits as decimal text, in its one form."""
    return _INTEGER.fullmatch(text) is not None and INTEGER_MIN <= int(text) <= INTEGER_MAX


def integer(text: bytes, refusal: str = NOT_AN_INTEGER, *, least: int = INTEGER_MIN, most: int = INTEGER_MAX) -> int:
    """The number that decimal text stands for; `Refusal` if there is none in the range."""
    if not is_integer(text) or not least <= int(text) <= most:
        raise Refusal(refusal)
    return int(text)


class Arguments:
    """The arguments of one command, taken one after the other. The name is not among them."""

    def __init__(self, name: str, texts: Sequence[bytes], db: int = 0) -> None:
        self.name = name
        """The command's, in small letters, as errors have it."""
        self.db = db
        """The keyspace that the client has selected."""
        self._texts = texts
        self._next = 0

    def __len__(self) -> int:
        """How many are left."""
        return len(self._texts) - self._next

    def take(self) -> bytes:
        """The next one."""
        if self._next >= len(self._texts):
            raise Refusal(SYNTAX)
        self._next += 1
        return self._texts[self._next - 1]

    def rest(self) -> Sequence[bytes]:
        """All that are left."""
        texts = self._texts[self._next :]
        self._next = len(self._texts)
        return texts

    def key(self) -> bytes:
        """The next one, as a key."""
        return key(self.take())

    def keys(self) -> tuple[bytes, ...]:
        """All that are left, as keys."""
        return tuple(map(key, self.rest()))

    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """All that are left, as keys and values by turns."""
        texts = self.rest()
        if len(texts) % 2:
            raise Refusal(wrong_number(self.name))
        return tuple((key(texts[at]), texts[at + 1]) for at in range(0, len(texts), 2))

    def integer(self, refusal: str = NOT_AN_INTEGER, *, least: int = INTEGER_MIN, most: int = INTEGER_MAX) -> int:
        """The next one, as a number."""
        return integer(self.take(), refusal, least=least, most=most)

    def db_number(self) -> int:
        """The next one, as the number of a keyspace."""
        number = self.integer()
        if not INT_MIN <= number <= INT_MAX:
            raise Refusal(f"ERR value is out of range, value must between {INT_MIN} and {INT_MAX}")
        if not 0 <= number < DATABASES:
            raise Refusal(WRONG_DB)
        return number

    def keyword(self) -> bytes:
        """The next one in capitals: the word of an option, which may be written in any case."""
        return self.take().upper()

    def end(self, refusal: str = SYNTAX) -> None:
        """There must be no more."""
        if len(self):
            raise Refusal(refusal)


def key(text: bytes) -> bytes:
    """A key; Redis would take an empty one, and longer ones."""
    if not 1 <= len(text) <= KEY_MAX:
        raise Refusal(f"ERR a key has 1 to {KEY_MAX} bytes here, this one {len(text)}")
    return text


REPEATED_MAX: Final = 128
"""Bytes of a name, and of all arguments, that an error about an unknown command repeats, as in Redis."""


def repeated(text: bytes, most: int | None = None) -> str:
    """What a client has said, as an error repeats it: at most so many bytes, and up to the first zero byte.

    There C's strings end, and so does what Redis repeats.
    """
    return text[:most].partition(bytes(1))[0].decode("utf-8", "surrogateescape")


def wrong_number(name: str) -> str:
    """What is said when there are too many or too few arguments."""
    return f"ERR wrong number of arguments for '{name}' command"


def wrong_time(name: str) -> str:
    """What is said of a time to live, or a deadline, that no key can have."""
    return f"ERR invalid expire time in '{name}' command"


# -- words -----------------------------------------------------------------------------------------------

KEY_NAMES: Final = frozenset({"key", "newkey", "source", "destination"})


@dataclasses.dataclass(frozen=True, slots=True)
class RespCommandSpec:
    """One word of Redis, or one that stands behind another (`CLIENT ID`).

    name: in small letters, with a bar between two words. syntax: the arguments, as in the manual.
    arity: how many words the command has, its name included; negative: so many or more.
    keys: where the keys stand: the first, the last (-1: the last of all), and the step from one to the next; 0, 0, 0:
    there are none. flags: as COMMAND tells them.
    on_keys, in_conversation: what it does; one of them, or none where others stand behind it. Both: a word on keys that
    goes a way of its own outside of transactions.
    """

    name: str
    syntax: str
    arity: int
    keys: tuple[int, int, int]
    flags: frozenset[str]
    group: str
    since: str
    summary: str
    on_keys: ToCall | None = None
    in_conversation: InConversation | None = None
    behind: dict[bytes, "RespCommandSpec"] = dataclasses.field(default_factory=dict)

    def fits(self, count: int) -> bool:
        """Whether a command of so many words, its name included, has a number of arguments that this can have."""
        return count == self.arity if self.arity >= 0 else count >= -self.arity

    def keys_in(self, words: Sequence[bytes]) -> list[bytes]:
        """Those words of a command that are keys."""
        first, last, step = self.keys
        if not first:
            return []
        return list(words[first : (last if last >= 0 else len(words) + last) + 1 : step])


RESP_COMMANDS: Final[dict[bytes, RespCommandSpec]] = {}
"""Every word that is served, by its name in capitals."""


def on_keys(
    syntax: str, flags: str, *, group: str, since: str, summary: str, alone: InConversation | None = None
) -> Callable[[_ToCall], _ToCall]:
    """Declare a word that speaks of keys; see `RespCommandSpec`. alone: does the same outside of transactions, in
    another way."""

    def declare(function: _ToCall) -> _ToCall:
        _add(syntax, flags, group, since, summary, on_keys=function, in_conversation=alone)
        return function

    return declare


def in_conversation(
    syntax: str, flags: str, *, group: str, since: str, summary: str
) -> Callable[[InConversation], InConversation]:
    """Declare a word that acts on the conversation; see `RespCommandSpec`."""

    def declare(function: InConversation) -> InConversation:
        _add(syntax, flags, group, since, summary, in_conversation=function)
        return function

    return declare


def container(name: str, *, group: str, since: str, summary: str) -> None:
    """Declare a word that only has meanings together with a second one."""
    RESP_COMMANDS[name.encode()] = RespCommandSpec(name.lower(), "", -2, (0, 0, 0), frozenset(), group, since, summary)


def _add(syntax: str, flags: str, group: str, since: str, summary: str, **run: Any) -> None:
    names = re.match(r"[A-Z]+(?:-[A-Z]+)*(?: [A-Z]+(?:-[A-Z]+)*(?= |$))?", syntax)
    assert names is not None, syntax
    name, _, second = names.group().partition(" ")
    arguments = syntax[names.end() :].strip()
    if second and name.encode() not in RESP_COMMANDS:  # a second word that is part of the syntax, as in none so far
        raise ValueError(f"{syntax}: declare the container {name} first")
    before = 2 if second else 1
    word = RespCommandSpec(
        name=names.group().lower().replace(" ", "|"),
        syntax=arguments,
        arity=_arity(arguments, before),
        keys=_keys(arguments, before),
        flags=frozenset(flags.split()),
        group=group,
        since=since,
        summary=summary,
        **run,
    )
    (RESP_COMMANDS[name.encode()].behind if second else RESP_COMMANDS)[(second or name).encode()] = word


def _required(arguments: str) -> list[str]:
    """The arguments that must be there, the first of each alternative in their place."""
    depth, kept = 0, ""
    for character in arguments:
        depth += {"[": 1, "]": -1}.get(character, 0)
        kept += character if depth == 0 and character != "]" else ""
    kept = re.sub(r"<([^|>]*)[^>]*>", r"\1", kept)
    return kept.split()


def _arity(arguments: str, before: int) -> int:
    count = before + len(_required(arguments))
    return -count if "[" in arguments else count


def _keys(arguments: str, before: int) -> tuple[int, int, int]:
    required = _required(arguments)
    at = [before + place for place, name in enumerate(required) if name in KEY_NAMES]
    if not at:
        return 0, 0, 0
    repeated = re.search(r"\[(key(?: \w+)*) \.\.\.\]", arguments)
    if repeated:
        return at[0], -1, len(repeated.group(1).split())
    return at[0], at[-1], 1

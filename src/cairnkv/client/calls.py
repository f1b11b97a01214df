# Source of the methods of stores and pipelines: run tools/generate_clients.py after a change.
"""Calls: the commands that the methods of stores send, and the Python values of the replies.

Each method of `Calls` becomes a method of sync stores, asyncio stores and pipelines.

Out of scope: the execution of a call, and its repetition.
"""

import enum
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, Literal, NoReturn, TypeAlias, TypeVar, overload

from cairnkv.client.address import Seconds as Seconds
from cairnkv.client.codec import Codec, KeyCodec, key_bytes, utf8
from cairnkv.commands import (
    MISSING,
    ArgumentFault,
    Backup,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Code,
    Command,
    Count,
    Exists,
    Expire,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    Info,
    InMemory,
    Items,
    Persist,
    Ping,
    Reply,
    Scan,
    Set,
    SetMany,
    SetWith,
    Swap,
    Ttl,
    failures,
)
from cairnkv.commands.vocabulary import NO_TTL
from cairnkv.errors import BadCommand, CodecError, OptionError, OutcomeUnknown, PeerError, error_of
from cairnkv.limits import ARGUMENTS_MAX, KEY_MAX, TTL_MAX
from cairnkv.protocol.native import CommandFlag
from cairnkv.units import duration

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
C = TypeVar("C", bound=Command)
T = TypeVar("T", covariant=True)  # the result of a call: a Call[int] is a Call[int | None]

Key: TypeAlias = str | bytes
Durability: TypeAlias = Literal["committed", "memory"]
"""The step that the reply to a write waits for: its commit, or only its execution in memory."""
Values: TypeAlias = Mapping[Key, V] | Mapping[str, V] | Mapping[bytes, V]


UPDATE_KEYS: Final = 1_000
UPDATE_BYTES: Final = 1024 * 1024
"""Maximum number of values in one command of `update`, and their maximum bytes unless it is a single value."""


class Unset(enum.Enum):
    """The type of `UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""The default of options for which None is a value."""


class NotCopied:
    """A base class of stores and pipelines, which Python can neither pickle nor copy."""

    def __reduce__(self) -> NoReturn:
        """Raise `TypeError`, for `copy.copy` and `copy.deepcopy`, too."""
        raise TypeError(f"{self!r} cannot be pickled or copied; open or connect it again, in the process that needs it")


class Call(Generic[T]):
    """A command, and the function that decodes its reply. Immutable by convention.

    flag: a weaker guarantee that the call accepts, in the header of its command; None: the store's guarantees.
    """

    __slots__ = ("command", "decode")
    flag: ClassVar[CommandFlag | None] = None

    def __init__(self, command: Command, decode: Callable[[Reply], T]) -> None:
        self.command = command
        self.decode = decode

    def result(self, reply: Reply) -> T:
        """Return the Python value of a reply. Raises the error of a failure."""
        if isinstance(reply, Failure):
            raise error_of(reply, writes=self.command.spec.writes)
        try:
            return self.decode(reply)
        except PeerError as error:
            if not self.command.spec.writes:
                raise
            raise OutcomeUnknown(f"{self.command.spec.name}: {error}; it was executed, or it was not") from None


class _FromMemory(Call[T]):
    """A write whose reply need not wait for the commit."""

    __slots__ = ()
    flag = CommandFlag.MEMORY_IS_ENOUGH

    def result(self, reply: Reply) -> T:
        return super().result(reply.reply if isinstance(reply, InMemory) else reply)


class _Local(Call[T]):
    """A read that any node may answer by itself."""

    __slots__ = ()
    flag = CommandFlag.LOCAL_READ


def with_leeway(call: Call[T], *, memory: bool, local: bool) -> Call[T]:
    """Return a call with less than the store's guarantees.

    memory: if it writes, its reply need not wait for the commit. local: if it reads, any node may answer by itself.
    """
    if call.command.spec.writes:
        return _FromMemory(call.command, call.decode) if memory else call
    return _Local(call.command, call.decode) if local else call


def memory_is_enough(how: Durability) -> bool:
    """Return whether a durability is "memory". Raises `OptionError` if it is no `Durability`."""
    if how not in ("committed", "memory"):
        raise OptionError(f"durability is 'committed' or 'memory', not {how!r}")
    return how == "memory"


class Codecs(Generic[K, V]):
    """Encodes values, and decodes replies."""

    def __init__(self, keys: KeyCodec[K], values: Codec[V], *, value_max: int | None = None) -> None:
        """value_max: maximum bytes of a value; None: the server checks it."""
        self._keys = keys
        self._values = values
        self.value_max = value_max

    def _value_or(self, default: D) -> Callable[[Reply], V | D]:
        return functools.partial(self._value, default)

    def _value(self, default: D, reply: Reply) -> V | D:
        if reply is MISSING:
            return default
        if isinstance(reply, bytes):
            return self._values.decode(reply)
        raise unexpected(reply)

    def _encode(self, value: V) -> bytes:
        data = self._values.encode(value)
        made: object = data  # the caller's codec may return any type
        if not isinstance(made, bytes):
            codec = type(self._values).__name__
            raise CodecError(f"the codec's encode returns bytes; {codec} returned {data!r:.40}")
        if self.value_max is not None and len(data) > self.value_max:
            raise bad_command(failures.TOOBIG, f"a value of {len(data):,} bytes; the limit is {self.value_max:,}")
        return data

    def _equals(self, value: V | Unset) -> bytes | None:
        return None if isinstance(value, Unset) else self._encode(value)


class Calls(Codecs[K, V]):
    """The calls that are methods of stores and of pipelines."""

    # -- one key --------------------------------------------------------------------------------------------

    @overload
    def get(
        self, key: Key, default: None = None, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> Call[V | None]: ...
    @overload
    def get(
        self, key: Key, default: D, *, clear: bool = False, ttl: Seconds | None = None, persist: bool = False
    ) -> Call[V | D]: ...
    def get(
        self,
        key: Key,
        default: D | None = None,
        *,
        clear: bool = False,
        ttl: Seconds | None = None,
        persist: bool = False,
    ) -> Call[V | D | None]:
        """Return the value of a key, or the default if the key is absent.

        clear: also delete the key. ttl: also set its TTL. persist: also remove its TTL.
        """
        name = _key(key)
        if clear or ttl is not None or persist:
            check_flags(clear=clear, persist=persist)
            milliseconds = _milliseconds(ttl)
            return Call(valid(GetWith(name, clear, milliseconds, persist)), self._value_or(default))
        return Call(Get(name), self._value_or(default))

    def set(
        self,
        key: Key,
        value: V,
        *,
        ttl: Seconds | None = None,
        keep_ttl: bool = False,
        if_absent: bool = False,
        if_present: bool = False,
        if_equals: V | Unset = UNSET,
    ) -> Call[bool]:
        """Store a value. Returns whether it was stored; only one of the conditions can prevent it.

        ttl: the time until the key expires: seconds, a timedelta, or text such as "5s" or "1h".
        keep_ttl: keep the key's TTL. Without `ttl` and `keep_ttl` the key does not expire.
        if_absent, if_present, if_equals: store only if the key is absent, if it exists, if it has this value.
        """
        name, data = _key(key), self._encode(value)
        if ttl is None and not (keep_ttl or if_absent or if_present) and if_equals is UNSET:
            return Call(Set(name, data), _yes)
        check_flags(keep_ttl=keep_ttl, if_absent=if_absent, if_present=if_present)
        return Call(
            valid(SetWith(name, data, _milliseconds(ttl), keep_ttl, if_absent, if_present, self._equals(if_equals))),
            _bool,
        )

    def swap(
        self,
        key: Key,
        value: V,
        *,
        ttl: Seconds | None = None,
        keep_ttl: bool = False,
        if_absent: bool = False,
        if_present: bool = False,
        if_equals: V | Unset = UNSET,
    ) -> Call[V | None]:
        """Store a value as `set` does. Returns the value before, or None, whether or not the new value was stored."""
        name, data = _key(key), self._encode(value)
        check_flags(keep_ttl=keep_ttl, if_absent=if_absent, if_present=if_present)
        return Call(
            valid(Swap(name, data, _milliseconds(ttl), keep_ttl, if_absent, if_present, self._equals(if_equals))),
            self._value_or(None),
        )

    def clear(self, key: Key) -> Call[None]:
        """Delete a key, if it exists."""
        return Call(Clear(_key(key)), _nothing)

    def clear_if_equals(self, key: Key, value: V) -> Call[bool]:
        """Delete a key if it has this value. Returns whether it had."""
        return Call(ClearIfEquals(_key(key), self._encode(value)), _bool)

    def exists(self, key: Key) -> Call[bool]:
        """Return whether a key exists."""
        return Call(Exists((_key(key),)), _bool)

    def incr(self, key: Key, n: int = 1) -> Call[int]:
        """Add n to a number that is stored as decimal text, and return the sum. An absent key counts as 0."""
        return Call(valid(Incr(_key(key), n)), number_of)

    def ttl(self, key: Key) -> Call[float | None]:
        """Return the seconds until a key expires: `math.inf` if it does not expire, None if it is absent."""
        return Call(Ttl(_key(key)), _seconds)

    def expire(self, key: Key, ttl: Seconds) -> Call[bool]:
        """Set the TTL of a key: seconds, a timedelta, or text such as "5s". Returns whether the key exists."""
        return Call(Expire(_key(key), _some_milliseconds(ttl)), _bool)

    def persist(self, key: Key) -> Call[bool]:
        """Remove the TTL of a key. Returns whether the key had one."""
        return Call(Persist(_key(key)), _bool)

    # -- several keys ---------------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[Key]) -> Call[dict[K, V]]:
        """Return the values of those keys that exist. Atomic."""
        names = _keys(keys)
        if not names:
            return _nothing_to_ask({})

        def decode(reply: Reply) -> dict[K, V]:
            values = items_of(reply, len(names))
            return {
                self._keys.decode(name): self._values.decode(value)
                for name, value in zip(names, values, strict=True)
                if value is not None
            }

        return Call(valid(GetMany(names)), decode)

    def set_many(self, values: Values[V], *, ttl: Seconds | None = None) -> Call[None]:
        """Store several values. Atomic."""
        if not callable(getattr(values, "items", None)):
            raise OptionError(f"set_many takes a mapping such as {{'key': 'value'}}, not {values!r:.40}")
        pairs = tuple((_key(key), self._encode(value)) for key, value in values.items())
        if not pairs:
            return _nothing_to_ask(None)
        return Call(valid(SetMany(_milliseconds(ttl) or NO_TTL, pairs)), _nothing)

    def clear_many(self, keys: Iterable[Key]) -> Call[int]:
        """Delete several keys. Returns the number of keys that existed. Atomic."""
        names = _keys(keys)
        return Call(valid(ClearMany(names)), number_of) if names else _nothing_to_ask(0)

    # -- the whole store ------------------------------------------------------------------------------------

    def count(self) -> Call[int]:
        """Return the exact number of keys."""
        return Call(Count(), number_of)

    def clear_all(self) -> Call[None]:
        """Delete all keys. Atomic."""
        return Call(ClearAll(), _nothing)

    def ping(self, text: str = "") -> Call[str]:
        """Return the text, or "PONG" without a text, from the server."""
        if not isinstance(text, str):
            raise CodecError(f"ping takes text, not {text!r:.40}")
        return Call(Ping(utf8(text)), _text)

    def info(self) -> Call[dict[str, str | int]]:
        """Return facts about the store and its server, as the command INFO has them."""

        def decode(reply: Reply) -> dict[str, str | int]:
            texts = [(item or b"").decode("utf-8", "replace") for item in items_of(reply)]
            return {
                name: int(text) if text.isascii() and text.isdecimal() else text
                for name, text in zip(texts[::2], texts[1::2], strict=False)
            }

        return Call(Info(), decode)


class StoreCalls(Calls[K, V]):
    """The calls of a store: with those that its other methods are made of."""

    def setdefault(self, key: Key, default: V) -> Call[V]:
        swap = Swap(_key(key), self._encode(default), if_absent=True)
        return Call(swap, self._value_or(default))

    def set_slices(self, pairs: Iterable[Any]) -> Iterator[Call[None]]:
        """Yield calls that together store all pairs; each call stores a bounded number."""
        part: list[tuple[bytes, bytes]] = []
        size = 0
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise OptionError(f"update takes a mapping, or pairs of a key and a value, not {pair!r:.40}")
            name, data = _key(pair[0]), self._encode(pair[1])
            if part and (len(part) == UPDATE_KEYS or size + len(data) > UPDATE_BYTES):
                yield Call(SetMany(NO_TTL, tuple(part)), _nothing)
                part, size = [], 0
            part.append((name, data))
            size += len(data)
        if part:
            yield Call(SetMany(NO_TTL, tuple(part)), _nothing)

    def scan_slice(self, cursor: int, prefix: Key, count: int) -> Call[tuple[int, list[K]]]:
        def decode(reply: Reply) -> tuple[int, list[K]]:
            following, *keys = items_of(reply)
            return integer_of(following), [self._keys.decode(key) for key in keys if key is not None]

        return Call(valid(Scan(cursor, count, _prefix(prefix))), decode)

    def clear_prefix_slice(self, cursor: int, prefix: Key) -> Call[tuple[int, int]]:
        def decode(reply: Reply) -> tuple[int, int]:
            following, cleared = items_of(reply, 2)
            return integer_of(following), integer_of(cleared)

        return Call(ClearPrefix(_prefix(prefix), cursor), decode)

    def backup(self, name: str, keep: int | None) -> Call[int]:
        if not isinstance(name, str):
            raise OptionError(f"a backup at a server has a name, as text, below its --backup-dir; not {name!r:.80}")
        return Call(valid(Backup(utf8(name), keep)), number_of)


def _key(key: Key) -> bytes:
    data = key if isinstance(key, bytes) else key_bytes(key)
    if 1 <= len(data) <= KEY_MAX:
        return data
    raise bad_command(failures.BADKEY, f"a key has 1 to {KEY_MAX:,} bytes, this one {len(data):,}")


def pairs_of(values: Any, named: Mapping[str, V]) -> Iterable[Any]:
    """Return the pairs of the arguments of `update`, which are those of `dict.update`."""
    if callable(getattr(values, "items", None)):
        given = values.items()
    elif isinstance(values, Iterable) and not isinstance(values, str | bytes):
        given = values
    else:
        raise OptionError(f"update takes a mapping, or pairs of a key and a value, not {values!r:.40}")
    return itertools.chain(given, named.items())


def too_large_together(error: BadCommand, keys: Sequence[object]) -> bool:
    """Return whether a command on several keys failed because their values are too large for one reply."""
    return error.code == failures.BIGREPLY.name and len(keys) > 1


def bad_command(code: Code, text: str) -> BadCommand:
    """Return the error that a server would return."""
    return BadCommand(Failure(code, text).message, code=code)


def _nothing_to_ask(result: D) -> Call[D]:
    """Return the call for no keys: a PING, so that it takes its place in the order of calls."""
    return Call(Ping(b""), lambda _: result)


def _keys(keys: Iterable[Key]) -> tuple[bytes, ...]:
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise CodecError(f"several keys are a list, or another iterable, of text or bytes, not {keys!r:.40}")
    return tuple(map(_key, keys))


def _prefix(prefix: Key) -> bytes:
    return key_bytes(prefix, "a prefix")


def check_flags(**flags: object) -> None:
    for name, flag in flags.items():
        if flag is not True and flag is not False:
            raise OptionError(f"{name} is True or False, not {flag!r:.40}")


def _milliseconds(ttl: Seconds | None) -> int | None:
    return None if ttl is None else _some_milliseconds(ttl)


def _some_milliseconds(ttl: Seconds) -> int:
    try:
        seconds = duration(ttl)
    except (ValueError, OverflowError) as error:
        raise OptionError(f"a ttl is {error}") from None
    if not 0 < seconds <= TTL_MAX / 1000:
        raise OptionError(f"a ttl is above 0 seconds and at most {TTL_MAX // 1000:,}, not {ttl!r:.40}")
    return max(1, round(seconds * 1000))


def valid(command: C) -> C:
    """Return the command. Raises `BadCommand` if a server would refuse its arguments."""
    for group in command.spec.exclusive:
        given = [name for name in group if getattr(command, name) not in (None, False)]
        if len(given) > 1:
            raise bad_command(failures.BADARGS, f"{' and '.join(given)} exclude each other; use one of them")
    try:
        strings = command.arguments()
        if len(strings) > ARGUMENTS_MAX:
            raise ArgumentFault(failures.TOOBIG, f"{len(strings):,} arguments; the limit is {ARGUMENTS_MAX:,}")
        return type(command).from_arguments(strings)
    except ArgumentFault as fault:
        raise bad_command(fault.code, fault.text) from None


# -- replies ---------------------------------------------------------------------------------------------


def unexpected(reply: Reply) -> PeerError:
    return PeerError(f"a reply of an unexpected kind: {reply!r:.80}")


def _nothing(reply: Reply) -> None:
    pass


def _yes(reply: Reply) -> bool:
    return True


def number_of(reply: Reply) -> int:
    if isinstance(reply, int):
        return reply
    raise unexpected(reply)


def _bool(reply: Reply) -> bool:
    return number_of(reply) > 0


def _seconds(reply: Reply) -> float | None:
    if reply is MISSING:
        return None
    milliseconds = number_of(reply)
    return math.inf if milliseconds < 0 else milliseconds / 1000


def _text(reply: Reply) -> str:
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    raise unexpected(reply)


def integer_of(text: bytes | None) -> int:
    try:
        return int(text or b"")
    except ValueError:
        raise PeerError(f"a reply has {text!r:.40} where a number should be") from None


def items_of(reply: Reply, expected: int | None = None) -> tuple[bytes | None, ...]:
    if isinstance(reply, Items) and (expected is None or len(reply.values) == expected):
        return reply.values
    raise unexpected(reply)

"""The plain model: what each command means, said once more with a dict, in the plainest way there is.

No buckets, no index of deadlines, no journal. Whatever keyspace, store or server is compared with it must
give the same replies and hold the same entries.
"""

import copy
import dataclasses
import math
from collections.abc import Callable

from cairnkv.commands import (
    COMMANDS,
    MISSING,
    OK,
    Append,
    Clear,
    ClearAll,
    ClearIfEquals,
    ClearMany,
    ClearPrefix,
    Command,
    Copy,
    Count,
    Deadline,
    Exists,
    Expire,
    ExpireWith,
    Failure,
    Get,
    GetMany,
    GetWith,
    Incr,
    IncrFloat,
    Items,
    Persist,
    Ping,
    Rename,
    Reply,
    Scan,
    Set,
    SetBit,
    SetMany,
    SetManyIfAbsent,
    SetRange,
    SetWith,
    Swap,
    Ttl,
    failures,
)
from cairnkv.engine.extended_float import text_of_sum
from cairnkv.engine.table import place

Entry = tuple[bytes, int | None]
"""A value and its deadline."""


@dataclasses.dataclass
class Model:
    """Keys with values and deadlines, and a time that never goes back."""

    entries: dict[bytes, Entry] = dataclasses.field(default_factory=dict)
    now: int = 0
    lead: int = 0

    def copy(self) -> "Model":
        """Another one with the same entries."""
        return copy.deepcopy(self)

    def advance(self, now: int) -> None:
        """Let time go on, and forget what it takes with it."""
        self.now = max(self.now, now)
        self.entries = {
            key: (value, deadline)
            for key, (value, deadline) in self.entries.items()
            if deadline is None or deadline > self.now
        }

    @property
    def _clock(self) -> int:
        return self.now - self.lead

    def _after(self, elapsed: int) -> int:
        """When so much has elapsed: at half speed until log time and the clock meet, or at the clock's."""
        return self._clock + elapsed if elapsed > 2 * self.lead else self.now + -(-elapsed // (2 if self.lead else 1))

    def _left(self, deadline: int) -> int:
        left = deadline - self.now
        return left + self.lead if left > self.lead else 2 * left

    def apply(self, command: Command, now: int, *, seen: Reply | None = None) -> Reply:
        """Return the reply to a command at this time.

        How far a slice (SCAN, CLEAR_PREFIX) reaches is free, so the cursor is taken from the reply that was
        `seen`; then it is settled what the slice holds. Compare with `same`.
        """
        self.advance(now)
        match command:
            case Get(key):
                return self._value(key)
            case Set(key, value):
                self.entries[key] = value, None
                return OK
            case Clear(key):
                self.entries.pop(key, None)
                return OK
            case Ping(text):
                return text or b"PONG"
            case Swap(key):
                old = self._value(key)
                self._set_with(command)
                return old
            case SetWith():
                return int(self._set_with(command))
            case GetWith(key):
                return self._get_with(command, key)
            case ClearIfEquals(key, value):
                return int(self._value(key) == value and self.entries.pop(key) is not None)
            case Exists(names):
                return len([key for key in names if key in self.entries])
            case GetMany(names):
                return Items(tuple(self.entries[key][0] if key in self.entries else None for key in names))
            case SetMany(ttl, pairs):
                self.entries.update({key: (value, self._after(ttl) if ttl else None) for key, value in pairs})
                return OK
            case ClearMany(names):
                return len([self.entries.pop(key) for key in dict.fromkeys(names) if key in self.entries])
            case Incr(key, n):
                return self._incr(key, n)
            case Ttl(key):
                deadline = self.entries[key][1] if key in self.entries else MISSING
                return -1 if deadline is None else MISSING if not isinstance(deadline, int) else self._left(deadline)
            case Expire(key, ttl):
                return self._redate(key, self._after(ttl))
            case Persist(key):
                return self._redate(key, None) if self.entries.get(key, (b"", None))[1] is not None else 0
            case Count():
                return len(self.entries)
            case ClearAll():
                self.entries.clear()
                return OK
            case Scan(cursor, _, prefix):
                following, keys = self._slice(cursor, prefix, seen)
                return Items((following, *keys))
            case ClearPrefix(prefix, cursor):
                following, keys = self._slice(cursor, prefix, seen)
                for key in keys:
                    del self.entries[key]
                return Items((following, b"%d" % len(keys)))
            case ExpireWith():
                return self._expire_with(command)
            case Deadline(key):
                deadline = self.entries[key][1] if key in self.entries else MISSING
                return (
                    -1
                    if deadline is None
                    else MISSING
                    if not isinstance(deadline, int)
                    else self._clock + self._left(deadline)
                )
            case Append(key, more):
                return self._change(key, lambda value: value + more)
            case SetRange(key, offset, over):
                if not over:
                    return len(self.entries.get(key, (b"",))[0])
                return self._change(
                    key, lambda value: (value + bytes(offset))[:offset] + over + value[offset + len(over) :]
                )
            case SetBit(key, offset, bit):
                return self._set_bit(key, offset, bit)
            case IncrFloat(key, amount):
                return self._incr_float(key, amount)
            case Rename(source, target, if_absent):
                if source not in self.entries:
                    return MISSING
                if if_absent and target in self.entries:
                    return 0
                self.entries[target] = self.entries.pop(source)
                return 1
            case Copy(source, target, db, replace):
                assert not db, "the model has one keyspace"
                if source not in self.entries or (target in self.entries and not replace):
                    return 0
                self.entries[target] = self.entries[source]
                return 1
            case SetManyIfAbsent(pairs):
                if any(key in self.entries for key, _ in pairs):
                    return 0
                self.entries.update({key: (value, None) for key, value in pairs})
                return 1
        raise NotImplementedError(f"the model does not know {command.spec.name}")

    def _value(self, key: bytes) -> Reply:
        return self.entries[key][0] if key in self.entries else MISSING

    def _set_with(self, command: SetWith | Swap) -> bool:
        key, there = command.key, command.key in self.entries
        if command.if_absent and there:
            return False
        if command.if_present and not there:
            return False
        if command.if_equals is not None and self._value(key) != command.if_equals:
            return False
        deadline = None
        if command.ttl is not None:
            deadline = self._after(command.ttl)
        if command.keep_ttl and there:
            deadline = self.entries[key][1]
        if command.at is not None:
            deadline = self._after(command.at - self._clock)
        self.entries[key] = command.value, deadline
        self.advance(self.now)
        return True

    def _get_with(self, command: GetWith, key: bytes) -> Reply:
        value = self._value(key)
        if command.clear:
            self.entries.pop(key, None)
        elif command.ttl is not None:
            self._redate(key, self._after(command.ttl))
        elif command.at is not None:
            self._redate(key, self._after(command.at - self._clock))
        elif command.persist:
            self._redate(key, None)
        return value

    def _expire_with(self, command: ExpireWith) -> int:
        if command.key not in self.entries:
            return 0
        old = self.entries[command.key][1]
        new = self._after(command.time - self._clock * command.at)
        latest = math.inf if old is None else old
        if (command.if_none and old is not None) or (command.if_some and old is None):
            return 0
        if (command.if_later and new <= latest) or (command.if_sooner and new >= latest):
            return 0
        return self._redate(command.key, new)

    def _change(self, key: bytes, change: Callable[[bytes], bytes]) -> int:
        value, deadline = self.entries.get(key, (b"", None))
        self.entries[key] = change(value), deadline
        return len(self.entries[key][0])

    def _set_bit(self, key: bytes, offset: int, bit: int) -> int:
        bits = "".join(f"{byte:08b}" for byte in self.entries.get(key, (b"",))[0])
        bits = bits.ljust((offset // 8 + 1) * 8, "0")
        before = int(bits[offset])
        bits = bits[:offset] + str(bit) + bits[offset + 1 :]
        self._change(key, lambda _: int(bits, 2).to_bytes(len(bits) // 8))
        return before

    def _incr_float(self, key: bytes, amount: bytes) -> Reply:
        value, deadline = self.entries.get(key, (b"0", None))
        try:
            total = text_of_sum(value, amount)
        except ValueError:
            return Failure(failures.NOTFLOAT, "")
        except OverflowError:
            return Failure(failures.OVERFLOW, "")
        self.entries[key] = total, deadline
        return total

    def _incr(self, key: bytes, n: int) -> Reply:
        value, deadline = self.entries.get(key, (b"0", None))
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or str(number).encode() != value or not -(2**63) <= number < 2**63:
            return Failure(failures.NOTINT, "")
        if not -(2**63) <= number + n < 2**63:
            return Failure(failures.OVERFLOW, "")
        self.entries[key] = str(number + n).encode(), deadline
        return number + n

    def _redate(self, key: bytes, deadline: int | None) -> int:
        if key not in self.entries:
            return 0
        self.entries[key] = self.entries[key][0], deadline
        self.advance(self.now)
        return 1

    def _slice(self, cursor: int, prefix: bytes, seen: Reply | None) -> tuple[bytes, list[bytes]]:
        """All keys with the prefix from the cursor to where the slice that was seen ends."""
        assert isinstance(seen, Items)
        following = seen.values[0]
        assert following is not None
        end = int(following) or 2**63
        assert cursor < end, "a slice goes on, or says that it is the last"
        return following, [key for key in self.entries if key.startswith(prefix) and cursor <= place(key) < end]


def same(command: Command, one: Reply, other: Reply) -> bool:
    """Whether two replies to a command say the same: the order of keys in a slice and the wording of a
    failure are free."""
    if isinstance(one, Failure) and isinstance(other, Failure):
        return one.code is other.code
    if isinstance(command, Scan) and isinstance(one, Items) and isinstance(other, Items):
        return one.values[0] == other.values[0] and sorted(key or b"" for key in one.values[1:]) == sorted(
            key or b"" for key in other.values[1:]
        )
    return one == other and type(one) is type(other)


MODELLED = [command for command in COMMANDS if command.__name__ in Model.apply.__code__.co_names]
"""The commands that the model knows. `tests/commands/cases.py` tests the others."""

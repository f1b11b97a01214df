"""Every known difference between cairnkv and Redis, as docs/redis.md lists them.

Where a few commands can show a difference, they are given with it, and a test sends them to both servers, so that what
has ceased to differ cannot stay in the list.
"""

from dataclasses import dataclass

from cairnkv.limits import (
    CHANNEL_MAX,
    FRAME_MAX,
    KEY_MAX,
    MIB,
    PATTERN_MAX,
    PLACE_KEYS_MAX,
    REDIS_ARGUMENTS_MAX,
    REDIS_KEYLESS_ARGUMENTS_MAX,
    SCAN_COUNT_MAX,
    SUBSCRIPTIONS_MAX,
    TRANSACTION_COST_MAX,
    TTL_MAX,
    VALUE_MAX,
    WATCHED_MAX,
)
from cairnkv.session.redis.words.scanning import KEYS_IN_TRANSACTION_MAX


@dataclass(frozen=True)
class Shown:
    """Commands that show a difference, and how the reply to the last of them begins on both sides."""

    commands: tuple[str, ...]
    theirs: bytes
    ours: bytes


@dataclass(frozen=True)
class Difference:
    """Something that cairnkv does otherwise.

    what: in a sentence or two, Markdown.
    reason: why it stays so.
    shown: proves it, as far as a few commands can.
    """

    what: str
    reason: str
    shown: Shown | None = None


def _size(size: int) -> str:
    return f"{size // MIB} MiB"


KNOWN_DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        f"A key has 1 to {KEY_MAX:,} bytes; Redis takes the empty one, and up to 512 MiB.",
        "It is the same key on the article's wire, which has two bytes for its length.",
        Shown((f"SET {'k' * (KEY_MAX + 1)} v",), b"+OK", b"-ERR a key has 1 to "),
    ),
    Difference(
        f"A value has at most {_size(VALUE_MAX)}, or what `--max-value` says; in Redis 512 MiB, or "
        f"`proto-max-bulk-len`. A command and a reply have at most {_size(FRAME_MAX)}, or what `--max-frame` says.",
        "One value should not keep the server from its other clients for longer than it takes to copy it.",
        Shown((f"SETRANGE k {VALUE_MAX} x",), b":", b"-ERR string exceeds maximum allowed size"),
    ),
    Difference(
        f"A command has at most {REDIS_ARGUMENTS_MAX:,} words, its name included, as in Redis before 7.0; one that is "
        f"not about keys has at most {REDIS_KEYLESS_ARGUMENTS_MAX:,}. The longest `MSET`, `MGET` and `DEL` take about "
        "two seconds each, in which no other client is served; in Redis about half a second.",
        "One command is atomic.",
    ),
    Difference(
        f"A transaction is at most as much work as {TRANSACTION_COST_MAX:,} commands of one key, and at most one frame "
        f"of commands; a client watches at most {WATCHED_MAX:,} keys, and listens to {SUBSCRIPTIONS_MAX:,} channels "
        f"and patterns. A channel's name and a client's have at most {CHANNEL_MAX:,} bytes.",
        "What a client can make the server hold or do at once has a bound.",
    ),
    Difference(
        f"Times are at most 2^53 milliseconds, {TTL_MAX // 31_557_600_000_000:,} thousand years; Redis has 2^63.",
        "They are exact in every language's numbers.",
        Shown((f"SET k v PXAT {TTL_MAX + 1}",), b"+OK", b"-ERR invalid expire time in 'set' command"),
    ),
    Difference(
        "`SET` with a deadline that is past leaves no key at once; Redis counts it until somebody looks at it.",
        "A key whose time is over is never there, for `DBSIZE` neither.",
        Shown(("MULTI", "SET k v PXAT 1", "DBSIZE", "EXEC"), b"*2\r\n+OK\r\n:1", b"*2\r\n+OK\r\n:0"),
    ),
    Difference(
        "`OBJECT ENCODING` follows from the value alone: what `SET` of it would give in Redis.",
        "There is one way of keeping a value here, and no history of it.",
        Shown(("SET k a", "APPEND k b", "OBJECT ENCODING k"), b"$3\r\nraw", b"$6\r\nembstr"),
    ),
    Difference(
        "`INCRBYFLOAT` reads no hexadecimal numbers.",
        "Redis reads what C's `strtold` does; numbers here are decimal.",
        Shown(("INCRBYFLOAT k 0x10",), b"$2\r\n16", b"-ERR value is not a valid float"),
    ),
    Difference(
        f"A pattern has at most {PATTERN_MAX:,} bytes.",
        "To match a key takes at most the key's length times the pattern's, so this bounds it.",
        Shown((f"KEYS {'a' * (PATTERN_MAX + 1)}",), b"*0", b"-ERR a pattern of 1,025 bytes"),
    ),
    Difference(
        f"`SCAN` looks at {SCAN_COUNT_MAX:,} keys at most, whatever `COUNT` says, and at fewer with a long pattern.",
        "That is some milliseconds of work; the next call goes on.",
    ),
    Difference(
        f"Cursors of `SCAN` are below 2^53; Redis' have 64 bits. At most {PLACE_KEYS_MAX:,} keys may share one, and "
        "further ones are refused: only keys forged for it, at 2^21 hashes each, get there.",
        "JavaScript clients read cursors as numbers. A slice returns all keys of a cursor, so they have a bound.",
    ),
    Difference(
        "`KEYS` goes through the keys slice by slice, and others are served in between: what it tells is not of one "
        f"moment. In a transaction it is, and looks at {KEYS_IN_TRANSACTION_MAX:,} keys at most.",
        "Redis stands still meanwhile.",
    ),
    Difference(
        "Scans of a keyspace that changes may give a key twice or in another order than Redis does; every key that is "
        "there all the time is given, as in Redis.",
        "The table is another one.",
    ),
    Difference(
        "`TIME` counts milliseconds: its microseconds end in 000.",
        "It is the clock that keys expire by.",
    ),
    Difference(
        "`CLIENT LIST` shows the clients on this wire only, and `CLIENT KILL` closes no others. `cmd=` is the last "
        "command that the compiled hot path has not answered by itself, and fields on buffers that nobody has are 0.",
        "Who speaks the article's wire has no name, no keyspace and no protocol version to show.",
    ),
    Difference(
        "`HELLO` has one field more, `cairnkv_version`; `INFO` has the sections and fields of which something true can "
        "be said, so no `commandstats`; `CONFIG` has the options that there are, under Redis' names and under ours.",
        "No command answers as if it had done or measured what it has not.",
        Shown(("HELLO",), b"*14", b"*16"),
    ),
    Difference(
        "A first byte that is neither `*`, a letter nor the end of a line begins the article's wire.",
        "Both wires are spoken on one port.",
    ),
    Difference(
        "`BGSAVE` and `LASTSAVE` answer an error without `--data` and `--backup-dir`, and `LASTSAVE` before the first "
        "backup. In Redis `LASTSAVE` is then the time at which the server started.",
        "A time would say that there is a backup.",
        Shown(("LASTSAVE",), b":", b"-ERR this server makes no backups"),
    ),
    Difference(
        "`SET` has `IFEQ`, and `DELIFEQ` is there.",
        "They are Valkey's; the article's wire has the same.",
        Shown(("SET k a", "SET k b IFEQ a"), b"-ERR syntax error", b"+OK"),
    ),
    Difference(
        "`SETBIT`, `SETRANGE` and `APPEND` copy the whole value; Redis changes it in place. `COPY` and `RENAME` of a "
        "store on disk write it. The bytes count in a client's turn, so that other clients are served between two such "
        "commands, but each costs time in proportion to the value's length.",
        "A value that has been handed out must not change while its bytes are sent or written.",
    ),
)

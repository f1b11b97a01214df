"""All known differences between cairnkv and Redis. docs/redis.md lists them.

A difference may have commands that show it. A test sends these commands to both servers and fails if the replies agree,
so an outdated difference cannot stay in the list.
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
    TRANSACTION_BYTES_MAX,
    TRANSACTION_COST_MAX,
    TTL_MAX,
    VALUE_MAX,
    WATCHED_MAX,
)
from cairnkv.session.resp.commands.scan import KEYS_IN_TRANSACTION_MAX


@dataclass(frozen=True)
class Shown:
    """Commands that show a difference, and the beginning of both servers' replies to the last command."""

    commands: tuple[str, ...]
    theirs: bytes
    ours: bytes


@dataclass(frozen=True)
class Difference:
    """A difference between cairnkv and Redis.

    what: one or two sentences in Markdown.
    reason: why cairnkv keeps the difference.
    shown: commands that prove it; None: a few commands cannot.
    """

    what: str
    reason: str
    shown: Shown | None = None


def _size(size: int) -> str:
    return f"{size // MIB} MiB"


KNOWN_DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        f"A key has 1 to {KEY_MAX:,} bytes; Redis accepts the empty key, and keys up to 512 MiB.",
        "Both protocols share the keys, and the native protocol has two bytes for the length of a key.",
        Shown((f"SET {'k' * (KEY_MAX + 1)} v",), b"+OK", b"-ERR a key has 1 to "),
    ),
    Difference(
        f"A value has at most {_size(VALUE_MAX)}, or `--max-value`; in Redis 512 MiB, or `proto-max-bulk-len`. "
        f"A command and a reply have at most {_size(FRAME_MAX)}, or `--max-frame`.",
        "One value should not block other clients for longer than the server needs to copy it.",
        Shown((f"SETRANGE k {VALUE_MAX} x",), b":", b"-ERR string exceeds maximum allowed size"),
    ),
    Difference(
        f"A command has at most {REDIS_ARGUMENTS_MAX:,} arguments, its name included, as in Redis before 7.0; a "
        f"command without keys has at most {REDIS_KEYLESS_ARGUMENTS_MAX:,}. The longest `MSET`, `MGET` and `DEL` block "
        "other clients for a second or more each.",
        "A command is atomic.",
    ),
    Difference(
        f"A transaction is at most as much work as {TRANSACTION_COST_MAX:,} commands of one key, and its commands are "
        f"at most as long as one frame. It reads and makes at most {TRANSACTION_BYTES_MAX // MIB} MiB of values; "
        "`SETBIT`, `SETRANGE` and `APPEND` make the whole value. Nothing of a larger transaction is executed. "
        f"A client watches at most {WATCHED_MAX:,} keys, and subscribes to at most "
        f"{SUBSCRIPTIONS_MAX:,} channels and patterns. The names of channels and clients have at most {CHANNEL_MAX:,} "
        "bytes.",
        "The memory and the work that one client causes at once have a limit.",
    ),
    Difference(
        "A transaction cannot contain `AUTH` and `HELLO`.",
        "A login may wait for a hash or a delay, and a transaction does not wait.",
        Shown(("MULTI", "HELLO"), b"+QUEUED", b"-ERR Command not allowed inside a transaction"),
    ),
    Difference(
        f"Times are at most 2^53 milliseconds, {TTL_MAX // 31_557_600_000_000:,} thousand years; Redis has 2^63.",
        "Every language has exact numbers up to 2^53.",
        Shown((f"SET k v PXAT {TTL_MAX + 1}",), b"+OK", b"-ERR invalid expire time in 'set' command"),
    ),
    Difference(
        "`SET` with an expiry time in the past deletes the key at once; Redis counts the key until a client accesses "
        "it.",
        "No command sees an expired key, nor does `DBSIZE` count it.",
        Shown(("MULTI", "SET k v PXAT 1", "DBSIZE", "EXEC"), b"*2\r\n+OK\r\n:1", b"*2\r\n+OK\r\n:0"),
    ),
    Difference(
        "`OBJECT ENCODING` depends on the value alone: it is the encoding that Redis shows after `SET` of this value.",
        "cairnkv stores all values in the same way, without their history.",
        Shown(("SET k a", "APPEND k b", "OBJECT ENCODING k"), b"$3\r\nraw", b"$6\r\nembstr"),
    ),
    Difference(
        "`INCRBYFLOAT` reads no hexadecimal numbers.",
        "Redis reads numbers with C's `strtold`; cairnkv reads decimal numbers only.",
        Shown(("INCRBYFLOAT k 0x10",), b"$2\r\n16", b"-ERR value is not a valid float"),
    ),
    Difference(
        f"A pattern has at most {PATTERN_MAX:,} bytes.",
        "The time to match a key is at most proportional to the key's length times the pattern's length.",
        Shown((f"KEYS {'a' * (PATTERN_MAX + 1)}",), b"*0", b"-ERR a pattern of 1,025 bytes"),
    ),
    Difference(
        f"`SCAN` examines at most {SCAN_COUNT_MAX:,} keys, even if `COUNT` is larger, and fewer with a long pattern.",
        "This is a few milliseconds of work; the next call continues.",
    ),
    Difference(
        f"Cursors of `SCAN` are below 2^53; those of Redis have 64 bits. At most {PLACE_KEYS_MAX:,} keys may share a "
        "cursor; the server refuses more. Only forged keys, which cost 2^21 hashes each, reach this limit.",
        "JavaScript clients read cursors as numbers. A slice returns all keys of a cursor, so their number has a "
        "limit.",
    ),
    Difference(
        "`KEYS` reads the keys slice by slice and serves other clients in between, so it is not atomic. In a "
        f"transaction it is atomic, and examines at most {KEYS_IN_TRANSACTION_MAX:,} keys.",
        "Redis serves no other clients during `KEYS`.",
    ),
    Difference(
        "If keys change during a scan, the scan may return a key twice, or in another order than Redis. As in Redis, "
        "it returns every key that exists during the whole scan.",
        "cairnkv has another kind of hash table.",
    ),
    Difference(
        "`TIME` counts milliseconds: its microseconds end in 000.",
        "Keys expire by the same clock.",
    ),
    Difference(
        "`CLIENT LIST` shows the clients of the Redis protocol only, and `CLIENT KILL` closes no others. `cmd=` is the "
        "last command on the pure Python path, and fields for buffers that cairnkv does not have are 0.",
        "A client of the native protocol has no name, no database and no protocol version.",
    ),
    Difference(
        "`HELLO` has one more field, `cairnkv_version`. `INFO` has only the sections and fields that cairnkv measures, "
        "so no `commandstats`. `CONFIG` has the options of cairnkv, under Redis' names and under their own.",
        "No command reports an effect or a measurement that did not happen.",
        Shown(("HELLO",), b"*14", b"*16"),
    ),
    Difference(
        "If the first byte is neither `*`, a letter nor the end of a line, the connection uses the native protocol.",
        "Both protocols share one port.",
    ),
    Difference(
        "`BGSAVE` returns an error without `--data` and `--backup-dir`. `LASTSAVE` is 0 before the first backup; in "
        "Redis, it is then the time of the server's start.",
        "A time would suggest that a backup exists.",
        Shown(("LASTSAVE",), b":1", b":0\r\n"),
    ),
    Difference(
        "`GETRANGE` and `SUBSTR` return an empty string for an end before the first byte. `BITCOUNT` checks all its "
        "arguments also for a missing key. `CLIENT KILL` has the filter `MAXAGE`.",
        "So does Redis 8, and the newest test suites expect it.",
        Shown(("SET k Hello", "GETRANGE k 0 -100"), b"$1\r\nH", b"$0\r\n"),
    ),
    Difference(
        "`SET` has the option `IFEQ`, and there is the command `DELIFEQ`.",
        "Valkey has both, and the native protocol has the same conditions.",
        Shown(("SET k a", "SET k b IFEQ a"), b"-ERR syntax error", b"+OK"),
    ),
    Difference(
        "`SETBIT`, `SETRANGE` and `APPEND` copy the whole value; Redis changes it in place. `COPY` and `RENAME` of a "
        "store on disk write the value. The server counts these bytes in the client's slice, so it serves other "
        "clients between two such commands. The time of each command is proportional to the value's length.",
        "A value must not change while the server sends or writes its bytes.",
    ),
    Difference(
        "A pattern of keys or channels in an ACL rule is a prefix and a final `*`. There are no selectors, and no "
        "`+command|argument`.",
        "The server compares the beginnings of keys only, so a user with prefixes costs little.",
        Shown(("ACL SETUSER x ~a?b",), b"+OK", b"-ERR Error in ACL SETUSER modifier '~a?b': a pattern must"),
    ),
    Difference(
        "If one ACL rule allows to read a key, and another to write it, a command may do both. In Redis, one rule must "
        "allow both.",
        "The rights to read and to write are independent lists of prefixes.",
        Shown(("ACL SETUSER x reset %R~* %W~a* +getset", "ACL DRYRUN x GETSET a b"), b"$", b"+OK"),
    ),
    Difference(
        "Every user that has logged in may use `AUTH`, `HELLO`, `PING`, `INFO`, `COMMAND`, `QUIT`, `RESET` and "
        "`ACL WHOAMI`. Commands on a whole database need the rules `~*`, and `SCAN` and `KEYS` need a pattern within a "
        "prefix of the user.",
        "Client libraries send the first group at each connect. `SCAN` would show keys that the user may not read.",
        Shown(("ACL SETUSER x reset", "ACL DRYRUN x INFO"), b"$", b"+OK"),
    ),
    Difference(
        "`PSUBSCRIBE` needs a pattern within a prefix of the user. `PUBSUB CHANNELS` shows only channels that the user "
        "may use. `STRLEN`, `MEMORY USAGE` and `OBJECT ENCODING` need the right to read the key.",
        "In Redis the pattern must be the same as in the rule, `PUBSUB CHANNELS` shows all names, and any right to the "
        "key is enough.",
        Shown(("ACL SETUSER x reset %W~* +strlen", "ACL DRYRUN x STRLEN k"), b"+OK", b"$"),
    ),
    Difference(
        "The last user that can log in and has all commands cannot be removed, disabled or reduced.",
        "No client could undo that change.",
    ),
    Difference(
        "In a users file without a user `default`, there is none, and clients must log in. Redis makes one without a "
        "password. A line of `ACL LIST` has no `sanitize-payload`, which is about `RESTORE`.",
        "A forgotten line must not open the server.",
    ),
)

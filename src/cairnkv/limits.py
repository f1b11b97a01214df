"""The limits of cairnkv: every bound that a peer, a caller or a config file can run into.

Each is a named constant with its unit and its reason. Those that an operator may change are the
defaults of an option of the same name (`cairnkv.server.settings`); the rest are part of the protocol
or of a guarantee. Tests stand on both sides of each: at N and at N + 1.

Not for tuning that nobody outside can notice: such constants live beside the code they tune.
"""

import sys
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

KEY_MAX: Final = 65_535
"""Bytes in a key; at least one. The two widths of the article's command number can only be told apart
while a key's length fits two bytes, so this is part of the protocol and no option."""

VALUE_MAX: Final = 64 * MIB
"""Bytes in a value, by default. Redis allows 512 MiB and memcached 1 MiB; one value should not hold the
loop for much longer than it takes to copy it."""

FRAME_MAX: Final = VALUE_MAX + MIB
"""Bytes in one whole frame, in either direction, by default: the largest value, its key, and room for a
command that carries several."""

STRING_MAX: Final = 512 * MIB
"""Bytes that a value could ever have, whatever `VALUE_MAX` is set to: what offsets into one may say, as in Redis."""

SPACES: Final = 16
"""Keyspaces of a store, as Redis has databases. The article's wire and the embedded store use the first."""

ARGUMENTS_MAX: Final = 1_048_576
"""Arguments in one command numbered 16 or above. Part of the protocol."""

REDIS_ARGUMENTS_MAX: Final = 1_048_576
"""Arguments in one command of the Redis protocol, its name included, as in Redis until version 6.2 (2^31 - 1 since).
A command is atomic, so the longest command blocks all other clients for about two seconds. Its client's next turn comes
after those of all others."""

REDIS_KEYLESS_ARGUMENTS_MAX: Final = 32_768
"""The same for commands without keys, such as SUBSCRIBE and COMMAND INFO."""

TRANSACTION_COST_MAX: Final = 50_000
"""Work that one transaction of the Redis wire may be, counted in commands of one key: some tenths of a second, in which
nobody else is served."""

TRANSACTION_BYTES_MAX: Final = 256 * MIB
"""Bytes of values that one transaction may read or make: less than a second, in which the server serves no other
client. SETBIT, SETRANGE and APPEND make the whole value."""

READ_TOGETHER_MAX: Final = 512 * MIB
"""Bytes of values that one command over several keys, or one transaction, may need if some of them have to be read from
the disk; nor may they be more than the memory limit. All of them are in memory until it was carried out."""

WATCHED_MAX: Final = 10_000
"""Keys that one client of the Redis wire may watch."""

PATTERNS_BYTES_MAX: Final = 16 * KIB
"""Bytes of all patterns in one command: to make them ready to be matched takes some tens of milliseconds."""

CHANNEL_MAX: Final = KIB
"""Bytes in the name of a channel: each message is held against all patterns, and to match takes at most the name's
length times the pattern's."""

SUBSCRIPTIONS_MAX: Final = 32_768
"""Channels and patterns together that one client may listen to."""

SUBSCRIBED_BYTES_MAX: Final = 32 * MIB
"""Bytes of memory that all these take, by estimate."""

CLIENT_NAME_MAX: Final = KIB
"""Bytes in what a client calls itself, or its library."""

REDIS_LINE_MAX: Final = 64 * KIB
"""Bytes in a line of the Redis wire before its end: an inline request, or a count that does not end. As in Redis,
whose errors say so: who talks another protocol by mistake is told within this many bytes."""

STRANGER_ARGUMENTS_MAX: Final = 10
STRANGER_BULK_MAX: Final = 16 * KIB
"""Arguments, and bytes in one of them, that the Redis wire takes from a client which has yet to authenticate: enough
for HELLO and AUTH, and as Redis has them."""

PATTERN_MAX: Final = KIB
"""Bytes in a glob pattern. To match a key takes at most the key's length times the pattern's, so this keeps the
longest key at some tenths of a second."""

UNFINISHED_MAX: Final = 256 * MIB
"""Bytes of unfinished frames that all connections together may hold, by default; open transactions, watched keys and
subscriptions count as well. Four of the largest values can be on their way at once; beyond that a client is failed
(`cairnkv.server.sharing`)."""

UNSENT_MAX: Final = 256 * MIB
"""Bytes of replies not yet taken by their clients that all connections together may hold, by default;
beyond it a client is closed (`cairnkv.server.sharing`)."""

UNSENT_PAUSE: Final = MIB
"""Bytes of unsent replies at which a session stops executing its client's commands until the client has
read some. One reply may exceed it. The server goes on reading commands, up to `READ_AHEAD_MAX`: many clients send all
commands of a pipeline before they read a reply."""

READ_AHEAD_MAX: Final = 32 * MIB
"""Bytes of commands that the server reads from a client which takes no replies; where `--max-unfinished` is lower than
usual, a quarter of that. At this limit the server goes on executing commands, up to `CLIENT_UNSENT_MAX`."""

CLIENT_UNSENT_MAX: Final = 128 * MIB
"""Bytes of unsent replies at which the server stops reading from a client that reads none. After the stall timeout the
server closes it. One reply may exceed it."""

HELD_REPLIES_MAX: Final = 4_096
"""Replies of one connection that may wait for the log; a session stops executing at this many."""

PUSHES_MAX: Final = 32 * MIB
"""Bytes of messages that a subscriber may leave untaken before it is closed, as in Redis' default."""

BYTES_PER_COST: Final = 64 * KIB
"""Bytes of a value that are as much work as a command of one key, if a command reads, makes or copies them: BITCOUNT
runs at some gigabytes per second, and copies are faster."""

COMMANDS_PER_TURN: Final = 16
"""Commands of one connection that the pure Python path executes before other connections get their turn: about half a
millisecond. `python benchmarks/neighbours.py` measures how this delays other clients."""

NATIVE_COMMANDS_PER_COST: Final = 100
"""Short commands that the native path executes in the time that the pure Python path takes for one."""

TURNS_SECONDS: Final = 0.001
"""Seconds after which the server reads from its sockets again, between turns of connections that have more to do."""

CONNECTIONS_MAX: Final = 10_000
"""Clients connected at once, by default; the next one is told so and closed."""

IDLE_TIMEOUT: Final = 3_600.0
"""Seconds that a connection may say nothing between two frames, by default. Zero: for ever."""

FRAME_TIMEOUT: Final = 30.0
"""Seconds from a frame's first byte to its last, by default. Slow enough for 64 MiB at 20 Mbit/s."""

STALL_TIMEOUT: Final = 60.0
"""Seconds that a client may take none of the replies that wait for it, by default."""

DRAIN_TIMEOUT: Final = 5.0
"""Seconds that a server which was told to stop gives its clients to take their last replies."""

DISCARD_BYTES: Final = MIB
"""Bytes of input thrown away after a failure that ends a connection, so that its reply arrives: closing
with unread input would reset the connection and take the reply with it (RFC 9293, 3.10.4)."""

DISCARD_TIMEOUT: Final = 1.0
"""Seconds that such input is awaited."""

TTL_MAX: Final = 2**53
"""Milliseconds in the longest time to live: about 285,000 years, and exact in every language's numbers."""

CLOCK_MAX: Final = 2**53
"""Maximum time, in milliseconds since 1970, that a clock may return: like `TTL_MAX`, exact in every language."""

SCAN_COUNT: Final = 1_000
"""Keys that one slice of a scan looks at, unless the client asks for another number."""

SCAN_COUNT_MAX: Final = 10_000
"""Keys that one slice of a scan looks at, at most: some milliseconds of work."""

PLACE_KEYS_MAX: Final = 10_000
"""Keys that may share a place in the order of scans, a cursor of 53 bits. A slice never separates them, so it may
return this many keys more than its count. Only forged keys, at 2**21 attempts each, reach this limit; a write of one
more fails."""

CLEAR_PREFIX_SLICE: Final = 1_000
"""Keys that one slice of CLEAR_PREFIX looks at."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
"""What INCR counts with: 64 signed bits, as Redis does."""

BACKUPS_KEPT_MAX: Final = 1_000
"""Backups of one name that BACKUP can be told to keep."""

PORT: Final = 6555
"""Where the article's published server listens, and so does this one."""

DEFAULT_URL: Final = f"cairn://127.0.0.1:{PORT}"
"""Where clients look for a server that nobody named."""

UNIX_PATH_MAX: Final = 107 if sys.platform == "linux" else 103
"""Bytes in the path of a Unix socket (the system's sun_path, without its null character)."""

CLIENT_TIMEOUT: Final = 5.0
"""Seconds that a client waits for one reply, by default."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds that a client waits for one address to accept it, by default."""

CLIENT_ATTEMPTS: Final = 4
"""Times that a client tries a call which is safe to repeat, by default, the first one included."""

BACKUP_STALL_TIMEOUT: Final = 300.0
"""Seconds without progress of a server's backup after which a waiting client gives up."""

CLIENT_IN_FLIGHT_MAX: Final = 10_000
"""Calls of one asyncio connection that may await their replies; further callers wait their turn."""

KEEPALIVE_IDLE: Final = 60
"""Seconds without traffic after which the system probes a TCP peer, on both sides. These seconds and all probes detect
a vanished peer within 2 minutes. Firewalls and NAT tables remember a connection for longer than the first interval."""

KEEPALIVE_INTERVAL: Final = 15
KEEPALIVE_PROBES: Final = 4
"""Seconds between two probes, and the number of unanswered probes after which the connection is lost."""

KEEPALIVE_TIMEOUT: Final = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES
"""Seconds after which the server's system closes a connection with unacknowledged data (Linux, TCP_USER_TIMEOUT). The
system sends no keepalive probes while data is unacknowledged."""

ADDRESSES_MAX: Final = 16
"""Addresses of one host name that a client tries; each gets its share of the time."""

LOOKUPS_MAX: Final = 32
"""Name lookups that one process may run at once. The system cannot stop a lookup, so a silent name server blocks one
thread per name until the system's own timeout."""

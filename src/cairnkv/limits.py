"""The limits of cairnkv: every bound that a peer, a caller or a configuration can reach.

Each limit is a constant with its unit and its reason. A limit that an operator can change is the default of an option
(`cairnkv.server.settings`); the others are part of a protocol or of a guarantee. Tests check each limit at N and N + 1.

Out of scope: tuning without an effect outside; such constants are next to the code that uses them.
"""

import sys
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

KEY_MAX: Final = 65_535
"""Maximum bytes of a key; the minimum is one. A decoder can distinguish the two widths of command numbers only if a
key's length fits into two bytes, so this limit is a part of the protocol."""

VALUE_MAX: Final = 64 * MIB
"""Default for the maximum bytes of a value. Redis allows 512 MiB, memcached 1 MiB. A value should block the event loop
only for about the time of a copy."""

FRAME_MAX: Final = VALUE_MAX + MIB
"""Default for the maximum bytes of a frame, in both directions: the largest value, its key, and the rest of a
command."""

STRING_MAX: Final = 512 * MIB
"""Maximum bytes of a value for every configuration, and so the maximum of offsets into a value, as in Redis."""

DATABASES: Final = 16
"""Number of databases of a store, as in Redis. The native protocol and the embedded store use the first one."""

QUEUE_DB: Final = DATABASES + 1
"""Number of the database with the records of all queues. Clients cannot name it. `DATABASES` is the number of a node's
own records."""

ARGUMENTS_MAX: Final = 1_048_576
"""Maximum arguments of a native command with a number of 16 or above. A part of the protocol."""

REDIS_ARGUMENTS_MAX: Final = 1_048_576
"""Maximum arguments of a command of the Redis protocol, its name included, as in Redis until version 6.2 (2^31 - 1
since). A command is atomic, so the longest command blocks all other clients for about two seconds. Then all other
clients get their turn before its client."""

REDIS_KEYLESS_ARGUMENTS_MAX: Final = 32_768
"""The same for commands without keys, such as SUBSCRIBE and COMMAND INFO."""

TRANSACTION_COST_MAX: Final = 50_000
"""Maximum work of a transaction of the Redis protocol, in commands of one key. The server serves no other client for
some tenths of a second."""

TRANSACTION_BYTES_MAX: Final = 256 * MIB
"""Maximum bytes of values that one transaction may read or write: less than a second, in which the server serves no
other client. SETBIT, SETRANGE and APPEND write the whole value."""

SCRIPT_CONFLICTS_MAX: Final = 100
"""Maximum runs of a script at a node of a cluster after which other clients have changed its keys. Each run takes the
time of a write."""

SCRIPT_SLICE: Final = 0.02
"""Default for the seconds of the first attempt of a script. The server undoes a longer one, serves other clients, and
attempts it again. Locks and counters take some hundred thousandths of a second."""

SCRIPT_ATTEMPTS_MAX: Final = 4
"""Attempts of a script, each with twice the time of the one before. The last one is not undone."""

SCRIPT_TIME: Final = 5.0
"""Default for the seconds of all attempts of a script, after which the server answers other clients with BUSY, as in
Redis."""

SCRIPT_PAUSED_SLICE: Final = 0.005
"""Seconds for which a script continues after that, before the server reads from its sockets again."""

SCRIPT_MESSAGES_BYTES_MAX: Final = 64 * MIB
"""Maximum bytes of the messages that a script publishes. The server keeps them until the commit."""

READ_TOGETHER_MAX: Final = 512 * MIB
"""Maximum bytes of values for one command over several keys, or one transaction, if some values are cold; the memory
limit applies too. The server holds all these values in memory during the execution."""

WATCHED_MAX: Final = 10_000
"""Maximum watched keys of a client of the Redis protocol."""

PATTERNS_BYTES_MAX: Final = 16 * KIB
"""Maximum bytes of all patterns of a command. To compile them takes some tens of milliseconds."""

CHANNEL_MAX: Final = KIB
"""Maximum bytes of a channel's name. The server matches each message with all patterns, which takes at most the length
of the name times the length of the pattern."""

SUBSCRIPTIONS_MAX: Final = 32_768
"""Maximum channels and patterns together of a client."""

SUBSCRIBED_BYTES_MAX: Final = 32 * MIB
"""Maximum estimated bytes of memory of all subscriptions of a client."""

CLIENT_NAME_MAX: Final = KIB
"""Maximum bytes of the name of a client, and of its library."""

USERS_MAX: Final = 1_000
"""Maximum number of users of a server."""

USER_NAME_MAX: Final = 128
"""Maximum bytes of the name of a user."""

SECRETS_MAX: Final = 4
"""Maximum number of secrets of a user: two during a rotation, and the two of another rotation that failed. A wrong
password is compared with all of them."""

USERS_FILE_MAX: Final = 16 * MIB
"""Maximum bytes of a users file."""

REDIS_LINE_MAX: Final = 64 * KIB
"""Maximum bytes of a line of the Redis protocol, such as an inline request or a count, as in Redis. A client of another
protocol gets an error after at most so many bytes."""

UNAUTHENTICATED_ARGUMENTS_MAX: Final = 10
"""Maximum arguments of a client of the Redis protocol that must log in first: enough for HELLO, as in Redis."""

UNAUTHENTICATED_FRAME_MAX: Final = KIB
"""Maximum bytes of a frame, and of a request of the Redis protocol, of a client that must log in first: enough for a
user's name and a secret."""

UNAUTHENTICATED_SHARE: Final = 4
"""Unauthenticated clients have one place in so many of `--max-connections`, so that they cannot take all."""

UNAUTHENTICATED_PER_ADDRESS_MAX: Final = 256
"""Maximum unauthenticated clients of one address, or of one /64 network of IPv6: more than the threads of a program
that connect at once."""

UNAUTHENTICATED_BYTES_MAX: Final = 4 * MIB
"""Maximum bytes of incomplete frames and unread replies of all unauthenticated clients together: a frame of the maximum
length for each of 4,096 clients."""

LOGIN_FAILURES_FREE: Final = 3
"""Failed logins of an address and a user without a delay: people mistype."""

LOGIN_DELAY: Final = 0.1
LOGIN_DELAY_MAX: Final = 4.0
"""Seconds that the next failed login waits; each further one waits twice as long, up to the maximum. The right password
waits, too, so the maximum is below the timeouts of clients, `CLIENT_TIMEOUT` and `CONNECT_TIMEOUT`."""

LOGIN_WAITING_MAX: Final = 16
"""Maximum passwords of an address and a user that wait at once, so that many connections do not make many guesses: four
a second."""

LOGIN_FAILURES_MAX: Final = 10
"""Failed logins after which the server closes a connection."""

LOGIN_FAILURES_KEPT: Final = 10_000
"""Maximum pairs of an address and a user whose failed logins the server counts. It removes the oldest ones."""

LOGIN_FAILURES_FORGOTTEN: Final = 900_000
"""Milliseconds after the last failed login of an address and a user until the server removes their number."""

ACCESS_LOG_MAX: Final = 128
"""Maximum entries of ACL LOG, as in Redis."""

PASSWORDS_WAITING_MAX: Final = 64
"""Maximum passwords that wait for their check at once: about two seconds of work."""

PASSWORDS_KEPT_MAX: Final = 10_000
"""Maximum passwords that the server accepts again without a slow check."""

AUDIT_EVENTS_WAITING_MAX: Final = 10_000
"""Maximum events that wait to be written to the audit log. The server counts further events and drops them."""

LOGIN_TIMEOUT: Final = 10.0
"""Seconds that a client has to log in: several round trips of a bad network, and the longest delay of a reply."""

PATTERN_MAX: Final = KIB
"""Maximum bytes of a glob pattern. A match takes at most the length of the key times the length of the pattern: some
tenths of a second for the longest key."""

UNFINISHED_MAX: Final = 256 * MIB
"""Default for the maximum bytes of incomplete frames, open transactions, watched keys and subscriptions of all
connections together. Four of the largest values can be incomplete at once; beyond that a client gets an error
(`cairnkv.server.fair_share`)."""

UNSENT_MAX: Final = 256 * MIB
"""Default for the maximum bytes of unread replies of all connections together. Beyond it the server closes a connection
(`cairnkv.server.fair_share`)."""

UNSENT_PAUSE: Final = MIB
"""Bytes of unread replies at which a session pauses the execution of its client's commands. One reply may exceed it.
The server still reads commands, up to `READ_AHEAD_MAX`, because many clients send all commands of a pipeline before
they read a reply."""

READ_AHEAD_MAX: Final = 32 * MIB
"""Bytes of commands that the server reads from a client that reads no replies; at most a quarter of `--max-unfinished`.
At this limit the server executes commands again, up to `CLIENT_UNSENT_MAX`."""

CLIENT_UNSENT_MAX: Final = 128 * MIB
"""Bytes of unread replies at which the server stops reading from the client. After the stall timeout the server closes
the connection. One reply may exceed the limit."""

PENDING_REPLIES_MAX: Final = 4_096
"""Pending replies of a connection at which its session pauses the execution of commands."""

PUSHES_MAX: Final = 32 * MIB
"""Bytes of unread messages at which the server closes the connection of a subscriber, as in Redis' default."""

BYTES_PER_COST: Final = 64 * KIB
"""Bytes of a value that count as one command of one key, if a command reads, makes or copies the value: BITCOUNT
processes some gigabytes per second, and copies are faster."""

COMMANDS_PER_SLICE: Final = 16
"""Commands of one connection that the pure Python path executes before it serves other connections: about half a
millisecond. `python benchmarks/neighbours.py` measures how this delays other clients."""

NATIVE_COMMANDS_PER_COST: Final = 100
"""Short commands that the native path executes in the time that the pure Python path takes for one."""

SLICES_SECONDS: Final = 0.001
"""Seconds after which the server reads from its sockets again, between slices of connections that have more to do."""

CONNECTIONS_MAX: Final = 10_000
"""Default for the maximum number of connections. The server closes others with an error."""

IDLE_TIMEOUT: Final = 3_600.0
"""Default for the seconds between two frames of a connection; zero: no limit."""

FRAME_TIMEOUT: Final = 30.0
"""Default for the seconds from a frame's first byte to its last: 64 MiB at 20 Mbit/s."""

STALL_TIMEOUT: Final = 60.0
"""Default for the seconds after which the server closes the connection of a client that reads none of its replies."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds from a connection to the end of its TLS handshake."""

HANDSHAKES_TOGETHER: Final = 1
"""Steps of TLS handshakes between two visits of all other clients: about half a millisecond. To visit them that often
lengthens the handshakes by some percent."""

TLS_HELLO_MAX: Final = 16 * KIB
"""Maximum length of a client's first message of TLS. OpenSSL takes memory for the announced length, up to 128 KiB.
Clients send some hundred bytes, and up to some KiB with a ticket."""

TLS_CONTROL_MAX: Final = 32 * KIB
"""Maximum bytes that a client sends through TLS without a byte of data: two records, or about 1,200 changes of the key,
which would take the server some milliseconds."""

TLS_LOOK_SECONDS: Final = 60.0
"""Seconds between two looks at the files of the server's certificate."""

DRAIN_TIMEOUT: Final = 5.0
"""Seconds that a stopping server waits for clients to read their last replies."""

DISCARD_BYTES: Final = MIB
"""Bytes of input that the server discards after an error that closes a connection, so that its reply arrives: to close
with unread input resets the connection and loses the reply (RFC 9293, 3.10.4)."""

DISCARD_TIMEOUT: Final = 1.0
"""Seconds that the server waits for such input."""

TTL_MAX: Final = 2**53
"""Maximum milliseconds of a time to live: about 285,000 years, and an exact number in every language."""

CLOCK_MAX: Final = 2**53
"""Maximum time that a clock may return, in milliseconds since 1970: like `TTL_MAX`, exact in every language."""

SCAN_COUNT: Final = 1_000
"""Keys that one slice of a scan visits, unless the client names another number."""

SCAN_COUNT_MAX: Final = 10_000
"""Maximum keys that one slice of a scan visits: some milliseconds of work."""

PLACE_KEYS_MAX: Final = 10_000
"""Maximum keys with the same position in the order of scans, a cursor of 53 bits. A slice never separates them, so it
may return this many keys more than its count. Only forged keys, at 2**21 attempts each, reach this limit; a write of
one more fails."""

CLEAR_PREFIX_SLICE: Final = 1_000
"""Keys that one slice of CLEAR_PREFIX visits."""

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
"""The range of INCR: signed 64-bit integers, as in Redis."""

QUEUES_MAX: Final = 10_000
"""Maximum queues of a store. At this number, a new queue replaces the empty queue without settings that is unused for
longest."""

QUEUE_NAME_MAX: Final = 255
"""Maximum bytes of the name of a queue, of a group, and of the unique name of a message."""

PRIORITY_MAX: Final = 2**32 - 1
"""The priority that TAKE takes last. 0 comes first."""

GROUP_PRIORITIES_MAX: Final = 64
"""Maximum priorities of the messages that a group has at once, if PERGROUP limits its leases: the end of a lease may
make messages of each ready."""

PRIORITY_DEFAULT: Final = 1_000
"""The priority of a message without one: there is room on both sides."""

DELAY_MAX: Final = 366 * 24 * 3_600_000
"""Maximum milliseconds of a delay, of a backoff and of the age of a message: a leap year."""

LEASE_MAX: Final = 7 * 24 * 3_600_000
"""Maximum milliseconds of a lease: a week. A worker extends its lease, so that no lease must be long."""

LEASES_KEPT_MAX: Final = 100_000
"""Maximum leases whose ends one forward jump of the clock moves: a second or two of work."""

LEASE_DEFAULT: Final = 60_000
"""Milliseconds of a lease for which neither TAKE nor the message nor the queue has a time."""

ATTEMPTS_MAX: Final = 1_000_000
"""Maximum of the setting for the attempts of a message."""

ATTEMPTS_DEFAULT: Final = 20
"""Default for the attempts of a message before it is dead."""

BACKOFF_DEFAULT: Final = 1_000
BACKOFF_FACTOR_DEFAULT: Final = 2
BACKOFF_MAX_DEFAULT: Final = 3_600_000
"""Default for the milliseconds before the second attempt, for the factor between attempts, and for the maximum
milliseconds: 20 attempts take half a day."""

BACKOFF_FACTOR_MAX: Final = 100
"""Maximum factor between the backoffs of two attempts."""

DEAD_DEFAULT: Final = 100_000
"""Default for the dead messages that a queue keeps. At this number, the next one replaces the oldest."""

QUEUE_BYTES_DEFAULT: Final = 1024 * MIB
"""Default for the maximum bytes of the bodies of a queue, dead messages included."""

REASON_MAX: Final = KIB
"""Maximum bytes of the reason of a NACK."""

TAKE_MAX: Final = 1_000
"""Maximum messages that one command puts, takes, names or examines, and maximum queues of TAKE_ANY: some tens of
milliseconds."""

TAKE_BYTES: Final = MIB
"""Bytes of bodies at which TAKE and PEEK return no further message. One message may exceed it."""

MESSAGE_HEAD_MAX: Final = 700
"""Maximum bytes of a message in the reply to TAKE or TAKE_ANY, without its body: a queue, a group, seven numbers, and
the lengths of all strings."""

STEPS_PER_TAKE: Final = 1_000
"""Messages that one TAKE may find expired or without attempts left, besides those that it returns. The next TAKE
continues."""

SWEPT_PER_COMMAND: Final = 64
"""Expired messages of a queue that one command on the queue removes."""

WAIT_MAX: Final = 20_000
"""Maximum milliseconds that one TAKE waits for messages, as in SQS. Clients repeat it: a server that stops, or a
connection that a firewall has cut, is noticed soon."""

WAITERS_MAX: Final = 20_000
"""Maximum TAKE commands that wait for messages in a store. A TAKE_ANY counts as many as it names queues: that bounds
their memory to some tens of MiB. A connection has at most one, because its commands wait for each other."""

BACKUPS_KEPT_MAX: Final = 1_000
"""Maximum backups of one name that BACKUP can keep."""

PORT: Final = 6555
"""The default port, as in the article on which the native protocol is based."""

DEFAULT_URL: Final = f"cairn://127.0.0.1:{PORT}"
"""The default address of clients."""

DEFAULT_USER: Final = b"default"
"""The user of a client that names none, as in Redis."""

UNIX_PATH_MAX: Final = 107 if sys.platform == "linux" else 103
"""Bytes in the path of a Unix socket (the system's sun_path, without its null character)."""

CREDENTIALS_MAX: Final = 1_000
"""Maximum bytes of a user and a secret together: AUTH must fit into a frame of 1 KiB, the maximum before a login."""

CLIENT_TIMEOUT: Final = 5.0
"""Default for the seconds that a client waits for a reply."""

CONNECT_TIMEOUT: Final = 5.0
"""Default for the seconds that a client waits for a connection to one address."""

CLIENT_ATTEMPTS: Final = 4
"""Default for the attempts of a call that is safe to repeat, the first one included."""

BACKUP_STALL_TIMEOUT: Final = 300.0
"""Seconds without progress of a server's backup after which a waiting client gives up."""

CLIENT_IN_FLIGHT_MAX: Final = 10_000
"""Maximum calls of one asyncio connection without reply; further callers wait."""

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
"""Maximum addresses of one host name that a client tries; each gets its share of the time."""

LOOKUPS_MAX: Final = 32
"""Maximum concurrent name lookups of a process. The system cannot stop a lookup, so an unresponsive name server blocks
one thread per name until the system's own timeout."""

REPLICAS: Final = 3
"""Hosts that store the log of a cluster. A committed write is on a majority of them."""

SCRIPTS_MAX: Final = 10_000
"""Maximum scripts of a server's cache for EVALSHA; it removes the oldest ones."""

SCRIPTS_BYTES_MAX: Final = 16 * MIB
"""Maximum bytes of the sources of all scripts of that cache. The largest script of the known job queues has 40 KB."""

SCRIPT_SOURCE_MAX: Final = MIB
"""Maximum bytes of the source of a script. To compile it takes some tenths of a second."""

SCRIPT_BRANCHES_MAX: Final = 5_000
"""Maximum words `or`, `and`, `elseif` and `break` of the source of a script. Lua compiles a chain of n of them in n
times n steps."""

SCRIPT_COMPILED_MAX: Final = 1_000
"""Maximum scripts that the interpreter keeps compiled."""

SCRIPT_MEMORY_MAX: Final = 160 * MIB
"""Default for the maximum bytes of memory of a script: a value of the maximum length, and a changed copy of it."""

SCRIPT_MEMORY_LEAST: Final = 4 * MIB
"""The least maximum of that memory: the libraries and a short script need less than half of it."""

SCRIPT_PATTERN_MAX: Final = 4 * KIB
"""Maximum bytes of a pattern of string.find and its relatives. Lua needs some hundred bytes of stack for each item."""

SCRIPT_ERROR_MAX: Final = 64 * KIB
"""Maximum bytes of the text of a script's error; the rest is cut off."""

SCRIPT_STEPS_MAX: Final = 500_000_000
"""Default for the maximum steps of a script, in instructions of Lua: about ten seconds."""

SCRIPT_STEPS_PER_SECOND: Final = 50_000_000
"""Steps that a second of a script costs at least: about the instructions that Lua executes in it."""

SCRIPT_NESTING_MAX: Final = 128
"""Maximum nested tables of a script's reply."""

SCRIPT_REPLY_BYTES_MAX: Final = FRAME_MAX
"""Maximum bytes of the strings of a script's reply."""

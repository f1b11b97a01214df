"""The failure codes: one code for each way in which a command can fail.

On the native protocol, the message of a failure begins with its code. A missing key is no failure: the article has
fixed its message. The session (does the connection stay open?), the protocol (which header bit?), the clients (which
error class, and may they repeat the call?) and docs/protocol.md use this table.
"""

import enum
from typing import Final

from cairnkv.records import record

__all__ = ["CODES", "Code", "Fault"]


class Fault(enum.Enum):
    """The party that must change something to prevent the failure. US is cairnkv itself."""

    CALLER = "caller"
    PEER = "peer"
    SERVER = "server"
    US = "us"


@record
class Code:
    """One failure code.

    name: the beginning of the message.
    fault: the party at fault.
    executed: False if the command certainly changed nothing, None if that is unknown.
    closes: whether the server closes the connection after this failure, and discards its input.
    passing: whether the same command may succeed later.
    elsewhere: whether another node of the cluster may execute the command. Never True if the outcome is unknown.
    meaning: one sentence for the protocol page.
    """

    name: str
    fault: Fault
    meaning: str
    executed: bool | None = False
    closes: bool = False
    passing: bool = False
    elsewhere: bool = False


BADFRAME = Code(
    "BADFRAME",
    Fault.PEER,
    "The end of the frame is unknown: numbers 4 to 15 are not assigned to commands.",
    closes=True,
)
TOOBIG = Code(
    "TOOBIG",
    Fault.CALLER,
    "A declared length or argument count exceeds its limit. The server reads no further.",
    closes=True,
)
NOCOMMAND = Code("NOCOMMAND", Fault.CALLER, "The server does not know this command number, which is 16 or above.")
BADFLAG = Code("BADFLAG", Fault.CALLER, "The header has a flag that the server does not know.")
BADARGS = Code("BADARGS", Fault.CALLER, "The arguments do not fit the grammar of the command.")
BADKEY = Code("BADKEY", Fault.CALLER, "A key is empty or longer than 65,535 bytes.")
NOTINT = Code("NOTINT", Fault.CALLER, "INCR of a value that is not a decimal integer of 64 signed bits.")
OVERFLOW = Code(
    "OVERFLOW", Fault.CALLER, "The sum of INCR exceeds 64 signed bits, or the sum of INCR_FLOAT is not finite."
)
NOTFLOAT = Code("NOTFLOAT", Fault.CALLER, "The value or the amount of INCR_FLOAT is not a decimal number.")
TOOLONG = Code("TOOLONG", Fault.CALLER, "The value would exceed the maximum length of a value.")
COLLISION = Code(
    "COLLISION",
    Fault.CALLER,
    "10,000 keys already share the hash of the key. Only forged keys do that. Use another key.",
)
BIGREPLY = Code(
    "BIGREPLY",
    Fault.CALLER,
    "The reply would exceed the frame limit, or its values exceed the memory for the values of one command.",
)
NOQUEUE = Code("NOQUEUE", Fault.CALLER, "The queue does not exist. The first PUT or QUEUE_SET makes it.")
QUEUEFULL = Code(
    "QUEUEFULL",
    Fault.SERVER,
    "The queue has the maximum of messages or bytes that QUEUE_SET allows, or the store has the maximum of queues. "
    "TAKE and ACK continue.",
    passing=True,
)
QUEUEBUSY = Code(
    "QUEUEBUSY",
    Fault.SERVER,
    "The queue has messages. QUEUE_DROP, and QUEUE_SET of the limit per group, need an empty queue.",
    passing=True,
)
STALE = Code(
    "STALE",
    Fault.SERVER,
    "A lease in TOGETHER, or in a transaction, is not the newest lease of its message. Nothing is executed.",
)
CROWDED = Code(
    "CROWDED",
    Fault.SERVER,
    "Too many TAKE commands wait for messages. Without WAIT, the command does not wait.",
    passing=True,
)
FULL = Code(
    "FULL",
    Fault.SERVER,
    "The store has reached its memory limit and can evict nothing, or the system has no memory left. Reads and "
    "deletes continue.",
    passing=True,
)
DISKFULL = Code(
    "DISKFULL",
    Fault.SERVER,
    "The disk, or the part of it that the store may use, is nearly full. Reads and deletes continue.",
    passing=True,
    elsewhere=True,
)
BUSY = Code(
    "BUSY",
    Fault.SERVER,
    "Too many connections, or too many bytes of unfinished frames on all connections.",
    closes=True,
    passing=True,
    elsewhere=True,
)
SCRIPTBUSY = Code(
    "SCRIPTBUSY",
    Fault.SERVER,
    "A script runs for longer than the server allows. Until it ends, the server executes only PING and INFO.",
    passing=True,
    elsewhere=True,
)
TIMEOUT = Code(
    "TIMEOUT",
    Fault.PEER,
    "A frame was not completed in time, or the connection was idle for too long.",
    closes=True,
    passing=True,
)
NOAUTH = Code(
    "NOAUTH",
    Fault.CALLER,
    "The client is not logged in, and the server requires that. Nothing is executed.",
)
WRONGPASS = Code(
    "WRONGPASS", Fault.CALLER, "AUTH names no enabled user, or the secret is wrong. The login does not change."
)
NOPERM = Code("NOPERM", Fault.CALLER, "The user has no right for the command, or for a key that it names.")
NEEDTLS = Code(
    "NEEDTLS",
    Fault.CALLER,
    "The server takes no plain text from this address. Connect with TLS.",
    closes=True,
)
UNDONE = Code(
    "UNDONE",
    Fault.SERVER,
    "The write could not be committed, or the reply would have shown such a write. The write was undone.",
    passing=True,
)
RECOVERING = Code(
    "RECOVERING",
    Fault.SERVER,
    "A write to the disk failed. Until the store is open again, the server refuses writes, and reads of keys whose "
    "last write has an unknown outcome. Other reads continue.",
    passing=True,
    elsewhere=True,
)
READONLY = Code(
    "READONLY",
    Fault.SERVER,
    "The disk failed permanently. The server refuses writes until it restarts. Reads continue.",
    elsewhere=True,
)
LOADING = Code(
    "LOADING",
    Fault.SERVER,
    "The server loads its store from the disk. Until then it executes only INFO.",
    passing=True,
    elsewhere=True,
)
NOQUORUM = Code(
    "NOQUORUM",
    Fault.SERVER,
    "The log of the cluster has no quorum, or this node cannot reach it. Local reads continue.",
    passing=True,
    elsewhere=True,
)
LOGFULL = Code(
    "LOGFULL",
    Fault.SERVER,
    "The log of the cluster is nearly full. It takes no writes until a snapshot frees space. Reads and deletes "
    "continue.",
    passing=True,
)
CLOCK = Code(
    "CLOCK",
    Fault.SERVER,
    "The clock of this node differs from the other nodes by more than a second. The node proposes no writes. Reads "
    "continue.",
    passing=True,
    elsewhere=True,
)
STOPPED = Code(
    "STOPPED",
    Fault.SERVER,
    "This node has left its cluster because of an error that INFO shows. Other nodes continue.",
    elsewhere=True,
)
UNREADABLE = Code(
    "UNREADABLE",
    Fault.SERVER,
    "The value could not be read from the disk. The server's log has the details.",
    elsewhere=True,
)
UNKNOWN = Code(
    "UNKNOWN",
    Fault.SERVER,
    "The commit failed in a way that leaves the outcome of the write unknown.",
    executed=None,
)
NOBACKUP = Code(
    "NOBACKUP",
    Fault.SERVER,
    "The server makes no backups: its store is in memory, or it has no backup directory.",
)
UNDERWAY = Code(
    "UNDERWAY", Fault.SERVER, "Another backup is in progress. A server makes one backup at a time.", passing=True
)
INTERNAL = Code(
    "INTERNAL",
    Fault.US,
    "A bug in cairnkv. The server's log has the details.",
    executed=None,
    closes=True,
)

CODES: Final = {code.name: code for code in list(globals().values()) if isinstance(code, Code)}
"""Each code by its name."""

"""The failure codes: every way in which a command can fail, in one table.

A failure's message on the article's wire begins with its code, except for a key that is not there, which
is no failure of anything and whose message the article's published code has fixed. From this table draw
the session (does the connection survive?), the wire (which header bit?), the clients (which error class,
and may the call be repeated?) and docs/protocol.md.
"""

import enum

from cairnkv.records import record


class Fault(enum.Enum):
    """Who has to change something so that it does not happen again."""

    CALLER = "caller"
    PEER = "peer"
    SERVER = "server"
    US = "us"


@record
class Code:
    """One failure code.

    name: what the message begins with.
    fault: who is at fault.
    executed: False when the command certainly changed nothing, None when nobody can tell.
    closes: True when the connection ends behind this failure, its input discarded.
    passing: True when the same command may succeed later, unchanged.
    elsewhere: True when it is for want of something that another node of the cluster may have. Never where the outcome
    is unknown.
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
    "The frame cannot be delimited: a command number from 4 to 15, which nobody has assigned.",
    closes=True,
)
TOOBIG = Code(
    "TOOBIG",
    Fault.CALLER,
    "A declared length or argument count is over its limit; refused from the declaration alone.",
    closes=True,
)
NOCOMMAND = Code("NOCOMMAND", Fault.CALLER, "A command number of 16 or above that this server does not know.")
BADFLAG = Code("BADFLAG", Fault.CALLER, "The header has a flag that this server does not know.")
BADARGS = Code("BADARGS", Fault.CALLER, "The arguments do not fit the command's grammar.")
BADKEY = Code("BADKEY", Fault.CALLER, "A key is empty or longer than 65,535 bytes.")
NOTINT = Code("NOTINT", Fault.CALLER, "INCR of a value that is not a decimal integer of 64 signed bits.")
OVERFLOW = Code("OVERFLOW", Fault.CALLER, "INCR beyond 64 signed bits, or INCR_FLOAT beyond any number.")
NOTFLOAT = Code("NOTFLOAT", Fault.CALLER, "INCR_FLOAT of a value, or by an amount, that is no decimal number.")
TOOLONG = Code("TOOLONG", Fault.CALLER, "The value would become longer than a value may be.")
COLLISION = Code(
    "COLLISION",
    Fault.CALLER,
    "10,000 keys already share the key's place in the order of scans; only forged keys do so. Use another key.",
)
BIGREPLY = Code(
    "BIGREPLY",
    Fault.CALLER,
    "The reply would be over the frame limit, or the values it needs are more than may be in memory together.",
)
FULL = Code(
    "FULL",
    Fault.SERVER,
    "The memory limit is reached, and there is nothing that may go to make room; or the system gave no memory for the "
    "command. Reads and CLEAR go on.",
    passing=True,
)
DISKFULL = Code(
    "DISKFULL",
    Fault.SERVER,
    "The disk, or what this store may have of it, is nearly full, and this server refuses what needs more. "
    "Reads and CLEAR go on.",
    passing=True,
    elsewhere=True,
)
BUSY = Code(
    "BUSY",
    Fault.SERVER,
    "Too many connections, or too many bytes of unfinished frames over all connections.",
    closes=True,
    passing=True,
    elsewhere=True,
)
TIMEOUT = Code(
    "TIMEOUT",
    Fault.PEER,
    "A frame that was begun was not finished in time, or the connection said nothing for too long.",
    closes=True,
    passing=True,
)
NOAUTH = Code(
    "NOAUTH",
    Fault.CALLER,
    "This server wants a password, which can only be said on the Redis wire so far. Nothing is executed on this one.",
)
UNDONE = Code(
    "UNDONE",
    Fault.SERVER,
    "The log refused the write, or one that this reply would have shown; all of it was taken back.",
    passing=True,
)
RECOVERING = Code(
    "RECOVERING",
    Fault.SERVER,
    "A write to the disk has failed, and until the store is opened there anew this server takes no writes, and shows "
    "nothing of what an unknown write may have changed. Other reads go on.",
    passing=True,
    elsewhere=True,
)
READONLY = Code(
    "READONLY",
    Fault.SERVER,
    "The disk has failed in a way that this server does not get over, so it takes no writes until it is started anew. "
    "Reads go on.",
    elsewhere=True,
)
LOADING = Code(
    "LOADING",
    Fault.SERVER,
    "The server is reading what it has on disk, and executes nothing but INFO before it has all of it.",
    passing=True,
    elsewhere=True,
)
NOQUORUM = Code(
    "NOQUORUM",
    Fault.SERVER,
    "The log of this cluster has no majority of its machines, or this node cannot reach it. Local reads go on.",
    passing=True,
    elsewhere=True,
)
LOGFULL = Code(
    "LOGFULL",
    Fault.SERVER,
    "The cluster's log is nearly full, and takes no writes before a snapshot has made room. Reads and CLEAR go on.",
    passing=True,
)
CLOCK = Code(
    "CLOCK",
    Fault.SERVER,
    "This node's clock is off from the other nodes' by more than a second, so it proposes no writes. Reads go on.",
    passing=True,
    elsewhere=True,
)
STOPPED = Code(
    "STOPPED",
    Fault.SERVER,
    "This node takes no part in its cluster any more, for a reason that it does not get over; INFO says which. "
    "Other nodes go on.",
    elsewhere=True,
)
UNREADABLE = Code(
    "UNREADABLE",
    Fault.SERVER,
    "A value that is on the disk only could not be read from there; the server's log has the details.",
    elsewhere=True,
)
UNKNOWN = Code(
    "UNKNOWN",
    Fault.SERVER,
    "The log failed in a way that does not tell whether the write will be there afterwards.",
    executed=None,
)
NOBACKUP = Code(
    "NOBACKUP",
    Fault.SERVER,
    "This server makes no backups: its store is in memory only, or it was given no directory for them.",
)
UNDERWAY = Code("UNDERWAY", Fault.SERVER, "A backup is being made, and one is made at a time.", passing=True)
INTERNAL = Code(
    "INTERNAL",
    Fault.US,
    "A fault of cairnkv itself; its log has the details.",
    executed=None,
    closes=True,
)

CODES = {
    code.name: code
    for code in (
        BADFRAME,
        TOOBIG,
        NOCOMMAND,
        BADFLAG,
        BADARGS,
        BADKEY,
        NOTINT,
        OVERFLOW,
        NOTFLOAT,
        TOOLONG,
        COLLISION,
        BIGREPLY,
        FULL,
        DISKFULL,
        BUSY,
        TIMEOUT,
        NOAUTH,
        UNDONE,
        RECOVERING,
        READONLY,
        LOADING,
        NOQUORUM,
        LOGFULL,
        CLOCK,
        STOPPED,
        UNREADABLE,
        UNKNOWN,
        NOBACKUP,
        UNDERWAY,
        INTERNAL,
    )
}
"""Every code by its name."""

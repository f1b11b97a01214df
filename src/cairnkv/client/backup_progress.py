"""Follows a server's backup in the replies to INFO until the backup is complete.

Sans-IO: times are arguments. Out of scope: starting the backup and sending INFO (`sync`, `aio.client`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from cairnkv.errors import OutcomeUnknown, Refused
from cairnkv.limits import BACKUP_STALL_TIMEOUT

if TYPE_CHECKING:
    from cairnkv.storage import BackupResult

POLL_SECONDS: Final = 0.1
"""Seconds between two INFO commands."""


class Watch:
    """A running backup of a server."""

    def __init__(self, job: int, now: float) -> None:
        self._job = job
        self._done = -1
        self._progress = now

    def made(self, facts: Mapping[str, str | int] | None, now: float) -> "BackupResult | None":
        """Return the backup if INFO shows it as complete; None while it runs, or if INFO had no reply.

        Raises `Refused` if the backup failed, `OutcomeUnknown` if INFO no longer shows its progress.
        """
        if facts is None or (facts.get("backup_job") == self._job and facts["backup_state"] == "running"):
            done = -1 if facts is None else int(facts["backup_bytes_done"])
            if done > self._done:
                self._done, self._progress = done, now
            elif now >= self._progress + BACKUP_STALL_TIMEOUT:
                raise OutcomeUnknown(f"no progress of the backup in {BACKUP_STALL_TIMEOUT:g} s; INFO tells how it ends")
            return None
        if facts.get("backup_job") != self._job:
            raise OutcomeUnknown("the server restarted, or began another backup; list the backup directory")
        if facts["backup_state"] != "done":
            raise Refused(f"the backup has failed: {facts['backup_error']}")
        from pathlib import Path  # here: every client imports this module

        from cairnkv.storage import BackupResult

        ended = int(facts["backup_last_ms"])
        return BackupResult(
            path=Path(str(facts["backup_made"])),
            size=int(facts["backup_bytes"]),
            new=int(facts["backup_bytes_new"]),
            began_ms=ended - 1000 * int(facts["backup_seconds"]),
            ended_ms=ended,
        )

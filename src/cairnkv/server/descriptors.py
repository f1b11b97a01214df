"""File descriptors: how many the server keeps for itself, and how many are left for clients.

Invariants: the store, backups, the cluster and clients that are refused have their descriptors whatever clients do.
Where the system allows fewer than all of these need, `max_connections` is lowered to what fits.
"""

import dataclasses
import resource
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.log.disk.engine import OTHER_FILES as ROCKSDB_OTHER_FILES
from cairnkv.log.disk.engine import open_tables
from cairnkv.server.loop import ACCEPTED_TOGETHER
from cairnkv.server.settings import Settings

OWN: Final = 24
"""Descriptors of the process itself: standard streams, event loop, listening sockets, modules that are being loaded."""

BACKUP: Final = 8
"""Descriptors of a backup under way."""

NATS: Final = 16
"""Descriptors of a node's connections to NATS, and of a snapshot that it makes or reads."""

REFUSED_MAX: Final = 64
"""Refused clients that may stay connected at once until they have read why."""


PLENTY: Final = 2**31
"""More descriptors than anything here would use."""


def refused_at_once() -> int:
    """Return how many refused clients may stay connected at once."""
    return _refused_of(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def connections_that_fit(settings: Settings) -> int:
    """Return how many clients the system has descriptors for, at most as many as the settings want.

    Raises the soft limit of this process as far as that needs. Raises `OptionError` where there is none for clients.
    """
    allowed = _allow(settings.max_connections + _kept(settings, PLENTY))
    fit = allowed - _kept(settings, allowed)
    if fit < 1:
        raise OptionError(
            f"this system allows {allowed:,} open files, and the server itself needs {_kept(settings, allowed):,}: "
            "allow more (ulimit -n, or LimitNOFILE of a systemd unit)"
        )
    return min(fit, settings.max_connections)


def fitted(settings: Settings) -> Settings:
    """Return the settings with no more connections than the system has descriptors for."""
    return dataclasses.replace(settings, max_connections=connections_that_fit(settings))


def _kept(settings: Settings, allowed: int) -> int:
    """Return how many descriptors are not for clients."""
    kept = OWN + _refused_of(allowed) + ACCEPTED_TOGETHER
    if settings.data is not None:
        kept += open_tables(allowed) + ROCKSDB_OTHER_FILES
    if settings.backup_dir is not None:
        kept += BACKUP
    if settings.cluster is not None:
        kept += NATS
    return kept


def _refused_of(allowed: int) -> int:
    return max(1, min(REFUSED_MAX, allowed // 16))


def _allow(wanted: int) -> int:
    """Raise the soft limit to this where it is lower and the hard one allows it; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed

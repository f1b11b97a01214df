"""The budget of file descriptors: those that the server keeps for itself, and those for clients.

Invariants: clients never use the descriptors of the store, backups, the cluster and refused clients. If the system's
limit is too low for all of them, the server lowers `max_connections` to the number that fits.
"""

import resource
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.server.loop import ACCEPTED_TOGETHER
from cairnkv.server.settings import Settings
from cairnkv.storage.rocksdb import OTHER_FILES as ROCKSDB_OTHER_FILES
from cairnkv.storage.rocksdb import open_tables

OWN: Final = 24
"""Descriptors of the process itself: standard streams, event loop, listening sockets, imports of modules."""

BACKUP: Final = 8
"""Descriptors of a running backup."""

NATS: Final = 16
"""Descriptors of a node's connections to NATS, and of a snapshot that the node makes or reads."""

REFUSED_MAX: Final = 64
"""Refused clients that may stay connected at once to read the reason."""


PLENTY: Final = 2**31
"""More descriptors than any part of the server uses."""


def refused_at_once() -> int:
    """Return the number of refused clients that may stay connected at once."""
    return _refused_of(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def connections_that_fit(settings: Settings) -> int:
    """Return the number of clients for which the system has descriptors, at most `max_connections` of the settings.

    Raises the soft limit of this process if necessary. Raises `OptionError` if no descriptor is left for clients.
    """
    allowed = _allow(settings.max_connections + _kept(settings, PLENTY))
    fit = allowed - _kept(settings, allowed)
    if fit < 1:
        raise OptionError(
            f"this system allows {allowed:,} open files, and the server itself needs {_kept(settings, allowed):,}: "
            "raise the limit (ulimit -n, or LimitNOFILE of a systemd unit)"
        )
    return min(fit, settings.max_connections)


def _kept(settings: Settings, allowed: int) -> int:
    """Return the number of descriptors that the server keeps for itself."""
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
    """Raise the soft limit to `wanted` as far as the hard limit allows; return the resulting limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed

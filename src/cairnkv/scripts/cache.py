"""The sources of scripts by their SHA-1, for EVALSHA."""

import hashlib

from cairnkv.limits import SCRIPTS_BYTES_MAX, SCRIPTS_MAX


class ScriptCache:
    """Sources by SHA-1 in hexadecimal digits. With too many of them, or too many bytes, it removes the oldest ones."""

    def __init__(self, count_max: int = SCRIPTS_MAX, bytes_max: int = SCRIPTS_BYTES_MAX) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._sources: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._sources)

    def __contains__(self, sha1: bytes) -> bool:
        """Return whether a script is in the cache; digits in lower case, as in SCRIPT EXISTS of Redis."""
        return sha1 in self._sources

    @property
    def used_bytes(self) -> int:
        """The bytes of all sources."""
        return self._bytes

    def get(self, sha1: bytes) -> bytes | None:
        """Return the source of a script, or None. The digits may be in upper case."""
        return self._sources.get(sha1) or self._sources.get(sha1.lower())

    def add(self, source: bytes) -> bytes:
        """Keep a source. Return its SHA-1."""
        sha1 = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        if sha1 not in self._sources:
            self._sources[sha1] = source
            self._bytes += len(source)
            while len(self._sources) > self._count_max or (self._bytes > self._bytes_max and len(self._sources) > 1):
                self._bytes -= len(self._sources.pop(next(iter(self._sources))))
        return sha1

    def clear(self) -> None:
        """Remove all scripts."""
        self._sources.clear()
        self._bytes = 0

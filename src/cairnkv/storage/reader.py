"""The reader: threads that read cold values from RocksDB.

Invariants: requests that were made together are read together, in calls that release the GIL and return at most
`READ_BYTES` each, so no call holds the GIL for long. Each request is answered once, with the value or an error, also
when the reader ends. Requests wait while the directory is being reopened.

Out of scope: changes of the entry after the request (the value cache).
"""

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from cairnkv.own_threads import OwnThread
from cairnkv.storage.record_format import PART_BYTES, Parts, parsed_value, part_key, record_key
from cairnkv.storage.rocksdb import RocksDB

READERS: Final = 2
"""Number of threads: while one creates objects, the other waits for the disk."""

READ_BYTES: Final = 1024 * 1024
"""Approximate bytes of values that one call of RocksDB returns. Creating their objects holds the GIL for some tenths
of a millisecond."""

READ_KEYS: Final = 256
"""Maximum records that one call reads."""

Answer: TypeAlias = bytes | Exception


class Request(NamedTuple):
    """A value to read. length: in bytes. on_value: called with the value or an error."""

    db: int
    key: bytes
    length: int
    on_value: Callable[[Answer], None]


class Reader:
    """A queue of requests, and the threads that answer them. The value cache bounds the queue."""

    def __init__(self, rocksdb: RocksDB, found: Callable[[Sequence[tuple[Request, Answer]]], None]) -> None:
        """found: called in one of the threads with answers."""
        self._rocksdb: RocksDB | None = rocksdb
        self._reading = 0  # number of threads in a call of RocksDB
        self._found = found
        self._condition = threading.Condition()
        self._queue: collections.deque[Request] = collections.deque()
        self._ending = False
        self._useless: str | None = None  # the reason, if the data on disk is useless
        self._threads: list[threading.Thread] = []
        self.calls = 0
        """Number of calls of RocksDB."""

    def ask(self, request: Request) -> None:
        """Queue a request. Raises `OSError` after `end`."""
        with self._condition:
            if self._ending:
                raise OSError("the store is closed")
            self._queue.append(request)
            if len(self._queue) == 1:  # threads wait only if the queue was empty
                self._condition.notify()
        if not self._threads:  # started by the first request
            self._threads = [OwnThread(self._read_all, f"cairnkv reader {number}") for number in range(READERS)]
            for thread in self._threads:
                thread.start()

    def end(self) -> None:
        """Answer all requests, and end the threads. Blocks."""
        with self._condition:
            self._ending = True
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        left = [(request, OSError("the store is closed")) for request in self._queue]
        self._queue.clear()
        if left:
            self._found(left)

    def pause(self) -> None:
        """Stop reading until `resume`, since RocksDB is closed next. Blocks until current reads have ended."""
        with self._condition:
            self._rocksdb = None
            self._condition.wait_for(lambda: not self._reading)

    def give_up(self, why: str) -> None:
        """Answer all requests with an error from now on, since data on disk is missing."""
        self._useless = why

    def resume(self, rocksdb: RocksDB) -> None:
        """Continue with the reopened RocksDB."""
        with self._condition:
            self._rocksdb = rocksdb
            self._condition.notify_all()

    # -- in the threads -----------------------------------------------------------------------------------------

    def _read_all(self) -> None:
        while (work := self._next()) is not None:
            rocksdb, requests = work
            answers = self._answers(rocksdb, requests)
            with self._condition:
                self._reading -= 1
                self._condition.notify_all()
            self._found(list(zip(requests, answers, strict=True)))

    def _next(self) -> tuple[RocksDB, list[Request]] | None:
        """Return RocksDB and the requests of the next call; None at the end."""
        with self._condition:
            while (not self._queue or self._rocksdb is None) and not self._ending:
                self._condition.wait()
            if self._rocksdb is None or not self._queue:
                return None
            requests: list[Request] = []
            size = 0
            while self._queue and size < READ_BYTES and len(requests) < READ_KEYS:
                requests.append(self._queue.popleft())
                size += min(requests[-1].length, PART_BYTES)  # the record of a longer value is short
            if self._queue:
                self._condition.notify()
            self._reading += 1
            return self._rocksdb, requests

    def _answers(self, rocksdb: RocksDB, requests: Sequence[Request]) -> list[Answer]:
        if self._useless is not None:
            return [OSError(self._useless)] * len(requests)
        try:
            records = self._read(rocksdb, [record_key(request.db, request.key) for request in requests])
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._answers(rocksdb, [request])]
        return [self._answer(rocksdb, request, record) for request, record in zip(requests, records, strict=True)]

    def _answer(self, rocksdb: RocksDB, request: Request, record: bytes | None) -> Answer:
        try:
            if record is None:
                raise ValueError("its record is missing")
            value, _ = parsed_value(record)
            if isinstance(value, Parts):
                value = self._joined(rocksdb, value)
            if len(value) != request.length:
                raise ValueError(f"its record has {len(value):,} of {request.length:,} bytes")
            return value
        except Exception as error:  # RocksDB raises plain `Exception`
            return error

    def _joined(self, rocksdb: RocksDB, parts: Parts) -> bytes:
        joined: list[bytes] = []
        together = READ_BYTES // PART_BYTES
        for first in range(0, parts.part_count, together):
            keys = [part_key(parts.number, index) for index in range(first, min(first + together, parts.part_count))]
            for part in self._read(rocksdb, keys):
                if part is None:
                    raise ValueError(f"part {len(joined)} is missing")
                joined.append(part)
        return b"".join(joined)  # releases the GIL for a long result

    def _read(self, rocksdb: RocksDB, keys: Sequence[bytes]) -> list[bytes | None]:
        self.calls += 1
        return rocksdb.read(keys)

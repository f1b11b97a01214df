"""The reader: threads that read single values back from the engine, for a store whose memory is a cache of it.

What always holds: what is asked for together is read together, up to a bound, in calls that let the interpreter go and
give back no more than `READ_BYTES` each, so that none holds it for long. Each request is answered once, with the value
or with what was wrong; also those that are left when the reader ends. While the directory is opened anew they wait.

Not for whether the value is still wanted, or still what the entry has: whoever asked sees to that.
"""

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from cairnkv.own_threads import OwnThread
from cairnkv.storage.record_format import PART_BYTES, Parts, parsed_value, part_key, record_key
from cairnkv.storage.rocksdb import RocksDB

READERS: Final = 2
"""Threads: while one makes objects of what it has read, the other waits for the disk."""

READ_BYTES: Final = 1024 * 1024
"""Bytes of values that one call of the engine gives back, about: to make objects of them takes some tenths of a
millisecond, in which the interpreter is held."""

READ_KEYS: Final = 256
"""Records that one call asks for."""

Answer: TypeAlias = bytes | Exception


class Request(NamedTuple):
    """A value that is wanted: where it is, how long it is in bytes, and who is told."""

    db: int
    key: bytes
    length: int
    told: Callable[[Answer], None]


class Reader:
    """A queue, and the threads that empty it. Whoever asks keeps it bounded (`cairnkv.store.value_cache`)."""

    def __init__(self, engine: RocksDB, found: Callable[[Sequence[tuple[Request, Answer]]], None]) -> None:
        """found: called in one of the threads with what has become of some requests."""
        self._engine: RocksDB | None = engine
        self._reading = 0  # how many threads ask it
        self._found = found
        self._condition = threading.Condition()
        self._queue: collections.deque[Request] = collections.deque()
        self._ending = False
        self._useless: str | None = None  # why what the engine has is of no use
        self._threads: list[threading.Thread] = []
        self.calls = 0
        """How often the engine was asked."""

    def ask(self, request: Request) -> None:
        """Have a value read. Raises `OSError` when the reader has ended."""
        with self._condition:
            if self._ending:
                raise OSError("the store is closed")
            self._queue.append(request)
            if len(self._queue) == 1:  # they wait only where there was none
                self._condition.notify()
        if not self._threads:  # they are there once something is asked for
            self._threads = [OwnThread(self._read_all, f"cairnkv reader {number}") for number in range(READERS)]
            for thread in self._threads:
                thread.start()

    def end(self) -> None:
        """Read what was asked for, and end. Waits for that."""
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
        """Read nothing until there is another engine: this one is closed next. Waits for what is being read."""
        with self._condition:
            self._engine = None
            self._condition.wait_for(lambda: not self._reading)

    def give_up(self, why: str) -> None:
        """From now on the disk has other values than those that were here: answer nothing with them."""
        self._useless = why

    def go_on(self, engine: RocksDB) -> None:
        """Read from this one."""
        with self._condition:
            self._engine = engine
            self._condition.notify_all()

    # -- in the threads -----------------------------------------------------------------------------------------

    def _read_all(self) -> None:
        while (work := self._next()) is not None:
            engine, requests = work
            answers = self._answers(engine, requests)
            with self._condition:
                self._reading -= 1
                self._condition.notify_all()
            self._found(list(zip(requests, answers, strict=True)))

    def _next(self) -> tuple[RocksDB, list[Request]] | None:
        """What is read together next, and from where; None: there will be no more."""
        with self._condition:
            while (not self._queue or self._engine is None) and not self._ending:
                self._condition.wait()
            if self._engine is None or not self._queue:
                return None
            requests: list[Request] = []
            size = 0
            while self._queue and size < READ_BYTES and len(requests) < READ_KEYS:
                requests.append(self._queue.popleft())
                size += min(requests[-1].length, PART_BYTES)  # what is longer has only a few bytes in its record
            if self._queue:
                self._condition.notify()
            self._reading += 1
            return self._engine, requests

    def _answers(self, engine: RocksDB, requests: Sequence[Request]) -> list[Answer]:
        if self._useless is not None:
            return [OSError(self._useless)] * len(requests)
        try:
            records = self._read(engine, [record_key(request.db, request.key) for request in requests])
        except Exception as error:
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self._answers(engine, [request])]
        return [self._answer(engine, request, record) for request, record in zip(requests, records, strict=True)]

    def _answer(self, engine: RocksDB, request: Request, record: bytes | None) -> Answer:
        try:
            if record is None:
                raise ValueError("its record is missing")
            value, _ = parsed_value(record)
            if isinstance(value, Parts):
                value = self._joined(engine, value)
            if len(value) != request.length:
                raise ValueError(f"its record has {len(value):,} of {request.length:,} bytes")
            return value
        except Exception as error:  # RocksDB's are of no other class
            return error

    def _joined(self, engine: RocksDB, parts: Parts) -> bytes:
        pieces: list[bytes] = []
        together = READ_BYTES // PART_BYTES
        for first in range(0, parts.pieces, together):
            keys = [part_key(parts.number, index) for index in range(first, min(first + together, parts.pieces))]
            for piece in self._read(engine, keys):
                if piece is None:
                    raise ValueError(f"part {len(pieces)} of it is missing")
                pieces.append(piece)
        return b"".join(pieces)  # lets the interpreter go where it is long

    def _read(self, engine: RocksDB, keys: Sequence[bytes]) -> list[bytes | None]:
        self.calls += 1
        return engine.read(keys)

"""Requests to JetStream with retries, since NATS replaces a failed server within seconds.

Invariants: only temporary errors are retried, for a bounded time. A request without an answer may have been executed,
so the caller must ensure that a repetition is harmless. Cancellation is never lost.

Out of scope: log entries, whose outcomes matter (`proposer`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from nats import errors
from nats.aio.client import Client
from nats.js.errors import APIError, Error, NoStreamResponseError, ServiceUnavailableError

from cairnkv.errors import Unavailable
from cairnkv.replication.nats.connection import ApiError, NoAnswer, text_of

_T = TypeVar("_T")

RETRY_SECONDS: Final = 45.0
"""Maximum seconds of retries. NATS needs about 6 s to elect a leader. If a server is paused and connections to it fill
up with chunks, NATS waits another 10 or 20 s before it closes them (its write_deadline)."""

PAUSE_SECONDS: Final = 0.2
"""Seconds between two attempts."""

NO_ROOM: Final = (10_023, 10_047, 10_077)
"""JetStream's error codes for a full account, disk or stream."""

WRONG_LAST: Final = (10_071, 10_164)
"""JetStream's error codes for a last message of a subject other than expected."""

_NO_PEERS: Final = 10_005
"""JetStream's error code for too few servers for a new stream, as just after their start."""


async def retried(nc: Client, what: str, ask: Callable[[], Awaitable[_T]], seconds: float = RETRY_SECONDS) -> _T:
    """Return the result of a request, with retries.

    what: description of the request, for the error. Raises `Unavailable` after `seconds` or for a permanent error, and
    all exceptions of `ask` that are not from NATS.
    """
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    end = time.monotonic() + seconds
    while True:
        trouble: Exception | None = None
        try:
            if not nc.is_connected and not nc.is_closed:  # nats-py would never complete the request
                raise errors.ConnectionReconnectingError
            answer = await ask()
        except (errors.Error, Error, OSError, NoAnswer, ApiError) as error:
            trouble = error
        if task.cancelling() > cancelled:  # nats-py may lose it: see `ask` in `connection`
            raise asyncio.CancelledError
        if trouble is None:
            return answer
        if not _is_temporary(trouble) or time.monotonic() >= end:
            raise Unavailable(f"{what}: {error_text(trouble)}") from trouble
        await asyncio.sleep(PAUSE_SECONDS)


def error_text(error: Exception) -> str:
    """Return the text of an error of NATS or nats-py."""
    if isinstance(error, NoStreamResponseError):
        return "the stream has no leader"
    if isinstance(error, APIError) and error.description:
        return f"NATS reports {error.description!r}"
    return text_of(error).removeprefix("nats: ")


def _is_temporary(error: Exception) -> bool:
    if isinstance(error, NoAnswer | ApiError):  # they do not tell which are temporary
        return True
    if isinstance(error, ServiceUnavailableError):
        return error.err_code not in NO_ROOM
    if isinstance(error, APIError):
        return error.err_code == _NO_PEERS or isinstance(error, NoStreamResponseError)
    return isinstance(
        error,
        errors.TimeoutError
        | errors.NoRespondersError
        | errors.ConnectionReconnectingError
        | errors.OutboundBufferLimitError
        | errors.StaleConnectionError
        | NoStreamResponseError,
    )

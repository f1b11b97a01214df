"""Requests to JetStream, asked again while nobody can answer: a server that fails is replaced within seconds.

What always holds: only what passes by itself is asked again, and not for ever. A request may have been executed though
nobody said so; whoever asks again has to make sure that this does no harm. Who is cancelled meanwhile, is.

Not for entries of the log, of which it matters what became of each (`proposer`).
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

PATIENCE: Final = 45.0
"""Seconds for which something is asked again. NATS takes some 6 to agree on another leader; where one is paused, and
connections to it fill up with chunks, it waits another 10 or 20 before it lets go of them (its write_deadline)."""

PAUSE_SECONDS: Final = 0.2
"""How long is waited before it is."""

NO_ROOM: Final = (10_023, 10_047, 10_077)
"""Codes of JetStream that say there is no room: for its account, its disk, or the stream."""

WRONG_LAST: Final = (10_071, 10_164)
"""Codes of JetStream that say another message is a subject's last one than was expected, or is about to be."""

_NO_PEERS: Final = 10_005
"""The code of JetStream that says too few servers are there for a new stream, as when they have just begun."""


async def patiently(nc: Client, what: str, ask: Callable[[], Awaitable[_T]], patience: float = PATIENCE) -> _T:
    """What comes of asking, again and again if need be.

    what: is being done, for the error. Raises `Unavailable` with what is wrong, after `patience` or where it does not
    pass, and what `ask` raises that NATS has not said.
    """
    task = asyncio.current_task()
    assert task is not None
    cancelled = task.cancelling()
    end = time.monotonic() + patience
    while True:
        trouble: Exception | None = None
        try:
            if not nc.is_connected and not nc.is_closed:  # nats-py would keep the request's future for ever
                raise errors.ConnectionReconnectingError
            answer = await ask()
        except (errors.Error, Error, OSError, NoAnswer, ApiError) as error:
            trouble = error
        if task.cancelling() > cancelled:  # Python 3.11's `wait_for`, in nats-py, may lose it to what comes just then
            raise asyncio.CancelledError
        if trouble is None:
            return answer
        if not _passes(trouble) or time.monotonic() >= end:
            raise Unavailable(f"{what}: {in_words(trouble)}") from trouble
        await asyncio.sleep(PAUSE_SECONDS)


def in_words(error: Exception) -> str:
    """What NATS, or its client, says."""
    if isinstance(error, NoStreamResponseError):
        return "nobody answers for the stream"
    if isinstance(error, APIError) and error.description:
        return f"NATS says {error.description!r}"
    return text_of(error).removeprefix("nats: ")


def _passes(error: Exception) -> bool:
    if isinstance(error, NoAnswer | ApiError):  # which of those pass nobody says
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

"""Retries: temporary errors are repeated, other errors are raised, and cancellation stops the retry."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from nats import errors
from nats.aio.client import Client
from nats.js.errors import APIError, BadRequestError, ServiceUnavailableError

from cairnkv.errors import Unavailable
from cairnkv.replication.nats import retry
from cairnkv.replication.nats.retry import retried


class Connected(Client):
    """An idle connection."""

    is_connected = True


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.001)


async def asked(*answers: Exception | int, patience: float = 10.0) -> tuple[int, Sequence[Exception | int]]:
    """Return the result of a retried request, and the answers that it did not use."""
    left = list(answers)

    async def ask() -> int:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return await retried(Connected(), "doing it", ask, patience), left


async def test_temporary_error_is_repeated() -> None:
    passing = (
        errors.TimeoutError(),
        errors.NoRespondersError(),
        errors.OutboundBufferLimitError(),
        ServiceUnavailableError(code=503, err_code=10_008, description="temporarily unavailable"),
        APIError(code=400, err_code=10_005, description="no suitable peers for placement"),
    )
    assert await asked(*passing, 7, 8) == (7, [8])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.ConnectionClosedError(), "doing it: connection closed"),
        (BadRequestError(code=400, err_code=10_058, description="in use"), "doing it: NATS reports 'in use'"),
        (
            ServiceUnavailableError(code=503, err_code=10_077, description="maximum bytes exceeded"),
            "doing it: NATS reports 'maximum bytes exceeded'",
        ),
    ],
)
async def test_permanent_error_is_raised_at_once(error: Exception, told: str) -> None:
    with pytest.raises(Unavailable, match=f"^{told}$"):
        await asked(error, 7)


async def test_retries_end_with_the_timeout() -> None:
    with pytest.raises(Unavailable, match="doing it: timeout"):
        await asked(*[errors.TimeoutError()] * 10_000, patience=0.05)


async def test_no_request_is_sent_without_a_connection() -> None:
    async def ask() -> int:
        raise AssertionError("nats-py would wait for ever")

    client = Connected()
    client.is_connected = False
    with pytest.raises(Unavailable, match="doing it: "):
        await retried(client, "doing it", ask, 0.05)


async def test_lost_cancellation_counts() -> None:
    """As if the answer arrives at the same moment."""
    cleaned = []

    async def ask() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        return 1

    async def quick() -> int:
        return 2

    async def work() -> None:
        try:
            await retried(Connected(), "doing it", ask)
        finally:  # which may ask as well
            cleaned.append(await retried(Connected(), "cleaning up", quick))

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [2]

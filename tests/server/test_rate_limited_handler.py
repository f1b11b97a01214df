"""Repeated warnings: one line, and later a count."""

import io
import logging
import time
from collections.abc import Iterator

import pytest

from cairnkv.server.rate_limited_handler import RateLimitedHandler


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


EVERY = 1.0


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(written: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.Logger("test")
    handler = RateLimitedHandler(written, every=EVERY)
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_repeated_warning_is_one_line_and_a_count(log: logging.Logger, written: io.StringIO) -> None:
    for position in range(6_000):
        log.warning("position %d: no entry", position)
    assert written.getvalue() == "position 0: no entry\n"
    until = time.monotonic() + 10.0
    while written.getvalue().count("\n") < 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert written.getvalue().splitlines()[1:] == ["position 5999: no entry (5,999 like this within 1 s)"]


def test_warning_after_the_interval_is_written_at_once(log: logging.Logger, written: io.StringIO) -> None:
    log.warning("no snapshot: %s", "x")
    time.sleep(1.5 * EVERY)
    log.warning("no snapshot: %s", "y")
    assert written.getvalue() == "no snapshot: x\nno snapshot: y\n"


def test_distinct_warnings_are_not_rate_limited(log: logging.Logger, written: io.StringIO) -> None:
    log.warning("one")
    log.warning("two")
    for _ in range(2):
        log.error("three")
        log.info("four")
    assert written.getvalue() == "one\ntwo\nthree\nfour\nthree\nfour\n"


def test_remaining_count_is_written_at_the_end(written: io.StringIO) -> None:
    logger, handler = logging.Logger("test"), RateLimitedHandler(written)
    logger.addHandler(handler)
    logger.warning("%d", 1)
    logger.warning("%d", 2)
    handler.close()
    assert written.getvalue() == "1\n2\n"

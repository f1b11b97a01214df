"""Failed logins and refused commands: delays, the entries of ACL LOG, and their bounds."""

import pytest

from cairnkv.limits import (
    ACCESS_LOG_MAX,
    LOGIN_DELAY_MAX,
    LOGIN_FAILURES_FORGOTTEN,
    LOGIN_FAILURES_FREE,
    LOGIN_FAILURES_KEPT,
)
from cairnkv.session.access.attempts import GROUPED, OBJECT_MAX, AccessLog, FailedLogins
from tests.support.clock import HandClock


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def test_delay_begins_with_the_fourth_failure_and_doubles(clock: HandClock) -> None:
    failed = FailedLogins(clock)
    delays = []
    for _ in range(30):
        delays.append(failed.delay("1.2.3.4", b"app"))
        failed.add("1.2.3.4", b"app")
    assert LOGIN_FAILURES_FREE == 3
    assert delays[:9] == pytest.approx([0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    assert set(delays[9:]) == {LOGIN_DELAY_MAX}


def test_delay_is_that_of_one_address_and_one_user(clock: HandClock) -> None:
    failed = FailedLogins(clock)
    for _ in range(5):
        failed.add("1.2.3.4", b"app")
    assert failed.delay("1.2.3.4", b"app") > 0
    assert failed.delay("1.2.3.5", b"app") == 0
    assert failed.delay("1.2.3.4", b"other") == 0


def test_success_and_time_end_a_delay(clock: HandClock) -> None:
    failed = FailedLogins(clock)
    for name in (b"one", b"two"):
        for _ in range(5):
            failed.add("1.2.3.4", name)
    failed.forget("1.2.3.4", b"one")
    assert failed.delay("1.2.3.4", b"one") == 0
    clock.now += LOGIN_FAILURES_FORGOTTEN - 1
    assert failed.delay("1.2.3.4", b"two") > 0
    clock.now += 1
    assert failed.delay("1.2.3.4", b"two") == 0
    assert failed.add("1.2.3.4", b"two") == 1


def test_number_of_counted_pairs_is_bounded(clock: HandClock) -> None:
    failed = FailedLogins(clock)
    for number in range(LOGIN_FAILURES_KEPT):
        failed.add("1.2.3.4", b"%d" % number)
    failed.add("1.2.3.4", b"0")  # now the newest
    assert len(failed) == LOGIN_FAILURES_KEPT
    failed.add("1.2.3.4", b"one more")
    assert len(failed) == LOGIN_FAILURES_KEPT
    assert failed.count("1.2.3.4", b"0") == 2
    assert failed.count("1.2.3.4", b"1") == 0
    assert failed.count("1.2.3.4", b"2") == 1


def test_equal_events_within_a_minute_are_one_entry(clock: HandClock) -> None:
    log = AccessLog(clock)
    assert log.add("key", "toplevel", b"secret:1", b"app", "addr=a")
    clock.now += GROUPED - 1
    assert not log.add("key", "toplevel", b"secret:1", b"app", "addr=b")
    assert log.add("key", "multi", b"secret:1", b"app", "addr=b")
    clock.now += 1
    assert log.add("key", "toplevel", b"secret:1", b"app", "addr=c")
    newest, other, first = log
    assert (first.number, other.number, newest.number) == (0, 1, 2)
    assert (first.count, first.client, first.updated - first.created) == (2, "addr=b", GROUPED - 1)
    assert (newest.count, newest.client) == (1, "addr=c")
    assert log.counts == {"key": 4}


def test_access_log_is_bounded(clock: HandClock) -> None:
    log = AccessLog(clock)
    for number in range(ACCESS_LOG_MAX + 1):
        log.add("command", "toplevel", b"%d" % number + bytes(1_000), b"u" * 1_000, "")
    entries = list(log)
    assert len(entries) == ACCESS_LOG_MAX
    assert entries[-1].object.startswith(b"1\0")
    assert {len(entry.object) for entry in entries} == {len(entry.user) for entry in entries} == {OBJECT_MAX}
    log.reset()
    assert not list(log)
    assert log.counts["command"] == ACCESS_LOG_MAX + 1, "as in Redis"

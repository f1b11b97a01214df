"""The order in which a client tries the endpoints of its address, at times that a test says."""

import pytest

from cairnkv.client.address import parse
from cairnkv.client.endpoints import FAILED_SECONDS, Endpoints
from cairnkv.commands import CODES


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


A, B, C = ("a", 6555), ("b", 6555), ("c", 6555)


@pytest.fixture
def three() -> Endpoints:
    return Endpoints(parse("cairn://a,b,c/?order=given&timeout=6&connect_timeout=5"))


def test_failed_endpoint_comes_last_for_a_while(three: Endpoints) -> None:
    assert three.in_order(0) == [A, B, C]
    three.add_failure(A, "refused", 0)
    assert three.in_order(1) == [B, C, A]
    three.add_failure(B, "refused", 1)
    assert three.in_order(1) == [C, A, B]
    assert three.in_order(FAILED_SECONDS) == [A, C, B]
    assert three.in_order(FAILED_SECONDS + 1) == [A, B, C]


def test_among_failed_endpoints_the_longest_ago_comes_first(three: Endpoints) -> None:
    for now, endpoint in enumerate([B, A, C]):
        three.add_failure(endpoint, "refused", now)
    assert three.in_order(3) == [B, A, C]
    assert not three.fresh(3)
    three.prefer(A)
    assert three.in_order(3) == [A, B, C]
    assert three.fresh(3)
    assert not three.fresh(3, other_than=A)


def test_last_accepting_endpoint_comes_first(three: Endpoints) -> None:
    three.prefer(B)
    assert three.in_order(0) == [B, C, A]


def test_endpoint_that_is_down_takes_its_share_of_the_timeout(three: Endpoints) -> None:
    left = 6.0
    for untried in (3, 2, 1):
        assert three.timeout(left, untried) == pytest.approx(2.0)
        left -= 2.0
    assert three.timeout(60.0, 3) == 5.0


def test_silent_endpoint_is_kept_only_without_a_better_one(three: Endpoints) -> None:
    assert three.silence(A, 0) == pytest.approx(2.0)
    three.add_failure(B, "refused", 0)
    assert three.silence(A, 0) == pytest.approx(2.0)
    three.add_failure(C, "refused", 0)
    assert three.silence(A, 0) is None
    assert three.silence(A, FAILED_SECONDS) is not None


def test_notifications_change_the_order(three: Endpoints) -> None:
    assert three.other_failures(A, 0) == ""
    three.add_failure(A, "refused", 0)
    three.add_failure(C, "NOQUORUM no majority", 5)
    assert three.other_failures(A, 5) == " (c:6555: NOQUORUM no majority)"
    assert three.all_failures(5) == "a:6555: refused; b:6555: not tried; c:6555: NOQUORUM no majority"
    assert three.other_failures(None, 5 + FAILED_SECONDS) == ""


def test_single_endpoint_needs_no_order() -> None:
    one = Endpoints(parse("cairn://a/?attempts=3"))
    assert (one.several, one.attempts, one.fresh(0)) == (False, 3, False)
    one.add_failure(A, "refused", 0)
    assert one.in_order(0) == [A]
    assert (one.other_failures(A, 0), one.other_failures(None, 0), one.silence(A, 0)) == ("", "", None)


def test_each_further_endpoint_is_one_more_attempt() -> None:
    assert Endpoints(parse("cairn://a,b,c/?attempts=1")).attempts == 3


def test_many_clients_spread_at_first_and_after_the_end_of_a_node() -> None:
    orders = [Endpoints(parse("cairn://a,b,c")).in_order(0) for _ in range(300)]
    for order in orders:
        assert sorted(order) == [A, B, C]
    firsts = [order[0] for order in orders]
    seconds = [order[1] for order in orders if order[0] == A]
    assert all(50 < firsts.count(endpoint) < 150 for endpoint in (A, B, C))  # 100 are expected; 6 deviations away
    assert all(seconds.count(endpoint) > 20 for endpoint in (B, C))


def test_failures_repeated_elsewhere_were_not_executed_here() -> None:
    elsewhere = {code.name for code in CODES.values() if code.elsewhere}
    assert elsewhere >= {"NOQUORUM", "LOADING", "STOPPED", "CLOCK"}
    assert not elsewhere & {"FULL", "LOGFULL", "UNDONE", "TIMEOUT"}, "these are no better elsewhere"
    assert all(CODES[name].executed is False for name in elsewhere)

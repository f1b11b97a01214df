"""The contract: each command behaves equally in every mode and over every protocol."""

import math
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

import cairnkv
from cairnkv.testing import ManualClock
from tests.conformance.drivers import DRIVERS


@pytest.fixture(scope="module", params=DRIVERS.values(), ids=[*DRIVERS])
def opened(request: pytest.FixtureRequest, path_in_use: str) -> Iterator[tuple[Any, ManualClock]]:
    """Yield a store that is opened once for all tests of its driver, and its clock."""
    clock = ManualClock()
    with request.param(clock) as store:
        yield store, clock


@pytest.fixture
def clock(opened: tuple[Any, ManualClock]) -> ManualClock:
    return opened[1]


@pytest.fixture
def kv(opened: tuple[Any, ManualClock]) -> Any:
    """The store, with nothing in it, at a time that no test before this one has reached."""
    store, clock = opened
    clock.advance(86_400)
    store.clear_all()
    assert store.count() == 0
    return store


EVERY_BYTE = bytes(range(256))


# -- set, get, clear ---------------------------------------------------------------------------------------------


def test_get_returns_the_set_value(kv: Any) -> None:
    assert kv.set(b"greeting", b"hello") is True
    assert kv.get(b"greeting") == b"hello"
    kv.set(b"greeting", b"good evening")
    assert kv.get(b"greeting") == b"good evening"


def test_missing_key(kv: Any) -> None:
    assert kv.get(b"nobody") is None
    assert kv.get(b"nobody", b"default") == b"default"
    assert kv.exists(b"nobody") is False
    assert kv.clear(b"nobody") is None
    assert kv.ttl(b"nobody") is None
    assert kv.expire(b"nobody", 1) is False
    assert kv.persist(b"nobody") is False
    assert kv.clear_if_equals(b"nobody", b"") is False
    assert kv.get_many([b"nobody", b"no one"]) == {}
    assert kv.clear_many([b"nobody"]) == 0
    assert kv.count() == 0


def test_deleted_key_is_absent(kv: Any) -> None:
    kv.set(b"k", b"v")
    assert kv.clear(b"k") is None
    assert kv.get(b"k") is None
    assert kv.exists(b"k") is False


def test_keys_and_values_are_binary_safe(kv: Any) -> None:
    kv.set(EVERY_BYTE, EVERY_BYTE[::-1])
    kv.set(b"\0", b"")
    kv.set(b"\r\n", b"\r\n")
    assert kv.get(EVERY_BYTE) == EVERY_BYTE[::-1]
    assert kv.get(b"\0") == b""
    assert kv.exists(b"\0") is True
    assert kv.get(b"\r\n") == b"\r\n"
    assert sorted(kv.scan()) == sorted([EVERY_BYTE, b"\0", b"\r\n"])


def test_longest_key_and_a_long_value(kv: Any) -> None:
    key, value = b"k" * 65_535, bytes(3_000_000)
    kv.set(key, value)
    assert kv.get(key) == value
    assert list(kv.scan(b"kkk")) == [key]


@pytest.mark.parametrize("key", [b"", b"k" * 65_536], ids=["empty", "too long"])
def test_empty_and_too_long_keys_are_refused(kv: Any, key: bytes) -> None:
    calls: list[Callable[[], object]] = [
        lambda: kv.get(key),
        lambda: kv.set(key, b"v"),
        lambda: kv.clear(key),
        lambda: kv.set(key, b"v", if_absent=True),
        lambda: kv.get_many([b"k", key]),
        lambda: kv.set_many({b"k": b"v", key: b"v"}),
    ]
    for refused in calls:
        with pytest.raises(cairnkv.BadCommand, match="key has 1 to 65,535 bytes"):
            refused()
    assert kv.count() == 0


@pytest.mark.same_code
def test_very_many_keys_at_once(kv: Any) -> None:
    pairs = {b"%06d" % number: b"%d" % number for number in range(70_000)}
    kv.set_many(pairs)
    assert kv.get_many(pairs) == pairs
    assert kv.count() == len(pairs)
    assert kv.clear_many(list(pairs)) == len(pairs)
    assert kv.count() == 0


# -- conditions --------------------------------------------------------------------------------------------------


def test_set_only_if_absent(kv: Any) -> None:
    assert kv.set(b"k", b"1", if_absent=True) is True
    assert kv.set(b"k", b"2", if_absent=True) is False
    assert kv.get(b"k") == b"1"


def test_set_only_if_present(kv: Any) -> None:
    assert kv.set(b"k", b"1", if_present=True) is False
    assert kv.get(b"k") is None
    kv.set(b"k", b"1")
    assert kv.set(b"k", b"2", if_present=True) is True
    assert kv.get(b"k") == b"2"


def test_set_only_if_equal(kv: Any) -> None:
    assert kv.set(b"k", b"2", if_equals=b"1") is False
    kv.set(b"k", b"1")
    assert kv.set(b"k", b"2", if_equals=b"1") is True
    assert kv.set(b"k", b"3", if_equals=b"1") is False
    assert kv.get(b"k") == b"2"
    kv.set(b"empty", b"")
    assert kv.set(b"empty", b"full", if_equals=b"") is True


def test_swap_returns_the_old_value_whether_or_not_it_stores(kv: Any) -> None:
    assert kv.swap(b"k", b"1") is None
    assert kv.swap(b"k", b"2") == b"1"
    assert kv.swap(b"k", b"3", if_absent=True) == b"2"
    assert kv.swap(b"k", b"3", if_equals=b"2") == b"2"
    assert kv.swap(b"other", b"3", if_present=True) is None
    assert kv.get(b"k") == b"3"
    assert kv.exists(b"other") is False


def test_clear_only_if_equal(kv: Any) -> None:
    kv.set(b"lock", b"mine")
    assert kv.clear_if_equals(b"lock", b"yours") is False
    assert kv.clear_if_equals(b"lock", b"mine") is True
    assert kv.exists(b"lock") is False


@pytest.mark.parametrize(
    "options",
    [
        {"if_absent": True, "if_present": True},
        {"if_absent": True, "if_equals": b"x"},
        {"ttl": 1, "keep_ttl": True},
    ],
)
def test_options_that_exclude_each_other_are_refused(kv: Any, options: dict[str, Any]) -> None:
    with pytest.raises(cairnkv.BadCommand, match="exclude each other"):
        kv.set(b"k", b"v", **options)
    with pytest.raises(cairnkv.BadCommand, match="exclude each other"):
        kv.swap(b"k", b"v", **options)
    assert kv.exists(b"k") is False


# -- as safe as somebody wants it --------------------------------------------------------------------------------


def test_writes_with_durability_memory_have_equal_effects(kv: Any) -> None:
    quick = kv.durability("memory")
    assert quick.set(b"k", b"1") is True
    assert quick.set(b"k", b"2", if_absent=True) is False
    assert quick.incr(b"k", 4) == 5
    assert quick.swap(b"k", b"x") == b"5"
    assert quick.get(b"k") == kv.get(b"k") == b"x"
    with pytest.raises(cairnkv.BadCommand, match="NOTINT"):
        quick.incr(b"k")
    quick.set_many({b"a": b"1", b"b": b"2"}, ttl=10)
    assert quick.expire(b"a", 20) is True
    assert quick.persist(b"b") is True
    assert quick.clear_many([b"b", b"c"]) == 1
    assert quick.get(b"a", clear=True) == b"1"
    assert quick.get(b"a", clear=True) is None
    assert quick.clear_if_equals(b"k", b"y") is False
    assert quick.clear_prefix(b"k") == 1
    assert quick.clear(b"k") is None
    assert kv.count() == 0
    assert quick.durability("committed").clear_all() is None


def test_unknown_durability_is_refused(kv: Any) -> None:
    with pytest.raises(cairnkv.CallerError, match="durability is 'committed' or 'memory', not 'disk'"):
        kv.durability("disk")


# -- several keys ------------------------------------------------------------------------------------------------


def test_several_keys_at_once(kv: Any) -> None:
    kv.set_many({b"a": b"1", b"b": b"", b"c": EVERY_BYTE})
    assert kv.get_many([b"a", b"b", b"c", b"d"]) == {b"a": b"1", b"b": b"", b"c": EVERY_BYTE}
    assert kv.clear_many([b"a", b"c", b"d", b"a"]) == 2
    assert kv.get_many([b"a", b"b", b"c"]) == {b"b": b""}


# -- numbers -----------------------------------------------------------------------------------------------------


def test_incr_adds_and_returns_the_sum(kv: Any) -> None:
    assert kv.incr(b"hits") == 1
    assert kv.incr(b"hits", 41) == 42
    assert kv.incr(b"hits", -50) == -8
    assert kv.get(b"hits") == b"-8"


@pytest.mark.parametrize(
    "value", [b"", b"x", b"1.5", b" 1", b"1 ", b"+1", b"01", b"-0", b"9223372036854775808", b"\xb2"]
)
def test_incr_refuses_a_value_that_is_no_integer(kv: Any, value: bytes) -> None:
    kv.set(b"k", value)
    with pytest.raises(cairnkv.BadCommand) as caught:
        kv.incr(b"k")
    assert caught.value.code == "NOTINT"
    assert kv.get(b"k") == value


def test_incr_has_64_signed_bits(kv: Any) -> None:
    kv.set(b"k", b"9223372036854775806")
    assert kv.incr(b"k") == 2**63 - 1
    with pytest.raises(cairnkv.BadCommand) as caught:
        kv.incr(b"k")
    assert caught.value.code == "OVERFLOW"
    assert kv.incr(b"k", -(2**63)) == -1
    assert kv.incr(b"k", -(2**63) + 1) == -(2**63)
    with pytest.raises(cairnkv.BadCommand) as caught:
        kv.incr(b"k", -1)
    assert caught.value.code == "OVERFLOW"
    with pytest.raises(cairnkv.BadCommand):
        kv.incr(b"k", 2**63)


# -- time --------------------------------------------------------------------------------------------------------


def test_key_expires_at_its_expiry_time_and_not_before(kv: Any, clock: ManualClock) -> None:
    kv.set(b"k", b"v", ttl=10)
    assert kv.ttl(b"k") == 10
    clock.advance(9.999)
    assert kv.get(b"k") == b"v"
    assert kv.ttl(b"k") == pytest.approx(0.001)
    clock.advance(0.001)
    assert kv.get(b"k") is None
    assert kv.exists(b"k") is False
    assert kv.count() == 0
    assert list(kv.scan()) == []
    assert kv.clear_many([b"k"]) == 0


def test_expired_key_is_absent_for_conditions_and_incr(kv: Any, clock: ManualClock) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        kv.set(key, b"5", ttl=1)
    clock.advance(1)
    assert kv.set(b"a", b"new", if_present=True) is False
    assert kv.set(b"a", b"new", if_absent=True) is True
    assert kv.set(b"b", b"new", if_equals=b"5") is False
    assert kv.incr(b"c") == 1
    assert kv.swap(b"d", b"new", keep_ttl=True) is None
    assert kv.ttl(b"a") == kv.ttl(b"c") == kv.ttl(b"d") == math.inf


def test_ttl_expire_and_persist(kv: Any, clock: ManualClock) -> None:
    kv.set(b"k", b"v")
    assert kv.ttl(b"k") == math.inf
    assert kv.expire(b"k", timedelta(minutes=1)) is True
    assert kv.ttl(b"k") == 60
    assert kv.persist(b"k") is True
    assert kv.persist(b"k") is False
    clock.advance(61)
    assert kv.get(b"k") == b"v"


def test_plain_set_removes_the_ttl(kv: Any, clock: ManualClock) -> None:
    kv.set(b"k", b"v", ttl=1)
    kv.set(b"k", b"v")
    clock.advance(2)
    assert kv.exists(b"k") is True


def test_keep_ttl_and_incr_keep_the_ttl(kv: Any) -> None:
    kv.set(b"k", b"1", ttl=5)
    kv.set(b"k", b"2", keep_ttl=True)
    assert kv.ttl(b"k") == 5
    kv.incr(b"k")
    assert kv.ttl(b"k") == 5


def test_get_also_clears_refreshes_or_persists(kv: Any, clock: ManualClock) -> None:
    kv.set(b"k", b"v", ttl=5)
    assert kv.get(b"k", ttl=50) == b"v"
    assert kv.ttl(b"k") == 50
    assert kv.get(b"k", persist=True) == b"v"
    assert kv.ttl(b"k") == math.inf
    assert kv.get(b"k", clear=True) == b"v"
    assert kv.get(b"k", b"gone", clear=True) == b"gone"
    assert kv.get(b"k", ttl=5) is None
    assert kv.exists(b"k") is False


def test_set_many_with_a_ttl(kv: Any, clock: ManualClock) -> None:
    kv.set(b"a", b"0")
    kv.set_many({b"a": b"1", b"b": b"2"}, ttl=2)
    assert kv.ttl(b"a") == kv.ttl(b"b") == 2
    clock.advance(2)
    assert kv.count() == 0


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 10**18])
def test_invalid_ttls_are_refused(kv: Any, ttl: float) -> None:
    with pytest.raises(cairnkv.OptionError, match="a ttl is above 0 seconds"):
        kv.set(b"k", b"v", ttl=ttl)
    assert kv.exists(b"k") is False


def test_clock_that_goes_back_restores_no_expired_key(kv: Any, clock: ManualClock) -> None:
    kv.set(b"k", b"v", ttl=10)
    clock.advance(10)
    assert kv.get(b"k") is None
    clock.advance(-3600)
    assert kv.get(b"k") is None
    assert kv.count() == 0


# -- the whole store ---------------------------------------------------------------------------------------------


def test_scan_returns_every_key_once(kv: Any) -> None:
    keys = {b"key %d" % n for n in range(2_500)}
    kv.set_many(dict.fromkeys(keys, b""))
    for count in (50, 1_000, 10_000):
        found = list(kv.scan(count=count))
        assert len(found) == len(keys)
        assert set(found) == keys


def test_scan_by_prefix(kv: Any) -> None:
    kv.set_many({b"user:%d" % n: b"" for n in range(300)} | {b"item:%d" % n: b"" for n in range(300)})
    assert set(kv.scan(b"user:")) == {b"user:%d" % n for n in range(300)}
    assert set(kv.scan(b"user:29")) == {b"user:29"} | {b"user:%d" % n for n in range(290, 300)}
    assert list(kv.scan(b"nobody")) == []


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_invalid_scan_counts_are_refused(kv: Any, count: int) -> None:
    with pytest.raises(cairnkv.BadCommand):
        list(kv.scan(count=count))


def test_clear_prefix_deletes_only_matching_keys(kv: Any) -> None:
    kv.set_many({b"user:%d" % n: b"" for n in range(3_000)} | {b"item:%d" % n: b"" for n in range(300)})
    assert kv.clear_prefix(b"user:") == 3_000
    assert kv.count() == 300
    assert kv.clear_prefix(b"") == 300
    assert kv.count() == 0


def test_clear_all_deletes_all_keys(kv: Any) -> None:
    kv.set_many({b"%d" % n: b"" for n in range(1_000)})
    kv.set(b"timed", b"", ttl=1)
    assert kv.clear_all() is None
    assert kv.count() == 0
    assert list(kv.scan()) == []
    kv.set(b"1", b"again")
    assert kv.get(b"1") == b"again"


def test_ping_and_info(kv: Any, request: pytest.FixtureRequest) -> None:
    assert kv.ping() == "PONG"
    assert kv.ping("hällo") == "hällo"
    kv.set(b"k", b"v")
    info = kv.info()
    assert info["keys"] == 1
    assert info["cairnkv_version"] == cairnkv.__version__
    mode = next(
        (mode for part, mode in {"disk": "durable", "quorum": "replicated"}.items() if part in request.node.name),
        "in-memory",
    )
    assert info["mode"] == mode


def test_random_commands_equal_those_on_a_dict(kv: Any) -> None:
    chance = random.Random(20_261_122)
    model: dict[bytes, bytes] = {}
    keys = [b"key %d" % n for n in range(40)]
    for step in range(600):
        key, value = chance.choice(keys), b"%d" % step
        match chance.randrange(6):
            case 0 | 1:
                kv.set(key, value)
                model[key] = value
            case 2:
                assert kv.get(key) == model.get(key)
            case 3:
                kv.clear(key)
                model.pop(key, None)
            case 4:
                assert kv.set(key, value, if_absent=True) is (key not in model)
                model.setdefault(key, value)
            case 5:
                some = chance.sample(keys, 5)
                assert kv.get_many(some) == {key: model[key] for key in some if key in model}
    assert set(kv.scan()) == set(model)
    assert kv.count() == len(model)

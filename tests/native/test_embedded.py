"""Direct calls equal the pure path: results, errors, counts and content; also with threads on both paths."""

import inspect
import operator
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv
from cairnkv.client.codec import CodecName, key_codec, value_codec
from cairnkv.client.embedded import CALLS_PER_SLICE, Embedded
from cairnkv.client.stores import embedded
from cairnkv.engine import Database
from cairnkv.limits import KEY_MAX, VALUE_MAX
from cairnkv.store import LocalStore
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.paths import native_only

T = TypeVar("T")


class OwnText(str):
    """A str subclass with its own `encode`."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"own " + super().encode(encoding, errors)


class OwnBytes(bytes):
    pass


class Twins:
    """Two stores with the same calls: one has direct calls, the other uses the pure path."""

    def __init__(self, codec: CodecName = "text") -> None:
        self.clock = HandClock()
        keys, values = key_codec(codec), value_codec(codec)
        self.stores = (
            Embedded(LocalStore(clock=self.clock), keys, values),
            embedded(LocalStore(clock=self.clock), keys, values),
        )

    @property
    def direct_calls(self) -> int:
        count: int = getattr(self.stores[1], "direct_calls")  # noqa: B009
        return count

    @property
    def databases(self) -> list[Database]:
        return [store._shared._store.database for store in self.stores]

    def do(self, call: Callable[[Any], Any]) -> None:
        """Make a call on both, and assert that the same comes of it."""
        pure, native = (outcome(call, store) for store in self.stores)
        assert pure == native

    def agree(self) -> None:
        """Assert that both are in the same state."""
        self.do(lambda kv: kv.info())
        one, other = self.databases
        one.check()
        other.check()
        assert (one.now, one.used_bytes, one.count()) == (other.now, other.used_bytes, other.count())
        assert sorted(one._table) == sorted(other._table)


def outcome(call: Callable[[Any], Any], kv: object) -> object:
    try:
        result = call(kv)
    except TypeError:
        return TypeError  # an interpreter's words for arguments that are missing differ with what is called
    except Exception as error:
        return type(error), repr(error)
    return type(result), result


ODD_KEYS = ["", b"", "\ud800", 5, None, bytearray(b"k"), OwnText("k"), OwnBytes(b"k"), "k" * KEY_MAX, "ü" * KEY_MAX]
KEYS = st.sampled_from(["a", b"a", "b", "ключ", "ключ".encode(), "key:1", "key:2", *ODD_KEYS])
VALUES = st.sampled_from(
    ["", "1", "text", "текст", "\ud800", b"1", b"bytes", b"\xff", 1, None, OwnText("x"), OwnBytes(b"x"), ["list"]]
)
TTLS = st.sampled_from([None, 0.5, 2, 0, "x"])


def set_item(kv: Any, key: object, value: object) -> None:
    kv[key] = value


def delete_item(kv: Any, key: object) -> None:
    del kv[key]


Calls = st.SearchStrategy[Callable[[Any], Any]]
PLAIN: Calls = st.one_of(
    st.builds(lambda key: lambda kv: kv.get(key), KEYS),
    st.builds(lambda key: lambda kv: kv.get(key, "default"), KEYS),
    st.builds(lambda key: lambda kv: kv[key], KEYS),
    st.builds(lambda key: lambda kv: key in kv, KEYS),
    st.builds(lambda key: lambda kv: kv.exists(key), KEYS),
    st.builds(lambda key, value: lambda kv: kv.set(key, value), KEYS, VALUES),
    st.builds(lambda key, value: lambda kv: set_item(kv, key, value), KEYS, VALUES),
)
OTHER: Calls = st.one_of(
    st.builds(lambda key: lambda kv: delete_item(kv, key), KEYS),
    st.builds(lambda key: lambda kv: kv.clear(key), KEYS),
    st.builds(lambda key: lambda kv: kv.incr(key), KEYS),
    st.builds(lambda key: lambda kv: kv.ttl(key), KEYS),
    st.builds(lambda key: lambda kv: kv.get_many([key]), KEYS),
    st.builds(lambda key, ttl: lambda kv: kv.get(key, ttl=ttl), KEYS, TTLS),
    st.builds(lambda key, clear: lambda kv: kv.get(key, clear=clear), KEYS, st.sampled_from([True, False, 0, 1])),
    st.builds(lambda key, value, ttl: lambda kv: kv.set(key, value, ttl=ttl), KEYS, VALUES, TTLS),
    st.builds(lambda key, value: lambda kv: kv.set(key, value, if_absent=True), KEYS, VALUES),
    st.builds(lambda key, value: lambda kv: kv.set(key, value, if_equals=value), KEYS, VALUES),
    st.sampled_from(
        [
            lambda kv: kv.info(),
            lambda kv: kv.count(),
            lambda kv: kv.clear_all(),
            lambda kv: kv.clear_prefix("key"),
            lambda kv: sorted(kv.scan()),
            lambda kv: kv.set_many({f"key:{n}": "v" for n in range(10)}, ttl=1),
            lambda kv: kv.get(),
            lambda kv: kv.get("a", nonsense=1),
            lambda kv: kv.set("a"),
        ]
    ),
)


@native_only
class TestEqualResults:
    @given(
        codec=st.sampled_from(["text", "bytes", "json"]),
        calls=st.lists(PLAIN | OTHER | st.integers(-500, 3_000), max_size=100),
    )
    def test_for_any_calls(self, codec: CodecName, calls: list[Callable[[Any], Any] | int]) -> None:
        twins = Twins(codec)
        for call in calls:
            if isinstance(call, int):
                twins.clock.advance(call)
            else:
                twins.do(call)
        twins.agree()

    def test_for_splitting_buckets_and_housekeeping_slices(self) -> None:
        twins = Twins()
        twins.do(lambda kv: kv.set_many({f"short:{n}": "x" for n in range(1_000)}, ttl=1))
        twins.clock.advance(5_000)
        for n in range(3_000):
            twins.do(operator.methodcaller("set", f"{n}", f"{n}"))
            twins.do(operator.methodcaller("get", f"{n // 2}"))
        twins.agree()
        assert twins.direct_calls > 6_000 * (CALLS_PER_SLICE - 3) / CALLS_PER_SLICE

    @pytest.mark.parametrize("length", [VALUE_MAX, VALUE_MAX + 1])
    def test_for_long_values(self, length: int) -> None:
        twins = Twins("bytes")
        twins.do(lambda kv: kv.set("k", bytes(length)))
        twins.do(lambda kv: kv.get("k"))
        twins.agree()

    def test_for_bytes_that_are_not_utf8(self) -> None:
        twins = Twins()
        for database in twins.databases:
            database.put(b"k", b"\xff", None)
        twins.do(lambda kv: kv.get("k"))
        twins.do(lambda kv: kv["k"])
        twins.agree()

    def test_after_close(self) -> None:
        twins = Twins()
        for call in (lambda kv: kv.set("k", "v"), lambda kv: kv.close(), lambda kv: kv.get("k"), lambda kv: "k" in kv):
            twins.do(call)

    def test_with_a_clock_that_uses_the_store(self) -> None:
        """The pure path would wait for itself, so the clock is read before the lock is taken."""
        kv: Any = None

        def clock() -> int:
            nonlocal kv
            user, kv = kv, None
            if user is not None:
                user.clear("k")
            return 1_000_000

        store = cairnkv.open(clock=clock)
        store["k"] = "v"
        kv = store
        assert store.get("k") is None


@native_only
class TestDirectCalls:
    def test_are_used_for_plain_calls(self) -> None:
        """Otherwise the comparisons above would compare the pure path with itself."""
        twins = Twins()
        twins.do(lambda kv: kv.set("k", "v"))
        for call in (lambda kv: kv.get("k"), lambda kv: kv[b"k"], lambda kv: "k" in kv, lambda kv: kv.get("no", "d")):
            twins.do(call)
        twins.do(lambda kv: set_item(kv, "k", "w"))
        assert twins.direct_calls == 6

    def test_have_the_signatures_of_the_methods(self) -> None:
        kv = cairnkv.open()
        assert type(kv) is not Embedded
        for name in ("get", "set", "exists"):
            parameters = inspect.signature(getattr(Embedded, name)).parameters
            direct = inspect.signature(getattr(type(kv), name)).parameters
            assert [(p.name, p.kind, p.default) for p in direct.values()] == [
                (p.name, p.kind, p.default) for p in parameters.values()
            ]
            assert inspect.getdoc(getattr(kv, name))

    def test_exist_only_in_in_memory_and_durable_stores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keys, values = key_codec("text"), value_codec("text")
        assert type(embedded(LocalStore(memory_limit=10**9), keys, values)) is Embedded
        assert type(embedded(LocalStore(storage=LateStorage()), keys, values)) is Embedded
        assert type(embedded(LocalStore(), keys, values)) is not Embedded
        monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
        assert type(embedded(LocalStore(), keys, values)) is Embedded

    def test_work_with_threads_on_both_paths(self) -> None:
        kv = cairnkv.open(codec="text")
        names = [f"key:{n}" for n in range(500)]
        counts = 400
        wrong: list[object] = []

        def direct(own: int) -> None:
            for n in range(counts):
                for name in names[own::4]:
                    kv[name] = f"{n}"
                    if kv.get(name) != f"{n}":
                        wrong.append(name)

        def readable() -> None:
            for n in range(counts * 20):
                kv.incr("hits")
                kv.set_many({f"other:{n % 1_000}": "x", f"short:{n % 100}": "y"})
                kv.clear_many([f"other:{(n + 500) % 1_000}"])

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=direct, args=(own,)) for own in range(4)]
            threads += [threading.Thread(target=readable) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
        finally:
            sys.setswitchinterval(interval)
        assert not wrong
        assert kv["hits"] == f"{counts * 40}"
        told = kv.info()
        assert told["commands"] == 4 * counts * 2 * 125 + 2 * counts * 20 * 3 + 2
        database = kv._shared._store.database
        database.check()
        assert database.count() == told["keys"]
        assert getattr(kv, "direct_calls") > 0  # noqa: B009


FORK = """
import os, threading
import cairnkv
kv = cairnkv.open()
kv["k"] = "parent"
going = True
def work():
    while going:
        kv.incr("n")
thread = threading.Thread(target=work)
thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        kv.count()
        before = kv.direct_calls
        for n in range(10):
            kv["k"] = f"child {n}"
        well = kv["k"] == "child 9" and kv.direct_calls >= before + 10
        os._exit(0 if well else 1)
    assert os.waitpid(child, 0)[1] == 0
going = False
thread.join()
assert kv["k"] == "parent"
print("well")
"""


@native_only
def test_forked_process_has_direct_calls_again() -> None:
    """Threads on the pure path at the fork do not exist in the child, which does not wait for them."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr) == ("well\n", "")


def test_variable_disables_direct_calls() -> None:
    code = "import cairnkv; kv = cairnkv.open(); kv['k'] = 'v'; print(type(kv).__name__, kv['k'])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "CAIRNKV__PURE": "1"},
    )
    assert ran.stdout == "Embedded v\n"


@native_only
class TestOnDisk:
    """In a durable store only reads are direct, and only while no commit is pending."""

    def test_reads_are_direct_and_writes_are_not(self, tmp_path: Path) -> None:
        with cairnkv.open(tmp_path / "data") as kv:
            kv["a"] = "1"
            before = kv.info()["commands"]
            assert (kv["a"], kv.get("b"), "a" in kv, kv.exists("b")) == ("1", None, True, False)
            assert getattr(kv, "direct_calls") == 4  # noqa: B009
            assert kv.info()["commands"] == int(before) + 5

    def test_uncommitted_values_are_not_shown(self) -> None:
        storage = LateStorage(keeps_effects=True)
        kv: Any = embedded(LocalStore(storage=storage), key_codec("text"), value_codec("text"))
        assert kv.durability("memory").set("a", "1") is True
        seen: list[object] = []
        reading = threading.Thread(target=lambda: seen.append(outcome(lambda store: store.get("a"), kv)))
        reading.start()
        reading.join(0.05)
        assert reading.is_alive()
        assert kv.direct_calls == 0
        storage.fail("the disk is gone")
        reading.join(20)
        assert not reading.is_alive()
        assert "UNDONE" in repr(seen)
        assert kv.get("a") is None
        assert kv.direct_calls == 1

    def test_expiry_is_recorded_before_it_is_shown(self, tmp_path: Path) -> None:
        clock = HandClock()
        with cairnkv.open(tmp_path / "data", clock=clock) as kv:
            kv.set("a", "1", ttl=60)
            kv.get("a")
            direct = getattr(kv, "direct_calls")  # noqa: B009
            kv.get("a")
            assert getattr(kv, "direct_calls") == direct + 1  # noqa: B009
            clock.advance(61_000)
            assert kv.get("a") is None, "and the disk knows what time it is"
            assert getattr(kv, "direct_calls") == direct + 1  # noqa: B009
        with cairnkv.open(tmp_path / "data", clock=HandClock()) as kv:
            assert kv.count() == 0

    def test_threads_read_their_own_writes(self, tmp_path: Path) -> None:
        with cairnkv.open(tmp_path / "data", sync="none") as kv:

            def count(name: str) -> None:
                for number in range(300):
                    kv[name] = str(number)
                    assert [kv[name] for _ in range(20)] == [str(number)] * 20

            threads = [threading.Thread(target=count, args=(str(n),)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert {name: kv[name] for name in "0123"} == dict.fromkeys("0123", "299")

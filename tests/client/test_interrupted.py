"""Interrupted calls of embedded stores: by an exception of a signal handler or of another thread, or by a handler or
finalizer that uses the same store. Each call takes effect as a whole or not at all, and all threads can use the
store."""

import contextlib
import ctypes
import functools
import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.client.codec import Text
from cairnkv.client.embedded import Embedded
from cairnkv.client.stores import embedded
from cairnkv.store import LocalStore, WhenFull
from cairnkv.store.eviction import Eviction
from tests.support import interrupting
from tests.support.clock import HandClock
from tests.support.interrupting import LEAST_POINTS, Interruption, Points, at_each_point, interrupt

PATIENCE = 60.0

CALLS: dict[str, Callable[[Any], object]] = {
    "set": lambda kv: kv.set("new", "1"),
    "set again": lambda kv: kv.set("a", "other"),
    "set for a time": lambda kv: kv.set("a", "1", ttl=50),
    "set for another time": lambda kv: kv.set("short", "1", ttl=50),
    "set if equal": lambda kv: kv.set("a", "2", if_equals="1"),
    "incr": lambda kv: kv.incr("n"),
    "expire": lambda kv: kv.expire("a", 5),
    "persist": lambda kv: kv.persist("short"),
    "clear": lambda kv: kv.clear("short"),
    "get and clear": lambda kv: kv.get("a", clear=True),
    "set many": lambda kv: kv.set_many({"a": "9", "b": "9", "c": "9"}, ttl=9),
    "clear many": lambda kv: kv.clear_many(["a", "short", "n", "nobody"]),
    "clear all": lambda kv: kv.clear_all(),
    "count": lambda kv: kv.count(),
    "get many": lambda kv: kv.get_many(["a", "n"]),
}


def in_memory(clock: HandClock) -> Embedded[str, str]:
    return Embedded(LocalStore(clock=clock), Text(), Text())


def direct(clock: HandClock) -> Embedded[str, str]:
    return embedded(LocalStore(clock=clock), Text(), Text())


def evicting(clock: HandClock) -> Embedded[str, str]:
    return Embedded(LocalStore(clock=clock, memory_limit=100_000, when_full=WhenFull.EVICT), Text(), Text())


def filled(kv: Any) -> Any:
    kv.clear_all()
    kv.set_many({"a": "1", "n": "41", "b": "2"})
    kv.set("short", "x", ttl=100)
    return kv


def contents(kv: Any) -> dict[str, tuple[str, float | None]]:
    return {key: (kv.get(key), kv.ttl(key)) for key in kv.scan()}


def in_another_thread(function: Callable[[], object]) -> object:
    """Return the result of a call in another thread. The call must not wait for this thread."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "another thread can use the store"
    return results[0]


def done_or_not(call: Callable[[Any], object], make: Callable[[], Any]) -> list[object]:
    """Return the possible contents of a store after an interrupted call."""
    before, after = filled(make()), filled(make())
    call(after)
    return [contents(before), contents(after)]


def least(make: Callable[[HandClock], Embedded[str, str]], name: str) -> int:
    """The fewest points of a call. Native code executes the plain writes of a direct store as a whole."""
    return 0 if make is direct and name in ("set", "set again") else LEAST_POINTS


@pytest.mark.parametrize("make", [in_memory, direct, evicting])
@pytest.mark.parametrize("name", CALLS)
class TestInMemory:
    def test_interrupted_call_is_done_or_not_done(
        self, make: Callable[[HandClock], Embedded[str, str]], name: str
    ) -> None:
        clock, call = HandClock(), CALLS[name]
        allowed = done_or_not(call, lambda: make(clock))
        stores: list[Any] = []

        def prepare() -> Callable[[], object]:
            stores[:] = [filled(make(clock))]
            return lambda: call(stores[0])

        for interrupted in at_each_point(prepare, step=7 if make is evicting else 1, least=least(make, name)):
            assert interrupted, "the exception reaches the caller"
            (kv,) = stores
            assert in_another_thread(functools.partial(contents, kv)) in allowed
            kv._shared._store.database.check()
            assert kv.incr("later") == 1

    def test_handler_that_uses_the_store_finds_it_consistent(
        self, make: Callable[[HandClock], Embedded[str, str]], name: str
    ) -> None:
        clock, call = HandClock(), CALLS[name]
        handled = {"handled": ("1", float("inf"))}
        stores: list[Any] = []
        seen: list[object] = []
        allowed = done_or_not(call, lambda: make(clock))

        def prepare() -> Callable[[], object]:
            stores[:] = [filled(make(clock))]
            seen.clear()
            return lambda: call(stores[0])

        def handle() -> None:
            seen.append(contents(stores[0]))
            assert stores[0].incr("handled") == 1

        for _ in at_each_point(prepare, handle, step=7 if make is evicting else 3, least=least(make, name)):
            (kv,) = stores
            assert seen[0] in allowed
            expected = allowed[1] | handled  # type: ignore[operator]
            assert contents(kv) == expected or (name == "clear all" and contents(kv) == {})
            kv._shared._store.database.check()


@pytest.mark.parametrize("make", [in_memory, direct])
def test_repair_that_is_interrupted_is_made_again(make: Callable[[HandClock], Embedded[str, str]]) -> None:
    clock = HandClock()
    allowed = done_or_not(CALLS["set many"], lambda: make(clock))
    for first in range(20, 200, 60):
        stores: list[Any] = []

        def prepare(first: int = first, stores: list[Any] = stores) -> Callable[[], object]:
            stores[:] = [filled(make(clock))]
            with pytest.raises(Interruption):
                Points(first, interrupt).run(lambda: CALLS["set many"](stores[0]))
            return lambda: stores[0].count()

        for interrupted in at_each_point(prepare, step=11 if make is in_memory else 1):
            assert interrupted, "the exception reaches the caller"
            assert in_another_thread(functools.partial(contents, stores[0])) in allowed
            assert stores[0].set("plain", "1")
            assert stores[0].get("plain") == "1"
            assert stores[0].get_many(["plain"]) == {"plain": "1"}, "all calls use the same store"


def test_call_that_evicts_many_keys_records_each_use_once(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = list[object]()
    note_change = Eviction.note_change
    monkeypatch.setattr(Eviction, "note_change", lambda *args: (noted.append(args), note_change(*args))[1])
    kv: Any = Embedded(LocalStore(memory_limit=1_000_000, when_full=WhenFull.EVICT), Text(), Text())
    for number in range(3_000):
        kv.set(f"key:{number}", "v" * 100)
    before = kv.info()["evicted_keys"]
    noted.clear()
    kv.set("large", "v" * 200_000)
    evicted = kv.info()["evicted_keys"] - before
    assert evicted > 300
    assert len(noted) <= evicted + 10


def set_all(kv: Any, items: dict[str, str]) -> None:
    for key, value in items.items():
        kv.set(key, value)


def test_buckets_that_split_when_interrupted_lose_no_key() -> None:
    clock = HandClock()
    for number in range(0, 3_000, 60):
        kv: Any = in_memory(clock)
        keys = {f"key:{n}": "v" for n in range(600)}
        points = Points(number, interrupt)
        with contextlib.suppress(Interruption):
            points.run(functools.partial(set_all, kv, keys))
        there = set(kv.scan())
        assert there == set(list(keys)[: len(there)])
        assert kv.count() == len(there)
        kv._shared._store.database.check()


@pytest.mark.parametrize("name", CALLS)
def test_interrupted_call_on_disk_is_done_or_not_done(name: str, tmp_path: Path) -> None:
    clock, call = HandClock(), CALLS[name]
    allowed = done_or_not(call, lambda: in_memory(clock))
    with cairnkv.open(tmp_path / "data", sync="none", clock=clock) as kv:

        def prepare() -> Callable[[], object]:
            filled(kv)
            return lambda: call(kv)

        for _ in at_each_point(prepare):
            assert in_another_thread(lambda: contents(kv)) in allowed
        there = contents(kv)
    with cairnkv.open(tmp_path / "data", clock=clock) as again:
        assert contents(again) == there


def test_handler_that_uses_a_store_on_disk_within_a_call(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data", sync="none") as kv:
        handled = 0

        def handle() -> None:
            nonlocal handled
            handled += 1
            assert kv.incr("handled") == handled

        calls = 0
        for _ in at_each_point(lambda: lambda: kv.incr("calls"), handle):
            calls += 1
        assert (kv["calls"], kv["handled"]) == (str(calls + 1), str(calls))


class Session:
    """An object that only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


class TestFinalizers:
    @pytest.fixture(autouse=True)
    def _often(self) -> Any:
        threshold = gc.get_threshold()
        gc.set_threshold(5)
        yield
        gc.set_threshold(*threshold)

    @pytest.fixture(params=["readable", "direct", "disk"])
    def kv(self, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
        if request.param == "disk":
            store: Any = cairnkv.open(tmp_path / "data", sync="none")
        else:
            store = (in_memory if request.param == "readable" else direct)(HandClock())
        yield store
        store.close()

    def test_finalizer_may_use_the_store_at_any_point(self, kv: Any) -> None:
        def work() -> str:
            for n in range(300):
                session = Session()
                kv[f"session:{n}"] = "1"
                weakref.finalize(session, kv.clear, f"session:{n}")
                weakref.finalize(session, kv.incr, "ended")
                del session
                kv.incr("begun")
                kv.ttl("begun")
            gc.collect()
            return str(kv["begun"])

        assert in_another_thread(work) == "300"
        assert kv["ended"] == "300"
        assert not list(kv.scan("session:"))

    def test_del_may_use_the_store_from_many_threads(self, kv: Any) -> None:
        class Counted:
            def __init__(self) -> None:
                self.itself = self

            def __del__(self) -> None:
                kv.incr("ended")

        def work() -> None:
            for _ in range(100):
                Counted()
                kv.incr("begun")

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        gc.collect()
        assert (kv["begun"], kv["ended"]) == ("400", "400")


@pytest.fixture
def _no_callbacks_of_the_collector() -> Iterator[None]:
    """Remove the callbacks of the garbage collector. An exception that reaches one is lost, and the thread goes on."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks


@pytest.mark.usefixtures("_no_callbacks_of_the_collector")
def test_exceptions_of_other_threads_break_no_store(tmp_path: Path) -> None:
    """`PyThreadState_SetAsyncExc` raises these exceptions. Timeout libraries that use threads call it."""
    for kv in (in_memory(HandClock()), cairnkv.open(tmp_path / "data", sync="none")):
        for _ in range(30):
            started = threading.Event()

            def work(kv: Any = kv, started: threading.Event = started) -> None:
                try:
                    while True:
                        kv.set_many({"a": "1", "b": "2"}, ttl=50)
                        started.set()
                        kv.clear_many(["a", "b"])
                except Interruption:
                    pass

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            assert started.wait(PATIENCE)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interruption)
            )
            thread.join(PATIENCE)
            assert not thread.is_alive()
            assert kv.count() in (0, 2)
        kv.close()


SIGNALS = """
import random, signal, sys, cairnkv
class Now(Exception): pass
armed = False
def now(*_):
    if armed: raise Now
signal.signal(signal.SIGALRM, now)
path = sys.argv[1] or None
kv = cairnkv.open(path, sync="none" if path else None)
there = {}
for number in range(400):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 8e-4))
        while True:
            n = random.randrange(20)
            kv.set(f"k{n}", "7", ttl=random.choice((None, 100)))
            kv.incr(f"n{n}")
            kv.set_many({f"a{n}": "1", f"b{n}": "2"})
            kv.clear_many([f"a{n}", f"b{n}"])
    except Now:
        armed = False
assert kv.count() == len(list(kv.scan()))
for n in range(20):
    assert (f"a{n}" in kv) == (f"b{n}" in kv)
if path:
    there = {key: kv.get(key) for key in kv.scan("n")}
    kv.close()
    again = cairnkv.open(path)
    assert {key: again.get(key) for key in again.scan("n")} == there
print("well")
"""


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_signals_break_no_store(where: str, tmp_path: Path) -> None:
    path = str(tmp_path / "data") if where == "disk" else ""
    ran = subprocess.run(
        [sys.executable, "-c", SIGNALS, path], capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )
    assert (ran.stdout, ran.stderr) == ("well\n", "")


TIMER = """
import signal, sys, cairnkv
evicts = sys.argv[1] == "evict"
kv = cairnkv.open(memory_limit=2**32, when_full="evict") if evicts else cairnkv.open()
KEYS = 100_000
for begin in range(0, KEYS, 1_000):
    kv.set_many({f"key:{n}": "v" for n in range(begin, begin + 1_000)}, ttl=9_999 if begin % 3_000 else None)
depth = deepest = handled = 0
def handle(*_):
    global depth, deepest, handled
    depth += 1
    deepest = max(deepest, depth)
    kv.incr("handled")
    handled += 1
    depth -= 1
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
calls = 0
while handled < 15:
    kv.incr("calls")
    calls += 1
    assert kv.get("key:7") == "v"
kv.set_many({f"long:{n}": "w" for n in range(30_000)})  # takes longer than the timer's interval
signal.setitimer(signal.ITIMER_REAL, 0)
assert (kv["calls"], kv["handled"]) == (str(calls), str(handled))
assert len(list(kv.scan("key:"))) == KEYS
assert len(list(kv.scan("long:"))) == 30_000
assert kv.count() == KEYS + 30_002
assert kv.ttl("key:3001") > 0 and kv.ttl("key:1") == float("inf")
assert deepest < 50, deepest
print("well")
"""


@pytest.mark.parametrize("when_full", ["refuse", "evict"])
def test_timer_handlers_that_use_a_large_store_do_not_pile_up(when_full: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TIMER, when_full],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("well\n", "")


FORK_WITHIN = """
import os, signal, cairnkv
kv = cairnkv.open()
kv.set_many({f"key:{n}": "1" for n in range(100)})
children = []
def fork(*_):
    child = os.fork()
    if child == 0:
        kv.incr("n")
        count = kv.count()
        os._exit(0 if count == len(list(kv.scan())) == 101 else 1)
    children.append(child)
signal.signal(signal.SIGALRM, fork)
kv["n"] = "0"
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
calls = 0
while len(children) < 30:
    kv.incr("n")
    calls += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
assert kv["n"] == str(calls)
print("well")
"""


@pytest.mark.parametrize("open_store", [cairnkv.open, cairnkv.aio.open])
def test_open_with_an_unknown_codec_leaves_the_directory_closed(open_store: Any, tmp_path: Path) -> None:
    with pytest.raises(cairnkv.OptionError, match="codec"):
        open_store(tmp_path / "data", codec="unknown")
    cairnkv.open(tmp_path / "data").close()


@pytest.mark.parametrize("part", ["store/local.py", "own_threads.py"])
def test_interrupted_open_leaves_the_directory_closed(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupting, "PACKAGE", f"{interrupting.PACKAGE}/{part}")
    opened: list[Any] = []

    def prepare() -> Callable[[], object]:
        opened.clear()
        return lambda: opened.append(cairnkv.open(tmp_path / "data", sync="none"))

    for interrupted in at_each_point(prepare, least=1):
        assert interrupted
        cairnkv.open(tmp_path / "data", sync="none").close()
    opened[0].close()


def test_close_waits_for_the_end_after_an_interrupted_close(tmp_path: Path) -> None:
    """Before Python 3.13, an interrupted `Thread.join` marks the thread as ended."""
    runs, goes_on = threading.Event(), threading.Event()

    def clock() -> int:
        if threading.current_thread().name == "cairnkv store":
            runs.set()
            assert goes_on.wait(PATIENCE)
        return 1_000

    def interrupt_close(*_: object) -> None:
        raise Interruption

    kv: Any = cairnkv.open(tmp_path / "data", clock=clock)
    caller = threading.Thread(target=lambda: kv.set("a", "1"), daemon=True)
    caller.start()
    assert runs.wait(PATIENCE)
    before = signal.signal(signal.SIGALRM, interrupt_close)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interruption):
            kv.close()
    finally:
        signal.signal(signal.SIGALRM, before)
    closer = threading.Thread(target=kv.close, daemon=True)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive(), "the store's thread still runs"
    goes_on.set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    with cairnkv.open(tmp_path / "data") as again:
        assert again["a"] == "1"


def test_backup_in_a_thread_of_the_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer may run there, and would wait for the thread that it runs in."""
    with contextlib.closing(cairnkv.open(tmp_path / "data")) as kv:
        monkeypatch.setattr("cairnkv.client.embedded.is_own", lambda: True)
        with pytest.raises(cairnkv.CallerError, match="finalizer"):
            kv.backup(tmp_path / "backups")
        monkeypatch.undo()


def test_fork_within_a_call_gives_the_child_a_consistent_store() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_WITHIN],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("well\n", "")

"""Arguments of wrong types: cairnkv raises its own error, which names the accepted types and the given value."""

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.testing import ManualClock, running_server


@pytest.fixture(params=["embedded", "pure", "pipeline", "asyncio"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An object with the methods of a store. Its calls raise before they use a store."""
    if request.param == "embedded":
        with cairnkv.open() as store:
            yield store
    elif request.param == "pure":
        with cairnkv.open(memory_limit=2**20) as store:
            yield store
    elif request.param == "pipeline":
        with cairnkv.connect() as client:
            yield client.pipeline()
    else:
        yield Awaited(cairnkv.aio.open())


class Awaited:
    """An asyncio store that runs each call to its end."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            return asyncio.run(getattr(self._store, name)(*args, **named))

        return call


WRONG: list[tuple[str, Callable[[Any], object], str]] = [
    ("key", lambda kv: kv.get(5), "a key is text or bytes, not int: 5"),
    ("key of set", lambda kv: kv.set(None, "v"), "a key is text or bytes, not NoneType"),
    ("key of clear", lambda kv: kv.clear(("a",)), "a key is text or bytes, not tuple"),
    ("value", lambda kv: kv.set("k", 5), "the text codec takes a string, not int"),
    ("ttl of words", lambda kv: kv.set("k", "v", ttl="5 parsecs"), "a ttl is a time such as 30s.*'5 parsecs'"),
    ("ttl that is a list", lambda kv: kv.set("k", "v", ttl=[5]), r"a ttl is a number of seconds, .*, not \[5\]"),
    ("ttl that is True", lambda kv: kv.set("k", "v", ttl=True), "a ttl is a number of seconds, .*, not True"),
    ("ttl that is bytes", lambda kv: kv.set("k", "v", ttl=b"5"), "a ttl is a number of seconds, .*, not b'5'"),
    ("ttl of nothing", lambda kv: kv.expire("k", None), "a ttl is a number of seconds, .*, not None"),
    ("ttl of 0", lambda kv: kv.expire("k", "0s"), "a ttl is above 0 seconds .*, not '0s'"),
    ("ttl without end", lambda kv: kv.get("k", ttl=float("inf")), "a ttl is above 0 seconds .*, not inf"),
    ("ttl that is no number", lambda kv: kv.swap("k", "v", ttl=float("nan")), "a ttl is above 0 seconds .*, not nan"),
    ("flag", lambda kv: kv.set("k", "v", if_absent="no"), "if_absent is True or False, not 'no'"),
    ("flag of swap", lambda kv: kv.swap("k", "v", keep_ttl=2), "keep_ttl is True or False, not 2"),
    ("flag of get", lambda kv: kv.get("k", clear="yes"), "clear is True or False, not 'yes'"),
    ("two conditions", lambda kv: kv.set("k", "v", if_absent=True, if_equals="x"), "if_absent and if_equals exclude"),
    ("two fates", lambda kv: kv.get("k", clear=True, ttl=5), "clear and ttl exclude each other; use one of them"),
    ("several keys", lambda kv: kv.get_many("abc"), "several keys are a list, .*, not 'abc'"),
    ("no keys", lambda kv: kv.clear_many(5), "several keys are a list, .*, not 5"),
    ("a key among several", lambda kv: kv.get_many(["a", 5]), "a key is text or bytes, not int: 5"),
    ("pairs", lambda kv: kv.set_many([("a", "b")]), r"set_many takes a mapping .*, not \[\('a', 'b'\)\]"),
    ("amount", lambda kv: kv.incr("k", 1.5), "n is an integer, not 1.5"),
    ("ping", lambda kv: kv.ping(5), "ping takes text, not 5"),
    ("durability", lambda kv: kv.durability("disk"), "durability is 'committed' or 'memory', not 'disk'"),
]


@pytest.mark.parametrize(("call", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_type_error_names_accepted_types(kv: Any, call: Callable[[Any], object], said: str) -> None:
    with pytest.raises(cairnkv.CallerError) as caught:
        call(kv)
    assert re.search(said, str(caught.value))
    assert not re.search(r"usage:|SET_WITH|GET_WITH|IFABSENT|object has no attribute", str(caught.value))


def test_scan_and_clear_prefix_errors_name_accepted_types() -> None:
    with cairnkv.open() as kv:
        with pytest.raises(cairnkv.CallerError, match="a prefix is text or bytes, not int"):
            list(kv.scan(5))  # type: ignore[arg-type]
        with pytest.raises(cairnkv.CallerError, match="count is an integer, not '10'"):
            list(kv.scan(count="10"))  # type: ignore[arg-type]
        with pytest.raises(cairnkv.CallerError, match="a prefix is text or bytes, not NoneType"):
            kv.clear_prefix(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("7", 7), (timedelta(minutes=1), 60), (Decimal("2.5"), 2.5)],
)
def test_durations_are_accepted_as_on_the_command_line(ttl: Any, seconds: float) -> None:
    with cairnkv.open(clock=ManualClock()) as kv:
        kv.set("k", "v", ttl=ttl)
        assert kv.ttl("k") == seconds
        kv.set_many({"m": "v"}, ttl=ttl)
        assert kv.ttl("m") == seconds
        kv["e"] = "v"
        assert kv.expire("e", ttl) is True
        assert kv.ttl("e") == seconds
        kv.swap("e", "v", ttl=ttl)
        assert kv.get("e", ttl=ttl) == "v"
        assert kv.ttl("e") == seconds


CONNECT = (cairnkv.connect, cairnkv.aio.connect)


@pytest.mark.parametrize("connect", CONNECT, ids=["sync", "asyncio"])
def test_connect_accepts_durations_as_text_and_timedelta(connect: Any) -> None:
    for given in ("5s", "5", 5, timedelta(seconds=5)):
        assert connect(timeout=given, connect_timeout=given)._address.timeout == 5
    assert connect("cairn://db/?timeout=500ms&connect_timeout=2")._address.timeout == 0.5


@pytest.mark.parametrize("connect", CONNECT, ids=["sync", "asyncio"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": 5}, "an address is text such as cairn://127.0.0.1:6555, not int"),
        ({"url": ["cairn://a"]}, "an address is text"),
        ({"timeout": "soon"}, "timeout is a time such as 30s"),
        ({"timeout": True}, "timeout is a number of seconds, text such as '5s', or a timedelta, not True"),
        ({"timeout": -1}, "timeout is a number of seconds above 0"),
        ({"connect_timeout": []}, r"connect_timeout is a number of seconds, .*, not \[\]"),
        ({"attempts": "3"}, "attempts is a whole number from 1 to 100, not '3'"),
        ({"attempts": 2.5}, "attempts is a whole number from 1 to 100, not 2.5"),
        ({"codec": "yaml"}, "codec is .*, not 'yaml'"),
        ({"codec": 5}, "codec is .*, or an object with encode and decode, not 5"),
    ],
    ids=str,
)
def test_connect_errors_name_accepted_types(connect: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(cairnkv.CallerError, match=said):
        connect(**given)


@pytest.mark.parametrize("opened", [cairnkv.open, cairnkv.aio.open], ids=["sync", "asyncio"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": 5}, "path is a directory, .*; not 5"),
        ({"path": "cairn://db1"}, "'cairn://db1' is an address: cairnkv.connect takes it"),
        ({"sync": True}, "sync is always, none, or a time such as 1s or 500ms, not True"),
        ({"sync": 5}, "sync is always, none, or a time such as 1s or 500ms, not 5"),
        ({"sync": "soon"}, "sync is always, none, or a time such as 1s or 500ms, not 'soon'"),
        ({"memory_limit": "64MiB"}, "memory_limit is a number of bytes above 0, such as .*, not '64MiB'"),
        ({"memory_limit": True}, "memory_limit is a number of bytes above 0, such as .*, not True"),
        ({"when_full": True}, "when_full is 'refuse' or 'evict', not True"),
        ({"disk_limit": "1GiB"}, "disk_limit is a number of bytes"),
    ],
    ids=str,
)
def test_open_errors_name_accepted_types(opened: Any, given: dict[str, Any], said: str, tmp_path: Path) -> None:
    needs_path = {"sync", "disk_limit"} & given.keys()
    with pytest.raises(cairnkv.CallerError, match=said):
        opened(**({"path": tmp_path / "data"} if needs_path else {}), **given)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("opened", [cairnkv.open, cairnkv.aio.open])
@pytest.mark.parametrize(
    ("clock", "said"),
    [
        (5, "clock is a function that returns milliseconds since 1970, not 5"),
        (None, "clock is a function that returns milliseconds since 1970, not None"),
        ("now", "clock is a function that returns milliseconds since 1970, not 'now'"),
        (lambda: "5", "clock returned '5'; it has to return milliseconds since 1970"),
        (lambda: None, "clock returned None"),
        (lambda: float("nan"), "clock returned nan"),
        (lambda: -1, "clock returned -1"),
        (lambda: 2**64, "clock returned 18446744073709551616"),
    ],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_open_refuses_clock_without_milliseconds(
    opened: Any, clock: Any, said: str, on_disk: bool, tmp_path: Path
) -> None:
    with pytest.raises(cairnkv.OptionError, match=re.escape(said)):
        opened(tmp_path / "data" if on_disk else None, clock=clock)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("on_disk", [False, True])
def test_clock_may_return_floats(on_disk: bool, tmp_path: Path) -> None:
    now = 1_000_000.75
    clock: Any = lambda: now  # noqa: E731
    with cairnkv.open(tmp_path / "data" if on_disk else None, clock=clock) as kv:
        kv.set("a", "1", ttl=60)
        kv["b"] = "2"
        now += 30_000.5
        assert (kv.get("a"), kv["b"], kv.ttl("a"), kv.expire("b", 5)) == ("1", "2", 29.999, True)
        now += 30_000.5
        assert (kv.get("a"), kv.get("b"), kv.count()) == (None, None, 0)


def test_clock_that_returns_text_later_fails_the_call() -> None:
    now: Any = 1_000
    with cairnkv.open(clock=lambda: now) as kv:
        assert kv.get("a") is None
        now = "soon"
        with pytest.raises(cairnkv.OptionError, match="clock returned 'soon'"):
            kv.get("a")
        with pytest.raises(cairnkv.OptionError, match="clock returned 'soon'"):
            kv.set("a", "1", ttl=5)
        now = 2_000
        assert kv.count() == 0


def test_backup_error_names_accepted_counts(tmp_path: Path) -> None:
    with cairnkv.open(tmp_path / "data") as kv, pytest.raises(cairnkv.OptionError, match=r"keep is a number .*'7'"):
        kv.backup(tmp_path / "kept", keep="7")  # type: ignore[arg-type]


def test_codec_that_returns_no_bytes_is_named() -> None:
    class Wrong:
        def encode(self, value: object) -> bytes:
            return str(value)  # type: ignore[return-value]

        def decode(self, data: bytes) -> object:
            return data

    with running_server() as server, cairnkv.connect(server.url, codec=Wrong()) as kv:
        with pytest.raises(cairnkv.CodecError, match="the codec's encode returns bytes; Wrong returned '5'"):
            kv.set("k", 5)
        assert kv.count() == 0

"""Host names with several addresses, and name servers that do not answer: a call ends in its timeout."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.limits import ADDRESSES_MAX, LOOKUPS_MAX
from tests.support.scripted import scripted

from .test_sync import answer_everything

pytestmark = pytest.mark.same_code

TIMEOUT = 6.0
"""Timeout of the calls in seconds. A busy computer can reach an address within its share of this time."""

LATE = 30.0
"""Seconds after which a call has clearly ignored its timeout."""

Ask = Callable[[str], str | None]


def ask_sync(url: str) -> str | None:
    with cairnkv.connect(url, timeout=TIMEOUT) as kv:
        return kv.get("k")


def ask_async(url: str) -> str | None:
    async def ask() -> str | None:
        async with cairnkv.aio.connect(url, timeout=TIMEOUT) as kv:
            return await kv.get("k")

    return asyncio.run(ask())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@contextlib.contextmanager
def dead_address(address: str, port: int) -> Iterator[None]:
    """An address that answers no connection attempt: its queue is full."""
    with contextlib.ExitStack() as kept:
        listener = kept.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            waiting = kept.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        yield


@pytest.fixture
def name_has(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the name `db` these addresses."""
    real = socket.getaddrinfo

    def have(*addresses: str) -> None:
        def lookup(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            if host not in ("db", b"db"):
                return real(host, port, *rest, **more)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", lookup)

    return have


@pytest.mark.parametrize("dead", [("127.0.0.2",), ("127.0.0.2", "127.0.0.3", "127.0.0.4")], ids=["one", "three"])
def test_client_reaches_the_address_behind_dead_ones(
    ask: Ask, name_has: Callable[..., None], dead: tuple[str, ...]
) -> None:
    with scripted(answer_everything) as server, contextlib.ExitStack() as kept:
        for address in dead:
            kept.enter_context(dead_address(address, server.port))
        name_has(*dead, "127.0.0.1")
        assert ask(f"cairn://db:{server.port}") == "k"


def test_client_reaches_the_address_behind_one_that_refuses(ask: Ask, name_has: Callable[..., None]) -> None:
    with scripted(answer_everything) as server:
        name_has("127.0.0.9", "127.0.0.1")
        assert ask(f"cairn://db:{server.port}") == "k"


def test_call_ends_in_its_timeout_when_all_addresses_are_dead(ask: Ask, name_has: Callable[..., None]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        dead = ("127.0.0.2", "127.0.0.3")
        with dead_address(dead[0], port), dead_address(dead[1], port):
            name_has(*dead)
            began = time.monotonic()
            with pytest.raises(cairnkv.Unavailable, match="db"):
                ask(f"cairn://db:{port}")
            assert time.monotonic() - began < LATE


def test_error_names_each_address_with_its_reason(name_has: Callable[..., None]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # which refuses, since it does not listen
        port = taken.getsockname()[1]
        name_has("127.0.0.1", "127.0.0.9")
        with cairnkv.connect(f"cairn://db:{port}", attempts=1) as kv, pytest.raises(cairnkv.Unavailable) as caught:
            kv.get("k")
    assert "127.0.0.1: Connection refused" in str(caught.value)
    assert "127.0.0.9: Connection refused" in str(caught.value)


def test_client_tries_a_bounded_number_of_addresses(name_has: Callable[..., None]) -> None:
    with scripted(answer_everything) as server:
        name_has(*(f"127.0.1.{n}" for n in range(1, ADDRESSES_MAX + 1)), "127.0.0.1")
        with cairnkv.connect(f"cairn://db:{server.port}", attempts=1) as kv, pytest.raises(cairnkv.Unavailable):
            kv.get("k")


# -- name servers that do not answer -----------------------------------------------------------------------------------


@pytest.fixture
def silent_name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Lookups wait until the test ends; the names that were asked for."""
    over = threading.Event()
    asked: list[str] = []

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        asked.append(host)
        over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    yield asked
    over.set()


def test_call_ends_in_its_timeout_when_no_name_server_answers(ask: Ask, silent_name_server: list[str]) -> None:
    began = time.monotonic()
    with pytest.raises(cairnkv.Unavailable, match="db"):
        ask("cairn://db")
    assert time.monotonic() - began < LATE
    assert silent_name_server == ["db"]


def test_lookups_of_one_name_share_a_thread(silent_name_server: list[str]) -> None:
    for _ in range(3):
        with cairnkv.connect("cairn://one", timeout=0.1) as kv, pytest.raises(cairnkv.Unavailable, match="name lookup"):
            kv.get("k")
    assert silent_name_server == ["one"]


def test_lookups_under_way_are_bounded(silent_name_server: list[str]) -> None:
    for n in range(LOOKUPS_MAX):
        with cairnkv.connect(f"cairn://n{n}", timeout=0.02, attempts=1) as kv, pytest.raises(cairnkv.Unavailable):
            kv.get("k")
    refused = pytest.raises(cairnkv.Unavailable, match=f"{LOOKUPS_MAX} name lookups")
    with cairnkv.connect("cairn://more", timeout=5, attempts=1) as kv, refused:
        kv.get("k")
    assert "more" not in silent_name_server


def test_address_literals_need_no_name_server(ask: Ask, silent_name_server: list[str]) -> None:
    with scripted(answer_everything) as server:
        assert ask(f"cairn://127.0.0.1:{server.port}") == "k"
    assert silent_name_server == []


def test_invalid_host_name_gets_a_clear_error() -> None:
    refused = pytest.raises(cairnkv.Unavailable, match="is not a host name")
    with cairnkv.connect(f"cairn://{'x' * 70}.example", attempts=1) as kv, refused:
        kv.get("k")


@pytest.mark.parametrize("command", [["get", "k"], ["set", "k", "v"]], ids=["get", "set"])
def test_command_line_ends_in_its_timeout_when_no_name_server_answers(tmp_path: Path, command: list[str]) -> None:
    """The lookup takes longer than the test may."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, time\ndef lookup(*_, **__):\n    time.sleep(600)\nsocket.getaddrinfo = lookup\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "cairnkv", *command, "--url", "cairn://db/?timeout=1"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert "name lookup" in ran.stderr

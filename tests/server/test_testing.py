"""The test support for users: clock, fixtures, and a server in a thread."""

import subprocess
import sys
import threading

import pytest

import cairnkv
from cairnkv.commands import Count, Get, Info, Ping, Set, SetWith
from cairnkv.errors import OptionError
from cairnkv.protocol.native import Response, unpack_strings
from cairnkv.testing import ManualClock, RunningServer, running_server
from tests.server.conftest import Start
from tests.support.raw import OK, PONG, RawClient, eventually

pytest_plugins = ["pytester"]


def test_manual_clock_moves_only_if_advanced() -> None:
    clock = ManualClock()
    before = clock()
    assert clock() == before
    clock.advance(0.001)
    clock.advance(2)
    assert clock() == before + 2_001
    clock.advance(-1)
    assert clock() == before + 1_001


def test_manual_clock_counts_advances_of_all_threads() -> None:
    clock = ManualClock(0)
    threads = [threading.Thread(target=lambda: [clock.advance(0.001) for _ in range(5_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock() == 40_000


def test_fixture_cairn_queue_is_a_queue_with_a_clock(
    cairn_queue: "cairnkv.Queue[object]", cairn: "cairnkv.Embedded[str, str]", cairn_clock: ManualClock
) -> None:
    failures = ["the mail server is down"]

    def send(job: "cairnkv.Job[object]") -> None:
        if failures:
            raise OSError(failures.pop())

    cairn_queue.put({"to": "anna"})
    cairn_queue.run(send, drain=True)
    assert [message.reason for message in cairn_queue.peek("delayed")] == ["OSError: the mail server is down"]
    cairn_clock.advance("1h")
    cairn_queue.run(send, drain=True)
    assert cairn_queue.stats()["acked"] == 1
    assert list(cairn.queues()) == ["test"]


def test_fixture_cairn_is_a_store_with_a_clock(cairn: "cairnkv.Embedded[str, str]", cairn_clock: ManualClock) -> None:
    cairn.set("session", "42", ttl=60)
    assert cairn.get("session") == "42"
    cairn_clock.advance(60)
    assert cairn.get("session") is None


def test_fixture_cairn_server_is_a_server_with_that_clock(
    cairn_server: RunningServer, cairn_clock: ManualClock
) -> None:
    assert cairn_server.clock is cairn_clock
    with cairnkv.connect(cairn_server.url) as kv:
        kv.set("session", "42", ttl=60)
        assert kv.get("session") == "42"
        cairn_clock.advance(59.999)
        assert kv.get("session") == "42"
        cairn_clock.advance(0.001)
        assert kv.get("session") is None


def test_expired_keys_are_removed_in_the_background(start_on_both: Start) -> None:
    """No command reads the keys again, and their memory is freed."""
    server = start_on_both()
    clock = server.clock
    assert isinstance(clock, ManualClock)
    with RawClient(server.address) as client:
        client.send_commands([SetWith(b"key-%d" % n, b"v" * 100, ttl=1_000 + n) for n in range(3_000)])
        assert client.replies(3_000) == [Response(True, b"1")] * 3_000
        assert client.ask(Set(b"stays", b"")) == OK
        clock.advance(2)
        assert client.ask(Count()) == Response(True, b"2000")
        clock.advance(10)
        assert client.ask(Count()) == Response(True, b"1")

        def told(name: bytes) -> int:
            strings = unpack_strings(client.ask(Info()).payload)
            return int(dict(zip(strings[::2], strings[1::2], strict=True))[name] or 0)

        eventually(lambda: told(b"expired_keys") == 3_000)
        assert told(b"used_bytes") < 1_000
        clock.advance(-3_600)  # log time does not go back, so nothing comes back
        assert client.ask(Get(b"key-2999")).missing


def test_fixtures_are_available_to_other_projects(pytester: pytest.Pytester) -> None:
    """Through the plugin's entry point, without an import or configuration."""
    pytester.makepyfile(
        """
        import cairnkv

        def test_one(cairn):
            cairn.set("k", "v")

        def test_two(cairn, cairn_clock, cairn_server):
            assert cairn.get("k") is None
            with cairnkv.connect(cairn_server.url) as kv:
                kv.set("k", "v", ttl=1)
                cairn_clock.advance(1)
                assert kv.get("k") is None
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_plugin_is_cheap_to_import() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import cairnkv.testing; "
        "print(*sorted(name for name in set(sys.modules) - before if name.split('.')[0] in "
        "('asyncio', 'uvloop', 'ssl', 'socket', 'rich', 'prompt_toolkit') or name.startswith('cairnkv.')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(result.stdout.split())
    assert "cairnkv.testing" in loaded
    assert not {name for name in loaded if name.startswith(("cairnkv.server", "cairnkv.client", "cairnkv.store"))}
    assert not loaded & {"uvloop", "asyncio.base_events"}


def test_options_are_those_of_the_server() -> None:
    with running_server(max_value="1KiB", idle_timeout=5.0) as server:
        assert server.server.settings.max_value == 1_024
        assert server.server.settings.idle_timeout == 5.0
        assert server.url == f"cairn://127.0.0.1:{server.address and server.address[1]}"
    with pytest.raises(OptionError, match="did you mean max-value"), running_server(max_vlaue=3):
        pass
    with pytest.raises(OptionError, match="a size such as"), running_server(max_value="lots"):
        pass


def test_server_on_a_unix_socket_has_no_address(tmp_path_unix: str) -> None:
    with running_server(unix=tmp_path_unix, no_tcp=True) as server, RawClient(tmp_path_unix) as client:
        assert server.address is None
        assert server.url == f"cairn+unix://{tmp_path_unix}"
        assert client.ask(Ping(b"")) == PONG


def test_error_in_the_server_thread_fails_the_test() -> None:
    def go_wrong() -> None:
        raise ZeroDivisionError("in the server's thread")

    with pytest.raises(ZeroDivisionError, match="in the server's thread"), running_server() as server:
        server.loop.call_soon_threadsafe(go_wrong)
    with running_server() as server, pytest.raises(ZeroDivisionError):
        server.call(go_wrong)


def test_error_of_the_test_itself_is_not_hidden(start: Start) -> None:
    with pytest.raises(KeyError, match="mine"), running_server():
        raise KeyError("mine")
    assert not [thread for thread in threading.enumerate() if thread.name == "cairnkv server" and thread.is_alive()]

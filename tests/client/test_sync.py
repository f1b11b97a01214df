"""The sync client under faults: replies reach their calls, reads are repeated, and outcomes are reported truly."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import cairnkv
from cairnkv.commands import OK, Failure, Get, Ping, failures
from cairnkv.limits import ARGUMENTS_MAX
from cairnkv.testing import running_server
from tests.support.patience import AT_ONCE
from tests.support.scripted import Conversation, scripted


def answer_everything(conversation: Conversation) -> None:
    """Answer GET with the key, so that a reply tells which call it belongs to, and all else with OK."""
    while (request := conversation.command()) is not None:
        command = request.command
        conversation.say(command.key if isinstance(command, Get) else b"PONG" if isinstance(command, Ping) else OK)


def hang_up_after_a_command(conversation: Conversation) -> None:
    conversation.command()


def say_nothing(conversation: Conversation) -> None:
    while conversation.command() is not None:
        pass


# -- timeouts ----------------------------------------------------------------------------------------------------


def test_read_without_a_reply_times_out_and_may_be_repeated() -> None:
    with scripted(say_nothing) as server, cairnkv.connect(server.url, timeout=0.2) as kv:
        began = time.monotonic()
        with pytest.raises(cairnkv.TimedOut) as caught:
            kv.get("k")
        assert caught.value.retry is True
        assert isinstance(caught.value, TimeoutError | ConnectionError)
        assert time.monotonic() - began < AT_ONCE


def test_write_without_a_reply_is_of_unknown_outcome() -> None:
    with scripted(say_nothing) as server, cairnkv.connect(server.url, timeout=0.2) as kv:
        with pytest.raises(cairnkv.OutcomeUnknown, match=r"SET .* it was executed, or it was not") as caught:
            kv.set("k", "v")
        assert caught.value.retry is False
    assert len(server.conversations) == 1


def test_late_reply_is_not_read_as_that_of_the_next_call() -> None:
    asked_again = threading.Event()

    def late(conversation: Conversation) -> None:
        conversation.command()
        asked_again.wait(10)
        conversation.say(b"too late")

    with scripted(late, answer_everything) as server, cairnkv.connect(server.url, timeout=0.3, attempts=1) as kv:
        with pytest.raises(cairnkv.TimedOut):
            kv.get("first")
        asked_again.set()
        assert kv.get("second") == "second"


def test_trickling_reply_is_bounded_by_the_timeout() -> None:
    def trickle(conversation: Conversation) -> None:
        conversation.command()
        conversation.raw(bytes.fromhex("00 30 00 10 00 00"))
        while not given_up.wait(0.05):
            conversation.raw(b"x")

    given_up = threading.Event()
    with scripted(trickle) as server, cairnkv.connect(server.url, timeout=0.3, attempts=1) as kv:
        began = time.monotonic()
        with pytest.raises(cairnkv.TimedOut):
            kv.get("k")
        assert time.monotonic() - began < AT_ONCE
        given_up.set()


def test_an_interrupted_call_does_not_disturb_the_next_one() -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    def slow_once(conversation: Conversation) -> None:
        conversation.command()
        time.sleep(0.3)
        conversation.say(b"of the interrupted call")
        answer_everything(conversation)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with scripted(slow_once, answer_everything) as server, cairnkv.connect(server.url) as kv:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(Interrupted):
                kv.get("first")
            assert kv.get("second") == "second"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- what is repeated --------------------------------------------------------------------------------------------


def test_a_read_is_repeated_when_the_connection_is_lost() -> None:
    with scripted(hang_up_after_a_command, answer_everything) as server, cairnkv.connect(server.url) as kv:
        assert kv.get("k") == "k"
    assert len(server.conversations) == 2


def test_a_write_is_not_repeated_when_the_connection_is_lost() -> None:
    with scripted(hang_up_after_a_command, answer_everything) as server, cairnkv.connect(server.url) as kv:
        with pytest.raises(cairnkv.OutcomeUnknown):
            kv.incr("k")
        assert len(server.conversations) == 1
        assert kv.get("k") == "k"


def test_repetitions_are_bounded() -> None:
    with scripted(hang_up_after_a_command) as server, cairnkv.connect(server.url, attempts=3) as kv:
        with pytest.raises(cairnkv.Unavailable):
            kv.get("k")
        assert len(server.conversations) == 3


def test_call_that_failed_as_not_executed_is_repeated() -> None:
    def undone_once(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(Failure(failures.UNDONE, "the log was busy"))
        answer_everything(conversation)

    with scripted(undone_once) as server, cairnkv.connect(server.url) as kv:
        assert kv.set("k", "v") is True


def test_write_refused_by_a_full_server_is_not_repeated() -> None:
    asked = []

    def full(conversation: Conversation) -> None:
        while conversation.command() is not None:
            asked.append(1)
            conversation.say(Failure(failures.FULL, "no room"))

    with scripted(full) as server, cairnkv.connect(server.url) as kv:
        with pytest.raises(cairnkv.Refused, match="FULL no room") as caught:
            kv.set("k", "v")
        assert caught.value.code == "FULL"
        assert caught.value.retry is True
    assert len(asked) == 1


def test_call_to_a_busy_server_is_repeated_on_a_new_connection() -> None:
    def busy(conversation: Conversation) -> None:
        conversation.command()
        conversation.fail(Failure(failures.BUSY, "too many clients"))

    with scripted(busy, answer_everything) as server, cairnkv.connect(server.url) as kv:
        assert kv.set("k", "v") is True
    assert len(server.conversations) == 2


def test_unknown_from_the_server_is_an_unknown_outcome() -> None:
    def unknown(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(Failure(failures.UNKNOWN, "the disk failed"))

    with scripted(unknown) as server, cairnkv.connect(server.url) as kv, pytest.raises(cairnkv.OutcomeUnknown):
        kv.set("k", "v")
    assert len(server.conversations) == 1


def test_closed_idle_connection_is_detected_before_a_write() -> None:
    ended = threading.Event()

    def end_when_quiet(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(OK)
        conversation.hang_up()
        ended.set()

    with scripted(end_when_quiet, answer_everything) as server, cairnkv.connect(server.url) as kv:
        kv.set("k", "1")
        assert ended.wait(10)
        time.sleep(0.1)  # longer than a connection is used unlooked at
        assert kv.set("k", "2") is True
    assert len(server.conversations) == 2


# -- addresses ---------------------------------------------------------------------------------------------------


def test_several_addresses_are_tried_in_order() -> None:
    with scripted(answer_everything) as gone:
        dead = gone.port
    with (
        scripted(answer_everything) as server,
        cairnkv.connect(f"cairn://127.0.0.1:{dead},127.0.0.1:{server.port}") as kv,
    ):
        assert kv.set("k", "v") is True


def test_refused_connection_is_an_error() -> None:
    with scripted(answer_everything) as gone:
        url = gone.url
    with cairnkv.connect(url, attempts=2) as kv, pytest.raises(cairnkv.Unavailable, match="cannot connect to 127") as e:
        kv.set("k", "v")
    assert e.value.retry is True


def test_client_uses_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "cairn.sock"
    with running_server(unix=str(path)), cairnkv.connect(f"cairn+unix://{path}") as kv:
        kv["k"] = "v"
        assert kv["k"] == "v"


def test_closed_client_raises() -> None:
    with running_server() as server:
        kv = cairnkv.connect(server.url)
        kv.ping()
        kv.close()
        with pytest.raises(cairnkv.CallerError, match="closed"):
            kv.ping()


# -- what a server may answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 20, bytes.fromhex("00 32 00 00 00 00")],
    ids=["another protocol", "another status"],
)
def test_malformed_reply_is_a_peer_error(garbage: bytes) -> None:
    def babble(conversation: Conversation) -> None:
        conversation.command()
        conversation.raw(garbage)

    with scripted(babble, answer_everything) as server, cairnkv.connect(server.url) as kv:
        with pytest.raises(cairnkv.PeerError):
            kv.get("k")
        assert kv.get("k") == "k"


def test_both_status_bytes_are_decoded() -> None:
    with running_server(status_byte="binary") as server, cairnkv.connect(server.url) as kv:
        kv["k"] = "v"
        assert kv["k"] == "v"
        assert kv.get("nobody") is None
        with pytest.raises(cairnkv.BadCommand):
            kv.incr("k")


def test_value_over_the_limit_of_the_server_raises() -> None:
    with running_server(max_value="1MiB", max_frame="2MiB") as server, cairnkv.connect(server.url) as kv:
        with pytest.raises(cairnkv.BadCommand, match="TOOBIG") as caught:
            kv.set("k", "x" * (1024 * 1024 + 1))
        assert caught.value.code == "TOOBIG"
        assert kv.set("k", "x" * 1024 * 1024) is True


def test_long_values_in_both_directions() -> None:
    value = os.urandom(1024) * 20_000
    with running_server() as server, cairnkv.connect(server.url, codec="bytes") as kv:
        kv.set("k", value)
        assert kv.get("k") == value


# -- threads and processes ---------------------------------------------------------------------------------------


def test_threads_share_a_client() -> None:
    wrong: list[object] = []

    def use(name: str) -> None:
        try:
            for n in range(200):
                kv.set(name, f"{name} {n}")
                if (got := kv.get(name)) != f"{name} {n}":
                    wrong.append((name, n, got))
        except BaseException as error:
            wrong.append(error)

    with running_server() as server, cairnkv.connect(server.url) as kv:
        threads = [threading.Thread(target=use, args=(f"thread {n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert kv.count() == 8
    assert wrong == []


FORK = """
import os, sys
import cairnkv
kv = cairnkv.connect(sys.argv[1])
kv.set("k", "parent")
assert kv.info()["connections"] == 1
child = os.fork()
for n in range(100):
    name = f"{os.getpid()} {n}"
    kv.set(name, name)
    assert kv.get(name) == name
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert kv.count() == 201
print("both were right")
"""


def test_forked_process_opens_its_own_connection() -> None:
    with running_server() as server:
        ran = subprocess.run(
            [sys.executable, "-c", FORK, server.url], capture_output=True, text=True, timeout=60, check=False
        )
    assert (ran.stdout, ran.stderr) == ("both were right\n", "")


# -- pipelines ---------------------------------------------------------------------------------------------------


def test_pipeline_returns_each_result() -> None:
    with running_server() as server, cairnkv.connect(server.url) as kv:
        with kv.pipeline() as pipeline:
            stored = [pipeline.set(f"key {n}", "x" * n) for n in range(2_000)]
            got = [pipeline.get(f"key {n}") for n in range(2_000)]
            missing = pipeline.get("nobody", "default")
        assert all(result.result() for result in stored)
        assert [result.result() for result in got] == ["x" * n for n in range(2_000)]
        assert missing.result() == "default"


def test_pipeline_with_replies_larger_than_every_buffer() -> None:
    with running_server() as server, cairnkv.connect(server.url, codec="bytes", timeout=30) as kv:
        kv.set("k", bytes(1_000_000))
        with kv.pipeline() as pipeline:
            got = [pipeline.get("k") for _ in range(60)]
            stored = [pipeline.set("k", bytes(900_000)) for _ in range(20)]
        assert {len(result.result() or b"") for result in got} == {1_000_000}
        assert all(result.result() for result in stored)


def test_a_pipeline_raises_its_first_error_and_keeps_the_rest() -> None:
    with running_server() as server, cairnkv.connect(server.url) as kv:
        kv.set("k", "no number")
        pipeline = kv.pipeline()
        before = pipeline.set("a", "1")
        bad = pipeline.incr("k")
        behind = pipeline.incr("a")
        with pytest.raises(cairnkv.BadCommand, match="NOTINT"):
            pipeline.execute()
        assert before.result() is True
        assert behind.result() == 2
        with pytest.raises(cairnkv.BadCommand):
            bad.result()


def test_cut_off_pipeline_reports_the_outcome_of_each_command() -> None:
    def two_then_gone(conversation: Conversation) -> None:
        for _ in range(2):
            conversation.command()
            conversation.say(OK)

    with scripted(two_then_gone) as server, cairnkv.connect(server.url) as kv:
        pipeline = kv.pipeline()
        known = [pipeline.set("a", "1"), pipeline.set("b", "2")]
        written, read = pipeline.set("c", "3"), pipeline.get("a")
        with pytest.raises(cairnkv.OutcomeUnknown):
            pipeline.execute()
        assert [result.result() for result in known] == [True, True]
        assert isinstance(written.error, cairnkv.OutcomeUnknown)
        assert isinstance(read.error, cairnkv.Unavailable)


def test_pipeline_timeout_counts_from_the_last_reply() -> None:
    def slow(conversation: Conversation) -> None:
        while (request := conversation.command()) is not None:
            assert isinstance(request.command, Get)
            time.sleep(0.4)
            conversation.say(request.command.key)

    with scripted(slow) as server, cairnkv.connect(server.url, timeout=2, attempts=1) as kv:
        with kv.pipeline() as pipeline:
            got = [pipeline.get(f"k{n}") for n in range(8)]
        assert [result.result() for result in got] == [f"k{n}" for n in range(8)]


def test_pipeline_times_out_when_replies_stop() -> None:
    def stop(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(b"first")
        say_nothing(conversation)

    with scripted(stop) as server, cairnkv.connect(server.url, timeout=0.5, attempts=1) as kv:
        pipeline = kv.pipeline()
        first, second = pipeline.get("a"), pipeline.get("b")
        with pytest.raises(cairnkv.TimedOut):
            pipeline.execute()
        assert first.result() == "first"
        assert isinstance(second.error, cairnkv.TimedOut)


def test_unexecuted_pipeline_has_no_results() -> None:
    kv = cairnkv.connect("cairn://127.0.0.1:1")
    pipeline = kv.pipeline()
    pending = pipeline.get("k")
    with pytest.raises(cairnkv.CallerError, match="has not been executed yet"):
        pending.result()
    with pytest.raises(ZeroDivisionError), pipeline:
        _ = 1 / 0
    with pytest.raises(cairnkv.CallerError):
        pending.result()


# -- what a fresh pair of eyes found ----------------------------------------------------------------------------


def test_commands_after_a_failure_that_closes_are_not_executed() -> None:
    with running_server(max_value="1KiB", max_frame="1MiB") as server, cairnkv.connect(server.url) as kv:
        pipeline = kv.pipeline()
        before, big, behind = pipeline.set("a", "1"), pipeline.set("b", "x" * 1_025), pipeline.set("c", "3")
        with pytest.raises(cairnkv.BadCommand, match="TOOBIG"):
            pipeline.execute()
        assert before.result() is True
        assert isinstance(big.error, cairnkv.BadCommand)
        assert isinstance(behind.error, cairnkv.Unavailable)
        assert list(kv.scan()) == ["a"]


THREADS = 40
"""Enough that the timeouts of all of them, one after the other, take longer than what counts as at once."""


def test_threads_wait_for_the_connection_up_to_the_timeout() -> None:
    took: list[float] = []
    errors: list[type[BaseException]] = []

    together = threading.Barrier(THREADS)

    def call() -> None:
        together.wait(30)
        began = time.monotonic()
        try:
            kv.set("k", "v")
        except cairnkv.CairnError as error:
            errors.append(type(error))
        took.append(time.monotonic() - began)

    with scripted(say_nothing) as server, cairnkv.connect(server.url, timeout=0.5) as kv:
        threads = [threading.Thread(target=call) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(took) == THREADS
    assert max(took) < AT_ONCE < THREADS * 0.5, "no thread waits for the timeouts of the others"
    assert cairnkv.TimedOut in errors


def test_sending_to_a_slow_server_is_bounded_by_the_timeout() -> None:
    def read_slowly(conversation: Conversation) -> None:
        for _ in range(5_000):
            if not conversation.socket.recv(20_000):
                return
            time.sleep(0.02)

    with scripted(read_slowly) as server, cairnkv.connect(server.url, timeout=0.5) as kv:
        began = time.monotonic()
        with pytest.raises(cairnkv.OutcomeUnknown):
            kv.set("k", "x" * 12_000_000)
        assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize("keys", ["ab", b"ab"])
def test_single_key_is_refused_where_several_are_expected(keys: str | bytes) -> None:
    with cairnkv.open() as kv:
        kv.set_many({"a": "1", "b": "2"})
        for call in (kv.get_many, kv.clear_many):
            with pytest.raises(cairnkv.CodecError, match="several keys"):
                call(keys)  # type: ignore[arg-type]
        assert kv.count() == 2


def test_empty_list_of_keys_sends_nothing() -> None:
    with running_server() as server, cairnkv.connect(server.url) as kv:
        assert kv.get_many([]) == {}
        assert kv.clear_many([]) == 0
        kv.set_many({})
        with kv.pipeline() as pipeline:
            nothing = pipeline.get_many([])
        assert nothing.result() == {}


@pytest.mark.parametrize("n", [1.5, "1", None])
def test_incr_takes_integers(n: object) -> None:
    with cairnkv.open() as kv:
        with pytest.raises(cairnkv.BadCommand, match="is an integer"):
            kv.incr("k", n)  # type: ignore[arg-type]
        assert kv.count() == 0


def test_lone_surrogate_is_refused() -> None:
    with cairnkv.open() as kv:
        for call in (lambda: kv.get("\ud800"), lambda: kv.set("k", "\ud800"), lambda: kv.ping("\ud800")):
            with pytest.raises(cairnkv.CodecError, match="surrogates"):
                call()


def test_open_refuses_unsupported_addresses() -> None:
    for wrong in ({"memory_limit": "1GiB"}, {"memory_limit": 0}, {"when_full": "x"}):
        with pytest.raises(cairnkv.OptionError):
            cairnkv.open(**wrong)


def test_an_embedded_store_has_the_servers_limits() -> None:
    with cairnkv.open(codec="bytes") as kv:
        with pytest.raises(cairnkv.BadCommand, match="TOOBIG"):
            kv.set("k", bytes(64 * 1024 * 1024 + 1))
        with pytest.raises(cairnkv.BadCommand, match="TOOBIG"):
            kv.get_many([b"k"] * (ARGUMENTS_MAX + 1))
        assert kv.set("k", bytes(64 * 1024 * 1024)) is True


@pytest.mark.parametrize("first", ["get", "set", "pipeline of get", "local get"])
def test_client_works_with_a_server_of_four_byte_numbers(first: str) -> None:
    """Such a server misreads a GET as the first frame, and no other command."""
    with running_server(command_width="4") as server, cairnkv.connect(server.url) as kv:
        match first:
            case "get":
                assert kv.get("k") is None
            case "set":
                assert kv.set("k", "v")
            case "local get":
                assert kv.local().get("k") is None
            case _:
                with kv.pipeline() as pipeline:
                    missing, stored = pipeline.get("k"), pipeline.set("k", "v")
                assert missing.result() is None
                assert stored.result()
        assert kv.set("k", "v")
        assert kv.get("k") == "v"
        with pytest.raises(cairnkv.CallerError):
            kv.get("k" * 70_000)

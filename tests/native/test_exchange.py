"""The clients' native functions give what their pure twins give, and keep the timeout under signals."""

import asyncio
import signal
import socket
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import BY_NUMBER, Get, Set
from cairnkv.errors import PeerError
from cairnkv.protocol import StatusByte, write_command
from cairnkv.protocol.native import reply_parts
from tests.support.paths import native_only, twin
from tests.support.patience import AT_ONCE
from tests.support.strategies import commands, cuttings, replies

pytestmark = native_only


class TestEqualResults:
    @given(commands())
    def test_bytes_for_any_command(self, command: Any) -> None:
        assert b"".join(twin("command_parts", "native")(command)) == write_command(command)

    @pytest.mark.parametrize("size", [65_518, 65_519, 65_520, 1_000_000])
    def test_bytes_for_values_around_the_joining_size(self, size: int) -> None:
        command = Set(b"key", bytes(size))
        parts = twin("command_parts", "native")(command)
        assert b"".join(parts) == write_command(command)
        assert (len(parts) == 1) == (len(write_command(command)) <= 65_536)

    @pytest.mark.parametrize("value", [bytearray(b"abc"), "text", 5])
    def test_error_for_a_value_that_is_not_bytes(self, value: Any) -> None:
        """A custom codec may return any type."""
        outcomes: list[object] = []
        for path in ("pure", "native"):
            try:
                outcomes.append(b"".join(twin("command_parts", path)(Set(b"k", value))))
            except TypeError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]

    @given(data=st.data(), status_byte=st.sampled_from(StatusByte))
    def test_replies_in_any_pieces(self, data: st.DataObject, status_byte: StatusByte) -> None:
        words = data.draw(st.lists(st.sampled_from([*BY_NUMBER.values()]), max_size=12))
        said = b"".join(b"".join(reply_parts(data.draw(replies(word)), status_byte)) for word in words)
        assert_same(words, data.draw(cuttings(said)))

    @given(data=st.data())
    def test_any_bytes_as_replies(self, data: st.DataObject) -> None:
        words = data.draw(st.lists(st.sampled_from([*BY_NUMBER.values()]), min_size=1, max_size=8))
        heads = st.builds(
            lambda header, status, length: bytes((header, status)) + length.to_bytes(4, "big"),
            st.sampled_from([0, 1, 2, 4, 8, 9, 255]),
            st.sampled_from([0x00, 0x01, 0x30, 0x31, 0x02, 0x11, 0xFF]),
            st.sampled_from([0, 1, 3, 8, 2**32 - 1]),
        )
        said = b"".join(data.draw(st.lists(heads | st.binary(max_size=12), max_size=10)))
        assert_same(words, data.draw(cuttings(said)))

    def test_every_status_byte(self) -> None:
        for status in range(256):
            assert_same([Get.spec], [bytes((0, status, 0, 0, 0, 1)), b"x"])


def assert_same(words: list[Any], pieces: list[bytes]) -> None:
    """Both decoders say the same, piece by piece, and keep the same number of bytes."""
    said: dict[str, list[object]] = {"pure": [], "native": []}
    for path, events in said.items():
        decoder = twin("ReplyDecoder", path)()
        left = list(words)
        for piece in pieces:
            decoder.feed(piece)
            try:
                while left and (reply := decoder.reply(left[0])) is not None:
                    events.append(reply)
                    left.pop(0)
            except PeerError as error:
                events.append(str(error))
                left = left[1:]
            events.append(decoder.pending)
    assert said["native"] == said["pure"]


def test_signals_do_not_extend_the_deadline() -> None:
    """Python's blocking sockets, which the pure path uses, restart their timeout with each signal."""
    ours, theirs = socket.socketpair()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        began = time.monotonic()
        with ours, theirs, pytest.raises(TimeoutError):
            twin("Line", "native")(ours).receive(time.monotonic() + 0.2)
        assert time.monotonic() - began < AT_ONCE
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_wait_for_a_slow_server_does_not_spin() -> None:
    """It wakes at intervals only, to see whether the server has become quick."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = twin("Line", "native")(ours)
        awake = 0
        for _ in range(60):
            awake += line.asleep == 0
            with pytest.raises(TimeoutError):
                line.receive(time.monotonic() + 0.005)
        assert awake < 15
        while line.asleep:
            theirs.send(b"x")
            line.receive(time.monotonic() + 5)
        theirs.send(b"quick again")
        line.receive(time.monotonic() + 5)
        assert line.asleep == 0


async def test_reply_future_is_awaited_by_one_task() -> None:
    due = twin("ReplyFuture", "native")(Get.spec, 0.0, twin("Waking", "native")(asyncio.get_running_loop()))

    async def wait() -> object:
        return await due

    first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    with pytest.raises(asyncio.InvalidStateError, match="one task"):
        await second
    due.settle(b"x")
    assert await first == b"x"

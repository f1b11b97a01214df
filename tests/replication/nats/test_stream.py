"""The stream: published entries come back in order, exactly once; JetStream's silent losses are detected."""

import asyncio
import contextlib
import functools
import itertools
import logging

import pytest
from nats.aio.msg import Msg

from cairnkv.errors import Unavailable
from cairnkv.limits import KIB, MIB
from cairnkv.replication.nats import consumer as consumer_module
from cairnkv.replication.nats import stream
from cairnkv.replication.nats.connection import ApiError
from cairnkv.replication.nats.stream import Identity, PastEnd, Purged, Replaced
from cairnkv.replication.nats.stream_config import declared
from tests.replication.reading import PATIENCE, Reader, api, eventually, opened, put
from tests.support.nats import Nats


def nobody(reason: str) -> None:
    raise AssertionError(reason)


def has_got(reader: Reader, count: int) -> bool:
    return len(reader.got) >= count


class TestEntries:
    async def test_reach_every_reader_in_order_and_exactly_once(self, nats: Nats) -> None:
        options = nats.options()
        async with opened(options) as one, opened(options) as other, Reader(one) as own, Reader(other) as others:
            assert one.identity == other.identity
            texts = [b"%d" % number for number in range(500)]
            for text in texts:
                one.publish(text, nobody)
            for reader in (own, others):
                await reader.has(functools.partial(has_got, reader, len(texts)))
                assert reader.texts == texts
                assert reader.positions == list(range(1, len(texts) + 1))

    async def test_received_together_are_delivered_together(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            await put(one, *(b"%d" % number for number in range(50)))
            async for batch in one.entries(0):
                assert len(batch) > 1
                break

    async def test_entries_start_after_a_log_index(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            await put(one, b"a", b"b", b"c")
            async with Reader(one, after=2) as reader, Reader(one, after=3) as at_the_end:
                await reader.has(lambda: reader.got == [(3, b"c")])
                one.publish(b"d", nobody)
                await at_the_end.has(lambda: at_the_end.got == [(4, b"d")])

    async def test_largest_message_is_accepted_and_a_larger_one_refused(self, nats: Nats) -> None:
        async with opened(nats.options()) as one, Reader(one) as reader:
            refused: list[str] = []
            one.publish(bytes(one.payload_max), nobody)
            one.publish(bytes(one.payload_max + 1), refused.append)
            assert not refused, "told within the call"
            await reader.has(lambda: [len(text) for text in reader.texts] == [one.payload_max])
            assert "NATS accepts at most 1047552" in refused[0]

    async def test_too_many_unacknowledged_entries_are_refused(
        self, nats: Nats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stream, "PUBLISHES_MAX", 10)
        async with opened(nats.options()) as one, Reader(one) as reader:
            refused: list[str] = []
            for _ in range(10):
                one.publish(b"", nobody)
            one.publish(b"", refused.append)
            await eventually(lambda: bool(refused))
            assert "has not acknowledged" in refused[0]
            await reader.has(lambda: len(reader.got) == 10)
            await eventually(lambda: not one._awaited)
            one.publish(b"", nobody)
            await reader.has(lambda: len(reader.got) == 11)

    async def test_entries_end_with_the_stream(self, nats: Nats) -> None:
        async with opened(nats.options()) as one, Reader(one) as reader:
            await asyncio.sleep(0.2)
            await one.close()
            await asyncio.wait_for(reader.task, 2)

    async def test_closed_reader_leaves_no_consumer(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            for _ in range(3):
                async with Reader(one) as reader:
                    one.publish(b"", nobody)
                    await reader.has(functools.partial(has_got, reader, 1))
            until = asyncio.get_running_loop().time() + 4  # they would be abandoned after 5
            while (await api(one, f"STREAM.INFO.{one.identity.stream}"))["state"]["consumer_count"]:
                assert asyncio.get_running_loop().time() < until
                await asyncio.sleep(0.05)


class TestSlowReader:
    async def test_gets_all_entries_with_a_small_buffer(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        """JetStream always continues here, so dropped messages are requested again."""
        monkeypatch.setattr(consumer_module, "BUFFER_LOW", 1024 * MIB)
        monkeypatch.setattr(consumer_module, "BUFFER_MAX", 256 * KIB)
        async with opened(nats.options()) as one:
            texts = [b"%d" % number + bytes(16 * KIB) for number in range(200)]
            await put(one, *texts)
            largest = 0
            take = consumer_module.Consumption.take

            def noted(self: consumer_module.Consumption, position: int, data: bytes) -> str | None:
                nonlocal largest
                said = take(self, position, data)
                largest = max(largest, self._waiting_bytes)
                return said

            async def dawdle() -> None:
                await asyncio.sleep(0.1)
                await eventually(lambda: largest > 200 * KIB)  # long before the last has come

            monkeypatch.setattr(consumer_module.Consumption, "take", noted)
            async with Reader(one, each=dawdle) as reader:
                await reader.has(lambda: len(reader.got) >= len(texts))
                assert reader.texts == texts
                assert reader.positions == list(range(1, len(texts) + 1))
                assert 200 * KIB < largest <= 256 * KIB

    async def test_blocks_its_consumer_by_flow_control(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        """No message is dropped, and no other consumer is made."""
        monkeypatch.setattr(consumer_module, "BUFFER_LOW", 64 * KIB)
        async with opened(nats.options()) as one:
            texts = [b"%d" % number + bytes(256 * KIB) for number in range(160)]
            await put(one, *texts)
            made = counted_consumers(monkeypatch)
            waiting = 0

            async def dawdle() -> None:
                nonlocal waiting
                if not waiting:
                    await asyncio.sleep(2.5)
                    (reading,) = one._consumptions
                    waiting = reading._waiting_bytes

            async with Reader(one, each=dawdle) as reader:
                await reader.has(lambda: len(reader.got) >= len(texts))
                assert reader.texts == texts
                assert len(made) == 1
                assert 0 < waiting < 36 * MIB, "all of it, and more than JetStream's window"


class TestLogIndexes:
    async def test_purged_entries_are_skipped_by_jetstream_and_detected(self, nats: Nats) -> None:
        """JetStream starts later without an error."""
        async with opened(nats.options()) as one:
            await put(one, *[b"x"] * 10)
            await one.truncate(6)
            assert (one.first, one.last) == (7, 10)
            answer, got = await consumed(one, 3, wanted=4)
            assert "error" not in answer
            assert [position(message) for message in got] == [7, 8, 9, 10]

            with pytest.raises(Purged, match="begins at position 7") as caught:
                await anext(one.entries(2))
            assert caught.value.first == 7
            assert (await anext(one.entries(6)))[0] == (7, b"x")

    async def test_purge_of_all_entries_is_detected(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            await put(one, *[b"x"] * 10)
            await one.truncate(10)
            with pytest.raises(Purged) as caught:
                await anext(one.entries(9))
            assert caught.value.first == 11
            async with Reader(one, after=10) as reader:
                one.publish(b"y", nobody)
                await reader.has(lambda: reader.got == [(11, b"y")])

    async def test_purge_during_consumption_is_detected(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(consumer_module, "BUFFER_LOW", 64 * KIB)
        monkeypatch.setattr(consumer_module, "BUFFER_MAX", 512 * KIB)
        async with opened(nats.options()) as one:
            await put(one, *[bytes(128 * KIB)] * 40)
            held_up = asyncio.Event()
            async with Reader(one, each=held_up.wait) as reader:
                await reader.has(lambda: bool(reader.got))
                await one.truncate(39)
                held_up.set()
                with pytest.raises(Purged) as caught:
                    await reader.has(lambda: 40 in reader.positions)
                assert caught.value.first == 40
                assert reader.positions == list(range(1, reader.positions[-1] + 1)), "what came before is handed out"

    async def test_deletion_of_a_single_message_is_detected(self, nats: Nats) -> None:
        """Our streams do not allow that; others' may."""
        options = nats.options()
        name = f"CAIRN_{options.name}"
        async with opened(nats.options()) as any_other:
            config = declared(options, 3) | {"deny_delete": False}
            await api(any_other, f"STREAM.CREATE.{name}", config)
        async with opened(options) as one:
            await put(one, *[b"x"] * 5)
            await api(one, f"STREAM.MSG.DELETE.{name}", {"seq": 3})

            first = None
            async with asyncio.timeout(PATIENCE):
                while first is None:  # a replica that is behind gives it out still
                    before: list[int] = []
                    try:
                        async with contextlib.aclosing(one.entries(0)) as entries:
                            async for batch in entries:
                                before += [at for at, _ in batch]
                                if before[-1] == 5:
                                    break
                    except Purged as caught:
                        first = caught.first
            assert (before, first) == ([1, 2], 4)

    async def test_index_after_the_end_is_detected(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        """JetStream delivers nothing, without an error."""
        monkeypatch.setattr(consumer_module, "DOUBT", 0.5)
        async with opened(nats.options()) as one:
            await put(one, *[b"x"] * 3)
            answer, got = await consumed(one, 50, wanted=0, meanwhile=put(one, b"y"))
            assert "error" not in answer
            assert got == []

            with pytest.raises(PastEnd) as caught:
                await anext(one.entries(5))
            assert caught.value.last == 4

    async def test_truncation_does_not_move_the_end(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        """A purge beyond the end would, and skip log indexes."""
        monkeypatch.setattr(stream, "TRUNCATE_TIMEOUT", 0.3)
        async with opened(nats.options()) as one:
            await put(one, *[b"x"] * 3)
            with pytest.raises(Unavailable, match="ends at position 3"):
                await one.truncate(10)
            await one.truncate(3)
            await one.truncate(2)
            assert (one.first, one.last) == (4, 3)
            await api(one, f"STREAM.PURGE.{one.identity.stream}", {"seq": 100})
            assert (await one.state()).last == 99

    async def test_recreated_stream_is_detected(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        options = nats.options()
        name = f"CAIRN_{options.name}"
        async with opened(options) as one, Reader(one) as reader:
            await put(one, b"x", b"y")
            await reader.has(lambda: len(reader.got) == 2)
            await api(one, f"STREAM.DELETE.{name}")
            await api(one, f"STREAM.CREATE.{name}", declared(options, 3))
            await put(one, b"x", b"y", b"z")
            with pytest.raises(Replaced, match="created again") as caught:
                await reader.has(lambda: len(reader.got) > 2)
            assert caught.value.identity is not None
            assert caught.value.identity.created > one.identity.created
            with pytest.raises(Replaced):
                await one.truncate(1)

            monkeypatch.setattr(consumer_module, "DOUBT", 0.3)
            await api(one, f"STREAM.DELETE.{name}")
            with pytest.raises(Replaced, match="does not exist"):
                await anext(one.entries(1))


class TestConsumer:
    """Rare behaviour of a consumer, without JetStream."""

    def test_repeated_entries_are_omitted(self) -> None:
        """A consumer on a server that lags starts too early."""
        reading = consumer_module.Consumption(None, Identity("x", 1), 5, None)  # type: ignore[arg-type]
        assert [reading.take(position, b"%d" % position) for position in (4, 5, 6, 6, 7)] == [None] * 5
        assert reading._waiting == [(6, b"6"), (7, b"7")]

    def test_entries_after_a_gap_are_not_accepted(self) -> None:
        reading = consumer_module.Consumption(None, Identity("x", 1), 5, None)  # type: ignore[arg-type]
        assert reading.take(7, b"7") == "it skips to position 7"
        assert reading._waiting == []
        assert reading.take(6, b"6") is None

    async def test_lost_messages_are_detected_by_heartbeats(self, nats: Nats) -> None:
        """No later message with a higher number arrives here."""
        async with opened(nats.options()) as one:
            reading = consumer_module.Consumption(one.nc, one.identity, 5, one.state)
            for headers, ended in (
                ({"Nats-Last-Consumer": "0", "Nats-Last-Stream": "5"}, None),
                ({"Nats-Last-Consumer": "2", "Nats-Last-Stream": "7"}, "its messages 1 to 2 were lost"),
                ({"Nats-Last-Consumer": "0", "Nats-Last-Stream": "7"}, "it skips to position 8"),
            ):
                consumer = consumer_module._Consumer(reading, one.nc, "x")
                consumer._silences = 3
                consumer._receive(Msg(one.nc, "", headers={"Status": "100", **headers}))
                assert (consumer.ended, consumer._silences) == (ended, 0)

    async def test_error_of_an_ended_consumer_is_kept_for_a_slow_reader(
        self, nats: Nats, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer_module, "CHECK_EVERY", 0.01)
        async with opened(nats.options()) as one:
            reading = consumer_module.Consumption(one.nc, one.identity, 0, one.state)
            consumer = await consumer_module._Consumer.make(reading, one.nc, one.identity.stream, 1)
            consumer.end("its messages were lost")
            await asyncio.sleep(0.1)
            assert consumer.ended == "its messages were lost"
            await consumer.remove()

    async def test_idle_consumer_is_kept(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(consumer_module, "HEARTBEAT", 0.1)
        monkeypatch.setattr(consumer_module, "CHECK_EVERY", 0.1)
        made = counted_consumers(monkeypatch)
        async with opened(nats.options()) as one, Reader(one):
            await asyncio.sleep(1.5)
            assert len(made) == 1


class TestFullStream:
    async def test_refuses_a_large_message_and_accepts_later_small_ones(self, nats: Nats) -> None:
        """So a refusal does not keep later entries out of the log."""
        async with opened(nats.options(limit=MIB)) as one, Reader(one) as reader:
            refused: list[str] = []
            for number in range(7):
                one.publish(b"%d" % number + bytes(128 * KIB), nobody)
            one.publish(b"large" + bytes(256 * KIB), refused.append)
            one.publish(b"small", nobody)
            await reader.has(lambda: len(reader.got) == 8)
            assert reader.texts[-1] == b"small"
            assert "maximum bytes exceeded" in refused[0]

            await eventually(lambda: one.fill > 0.85)
            await one.truncate(6)
            assert one.fill < 0.2
            one.publish(b"large" + bytes(256 * KIB), nobody)
            await reader.has(lambda: reader.texts[-1].startswith(b"large"))

    async def test_deleted_stream_refuses_entries(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            await api(one, f"STREAM.DELETE.{one.identity.stream}")
            refused: list[str] = []
            one.publish(b"x", refused.append)
            await eventually(lambda: bool(refused))
            assert "has no leader" in refused[0]
            await eventually(lambda: one.trouble == "stream not found")


class TestMessages:
    async def test_reach_the_others_and_not_their_sender(self, nats: Nats) -> None:
        options = nats.options()
        async with opened(options) as one, opened(options) as other, opened(nats.options()) as stranger:
            heard: dict[str, list[bytes]] = {"one": [], "other": [], "stranger": []}
            one.on_broadcast = heard["one"].append
            other.on_broadcast = heard["other"].append
            stranger.on_broadcast = heard["stranger"].append
            async with asyncio.timeout(PATIENCE):
                while not (heard["one"] and heard["other"]):  # servers have to tell each other who listens
                    one.broadcast(b"hello")
                    other.broadcast(b"hello")
                    await asyncio.sleep(0.05)
            for number in range(3):
                one.broadcast(b"%d" % number)
            other.broadcast(b"back")
            await eventually(lambda: heard["other"][-1] == b"2" and heard["one"][-1] == b"back")
            said = {who: [text for text in texts if text != b"hello"] for who, texts in heard.items()}
            assert said == {"one": [b"back"], "other": [b"0", b"1", b"2"], "stranger": []}

    async def test_refused_by_nats_are_reported_and_dropped(self, nats: Nats, caplog: pytest.LogCaptureFixture) -> None:
        options = nats.options()
        async with opened(options) as one, opened(options) as other:
            heard: list[bytes] = []
            other.on_broadcast = heard.append
            with caplog.at_level(logging.INFO):
                one.broadcast(bytes(one.payload_max + 1))
            assert "reaches only this node" in caplog.text
            async with asyncio.timeout(PATIENCE):
                while not heard:  # servers have to tell each other who listens
                    one.broadcast(bytes(one.payload_max))
                    await asyncio.sleep(0.1)
            assert {len(message) for message in heard} == {one.payload_max}


async def test_several_clusters_share_one_nats(nats: Nats) -> None:
    async with opened(nats.options()) as one, opened(nats.options()) as other:
        assert one.identity.stream != other.identity.stream
        await put(one, b"x")
        assert ((await one.state()).last, (await other.state()).last) == (1, 0)


async def test_jetstream_errors_have_their_number(nats: Nats) -> None:
    async with opened(nats.options()) as one:
        with pytest.raises(ApiError, match="stream not found") as caught:
            await api(one, "STREAM.INFO.none")
        assert caught.value.number == consumer_module.STREAM_NOT_FOUND


# -- JetStream, asked directly -----------------------------------------------------------------------------------------

_numbers = itertools.count()


def counted_consumers(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list to which each new consumer is added."""
    made: list[object] = []
    make = consumer_module._Consumer.make

    async def counted(*arguments: object) -> object:
        made.append(await make(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(consumer_module._Consumer, "make", counted)
    return made


async def consumed(
    one: stream.Stream, start: int, *, wanted: int, meanwhile: object = None
) -> tuple[dict[str, object], list[Msg]]:
    """Return JetStream's answer to a consumer that begins at an index, and the messages that the consumer gets."""
    got = []

    async def take(message: Msg) -> None:
        if not message.headers:
            got.append(message)

    inbox = one.nc.new_inbox()
    subscription = await one.nc.subscribe(inbox, cb=take)
    name, of = f"raw{next(_numbers)}", one.identity.stream
    config = {
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": start,
        "ack_policy": "none",
    }
    answer = await api(one, f"CONSUMER.CREATE.{of}.{name}", {"stream_name": of, "config": config, "action": "create"})
    if meanwhile is not None:
        await meanwhile  # type: ignore[misc]
    await eventually(lambda: len(got) >= wanted)
    if not wanted:
        await asyncio.sleep(0.5)  # in which there would be some
    await subscription.unsubscribe()
    return answer, got


def position(message: Msg) -> int:
    return int(message.reply.split(".")[5])

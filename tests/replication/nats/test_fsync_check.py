"""The fsync check: a node serves only if NATS syncs every write, as its system account shows."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from cairnkv.errors import OptionError
from cairnkv.replication.nats import stream
from cairnkv.replication.nats.stream import Stream
from tests.replication.reading import eventually, opened
from tests.support.nats import Nats


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """Run a cluster whose second server has NATS' default sync_interval."""
    with Nats(tmp_path_factory.mktemp("mixed"), sync=("always", None, "always")) as nats:
        yield nats


async def refusal(nats: Nats, **options: Any) -> str:
    one = Stream(nats.options(**options))
    with pytest.raises(OptionError) as caught:
        await one.open()
    return str(caught.value)


class TestAllServersSync:
    async def test_check_succeeds(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            assert one.sync == "proven"
            assert one.sync_unseen == ()

    async def test_check_succeeds_also_with_trust_sync(self, nats: Nats) -> None:
        async with opened(nats.options(trust_sync=True)) as one:
            assert one.sync == "proven"

    async def test_node_without_the_system_account_does_not_serve(self, nats: Nats) -> None:
        text = await refusal(nats, system=None)
        assert "--nats-system USER:PASSWORD" in text
        assert "--trust-nats-sync" in text

    async def test_trust_sync_serves_without_the_system_account(self, nats: Nats) -> None:
        async with opened(nats.options(system=None, trust_sync=True)) as one:
            assert one.sync == "trusted"

    async def test_user_of_another_account_is_refused(self, nats: Nats) -> None:
        assert "no server answers its queries" in await refusal(nats, system="cairn:a-store")

    async def test_wrong_password_is_reported(self, nats: Nats) -> None:
        text = await refusal(nats, system="system:wrong")
        assert "NATS refuses this node" in text
        assert "--nats-system" in text
        assert "wrong" not in text.replace("what was wrong", "")

    async def test_server_that_is_down_is_checked_later(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "SYNC_UNSEEN_EVERY", 0.2)
        options = nats.options()
        async with opened(options):
            pass
        nats.servers[1].kill()
        async with opened(options) as one:
            assert (one.sync, one.sync_unseen) == ("proven", ("nats-1",))
            nats.servers[1].start()
            await eventually(lambda: one.sync_unseen == ())
            assert one.sync == "proven"


class TestOneServerDoesNotSync:
    async def test_node_does_not_serve_and_names_the_server(self, mixed: Nats) -> None:
        text = await refusal(mixed)
        assert "NATS server nats-1 does not fsync" in text
        assert "sync_interval: always" in text

    async def test_trust_sync_serves_with_a_warning(self, mixed: Nats, caplog: pytest.LogCaptureFixture) -> None:
        async with opened(mixed.options(trust_sync=True)) as one:
            assert one.sync == "trusted"
        assert [
            record
            for record in caplog.records
            if record.levelno == logging.ERROR and "nats-1 does not fsync" in record.getMessage()
        ]

    async def test_server_that_joins_later_is_checked(self, mixed: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "SYNC_UNSEEN_EVERY", 0.2)
        options = mixed.options()
        async with opened(mixed.options(options.name, trust_sync=True)):
            pass
        mixed.servers[1].kill()
        try:
            async with opened(options) as one:
                assert (one.sync, one.sync_unseen) == ("proven", ("nats-1",))
                mixed.servers[1].start()
                await eventually(lambda: one.sync == "unproven")
        finally:
            await asyncio.to_thread(mixed.heal)

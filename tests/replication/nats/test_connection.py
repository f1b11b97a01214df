"""Connections to NATS: discovery, leaving a server, TLS, and errors for missing or refusing servers."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from nats import errors
from nats.aio.msg import Msg

from cairnkv.errors import OptionError, Unavailable
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, free_ports
from cairnkv.limits import MIB
from cairnkv.replication.nats import connection, stream
from cairnkv.replication.nats.connection import ApiError
from cairnkv.replication.nats.options import ClusterOptions
from cairnkv.replication.nats.stream import Stream
from tests.replication.reading import Reader, eventually, opened
from tests.support.certificates import certificates as made
from tests.support.nats import Nats, wait_listening


async def refusal(options: ClusterOptions, **more: int) -> str:
    with pytest.raises(OptionError) as caught:
        await Stream(options, **more).open()
    return str(caught.value)


class TestRefusedConnections:
    async def test_wrong_password_is_reported_at_once(self, nats: Nats) -> None:
        began = asyncio.get_running_loop().time()
        text = await refusal(nats.options(urls=tuple(url.replace("a-store", "secret") for url in nats.urls)))
        assert asyncio.get_running_loop().time() - began < connection.OPEN_TIMEOUT / 2
        assert "NATS refuses this node" in text
        assert "secret" not in text

    async def test_several_users_in_addresses_are_refused(self, nats: Nats) -> None:
        one, other, _ = nats.urls
        assert "have several users" in await refusal(nats.options(urls=(one, other.replace("cairn:", "else:"))))

    async def test_files_without_certificates_are_refused(self, nats: Nats, tmp_path: Path) -> None:
        assert "cannot use nats-ca" in await refusal(nats.options(ca=str(tmp_path / "none")))


class TestMessages:
    async def test_messages_arrive_in_order_even_after_a_callback_raised(
        self, nats: Nats, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = nats.options(urls=nats.urls[:1])  # another server would have to hear of it first
        async with opened(options) as one, opened(options) as other:
            heard: list[bytes] = []

            def told(message: Msg) -> None:
                heard.append(message.data)
                if message.data == b"1":
                    raise ValueError("a fault of ours")

            subscription = await one.nc.on_message("heard.here", told)
            await one.nc.flush()
            for number in range(3):
                other.nc.send("heard.here", b"%d" % number)
            await eventually(lambda: len(heard) == 3)
            assert heard == [b"0", b"1", b"2"]
            assert "a bug of cairnkv" in caplog.text, "and not of NATS"
            await subscription.unsubscribe()
            other.nc.send("heard.here", b"3")
            await other.nc.flush()
            await one.nc.flush()
            assert len(heard) == 3

    async def test_subscription_leaves_before_later_messages(self) -> None:
        """A server records the order of messages. A reply must not arrive before its subscription."""
        received: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id": "x", "max_payload": 1048576, "headers": true}\r\n')
            while line := await reader.readline():
                received.append(line.split()[0])
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        options = ClusterOptions(urls=(f"nats://{host}:{port}",), limit=MIB, trust_sync=True)
        client = await connection.connect(options, "a test")
        try:
            received.clear()
            await client.on_message("heard.here", lambda message: None)
            client.send("heard.here", b"x")
            await client.flush()
            assert received.index(b"SUB") < received.index(b"PUB") < len(received) - 1
            assert received[-1] == b"PING"
        finally:
            await connection.close(client)
            server.close()

    async def test_too_large_or_unconnected_messages_are_refused(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            with pytest.raises(errors.MaxPayloadError):
                one.nc.send("heard.here", bytes(one.nc.max_payload + 1))
            await connection.close(one.nc)
            with pytest.raises(errors.OutboundBufferLimitError):
                one.nc.send("heard.here", b"x")

    async def test_message_over_a_lost_connection_is_refused_before_nats_py_knows(self, nats: Nats) -> None:
        """With uvloop that would be an error which is none of a connection, and end the node's part."""
        async with opened(nats.options()) as one:
            refused: list[str] = []
            one.nc.abort()
            assert one.nc.is_connected
            with pytest.raises(errors.OutboundBufferLimitError):
                one.nc.send("heard.here", b"x")
            one.publish(b"x", refused.append)
            one.broadcast(b"x")
            await eventually(lambda: bool(refused))
            assert "sending to NATS failed" in refused[0]

    async def test_permission_errors_are_reset_with_the_connection(self, nats: Nats) -> None:
        async with opened(nats.options()) as one:
            one.nc.forbidden = 'permissions violation for publish to "$js.api.info"'
            one.nc.abort()
            await eventually(lambda: not one.nc.forbidden and one.nc.is_connected)


class TestMissingServers:
    async def test_raises_an_error_after_a_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "OPEN_TIMEOUT", 1.0)
        (port,) = free_ports(1)
        options = ClusterOptions(urls=(f"nats://u:secret@127.0.0.1:{port}",), trust_sync=True)
        with pytest.raises(Unavailable, match=f"no NATS server of 127.0.0.1:{port} has answered within 1 s") as caught:
            await Stream(options).open()
        assert "secret" not in str(caught.value)

    async def test_one_of_several_servers_is_enough(self, nats: Nats) -> None:
        (port,) = free_ports(1)
        nowhere = nats.urls[0].rpartition(":")[0] + f":{port}"
        async with opened(nats.options(urls=(nowhere, nats.urls[0]))) as one:
            assert one.connected

    async def test_other_servers_are_discovered(self, nats: Nats) -> None:
        """They accept the password of the address, which names only one of them."""
        async with opened(nats.options(urls=nats.urls[:1])) as one, Reader(one) as reader:
            nats.servers[0].pause()
            await eventually(lambda: one.nc.connected_url is not None and one.nc.connected_url.port != port_of(nats))

            def logged() -> bool:  # published until it is: the paused server may have led the stream, and had it
                one.publish(b"x", lambda reason: None)
                return reader.texts[:1] == [b"x"]

            await reader.has(logged)

    async def test_missing_servers_are_awaited(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        """JetStream refuses a stream as for servers that are missing for good, but names the reason."""
        monkeypatch.setattr(stream, "REFUSAL_TIMEOUT", 0.0)
        answers: list[Exception] = [ApiError(10_005, "no suitable peers for placement, peer offline")] * 3
        one = Stream(nats.options())
        ask = one._ask

        async def away(what: str, request: dict[str, object] | None = None) -> dict[str, object]:
            if what == "STREAM.CREATE" and answers:
                raise answers.pop()
            return await ask(what, request)

        monkeypatch.setattr(one, "_ask", away)
        await one.open()
        await one.close()
        assert not answers

    async def test_jetstream_without_a_leader_is_awaited(self, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "OPEN_TIMEOUT", 2.0)
        for server in nats.servers[1:]:
            server.pause()
        with pytest.raises(Unavailable, match=r"cannot open stream [-\w]+ within 2 s: JetStream"):
            await Stream(nats.options(urls=nats.urls[:1])).open()


def port_of(nats: Nats) -> int:
    return nats.servers[0].config.port


def without_cluster(text: str) -> str:
    """Return a configuration for a server without a cluster."""
    head, _, rest = text.partition("cluster {")
    return f"{head}accounts{rest.partition('accounts')[2]}"


class TestSingleServer:
    """A single server cannot store three replicas; without JetStream it stores none."""

    @pytest.fixture(params=["jetstream", "none"])
    def alone(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer]:
        class Alone(NatsConfig):
            def text(self) -> str:
                text = without_cluster(super().text())
                if request.param == "none":
                    head, _, rest = text.partition("jetstream {")
                    text = head + rest.partition("}")[2].replace("jetstream: enabled, ", "")
                return text

        (port,) = free_ports(1)
        server = NatsServer(Alone("alone", tmp_path, port, 0, (), "one", "two", file_max=256 * MIB))
        server.start()
        try:
            wait_listening(server)
            yield server
        finally:
            server.kill()

    async def test_is_refused(self, alone: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stream, "REFUSAL_TIMEOUT", 0.3)
        monkeypatch.setattr(stream, "OPEN_TIMEOUT", 1.0)
        options = ClusterOptions(urls=(alone.config.url,), limit=MIB, trust_sync=True)
        with pytest.raises((OptionError, Unavailable)) as caught:
            await Stream(options).open()
        assert any(
            said in str(caught.value)
            for said in ("The stream needs 3 servers of one cluster", "Enable JetStream", "JetStream is not enabled")
        ), caught.value


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CA and a certificate for 127.0.0.1, which is also valid for a client."""
    return made(tmp_path_factory.mktemp("certificates"), ("127.0.0.1",))


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    class Guarded(NatsConfig):
        def text(self) -> str:
            files = ", ".join(
                f'{name}: "{certificates / file}"'
                for name, file in (("cert_file", "node.pem"), ("key_file", "node.key"), ("ca_file", "ca.pem"))
            )
            return f"{without_cluster(super().text())}\ntls {{ {files}, verify: true }}\n"

    port, route = free_ports(2)
    directory = tmp_path_factory.mktemp("guarded")
    server = NatsServer(Guarded("guarded", directory, port, route, (), "one", "two", file_max=256 * MIB))
    server.start()
    try:
        wait_listening(server)
        yield server
    finally:
        server.kill()


class TestTls:
    def options(self, server: NatsServer, **files: str) -> ClusterOptions:
        return ClusterOptions(urls=(server.config.url,), limit=MIB, trust_sync=True, **files)

    async def test_client_certificate_is_accepted(self, guarded: NatsServer, certificates: Path) -> None:
        files = {name: str(certificates / file) for name, file in (("ca", "ca.pem"), ("cert", "node.pem"))}
        client = await connection.connect(self.options(guarded, **files, key=str(certificates / "node.key")), "a test")
        assert client.is_connected
        await connection.close(client)

    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
    def test_messages_arrive_whole_and_none_is_sent_after_the_end(
        self, guarded: NatsServer, certificates: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        """With asyncio's and uvloop's transports."""
        files = {name: str(certificates / file) for name, file in (("ca", "ca.pem"), ("cert", "node.pem"))}
        options = self.options(guarded, **files, key=str(certificates / "node.key"))

        async def talk() -> None:
            one, other = await connection.connect(options, "a test"), await connection.connect(options, "another")
            heard: list[bytes] = []
            await one.on_message("heard.here", lambda message: heard.append(message.data))
            await one.flush()
            said = [b"first", bytes(other.max_payload), b"last"]
            for text in said:
                other.send("heard.here", text)
            await eventually(lambda: len(heard) == len(said))
            assert heard == said
            assert other.unsent == 0
            other.abort()
            for _ in range(3):  # while the loop, and then nats-py, finds out
                with pytest.raises(errors.OutboundBufferLimitError):
                    other.send("heard.here", b"x")
                await asyncio.sleep(0)
            for client in (one, other):
                await connection.close(client)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(talk())

    async def test_untrusted_server_is_refused(self, guarded: NatsServer) -> None:
        with pytest.raises(OptionError, match="CERTIFICATE_VERIFY_FAILED"):
            await connection.connect(self.options(guarded), "a test")

    async def test_server_without_tls_is_refused_if_tls_is_required(self, nats: Nats, certificates: Path) -> None:
        text = await refusal(nats.options(ca=str(certificates / "ca.pem")))
        assert "does not use TLS" in text


async def test_server_that_relays_no_answers_is_left(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports no fault, but may be partitioned from the other servers."""
    monkeypatch.setattr(stream, "CHECK_EVERY", 0.05)
    async with opened(nats.options()) as one, Reader(one) as reader:
        state, left = one.state, one.nc.connected_url

        async def answered() -> stream.StreamState:
            if one.nc.connected_url == left:
                raise connection.NoAnswer("it has no leader at present")
            return await state()

        monkeypatch.setattr(one, "state", answered)
        await eventually(lambda: one.connected and one.nc.connected_url != left and one.trouble is None, 10)
        one.publish(b"on", lambda reason: None)
        await reader.has(lambda: reader.texts == [b"on"])


async def test_connection_errors_are_logged_once_in_one_line(
    nats: Nats, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "cairnkv.cluster")
    async with opened(nats.options()) as one, Reader(one):
        for server in nats.servers:
            server.kill()
        await asyncio.sleep(2.5)
    lines = [record.getMessage() for record in caplog.records if record.name == "cairnkv.cluster"]
    assert lines
    assert len(lines) == len(set(lines)), "once each"
    assert not any("\n" in line or record.exc_info for line, record in zip(lines, caplog.records, strict=False))
    assert not [record for record in caplog.records if record.name.startswith("nats")]
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_cancellation_at_the_moment_of_the_answer_counts(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 loses it while nats-py waits, and a cancelled task would continue for ever."""
    async with opened(nats.options()) as one:
        request = one.nc.request

        async def lost(*arguments: object, **named: object) -> object:
            answer = await request(*arguments, **named)  # type: ignore[arg-type]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            return answer

        monkeypatch.setattr(one.nc, "request", lost)
        task = asyncio.ensure_future(one.state())
        with pytest.raises(asyncio.CancelledError):
            await task

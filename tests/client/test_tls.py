"""TLS of clients: trusted servers, certificates of clients, errors that name the side without TLS, and timeouts."""

import asyncio
import contextlib
import datetime
import functools
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

import cairnkv
import cairnkv.client.sync as sync_module
from cairnkv.client.address import TlsFiles
from cairnkv.client.tls import Tls
from cairnkv.commands import OK, Auth, Failure, Get, Items, Ping, Set, Take, TakeAny, failures
from cairnkv.errors import AddressError
from cairnkv.protocol.native import write_command
from cairnkv.server.settings import PlainText, UserFrom
from cairnkv.testing import RunningServer, running_server
from tests.support.scripted import Conversation, Scripted, scripted

from .test_login import get_async, get_sync, pipeline_async, pipeline_sync, set_async, set_sync
from .test_sync import answer_everything, say_nothing

pytestmark = pytest.mark.same_code

Ask = Callable[[str], object]

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

ASKS = [get_sync, set_sync, pipeline_sync, get_async, set_async, pipeline_async]


@pytest.fixture(params=ASKS, ids=lambda ask: str(ask.__name__))
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


class Authority:
    """An authority, with the files that clients name in their addresses."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.path = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.path))

    def server(self, *names: str, expired: bool = False, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """The context of a server. version: the only one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued = self.ca.issue_cert(*(names or ("127.0.0.1", "localhost")), not_after=YESTERDAY if expired else None)
        issued.configure_cert(context)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context

    def client(self, name: str) -> Path:
        """A file with the certificate and the key of a client."""
        path = self.directory / f"{name}.pem"
        self.ca.issue_cert(f"{name}@example.org").private_key_and_cert_chain_pem.write_to_path(str(path))
        return path

    def url(self, server: Scripted, *, host: str = "127.0.0.1", login: str = "", **options: object) -> str:
        named = "&".join(f"{name}={value}" for name, value in {"ca": self.path, **options}.items())
        return f"cairns://{login}{host}:{server.port}/?{named}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"))


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


@VERSIONS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_client_trusts_a_server_of_its_authority(
    ask: Ask, authority: Authority, host: str, version: ssl.TLSVersion
) -> None:
    with scripted(answer_everything, tls=authority.server(version=version)) as server:
        assert ask(authority.url(server, host=host)) in ("k", True)
        assert len(server.conversations) == 1


def test_ping_begins_a_connection_and_login_comes_before(ask: Ask, authority: Authority) -> None:
    def serve(conversation: Conversation) -> None:
        first = write_command(Auth(b"app", b"s3cret")) + write_command(Ping(b""))
        assert conversation.socket.recv(4_096) == first
        conversation.say(OK)
        conversation.say(b"PONG")
        answer_everything(conversation)

    with scripted(serve, tls=authority.server()) as server:
        assert ask(authority.url(server, login="app:s3cret@")) in ("k", True)


# -- certificates of servers -------------------------------------------------------------------------------------------


def test_server_of_another_authority_is_refused(ask: Ask, authority: Authority, other_authority: Authority) -> None:
    with scripted(answer_everything, tls=other_authority.server()) as server:
        with pytest.raises(cairnkv.UntrustedServer, match=r"127.0.0.1:\d+ is not valid: .*issuer.*the option ca"):
            ask(authority.url(server))
        with pytest.raises(cairnkv.UntrustedServer):
            ask(f"cairns://127.0.0.1:{server.port}")  # the authorities of the system
        assert server.conversations == []


def test_certificate_without_a_user_is_a_failed_login(ask: Ask, authority: Authority) -> None:
    text = "there is no enabled user 'app', which the client's certificate names"

    def refuse(conversation: Conversation) -> None:
        assert conversation.socket.recv(4_096) == write_command(Ping(b""))
        conversation.say(Failure(failures.NOAUTH, text))

    with scripted(refuse, tls=authority.server()) as server:
        with pytest.raises(cairnkv.LoginFailed, match=f"^NOAUTH {text}$"):
            ask(authority.url(server, cert=authority.client("app")))
        assert len(server.conversations) == 1


def test_server_with_another_name_is_refused(ask: Ask, authority: Authority) -> None:
    with scripted(answer_everything, tls=authority.server("db1.example.org")) as server:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(cairnkv.UntrustedServer, match=rf"is not valid for '{host}'$"):
                ask(authority.url(server, host=host))
        assert server.conversations == []


def test_expired_certificate_is_refused(ask: Ask, authority: Authority) -> None:
    with (
        scripted(answer_everything, tls=authority.server(expired=True)) as server,
        pytest.raises(cairnkv.UntrustedServer, match="certificate has expired"),
    ):
        ask(authority.url(server))


def test_client_leaves_a_node_with_an_invalid_certificate(authority: Authority, other_authority: Authority) -> None:
    with (
        scripted(answer_everything, tls=other_authority.server()) as bad,
        scripted(answer_everything, tls=authority.server()) as good,
    ):
        url = f"cairns://127.0.0.1:{bad.port},127.0.0.1:{good.port}/?order=given&ca={authority.path}"
        assert get_sync(url) == get_async(url) == "k"
        alone = f"cairns://127.0.0.1:{bad.port},localhost:{bad.port}/?attempts=1&ca={authority.path}"
        for ask in (get_sync, get_async):
            with pytest.raises(cairnkv.Unavailable, match="is not valid"):
                ask(alone)


# -- certificates of clients -------------------------------------------------------------------------------------------


def demanding(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = authority.server(version=version)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.ca.configure_trust(context)
    return context


@VERSIONS
def test_client_with_a_certificate_is_accepted(ask: Ask, authority: Authority, version: ssl.TLSVersion) -> None:
    with scripted(answer_everything, tls=demanding(authority, version)) as server:
        assert ask(authority.url(server, cert=authority.client("app"))) in ("k", True)


@VERSIONS
def test_client_without_a_fitting_certificate_gets_an_error_of_the_login(
    ask: Ask, authority: Authority, other_authority: Authority, version: ssl.TLSVersion
) -> None:
    """With TLS 1.3, the server refuses it after the handshake of the client. A write was certainly not executed."""
    with scripted(answer_everything, tls=demanding(authority, version)) as server:
        for url in (authority.url(server), authority.url(server, cert=other_authority.client("app"))):
            with pytest.raises((cairnkv.LoginFailed, cairnkv.Unavailable)) as caught:
                ask(url)
            if version is ssl.TLSVersion.TLSv1_3:
                assert isinstance(caught.value, cairnkv.LoginFailed)
                assert "see the options cert and key" in str(caught.value)
        assert server.conversations == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ca": "missing.pem"}, r"the option ca, '.*missing.pem': No such file"),
        ({"ca": "text.pem"}, r"the option ca, '.*text.pem': no certificate"),
        ({"cert": "missing.pem"}, r"the options cert and key, '.*missing.pem' and '.*missing.pem': No such file"),
        ({"cert": "text.pem"}, "the options cert and key"),
        ({"cert": "app.pem", "key": "other.pem"}, "key values mismatch"),
        ({"cert": "app.pem", "key": "encrypted.pem"}, "encrypted with a password"),
    ],
)
def test_unfit_files_are_refused_at_once(tmp_path: Path, options: dict[str, str], says: str) -> None:
    made = Authority(tmp_path)
    made.client("app")
    made.client("other")
    (tmp_path / "text.pem").write_text("no certificate")
    plain = (tmp_path / "app.pem").read_bytes()
    (tmp_path / "encrypted.pem").write_bytes(encrypted(plain))
    url = "cairns://localhost/?" + "&".join(f"{name}={tmp_path / file}" for name, file in options.items())
    for connect in (cairnkv.connect, cairnkv.aio.connect):
        with pytest.raises(AddressError, match=says):
            connect(url)


def encrypted(pem: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(pem, None)
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"passphrase"))


def test_renewed_files_are_read_for_new_connections(tmp_path: Path) -> None:
    made = Authority(tmp_path)
    certificate = made.client("app")
    tls = Tls(TlsFiles(str(made.path), str(certificate)))
    first = tls.context()
    assert tls.context() is first
    certificate.write_text("half a certificate")
    assert tls.context() is first, "the files do not fit yet"
    made.client("app")
    second = tls.context()
    assert second is not first
    assert tls.context() is second
    made.path.unlink()
    assert tls.context() is second


# -- one side without TLS ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def plain_server(answer: bytes) -> Iterator[int]:
    """The port of a server without TLS: it reads something, answers and closes."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connected, contextlib.suppress(OSError):
                    connected.recv(4_096)
                    connected.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        b"-ERR unknown command\r\n",
        bytes.fromhex("02 31 00 00 00 08") + b"BADFRAME",
    ],
    ids=["HTTP", "Redis", "cairnkv"],
)
def test_server_without_tls_is_named(ask: Ask, authority: Authority, answer: bytes) -> None:
    says = r"^127.0.0.1:\d+ is a server without TLS, or not cairnkv: without TLS, use an address cairn://$"
    with plain_server(answer) as port, pytest.raises(cairnkv.WrongServer, match=says):
        ask(f"cairns://127.0.0.1:{port}/?ca={authority.path}")


def test_server_that_closes_during_the_handshake_is_unavailable(ask: Ask, authority: Authority) -> None:
    says = "no TLS handshake .*; if the server has no TLS, its address begins with cairn://"
    with plain_server(b"") as port, pytest.raises(cairnkv.Unavailable, match=says):
        ask(f"cairns://127.0.0.1:{port}/?attempts=1&ca={authority.path}")


def test_real_server_without_tls_is_reported(ask: Ask) -> None:
    with running_server() as server, pytest.raises((cairnkv.Unavailable, cairnkv.WrongServer), match="cairn://"):
        ask(f"{server.url.replace('cairn://', 'cairns://')}/?attempts=1")


def test_server_with_tls_is_named_to_a_client_without(ask: Ask, authority: Authority) -> None:
    says = "a TLS server, not cairnkv: .*; for cairnkv with TLS, use an address cairns://"
    with scripted(answer_everything, tls=authority.server()) as server:
        with pytest.raises((cairnkv.WrongServer, cairnkv.OutcomeUnknown), match=says):
            ask(f"cairn://127.0.0.1:{server.port}")
        assert server.conversations == []


# -- values, timeouts and ends -----------------------------------------------------------------------------------------

LONG = "x" * 5_000_000


def echo(conversation: Conversation) -> None:
    """Keep one value."""
    kept = b""
    while (request := conversation.command()) is not None:
        command = request.command
        if isinstance(command, Set):
            kept = command.value
        conversation.say(kept if isinstance(command, Get) else b"PONG" if isinstance(command, Ping) else OK)


def test_long_values_and_pipelines_pass(authority: Authority) -> None:
    with scripted(echo, tls=authority.server()) as server, cairnkv.connect(authority.url(server), timeout=60) as kv:
        kv.set("k", LONG)
        assert kv.get("k") == LONG
        with kv.pipeline() as pipeline:
            pending = [pipeline.get("k") for _ in range(3)]
            stored = [pipeline.set("k", "short") for _ in range(3_000)]
        assert all(one.result() == LONG for one in pending)
        assert all(one.result() for one in stored)


def test_long_values_and_pipelines_pass_in_asyncio(authority: Authority) -> None:
    async def ask(url: str) -> None:
        async with cairnkv.aio.connect(url, timeout=60) as kv:
            await kv.set("k", LONG)
            assert await asyncio.gather(*(kv.get("k") for _ in range(3))) == [LONG] * 3
            assert all(await asyncio.gather(*(kv.set("k", "short") for _ in range(3_000))))

    with scripted(echo, tls=authority.server()) as server:
        asyncio.run(ask(authority.url(server)))


@pytest.mark.parametrize("ask", [get_sync, get_async])
def test_silent_handshake_ends_in_the_timeout(ask: Ask, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"cairns://127.0.0.1:{listener.getsockname()[1]}/?attempts=1&connect_timeout=2&ca={authority.path}"
        with pytest.raises(cairnkv.Unavailable, match="no TLS handshake in time"):
            ask(url)


def test_missing_reply_ends_in_the_timeout(authority: Authority) -> None:
    def hang(conversation: Conversation) -> None:
        conversation.command()
        conversation.say(b"PONG")
        say_nothing(conversation)

    async def ask(url: str) -> None:
        async with cairnkv.aio.connect(url) as kv:
            with pytest.raises(cairnkv.TimedOut, match="no reply"):
                await kv.get("k")

    with scripted(hang, tls=authority.server()) as server:
        url = authority.url(server, attempts=1, timeout=3)
        with cairnkv.connect(url) as kv, pytest.raises(cairnkv.OutcomeUnknown, match="no reply"):
            kv.set("k", "v")
        asyncio.run(ask(url))


def test_quiet_connection_is_used_again_and_a_closed_one_is_not(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Session tickets are no unexpected bytes."""
    monkeypatch.setattr(sync_module, "LOOK_AFTER_SECONDS", 0.0)
    closed = threading.Event()

    def serve_three(conversation: Conversation) -> None:
        for _ in range(3):
            request = conversation.command()
            assert request is not None
            conversation.say(b"PONG" if isinstance(request.command, Ping) else b"v")
        conversation.hang_up()
        closed.set()

    with (
        scripted(serve_three, answer_everything, tls=authority.server()) as server,
        cairnkv.connect(authority.url(server), timeout=30, attempts=1) as kv,
    ):
        assert [kv.get("k"), kv.get("k")] == ["v", "v"]
        assert len(server.conversations) == 1
        assert closed.wait(30)
        kv.set("k", "v")  # a write, which the client would not repeat
        assert len(server.conversations) == 2


class Takes:
    """A server whose TAKE commands wait until the client ends its side. They still get replies."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.ended = threading.Event()

    def serve(self, conversation: Conversation) -> None:
        took = False
        while (request := conversation.command()) is not None:
            if isinstance(request.command, Take | TakeAny):
                took = True
                self.waits.set()
            else:
                conversation.say(b"PONG" if isinstance(request.command, Ping) else OK)
        if took:
            conversation.say(Items(()))
            self.ended.set()


def test_stopped_worker_ends_its_take_through_tls(authority: Authority) -> None:
    takes = Takes()
    with (
        scripted(takes.serve, tls=authority.server()) as server,
        cairnkv.connect(authority.url(server), timeout=30) as kv,
    ):
        worker = kv.queue("q").worker(lambda job: None)
        running = threading.Thread(target=worker.run)
        running.start()
        assert takes.waits.wait(30)
        worker.stop()
        assert takes.ended.wait(30)
        running.join(30)
        assert not running.is_alive()


def test_stopped_asyncio_worker_ends_its_take_through_tls(authority: Authority) -> None:
    takes = Takes()

    async def handle(job: object) -> None:
        raise AssertionError("there is no job")

    async def work(url: str) -> None:
        async with cairnkv.aio.connect(url, timeout=30) as kv:
            worker = kv.queue("q").worker(handle)
            running = asyncio.create_task(worker.run())
            assert await asyncio.to_thread(takes.waits.wait, 30)
            worker.stop()
            assert await asyncio.to_thread(takes.ended.wait, 30)
            await running

    with scripted(takes.serve, tls=authority.server()) as server:
        asyncio.run(work(authority.url(server)))


def test_command_line_uses_tls(authority: Authority) -> None:
    with scripted(answer_everything, tls=authority.server()) as server:
        for words, printed in ((["get", "k"], "k\n"), (["set", "k", "v"], "OK\n")):
            command = [sys.executable, "-m", "cairnkv", *words, "--url", authority.url(server)]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert (ran.stdout, ran.stderr, ran.returncode) == (printed, "", 0)


# -- with a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def start(authority: Authority, tmp_path: Path) -> Callable[..., contextlib.AbstractContextManager[RunningServer]]:
    """Starts servers with TLS: `with start(**settings) as server`."""
    issued = authority.ca.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return functools.partial(running_server, tls_cert=str(certificate), tls_key=str(key))


Start = Callable[..., contextlib.AbstractContextManager[RunningServer]]


def secured(server: RunningServer, authority: Authority, login: str = "", **options: object) -> str:
    named = "&".join(f"{name}={value}" for name, value in {"ca": authority.path, **options}.items())
    return f"{server.url.replace('cairn://', f'cairns://{login}')}/?{named}"


def test_clients_use_a_server_through_tls(ask: Ask, start: Start, authority: Authority) -> None:
    with start(password="s3cret") as server:
        url = secured(server, authority, "default:s3cret@")
        with cairnkv.connect(url, timeout=60) as kv:
            kv.set("k", "v")
            kv.set("long", LONG)
            assert kv.get("long") == LONG
        assert ask(url) in ("v", True)
        with pytest.raises(cairnkv.LoginFailed, match="WRONGPASS"):
            ask(secured(server, authority, "default:wrong-one@"))
        with pytest.raises(cairnkv.LoginFailed, match="NOAUTH"):
            ask(secured(server, authority))


def test_certificate_logs_the_client_in(
    ask: Ask, start: Start, authority: Authority, other_authority: Authority
) -> None:
    certificate = authority.directory / "default.pem"
    issued = authority.ca.issue_cert("default@example.org", common_name="default")
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with start(password="s3cret", tls_client_ca=str(authority.path), tls_user_from=UserFrom.CN) as server:
        assert ask(secured(server, authority, cert=certificate)) in (None, True)
        with pytest.raises(cairnkv.LoginFailed, match="see the options cert and key"):
            ask(secured(server, authority, cert=other_authority.client("default")))


def test_server_that_needs_tls_is_named_in_the_error(ask: Ask, start: Start) -> None:
    with start(plain_text=PlainText.NEVER) as server:
        host = server.url.partition("://")[2]
        for url in (f"cairn://{host}", f"cairn://default:s3cret@{host}"):
            with pytest.raises(cairnkv.BadCommand, match=r"NEEDTLS .*cairns://"):
                ask(url)


def test_stopped_worker_returns_at_once(start: Start, authority: Authority) -> None:
    handled = threading.Event()
    with start() as server, cairnkv.connect(secured(server, authority), timeout=60) as kv:
        queue = kv.queue("q")
        worker = queue.worker(lambda job: handled.set())
        running = threading.Thread(target=worker.run)
        running.start()
        queue.put(1)
        assert handled.wait(30)
        worker.stop()
        running.join(30)
        assert not running.is_alive()
        assert queue.stats()["ready"] == 0

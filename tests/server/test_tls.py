"""TLS of the server: versions, keys, certificates of clients, damaged and hostile streams, and new certificates.

Each test runs on the pure and on the native path, with each event loop.
"""

import asyncio
import contextlib
import ctypes
import ctypes.util
import json
import logging
import resource
import shutil
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cairnkv.commands import Auth, Count, Get, Ping, Set, Whoami
from cairnkv.errors import OptionError
from cairnkv.limits import HANDSHAKES_TOGETHER, KIB, TLS_CONTROL_MAX, TLS_HELLO_MAX, UNAUTHENTICATED_PER_ADDRESS_MAX
from cairnkv.protocol.native import Response, write_command
from cairnkv.server.settings import UserFrom
from cairnkv.server.tls import CertificateRefused, PeerNames, TlsFiles, load, user_of
from cairnkv.server.tls_transport import Handshakes
from cairnkv.testing import RunningServer
from tests.server.conftest import Start
from tests.support.raw import OK, PING, PONG, SECONDS, RawClient, ServerProcess, eventually, failed_with
from tests.support.tls import Authority, Raw, TlsClient

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server")
    return made


def files(authority: Authority, name: str = "server") -> dict[str, str]:
    """The options of a server with a certificate."""
    return {"tls_cert": str(authority.directory / f"{name}.pem"), "tls_key": str(authority.directory / f"{name}.key")}


def info(server: RunningServer) -> dict[str, str]:
    return server.call(lambda: {name: str(value) for name, value in server.server.store.info()})


# -- versions, keys and certificates of clients --------------------------------------------------------------------


@pytest.mark.parametrize("key_type", ["ecdsa", "rsa"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("client", ["none", "good", "expired", "of another authority"])
def test_matrix_of_versions_keys_and_client_certificates(
    start_on_both: Start, tmp_path: Path, key_type: str, version: str, client: str
) -> None:
    authority = Authority(tmp_path, key_type)
    authority.issue("server")
    own = None
    if client != "none":
        (tmp_path / "other").mkdir()
        issuing = Authority(tmp_path / "other") if client == "of another authority" else authority
        own = issuing.issue("client", "client.example", user="ann", expired=client == "expired")
    server = start_on_both(**files(authority), tls_client_ca=str(authority.path))
    context = authority.trusting(own, VERSIONS[version])
    if client == "good":
        with TlsClient(server.address, context) as kv:
            assert kv.ask(Set(b"k", b"v")) == OK
            assert kv.ask(Get(b"k")) == Response(True, b"v")
            assert kv.tls.version() == f"TLSv{version}"
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)), TlsClient(server.address, context) as kv:
            kv.ask(Ping(b""))
        eventually(lambda: info(server)["tls_handshakes_failed"] == "1")


@pytest.mark.parametrize("version", VERSIONS)
def test_both_protocols_and_plain_text_share_the_port(start_on_both: Start, authority: Authority, version: str) -> None:
    server = start_on_both(**files(authority))
    context = authority.trusting(version=VERSIONS[version])
    with TlsClient(server.address, context) as kv, TlsClient(server.address, context) as redis:
        assert kv.ask(Set(b"k", b"v")) == OK
        redis.send(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
        assert redis.socket.recv(100) == b"$1\r\nv\r\n"
        with RawClient(server.address) as plain:
            assert plain.ask(Get(b"k")) == Response(True, b"v")
    assert info(server)["tls_handshakes"] == "2"


def test_without_the_module_of_libssl_pure_tls_serves(
    start_on_both: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain text keeps its path."""
    monkeypatch.setattr("cairnkv.server.tls.native_tls_in_use", lambda: False)
    server = start_on_both(**files(authority))
    value = b"v" * 300_000
    with TlsClient(server.address, authority.trusting()) as client, RawClient(server.address) as plain:
        assert client.ask(Set(b"k", value)) == OK
        client.send(write_command(Get(b"k")) * 20)
        assert client.replies(20) == [Response(True, value)] * 20
        assert plain.ask(Get(b"k")) == Response(True, value)
        plain.send(PING * 3)
        plain.socket.shutdown(socket.SHUT_WR)
        assert plain.rest() == [PONG] * 3
    assert info(server)["tls_handshakes"] == "1"


def test_old_versions_of_tls_are_refused(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    context = authority.trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        TlsClient(server.address, context)


@pytest.mark.parametrize("version", VERSIONS)
def test_second_connection_resumes_the_session(start_on_both: Start, authority: Authority, version: str) -> None:
    server = start_on_both(**files(authority))
    context = authority.trusting(version=VERSIONS[version])
    with TlsClient(server.address, context) as first:
        assert first.ask(Ping(b"")) == PONG  # TLS 1.3 sends the ticket before it
        session = first.tls.session
    with TlsClient(server.address, context, session=session) as second:
        assert second.ask(Ping(b"")) == PONG
        assert second.tls.session_reused


def with_users(authority: Authority, source: str, *lines: str) -> dict[str, str]:
    """The options of a server that takes users from certificates."""
    path = authority.directory / "users"
    path.write_text("".join(f"user {line}\n" for line in ("root on >secret ~* &* +@all", *lines)))
    path.chmod(0o600)
    return {
        **files(authority),
        "tls_client_ca": str(authority.path),
        "tls_user_from": source,
        "plain_text": "never",
        "users": str(path),
    }


def test_resumed_session_still_has_the_user_of_its_certificate(start_on_both: Start, authority: Authority) -> None:
    own = authority.issue("ann", "ann.example", user="ann")
    server = start_on_both(**with_users(authority, "cn", "ann on certonly ~ann:* +@all"))
    context = authority.trusting(own)
    with TlsClient(server.address, context) as first:
        assert first.ask(Ping(b"")) == PONG
        session = first.tls.session
    with TlsClient(server.address, context, session=session) as second:
        assert second.ask(Ping(b"")) == PONG
        assert second.tls.session_reused
        assert second.ask(Whoami()).payload == b"ann"


def test_certificate_logs_in_a_user_with_its_rights_alone(start_on_both: Start, authority: Authority) -> None:
    own = authority.issue("ann", "ann.example", user="ann")
    server = start_on_both(**with_users(authority, "cn", "ann on certonly ~ann:* resetchannels +@all"))
    with TlsClient(server.address, authority.trusting(own)) as client:
        assert client.ask(Set(b"ann:k", b"v")) == OK
        assert failed_with(client.ask(Set(b"k", b"v")), "NOPERM")
        assert failed_with(client.ask(Auth(b"ann", b"")), "WRONGPASS")  # redis 14638
        assert failed_with(client.ask(Auth(b"ann", b"secret")), "WRONGPASS")
        assert client.ask(Auth(b"root", b"secret")) == OK
        assert client.ask(Whoami()).payload == b"root"
    with TlsClient(server.address, authority.trusting(own)) as client:
        client.send(b"ACL WHOAMI\r\nRESET\r\nACL WHOAMI\r\n")
        received = b""
        while received.count(b"ann") < 2:
            received += client.socket.recv(1_000)
        client.send(b"AUTH ann secret\r\n")
        assert client.socket.recv(1_000).startswith(b"-WRONGPASS")


def test_certificate_of_no_enabled_user_is_refused(start_on_both: Start, authority: Authority) -> None:
    own = authority.issue("ann", "ann.example", user="ann")
    for line in ("bob on certonly ~* +@all", "ann off certonly ~* +@all"):
        server = start_on_both(**with_users(authority, "cn", line))
        with TlsClient(server.address, authority.trusting(own)) as client:
            reply = client.ask(Ping(b""))
            assert failed_with(reply, "NOAUTH")
            assert b"no enabled user" in reply.payload
            assert client.is_closed()


@pytest.mark.parametrize(
    ("source", "names", "user"),
    [
        ("cn", {"common_names": ("ann",)}, b"ann"),
        ("cn", {"common_names": ("ann", "root")}, None),
        ("cn", {"common_names": ("root\0.example",)}, None),
        ("cn", {"uris": ("urn:app",)}, None),
        ("uri", {"uris": ("urn:app",), "common_names": ("root",)}, b"urn:app"),
        ("uri", {"uris": ("urn:app", "urn:root")}, None),
        ("uri", {"uris": ("urn:root\0app",)}, None),
        ("uri", {"common_names": ("root",)}, None),
    ],
    ids=repr,
)
def test_certificate_names_exactly_one_user(
    start_on_both: Start, authority: Authority, source: str, names: dict[str, Any], user: bytes | None
) -> None:
    own = authority.issue_strange("strange", **names)
    server = start_on_both(**with_users(authority, source, "ann on certonly +ping", "urn:app on certonly +ping"))
    with TlsClient(server.address, authority.trusting(own)) as client:
        reply = client.ask(Ping(b""))
        if user is not None:
            assert reply == PONG
            assert client.ask(Whoami()).payload == user
        else:
            assert failed_with(reply, "NOAUTH")
            assert client.is_closed()


def test_names_of_a_certificate_are_not_cut_at_a_null_character() -> None:
    names: PeerNames = ((b"root\0.example",), (b"urn:a",))
    with pytest.raises(CertificateRefused, match="null character"):
        user_of(names, UserFrom.CN)
    assert user_of(names, UserFrom.URI) == b"urn:a"
    assert user_of(names, None) is None


# -- plain text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "is_taken"), [("auto", False), ("always", True), ("never", False)])
def test_plain_text_from_other_computers(
    start_on_both: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch, policy: str, is_taken: bool
) -> None:
    monkeypatch.setattr("cairnkv.server.connection.is_loopback", lambda host: False)
    server = start_on_both(**files(authority), plain_text=policy)
    with RawClient(server.address) as native, RawClient(server.address) as redis:
        reply = native.ask(Ping(b""))
        redis.send(b"PING\r\n")
        first = redis.socket.recv(1000)
        if is_taken:
            assert (reply, first) == (PONG, b"+PONG\r\n")
        else:
            assert failed_with(reply, "NEEDTLS")
            assert first.startswith(b"-ERR NEEDTLS")
            assert b"rediss://" in first
            assert native.is_closed()
            assert redis.is_closed()
    with TlsClient(server.address, authority.trusting()) as client:
        assert client.ask(Ping(b"")) == PONG


def test_unix_socket_takes_plain_text_and_tls(start_on_both: Start, authority: Authority, tmp_path_unix: str) -> None:
    start_on_both(**files(authority), plain_text="never", no_tcp=True, unix=tmp_path_unix)
    with RawClient(tmp_path_unix) as plain, TlsClient(tmp_path_unix, authority.trusting()) as client:
        assert plain.ask(Ping(b"")) == PONG
        assert client.ask(Ping(b"")) == PONG


def test_full_server_refuses_inside_tls(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority), max_connections=1)
    with TlsClient(server.address, authority.trusting()) as first:
        assert first.ask(Ping(b"")) == PONG
        with TlsClient(server.address, authority.trusting()) as second:
            assert failed_with(second.ask(Ping(b"")), "BUSY")
            assert second.is_closed()
        assert first.ask(Ping(b"")) == PONG


# -- streams -------------------------------------------------------------------------------------------------------


def test_stream_of_single_bytes(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with Raw.to(server.address, authority.trusting()) as client:
        client.handshake(piece=1)
        client.transmit(client.encrypted(write_command(Set(b"k", b"v")) + PING), piece=1)
        replies = client.replies()
        assert [next(replies), next(replies)] == [OK, PONG]


def test_data_in_the_same_packet_as_the_end_of_the_handshake(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with Raw.to(server.address, authority.trusting(version=VERSIONS["1.3"])) as client:
        client.transmit(client.hello())
        finished = b""
        while not finished:
            client.take()
            with contextlib.suppress(ssl.SSLWantReadError):
                client.tls.do_handshake()
                finished = client.encrypted(PING * 3)
        client.transmit(finished)
        replies = client.replies()
        assert [next(replies) for _ in range(3)] == [PONG] * 3


@pytest.mark.parametrize("size", [100, 16_384, 16_385, 300_000, 8 << 20])
@pytest.mark.parametrize("version", VERSIONS)
def test_values_over_many_records(start_on_both: Start, authority: Authority, version: str, size: int) -> None:
    server = start_on_both(**files(authority))
    value = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    context = authority.trusting(version=VERSIONS[version])
    with TlsClient(server.address, context, receive_buffer=65_536) as client:
        assert client.ask(Set(b"k", value)) == OK
        count = 40 if size < 1 << 20 else 4
        client.send(write_command(Get(b"k")) * count)
        for reply in client.replies(count):
            assert reply == Response(True, value)
        assert client.ask(Ping(b"")) == PONG


def test_client_that_reads_late_gets_all_replies(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with TlsClient(server.address, authority.trusting(), receive_buffer=65_536) as client:
        assert client.ask(Set(b"k", b"v" * 100_000)) == OK
        for _ in range(8):
            client.send(write_command(Get(b"k")) * 20)
        eventually(lambda: server.call(lambda: any(one.unsent for one in server.server.connections)))
        assert client.replies(160) == [Response(True, b"v" * 100_000)] * 160


@pytest.mark.parametrize("how", ["close_notify", "shutdown"])
def test_client_that_ends_its_side_gets_its_replies(start_on_both: Start, authority: Authority, how: str) -> None:
    server = start_on_both(**files(authority))
    with Raw.to(server.address, authority.trusting()) as client:
        client.handshake()
        client.transmit(client.encrypted(write_command(Set(b"k", b"v" * 50_000)) + write_command(Get(b"k")) * 9))
        if how == "close_notify":
            client.transmit(client.end())
        else:
            client.socket.shutdown(socket.SHUT_WR)
        assert list(client.replies()) == [OK] + [Response(True, b"v" * 50_000)] * 9


def test_failure_that_closes_arrives_and_ends_the_stream(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with Raw.to(server.address, authority.trusting()) as client:
        client.handshake()
        client.transmit(client.encrypted(b"x" * 100_000))
        assert b"".join(iter(client.read, b"")).startswith(b"-ERR")


@pytest.mark.parametrize("at", ["handshake", "begin", "middle", "end"])
def test_damaged_record_closes_only_its_connection(
    start_on_both: Start, authority: Authority, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    caplog.set_level(logging.INFO)
    server = start_on_both(**files(authority))
    with (
        TlsClient(server.address, authority.trusting()) as other,
        Raw.to(server.address, authority.trusting()) as client,
    ):
        if at == "handshake":
            records = bytearray(client.hello())
            records[len(records) // 2] ^= 1
            records[5] ^= 0x40
        else:
            client.handshake()
            records = bytearray(client.encrypted(write_command(Set(b"k", b"v" * 1_000))))
            records[{"begin": 0, "middle": 500, "end": -1}[at]] ^= 1
        client.transmit(bytes(records))
        with contextlib.suppress(ConnectionError):
            while client.socket.recv(10_000):
                pass
        assert other.ask(Count()) == Response(True, b"0")
    eventually(lambda: "closed: TLS:" in caplog.text)


def test_garbage_behind_the_first_byte_closes(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with RawClient(server.address) as client:
        client.send(b"\x16" + b"garbage" * 100)
        with contextlib.suppress(ConnectionError):
            while client.socket.recv(1_000):
                pass
    with TlsClient(server.address, authority.trusting()) as other:
        assert other.ask(Ping(b"")) == PONG


def test_client_that_disconnects_in_the_handshake_is_removed(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with Raw.to(server.address, authority.trusting()) as client:
        client.transmit(client.hello()[:50])
    with Raw.to(server.address, authority.trusting()) as client:
        client.transmit(client.hello())
        assert client.socket.recv(1)
    eventually(lambda: server.call(lambda: not server.server.connections))


class Libssl:
    """A client of TLS whose messages a test chooses, which Python's `ssl` cannot do."""

    KEY_UPDATE_REQUESTED = 1

    def __init__(self, address: tuple[str, int] | None, *, version: int = 0) -> None:
        """version: 0x0303 is TLS 1.2; 0: the newest."""
        assert address is not None
        self._library = ctypes.CDLL(ctypes.util.find_library("ssl"))
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self.socket = socket.create_connection(address, 30)
        self.socket.setblocking(True)
        self._context = ctypes.c_void_p(self._library.SSL_CTX_new(ctypes.c_void_p(self._library.TLS_client_method())))
        self._ssl = ctypes.c_void_p(self._library.SSL_new(self._context))
        if version:
            self._library.SSL_ctrl(self._ssl, 124, ctypes.c_long(version), None)  # SSL_set_max_proto_version
        self._library.SSL_set_fd(self._ssl, self.socket.fileno())
        assert self._library.SSL_connect(self._ssl) == 1

    def __enter__(self) -> "Libssl":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.SSL_free(self._ssl)
        self._library.SSL_CTX_free(self._context)
        self.socket.close()

    def update_key(self) -> bool:
        """Send a KeyUpdate that asks for one. Returns whether it was sent."""
        self._library.SSL_key_update(self._ssl, self.KEY_UPDATE_REQUESTED)
        return bool(self._library.SSL_do_handshake(self._ssl) == 1)

    def renegotiate(self) -> bool:
        """Begin another handshake. Returns whether that was complete."""
        self._library.SSL_renegotiate(self._ssl)
        return bool(self._library.SSL_do_handshake(self._ssl) == 1)

    def ask(self, data: bytes) -> bytes:
        """Send some bytes, and return some of the reply; none if the connection is closed."""
        if self._library.SSL_write(self._ssl, data, len(data)) != len(data):
            return b""
        buffer = ctypes.create_string_buffer(1_000)
        size = self._library.SSL_read(self._ssl, buffer, len(buffer))
        return buffer.raw[: max(size, 0)]


def hello_of(length: int) -> bytes:
    """The begin of a first message with this length."""
    return b"\x01" + length.to_bytes(3) + b"\3\3" + bytes(100)


def record_of(content: bytes) -> bytes:
    return b"\x16\3\1" + len(content).to_bytes(2) + content


@pytest.mark.parametrize("pieces", ["one record", "four records", "single bytes"])
@pytest.mark.parametrize(("length", "is_refused"), [(TLS_HELLO_MAX, False), (TLS_HELLO_MAX + 1, True)])
def test_long_first_message_is_refused_at_its_head(
    start_on_both: Start,
    authority: Authority,
    caplog: pytest.LogCaptureFixture,
    length: int,
    is_refused: bool,
    pieces: str,
) -> None:
    """OpenSSL takes memory for the announced length."""
    caplog.set_level(logging.INFO)
    server = start_on_both(**files(authority))
    hello = hello_of(length)
    with RawClient(server.address) as client:
        with contextlib.suppress(ConnectionError):  # the server may close before it has the rest
            if pieces == "one record":
                client.send(record_of(hello))
            elif pieces == "four records":
                client.send(b"".join(map(record_of, (hello[:1], hello[1:2], hello[2:3], hello[3:]))))
            else:
                for byte in record_of(hello):
                    client.send(bytes([byte]))
            client.send(b"\x15\3\1\0\2\2\0")  # an alert, which ends any handshake
            while client.socket.recv(1_000):
                pass
        eventually(lambda: "closed: TLS: " in caplog.text)
        assert ("the client's first message is too long" in caplog.text) == is_refused


def test_clients_without_a_certificate_do_not_take_all_places(start_on_both: Start, authority: Authority) -> None:
    own = authority.issue("ann", "ann.example", user="ann")
    server = start_on_both(**files(authority), tls_client_ca=str(authority.path), plain_text="never", max_connections=8)
    with contextlib.ExitStack() as stack:
        for begin in (b"\x16", b"", PING) * 6:
            client = stack.enter_context(RawClient(server.address))
            if begin:
                client.send(begin)
        friends = [stack.enter_context(TlsClient(server.address, authority.trusting(own))) for _ in range(6)]
        for friend in friends:
            assert friend.ask(Ping(b"")) == PONG


def test_refused_client_that_needs_tls_gets_no_plain_text(start_on_both: Start, authority: Authority) -> None:
    """It would take that for a server without TLS, and not connect again."""
    server = start_on_both(**files(authority), tls_client_ca=str(authority.path), plain_text="never", max_connections=8)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(server.address)) for _ in range(4)]
        for refused in clients[:2]:
            assert refused.socket.recv(100) == b""
        assert info(server)["connections_refused"] == "2"


def test_many_clients_of_one_address_begin_tls_at_once(start_on_both: Start, authority: Authority) -> None:
    own = authority.issue("ann", "ann.example", user="ann")
    server = start_on_both(**files(authority), tls_client_ca=str(authority.path), plain_text="never")
    with contextlib.ExitStack() as stack:
        for _ in range(UNAUTHENTICATED_PER_ADDRESS_MAX + 10):
            stack.enter_context(RawClient(server.address))
        with TlsClient(server.address, authority.trusting(own)) as client:
            assert client.ask(Ping(b"")) == PONG
        assert info(server)["connections_refused"] == "0"


def test_a_few_key_updates_are_answered(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with Libssl(server.address) as client:
        for _ in range(10):
            assert client.update_key()
            assert client.ask(PING) == b"\x000\0\0\0\x04PONG"


@pytest.mark.parametrize("ending", ["garbage", "damaged record", "key updates", "renegotiation", "reset", "end"])
def test_stream_leaves_no_error_for_others(start_on_both: Start, authority: Authority, ending: str) -> None:
    """Python's `ssl`, which connects to NATS, has the same queue of errors, and looks at it after a read."""
    server = start_on_both(**files(authority))
    queue = ctypes.CDLL(ctypes.util.find_library("crypto"))
    queue.ERR_peek_error.restype = ctypes.c_ulong
    with contextlib.ExitStack() as stack, contextlib.suppress(ConnectionError):
        if ending == "garbage":
            raw = stack.enter_context(RawClient(server.address))
            raw.send(b"\x16" + b"garbage" * 100)
            raw.socket.recv(1_000)
        elif ending in ("key updates", "renegotiation"):
            libssl = stack.enter_context(Libssl(server.address, version=0x0303 if ending == "renegotiation" else 0))
            libssl.ask(PING)
            for _ in range(40):
                (libssl.update_key if ending == "key updates" else libssl.renegotiate)()
            libssl.ask(PING)
        else:
            client = stack.enter_context(Raw.to(server.address, authority.trusting()))
            client.handshake()
            records = bytearray(
                client.encrypted(write_command(Set(b"k", b"v" * 1_000_000)) + write_command(Get(b"k")) * 9)
            )
            if ending == "damaged record":
                records[-1] ^= 1
            client.transmit(bytes(records))
            if ending == "reset":
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.socket.close()
            elif ending == "end":
                client.transmit(client.end())
    eventually(lambda: server.call(lambda: not server.server.connections))
    assert server.call(queue.ERR_peek_error) == 0


def test_flood_of_key_updates_is_closed(
    start_on_both: Start, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = start_on_both(**files(authority))
    with Libssl(server.address) as client:
        for _ in range(TLS_CONTROL_MAX // 7):  # each has 27 bytes
            if not client.update_key():
                break
        assert client.ask(PING) == b""
    eventually(lambda: "TLS messages without data" in caplog.text)
    with TlsClient(server.address, authority.trusting()) as other:
        assert other.ask(Ping(b"")) == PONG


def test_renegotiation_is_refused(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with Libssl(server.address, version=0x0303) as client:
        assert client.ask(PING) == b"\x000\0\0\0\x04PONG"
        assert not client.renegotiate()
    with TlsClient(server.address, authority.trusting()) as other:
        assert other.ask(Ping(b"")) == PONG


def test_client_closes_another_whose_bytes_have_arrived(start_on_both: Start, authority: Authority) -> None:
    """Both are served in the same wake-up, in either order."""
    server = start_on_both(**files(authority))
    for _ in range(20):
        with (
            TlsClient(server.address, authority.trusting()) as killer,
            TlsClient(server.address, authority.trusting()) as victim,
        ):
            victim.send(b"CLIENT ID\r\n")
            number = victim.socket.recv(100).strip()[1:]
            with held(server):
                killer.send(b"CLIENT KILL ID %s\r\nPING\r\n" % number)
                victim.send(b"SET k v\r\n" * 3_000)
            assert killer.socket.recv(100).startswith(b":1\r\n")
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while victim.socket.recv(10_000):
                    pass
    with TlsClient(server.address, authority.trusting()) as other:
        assert other.ask(Ping(b"")) == PONG


@contextlib.contextmanager
def held(server: RunningServer) -> Iterator[None]:
    """Keep the event loop of a server from its sockets meanwhile."""
    is_held, release = threading.Event(), threading.Event()

    def hold() -> None:
        is_held.set()
        release.wait(30)

    server.loop.call_soon_threadsafe(hold)
    assert is_held.wait(30)
    try:
        yield
    finally:
        release.set()


# -- handshakes ----------------------------------------------------------------------------------------------------


def test_many_handshakes_at_once_all_succeed(start_on_both: Start, authority: Authority) -> None:
    server = start_on_both(**files(authority))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw.to(server.address, authority.trusting())) for _ in range(30)]
        with held(server):
            for client in clients:
                client.transmit(client.hello())
        for client in reversed(clients):
            client.handshake()
        for client in clients:
            assert client.ask(Ping(b"")) == PONG


async def test_handshakes_take_turns_and_the_newest_is_first() -> None:
    handshakes = Handshakes()
    done: list[tuple[int, int]] = []
    iteration = 0

    def step(number: int) -> None:
        done.append((iteration, number))

    for number in range(10):
        handshakes.add(lambda number=number: step(number))  # type: ignore[misc]
    while len(done) < 10:
        await asyncio.sleep(0)
        iteration += 1
    assert [number for _, number in done] == list(reversed(range(10)))
    assert max([when for when, _ in done].count(when) for when, _ in done) == HANDSHAKES_TOGETHER


def test_handshake_that_takes_too_long_is_dropped(
    start_on_both: Start, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnkv.server.connection.HANDSHAKE_TIMEOUT", 0.2)
    server = start_on_both(**files(authority))
    with Raw.to(server.address, authority.trusting()) as client:
        client.transmit(client.hello()[:100])
        with contextlib.suppress(ConnectionError):
            assert client.socket.recv(1) == b""
    eventually(lambda: server.call(lambda: not server.server.connections))


# -- new certificates ----------------------------------------------------------------------------------------------


def serial(address: tuple[str, int] | None, authority: Authority) -> object:
    """The serial number of the certificate that a server uses."""
    with TlsClient(address, authority.trusting()) as client:
        assert client.ask(Ping(b"")) == PONG
        return (client.tls.getpeercert() or {})["serialNumber"]


def reload(server: RunningServer) -> None:
    """Reload as SIGHUP does, and wait for the end."""
    before = info(server)
    server.call(server.server.reload)
    eventually(
        lambda: (
            (now := info(server))["tls_reloads"] != before["tls_reloads"]
            or now["tls_reload_failure"] != before["tls_reload_failure"]
        )
    )


def test_new_certificate_is_for_new_clients(start_on_both: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    server = start_on_both(**files(authority), audit_log=str(tmp_path / "audit"))
    with TlsClient(server.address, authority.trusting()) as old:
        before = serial(server.address, authority)
        authority.issue("server")
        assert serial(server.address, authority) == before
        reload(server)
        assert serial(server.address, authority) != before
        assert old.ask(Ping(b"")) == PONG
        with RawClient(server.address) as redis:
            redis.send(b"INFO server\r\n")
            assert b"tls_reloads:1\r\n" in redis.socket.recv(100_000)
    (tmp_path / "server.key").write_text("damaged")
    reload(server)
    server.call(server.server.reload)  # the same failure again is no other event
    eventually(lambda: '"tls_reload_failed"' in (tmp_path / "audit").read_text())
    events = [json.loads(line)["event"] for line in (tmp_path / "audit").read_text().splitlines()]
    assert [event for event in events if event.startswith("tls")] == ["tls_reloaded", "tls_reload_failed"]


def test_files_that_do_not_fit_keep_the_certificate(
    start_on_both: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    _, other_key = authority.issue("other")
    server = start_on_both(**files(authority))
    before = serial(server.address, authority)
    kept = key.read_bytes()
    key.write_bytes(other_key.read_bytes())
    reload(server)
    assert "is not the key of the certificate" in info(server)["tls_reload_failure"]
    assert info(server)["tls_reload_failed"] == "1"
    assert "keeps its certificate" in caplog.text
    assert serial(server.address, authority) == before
    certificate.unlink()
    reload(server)
    assert "No such file" in info(server)["tls_reload_failure"]
    authority.issue("server")
    reload(server)
    assert info(server)["tls_reload_failed"] == "0"
    assert serial(server.address, authority) != before
    assert kept != key.read_bytes()


def test_server_finds_new_files_by_itself(
    start_on_both: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnkv.server.server.TLS_LOOK_SECONDS", 0.05)
    authority = Authority(tmp_path)
    authority.issue("server")
    server = start_on_both(**files(authority))
    before = serial(server.address, authority)
    authority.issue("new")
    shutil.copy(tmp_path / "new.pem", tmp_path / "server.pem")  # between the two, the pair does not match
    eventually(lambda: info(server)["tls_reload_failed"] == "1")
    shutil.copy(tmp_path / "new.key", tmp_path / "server.key")
    eventually(lambda: info(server)["tls_reload_failed"] == "0")
    assert serial(server.address, authority) != before


def test_config_set_changes_certificate_and_key_together(start_on_both: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    certificate, key = authority.issue("other")
    server = start_on_both(**files(authority))
    before = serial(server.address, authority)
    with RawClient(server.address) as client:
        client.send(b"CONFIG SET tls-cert-file %s\r\n" % bytes(certificate))
        assert b"is not the key of the certificate" in client.socket.recv(10_000)
        assert serial(server.address, authority) == before
        client.send(b"CONFIG SET tls-cert %s tls-key %s\r\n" % (bytes(certificate), bytes(key)))
        assert client.socket.recv(10_000) == b"+OK\r\n"
        client.send(b"CONFIG GET tls-cert-file\r\n")
        assert bytes(certificate) in client.socket.recv(10_000)
    assert serial(server.address, authority) != before


def test_hundred_new_certificates_under_load_without_an_error(start_on_both: Start, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pairs = [authority.issue(f"pair{number}") for number in range(4)]
    server = start_on_both(**files(authority, "pair0"))
    stop = threading.Event()
    errors: list[BaseException] = []
    rounds = [0, 0]

    def load(worker: int) -> None:
        context = authority.trusting()
        try:
            with TlsClient(server.address, context) as kept:
                while not stop.is_set():
                    assert kept.ask(Ping(b"")) == PONG
                    with TlsClient(server.address, context) as new:
                        assert new.ask(Ping(b"")) == PONG
                    rounds[worker] += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=load, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    with RawClient(server.address) as client:
        for number in range(100):
            certificate, key = pairs[number % 4]
            client.send(b"CONFIG SET tls-cert %s tls-key %s\r\n" % (bytes(certificate), bytes(key)))
            assert client.socket.recv(10_000) == b"+OK\r\n"
    eventually(lambda: errors or min(rounds) > 5)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert info(server)["tls_reloads"] == "100"
    assert info(server)["tls_handshakes_failed"] == "0"


# -- checks of files -----------------------------------------------------------------------------------------------


def test_server_warns_of_a_key_that_all_can_read(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    _, key = authority.issue("server")
    for mode, is_open in ((0o600, False), (0o640, False), (0o644, True)):
        caplog.clear()
        key.chmod(mode)
        start(**files(authority))
        assert ("chmod 600" in caplog.text) == is_open


def test_server_warns_before_its_certificate_expires(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    expires = load(TlsFiles(tmp_path / "server.pem", tmp_path / "server.key")).expires
    left = (expires - time.time()) / 86_400
    for days, is_soon in ((left - 1, False), (left + 1, True)):
        caplog.clear()
        monkeypatch.setattr("cairnkv.server.tls.EXPIRY_WARNING_DAYS", days)
        start(**files(authority))
        assert ("expires on" in caplog.text) == is_soon


def test_check_of_files_names_the_fault(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    expired, expired_key = authority.issue("expired", expired=True)
    empty = tmp_path / "empty"
    empty.write_text("")
    cases: list[tuple[TlsFiles, str]] = [
        (TlsFiles(tmp_path / "absent", key), "absent: No such file"),
        (TlsFiles(empty, key), "contains no certificate"),
        (TlsFiles(certificate, empty), "contains no private key"),
        (TlsFiles(certificate, expired_key), "is not the key of the certificate"),
        (TlsFiles(expired, expired_key), "expired"),
        (TlsFiles(certificate, authority.encrypt(key)), "is encrypted"),
        (TlsFiles(certificate, key, empty), "contains no certificates"),
    ]
    for files_of_tls, words in cases:
        with pytest.raises(OptionError, match=words):
            load(files_of_tls)
    assert load(TlsFiles(certificate, key, authority.path)).expires > 0


# -- a server as a process -----------------------------------------------------------------------------------------


def resident(process: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_connection_with_tls_takes_little_memory(authority: Authority, tmp_path: Path, path_in_use: str) -> None:
    limit = {"native": 24 * KIB, "pure": 48 * KIB}[path_in_use]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in files(authority).items()]
    context = authority.trusting()
    with ServerProcess("--port=0", *options, log=tmp_path / "log") as server, contextlib.ExitStack() as stack:

        def connect(count: int) -> int:
            for _ in range(count):
                client = stack.enter_context(TlsClient(server.address, context))
                assert client.ask(Set(b"k", b"v" * 1_000)) == OK
                assert client.ask(Get(b"k")) == Response(True, b"v" * 1_000)
            return resident(server.process.pid)

        before = connect(100)
        each = (connect(500) - before) / 500
    assert each <= limit


def test_hangup_reloads_the_certificate_and_does_not_stop(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in files(authority).items()]
    with ServerProcess("--port=0", *options, log=tmp_path / "log") as server:
        before = serial(server.address, authority)
        authority.issue("server")
        server.signal(signal.SIGHUP)
        eventually(lambda: serial(server.address, authority) != before)
        server.signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
    assert "the server has loaded its certificate" in server.log()


def test_server_stops_without_waiting_for_a_handshake(
    start_on_both: Start, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = start_on_both(**files(authority), drain_timeout=20.0)
    with Raw.to(server.address, authority.trusting()) as client:
        client.transmit(client.hello()[:100])
        eventually(lambda: server.call(lambda: len(server.server.connections)) == 1)
        server.call(server.server.request_stop)
        with contextlib.suppress(ConnectionError):
            assert client.socket.recv(1) == b""
        eventually(lambda: not server.loop.is_running())
    assert "did not read its last replies" not in caplog.text

"""Certificates for tests, made by trustme, and clients that speak TLS.

`Raw` moves the encrypted bytes by hand, so that a test can cut, damage or hold them.
"""

import contextlib
import datetime
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cairnkv.commands import Command
from cairnkv.protocol.native import Response, ResponseDecoder, write_command
from tests.support.raw import SECONDS, RawClient

NAMES: Final = ("localhost", "127.0.0.1")
KEY_TYPES: Final = {"ecdsa": trustme.KeyType.ECDSA, "rsa": trustme.KeyType.RSA}
LAST_YEAR: Final = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=365)
YESTERDAY: Final = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


class Authority:
    """An authority, and the certificates that it signs, as files in a directory."""

    def __init__(self, directory: Path, key_type: str = "ecdsa") -> None:
        self._ca = trustme.CA(key_type=KEY_TYPES[key_type])
        self._key_type = KEY_TYPES[key_type]
        self.directory = directory
        self.path = directory / "ca.pem"
        self.path.write_bytes(self._ca.cert_pem.bytes())

    def issue(self, name: str, *names: str, user: str | None = None, expired: bool = False) -> tuple[Path, Path]:
        """Write NAME.pem and NAME.key: a certificate for some host names, and its key. user: its common name."""
        issued = self._ca.issue_cert(
            *(names or NAMES),
            common_name=user,
            not_before=LAST_YEAR if expired else None,
            not_after=YESTERDAY if expired else None,
            key_type=self._key_type,
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return self._write(name, chain, issued.private_key_pem.bytes())

    def encrypt(self, key: Path) -> Path:
        """Write a key again, with a passphrase."""
        encrypted = key.with_suffix(".encrypted")
        encrypted.write_bytes(
            serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"passphrase"),
            )
        )
        return encrypted

    def issue_strange(
        self, name: str, *, common_names: tuple[str, ...] = (), uris: tuple[str, ...] = ()
    ) -> tuple[Path, Path]:
        """Write a certificate of a client with exactly these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        signing = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text) for text in common_names]))
            .issuer_name(x509.load_pem_x509_certificate(self._ca.cert_pem.bytes()).subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
        )
        if uris:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), critical=False
            )
        pem = builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return self._write(name, pem, private)

    def _write(self, name: str, certificate: bytes, key: bytes) -> tuple[Path, Path]:
        paths = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        paths[0].write_bytes(certificate)
        paths[1].touch(0o600)
        paths[1].write_bytes(key)
        return paths

    def trusting(
        self, certificate: tuple[Path, Path] | None = None, version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority. certificate: its own. version: the only one."""
        context = ssl.create_default_context(cafile=self.path)
        if certificate is not None:
            context.load_cert_chain(*certificate)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


class TlsClient(RawClient):
    """A `RawClient` that speaks TLS."""

    def __init__(
        self,
        address: tuple[str, int] | str | None,
        context: ssl.SSLContext,
        *,
        session: ssl.SSLSession | None = None,
        receive_buffer: int | None = None,
        seconds: float = SECONDS,
    ) -> None:
        super().__init__(address, receive_buffer=receive_buffer, seconds=seconds)
        plain = self.socket
        try:
            self.tls = context.wrap_socket(plain, server_hostname="localhost", session=session)
        except BaseException:
            plain.close()
            raise
        self.socket = self.tls


class Raw:
    """A client whose encrypted bytes a test moves. Use as a context manager."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        """connected: a socket to the server."""
        self.socket = connected
        self.socket.settimeout(SECONDS)
        self.decoder = ResponseDecoder()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    @classmethod
    def to(cls, address: tuple[str, int] | None, context: ssl.SSLContext) -> "Raw":
        """Connect to a server."""
        assert address is not None
        connected = socket.create_connection(address, SECONDS)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connected, context)

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hello(self) -> bytes:
        """Return the first bytes of the handshake."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self._outgoing.read()
        raise AssertionError("the handshake needs no bytes of the server")

    def handshake(self, piece: int = 1 << 20) -> None:
        """Do the handshake, so many bytes at once."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.transmit(self._outgoing.read(), piece)
                self.take()
            else:
                self.transmit(self._outgoing.read(), piece)
                return

    def encrypted(self, data: bytes) -> bytes:
        """Return some bytes as records."""
        self.tls.write(data)
        return self._outgoing.read()

    def end(self) -> bytes:
        """Return the record that ends the client's side."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    def transmit(self, records: bytes, piece: int = 1 << 20) -> None:
        """Send records, so many bytes at once."""
        for at in range(0, len(records), piece):
            self.socket.sendall(records[at : at + piece])

    def take(self) -> None:
        """Receive records."""
        data = self.socket.recv(1 << 18)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def read(self) -> bytes:
        """Return some decrypted bytes; none at the end."""
        while True:
            try:
                return self.tls.read(1 << 18)
            except ssl.SSLWantReadError:
                self.take()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    def replies(self) -> Iterator[Response]:
        """The replies, up to the end of the stream."""
        while True:
            while (response := self.decoder.next()) is not None:
                yield response
            data = self.read()
            if not data:
                return
            self.decoder.feed(data)

    def ask(self, command: Command) -> Response:
        """Return the reply to a command."""
        self.transmit(self.encrypted(write_command(command)))
        return next(self.replies())

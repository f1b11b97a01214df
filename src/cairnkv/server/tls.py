"""The certificate of the server, its replacement at run time, and the user in a client's certificate.

Python's `ssl` checks every certificate, also where libssl then serves the clients (`tls_native.pyx`): a handshake in
memory shows that the key belongs to the certificate, that each certificate of the file certifies the one before it, and
that none has expired.

Invariants: a certificate that fails the check never replaces another one. Clients keep the certificate with which they
connected. The certificate, its key and the authority of clients change together.

Out of scope: the bytes of a connection (`tls_transport`, `poller_native.pyx`).
"""

import dataclasses
import logging
import re
import ssl
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from cairnkv.errors import OptionError, missing_package
from cairnkv.installation import native_tls_in_use
from cairnkv.paths import os_error_text
from cairnkv.server.settings import Settings, UserFrom

if TYPE_CHECKING:
    from cairnkv.server.tls_native import Context

logger: Final = logging.getLogger("cairnkv.server")

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The cipher suites of TLS 1.2: those with forward secrecy and authenticated encryption, as all of TLS 1.3 are."""

EXPIRY_WARNING_DAYS: Final = 14
"""Days before the end of a certificate from which the server warns. Most tools renew 30 days before it."""

_CERTIFICATE: Final = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY: Final = b"PRIVATE KEY-----"
_DAY: Final = 86_400


PeerNames: TypeAlias = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""The names in a client's certificate, in UTF-8: common names of the subject, and URIs of the alternative names."""


class CertificateRefused(Exception):
    """A client's certificate names no user."""


def user_of(names: PeerNames, source: UserFrom | None) -> bytes | None:
    """Return the user that a client's certificate names; None if certificates name no users.

    Raises `CertificateRefused` if it names none or several, or a name that contains a null character: programs that end
    a text there would read another name.
    """
    if source is None:
        return None
    what, found = ("common name", names[0]) if source is UserFrom.CN else ("URI", names[1])
    if len(found) != 1:
        raise CertificateRefused(f"the client's certificate has {len(found)} names of the kind {what}, not one")
    name = found[0]
    if not name or b"\0" in name:
        raise CertificateRefused(f"the {what} of the client's certificate is empty or contains a null character")
    return name


@dataclasses.dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files of TLS: certificate (and those of intermediate authorities), its key, and the authority of clients."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Self | None":
        """Return the files of some settings; None: without TLS."""
        if settings.tls_cert is None or settings.tls_key is None:
            return None
        client_ca = None if settings.tls_client_ca is None else Path(settings.tls_client_ca)
        return cls(Path(settings.tls_cert), Path(settings.tls_key), client_ca)

    def contents(self) -> tuple[bytes, ...]:
        """Return the bytes of the files. Raises `OptionError` if the server cannot read them."""
        try:
            paths = (self.certificate, self.key, self.client_ca)
            return tuple(path.read_bytes() for path in paths if path is not None)
        except OSError as error:
            raise OptionError(f"cannot read a file of TLS: {os_error_text(error)}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A checked certificate with its key.

    context, native: for Python's ssl, and for libssl; the latter is None if the native path of TLS is not in use.
    expires: the end of the certificate, in seconds since 1970. contents: the bytes of the files.
    """

    context: ssl.SSLContext
    native: "Context | None"
    expires: float
    contents: tuple[bytes, ...]


def load(files: TlsFiles) -> Identity:
    """Load and check the files. Takes some milliseconds. Raises `OptionError`."""
    contents = files.contents()
    certificates = _CERTIFICATE.findall(contents[0])
    if not certificates:
        raise OptionError(f"{files.certificate} contains no certificate in the format PEM")
    if _KEY not in contents[1]:
        raise OptionError(f"{files.key} contains no private key in the format PEM")
    context = _server_context(files)
    expires = _expiry(context, certificates, files.certificate)
    native = None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (ssl.SSLError, OSError):
            raise OptionError(f"{files.client_ca} contains no certificates in the format PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    if native_tls_in_use():
        try:
            from cairnkv.server.tls_native import Context
        except ImportError as error:  # without the library of the computer that compiled it
            raise missing_package(error, "TLS (--tls-cert)") from None
        try:
            client_ca = None if files.client_ca is None else bytes(files.client_ca)
            native = Context(bytes(files.certificate), bytes(files.key), CIPHERS.encode(), client_ca)
        except ValueError as error:  # the files have changed since
            raise OptionError(f"cannot use {files.certificate} and {files.key}: {error}") from None
    return Identity(context, native, expires, contents)


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1

    def refuse() -> str:
        raise OptionError(f"{files.key} is encrypted; the server needs a key without a passphrase")

    try:
        context.load_cert_chain(files.certificate, files.key, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise OptionError(f"{files.key} is not the key of the certificate {files.certificate}") from None
        raise OptionError(f"cannot use {files.certificate} and {files.key}: {reason_of(error)}") from None
    except OSError as error:
        raise OptionError(f"cannot read a file of TLS: {os_error_text(error)}") from None
    return context


def _expiry(context: ssl.SSLContext, certificates: list[bytes], path: Path) -> float:
    """Return the end of the certificate. Raises `OptionError` if a client that trusts the last of the chain fails."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        trusting.load_verify_locations(cadata=ssl.PEM_cert_to_DER_cert(certificates[-1].decode("ascii")))
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = trusting.wrap_bio(to_client, to_server)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        for end in (client, server, client):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        raise OptionError(f"{path}: clients would refuse this certificate: {error.verify_message}") from None
    except (ssl.SSLError, ValueError) as error:
        raise OptionError(f"{path}: a handshake with this certificate fails: {reason_of(error)}") from None
    return float(ssl.cert_time_to_seconds(str((client.getpeercert() or {})["notAfter"])))


def reason_of(error: Exception) -> str:
    """Return the words of OpenSSL for an error."""
    reason = getattr(error, "reason", None)
    return str(reason).lower().replace("_", " ") if reason else str(error)


class Certificates:
    """The certificate that a server uses now, and the results of its reloads."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `OptionError` for files that cannot be used."""
        self.identity = load(files)
        self.failure: str | None = None
        """The reason for which the newest files are not in use."""
        self.reloads = 0
        self.handshakes = 0
        self.failed_handshakes = 0
        if files.key.stat().st_mode & stat.S_IROTH:
            logger.warning("TLS: all users of this computer can read %s, the key of the server (chmod 600)", files.key)
        self._warn_of_end()

    def use(self, identity: Identity) -> None:
        """Use this for clients that connect from now on."""
        self.identity, self.failure = identity, None
        self.reloads += 1
        logger.info("TLS: the server has loaded its certificate, which expires on %s", _date(identity.expires))
        self._warn_of_end()

    def refuse(self, reason: str) -> None:
        """Record files that cannot be used."""
        if reason != self.failure:
            logger.error("TLS: the server keeps its certificate, because the new files cannot be used: %s", reason)
        self.failure = reason

    def unchanged(self) -> None:
        """The files are those in use."""
        self.failure = None

    def _warn_of_end(self) -> None:
        if self.identity.expires - time.time() < EXPIRY_WARNING_DAYS * _DAY:
            logger.warning("TLS: the certificate of the server expires on %s", _date(self.identity.expires))

    def info(self) -> tuple[tuple[str, str | int], ...]:
        """Return the lines of INFO."""
        return (
            ("tls_certificate_expires", int(self.identity.expires)),
            ("tls_reloads", self.reloads),
            ("tls_reload_failed", int(self.failure is not None)),
            ("tls_reload_failure", self.failure or ""),
            ("tls_handshakes", self.handshakes),
            ("tls_handshakes_failed", self.failed_handshakes),
        )


def newer(files: TlsFiles, before: Identity, *, always: bool) -> Identity | None:
    """Load the files, if they differ from those of an identity or `always`. Raises `OptionError`."""
    if not always and files.contents() == before.contents:
        return None
    return load(files)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))

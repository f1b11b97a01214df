"""TLS of clients: certificates, the handshake of a sync client, and the errors of handshakes.

A client reads its files again for a new connection if they have changed, so that a renewed certificate needs no
restart. If the new files do not fit together, it keeps the old ones.

Invariants: the client checks that a trusted authority has signed the certificate of the server, and that the
certificate is valid for the host of the address.

Only addresses with TLS import this module, because the import is slow.
"""

import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

from cairnkv.client.address import TlsFiles
from cairnkv.client.exchange import PureLine
from cairnkv.errors import AddressError, CairnError, LoginFailed, UntrustedServer, WrongServer

_Stamp: TypeAlias = tuple[int, int, int] | None

_PLAIN: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"}
)
"""The reasons of OpenSSL for a first record that is not of TLS."""

_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
"""The codes of OpenSSL (X509_V_ERR_...) for a certificate without a trusted authority."""

_OF_CLIENT_CERTIFICATE: Final = (
    "CERTIFICATE_REQUIRED",
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)
"""The alerts of TLS (RFC 8446, 6.2) with which a server refuses the certificate of a client."""


class Tls:
    """The TLS of one client."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises `AddressError` if a file is unreadable or does not fit."""
        self._files = files
        self._stamps = self._stamps_now()
        self._context = _new_context(files)

    def context(self) -> ssl.SSLContext:
        """Return the context with the present certificates."""
        if (stamps := self._stamps_now()) != self._stamps:
            with contextlib.suppress(AddressError):  # a renewal has perhaps written only one of two files
                self._context, self._stamps = _new_context(self._files), stamps
        return self._context

    def handshake(self, connected: socket.socket, host: str, timeout: float) -> ssl.SSLSocket:
        """Return a connected socket with TLS, whose operations have that timeout. Raises OSError."""
        connected.settimeout(timeout)
        secured = self.context().wrap_socket(
            connected, server_hostname=without_zone(host), do_handshake_on_connect=False
        )
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured

    def _stamps_now(self) -> list[_Stamp]:
        return [_stamp(path) for path in (self._files.ca, self._files.cert, self._files.key)]


def _stamp(path: str | None) -> _Stamp:
    """Return properties of a file, one of which differs after a change."""
    try:
        status = Path(path).stat() if path is not None else None
    except OSError:
        return None
    return status and (status.st_mtime_ns, status.st_ino, status.st_size)


def _new_context(files: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except OSError as error:
        raise AddressError(f"the option ca, {files.ca!r}: {reason_of(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.cert is not None:
        try:
            context.load_cert_chain(files.cert, files.key, password=_refuse_password)
        except OSError as error:
            both = f"the options cert and key, {files.cert!r} and {files.key or files.cert!r}: {reason_of(error)}"
            hint = "" if files.key is not None else "; without the option key, the file of cert also contains the key"
            raise AddressError(both + hint) from None
    return context


def _refuse_password() -> NoReturn:
    """Refuse a key that needs a password: OpenSSL would ask for it on the terminal."""
    raise AddressError("the option key names a key that is encrypted with a password; use one without")


def reason_of(error: OSError) -> str:
    """Return the reason of an error of TLS or of the system as text."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error) or type(error).__name__


def without_zone(host: str) -> str:
    """Return a host without the zone of an IPv6 address, which no certificate has.

    >>> without_zone("fe80::1%eth0")
    'fe80::1'
    """
    return host.partition("%")[0]


def is_alert(error: OSError) -> bool:
    """Return whether an error is a reason that the other side has sent."""
    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def handshake_error(error: OSError, where: str) -> CairnError | OSError:
    """Return the error for a failed handshake, or for a failed first read, with which TLS 1.3 reports a refusal.

    An OSError is one after which another attempt may succeed.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "; the option ca names a file with the certificate of its authority"
        return UntrustedServer(
            f"the certificate of {where} is not valid: {error.verify_message.rstrip('.')}"
            f"{hint if error.verify_code in _UNKNOWN_AUTHORITY else ''}"
        )
    reason = (isinstance(error, ssl.SSLError) and error.reason) or ""
    if reason in _PLAIN:
        return WrongServer(f"{where} is a server without TLS, or not cairnkv: without TLS, use an address cairn://")
    if is_alert(error) and reason.endswith(_OF_CLIENT_CERTIFICATE):
        return LoginFailed(
            f"{where} refuses the certificate of the client, or the client has none ({reason_of(error)}): see the "
            "options cert and key of an address"
        )
    if isinstance(error, TimeoutError):
        return TimeoutError("no TLS handshake in time; a server without TLS has an address cairn://")
    if isinstance(error, ssl.SSLError | ConnectionError):
        return ConnectionError(
            f"no TLS handshake ({reason_of(error)}); if the server has no TLS, its address begins with cairn://"
        )
    return error


class TlsLine(PureLine):
    """Sends and receives through TLS, with the timeouts of Python's sockets: OpenSSL repeats a call that the system's
    timeout ends."""

    def _wait_until(self, deadline: float) -> None:
        timeout = max(deadline - time.monotonic(), 0.001)
        if not 0.9 * self._timeout <= timeout <= self._timeout:
            self._timeout = timeout
            self._socket.settimeout(timeout)

    def is_quiet(self) -> bool:
        """Return whether nothing has arrived but records of TLS itself, such as tickets."""
        self._timeout = 0.0
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError, TimeoutError):  # the last one is of eventlet
            return True
        except OSError:
            pass
        return False

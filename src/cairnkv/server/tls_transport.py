"""TLS on the pure path: a transport that encrypts with Python's `ssl`, between a connection and any other transport.

The first byte of a client decides. With 0x16, the beginning of a TLS record, this transport does the handshake and then
decrypts and encrypts. With any other byte the connection gets the transport below, and does not use this one any more.

asyncio's own TLS transports cannot close only the sending side, and they need the decision before the first byte.

Invariants: for a connection this behaves as asyncio's transports. `ssl` holds no decrypted bytes while the event loop
waits. Encrypted bytes wait only in the transport below, whose limit bounds them; all others wait unencrypted. All
handshakes share the budget of `Handshakes`.

Out of scope: certificates (`tls`), and the native path of TLS (`poller_native.pyx`, `tls_native.pyx`).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

from cairnkv.limits import HANDSHAKES_TOGETHER, TLS_CONTROL_MAX, TLS_HELLO_MAX
from cairnkv.server.tls import Identity, PeerNames, reason_of

TLS_FIRST_BYTE: Final = 0x16
"""The first byte of a TLS handshake (RFC 8446, 5.1). No command of either protocol begins with it."""

CHUNK: Final = 192 * 1024
"""Bytes that are encrypted at once: twelve records."""

RECORD_MAX: Final = 16 * 1024
"""Bytes that `ssl` gets at once: about one record, so that the limit of control messages applies early."""

LOW_PART: Final = 4
"""As in asyncio, writing resumes at a quarter of the limit at which it paused."""


class TlsProtocol(Protocol):
    """The interface of a connection for a transport that may have TLS."""

    def secured(self) -> None:
        """The TLS handshake is complete."""

    def tls_failed(self, reason: str) -> None:
        """TLS has failed; the transport closes."""

    def without_tls(self, transport: asyncio.Transport) -> None:
        """The client speaks plain text: use this transport from now on."""


class Handshakes:
    """The steps of handshakes that wait: the newest first, a few in each iteration of the event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Callable[[], None], None] = {}
        self._is_scheduled = False

    def add(self, step: Callable[[], None]) -> None:
        """Run a step soon."""
        self._waiting[step] = None
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def remove(self, step: Callable[[], None]) -> None:
        """Do not run a step."""
        self._waiting.pop(step, None)

    def _run(self) -> None:
        self._is_scheduled = False
        try:
            for _ in range(HANDSHAKES_TOGETHER):
                if self._waiting:
                    self._waiting.popitem()[0]()
        finally:
            if self._waiting and not self._is_scheduled:
                self._is_scheduled = True
                asyncio.get_running_loop().call_soon(self._run)


class Hello:
    """The beginning of a client's first message, which may come in several records and in any pieces."""

    def __init__(self) -> None:
        self._record = bytearray()  # the head of the current record so far
        self._left = 0  # bytes of the record
        self._head = bytearray()  # of the message so far: its kind and its length

    def is_too_long(self, data: bytes | memoryview) -> bool:
        """Read the next bytes of the client. Returns whether OpenSSL would take too much memory for the message."""
        for byte in data:
            if len(self._head) == 4:
                break
            if self._left:
                self._left -= 1
                self._head.append(byte)
                continue
            self._record.append(byte)
            if len(self._record) == 5:
                self._left = int.from_bytes(self._record[3:])
                self._record.clear()
        return int.from_bytes(self._head[1:]) > TLS_HELLO_MAX


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """A transport above another transport, whose protocol it is."""

    def __init__(self, protocol: asyncio.Protocol, identity: Callable[[], Identity], handshakes: Handshakes) -> None:
        """protocol: also a `TlsProtocol`. identity: the certificate for a handshake that begins now."""
        super().__init__()
        self._protocol = protocol
        self._listener = cast(TlsProtocol, protocol)
        self._identity = identity
        self._handshakes = handshakes
        self._step = self._handshake  # bound once: a key of `Handshakes`
        self._below: asyncio.Transport
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._hello = Hello()
        self._secured = False
        self._unsent: list[bytes | memoryview] = []  # not encrypted, in order
        self._unsent_size = 0
        self._high, self._low = 64 * 1024, 16 * 1024
        self._below_paused = self._protocol_paused = False
        self._closing = self._end_wanted = self._end_sent = self._ended = False
        self._control = 0  # bytes since the last decrypted byte
        self._waits_for_step = False  # whether the handshake must go on before more is read

    # -- events of the transport below ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = cast(asyncio.Transport, transport)
        self._protocol.connection_made(self)

    def data_received(self, data: bytes | memoryview) -> None:
        if self._tls is None:
            if data[0] != TLS_FIRST_BYTE:
                below = self._below
                below.set_protocol(self._protocol)
                self._listener.without_tls(below)
                self._protocol.data_received(data)  # type: ignore[arg-type]  # a protocol only reads it
                return
            self._tls = self._identity().context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        if self._end_sent:
            self._protocol.data_received(data)  # type: ignore[arg-type]  # encrypted: it only counts the bytes
            return
        if self._secured:
            self._decrypt(data)
        elif self._hello.is_too_long(data):
            self._fail(ConnectionError("the client's first message is too long"))
        else:
            self._incoming.write(data)
            if self._incoming.pending > TLS_CONTROL_MAX:
                self._waits_for_step = True
                self._below.pause_reading()
            self._handshakes.add(self._step)

    def eof_received(self) -> bool:
        if self._ended or (self._tls is not None and not self._secured):
            return False
        self._ended = True
        return bool(self._protocol.eof_received())

    def pause_writing(self) -> None:
        self._below_paused = True

    def resume_writing(self) -> None:
        self._below_paused = False
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handshakes.remove(self._step)
        self._unsent.clear()
        self._unsent_size = 0
        self._protocol.connection_lost(exc)

    # -- TLS --------------------------------------------------------------------------------------------------

    @property
    def is_encrypted(self) -> bool:
        """Whether the client speaks TLS."""
        return self._tls is not None

    @property
    def is_handshaking(self) -> bool:
        """Whether the client has begun a handshake that is not complete."""
        return self._tls is not None and not self._secured

    def peer_names(self) -> PeerNames:
        """Return the names in the client's certificate."""
        certificate: Any = (self._tls.getpeercert() if self._tls is not None else None) or {}
        named = [pair for part in certificate.get("subject", ()) for pair in part]
        return (
            tuple(value.encode() for name, value in named if name == "commonName"),
            tuple(value.encode() for name, value in certificate.get("subjectAltName", ()) if name == "URI"),
        )

    def _handshake(self) -> None:
        """Do a step of the handshake with the bytes that have arrived."""
        assert self._tls is not None
        if self._below.is_closing():
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            self._read_on()
            return
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._fail(error)
            return
        self._secured = True
        self._below.set_write_buffer_limits(high=CHUNK)
        self._read_on()
        self._flush()
        self._listener.secured()
        self._send()
        self._decrypt(self._incoming.read())

    def _read_on(self) -> None:
        if self._waits_for_step:
            self._waits_for_step = False
            self._below.resume_reading()

    def _decrypt(self, data: bytes | memoryview) -> None:
        """Give the protocol the content of the received bytes."""
        assert self._tls is not None
        pieces: list[bytes] = []
        failure: Exception | None = None
        closed = False
        for at in range(0, len(data), RECORD_MAX):
            self._control += self._incoming.write(data[at : at + RECORD_MAX])
            try:
                while True:
                    piece = self._tls.read(RECORD_MAX)
                    closed = not piece
                    if closed:
                        break
                    pieces.append(piece)
                    self._control = self._incoming.pending
            except ssl.SSLWantReadError:
                if self._control > TLS_CONTROL_MAX:
                    failure = ConnectionError("the client sends TLS messages without data")
            except ssl.SSLZeroReturnError:
                closed = True
            except ssl.SSLError as error:
                failure = error
            if failure is not None or closed:
                break
        self._flush()
        if pieces and not self._below.is_closing():
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._below.is_closing():
            return
        if failure is not None:
            self._fail(failure)
        elif closed and not self._ended:
            self._ended = True
            if not self._protocol.eof_received():
                self.close()

    def _fail(self, error: Exception) -> None:
        """Close after an error of TLS, behind the alert about it."""
        self._closing = True
        self._unsent.clear()
        self._unsent_size = 0
        self._handshakes.remove(self._step)
        self._listener.tls_failed(reason_of(error))
        self._below.close()

    def _flush(self) -> None:
        """Send the bytes that `ssl` has encrypted."""
        if self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    def _send(self) -> None:
        """Encrypt and send, as far as the transport below has room."""
        while self._unsent and not self._below_paused and self._secured and not self._below.is_closing():
            assert self._tls is not None
            chunk: bytes | memoryview
            first = memoryview(self._unsent[0])
            if len(first) >= RECORD_MAX or len(self._unsent) == 1:
                chunk = first[:CHUNK]
                if len(first) > CHUNK:
                    self._unsent[0] = first[CHUNK:]
                else:
                    del self._unsent[0]
            else:
                count = size = 0
                for piece in self._unsent:
                    if size + len(piece) > CHUNK:
                        break
                    size += len(piece)
                    count += 1
                chunk = b"".join(self._unsent[:count])
                del self._unsent[:count]
            self._unsent_size -= len(chunk)
            self._tls.write(chunk)
            self._flush()
        self._check_low()
        if not self._unsent:
            if self._closing:
                self._say_end()
                self._below.close()
            elif self._end_wanted:
                self._shut_down()

    def _say_end(self) -> None:
        """Send close_notify."""
        if self._secured and not self._end_sent and self._tls is not None:
            self._end_sent = True
            with contextlib.suppress(ssl.SSLError):  # the client has not ended its side yet
                self._tls.unwrap()
            self._flush()

    def _shut_down(self) -> None:
        self._say_end()
        if self._below.can_write_eof() and not self._below.is_closing():
            self._below.write_eof()

    def _check_low(self) -> None:
        if self._protocol_paused and self.get_write_buffer_size() <= self._low:
            self._protocol_paused = False
            self._protocol.resume_writing()

    # -- interface of asyncio's transports --------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // LOW_PART if low is None else low
        if self._tls is None:
            self._below.set_write_buffer_limits(high=self._high, low=self._low)

    def get_write_buffer_size(self) -> int:
        return self._unsent_size + self._below.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._closing or self._below.is_closing()

    def is_reading(self) -> bool:
        return self._below.is_reading()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closing() or self._end_wanted or not data:
            return
        if self._tls is None:
            self._below.write(data)
            return
        self._unsent.append(data if isinstance(data, bytes) else memoryview(data))
        self._unsent_size += len(data)
        self._send()
        if self.get_write_buffer_size() > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if self._end_wanted or self._closing:
            return
        self._end_wanted = True
        if self._tls is None:
            self._below.write_eof()
        elif not self._unsent:
            self._shut_down()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._tls is None or not self._unsent or not self._secured:
            self._say_end()
            self._below.close()
        else:
            self._below.pause_reading()

    def abort(self) -> None:
        self._closing = True
        self._below.abort()

# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path of the event loop: one epoll set for asyncio's descriptors and for the sockets of all clients.

asyncio accepts other selectors. This one waits for asyncio's descriptors and serves clients while it waits: it receives
bytes, executes commands, sends replies and waits again, without Python code. It serves clients together that are ready
together: it receives from all, executes all commands, and sends all replies. So the processor stays in one part of the
code longer, the executor can look ahead over all clients, and receivers wake up less often. The bytes that the executor
leaves go to the client's connection, as from any transport, and then asyncio runs.

Invariants: for a `Connection`, a `Transport` behaves as asyncio's own. asyncio waits for no client, and no client waits
for more than the events of one wake-up.

The receive buffer is shared. Bytes that it holds belong to gathered clients until `_serve_together` has served them;
all other code gets the buffer from `_free_buffer`, which serves them first. Python code that runs meanwhile may change
any client, so each round of `_serve_together` checks again which of them the executor may serve; it never reaches the
buffer, since `poll` refuses to be called by code that it calls.

With TLS, a `Stream` decrypts the received bytes into the receive buffer, and encrypts all replies of a client at once.
It takes all bytes that were received for it, and as many decrypted bytes come out; `RECORD_ROOM` covers a record that
was incomplete. So no decrypted bytes wait outside of the receive buffer, and epoll reports all others. Handshakes take
long, so they wait in `_handshakes`: a few steps follow the other clients of a wake-up, the newest first.

Out of scope: the library of TLS (`tls_native.pyx`), and systems without epoll, where asyncio's or uvloop's transports
serve the same connections.
"""

import os
import selectors
import socket

cimport cython

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, EPROTO, errno
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from cairnkv.session.access.rights_native cimport NativeRights
from cairnkv.session.executor_native cimport (
    NOTHING_WAITS,
    READS_WAIT,
    WRITES_WAIT,
    FrameExecutor,
    Conversation,
    Piece,
    Waiting,
)
from cairnkv.store.pending_native cimport PendingBatch

from cairnkv.limits import HANDSHAKES_TOGETHER

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    uint32_t EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "sys/socket.h" nogil:
    Py_ssize_t recv(int fd, void *buffer, size_t length, int flags)
    Py_ssize_t send(int fd, const void *buffer, size_t length, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK

cdef extern from *:
    """
    #ifdef CAIRNKV_FAULT_A  /* only the build of tests/simulation/faults.py defines it */
    static const char cairnkv_fault[] __attribute__((used)) = "CAIRNKV_FAULT_A";
    #define CAIRNKV_SHARES_BUFFER 1
    #else
    #define CAIRNKV_SHARES_BUFFER 0
    #endif
    """
    const bint CAIRNKV_SHARES_BUFFER

cdef extern from *:
    """
    static void errno_set(int number) { errno = number; }
    """
    void errno_set(int number) noexcept nogil

cdef enum:
    RECEIVE_BYTES = 262144  # received from a client at once
    RECEIVE_SHORT_BYTES = 65536  # from a client whose frames are short: about half a millisecond of work
    RECEIVE_LONG_BYTES = 1048576  # from a client whose frames are long; also from all that are served together
    SHORT_FRAME_BYTES = 128  # maximum average length of short frames
    LONG_FRAME_BYTES = 4096  # minimum average length of long frames
    RECEIVE_ROOM = 65536  # minimum room in the buffer for one more of them
    TOGETHER_MAX = 16  # clients that are served together
    PROPOSED_MAX = 64  # clients whose commands are proposed together
    EVENTS_MAX = 256  # of one wake-up
    PIECES_MAX = 512  # of replies in one call; the system accepts 1,024
    PENDING_MAX = 256  # maximum pending batches of a client; beyond it they go to its session
    PENDING_BYTES_MAX = 262144  # and their maximum bytes
    TLS_FIRST_BYTE = 0x16  # of a TLS handshake (RFC 8446, 5.1); no command of either protocol begins with it
    HANDSHAKE_BYTES = 32768  # received for one step of a handshake
    ALONE_BYTES = 16384  # minimum bytes of a piece that is encrypted without others

cdef int HANDSHAKES_MAX = HANDSHAKES_TOGETHER


cdef int _receive_bytes_for(Py_ssize_t frame_bytes) noexcept nogil:
    """Return how many bytes to read at once from a client whose frames have so many bytes on average."""
    if frame_bytes >= LONG_FRAME_BYTES:
        return RECEIVE_LONG_BYTES
    return RECEIVE_SHORT_BYTES if frame_bytes <= SHORT_FRAME_BYTES else RECEIVE_BYTES


cdef double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class Stream:
    """The TLS of one client, in a class of the module that has the library."""

    cdef int handshake(self) noexcept nogil:
        return -1

    cdef Py_ssize_t decrypt(self, unsigned char *plaintext, Py_ssize_t room) noexcept nogil:
        self.failed = True
        return 0

    cdef bint encrypt(self, const char *plaintext, Py_ssize_t size) noexcept nogil:
        return False

    cdef int end(self) noexcept nogil:
        return 0

    cdef str reason(self):
        return "there is no library"

    cdef tuple names(self):
        return (), ()


cdef class StreamFactory:
    """A certificate, in a class of the module that has the library."""

    cdef Stream new_stream(self, Ciphertext *ciphertext):
        return Stream()


cdef class Poller:
    """The native part of a `ClientSelector`: the epoll set with the clients."""

    cdef int _epoll
    cdef unsigned char *_received
    cdef double _now  # the begin of the current wake-up, in the loop's time
    # Clients that are served together: their bytes are in `_received`, one after the other.
    cdef FrameExecutor _frame_executor  # their executor
    cdef Piece _pieces[PROPOSED_MAX]
    cdef PyObject *_senders[PROPOSED_MAX]  # own references
    cdef int _together
    cdef Py_ssize_t _filled
    cdef epoll_event _events[EVENTS_MAX]
    cdef dict _transports  # by descriptor
    cdef PyObject **_clients  # the same, borrowed, for a look-up without Python
    cdef int _clients_size
    cdef Ciphertext _ciphertext  # of all clients with TLS
    cdef dict _handshakes  # transports that wait for a step of their handshake, the newest last
    cdef bint _called  # whether Python code was called, which may have something for asyncio to do
    cdef bint _polling  # whether `poll` runs
    cdef object _stop  # a SystemExit or KeyboardInterrupt of a protocol, until `poll` raises it
    cdef readonly int64_t received_bytes, sent_bytes  # of all clients

    def __cinit__(self):
        self._received = <unsigned char *>PyMem_Malloc(RECEIVE_LONG_BYTES)
        self._clients_size = 1024
        self._clients = <PyObject **>PyMem_Malloc(self._clients_size * sizeof(PyObject *))
        if self._received is NULL or self._clients is NULL:
            raise MemoryError
        memset(self._clients, 0, self._clients_size * sizeof(PyObject *))

    def __dealloc__(self):
        PyMem_Free(self._received)
        PyMem_Free(self._clients)
        PyMem_Free(self._ciphertext.received)
        PyMem_Free(self._ciphertext.to_send)

    def __init__(self, int epoll):
        """epoll: the descriptor of the selector's epoll set."""
        self._epoll = epoll
        self._transports = {}
        self._handshakes = {}

    def poll(self, double timeout):
        """Wait for asyncio's descriptors, and serve clients meanwhile. timeout: in seconds; below 0: none.

        Returns the (descriptor, events) of asyncio's that are ready. The list may be empty before the timeout, if
        Python code was called, which may have scheduled work. Raises the SystemExit or KeyboardInterrupt of a protocol
        once all clients are served, and RuntimeError in a call from code that `poll` calls.
        """
        if self._polling:
            raise RuntimeError("Poller.poll is running already; do not run the event loop inside of its own callbacks")
        self._polling = True
        try:
            return self._poll(timeout)
        finally:
            self._polling = False

    cdef list _poll(self, double timeout):
        cdef Transport transport
        cdef double left = timeout, deadline
        cdef int milliseconds, count, at, fd
        cdef list ready = []
        self._called = False
        self._raise_stop()
        self._now = monotonic()
        deadline = self._now + timeout
        while True:
            milliseconds = -1 if timeout < 0 else 0 if left <= 0 else <int>(left * 1000 + 0.999) if left < 86400 else 86400000
            if self._handshakes:
                milliseconds = 0
            with nogil:
                count = epoll_wait(self._epoll, self._events, EVENTS_MAX, milliseconds)
            if count < 0:
                if errno != EINTR:
                    raise OSError(errno, os.strerror(errno))
                PyErr_CheckSignals()
                return ready
            self._now = monotonic()
            for at in range(count):
                fd = self._events[at].data.fd
                if fd < self._clients_size and self._clients[fd] is not NULL:
                    transport = <Transport>self._clients[fd]  # an own reference: the client may disconnect meanwhile
                    self._receive(transport, self._events[at].events)
                else:
                    ready.append((fd, self._events[at].events))
            if self._together:
                self._serve_together()
            if self._handshakes:
                self._continue_handshakes()
            self._raise_stop()
            if ready or self._called:
                return ready
            if timeout >= 0:
                left = deadline - self._now
                if left <= 0:
                    return ready

    cdef int _raise_stop(self) except -1:
        if self._stop is not None:
            stop, self._stop = self._stop, None
            raise stop
        return 0

    cdef int _receive(self, Transport transport, uint32_t events) except -1:
        """Receive the bytes of a client for `_serve_together`; or serve the client at once, if it needs more."""
        cdef Py_ssize_t received, room
        cdef Piece *piece
        if self._together and (
            self._together == (PROPOSED_MAX if self._frame_executor.proposes else TOGETHER_MAX)
            or RECEIVE_LONG_BYTES - self._filled < RECEIVE_ROOM
            or self._frame_executor is not transport._frame_executor
        ):
            self._serve_together()
        if events != EPOLLIN or not transport._is_plain():
            return transport._serve(events)
        room = min(transport._receive_bytes, RECEIVE_LONG_BYTES - self._filled)
        if transport._stream is not None:
            if transport._end_said:
                return transport._serve(events)
            received = transport._receive_encrypted(self._received + self._filled, RECEIVE_LONG_BYTES - self._filled, room)
            if transport._lost:
                return 0
            if received <= 0 or transport._stream.ended or transport._stream.failed:
                if received < 0 and (errno == EAGAIN or errno == EINTR):
                    return 0
                return self._serve_end_of_stream(transport, received)
        elif transport._shares:
            with nogil:
                received = recv(transport._fd, self._received + self._filled, room, MSG_DONTWAIT)
        else:
            received = recv(transport._fd, self._received + self._filled, room, MSG_DONTWAIT)
        if received <= 0:
            return transport._serve(events)  # it meets the same error, and handles it
        if transport._stream is None:
            self.received_bytes += received
        transport.heard = self._now
        self._frame_executor = transport._frame_executor
        piece = self._pieces + self._together
        piece.data = self._received + self._filled
        piece.length = received
        piece.conversation = &transport._conversation
        Py_INCREF(transport)
        self._senders[self._together] = <PyObject *>transport
        self._together += 1
        self._filled += received
        return 0

    cdef int _serve_end_of_stream(self, Transport transport, Py_ssize_t received) except -1:
        """Serve a client whose stream has ended or failed, behind the gathered clients."""
        cdef Py_ssize_t at = self._filled
        cdef int number = errno
        if self._together:
            self._serve_together()  # nothing overwrites the bytes behind those of the gathered clients
        return transport._bring_decrypted(self._received + at, received, number)

    cdef Ciphertext *_ciphertext_room(self) except NULL:
        """Return the memory for encrypted bytes."""
        if self._ciphertext.received is NULL:
            self._ciphertext.received = <unsigned char *>PyMem_Malloc(CIPHERTEXT_BYTES)
        if self._ciphertext.to_send is NULL:
            self._ciphertext.to_send = <unsigned char *>PyMem_Malloc(CIPHERTEXT_BYTES)
        if self._ciphertext.received is NULL or self._ciphertext.to_send is NULL:
            raise MemoryError
        return &self._ciphertext

    cdef int _continue_handshakes(self) except -1:
        """Do some steps of handshakes, the newest first. The sockets of the others are not watched meanwhile."""
        cdef Transport transport
        cdef int steps = 0
        while self._handshakes and steps < HANDSHAKES_MAX:
            transport = self._handshakes.popitem()[0]
            transport._waits_for_step = False
            transport._continue_handshake()
            steps += 1
        for transport in reversed(self._handshakes):
            if not transport._interest & EPOLLIN:
                break  # so are all older ones
            transport._watch()
        return 0

    cdef unsigned char *_free_buffer(self) except NULL:
        """Return the receive buffer, after serving the clients whose bytes it holds."""
        if self._together and not CAIRNKV_SHARES_BUFFER:
            self._serve_together()
        return self._received

    cdef int _serve_together(self) except -1:
        """Execute the received commands, send the replies, and give the rest of the bytes to the connections."""
        cdef int begin = 0, end, at, count = self._together
        cdef Transport transport
        cdef FrameExecutor frame_executor = self._frame_executor
        try:
            while begin < count:
                end = begin
                while end < count:
                    transport = <Transport>self._senders[end]
                    if transport._frame_executor is not frame_executor or not transport._is_plain():
                        break  # Python code has changed this client since its bytes were received
                    if frame_executor.proposes:
                        self._pieces[end].waits = transport._what_waits()
                    end += 1
                if end == begin:
                    (<Transport>self._senders[begin])._bring(self._pieces[begin].data, self._pieces[begin].length)
                    begin += 1
                    continue
                failed = None
                try:
                    end = begin + frame_executor.execute(self._pieces + begin, end - begin)
                except BaseException as error:
                    failed = error
                    if frame_executor.at_piece >= end - begin:  # the whole batch has failed, with all its replies
                        for at in range(begin, end):
                            (<Transport>self._senders[at])._wrong(failed)
                        begin = end
                        continue
                    end = begin + frame_executor.at_piece
                frame_executor.output_in_use = True
                try:
                    for at in range(begin, end):
                        if self._pieces[at].replies_size:
                            (<Transport>self._senders[at])._take_replies(self._pieces + at)
                finally:
                    frame_executor.output_in_use = False
                # From here on Python code may run, and call the executor: its output is no longer needed.
                for at in range(begin, end):
                    transport = <Transport>self._senders[at]
                    if self._pieces[at].commands:
                        transport._receive_bytes = _receive_bytes_for(self._pieces[at].done // self._pieces[at].commands)
                    else:  # the frame may be longer than the received bytes
                        transport._receive_bytes = RECEIVE_BYTES
                    if transport._unsent_size or self._pieces[at].done < self._pieces[at].length:
                        transport._bring(self._pieces[at].data + self._pieces[at].done,
                                         self._pieces[at].length - self._pieces[at].done)
                if failed is not None:
                    (<Transport>self._senders[end])._wrong(failed)
                    end += 1
                begin = end
        finally:
            self._together = 0
            self._filled = 0
            for at in range(count):
                Py_DECREF(<Transport>self._senders[at])
        return 0

    cdef int _add(self, Transport transport) except -1:
        cdef int fd = transport._fd, size
        cdef PyObject **larger
        if fd >= self._clients_size:
            size = max(fd + 1, 2 * self._clients_size)
            larger = <PyObject **>PyMem_Malloc(size * sizeof(PyObject *))
            if larger is NULL:
                raise MemoryError
            memset(larger, 0, size * sizeof(PyObject *))
            for at in range(self._clients_size):
                larger[at] = self._clients[at]
            PyMem_Free(self._clients)
            self._clients, self._clients_size = larger, size
        self._control(EPOLL_CTL_ADD, fd, EPOLLIN)
        self._transports[fd] = transport
        self._clients[fd] = <PyObject *>transport
        return 0

    cdef int _remove(self, int fd) except -1:
        self._clients[fd] = NULL
        del self._transports[fd]
        return self._control(EPOLL_CTL_DEL, fd, 0)

    cdef int _control(self, int what, int fd, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = fd
        if epoll_ctl(self._epoll, what, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0


@cython.final
@cython.no_gc
cdef class Lent:
    """Bytes of the receive buffer that a protocol may read until `data_received` returns.

    views: the number of memoryviews of them; a slice of a view counts, also after the view was released.
    """

    cdef char *data
    cdef Py_ssize_t length
    cdef int views

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.length, 1, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.views -= 1


cdef class Transport:
    """The transport of a client (`asyncio.Transport`).

    `heard`: when the client last sent bytes, in the loop's time.
    """

    cdef int _fd
    cdef Poller _poller
    cdef object _socket, _loop, _protocol
    cdef object __weakref__
    cdef list _unsent  # bytes that the system has not accepted, in order
    cdef Py_ssize_t _unsent_at  # the accepted part of the first piece
    cdef Py_ssize_t _unsent_size
    cdef Py_ssize_t _high, _low
    cdef StreamFactory _offered  # the certificate for a client that may begin TLS
    cdef Stream _stream  # None: plain text, or not decided yet
    cdef bint _waits_for_step  # whether the transport is in the poller's `_handshakes`
    cdef bint _end_said  # whether close_notify was sent: the client's further bytes are not decrypted
    cdef bytes _sealed  # encrypted bytes that the system has not accepted; `_unsent_size` counts them too
    cdef Py_ssize_t _sealed_at  # the accepted part of them
    cdef Py_ssize_t _read_next  # maximum bytes; 0: as the room allows
    cdef uint32_t _interest
    cdef bint _reading, _ended, _end_wanted, _closing, _lost, _protocol_paused
    cdef bint _shares  # whether storage's thread needs the interpreter too: release it for system calls
    cdef int _receive_bytes  # at once, by the average length of the last frames
    cdef FrameExecutor _frame_executor  # None: the pure path executes all commands
    cdef Conversation _conversation
    cdef NativeRights _rights  # has the rules of `_conversation`
    cdef list _pending  # pending batches, in order
    cdef Py_ssize_t _pending_size
    cdef object _when_released  # `_release`, bound once
    cdef readonly double heard

    def __init__(self, Poller poller, loop, connected, protocol):
        """connected: a socket that does not block. Calls `protocol.connection_made`."""
        self._poller = poller
        self._loop = loop
        self._socket = connected
        self._fd = connected.fileno()
        self._protocol = protocol
        self._unsent = []
        self._pending = []
        self._when_released = self._release
        self._high, self._low = 65536, 16384
        self._receive_bytes = RECEIVE_BYTES
        self._reading = True
        self._interest = EPOLLIN
        poller._add(self)
        protocol.connection_made(self)

    # -- interface of asyncio's transports --------------------------------------------------------------------

    def get_extra_info(self, name, default=None):
        if name == "peername":
            try:
                return self._socket.getpeername()
            except OSError:
                return default
        return self._socket if name == "socket" else default

    def set_write_buffer_limits(self, high=None, low=None):
        self._high = 65536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self):
        return self._unsent_size

    def is_closing(self):
        return self._closing

    def offer_tls(self, StreamFactory certificate not None):
        """Let the client begin TLS by its first byte."""
        self._offered = certificate

    @property
    def is_encrypted(self):
        """Whether the client speaks TLS."""
        return self._stream is not None

    @property
    def is_handshaking(self):
        """Whether the client has begun a handshake that is not complete."""
        return self._stream is not None and not self._stream.established

    def peer_names(self):
        """Return the names in the client's certificate: (common names, URIs)."""
        return self._stream.names()

    def set_protocol(self, protocol):
        self._protocol = protocol

    def pause_reading(self):
        self._reading = False
        self._watch()

    def resume_reading(self):
        self._reading = True
        self._watch()

    def write(self, data):
        if self._lost or self._end_wanted or not data:
            return
        if not self._unsent_size and (self._stream is None or self._stream.established):
            data = self._send(data) if self._stream is None else self._encrypt_and_send(data)
            if data is None:
                self._check_high()  # of what `_sealed` holds
                return
        self._unsent.append(data)
        self._unsent_size += len(data)
        self._watch()
        self._check_high()

    def writelines(self, pieces):
        if self._lost or self._end_wanted:
            return
        self._unsent.extend(pieces)
        self._unsent_size += sum(map(len, pieces))
        self._flush()
        self._check_high()

    def can_write_eof(self):
        return True

    def write_eof(self):
        if not self._end_wanted and not self._closing:
            self._end_wanted = True
            if not self._unsent_size:
                self._shut_down()

    def close(self):
        if not self._closing:
            self._closing = True
            self._reading = False
            if self._unsent_size and not (self._stream is not None and not self._stream.established):
                self._watch()
            else:
                self._close_now()

    def abort(self):
        self._closing = True
        self._lose(None)

    # -- the native path --------------------------------------------------------------------------------------

    def set_native_path(self, frame_executor, int width, tuple statuses, Py_ssize_t string_max, Py_ssize_t frame_max,
                   bint reads_locally, NativeRights rights):
        """Let an executor execute the bytes of the client first; None: none. rights: None: all rights."""
        self._frame_executor = frame_executor
        self._shares = frame_executor is not None and (<FrameExecutor>frame_executor)._collector is not None
        self._conversation.width = width
        self._conversation.success = statuses[0]
        self._conversation.failure = statuses[1]
        self._conversation.string_max = string_max
        self._conversation.frame_max = frame_max
        self._conversation.reads_locally = reads_locally
        self._conversation.rules = NULL if rights is None else &rights.rules
        self._rights = rights

    # -- pending replies --------------------------------------------------------------------------------------

    @property
    def holds(self):
        """Whether the transport has pending replies."""
        return len(self._pending) > 0

    def hand_over(self):
        """Give the pending replies to the protocol, which queues others behind them."""
        if self._pending:
            pending, self._pending, self._pending_size = self._pending, [], 0
            self._protocol.add_batches(pending)

    cdef inline Waiting _what_waits(self) noexcept:
        """Return which commands of the client are not executed yet, of those whose replies are pending here."""
        cdef Py_ssize_t at = PyList_GET_SIZE(self._pending)
        cdef PendingBatch pending
        if at == 0:
            return NOTHING_WAITS
        while at:
            at -= 1
            pending = <PendingBatch>PyList_GET_ITEM(self._pending, at)
            if pending.writes and pending.reply is None:
                return WRITES_WAIT
        return READS_WAIT

    cdef int _take_replies(self, Piece *piece) except -1:
        """Send the executor's replies to this client, or keep those that must wait."""
        cdef PendingBatch pending
        cdef FrameExecutor frame_executor = self._poller._frame_executor
        cdef bint behind = PyList_GET_SIZE(self._pending) > 0
        if self._lost:
            return 0
        if not behind and piece.wait == 0:
            return self._send_replies(frame_executor._out + piece.replies_at, piece.replies_size)
        if frame_executor.proposes:
            self._poller._called = True  # asyncio publishes the proposals
        if not behind and piece.ready_size:
            self._send_replies(frame_executor._out + piece.replies_at, piece.ready_size)
        try:
            pending = frame_executor.hold(piece, behind)
            self._pending.append(pending)
            self._pending_size += pending._charged
            if pending.reply is None:
                pending.on_ready = self._when_released
            else:
                self._release()
        except BaseException as error:
            self._wrong(error)
        return 0

    def _release(self):
        """Send the replies that may leave, up to the first that may not."""
        cdef PendingBatch pending
        cdef Py_ssize_t count = 0
        for pending in self._pending:
            if pending.reply is None:
                break
            count += 1
        if count == 0 or self._lost:
            return
        if count == 1 and not self._unsent_size:
            pending = self._pending[0]
            if pending._parts is None:
                del self._pending[0]
                self._pending_size -= pending._charged
                self._send_replies(PyBytes_AS_STRING(pending._replies), PyBytes_GET_SIZE(pending._replies))
                return
        released = self._pending[:count]
        del self._pending[:count]
        pieces = []
        for pending in released:
            self._pending_size -= pending._charged
            for part in pending.parts:
                if type(part) is not bytes:  # a failure or a queued reply: the protocol encodes it
                    self._pending[:0] = released
                    self._poller._called = True
                    self.hand_over()
                    self._protocol.resume_pending()
                    return
                pieces.append(part)
        replies = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._unsent_size:
            self._unsent.append(replies)
            self._unsent_size += len(replies)
            self._check_high()
        else:
            self._send_replies(PyBytes_AS_STRING(replies), PyBytes_GET_SIZE(replies))

    def read_next(self, Py_ssize_t size):
        """Read no more than so many bytes the next time, even if more have come."""
        self._read_next = size

    # -- events -----------------------------------------------------------------------------------------------

    cdef inline bint _is_plain(self) noexcept:
        """Whether the client only needs a receive, and the executor may execute the bytes."""
        return (
            self._frame_executor is not None
            and self._unsent_size == 0
            and (self._pending_size < PENDING_BYTES_MAX and PyList_GET_SIZE(self._pending) < PENDING_MAX)
            and self._reading
            and not self._ended
            and not self._lost
        )

    cdef int _serve(self, uint32_t events) except -1:
        """Handle the events of one wake-up. Errors of the protocol go to the loop's handler."""
        cdef Py_ssize_t received, size
        cdef unsigned char *buffer = self._poller._free_buffer()
        cdef unsigned char first = 0
        Py_INCREF(self)
        try:
            if events & EPOLLOUT:
                self._flush()
            if not self._reading or self._ended or self._lost:
                if events & (EPOLLERR | EPOLLHUP) and not self._lost and not events & EPOLLOUT:
                    self._lose(ConnectionResetError("the client has gone"))
                return 0
            if not events & (EPOLLIN | EPOLLERR | EPOLLHUP):
                return 0
            if self._offered is not None:
                if recv(self._fd, &first, 1, MSG_DONTWAIT | MSG_PEEK) == 1:
                    if first == TLS_FIRST_BYTE:
                        self._stream = self._offered.new_stream(self._poller._ciphertext_room())
                    self._offered = None
            if self._stream is not None and not self._stream.established:
                if not self._waits_for_step:
                    self._waits_for_step = True
                    self._poller._handshakes[self] = None
                return 0
            size = min(RECEIVE_BYTES, self._read_next) if self._read_next else RECEIVE_BYTES
            self._read_next = 0
            if self._stream is not None and not self._end_said:
                received = self._receive_encrypted(buffer, RECEIVE_LONG_BYTES, RECEIVE_BYTES)
                return self._bring_decrypted(buffer, received, errno)
            received = recv(self._fd, buffer, size, MSG_DONTWAIT)
            if received < 0:
                if errno != EAGAIN and errno != EINTR:
                    self._lose(OSError(errno, os.strerror(errno)))
                return 0
            if received == 0:
                self._end_of_input()
                return 0
            self._poller.received_bytes += received
            self._bring(buffer, received)
        except BaseException as error:
            self._wrong(error)
        finally:
            Py_DECREF(self)
        return 0

    # -- TLS --------------------------------------------------------------------------------------------------

    cdef int _continue_handshake(self) except -1:
        """Receive, and do a step of the handshake. Its last bytes may be followed by data."""
        cdef Stream stream = self._stream  # an own reference, here and below: `_lose` and Python code change the attribute
        cdef Ciphertext *ciphertext = stream.ciphertext
        cdef unsigned char *buffer = self._poller._free_buffer()
        cdef Py_ssize_t received
        cdef int done
        if self._lost:
            return 0
        try:
            received = recv(self._fd, ciphertext.received, HANDSHAKE_BYTES, MSG_DONTWAIT)
            if received <= 0:
                if received == 0:
                    self._lose(ConnectionResetError("the client has disconnected during the TLS handshake"))
                elif errno != EAGAIN and errno != EINTR:
                    self._lose(OSError(errno, os.strerror(errno)))
                else:
                    self._watch()
                return 0
            self._poller.received_bytes += received
            self.heard = self._poller._now
            ciphertext.received_at = 0
            ciphertext.received_size = received
            with nogil:
                done = stream.handshake()
            received = stream.decrypt(buffer, RECEIVE_LONG_BYTES) if done == 1 else 0
            ciphertext.received_at = ciphertext.received_size = 0
            self._send_sealed()
            if done < 0:
                self._poller._called = True
                self._protocol.tls_failed(stream.reason())
                self._lose(None)
                return 0
            self._watch()
            if done == 1 and not self._lost:
                self._poller._called = True
                self._protocol.secured()
                self._flush()
                if received or stream.ended or stream.failed:
                    self._bring_decrypted(buffer, received, 0)
        except BaseException as error:
            self._wrong(error)
        return 0

    cdef Py_ssize_t _receive_encrypted(self, unsigned char *buffer, Py_ssize_t room, Py_ssize_t wanted) noexcept:
        """Receive and decrypt about as many bytes as wanted. Returns 0 at the end of the stream, or -1 and sets errno.

        Decrypted bytes may come with the end of the stream, or a failure of it.
        """
        cdef Stream stream = self._stream
        cdef Ciphertext *ciphertext = stream.ciphertext
        cdef Py_ssize_t received
        wanted = min(min(wanted, <Py_ssize_t>CIPHERTEXT_BYTES), room - RECORD_ROOM)
        if self._shares:
            with nogil:
                received = recv(self._fd, ciphertext.received, wanted, MSG_DONTWAIT)
        else:
            received = recv(self._fd, ciphertext.received, wanted, MSG_DONTWAIT)
        if received <= 0:
            return received
        self._poller.received_bytes += received
        self.heard = self._poller._now
        ciphertext.received_at = 0
        ciphertext.received_size = received
        if self._shares:
            with nogil:
                received = stream.decrypt(buffer, room)
        else:
            received = stream.decrypt(buffer, room)
        if ciphertext.to_send_size:
            try:
                self._send_sealed()  # an alert, or the reply to a message of TLS
            except BaseException as error:
                self._wrong(error)
        if received == 0 and not stream.ended:
            errno_set(EPROTO if stream.failed else EAGAIN)
            return -1
        return received

    cdef int _bring_decrypted(self, const unsigned char *data, Py_ssize_t received, int number) except -1:
        """Give decrypted bytes to the connection, and then the end or the failure of the stream.

        received: 0 at the end; below 0: an error, whose number follows.
        """
        cdef Stream stream = self._stream
        if self._lost:
            return 0
        try:
            if received > 0:
                self._bring(data, received)
            if self._lost:
                return 0
            if stream.failed:
                self._poller._called = True
                self._protocol.tls_failed(stream.reason())
                self._lose(None)
            elif received == 0 or stream.ended:
                if not self._ended:
                    self._end_of_input()
            elif received < 0 and number != EAGAIN and number != EINTR:
                self._lose(OSError(number, os.strerror(number)))
        except BaseException as error:
            self._wrong(error)
        return 0

    cdef bint _send_sealed(self) except -1:
        """Send the bytes that the stream has encrypted. Returns whether the system has accepted all of them."""
        cdef Ciphertext *ciphertext = self._stream.ciphertext
        cdef Py_ssize_t sent = 0, size = ciphertext.to_send_size
        ciphertext.to_send_size = 0
        if size == 0 or self._lost:
            return self._sealed is None
        if self._sealed is None:
            if self._shares:
                with nogil:
                    sent = send(self._fd, ciphertext.to_send, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            else:
                sent = send(self._fd, ciphertext.to_send, size, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent > 0:
                self._poller.sent_bytes += sent
            if sent == size:
                return True
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self._lose(OSError(errno, os.strerror(errno)))
                    return False
                sent = 0
            self._sealed = PyBytes_FromStringAndSize(<char *>ciphertext.to_send + sent, size - sent)
        else:
            self._sealed = self._sealed[self._sealed_at :] + PyBytes_FromStringAndSize(<char *>ciphertext.to_send, size)
        self._sealed_at = 0
        self._unsent_size += size - sent
        self._watch()
        return False

    cdef Py_ssize_t _seal_and_send(self, const char *data, Py_ssize_t size) except -1:
        """Encrypt and send bytes, until the system accepts no more. Returns how many were encrypted."""
        cdef Stream stream = self._stream
        cdef Py_ssize_t done = 0, chunk
        cdef bint is_encrypted
        while done < size and not self._lost:
            chunk = min(size - done, <Py_ssize_t>PLAINTEXT_BYTES)
            if self._shares:
                with nogil:
                    is_encrypted = stream.encrypt(data + done, chunk)
            else:
                is_encrypted = stream.encrypt(data + done, chunk)
            if not is_encrypted:
                stream.ciphertext.to_send_size = 0
                self._lose(ConnectionError(f"TLS: {stream.reason()}"))
                break
            done += chunk
            if not self._send_sealed():
                break
        return done

    def _encrypt_and_send(self, data):
        """Encrypt and send bytes, until the system accepts no more. Returns the rest, or None."""
        cdef Py_buffer view
        cdef Py_ssize_t done, size
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            size = view.len
            done = self._seal_and_send(<char *>view.buf, size)
        finally:
            PyBuffer_Release(&view)
        return None if self._lost or done == size else memoryview(data)[done:]

    cdef int _flush_encrypted(self) except -1:
        """Send encrypted bytes, and encrypt and send others, until the system accepts no more."""
        cdef Py_ssize_t sent
        while not self._lost:
            if self._sealed is not None:
                sent = send(self._fd, PyBytes_AS_STRING(self._sealed) + self._sealed_at,
                            PyBytes_GET_SIZE(self._sealed) - self._sealed_at, MSG_DONTWAIT | MSG_NOSIGNAL)
                if sent < 0:
                    if errno != EAGAIN and errno != EINTR:
                        self._lose(OSError(errno, os.strerror(errno)))
                    return 0
                self._poller.sent_bytes += sent
                self._unsent_size -= sent
                self._sealed_at += sent
                if self._sealed_at < PyBytes_GET_SIZE(self._sealed):
                    return 0
                self._sealed = None
            if not self._unsent or not self._stream.established:
                return 0
            first = self._unsent[0]
            count = 1
            if self._unsent_at:
                first = memoryview(first)[self._unsent_at :]
            size = len(first)
            if size < ALONE_BYTES and len(self._unsent) > 1:
                pieces = [first]
                for piece in self._unsent[1:PIECES_MAX]:
                    if size + len(piece) > PLAINTEXT_BYTES:
                        break
                    size += len(piece)
                    pieces.append(piece)
                count = len(pieces)
                first = b"".join(pieces)
            rest = self._encrypt_and_send(first)
            if self._lost:
                return 0
            if rest is None:
                del self._unsent[:count]
                self._unsent_at = 0
                self._unsent_size -= size
            else:  # only of one piece: several are not longer than a chunk
                self._unsent_at += size - len(rest)
                self._unsent_size -= size - len(rest)
        return 0

    cdef int _say_end(self) except -1:
        """Send close_notify, if that is possible now."""
        cdef Stream stream = self._stream
        if stream is not None and stream.established and not self._end_said and not self._lost:
            self._end_said = True
            stream.end()
            self._send_sealed()
        return 0

    cdef int _close_now(self) except -1:
        self._say_end()
        return self._lose(None)

    cdef int _bring(self, const unsigned char *data, Py_ssize_t length) except -1:
        """Give bytes for the pure path to the connection, and pause it if too many bytes are unsent."""
        cdef Lent lent
        try:
            self._check_high()
            if length and not self._lost:
                self._poller._called = True
                self.hand_over()
                lent = Lent.__new__(Lent)
                lent.data, lent.length = <char *>data, length
                view = memoryview(lent)
                try:
                    self._protocol.data_received(view)
                finally:
                    view.release()
                if lent.views:  # the next client uses this memory
                    raise BufferError(f"{self._protocol!r} has kept a part of the receive buffer; copy it instead")
        except BaseException as error:
            self._wrong(error)
        return 0

    cdef int _wrong(self, error) except -1:
        self._poller._called = True
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            self._poller._stop = error
            return 0
        self._loop.call_exception_handler(
            {"message": "a connection failed", "exception": error, "transport": self, "protocol": self._protocol}
        )
        if not self._lost:
            self._closing = True
            self._lose(error)
        return 0

    cdef int _end_of_input(self) except -1:
        self._poller._called = True
        self._ended = True
        self._watch()
        self.hand_over()
        if not self._protocol.eof_received():
            self.close()
        return 0

    cdef int _send_replies(self, const char *replies, Py_ssize_t size) except -1:
        """Send the executor's replies; keep the bytes that the system does not accept."""
        cdef Py_ssize_t sent
        if self._stream is not None:
            return self._send_encrypted_replies(replies, size)
        if self._shares:
            with nogil:
                sent = send(self._fd, replies, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        else:
            sent = send(self._fd, replies, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent > 0:
            self._poller.sent_bytes += sent
        if sent == size:
            return 0
        try:
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self._lose(OSError(errno, os.strerror(errno)))
                    return 0
                sent = 0
            self._unsent.append(PyBytes_FromStringAndSize(replies + sent, size - sent))
            self._unsent_size += size - sent
            self._watch()
        except BaseException as error:
            self._wrong(error)
        return 0

    cdef int _send_encrypted_replies(self, const char *replies, Py_ssize_t size) except -1:
        cdef Py_ssize_t done
        try:
            done = self._seal_and_send(replies, size)
            if done < size and not self._lost:
                self._unsent.append(PyBytes_FromStringAndSize(replies + done, size - done))
                self._unsent_size += size - done
                self._watch()
        except BaseException as error:
            self._wrong(error)
        return 0

    def _send(self, data):
        """Send the bytes that the system accepts now. Returns the rest, or None."""
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return data
        except OSError as error:
            self._lose(error)
            return None
        self._poller.sent_bytes += sent
        return data[sent:] if sent < len(data) else None

    cdef int _flush(self) except -1:
        cdef Py_ssize_t sent
        if self._stream is not None:
            self._flush_encrypted()
        while self._unsent_size and not self._lost and self._stream is None:
            pieces = self._unsent[:PIECES_MAX]
            if self._unsent_at:
                pieces[0] = memoryview(pieces[0])[self._unsent_at :]
            try:
                sent = self._socket.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._lose(error)
                return 0
            self._poller.sent_bytes += sent
            self._unsent_size -= sent
            whole = 0
            for piece in pieces:
                if sent < len(piece):
                    break
                sent -= len(piece)
                whole += 1
            self._unsent_at = sent if whole else self._unsent_at + sent
            del self._unsent[:whole]
            if whole < len(pieces):
                break  # the system accepts no more
        if self._lost:
            return 0
        self._watch()
        if self._protocol_paused and self._unsent_size <= self._low:
            self._protocol_paused = False
            self._poller._called = True
            self._protocol.resume_writing()
        if not self._unsent_size:
            if self._closing:
                self._close_now()
            elif self._end_wanted:
                self._shut_down()
        return 0

    cdef int _check_high(self) except -1:
        if self._unsent_size > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._poller._called = True
            self._protocol.pause_writing()
        return 0

    cdef int _shut_down(self) except -1:
        if self._stream is not None and not self._end_said:
            self._say_end()
            if self._unsent_size:
                return 0  # the system accepts no more; `_flush` comes back
        if not self._lost:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:  # the client has disconnected, which was not noticed yet
                self._lose(error)
        return 0

    cdef int _watch(self) except -1:
        """Set the events to wait for."""
        cdef uint32_t interest = 0
        if self._lost:
            return 0
        if self._reading and not self._ended and not self._waits_for_step:
            interest |= EPOLLIN
        if self._sealed is not None or (self._unsent_size and (self._stream is None or self._stream.established)):
            interest |= EPOLLOUT
        if interest != self._interest:
            self._interest = interest
            self._poller._control(EPOLL_CTL_MOD, self._fd, interest)
        return 0

    cdef int _lose(self, error) except -1:
        """Close: receive and send nothing more, and notify the protocol in the loop's next iteration."""
        if self._lost:
            return 0
        self._lost = self._closing = True
        self._poller._called = True
        self._unsent.clear()
        for pending in self._pending:
            (<PendingBatch>pending).abandoned = True
        self._pending.clear()
        self._when_released = None
        self._unsent_size = self._pending_size = 0
        self._sealed = None
        self._frame_executor = None
        if self._waits_for_step:
            self._waits_for_step = False
            self._poller._handshakes.pop(self, None)
        self._loop.call_soon(self._tell_lost, error)  # later: events of this wake-up may still name the descriptor
        return self._poller._remove(self._fd)

    def _tell_lost(self, error):
        try:
            self._protocol.connection_lost(error)
        finally:
            self._socket.close()

# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native path of the clients: encodes commands, uses a socket, decodes replies.

Each name is the twin of a pure one: `command_parts` and `ReplyDecoder` of `cairnkv.protocol.native`, `PureLine` of
`cairnkv.client.exchange`. Rare cases and errors use the pure path.

Out of scope: the decision to repeat a call, and the Python value of a reply (`cairnkv.client.calls`).
"""

import os

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from cairnkv.protocol.big_endian cimport be32, put_be32

from cairnkv.commands import COUNTED_FROM as _COUNTED_FROM
from cairnkv.commands import MISSING, OK, Answer
from cairnkv.commands.grammar import Kind, Place
from cairnkv.protocol import native

cdef extern from "sys/socket.h" nogil:
    Py_ssize_t recv(int fd, void *buffer, size_t length, int flags)
    Py_ssize_t send(int fd, const void *buffer, size_t length, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE  /* for ppoll */
    #endif
    #include <poll.h>
    """
    cdef struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *descriptors, unsigned long count, const timespec *timeout, const void *signals) nogil
    int POLLIN, POLLOUT

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef enum:
    RECEIVE_BYTES = 65536  # maximum of one `recv`
    ONE_PIECE_BYTES = 65536  # maximum of a frame that is copied to one piece
    HEAD_BYTES = 6  # of a response: header, status, length
    ASLEEP_MAX = 64  # maximum number of waits without polling after polling was in vain

# Seconds that a thread polls for a reply before it sleeps. A server on the same computer often answers earlier, and
# earlier than the system can wake a sleeping thread. Meanwhile the interpreter's lock is released, and each poll yields
# the processor.
cdef double AWAKE_SECONDS = 50e-6

cdef uint32_t COUNTED_FROM = _COUNTED_FROM
cdef object ANSWER_OK = Answer.OK
cdef object ANSWER_BYTES = Answer.BYTES
cdef object reply_in = native.reply_in
cdef object Response = native.Response
cdef int FLAG_MISSING = int(native.ResponseFlag.MISSING)
cdef int FLAG_MEMORY_ONLY = int(native.ResponseFlag.MEMORY_ONLY)


cdef inline double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


# -- commands to bytes ------------------------------------------------------------------------------------------------

# Of each class of commands: the names of its fields if their values are its strings, else None.
cdef dict _plain_fields = {}


cdef object _fields_of(type command_class):
    fields = command_class.spec.fields
    plain = all(slot.place is Place.ARGUMENT and type(slot.kinds[0]).write is Kind.write for _, slot in fields)
    found = tuple(name for name, _ in fields) if plain else None
    _plain_fields[command_class] = found
    return found


def command_parts(command):
    """Return the frame of a command in pieces. A short frame is one piece."""
    cdef type command_class = type(command)
    cdef object names = _plain_fields[command_class] if command_class in _plain_fields else _fields_of(command_class)
    cdef list strings = command.arguments() if names is None else [getattr(command, name) for name in names]
    cdef uint32_t number = command_class.spec.number
    cdef Py_ssize_t size = 3 + (4 if number >= COUNTED_FROM else 0), length
    cdef object string
    for string in strings:
        if type(string) is not bytes:
            return native.command_parts(command)
        size += 4 + PyBytes_GET_SIZE(string)
    if size > ONE_PIECE_BYTES or number > 0xFFFF:
        return native.command_parts(command)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, size)
    cdef char *at = PyBytes_AS_STRING(frame)
    at[0] = 0
    at[1] = <char>(number >> 8)
    at[2] = <char>number
    at += 3
    if number >= COUNTED_FROM:
        put_be32(at, PyList_GET_SIZE(strings))
        at += 4
    for string in strings:
        length = PyBytes_GET_SIZE(string)
        put_be32(at, length)
        memcpy(at + 4, PyBytes_AS_STRING(string), length)
        at += 4 + length
    return [frame]


# -- bytes to replies -------------------------------------------------------------------------------------------------


cdef class ReplyDecoder:
    """Decodes the bytes of a connection to the replies to its commands."""

    cdef object _buffer  # bytes as received; a bytearray if pieces were joined
    cdef Py_ssize_t _start

    def __init__(self):
        self._buffer = b""

    @property
    def pending(self):
        """Number of bytes that no reply has used yet."""
        return len(self._buffer) - self._start

    def feed(self, data):
        """Add received bytes."""
        if self._start == len(self._buffer):
            self._buffer = data if type(data) is bytes else bytes(data)
            self._start = 0
            return
        if type(self._buffer) is not bytearray:
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def reply(self, spec):
        """Return the reply to a command of this spec, or None if bytes are missing. Raises `PeerError`."""
        cdef const unsigned char *head
        cdef Py_ssize_t size
        cdef int status
        cdef uint32_t length
        answer = spec.answer  # before anything points into the buffer
        if type(self._buffer) is bytes:
            size = PyBytes_GET_SIZE(self._buffer) - self._start
            head = <const unsigned char *>PyBytes_AS_STRING(self._buffer) + self._start
        else:
            size = PyByteArray_GET_SIZE(self._buffer) - self._start
            head = <const unsigned char *>PyByteArray_AS_STRING(self._buffer) + self._start
        if size < HEAD_BYTES:
            return self._wait()
        status = head[1]
        if status not in (0x00, 0x01, 0x30, 0x31):
            raise native.no_status(status)
        length = be32(head + 2)
        if size < HEAD_BYTES + <Py_ssize_t>length:
            return self._wait()
        self._start += HEAD_BYTES + <Py_ssize_t>length
        if head[0] & FLAG_MEMORY_ONLY:
            pass
        elif not status & 1:
            if answer is ANSWER_BYTES:
                return PyBytes_FromStringAndSize(<const char *>head + HEAD_BYTES, length)
            if answer is ANSWER_OK:
                return OK
        elif head[0] & FLAG_MISSING:
            return MISSING
        return reply_in(
            Response(not status & 1, PyBytes_FromStringAndSize(<const char *>head + HEAD_BYTES, length), head[0]), spec
        )

    cdef object _wait(self):
        """Free the bytes of the returned replies, because the next reply may take long. Returns None."""
        if self._start:
            self._buffer = self._buffer[self._start :]
            self._start = 0
        return None


# -- bytes through a socket -------------------------------------------------------------------------------------------


cdef Py_ssize_t look(int fd, char *into, double until) noexcept nogil:
    """Receive bytes that arrive before `until`; as `recv`, with EAGAIN if there are none."""
    cdef Py_ssize_t count
    while True:
        count = recv(fd, into, RECEIVE_BYTES, MSG_DONTWAIT)
        if count >= 0 or errno != EAGAIN or monotonic() >= until:
            return count
        sched_yield()


cdef class Line:
    """Sends and receives on a socket. A wait polls at first, if polling has helped recently, then it sleeps.

    asleep: the number of next waits without polling.
    """

    cdef object _socket  # keeps its descriptor open
    cdef int _fd
    cdef readonly int asleep
    cdef int _asleep_next  # that number after another wait whose polling was in vain
    cdef char _received[RECEIVE_BYTES]

    def __init__(self, connected):
        """connected: a socket that stays open while the line is in use."""
        self._socket = connected
        self._fd = connected.fileno()
        self.asleep = 0
        self._asleep_next = 1

    def send(self, bytes data, double deadline):
        """Send all bytes. Raises OSError; TimeoutError after the deadline."""
        cdef const char *rest = PyBytes_AS_STRING(data)
        cdef Py_ssize_t left = PyBytes_GET_SIZE(data), count
        while True:
            with nogil:
                count = send(self._fd, rest, left, MSG_DONTWAIT | MSG_NOSIGNAL)
            if count == left:
                return
            if count >= 0:
                rest += count
                left -= count
            elif errno == EAGAIN:
                self._sleep(POLLOUT, deadline)
            elif errno != EINTR:
                raise OSError(errno, os.strerror(errno))

    def receive(self, double deadline):
        """Return the next received bytes. Raises OSError; TimeoutError after the deadline."""
        cdef double now = monotonic(), until
        cdef Py_ssize_t count
        if now > deadline:
            raise TimeoutError  # even if bytes have arrived: a slow sender could prevent it forever
        cdef bint awake = self.asleep == 0
        if not awake:
            self.asleep -= 1
        until = min(now + AWAKE_SECONDS, deadline) if awake else 0
        while True:
            with nogil:
                count = look(self._fd, self._received, until)
            if count > 0:
                if awake:
                    self._asleep_next = 1
                return PyBytes_FromStringAndSize(self._received, count)
            if count == 0:
                raise ConnectionResetError("the server closed it")
            if errno != EAGAIN and errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            if awake:
                awake, until = False, 0
                self.asleep = self._asleep_next
                self._asleep_next = min(2 * self._asleep_next, ASLEEP_MAX)
            self._sleep(POLLIN, deadline)

    cdef int _sleep(self, short events, double deadline) except -1:
        """Sleep until the socket is ready, or a signal arrives. Runs signal handlers, and raises what they raise."""
        cdef pollfd waiting
        cdef timespec limit
        cdef double left
        cdef int count
        PyErr_CheckSignals()  # a signal that arrived during the polling would not end the sleep
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        waiting.fd = self._fd
        waiting.events = events
        limit.tv_sec = <long>left
        limit.tv_nsec = <long>((left - limit.tv_sec) * 1e9)
        with nogil:
            count = ppoll(&waiting, 1, &limit, NULL)
        if count < 0 and errno != EINTR:
            raise OSError(errno, os.strerror(errno))
        return 0

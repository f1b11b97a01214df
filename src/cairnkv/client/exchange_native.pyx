# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The compiled hot path of the clients: commands to bytes, bytes through a socket, bytes to replies.

Each name here is the twin of a readable one, and does the same: `command_parts` and `ReplyDecoder` of
`cairnkv.protocol.native`, `Line` of `cairnkv.client.line`. Whatever is rare or goes wrong is left to the readable one,
so that it is decided, and worded, in one place.

Not for when a call is repeated, and not for what a reply means to Python (`cairnkv.client.calls`).
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
    RECEIVE_BYTES = 65536  # asked of the socket at once
    ONE_PIECE_BYTES = 65536  # of a frame that is put together here; a longer one need not be copied
    HEAD_BYTES = 6  # of a response: header, status, length
    ASLEEP_MAX = 64  # waits between two tries of waiting awake, where it never helps

# Seconds that a reply is waited for awake before the thread sleeps: a server on the same machine answers in less, and
# in less than it takes the system to wake a thread, most of all one whose processor has gone to rest. Nobody is kept
# from anything meanwhile: the interpreter is released, and the processor offered at every look to whoever waits for it.
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

# Of each class of commands: the fields that are its strings just as they are, or None where its grammar has to say.
cdef dict _plain_fields = {}


cdef object _fields_of(type command_class):
    fields = command_class.spec.fields
    plain = all(slot.place is Place.ARGUMENT and type(slot.kinds[0]).write is Kind.write for _, slot in fields)
    found = tuple(name for name, _ in fields) if plain else None
    _plain_fields[command_class] = found
    return found


def command_parts(command):
    """The frame of a command in pieces; a short one is one piece."""
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
    """A connection's bytes in, the replies to its commands out."""

    cdef object _buffer  # bytes, used as they came; a bytearray where pieces had to be put together
    cdef Py_ssize_t _start

    def __init__(self):
        self._buffer = b""

    @property
    def pending(self):
        """Bytes that were fed and not yet given."""
        return len(self._buffer) - self._start

    def feed(self, data):
        """Take more bytes of the connection."""
        if self._start == len(self._buffer):
            self._buffer = data if type(data) is bytes else bytes(data)
            self._start = 0
            return
        if type(self._buffer) is not bytearray:
            self._buffer = bytearray(self._buffer)
        self._buffer += data

    def reply(self, spec):
        """The reply to a command of this word, or None when more bytes are needed. Raises `PeerError`."""
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
        """Forget the replies that were given, while the next is awaited: it may be long in coming."""
        if self._start:
            self._buffer = self._buffer[self._start :]
            self._start = 0
        return None


# -- bytes through a socket -------------------------------------------------------------------------------------------


cdef Py_ssize_t look(int fd, char *into, double until) noexcept nogil:
    """Receive what is there, or comes until then; like `recv`, with EAGAIN when it was nothing."""
    cdef Py_ssize_t count
    while True:
        count = recv(fd, into, RECEIVE_BYTES, MSG_DONTWAIT)
        if count >= 0 or errno != EAGAIN or monotonic() >= until:
            return count
        sched_yield()


cdef class Line:
    """Sends and receives on a socket, and waits itself: awake at first, where that has helped of late, then asleep.

    asleep: how many of the next waits are all asleep.
    """

    cdef object _socket  # so that its descriptor stays its own
    cdef int _fd
    cdef readonly int asleep
    cdef int _asleep_next  # how many it will be after another wait that was awake in vain
    cdef char _received[RECEIVE_BYTES]

    def __init__(self, connected):
        """connected: a socket that is closed by nobody while the line is in use."""
        self._socket = connected
        self._fd = connected.fileno()
        self.asleep = 0
        self._asleep_next = 1

    def send(self, bytes data, double deadline):
        """Send all of some bytes. Raises OSError; TimeoutError when it takes too long."""
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
        """The next bytes that come. Raises OSError; TimeoutError when it takes too long."""
        cdef double now = monotonic(), until
        cdef Py_ssize_t count
        if now > deadline:
            raise TimeoutError  # also where bytes have come: they could trickle in for ever
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
        """Sleep until the socket is ready, or a signal came. Runs signal handlers, and raises what they raise."""
        cdef pollfd waiting
        cdef timespec limit
        cdef double left
        cdef int count
        PyErr_CheckSignals()  # a signal that came while we were awake would not end the sleep
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

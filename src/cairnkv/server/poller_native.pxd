# cython: language_level=3
"""The interface of the poller to a library of TLS. `tls_native` implements it, and is missing without OpenSSL.

A `Stream` encrypts and decrypts the bytes of one client. It never touches a socket: it takes the received bytes from a
`Ciphertext` and adds the bytes to send to it.

Invariants: all streams of a poller share one `Ciphertext`. No Python code runs between a receive and the end of
`decrypt` or `handshake`, nor between `encrypt` and the send. So it holds bytes of one stream at a time. A stream keeps
no whole record and no decrypted byte: epoll reports all bytes that are not processed yet.
"""

cdef struct Ciphertext:
    unsigned char *received
    Py_ssize_t received_size
    Py_ssize_t received_at  # the end of the bytes that the stream has taken
    unsigned char *to_send
    Py_ssize_t to_send_size

cdef enum:
    CIPHERTEXT_BYTES = 262144  # room for each direction
    PLAINTEXT_BYTES = 196608  # maximum bytes that are encrypted at once; they become less than CIPHERTEXT_BYTES
    RECORD_ROOM = 18432  # bytes by which a record that was incomplete may exceed the bytes that complete it

cdef class Stream:
    cdef Ciphertext *ciphertext
    cdef bint established  # whether the handshake is complete
    cdef bint ended  # whether the client has sent close_notify
    cdef bint failed
    # A step of the handshake. Returns 1 if it is complete, 0 if it needs more bytes, -1 if it has failed.
    cdef int handshake(self) noexcept nogil
    # Decrypt all received bytes. Returns the number of decrypted bytes; sets `ended` or `failed`.
    cdef Py_ssize_t decrypt(self, unsigned char *plaintext, Py_ssize_t room) noexcept nogil
    # Encrypt at most PLAINTEXT_BYTES. Returns False if that has failed.
    cdef bint encrypt(self, const char *plaintext, Py_ssize_t size) noexcept nogil
    # Add close_notify to the bytes to send.
    cdef int end(self) noexcept nogil
    # Return the words of the library for a failure.
    cdef str reason(self)
    # Return the names in the client's certificate: (common names, URIs).
    cdef tuple names(self)

cdef class StreamFactory:
    cdef Stream new_stream(self, Ciphertext *ciphertext)

# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""TLS by libssl for the poller: the certificate of a server, and one `Stream` for each client.

libssl reads from and writes to a `Ciphertext` in memory, through a BIO of this module. So libssl makes no system call:
one receive of the poller fetches many records, and one send carries all records of its replies.

The context is libssl's own, not that of Python's `ssl`: a Python may have another OpenSSL linked in.

Invariants: libssl's queue of errors is empty before each call, since `SSL_get_error` reads it. The BIO of writing never
asks to try again: the room for a chunk, and for what libssl adds, is there before each call. A stream that has failed
calls libssl no more. libssl calls no Python code.

Out of scope: sockets (`poller_native.pyx`), the check of certificates (`tls.py`).
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from cairnkv.server.poller_native cimport CIPHERTEXT_BYTES, Ciphertext, Stream, StreamFactory

from cairnkv.limits import TLS_CONTROL_MAX as _CONTROL_MAX
from cairnkv.limits import TLS_HELLO_MAX as _HELLO_MAX

cdef extern from "openssl/bio.h" nogil:
    ctypedef struct BIO
    ctypedef struct BIO_METHOD
    int BIO_TYPE_SOURCE_SINK
    int BIO_CTRL_FLUSH
    int BIO_get_new_index()
    BIO_METHOD *BIO_meth_new(int type, const char *name)
    int BIO_meth_set_write(BIO_METHOD *method, int (*write)(BIO *, const char *, int) noexcept nogil)
    int BIO_meth_set_read(BIO_METHOD *method, int (*read)(BIO *, char *, int) noexcept nogil)
    int BIO_meth_set_ctrl(BIO_METHOD *method, long (*ctrl)(BIO *, int, long, void *) noexcept nogil)
    BIO *BIO_new(const BIO_METHOD *method)
    void BIO_set_data(BIO *bio, void *data)
    void *BIO_get_data(BIO *bio)
    void BIO_set_init(BIO *bio, int init)
    void BIO_clear_retry_flags(BIO *bio)
    void BIO_set_retry_read(BIO *bio)

cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error()
    unsigned long ERR_get_error()
    unsigned long ERR_peek_error()
    const char *ERR_reason_error_string(unsigned long code)

cdef extern from "openssl/x509v3.h" nogil:
    ctypedef struct X509
    ctypedef struct X509_NAME
    ctypedef struct X509_NAME_ENTRY
    ctypedef struct ASN1_STRING
    ctypedef struct GENERAL_NAMES
    ctypedef struct GENERAL_NAME
    int NID_commonName, NID_subject_alt_name, GEN_URI
    X509_NAME *X509_get_subject_name(const X509 *certificate)
    int X509_NAME_get_index_by_NID(X509_NAME *name, int nid, int last)
    X509_NAME_ENTRY *X509_NAME_get_entry(const X509_NAME *name, int at)
    ASN1_STRING *X509_NAME_ENTRY_get_data(const X509_NAME_ENTRY *entry)
    int ASN1_STRING_to_UTF8(unsigned char **out, const ASN1_STRING *text)
    int ASN1_STRING_length(const ASN1_STRING *text)
    const unsigned char *ASN1_STRING_get0_data(const ASN1_STRING *text)
    void *X509_get_ext_d2i(const X509 *certificate, int nid, int *critical, int *index)
    int sk_GENERAL_NAME_num(const GENERAL_NAMES *names)
    GENERAL_NAME *sk_GENERAL_NAME_value(const GENERAL_NAMES *names, int at)
    void *GENERAL_NAME_get0_value(const GENERAL_NAME *name, int *type)
    void GENERAL_NAMES_free(GENERAL_NAMES *names)
    void X509_free(X509 *certificate)
    const char *X509_verify_cert_error_string(long code)
    long X509_V_OK
    void OPENSSL_free(void *memory)

cdef extern from "openssl/ssl.h" nogil:
    ctypedef struct SSL_METHOD
    ctypedef struct SSL_CTX
    ctypedef struct SSL
    int SSL_FILETYPE_PEM, TLS1_2_VERSION, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    int SSL_ERROR_NONE, SSL_ERROR_WANT_READ, SSL_ERROR_ZERO_RETURN
    unsigned long SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION
    long SSL_MODE_RELEASE_BUFFERS, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
    long SSL_SESS_CACHE_OFF
    int SSL3_RT_HANDSHAKE
    const SSL_METHOD *TLS_server_method()
    SSL_CTX *SSL_CTX_new(const SSL_METHOD *method)
    void SSL_CTX_free(SSL_CTX *context)
    long SSL_CTX_set_min_proto_version(SSL_CTX *context, int version)
    int SSL_CTX_set_cipher_list(SSL_CTX *context, const char *names)
    unsigned long SSL_CTX_set_options(SSL_CTX *context, unsigned long options)
    long SSL_CTX_set_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_num_tickets(SSL_CTX *context, size_t count)
    long SSL_CTX_set_session_cache_mode(SSL_CTX *context, long mode)
    int SSL_CTX_set_session_id_context(SSL_CTX *context, const unsigned char *name, unsigned int length)
    void SSL_CTX_set_default_passwd_cb(SSL_CTX *context, int (*ask)(char *, int, int, void *) noexcept nogil)
    int SSL_CTX_use_certificate_chain_file(SSL_CTX *context, const char *path)
    int SSL_CTX_use_PrivateKey_file(SSL_CTX *context, const char *path, int type)
    int SSL_CTX_check_private_key(const SSL_CTX *context)
    int SSL_CTX_load_verify_locations(SSL_CTX *context, const char *file, const char *directory)
    void SSL_CTX_set_verify(SSL_CTX *context, int mode, void *callback)
    void SSL_CTX_set_msg_callback(SSL_CTX *context, void (*callback)(
        int, int, int, const void *, size_t, SSL *, void *) noexcept nogil)
    SSL *SSL_new(SSL_CTX *context)
    void SSL_free(SSL *ssl)
    void SSL_set_bio(SSL *ssl, BIO *reading, BIO *writing)
    void SSL_set_accept_state(SSL *ssl)
    void SSL_set_msg_callback_arg(SSL *ssl, void *argument)
    int SSL_do_handshake(SSL *ssl)
    int SSL_read(SSL *ssl, void *buffer, int size)
    int SSL_write(SSL *ssl, const void *buffer, int size)
    int SSL_shutdown(SSL *ssl)
    int SSL_get_error(const SSL *ssl, int result)
    int SSL_has_pending(const SSL *ssl)
    long SSL_get_verify_result(const SSL *ssl)
    X509 *SSL_get_peer_certificate(const SSL *ssl)


cdef enum:
    READ_MAX = 1 << 30  # bytes of one SSL_read
    FREE_CONTROLS = 32  # messages of TLS after the handshake that a client may send in any case
    BYTES_PER_CONTROL = 1 << 20  # and one more for so many bytes of data

cdef int64_t CONTROL_MAX = _CONTROL_MAX
cdef int64_t HELLO_MAX = _HELLO_MAX


cdef struct State:
    # The part of a stream that libssl's callbacks use.
    Ciphertext *ciphertext
    bint established
    bint floods
    int64_t data_bytes  # decrypted so far
    int64_t idle_bytes  # received since the last decrypted byte
    int64_t controls  # messages of TLS after the handshake
    # The beginning of the client's first message, which may come in several records and in any pieces.
    int record_head  # bytes of the head of the current record so far
    int record_length, record_left
    int hello_head  # bytes of the head of the message so far
    int64_t hello_length


cdef int _bio_write(BIO *bio, const char *data, int size) noexcept nogil:
    cdef Ciphertext *ciphertext = (<State *>BIO_get_data(bio)).ciphertext
    BIO_clear_retry_flags(bio)
    if size < 0 or size > CIPHERTEXT_BYTES - ciphertext.to_send_size:
        return -1  # a certificate of hundreds of KiB: the connection fails
    memcpy(ciphertext.to_send + ciphertext.to_send_size, data, size)
    ciphertext.to_send_size += size
    return size


cdef void _read_hello(State *state, const unsigned char *data, int size) noexcept nogil:
    """Read the length of the client's first message, before libssl takes memory for it."""
    cdef int at
    for at in range(size):
        if state.record_left == 0:
            state.record_head += 1
            if state.record_head > 3:
                state.record_length = state.record_length << 8 | data[at]
            if state.record_head == 5:
                state.record_left = state.record_length
                state.record_head = state.record_length = 0
            continue
        state.record_left -= 1
        state.hello_head += 1
        if state.hello_head > 1:
            state.hello_length = state.hello_length << 8 | data[at]
        if state.hello_head == 4:
            break


cdef int _bio_read(BIO *bio, char *buffer, int size) noexcept nogil:
    cdef State *state = <State *>BIO_get_data(bio)
    cdef Ciphertext *ciphertext = state.ciphertext
    cdef Py_ssize_t left = ciphertext.received_size - ciphertext.received_at
    BIO_clear_retry_flags(bio)
    if state.floods:
        return -1
    if left <= 0 or size <= 0:
        BIO_set_retry_read(bio)
        return -1
    if size > left:
        size = <int>left
    memcpy(buffer, ciphertext.received + ciphertext.received_at, size)
    ciphertext.received_at += size
    if state.hello_head < 4:
        _read_hello(state, <unsigned char *>buffer, size)
        if state.hello_length > HELLO_MAX:
            return -1
    if state.established:
        state.idle_bytes += size
        if state.idle_bytes > CONTROL_MAX:
            state.floods = True  # from the next call on
    return size


cdef long _bio_control(BIO *bio, int command, long number, void *pointer) noexcept nogil:
    return 1 if command == BIO_CTRL_FLUSH else 0


cdef void _count_message(
    int is_sent, int version, int content, const void *data, size_t size, SSL *ssl, void *argument
) noexcept nogil:
    """Count messages such as KeyUpdate, each of which takes the server microseconds."""
    cdef State *state = <State *>argument
    if content != SSL3_RT_HANDSHAKE or is_sent or state is NULL or not state.established:
        return
    state.controls += 1
    if state.controls > FREE_CONTROLS + state.data_bytes // BYTES_PER_CONTROL:
        state.floods = True


cdef int _no_passphrase(char *buffer, int size, int is_written, void *argument) noexcept nogil:
    return 0  # the default would ask on the terminal


cdef BIO_METHOD *_new_method() noexcept:
    cdef BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, b"cairnkv")
    if method is not NULL:
        BIO_meth_set_write(method, _bio_write)
        BIO_meth_set_read(method, _bio_read)
        BIO_meth_set_ctrl(method, _bio_control)
    return method

cdef BIO_METHOD *METHOD = _new_method()


cdef inline void _forget_errors() noexcept nogil:
    """Empty libssl's queue of errors. To look costs less than to empty it."""
    if ERR_peek_error():
        ERR_clear_error()


cdef str _words_of_error():
    """Return libssl's words for the first error of its queue."""
    cdef const char *words = ERR_reason_error_string(ERR_get_error())
    ERR_clear_error()
    return "unknown error" if words is NULL else (<bytes>words).decode("ascii", "replace")


cdef class Context(StreamFactory):
    """A certificate with its key."""

    cdef SSL_CTX *_context

    def __init__(self, bytes certificate not None, bytes key not None, bytes ciphers not None, bytes client_ca=None):
        """Load the files with these paths. Raises ValueError with libssl's words."""
        if METHOD is NULL or self._context is not NULL:
            raise MemoryError
        ERR_clear_error()
        self._context = SSL_CTX_new(TLS_server_method())
        if self._context is NULL:
            raise MemoryError
        SSL_CTX_set_options(self._context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION)
        SSL_CTX_set_mode(self._context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
        SSL_CTX_set_session_cache_mode(self._context, SSL_SESS_CACHE_OFF)  # tickets resume sessions without a cache
        SSL_CTX_set_msg_callback(self._context, _count_message)
        SSL_CTX_set_default_passwd_cb(self._context, _no_passphrase)
        if not (
            SSL_CTX_set_min_proto_version(self._context, TLS1_2_VERSION)
            and SSL_CTX_set_cipher_list(self._context, ciphers)
            and SSL_CTX_set_num_tickets(self._context, 1)
            and SSL_CTX_set_session_id_context(self._context, b"cairnkv", 7)
            and SSL_CTX_use_certificate_chain_file(self._context, certificate) == 1
            and SSL_CTX_use_PrivateKey_file(self._context, key, SSL_FILETYPE_PEM) == 1
            and SSL_CTX_check_private_key(self._context) == 1
        ):
            raise ValueError(_words_of_error())
        if client_ca is not None:
            if SSL_CTX_load_verify_locations(self._context, client_ca, NULL) != 1:
                raise ValueError(_words_of_error())
            SSL_CTX_set_verify(self._context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL)

    def __dealloc__(self):
        SSL_CTX_free(self._context)

    cdef Stream new_stream(self, Ciphertext *ciphertext):
        cdef TlsStream stream = TlsStream.__new__(TlsStream)
        stream.ciphertext = stream._state.ciphertext = ciphertext
        ERR_clear_error()
        stream._ssl = SSL_new(self._context)  # keeps the context as long as it lives
        if stream._ssl is NULL:
            raise MemoryError
        cdef BIO *bio = BIO_new(METHOD)
        if bio is NULL:
            raise MemoryError
        BIO_set_data(bio, &stream._state)
        BIO_set_init(bio, 1)
        SSL_set_bio(stream._ssl, bio, bio)  # which owns it
        SSL_set_msg_callback_arg(stream._ssl, &stream._state)
        SSL_set_accept_state(stream._ssl)
        return stream


cdef class TlsStream(Stream):
    """The TLS of one client."""

    cdef SSL *_ssl
    cdef State _state
    cdef str _reason

    def __dealloc__(self):
        SSL_free(self._ssl)

    cdef int handshake(self) noexcept nogil:
        cdef int done
        if self.failed:
            return -1
        _forget_errors()
        done = SSL_do_handshake(self._ssl)
        if done == 1:
            self.established = self._state.established = True
            return 1
        if SSL_get_error(self._ssl, done) == SSL_ERROR_WANT_READ:
            return 0
        self._fail()
        return -1

    cdef Py_ssize_t decrypt(self, unsigned char *plaintext, Py_ssize_t room) noexcept nogil:
        cdef Py_ssize_t total = 0
        cdef int got, error
        while not self.failed and not self.ended:
            if room - total <= 0:  # `RECORD_ROOM` excludes this
                self._fail()
                break
            _forget_errors()
            got = SSL_read(self._ssl, plaintext + total, <int>min(room - total, <Py_ssize_t>READ_MAX))
            if got > 0:
                total += got
                self._state.data_bytes += got
                self._state.idle_bytes = 0
                if self.ciphertext.received_at == self.ciphertext.received_size and not SSL_has_pending(self._ssl):
                    break
                continue
            error = SSL_get_error(self._ssl, got)
            if error == SSL_ERROR_ZERO_RETURN:
                self.ended = True
            elif error != SSL_ERROR_WANT_READ:
                self._fail()
            break
        self.ciphertext.received_at = self.ciphertext.received_size = 0
        return total

    cdef bint encrypt(self, const char *plaintext, Py_ssize_t size) noexcept nogil:
        if self.failed:
            return False
        _forget_errors()
        if SSL_write(self._ssl, plaintext, <int>size) != size:
            self._fail()
            return False
        return True

    cdef int end(self) noexcept nogil:
        if not self.failed and self.established:
            _forget_errors()
            SSL_shutdown(self._ssl)
        return 0

    cdef int _fail(self) noexcept nogil:
        """Record the failure, with the words for it."""
        self.failed = True
        with gil:
            try:
                self._reason = self._words()
            except BaseException:
                self._reason = None
        return 0

    cdef str _words(self):
        cdef long verified = SSL_get_verify_result(self._ssl)
        words = _words_of_error()
        if self._state.hello_length > HELLO_MAX:
            return "the client's first message is too long"
        if self._state.floods:
            return "the client sends TLS messages without data"
        if verified != X509_V_OK:
            words += f": {X509_verify_cert_error_string(verified).decode('ascii', 'replace')}"
        return words

    cdef str reason(self):
        return self._reason or "no memory"

    cdef tuple names(self):
        cdef X509 *certificate = SSL_get_peer_certificate(self._ssl)
        if certificate is NULL:
            return (), ()
        try:
            return _common_names(certificate), _uris(certificate)
        finally:
            X509_free(certificate)


cdef tuple _common_names(X509 *certificate):
    cdef X509_NAME *subject = X509_get_subject_name(certificate)  # borrowed, as all below it
    cdef unsigned char *text
    cdef int at = -1, size
    found = []
    while True:
        at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)
        if at < 0:
            return tuple(found)
        text = NULL
        size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)))
        if size < 0:
            raise ValueError("a common name is not valid text")
        try:
            found.append(text[:size])
        finally:
            OPENSSL_free(text)


cdef tuple _uris(X509 *certificate):
    cdef GENERAL_NAMES *names = <GENERAL_NAMES *>X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL)
    cdef ASN1_STRING *text
    cdef int at, kind = 0
    if names is NULL:
        return ()
    found = []
    try:
        for at in range(sk_GENERAL_NAME_num(names)):
            text = <ASN1_STRING *>GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, at), &kind)
            if kind == GEN_URI:
                found.append(ASN1_STRING_get0_data(text)[:ASN1_STRING_length(text)])
        return tuple(found)
    finally:
        GENERAL_NAMES_free(names)

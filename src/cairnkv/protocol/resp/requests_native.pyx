# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Requests of the Redis protocol in their usual form, from bytes.

`RequestDecoder` reads all other requests: incomplete ones, those with many strings, and those with numbers that are not
in their shortest form.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from cairnkv.limits import UNAUTHENTICATED_ARGUMENTS_MAX as _STRINGS_MAX

cdef Py_ssize_t STRINGS_MAX = _STRINGS_MAX  # of any client
cdef Py_ssize_t DIGITS_MAX = 9


cdef inline const char *_number(const char *at, const char *end, char mark, Py_ssize_t *number) noexcept:
    """Read a mark, a number and the end of a line. Return the place behind it, or NULL if it is not usual."""
    cdef const char *digits = at + 1
    cdef Py_ssize_t total = 0
    if end - at < 4 or at[0] != mark or (digits[0] == c"0" and digits[1] != c"\r"):
        return NULL
    at = digits
    while at < end and c"0" <= at[0] <= c"9":
        total = total * 10 + (at[0] - c"0")
        at += 1
        if at - digits > DIGITS_MAX:
            return NULL
    if at == digits or end - at < 2 or at[0] != c"\r" or at[1] != c"\n":
        return NULL
    number[0] = total
    return at + 2


def read_request(bytes buffer, Py_ssize_t start, Py_ssize_t string_max, Py_ssize_t frame_max):
    """Return the request at a place, and its end; None if `RequestDecoder` must read it.

    string_max, frame_max: maximum bytes of a string and of a request.
    """
    cdef const char *begin = PyBytes_AS_STRING(buffer)
    cdef const char *at = begin + start
    cdef const char *end = begin + PyBytes_GET_SIZE(buffer)
    cdef Py_ssize_t count = 0, size = 0
    cdef list strings
    at = _number(at, end, c"*", &count)
    if at is NULL or not 1 <= count <= STRINGS_MAX:
        return None
    strings = []
    while count > 0:
        at = _number(at, end, c"$", &size)
        if at is NULL or size > string_max or end - at < size + 2 or at[size] != c"\r" or at[size + 1] != c"\n":
            return None
        strings.append(PyBytes_FromStringAndSize(at, size))
        at += size + 2
        count -= 1
    if at - begin - start > frame_max:
        return None
    return strings, at - begin

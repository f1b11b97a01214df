# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The native twin of `Recorder.fill`, for effects with one record each. A test compares the two."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from cairnkv.storage.record_format import ENTRY as _ENTRY
from cairnkv.storage.record_format import PLAIN as _PLAIN
from cairnkv.storage.record_format import record_value

cdef char ENTRY = _ENTRY
cdef char PLAIN = _PLAIN


def fill(put, delete, effects, Py_ssize_t longest, int left):
    """Put and delete the records of effects, up to the first effect that needs the pure path. Returns their number.

    longest: maximum bytes of a value in its entry's record. left: the number of a database that needs the pure path.
    """
    cdef Py_ssize_t done = 0
    cdef tuple effect
    cdef bytes key, value, record
    cdef object expiry
    for item in effects:
        if type(item) is not tuple:  # a `Redated`
            break
        effect = <tuple>item
        key, value, expiry = effect[1], effect[2], effect[3]
        if key is None or <int>effect[0] == left or (value is not None and PyBytes_GET_SIZE(value) > longest):
            break
        record = PyBytes_FromStringAndSize(NULL, 2 + PyBytes_GET_SIZE(key))
        PyBytes_AS_STRING(record)[0] = ENTRY
        PyBytes_AS_STRING(record)[1] = effect[0]
        memcpy(PyBytes_AS_STRING(record) + 2, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if value is None:
            delete(record)
        else:
            put(record, _plain(value) if expiry is None else record_value(value, expiry))
        done += 1
    return done


cdef bytes _plain(bytes value):
    cdef bytes record = PyBytes_FromStringAndSize(NULL, 1 + PyBytes_GET_SIZE(value))
    PyBytes_AS_STRING(record)[0] = PLAIN
    memcpy(PyBytes_AS_STRING(record) + 1, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return record

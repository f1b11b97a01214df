# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The rights of a client as the native path checks them: a bit for each command, and prefixes of keys.

An executor asks for a command before it executes it, and leaves a command that is not allowed to the pure path, which
alone refuses (`checks`). A client with all rights has no `Rules`, so it costs one test.

Invariants: the native path allows a command only if `checks` allows it. `Rules` point into their `NativeRights`, and
executors use them only while a transport, or the caller of `run`, keeps that object.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from cairnkv.commands import Access

cdef int COMMANDS_MAX = 64


cdef class NativeRights:
    """The rights of one client. commands: the bits of the commands that it may execute."""

    def __cinit__(self, rights, uint64_t commands):
        cdef int item
        cdef Py_ssize_t size
        self._kept = (*rights.read, *rights.write)
        self._prefixes = <Prefix *>PyMem_Malloc(max(1, len(self._kept)) * sizeof(Prefix))
        if self._prefixes is NULL:
            raise MemoryError
        for item in range(len(self._kept)):
            prefix = <bytes?>self._kept[item]
            self._prefixes[item].at = <const unsigned char *>PyBytes_AS_STRING(prefix)
            self._prefixes[item].size = size = PyBytes_GET_SIZE(prefix)
            self._prefixes[item].word = self._prefixes[item].mask = 0
            memcpy(&self._prefixes[item].word, self._prefixes[item].at, min(size, 8))
            memset(&self._prefixes[item].mask, 0xFF, min(size, 8))
        self.rules.commands = commands
        self.rules.reads = len(rights.read)
        self.rules.writes = len(rights.write)
        self.rules.read = self._prefixes
        self.rules.write = self._prefixes + self.rules.reads

    def __dealloc__(self):
        PyMem_Free(self._prefixes)


def rights_for(rights, needed):
    """Return the rights of a client for an executor. needed: the commands of Redis that each of its commands needs."""
    commands = 0
    for number, names in enumerate(needed):
        if all(map(rights.may_execute, names)):
            commands |= 1 << number
    return NativeRights(rights, commands)


cdef int set_needs(Needs *needs, int number, bint of_keys, int first, int step, object access) except -1:
    """Fill the rights that a command needs. number: its place among the commands of its executor.

    of_keys: whether it needs a right to keys. first: the place of its first key; -1: unknown.
    """
    if not 0 <= number < COMMANDS_MAX:
        raise ValueError(f"the native path serves more than {COMMANDS_MAX} commands of a protocol")
    needs.bit = <uint64_t>1 << number
    needs.first = NO_KEYS if not of_keys else ALL_KEYS if first < 0 else first
    needs.step = step
    needs.reads = Access.READ in access
    needs.writes = Access.WRITE in access
    return 0

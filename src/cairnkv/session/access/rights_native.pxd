from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

cdef struct Prefix:
    Py_ssize_t size
    const unsigned char *at
    uint64_t word  # its first eight bytes, with zeros behind a shorter one
    uint64_t mask  # ones for each of these bytes

cdef struct Rules:
    # The rights of a client for the commands of one executor. A client with all rights has none.
    uint64_t commands  # the bits of the commands that it may execute
    int reads, writes  # number of prefixes
    const Prefix *read  # those of the keys that it may read
    const Prefix *write

cdef struct Needs:
    # The rights that a command needs. bit: its own among `Rules.commands`.
    uint64_t bit
    int first  # the place of its first key, or of its queue, among its strings; see below
    int step  # from a key to the next one; 0: there is only one
    bint reads, writes  # neither: the right to read or to write is enough

cdef enum:
    NO_KEYS = -1  # the command has no keys
    ALL_KEYS = -2  # its keys are unknown here, so the client needs a right to all keys


cdef inline bint begins(const Prefix *prefixes, int count, const unsigned char *key, Py_ssize_t size) noexcept nogil:
    """Return whether a key begins with one of the prefixes."""
    cdef int item
    cdef uint64_t word = 0
    memcpy(&word, key, 8 if size >= 8 else size)
    for item in range(count):
        if (word & prefixes[item].mask) != prefixes[item].word or prefixes[item].size > size:
            continue
        if prefixes[item].size <= 8 or memcmp(prefixes[item].at, key, prefixes[item].size) == 0:
            return True
    return False


cdef inline bint may_access(const Rules *rules, const Needs *needs, const unsigned char *key, Py_ssize_t size) noexcept nogil:
    """Return whether a client has the right to a key of a command."""
    if needs.reads:
        return begins(rules.read, rules.reads, key, size) and (
            not needs.writes or begins(rules.write, rules.writes, key, size)
        )
    return begins(rules.write, rules.writes, key, size) or (
        not needs.writes and begins(rules.read, rules.reads, key, size)
    )


cdef class NativeRights:
    cdef Rules rules
    cdef Prefix *_prefixes
    cdef tuple _kept


cdef int set_needs(Needs *needs, int number, bint of_keys, int first, int step, object access) except -1

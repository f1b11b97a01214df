"""The lengths of the native protocol's frames, for the native path: 32 bits, the highest byte first."""

from libc.stdint cimport uint32_t


cdef inline uint32_t be32(const unsigned char *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline void put_be32(char *at, Py_ssize_t number) noexcept nogil:
    at[0] = <char>(number >> 24)
    at[1] = <char>(number >> 16)
    at[2] = <char>(number >> 8)
    at[3] = <char>number

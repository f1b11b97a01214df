/* The memory layout of CPython objects that a look-up reads: slots, and the index, entries and keys of a dict.

   A look-up in a large table costs a chain of cache misses: bucket, dict, index, entry, key, value. For commands that
   were read together these chains can overlap, if the addresses are known. Also, a key in a frame can be compared in
   place, without creating an object. CPython does not publish the layout of dicts, so this header defines it for the
   versions named below, and `table_native.pyx` checks it on import. In other versions nothing is found this way.

   Invariants: only memory that a look-up would read is read. A value found here is the value that the dict's own
   look-up finds; a value not found here may still exist. Writes go through CPython's API only. */

#ifndef CAIRNKV_LAYOUT_H
#define CAIRNKV_LAYOUT_H

#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED)
#define CAIRN_KNOWS_DICTS 1
#endif

/* Prefetch memory at an address. GCC treats a function that only prefetches as one without effect and removes calls of
   it; the empty assembler statement prevents that. */
#define CAIRN_FETCH(address)               \
    do {                                   \
        __builtin_prefetch(address);       \
        __asm__ volatile("");          \
    } while (0)

/* Return the offset of a slot (`__slots__`) in its object, from the descriptor in its class; -1: not a slot. */
static inline Py_ssize_t cairn_slot_offset(PyObject *descriptor)
{
    PyMemberDef *member;
    if (!PyObject_TypeCheck(descriptor, &PyMemberDescr_Type))
        return -1;
    member = ((PyMemberDescrObject *)descriptor)->d_member;
    return member->type == T_OBJECT_EX ? member->offset : -1;
}

/* Return the borrowed value of a slot. The offset must be of the object's class. */
static inline PyObject *cairn_slot(PyObject *object, Py_ssize_t offset)
{
    return *(PyObject **)((char *)object + offset);
}

/* Return the value of an int object that fits 64 bits. Like PyLong_AsLongLong, which copies the digits byte by byte. */
static inline int64_t cairn_int(PyObject *number)
{
#if PYLONG_BITS_IN_DIGIT == 30 && PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
    const digit *digits = ((PyLongObject *)number)->ob_digit;
    switch (Py_SIZE(number)) { /* of negative numbers, negative */
    case 0: return 0;
    case 1: return digits[0];
    case 2: return (int64_t)digits[0] | (int64_t)digits[1] << 30;
    }
#elif PYLONG_BITS_IN_DIGIT == 30 && PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
    const digit *digits = ((PyLongObject *)number)->long_value.ob_digit;
    switch (((PyLongObject *)number)->long_value.lv_tag) { /* the number of digits, then three bits, 0: positive */
    case 1 << 3: return digits[0];
    case 2 << 3: return (int64_t)digits[0] | (int64_t)digits[1] << 30;
    }
#endif
    return PyLong_AsLongLong(number);
}

/* Return the hash of a bytes object with these bytes. */
static inline Py_hash_t cairn_hash(const unsigned char *bytes, Py_ssize_t size)
{
    static PyHash_FuncDef *function;
    Py_hash_t hash;
    if (size == 0)
        return 0;
    if (function == NULL)
        function = PyHash_GetFuncDef();
    hash = function->hash(bytes, size);
    return hash == -1 ? -2 : hash;
}

#ifdef CAIRN_KNOWS_DICTS

/* PyDictKeysObject and PyDictKeyEntry of CPython 3.11 to 3.13 (Include/internal/pycore_dict.h). */
typedef struct {
    Py_ssize_t references;
    uint8_t log2_size;
    uint8_t log2_index_bytes;
    uint8_t kind; /* 0: any keys, with their hashes */
    uint32_t version;
    Py_ssize_t usable;
    Py_ssize_t entries;
    char indices[];
} cairn_dict_keys;

typedef struct {
    Py_hash_t hash;
    PyObject *key;
    PyObject *value;
} cairn_dict_entry;

#define CAIRN_PROBES 4 /* before CPython continues the search; most keys are found at the first */

static inline const cairn_dict_keys *cairn_keys_of(PyObject *dict)
{
    return (const cairn_dict_keys *)((PyDictObject *)dict)->ma_keys;
}

static inline size_t cairn_mask(const cairn_dict_keys *keys)
{
    return ((size_t)1 << keys->log2_size) - 1;
}

/* Return the entry of an index slot; NULL: none, or the index is too large for a bucket. */
static inline const cairn_dict_entry *cairn_entry_at(const cairn_dict_keys *keys, size_t slot)
{
    Py_ssize_t index;
    switch (keys->log2_index_bytes - keys->log2_size) {
    case 0: index = ((const int8_t *)keys->indices)[slot]; break;
    case 1: index = ((const int16_t *)keys->indices)[slot]; break;
    default: return NULL;
    }
    if (index < 0 || index >= keys->entries)
        return NULL;
    return (const cairn_dict_entry *)(keys->indices + ((size_t)1 << keys->log2_index_bytes)) + index;
}

/* Prefetching, each step for all keys before the next step: the dict, its head, the index, the entry, and the key with
   the value. Of the key and the value, a look-up reads the length and the bytes after it. */
static inline void cairn_fetch_dict(PyObject *dict)
{
    CAIRN_FETCH(&((PyDictObject *)dict)->ma_keys);
}

static inline void cairn_fetch_head(PyObject *dict)
{
    CAIRN_FETCH(cairn_keys_of(dict));
}

static inline void cairn_fetch_index(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    size_t slot = (size_t)hash & cairn_mask(keys);
    CAIRN_FETCH(keys->indices + (slot << (keys->log2_index_bytes - keys->log2_size)));
}

/* For a single key: the memory that its look-up reads first. The index of a bucket usually has one of two lengths, so
   both slots are prefetched together with the head that has the length. */
static inline void cairn_fetch_alone(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    CAIRN_FETCH(keys);
    CAIRN_FETCH(keys->indices + ((size_t)hash & 127));
    CAIRN_FETCH(keys->indices + ((size_t)hash & 255));
}

static inline void cairn_fetch_entry(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    const cairn_dict_entry *entry = keys->kind == 0 ? cairn_entry_at(keys, (size_t)hash & cairn_mask(keys)) : NULL;
    if (entry != NULL)
        CAIRN_FETCH(entry);
}

static inline void cairn_fetch_objects(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    const cairn_dict_entry *entry = keys->kind == 0 ? cairn_entry_at(keys, (size_t)hash & cairn_mask(keys)) : NULL;
    if (entry != NULL) {
        CAIRN_FETCH(&((PyVarObject *)entry->key)->ob_size);
        CAIRN_FETCH(((PyBytesObject *)entry->key)->ob_sval + 15);
        CAIRN_FETCH(&((PyVarObject *)entry->value)->ob_size);
        CAIRN_FETCH(((PyBytesObject *)entry->value)->ob_sval + 31);
    }
}

/* Return the value of a key in a dict whose keys are all bytes, and set `key` to the key object, both borrowed; NULL:
not
   found here. */
static inline PyObject *cairn_find(PyObject *dict, Py_hash_t hash, const unsigned char *bytes, Py_ssize_t size,
                                   PyObject **key)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    size_t mask = cairn_mask(keys), disturbance = (size_t)hash, slot = (size_t)hash & mask;
    if (keys->kind != 0)
        return NULL;
    for (int probe = 0; probe < CAIRN_PROBES; probe++) {
        const cairn_dict_entry *entry = cairn_entry_at(keys, slot);
        if (entry != NULL && entry->hash == hash && entry->value != NULL && Py_SIZE(entry->key) == size
            && memcmp(PyBytes_AS_STRING(entry->key), bytes, size) == 0) {
            *key = entry->key;
            return entry->value;
        }
        disturbance >>= 5;
        slot = (slot * 5 + disturbance + 1) & mask;
    }
    return NULL;
}

#else

#define cairn_fetch_dict(dict) ((void)0)
#define cairn_fetch_alone(dict, hash) ((void)0)
#define cairn_fetch_head(dict) ((void)0)
#define cairn_fetch_index(dict, hash) ((void)0)
#define cairn_fetch_entry(dict, hash) ((void)0)
#define cairn_fetch_objects(dict, hash) ((void)0)
#define cairn_find(dict, hash, bytes, size, key) ((PyObject *)NULL)

#endif
#endif

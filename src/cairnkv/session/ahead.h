/* Where a dict will look for a key, as hints to the processor's cache.

   A look-up in a large table costs four misses, one behind the other: the index, the entry, the key, the value. For
   several commands that were read together these can overlap, if the addresses are known. CPython keeps them to
   itself, so this header knows the layout of its dicts, for the versions it names; elsewhere it does nothing. It only
   reads what a look-up would read, and nothing depends on what it finds. */

#ifndef CAIRNKV_AHEAD_H
#define CAIRNKV_AHEAD_H

#include <Python.h>
#include <stdint.h>

#if (defined(__GNUC__) || defined(__clang__)) && PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030E0000 \
    && !defined(Py_GIL_DISABLED)
#define CAIRN_KNOWS_DICTS 1
#endif

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

static inline const cairn_dict_keys *cairn_keys_of(PyObject *dict)
{
    return (const cairn_dict_keys *)((PyDictObject *)dict)->ma_keys;
}

/* The first step: the place of the index. */
static inline void cairn_ahead_index(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    size_t slot = (size_t)hash & (((size_t)1 << keys->log2_size) - 1);
    __builtin_prefetch(keys->indices + (slot << (keys->log2_index_bytes - keys->log2_size)));
}

static inline const cairn_dict_entry *cairn_entry_of(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    size_t slot = (size_t)hash & (((size_t)1 << keys->log2_size) - 1);
    Py_ssize_t index;
    if (keys->kind != 0)
        return NULL;
    switch (keys->log2_index_bytes - keys->log2_size) {
    case 0: index = ((const int8_t *)keys->indices)[slot]; break;
    case 1: index = ((const int16_t *)keys->indices)[slot]; break;
    default: return NULL;
    }
    if (index < 0 || index >= keys->entries)
        return NULL;
    return (const cairn_dict_entry *)(keys->indices + ((size_t)1 << keys->log2_index_bytes)) + index;
}

/* For one key alone: what its look-up reads first, at once. The index begins behind the head, whose first words say
   how long it is; a bucket's has one of two lengths, as a rule, so both places are fetched beside the head. */
static inline void cairn_ahead_alone(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_keys *keys = cairn_keys_of(dict);
    __builtin_prefetch(keys);
    __builtin_prefetch(keys->indices + ((size_t)hash & 127));
    __builtin_prefetch(keys->indices + ((size_t)hash & 255));
}

/* The second: the entry. */
static inline void cairn_ahead_entry(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_entry *entry = cairn_entry_of(dict, hash);
    if (entry != NULL)
        __builtin_prefetch(entry);
}

/* The third: the key, and the value with it. */
static inline void cairn_ahead_objects(PyObject *dict, Py_hash_t hash)
{
    const cairn_dict_entry *entry = cairn_entry_of(dict, hash);
    if (entry != NULL) {
        __builtin_prefetch(entry->key);
        __builtin_prefetch(entry->value);
    }
}

#else

#define cairn_ahead_index(dict, hash) ((void)0)
#define cairn_ahead_alone(dict, hash) ((void)0)
#define cairn_ahead_entry(dict, hash) ((void)0)
#define cairn_ahead_objects(dict, hash) ((void)0)

#endif
#endif

"""Clients: how programs talk to a store, near or far.

`calls` is the vocabulary in Python's terms; `keyvalue` and `aio.keyvalue` are its methods; `embedded` and
`sync`, with their twins in `aio`, carry the calls out here or elsewhere.
"""

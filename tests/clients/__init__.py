"""Clients of Redis that people use, each speaking with a server of ours: `make test-clients`.

They are asked only for what the string keyspace has: strings, keys, expiry, transactions, channels, iteration,
keyspaces. TARGET=redis has them speak with the real redis-server, which proves the tests.
"""

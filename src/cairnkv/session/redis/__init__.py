"""The words of Redis, spoken by a session.

`glob` has the patterns of KEYS, SCAN and PSUBSCRIBE.
"""

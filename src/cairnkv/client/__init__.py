"""Clients of a server, and embedded stores.

`calls` makes the calls of the methods. `aio.keyvalue` has the methods for asyncio; a tool generates the sync methods
and the methods of pipelines. `sync` and `aio.client` send calls to a server; `embedded` and `aio.embedded` execute them
in this process.
"""

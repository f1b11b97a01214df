"""Queues for asyncio code, and the sources of `cairnkv.client.queue`."""

"""The asyncio client and the embedded store for asyncio; `cairnkv.aio` is the way in."""

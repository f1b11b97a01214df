"""The asyncio client, and the embedded store for asyncio. Users import `cairnkv.aio`."""

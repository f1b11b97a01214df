"""The asyncio version of `cairnkv.client.dialing`: lookups and connection attempts that do not block other tasks."""

import asyncio
import socket

from cairnkv.client.dialing import Failures, Place, all_failed, literal, lookup, no_answer, share, with_untried
from cairnkv.sockets import set_tcp_options


async def dial_async(host: str, port: int, seconds: float) -> socket.socket:
    """Return a connected, non-blocking socket. See `cairnkv.client.dialing.dial`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    places = literal(host, port)
    if places is None:
        try:
            async with asyncio.timeout(seconds):
                places = await asyncio.wrap_future(lookup(host, port))
        except TimeoutError:
            raise no_answer(seconds) from None
    failures: Failures = []
    for place, untried in with_untried(places):
        try:
            return await _connected(place, share(until - loop.time(), untried))
        except OSError as error:
            failures.append((place, error))
    raise all_failed(failures)


async def _connected(place: Place, seconds: float) -> socket.socket:
    connected = socket.socket(place[0], socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(connected, place[1])
        set_tcp_options(connected)
    except BaseException:
        connected.close()
        raise
    return connected

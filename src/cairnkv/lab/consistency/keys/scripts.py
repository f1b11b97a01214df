"""Operations on keys as scripts: EVAL on the Redis protocol.

Each script reads its key and then writes it, so that a store which does not execute it as one command loses writes.

Invariants: a connection has one script at a time. It is unusable after an error or a cancellation.

Out of scope: the operations that clients choose (`workload`).
"""

import asyncio
import contextlib
import ssl
from typing import Final, Self

from cairnkv.client.address import Endpoint, parse, shown
from cairnkv.client.tls import Tls
from cairnkv.commands import failures
from cairnkv.errors import CallerError, OutcomeUnknown, Unavailable
from cairnkv.lab.consistency.keys.history import Operation, Verb
from cairnkv.protocol.resp import array_head, bulk_strings

_GET: Final = "local value = redis.call('GET', KEYS[1])\n"

SCRIPTS: Final = {
    Verb.GET: _GET + "return value",
    Verb.SWAP: _GET + "redis.call('SET', KEYS[1], ARGV[1])\nreturn value",
    Verb.SET_IF: _GET + "if value ~= ARGV[2] then return 0 end\nredis.call('SET', KEYS[1], ARGV[1])\nreturn 1",
    Verb.CLEAR_IF: _GET + "if value ~= ARGV[2] then return 0 end\nreturn redis.call('DEL', KEYS[1])",
    Verb.INCR: _GET + "local sum = (tonumber(value or 0) + ARGV[3])\nredis.call('SET', KEYS[1], sum)\nreturn sum",
}
"""By verb: the script. Its arguments are the value, the expected value and the amount."""

_UNKNOWN: Final = {name for name, code in failures.CODES.items() if code.executed is None}
"""The codes of failures after which the script may have been executed."""


class ScriptConnection:
    """A connection of the Redis protocol."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._name = name
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect to the first endpoint of an address, and log in. Raises `Unavailable`, and `AddressError`."""
        address = parse(url)
        endpoint = address.endpoints[0]
        context = None if address.tls is None else Tls(address.tls).context()
        try:
            connection = cls(shown(endpoint), *await _streams(endpoint, context))
        except OSError as error:
            raise Unavailable(f"cannot reach {shown(endpoint)}: {error}") from None
        if address.credentials is not None:
            await connection._call(b"AUTH", address.credentials.user, address.credentials.secret)
        return connection

    async def execute(self, plan: Operation, key: str) -> str | int | bool | None:
        """Execute the script of an operation, and return its result."""
        arguments = (plan.value or "", plan.expected or "", str(plan.amount))
        found = await self._call(
            b"EVAL", SCRIPTS[plan.verb].encode(), b"1", key.encode(), *(argument.encode() for argument in arguments)
        )
        if plan.verb in (Verb.SET_IF, Verb.CLEAR_IF):
            return found == 1
        return found.decode("utf-8", "backslashreplace") if isinstance(found, bytes) else found

    async def _call(self, *request: bytes) -> bytes | int | None:
        """Send a command, and return its reply. Raises `OutcomeUnknown` if there is no reply."""
        try:
            self._writer.write(array_head(len(request)) + bulk_strings(request))
            line = await self._reader.readuntil(b"\r\n")
            kind, text = line[:1], line[1:-2]
            if kind == b"$" and text != b"-1":
                return (await self._reader.readexactly(int(text) + 2))[:-2]
        except (OSError, EOFError) as error:
            raise OutcomeUnknown(f"lost the connection to {self._name}: {error}") from None
        if kind == b"-":
            raise _error(text.decode("utf-8", "backslashreplace"))
        return int(text) if kind == b":" else None

    async def close(self) -> None:
        """Close the connection."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def _streams(
    endpoint: Endpoint, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(endpoint, str):
        return await asyncio.open_unix_connection(endpoint)
    return await asyncio.open_connection(*endpoint, ssl=context)


def _error(text: str) -> Exception:
    """Return the exception for an error reply. None of the scripts has written when it fails."""
    words = text.split()[:2]
    if "unknown command" in text:
        return CallerError(f"the server executes no scripts: {text}")
    if not _UNKNOWN.isdisjoint(words):
        return OutcomeUnknown(text)
    return Unavailable(text)

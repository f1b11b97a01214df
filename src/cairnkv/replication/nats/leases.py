"""Leases in a KV bucket of JetStream. The holder renews its lease; without renewals it expires.

Invariants: a lease has one holder at a time, by the clocks of NATS. It expires if its holder has not renewed it for the
bucket's TTL. A holder that cannot reach NATS for that time knows it by its own clock (`Lease.held`).

Out of scope: correctness. A server with a wrong clock may end a lease early, so two holders may only waste time, not
cause undetected damage.
"""

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

from nats import errors
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import BadRequestError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.nuid import NUID

from cairnkv.errors import OptionError, Unavailable
from cairnkv.limits import REPLICAS
from cairnkv.replication.nats.connection import ASK_TIMEOUT
from cairnkv.replication.nats.retry import WRONG_LAST, retried

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.kv import KeyValue

LEASE_SECONDS: Final = 60.0
"""Time to live of a lease without renewals: longer than NATS takes to replace a server (`retry.RETRY_SECONDS`)."""

RENEWALS: Final = 5
"""Number of renewals in that time."""

RELEASE_TIMEOUT: Final = 2.0
"""Seconds of retries of a release, since the lease also expires by itself."""


class Lease:
    """A lease of this process."""

    def __init__(self, leases: "Leases", key: str, value: bytes, revision: int, asked: float) -> None:
        """asked: monotonic time of the request."""
        self._leases = leases
        self._key = key
        self._value = value
        self._revision = revision
        self._until = asked + leases.seconds
        self._renewing = asyncio.create_task(self._renew(), name=f"lease {key}")

    @property
    def held(self) -> bool:
        """Whether it has certainly not expired, except if clocks are wrong."""
        return time.monotonic() < self._until

    async def release(self) -> None:
        """Release it. If NATS cannot be reached, it expires later."""
        self._until = 0.0
        self._renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._renewing
        with contextlib.suppress(Unavailable):
            await self._leases.remove(self._key, self._value)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._leases.seconds / RENEWALS)
            asked = time.monotonic()
            with contextlib.suppress(Unavailable):
                revision = await self._leases.write(self._key, self._value, self._revision)
                if revision is None:  # it has expired, but maybe has no new holder
                    revision = await self._leases.write(self._key, self._value, None)
                if revision is None:
                    self._until = 0.0
                    return
                self._revision, self._until = revision, asked + self._leases.seconds


class Leases:
    """The bucket of leases. seconds: time to live of a lease, a property of the bucket."""

    def __init__(self, nc: "Client", bucket: str, *, replicas: int = REPLICAS, seconds: float = LEASE_SECONDS) -> None:
        """seconds: for a new bucket."""
        self._nc = nc
        self._js = nc.jetstream(timeout=ASK_TIMEOUT)
        self._bucket = bucket
        self._replicas = replicas
        self.seconds = seconds
        self._values: KeyValue  # since `open`

    async def open(self) -> None:
        """Create the bucket if it is missing. Raises `OptionError` for an unsuitable one, and `Unavailable`."""
        stream = f"KV_{self._bucket}"

        async def ask() -> None:
            try:
                config = (await self._js.stream_info(stream)).config
            except NotFoundError:
                wanted = KeyValueConfig(
                    bucket=self._bucket,
                    ttl=self.seconds,
                    replicas=self._replicas,
                    history=1,
                    storage=StorageType.FILE,
                    direct=False,  # only the leader has all writes
                )
                await self._js.create_key_value(wanted)
                config = (await self._js.stream_info(stream)).config
            if config.num_replicas != self._replicas or not config.max_age or config.allow_direct:
                raise OptionError(
                    f"NATS has a stream {stream} with {config.num_replicas} replicas, a max age of {config.max_age} s "
                    f"and direct get {'on' if config.allow_direct else 'off'}; leases need {self._replicas}, some "
                    "seconds, and off: delete the stream; a node will create it again"
                )
            self.seconds = float(config.max_age)
            self._values = await self._js.key_value(self._bucket)

        await retried(self._nc, f"opening {stream}", ask)

    async def take(self, key: str, info: dict[str, Any]) -> Lease | None:
        """Take a lease, or return None if it has a holder. info: for `info`. Raises `Unavailable`."""
        value = json.dumps({**info, "token": NUID().next().decode()}).encode()
        asked = time.monotonic()
        revision = await self.write(key, value, None)
        return Lease(self, key, value, revision, asked) if revision is not None else None

    async def info(self, key: str) -> dict[str, Any] | None:
        """Return the holder's information about a lease; None: it has no holder. Raises `Unavailable`."""
        found = await retried(self._nc, f"reading the lease {key}", lambda: self._read(key))
        if found is None:
            return None
        info: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            if isinstance(parsed := json.loads(found[1]), dict):
                info = parsed
        return info

    async def write(self, key: str, value: bytes, revision: int | None) -> int | None:
        """Write a value if the key has this revision (None: no value). Returns the new revision, or None if it has
        not."""

        async def ask() -> int | None:
            try:
                if revision is None:
                    return await self._values.create(key, value)
                return await self._values.update(key, value, last=revision)
            except (KeyWrongLastSequenceError, KeyNotFoundError):
                found = await self._read(key)  # maybe it was written, and only the reply was lost
                return found[0] if found is not None and found[1] == value else None

        return await retried(self._nc, f"writing the lease {key}", ask, self.seconds)

    async def remove(self, key: str, value: bytes) -> None:
        """Delete a lease if it has this value. Raises `Unavailable` after a short time."""

        async def ask() -> None:
            found = await self._read(key)
            if found is None or found[1] != value:
                return
            try:
                await self._values.delete(key, last=found[0])
            except BadRequestError as error:
                if error.err_code not in WRONG_LAST:
                    raise
                raise errors.TimeoutError from None  # a cancelled renewal was in flight: retry

        await retried(self._nc, f"releasing the lease {key}", ask, RELEASE_TIMEOUT)

    async def _read(self, key: str) -> tuple[int, bytes] | None:
        try:
            entry = await self._values.get(key)
        except KeyNotFoundError:
            return None
        return entry.revision or 0, entry.value or b""

"""Leases in a KV bucket of JetStream: who has one renews it, and when nobody does it is over by itself.

What always holds: a lease has one holder at a time, as NATS tells the time. It is over when its holder has not renewed
it for the bucket's TTL. A holder that cannot reach NATS for so long knows so by its own clock (`Lease.held`).

Not to rely on for what must never be wrong: a server with another clock may end one early. What a lease keeps others
from doing must do no harm that goes unnoticed, only cost time.
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
from cairnkv.replication.nats.connection import ASK_PATIENCE
from cairnkv.replication.nats.retry import WRONG_LAST, patiently

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.kv import KeyValue

LEASE_SECONDS: Final = 60.0
"""How long a lease lasts that is not renewed: longer than NATS takes to get over a server (`retry.PATIENCE`)."""

RENEWALS: Final = 5
"""How often one is renewed in that time."""

RELEASE_PATIENCE: Final = 2.0
"""Seconds for which releasing one is asked again, since it is over by itself."""


class Lease:
    """One that was taken."""

    def __init__(self, leases: "Leases", key: str, value: bytes, revision: int, asked: float) -> None:
        """asked: when, by the monotonic clock."""
        self._leases = leases
        self._key = key
        self._value = value
        self._revision = revision
        self._until = asked + leases.seconds
        self._renewing = asyncio.create_task(self._renew(), name=f"lease {key}")

    @property
    def held(self) -> bool:
        """Whether it is certainly not over, but for clocks that are wrong."""
        return time.monotonic() < self._until

    async def release(self) -> None:
        """Let another one have it, soon; where NATS cannot be reached, when its time is over."""
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
                if revision is None:  # it was over; nobody else may have it yet
                    revision = await self._leases.write(self._key, self._value, None)
                if revision is None:
                    self._until = 0.0
                    return
                self._revision, self._until = revision, asked + self._leases.seconds


class Leases:
    """The bucket. seconds: how long a lease lasts, which is for the bucket to say."""

    def __init__(self, nc: "Client", bucket: str, *, replicas: int = REPLICAS, seconds: float = LEASE_SECONDS) -> None:
        """seconds: in a bucket that is not there yet."""
        self._nc = nc
        self._js = nc.jetstream(timeout=ASK_PATIENCE)
        self._bucket = bucket
        self._replicas = replicas
        self.seconds = seconds
        self._values: KeyValue | None = None

    async def open(self) -> None:
        """Make the bucket if it is not there. Raises `OptionError` if it is another one, and `Unavailable`."""
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
                    direct=False,  # the leader answers, who knows all that was written
                )
                await self._js.create_key_value(wanted)
                config = (await self._js.stream_info(stream)).config
            if config.num_replicas != self._replicas or not config.max_age or config.allow_direct:
                raise OptionError(
                    f"NATS has a stream {stream} with {config.num_replicas} replicas, a max age of {config.max_age} s "
                    f"and direct get {'on' if config.allow_direct else 'off'}; leases need {self._replicas}, some "
                    "seconds, and off: remove it, and it is made anew"
                )
            self.seconds = float(config.max_age)
            self._values = await self._js.key_value(self._bucket)

        await patiently(self._nc, f"opening {stream}", ask)

    async def take(self, key: str, told: dict[str, Any]) -> Lease | None:
        """Have this lease; None: somebody else has it. told: what others are told of it. Raises `Unavailable`."""
        value = json.dumps({**told, "token": NUID().next().decode()}).encode()
        asked = time.monotonic()
        revision = await self.write(key, value, None)
        return Lease(self, key, value, revision, asked) if revision is not None else None

    async def told(self, key: str) -> dict[str, Any] | None:
        """What is told of a lease; None: nobody has it. Raises `Unavailable`."""
        found = await patiently(self._nc, f"reading the lease {key}", lambda: self._read(key))
        if found is None:
            return None
        told: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            if isinstance(parsed := json.loads(found[1]), dict):
                told = parsed
        return told

    async def write(self, key: str, value: bytes, revision: int | None) -> int | None:
        """Have this value under a key whose newest has this revision, or none; its own. None: that is not so."""

        async def ask() -> int | None:
            try:
                if revision is None:
                    return await self._bucket_open.create(key, value)
                return await self._bucket_open.update(key, value, last=revision)
            except (KeyWrongLastSequenceError, KeyNotFoundError):
                found = await self._read(key)  # maybe it was written already, and only the answer was lost
                return found[0] if found is not None and found[1] == value else None

        return await patiently(self._nc, f"writing the lease {key}", ask, self.seconds)

    async def remove(self, key: str, value: bytes) -> None:
        """Have no such lease, if it has this value. Raises `Unavailable`, soon: it is over by itself."""

        async def ask() -> None:
            found = await self._read(key)
            if found is None or found[1] != value:
                return
            try:
                await self._bucket_open.delete(key, last=found[0])
            except BadRequestError as error:
                if error.err_code not in WRONG_LAST:
                    raise
                raise errors.TimeoutError from None  # a renewal that was cancelled was on its way: ask again

        await patiently(self._nc, f"releasing the lease {key}", ask, RELEASE_PATIENCE)

    async def _read(self, key: str) -> tuple[int, bytes] | None:
        try:
            entry = await self._bucket_open.get(key)
        except KeyNotFoundError:
            return None
        return entry.revision or 0, entry.value or b""

    @property
    def _bucket_open(self) -> "KeyValue":
        assert self._values is not None, "opened before"
        return self._values

"""Settings of Celery for tasks and results in a store, and the result backend.

    app = celery.Celery("shop")
    configure(app, "cairn://127.0.0.1:6555")

Out of scope: the queues of tasks (`kombu`).
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from celery.app.backends import BACKEND_ALIASES
from celery.backends.base import KeyValueStoreBackend
from celery.states import SUCCESS

from cairnkv.client.address import Seconds, without_secrets
from cairnkv.client.brokers.kombu import SCHEME, SECURE_SCHEME, store_url
from cairnkv.client.entry import connect
from cairnkv.client.sync import Client
from cairnkv.errors import OutcomeUnknown, Unavailable
from cairnkv.limits import DEFAULT_URL

SETTINGS: Final = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry_on_startup": True,
}
"""A worker acks a task at its end, not at its beginning, and takes only the tasks that it can run at once."""


def configure(app: Any, url: str | None = None, *, lease: Seconds | None = None) -> None:
    """Make an application of Celery keep its tasks and results in a store. Later settings replace these.

    url: the address of the store. lease: the time after which the store delivers the task of a killed worker again;
    default: that of each queue, 60 seconds.
    """
    url = url or f"{SCHEME}://"
    app.conf.update(broker_url=url, result_backend=url, **SETTINGS)
    if lease is not None:
        app.conf.update(broker_transport_options={"lease": lease})


class Backend(KeyValueStoreBackend):
    """Keeps results as keys of a store, until they expire. Counts the parts of chords."""

    supports_autoexpire = True
    implements_incr = True

    @cached_property
    def _kv(self) -> Client[bytes, bytes]:
        return connect(store_url(self.url), codec="bytes")

    def get(self, key: bytes) -> bytes | None:
        """Return a value, or None."""
        return self._kv.get(key)

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the values of several keys."""
        keys = list(keys)
        found = self._kv.get_many(keys)
        return [found.get(key) for key in keys]

    def set(self, key: bytes, value: str | bytes) -> None:
        """Store a value until it expires."""
        self._kv.set(key, value.encode() if isinstance(value, str) else value, ttl=self.expires or None)

    def _set_with_state(self, key: bytes, value: str | bytes, state: str) -> None:
        """Store a result, unless the task has succeeded: an earlier attempt may store its state later."""
        if state == SUCCESS:
            self.set(key, value)
            return
        data = value.encode() if isinstance(value, str) else value
        decode: Any = getattr(self, "decode_result", self.decode)  # Celery compresses results since 5.7
        stored = False
        while not stored:
            before = self.get(key)
            if before is not None and decode(before)["status"] == SUCCESS:
                return
            condition: dict[str, Any] = {"if_absent": True} if before is None else {"if_equals": before}
            stored = self._kv.set(key, data, ttl=self.expires or None, **condition)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Return whether Celery may repeat an operation, with `result_backend_always_retry`."""
        return isinstance(exc, Unavailable | OutcomeUnknown)

    def delete(self, key: bytes) -> None:
        """Delete a key."""
        self._kv.clear(key)

    def incr(self, key: bytes) -> int:
        """Add one to a number, and return the sum."""
        return self._kv.incr(key)

    def expire(self, key: bytes, value: float) -> None:
        """Set the TTL of a key; 0: none."""
        if value:
            self._kv.expire(key, value)
        else:
            self._kv.persist(key)

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL of the store, for a logger without the secret."""
        url = store_url(self.url) or DEFAULT_URL
        return url if include_password else without_secrets(url)

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "url": self.url})


BACKEND_ALIASES[SCHEME] = BACKEND_ALIASES[SECURE_SCHEME] = f"{__name__}:Backend"

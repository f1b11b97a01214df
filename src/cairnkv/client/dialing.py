"""Connects a TCP socket to a host and a port in a given time.

Invariants: the name lookup and the connection attempts together take no longer than the given time. Each address of
the name gets an equal share of the time that is left, so a dead address leaves time for the next one.

The system's name lookup cannot be stopped, so it runs in a daemon thread. Callers that look up the same name share it,
and `LOOKUPS_MAX` bounds the lookups of a process.

`cairnkv.client.aio.dialing` is the same for asyncio.

Out of scope: the choice among several endpoints (`endpoints`), and Unix sockets.
"""

import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from cairnkv.limits import ADDRESSES_MAX, LOOKUPS_MAX
from cairnkv.sockets import set_tcp_options

if TYPE_CHECKING:
    from concurrent.futures import Future

Place: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...] | str]
"""An address family and a socket address of this family: the path of a Unix socket, or a tuple."""

Failures: TypeAlias = list[tuple[Place, OSError]]
"""The failed connection attempts to the addresses of one host."""

TIMED_OUT: Final = "timed out"
"""The reason of a failure without text: a timeout of asyncio."""


def dial(host: str, port: int, timeout: float) -> socket.socket:
    """Return a connected, blocking socket. Raises OSError if no address accepts within `timeout` seconds."""
    until = time.monotonic() + timeout
    places = literal(host, port)
    if places is None:
        try:
            places = lookup(host, port).result(timeout)
        except TimeoutError:
            raise no_answer(timeout) from None
    failures: Failures = []
    for place, untried in with_untried(places):
        try:
            return connected_to(place, share(until - time.monotonic(), untried))
        except OSError as error:
            failures.append((place, error))
    raise all_failed(failures)


def connected_to(place: Place, timeout: float) -> socket.socket:
    """Return a blocking socket that is connected to one address. Raises OSError."""
    connected = socket.socket(place[0], socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout)
        connected.connect(place[1])
        connected.settimeout(None)
        if isinstance(place[1], tuple):
            set_tcp_options(connected)
    except BaseException:
        connected.close()
        raise
    return connected


def share(left: float, untried: int) -> float:
    """Return the seconds for one address: an equal share of the time left for the untried addresses."""
    return max(left / untried, 0.001)


def with_untried(places: list[Place]) -> Iterator[tuple[Place, int]]:
    """Yield each address with the number of untried addresses, including itself."""
    return zip(places, range(len(places), 0, -1), strict=True)


def all_failed(failures: Failures) -> OSError:
    """Return the error to raise when no address is left: it names each address with its reason."""
    if len(failures) == 1:
        error = failures[0][1]
        return error if error.args else TimeoutError(TIMED_OUT)
    timed_out = bool(failures) and all(isinstance(error, TimeoutError) for _, error in failures)
    reasons = (f"{place[1][0]}: {error.strerror or str(error) or TIMED_OUT}" for place, error in failures)
    return (TimeoutError if timed_out else ConnectionError)(", ".join(reasons) or "the name has no address")


def no_answer(timeout: float) -> TimeoutError:
    return TimeoutError(f"the name lookup had no answer in {timeout:.3g} s")


# -- name lookups ------------------------------------------------------------------------------------------------------


def literal(host: str, port: int) -> list[Place] | None:
    """Return the address of a numeric host; None for a name, and for an address with a zone."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            socket.inet_pton(family, host)
        except (OSError, UnicodeError, ValueError):
            continue
        return [(family, (host, port, *rest))]
    return None


_Lookups: TypeAlias = "dict[tuple[str, int], tuple[threading.Thread, Future[list[Place]]]]"
_lookups: Final[_Lookups] = {}
"""Running lookups. After a fork, or an exception before the start, an entry may have no live thread."""


def lookup(host: str, port: int) -> "Future[list[Place]]":
    """Return a future of the addresses of a name. Raises OSError if too many lookups run."""
    from concurrent.futures import Future  # a slow import that only names need

    name = host, port
    if (running := _lookups.get(name)) is not None and running[0].is_alive():
        return running[1]
    if sum(thread.is_alive() for thread, _ in list(_lookups.values())) >= LOOKUPS_MAX:
        raise OSError(f"{LOOKUPS_MAX} name lookups of this process have no answer yet")
    future: Future[list[Place]] = Future()
    future.set_running_or_notify_cancel()  # one caller must not cancel it for the others
    thread = threading.Thread(target=_resolve, args=(name, future), name="cairnkv name lookup", daemon=True)
    _lookups[name] = thread, future
    try:
        thread.start()
    except RuntimeError:  # Python starts no threads during interpreter shutdown
        _resolve(name, future)
    return future


def _resolve(name: tuple[str, int], future: "Future[list[Place]]") -> None:
    try:
        found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
        places: list[Place] = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        future.set_result(places[:ADDRESSES_MAX])
    except UnicodeError:
        future.set_exception(OSError(f"{name[0]!r:.80} is not a host name"))
    except BaseException as error:
        future.set_exception(error)
    finally:
        if (entry := _lookups.get(name)) is not None and entry[1] is future:
            del _lookups[name]

"""Fair shares for clients: of the event loop's time, and of limits on all clients together.

Invariants of the scheduler: an iteration of the event loop runs at least one due slice, and begins no other one after
`SLICES_SECONDS`. So a client that sends one short command waits for a few slices of other clients at most, however many
of them send long pipelines or commands on long values.

Invariants of limits: if the server has a password, a limit applies to unauthenticated clients first. Then it applies to
clients of the address that uses most over all its connections, and within that address to the client that uses most.
A Unix socket counts as one address. A /64 network of IPv6 counts as one address, because a single computer usually owns
it.
"""

import asyncio
import heapq
import ipaddress
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol, TypeVar

from cairnkv.limits import SLICES_SECONDS

UNIX: Final = "unix"
"""The address of all clients of the Unix socket."""

IPV6_NETWORK_BITS: Final = 64


class Scheduler:
    """Runs slices of work of clients. The server reads from its sockets between them."""

    def __init__(self) -> None:
        self._due: deque[Callable[[], None]] = deque()
        self._is_scheduled = False
        self._is_late = False  # whether a long slice has run in this iteration

    def run(self, work: Callable[[], None], later: Callable[[], None]) -> None:
        """Run a slice at once; or, if a long one has run since the server read from its sockets, call `later`."""
        if self._is_late:
            later()
            return
        time = asyncio.get_running_loop().time
        by = time() + SLICES_SECONDS
        work()
        if time() >= by:
            self._is_late = True
            self._schedule()

    def add(self, work: Callable[[], None]) -> None:
        """Run a slice after those that were added before."""
        self._due.append(work)
        self._schedule()

    def _schedule(self) -> None:
        if (self._due or self._is_late) and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = self._is_late = False
        loop = asyncio.get_running_loop()
        by = loop.time() + SLICES_SECONDS
        try:
            for _ in range(len(self._due)):  # a slice that a slice adds belongs to the next iteration
                self._due.popleft()()
                if loop.time() >= by:
                    break
        finally:
            self._schedule()


class Sharer(Protocol):
    """A client that uses a part of a shared limit."""

    @property
    def network(self) -> str:
        """The client's address, by `network_of`."""

    @property
    def authenticated(self) -> bool:
        """Whether the client may execute commands."""


_SharerT = TypeVar("_SharerT", bound=Sharer)


def network_of(host: str | None) -> str:
    """Return the address by which limits count a host; None: a client of the Unix socket."""
    if host is None:
        return UNIX
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((address, IPV6_NETWORK_BITS), strict=False))
    return str(address)


def first_to_pay(shares: Mapping[_SharerT, int]) -> Iterator[_SharerT]:
    """Yield all clients in the order in which a limit applies to them, as if each yielded client then used nothing."""
    for authenticated in (False, True):
        by_network: dict[str, list[tuple[int, int, _SharerT]]] = defaultdict(list)
        for number, (client, share) in enumerate(shares.items()):
            if client.authenticated is authenticated:
                by_network[client.network].append((share, -number, client))
        totals: list[tuple[int, str]] = []
        for network, clients in by_network.items():
            clients.sort(key=lambda one: one[:2])
            heapq.heappush(totals, (-sum(share for share, *_ in clients), network))
        while totals:
            total, network = totals[0]
            share, _, client = by_network[network].pop()
            if by_network[network]:
                heapq.heapreplace(totals, (total + share, network))
            else:
                heapq.heappop(totals)
            yield client

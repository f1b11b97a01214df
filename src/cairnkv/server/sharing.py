"""The order in which a limit on all clients together applies to single clients.

Invariants: if the server has a password, unauthenticated clients come first. Then come clients of the address that uses
most over all its connections; within that address, the client that uses most comes first. A Unix socket counts as one
address. A /64 network of IPv6 counts as one address, because a single computer usually owns it.
"""

import heapq
import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, Protocol, TypeVar

UNIX: Final = "unix"
"""The address of all clients of the Unix socket."""

IPV6_NETWORK_BITS: Final = 64


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

"""Limits on the clients of a server that must log in and have not done so.

Invariants: unauthenticated clients have at most a quarter of the places, `UNAUTHENTICATED_PER_ADDRESS_MAX` of them from
one address, and at most `UNAUTHENTICATED_BYTES_MAX` of memory together. At a limit on their number, the server refuses
the oldest one: one of the new client's own address, if the address has any. At the limit of memory, the server fails
those that use most. So a client that sends its secret at once can log in while others hold all places, and the limits
never close the connection of a client that has logged in.

Out of scope: the size of their frames (the decoders), and the time to log in (`Connection.check_times`).
"""

from collections import defaultdict
from typing import Final, Generic, TypeVar

from cairnkv.limits import UNAUTHENTICATED_BYTES_MAX, UNAUTHENTICATED_PER_ADDRESS_MAX, UNAUTHENTICATED_SHARE
from cairnkv.server.fair_share import Sharer, first_to_pay

_SharerT = TypeVar("_SharerT", bound=Sharer)

BYTES_LEFT: Final = UNAUTHENTICATED_BYTES_MAX * 3 // 4
"""Bytes that unauthenticated clients use after the server has failed some, so that it does not fail the next one."""


class UnauthenticatedClients(Generic[_SharerT]):
    """The unauthenticated clients of a server."""

    def __init__(self) -> None:
        self._clients: dict[_SharerT, int] = {}  # with their bytes, the oldest first
        self._by_network: defaultdict[str, dict[_SharerT, None]] = defaultdict(dict)  # the same, by address
        self.bytes = 0
        """Bytes that all use together."""

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, client: object) -> bool:
        return client in self._clients

    def add(
        self, client: _SharerT, max_connections: int, *, per_address: int = UNAUTHENTICATED_PER_ADDRESS_MAX
    ) -> _SharerT | None:
        """Add a client. Returns a client to refuse for it, or None. per_address: the maximum of its address."""
        payer = None
        mates = self._by_network.get(client.network, {})
        if len(mates) >= per_address:
            payer = next(iter(mates))
        elif len(self._clients) >= max(1, max_connections // UNAUTHENTICATED_SHARE):
            payer = next(iter(mates or self._clients))
        if payer is not None:
            self.remove(payer)
        self._clients[client] = 0
        self._by_network[client.network][client] = None
        return payer

    def remove(self, client: _SharerT) -> None:
        """Remove a client that has logged in, disconnected, or been refused; do nothing for any other client."""
        if client not in self._clients:
            return
        self.bytes -= self._clients.pop(client)
        mates = self._by_network[client.network]
        del mates[client]
        if not mates:
            del self._by_network[client.network]

    def pop_oldest(self) -> _SharerT | None:
        """Remove and return the client that has been unauthenticated for longest, or None."""
        oldest = next(iter(self._clients), None)
        if oldest is not None:
            self.remove(oldest)
        return oldest

    def use(self, client: _SharerT, size: int) -> list[_SharerT]:
        """Record the bytes that a client uses. Returns the clients to fail because all together use too much."""
        before = self._clients.get(client)
        if before is None or before == size:
            return []
        self.bytes += size - before
        self._clients[client] = size
        payers: list[_SharerT] = []
        if self.bytes > UNAUTHENTICATED_BYTES_MAX:
            for payer in first_to_pay(dict(self._clients)):
                payers.append(payer)
                self.bytes -= self._clients[payer]
                self._clients[payer] = 0
                if self.bytes <= BYTES_LEFT:
                    break
        return payers

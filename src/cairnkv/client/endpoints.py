"""Which endpoint of an address a client goes to, and what it remembers of those that were of no use.

With one endpoint there is nothing to choose. With several, which are nodes of one cluster, a client stays with one
while that serves, and goes on to the next when it cannot be connected to, is lost, is silent, or says that it cannot
do what another may (`Code.elsewhere`).

What always holds: trouble only decides the order. While every endpoint has had some, all are tried again, that of
longest ago first. A call is bounded by its address' timeout, and by `attempts`.

Sans-IO: times are arguments, in seconds of a clock that is never set. Not for when a call is repeated (`retry`).
"""

from typing import Final

from cairnkv.client.address import Address, Endpoint, shown
from cairnkv.commands import Command, Failure, Get, Reply
from cairnkv.commands.failures import TOOBIG

TROUBLE_SECONDS: Final = 10.0
"""How long an endpoint that was of no use is tried behind the others: about as long as a failover may take."""


class Endpoints:
    """The endpoints of an address, in the order in which one client tries them.

    several: whether there is a choice. attempts: how often a call may be tried, each further endpoint once more.
    greets: whether a connection begins with a PING.
    """

    def __init__(self, address: Address) -> None:
        self._order = list(address.endpoints)
        self.several = self.greets = len(self._order) > 1
        self.attempts = address.attempts + len(self._order) - 1
        self._patience = address.connect_timeout
        self._share = min(address.connect_timeout, address.timeout / len(self._order))
        self._troubles: dict[Endpoint, tuple[float, str]] = {}
        if self.several and address.order == "random":
            import random  # only who has a choice needs it

            random.shuffle(self._order)  # all of them, so that the clients of a node that ends spread over the others

    def in_turn(self, now: float) -> list[Endpoint]:
        """All endpoints in the order in which they are to be tried: those without trouble lately come first."""
        fine = [endpoint for endpoint in self._order if not self._troubled(endpoint, now)]
        rest = [endpoint for endpoint in self._order if endpoint not in fine]
        return fine + sorted(rest, key=lambda endpoint: self._troubles[endpoint][0])

    def patience(self, left: float, untried: int) -> float:
        """Seconds that one endpoint may take to accept and answer, of those left for so many that are untried."""
        return min(self._patience, left / untried)

    def silence(self, endpoint: Endpoint, now: float) -> float | None:
        """Seconds without a sign from an endpoint after which what only reads goes elsewhere; None: it has to wait.

        Short of the time of a whole call, so that there is some left for the others; none where those are no better.
        """
        return self._share if self.fresh(now, besides=endpoint) else None

    def good(self, endpoint: Endpoint) -> None:
        """It has accepted: it is the one to return to."""
        at = self._order.index(endpoint)
        self._order = self._order[at:] + self._order[:at]
        self._troubles.pop(endpoint, None)

    def trouble(self, endpoint: Endpoint, why: str, now: float) -> None:
        """It was of no use, for a reason that errors tell."""
        self._troubles[endpoint] = (now, why)

    def fresh(self, now: float, *, besides: Endpoint | None = None) -> bool:
        """Whether there is a choice, and an endpoint in it that had no trouble lately, so that it can be tried at once.

        besides: one that does not count.
        """
        if not self._troubles:
            return self.several
        return self.several and any(
            endpoint != besides and not self._troubled(endpoint, now) for endpoint in self._order
        )

    def misread(self, command: Command, reply: Reply) -> bool:
        """Return whether the server misread a GET as the first frame. If so, connections begin with a PING from now on.

        With `--command-width 4`, a server reads four bytes of a two-byte GET as its number, and the rest as a key that
        is too long. It executes nothing. A server cannot misread a PING.
        """
        if self.greets or not (isinstance(command, Get) and isinstance(reply, Failure) and reply.code is TOOBIG):
            return False
        self.greets = True
        return True

    def story(self, now: float) -> str:
        """Each endpoint with what was wrong with it, when none could be connected to."""
        return "; ".join(f"{shown(endpoint)}: {self._why(endpoint, now) or 'not tried'}" for endpoint in self._order)

    def besides(self, endpoint: Endpoint | None, now: float) -> str:
        """What was wrong with the other endpoints, to be put behind what is wrong with this one; often nothing."""
        others = (other for other in self._order if other != endpoint)
        told = "; ".join(f"{shown(other)}: {why}" for other in others if (why := self._why(other, now)))
        return f" ({told})" if told and self.several else ""

    def _why(self, endpoint: Endpoint, now: float) -> str:
        return self._troubles[endpoint][1] if self._troubled(endpoint, now) else ""

    def _troubled(self, endpoint: Endpoint, now: float) -> bool:
        trouble = self._troubles.get(endpoint)
        return trouble is not None and now < trouble[0] + TROUBLE_SECONDS

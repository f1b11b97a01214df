"""Chooses the endpoint that a client uses, and remembers the endpoints that failed.

Several endpoints are nodes of one cluster. A client uses one node until it fails: until it refuses the connection,
loses it, stays silent, or replies that another node may execute the command (`Code.elsewhere`).

Invariants: a failure changes only the order. If all endpoints have failed, the client tries all of them again, the one
with the oldest failure first. The address' timeout and `attempts` limit each call.

Sans-IO: times are arguments, in seconds of a monotonic clock. Out of scope: the decision to repeat a call (`retry`).
"""

from typing import Final

from cairnkv.client.address import Address, Endpoint, shown
from cairnkv.commands import Command, Failure, Get, Reply
from cairnkv.commands.failures import TOOBIG

FAILED_SECONDS: Final = 10.0
"""Seconds after a failure in which a client tries the other endpoints first: about the time of a failover."""


class Endpoints:
    """The endpoints of an address, in the order in which one client tries them.

    several: whether there are several endpoints. attempts: the maximum number of attempts of a call.
    pings_first: whether a connection begins with a PING, behind AUTH if the client logs in.
    """

    def __init__(self, address: Address) -> None:
        self._order = list(address.endpoints)
        self.several = len(self._order) > 1
        # With TLS 1.3, the first reply shows whether the server accepts the client's certificate.
        self.pings_first = self.several or address.credentials is not None or address.tls is not None
        self.attempts = address.attempts + len(self._order) - 1
        self._connect_timeout = address.connect_timeout
        self._share = min(address.connect_timeout, address.timeout / len(self._order))
        self._failures: dict[Endpoint, tuple[float, str]] = {}
        if self.several and address.order == "random":
            import random  # a slow import that only several endpoints need

            random.shuffle(self._order)  # all of them: when a node ends, its clients spread over the others

    def in_order(self, now: float) -> list[Endpoint]:
        """Return all endpoints in the order to try them: those without a recent failure first."""
        fine = [endpoint for endpoint in self._order if not self._failed_recently(endpoint, now)]
        rest = [endpoint for endpoint in self._order if endpoint not in fine]
        return fine + sorted(rest, key=lambda endpoint: self._failures[endpoint][0])

    def timeout(self, left: float, untried: int) -> float:
        """Return the maximum seconds for one endpoint to accept and answer.

        left: the seconds left for all untried endpoints. untried: their number.
        """
        return min(self._connect_timeout, left / untried)

    def silence(self, endpoint: Endpoint, now: float) -> float | None:
        """Return the seconds of silence after which reads leave an endpoint. None: reads wait.

        They are shorter than a call's timeout, to leave time for the others. None if all others failed recently.
        """
        return self._share if self.fresh(now, other_than=endpoint) else None

    def prefer(self, endpoint: Endpoint) -> None:
        """Put an endpoint that has accepted a connection first."""
        at = self._order.index(endpoint)
        self._order = self._order[at:] + self._order[:at]
        self._failures.pop(endpoint, None)

    def add_failure(self, endpoint: Endpoint, why: str, now: float) -> None:
        """Remember that an endpoint failed, with the reason for error messages."""
        self._failures[endpoint] = (now, why)

    def fresh(self, now: float, *, other_than: Endpoint | None = None) -> bool:
        """Return whether there are several endpoints, and one without a recent failure, to try at once.

        other_than: an endpoint that does not count.
        """
        if not self._failures:
            return self.several
        return self.several and any(
            endpoint != other_than and not self._failed_recently(endpoint, now) for endpoint in self._order
        )

    def misread(self, command: Command, reply: Reply) -> bool:
        """Return whether the server misread a GET as the first frame. If so, connections begin with a PING from now on.

        With `--command-width 4`, a server reads four bytes of a two-byte GET as its number, and the rest as a key that
        is too long. It executes nothing. A server cannot misread a PING.
        """
        if self.pings_first or not (isinstance(command, Get) and isinstance(reply, Failure) and reply.code is TOOBIG):
            return False
        self.pings_first = True
        return True

    def all_failures(self, now: float) -> str:
        """Return each endpoint with the reason of its failure, for the error when none accepts."""
        return "; ".join(f"{shown(endpoint)}: {self._why(endpoint, now) or 'not tried'}" for endpoint in self._order)

    def other_failures(self, endpoint: Endpoint | None, now: float) -> str:
        """Return the recent failures of the other endpoints, to append to an error message; empty if there are none."""
        others = (other for other in self._order if other != endpoint)
        told = "; ".join(f"{shown(other)}: {why}" for other in others if (why := self._why(other, now)))
        return f" ({told})" if told and self.several else ""

    def with_other_failures(self, failure: Failure, now: float) -> Failure:
        """Return a failure with the failures of the other endpoints in its text, if the client tried them."""
        if not (self.several and failure.code.elsewhere):
            return failure
        return Failure(failure.code, f"{failure.text}{self.other_failures(None, now)}")

    def _why(self, endpoint: Endpoint, now: float) -> str:
        return self._failures[endpoint][1] if self._failed_recently(endpoint, now) else ""

    def _failed_recently(self, endpoint: Endpoint, now: float) -> bool:
        failure = self._failures.get(endpoint)
        return failure is not None and now < failure[0] + FAILED_SECONDS

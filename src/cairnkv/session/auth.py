"""Authentication of clients, for both protocols: the password of the server, and the state of each client.

Invariants: a new password applies to clients that connect later, and to clients that authenticate again.
"""

import hmac
from typing import Final

DEFAULT_USER: Final = b"default"
"""The name of the only user."""


class Authenticator:
    """The password of a server."""

    def __init__(self, password: str | None) -> None:
        """password: None: clients need no password."""
        self.set_password(password)

    def set_password(self, password: str | None) -> None:
        """Change the password; None: clients need none."""
        self._password = password.encode("utf-8", "surrogateescape") if password else None

    @property
    def required(self) -> bool:
        """Whether clients must authenticate."""
        return self._password is not None

    def accepts(self, user: bytes, password: bytes) -> bool:
        """Whether this user may authenticate with this password. The time does not depend on the password."""
        right = hmac.compare_digest(password, self._password or b"") or self._password is None
        return right and user == DEFAULT_USER


class Authentication:
    """Whether one client may execute commands."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator: Final = authenticator
        self.reset()

    def reset(self) -> None:
        """Begin as a client that has sent no password."""
        self.authenticated = not self.authenticator.required

    def authenticate(self, user: bytes, password: bytes) -> bool:
        """Check a password; return whether the client is authenticated by it."""
        accepted = self.authenticator.accepts(user, password)
        self.authenticated = self.authenticated or accepted
        return accepted

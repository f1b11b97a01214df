"""Authentication of clients, for both protocols: the password of the server, and the state of each client.

Invariants: a new password applies to clients that connect later, and to clients that authenticate again.
"""

from typing import Final

from cairnkv.session.access.users import DEFAULT_USER, Users, default_user, encoded


class Authenticator:
    """The passwords of the users of a server."""

    def __init__(self, users: Users) -> None:
        self._users = users

    def set_password(self, password: str | None) -> None:
        """Change the password of the user `default`; None: the user needs none."""
        user = self._users.get(DEFAULT_USER) or default_user()
        given = encoded(password)
        self._users.set(user.changed(["nopass"] if given is None else ["resetpass", f">{password}"]))

    @property
    def required(self) -> bool:
        """Whether clients must authenticate."""
        return self._users.required

    def accepts(self, user: bytes, password: bytes) -> bool:
        """Whether this user may authenticate with this password. The time does not depend on the password."""
        found = self._users.get(user)
        if found is None or not found.enabled or found.certonly:
            return False
        return found.nopass or any(secret.is_digest and secret.matches(password) for secret in found.secrets)


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

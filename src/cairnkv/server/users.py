"""The users of a running server: from its users file and its password.

Invariants: the user `default` is in the users file, or has the server's password, or does not exist; without file and
password it has all rights and needs no password. A reload changes all users, or none.

Out of scope: the format of the file (`users_file`).
"""

import logging
from collections.abc import Collection
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.limits import DEFAULT_USER
from cairnkv.server.password_hashing import require_argon2
from cairnkv.server.settings import Settings, is_loopback
from cairnkv.server.users_file import UsersFile, UsersFileError
from cairnkv.session.access.users import User, Users, UsersRefused, default_user, encoded

logger: Final = logging.getLogger("cairnkv.server")


class ServerUsers:
    """The table of the users, and the file that it came from."""

    def __init__(self, settings: Settings) -> None:
        """Raises `OptionError` if the file cannot be used."""
        self._file = None if settings.users is None else UsersFile(settings.users)
        self._settings = settings
        self._password = settings.password
        self.table: Final = Users(check=self._check)
        try:
            self._load()
        except UsersRefused as refused:
            raise OptionError(str(refused)) from None
        if self._file is not None and not any(user.is_administrator for user in self.table):
            logger.warning("%s has no administrator: no client can change users (+@all makes one)", self._file.path)

    @property
    def has_file(self) -> bool:
        """Whether there is a users file."""
        return self._file is not None

    def load(self) -> None:
        """Read the users file again. Raises `UsersRefused`, and then nothing has changed."""
        assert self._file is not None
        self._load()
        logger.info("%s: %s users, digest %s", self._file.path, f"{len(self.table):,}", self.table.digest)

    def save(self) -> None:
        """Write the users file, without a user `default` that only has the server's password. Raises `UsersRefused`."""
        assert self._file is not None
        users = list(self.table)
        if self._password is not None:
            users = [user for user in users if user.name != DEFAULT_USER]
        try:
            self._file.save(users)
        except UsersFileError as error:
            logger.error("ACL SAVE: %s", error)
            raise UsersRefused(str(error)) from None

    def set_password(self, password: str | None) -> None:
        """Change the password of the user `default`; None: the user needs none. Raises `UsersRefused`."""
        user = self.table.get(DEFAULT_USER) or default_user()
        self.table.set(user.changed(["nopass"] if not password else ["resetpass", f">{password}"]))
        if self._password is not None:  # else the password of a reload is that of the file
            self._password = password or None

    def _load(self) -> None:
        """Use the users of the file and of the password."""
        if self._file is None:
            self.table.replace([default_user(encoded(self._password))])
            return
        try:
            self._file.load(self._use)
        except UsersFileError as error:
            raise UsersRefused(str(error)) from None

    def _use(self, users: list[User]) -> None:
        if self._password is not None:
            if any(user.name == DEFAULT_USER for user in users):
                raise UsersRefused(
                    f"{self._settings.users} has a user default, and --password is a second definition of that user: "
                    "remove one of them"
                )
            users = [*users, default_user(encoded(self._password))]
        self.table.replace(users)

    def _check(self, users: Collection[User]) -> None:
        """Raise `UsersRefused` if any client on the network could do everything, or passwords cannot be checked."""
        if any(not secret.is_digest for user in users for secret in user.secrets):
            try:
                require_argon2()
            except OptionError as error:
                raise UsersRefused(str(error)) from None
        settings = self._settings
        if settings.insecure or settings.wants_certificates or settings.no_tcp or is_loopback(settings.host):
            return
        if any(user.name == DEFAULT_USER and user.enabled and user.nopass and user.rights.unlimited for user in users):
            raise UsersRefused(
                f"the user default has all rights and no password, and {settings.host} is not a loopback address: any "
                "client that reaches the port could read and delete all data. Give default a password or fewer "
                "rights, or start the server with --insecure"
            )

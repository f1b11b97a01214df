"""The user and the secret with which a client logs in, and the file that the variable CAIRNKV__CREDENTIALS names.

The first line of the file is `user:secret`, without percent-encoding. Without a user, the user is `default`.

Invariants: no error, repr or str shows a secret. A client refuses a file that other users of the computer may read.

Out of scope: user and secret in an address (`address`), and the command AUTH (`sync`, `aio.connection`).
"""

import contextlib
import os
from typing import Final

from cairnkv.errors import AddressError
from cairnkv.limits import CREDENTIALS_MAX, DEFAULT_USER
from cairnkv.records import record

CREDENTIALS_VARIABLE: Final = "CAIRNKV__CREDENTIALS"

OF_OTHERS: Final = 0o077
"""The bits of a file's mode for the rights of its group and of other users."""


@record
class Credentials:
    """A user and a secret: a password or a token."""

    user: bytes
    secret: bytes

    def __post_init__(self) -> None:
        if not self.user or not self.secret:
            raise AddressError("a login has a user and a secret, user:secret, and one of them is empty")
        if len(self.user) + len(self.secret) > CREDENTIALS_MAX:
            raise AddressError(f"a user and a secret have at most {CREDENTIALS_MAX:,} bytes together")

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, secret=...)"


def credentials_in(path: str) -> Credentials:
    """Return the credentials in a file. Raises `AddressError`."""
    from pathlib import Path  # a slow import that only this needs

    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(CREDENTIALS_MAX + 3)  # with a colon, and the end of the line
    except (OSError, ValueError) as error:
        raise AddressError(f"cannot read {path!r}: {getattr(error, 'strerror', None) or error}") from None
    if mode & OF_OTHERS:
        raise AddressError(
            f"other users of the computer may use {path!r} (mode {mode & 0o777:04o}): run chmod 600 on it"
        )
    user, colon, secret = line.rstrip(b"\r\n").partition(b":")
    if not colon:
        raise AddressError(f"the first line of {path!r} is not user:secret")
    try:
        return Credentials(user or DEFAULT_USER, secret)
    except AddressError as error:
        raise AddressError(f"{path!r}: {error}") from None


def credentials_again(path: str, former: Credentials | None) -> Credentials | None:
    """Return the present credentials in a file, or the former ones if it does not fit, or is a pipe that was read."""
    from pathlib import Path

    with contextlib.suppress(AddressError):  # a change has perhaps written only a part of it
        if Path(path).is_file():
            return credentials_in(path)
    return former

"""Users and certificates of servers, for suites that run without them, too."""

import functools
import hashlib
import string
import tempfile
from pathlib import Path
from typing import Any

from tests.support.certificates import certificates

BEGINNINGS = string.ascii_letters + string.digits
"""The first characters of the keys, queues and channels that the user may use."""

FIRST = frozenset({*BEGINNINGS, *(beginning.encode() for beginning in BEGINNINGS)})

USER, ADMINISTRATOR = "app", "ops"
SECRETS = {USER: "ck_" + "a" * 43, ADMINISTRATOR: "ck_" + "o" * 43}

RIGHTS = {
    USER: " ".join(f"~{beginning}* &{beginning}*" for beginning in BEGINNINGS) + " +@all -@admin",
    ADMINISTRATOR: "~* &* +@all",
}
"""A user with many prefixes, so that most tests need no other keys, and an administrator."""


def users_file(directory: str | Path, **rights: str) -> Path:
    """Make a users file. rights: of users besides those of `RIGHTS`; without a `default`, clients must log in."""
    file = Path(directory) / "users.acl"
    lines = [f"user {name} on {_secret(name)} {rules}\n" for name, rules in {**RIGHTS, **rights}.items()]
    file.touch(mode=0o600)
    file.write_text("".join(lines))
    return file


def _secret(name: str) -> str:
    return "nopass" if name == "default" else f"#{hashlib.sha256(SECRETS[name].encode()).hexdigest()}"


@functools.cache
def server_certificate() -> Path:
    """Return a directory with the certificate of an authority (ca.pem) and of 127.0.0.1 (node.pem, node.key)."""
    return certificates(Path(tempfile.mkdtemp(prefix="cairn-certificates-")), ("127.0.0.1",))


def authority() -> Path:
    """Return the certificate of the authority that clients trust."""
    return server_certificate() / "ca.pem"


def tls_options() -> dict[str, Any]:
    """Return the options of a server to which only clients with TLS can connect."""
    directory = server_certificate()
    return {"tls_cert": str(directory / "node.pem"), "tls_key": str(directory / "node.key"), "plain_text": "never"}


class Limited:
    """The methods of a user with prefixes. An administrator executes those on a database, or with other keys."""

    def __init__(self, store: Any, administrator: Any) -> None:
        self._store = store
        self._administrator = administrator

    def __getattr__(self, name: str) -> Any:
        if name in ("count", "clear_all", "random_key", "queues", "info", "durability", "local"):
            return getattr(self._administrator, name)

        def call(*arguments: Any, **options: Any) -> Any:
            first = arguments[0] if arguments else b""
            keys = [first] if isinstance(first, bytes | str) else list(first)
            limited = all(key[:1] in FIRST for key in keys)
            return getattr(self._store if limited else self._administrator, name)(*arguments, **options)

        return call

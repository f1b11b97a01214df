"""A node's credentials for NATS: a password, a token, an nkey, or a JWT and a seed; and errors about them.

Invariants: faults of files and addresses are found before a connection. No message contains a seed, a JWT or a
password. Files are read at each connection, so a JWT can be renewed while a node runs; another nkey needs a restart.

Out of scope: connecting (`connection`), and TLS certificates.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from cairnkv.errors import OptionError
from cairnkv.replication.nats.options import ClusterOptions

_JWT: Final = re.compile(rb"-BEGIN NATS USER JWT-+\n[\w.-]+\n")
_SEED: Final = re.compile(rb"-BEGIN USER NKEY SEED-+\nSU[A-Z2-7]{56}\n")
_BARE_SEED: Final = re.compile(rb"\s*SU[A-Z2-7]{56}\s*")

_REFUSALS: Final = ("authorization", "authentication expired", "authentication revoked")
"""Errors of a server that refuses a user. A timeout of the authentication is not one: the server may have been
paused."""


def is_refusal(text: str) -> bool:
    """Return whether a server's error is a permanent refusal of the user."""
    return any(sign in text.lower() for sign in _REFUSALS)


def advice(options: ClusterOptions, *, system: bool) -> str:
    """Return advice for a refused node."""
    file = options.creds
    if system:
        assert options.system is not None
        user, password = user_and_password(options.system)
        if password is not None:
            return f"check the user and password in --nats-system: user {user!r} must belong to the system account"
        file = options.system
    elif file is None:
        if _users(options):
            return "check the user and password, or the token, in --cluster"
        return "NATS requires credentials: use nats://USER:PASSWORD@HOST:4222 in --cluster, or --nats-creds FILE"
    option = "--nats-system" if system else "--nats-creds"
    return f"check that the user in {option} {file} exists in this account, and is not expired or revoked" + (
        "; it must belong to the system account" if system else ""
    )


def credentials(options: ClusterOptions, *, system: bool) -> dict[str, Any]:
    """Return the credentials as arguments of nats-py. system: of the system account. Raises `OptionError`."""
    if system:
        assert options.system is not None
        user, password = user_and_password(options.system)
        return _of_file(options.system, "--nats-system") if password is None else {"user": user, "password": password}
    users = _users(options)
    if len(users) > 1:
        raise OptionError("the addresses in --cluster have several users; use the same user for all servers")
    if users and options.creds is not None:
        raise OptionError("both --cluster and --nats-creds have a user: use one of them")
    if options.creds is not None:
        return _of_file(options.creds, "--nats-creds")
    for named in users:  # nats-py does not use a URL's user for servers that it discovers
        user, colon, secret = named.partition(":")
        return {"user": unquote(user), "password": unquote(secret)} if colon else {"token": unquote(user)}
    return {}


def _users(options: ClusterOptions) -> set[str]:
    """Return the users in the URLs."""
    return {urlsplit(url).netloc.rpartition("@")[0] for url in options.urls} - {""}


def user_and_password(system: str) -> tuple[str, str | None]:
    """Split USER:PASSWORD; the password is None if this is a file."""
    user, colon, password = system.partition(":")
    return (user, password) if colon and not _is_file(system) else (system, None)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # too long for a file's name; the error would show it
        return False


def _of_file(file: str, option: str) -> dict[str, Any]:
    try:
        text = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # no name in the message: it may be a password by mistake
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"cannot read the file of NATS credentials in {option}: {reason}") from error
    if b"\r" in text:
        raise OptionError(f"{file} has Windows line ends, which nats-py refuses: use Unix ones")
    if importlib.util.find_spec("nkeys") is None:
        raise OptionError("credentials in files need nkeys: pip install 'cairnkv[cluster]'")
    if _JWT.search(text) and _SEED.search(text):
        return {"user_credentials": file}
    if _BARE_SEED.fullmatch(text):
        return {"nkeys_seed": file}
    raise OptionError(
        f"{file} is not a file of NATS credentials. Such a file has a user's JWT and seed (`nsc generate creds`), or "
        "only the seed of a user's nkey (`nk -gen user`): 58 characters that begin with SU"
    )

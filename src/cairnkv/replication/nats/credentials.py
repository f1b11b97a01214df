"""Who a node is to NATS, and what is said when NATS does not know it: password, token, nkey, or JWT and seed.

What always holds: what is wrong with a file or an address is found before anybody is asked, and no message has anything
of a seed, a JWT or a password in it. Files are read again at each connection, so that a JWT can be renewed while a
node runs; another nkey takes a restart.

Not for how to connect (`connection`), nor for TLS, whose certificates are between NATS and the node besides.
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
"""What a server says to those that it does not let in. That an authentication took too long is another thing: it may
have been paused."""


def is_refusal(text: str) -> bool:
    """Whether a server's error says that it will not let us in, however often we ask."""
    return any(sign in text.lower() for sign in _REFUSALS)


def what_to_check(options: ClusterOptions, *, system: bool) -> str:
    """What is probably wrong when NATS does not let a node in."""
    file = options.creds
    if system:
        assert options.system is not None
        user, password = _user_and_password(options.system)
        if password is not None:
            return f"check the user and password in --nats-system, here user {user!r}; they are of the system account"
        file = options.system
    elif file is None:
        if _users(options):
            return "check the user and password, or the token, in --cluster"
        return "it wants to know who this is: nats://USER:PASSWORD@HOST:4222 in --cluster, or --nats-creds FILE"
    option = "--nats-system" if system else "--nats-creds"
    return f"check that NATS knows the user in {option} {file}, of this account and not expired or revoked" + (
        "; it has to be of the system account" if system else ""
    )


def credentials(options: ClusterOptions, *, system: bool) -> dict[str, Any]:
    """What nats-py is told of who connects. system: the user of the system account. Raises `OptionError`."""
    if system:
        assert options.system is not None
        user, password = _user_and_password(options.system)
        return _of_file(options.system, "--nats-system") if password is None else {"user": user, "password": password}
    users = _users(options)
    if len(users) > 1:
        raise OptionError("the addresses in --cluster name several users; one user has to be the same at all servers")
    if users and options.creds is not None:
        raise OptionError("there is a user in --cluster, and another in --nats-creds: name one of them")
    if options.creds is not None:
        return _of_file(options.creds, "--nats-creds")
    for named in users:  # nats-py would not say it to servers that it is told of by others
        user, colon, secret = named.partition(":")
        return {"user": unquote(user), "password": unquote(secret)} if colon else {"token": unquote(user)}
    return {}


def _users(options: ClusterOptions) -> set[str]:
    """What stands before the hosts."""
    return {urlsplit(url).netloc.rpartition("@")[0] for url in options.urls} - {""}


def _user_and_password(system: str) -> tuple[str, str | None]:
    """USER:PASSWORD; no password: it is a file."""
    user, colon, password = system.partition(":")
    return (user, password) if colon and not _is_file(system) else (system, None)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # too long for a file's name; what is raised would show it
        return False


def _of_file(file: str, option: str) -> dict[str, Any]:
    try:
        text = Path(file).read_bytes()
    except (OSError, ValueError) as error:  # its name is not said: it may be a seed or a password by mistake
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"the file of NATS credentials in {option} cannot be read: {reason}") from error
    if b"\r" in text:
        raise OptionError(f"{file} has the line ends of Windows, which NATS' client does not take: save it with others")
    if importlib.util.find_spec("nkeys") is None:
        raise OptionError("credentials in files need nkeys: pip install 'cairnkv[cluster]'")
    if _JWT.search(text) and _SEED.search(text):
        return {"user_credentials": file}
    if _BARE_SEED.fullmatch(text):
        return {"nkeys_seed": file}
    raise OptionError(
        f"{file} is not a file of NATS credentials. It has a user's JWT and seed, as `nsc generate creds` writes them, "
        "or only the seed of a user's nkey, as `nk -gen user` does: 58 characters that begin with SU"
    )

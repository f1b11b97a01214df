"""The beginning of a connection: TLS, and the first commands: AUTH, if the address has a user, and a PING.

A client sends both commands in one write, at the beginning of each connection, also after the loss of another one and
to another node. It sends AUTH at no other time.

Out of scope: the user and the secret (`credentials`), and sockets (`sync`, `aio.connection`).
"""

from typing import TYPE_CHECKING, Final

from cairnkv.client.address import Address
from cairnkv.client.credentials import CREDENTIALS_VARIABLE, Credentials
from cairnkv.client.retry import NO_ANSWER
from cairnkv.commands import Auth, Command, Failure, Fault, Ping, Reply, failures
from cairnkv.errors import LoginFailed, error_of

if TYPE_CHECKING:
    from cairnkv.client.tls import Tls

GREETING: Final = Ping(b"")

_OF_LOGIN: Final = (failures.WRONGPASS, failures.NOPERM, failures.NOAUTH, failures.NOCOMMAND, failures.BADARGS)
"""The codes of a refused AUTH. A server without users does not know the command."""


def greeting(credentials: Credentials | None) -> list[Command]:
    """Return the first commands of a connection."""
    return [GREETING] if credentials is None else [Auth(credentials.user, credentials.secret), GREETING]


def check_greeting(command: Command, reply: Reply, where: str, credentials: Credentials | None, *, tls: bool) -> None:
    """Check the reply to one of the first commands. tls: whether the connection has TLS.

    Raises `LoginFailed`, another error if the client must change something, or OSError if another attempt may succeed.
    """
    if not isinstance(reply, Failure):
        return
    code = reply.code
    if isinstance(command, Auth) and code in _OF_LOGIN:
        user = command.user.decode("utf-8", "backslashreplace")
        raise LoginFailed(f"{code.name} login as {user!r} at {where}: {reply.text}", code=code)
    if tls and code is failures.NOAUTH:  # the server closes the connection if a certificate names no user
        raise error_of(not_logged_in(reply, credentials), writes=False)
    if isinstance(command, Auth) or code.closes:
        raise error_of(reply, writes=False) if code.fault is Fault.CALLER else ConnectionRefusedError(reply.message)


def no_answer(credentials: Credentials | None) -> TimeoutError:
    """Return the error for a server that does not reply to the first commands in time."""
    return TimeoutError(
        NO_ANSWER if credentials is None else f"{NO_ANSWER} the login, or delays it after failed logins"
    )


def not_logged_in(failure: Failure, credentials: Credentials | None) -> Failure:
    """Return a failure NOAUTH with a hint for its reader if the address has no user; other failures unchanged.

    A failure about a certificate has no hint: the server refuses its client in any case.
    """
    if failure.code is not failures.NOAUTH or credentials is not None or "certificate" in failure.text:
        return failure
    hint = f"the address has no user: use cairn://USER:SECRET@HOST, or the variable {CREDENTIALS_VARIABLE}"
    return Failure(failure.code, f"{failure.text}; {hint}")


def tls_of(address: Address) -> "Tls | None":
    """Return the TLS of an address, if it has TLS. Raises `AddressError` if a file is unreadable or does not fit."""
    if address.tls is None:
        return None
    from cairnkv.client.tls import Tls  # a slow import

    return Tls(address.tls)

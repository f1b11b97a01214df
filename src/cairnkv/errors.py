"""The errors that cairnkv raises, by the side that must change something, and by whether a retry is useful.

    CairnError
    ├── CallerError        the call is wrong, also when it is repeated       (also a ValueError)
    │   ├── AddressError       an invalid address
    │   ├── CodecError         a key or value that the codec cannot encode or decode
    │   ├── OptionError        an unknown option, or an invalid value
    │   └── BadCommand         the server refused an invalid command; `code` is the reason
    ├── PeerError          the other side broke the protocol; the connection is closed
    │   ├── IncompleteFrame    the end of a frame is missing
    │   ├── UntrustedServer    the TLS certificate of the server is not valid for its address
    │   └── WrongServer        the server at the address has another protocol
    ├── Refused            the server did not execute the command; `code` is the reason, and `retry`
    │   │                  whether it may succeed later
    │   ├── AccessDenied       the user has no right for the command or a key     (code NOPERM)
    │   │   └── LoginFailed        the server requires a login (NOAUTH), or the user or the secret is wrong (WRONGPASS)
    │   └── LeaseLost          the lease of a job has ended, and another worker may have the message
    ├── Unavailable        no reply, and certainly no effect: safe to repeat (also a ConnectionError)
    │   └── TimedOut           the same after a timeout                       (also a TimeoutError)
    ├── OutcomeUnknown     a write without a reply, which the server may have executed
    └── InternalError      a bug in cairnkv; please report it

The attribute `fault` of a class is the side that must change something. The attribute `retry` of an instance is whether
the same call is safe to repeat and may succeed.
"""

from typing import ClassVar, Final

from cairnkv.commands.failures import NOAUTH, NOPERM, STALE, WRONGPASS, Code, Fault
from cairnkv.commands.replies import Failure


class CairnError(Exception):
    """The base class of the errors that cairnkv raises.

    fault: the side that must change something.
    retry: whether the same call is safe to repeat and may succeed.
    code: the failure code of the server's reply, or None.
    """

    fault: ClassVar[Fault]
    retry: bool = False

    def __init__(self, text: str, *, code: Code | None = None) -> None:
        super().__init__(text)
        self.code = code.name if code else None
        if code is not None:
            self.retry = code.passing


class CallerError(CairnError, ValueError):
    """The call is wrong, also when it is repeated."""

    fault = Fault.CALLER


class AddressError(CallerError):
    """An invalid address."""


class CodecError(CallerError):
    """A key or value that the codec cannot encode, or bytes that it cannot decode."""


class OptionError(CallerError):
    """An unknown option, or an invalid value of an option."""


class BadCommand(CallerError):
    """The server refused an invalid command, which changed nothing."""


class PeerError(CairnError):
    """The other side broke the protocol; the connection is closed."""

    fault = Fault.PEER


class IncompleteFrame(PeerError):
    """The end of a frame is missing."""


class UntrustedServer(PeerError):
    """The TLS certificate of the server is not valid for its address, or no trusted authority has signed it."""


class WrongServer(PeerError):
    """The server at the address has another protocol. A write that the client already sent raises `OutcomeUnknown`."""


class Refused(CairnError):
    """The server did not execute the command. `retry`: whether it may succeed later."""

    fault = Fault.SERVER


class AccessDenied(Refused):
    """The user as which the client is logged in has no right for the command, or for a key that it names."""

    fault = Fault.CALLER


class LoginFailed(AccessDenied):
    """The server requires a login, or refused the user, the secret or the certificate of the client."""


class LeaseLost(Refused):
    """The lease of a job has ended, or is not the newest one of its message: another worker may have the message."""


class Unavailable(CairnError, ConnectionError):
    """There was no reply, and certainly no effect."""

    fault = Fault.SERVER
    retry = True


class TimedOut(Unavailable, TimeoutError):
    """There was no reply in time, and certainly no effect."""


class OutcomeUnknown(CairnError):
    """A write without a reply: the server may have executed it, or not."""

    fault = Fault.SERVER


class InternalError(CairnError):
    """A bug in cairnkv; please report it."""

    fault = Fault.US


_BY_CODE: Final[dict[Code, type[CairnError]]] = {
    NOAUTH: LoginFailed,
    NOPERM: AccessDenied,
    STALE: LeaseLost,
    WRONGPASS: LoginFailed,
}
"""The classes of the errors that have one code or a few."""


def error_of(failure: Failure, *, writes: bool) -> CairnError:
    """Return the exception for a failure reply. writes: whether the command may change the store.

    >>> from cairnkv.commands import Failure, failures
    >>> error_of(Failure(failures.FULL, "no room"), writes=True)
    Refused('FULL no room')
    """
    code = failure.code
    if code.executed is None and writes:
        return OutcomeUnknown(failure.message, code=code)
    if code in _BY_CODE:
        return _BY_CODE[code](failure.message, code=code)
    by_fault: dict[Fault, type[CairnError]] = {
        Fault.CALLER: BadCommand,
        Fault.PEER: PeerError,
        Fault.SERVER: Refused,
        Fault.US: InternalError,
    }
    return by_fault[code.fault](failure.message, code=code)


_EXTRAS: Final = {
    "argon2": "auth",
    "greenlet": "lua",
    "lupa": "lua",
    "msgpack": "msgpack",
    "nats": "cluster",
    "nkeys": "cluster",
    "prompt_toolkit": "cli",
    "rich": "cli",
    "rocksdict": "durable",
}
"""The extra of cairnkv that installs each optional package."""


def missing_package(error: ImportError, what: str, extra: str | None = None) -> OptionError:
    """Return the error for a module that a feature needs and Python cannot import.

    The module is a third-party package, or a compiled module of cairnkv that does not fit this installation.
    extra: the extra that installs everything for the feature; None: the extra of the package.
    Raises the import error again if it concerns other modules of cairnkv, because that is a bug.
    """
    # The error of a file that Python cannot load has only the last part of the module's name, but the whole path.
    path = error.path or ""
    if path.startswith(__file__.removesuffix("errors.py")) and not path.endswith(".py"):
        return OptionError(
            f"{what}: the compiled modules of cairnkv do not fit this installation ({error}); install cairnkv again"
        )
    package = (error.name or "").partition(".")[0]
    if package in ("", "cairnkv"):
        raise error
    why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded: {error}"
    extra = extra or _EXTRAS.get(package)
    install = f"; pip install 'cairnkv[{extra}]'" if extra else ""
    return OptionError(f"{what} needs the package {package}, which {why}{install}")

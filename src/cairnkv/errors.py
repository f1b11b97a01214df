"""The errors that cairnkv raises, by who is at fault and whether trying again makes sense.

    CairnError
    ├── CallerError        the call was wrong; repeating it is pointless     (also a ValueError)
    │   ├── AddressError       an address that cannot be understood
    │   ├── CodecError         a key or value that the codec cannot turn into bytes or back
    │   ├── OptionError        an option that does not exist, or a value it cannot have
    │   └── BadCommand         the server refused the command as wrong: `code` says which way
    ├── PeerError          the other side broke the protocol; the connection is gone
    │   ├── IncompleteFrame    bytes that end before their frame does
    │   └── WrongServer        the address is that of a server of another protocol
    ├── Refused            the server did not execute the command: `code` and `retry` say why and whether
    │                      it may work later
    ├── Unavailable        no reply, and certainly no effect: safe to repeat (also a ConnectionError)
    │   └── TimedOut           likewise, since the time was up                (also a TimeoutError)
    ├── OutcomeUnknown     a write whose command may have left and whose reply never came
    └── InternalError      a fault of cairnkv itself; please report it

Each class says in `fault` who has to change something, and each instance in `retry` whether the same call,
repeated, is safe and may succeed.
"""

from typing import ClassVar, Final

from cairnkv.commands.failures import Code, Fault
from cairnkv.commands.replies import Failure


class CairnError(Exception):
    """The base of all errors that cairnkv raises on purpose.

    fault: who has to change something.
    retry: whether the same call is safe to repeat and may succeed.
    code: the failure code where a server sent one, else None.
    """

    fault: ClassVar[Fault]
    retry: bool = False

    def __init__(self, text: str, *, code: Code | None = None) -> None:
        super().__init__(text)
        self.code = code.name if code else None
        if code is not None:
            self.retry = code.passing


class CallerError(CairnError, ValueError):
    """The call was wrong; repeating it is pointless."""

    fault = Fault.CALLER


class AddressError(CallerError):
    """An address that cannot be understood."""


class CodecError(CallerError):
    """A key or value that the codec cannot turn into bytes, or bytes that it cannot turn back."""


class OptionError(CallerError):
    """An option that does not exist, or a value that it cannot have."""


class BadCommand(CallerError):
    """The server refused the command as wrong; it changed nothing."""


class PeerError(CairnError):
    """The other side broke the protocol; the connection is gone."""

    fault = Fault.PEER


class IncompleteFrame(PeerError):
    """Bytes that end before their frame does."""


class WrongServer(PeerError):
    """The server at the address has another protocol. A write that the client already sent raises `OutcomeUnknown`."""


class Refused(CairnError):
    """The server did not execute the command; `retry` says whether it may work later."""

    fault = Fault.SERVER


class Unavailable(CairnError, ConnectionError):
    """There was no reply, and certainly no effect."""

    fault = Fault.SERVER
    retry = True


class TimedOut(Unavailable, TimeoutError):
    """There was no reply in time, and certainly no effect."""


class OutcomeUnknown(CairnError):
    """A write whose command may have left and whose reply never came: it happened, or it did not."""

    fault = Fault.SERVER


class InternalError(CairnError):
    """A fault of cairnkv itself; please report it."""

    fault = Fault.US


def error_of(failure: Failure, *, writes: bool) -> CairnError:
    """The exception that stands for a failure reply to a command that writes, or only reads.

    >>> from cairnkv.commands import Failure, failures
    >>> error_of(Failure(failures.FULL, "no room"), writes=True)
    Refused('FULL no room')
    """
    code = failure.code
    if code.executed is None and writes:
        return OutcomeUnknown(failure.message, code=code)
    by_fault: dict[Fault, type[CairnError]] = {
        Fault.CALLER: BadCommand,
        Fault.PEER: PeerError,
        Fault.SERVER: Refused,
        Fault.US: InternalError,
    }
    return by_fault[code.fault](failure.message, code=code)


_EXTRAS: Final = {
    "msgpack": "msgpack",
    "nats": "cluster",
    "nkeys": "cluster",
    "prompt_toolkit": "cli",
    "rich": "cli",
    "rocksdict": "durable",
}
"""The extra of cairnkv that installs each optional package."""


def missing_package(error: ImportError, what: str, extra: str | None = None) -> OptionError:
    """Return the error for a third-party package that a feature needs and Python cannot import.

    extra: the extra that installs everything for the feature; None: the extra of the package.
    Raises the import error again if it concerns cairnkv itself, because that is a bug.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("", "cairnkv"):
        raise error
    why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be loaded: {error}"
    extra = extra or _EXTRAS.get(package)
    install = f"pip install 'cairnkv[{extra}]'" if extra else f"pip install {package}"
    return OptionError(f"{what} needs the package {package}, which {why}; {install}")

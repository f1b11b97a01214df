"""cairnkv: a key-value store that one person can read and a team can run.

    import cairnkv

    kv = cairnkv.open()                              # a store in this process
    kv = cairnkv.connect("cairn://127.0.0.1:6555")   # a store at a server, with the same methods
    kv["greeting"] = "hello"

`cairnkv.aio` has both for asyncio. `cairnkv.errors` has the errors, and whether a call is safe to repeat.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cairnkv.version import VERSION

if TYPE_CHECKING:
    from cairnkv import aio
    from cairnkv.client.embedded import Embedded
    from cairnkv.client.entry import connect
    from cairnkv.client.keyvalue import KeyValue
    from cairnkv.client.opening import open
    from cairnkv.client.pending import Pending
    from cairnkv.client.pipeline import Pipeline
    from cairnkv.client.queue.jobs import Job
    from cairnkv.client.queue.queues import Queue
    from cairnkv.client.queue.worker import Worker
    from cairnkv.client.sync import Client
    from cairnkv.client.together import Together
    from cairnkv.errors import (
        AccessDenied,
        AddressError,
        BadCommand,
        CairnError,
        CallerError,
        CodecError,
        IncompleteFrame,
        InternalError,
        LeaseLost,
        LoginFailed,
        OptionError,
        OutcomeUnknown,
        PeerError,
        Refused,
        TimedOut,
        Unavailable,
        UntrustedServer,
        WrongServer,
    )
    from cairnkv.installation import features

__version__ = VERSION

__all__ = [
    "AccessDenied",
    "AddressError",
    "BadCommand",
    "CairnError",
    "CallerError",
    "Client",
    "CodecError",
    "Embedded",
    "IncompleteFrame",
    "InternalError",
    "Job",
    "KeyValue",
    "LeaseLost",
    "LoginFailed",
    "OptionError",
    "OutcomeUnknown",
    "PeerError",
    "Pending",
    "Pipeline",
    "Queue",
    "Refused",
    "TimedOut",
    "Together",
    "Unavailable",
    "UntrustedServer",
    "Worker",
    "WrongServer",
    "__version__",
    "aio",
    "connect",
    "features",
    "open",
]

_MODULES = {
    "aio": "cairnkv.aio",
    "Client": "cairnkv.client.sync",
    "Embedded": "cairnkv.client.embedded",
    "Job": "cairnkv.client.queue.jobs",
    "KeyValue": "cairnkv.client.keyvalue",
    "Pending": "cairnkv.client.pending",
    "Pipeline": "cairnkv.client.pipeline",
    "Queue": "cairnkv.client.queue.queues",
    "Together": "cairnkv.client.together",
    "Worker": "cairnkv.client.queue.worker",
    "connect": "cairnkv.client.entry",
    "features": "cairnkv.installation",
    "open": "cairnkv.client.opening",
}
"""The modules of the public names; those of errors are in `cairnkv.errors`. Each name is imported at its first use, so
that `import cairnkv` is fast."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cairnkv' has no attribute {name!r}")
    module = importlib.import_module(_MODULES.get(name, "cairnkv.errors"))
    found = module if name == "aio" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return all names, also those that are not imported yet, for completion and `help`."""
    return sorted({*globals(), *__all__})

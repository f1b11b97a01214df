"""The commands of the Redis protocol: their declarations and handlers.

The handlers of `strings`, `bits`, `keys`, `expiry`, `queues` and `scan` call the store; the others act on the
conversation or the server, which executes the scripts of `scripts`. The import of this package declares all commands in
`cairnkv.session.resp.command_spec.RESP_COMMANDS`.
"""

from cairnkv.session.resp.commands import (  # noqa: F401
    acl,
    administration,
    bits,
    clients,
    command,
    config,
    connection,
    expiry,
    info,
    keys,
    pubsub,
    queues,
    scan,
    scripts,
    strings,
    transactions,
)

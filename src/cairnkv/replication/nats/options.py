"""The options of a node's connection to NATS. `server` reads them from the command line."""

from typing import Final
from urllib.parse import urlsplit

from cairnkv.errors import OptionError
from cairnkv.limits import MIB
from cairnkv.records import record
from cairnkv.replication.broken import QUEUE_BREAKS

BREAKS: Final = ("early-replies", "stale-reads", "unwatched-scripts", *QUEUE_BREAKS)
"""The faults that a node can inject: it acknowledges a write before the log has it, serves a stale read as a
linearizable one, proposes the writes of a script without watching its keys, or has faults on queues."""

LOG_LIMIT: Final = 4_096 * MIB
"""Default maximum bytes of the stream."""

LOG_LIMIT_LEAST: Final = 64 * MIB
"""Minimum of that option: some of the largest commands."""


@record
class ClusterOptions:
    """The options for NATS.

    urls: of its servers, nats://[USER:PASSWORD@]HOST:PORT or tls://... name: of the cluster, and part of its stream's.
    creds: a file with a NATS user's JWT and seed, or with only an nkey's seed. ca, cert, key: PEM files, for TLS.
    system: USER:PASSWORD or a file of credentials of NATS' system account, which can check the fsync option; None: no
    check is possible. trust_sync: whether to serve without a check.
    limit: maximum bytes of the stream.
    """

    urls: tuple[str, ...]
    name: str = "cairn"
    creds: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    system: str | None = None
    trust_sync: bool = False
    limit: int = LOG_LIMIT


def parsed_urls(text: str) -> tuple[str, ...]:
    """Parse a list of addresses, separated by commas. Raises `ValueError`.

    >>> parsed_urls("nats://a:4222, nats://b:4222")
    ('nats://a:4222', 'nats://b:4222')
    """
    urls = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, url in enumerate(urls, 1):
        try:
            parts = urlsplit(url)
            well = parts.scheme in ("nats", "tls") and bool(parts.hostname) and parts.path in ("", "/")
            well = well and (parts.port is None or parts.port > 0)
        except ValueError:
            well = False
        if not well:
            text = "addresses such as nats://HOST:4222 or nats://USER:PASSWORD@HOST:4222, separated by commas"
            raise ValueError(f"{text}; address {number} is invalid (in a password, write a comma as %2C)")
    if not urls:
        raise ValueError("at least one address such as nats://HOST:4222")
    return urls


def without_user(url: str) -> str:
    """Return an address without user and password.

    >>> without_user("nats://cairn:s3cr@t@a:4222")
    'nats://a:4222'
    """
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"


def parsed_name(text: str) -> str:
    """Parse a cluster's name, which is a part of names in NATS. Raises `ValueError`.

    >>> parsed_name("prod-1")
    'prod-1'
    """
    if not 1 <= len(text) <= 64 or not all(
        character.isascii() and (character.isalnum() or character in "-_") for character in text
    ):
        raise ValueError(f"1 to 64 letters, digits, - and _, not {text!r}")
    return text


def cluster_wants_data() -> OptionError:
    """Return the error for a node without a directory."""
    return OptionError("a cluster node needs a directory for its storage: --data DIR")

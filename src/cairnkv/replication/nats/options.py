"""How a node finds its NATS, and what it insists on there. Where options come from is the server's affair."""

from typing import Final
from urllib.parse import urlsplit

from cairnkv.errors import OptionError
from cairnkv.limits import MIB
from cairnkv.records import record

BREAKS: Final = ("early-replies", "stale-reads")
"""The faults that a node can inject: it acknowledges a write before the log has it, or serves a stale read as a
linearizable one."""

LOG_LIMIT: Final = 4_096 * MIB
"""Bytes that the stream may have, by default."""

LOG_LIMIT_LEAST: Final = 64 * MIB
"""The least that it can be set to: some of the largest commands."""


@record
class ClusterOptions:
    """What a node is told about its NATS.

    urls: of its servers, nats://[USER:PASSWORD@]HOST:PORT or tls://... name: of the cluster, and so of its stream.
    creds: a file with a NATS user's JWT and seed, or with an nkey's seed alone. ca, cert, key: PEM files, for TLS.
    system: how to say to NATS that one is of its system account, which may see how it syncs: USER:PASSWORD, or a file
    of credentials; None: nobody can look. trust_sync: whether to serve even so.
    limit: bytes of the stream.
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
    """The addresses in a list with commas. Raises `ValueError`.

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
            text = "addresses like nats://HOST:4222 or nats://USER:PASSWORD@HOST:4222, with commas between"
            raise ValueError(f"{text}, and number {number} is none (within a password a comma is %2C)")
    if not urls:
        raise ValueError("at least one address like nats://HOST:4222")
    return urls


def without_user(url: str) -> str:
    """An address as anybody may see it.

    >>> without_user("nats://cairn:s3cr@t@a:4222")
    'nats://a:4222'
    """
    scheme, colon, rest = url.partition("://")
    return f"{scheme}{colon}{rest.rpartition('@')[2]}"


def parsed_name(text: str) -> str:
    """A cluster's name, which is a part of subjects and streams. Raises `ValueError`.

    >>> parsed_name("prod-1")
    'prod-1'
    """
    if not 1 <= len(text) <= 64 or not all(
        character.isascii() and (character.isalnum() or character in "-_") for character in text
    ):
        raise ValueError(f"1 to 64 letters, digits, - and _, not {text!r}")
    return text


def cluster_wants_data() -> OptionError:
    """Said where a node has no directory."""
    return OptionError("a node of a cluster keeps its table in a directory: --data DIR")

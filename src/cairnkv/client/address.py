"""Addresses: where a store is, in one string.

    cairn://HOST[:PORT][,HOST[:PORT]...][/?OPTION=VALUE&...]     TCP; the port is 6555; [::1] in brackets
    cairn+unix:///PATH[?OPTION=VALUE&...]                        a Unix socket

Options: `timeout` and `connect_timeout` in seconds, `attempts`. Keywords of `connect` win over them. An option
that does not exist is an error. `cairns://` (TLS) and user:password@ are kept for later, and refused until then.
"""

import os
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from cairnkv.errors import AddressError
from cairnkv.limits import CLIENT_ATTEMPTS, CLIENT_TIMEOUT, CONNECT_TIMEOUT, DEFAULT_URL, PORT
from cairnkv.records import record

Endpoint: TypeAlias = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""

_HOST: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[^\s:,/\[\]@?#]+))(?::(?P<port>\d{1,5}))?"
)


@record
class Address:
    """Where a store is, and how patient its client is.

    endpoints: tried in turn.
    timeout: seconds that a call may take, repetitions included.
    connect_timeout: seconds that one endpoint may take to accept.
    attempts: how often a call that is safe to repeat is tried.
    """

    endpoints: tuple[Endpoint, ...]
    timeout: float = CLIENT_TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    attempts: int = CLIENT_ATTEMPTS

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout"):
            if not 0 < getattr(self, name) <= 86_400:
                raise AddressError(f"{name} is a number of seconds above 0 and up to a day, not {getattr(self, name)}")
        if not 1 <= self.attempts <= 100:
            raise AddressError(f"attempts is a number from 1 to 100, not {self.attempts}")

    def __str__(self) -> str:
        return ",".join(shown(endpoint) for endpoint in self.endpoints)


def shown(endpoint: Endpoint) -> str:
    """An endpoint as people write it.

    >>> shown(("::1", 6555))
    '[::1]:6555'
    """
    if isinstance(endpoint, str):
        return endpoint
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str | None = None, **keywords: float | None) -> Address:
    """The address that a URL and keywords name; None takes CAIRNKV_URL, else the default.

    >>> parse("cairn://a,b:7000/?timeout=2").endpoints
    (('a', 6555), ('b', 7000))
    """
    url = url or os.environ.get("CAIRNKV_URL") or DEFAULT_URL
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise AddressError(f"an address begins with cairn:// or cairn+unix://, not {url!r}; try cairn://{url}")
    rest, _, query = rest.partition("?")
    if scheme == "cairn":
        endpoints = _hosts(rest, url)
    elif scheme == "cairn+unix":
        if not rest.startswith("/") or rest == "/":
            raise AddressError(f"a Unix socket's address has three slashes, cairn+unix:///run/cairn.sock; not {url!r}")
        endpoints = (_socket(rest),)
    elif scheme == "cairns":
        raise AddressError("cairns:// is kept for TLS, which this version does not have; use cairn://")
    else:
        raise AddressError(f"an address begins with cairn:// or cairn+unix://, not {scheme}://")
    options = {**_options(query), **{name: value for name, value in keywords.items() if value is not None}}
    return Address(
        endpoints,
        timeout=options.get("timeout", CLIENT_TIMEOUT),
        connect_timeout=options.get("connect_timeout", CONNECT_TIMEOUT),
        attempts=int(options.get("attempts", CLIENT_ATTEMPTS)),
    )


def _socket(rest: str) -> str:
    """The path of a Unix socket. Only such an address needs these modules."""
    from pathlib import Path
    from urllib.parse import unquote

    return str(Path(unquote(rest)))


def _hosts(rest: str, url: str) -> tuple[Endpoint, ...]:
    hosts, slash, path = rest.partition("/")
    if path:
        raise AddressError(f"an address has no path: {slash + path!r} in {url!r}")
    if "@" in hosts:
        raise AddressError("an address with user and password is kept for later; this version has no authentication")
    endpoints: list[Endpoint] = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        port = int(match["port"] or PORT) if match else 0
        if match is None or not 1 <= port <= 65_535:
            raise AddressError(f"{text!r} is no HOST or HOST:PORT, in {url!r}")
        endpoints.append((match["v6"] or match["name"], port))
    return tuple(endpoints)


_NUMBERS: Final[Mapping[str, type[int] | type[float]]] = {"timeout": float, "connect_timeout": float, "attempts": int}


def _options(query: str) -> dict[str, float]:
    options: dict[str, float] = {}
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        if name not in _NUMBERS:
            raise AddressError(f"an address has the options {', '.join(_NUMBERS)}; there is no {name!r}")
        try:
            options[name] = _NUMBERS[name](text)
        except ValueError:
            raise AddressError(f"the option {name} is a number, not {text!r}") from None
    return options

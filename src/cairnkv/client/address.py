"""Parses the address of a store.

    cairn://HOST[:PORT][,HOST[:PORT]...][/?OPTION=VALUE&...]     TCP; the port is 6555; [::1] in brackets
    cairn+unix:///PATH[?OPTION=VALUE&...]                        a Unix socket

Several hosts are nodes of one cluster; a client uses one at a time (`endpoints`). Options: `timeout` and
`connect_timeout`, durations such as 2, 2s or 500ms; `attempts`; `order` of the hosts: `random` (default: each client
shuffles them, so that clients spread over the nodes) or `given`. Keywords of `connect` override these options. Unknown
options, and repeated options or hosts, are errors. `cairns://` (TLS) and user:password@ are reserved, and errors.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypedDict

from cairnkv.errors import AddressError
from cairnkv.limits import CLIENT_ATTEMPTS, CLIENT_TIMEOUT, CONNECT_TIMEOUT, DEFAULT_URL, PORT, UNIX_PATH_MAX
from cairnkv.records import record
from cairnkv.units import duration

Seconds: TypeAlias = float | timedelta | str
"""A duration: seconds, a timedelta, or text such as "5s", "500ms" or "1h"."""


class ConnectOptions(TypedDict, total=False):
    """The options of `connect` besides its codec."""

    timeout: Seconds | None
    connect_timeout: Seconds | None
    attempts: int | None


Endpoint: TypeAlias = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""

ENDPOINTS_MAX: Final = 64
"""Maximum number of hosts in one address. A cluster has three or five nodes; a name can stand for more computers."""

URL_VARIABLE: Final = "CAIRNKV_URL"
MISSPELT_URL_VARIABLE: Final = "CAIRNKV__URL"
"""The name of the variable of clients with the prefix of the server's options. It is an error if it names the store."""

ORDERS: Final = ("random", "given")
"""The orders in which a client can try the hosts of an address."""

_HOST: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<name>[^\s\0:,;/\[\]@?#]+))(?::(?P<port>[0-9]{1,5}))?"
)


@record
class Address:
    """The address of a store, with the timeouts of its client.

    endpoints: the nodes of one cluster, or a single server.
    timeout: maximum seconds of a call with its repetitions.
    connect_timeout: maximum seconds until one endpoint accepts; with several endpoints, until it answers a PING.
    attempts: how often the client tries a call that is safe to repeat. Each further endpoint adds one.
    order: the order of several endpoints, "random" or "given".
    """

    endpoints: tuple[Endpoint, ...]
    timeout: float = CLIENT_TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    attempts: int = CLIENT_ATTEMPTS
    order: str = "random"

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout"):
            if not 0 < getattr(self, name) <= 86_400:
                raise AddressError(f"{name} is a number of seconds above 0 and up to a day, not {getattr(self, name)}")
        attempts: object = self.attempts  # the caller may pass any type
        if not isinstance(attempts, int) or isinstance(attempts, bool) or not 1 <= attempts <= 100:
            raise AddressError(f"attempts is a whole number from 1 to 100, not {attempts!r:.40}")
        if self.order not in ORDERS:
            raise AddressError(f"order is {' or '.join(ORDERS)}, not {self.order!r}")
        if len(self.endpoints) > ENDPOINTS_MAX:
            raise AddressError(f"an address names up to {ENDPOINTS_MAX} hosts, not {len(self.endpoints):,}")
        names = [shown(endpoint).lower() for endpoint in self.endpoints]
        if twice := {name for name in names if names.count(name) > 1}:
            raise AddressError(f"an address names each host once; it has {', '.join(sorted(twice))} several times")

    def __str__(self) -> str:
        return ",".join(shown(endpoint) for endpoint in self.endpoints)


def shown(endpoint: Endpoint) -> str:
    """Return an endpoint as text.

    >>> shown(("::1", 6555))
    '[::1]:6555'
    """
    if isinstance(endpoint, str):
        return endpoint
    host, port = endpoint
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str | None = None, **keywords: Seconds | None) -> Address:
    """Return the address of a URL and keywords. None: the URL in CAIRNKV_URL, else the default.

    >>> parse("cairn://a,b:7000/?timeout=2").endpoints
    (('a', 6555), ('b', 7000))
    """
    if url or not (given := url_of_environment()):
        return _parsed(url or DEFAULT_URL, keywords)
    try:
        return _parsed(given, keywords)
    except AddressError as error:
        raise AddressError(f"the variable {URL_VARIABLE}: {error}") from None


def url_of_environment() -> str | None:
    """Return the address in the variable of clients, or None. Raises `AddressError` if its name is misspelt."""
    if url := os.environ.get(URL_VARIABLE):
        return url
    if os.environ.get(MISSPELT_URL_VARIABLE):
        raise AddressError(
            f"the variable {MISSPELT_URL_VARIABLE} is set: the variable of clients is {URL_VARIABLE}, "
            "with one underscore"
        )
    return None


def _parsed(url: str, keywords: Mapping[str, Seconds | None]) -> Address:
    if not isinstance(url, str):
        raise AddressError(f"an address is text such as {DEFAULT_URL}, not {url!r:.80}")
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
        raise AddressError("cairns:// is reserved for TLS, which this version does not support; use cairn://")
    else:
        raise AddressError(f"an address begins with cairn:// or cairn+unix://, not {scheme}://")
    options = {**_options(query), **{name: value for name, value in keywords.items() if value is not None}}
    for name in options.keys() & {"timeout", "connect_timeout"}:
        options[name] = _duration(name, options[name])
    return Address(endpoints, **options)


def _socket(rest: str) -> str:
    """Return the path of a Unix socket."""
    # Slow imports, which only such an address needs.
    from pathlib import Path
    from urllib.parse import unquote_to_bytes

    path = os.fsdecode(unquote_to_bytes(os.fsencode(rest)))
    if "\0" in path:  # the system would take the path up to it
        raise AddressError(f"a Unix socket's address has a path without null characters, not {path!r}")
    path = str(Path(path))
    if (length := len(os.fsencode(path))) > UNIX_PATH_MAX:
        raise AddressError(
            f"a Unix socket's path has at most {UNIX_PATH_MAX} bytes, and this one has {length:,}: {path!r}"
        )
    return path


def _hosts(rest: str, url: str) -> tuple[Endpoint, ...]:
    if "@" in rest:
        raise AddressError("an address with user and password is reserved; this version has no authentication")
    if "://" in rest:
        raise AddressError(f"several hosts are one address, cairn://HOST,HOST, without a second ://; not {url!r}")
    hosts, slash, path = rest.partition("/")
    if path:
        raise AddressError(f"an address has no path: {slash + path!r} in {url!r}")
    endpoints: list[Endpoint] = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        port = int(match["port"] or PORT) if match else 0
        if match is None or not 1 <= port <= 65_535:
            raise AddressError(f"{text!r} is no HOST or HOST:PORT, in {url!r}{_hint(text, hosts)}")
        endpoints.append((match["v6"] or match["name"], port))
    return tuple(endpoints)


def _hint(text: str, hosts: str) -> str:
    if text != text.strip():
        return "; between hosts is a comma without blanks"
    if text.count(":") > 1:
        return f"; an IPv6 address is in brackets, [{text}]"
    return "; hosts have one comma between them" if not text and hosts else ""


_OPTIONS: Final = ("timeout", "connect_timeout", "attempts", "order")


def _duration(name: str, given: Seconds) -> float:
    try:
        return duration(given)
    except ValueError as error:
        raise AddressError(f"{name} is {error}") from None


def _options(query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        if name not in _OPTIONS:
            raise AddressError(f"an address has the options {', '.join(_OPTIONS)}; there is no {name!r}")
        if name in options:
            raise AddressError(f"an address has each option once; it has {name} several times")
        if name == "attempts" and not re.fullmatch(r"-?[0-9]{1,12}", text):  # int() takes digits of all scripts
            raise AddressError(f"the option {name} is a whole number, not {text!r}")
        options[name] = int(text) if name == "attempts" else text
    return options

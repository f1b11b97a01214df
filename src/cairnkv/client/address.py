"""Parses the address of a store.

    cairn://[USER:SECRET@]HOST[:PORT][,HOST[:PORT]...][/?OPTION=VALUE&...]  TCP; the port is 6555; [::1] in brackets
    cairns://...                                                            the same with TLS
    cairn+unix://[USER:SECRET@]/PATH[?OPTION=VALUE&...]                     a Unix socket

Several hosts are nodes of one cluster; a client uses one at a time (`endpoints`). Options: `timeout` and
`connect_timeout`, durations such as 2, 2s or 500ms; `attempts`; `order` of the hosts: `random` (default: each client
shuffles them, so that clients spread over the nodes) or `given`; with TLS, the files `ca`, `cert` and `key`. Keywords
of `connect` override these options. Unknown options, and repeated options or hosts, are errors.

A user, a secret and the path of a file are percent-encoded. An address without a user has the credentials in the file
that CAIRNKV__CREDENTIALS names, if any.

Invariants: no error shows a secret, also if the address is malformed.
"""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypedDict

from cairnkv.client.credentials import CREDENTIALS_VARIABLE, Credentials, credentials_again, credentials_in
from cairnkv.errors import AddressError, OptionError
from cairnkv.limits import (
    CLIENT_ATTEMPTS,
    CLIENT_TIMEOUT,
    CONNECT_TIMEOUT,
    DEFAULT_URL,
    DEFAULT_USER,
    PORT,
    UNIX_PATH_MAX,
)
from cairnkv.records import record, replace
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

_IPV6: Final = re.compile(r"[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*")


@record
class TlsFiles:
    """The files that a client uses for TLS.

    ca: certificates of trusted authorities; None: those of the system. cert: the client's certificate and its chain.
    key: the private key of `cert`; None: it is in the same file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise AddressError("the option key needs the option cert: a key belongs to a certificate")


@record
class Address:
    """The address of a store, with the timeouts of its client.

    endpoints: the nodes of one cluster, or a single server.
    timeout: maximum seconds of a call with its repetitions.
    connect_timeout: maximum seconds until one endpoint accepts; with several endpoints, until it answers a PING.
    attempts: how often the client tries a call that is safe to repeat. Each further endpoint adds one.
    order: the order of several endpoints, "random" or "given".
    credentials: the user and the secret of the login; None: the client does not log in.
    credentials_file: the file that they come from; None: they come from the address.
    tls: the files for TLS; None: the connections have no TLS.
    """

    endpoints: tuple[Endpoint, ...]
    timeout: float = CLIENT_TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    attempts: int = CLIENT_ATTEMPTS
    order: str = "random"
    credentials: Credentials | None = None
    credentials_file: str | None = None
    tls: TlsFiles | None = None

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

    @property
    def logs_in(self) -> bool:
        """Whether each connection logs in: with AUTH, or with a certificate."""
        return self.credentials is not None or (self.tls is not None and self.tls.cert is not None)

    def present_credentials(self) -> Credentials | None:
        """Return the credentials for a new connection: those that a file has now, if they come from a valid file."""
        if self.credentials_file is None:
            return self.credentials
        return credentials_again(self.credentials_file, self.credentials)

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
    address = _parsed_or_default(url, keywords)
    if address.credentials is not None or not (file := os.environ.get(CREDENTIALS_VARIABLE)):
        return address
    try:
        return replace(address, credentials=credentials_in(file), credentials_file=file)
    except AddressError as error:
        raise AddressError(f"the variable {CREDENTIALS_VARIABLE}: {error}") from None


def _parsed_or_default(url: str | None, keywords: Mapping[str, Seconds | None]) -> Address:
    if url or not (given := url_of_environment()):
        return _parsed(url or DEFAULT_URL, keywords)
    try:
        return _parsed(given, keywords)
    except AddressError as error:
        raise AddressError(f"the variable {URL_VARIABLE}: {error}") from None


_LOGIN: Final = re.compile(r"://(?!USER:SECRET@)(?:([^:@/?#\s]*):)?\S*@")  # the placeholder of hints stays


def without_secrets(text: str) -> str:
    """Return a text in which the URLs have no secrets.

    >>> without_secrets("cannot reach cairn://app:s3cret@db1")
    'cannot reach cairn://app:***@db1'
    """
    return _LOGIN.sub(lambda match: "://***@" if match[1] is None else f"://{match[1]}:***@", text)


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


SCHEMES: Final = "cairn://, cairns:// or cairn+unix://"


def _parsed(url: str, keywords: Mapping[str, Seconds | None]) -> Address:
    if not isinstance(url, str):
        raise AddressError(f"an address is text such as {DEFAULT_URL}, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator:
        shown_url = _without_login(url)
        raise AddressError(f"an address begins with {SCHEMES}, not {shown_url!r}; try cairn://{shown_url}")
    login, rest = _split(scheme, rest)
    rest, _, query = rest.partition("?")
    tls = scheme == "cairns"
    if scheme in ("cairn", "cairns"):
        endpoints = _hosts(rest, scheme)
    elif scheme == "cairn+unix":
        if not rest.startswith("/") or rest == "/":
            raise AddressError(
                f"a Unix socket's address has three slashes, cairn+unix:///run/cairn.sock; not {_without_login(rest)!r}"
            )
        endpoints = (_socket(rest),)
    else:
        raise AddressError(f"an address begins with {SCHEMES}, not {_without_login(scheme)}://")
    options = {**_options(query, tls=tls), **{name: value for name, value in keywords.items() if value is not None}}
    for name in options.keys() & {"timeout", "connect_timeout"}:
        options[name] = _duration(name, options[name])
    files = {name: options.pop(name) for name in _FILES if name in options}
    return Address(
        endpoints,
        **options,
        credentials=None if login is None else _credentials(login),
        tls=TlsFiles(**files) if tls else None,
    )


_RAW: Final = "write @ as %40, / as %2F, ? as %3F, # as %23, a comma as %2C and % as %25"


def _split(scheme: str, rest: str) -> tuple[str | None, str]:
    """Return the user with the secret, or None, and the rest of an address behind its scheme."""
    end = re.search(r"[/?#]", rest)
    authority, tail = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    login, at, place = authority.rpartition("@")
    if "@" in login or "," in login or ("@" in tail and not (scheme == "cairn+unix" and not place)):
        raise AddressError(
            "an address has one @: USER:SECRET@ before its first host applies to all hosts; in other places, and in "
            f"user and secret, {_RAW}"
        )
    return login if at else None, place + tail


def _credentials(login: str) -> Credentials:
    from urllib.parse import unquote_to_bytes  # a slow import that only such an address needs

    user, colon, secret = login.partition(":")
    if not colon:
        raise AddressError("a user has a secret: USER:SECRET@ before the first host")
    if re.search("%(?![0-9A-Fa-f]{2})", login):
        raise AddressError(f"in user and secret, {_RAW}")
    try:
        return Credentials(unquote_to_bytes(os.fsencode(user)) or DEFAULT_USER, unquote_to_bytes(os.fsencode(secret)))
    except UnicodeEncodeError:
        raise AddressError("user or secret has characters without a UTF-8 encoding") from None


def _without_login(text: str) -> str:
    """Return a malformed address or a part of it for an error, without anything that may be a secret."""
    _, at, hosts = text.rpartition("@")
    return ("***@" if at else "") + ",".join(map(_shown_host, hosts.split(",")))


def _shown_host(text: str) -> str:
    """Return a malformed host for an error: without the text behind its colon, unless it is a port or an IPv6 address.

    A user may have forgotten the host behind user:secret.
    """
    if ":" not in text or _HOST.fullmatch(text) or _IPV6.fullmatch(text):
        return text
    return f"{text.partition(':')[0]}:***"


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


def _hosts(rest: str, scheme: str) -> tuple[Endpoint, ...]:
    if "://" in rest:
        raise AddressError(f"several hosts are one address, {scheme}://HOST,HOST, without a second ://")
    hosts, slash, path = rest.partition("/")
    endpoints: list[Endpoint] = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        port = int(match["port"] or PORT) if match else 0
        if match is None or not 1 <= port <= 65_535:
            raise AddressError(f"{_shown_host(text)!r} is no HOST or HOST:PORT{_hint(text, hosts)}")
        endpoints.append((match["v6"] or match["name"], port))
    if path:
        raise AddressError(f"an address has no path: {slash + path!r}")
    return tuple(endpoints)


def _hint(text: str, hosts: str) -> str:
    if text != text.strip():
        return "; between hosts is a comma without blanks"
    if _IPV6.fullmatch(text):
        return f"; an IPv6 address is in brackets, [{text}]"
    return "; hosts have one comma between them" if not text and hosts else ""


_OPTIONS: Final = ("timeout", "connect_timeout", "attempts", "order")
_FILES: Final = ("ca", "cert", "key")
"""The options of cairns:// that other addresses do not have."""


def _duration(name: str, given: Seconds) -> float:
    try:
        return duration(given)
    except ValueError as error:
        raise AddressError(f"{name} is {error}") from None


def _options(query: str, *, tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    known = (*_OPTIONS, *_FILES) if tls else _OPTIONS
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        if name in _FILES and not tls:
            raise AddressError(f"the option {name} is for TLS: the address begins with cairns://")
        if name not in known:
            raise AddressError(f"an address has the options {', '.join(known)}; there is no {name!r}")
        if name in options:
            raise AddressError(f"an address has each option once; it has {name} several times")
        if name == "attempts" and not re.fullmatch(r"-?[0-9]{1,12}", text):  # int() takes digits of all scripts
            raise AddressError(f"the option {name} is a whole number, not {text!r}")
        options[name] = int(text) if name == "attempts" else _path(name, text) if name in _FILES else text
    return options


def _path(name: str, text: str) -> str:
    """Return the path of a file, with `~` expanded."""
    # Slow imports, which only such an address needs.
    from urllib.parse import unquote_to_bytes

    from cairnkv.paths import path_text

    try:
        return path_text(os.fsdecode(unquote_to_bytes(os.fsencode(text))))
    except OptionError as error:
        raise AddressError(f"the option {name} has to be {error}") from None

"""The options of the server: one list for the command line, the environment and the file.

A flag overrides the environment, the environment overrides the file, and the file overrides the default. An option
`max_value` is the flag `--max-value`, the variable `CAIRNKV__MAX_VALUE` and the key `max-value` of the TOML file. An
unknown option is an error in all three. Variables with one underscore after CAIRNKV belong to other programs.

Out of scope: the options of clients, which are in their address (`cairnkv.client.address`).
"""

import dataclasses
import difflib
import enum
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cairnkv import limits
from cairnkv.errors import OptionError
from cairnkv.paths import is_within, os_error_text, path_text, user_path
from cairnkv.protocol.native import StatusByte
from cairnkv.replication.nats.options import (
    BREAKS,
    LOG_LIMIT,
    LOG_LIMIT_LEAST,
    cluster_wants_data,
    parsed_name,
    parsed_urls,
)
from cairnkv.storage.space import LIMIT_LEAST as DISK_LIMIT_LEAST
from cairnkv.storage.writer import Sync
from cairnkv.store import WhenFull
from cairnkv.units import seconds, size, switch

ENVIRONMENT_PREFIX: Final = "CAIRNKV__"
"""The prefix of options. Kubernetes and Docker set variables with one underscore for a service named cairnkv."""

CONFIG_VARIABLE: Final = "CAIRNKV__CONFIG"
BREAK_VARIABLE: Final = "CAIRNKV__BREAK"
"""The variable that injects faults into a node, for tests. Its value is a comma-separated list of names."""

NOT_OPTIONS: Final = frozenset({CONFIG_VARIABLE, "CAIRNKV__PURE", BREAK_VARIABLE, "CAIRNKV__CREDENTIALS"})
"""Variables with the prefix that are not options of the server. The last one is of clients."""

IGNORED_SHOWN: Final = 5
"""The maximum number of ignored variables that the warning names."""

PASSWORD_LINE_MAX: Final = 4_096
"""Maximum bytes of the line with the password in a file."""

# -- kinds of values: text to value --------------------------------------------------------------------


def number(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a parser of integers in a range."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text.strip()) or not lowest <= int(text) <= highest:
            raise ValueError(f"a number from {lowest:,} to {highest:,}, not {text!r}")
        return int(text)

    return parse


def host_name(text: str) -> str:
    """Parse a name or an IP address. Brackets around an IPv6 address, as in a URL, are removed."""
    host = text.strip()
    if not host:
        raise ValueError(f"an address or a name of this computer, not {text!r}; for all addresses: 0.0.0.0 or ::")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"an IPv6 address if it is in brackets, not {text!r}")
    if ":" in host and _ip(host) is None:
        raise ValueError(f"an address or a name, not {text!r}; the port is the option port")
    if "\0" in host or "[" in host or "]" in host:
        raise ValueError(f"an address or a name, not {text!r}")
    return host


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def choice(kinds: type[enum.Enum]) -> Callable[[str], Any]:
    """Return a parser of an enum's names in lower case."""
    names = {str(member.name).lower(): member for member in kinds}

    def parse(text: str) -> Any:
        if text not in names:
            raise ValueError(f"{' or '.join(names)}, not {text!r}")
        return names[text]

    return parse


def command_width(text: str) -> int | None:
    """Parse `auto`, 2 or 4."""
    widths = {"auto": None, "2": 2, "4": 4}
    if text not in widths:
        raise ValueError(f"auto, 2 or 4, not {text!r}")
    return widths[text]


def password(text: str) -> str:
    """Parse a password, which is not empty."""
    if not text:
        raise ValueError("a password of at least one character")
    return text


def audit_file(text: str) -> str:
    """Parse the path of a file, or `-`."""
    return text if text == "-" else path_text(text)


def nats_user(text: str) -> str:
    """Parse USER:PASSWORD, or the path of a file."""
    return text if ":" in text else path_text(text)


class PlainText(enum.Enum):
    """Which clients of a server with TLS may speak plain text."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class UserFrom(enum.Enum):
    """The part of a client's certificate that names its user."""

    CN = "cn"
    URI = "uri"


class LogLevel(enum.Enum):
    """The lowest level of log messages that the server writes."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


# -- the list ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """The properties of an option besides its name, its type and its default. metavar: empty for a switch."""

    parse: Callable[[str], Any]
    help: str
    shown: str
    metavar: str


_OPTION: Final = "cairnkv option"

NO_VALUE: Final = "none"
"""The text of an option without a value."""


def as_text(value: object) -> str:
    """Return the text of a setting's value, as for its option."""
    if value is None:
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _option(
    parse: Callable[[str], Any], default: Any, metavar: str, help: str, *, shown: str = "", secret: bool = False
) -> Any:
    known = Option(parse, help, shown or as_text(default), metavar)
    return dataclasses.field(default=default, repr=not secret, metadata={_OPTION: known})


def _size(default: int | None, help: str) -> Any:
    return _option(size, default, "SIZE", help, shown="" if default is None else f"{default // limits.MIB}MiB")


def _seconds(default: float, help: str) -> Any:
    return _option(seconds, default, "TIME", help, shown=f"{default:g}s")


def _switch(help: str) -> Any:
    return _option(switch, False, "", help)


def _path(metavar: str, help: str) -> Any:
    return _option(path_text, None, metavar, help)


def _choice(default: enum.Enum, help: str) -> Any:
    return _option(choice(type(default)), default, "NAME", help)


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a server. The fields, in this order, are the options."""

    host: str = _option(host_name, "127.0.0.1", "HOST", "address to listen on")
    port: int = _option(number(0, 65_535), limits.PORT, "PORT", "port to listen on; 0: a free port")
    unix: str | None = _path("PATH", "listen on this Unix socket as well, for its owner only")
    no_tcp: bool = _switch("listen on the Unix socket only")
    insecure: bool = _switch("listen on a non-loopback address without authentication")
    password: str | None = _option(
        password,
        None,
        "TEXT",
        "password of the user default, which clients must send before other commands. All users of the computer can "
        "read a command line: use --password-file, the environment or the file of options",
        secret=True,
    )
    password_file: str | None = _path(
        "FILE", "file whose first line is the password; its permissions must exclude other users"
    )
    users: str | None = _path(
        "FILE",
        "file with the users, their secrets and their rights (`cairn user`), for its owner only; SIGHUP and ACL LOAD "
        "read it again",
    )
    tls_cert: str | None = _path(
        "FILE", "TLS: certificate of the server in the format PEM, followed by those of intermediate authorities"
    )
    tls_key: str | None = _path("FILE", "TLS: private key of that certificate in the format PEM, without a passphrase")
    plain_text: PlainText = _choice(
        PlainText.AUTO,
        "with TLS, clients that may connect without it: auto (through loopback and Unix sockets), always (all) or "
        "never (only through Unix sockets)",
    )
    tls_client_ca: str | None = _path(
        "FILE", "TLS: clients need a certificate of one of these authorities, in the format PEM"
    )
    tls_user_from: UserFrom | None = _option(
        choice(UserFrom),
        None,
        "NAME",
        "with --tls-client-ca, the part of a client's certificate that names its user: cn (the common name), or uri "
        "(the URI among the alternative names)",
    )
    audit_log: str | None = _option(
        audit_file,
        None,
        "FILE",
        "append logins, refusals, changes and administrative commands to this file as JSON lines; -: standard output",
    )
    status_byte: StatusByte = _choice(
        StatusByte.ASCII, "the status byte of responses: ascii ('0' and '1') or binary (0x00 and 0x01)"
    )
    command_width: int | None = _option(
        command_width,
        None,
        "WIDTH",
        "bytes in a command number: 2, 4, or auto (from a connection's first frame); with 4, the server still reads a "
        "first frame that can only have 2",
        shown="auto",
    )
    max_connections: int = _option(
        number(1, 1_000_000),
        limits.CONNECTIONS_MAX,
        "N",
        "maximum number of clients, lowered if the limit of open files is too low; beyond it the server refuses new "
        "clients or, with a password, closes the oldest unauthenticated client",
    )
    max_value: int = _size(limits.VALUE_MAX, "longest value")
    max_frame: int = _size(limits.FRAME_MAX, "longest frame, in either direction")
    max_unfinished: int = _size(
        limits.UNFINISHED_MAX,
        "unfinished frames, commands read ahead, transactions and subscriptions of all clients together; beyond it the "
        "server fails a client: an unauthenticated one first, then one of the address that uses most",
    )
    max_unsent: int = _size(
        limits.UNSENT_MAX,
        "unsent replies of all clients together; beyond it the server closes a client, chosen as for --max-unfinished",
    )
    memory_limit: int | None = _size(
        None,
        "memory for keys and values, by estimate; with --data, for keys and those values that are used most; "
        "with --cluster, beyond it this node proposes no writes that grow",
    )
    when_full: WhenFull = _choice(
        WhenFull.REFUSE, "at the memory limit, without --data: refuse writes, or evict the least recently used keys"
    )
    data: str | None = _path("DIR", "directory of the store on disk; without it, the store is in memory only")
    sync: Sync = _option(
        Sync.parse,
        Sync(),
        "WHEN",
        "with --data, when writes are fsynced: always (before the reply), an interval such as 1s, or none",
    )
    disk_limit: int | None = _size(
        None, "with --data, maximum size of the directory; writes fail from 90 % of it, or of the file system"
    )
    backup_dir: str | None = _path(
        "DIR", "with --data, directory for backups that clients request (`cairn backup`, BGSAVE)"
    )
    cluster: tuple[str, ...] | None = _option(
        parsed_urls,
        None,
        "URLS",
        "run as a node of a cluster whose log is in this NATS JetStream: addresses like nats://HOST:4222, separated by "
        "commas; the node's files are in --data",
        secret=True,
    )
    name: str = _option(
        parsed_name, "cairn", "NAME", "with --cluster, the cluster's name; several clusters may share a NATS"
    )
    log_limit: int = _size(LOG_LIMIT, "with --cluster, maximum size of the log in NATS; writes fail from 90 % of it")
    nats_creds: str | None = _path(
        "FILE", "with --cluster, file with the credentials of a NATS user: JWT and seed, or the seed of an nkey"
    )
    nats_ca: str | None = _path("FILE", "with --cluster, TLS to NATS: certificates of trusted authorities")
    nats_cert: str | None = _path("FILE", "with --cluster, TLS to NATS: this node's certificate")
    nats_key: str | None = _path("FILE", "with --cluster, TLS to NATS: this node's private key")
    nats_system: str | None = _option(
        nats_user,
        None,
        "WHO",
        "with --cluster, USER:PASSWORD or a credentials file for the NATS system account, with which the node checks "
        "that NATS syncs every write",
        secret=True,
    )
    trust_nats_sync: bool = _switch("with --cluster, serve without the check that NATS syncs every write")
    allow_broken: bool = _switch(
        f"with --cluster, allow the faults that {BREAK_VARIABLE} names; only for tests of consistency checks"
    )
    script_slice: float = _seconds(
        limits.SCRIPT_SLICE,
        "time of the first attempt of a script; a longer one is undone and attempted again after other clients",
    )
    script_time: float = _seconds(
        limits.SCRIPT_TIME,
        "time of a script until other clients get BUSY, and SCRIPT KILL may end the script; 0: never",
    )
    script_steps: int = _option(
        number(1_000_000, 999_999_999_999),
        limits.SCRIPT_STEPS_MAX,
        "NUMBER",
        "work of a script in instructions of Lua; a second counts as 50 million instructions at least",
    )
    script_memory: int = _size(limits.SCRIPT_MEMORY_MAX, "memory that a script may use")
    idle_timeout: float = _seconds(limits.IDLE_TIMEOUT, "time that a client may be idle; 0: no limit")
    frame_timeout: float = _seconds(limits.FRAME_TIMEOUT, "time from a frame's first byte to its last")
    stall_timeout: float = _seconds(limits.STALL_TIMEOUT, "time that a client may read none of its replies")
    drain_timeout: float = _seconds(
        limits.DRAIN_TIMEOUT, "time for clients to read their last replies when the server stops"
    )
    log_level: LogLevel = _choice(LogLevel.INFO, "what to log: debug, info, warning or error")

    def __post_init__(self) -> None:
        room = limits.KEY_MAX + limits.KIB
        if self.max_frame < self.max_value + room:
            raise OptionError(
                f"max-frame is {self.max_frame:,}: too small for a value of max-value ({self.max_value:,}) and "
                f"its key; it must be at least {self.max_value + room:,}"
            )
        if self.max_frame >= 2**32 - 1:
            raise OptionError("max-frame must be below 4 GiB, the maximum length of a frame")
        if self.max_unfinished < self.max_frame:
            raise OptionError(
                f"max-unfinished is {self.max_unfinished:,}: a single frame may have {self.max_frame:,} bytes"
            )
        for name in ("frame_timeout", "stall_timeout", "script_slice"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name.replace('_', '-')} must be more than 0")
        if self.data is not None and self.when_full is not WhenFull.REFUSE:
            raise OptionError(
                "when-full is not for a store on disk: with a memory limit, values leave memory and no key is evicted"
            )
        if self.disk_limit is not None and self.disk_limit < DISK_LIMIT_LEAST:
            raise OptionError(
                f"disk-limit is {self.disk_limit:,}, too small for RocksDB; it must be at least {DISK_LIMIT_LEAST:,}"
            )
        if self.backup_dir is not None and self.data is not None and is_within(self.backup_dir, self.data):
            raise OptionError("backup-dir is within data, the directory of the store; use another directory")
        if self.script_memory < limits.SCRIPT_MEMORY_LEAST:
            raise OptionError(
                f"script-memory is {self.script_memory:,}; it must be at least {limits.SCRIPT_MEMORY_LEAST:,}"
            )
        if self.cluster is not None:
            self._check_cluster()
        self._check_tls()
        if self.no_tcp and self.unix is None:
            raise OptionError("no-tcp needs a Unix socket to listen on: set unix to a path")
        if (
            not self.insecure
            and self.password is None
            and self.users is None
            and not self.wants_certificates
            and not self.no_tcp
            and not is_loopback(self.host)
        ):
            raise OptionError(
                f"{self.host} is not a loopback address, and clients need no login: any client that reaches the "
                "port can read and delete all data. Use --host 127.0.0.1, --users, --password-file or "
                "--tls-client-ca, or allow it with --insecure"
            )

    @property
    def wants_certificates(self) -> bool:
        """Whether all clients from other computers need a certificate."""
        return self.tls_client_ca is not None and self.plain_text is not PlainText.ALWAYS

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise OptionError("tls-cert and tls-key need each other: a certificate and its key")
        for name, wanted in (("plain_text", PlainText.AUTO), ("tls_client_ca", None)):
            if self.tls_cert is None and getattr(self, name) is not wanted:
                raise OptionError(f"{name.replace('_', '-')} needs TLS: set tls-cert and tls-key")
        if self.tls_client_ca is None and self.tls_user_from is not None:
            raise OptionError("tls-user-from needs tls-client-ca: the authority that signs certificates of clients")

    def _check_cluster(self) -> None:
        if self.data is None:
            raise cluster_wants_data()
        if self.when_full is not WhenFull.REFUSE:
            raise OptionError("when-full: a node of a cluster evicts no keys; without room it refuses writes")
        if self.backup_dir is not None:
            raise OptionError("backup-dir is not for a node of a cluster, whose snapshots are in NATS")
        if self.log_limit < LOG_LIMIT_LEAST:
            raise OptionError(f"log-limit is {self.log_limit:,}; it must be at least {LOG_LIMIT_LEAST:,}")
        if (self.nats_cert is None) != (self.nats_key is None):
            raise OptionError("nats-cert and nats-key need each other: a certificate and its key")


OPTIONS: Final[dict[str, Option]] = {field.name: field.metadata[_OPTION] for field in dataclasses.fields(Settings)}
"""All options by name."""


SECRETS: Final = frozenset(field.name for field in dataclasses.fields(Settings) if not field.repr)
"""Options whose values may contain passwords. They are shown nowhere."""


SECRET_FILES: Final = frozenset({"nats_creds", "nats_key", "tls_key", "users"})
"""Options that name files with secrets, which the server reads."""


def has_secrets(settings: Settings) -> bool:
    """Return whether a server with these settings has secrets in its memory."""
    return any(getattr(settings, name) is not None for name in SECRETS | SECRET_FILES)


def readable_secrets(flags: Mapping[str, str]) -> list[str]:
    """Return a warning for each flag with a secret: all users of the computer can read the command line.

    >>> readable_secrets({"password": "s3cret", "cluster": "nats://127.0.0.1:4222"})
    ['all users of this computer can read --password: use CAIRNKV__PASSWORD, or the key password in a --config file']
    """
    found = [
        name
        for name, mark in (("password", ""), ("cluster", "@"), ("nats_system", ":"))
        if name in flags and mark in flags[name]
    ]
    return [
        f"all users of this computer can read --{name.replace('_', '-')}: use {ENVIRONMENT_PREFIX}{name.upper()}, or "
        f"the key {name.replace('_', '-')} in a --config file"
        for name in found
    ]


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach an address."""
    return host == "localhost" or ((address := _ip(host)) is not None and address.is_loopback)


# -- sources ------------------------------------------------------------------------------------------


def load(flags: Mapping[str, str], *, environment: Mapping[str, str], file: str | Path | None = None) -> Settings:
    """Return the settings of flags, environment and file together.

    flags: the values of the given options, by name.
    file: a TOML file; None: the file that CAIRNKV__CONFIG names, if any.
    Raises `OptionError` for an unknown option, an invalid value, or an unreadable file.
    """
    where = "--config"
    if file is None and (file := environment.get(CONFIG_VARIABLE)) is not None:
        where = f"the variable {CONFIG_VARIABLE}"
    values = {}
    if file is not None:
        try:
            values = _from_file(user_path(file, "the file"))
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from None
    variables = {}
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT_PREFIX) and name not in NOT_OPTIONS:
            option = name.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[option] = _parsed(option, _as_utf8(option, text), f"the variable {name}")
            variables[option] = name
    for option, text in flags.items():
        values[option] = _parsed(option, _as_utf8(option, text), f"--{option.replace('_', '-')}")
        variables.pop(option, None)
    if values.get("password_file") is not None:
        if values.get("password") is not None:
            raise OptionError("password and password-file exclude each other: a server has one password")
        values["password"] = _password_in(Path(values["password_file"]))
    try:
        return Settings(**values)
    except OptionError as error:  # options that exclude each other
        if not variables:
            raise
        raise OptionError(f"{error}; the environment sets {', '.join(variables.values())}") from None


def _as_utf8(option: str, text: str) -> str:
    """Return a password as the UTF-8 text of the bytes that the user gave, in every locale; other options unchanged."""
    return os.fsencode(text).decode("utf-8", "surrogateescape") if option == "password" else text


def _password_in(path: Path) -> str:
    """Return the password in a file: its first line."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            line = file.readline(PASSWORD_LINE_MAX).rstrip(b"\r\n")
    except OSError as error:
        raise OptionError(f"password-file: cannot read the password: {os_error_text(error)}") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise OptionError(
            f"password-file: other users can use {path}, which has mode {mode:04o}; run: chmod 600 {path}"
        )
    if not line:
        raise OptionError(f"password-file: the first line of {path} has to be the password, and is empty")
    return line.decode("utf-8", "surrogateescape")


def broken_on_purpose(environment: Mapping[str, str], *, allowed: bool) -> list[str]:
    """Return the names of the faults that a node injects. Raises `OptionError` for unknown or disallowed faults."""
    text = environment.get(BREAK_VARIABLE)
    if text is None:
        return []
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in BREAKS:
            raise OptionError(f"the variable {BREAK_VARIABLE}: unknown fault {name!r}; use {' or '.join(BREAKS)}")
    if names and not allowed:
        raise OptionError(
            f"the variable {BREAK_VARIABLE} makes a node return wrong replies; unset it, or use --allow-broken"
        )
    return names


def ignored_variables(environment: Mapping[str, str]) -> str | None:
    """Return a warning that names the variables that look like options but are not options, or None.

    >>> ignored_variables({"CAIRNKV_PORT": "tcp://10.0.0.11:6555", "CAIRNKV_URL": "cairn://a"})
    'ignored CAIRNKV_PORT: the variable of an option has two underscores, CAIRNKV__PORT'
    """
    names = sorted(
        name
        for name in environment
        if name.startswith("CAIRNKV_") and not name.startswith(ENVIRONMENT_PREFIX) and name != "CAIRNKV_URL"
    )
    if not names:
        return None
    shown = ", ".join(names[:IGNORED_SHOWN])
    if len(names) > IGNORED_SHOWN:
        shown += f" and {len(names) - IGNORED_SHOWN} more variables"
    return f"ignored {shown}: the variable of an option has two underscores, {ENVIRONMENT_PREFIX}PORT"


def _from_file(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # TOML is UTF-8 in every locale
    except OSError as error:
        raise OptionError(f"cannot read the options: {os_error_text(error)}") from None
    except UnicodeDecodeError as error:
        raise OptionError(f"cannot read the options in {path}: byte {error.start:,} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"cannot read the options in {path}: {error}") from None
    values = {}
    for key, value in table.items():
        if not isinstance(value, str | int | float):
            shown = type(value).__name__ if key.replace("-", "_") in SECRETS else repr(value)
            raise OptionError(f"{path}: {key} is a string, a number or a boolean, not {shown}")
        option = key.replace("-", "_")
        values[option] = _parsed(option, str(value), f"{path}: {key}")
    return values


def _parsed(option: str, text: str, where: str) -> Any:
    if option not in OPTIONS:
        close = difflib.get_close_matches(option, OPTIONS, 1)
        hint = f"; did you mean {close[0].replace('_', '-')}?" if close else ""
        if option == "url":
            hint = "; the variable of clients is CAIRNKV_URL, with one underscore"
        raise OptionError(f"{where}: unknown option{hint}")
    try:
        return OPTIONS[option].parse(text)
    except ValueError as error:
        raise OptionError(f"{where} has to be {error}") from None

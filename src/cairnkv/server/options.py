"""The options of CONFIG: the server's settings under the names of Redis and under their own names.

Invariants: an option is here only if its value is true of this server. A change by CONFIG SET is in force before its
reply. An option that cannot change while the server runs accepts only its current value.

Out of scope: the command (`cairnkv.session.resp.commands.config`), and the sources of settings (`settings`).
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from cairnkv.errors import OptionError
from cairnkv.limits import DATABASES, KEEPALIVE_IDLE
from cairnkv.replication.nats.credentials import user_and_password
from cairnkv.replication.nats.options import without_user
from cairnkv.server.loop import BACKLOG
from cairnkv.server.settings import NO_VALUE, OPTIONS, Settings, as_text
from cairnkv.session import OptionRefused, Options
from cairnkv.store import WhenFull

CHANGEABLE: Final = (
    "max_connections",
    "max_unfinished",
    "max_unsent",
    "memory_limit",
    "when_full",
    "idle_timeout",
    "frame_timeout",
    "stall_timeout",
    "drain_timeout",
    "script_slice",
    "script_time",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "plain_text",
    "tls_user_from",
)
"""Settings that can change while the server runs."""

IMMUTABLE: Final = "can't set immutable config"


class Configured(Protocol):
    """The interface of a server for its options."""

    settings: Settings

    @property
    def port(self) -> int:
        """The TCP port; 0: none."""

    @property
    def login_required(self) -> bool:
        """Whether a new client must log in before other commands."""

    def change(self, settings: Settings, *, reload_tls: bool = False) -> None:
        """Use other settings. Raises `OptionError` if the system does not allow them."""


# -- names of Redis ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Named:
    """An option: a function that shows its value, the setting that it changes, and the parser of its text."""

    show: Callable[[Configured], str]
    setting: str = ""
    parse: Callable[[str], Any] = str


_MEMORY: Final = re.compile(r"([0-9]{1,18})(b|k|kb|m|mb|g|gb|)", re.IGNORECASE | re.ASCII)
_MEMORY_UNITS: Final = {"": 1, "b": 1, "k": 10**3, "kb": 2**10, "m": 10**6, "mb": 2**20, "g": 10**9, "gb": 2**30}


def _memory(text: str) -> int | None:
    """Parse bytes as Redis does: k is 1,000 and kb is 1,024; 0 is no limit."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise ValueError("argument must be a memory value")
    return int(match[1]) * _MEMORY_UNITS[match[2].lower()] or None


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError("argument couldn't be parsed into an integer")
        if not least <= int(text) <= most:
            raise ValueError(f"argument must be between {least} and {most} inclusive")
        return int(text)

    return parse


def _milliseconds(text: str) -> float:
    """Parse milliseconds as Redis does: a negative number is the same as 0."""
    return max(0, _number(-(2**63), 2**63 - 1)(text)) / 1000


_POLICIES: Final = {"noeviction": WhenFull.REFUSE, "allkeys-lru": WhenFull.EVICT}


def _policy(text: str) -> WhenFull:
    if text.lower() not in _POLICIES:
        raise ValueError(f"argument(s) must be one of the following: {', '.join(_POLICIES)}")
    return _POLICIES[text.lower()]


HIDDEN: Final = "(hidden)"
"""The text of a password that CONFIG GET does not show."""


def _new_password(text: str) -> str | None:
    if text == HIDDEN:
        raise ValueError("CONFIG GET hides the password; this is not a password")
    return text or None


def _constant(text: str) -> _Named:
    return _Named(lambda server: text)


def _of_setting(
    setting: str, parse: Callable[[str], Any], show: Callable[[Any], str] = as_text, *, changeable: bool = True
) -> _Named:
    return _Named(lambda server: show(getattr(server.settings, setting)), setting if changeable else "", parse)


NAMES: Final[dict[str, _Named]] = {
    "maxmemory": _of_setting("memory_limit", _memory, lambda limit: str(limit or 0)),
    "maxmemory-policy": _of_setting("when_full", _policy, {kind: name for name, kind in _POLICIES.items()}.__getitem__),
    "maxclients": _of_setting("max_connections", _number(1, 1_000_000)),
    "timeout": _of_setting("idle_timeout", _number(0, 2**31 - 1)),
    "lua-time-limit": _of_setting("script_time", _milliseconds, lambda time: str(round(time * 1000))),
    "busy-reply-threshold": _of_setting("script_time", _milliseconds, lambda time: str(round(time * 1000))),
    "requirepass": _Named(lambda server: HIDDEN if server.login_required else "", "password", _new_password),
    "tls-cert-file": _of_setting("tls_cert", lambda text: text or None, lambda path: path or ""),
    "tls-key-file": _of_setting("tls_key", lambda text: text or None, lambda path: path or ""),
    "tls-ca-cert-file": _of_setting("tls_client_ca", lambda text: text or None, lambda path: path or ""),
    "port": _Named(lambda server: str(server.port)),
    "bind": _Named(lambda server: "" if server.settings.no_tcp else server.settings.host),
    "unixsocket": _Named(lambda server: server.settings.unix or ""),
    "unixsocketperm": _Named(lambda server: "600" if server.settings.unix else "0"),
    "proto-max-bulk-len": _Named(lambda server: str(server.settings.max_value)),
    "client-query-buffer-limit": _Named(lambda server: str(server.settings.max_frame)),
    "databases": _constant(str(DATABASES)),
    "tcp-backlog": _constant(str(BACKLOG)),
    "tcp-keepalive": _constant(str(KEEPALIVE_IDLE)),
    "appendonly": _constant("no"),
    "save": _constant(""),
    "notify-keyspace-events": _constant(""),
    "cluster-enabled": _constant("no"),
}
"""The options of Redis that this server has. Those without a setting cannot change while the server runs."""


# -- own names ---------------------------------------------------------------------------------------------


def _system_user(given: str | None) -> str:
    """Return a user without the password, or the path of a credentials file."""
    if given is None:
        return NO_VALUE
    user, password = user_and_password(given)
    return user if password is None else f"{user}:(hidden)"


_SHOW: Final[dict[str, Callable[[Any], str]]] = {
    "cluster": lambda urls: ",".join(map(without_user, urls)) if urls else NO_VALUE,
    "nats_system": _system_user,
    "command_width": lambda width: str(width or "auto"),
}
"""Functions that show settings, two of them without passwords. `as_text` shows the others."""


def _own(setting: str) -> _Named:
    option = OPTIONS[setting]

    def parse(text: str) -> Any:
        """Parse the text of `as_text`, so that a client can set a value that it has read."""
        return None if text == option.shown == NO_VALUE else option.parse(text)

    return _of_setting(setting, parse, _SHOW.get(setting, as_text), changeable=setting in CHANGEABLE)


_OURS: Final = {setting.replace("_", "-"): _own(setting) for setting in OPTIONS if setting not in ("password", *NAMES)}


class ServerOptions(Options):
    """The options of a server."""

    def __init__(self, server: Configured) -> None:
        self._server = server
        self._named = {**NAMES, **_OURS}

    def all(self) -> Mapping[str, str]:
        """Return every option with its value."""
        return {name: option.show(self._server) for name, option in self._named.items()}

    def get(self, name: str) -> str | None:
        """Return the value of an option, or None for an unknown option."""
        option = self._named.get(name)
        return None if option is None else option.show(self._server)

    def set(self, values: Mapping[str, str]) -> None:
        """Change all of these options, or none. Raises `OptionRefused`."""
        changes: dict[str, Any] = {}
        name = ""
        for name, text in values.items():
            option = self._named[name]
            if not option.setting:
                if text != option.show(self._server):
                    raise OptionRefused(name, IMMUTABLE)
                continue
            if option.setting in changes:
                raise OptionRefused(name, "duplicate parameter")
            try:
                changes[option.setting] = option.parse(text)
            except ValueError as error:
                raise OptionRefused(name, str(error)) from None
        if "password" in changes:
            changes["password_file"] = None
        try:
            settings = dataclasses.replace(self._server.settings, **changes)
            self._server.change(settings, reload_tls=any(setting.startswith("tls_") for setting in changes))
        except OptionError as error:
            raise OptionRefused(name, str(error)) from None

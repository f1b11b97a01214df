"""One NATS server with JetStream: the program, its configuration, its process.

What always holds: it listens on the address it is told and nowhere else, whoever speaks to it says a password, and
JetStream syncs each write before it acknowledges it, unless a test asks for less. A server whose process has ended can
be started again on the same directory.

Not for how many there are and who watches over them.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import Child
from cairnkv.limits import MIB
from cairnkv.records import record
from cairnkv.replication.nats.leadership import leads_alone

PROGRAM: Final = "nats-server"

LISTEN_PATIENCE: Final = 10.0
"""Seconds that a server may take until it listens; it takes some tenths of one."""

LOOK_PATIENCE: Final = 1.0
"""Seconds that a server may take to say how it is; a paused one never does."""

LOOK_EVERY: Final = 0.02
"""Seconds between two looks at whether a server listens."""

DISK_PART: Final = 0.75
"""Of the disk space that is free, what the servers that share it may fill: a NATS whose disk is full switches JetStream
off, and does not switch it on again by itself. The rest is for tables, logs, and whoever else writes there."""

PING_SECONDS: Final = 1
PINGS_UNANSWERED: Final = 3
"""Seconds between two signs of life that a server asks others and its clients for, and how many may stay unanswered
before it closes the connection. With NATS' own, two minutes, servers that are cut off from each other keep connections
on which the system tries ever more rarely: after a cut of 20 s what was healed took up to 31 s to be back; so it takes
5 to 8 (measured)."""

PAYLOAD_MAX: Final = MIB
"""Bytes in one message, by default; NATS' own. Entries are cut to fit."""

MEMORY_MAX: Final = 64 * MIB
"""Bytes that streams in memory may have: only consumers' states are there."""

FILE_LEAST: Final = 64 * MIB
"""Bytes that the streams of a server have to have at least, for it to be of any use."""

ROUTE_WRITE_DEADLINE: Final = "2s"
"""For how long a server waits for another that takes nothing, such as one that is paused, before it cuts the route.
NATS' own ten seconds hold up everything else that goes there, an election's votes among it."""

STORE_USER: Final = "cairn"
SYSTEM_USER: Final = "system"
_ROUTES_USER: Final = "routes"

_SWITCHED_OFF: Final = ("JetStream not enabled", "write error")
"""What a server says is wrong with it when it has met a full disk: JetStream is off, or one of its streams is. Being
behind others or without a leader is another thing, which passes."""


def find_program() -> Path:
    """The `nats-server` to run: the one on the PATH, else the one that the wheel put beside Python.

    Raises `OptionError` where there is none.
    """
    found = shutil.which(PROGRAM)
    if found is not None:
        return Path(found)
    beside = Path(sys.executable).parent / PROGRAM
    if os.access(beside, os.X_OK):
        return beside
    raise OptionError(
        f"a cluster needs the program {PROGRAM}, which is neither on the PATH nor beside {sys.executable}; "
        "pip install 'cairnkv[cluster]'"
    )


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many ports that nobody listens on now. Another process may take one before it is used."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]


def file_share(directory: Path, servers: int) -> int:
    """Bytes that each of so many servers may keep, whose data are in or beside this directory.

    What they have kept there already is theirs too. Raises `OptionError` where that is too little to begin with.
    """
    kept = sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
    share = int((shutil.disk_usage(directory).free + kept) * DISK_PART) // servers
    if share < FILE_LEAST:
        raise OptionError(
            f"the disk of {directory} has {share // MIB} MiB for each NATS server; it has to be at least "
            f"{FILE_LEAST // MIB}: make room, or choose another directory"
        )
    return share


@record
class NatsConfig:
    """What a server is told.

    name: its own, which no other of the cluster has. directory: where its data, configuration and log are.
    port: for clients; route_port: for the other servers. routes: host and port of all servers' route ports, its own may
    be among them. password: of `STORE_USER`, whose account has JetStream; system_password: of `SYSTEM_USER`, who may
    look at servers; also said on routes.
    file_max: bytes of streams on disk, see `file_share`. sync: JetStream's sync_interval; None leaves NATS' default,
    which loses acknowledged writes. monitor_port: where it says by HTTP how it is, to whoever asks; None: nowhere.
    """

    name: str
    directory: Path
    port: int
    route_port: int
    routes: tuple[tuple[str, int], ...]
    password: str
    system_password: str
    file_max: int
    host: str = "127.0.0.1"
    cluster: str = "cairn"
    memory_max: int = MEMORY_MAX
    payload_max: int = PAYLOAD_MAX
    sync: str | None = "always"
    monitor_port: int | None = None

    @property
    def url(self) -> str:
        """Where clients connect to, with user and password."""
        return f"nats://{STORE_USER}:{self.password}@{authority(self.host, self.port)}"

    @property
    def system(self) -> str:
        """Who may look at the servers, as `ClusterOptions.system` has it."""
        return f"{SYSTEM_USER}:{self.system_password}"

    def text(self) -> str:
        """The configuration file."""
        routes = ", ".join(
            _quoted(f"nats://{_ROUTES_USER}:{self.system_password}@{authority(host, port)}")
            for host, port in self.routes
        )
        sync = "" if self.sync is None else f"\n  sync_interval: {self.sync}"
        monitor = "" if self.monitor_port is None else f"\nhttp: {_quoted(authority(self.host, self.monitor_port))}"
        return f"""\
server_name: {_quoted(self.name)}
listen: {_quoted(authority(self.host, self.port))}
max_payload: {self.payload_max}{monitor}
ping_interval: "{PING_SECONDS}s"
ping_max: {PINGS_UNANSWERED}
jetstream {{
  store_dir: {_quoted(str(self.directory / "data"))}
  max_memory_store: {self.memory_max}
  max_file_store: {self.file_max}{sync}
}}
cluster {{
  name: {_quoted(self.cluster)}
  listen: {_quoted(authority(self.host, self.route_port))}
  authorization {{ user: {_ROUTES_USER}, password: {_quoted(self.system_password)} }}
  routes: [{routes}]
  write_deadline: {ROUTE_WRITE_DEADLINE}
}}
accounts {{
  STORE {{ jetstream: enabled, users: [{{ user: {STORE_USER}, password: {_quoted(self.password)} }}] }}
  SYSTEM {{ users: [{{ user: {SYSTEM_USER}, password: {_quoted(self.system_password)} }}] }}
}}
system_account: SYSTEM
"""


@record
class Sight:
    """What a server says of itself.

    trouble: what is wrong, such as that it does not have all of a stream; empty: nothing. ends: the last position of
    each stream in its own copy, by the stream's name and when it was made.
    """

    trouble: str
    ends: Mapping[tuple[str, str], int]

    def behind(self, others: Mapping[tuple[str, str], int]) -> str:
        """What it lacks of what others had, in words; empty: nothing. others: as `ends`.

        >>> Sight("", {("CAIRN_shop", "today"): 7}).behind({("CAIRN_shop", "today"): 9, ("CAIRN_shop", "before"): 90})
        'its copy of CAIRN_shop ends 2 messages before others'
        """
        for (name, created), end in self.ends.items():
            if (lacks := others.get((name, created), 0) - end) > 0:
                return f"its copy of {name} ends {lacks:,} messages before others"
        return ""


class NatsServer(Child):
    """A server's process."""

    def __init__(self, config: NatsConfig, *, prefix: Sequence[str] = ()) -> None:
        """prefix: a command that runs the program, such as `ip netns exec NAME`."""
        super().__init__(config.name, config.directory / "nats.log")
        self.config = config
        self._prefix = list(prefix)

    def start(self) -> None:
        """Have a process, which does not listen yet.

        Raises `OptionError` where there is no program, `OSError`.
        """
        config = self.config
        config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = config.directory / "nats.conf"
        path.touch(mode=0o600)
        path.write_bytes(os.fsencode(config.text()))  # it contains paths
        self._command = [*self._prefix, find_program(), "-c", path]
        super().start()

    def wait_listening(self, patience: float = LISTEN_PATIENCE) -> None:
        """Wait until clients can connect; JetStream may take seconds more.

        Raises `OSError` when that takes longer, or the process ends.
        """
        until = time.monotonic() + patience
        while True:
            if not self.running:
                raise OSError(f"NATS server {self.config.name} {self.end}:\n{self.log_tail()}")
            with contextlib.suppress(OSError), socket.create_connection((self.config.host, self.config.port), 1.0):
                return
            if time.monotonic() > until:
                raise OSError(f"NATS server {self.config.name} does not listen after {patience:g} s; see {self.log}")
            time.sleep(LOOK_EVERY)

    def has_leader(self) -> bool:
        """Whether its JetStream knows a leader of the cluster of servers, so that streams can be made and used."""
        _, report = self._look("/jsz")
        meta = report.get("meta_cluster")
        return isinstance(meta, dict) and bool(meta.get("leader"))

    def sight(self) -> "Sight | None":
        """What it says of itself; None: it says nothing, or not all of it."""
        status, health = self._look("/healthz")
        jetstream_status, jetstream = self._look("/jsz?streams=true") if status else (0, {})
        if not status or jetstream_status != http.HTTPStatus.OK:
            return None
        trouble = ""
        if status != http.HTTPStatus.OK:
            trouble = str(health.get("error", "")) or f"its health has status {status}"
        groups = {"the cluster of servers": jetstream.get("meta_cluster") or {}}
        ends: dict[tuple[str, str], int] = {}
        for account in jetstream.get("account_details") or ():
            for stream in account.get("stream_detail") or ():
                groups[stream["name"]] = stream.get("cluster") or {}
                ends[stream["name"], stream["created"]] = stream["state"]["last_seq"]
        for name, group in groups.items():  # who takes itself for the leader takes itself for healthy
            if group.get("leader") == self.config.name and leads_alone(group):
                trouble = trouble or f"it leads {name} without the others"
        return Sight(trouble, ends)

    def _look(self, path: str) -> tuple[int, dict[str, Any]]:
        """What it says of itself by HTTP: status and JSON. Nothing when it does not answer."""
        assert self.config.monitor_port is not None, "a server without this port cannot be looked at"
        connection = http.client.HTTPConnection(self.config.host, self.config.monitor_port, timeout=LOOK_PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            report = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()
        return answer.status, report if isinstance(report, dict) else {}


def is_switched_off(trouble: str) -> bool:
    """Whether a server that says this cannot write; it stays so until it is started anew."""
    return any(sign in trouble for sign in _SWITCHED_OFF)


def authority(host: str, port: int) -> str:
    """HOST:PORT, as addresses have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(text: str) -> str:
    """As a string of NATS' configuration language, which knows JSON's escapes of what is not printed."""
    return json.dumps(text, ensure_ascii=False)

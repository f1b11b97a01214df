"""One NATS server with JetStream: the program, its configuration, its process.

Invariants: the server listens only on its configured address, and requires a password. JetStream syncs each write
before it acknowledges it, except in some tests. After the end of its process, a server can start again in the same
directory.

Out of scope: the number of servers and their supervision.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.child import Child
from cairnkv.limits import MIB
from cairnkv.records import record
from cairnkv.replication.nats.stream_config import leads_alone

PROGRAM: Final = "nats-server"

REPORT_TIMEOUT: Final = 1.0
"""Seconds that a server may take to reply to a request for its health. A paused server never replies."""

DISK_PART: Final = 0.75
"""The part of the free disk space that all servers together may fill. A NATS server with a full disk disables JetStream
until it restarts. The rest is for the nodes' data, log files and other programs."""

PING_SECONDS: Final = 1
PINGS_UNANSWERED: Final = 3
"""Seconds between two pings to other servers and to clients, and the number of unanswered pings after which the server
closes the connection. With NATS' default of two minutes, servers that are cut off keep their connections, on which the
system retransmits more and more rarely: recovery from a cut of 20 s took up to 31 s, and now takes 5 to 8
(measured)."""

PAYLOAD_MAX: Final = MIB
"""Bytes in a message, by default; also NATS' default. Log entries are split to fit."""

MEMORY_MAX: Final = 64 * MIB
"""Bytes of streams in memory. Only the state of consumers is there."""

FILE_LEAST: Final = 64 * MIB
"""Minimum bytes for the streams of a server on disk."""

ROUTE_WRITE_DEADLINE: Final = "2s"
"""Seconds until a server closes the route to a server that reads nothing, such as a paused one. With NATS' default of
ten seconds, other messages wait for as long, the votes of an election among them."""

STORE_USER: Final = "cairn"
SYSTEM_USER: Final = "system"
_ROUTES_USER: Final = "routes"

_JETSTREAM_OFF: Final = ("JetStream not enabled", "write error")
"""The health errors of a server whose disk was full: JetStream or one of its streams is disabled. Other errors, such as
a missing leader, are temporary."""


def find_program() -> Path:
    """Return the path of `nats-server`: on the PATH, else next to Python, where a wheel installs it.

    Raises `OptionError` if there is none.
    """
    found = shutil.which(PROGRAM)
    if found is not None:
        return Path(found)
    beside = Path(sys.executable).parent / PROGRAM
    if os.access(beside, os.X_OK):
        return beside
    raise OptionError(
        f"a cluster needs the program {PROGRAM}, which is neither on the PATH nor next to {sys.executable}; "
        "pip install 'cairnkv[cluster]'"
    )


def free_ports(count: int) -> list[int]:
    """Return free ports. Another process may take one before the caller uses it."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def file_share(directory: Path, servers: int) -> int:
    """Return the bytes that each server may store on the disk of a directory, existing data included.

    Raises `OptionError` if this is too little.
    """
    kept = sum(file.stat().st_blocks * 512 for file in directory.rglob("*") if file.is_file())
    share = int((shutil.disk_usage(directory).free + kept) * DISK_PART) // servers
    if share < FILE_LEAST:
        raise OptionError(
            f"the disk of {directory} has {share // MIB} MiB for each NATS server, which needs {FILE_LEAST // MIB} "
            "MiB; free disk space, or choose another directory"
        )
    return share


@record
class NatsConfig:
    """The configuration of a server.

    name: unique in the cluster. directory: for its data, configuration and log file.
    port: for clients; route_port: for the other servers. routes: host and route port of each server; may include this
    server. password: of `STORE_USER`, whose account has JetStream; system_password: of `SYSTEM_USER`, who may query
    servers, and of routes.
    file_max: bytes of streams on disk, see `file_share`. sync: JetStream's sync_interval; None: NATS' default, which
    loses acknowledged writes in a power failure. monitor_port: for health reports over HTTP without authentication.
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
    payload_max: int = PAYLOAD_MAX
    sync: str | None = "always"
    monitor_port: int | None = None

    @property
    def url(self) -> str:
        """The URL for clients, with user and password."""
        return f"nats://{STORE_USER}:{self.password}@{authority(self.host, self.port)}"

    @property
    def system(self) -> str:
        """USER:PASSWORD of the system account, for `ClusterOptions.system`."""
        return f"{SYSTEM_USER}:{self.system_password}"

    def text(self) -> str:
        """Return the text of the configuration file."""
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
  max_memory_store: {MEMORY_MAX}
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
class ServerReport:
    """The health of a server.

    trouble: an error, such as an incomplete stream, or empty. ends: the last sequence number of each stream in the
    server's copy, by the name and the creation time of the stream.
    """

    trouble: str
    ends: Mapping[tuple[str, str], int]

    def behind(self, others: Mapping[tuple[str, str], int]) -> str:
        """Return which stream has fewer messages than on other servers, as text; empty if none has. others: as `ends`.

        >>> report = ServerReport("", {("CAIRN_shop", "today"): 7})
        >>> report.behind({("CAIRN_shop", "today"): 9, ("CAIRN_shop", "before"): 90})
        'its copy of CAIRN_shop ends 2 messages before others'
        """
        for (name, created), end in self.ends.items():
            if (lacks := others.get((name, created), 0) - end) > 0:
                return f"its copy of {name} ends {lacks:,} messages before others"
        return ""


class NatsServer(Child):
    """The process of a NATS server."""

    def __init__(self, config: NatsConfig, *, prefix: Sequence[str] = ()) -> None:
        """prefix: a command that executes the program, such as `ip netns exec NAME`."""
        super().__init__(config.name, config.directory / "nats.log")
        self.config = config
        self._prefix = list(prefix)

    def start(self) -> None:
        """Start a process. Raises `OptionError` without a program, `OSError`."""
        config = self.config
        config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = config.directory / "nats.conf"
        path.touch(mode=0o600)
        path.write_bytes(os.fsencode(config.text()))  # it contains paths
        self._command = [*self._prefix, find_program(), "-c", path]
        super().start()

    def has_leader(self) -> bool:
        """Return whether JetStream has a leader, so that clients can create and use streams."""
        _, report = self._get("/jsz")
        meta = report.get("meta_cluster")
        return isinstance(meta, dict) and bool(meta.get("leader"))

    def report(self) -> ServerReport | None:
        """Return the health of the server, or None if it does not reply completely."""
        status, health = self._get("/healthz")
        jetstream_status, jetstream = self._get("/jsz?streams=true") if status else (0, {})
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
        for name, group in groups.items():  # a leader that lost its majority reports that it is healthy
            if group.get("leader") == self.config.name and leads_alone(group):
                trouble = trouble or f"it leads {name} without the others"
        return ServerReport(trouble, ends)

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of a page of the monitoring port; 0 and nothing if the server does not reply."""
        assert self.config.monitor_port is not None, "the server has no monitoring port"
        connection = http.client.HTTPConnection(self.config.host, self.config.monitor_port, timeout=REPORT_TIMEOUT)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            report = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()
        return answer.status, report if isinstance(report, dict) else {}


def is_jetstream_off(trouble: str) -> bool:
    """Return whether an error means that the server cannot write until it restarts."""
    return any(sign in trouble for sign in _JETSTREAM_OFF)


def authority(host: str, port: int) -> str:
    """Return HOST:PORT for a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(text: str) -> str:
    """Return a string of NATS' configuration language, which has JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)

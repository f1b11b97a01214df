"""One NATS server with JetStream: the program, its configuration, its process.

What always holds: it listens on the address it is told and nowhere else, whoever speaks to it says a password, and
JetStream syncs each write before it acknowledges it, unless a test asks for less. A server whose process has ended can
be started again on the same directory.

Not for how many there are and who watches over them.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cairnkv.errors import OptionError
from cairnkv.limits import KIB, MIB
from cairnkv.records import record

PROGRAM: Final = "nats-server"

LISTEN_PATIENCE: Final = 10.0
"""Seconds that a server may take until it listens; it takes some tenths of one."""

STOP_PATIENCE: Final = 10.0
"""Seconds that a server may take to end in good order, before it is killed."""

LOOK_EVERY: Final = 0.02
"""Seconds between two looks at whether a server listens."""

DISK_PART: Final = 0.75
"""Of the disk space that is free, what the servers that share it may fill: a NATS whose disk is full switches JetStream
off, and does not switch it on again by itself. The rest is for tables, logs, and whoever else writes there."""

PAYLOAD_MAX: Final = MIB
"""Bytes in one message, by default; NATS' own. Entries are cut to fit."""

MEMORY_MAX: Final = 64 * MIB
"""Bytes that streams in memory may have: only consumers' states are there."""

FILE_LEAST: Final = 64 * MIB
"""Bytes that the streams of a server have to have at least, for it to be of any use."""

STORE_USER: Final = "cairn"
SYSTEM_USER: Final = "system"
_ROUTES_USER: Final = "routes"

_LOG_TAIL: Final = 2 * KIB


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
    raise OptionError(f"there is no {PROGRAM} on the PATH, nor beside {sys.executable}: pip install 'cairnkv[cluster]'")


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
    which loses acknowledged writes.
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

    @property
    def url(self) -> str:
        """Where clients connect to, with user and password."""
        return f"nats://{STORE_USER}:{self.password}@{_authority(self.host, self.port)}"

    @property
    def system(self) -> str:
        """Who may look at the servers, as `ClusterOptions.system` has it."""
        return f"{SYSTEM_USER}:{self.system_password}"

    def text(self) -> str:
        """The configuration file."""
        routes = ", ".join(
            _quoted(f"nats://{_ROUTES_USER}:{self.system_password}@{_authority(host, port)}")
            for host, port in self.routes
        )
        sync = "" if self.sync is None else f"\n  sync_interval: {self.sync}"
        return f"""\
server_name: {_quoted(self.name)}
listen: {_quoted(_authority(self.host, self.port))}
max_payload: {self.payload_max}
jetstream {{
  store_dir: {_quoted(str(self.directory / "data"))}
  max_memory_store: {self.memory_max}
  max_file_store: {self.file_max}{sync}
}}
cluster {{
  name: {_quoted(self.cluster)}
  listen: {_quoted(_authority(self.host, self.route_port))}
  authorization {{ user: {_ROUTES_USER}, password: {_quoted(self.system_password)} }}
  routes: [{routes}]
}}
accounts {{
  STORE {{ jetstream: enabled, users: [{{ user: {STORE_USER}, password: {_quoted(self.password)} }}] }}
  SYSTEM {{ users: [{{ user: {SYSTEM_USER}, password: {_quoted(self.system_password)} }}] }}
}}
system_account: SYSTEM
"""


class NatsServer:
    """A server's process: started, stopped, killed, paused and resumed."""

    def __init__(self, config: NatsConfig, *, prefix: Sequence[str] = ()) -> None:
        """prefix: a command that runs the program, such as `ip netns exec NAME`."""
        self.config = config
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The file that it writes its log to."""
        return self.config.directory / "nats.log"

    @property
    def pid(self) -> int | None:
        """Of its process; None: there is none."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether there is a process, which may be paused."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Have a process, which does not listen yet. A Ctrl-C in the terminal does not reach it.

        Raises `OptionError` where there is no program, `OSError`.
        """
        assert not self.running, "a server is started once"
        program = find_program()
        config = self.config
        config.directory.mkdir(parents=True, exist_ok=True)
        path = config.directory / "nats.conf"
        path.touch(mode=0o600)
        path.write_text(config.text())
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, program, "-c", path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_listening(self, patience: float = LISTEN_PATIENCE) -> None:
        """Wait until clients can connect; JetStream may take seconds more.

        Raises `OSError` when that takes longer, or the process ends.
        """
        until = time.monotonic() + patience
        while True:
            if not self.running:
                raise OSError(f"NATS server {self.config.name} ended:\n{self._log_tail()}")
            with contextlib.suppress(OSError), socket.create_connection((self.config.host, self.config.port), 1.0):
                return
            if time.monotonic() > until:
                raise OSError(f"NATS server {self.config.name} does not listen after {patience:g} s; see {self.log}")
            time.sleep(LOOK_EVERY)

    def stop(self, patience: float = STOP_PATIENCE) -> None:
        """End it in good order, or kill it when that takes longer."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        if self._process is not None:
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def pause(self) -> None:
        """Stop it as it is, until `resume`: its connections stay open, and say nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _log_tail(self) -> str:
        try:
            return self.log.read_bytes()[-_LOG_TAIL:].decode(errors="replace")
        except OSError as error:
            return str(error)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(text: str) -> str:
    """As a string of NATS' configuration language, which knows JSON's escapes of what is not printed."""
    return json.dumps(text, ensure_ascii=False)

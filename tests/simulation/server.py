"""The servers of the simulation: one process for each mode, which can be paused, killed and started again."""

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cairnkv.installation import PURE_VARIABLE
from tests.simulation.model import Wrong

if TYPE_CHECKING:
    from tests.support.nats import Nats

ROOT: Final = Path(__file__).parents[2]
MODES: Final = ("in-memory", "durable", "replicated")
START_SECONDS: Final = 60.0
"""How long a server may take to serve, or to end."""

_names = itertools.count(1)


class Server:
    """A server process of one mode.

    package: a directory that has another build of cairnkv in it; None takes the one that is installed.
    """

    def __init__(self, mode: str, directory: Path, *, nats: "Nats | None" = None, package: Path | None = None) -> None:
        self.mode = mode
        self.directory = directory
        self._package = package
        self._flags = ["--port", "0", "--unix", str(directory / "socket"), "--log-level", "warning"]
        self._flags += ["--frame-timeout", "600s", "--stall-timeout", "600s"]  # clients wait on purpose
        self._secrets: dict[str, str] = {}
        if mode != "in-memory":
            self._flags += ["--data", str(directory / "data")]
        if mode == "replicated":
            assert nats is not None
            self.cluster = f"simulation-{os.getpid()}-{next(_names)}"
            self._flags += ["--name", self.cluster, "--log-limit", "1024MiB"]
            self._flags += ["--cluster", ",".join(nats.urls), "--nats-system", nats.system]
        self.starts = 0
        self.stopped = False

    @property
    def stderr(self) -> str:
        """The server's output on standard error."""
        path = self.directory / "stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it, and wait until it serves."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (self.directory / "socket").unlink(missing_ok=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CAIRNKV_") or name == PURE_VARIABLE
        }
        environment["PYTHONPATH"] = os.pathsep.join([str(self._package or ROOT / "src"), str(ROOT)])
        command = [sys.executable, "-m", "tests.simulation.child", str(theirs.fileno()), "serve", *self._flags]
        with (self.directory / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                pass_fds=[theirs.fileno()],
                env=environment,
                cwd=ROOT,
            )
        theirs.close()
        self.passing = ours
        self.stopped = False
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        self.process.stdout.close()
        match = re.search(r"cairn://([\d.]+):(\d+)", line)
        if match is None:
            self.kill()
            raise Wrong(f"the {self.mode} server did not start: {self.stderr[-2000:]}")
        self.address = match[1], int(match[2])
        self.unix = str(self.directory / "socket")
        self.starts += 1

    def kill(self) -> None:
        """End it with SIGKILL, if it runs."""
        self.passing.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(START_SECONDS)

    def restart(self) -> None:
        """Kill it and start it again on the same directory."""
        self.kill()
        self.start()

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Pause it, and wait until it is paused."""
        if not self.stopped and self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.stopped = True

    def resume(self) -> None:
        """Let it go on."""
        if self.stopped:
            self.process.send_signal(signal.SIGCONT)
            self.stopped = False

    def connect(self, how: str, buffers: dict[str, int]) -> socket.socket:
        """A connection: over "tcp", "unix" or a "pair".

        buffers: bytes of `receive` and `send` on this side; of a pair also `peer_receive` and `peer_send`, on the
        server's side.
        """
        peer = None
        if how == "pair":
            connected, peer = socket.socketpair()
        else:
            connected = socket.socket(socket.AF_INET if how == "tcp" else socket.AF_UNIX)
        with contextlib.closing(peer) if peer is not None else contextlib.nullcontext():
            _set_buffers(connected, buffers.get("receive"), buffers.get("send"))
            if peer is None:
                connected.settimeout(START_SECONDS)
                connected.connect(self.address if how == "tcp" else self.unix)
                if how == "tcp":
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                _set_buffers(peer, buffers.get("peer_receive"), buffers.get("peer_send"))
                socket.send_fds(self.passing, [b"!"], [peer.fileno()])
        return connected


def _set_buffers(one: socket.socket, receive: int | None, send: int | None) -> None:
    if receive is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    if send is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send)


class Servers:
    """A server of each mode, started when it is asked for first. Use as a context manager, which ends them.

    nats: for the replicated mode; None starts one when it is needed.
    """

    def __init__(self, *, package: Path | None = None, nats: "Nats | None" = None) -> None:
        self._package = package
        self._nats = nats
        self._running: dict[str, Server] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._place = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-simulation-")))
        return self

    def __exit__(self, *_: object) -> None:
        for mode in list(self._running):
            self.end(mode)
        self._stack.close()

    def __getitem__(self, mode: str) -> Server:
        """The server of this mode."""
        if mode not in self._running:
            if mode == "replicated" and self._nats is None:
                from tests.support.nats import Nats

                self._nats = self._stack.enter_context(Nats(self._place))
            directory = Path(tempfile.mkdtemp(prefix=f"{mode}-", dir=self._place))
            server = Server(mode, directory, nats=self._nats, package=self._package)
            server.start()
            self._running[mode] = server
        return self._running[mode]

    def end(self, mode: str) -> None:
        """End the server of this mode. The next one has an empty store."""
        if mode in self._running:
            server = self._running.pop(mode)
            server.kill()
            if mode == "replicated" and self._nats is not None:
                self._nats.forget(server.cluster)

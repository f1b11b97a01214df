"""The control socket of a supervisor: one JSON line with a request, one JSON line with the result, over a Unix socket.

Invariants: only the owner of the directory can open the socket, and may send every request. Size and time of a request
and of its result are limited.

Out of scope: the execution of requests (`supervisor`).
"""

import contextlib
import json
import os
import shutil
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cairnkv.errors import CairnError, CallerError, OptionError
from cairnkv.lab.cluster.hosts import ClusterError
from cairnkv.limits import MIB

LINE_MAX: Final = MIB
"""Bytes in a request or a result."""

POLL_INTERVAL: Final = 0.05
"""Seconds between two checks whether the server has to close."""

SOCKET: Final = "cluster.sock"
PATH_MAX: Final = 100
"""Bytes in the path of the socket. Systems allow 103 or 107."""

REPLY_TIMEOUT: Final = 30.0
"""Seconds that a request may take. A kill waits for the end of the process; a start does not wait."""

Handler = Callable[[Mapping[str, Any]], Any]


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Receives requests on a socket, in its own threads."""

    daemon_threads = True
    execute: Handler
    """Executes a request; may raise `CairnError`."""

    def __init__(self, directory: Path) -> None:
        """directory: the place of the socket, unless the path is too long for a socket."""
        self._temporary: str | None = None
        self.path = directory / SOCKET
        if len(os.fsencode(self.path)) > PATH_MAX:
            self._temporary = tempfile.mkdtemp(prefix="cairn-")
            self.path = Path(self._temporary) / SOCKET
        super().__init__(str(self.path), _Connection, bind_and_activate=False)
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_INTERVAL,), daemon=True)

    def open(self, execute: Handler) -> None:
        """Start receiving requests. execute: see `ControlServer.execute`. Raises `OSError`."""
        self.execute = execute
        self.path.unlink(missing_ok=True)  # of a crashed supervisor: this one has the lock of the directory
        self.server_bind()
        self.path.chmod(0o600)  # before it listens
        self.server_activate()
        self._thread.start()

    def close(self) -> None:
        """Stop receiving requests, and remove the socket."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        self.path.unlink(missing_ok=True)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def handle_error(self, *_: Any) -> None:
        """Ignore a client that has disconnected."""


class _Connection(socketserver.StreamRequestHandler):
    timeout = REPLY_TIMEOUT

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, ControlServer)
        line = self.rfile.readline(LINE_MAX)
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise OptionError("a request is a JSON object")
            result = {"ok": server.execute(request)}
        except CairnError as error:
            result = {"error": str(error), "caller": isinstance(error, CallerError)}
        except ValueError as error:
            result = {"error": f"a request is a line of JSON: {error}", "caller": True}
        self.wfile.write(json.dumps(result).encode() + b"\n")


def send_request(path: Path, request: Mapping[str, Any]) -> Any:
    """Send a request and return its result. Raises the supervisor's error, or `ClusterError` without a result."""
    line = b""
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(REPLY_TIMEOUT)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as replies:
                line = replies.readline(LINE_MAX)
        result = json.loads(line)
    except (OSError, ValueError) as error:
        raise ClusterError(f"the cluster's supervisor does not reply: {error}") from None
    if "error" in result:
        raise (OptionError if result["caller"] else ClusterError)(result["error"])
    return result["ok"]

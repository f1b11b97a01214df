"""Requests to a supervisor in another process: lines of JSON over a Unix socket, one request each, one answer each.

What always holds: who can open the socket may do everything, and only its owner can. A request and its answer are
bounded, in size and in time.

Not for what requests mean (`requests`).
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
from cairnkv.lab.cluster.machines import ClusterError
from cairnkv.limits import MIB

LINE_MAX: Final = MIB
"""Bytes in a request or an answer."""

LOOK_EVERY: Final = 0.05
"""Seconds between two looks at whether the server is to close."""

SOCKET: Final = "cluster.sock"
PATH_MAX: Final = 100
"""Bytes that the path of a Unix socket may have: 103 or 107 by the system."""

ANSWER_PATIENCE: Final = 30.0
"""Seconds that an answer may take: to kill a machine is waited for, to start it is not."""

Ask = Callable[[Mapping[str, Any]], Any]


class ControlServer:
    """Takes requests at a socket, in threads of its own, until it is closed."""

    def __init__(self, directory: Path) -> None:
        """One that is not open yet. directory: where its socket is, if that path is short enough for one."""
        self._made: str | None = None
        self.path = directory / SOCKET
        """Of the socket."""
        if len(os.fsencode(self.path)) > PATH_MAX:
            self._made = tempfile.mkdtemp(prefix="cairn-")
            self.path = Path(self._made) / SOCKET
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def open(self, ask: Ask) -> None:
        """Take requests. ask: does what is asked, and raises `CairnError`. Raises `OSError`."""
        self.path.unlink(missing_ok=True)  # of one that crashed: who has the directory's lock is the only one
        server = _Server(str(self.path), _Handler, bind_and_activate=False)
        server.ask = ask
        try:
            server.server_bind()
            self.path.chmod(0o600)  # before it listens
            server.server_activate()
        except BaseException:
            server.server_close()
            raise
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(LOOK_EVERY,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, if any were taken."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self.path.unlink(missing_ok=True)
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    ask: Ask

    def handle_error(self, *_: Any) -> None:
        """Whoever asked has gone: nothing to say, and nobody to say it to."""


class _Handler(socketserver.StreamRequestHandler):
    timeout = ANSWER_PATIENCE

    def handle(self) -> None:
        server = self.server
        assert isinstance(server, _Server)
        line = self.rfile.readline(LINE_MAX)
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise OptionError("a request is an object")
            answer = {"ok": server.ask(request)}
        except CairnError as error:
            answer = {"error": str(error), "caller": isinstance(error, CallerError)}
        except ValueError as error:
            answer = {"error": f"a request is a line of JSON: {error}", "caller": True}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def ask_at(path: Path, request: Mapping[str, Any]) -> Any:
    """Ask the supervisor there. Raises what it raised, or `ClusterError` when it does not answer."""
    line = b""
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(ANSWER_PATIENCE)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(LINE_MAX)
        answer = json.loads(line)
    except (OSError, ValueError) as error:
        raise ClusterError(f"the cluster's supervisor does not answer: {error}") from None
    if "error" in answer:
        raise (OptionError if answer["caller"] else ClusterError)(answer["error"])
    return answer["ok"]

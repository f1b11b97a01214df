"""Requests to a supervisor in another process: lines of JSON over a Unix socket, one request each, one answer each.

What always holds: who can open the socket may do everything, and only its owner can. A request and its answer are
bounded, in size and in time.

Not for what requests mean (`supervisor`).
"""

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cairnkv.cluster.machines import ClusterError
from cairnkv.errors import CairnError, CallerError, OptionError
from cairnkv.limits import MIB

LINE_MAX: Final = MIB
"""Bytes in a request or an answer."""

ANSWER_PATIENCE: Final = 30.0
"""Seconds that an answer may take: to kill a machine is waited for, to start it is not."""

Ask = Callable[[Mapping[str, Any]], Any]


class ControlServer:
    """Takes requests at a socket, in threads of its own, until it is closed."""

    def __init__(self, path: Path, ask: Ask) -> None:
        """ask: does what is asked, and raises `CairnError`."""
        path.unlink(missing_ok=True)  # of one that crashed: who has the directory's lock is the only one
        self._path = path
        self._server = _Server(str(path), _Handler, bind_and_activate=False)
        self._server.ask = ask
        try:
            self._server.server_bind()
            path.chmod(0o600)  # before it listens
            self._server.server_activate()
        except BaseException:
            self._server.server_close()
            raise
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._path.unlink(missing_ok=True)


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

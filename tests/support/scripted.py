"""A scripted server, for behaviour that a real server shows only during faults."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from cairnkv.client.wrong_server import PROBE, TLS_PROBE
from cairnkv.commands import Failure
from cairnkv.protocol.native import CommandDecoder, Request, StatusByte, reply_parts

PATIENCE = 20.0
"""Seconds that anything here may take."""


class Conversation:
    """One client that came, as a script sees it."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._decoder = CommandDecoder()

    def command(self) -> Request | None:
        """The client's next command; None when it has gone."""
        while (request := self._decoder.next()) is None:
            try:
                data = self.socket.recv(65_536)
            except OSError:
                return None
            if not data:
                return None
            self._decoder.feed(data)
        assert isinstance(request, Request), request
        return request

    def say(self, reply: object) -> None:
        """Answer with a reply."""
        self.raw(b"".join(reply_parts(reply, StatusByte.ASCII)))  # type: ignore[arg-type]

    def raw(self, data: bytes) -> None:
        """Answer with bytes, if the client is still there."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def fail(self, failure: Failure) -> None:
        """Answer with a failure and close."""
        self.say(failure)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class Scripted:
    """The address of the server, and the number of its clients."""

    def __init__(self, listener: socket.socket) -> None:
        self.url = "cairn://{}:{}".format(*listener.getsockname())
        self.port: int = listener.getsockname()[1]
        self.conversations: list[Conversation] = []


PROBE_PATIENCE = 1.0
"""Seconds that a client may take to send its first bytes, before it is taken for one that says nothing at first."""

Script = Callable[[Conversation], None]


def is_probe(connected: socket.socket) -> bool:
    """Whether a client only asks what kind of server this is: that has no script, and no answer."""
    connected.settimeout(PROBE_PATIENCE)
    try:
        return connected.recv(1, socket.MSG_PEEK) in (PROBE[:1], TLS_PROBE[:1])
    except OSError:
        return False


def dismiss(connected: socket.socket) -> None:
    """Close a connection so that the client gets all that was sent: unread bytes would reset it."""
    with connected, contextlib.suppress(OSError):
        connected.settimeout(PATIENCE)
        connected.shutdown(socket.SHUT_WR)
        while connected.recv(65_536):
            pass


@contextlib.contextmanager
def scripted(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """Listen on a free port; the first client gets the first script, and so on, the last one all that follow.

    A script that raises fails the test. tls: the context of a server with TLS. A failed handshake is no conversation.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        server = Scripted(listener)
        wrong: list[BaseException] = []
        threads: list[threading.Thread] = []

        def serve(script: Script, conversation: Conversation) -> None:
            try:
                script(conversation)
            except BaseException as error:
                wrong.append(error)
            finally:
                conversation.hang_up()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connected, _ = listener.accept()
                    if tls is None and is_probe(connected):
                        connected.close()
                        continue
                    connected.settimeout(PATIENCE)
                    if tls is not None:
                        secured = tls.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
                        try:
                            secured.do_handshake()
                        except OSError:
                            dismiss(socket.socket(fileno=secured.detach()))
                            continue
                        connected = secured
                    conversation = Conversation(connected)
                    script = scripts[min(len(server.conversations), len(scripts) - 1)]
                    server.conversations.append(conversation)
                    threads.append(threading.Thread(target=serve, args=(script, conversation), daemon=True))
                    threads[-1].start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join(PATIENCE)
            for conversation in server.conversations:
                with contextlib.suppress(OSError):
                    conversation.socket.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(PATIENCE)
        if wrong:
            raise wrong[0]

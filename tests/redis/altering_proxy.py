"""A proxy before redis-server that alters replies, for the tests that the comparison detects a difference."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

from tests.support.raw import SECONDS
from tests.support.targets import Target


@contextlib.contextmanager
def altering_proxy(target: Target, original: bytes, altered: bytes) -> Iterator[Target]:
    """Yield a server that replies as the target does, with some bytes replaced."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        ended = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, target, original, altered, ended), daemon=True)
        thread.start()
        try:
            yield Target("altering proxy", *listener.getsockname())
        finally:
            ended.set()
            with contextlib.suppress(OSError), socket.create_connection(listener.getsockname(), SECONDS):
                pass  # ends the last accept
            thread.join(SECONDS)


def _accept(listener: socket.socket, target: Target, original: bytes, altered: bytes, ended: threading.Event) -> None:
    while not ended.is_set():
        client, _ = listener.accept()
        if ended.is_set():
            client.close()
            return
        threading.Thread(target=_serve, args=(client, target, original, altered), daemon=True).start()


def _serve(client: socket.socket, target: Target, original: bytes, altered: bytes) -> None:
    """Relay bytes until one side closes. Replies are short here, so each arrives in one piece."""
    with contextlib.suppress(OSError), client, socket.create_connection(target.address, SECONDS) as server:
        while True:
            for source in select.select([client, server], [], [], SECONDS)[0]:
                data = source.recv(64 * 1024)
                if not data:
                    return
                if source is client:
                    server.sendall(data)
                else:
                    client.sendall(data.replace(original, altered))

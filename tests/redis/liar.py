"""A server that lies: redis-server with something between that puts other words in its mouth.

Only for the proof that the differential test can fail.
"""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

from tests.support.raw import SECONDS
from tests.support.targets import Target


@contextlib.contextmanager
def lying(target: Target, said: bytes, instead: bytes) -> Iterator[Target]:
    """A server that answers as the target does, but for one word of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        ended = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, target, said, instead, ended), daemon=True)
        thread.start()
        try:
            yield Target("liar", *listener.getsockname())
        finally:
            ended.set()
            with contextlib.suppress(OSError), socket.create_connection(listener.getsockname(), SECONDS):
                pass  # so that it stops waiting for somebody
            thread.join(SECONDS)


def _accept(listener: socket.socket, target: Target, said: bytes, instead: bytes, ended: threading.Event) -> None:
    while not ended.is_set():
        client, _ = listener.accept()
        if ended.is_set():
            client.close()
            return
        threading.Thread(target=_serve, args=(client, target, said, instead), daemon=True).start()


def _serve(client: socket.socket, target: Target, said: bytes, instead: bytes) -> None:
    """Pass bytes on, both ways, until one side closes. Replies here are short: one comes in one piece."""
    with contextlib.suppress(OSError), client, socket.create_connection(target.address, SECONDS) as server:
        while True:
            for source in select.select([client, server], [], [], SECONDS)[0]:
                data = source.recv(64 * 1024)
                if not data:
                    return
                if source is client:
                    server.sendall(data)
                else:
                    client.sendall(data.replace(said, instead))

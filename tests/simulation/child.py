"""`cairn serve` that takes connected sockets from the simulation, besides those that it accepts.

    python -m tests.simulation.child DESCRIPTOR serve --port 0 ...

DESCRIPTOR is a Unix socket over which the simulation passes one end of each socket pair. The simulation chooses the
buffers of both ends, so that the server's own writes are partial.

Invariants: a passed socket takes the same way as an accepted one, `Listener` and `Transport` included.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import cairnkv.server.server as server_module
from cairnkv.cli.main import main
from cairnkv.server.loop import Listener, PolledLoop
from cairnkv.server.loop import listen as listen_as_ever


class PassedSockets(socket.socket):
    """Looks like a listening Unix socket; `accept` returns a socket that the simulation has passed."""

    def listen(self, backlog: int = 0, /) -> None:
        """Nothing to do."""

    def accept(self) -> tuple[socket.socket, str]:
        """The next socket. BlockingIOError when there is none."""
        data, descriptors, _, _ = socket.recv_fds(self, 1, 1)
        if not data:
            os._exit(1)  # the simulation has ended
        return socket.socket(fileno=descriptors[0]), ""


def take_sockets(descriptor: int) -> None:
    """Have the server of this process take sockets from this descriptor as well."""
    passed = PassedSockets(fileno=descriptor)
    taking: list[object] = []

    async def listen(
        listening: socket.socket, new_protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Server | Listener:
        if not taking:
            loop = asyncio.get_running_loop()
            if isinstance(loop, PolledLoop):
                taking.append(Listener(loop, passed, new_protocol))
            else:
                passed.setblocking(False)
                loop.add_reader(passed, _take_all, loop, passed, new_protocol)
        return await listen_as_ever(listening, new_protocol)

    server_module.listen = listen  # type: ignore[attr-defined]


def _take_all(
    loop: asyncio.AbstractEventLoop, passed: PassedSockets, new_protocol: Callable[[], asyncio.Protocol]
) -> None:
    while True:
        try:
            connected, _ = passed.accept()
        except BlockingIOError:
            return
        connected.setblocking(False)
        task = loop.create_task(loop.connect_accepted_socket(new_protocol, connected))
        task.add_done_callback(lambda done: done.result())


if __name__ == "__main__":
    take_sockets(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))

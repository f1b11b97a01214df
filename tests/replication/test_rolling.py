"""A rolling restart while clients of all nodes write: no acknowledged write is lost."""

import collections
import threading
from typing import Any

import cairnkv
from cairnkv.lab.cluster.nats import free_ports
from tests.replication.nodes import PATIENCE, Nodes, told, until

WRITERS = 4


class Writer(threading.Thread):
    """A client that increments its own key."""

    def __init__(self, number: int, url: str) -> None:
        super().__init__(daemon=True)
        self.key = f"writer {number}"
        self.url = url
        self.acknowledged = self.tried = 0
        self.errors: collections.Counter[str] = collections.Counter()
        self.done = threading.Event()

    def run(self) -> None:
        with cairnkv.connect(self.url, timeout=PATIENCE) as kv:
            while not self.done.is_set():
                self.tried += 1
                try:
                    kv.set(self.key, str(self.tried))
                    self.acknowledged = self.tried
                except cairnkv.CairnError as error:
                    self.errors[str(error)] += 1


def go_on(writers: list[Writer]) -> None:
    """Wait until each writer has written again."""
    wanted = [writer.acknowledged + 10 for writer in writers]
    until(lambda: all(writer.acknowledged > least for writer, least in zip(writers, wanted, strict=True)))


def test_rolling_restart_loses_no_write_and_clients_see_no_error(node: Nodes) -> None:
    ports = dict(zip("abc", free_ports(3), strict=True))
    url = "cairn://" + ",".join(f"127.0.0.1:{port}" for port in ports.values())
    running: dict[str, Any] = {name: node(name, port=port) for name, port in ports.items()}
    servers = {name: context.__enter__() for name, context in running.items()}
    writers = [Writer(number, url) for number in range(WRITERS)]
    try:
        for writer in writers:
            writer.start()
        for name, port in ports.items():
            go_on(writers)
            running.pop(name).__exit__(None, None, None)
            context = node(name, port=port)
            servers[name] = context.__enter__()
            running[name] = context
        go_on(writers)
        for writer in writers:
            writer.done.set()
            writer.join(PATIENCE)
        with cairnkv.connect(url, timeout=PATIENCE) as kv:
            for writer in writers:
                assert writer.acknowledged <= int(kv.get(writer.key) or 0) <= writer.tried
        until(lambda: len({told(server)["stream_position"] for server in servers.values()}) == 1)
        assert len({told(server)["state_digest"] for server in servers.values()}) == 1
        assert [writer.errors for writer in writers] == [{}] * WRITERS
    finally:
        for writer in writers:
            writer.done.set()
        for context in running.values():
            context.__exit__(None, None, None)

import asyncio
import socket
from typing import Any

from cairnkv.session.executor_native import FrameExecutor

class Poller:
    def __init__(self, epoll: int) -> None: ...
    def poll(self, timeout: float) -> list[tuple[int, int]]: ...

class Transport(asyncio.Transport):
    heard: float
    def __init__(
        self, poller: Poller, loop: asyncio.AbstractEventLoop, connected: socket.socket, protocol: asyncio.Protocol
    ) -> None: ...
    @property
    def holds(self) -> bool: ...
    def hand_over(self) -> None: ...
    def read_next(self, size: int) -> None: ...
    def set_native_path(
        self,
        frame_executor: FrameExecutor | None,
        width: int,
        statuses: tuple[int, int],
        string_max: int,
        frame_max: int,
        reads_locally: bool,
    ) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...

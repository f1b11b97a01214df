from cairnkv.keyspace import Keyspace
from cairnkv.store import Clock
from cairnkv.store.hot_held import HeldRun
from cairnkv.store.runs import Gathering
from cairnkv.store.staging import Staging

class Accelerator:
    commands: int
    writes: int
    off: bool
    proposes: bool
    def __init__(self, keyspace: Keyspace, clock: Clock, staging: Staging | Gathering | None = None) -> None: ...
    def run(
        self,
        buffer: bytes | bytearray,
        start: int,
        *,
        width: int,
        statuses: tuple[int, int],
        string_max: int,
        frame_max: int,
        reads_locally: bool = False,
        own_writes_there: bool = True,
        bytes_max: int = ...,
    ) -> int: ...
    @property
    def executed(self) -> int: ...
    def output(self) -> bytes: ...
    def held(self) -> HeldRun | None: ...

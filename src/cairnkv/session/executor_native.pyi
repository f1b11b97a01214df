from cairnkv.engine import Database
from cairnkv.session.access.rights import Rights
from cairnkv.session.access.rights_native import NativeRights
from cairnkv.store import Clock
from cairnkv.store.pending_native import PendingBatch

class FrameExecutor:
    commands: int
    writes: int
    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    off: bool
    proposes: bool
    def __init__(self, database: Database, clock: Clock, collector: object = None) -> None: ...
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
        rights: NativeRights | None = None,
    ) -> int: ...
    def native_rights(self, rights: Rights) -> NativeRights: ...
    @property
    def work(self) -> int: ...
    def output(self) -> bytes: ...
    def pending(self) -> PendingBatch | None: ...

from typing import Final

from cairnkv.commands import Command, Reply
from cairnkv.engine.database import Database
from cairnkv.engine.queue_index import Lists

LISTS: Final[Lists]

class NativeQueues:
    def __init__(self, database: Database) -> None: ...
    def execute(self, command: Command) -> Reply | None: ...

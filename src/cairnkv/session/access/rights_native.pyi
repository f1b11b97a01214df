from collections.abc import Iterable

from cairnkv.session.access.rights import Rights

class NativeRights:
    def __init__(self, rights: Rights, commands: int) -> None: ...

def rights_for(rights: Rights, needed: Iterable[Iterable[str]]) -> NativeRights: ...

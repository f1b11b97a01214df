from cairnkv.client.calls import K, V
from cairnkv.client.embedded import Embedded

class DirectEmbedded(Embedded[K, V]):
    @property
    def direct_calls(self) -> int: ...

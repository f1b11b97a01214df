from cairnkv.store.clock import Clock

class HotClock:
    def __init__(self, clock: Clock) -> None: ...

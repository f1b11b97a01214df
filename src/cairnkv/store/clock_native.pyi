from cairnkv.store.clock import Clock, LogClock

class HotClock:
    def __init__(self, clock: Clock | LogClock) -> None: ...

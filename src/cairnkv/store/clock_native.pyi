from cairnkv.store.clock import Clock, LogClock

class NativeClock:
    def __init__(self, clock: Clock | LogClock) -> None: ...

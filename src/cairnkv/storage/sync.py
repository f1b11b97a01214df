"""When a commit counts as safe on the disk.

always   after fsync: it outlives this process, this system and the power
1s       after it was written: it outlives this process; the system or the power may take what came in the last
         second (or any other time), which is how often fsync is called
none     after it was written: the system alone decides when it reaches the disk
"""

from cairnkv.records import record
from cairnkv.units import seconds


@record
class Sync:
    """How often fsync is called.

    every: seconds; 0: for every commit, before any reply that waits for it; None: never.
    """

    every: float | None = 0.0

    @classmethod
    def parse(cls, text: str) -> "Sync":
        """From `always`, `none` or a time.

        >>> Sync.parse("always"), Sync.parse("500ms"), str(Sync.parse("1s"))
        (Sync(every=0.0), Sync(every=0.5), '1s')
        """
        if text in ("always", "none"):
            return cls(0.0 if text == "always" else None)
        try:
            every = seconds(text)
        except ValueError:
            every = 0.0
        if every <= 0:
            raise ValueError(f"always, none, or a time such as 1s or 500ms, not {text!r}")
        return cls(every)

    def __str__(self) -> str:
        if self.every is None:
            return "none"
        return f"{self.every:g}s" if self.every else "always"

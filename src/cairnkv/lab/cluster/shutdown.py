"""Whether a supervisor is told to stop, by a signal, a request or its own process; and the wait between two looks.

What always holds: it is asked for once and stays so; both marks are plain attributes, which a signal handler may set at
any moment, as it may not set a `threading.Event`.

Not for stopping (`supervisor`).
"""

import time
from typing import Final

LOOK_EVERY: Final = 0.05
"""Seconds between two looks at processes, or at whether the end has come."""


class Shutdown:
    """asked: it is to stop. hurried: and to wait for nobody."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.asked = False
        self.hurried = False

    def wait(self) -> bool:
        """Wait a little; gives whether it is asked for."""
        time.sleep(LOOK_EVERY)
        return self.asked

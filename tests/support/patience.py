"""Bounds for tests that prove that something does not wait."""

from typing import Final

AT_ONCE: Final = 15.0
"""Seconds in which something is done that does not wait, on a busy machine too. What fails has to take much longer."""

"""Bounds for tests that something does not wait."""

from typing import Final

AT_ONCE: Final = 15.0
"""Maximum seconds of an action that does not wait, on a busy machine. A failing action must take much longer."""

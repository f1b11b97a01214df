"""Sessions: one client's conversation each, sans-IO."""

from cairnkv.session.acceleration import accelerator_of
from cairnkv.session.session import TRANSITIONS, Acceleration, Event, Session, State

__all__ = ["TRANSITIONS", "Acceleration", "Event", "Session", "State", "accelerator_of"]

"""Sessions: one client's conversation each, sans-IO."""

from cairnkv.session.session import TRANSITIONS, Event, Session, State

__all__ = ["TRANSITIONS", "Event", "Session", "State"]

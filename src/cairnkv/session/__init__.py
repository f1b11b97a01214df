"""Sessions: one client's conversation each, sans-IO."""

from cairnkv.session.context import OptionRefused, Options, Peer, ServerContext
from cairnkv.session.conversation import Acceleration
from cairnkv.session.native_path import article_accelerator, redis_accelerator
from cairnkv.session.session import TRANSITIONS, Event, Session, State

__all__ = [
    "TRANSITIONS",
    "Acceleration",
    "Event",
    "OptionRefused",
    "Options",
    "Peer",
    "ServerContext",
    "Session",
    "State",
    "article_accelerator",
    "redis_accelerator",
]

"""Sessions: one client's conversation each, sans-IO."""

from cairnkv.session.context import CLIENT_LOGGER, OptionRefused, Options, Peer, ServerContext
from cairnkv.session.conversation import NativePathSettings
from cairnkv.session.native_path import native_frame_executor
from cairnkv.session.session import TRANSITIONS, Event, Session, State

__all__ = [
    "CLIENT_LOGGER",
    "TRANSITIONS",
    "Event",
    "NativePathSettings",
    "OptionRefused",
    "Options",
    "Peer",
    "ServerContext",
    "Session",
    "State",
    "native_frame_executor",
]

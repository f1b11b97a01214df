"""Who listens to which channels, and what is said on them.

What always holds: a message goes to those who listen at that moment, and is kept by nobody; a client that listens to
a channel and to patterns that match it gets the message once for each. A client leaves no trace once it has left.

Not for the words of subscribing (`words.pubsub`), nor for a client that does not take its messages (the session).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cairnkv.limits import MIB
from cairnkv.session.redis.glob import matcher
from cairnkv.wire.redis import Push

if TYPE_CHECKING:
    from cairnkv.session.redis.conversation import RedisConversation

SUBSCRIPTIONS_MAX: Final = 65_536
"""Channels and patterns together that one client may listen to."""

SUBSCRIBED_BYTES_MAX: Final = 16 * MIB
"""Bytes in the names of all these."""

MESSAGE_BYTES: Final = 128
"""Bytes that a message takes besides its text, near enough."""


class PubSub:
    """Channels and patterns, and the conversations that listen to them, who came first first."""

    def __init__(self) -> None:
        self._channels: dict[bytes, dict[RedisConversation, None]] = {}
        self._patterns: dict[bytes, tuple[Callable[[bytes], bool], dict[RedisConversation, None]]] = {}

    def subscribe(self, channel: bytes, listener: "RedisConversation") -> None:
        """Let somebody listen to a channel."""
        self._channels.setdefault(channel, {})[listener] = None
        listener.channels[channel] = None

    def unsubscribe(self, channel: bytes, listener: "RedisConversation") -> None:
        """Likewise no longer."""
        if channel in listener.channels:
            del listener.channels[channel]
            listeners = self._channels[channel]
            del listeners[listener]
            if not listeners:
                del self._channels[channel]

    def subscribe_pattern(self, pattern: bytes, listener: "RedisConversation") -> None:
        """Let somebody listen to all channels that a glob pattern matches."""
        self._patterns.setdefault(pattern, (matcher(pattern), {}))[1][listener] = None
        listener.patterns[pattern] = None

    def unsubscribe_pattern(self, pattern: bytes, listener: "RedisConversation") -> None:
        """Likewise no longer."""
        if pattern in listener.patterns:
            del listener.patterns[pattern]
            listeners = self._patterns[pattern][1]
            del listeners[listener]
            if not listeners:
                del self._patterns[pattern]

    def leave(self, listener: "RedisConversation") -> None:
        """Somebody listens to nothing any more."""
        for channel in list(listener.channels):
            self.unsubscribe(channel, listener)
        for pattern in list(listener.patterns):
            self.unsubscribe_pattern(pattern, listener)

    def publish(self, channel: bytes, message: bytes) -> int:
        """Say something on a channel; to how many listeners."""
        told = 0
        size = len(channel) + len(message) + MESSAGE_BYTES
        for listener in list(self._channels.get(channel, ())):
            listener.push(Push((b"message", channel, message)), size)
            told += 1
        for pattern, (matches, listeners) in list(self._patterns.items()):
            if matches(channel):
                for listener in list(listeners):
                    listener.push(Push((b"pmessage", pattern, channel, message)), size + len(pattern))
                    told += 1
        return told

    def channels(self) -> list[bytes]:
        """The channels that somebody listens to."""
        return list(self._channels)

    def listeners(self, channel: bytes) -> int:
        """How many listen to a channel, those by patterns not counted."""
        return len(self._channels.get(channel, ()))

    def patterns(self) -> int:
        """How many patterns somebody listens to."""
        return len(self._patterns)

"""Who listens to which channels, and what is said on them.

What always holds: a message goes to those who listen at that moment, and is kept by nobody; a client that listens to
a channel and to patterns that match it gets the message once for each. A client leaves no trace once it has left.

Not for the words of subscribing (`commands.pubsub`), nor for a client that does not take its messages (the session).
"""

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from cairnkv.limits import KIB
from cairnkv.protocol.resp import Push, encode_parts
from cairnkv.session.resp.encoding import Said
from cairnkv.session.resp.glob import matcher

SUBSCRIPTION_BYTES: Final = 512
"""Bytes that a subscription keeps in memory besides its name, near enough."""

PATTERN_TIMES: Final = 200
"""How many times its own bytes a pattern that was made ready to be matched keeps in memory, at most."""

SEARCHED_BYTES_MAX: Final = 256 * KIB
"""Bytes in all patterns that have to be searched for in each channel's name, since there is more than one star in them.
To hold the longest name against so many takes some tenths of a second; any others are matched at a glance."""

MESSAGE_BYTES: Final = 128
"""Bytes that a message takes besides its text, near enough."""


def kept_for_channel(channel: bytes) -> int:
    """Bytes of memory that listening to a channel takes, near enough."""
    return SUBSCRIPTION_BYTES + len(channel)


def kept_for_pattern(pattern: bytes) -> int:
    """Likewise of a pattern."""
    return SUBSCRIPTION_BYTES + len(pattern) * (PATTERN_TIMES if _searched(pattern) else 32)


def _searched(pattern: bytes) -> int:
    """Bytes of a pattern if it has to be searched for, and 0 if not."""
    return len(pattern) if pattern.count(b"*") > 1 else 0


class Listener(Protocol):
    """A conversation that receives messages."""

    subscribed_bytes: int

    @property
    def channels(self) -> dict[bytes, None]:
        """The channels that it listens to."""

    @property
    def patterns(self) -> dict[bytes, None]:
        """The patterns that it listens to."""

    def push(self, said: Said, size: int) -> None:
        """Send a message, unasked."""


class PubSub:
    """Channels and patterns, and the conversations that listen to them, who came first first."""

    def __init__(self) -> None:
        self._channels: dict[bytes, dict[Listener, None]] = {}
        self._patterns: dict[bytes, tuple[Callable[[bytes], bool], dict[Listener, None]]] = {}
        self._searched_bytes = 0
        self.relay: Callable[[bytes, bytes], None] = _alone
        """Told what is said here, for those who listen elsewhere."""

    def subscribe(self, channel: bytes, listener: Listener) -> None:
        """Let somebody listen to a channel."""
        if channel not in listener.channels:
            self._channels.setdefault(channel, {})[listener] = None
            listener.channels[channel] = None
            listener.subscribed_bytes += kept_for_channel(channel)

    def unsubscribe(self, channel: bytes, listener: Listener) -> None:
        """Likewise no longer."""
        if channel in listener.channels:
            del listener.channels[channel]
            listener.subscribed_bytes -= kept_for_channel(channel)
            listeners = self._channels[channel]
            del listeners[listener]
            if not listeners:
                del self._channels[channel]

    def subscribe_pattern(self, pattern: bytes, listener: Listener) -> None:
        """Let somebody listen to all channels that a glob pattern matches, if `has_room_for` it."""
        if pattern not in listener.patterns:
            if pattern not in self._patterns:
                self._patterns[pattern] = matcher(pattern), {}
                self._searched_bytes += _searched(pattern)
            self._patterns[pattern][1][listener] = None
            listener.patterns[pattern] = None
            listener.subscribed_bytes += kept_for_pattern(pattern)

    def has_room_for(self, patterns: Iterable[bytes]) -> bool:
        """Whether all patterns, with these, are few enough to be held against each message."""
        searched = sum(_searched(pattern) for pattern in patterns if pattern not in self._patterns)
        return not searched or self._searched_bytes + searched <= SEARCHED_BYTES_MAX

    def unsubscribe_pattern(self, pattern: bytes, listener: Listener) -> None:
        """Likewise no longer."""
        if pattern in listener.patterns:
            del listener.patterns[pattern]
            listener.subscribed_bytes -= kept_for_pattern(pattern)
            listeners = self._patterns[pattern][1]
            del listeners[listener]
            if not listeners:
                del self._patterns[pattern]
                self._searched_bytes -= _searched(pattern)

    def leave(self, listener: Listener) -> None:
        """Somebody listens to nothing any more."""
        for channel in list(listener.channels):
            self.unsubscribe(channel, listener)
        for pattern in list(listener.patterns):
            self.unsubscribe_pattern(pattern, listener)

    def publish(self, channel: bytes, message: bytes) -> int:
        """Say something on a channel; to how many listeners here."""
        self.relay(channel, message)
        return self.publish_here(channel, message)

    def publish_here(self, channel: bytes, message: bytes) -> int:
        """The same, said by somebody elsewhere."""
        size = len(channel) + len(message) + MESSAGE_BYTES
        told = _tell(self._channels.get(channel, {}), Push((b"message", channel, message)), size)
        for pattern, (matches, listeners) in self._patterns.items():
            if matches(channel):
                told += _tell(listeners, Push((b"pmessage", pattern, channel, message)), size + len(pattern))
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


def _alone(channel: bytes, message: bytes) -> None:
    """Nobody listens elsewhere."""


def _tell(listeners: Collection[Listener], message: Push, size: int) -> int:
    """Say a message to these, whose bytes are made once for all who speak a version of the protocol."""
    said = functools.cache(lambda protocol: (b"".join(encode_parts(message, protocol)),))
    for listener in listeners:
        listener.push(said, size)
    return len(listeners)

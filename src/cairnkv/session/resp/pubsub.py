"""Channels: their subscribers, and the delivery of messages.

Invariants: a message goes to the subscribers of that moment; the server keeps no message. A client that subscribes to a
channel and to patterns that match it gets the message once for each. A client that has left is in no list.

Out of scope: the commands (`commands.pubsub`), and clients that do not read their messages (the session).
"""

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from cairnkv.limits import KIB
from cairnkv.protocol.resp import Push, encode_parts
from cairnkv.session.resp.glob import matcher
from cairnkv.session.resp.values import PushEncoder

SUBSCRIPTION_BYTES: Final = 512
"""Estimated overhead of a subscription in bytes."""

PATTERN_TIMES: Final = 200
"""Maximum memory of a compiled pattern, as a multiple of its bytes."""

SEARCHED_BYTES_MAX: Final = 256 * KIB
"""Maximum bytes of all patterns with more than one star, which each message must search for. The longest channel name
takes some tenths of a second against so many. Other patterns take no search."""

MESSAGE_BYTES: Final = 128
"""Estimated overhead of a message in bytes."""


def kept_for_channel(channel: bytes) -> int:
    """Return the estimated bytes of a subscription to a channel."""
    return SUBSCRIPTION_BYTES + len(channel)


def kept_for_pattern(pattern: bytes) -> int:
    """Return the estimated bytes of a subscription to a pattern."""
    return SUBSCRIPTION_BYTES + len(pattern) * (PATTERN_TIMES if _searched(pattern) else 32)


def _searched(pattern: bytes) -> int:
    """Return the bytes of a pattern that must be searched for, and 0 for any other."""
    return len(pattern) if pattern.count(b"*") > 1 else 0


class Subscriber(Protocol):
    """A conversation that receives messages."""

    channels: dict[bytes, None]
    patterns: dict[bytes, None]
    subscribed_bytes: int
    """The estimated bytes of its subscriptions to these."""

    def push(self, encoder: PushEncoder, size: int) -> None:
        """Send a message."""


class PubSub:
    """Channels and patterns with their subscribers, in the order of their subscriptions."""

    def __init__(self) -> None:
        self._channels: dict[bytes, dict[Subscriber, None]] = {}
        self._patterns: dict[bytes, tuple[Callable[[bytes], bool], dict[Subscriber, None]]] = {}
        self._searched_bytes = 0
        self.relay: Callable[[bytes, bytes], None] = _ignore
        """Sends a message to the subscribers of other servers."""

    def subscribe(self, channel: bytes, subscriber: Subscriber) -> None:
        """Subscribe to a channel."""
        if channel not in subscriber.channels:
            self._channels.setdefault(channel, {})[subscriber] = None
            subscriber.channels[channel] = None
            subscriber.subscribed_bytes += kept_for_channel(channel)

    def unsubscribe(self, channel: bytes, subscriber: Subscriber) -> None:
        """Unsubscribe from a channel."""
        if channel in subscriber.channels:
            del subscriber.channels[channel]
            subscriber.subscribed_bytes -= kept_for_channel(channel)
            subscribers = self._channels[channel]
            del subscribers[subscriber]
            if not subscribers:
                del self._channels[channel]

    def subscribe_pattern(self, pattern: bytes, subscriber: Subscriber) -> None:
        """Subscribe to all channels that a glob pattern matches. Only if `has_room_for` it."""
        if pattern not in subscriber.patterns:
            if pattern not in self._patterns:
                self._patterns[pattern] = matcher(pattern), {}
                self._searched_bytes += _searched(pattern)
            self._patterns[pattern][1][subscriber] = None
            subscriber.patterns[pattern] = None
            subscriber.subscribed_bytes += kept_for_pattern(pattern)

    def has_room_for(self, patterns: Iterable[bytes]) -> bool:
        """Whether each message can be matched against these patterns besides the others."""
        searched = sum(_searched(pattern) for pattern in patterns if pattern not in self._patterns)
        return not searched or self._searched_bytes + searched <= SEARCHED_BYTES_MAX

    def unsubscribe_pattern(self, pattern: bytes, subscriber: Subscriber) -> None:
        """Unsubscribe from a pattern."""
        if pattern in subscriber.patterns:
            del subscriber.patterns[pattern]
            subscriber.subscribed_bytes -= kept_for_pattern(pattern)
            subscribers = self._patterns[pattern][1]
            del subscribers[subscriber]
            if not subscribers:
                del self._patterns[pattern]
                self._searched_bytes -= _searched(pattern)

    def leave(self, subscriber: Subscriber) -> None:
        """Unsubscribe from all channels and patterns."""
        for channel in list(subscriber.channels):
            self.unsubscribe(channel, subscriber)
        for pattern in list(subscriber.patterns):
            self.unsubscribe_pattern(pattern, subscriber)

    def publish(self, channel: bytes, message: bytes) -> int:
        """Publish a message to a channel. Returns the number of subscribers of this server."""
        self.relay(channel, message)
        return self.publish_here(channel, message)

    def publish_here(self, channel: bytes, message: bytes) -> int:
        """Publish a message to the subscribers of this server only. Returns their number."""
        size = len(channel) + len(message) + MESSAGE_BYTES
        receivers = _send(self._channels.get(channel, {}), Push((b"message", channel, message)), size)
        for pattern, (matches, subscribers) in self._patterns.items():
            if matches(channel):
                receivers += _send(subscribers, Push((b"pmessage", pattern, channel, message)), size + len(pattern))
        return receivers

    def receivers(self, channel: bytes) -> int:
        """Return the number of subscribers of this server that a message would reach."""
        by_pattern = sum(len(subscribers) for matches, subscribers in self._patterns.values() if matches(channel))
        return len(self._channels.get(channel, ())) + by_pattern

    def channels(self) -> list[bytes]:
        """Return the channels with subscribers."""
        return list(self._channels)

    def subscribers(self, channel: bytes) -> int:
        """Return the number of subscribers of a channel, without those by patterns."""
        return len(self._channels.get(channel, ()))

    def patterns(self) -> int:
        """Return the number of patterns with subscribers."""
        return len(self._patterns)


def _ignore(channel: bytes, message: bytes) -> None:
    pass


def _send(subscribers: Collection[Subscriber], message: Push, size: int) -> int:
    """Send a message. Its bytes are encoded once for each version of the protocol."""
    encoder = functools.cache(lambda protocol: (b"".join(encode_parts(message, protocol)),))
    for subscriber in subscribers:
        subscriber.push(encoder, size)
    return len(subscribers)

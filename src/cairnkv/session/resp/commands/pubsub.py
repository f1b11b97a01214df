"""Publish/subscribe commands.

A subscription has a reply for each channel: a push in RESP3, an array in RESP2. Names of channels are short, because
each published message is matched with all patterns.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.limits import CHANNEL_MAX, PATTERN_MAX, SUBSCRIBED_BYTES_MAX, SUBSCRIPTIONS_MAX
from cairnkv.protocol.resp import Push
from cairnkv.session.conversation import UNFINISHED
from cairnkv.session.resp.command_spec import Arguments, Refusal, Value, container, in_conversation
from cairnkv.session.resp.commands.help import help_of, matchers
from cairnkv.session.resp.conversation import RespConversation
from cairnkv.session.resp.glob import Matcher
from cairnkv.session.resp.pubsub import kept_for_channel, kept_for_pattern
from cairnkv.session.resp.values import Job, Several

MATCHED_TOGETHER: Final = 30_000
"""Channels that PUBSUB CHANNELS matches in one slice for a pattern of one byte: some tens of milliseconds."""

NAMES_MAX: Final = 8_192
"""Maximum number of channels in one command: some tens of milliseconds of work."""


def _confirmation(conversation: RespConversation, what: bytes, name: bytes | None) -> Push:
    """Return the reply about one subscription: its name, and the client's number of subscriptions."""
    return Push((what, name, len(conversation.channels) + len(conversation.patterns)))


def _check_count(conversation: RespConversation, names: Sequence[bytes]) -> None:
    """Refuse too many names."""
    conversation.costs(len(names))
    if len(names) > NAMES_MAX:
        raise Refusal(f"ERR more than {NAMES_MAX} names at once")


def _check_room(
    conversation: RespConversation, names: Sequence[bytes], longest: int, what: str, kept: Callable[[bytes], int]
) -> None:
    """Refuse subscriptions that exceed the limits of a client."""
    if any(len(name) > longest for name in names):
        raise Refusal(f"ERR a {what} has at most {longest} bytes here")
    _check_count(conversation, names)
    if len(conversation.channels) + len(conversation.patterns) + len(names) > SUBSCRIPTIONS_MAX:
        raise Refusal(f"ERR more than {SUBSCRIPTIONS_MAX} subscriptions")
    if conversation.subscribed_bytes + sum(map(kept, names)) > SUBSCRIBED_BYTES_MAX:
        raise Refusal(f"ERR subscriptions that take more than {SUBSCRIBED_BYTES_MAX} bytes together")


def _confirmed(
    conversation: RespConversation,
    what: bytes,
    names: Sequence[bytes],
    change: Callable[[bytes, RespConversation], None],
) -> Value:
    """Change the subscriptions with these names. Return a reply for each."""
    confirmations = []
    for name in names:
        change(name, conversation)
        confirmations.append(_confirmation(conversation, what, name))
    return Several(confirmations or [_confirmation(conversation, what, None)])


@in_conversation("SUBSCRIBE channel [channel ...]", "pubsub noscript loading subscribed", group="pubsub", since="2.0.0")
def subscribe(conversation: RespConversation, arguments: Arguments) -> Value:
    """Subscribe to channels."""
    names = arguments.rest()
    _check_room(conversation, names, CHANNEL_MAX, "channel's name", kept_for_channel)
    return _confirmed(conversation, b"subscribe", names, conversation.context.pubsub.subscribe)


@in_conversation(
    "UNSUBSCRIBE [channel [channel ...]]", "pubsub noscript loading subscribed", group="pubsub", since="2.0.0"
)
def unsubscribe(conversation: RespConversation, arguments: Arguments) -> Value:
    """Unsubscribe from these channels, or from all channels."""
    names = arguments.rest()
    _check_count(conversation, names)
    names = names or list(conversation.channels)
    return _confirmed(conversation, b"unsubscribe", names, conversation.context.pubsub.unsubscribe)


@in_conversation(
    "PSUBSCRIBE pattern [pattern ...]", "pubsub noscript loading subscribed", group="pubsub", since="2.0.0"
)
def psubscribe(conversation: RespConversation, arguments: Arguments) -> Value:
    """Subscribe to the channels that match glob patterns."""
    names = arguments.rest()
    _check_room(conversation, names, PATTERN_MAX, "pattern", kept_for_pattern)
    matchers(conversation, names)
    if not conversation.context.pubsub.has_room_for(names):
        raise Refusal("ERR the clients are subscribed to too many patterns with several stars")
    return _confirmed(conversation, b"psubscribe", names, conversation.context.pubsub.subscribe_pattern)


@in_conversation(
    "PUNSUBSCRIBE [pattern [pattern ...]]", "pubsub noscript loading subscribed", group="pubsub", since="2.0.0"
)
def punsubscribe(conversation: RespConversation, arguments: Arguments) -> Value:
    """Unsubscribe from these patterns, or from all patterns."""
    names = arguments.rest()
    _check_count(conversation, names)
    names = names or list(conversation.patterns)
    return _confirmed(conversation, b"punsubscribe", names, conversation.context.pubsub.unsubscribe_pattern)


@in_conversation("PUBLISH channel message", "pubsub loading fast", group="pubsub", since="2.0.0")
def publish(conversation: RespConversation, arguments: Arguments) -> Value:
    """Publish a message to a channel. Returns the number of subscribers that received it."""
    channel, message = arguments.take(), arguments.take()
    if len(channel) > CHANNEL_MAX:
        return 0  # no client can subscribe to it
    receivers = conversation.publish(channel, message)
    conversation.costs(receivers + conversation.context.pubsub.patterns())
    return receivers


class _Channels(Job):
    """PUBSUB CHANNELS with a pattern, slice by slice."""

    def __init__(self, channels: list[bytes], matches: Matcher, together: int) -> None:
        self._channels = deque(channels)
        self._matches = matches
        self._together = together
        self._found: list[bytes] = []

    def step(self) -> Value:
        some = [self._channels.popleft() for _ in range(min(self._together, len(self._channels)))]
        self._found += filter(self._matches, some)
        return UNFINISHED if self._channels else self._found


container("PUBSUB", group="pubsub", since="2.8.0", summary="Inspect channels.")


@in_conversation("PUBSUB CHANNELS [pattern]", "pubsub loading", group="pubsub", since="2.8.0")
def pubsub_channels(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the channels with subscribers, or those that match a glob pattern; only those that the user may use."""
    channels = list(filter(conversation.rights.may_use_channel, conversation.context.pubsub.channels()))
    if len(arguments):
        pattern = arguments.take()
        arguments.end("ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.")
        (matches,) = matchers(conversation, [pattern])
        return _Channels(channels, matches, max(1, MATCHED_TOGETHER // max(1, len(pattern))))
    return channels


@in_conversation("PUBSUB NUMSUB [channel [channel ...]]", "pubsub loading", group="pubsub", since="2.8.0")
def pubsub_numsub(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the number of subscribers of each of these channels, without pattern subscribers."""
    subscribers = conversation.context.pubsub.subscribers
    return [one for channel in arguments.rest() for one in (channel, subscribers(channel))]


@in_conversation("PUBSUB NUMPAT", "pubsub loading", group="pubsub", since="2.8.0")
def pubsub_numpat(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the number of subscribed patterns."""
    return conversation.context.pubsub.patterns()


help_of("PUBSUB", since="6.2.0")

"""The words on channels: subscribing to them, and speaking on them.

Who subscribes hears of each channel by itself: a push in version 3 of the protocol, an array in version 2. A channel's
name is short, since all patterns are held against it.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from cairnkv.limits import CHANNEL_MAX, PATTERN_MAX, SUBSCRIBED_BYTES_MAX, SUBSCRIPTIONS_MAX
from cairnkv.protocol.resp import Push
from cairnkv.session.conversation import UNFINISHED
from cairnkv.session.resp.command_spec import Arguments, Refusal, Value, container, in_conversation
from cairnkv.session.resp.commands.help import help_of, matchers
from cairnkv.session.resp.conversation import Job, RespConversation
from cairnkv.session.resp.encoding import Several
from cairnkv.session.resp.glob import Matcher
from cairnkv.session.resp.pubsub import kept_for_channel, kept_for_pattern

MATCHED_TOGETHER: Final = 30_000
"""Channels that PUBSUB CHANNELS matches in one go, if the pattern had one byte: some tens of milliseconds at most."""

NAMES_MAX: Final = 8_192
"""Channels that one command may name: some tens of milliseconds of work."""


def _said(talk: RespConversation, what: bytes, name: bytes | None) -> Push:
    """What a client is told of a subscription: which, and how many it has now."""
    return Push((what, name, len(talk.channels) + len(talk.patterns)))


def _check_count(talk: RespConversation, names: Sequence[bytes]) -> None:
    """Refuse what would be too much work at once."""
    talk.costs(len(names))
    if len(names) > NAMES_MAX:
        raise Refusal(f"ERR more than {NAMES_MAX} names at once")


def _check_room(
    talk: RespConversation, names: Sequence[bytes], longest: int, what: str, kept: Callable[[bytes], int]
) -> None:
    """Refuse what would be more than a client may listen to."""
    if any(len(name) > longest for name in names):
        raise Refusal(f"ERR a {what} has at most {longest} bytes here")
    _check_count(talk, names)
    if len(talk.channels) + len(talk.patterns) + len(names) > SUBSCRIPTIONS_MAX:
        raise Refusal(f"ERR more than {SUBSCRIPTIONS_MAX} subscriptions")
    if talk.subscribed_bytes + sum(map(kept, names)) > SUBSCRIBED_BYTES_MAX:
        raise Refusal(f"ERR subscriptions that take more than {SUBSCRIBED_BYTES_MAX} bytes together")


def _leave(
    talk: RespConversation,
    what: bytes,
    names: Sequence[bytes],
    leave: Callable[[bytes, RespConversation], None],
) -> Value:
    said = []
    for name in names:
        leave(name, talk)
        said.append(_said(talk, what, name))
    return Several(said or [_said(talk, what, None)])


@in_conversation(
    "SUBSCRIBE channel [channel ...]",
    "pubsub noscript loading subscribed",
    group="pubsub",
    since="2.0.0",
    summary="Listen to channels.",
)
def subscribe(talk: RespConversation, arguments: Arguments) -> Value:
    names = arguments.rest()
    _check_room(talk, names, CHANNEL_MAX, "channel's name", kept_for_channel)
    said = []
    for name in names:
        talk.context.pubsub.subscribe(name, talk)
        said.append(_said(talk, b"subscribe", name))
    return Several(said)


@in_conversation(
    "UNSUBSCRIBE [channel [channel ...]]",
    "pubsub noscript loading subscribed",
    group="pubsub",
    since="2.0.0",
    summary="Listen to these channels no longer, or to none at all.",
)
def unsubscribe(talk: RespConversation, arguments: Arguments) -> Value:
    names = arguments.rest()
    _check_count(talk, names)
    names = names or list(talk.channels)
    return _leave(talk, b"unsubscribe", names, talk.context.pubsub.unsubscribe)


@in_conversation(
    "PSUBSCRIBE pattern [pattern ...]",
    "pubsub noscript loading subscribed",
    group="pubsub",
    since="2.0.0",
    summary="Listen to all channels whose names match glob patterns.",
)
def psubscribe(talk: RespConversation, arguments: Arguments) -> Value:
    names = arguments.rest()
    _check_room(talk, names, PATTERN_MAX, "pattern", kept_for_pattern)
    matchers(talk, names)
    if not talk.context.pubsub.has_room_for(names):
        raise Refusal("ERR too many patterns with several stars are listened to by all clients together")
    said = []
    for name in names:
        talk.context.pubsub.subscribe_pattern(name, talk)
        said.append(_said(talk, b"psubscribe", name))
    return Several(said)


@in_conversation(
    "PUNSUBSCRIBE [pattern [pattern ...]]",
    "pubsub noscript loading subscribed",
    group="pubsub",
    since="2.0.0",
    summary="Listen to these patterns no longer, or to none at all.",
)
def punsubscribe(talk: RespConversation, arguments: Arguments) -> Value:
    names = arguments.rest()
    _check_count(talk, names)
    names = names or list(talk.patterns)
    return _leave(talk, b"punsubscribe", names, talk.context.pubsub.unsubscribe_pattern)


@in_conversation(
    "PUBLISH channel message",
    "pubsub loading fast",
    group="pubsub",
    since="2.0.0",
    summary="Say something to all who listen to a channel; how many they are.",
)
def publish(talk: RespConversation, arguments: Arguments) -> Value:
    channel, message = arguments.take(), arguments.take()
    if len(channel) > CHANNEL_MAX:
        return 0  # nobody can listen to it
    told = talk.context.pubsub.publish(channel, message)
    talk.costs(told + talk.context.pubsub.patterns())
    return told


class _Channels(Job):
    """The channels that match a pattern, some at a time."""

    def __init__(self, channels: list[bytes], matches: Matcher, together: int) -> None:
        self._channels = deque(channels)
        self._matches = matches
        self._together = together
        self._found: list[bytes] = []

    def step(self) -> Value:
        some = [self._channels.popleft() for _ in range(min(self._together, len(self._channels)))]
        self._found += filter(self._matches, some)
        return UNFINISHED if self._channels else self._found


container("PUBSUB", group="pubsub", since="2.8.0", summary="What is known of channels.")


@in_conversation(
    "PUBSUB CHANNELS [pattern]",
    "pubsub loading",
    group="pubsub",
    since="2.8.0",
    summary="The channels that somebody listens to, or those that match a glob pattern.",
)
def pubsub_channels(talk: RespConversation, arguments: Arguments) -> Value:
    channels = talk.context.pubsub.channels()
    if len(arguments):
        pattern = arguments.take()
        arguments.end("ERR unknown subcommand or wrong number of arguments for 'CHANNELS'. Try PUBSUB HELP.")
        (matches,) = matchers(talk, [pattern])
        return _Channels(channels, matches, max(1, MATCHED_TOGETHER // max(1, len(pattern))))
    return channels


@in_conversation(
    "PUBSUB NUMSUB [channel [channel ...]]",
    "pubsub loading",
    group="pubsub",
    since="2.8.0",
    summary="How many listen to each of these channels, patterns not counted.",
)
def pubsub_numsub(talk: RespConversation, arguments: Arguments) -> Value:
    listeners = talk.context.pubsub.listeners
    return [one for channel in arguments.rest() for one in (channel, listeners(channel))]


@in_conversation(
    "PUBSUB NUMPAT",
    "pubsub loading",
    group="pubsub",
    since="2.8.0",
    summary="How many patterns somebody listens to.",
)
def pubsub_numpat(talk: RespConversation, arguments: Arguments) -> Value:
    return talk.context.pubsub.patterns()


help_of("PUBSUB", since="6.2.0")

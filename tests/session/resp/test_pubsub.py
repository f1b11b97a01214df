"""Channels: delivery, the form of messages, and bounds."""

import pytest

from cairnkv.limits import CHANNEL_MAX, COMMANDS_PER_SLICE, PATTERN_MAX, PUSHES_MAX
from cairnkv.protocol.resp import Error, Push, Simple
from cairnkv.session.resp import pubsub
from cairnkv.session.resp.commands import pubsub as words
from tests.session.resp.chat import Chat
from tests.support.resp import request


def said(chat: Chat, text: str) -> list[object]:
    """All replies to a command that may have several, or none."""
    chat.send(*text.encode().split())
    return chat.hear()


@pytest.fixture
def listener(chat: Chat) -> Chat:
    return Chat(chat)


# -- subscribing -------------------------------------------------------------------------------------------


def test_each_channel_is_confirmed_with_the_number_so_far(listener: Chat) -> None:
    assert said(listener, "SUBSCRIBE a b a") == [
        [b"subscribe", b"a", 1],
        [b"subscribe", b"b", 2],
        [b"subscribe", b"a", 2],
    ]
    assert said(listener, "PSUBSCRIBE x*") == [[b"psubscribe", b"x*", 3]]
    assert said(listener, "UNSUBSCRIBE b nope") == [[b"unsubscribe", b"b", 2], [b"unsubscribe", b"nope", 2]]
    assert said(listener, "UNSUBSCRIBE") == [[b"unsubscribe", b"a", 1]]
    assert said(listener, "UNSUBSCRIBE") == [[b"unsubscribe", None, 1]]
    assert said(listener, "PUNSUBSCRIBE") == [[b"punsubscribe", b"x*", 0]]
    assert said(listener, "PUNSUBSCRIBE") == [[b"punsubscribe", None, 0]]


def test_confirmations_are_pushes_in_version_3(listener: Chat) -> None:
    listener("HELLO 3")
    assert said(listener, "SUBSCRIBE a") == [Push((b"subscribe", b"a", 1))]
    assert said(listener, "UNSUBSCRIBE a") == [Push((b"unsubscribe", b"a", 0))]


def test_subscriber_in_version_2_may_use_few_commands(listener: Chat) -> None:
    listener("SUBSCRIBE a")
    assert listener("GET k") == Error(
        "ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed "
        "in this context"
    )
    assert listener("PING") == [b"pong", b""]
    assert listener("PING x") == [b"pong", b"x"]
    listener("UNSUBSCRIBE a")
    assert listener("PING") == Simple("PONG")


def test_subscriber_in_version_3_may_use_all_commands(listener: Chat) -> None:
    listener("HELLO 3")
    listener("SUBSCRIBE a")
    assert listener("PING") == Simple("PONG")
    assert listener("GET k") is None


# -- hearing -----------------------------------------------------------------------------------------------


def test_message_reaches_its_subscribers(chat: Chat, listener: Chat) -> None:
    listener("SUBSCRIBE news")
    listener("PSUBSCRIBE n?ws")
    assert chat("PUBLISH news hello") == 2
    assert chat("PUBLISH other hello") == 0
    assert listener.hear() == [[b"message", b"news", b"hello"], [b"pmessage", b"n?ws", b"news", b"hello"]]


def test_channels_are_shared_by_all_databases(chat: Chat, listener: Chat) -> None:
    listener("SUBSCRIBE news")
    chat("SELECT 5")
    assert chat("PUBLISH news hello") == 1


def test_messages_and_names_may_be_any_bytes(chat: Chat, listener: Chat) -> None:
    listener.say(b"SUBSCRIBE", b"\xff\r\n")
    chat.say(b"PUBLISH", b"\xff\r\n", bytes(10_000))
    assert listener.hear() == [[b"message", b"\xff\r\n", bytes(10_000)]]


def test_publisher_gets_the_reply_before_its_own_message(listener: Chat) -> None:
    listener("HELLO 3")
    listener("SUBSCRIBE a")
    assert said(listener, "PUBLISH a x") == [1, Push((b"message", b"a", b"x"))]
    for text in ("MULTI", "PUBLISH a y", "PUBLISH a z"):
        listener(text)
    assert said(listener, "EXEC") == [[1, 1], Push((b"message", b"a", b"y")), Push((b"message", b"a", b"z"))]


def test_messages_stay_behind_pending_replies() -> None:
    listener = Chat(late=True)
    listener("HELLO 3")
    listener("SUBSCRIBE a")
    listener.send(b"SET", b"k", b"v")
    Chat(listener)("PUBLISH a x")
    assert listener.hear() == []
    listener.storage.commit()
    assert listener.hear() == [Simple("OK"), Push((b"message", b"a", b"x"))]


def test_transaction_publishes_when_it_is_executed(chat: Chat, listener: Chat) -> None:
    listener("SUBSCRIBE a")
    chat("MULTI")
    chat("PUBLISH a x")
    assert listener.hear() == []
    assert chat("EXEC") == [1]
    assert listener.hear() == [[b"message", b"a", b"x"]]


def test_closed_subscriber_leaves_nothing(chat: Chat, listener: Chat) -> None:
    listener("SUBSCRIBE a")
    listener("PSUBSCRIBE b*")
    listener.session.disconnected()
    assert chat("PUBSUB CHANNELS") == []
    assert chat("PUBSUB NUMPAT") == 0
    assert chat("PUBLISH a x") == 0


# -- what is known of channels -----------------------------------------------------------------------------


def test_pubsub_subcommands(chat: Chat, listener: Chat) -> None:
    said(listener, "SUBSCRIBE news weather")
    other = Chat(chat)
    other("SUBSCRIBE news")
    listener("PSUBSCRIBE n*")
    assert sorted(chat("PUBSUB CHANNELS")) == [b"news", b"weather"]
    assert chat("PUBSUB CHANNELS n*") == [b"news"]
    assert chat("PUBSUB NUMSUB news nope") == [b"news", 2, b"nope", 0]
    assert chat("PUBSUB NUMSUB") == []
    assert chat("PUBSUB NUMPAT") == 1
    assert chat("PUBSUB FOO") == Error("ERR unknown subcommand 'FOO'. Try PUBSUB HELP.")


# -- bounds ------------------------------------------------------------------------------------------------


def test_subscriber_that_takes_nothing_is_closed(chat: Chat, listener: Chat) -> None:
    listener("SUBSCRIBE a")
    listener.session.paused = True  # as its connection does when its system takes no more
    message = bytes(1024 * 1024)
    for _ in range(PUSHES_MAX // len(message) - 1):
        chat.say(b"PUBLISH", b"a", message)
    assert not listener.session.overrun
    for _ in range(2):
        chat.say(b"PUBLISH", b"a", message)
    assert listener.session.overrun


def test_messages_to_many_subscribers_end_a_turn_sooner(chat: Chat) -> None:
    """So that the publisher does not block all other clients."""
    for _ in range(COMMANDS_PER_SLICE):
        Chat(chat)("SUBSCRIBE a")
    chat.session.receive(request(b"PUBLISH", b"a", b"x") * 3)
    chat.session.advance()
    assert chat.session.output() == [b":%d\r\n" % COMMANDS_PER_SLICE]
    assert chat.session.runnable


def test_number_of_subscriptions_is_bounded(listener: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SUBSCRIPTIONS_MAX", 3)
    assert len(said(listener, "SUBSCRIBE a b")) == 2
    assert said(listener, "PSUBSCRIBE c d") == [Error("ERR more than 3 subscriptions")]
    assert said(listener, "PSUBSCRIBE c") == [[b"psubscribe", b"c", 3]]


def test_bytes_of_names_are_bounded(listener: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "SUBSCRIBED_BYTES_MAX", 2 * (pubsub.SUBSCRIPTION_BYTES + 5))
    assert len(said(listener, "SUBSCRIBE 12345 67890")) == 2
    assert isinstance(said(listener, "SUBSCRIBE x")[0], Error)


def test_length_of_names_and_patterns_is_bounded(chat: Chat, listener: Chat) -> None:
    assert listener.say(b"SUBSCRIBE", b"c" * (CHANNEL_MAX + 1)).code == "ERR"
    assert chat.say(b"PUBLISH", b"c" * (CHANNEL_MAX + 1), b"x") == 0
    assert listener.say(b"PSUBSCRIBE", b"*" * (PATTERN_MAX + 1)).code == "ERR"
    assert listener.say(b"SUBSCRIBE", b"c" * CHANNEL_MAX)[2] == 1
    assert listener.say(b"PSUBSCRIBE", b"*" * PATTERN_MAX)[2] == 2

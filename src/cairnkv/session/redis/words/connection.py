"""The words on the connection: who speaks, how, and whether it is still there."""

from cairnkv.session.redis.conversation import RedisConversation
from cairnkv.session.redis.grammar import Arguments, Refusal, Value, in_conversation, wrong_number
from cairnkv.wire.redis import Simple


@in_conversation(
    "PING [message]", "fast subscribed", group="connection", since="1.0.0", summary="A sign of life, or the message."
)
def ping(talk: RedisConversation, arguments: Arguments) -> Value:
    if len(arguments) > 1:
        raise Refusal(wrong_number(arguments.name))
    message = arguments.take() if len(arguments) else None
    if talk.is_subscribed and talk.protocol == 2:
        return [b"pong", message or b""]
    return Simple("PONG") if message is None else message

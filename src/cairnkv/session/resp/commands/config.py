"""CONFIG: the options of the server. Some can change while it runs.

Each option has its own name, and the name of the equivalent option of Redis if there is one.
"""

from cairnkv.protocol.resp import OK
from cairnkv.session.context import OptionRefused
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Refusal, Value, container, in_conversation, repeated
from cairnkv.session.resp.commands.help import help_of, matchers
from cairnkv.session.resp.commands.info import counted
from cairnkv.session.resp.conversation import RespConversation

container("CONFIG", group="server", since="2.0.0", summary="Read and change options of the server.")


@in_conversation("CONFIG GET parameter [parameter ...]", "admin noscript loading", group="server", since="2.0.0")
def config_get(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return the options whose names match glob patterns."""
    options = conversation.context.options.all()
    found: dict[bytes, Value] = {}
    for matches in matchers(conversation, [pattern.lower() for pattern in arguments.rest()]):
        found |= {
            name.encode(): value.encode("utf-8", "surrogateescape")
            for name, value in options.items()
            if matches(name.encode())
        }
    return found


@in_conversation(
    "CONFIG SET parameter value [parameter value ...]", "admin noscript loading", group="server", since="2.0.0"
)
def config_set(conversation: RespConversation, arguments: Arguments) -> Value:
    """Change options: all or none."""
    texts = arguments.rest()
    if len(texts) % 2:
        raise Refusal(SYNTAX)
    options = conversation.context.options
    known = options.all()
    values: dict[str, str] = {}
    for given, value in zip(texts[::2], texts[1::2], strict=True):
        name = given.lower().decode("utf-8", "surrogateescape")
        if name not in known:
            raise Refusal(f"ERR Unknown option or number of arguments for CONFIG SET - '{repeated(given)}'")
        if name in values:
            raise _failed(repeated(given), "duplicate parameter")
        values[name] = value.decode("utf-8", "surrogateescape")
    try:
        options.set(values)
    except OptionRefused as refused:
        raise _failed(refused.name, refused.reason) from None
    return OK


def _failed(name: str, reason: str) -> Refusal:
    return Refusal(f"ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}")


@in_conversation("CONFIG RESETSTAT", "admin noscript loading", group="server", since="2.0.0")
def config_resetstat(conversation: RespConversation, arguments: Arguments) -> Value:
    """Reset the counters of INFO stats."""
    conversation.context.counted_before = counted(conversation, dict(conversation.store.info()))
    return OK


help_of("CONFIG", since="5.0.0")

"""CONFIG: the options that this server really has, and those of them that can be changed while it runs.

Each goes by Redis' name, where Redis has one for it, and by its own.
"""

from cairnkv.protocol.resp import OK
from cairnkv.session.context import OptionRefused
from cairnkv.session.resp.command_spec import SYNTAX, Arguments, Refusal, Value, container, in_conversation, repeated
from cairnkv.session.resp.commands.help import help_of, matchers
from cairnkv.session.resp.commands.info import counted
from cairnkv.session.resp.conversation import RespConversation

container("CONFIG", group="server", since="2.0.0", summary="How the server is set.")


@in_conversation(
    "CONFIG GET parameter [parameter ...]",
    "admin noscript loading",
    group="server",
    since="2.0.0",
    summary="Options whose names match glob patterns, and their values.",
)
def config_get(talk: RespConversation, arguments: Arguments) -> Value:
    options = talk.context.options.all()
    found: dict[bytes, Value] = {}
    for matches in matchers(talk, [pattern.lower() for pattern in arguments.rest()]):
        found |= {
            name.encode(): value.encode("utf-8", "surrogateescape")
            for name, value in options.items()
            if matches(name.encode())
        }
    return found


@in_conversation(
    "CONFIG SET parameter value [parameter value ...]",
    "admin noscript loading",
    group="server",
    since="2.0.0",
    summary="Change options, all or none of them.",
)
def config_set(talk: RespConversation, arguments: Arguments) -> Value:
    texts = arguments.rest()
    if len(texts) % 2:
        raise Refusal(SYNTAX)
    options = talk.context.options
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


@in_conversation(
    "CONFIG RESETSTAT",
    "admin noscript loading",
    group="server",
    since="2.0.0",
    summary="Let the counters of INFO stats begin at nothing again.",
)
def config_resetstat(talk: RespConversation, arguments: Arguments) -> Value:
    talk.context.counted_before = counted(talk, dict(talk.store.info()))
    return OK


help_of("CONFIG", since="5.0.0")

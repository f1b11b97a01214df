"""EVAL, EVALSHA and SCRIPT: programs in Lua that the server executes atomically.

Out of scope: the execution (`cairnkv.session.resp.scripting`), and Lua (`cairnkv.scripts`).
"""

from typing import Final

from cairnkv.commands import Access
from cairnkv.protocol.resp import OK, Error
from cairnkv.session.resp.command_spec import (
    LONG_PATH,
    SHORT_COMMANDS,
    Arguments,
    Refusal,
    Value,
    container,
    in_conversation,
)
from cairnkv.session.resp.commands.help import help_of
from cairnkv.session.resp.conversation import RespConversation, failed
from cairnkv.session.resp.scripting.evaluation import EvalTask, ScriptCall, keep

READ_WRITE: Final = Access.READ | Access.WRITE

_SCRIPT: Final = "noscript movablekeys no-mandatory-keys"


@in_conversation(
    "EVAL script numkeys [key [key ...]] [arg [arg ...]]", _SCRIPT, group="scripting", since="2.6.0", access=READ_WRITE
)
def eval_(conversation: RespConversation, arguments: Arguments) -> Value:
    """Execute a script in Lua atomically."""
    return _evaluate(conversation, arguments)


@in_conversation(
    "EVAL_RO script numkeys [key [key ...]] [arg [arg ...]]",
    f"readonly {_SCRIPT}",
    group="scripting",
    since="7.0.0",
    access=Access.READ,
)
def eval_ro(conversation: RespConversation, arguments: Arguments) -> Value:
    """Execute a script in Lua that may not write."""
    return _evaluate(conversation, arguments)


@in_conversation(
    "EVALSHA sha1 numkeys [key [key ...]] [arg [arg ...]]", _SCRIPT, group="scripting", since="2.6.0", access=READ_WRITE
)
def evalsha(conversation: RespConversation, arguments: Arguments) -> Value:
    """Execute a script that the server knows, by the SHA-1 of its source."""
    return _evaluate(conversation, arguments)


@in_conversation(
    "EVALSHA_RO sha1 numkeys [key [key ...]] [arg [arg ...]]",
    f"readonly {_SCRIPT}",
    group="scripting",
    since="7.0.0",
    access=Access.READ,
)
def evalsha_ro(conversation: RespConversation, arguments: Arguments) -> Value:
    """Execute a script that the server knows and that may not write, by the SHA-1 of its source."""
    return _evaluate(conversation, arguments)


def _evaluate(conversation: RespConversation, arguments: Arguments) -> Value:
    call = ScriptCall.of(arguments)
    runner = conversation.context.scripts
    call.find(runner)
    return runner.execute(EvalTask(conversation, call))


def _evaluate_known(conversation: RespConversation, request: list[bytes]) -> Value:
    """Execute EVALSHA in its usual form: with few keys, by a client with all rights, of a script without flags."""
    runner = conversation.context.scripts
    keys_end = _ENDS.get(request[2], ARGUMENTS_SHORT) if len(request) > 2 else ARGUMENTS_SHORT
    if not keys_end <= len(request) < ARGUMENTS_SHORT or runner.is_busy or not conversation.rights.unlimited:
        return LONG_PATH
    source = runner.cache.get(request[1])
    if source is None or source.startswith(b"#!"):
        return LONG_PATH
    conversation.last_command = "evalsha"
    conversation.context.commands_executed += 1
    try:
        return runner.execute_directly(EvalTask.of_known(conversation, source, request[3:keys_end], request[keys_end:]))
    except Refusal as refusal:
        return Error(str(refusal))
    except Exception as error:
        return failed(error, "evalsha")


ARGUMENTS_SHORT: Final = 32
"""Arguments of a command that is not short."""

_ENDS: Final = {b"%d" % count: 3 + count for count in range(10)}
"""Where the keys end, by their number."""

SHORT_COMMANDS[b"EVALSHA"] = SHORT_COMMANDS[b"evalsha"] = _evaluate_known


container("SCRIPT", group="scripting", since="2.6.0", summary="Manage the scripts that the server knows.")


@in_conversation("SCRIPT LOAD script", "noscript", group="scripting", since="2.6.0")
def script_load(conversation: RespConversation, arguments: Arguments) -> Value:
    """Keep a script for EVALSHA. Returns the SHA-1 of its source."""
    return keep(conversation.context.scripts, arguments.take())


@in_conversation("SCRIPT EXISTS sha1 [sha1 ...]", "noscript", group="scripting", since="2.6.0")
def script_exists(conversation: RespConversation, arguments: Arguments) -> Value:
    """Return 1 for each of these scripts that the server knows, and 0 for each other one."""
    cache = conversation.context.scripts.cache
    return [int(sha1 in cache) for sha1 in arguments.rest()]


@in_conversation("SCRIPT FLUSH [ASYNC | SYNC]", "noscript", group="scripting", since="2.6.0")
def script_flush(conversation: RespConversation, arguments: Arguments) -> Value:
    """Remove all scripts that the server knows."""
    if len(arguments) and (arguments.keyword() not in (b"ASYNC", b"SYNC") or len(arguments)):
        raise Refusal("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    conversation.context.scripts.cache.clear()
    return OK


@in_conversation("SCRIPT KILL", "noscript allow-busy", group="scripting", since="2.6.0")
def script_kill(conversation: RespConversation, arguments: Arguments) -> Value:
    """End the script that runs for too long, if it has not written yet. The server undoes it."""
    conversation.context.scripts.kill()
    return OK


help_of("SCRIPT", since="5.0.0")

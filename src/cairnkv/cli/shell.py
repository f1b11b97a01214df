"""`cairn shell`: runs subcommands on one connection, from a terminal or from a script.

A line is a subcommand with its arguments, as after `cairn`; the same parsers read it:

    set greeting 'hello world' --ttl 30s --if-absent
    get greeting
    queue put emails '{"to": "anna"}' --delay 10m

Quotes and backslashes are those of a Unix shell. A line that begins with # is a comment.

Invariants: an error does not end the shell; the end of input does.
"""

import codecs
import functools
import itertools
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli import get, queue, registered, store
from cairnkv.cli.arguments import Parser, StoreCommand, client, execute, store_parser
from cairnkv.cli.main import FOUND, SUBCOMMANDS, complain, suggestion
from cairnkv.cli.output import RED, on_terminal, styled
from cairnkv.client.address import without_secrets
from cairnkv.errors import CairnError, CallerError
from cairnkv.limits import DEFAULT_URL

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPress

    from cairnkv.cli.arguments import Store

PROMPT: Final = "cairn> "

TYPED_AT_ONCE: Final = 16
"""Maximum number of characters that arrive together and are handled key by key. More characters are a paste:
prompt_toolkit takes about half a millisecond for a key, so a line of 100 kB would take a minute."""

KEYS_PER_READ: Final = 100_000
"""Keys after which the shell stops reading and shows the line."""

QUEUE: Final = "queue"
LEAVE: Final = ("exit", "quit")
HELP: Final = "help"


def run(name: str, arguments: Sequence[str]) -> int:
    """Run the lines of the terminal or of standard input."""
    parser = Parser(
        name,
        address=True,
        description="Run subcommands on one connection. On a terminal this is a dialogue with history and completion;\n"
        "otherwise the shell runs each line of standard input. An error does not end the shell, but makes the\n"
        "exit code of a script 2. `help` lists the subcommands.",
        example="cairn shell\nprintf 'set a 1\\nincr a\\n' | cairn shell",
    )
    options = parser.parse_args(arguments)
    with client(options) as kv:
        if on_terminal(sys.stdin) and on_terminal(sys.stdout):
            _converse(kv, options.url)
            return FOUND
        return _run_script(kv)


# -- lines -------------------------------------------------------------------------------------------------


def run_line(kv: "Store", line: str) -> bool:
    """Run a line. Returns False if the line ends the shell. Raises `CairnError`."""
    words = split(line)
    if not words:
        return True
    name, arguments = _parsed(words)
    if name in LEAVE:
        return False
    if name == HELP:
        print(help_text(_parsed(arguments)[0] if arguments else None))
    else:
        command, parser = subcommand(name)
        try:
            options = parser.parse_args(arguments)
        except SystemExit:  # --help
            return True
        execute(command, kv, options, parser)
    sys.stdout.flush()
    return True


def split(line: str) -> list[str]:
    """Return the words of a line: none for a blank line or a comment."""
    if line.lstrip().startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as error:
        raise CallerError(f"{str(error).lower()}: quotes and backslashes are those of a Unix shell") from None


def _parsed(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return the name of a subcommand, which has two words if it is about a queue, and its arguments."""
    name = _normal(words[0])
    if name == QUEUE and len(words) > 1:
        return f"{name} {_normal(words[1])}", words[2:]
    return name, words[1:]


def _normal(name: str) -> str:
    """Return the name of a subcommand that a user wrote in capitals, or with underscores."""
    return name.lower().replace("_", "-")


@functools.cache
def subcommands() -> Mapping[str, StoreCommand]:
    """Return the subcommands that use a store."""
    actions = {f"{QUEUE} {action}": command for action, (_, command) in queue.ACTIONS.items()}
    return {**get.COMMANDS, **store.COMMANDS, **registered.commands(), **actions}


@functools.cache
def subcommand(name: str) -> tuple[StoreCommand, Parser]:
    """Return a subcommand and its parser."""
    if name == QUEUE:
        raise CallerError(f"{name}: name an action: {', '.join(queue.ACTIONS)}")
    if (command := subcommands().get(name)) is None:
        hint = suggestion(name, subcommands()) or "; `help` lists the commands"
        raise CallerError(f"there is no command {name!r}{hint}")
    return command, store_parser(name, command, in_shell=True)


def help_text(name: str | None) -> str:
    """Return the help about a subcommand, or the list of all subcommands, or of those about queues."""
    if name is not None and name != QUEUE:
        return subcommand(name)[1].format_help().rstrip()
    shown = {each: summary for each, summary in summaries().items() if name is None or each.startswith(f"{name} ")}
    width = max(map(len, shown))
    return "\n".join(
        (
            *(f"  {each:<{width}}  {summary}" for each, summary in shown.items()),
            "",
            "`help NAME` explains a command. `exit` or Ctrl-D ends the shell.",
            "Quotes and backslashes are those of a Unix shell: 'hello world'. A line that begins with # is a comment.",
        )
    )


def summaries() -> dict[str, str]:
    """Return the names of the subcommands, each with a summary."""
    more = registered.summaries() | {f"{QUEUE} {action}": summary for action, (summary, _) in queue.ACTIONS.items()}
    return {name: SUBCOMMANDS[name][1] if name in SUBCOMMANDS else more[name] for name in subcommands()}


# -- from a script -------------------------------------------------------------------------------------------


def _run_script(kv: "Store") -> int:
    code = FOUND
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = os.fsdecode(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
            if not run_line(kv, text):
                break
        except CairnError as error:
            code = complain(f"line {number:,}: {error}")
    return code


# -- from a terminal ---------------------------------------------------------------------------------------


def _converse(kv: "Store", url: str | None) -> None:
    session = _session(_bulk_input())
    server = without_secrets(url or os.environ.get("CAIRNKV_URL") or DEFAULT_URL)
    print(f"cairn shell, {server}; `help` lists the commands")
    while True:
        try:
            if not run_line(kv, session.prompt(PROMPT)):
                return
        except EOFError:
            return
        except KeyboardInterrupt:
            continue  # gives up this line, or this command
        except CairnError as error:
            sys.stdout.flush()
            print(styled(f"{error}", RED, sys.stderr), file=sys.stderr)


def _session(keys: "Input | None" = None) -> "PromptSession[str]":
    """keys: the terminal's input; None: that of the application session."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory

    class Kept(FileHistory):
        """A history file whose read and write errors do not end the shell."""

        def load_history_strings(self) -> Iterable[str]:
            try:
                yield from super().load_history_strings()
            except OSError as error:
                complain(f"no history: {error}")

        def store_string(self, string: str) -> None:
            try:
                super().store_string(string)
            except (OSError, UnicodeEncodeError) as error:  # a full disk, or a surrogate in the line
                complain(f"this line is not in the history: {error}")

    history: History
    try:
        history = Kept(_history_file())
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        complain(f"no history: {error}")
        history = InMemoryHistory()
    return PromptSession(
        input=keys,
        history=history,
        auto_suggest=AutoSuggestFromHistory(),
        completer=_completer(),
        complete_while_typing=False,
        enable_history_search=True,
    )


def _bulk_input() -> "Input":
    """Return a terminal's input that reads everything there is, and gives many characters as one paste."""
    from prompt_toolkit.input.vt100 import Vt100Input
    from prompt_toolkit.key_binding import KeyPress

    class BulkInput(Vt100Input):
        def read_keys(self) -> list[KeyPress]:
            keys = super().read_keys()
            while len(keys) > TYPED_AT_ONCE and len(keys) < KEYS_PER_READ and (more := super().read_keys()):
                keys += more
            return _pasted(keys)

    return BulkInput(sys.stdin)


def _pasted(keys: "list[KeyPress]") -> "list[KeyPress]":
    """Replace each long run of plain characters by its first one, which may belong to a key before, and a paste."""
    from prompt_toolkit.key_binding import KeyPress
    from prompt_toolkit.keys import Keys

    replaced: list[KeyPress] = []
    for is_special, group in itertools.groupby(keys, key=lambda pressed: isinstance(pressed.key, Keys)):
        run = list(group)
        if is_special or len(run) <= TYPED_AT_ONCE:
            replaced += run
        else:
            replaced += [run[0], KeyPress(Keys.BracketedPaste, "".join(pressed.data for pressed in run[1:]))]
    return replaced


def _history_file() -> str:
    """Return the history file, in the user's state directory (XDG). Only the user can read it: lines contain values."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not Path(state).is_absolute():  # the XDG specification ignores relative paths
        state = str(Path.home() / ".local" / "state")
    file = Path(state) / "cairnkv" / "history"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if file.exists() and not file.is_file():  # a read of a pipe would block forever
        raise OSError(f"{file} is not a regular file")
    file.touch(mode=0o600)
    return str(file)


def _completer() -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class SubcommandCompleter(Completer):
        """Completes names of subcommands at the beginning of a line, then their options."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            before = document.text_before_cursor.lstrip()
            typed = before.split()
            begun = typed.pop() if before and not before[-1].isspace() else ""
            for text, meaning in completions(typed):
                if text.startswith(begun.lower()):
                    yield Completion(text, -len(begun), display_meta=meaning)

    return SubcommandCompleter()


def completions(before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the words that may follow these words, each with its meaning.

    >>> [text for text, _ in completions(["get", "--raw"])]
    ['--json', '--local', '--clear', '--ttl', '--persist']
    """
    helps = bool(before) and before[0].lower() == HELP
    named = before[1:] if helps else before
    if [_normal(word) for word in named] == [QUEUE]:
        yield from ((action, summary) for action, (summary, _) in queue.ACTIONS.items())
        return
    if helps or not before:
        yield from summaries().items()
        if not before:
            yield HELP, "explain the commands, or one of them"
            yield "exit", "end the shell"
        return
    try:
        _, parser = subcommand(_parsed(before)[0])
    except CairnError:
        return
    for option, meaning in parser.options():
        if option not in before:
            yield option, meaning

"""`cairn shell`: a conversation with a store, command by command; or a script of commands from a pipe.

What always holds: an error is said and does not end it; the end of input does. Not for what the lines mean
(`shell_syntax`).
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cairnkv.cli import shell_syntax
from cairnkv.cli.arguments import client, client_parser
from cairnkv.cli.main import FOUND, complain
from cairnkv.cli.output import CYAN, RED, on_terminal, put_bytes, styled
from cairnkv.client.calls import Call
from cairnkv.commands import ClearAll, ClearPrefix, Command, Items, Reply
from cairnkv.errors import CairnError, CallerError
from cairnkv.escapes import escaped
from cairnkv.records import replace

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyPress

    import cairnkv

PROMPT: Final = "cairn> "

TYPED_AT_ONCE: Final = 16
"""Characters that come together and are still handled key by key, as a person types them. More are a paste:
prompt_toolkit takes about half a millisecond for a key, so a line of 100 kB would take a minute."""

KEYS_PER_READ: Final = 100_000
"""Keys after which the shell stops reading and shows the line."""

LEAVE: Final = ("exit", "quit")
HELP: Final = "help"


def run(name: str, arguments: Sequence[str]) -> int:
    """Talk until the end of input."""
    parser = client_parser(
        name,
        description="Talk to a store command by command, with history and completion; or, where standard input is no\n"
        "terminal, carry out the commands that it holds, one on a line. An error does not end it, but makes\n"
        "the exit code of a script 2. `help` lists the commands.",
        example="cairn shell\nprintf 'set a 1\\nincr a\\n' | cairn shell",
        json=False,
    )
    options = parser.parse_args(arguments)
    with client(options) as kv:
        if on_terminal(sys.stdin) and on_terminal(sys.stdout):
            _converse(Shell(kv, _confirmed), options.url)
            return FOUND
        return _carry_out(Shell(kv))


class Shell:
    """What is done with a line, wherever it comes from."""

    def __init__(self, kv: "cairnkv.Client[bytes, bytes]", confirmed: Callable[[str], bool] | None = None) -> None:
        """confirmed: asks the user before a command deletes all keys, or all with a prefix; None: do not ask."""
        self._kv = kv
        self._confirmed = confirmed

    def do(self, line: str) -> bool:
        """Carry a line out and print its reply; False when it says to leave. Raises `CairnError`."""
        words = shell_syntax.split(line)
        if not words:
            return True
        match words[0].lower():
            case word if word in LEAVE:
                return False
            case word if word == HELP:
                print(
                    shell_syntax.explain(shell_syntax.spec_of(words[1])) if len(words) > 1 else shell_syntax.overview()
                )
            case _:
                self._execute(shell_syntax.statement(words))
        sys.stdout.flush()
        return True

    def _execute(self, statement: shell_syntax.Statement) -> None:
        if self._confirmed is not None and isinstance(statement.command, ClearAll | ClearPrefix):
            prefix = statement.command.prefix if isinstance(statement.command, ClearPrefix) else b""
            what = f"the keys that begin with {escaped(prefix)!r}" if prefix else "every key"
            if not self._confirmed(f"Clear {what} of {self._kv.count():,} keys in the store? [y/N] "):
                raise CallerError("nothing was cleared")
        for reply in self._replies(statement):
            for line in shell_syntax.lines(statement.command, reply):
                if isinstance(line, bytes):
                    put_bytes(line)
                else:
                    print(styled(line, CYAN))

    def _replies(self, statement: shell_syntax.Statement) -> Iterator[Reply]:
        """The reply; or those to all slices of a command that goes through the table."""
        if not statement.slices:
            yield self._ask(statement.command)
            return
        cursor, total = 0, 0
        command = statement.command
        while True:
            reply = self._ask(replace(command, cursor=cursor))
            assert isinstance(reply, Items)
            cursor = int(reply.values[0] or 0)
            if command.spec.writes:  # how many it has changed, rather than which keys it has found
                total += int(reply.values[1] or 0)
            else:
                yield Items(reply.values[1:])
            if cursor == 0:
                break
        if command.spec.writes:
            yield total

    def _ask(self, command: Command) -> Reply:
        return self._kv._do(Call(command, _as_it_is))


def _as_it_is(reply: Reply) -> Reply:
    return reply


# -- from a pipe -------------------------------------------------------------------------------------------


def _carry_out(shell: Shell) -> int:
    code = FOUND
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8", "surrogateescape")
            if not shell.do(text.removeprefix("\ufeff") if number == 1 else text):  # a byte order mark
                break
        except CairnError as error:
            code = complain(f"line {number:,}: {error}")
    return code


# -- from a terminal ---------------------------------------------------------------------------------------


def _converse(shell: Shell, url: str | None) -> None:
    session = _session(_bulk_input())
    print(f"cairn shell, {url or os.environ.get('CAIRNKV_URL') or 'cairn://127.0.0.1:6555'}; `help` lists the commands")
    while True:
        try:
            if not shell.do(session.prompt(PROMPT)):
                return
        except EOFError:
            return
        except KeyboardInterrupt:
            continue  # gives up this line, or this command
        except CairnError as error:
            sys.stdout.flush()
            print(styled(f"{error}", RED, sys.stderr), file=sys.stderr)


def _confirmed(question: str) -> bool:
    """Ask a question and return whether the answer is yes. The answer does not enter the history."""
    from prompt_toolkit import prompt

    return prompt(question).strip().lower() in ("y", "yes")


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
    """Where lines are kept: in the user's state (XDG base directories), for the user only, since values stand there."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not Path(state).is_absolute():  # the XDG specification ignores relative paths
        state = str(Path.home() / ".local" / "state")
    file = Path(state) / "cairnkv" / "history"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if file.exists() and not file.is_file():  # a read of a pipe would block for ever
        raise OSError(f"{file} is not a regular file")
    file.touch(mode=0o600)
    return str(file)


def _completer() -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class FromVocabulary(Completer):
        """Command names at the beginning of a line, then the options of that command."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            before = document.text_before_cursor.lstrip()
            typed = before.split()
            begun = typed.pop() if before and not before[-1].isspace() else ""
            for text, meaning in completions(typed):
                if text.startswith(begun.lower()):
                    yield Completion(text, -len(begun), display_meta=meaning)

    return FromVocabulary()


def completions(before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What may come behind whole words, and what it means.

    >>> [text for text, _ in completions(["get"])]
    ['clear', 'ttl=', 'persist', 'at=']
    """
    if not before or before[0].lower() == HELP:
        for name in shell_syntax.names():
            yield name, shell_syntax.spec_of(name).summary
        if not before:
            yield HELP, "Explain the commands, or one of them."
            yield "exit", "Leave the shell."
        return
    try:
        word = shell_syntax.spec_of(before[0])
    except CairnError:
        return
    for option in shell_syntax.options(word):
        if option not in before:
            yield option, shell_syntax.usage(word)

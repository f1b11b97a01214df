"""The entry point of the command line: finds the subcommand and imports its module.

Invariants: the exit code is 0 for success or "found", 1 for "not found" and 2 for an error, which prints one line on
standard error. Importing this module imports nothing slow and no command: imports take most of the time of a `get`.
"""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from cairnkv.version import VERSION

FOUND: Final = 0
NOT_FOUND: Final = 1
ERROR: Final = 2

SUBCOMMANDS: Final = {
    "serve": ("serve", "run a server"),
    "get": ("get", "print the value of a key"),
    "set": ("store", "store a value under a key"),
    "clear": ("store", "delete keys: some, all with a prefix, or all"),
    "exists": ("store", "test whether a key exists"),
    "incr": ("store", "add to a number and print the sum"),
    "ttl": ("store", "print the seconds until a key expires"),
    "expire": ("store", "set the time to live of a key"),
    "persist": ("store", "remove the time to live of a key"),
    "scan": ("store", "list all keys, or those with a prefix"),
    "count": ("store", "print the number of keys"),
    "ping": ("store", "test the connection to a server"),
    "info": ("store", "print the state and statistics of a server"),
    "queue": ("queue", "put, take and watch messages; run workers"),
    "import": ("transfer", "store the keys and values of a file"),
    "export": ("transfer", "write keys and values to a file"),
    "backup": ("backup", "make a backup of a durable store, running or not"),
    "restore": ("backup", "make a store from a backup"),
    "verify": ("backup", "check a backup for damage"),
    "check": ("backup", "check a store on disk for damage, or a running store for consistency"),
    "repair": ("backup", "copy the readable records of a damaged store to a new store"),
    "cluster": ("cluster", "run a local test cluster and inject faults"),
    "user": ("user", "add, list, change and remove the users of a server"),
    "shell": ("shell", "enter commands interactively"),
    "trace": ("trace", "relay connections to a server and print every frame"),
}
"""Each subcommand: its module in `cairnkv.cli`, and its summary."""

EARLY_OPTIONS: Final = {"--url": True, "--timeout": True, "--json": False}
"""Options that users may also write before the command, and whether each takes a value."""


def usage() -> str:
    """Return the overall help, from the table of subcommands and the registry of commands."""
    more = _registered_commands()
    width = max(map(len, [*SUBCOMMANDS, *more]))
    return "\n".join(
        (
            "usage: cairn COMMAND [ARGUMENTS]",
            "",
            "A key-value store that one person can read and a team can run.",
            "",
            *(f"  {name:<{width}}  {summary}" for name, (_, summary) in SUBCOMMANDS.items()),
            "",
            "More commands of the native protocol:",
            *(f"  {name:<{width}}  {summary}" for name, summary in more.items()),
            "",
            "`cairn COMMAND --help` explains a command. --url names the server (default: CAIRNKV_URL,",
            "else cairn://127.0.0.1:6555). --url, --timeout and --json may also precede the command.",
            "Exit codes: 0 success or found, 1 not found, 2 error.",
        )
    )


def _registered_commands() -> dict[str, str]:
    """Return the subcommands that the registry of commands adds, and their summaries. Slow: only help needs it."""
    summaries: dict[str, str] = importlib.import_module("cairnkv.cli.registered").summaries()
    return summaries


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None or sys.stdin is None or sys.stderr is None:
        if arguments[:1] not in (["serve"], ["cluster"]):
            return complain("standard input, output or error is closed; open it, for example on /dev/null")
        _open_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals and pipes that are not UTF-8
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return complain("interrupted")
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. At exit, Python would write the buffered rest to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except Exception as error:
        from cairnkv.errors import CairnError, missing_package  # this import takes longer than a whole `get`

        if isinstance(error, ImportError):
            with contextlib.suppress(ImportError):  # a failed import of this package itself is a bug
                return complain(str(missing_package(error, f"cairn {arguments[0]}")))
        if isinstance(error, FileNotFoundError) and error.filename is None:  # from getcwd
            from cairnkv.paths import os_error_text

            return complain(os_error_text(error))
        if isinstance(error, CairnError | OSError):  # such as a closed terminal or a full disk: not a bug
            return complain(str(error))
        import traceback

        traceback.print_exc()
        return complain("this is a bug in cairnkv; please report it with the traceback above")


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream, so that no socket or file gets its descriptor."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  # for the life of the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(usage(), file=sys.stderr)
        return ERROR
    if arguments[0] in ("-h", "--help"):
        print(usage())
        return FOUND
    if arguments[0] in ("-V", "--version", "version"):
        print(f"cairnkv {VERSION}")
        return FOUND
    if arguments[0].startswith("-"):
        return _dispatch_after_options(arguments)
    name, *rest = arguments
    if name == "help":
        return _dispatch([rest[0], "--help"] if rest else ["--help"])
    if name not in SUBCOMMANDS and name not in _registered_commands():
        return complain(_unknown(name))
    module = importlib.import_module(f"cairnkv.cli.{SUBCOMMANDS[name][0] if name in SUBCOMMANDS else 'registered'}")
    try:
        code: int = module.run(name, rest)
    except SystemExit as leaving:  # argparse, after --help or wrong arguments
        return leaving.code if isinstance(leaving.code, int) else ERROR
    return code


def _dispatch_after_options(arguments: list[str]) -> int:
    """Run a command with the options before it. The same option after the command wins."""
    before: dict[str, list[str]] = {}
    left = list(arguments)
    while left and left[0].startswith("-"):
        option, equals, _ = left[0].partition("=")
        if option in ("-h", "--help", "-V", "--version"):
            return _dispatch([option])
        if option not in EARLY_OPTIONS:
            known, names = suggestion(option, EARLY_OPTIONS), ", ".join(EARLY_OPTIONS)
            return complain(f"there is no option {option!r} before a command{known}; use one of {names}")
        taken = 2 if EARLY_OPTIONS[option] and not equals else 1
        if len(left) <= taken:
            return complain(f"the command after {option} is missing; `cairn --help` lists the commands")
        before[option], left = left[:taken], left[taken:]
    if left[0] == "help":
        return _dispatch(left)
    end = left.index("--") if "--" in left else len(left)
    after = {argument.partition("=")[0] for argument in left[:end]}
    moved = [argument for option, given in before.items() if option not in after for argument in given]
    return _dispatch([*left[:end], *moved, *left[end:]])


def _unknown(name: str) -> str:
    known = [*SUBCOMMANDS, *_registered_commands()]
    return f"there is no command {name!r}{suggestion(name, known)}; use one of {', '.join(known)}"


def suggestion(typed: str, known: Iterable[str]) -> str:
    """Return "did you mean" with the known name that is most similar to an unknown one; empty if no name is similar."""
    import difflib  # needed only for errors

    names = {name.lstrip("-"): name for name in known}  # the dashes of options must not count
    close = difflib.get_close_matches(typed.lstrip("-"), names, 1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def complain(text: str) -> int:
    """Print an error as one line on standard error, and return the exit code of errors. URLs have no secrets there."""
    if "@" in text and "://" in text:
        from cairnkv.client.address import without_secrets  # a slow import that few errors need

        text = without_secrets(text)
    with contextlib.suppress(OSError):  # standard error may be a closed terminal, or on a full disk
        print(f"cairn: {' '.join(text.split())}", file=sys.stderr)
    return ERROR

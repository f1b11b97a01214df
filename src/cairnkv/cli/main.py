"""The entry of the command line: finds the subcommand, and only then imports what it needs.

What always holds: exit code 0 for success and found, 1 for not found, 2 for any error, with one line on
standard error that says what was wrong. Importing this module imports nothing slow, and nothing of the
vocabulary: a process that runs one `get` is mostly imports.
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
    "set": ("keys", "store a value under a key"),
    "clear": ("keys", "clear keys, or all that begin with a prefix, or all"),
    "exists": ("keys", "say whether a key is there"),
    "incr": ("keys", "add to a number and print the sum"),
    "ttl": ("keys", "print the seconds until a key expires"),
    "expire": ("keys", "give a key a new time to live"),
    "persist": ("keys", "take a key's time to live away"),
    "scan": ("store", "print the keys, or those that begin with a prefix"),
    "count": ("store", "print how many keys there are"),
    "ping": ("store", "ask a server for a sign of life"),
    "info": ("store", "print what a server says of itself"),
    "import": ("transfer", "store what a file holds"),
    "export": ("transfer", "write keys and values to a file"),
    "backup": ("backup", "make a backup of a store on disk, while it serves or not"),
    "restore": ("backup", "make a store of a backup"),
    "verify": ("backup", "read a whole backup, and say whether it is as it was made"),
    "check": ("backup", "read a store on disk for damage, or try a running one's consistency"),
    "repair": ("backup", "make a new store of what can be read of a damaged one"),
    "cluster": ("cluster", "run a cluster of several nodes on this machine, and hurt it"),
    "shell": ("shell", "talk to a store command by command"),
    "trace": ("trace", "pass a connection through and show every frame of it"),
}
"""Each subcommand: the module of `cairnkv.cli` that has it, and what it does."""

BEFORE: Final = {"--url": True, "--timeout": True, "--json": False}
"""Options that users may also write before the command, and whether each takes a value."""


def usage() -> str:
    """The overall help, from the table of subcommands."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in SUBCOMMANDS.items()]
    return "\n".join(
        (
            "usage: cairn COMMAND [ARGUMENTS]",
            "",
            "A key-value store that one person can read and a team can run.",
            "",
            *lines,
            "",
            "`cairn COMMAND --help` explains a command. The server is found by --url, else by CAIRNKV_URL,",
            "else at cairn://127.0.0.1:6555. --url, --timeout and --json may stand before the command.",
            "Exit codes: 0 found, 1 not found, 2 error.",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None or sys.stdin is None or sys.stderr is None:
        if arguments[:1] not in (["serve"], ["cluster"]):
            return complain("standard input, output or error is closed; open it, at least on /dev/null")
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
        # Whoever read our output has enough. Nothing more can be said there, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND
    except Exception as error:
        from cairnkv.errors import CairnError, missing_package  # this import takes longer than a whole `get`

        if isinstance(error, ImportError):
            with contextlib.suppress(ImportError):  # a failed import of this package itself is a bug
                return complain(str(missing_package(error, f"cairn {arguments[0]}")))
        if isinstance(error, CairnError):
            return complain(str(error))
        if isinstance(error, OSError):  # a file, a terminal, a full disk: nothing that a traceback explains
            if isinstance(error, FileNotFoundError) and error.filename is None:  # from getcwd
                from cairnkv.paths import in_words

                return complain(in_words(error))
            return complain(str(error))
        import traceback

        traceback.print_exc()
        return complain("this is a fault of cairnkv; please report what stands above")


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
        return _dispatch_behind_options(arguments)
    name, *rest = arguments
    if name == "help":
        if rest and rest[0] not in SUBCOMMANDS:
            return complain(_unknown(rest[0]))
        return _dispatch([rest[0], "--help"] if rest else ["--help"])
    if name not in SUBCOMMANDS:
        return complain(_unknown(name))
    module = importlib.import_module(f"cairnkv.cli.{SUBCOMMANDS[name][0]}")
    try:
        code: int = module.run(name, rest)
    except SystemExit as leaving:  # argparse, behind --help or wrong arguments
        return leaving.code if isinstance(leaving.code, int) else ERROR
    return code


def _dispatch_behind_options(arguments: list[str]) -> int:
    """Run a command with the options before it. The same option after the command wins."""
    before: dict[str, list[str]] = {}
    left = list(arguments)
    while left and left[0].startswith("-"):
        option, equals, _ = left[0].partition("=")
        if option in ("-h", "--help", "-V", "--version"):
            return _dispatch([option])
        if option not in BEFORE:
            known = suggestion(option, BEFORE)
            return complain(f"there is no option {option!r} before a command{known}; use one of {', '.join(BEFORE)}")
        taken = 2 if BEFORE[option] and not equals else 1
        if len(left) <= taken:
            return complain(f"the command after {option} is missing; `cairn --help` lists the commands")
        before[option], left = left[:taken], left[taken:]
    if left[0] == "help":
        return _dispatch(left)
    end = left.index("--") if "--" in left else len(left)
    behind = {word.partition("=")[0] for word in left[:end]}
    moved = [word for option, words in before.items() if option not in behind for word in words]
    return _dispatch([*left[:end], *moved, *left[end:]])


def _unknown(name: str) -> str:
    return f"there is no command {name!r}{suggestion(name, SUBCOMMANDS)}; use one of {', '.join(SUBCOMMANDS)}"


def suggestion(typed: str, known: Iterable[str]) -> str:
    """Return "did you mean" with the known word that is most similar to an unknown one; empty if no word is similar."""
    import difflib  # needed only for errors

    names = {word.lstrip("-"): word for word in known}  # the dashes of options must not count
    close = difflib.get_close_matches(typed.lstrip("-"), names, 1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def complain(text: str) -> int:
    """Say on standard error what is wrong, in one line, and give the exit code of errors."""
    with contextlib.suppress(OSError):  # standard error may be a closed terminal, or on a full disk
        print(f"cairn: {' '.join(text.split())}", file=sys.stderr)
    return ERROR

"""The entry of the command line: finds the subcommand, and only then imports what it needs.

What always holds: exit code 0 for success and found, 1 for not found, 2 for any error, with one line on
standard error that says what was wrong. Importing this module imports nothing slow.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from cairnkv.version import VERSION

FOUND: Final = 0
NOT_FOUND: Final = 1
ERROR: Final = 2

SUBCOMMANDS: Final = {
    "serve": ("serve", "run a server"),
}
"""Each subcommand: the module of `cairnkv.cli` that has it, and what it does."""


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
            "else at cairn://127.0.0.1:6555. Exit codes: 0 found, 1 not found, 2 error.",
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return FOUND if arguments else ERROR
    if arguments[0] in ("-V", "--version", "version"):
        print(f"cairnkv {VERSION}")
        return FOUND
    name = arguments[0]
    if name not in SUBCOMMANDS:
        print(f"cairn: there is no command {name!r}; it has {', '.join(SUBCOMMANDS)}", file=sys.stderr)
        return ERROR
    module = importlib.import_module(f"cairnkv.cli.{SUBCOMMANDS[name][0]}")
    from cairnkv.errors import CairnError

    try:
        code: int = module.run(name, arguments[1:])
        sys.stdout.flush()
        return code
    except CairnError as error:
        print(f"cairn: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("cairn: interrupted", file=sys.stderr)
        return ERROR
    except BrokenPipeError:
        # Whoever read our output has enough. Nothing more can be said there, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FOUND

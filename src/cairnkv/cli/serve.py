"""`cairn serve`: runs a server in the foreground. Each option of the server is a flag."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from cairnkv.cli.arguments import Parser
from cairnkv.cli.main import FOUND
from cairnkv.cli.output import on_terminal
from cairnkv.cli.progress import Bar
from cairnkv.cli.progress import progress as shown
from cairnkv.server.run import run as serve
from cairnkv.server.settings import ENVIRONMENT_PREFIX, OPTIONS, load, readable_secrets


def run(name: str, arguments: Sequence[str]) -> int:
    """Serve until a signal stops the server."""
    parser = Parser(
        name,
        description="Run a server in the foreground. On SIGINT, SIGTERM or SIGHUP the server replies to the commands\n"
        "that it has read, and stops. With --users or --tls-cert, SIGHUP makes it read these files again instead.\n\n"
        f"You can set each option as a flag (--max-value 16MiB), in the environment ({ENVIRONMENT_PREFIX}MAX_VALUE="
        '16MiB)\nor in a TOML file (max-value = "16MiB"). A flag takes precedence over the environment, and the\n'
        "environment over the file.",
        example="cairn serve\ncairn serve --port 7000 --memory-limit 1GiB --when-full evict\n"
        "cairn serve --no-tcp --unix /run/cairn.sock",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with options (default: $CAIRNKV__CONFIG)")
    for option, known in OPTIONS.items():
        parser.setting(option, known)
    given = vars(parser.parse_args(arguments))
    file = given.pop("config")
    flags = {option: text for option, text in given.items() if text is not None}
    settings = load(flags, environment=os.environ, file=file)
    bars = contextlib.ExitStack()
    bar: Bar | None = None
    stage = ""

    def progress(what: str, done: int, total: int, unit: str) -> None:
        """Show a bar for each stage of the start. A stage that has little to do reports no progress."""
        nonlocal bar, stage
        with contextlib.suppress(OSError):  # the server must survive a closed terminal
            if bar is None or what != stage:
                bars.close()
                stage = what
                bar = bars.enter_context(shown(what, max(total, done), unit))
            bar.at(done)

    def ready(line: str) -> None:
        with contextlib.suppress(OSError):
            bars.close()
        try:
            print(line, flush=True)
        except OSError as error:  # the server must survive a closed pipe and a full disk
            logging.getLogger("cairnkv.server").warning("cannot write to standard output (%s): %s", error, line)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    with bars:
        shows = progress if on_terminal(sys.stderr) else None
        serve(settings, ready=ready, progress=shows, warnings=readable_secrets(flags))
    return FOUND

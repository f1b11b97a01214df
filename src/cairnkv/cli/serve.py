"""`cairn serve`: a server in the foreground. Its flags are the server's options, all of them."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence

from cairnkv.cli.arguments import Parser
from cairnkv.cli.main import FOUND
from cairnkv.cli.output import on_terminal
from cairnkv.cli.progress import progress as shown
from cairnkv.server.run import run as serve
from cairnkv.server.settings import ENVIRONMENT_PREFIX, OPTIONS, load


def run(name: str, arguments: Sequence[str]) -> int:
    """Serve until told to stop."""
    parser = Parser(
        name,
        description="Run a server in the foreground until SIGINT, SIGTERM or SIGHUP; then reply to all read commands,\n"
        "stop.\n\n"
        f"Every option also stands in the environment ({ENVIRONMENT_PREFIX}MAX_VALUE=16MiB) and in a TOML file "
        '(max-value = "16MiB").\nA flag wins over the environment, that over the file, that over the default.',
        example="cairn serve\ncairn serve --port 7000 --memory-limit 1GiB --when-full evict\n"
        "cairn serve --no-tcp --unix /run/cairn.sock",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with options (default: $CAIRNKV__CONFIG)")
    for option, known in OPTIONS.items():
        flag = f"--{option.replace('_', '-')}"
        text = f"{known.help} (default: {known.shown})".replace("%", "%%")  # argparse fills such places in
        if known.metavar:
            parser.add_argument(flag, dest=option, metavar=known.metavar, help=text)
        else:
            parser.add_argument(flag, dest=option, action="store_const", const="yes", help=text)
    given = vars(parser.parse_args(arguments))
    file = given.pop("config")
    flags = {option: text for option, text in given.items() if text is not None}
    settings = load(flags, environment=os.environ, file=file)
    bar = contextlib.ExitStack()
    show: Callable[[int], None] | None = None
    stage = ""

    def progress(what: str, done: int, total: int, unit: str) -> None:
        """A bar for each thing that goes on, begun when it is told of first: where there is little to do is none."""
        nonlocal show, stage
        with contextlib.suppress(OSError):  # the server must survive a closed terminal
            if show is None or what != stage:
                bar.close()
                stage = what
                show = bar.enter_context(shown(what, max(total, done), unit))
            show(done)

    def ready(line: str) -> None:
        with contextlib.suppress(OSError):
            bar.close()
        try:
            print(line, flush=True)
        except OSError as error:  # the server must survive a closed pipe and a full disk
            logging.getLogger("cairnkv.server").warning("cannot write to standard output (%s): %s", error, line)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    with bar:
        serve(settings, ready=ready, progress=progress if on_terminal(sys.stderr) else None)
    return FOUND

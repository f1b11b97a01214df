"""`cairn serve`: a server in the foreground. Its flags are the server's options, all of them."""

import os
from collections.abc import Sequence

from cairnkv.cli.arguments import Parser
from cairnkv.cli.main import FOUND
from cairnkv.server.run import run as serve
from cairnkv.server.settings import ENVIRONMENT_PREFIX, OPTIONS, load


def run(name: str, arguments: Sequence[str]) -> int:
    """Serve until told to stop."""
    parser = Parser(
        name,
        description="Run a server in the foreground until SIGINT or SIGTERM; then answer what was read, and stop.\n\n"
        f"Every option also stands in the environment ({ENVIRONMENT_PREFIX}MAX_VALUE=16MiB) and in a TOML file "
        '(max-value = "16MiB").\nA flag wins over the environment, that over the file, that over the default.',
        example="cairn serve\ncairn serve --port 7000 --memory-limit 1GiB --when-full evict\n"
        "cairn serve --no-tcp --unix /run/cairn.sock",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with options (default: $CAIRNKV_CONFIG)")
    for option, known in OPTIONS.items():
        flag = f"--{option.replace('_', '-')}"
        text = f"{known.help} (default: {known.shown})"
        if known.metavar:
            parser.add_argument(flag, dest=option, metavar=known.metavar, help=text)
        else:
            parser.add_argument(flag, dest=option, action="store_const", const="yes", help=text)
    given = vars(parser.parse_args(arguments))
    file = given.pop("config")
    flags = {option: text for option, text in given.items() if text is not None}
    settings = load(flags, environment=os.environ, file=file)
    serve(settings, ready=lambda line: print(line, flush=True))
    return FOUND

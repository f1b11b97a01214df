"""`cairn trace`: relays connections to a server and prints every frame.

Out of scope: the proxy (`lab.trace.proxy`) and the format of the lines (`lab.trace.trace_format`).
"""

import asyncio
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from cairnkv.cli.arguments import Parser, number
from cairnkv.cli.main import FOUND
from cairnkv.cli.output import BOLD, CYAN, GREEN, RED, YELLOW, coloured, styled
from cairnkv.client.address import parse
from cairnkv.client.login import tls_of
from cairnkv.errors import CallerError
from cairnkv.lab.trace.proxy import Proxy, Show
from cairnkv.lab.trace.trace_format import SHOWN_BYTES, Line, Part
from cairnkv.limits import MIB
from cairnkv.server.settings import is_loopback

STYLES: Final = {
    Part.CLIENT: f"{BOLD};{CYAN}",
    Part.SERVER: f"{BOLD};{GREEN}",
    Part.NAME: BOLD,
    Part.BYTES: YELLOW,
    Part.WRONG: f"{BOLD};{RED}",
}


def run(name: str, arguments: Sequence[str]) -> int:
    """Relay connections until Ctrl-C."""
    parser = Parser(
        name,
        description="Relay connections to a server and print every frame, in both directions, field by field. To trace "
        "TLS, name the server with cairns://: the connections of the clients, on a loopback address, have no TLS. A "
        "client logs in as without the proxy; secrets are not printed.",
        example="cairn trace &\ncairn get greeting --url cairn://127.0.0.1:7000",
    )
    parser.add_argument(
        "--listen",
        default="127.0.0.1:7000",
        metavar="HOST:PORT",
        help="the address to which clients connect (default: %(default)s)",
    )
    parser.add_argument("--to", metavar="URL", help="the server (default: $CAIRNKV_URL, else cairn://127.0.0.1:6555)")
    parser.option("--bytes", number(1, MIB), "N", "bytes of each field to print (default: %(default)s)", SHOWN_BYTES)
    parser.switch("--insecure", "listen on a non-loopback address without authentication")
    options = parser.parse_args(arguments)
    host, port = _listen_at(options.listen)
    if not options.insecure and not is_loopback(host):
        raise CallerError(
            f"{host} is not a loopback address, and clients need not authenticate here; allow it with --insecure"
        )
    to = parse(options.to)
    proxy = Proxy(to.endpoints, _printer(), shown_bytes=options.bytes, tls=tls_of(to))
    asyncio.run(proxy.run(host, port))
    return FOUND


def _listen_at(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):)?([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise CallerError(f"--listen takes HOST:PORT or PORT, not {text!r}")
    return match[1] or match[2] or "127.0.0.1", int(match[3])


def _printer() -> Show:
    """Return a function that prints lines, in colours on a terminal, and flushes them."""
    in_colours = coloured(sys.stdout)

    def show(lines: Iterable[Line]) -> None:
        for line in lines:
            parts = (styled(text, STYLES[part]) if part in STYLES else text for text, part in line.parts)
            print("".join(parts) if in_colours else line)
        sys.stdout.flush()

    return show

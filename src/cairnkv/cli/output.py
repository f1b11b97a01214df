"""How keys, values and answers look: exact when piped, readable and safe on a terminal, or JSON.

What always holds: nothing is added to or taken from bytes that go into a pipe or a file; nothing that a store
holds reaches a terminal as a control sequence; JSON says bytes that are not UTF-8 in base64, under a name that
says so.

Imports nothing slow: `get` uses it.
"""

import os
import sys
from typing import Any, Final, TextIO

from cairnkv.escapes import escaped

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"


def on_terminal(stream: TextIO) -> bool:
    """Whether people read what goes there."""
    return stream.isatty()


def coloured(stream: TextIO) -> bool:
    """Whether colours are of use there (https://no-color.org)."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Text in a colour, where colours are of use."""
    return f"\x1b[{style}m{text}\x1b[0m" if coloured(stream or sys.stdout) else text


def put_bytes(data: bytes, *, raw: bool = False) -> None:
    """A line on standard output: the bytes as they are and a newline, or escaped on a terminal.

    raw: the bytes as they are, wherever they go, and no newline.
    """
    if not raw and on_terminal(sys.stdout):
        print(escaped(data))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(data if raw else data + b"\n")


def put_json(value: Any) -> None:
    """Print a line of JSON: UTF-8 in every locale, or ASCII if the terminal may have another encoding."""
    import json

    ascii_only = (sys.stdout.encoding or "").lower() not in ("utf-8", "utf8")
    line = json.dumps(value, ensure_ascii=ascii_only, separators=(", ", ": "))
    sys.stdout.flush()
    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")  # names of files may have \udcXX


def note(text: str) -> None:
    """Something besides the answer, for people: on standard error, if it is a terminal."""
    if on_terminal(sys.stderr):
        print(styled(text, DIM, sys.stderr), file=sys.stderr)


def named(name: str, data: bytes) -> dict[str, str]:
    """A member of a JSON object that holds bytes.

    >>> named("key", b"a"), named("key", bytes([255]))
    ({'key': 'a'}, {'key_b64': '/w=='})
    """
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        import base64

        return {f"{name}_b64": base64.b64encode(data).decode()}

"""Prints keys, values and replies: exactly into a pipe, readable and safe on a terminal, or as JSON.

Invariants: bytes reach a pipe or a file unchanged; no stored byte reaches a terminal as a control sequence; JSON has
bytes that are not UTF-8 in base64, in a member whose name ends in _b64. This module imports nothing slow: `get` uses
it.
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
    """Return whether a stream is a terminal."""
    return stream.isatty()


def coloured(stream: TextIO) -> bool:
    """Return whether a stream shows colours (https://no-color.org)."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return text in a colour if the stream (default: standard output) shows colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if coloured(stream or sys.stdout) else text


def put_bytes(data: bytes, *, raw: bool = False) -> None:
    """Print bytes and a newline, escaped if standard output is a terminal.

    raw: print exactly the bytes, without a newline, also on a terminal.
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
    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")  # file names may contain \udcXX


def note(text: str) -> None:
    """Print a note for people on standard error, if that is a terminal."""
    if on_terminal(sys.stderr):
        print(styled(text, DIM, sys.stderr), file=sys.stderr)


def negative(text: str, *, in_shell: bool) -> None:
    """Print a negative answer such as "not found": in the shell as a line of its output, else as a note."""
    if in_shell:
        print(styled(f"({text})", CYAN))
    else:
        note(text)


def named(name: str, data: bytes) -> dict[str, str]:
    """Return a member of a JSON object for bytes.

    >>> named("key", b"a"), named("key", bytes([255]))
    ({'key': 'a'}, {'key_b64': '/w=='})
    """
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        import base64

        return {f"{name}_b64": base64.b64encode(data).decode()}

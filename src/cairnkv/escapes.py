"""Escapes bytes for a terminal. This module imports nothing slow, because `cairn get` uses it."""

from typing import Final

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(data: bytes) -> str:
    r"""Return bytes as printable text on one line: other bytes become \xNN, \n, \r or \t.

    >>> escaped("né".encode() + bytes([0, 10, 255]))
    'né\\x00\\n\\xff'
    """
    text = data.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(map(_escaped, text))


def quoted(data: bytes) -> str:
    r"""Return bytes in quotes, escaped, as a message shows them.

    >>> quoted("né".encode()), quoted(bytes([255]))
    ("'né'", "'\\xff'")
    """
    return f"'{escaped(data)}'"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return _SHORT.get(character) or "".join(f"\\x{byte:02x}" for byte in character.encode())

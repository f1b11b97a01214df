"""Text that is safe to print on a terminal. Imports nothing slow: `cairn get` uses it."""

from typing import Final

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escaped(data: bytes) -> str:
    r"""Bytes as text on one line: what cannot be shown stands there as \xNN, \n, \r or \t.

    >>> escaped("né".encode() + bytes([0, 10, 255]))
    'né\\x00\\n\\xff'
    """
    text = data.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    """A character, or what stands for one that a terminal would obey or hide rather than show."""
    if character.isprintable():
        return character
    return _SHORT.get(character) or "".join(f"\\x{byte:02x}" for byte in character.encode())

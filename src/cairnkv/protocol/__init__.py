"""Wires: bytes to commands and replies to bytes. Sans-IO: no socket, no clock, no event loop.

`cairnkv.protocol.native` is the wire of the article. Who only wants the codec needs nothing else of cairnkv:
`Command`, `Response`, `parse_command`, `parse_response`, `write_command`, `write_response`.
"""

from cairnkv.commands import Command
from cairnkv.protocol.native import (
    CommandDecoder,
    Cursor,
    Limits,
    Request,
    Response,
    ResponseDecoder,
    StatusByte,
    parse_command,
    parse_response,
    write_command,
    write_response,
)

__all__ = [
    "Command",
    "CommandDecoder",
    "Cursor",
    "Limits",
    "Request",
    "Response",
    "ResponseDecoder",
    "StatusByte",
    "parse_command",
    "parse_response",
    "write_command",
    "write_response",
]

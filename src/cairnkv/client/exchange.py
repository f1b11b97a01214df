"""Chooses the native or the pure path of clients.

`command_parts` encodes a command, `ReplyDecoder` decodes replies, `Line` uses the socket. Tests hold both paths equal.
"""

from typing import TYPE_CHECKING, Final

from cairnkv.client.calls import Leeway
from cairnkv.commands import Command
from cairnkv.installation import native_path_in_use
from cairnkv.protocol import native

if TYPE_CHECKING or not native_path_in_use():
    from cairnkv.client.line import Line
    from cairnkv.protocol.native import ReplyDecoder, command_parts
else:
    from cairnkv.client.exchange_native import Line, ReplyDecoder, command_parts

__all__ = ["Line", "ReplyDecoder", "command_parts", "parts_with"]

_FLAGS: Final = {
    Leeway.MEMORY: int(native.CommandFlag.MEMORY_IS_ENOUGH),
    Leeway.LOCAL: int(native.CommandFlag.LOCAL_READ),
}


def parts_with(leeway: Leeway, command: Command) -> list[bytes]:
    """Return the frame of a command with the flag of a leeway, in pieces. It is rare, so it has no native twin."""
    return native.command_parts(command, flags=_FLAGS[leeway])

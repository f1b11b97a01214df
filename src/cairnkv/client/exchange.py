"""What a call over a network spends its time in: compiled where it could be, else the readable one.

Commands to bytes (`command_parts`; `parts_with` for the rarer ones with a flag), bytes to replies (`ReplyDecoder`), and
bytes through a socket (`Line`). Both forms have the same names and do the same; tests hold them equal.
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
    """As `command_parts`, for a command with the flag of a leeway: rarer, and so the readable one in both forms."""
    return native.command_parts(command, flags=_FLAGS[leeway])

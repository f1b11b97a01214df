"""The protocols: convert bytes to commands, and replies to bytes. Sans-IO: no socket, no clock, no event loop.

This package exports the codec of the native protocol (`cairnkv.protocol.native`). `cairnkv.protocol.resp` has the Redis
protocol.
"""

from cairnkv.commands import Command as Command
from cairnkv.protocol.native import *  # noqa: F403

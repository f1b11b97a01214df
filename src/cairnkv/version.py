"""The version of cairnkv. `pyproject.toml` also reads it from here."""

from typing import Final

VERSION: Final = "0.1.0"

REDIS_VERSION: Final = "7.2.0"
"""The version of Redis whose commands the Redis protocol has. Clients select their commands by it."""

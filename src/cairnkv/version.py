"""The version, in the one place that the package itself reads. `pyproject.toml` reads it from here."""

from typing import Final

VERSION: Final = "0.1.0"

REDIS_VERSION: Final = "7.2.0"
"""The version of Redis whose commands are meant on its wire; clients ask for it to know what they may say."""

"""The version, in the one place that the package itself reads. `pyproject.toml` reads it from here."""

from typing import Final

VERSION: Final = "0.1.0"

"""cairnkv: a key-value store that one person can read and a team can run."""

from cairnkv.version import VERSION

__version__ = VERSION

__all__ = ["__version__"]

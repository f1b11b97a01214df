"""The command line: `cairn`, `cairnkv`, `python -m cairnkv`."""

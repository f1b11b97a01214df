"""A small store of each format that was released, as its version wrote it, and what stands in it.

    python -m tests.storage.formats.make

makes the directory of this version's format anew. That is for a format that was never released; a released one stays.
"""

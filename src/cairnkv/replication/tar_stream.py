"""Pack the files of a directory into a tar archive, and unpack it, chunk by chunk.

Invariants: an archive contains only regular files with plain names. Any other archive is refused, so unpacking writes
only to its own directory. Memory holds one chunk.

Out of scope: damage of the bytes (`nats.snapshots` compares digests).
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

BLOCK: Final = tarfile.BLOCKSIZE
"""Bytes to a multiple of which headers and files are padded."""

FILES_MAX: Final = 1_000_000
"""Maximum files in an archive: RocksDB's tables have 64 MiB each."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_END: Final = bytes(2 * BLOCK)


class BadArchive(ValueError):
    """An invalid archive, or one with unsupported contents. The text has the reason."""


def packed(directory: Path, size: int) -> Iterator[bytes]:
    """Yield an archive of a directory, in chunks of `size` bytes; the last one may be shorter.

    Raises `BadArchive` if the directory has anything but regular files, and `OSError`, also if a file changes
    meanwhile.
    """
    chunk = bytearray()
    for part in _parts(directory, size):
        chunk += part
        while len(chunk) >= size:
            yield bytes(chunk[:size])
            del chunk[:size]
    if chunk:
        yield bytes(chunk)


def _parts(directory: Path, size: int) -> Iterator[bytes]:
    for path in sorted(directory.iterdir()):
        if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            raise BadArchive(f"{path} is not a regular file with a plain name")
        with path.open("rb") as file:
            header = tarfile.TarInfo(path.name)
            header.size = left = path.stat().st_size
            header.mode = 0o600
            yield header.tobuf(tarfile.GNU_FORMAT)
            while left:
                part = file.read(min(size, left))
                if not part:
                    raise OSError(f"{path} became shorter while it was read")
                left -= len(part)
                yield part
            yield bytes(-header.size % BLOCK)
    yield _END


class Unpacking:
    """Unpacks an archive into an empty directory. Call `finish` or `stop` at the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._header = bytearray()
        self._file: BinaryIO | None = None
        self._left = 0  # missing bytes of the current file
        self._padding = 0  # padding bytes after it
        self._files = 0
        self._zeros = 0  # bytes of the end mark

    def feed(self, chunk: bytes) -> None:
        """Unpack the next chunk. Raises `BadArchive`, `OSError`."""
        rest = memoryview(chunk)
        while rest:
            if self._file is not None:
                rest = self._written(self._file, rest)
            elif self._padding:
                skipped = min(self._padding, len(rest))
                self._padding -= skipped
                rest = rest[skipped:]
            else:
                taken = rest[: BLOCK - len(self._header)]
                self._header += taken
                rest = rest[len(taken) :]
                if len(self._header) == BLOCK:
                    self._begin(bytes(self._header))
                    self._header.clear()

    def finish(self) -> None:
        """Check that the archive is complete. Raises `BadArchive`."""
        self.stop()
        if self._zeros < len(_END) or self._header:
            raise BadArchive("the archive is incomplete")

    def stop(self) -> None:
        """Close the current file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _written(self, file: BinaryIO, rest: memoryview) -> memoryview:
        part = rest[: self._left]
        file.write(part)
        self._left -= len(part)
        if not self._left:
            self.stop()
        return rest[len(part) :]

    def _begin(self, block: bytes) -> None:
        if not any(block):
            self._zeros += BLOCK
            return
        try:
            header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise BadArchive(f"not a tar archive: {error}") from None
        if self._zeros:
            raise BadArchive("the archive has data after its end")
        if header.type != tarfile.REGTYPE or not _NAME.fullmatch(header.name) or header.size < 0:
            raise BadArchive(f"the archive has something other than a file with a plain name: {header.name[:100]!r}")
        self._files += 1
        if self._files > FILES_MAX:
            raise BadArchive(f"the archive has more than {FILES_MAX:,} files")
        try:
            file = (self._directory / header.name).open("xb")
        except FileExistsError:
            raise BadArchive(f"the archive has {header.name} twice") from None
        self._padding = -header.size % BLOCK
        if header.size:
            self._file, self._left = file, header.size
        else:
            file.close()

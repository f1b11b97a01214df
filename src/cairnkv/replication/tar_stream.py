"""A flat directory of files as one stream of bytes, and back: a tar file that is never there as a whole.

What always holds: an archive has plain files with plain names and nothing else; what has anything else is refused, so
that unpacking writes into its own directory only. Memory holds a piece.

Not for whether the bytes are those that were packed (`snapshots` compares digests).
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

BLOCK: Final = tarfile.BLOCKSIZE
"""What headers and files are rounded up to, in bytes."""

FILES_MAX: Final = 1_000_000
"""Files in an archive: RocksDB's tables have 64 MiB each."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_END: Final = bytes(2 * BLOCK)


class BadArchive(ValueError):
    """It is none, or not one of ours; the text says why."""


def packed(directory: Path, size: int) -> Iterator[bytes]:
    """The files of a directory, in pieces of `size` bytes; the last one may be shorter.

    Raises `BadArchive` where there is anything but plain files, and `OSError`, also for a file that changes meanwhile.
    """
    piece = bytearray()
    for part in _parts(directory, size):
        piece += part
        while len(piece) >= size:
            yield bytes(piece[:size])
            del piece[:size]
    if piece:
        yield bytes(piece)


def _parts(directory: Path, size: int) -> Iterator[bytes]:
    for path in sorted(directory.iterdir()):
        if not _NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            raise BadArchive(f"{path} is no file with a plain name")
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
    """Makes files of pieces, in an empty directory. Closed by `finish` or `stop`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._header = bytearray()
        self._file: BinaryIO | None = None
        self._left = 0  # bytes of the file that are yet to come
        self._padding = 0  # bytes behind it
        self._files = 0
        self._zeros = 0  # bytes of the archive's end

    def feed(self, piece: bytes) -> None:
        """Write what comes next. Raises `BadArchive`, `OSError`."""
        rest = memoryview(piece)
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
        """All has come. Raises `BadArchive` when that cannot be."""
        self.stop()
        if self._zeros < len(_END) or self._header:
            raise BadArchive("it ends in the middle")

    def stop(self) -> None:
        """Let go of the file under way."""
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
            raise BadArchive(f"it is no archive: {error}") from None
        if self._zeros:
            raise BadArchive("it goes on behind its end")
        if header.type != tarfile.REGTYPE or not _NAME.fullmatch(header.name) or header.size < 0:
            raise BadArchive(f"it has something else than a file with a plain name: {header.name[:100]!r}")
        self._files += 1
        if self._files > FILES_MAX:
            raise BadArchive(f"it has more than {FILES_MAX:,} files")
        try:
            file = (self._directory / header.name).open("xb")
        except FileExistsError:
            raise BadArchive(f"it has {header.name} twice") from None
        self._padding = -header.size % BLOCK
        if header.size:
            self._file, self._left = file, header.size
        else:
            file.close()

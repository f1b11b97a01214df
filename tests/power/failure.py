"""A model of a file system that gives, from a trace of calls, the possible content after a power failure.

A file is what it held when its last completed fsync began, plus any part of what was written since. A directory has the
names that it had when its last completed fsync began, plus any of the changes since. Which, dice decide:

- Of a file's later writes: none, all, all up to some byte, or any of their sectors (512 bytes), each as it was at one
  time or another since. Where a file has grown and a sector has not come, there are zeros. What lay on the disk before,
  of other files, never shows: file systems that people keep data on see to that.
- STRICT: of the later changes of a directory each one may be there or not, by itself, as POSIX allows. A rename is one
  change.
- ORDERED: they are there up to some point, over all directories, and any fsync takes all that came before it along: as
  journaling file systems do it (ext4, XFS, btrfs).

What always holds: the directory that the trace was begun in is there, with what was in it then.
"""

import enum
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.power.trace import (
    Note,
    Trace,
)

SECTOR: Final = 512
"""What a disk writes as a whole."""


class Metadata(enum.Enum):
    """The fate of names that were not fsynced."""

    STRICT = "strict"
    ORDERED = "ordered"


class _File:
    """A file. changes: (offset, data) of writes, (length, None) of other lengths, all behind `content`."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)  # what surely is on the disk
        self.changes: list[tuple[int, bytes | None]] = []
        self.folded = 0  # changes that are in `content`

    def change(self, offset: int, data: bytes | None) -> None:
        self.changes.append((offset, data))

    def mark(self) -> int:
        return self.folded + len(self.changes)

    def synced(self, mark: int) -> None:
        count = max(mark - self.folded, 0)
        for offset, data in self.changes[:count]:
            _apply(self.content, offset, data)
        del self.changes[:count]
        self.folded += count

    def whole(self) -> bytes:
        content = bytearray(self.content)
        for offset, data in self.changes:
            _apply(content, offset, data)
        return bytes(content)

    def left(self, dice: random.Random) -> bytes:
        """Return the content after a power failure."""
        content = bytearray(self.content)
        match dice.choice(("none", "all", "torn", "torn", "sectors", "sectors")) if self.changes else "none":
            case "all":
                return self.whole()
            case "torn":
                written = sum(len(data) for _, data in self.changes if data is not None)
                left = dice.randint(0, written)
                for offset, data in self.changes:
                    if data is not None:
                        data = data[:left]
                        left -= len(data)
                        if not data:
                            break
                    _apply(content, offset, data)
            case "sectors":
                chance = dice.choice((0.1, 0.5, 0.9, 0.99))
                kept: dict[int, bool] = {}  # of each sector, whether it was written again; later writes are not without
                for offset, data in self.changes:
                    if data is None:
                        if dice.random() < chance:
                            _apply(content, offset, None)
                        continue
                    for begin, end in _sectors(offset, len(data)):
                        sector = begin // SECTOR
                        kept[sector] = kept.get(sector, True) and dice.random() < chance
                        if kept[sector]:
                            _apply(content, begin, data[begin - offset : end - offset])
                if dice.random() < 0.5:  # the length is another thing than what stands there
                    content.extend(bytes(max(len(self.whole()) - len(content), 0)))
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset if data is None else offset + len(data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


def _sectors(offset: int, length: int) -> Iterable[tuple[int, int]]:
    end = offset + length
    while offset < end:
        upto = min((offset // SECTOR + 1) * SECTOR, end)
        yield offset, upto
        offset = upto


_Entries = dict[str, "_File | _Directory"]
_Change = Callable[[_Entries], None]


class _Directory:
    def __init__(self) -> None:
        self.now: _Entries = {}
        self.durability: _Entries = {}
        self.changes: list[tuple[int, _Change]] = []  # each with its number among all directories' changes

    def change(self, number: int, change: _Change) -> None:
        change(self.now)
        self.changes.append((number, change))

    def synced(self, upto: int) -> None:
        while self.changes and self.changes[0][0] <= upto:
            self.changes.pop(0)[1](self.durability)


class Disk:
    """The directory of a trace, note by note."""

    def __init__(self, trace: Trace, metadata: Metadata) -> None:
        """What is in the directory now is surely on the disk; the notes have to begin here."""
        self._root_path = trace.root
        self._metadata = metadata
        self._root = _read(trace.root)
        self._opened: dict[int, _File | _Directory] = {}
        self._syncs: dict[int, tuple[_File | _Directory, int, int]] = {}  # by number; what, its mark, change number
        self._changes = 0
        self._durable_changes = 0
        self.strange: list[str] = []

    def follow(self, note: Note) -> None:
        """Have this happen."""
        match note.kind:
            case 1:  # OPEN
                self._opened[note.number] = self._open(note.text, directory=bool(note.offset))
            case 2:  # WRITE
                self._file(note).change(note.offset, note.text)
            case 3:  # TRUNCATE
                self._file(note).change(note.offset, None)
            case 4:  # SYNC
                target = self._opened[note.number]
                mark = target.mark() if isinstance(target, _File) else 0
                self._syncs[note.offset] = target, mark, self._changes
            case 5:  # SYNCED
                self._synced(*self._syncs.pop(note.number))
            case 6:
                self._rename(note.text, note.text2)
            case 7 | 10:  # UNLINK, RMDIR
                parent, name = self._place(note.text)
                self._change(parent, lambda entries: entries.pop(name, None))
            case 8:  # LINK
                source, old = self._place(note.text)
                self._enter(note.text2, source.now[old])
            case 9:  # MKDIR
                self._enter(note.text, _Directory())
            case _:
                self.strange.append(note.text.decode())

    def _file(self, note: Note) -> _File:
        target = self._opened[note.number]
        assert isinstance(target, _File)
        return target

    def _place(self, path: bytes) -> tuple[_Directory, str]:
        *between, name = Path(path.decode()).relative_to(self._root_path).parts
        directory = self._root
        for part in between:
            entry = directory.now[part]
            assert isinstance(entry, _Directory)
            directory = entry
        return directory, name

    def _change(self, directory: _Directory, change: Callable[[_Entries], object]) -> None:
        self._changes += 1
        directory.change(self._changes, lambda entries: (change(entries), None)[1])

    def _enter(self, path: bytes, entry: "_File | _Directory") -> None:
        parent, name = self._place(path)
        self._change(parent, lambda entries: entries.__setitem__(name, entry))

    def _open(self, path: bytes, *, directory: bool) -> "_File | _Directory":
        if Path(path.decode()) == self._root_path:
            return self._root
        parent, name = self._place(path)
        if name not in parent.now:
            assert not directory
            self._enter(path, _File())
        return parent.now[name]

    def _rename(self, source: bytes, target: bytes) -> None:
        parent, old = self._place(source)
        new_parent, new = self._place(target)
        entry = parent.now[old]
        if parent is new_parent:
            self._change(parent, lambda entries: (entries.pop(old, None), entries.__setitem__(new, entry)))
        else:
            self._change(new_parent, lambda entries: entries.__setitem__(new, entry))
            self._change(parent, lambda entries: entries.pop(old, None))

    def _synced(self, target: "_File | _Directory", mark: int, changes: int) -> None:
        if isinstance(target, _File):
            target.synced(mark)
        else:
            target.synced(changes)
        self._durable_changes = max(self._durable_changes, changes)
        if self._metadata is Metadata.ORDERED:
            self._walk(self._root, lambda directory: directory.synced(changes))

    def _walk(self, directory: _Directory, visit: Callable[[_Directory], None]) -> None:
        visit(directory)
        for entry in {id(entry): entry for entry in (*directory.now.values(), *directory.durability.values())}.values():
            if isinstance(entry, _Directory):
                self._walk(entry, visit)

    def left(self, dice: random.Random, directory: Path) -> None:
        """Make there what a power failure at this moment leaves."""
        match dice.choice(("none", "all", "some", "some")):
            case "none":
                chance, last = 0.0, 0
            case "all":
                chance, last = 1.0, self._changes
            case _:
                chance, last = dice.random(), dice.randint(self._durable_changes, self._changes)
        strict = self._metadata is Metadata.STRICT

        def entries_left(directory: _Directory) -> _Entries:
            entries = dict(directory.durability)
            for number, change in directory.changes:
                if dice.random() < chance if strict else number <= last:
                    change(entries)
            return entries

        _write(self._root, directory, entries_left, lambda file: file.left(dice))

    def whole(self, directory: Path) -> None:
        """Make there what it is without a failure."""
        _write(self._root, directory, lambda entry: entry.now, _File.whole)


def _read(path: Path) -> _Directory:
    directory = _Directory()
    for inner in path.iterdir():
        directory.now[inner.name] = _read(inner) if inner.is_dir() else _File(inner.read_bytes())
    directory.durability = dict(directory.now)
    return directory


def _write(
    directory: _Directory, path: Path, entries: Callable[[_Directory], _Entries], content: Callable[[_File], bytes]
) -> None:
    path.mkdir(mode=0o700)
    for name, entry in entries(directory).items():
        if isinstance(entry, _Directory):
            _write(entry, path / name, entries, content)
        else:
            (path / name).write_bytes(content(entry))

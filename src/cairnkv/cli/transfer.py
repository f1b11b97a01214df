"""`cairn import` and `cairn export`: copy keys and values from a file to a store, and from a store to a file.

Invariants: both hold one batch in memory, which has a limit of rows and of bytes. If an import stops early (a bad line,
a lost connection, Ctrl-C), it prints the number of stored rows, and the lines whose outcome is unknown. An incomplete
export does not replace the file.

Out of scope: a snapshot of one moment. For a key that changes during an export, the file has the old or the new value;
a key that a client deletes may be missing. The format of a line is in `formats`.
"""

import argparse
import contextlib
import dataclasses
import errno
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from cairnkv.cli.arguments import Parser, client, octets, path
from cairnkv.cli.formats import FORMATS, Bad, Format, Line, Row, format_of
from cairnkv.cli.main import FOUND, complain
from cairnkv.cli.progress import Bar, progress, rate, terminated_like_interrupted
from cairnkv.commands.failures import BIGREPLY
from cairnkv.errors import BadCommand, CairnError, CallerError, OutcomeUnknown
from cairnkv.limits import MIB
from cairnkv.units import counted

if TYPE_CHECKING:
    import cairnkv

    Store = cairnkv.Client[bytes, bytes]

BATCH_ROWS: Final = 1_000
"""Maximum number of rows in a batch."""

BATCH_BYTES: Final = MIB
"""Bytes of keys and values after which a batch is full; one row may be larger."""

STDIO: Final = "-"
"""The file name for standard input or output."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    with terminated_like_interrupted():  # prints the progress before it exits
        return (_import if name == "import" else _export)(name, arguments)


_FORMATS_HELP: Final = """\
formats:
  jsonl  one object on each line: {"key": "a", "value": "b", "expires_ms": 1767225600000}; key_b64 and
         value_b64 have bytes that are not UTF-8, in base64
  tsv    key<TAB>value[<TAB>expires_ms] on each line; bytes are unchanged, except \\t \\n \\r \\\\ for tab, newline,
         carriage return and backslash
  csv    a header key,value[,expires_ms], then the rows; UTF-8 text only
  expires_ms is the expiry in milliseconds since 1970; a row without it does not expire."""


def _parser(name: str, description: str, example: str) -> Parser:
    parser = Parser(name, address=True, description=description, example=example)
    parser.epilog = f"{_FORMATS_HELP}\n\n{parser.epilog}"
    parser.add_argument("--format", choices=FORMATS, help="default: from the file's suffix; jsonl for -")
    return parser


# -- import --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Counts:
    """The rows of an import so far."""

    imported: int = 0
    present: int = 0
    expired: int = 0
    bad: int = 0

    def __str__(self) -> str:
        parts = [f"imported {counted(self.imported, 'row')}"]
        if self.present:
            parts.append(f"{self.present:,} already existed")
        if self.expired:
            parts.append(f"{self.expired:,} had expired")
        if self.bad:
            parts.append(f"skipped {counted(self.bad, 'bad line')}")
        return ", ".join(parts)


def _import(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Store the keys and values of a file, in order. Stops at the first bad line, after it has stored the rows\n"
        "before; --skip-bad continues. Skips rows that have expired.",
        "cairn import keys.jsonl\ncairn import --format tsv - < pairs\n"
        "cairn export - --url $OLD | cairn import - --url $NEW",
    )
    parser.add_argument("file", type=path, metavar="FILE", help="the file; - is standard input")
    parser.switch("--if-absent", "store only keys that do not exist")
    parser.switch("--skip-bad", "report bad lines and continue")
    options = parser.parse_args(arguments)
    form = format_of(options.file, options.format)
    counts = _Counts()
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        file: IO[bytes] = sys.stdin.buffer if options.file == STDIO else stack.enter_context(_opened(options.file))
        kv = stack.enter_context(client(options))
        try:
            _import_rows(kv, file, form, options, counts)
        except (_Stopped, CairnError, OSError) as error:
            return complain(f"{counts}; {error}")
        except KeyboardInterrupt:
            return complain(f"{counts}; interrupted")
    print(f"cairn: {counts} {rate(counts.imported + counts.present, time.perf_counter() - began)}", file=sys.stderr)
    return FOUND


def _opened(name: str) -> IO[bytes]:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise CallerError(f"cannot read {name}: {error.strerror}") from None


class _Stopped(Exception):
    """An import has stopped; the text names the lines."""


def _import_rows(kv: "Store", file: IO[bytes], form: Format, options: argparse.Namespace, counts: _Counts) -> None:
    """Store the rows of a file, and count them. Raises `_Stopped`."""
    total = os.fstat(file.fileno()).st_size if options.file != STDIO and Path(options.file).is_file() else None
    with progress("importing", total, "bytes" if total is not None else "rows") as bar:
        for batch in _batches(form.read(file)):
            lines = [line for line in batch if isinstance(line, Line)]
            _store(kv, lines, counts, if_absent=options.if_absent)
            for bad in (line for line in batch if isinstance(line, Bad)):
                if not options.skip_bad:
                    raise _Stopped(f"line {bad.number:,}: {bad.why}")
                counts.bad += 1
                complain(f"line {bad.number:,}: {bad.why}")
            bar.at(counts.imported if total is None else file.tell())


def _batches(lines: Iterable[Line | Bad]) -> Iterator[list[Line | Bad]]:
    """Yield lines in batches; a bad line is the last of its batch."""
    batch: list[Line | Bad] = []
    size = 0
    try:
        for line in lines:
            batch.append(line)
            if isinstance(line, Line):
                size += len(line.row.key) + len(line.row.value)
            if isinstance(line, Bad) or len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
    except (CairnError, OSError):
        yield batch  # stored before the error is raised, so that the count says where the import stopped
        raise
    yield batch


def _store(kv: "Store", lines: Sequence[Line], counts: _Counts, *, if_absent: bool) -> None:
    """Store a batch in order, in one pipeline, and count the rows."""
    now = time.time_ns() // 1_000_000
    parts: list[tuple[list[Line], cairnkv.Pending[bool] | cairnkv.Pending[None]]] = []
    pipeline = kv.pipeline()
    for group in _groups(lines, alone=if_absent):
        row = group[0].row
        if row.expires_ms is None and not if_absent:
            values: dict[str | bytes, bytes] = {line.row.key: line.row.value for line in group}
            parts.append((group, pipeline.set_many(values)))
            continue
        ttl = None if row.expires_ms is None else (row.expires_ms - now) / 1000
        if ttl is not None and ttl <= 0:
            counts.expired += 1
        else:
            parts.append((group, pipeline.set(row.key, row.value, ttl=ttl, if_absent=if_absent)))
    try:
        pipeline.execute()
    except CairnError:
        pass  # each part has its own error, below
    except KeyboardInterrupt:
        raise _Stopped(f"interrupted; the outcome of {_named(lines)} is unknown") from None
    failed = [(group, pending.error) for group, pending in parts if pending.error is not None]
    for group, pending in parts:
        if pending.error is None and pending.result() is False:
            counts.present += 1
        elif pending.error is None:
            counts.imported += len(group)
    if failed:
        group, error = failed[0]
        unsure = [line for lines, part in parts if isinstance(part.error, OutcomeUnknown) for line in lines]
        raise _Stopped(f"{_named(unsure or group)}: {error}")


def _named(lines: Sequence[Line]) -> str:
    first, last = lines[0].number, lines[-1].number
    return f"line {first:,}" if first == last else f"lines {first:,} to {last:,}"


def _groups(lines: Sequence[Line], *, alone: bool) -> Iterator[list[Line]]:
    """Yield groups of rows that one SET_MANY can store, and each other row alone. alone: each row."""
    for together, group in groupby(lines, lambda line: not alone and line.row.expires_ms is None):
        if together:
            yield list(group)
        else:
            yield from ([line] for line in group)


# -- export --------------------------------------------------------------------------------------------------


def _export(name: str, arguments: Sequence[str]) -> int:
    parser = _parser(
        name,
        "Write keys and values to a file. An existing file is replaced when the export is complete.",
        "cairn export keys.jsonl\ncairn export --prefix user: users.csv\ncairn export - | gzip > keys.jsonl.gz",
    )
    parser.add_argument("file", type=path, metavar="FILE", help="the file; - is standard output")
    parser.add_argument("--prefix", type=octets, default=b"", help="export only keys that begin with this")
    options = parser.parse_args(arguments)
    form = format_of(options.file, options.format)
    began = time.perf_counter()
    count = 0

    def counted_rows(rows: Iterable[Row], bar: Bar) -> Iterator[Row]:
        nonlocal count
        for row in rows:
            yield row
            count += 1
            if count % BATCH_ROWS == 0:
                bar.at(count)

    target = _Target(options.file)
    try:
        with client(options) as kv, target.opened() as file:
            total = None if options.prefix else kv.count()
            with progress("exporting", total, "keys") as bar:
                for piece in form.write(counted_rows(_rows(kv, options.prefix), bar)):
                    file.write(piece)
            file.flush()
    except BrokenPipeError:
        raise
    except (CairnError, OSError, KeyboardInterrupt) as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        return complain(f"stopped after {counted(count, 'key')}{target.left}; {why}")
    print(f"cairn: exported {counted(count, 'key')} {rate(count, time.perf_counter() - began)}", file=sys.stderr)
    return FOUND


def _rows(kv: "Store", prefix: bytes) -> Iterator[Row]:
    """Yield all keys with values and expiries; one request reads as many as fit into a reply."""
    keys = kv.scan(prefix)
    fit = BATCH_ROWS
    while batch := list(islice(keys, BATCH_ROWS)):
        while batch:
            some = batch[:fit]
            try:
                values = kv.get_many(some)
            except BadCommand as error:
                # The sizes of values are not known before; the server's limit of a frame bounds the reply.
                if error.code != BIGREPLY.name or len(some) == 1:
                    raise
                fit = len(some) // 2
                continue
            del batch[: len(some)]
            fit = min(BATCH_ROWS, fit * 2)
            yield from _with_expiry(kv, values)


def _with_expiry(kv: "Store", values: dict[bytes, bytes]) -> Iterator[Row]:
    with kv.pipeline() as pipeline:
        ttls = [pipeline.ttl(key) for key in values]
    now = time.time_ns() // 1_000_000
    for (key, value), pending in zip(values.items(), ttls, strict=True):
        ttl = pending.result()
        if ttl is not None:
            yield Row(key, value, None if math.isinf(ttl) else now + round(ttl * 1000))


class _Target:
    """An output file. A complete file replaces a regular file; bytes go directly to pipes, devices and open files."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.left = ""
        """The state of the file after a failed export, for the error message."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Open the file to write to."""
        if self._name == STDIO:
            sys.stdout.flush()
            yield sys.stdout.buffer
            return
        path = Path(self._name)
        try:
            direct = _is_open_or_no_file(path)
            path = path.resolve()  # replace the target of a symbolic link
        except RuntimeError as error:  # a loop of symbolic links
            raise CallerError(f"cannot write {self._name}: {error}") from None
        if direct:
            with Path(self._name).open("wb") as file:
                yield file
            return
        self.left = f" ({self._name} is unchanged)"
        with contextlib.ExitStack() as stack:
            part = self._part(path)
            file = stack.enter_context(part.open("xb"))
            stack.callback(part.unlink, missing_ok=True)
            if path.exists():
                with contextlib.suppress(OSError):  # some file systems have no permissions
                    part.chmod(path.stat().st_mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            try:
                part.replace(path)
            except OSError as error:
                if error.errno not in _CANNOT_REPLACE or not path.exists():
                    raise
                self._write_into(path, part)

    @staticmethod
    def _part(path: Path) -> Path:
        """Return the path of the incomplete file: a short name beside the target, or in the temporary directory."""
        beside = path.with_name(f".cairn-{os.getpid()}.part")
        if path.exists() and os.access(path, os.W_OK) and not os.access(path.parent, os.W_OK):
            return Path(tempfile.gettempdir()) / beside.name
        return beside

    def _write_into(self, path: Path, part: Path) -> None:
        """Copy a complete file into a file that rename cannot replace, such as a bind mount in a container."""
        self.left = f" ({self._name} is incomplete)"
        with part.open("rb") as source, path.open("r+b") as target:
            shutil.copyfileobj(source, target, MIB)
            target.truncate()
            target.flush()
            os.fsync(target.fileno())


_CANNOT_REPLACE: Final = (errno.EBUSY, errno.EXDEV, errno.EPERM, errno.EACCES)
"""Errors of rename after which a write into the file itself may still succeed."""


LINKS_MAX: Final = 40
"""Maximum length of a chain of symbolic links, as on Linux; a loop of links has no end."""


def _is_open_or_no_file(path: Path) -> bool:
    """Return whether a path is a pipe or a device, or names an open file of a process, as /dev/stdout does."""
    if path.exists() and not path.is_file():
        return True
    for _ in range(LINKS_MAX):
        if path.parent.resolve().is_relative_to("/proc"):
            return True
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return False

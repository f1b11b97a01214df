"""`cairn backup`, `restore`, `verify`, `check` and `repair`: the care of a store on disk.

What always holds: a backup of a live server is made by the server, in a directory that its owner has given it; all else
works on files of this machine. Nothing but what is made anew is written to; old backups go only when --keep says so.
Exit codes: 0 all is well; 1 damage was found, and is told line by line; 2 it could not be done.

Not for what a backup is (`cairnkv.storage.backup`) or what damage is (`cairnkv.storage.check`).
"""

import argparse
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cairnkv.cli.arguments import Parser, client, client_parser, path
from cairnkv.cli.main import FOUND, complain
from cairnkv.cli.output import put_json
from cairnkv.cli.progress import counted, progress, rate, terminated_like_interrupted

if TYPE_CHECKING:
    from cairnkv.storage.backup import Backup as Kept
    from cairnkv.storage.check import Findings

DAMAGED: Final = 1
"""The exit code of `verify` and `check` when something is not as it was written."""

POLL_SECONDS: Final = 0.2
"""How often a server is asked how far it is."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    before = os.umask(0o077)  # what is made, RocksDB's files among it, is its owner's
    try:
        with terminated_like_interrupted():  # removes an incomplete result
            return _SUBCOMMANDS[name](name, arguments)
    finally:
        os.umask(before)


class _Bar:
    """A progress bar that begins when it is known how long it gets."""

    def __init__(self, what: str, stack: contextlib.ExitStack) -> None:
        self._what = what
        self._stack = stack
        self._show: Callable[[int], None] | None = None
        self._done = 0

    def expect(self, total: int) -> None:
        if self._show is None:
            self._show = self._stack.enter_context(progress(self._what, total, "bytes"))

    def more(self, done: int) -> None:
        self.at(self._done + done)

    def at(self, done: int) -> None:
        self._done = done
        if self._show is not None:
            self._show(done)


def _local_parser(name: str, description: str, example: str) -> Parser:
    parser = Parser(name, description=description, example=example)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


@contextlib.contextmanager
def _files() -> Iterator[None]:
    """Where it is about files: errors of the system are errors in one line."""
    from cairnkv.errors import OptionError
    from cairnkv.paths import in_words
    from cairnkv.storage import StorageRefused

    try:
        yield
    except OSError as error:
        raise OptionError(in_words(error)) from None
    except StorageRefused as error:
        raise OptionError(str(error)) from None


# -- backup ------------------------------------------------------------------------------------------------------


def _backup(name: str, arguments: Sequence[str]) -> int:
    parser = client_parser(
        name,
        description="Make a backup of a store on disk, and print which one. It has everything that was acknowledged\n"
        "before. Files that an earlier one beside it has as well are shared with it.\n\n"
        "Of a running server (--url), which makes it itself: DEST is a name, below the server's --backup-dir.\n"
        "With --data, of a store that no server has open: DEST is a directory for backups.",
        example="cairn backup daily\ncairn backup daily --keep 7 --url cairn://db1:6555\n"
        "cairn backup backups/ --data data/\ncairn backup --list backups/daily",
    )
    parser.add_argument("dest", metavar="DEST", help="where it goes: a name at a server; with --data, a directory")
    parser.add_argument("--data", type=path, metavar="DIR", help="directory of a store that no server has open")
    parser.add_argument(
        "--keep", type=_kept, metavar="N", help="remove older ones when it is there, so that N are left (default: none)"
    )
    parser.add_argument("--list", action="store_true", help="only print which whole backups are in the directory DEST")
    options = parser.parse_args(arguments)
    from cairnkv.paths import user_path

    if options.list or options.data is not None:
        options.dest = user_path(options.dest, "DEST")
    if options.list:
        return _list(Path(options.dest), as_json=options.json)
    if options.data is not None:
        if options.url is not None:
            parser.error("--data is for a store that no server has open, --url for a server: one of them")
        return _backup_closed(Path(options.data), Path(options.dest), options)
    return _backup_live(options)


def _kept(text: str) -> int:
    from cairnkv.limits import BACKUPS_KEPT_MAX

    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= BACKUPS_KEPT_MAX):
        raise argparse.ArgumentTypeError(f"it takes a number from 1 to {BACKUPS_KEPT_MAX:,}")
    return int(text)


def _backup_closed(data: Path, directory: Path, options: argparse.Namespace) -> int:
    from cairnkv.storage.backup import make_of_closed
    from cairnkv.storage.check import not_open

    with contextlib.ExitStack() as stack, _files():
        with not_open(data):
            pass  # so that no store is made where there is none
        bar = _Bar("backing up", stack)
        made = make_of_closed(data, directory, keep=options.keep, expect=bar.expect, progress=bar.more)
    return _told_of(str(made.path), made.size, made.new, (made.ended_ms - made.began_ms) / 1000, options)


def _backup_live(options: argparse.Namespace) -> int:
    import cairnkv
    from cairnkv.client.calls import Call
    from cairnkv.commands import Backup, Reply

    def number(reply: Reply) -> int:
        assert isinstance(reply, int)
        return reply

    # Said once: whoever says it again might have two of them.
    with cairnkv.connect(options.url, codec="bytes", timeout=options.timeout, attempts=1) as kv:
        job = kv._do(Call(Backup(options.dest.encode("utf-8", "surrogateescape"), options.keep), number))
    facts: dict[str, Any] = {}
    with client(options) as kv, contextlib.ExitStack() as stack:
        bar = _Bar("backing up", stack)
        try:
            while True:
                facts.update(kv.info())
                if facts.get("backup_job") != job or facts["backup_state"] != "running":
                    break
                if facts["backup_bytes"]:
                    bar.expect(facts["backup_bytes"])
                bar.at(facts["backup_bytes_done"])
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            return complain("interrupted; the server goes on with the backup, and `cairn info` tells how far it is")
    if facts.get("backup_job") != job:
        return complain(
            "nobody can tell what became of this backup: the server has begun another one since, or was started anew; "
            "`cairn backup --list DIR` says which are there"
        )
    if facts["backup_state"] != "done":
        return complain(f"the backup has failed: {facts['backup_error']}")
    return _told_of(
        str(facts["backup_made"]), facts["backup_bytes"], facts["backup_bytes_new"], facts["backup_seconds"], options
    )


def _told_of(made: str, size: int, new: int, seconds: float, options: argparse.Namespace) -> int:
    if options.json:
        put_json({"backup": made, "bytes": size, "new_bytes": new, "seconds": round(seconds, 3)})
    else:
        print(made)
        print(f"cairn: {counted(size, 'byte')}, {new:,} of them new, in {seconds:.1f} s", file=sys.stderr)
    return FOUND


def _list(directory: Path, *, as_json: bool) -> int:
    from cairnkv.storage.backup import listed

    wrong: list[str] = []
    found = listed(directory, wrong)
    if not found and not wrong:  # perhaps a server's, which has them by their names
        for path in sorted(directory.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                found += listed(path, wrong)
    for backup in found:
        at = datetime.datetime.fromtimestamp(backup.began_ms / 1000, datetime.UTC)
        if as_json:
            put_json(_described(backup))
        else:
            print(f"{backup.path}  {at:%Y-%m-%d %H:%M:%S} UTC  {counted(backup.size, 'byte')}")
    for problem in wrong:
        complain(problem)
    return DAMAGED if wrong else FOUND


def _described(backup: "Kept") -> dict[str, Any]:
    return {
        "backup": str(backup.path),
        "began_ms": backup.began_ms,
        "ended_ms": backup.ended_ms,
        "bytes": backup.size,
        "files": len(backup.files),
        "cairnkv": backup.version,
        "position": backup.sequence,
    }


# -- restore and verify ------------------------------------------------------------------------------------------


def _restore(name: str, arguments: Sequence[str]) -> int:
    parser = _local_parser(
        name,
        "Make a store of a backup, in a directory that is empty or not there yet. The backup is read twice: all of it\n"
        "is compared with its checksums before anything is made, and again while it is copied.",
        "cairn restore backups/daily/20261122-130501-123 data/",
    )
    parser.add_argument(
        "backup", type=path, metavar="BACKUP", help="the directory of one backup; `cairn backup --list` names them"
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="directory of the new store")
    options = parser.parse_args(arguments)
    from cairnkv.storage import backup as backups

    began = time.perf_counter()
    with contextlib.ExitStack() as stack, _files():
        backup = backups.read(Path(options.backup))
        bar = _Bar("restoring", stack)
        bar.expect(2 * backup.size)
        backups.restore(backup, Path(options.directory), bar.more)
    seconds = time.perf_counter() - began
    if options.json:
        put_json({"store": options.directory, "bytes": backup.size, "seconds": round(seconds, 3)})
    else:
        print(options.directory)
        print(f"cairn: restored {counted(backup.size, 'byte')} {rate(backup.size, seconds)}", file=sys.stderr)
    return FOUND


def _verify(name: str, arguments: Sequence[str]) -> int:
    parser = _local_parser(
        name,
        "Read a whole backup: compare every file with its checksum, then read all records to the mark of the end.\n"
        "Nothing is written to. Exit code 1 when it is damaged, with a line for each file or record that is.",
        "cairn verify backups/daily/20261122-130501-123",
    )
    parser.add_argument(
        "backup", type=path, metavar="BACKUP", help="the directory of one backup; `cairn backup --list` names them"
    )
    options = parser.parse_args(arguments)
    from cairnkv.storage import backup as backups
    from cairnkv.storage.check import look_at

    with _files():
        backup = backups.read(Path(options.backup))
        with contextlib.ExitStack() as stack:
            bar = _Bar("verifying files", stack)
            bar.expect(backup.size)
            wrong = backups.damaged_files(backup, bar.more)
        found = _looked_at("verifying records", lambda more: look_at(backup.path, more))
    found.problems[:0] = wrong
    found.problem_count += len(wrong)
    advice = "Take another backup, and keep this one: `cairn repair` reads what can be read of it"
    return _told_found(options.backup, found, advice, options, files=len(backup.files), bytes=backup.size)


# -- check and repair --------------------------------------------------------------------------------------------


def _check(name: str, arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "consistency":
        from cairnkv.cli import consistency

        return consistency.run(arguments[1:])
    parser = _local_parser(
        name,
        "Read all of a store that no server has open: the write-ahead log, every table with its checksums, all\n"
        "records to the mark of the end. Nothing is written to. Exit code 1 when it is damaged, and where.\n\n"
        "`cairn check consistency --help` explains how a store that is running is checked.",
        "cairn check data/\ncairn check consistency 127.0.0.1:6555",
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="the store's directory")
    options = parser.parse_args(arguments)
    from cairnkv.storage.check import look_at, not_open

    directory = Path(options.directory)
    with _files(), not_open(directory):
        found = _looked_at("checking", lambda more: look_at(directory, more))
    advice = (
        f"Restore a backup (cairn restore BACKUP NEW), or save what can be read: cairn repair {options.directory} NEW. "
        "Keep this directory"
    )
    return _told_found(options.directory, found, advice, options)


def _repair(name: str, arguments: Sequence[str]) -> int:
    parser = _local_parser(
        name,
        "Make a new store of all records that can still be read of a damaged one, which stays as it is. What is left\n"
        "out is told as far as anybody can tell: prefer to restore a backup, if there is one.",
        "cairn repair data/ repaired/",
    )
    parser.add_argument(
        "directory", type=path, metavar="DIR", help="the damaged store's directory, or a damaged backup"
    )
    parser.add_argument("into", type=path, metavar="NEW", help="directory of the new store: empty, or not existing yet")
    options = parser.parse_args(arguments)
    from cairnkv.storage.check import not_open
    from cairnkv.storage.repair import repair

    directory = Path(options.directory)
    with _files(), not_open(directory), contextlib.ExitStack() as stack:
        show = stack.enter_context(progress("repairing", None, "records"))
        left_out, found = repair(directory, Path(options.into), _summed(show))
    if options.json:
        put_json({"store": options.into, "left_out": left_out, **_counts(found)})
    else:
        for line in left_out:
            print(f"left out: {line}")
        print(_summary(found))
        print("What else there was, nobody can tell." if left_out else "Nothing was found to be missing.")
    if found.problem_count:
        return complain(f"{options.into} is not whole either, which is a fault of cairnkv: {found.problems[0]}")
    return FOUND


def _summed(show: Callable[[int], None]) -> Callable[[int], None]:
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        show(done)

    return more


def _looked_at(what: str, look: "Callable[[Callable[[int], None]], Findings]") -> "Findings":
    with progress(what, None, "records") as show:
        return look(_summed(show))


def _counts(found: "Findings") -> dict[str, Any]:
    return {
        "entries": found.entries,
        "node_records": found.node,
        "databases": {str(number): count for number, count in sorted(found.keys.items())},
        "expired": found.expired,
        "values_in_parts": found.in_parts,
        "position": found.sequence,
        "log_time_ms": found.log_time_ms,
    }


def _summary(found: "Findings") -> str:
    databases = f" in {counted(len(found.keys), 'keyspace')}" if len(found.keys) > 1 else ""
    expired = f", {found.expired:,} of them expired" if found.expired else ""
    parts = f", {found.in_parts:,} with values in parts" if found.in_parts else ""
    one = f"{found.entries:,} {'entry' if found.entries == 1 else 'entries'}"
    node = f"; the table of a node of a cluster, {counted(found.node, 'record')} of its own" if found.node else ""
    return f"{one}{databases}{expired}{parts}; sequence {found.sequence:,}{node}"


def _told_found(what: str, found: "Findings", advice: str, options: argparse.Namespace, **also: int) -> int:
    """Say what was found, and how it stands."""
    if options.json:
        told = {"ok": not found.problem_count, **also, **_counts(found), "problems": found.problems}
        put_json(told)
        return DAMAGED if found.problem_count else FOUND
    for problem in found.problems:
        print(f"damaged: {' '.join(problem.split())}")
    if found.problem_count > len(found.problems):
        print(f"damaged: and {found.problem_count - len(found.problems):,} more")
    if "files" in also:
        print(f"{counted(also['files'], 'file')}, {counted(also['bytes'], 'byte')}")
    print(_summary(found))
    if found.problem_count:
        complain(f"{what} is damaged. {advice}")
        return DAMAGED
    print("all is well")
    return FOUND


_SUBCOMMANDS: Final[dict[str, Callable[[str, Sequence[str]], int]]] = {
    "backup": _backup,
    "restore": _restore,
    "verify": _verify,
    "check": _check,
    "repair": _repair,
}

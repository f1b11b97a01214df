"""`cairn backup`, `restore`, `verify`, `check` and `repair`: maintenance of durable stores.

Invariants: a server makes the backup of its own store, below its --backup-dir; all other commands work on files of this
computer. These commands write only to the backup or store that they create; only --keep removes old backups. Exit
codes: 0 success; 1 damage, with one line for each damaged file or record; 2 error.

Out of scope: the format of a backup (`cairnkv.storage.backup`) and the checks (`cairnkv.storage.check`).
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

from cairnkv.cli.arguments import Parser, client, number, path
from cairnkv.cli.main import FOUND, complain
from cairnkv.cli.output import put_json
from cairnkv.cli.progress import progress, rate, terminated_like_interrupted
from cairnkv.limits import BACKUPS_KEPT_MAX
from cairnkv.units import counted

if TYPE_CHECKING:
    from cairnkv.storage.backup import Backup as SavedBackup
    from cairnkv.storage.check import Findings

DAMAGED: Final = 1
"""The exit code of `verify` and `check` for a damaged backup or store."""

RUNNING_CHECKS: Final = ("consistency", "queue")
"""The checks of running stores: `cairn check NAME` (`consistency`)."""

POLL_SECONDS: Final = 0.2
"""Seconds between two INFO requests about the progress of a backup."""


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one of these subcommands."""
    before = os.umask(0o077)  # only the owner can read the new files, RocksDB's included
    try:
        with terminated_like_interrupted():  # removes an incomplete result
            return _SUBCOMMANDS[name](name, arguments)
    finally:
        os.umask(before)


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    """Raise errors of the system and of storage as `OptionError`."""
    from cairnkv.errors import OptionError
    from cairnkv.paths import os_error_text
    from cairnkv.storage import StorageRefused

    try:
        yield
    except OSError as error:
        raise OptionError(os_error_text(error)) from None
    except StorageRefused as error:
        raise OptionError(str(error)) from None


# -- backup ------------------------------------------------------------------------------------------------------


def _backup(name: str, arguments: Sequence[str]) -> int:
    parser = Parser(
        name,
        address=True,
        json=True,
        description="Make a backup of a durable store and print its name. The backup contains every write that the\n"
        "store acknowledged before. Backups in the same directory share files that did not change.\n\n"
        "A running server (--url) makes the backup itself; DEST is a name below the server's --backup-dir.\n"
        "With --data, cairn makes the backup of a store that no process has open; DEST is a directory.",
        example="cairn backup daily\ncairn backup daily --keep 7 --url cairn://db1:6555\n"
        "cairn backup backups/ --data data/\ncairn backup --list backups/daily",
    )
    parser.add_argument("dest", metavar="DEST", help="a name at the server; with --data or --list, a directory")
    parser.option("--data", path, "DIR", "directory of a store that no process has open")
    parser.option(
        "--keep", number(1, BACKUPS_KEPT_MAX), "N", "then remove old backups, so that N remain (default: remove none)"
    )
    parser.switch("--list", "only list the complete backups in the directory DEST")
    options = parser.parse_args(arguments)
    from cairnkv.paths import user_path

    if options.list or options.data is not None:
        options.dest = user_path(options.dest, "DEST")
    if options.list:
        return _list(Path(options.dest), as_json=options.json)
    if options.data is not None:
        if options.url is not None:
            parser.error("--data names a closed store and --url a running server; use one of them")
        return _backup_closed(Path(options.data), Path(options.dest), options)
    return _backup_live(options)


def _backup_closed(data: Path, directory: Path, options: argparse.Namespace) -> int:
    from cairnkv.storage.backup import make_of_closed
    from cairnkv.storage.check import not_open

    with _file_errors():
        with not_open(data):
            pass  # raises if there is no store
        with progress("backing up", None, "bytes") as bar:
            made = make_of_closed(data, directory, keep=options.keep, expect=bar.expect, progress=bar.add)
    return _show_made(str(made.path), made.size, made.new, (made.ended_ms - made.began_ms) / 1000, options)


def _backup_live(options: argparse.Namespace) -> int:
    import cairnkv
    from cairnkv.client.calls import Call
    from cairnkv.commands import Backup

    # One attempt: a second one might make a second backup.
    with cairnkv.connect(options.url, codec="bytes", timeout=options.timeout, attempts=1) as kv:
        job = kv._do(Call(Backup(options.dest.encode("utf-8", "surrogateescape"), options.keep), lambda reply: reply))
    facts: dict[str, Any] = {}
    with client(options) as kv, progress("backing up", None, "bytes") as bar:
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
            return complain("interrupted; the server continues the backup, and `cairn info` shows its progress")
    if facts.get("backup_job") != job:
        return complain(
            "the result of this backup is unknown: the server has since started another backup, or has restarted; "
            "`cairn backup --list DIR` lists the complete backups"
        )
    if facts["backup_state"] != "done":
        return complain(f"the backup failed: {facts['backup_error']}")
    return _show_made(
        str(facts["backup_made"]), facts["backup_bytes"], facts["backup_bytes_new"], facts["backup_seconds"], options
    )


def _show_made(made: str, size: int, new: int, seconds: float, options: argparse.Namespace) -> int:
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
    if not found and not wrong:  # perhaps a server's --backup-dir, which has a directory for each name
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


def _described(backup: "SavedBackup") -> dict[str, Any]:
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

_BACKUP_HELP: Final = "directory of one backup, as `cairn backup --list` prints it"


def _restore(name: str, arguments: Sequence[str]) -> int:
    parser = Parser(
        name,
        "Make a store from a backup. cairn compares the whole backup with its checksums before it writes, and again\n"
        "while it copies.",
        "cairn restore backups/daily/20261122-130501-123 data/",
        json=True,
    )
    parser.add_argument("backup", type=path, metavar="BACKUP", help=_BACKUP_HELP)
    parser.add_argument("directory", type=path, metavar="DIR", help="the new store's directory: empty or nonexistent")
    options = parser.parse_args(arguments)
    from cairnkv.storage import backup as backups

    began = time.perf_counter()
    with _file_errors():
        backup = backups.read(Path(options.backup))
        with progress("restoring", 2 * backup.size, "bytes") as bar:
            backups.restore(backup, Path(options.directory), bar.add)
    seconds = time.perf_counter() - began
    if options.json:
        put_json({"store": options.directory, "bytes": backup.size, "seconds": round(seconds, 3)})
    else:
        print(options.directory)
        print(f"cairn: restored {counted(backup.size, 'byte')} {rate(backup.size, seconds)}", file=sys.stderr)
    return FOUND


def _verify(name: str, arguments: Sequence[str]) -> int:
    parser = Parser(
        name,
        "Check a backup for damage: compare every file with its checksum, and read all records. Changes nothing.\n"
        "Exit code 1 if the backup is damaged, with one line for each damaged file or record.",
        "cairn verify backups/daily/20261122-130501-123",
        json=True,
    )
    parser.add_argument("backup", type=path, metavar="BACKUP", help=_BACKUP_HELP)
    options = parser.parse_args(arguments)
    from cairnkv.storage import backup as backups
    from cairnkv.storage.check import check_directory

    with _file_errors():
        backup = backups.read(Path(options.backup))
        with progress("verifying files", backup.size, "bytes") as bar:
            wrong = backups.damaged_files(backup, bar.add)
        with progress("verifying records", None, "records") as bar:
            found = check_directory(backup.path, bar.add)
    found.problems[:0] = wrong
    found.problem_count += len(wrong)
    advice = "Make another backup. Keep this one: `cairn repair` copies its readable records"
    return _show_found(options.backup, found, advice, options, files=len(backup.files), bytes=backup.size)


# -- check and repair --------------------------------------------------------------------------------------------


def _check(name: str, arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in RUNNING_CHECKS:
        from cairnkv.cli import consistency

        return consistency.run(arguments[0], arguments[1:])
    parser = Parser(
        name,
        "Check a store that no process has open for damage: read the write-ahead log, every table with its checksums,\n"
        "and all records. Changes nothing. Exit code 1 if the store is damaged, with one line for each problem.\n\n"
        "`cairn check consistency --help` and `cairn check queue --help` explain how to check a running store.",
        "cairn check data/\ncairn check consistency 127.0.0.1:6555\ncairn check queue 127.0.0.1:6555",
        json=True,
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="the store's directory")
    options = parser.parse_args(arguments)
    from cairnkv.storage.check import check_directory, not_open

    directory = Path(options.directory)
    with _file_errors(), not_open(directory), progress("checking", None, "records") as bar:
        found = check_directory(directory, bar.add)
    advice = (
        "Keep this directory, and restore a backup (cairn restore BACKUP NEW) or copy the readable records "
        f"(cairn repair {options.directory} NEW)"
    )
    return _show_found(options.directory, found, advice, options)


def _repair(name: str, arguments: Sequence[str]) -> int:
    parser = Parser(
        name,
        "Copy all readable records of a damaged store to a new one. Does not change the damaged store. Prints the\n"
        "missing parts as far as they are known. If you have a backup, restore it instead.",
        "cairn repair data/ repaired/",
        json=True,
    )
    parser.add_argument("directory", type=path, metavar="DIR", help="directory of the damaged store or damaged backup")
    parser.add_argument("into", type=path, metavar="NEW", help="the new store's directory: empty or nonexistent")
    options = parser.parse_args(arguments)
    from cairnkv.storage.check import not_open
    from cairnkv.storage.repair import repair

    directory = Path(options.directory)
    with _file_errors(), not_open(directory), progress("repairing", None, "records") as bar:
        left_out, found = repair(directory, Path(options.into), bar.add)
    if options.json:
        put_json({"store": options.into, "left_out": left_out, **_counts(found)})
    else:
        for line in left_out:
            print(f"left out: {line}")
        print(_summary(found))
        print("More records may be missing." if left_out else "No records are missing, as far as can be seen.")
    if found.problem_count:
        return complain(f"{options.into} is damaged too, which is a bug in cairnkv: {found.problems[0]}")
    return FOUND


def _counts(found: "Findings") -> dict[str, Any]:
    return {
        "entries": found.entries,
        "node_records": found.node,
        "queue_records": found.queues,
        "databases": {str(number): count for number, count in sorted(found.keys.items())},
        "expired": found.expired,
        "values_in_parts": found.in_parts,
        "position": found.sequence,
        "log_time_ms": found.log_time_ms,
    }


def _summary(found: "Findings") -> str:
    databases = f" in {counted(len(found.keys), 'database')}" if len(found.keys) > 1 else ""
    expired = f", {found.expired:,} of them expired" if found.expired else ""
    parts = f", {found.in_parts:,} with values in parts" if found.in_parts else ""
    one = f"{found.entries:,} {'entry' if found.entries == 1 else 'entries'}"
    node = f"; state of a cluster's node, {counted(found.node, 'record')} about the node" if found.node else ""
    queues = f"; {counted(found.queues, 'record')} of queues" if found.queues else ""
    return f"{one}{databases}{expired}{parts}{queues}; sequence {found.sequence:,}{node}"


def _show_found(what: str, found: "Findings", advice: str, options: argparse.Namespace, **also: int) -> int:
    """Print the findings and return the exit code."""
    if options.json:
        put_json({"ok": not found.problem_count, **also, **_counts(found), "problems": found.problems})
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
    print("no damage found")
    return FOUND


_SUBCOMMANDS: Final[dict[str, Callable[[str, Sequence[str]], int]]] = {
    "backup": _backup,
    "restore": _restore,
    "verify": _verify,
    "check": _check,
    "repair": _repair,
}

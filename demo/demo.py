"""The demo: import a real data set into a server with the command line, read it with both clients, and compare.

The program starts a server on a free port. It imports the packages of this computer (name to version and description;
without dpkg-query, the modules of Python's library and their docstrings), and reads every key with the sync and the
asyncio client. Then it exports and deletes all keys, imports the export, and reads all keys again. The exit code is 0
only if nothing differs. `make demo` runs it.

Out of scope: benchmarks. All processes share the computer, and each step runs once.
"""

import argparse
import ast
import asyncio
import contextlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

import cairnkv
from cairnkv.cli.formats import JSONL, Bad, Row

BATCH = 1_000
"""Keys of one request."""

STEP_SECONDS = 60.0
"""Timeout of each process that the demo starts."""

Data = dict[str, str]
T = TypeVar("T")


class Differs(Exception):
    """The data that was read differs from the data that was stored."""


# -- the data ----------------------------------------------------------------------------------------------


def packages() -> Data:
    """Return the installed packages as JSON: name to version and description."""
    # All lines of a description except the first begin with a blank, so a record can begin with another character.
    form = "=${binary:Package}\\t${Version}\\t${Description}\\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", form], capture_output=True, check=True, timeout=STEP_SECONDS)
    data = {}
    for record in re.split(r"^=", listed.stdout.decode("utf-8", "replace"), flags=re.MULTILINE)[1:]:
        name, version, description = record.rstrip("\n").split("\t", 2)
        data[name] = json.dumps({"version": version, "description": description}, ensure_ascii=False)
    return data


def modules() -> Data:
    """Return the modules of Python's library as JSON: name to docstring."""
    data = {}
    for name in sorted(sys.stdlib_module_names):
        spec = importlib.util.find_spec(name) if not name.startswith("_") else None
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            text = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or ""
            data[name] = json.dumps({"file": spec.origin, "description": text[:2_000]}, ensure_ascii=False)
    return data


SOURCES: dict[str, Callable[[], Data]] = {"packages": packages, "modules": modules}

# -- the server and the command line -----------------------------------------------------------------------


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a server in a separate process, and yield its URL."""
    command = [sys.executable, "-m", "cairnkv", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            found = re.search(r"cairn://[^\s,]+", ready)
            if found is None:
                raise Differs(f"the server has not printed its URL: {ready!r}")
            print(ready.strip())
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(STEP_SECONDS)
    if code != 0:
        raise Differs(f"the server ended with exit code {code}")


def cairn(url: str, *arguments: str) -> str:
    """Run a subcommand and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "cairnkv", *arguments, "--url", url],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=STEP_SECONDS,
    )
    if done.returncode != 0:
        raise Differs(f"cairn {' '.join(arguments)} ended with exit code {done.returncode}")
    return done.stdout.strip()


# -- reading back ------------------------------------------------------------------------------------------


def batches(keys: list[str]) -> Iterator[list[str]]:
    """Yield keys in batches."""
    for start in range(0, len(keys), BATCH):
        yield keys[start : start + BATCH]


def read_sync(url: str, keys: list[str]) -> Data:
    """Read every key with the sync client, in pipelines."""
    found: Data = {}
    with cairnkv.connect(url) as kv:
        for batch in batches(keys):
            with kv.pipeline() as pipeline:
                values = {key: pipeline.get(key) for key in batch}
            found |= {key: value for key, pending in values.items() if (value := pending.result()) is not None}
    return found


def read_aio(url: str, keys: list[str]) -> Data:
    """Read every key with the asyncio client, with one task per key of a batch."""

    async def read() -> Data:
        found: Data = {}
        async with cairnkv.aio.connect(url) as kv:
            for batch in batches(keys):
                values = await asyncio.gather(*map(kv.get, batch))
                found |= {key: value for key, value in zip(batch, values, strict=True) if value is not None}
        return found

    return asyncio.run(read())


def read_file(file: Path) -> Data:
    """Return the keys and values of an export."""
    found: Data = {}
    with file.open("rb") as lines:
        for line in JSONL.read(lines):
            if isinstance(line, Bad):
                raise Differs(f"{file.name}, line {line.number}: {line.why}")
            found[line.row.key.decode()] = line.row.value.decode()
    return found


def same(found: Data, data: Data, where: str) -> None:
    """Raise `Differs` unless both are equal."""
    if found == data:
        return
    wrong = next(key for key in data | found if data.get(key) != found.get(key))
    raise Differs(f"{where}: {len(found):,} keys for {len(data):,}; the first that differs is {wrong!r}")


# -- the whole ---------------------------------------------------------------------------------------------


class Steps:
    """The steps so far, with their durations."""

    def __init__(self) -> None:
        self.table = Table("step", "keys", "seconds", "keys/s")
        for column in self.table.columns[1:]:
            column.justify = "right"

    def do(self, name: str, keys: int, step: Callable[[], T]) -> T:
        """Execute a step, and record it."""
        began = time.perf_counter()
        result = step()
        took = time.perf_counter() - began
        self.table.add_row(name, f"{keys:,}", f"{took:.2f}", f"{keys / took:,.0f}")
        return result


def demonstrate(data: Data, directory: Path) -> Table:
    """Run all steps. Raises `Differs` if the data differs."""
    steps, keys, number = Steps(), list(data), len(data)
    first, exported = directory / "data.jsonl", directory / "export.jsonl"
    first.write_bytes(b"".join(JSONL.write(Row(key.encode(), value.encode()) for key, value in data.items())))

    def read_back(turn: str) -> None:
        same(steps.do(f"read, sync client{turn}", number, lambda: read_sync(url, keys)), data, "sync client")
        same(steps.do(f"read, asyncio client{turn}", number, lambda: read_aio(url, keys)), data, "asyncio client")

    with server() as url:
        steps.do("cairn import", number, lambda: cairn(url, "import", str(first)))
        if (there := cairn(url, "count")) != str(number):
            raise Differs(f"{there} keys are there for {number}")
        read_back("")
        steps.do("cairn export", number, lambda: cairn(url, "export", str(exported)))
        same(read_file(exported), data, "the export")
        cairn(url, "clear", "--all", "--yes")
        if (left := cairn(url, "count")) != "0":
            raise Differs(f"{left} keys are left when all were cleared")
        steps.do("cairn import, of the export", number, lambda: cairn(url, "import", str(exported)))
        read_back(", again")
    return steps.table


def main() -> int:
    """Run the demo. Return 0 if nothing differs."""
    parser = argparse.ArgumentParser(description="A real data set through a real server, compared at every step.")
    default = "packages" if shutil.which("dpkg-query") else "modules"
    parser.add_argument("--data", choices=SOURCES, default=default, help="default on this computer: %(default)s")
    options = parser.parse_args()
    data = SOURCES[options.data]()
    if not data:
        data = modules()  # a system without packages
    size = sum(len(key.encode()) + len(value.encode()) for key, value in data.items())
    print(f"{len(data):,} {options.data}, {size:,} bytes of keys and values")
    try:
        with tempfile.TemporaryDirectory(prefix="cairn-demo-") as directory:
            table = demonstrate(data, Path(directory))
    except (Differs, cairnkv.CairnError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    print(f"{len(data):,} {options.data} went in and came back the same, every time.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

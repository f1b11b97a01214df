"""Run a command and record its result: `python docs/record.py make test-crash CRASHES=500`.

The table of runs in docs/guarantees.md shows the records. A failed run makes no record. A later run of the same command
replaces its record.
"""

import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs" / "runs.json"

SUMMARY = re.compile(r"(?:=+ )?(\d+ passed.*? in [\d.]+s|\w+: no difference in .*)")
"""The last line of pytest or of `make fuzz`."""


def main(command: list[str]) -> int:
    """Run a command, record its result, and rewrite the documents. Return the exit code of the command."""
    if not command:
        print("record: name a command, such as: python docs/record.py make test-crash CRASHES=500", file=sys.stderr)
        return 2
    if code := record(command, RECORDS):
        return code
    return subprocess.run([sys.executable, str(ROOT / "docs" / "tables.py")], check=False).returncode


def record(command: list[str], path: Path) -> int:
    """Run a command and record its result in a file. Return the exit code of the command."""
    began = time.monotonic()
    last_line = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            last_line = line.strip() or last_line
    if running.returncode != 0:
        print(f"record: the command ended with exit code {running.returncode}; no record is made", file=sys.stderr)
        return running.returncode
    summary = SUMMARY.search(last_line)
    made = {
        "command": shlex.join(command),
        "result": summary[1] if summary else last_line,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}",
    }
    before = json.loads(path.read_text()) if path.exists() else []
    records = [other for other in before if other["command"] != made["command"]] + [made]
    path.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    return 0


def commit() -> str:
    """Return the commit of this clone, with `-dirty` if files have changed since; `unknown` without git."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        described = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

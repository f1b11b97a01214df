"""Runs a command and writes down what came of it: `python docs/record.py make test-crash CRASHES=500`.

For docs/guarantees.md, whose table is made from these records, so that every figure in it is of a run that was made. A
run that fails is not written down; the same command, run again, replaces its record.
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
"""What our commands say at their end: pytest's last line, `make fuzz`' likewise."""


def main(command: list[str]) -> int:
    """Run it, write down what came of it, and renew the documents; its exit code."""
    if not command:
        print("record: name a command, such as: python docs/record.py make test-crash CRASHES=500", file=sys.stderr)
        return 2
    if code := record(command, RECORDS):
        return code
    return subprocess.run([sys.executable, str(ROOT / "docs" / "tables.py")], check=False).returncode


def record(command: list[str], path: Path) -> int:
    """Run it, and write down there what came of it; its exit code."""
    began = time.monotonic()
    said = ""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            said = line.strip() or said
    if running.returncode != 0:
        print(f"record: it ended with {running.returncode}; nothing is written down", file=sys.stderr)
        return running.returncode
    summary = SUMMARY.search(said)
    made = {
        "command": shlex.join(command),
        "said": summary[1] if summary else said,
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
    """The commit of this clone, and whether something was changed since; `unknown` where there is no git."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        described = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Runs a command and writes down what came of it: `python docs/record.py make test-crash CRASHES=500`.

For docs/guarantees.md, whose table is made from these records, so that every figure in it is of a run that was made. A
run that fails is not written down; the same command, run again, replaces its record.
"""

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
    """Run it; its exit code."""
    if not command:
        print("record: name a command, such as: python docs/record.py make test-crash CRASHES=500", file=sys.stderr)
        return 2
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
    record = {
        "command": shlex.join(command),
        "said": summary[1] if summary else said,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}",
    }
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
    records = [other for other in records if other["command"] != record["command"]] + [record]
    RECORDS.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    return subprocess.run([sys.executable, str(ROOT / "docs" / "tables.py")], check=False).returncode


def commit() -> str:
    """The commit of this clone, and whether something was changed since."""
    described = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The terminal transcripts of the pages, and a shell that runs their commands."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

SECONDS = 120.0
"""How long all commands together may take on a busy machine."""

END = "-- the end of a command --"


class Step(NamedTuple):
    """A command, and the lines that it prints."""

    command: str
    printed: list[str]


def transcript(page: Path = ROOT / "README.md") -> list[Step]:
    """Return the commands of a page with their documented output."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    steps: list[Step] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], []))
        elif line:
            steps[-1].printed.append(line)
    return steps


def typed(steps: list[Step], directory: Path, url: str, programs: Path) -> list[Step]:
    """Run the commands in one shell in a directory, and return them with their output.

    The shell finds the system's programs and those in `programs`. The server is at `url`, not at the default address.
    """
    script = "\n".join(f"{step.command}\necho '{END}'" for step in steps)
    ran = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=directory,
        env={"PATH": f"{programs}:/usr/bin:/bin", "CAIRNKV_URL": url},
    )
    printed = ran.stdout.split(f"{END}\n")
    return [Step(step.command, lines.splitlines()) for step, lines in zip(steps, printed, strict=False)]

"""Installs the package for `make` and prints a line for each step: `python tools/install.py '.[cluster]'`.

pip prints either nothing of a build, or everything that its programs print. This program picks the lines that name a
step, and prints everything that pip printed if it fails.
"""

import os
import re
import subprocess
import sys

STEPS = (
    (r"Installing build dependencies: started", "installing what the build needs"),
    (r"(?:Collecting|Processing) (?:\S*/)?([^\s/]+)", "getting {}"),
    (r"Building wheel for (\S+).*: started", "building {}"),
    (r"\[ *(\d+)/(\d+)\] Cythonizing (\S+)", "translating {2} to C ({0} of {1})"),
    (r"building '(\S+)' extension", "compiling {}"),
    (r"warning: \w+: (\S+ is not compiled, .*)", "{}"),
    (r"Installing collected packages: (.*)", "installing {}"),
)
"""Patterns of pip's output lines without surrounding space, and the text to print for each."""

SHOWN = 160
"""Characters of a step that are printed."""


def main(what: str) -> int:
    """Install it, editable; pip's exit code."""
    command = [sys.executable, "-m", "pip", "install", "--verbose", "--disable-pip-version-check", "--editable", what]
    lines = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PYTHONUNBUFFERED": "1"},  # each step is shown when it begins
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line)
            if step := step_of(line.strip()):
                print(f"make: {step[:SHOWN]}", file=sys.stderr, flush=True)
    if pip.returncode != 0:
        print("".join(lines), file=sys.stderr)
        print(f"make: pip could not install {what}; all that it printed is above", file=sys.stderr)
    return pip.returncode


def step_of(line: str) -> str | None:
    """Return the text to print for a line of pip's output, or None."""
    for pattern, text in STEPS:
        if match := re.match(pattern, line):
            return text.format(*match.groups())
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

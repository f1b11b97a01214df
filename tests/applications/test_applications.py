"""Each use of docs/applications.py that has a program: the program runs with the server, and its assertions hold."""

import os
import subprocess

import pytest
from docs.applications import NPM, PHP, PYPI, USES, Use

from tests.applications.install import HERE, VENV, php
from tests.support import programs
from tests.support.targets import Target

SECONDS = 180.0
"""The limit of a program. Only one that fails reaches it."""


def command(use: Use) -> list[str]:
    """Return the command that runs the program of a use. Skips the test if its interpreter is missing."""
    name, of_file = use.program.split()
    if use.registry == PYPI:
        interpreter = VENV / "bin" / "python"
        if not interpreter.exists():
            pytest.skip("the packages are not installed: make test-applications")
        return [str(interpreter), str(HERE / "python" / name), of_file]
    if use.registry == NPM:
        return [programs.program("node", "nodejs npm"), str(HERE / "node" / name), of_file]
    assert use.registry == PHP
    if reason := php():
        pytest.skip(reason)
    return [programs.program("php", "php-cli php-redis"), str(HERE / "php" / name), of_file]


@pytest.mark.parametrize(
    "use",
    [pytest.param(use, id=use.name, marks=[pytest.mark.in_ci] if use.in_ci else []) for use in USES if use.program],
)
def test_application(server: Target, use: Use, results: dict[str, str]) -> None:
    if use.of_valkey and server.name == "redis":
        pytest.skip("its scripts need Valkey")
    program = command(use)
    results[use.name] = "failed"
    done = subprocess.run(
        program,
        env={**os.environ, "HOST": server.host, "PORT": str(server.port)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results[use.name] = "passed"

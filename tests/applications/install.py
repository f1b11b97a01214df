"""Install the packages whose programs `make test-applications` runs: Python's in build/applications, and those of npm.

Python's packages have a virtual environment of their own, because their requirements differ from those of the project.
With the argument `ci`, only the packages of the uses that CI runs are installed.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from docs.applications import NPM, PHP, PYPI, USES

from tests.clients.install import SECONDS, node_packages, report, run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VENV = ROOT / "build" / "applications"
ALL_INSTALLED = ROOT / "build" / "applications.all"
"""The file that `make` writes after the installation of all packages."""

REQUIREMENTS = {"ci": HERE / "python" / "requirements.txt", "all": HERE / "python" / "requirements-all.txt"}


def main(part: str) -> None:
    """Install all packages that can be installed, and name the others."""
    if part == "ci" and ALL_INSTALLED.exists():  # npm would remove the others
        return
    report([*python_packages(part), *node_packages(HERE / "node", *(["--omit", "dev"] if part == "ci" else []))])


def python_packages(part: str) -> list[str]:
    """Install packages of Python. Returns those that could not be installed."""
    if not (VENV / "bin" / "python").exists():
        venv.create(VENV, with_pip=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if run([*pip, "--requirement", str(REQUIREMENTS[part])]):
        return []
    lines = [line for path in set(REQUIREMENTS.values()) for line in path.read_text().splitlines()]
    return [line for line in lines if line[:1].isalpha() and not run([*pip, line])]


def php() -> str:
    """Return the reason why PHP cannot use Redis, or an empty string."""
    path = shutil.which("php")
    return (
        ""
        if path and "redis" in output(path, "-m").split()
        else "there is no phpredis; on Debian: apt-get install php-cli php-redis"
    )


def versions() -> dict[str, str]:
    """Return the versions of the installed packages by registry and name."""
    python, modules = VENV / "bin" / "python", HERE / "node" / "node_modules"
    found: dict[tuple[str, str], str] = {}
    if python.exists():
        listed = output(str(python), "-m", "pip", "list", "--format", "json")
        found |= {(PYPI, row["name"].lower().replace("_", "-")): row["version"] for row in json.loads(listed)}
    for path in (*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")):
        package = json.loads(path.read_text())
        found[NPM, package["name"]] = package["version"]
    if not php():
        found[PHP, "phpredis"] = output("php", "-r", "echo phpversion('redis');")
    wanted = sorted({(use.registry, use.package) for use in USES if use.program})
    return {f"{registry}: {name}": found.get((registry, name.lower()), "") for registry, name in wanted}


def output(*command: str) -> str:
    """Return the output of a command."""
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])

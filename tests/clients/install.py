"""Installs the clients that `make test-clients` has speak with us, as many as can be had here.

Python's come from the extra `clients`, all at once or, when that fails, one by one; those of Node.js into
node/node_modules; Django's own tests from its source distribution into the virtual environment. What cannot be
installed is said, and its tests are skipped, which fails the run where CI is set.
"""

import contextlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODE = HERE / "node"
DJANGO_TESTS = Path(sys.prefix) / "django-tests"

SECONDS = 600.0
"""How long one installation may take."""


def main() -> None:
    """Install everything that can be."""
    report([*python_packages(), *node_packages(NODE), *django_tests()])


def report(lacking: list[str]) -> None:
    """Print the names of packages that could not be installed."""
    for line in lacking:
        print(f"make: NOT INSTALLED, so its tests are skipped: {line}", file=sys.stderr)


def python_packages() -> list[str]:
    """Install the extra. Returns the packages that could not be installed."""
    if pip("install", "--editable", f"{ROOT}[dev,durable,msgpack,clients]"):
        return []
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["clients"]
    return [name for name in wanted if not pip("install", name)]


def node_packages(directory: Path, *flags: str) -> list[str]:
    """Install the packages of directory/package.json. Returns a description of those that could not be installed."""
    wanted = f"packages of npm in {(directory / 'package.json').relative_to(ROOT)}"
    npm = shutil.which("npm")
    if npm is None:
        return [f"{wanted}: there is no npm; on Debian: apt-get install nodejs npm"]
    quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel", "error"]
    return [] if run([npm, "install", *quiet, *flags, "--prefix", str(directory)]) else [wanted]


def django_tests() -> list[str]:
    """Unpack the tests of the installed Django. Returns the files that are missing."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("Django")
        marker = DJANGO_TESTS / f"{version}.complete"
        if marker.exists():
            return []
        shutil.rmtree(DJANGO_TESTS, ignore_errors=True)
        with tempfile.TemporaryDirectory() as directory:
            sources = ["--no-deps", "--no-binary", ":all:", "--dest", directory]
            if pip("download", *sources, f"Django=={version}"):
                (archive,) = Path(directory).glob("[Dd]jango-*.tar.gz")
                with tarfile.open(archive) as opened:
                    opened.extractall(DJANGO_TESTS, members=tests_of(opened), filter="data")
                marker.touch()
                return []
    return ["Django's own tests"]


def tests_of(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The members below tests/, without the directory that everything stands in."""
    inside = ((member, re.fullmatch(r"[^/]+/(tests/.+)", member.name)) for member in archive.getmembers())
    return [member.replace(name=match[1]) for member, match in inside if match]


def pip(*arguments: str) -> bool:
    """Run pip; whether it could."""
    return run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def run(command: list[str]) -> bool:
    """Run a command; whether it succeeded."""
    try:
        return subprocess.run(command, timeout=SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


if __name__ == "__main__":
    main()

"""The commands of the page on security, and those about users on the page on queues, do what the pages show."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from cairnkv.lab.cluster.nats import free_ports
from cairnkv.store import wall_clock
from cairnkv.testing import running_server
from tests.support.raw import clean_environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
SECONDS = 120.0
END = "-- the end of a step --"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


class Step(NamedTuple):
    """A command, or a program in Python, and the lines that it prints."""

    command: str
    printed: list[str]


def steps() -> list[Step]:
    """Return the steps of the page."""
    found: list[Step] = []
    for kind, block in re.findall(r"```(console|python)\n(.*?)```", PAGE, re.DOTALL):
        if kind == "python":
            program = f"python3 - <<'PROGRAM'\n{block}PROGRAM"
            found.append(Step(program, re.findall(r"#\s*prints: (.*)", block)))
            continue
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], []))
            else:
                found[-1].printed.append(line)
    return found


def script(page: list[Step], port: int) -> str:
    """Return the steps as a script. It waits for the server, as a reader does."""
    lines = ["set -m"]
    for step in page:
        command = step.command.replace("6555", str(port))
        if command.startswith("cairn serve"):
            command = command.replace("cairn serve", f"cairn serve --port {port} > ready", 1)
            command = f"rm -f ready\n{command}"  # of the server before
            command += "\nuntil grep -qs ready ready; do kill -0 %% || { cat server.log; exit 1; }; sleep 0.05; done"
        if command.startswith("grep"):  # a thread writes the log
            command = f"until {command} > counted; do sleep 0.05; done; cat counted"
        lines += [command, f"echo '{END}'"]
    return "\n".join([*lines, "kill %%; wait"])


def environment_of(directory: Path) -> dict[str, str]:
    """Return an environment with the programs of this Python, which it makes in a directory."""
    programs = directory / "bin"
    programs.mkdir()
    for name, options in (("cairn", " -m cairnkv"), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable}{options} "$@"\n')
        (programs / name).chmod(0o700)
    return clean_environment() | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(directory)}


def test_commands_print_what_the_page_shows(tmp_path: Path) -> None:
    page = steps()
    assert sum(step.command.startswith("cairn serve") for step in page) == 2
    (port,) = free_ports(1)
    ran = subprocess.run(
        ["bash", "-c", script(page, port)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=tmp_path,
        env=environment_of(tmp_path),
    )
    printed = ran.stdout.split(f"{END}\n")
    shown = [Step(step.command, lines.splitlines()) for step, lines in zip(page, printed, strict=False)]
    assert shown == page, ran.stderr
    assert ran.returncode == 0, ran.stderr


def test_users_on_the_page_on_queues_can_only_do_their_work(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "queue.md").read_text()
    (add, use) = (block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "worker" in block)
    with_credentials = re.sub(r"cairn user add (\w+) .*", r'echo "\1:$(\g<0>)" > \1.credentials', add)
    put, work = use.replace("./send.sh", "cat").replace(" -- ", " --drain -- ").splitlines()
    environment = environment_of(tmp_path)

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"umask 077\n{command}"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            cwd=tmp_path,
            env=environment,
        )

    added = shell(with_credentials)
    assert added.returncode == 0, added.stderr
    with running_server(clock=wall_clock, users=str(tmp_path / "users.acl")) as server:
        environment["CAIRNKV_URL"] = server.url
        for command in (put, work, "CAIRNKV__CREDENTIALS=worker.credentials cairn queue stats emails --json"):
            ran = shell(command)
            assert ran.returncode == 0, ran.stderr
        stats = json.loads(ran.stdout)
        assert (stats["put"], stats["acked"]) == (1, 1)
        for command in (
            put.replace("shop.", "worker."),
            "CAIRNKV__CREDENTIALS=shop.credentials cairn queue take emails",
            put.replace(" emails ", " invoices "),
        ):
            assert "NOPERM" in shell(command).stderr, command

"""The examples on the page about task frameworks: each file, its worker and the program that uses it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.brokers.programs import SECONDS, Worker
from tests.support.raw import clean_environment

PAGE = Path(__file__).parents[3] / "docs" / "task-frameworks.md"


@pytest.mark.parametrize("framework", ["celery", "dramatiq", "taskiq"])
def test_example_prints_what_the_page_shows(framework: str, url: str, kv: object, tmp_path: Path) -> None:
    pytest.importorskip(framework)
    (section,) = re.findall(rf"^## {framework}\n(.*?)(?=^## )", PAGE.read_text(), re.M | re.S | re.I)
    tasks, program = (
        block.replace("cairn://127.0.0.1:6555", url) for block in re.findall(r"```python\n(.*?)```", section, re.S)
    )
    install, command = re.findall(r"```sh\n(.*?)```", section, re.S)
    assert install == f"pip install 'cairnkv[{framework}]'\n"
    (tmp_path / tasks.splitlines()[0].removeprefix("# ")).write_text(tasks)
    (tmp_path / "program.py").write_text(program)
    with Worker(*shlex.split(command), directory=tmp_path):
        ran = subprocess.run(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=clean_environment(),
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == re.findall(r"#\s*prints: (.*)", program)

"""Files around the code: workflows, templates, pre-commit hooks, metadata of the package."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECONDS = 120.0


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def pythons() -> list[str]:
    """Return the versions of Python that the classifiers name."""
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    return [match[1] for match in found if match]


def test_pre_commit_hooks_run_tools_of_the_environment_only() -> None:
    config = loaded(ROOT / ".pre-commit-config.yaml")
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    for hook in hooks:
        assert hook["language"] == "system"
        assert shlex.split(hook["entry"])[:3] == [".venv/bin/python", "-m", hook["id"].partition("-")[0]]


def test_urls_have_names_that_package_indexes_know() -> None:
    assert PROJECT["urls"].keys() == {"Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())


def test_workflows_test_and_build_for_every_python_of_the_classifiers() -> None:
    tests = loaded(ROOT / ".github" / "workflows" / "tests.yml")
    assert tests["jobs"]["pythons"]["strategy"]["matrix"]["python"] == pythons()
    assert PROJECT["requires-python"] == f">={pythons()[0]}"
    built = PYPROJECT["tool"]["cibuildwheel"]["build"]
    assert built == [f"cp{version.replace('.', '')}-*" for version in pythons()]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_have_a_version_tag_and_jobs_few_rights(workflow: Path) -> None:
    for used in re.findall(r"uses: (\S+)", workflow.read_text()):
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*|\./\.github/workflows/\w+\.yml", used)
    content = loaded(workflow)
    assert content["permissions"] == {"contents": "read"}
    for name, job in content["jobs"].items():
        assert "timeout-minutes" in job or "uses" in job, name
        assert not any("secrets." in str(step) for step in job.get("steps", []))


def test_workflows_call_targets_that_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {name for path in WORKFLOWS for name in re.findall(r"run: make ([a-z-]+)", path.read_text())}
    assert called >= {"check", "test"}
    assert called <= targets


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make: apt-get install make")
@pytest.mark.parametrize("broken", [False, True], ids=["as they are", "with a wrong name"])
def test_check_reads_the_workflows(broken: bool, tmp_path: Path) -> None:
    """Runs the commands on `.github` of `make check` on a copy of it."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    if broken:
        tests = tmp_path / ".github" / "workflows" / "tests.yml"
        tests.write_text(tests.read_text().replace("runs-on:", "runs_on:"))
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    commands = [line.strip().removeprefix("@") for line in recipe.splitlines() if ".github" in line]
    assert len(commands) == 3
    codes = {
        subprocess.run(
            command.replace("$(VENV)/bin", str(Path(sys.executable).parent)),
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"HTTPS_PROXY": "http://127.0.0.1:1", "HOME": str(tmp_path)},  # they need no network
            capture_output=True,
            timeout=SECONDS,
            check=False,
        ).returncode
        for command in commands
    }
    assert (codes == {0}) != broken

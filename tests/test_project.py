"""Files around the code: pre-commit hooks, metadata of the package."""

import shlex
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_pre_commit_hooks_run_tools_of_the_environment_only() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    hooks = config["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    for hook in hooks:
        assert hook["language"] == "system"
        assert shlex.split(hook["entry"])[:3] == [".venv/bin/python", "-m", hook["id"].partition("-")[0]]


def test_urls_have_names_that_package_indexes_know() -> None:
    assert PROJECT["urls"].keys() == {"Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())

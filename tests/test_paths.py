"""Paths that a user gives: an empty path is an error everywhere, `~` expands to the home directory, and a refused
directory stays unchanged.
"""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import cairnkv
from cairnkv.errors import OptionError
from cairnkv.installation import python_command, python_environment
from cairnkv.lab.cluster import LocalCluster
from cairnkv.paths import path_text, user_path
from cairnkv.server.settings import load
from tests.support.raw import SECONDS


@pytest.mark.parametrize("empty", ["", " ", "\t", "a\0b"])
def test_empty_path_is_refused(empty: str) -> None:
    with pytest.raises(OptionError, match="a path"):
        path_text(empty)
    with pytest.raises(OptionError, match=r"^the directory has to be a path"):
        user_path(empty, "the directory")


def test_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path_text("~/data/") == f"{tmp_path}/data/"
    assert path_text("~") == str(tmp_path)
    assert path_text("~root").startswith("/")
    for plain in ("a/~", "./~", ".", "data/", "/x/~root"):
        assert path_text(plain) == plain
    with pytest.raises(OptionError, match=r"no home directory for '~nosuchuser'.*is './~nosuchuser/x'"):
        path_text("~nosuchuser/x")


@pytest.mark.parametrize(
    "option", ["data", "unix", "backup_dir", "nats_creds", "nats_ca", "nats_cert", "nats_key", "nats_system"]
)
def test_options_take_no_empty_path_and_expand_home(
    option: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "cairn.toml"
    for value in ("", "~nosuchuser/x"):
        file.write_text(f'{option} = "{value}"')
        for flags, environment, where in (
            ({option: value}, {}, f"--{option.replace('_', '-')} has to be a path"),
            ({}, {f"CAIRNKV__{option.upper()}": value}, f"the variable CAIRNKV__{option.upper()} has to be a path"),
            ({}, {"CAIRNKV__CONFIG": str(file)}, f"cairn.toml: {option} has to be a path"),
        ):
            with pytest.raises(OptionError, match=where):
                load(flags, environment=environment)
    file.write_text('data = "~/store"')
    assert load({}, environment={"CAIRNKV__CONFIG": "~/cairn.toml"}).data == f"{tmp_path}/store"
    assert load({"nats_system": "~:secret"}, environment={}).nats_system == "~:secret"


@pytest.mark.parametrize("environment", [{"CAIRNKV__CONFIG": ""}, {"CAIRNKV__CONFIG": " "}])
def test_empty_name_of_the_file_of_options_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="the variable CAIRNKV__CONFIG: the file has to be a path"):
        load({}, environment=environment)
    with pytest.raises(OptionError, match="--config: the file has to be a path"):
        load({}, environment={}, file="")


def _cairn(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        python_command("-m", "cairnkv", *arguments),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=python_environment(),
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "0", "--data", ""],
        ["serve", "--port", "0", "--unix", ""],
        ["serve", "--port", "0", "--config", ""],
        ["serve", "--port", "0", "--data", "d", "--backup-dir", ""],
        ["backup", "", "--data", "store"],
        ["backup", "--list", ""],
        ["backup", "b", "--data", ""],
        ["restore", "", "new"],
        ["restore", "b", ""],
        ["verify", ""],
        ["check", ""],
        ["repair", "", "new"],
        ["repair", "store", ""],
        ["export", ""],
        ["import", ""],
        ["cluster", "up", "--dir", ""],
        ["cluster", "status", "--dir", ""],
        ["cluster", "repair", "", "--cluster", "nats://127.0.0.1:1"],
        ["check", "consistency", "--replay", ""],
    ],
)
def test_command_line_refuses_empty_path_and_makes_nothing(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    ended = _cairn(*arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "path" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_python_refuses_empty_path_and_expands_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for wrong in ("", " ", "~nosuchuser/x"):
        with pytest.raises(OptionError, match="path has to be a path"):
            cairnkv.open(wrong)
        with pytest.raises(OptionError, match="path has to be a path"):
            cairnkv.aio.open(wrong)
        with pytest.raises(OptionError, match="directory has to be a path"):
            LocalCluster.up(wrong)
        with pytest.raises(OptionError, match="directory has to be a path"):
            LocalCluster.at(wrong)
    assert list(tmp_path.iterdir()) == []
    with cairnkv.open("~/data") as kv:
        with pytest.raises(OptionError, match="the directory for backups has to be a path"):
            kv.backup("")
        kv.backup("~/backups")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "data"]


@pytest.mark.parametrize("wrong", [5, 1.5, True, b"data", ["data"], object()])
def test_python_refuses_path_of_another_type(wrong: Any, tmp_path: Path) -> None:
    for call in (path_text, cairnkv.open, cairnkv.aio.open, LocalCluster.up, LocalCluster.at):
        with pytest.raises(OptionError, match="path"):
            call(wrong)
    with cairnkv.open(tmp_path / "data") as kv, pytest.raises(OptionError, match="the directory for backups has to be"):
        kv.backup(wrong)

    async def in_asyncio() -> None:
        async with cairnkv.aio.open(tmp_path / "data") as kv:
            with pytest.raises(OptionError, match="the directory for backups has to be a path as text"):
                await kv.backup(wrong)

    asyncio.run(in_asyncio())
    for option in ("data", "unix", "backup_dir"):
        with pytest.raises(OptionError, match=f"{option.replace('_', '-')} has to be"):
            load({option: wrong}, environment={})


@pytest.mark.parametrize("content", ["notes.txt", "000001.sst", "CURRENT", "something/"])
def test_refused_directory_is_left_as_it_was(content: str, tmp_path: Path) -> None:
    directory = tmp_path / "theirs"
    directory.mkdir()
    if content.endswith("/"):
        (directory / content).mkdir()
    else:
        (directory / content).write_text("theirs")
    before = [(path.name, path.stat().st_mtime_ns) for path in directory.iterdir()]
    with pytest.raises(OptionError):
        cairnkv.open(directory)
    if content != "CURRENT":  # this is a damaged store, in which RocksDB has its own files
        assert [(path.name, path.stat().st_mtime_ns) for path in directory.iterdir()] == before


def test_refused_name_of_a_directory_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"caf\\xe9: the name is not UTF-8"):
        cairnkv.open(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert list(tmp_path.iterdir()) == []

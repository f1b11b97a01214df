"""`cairn backup`, `restore`, `verify`, `check` and `repair`: their output and exit codes."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from cairnkv.testing import RunningServer, running_server
from tests.cli.conftest import Call, cairn_process
from tests.cli.terminal import Terminal

NAME = r"\d{8}-\d{6}-\d{3}"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    with running_server(data=str(tmp_path / "data"), backup_dir=str(tmp_path / "backups")) as running:
        monkeypatch.setenv("CAIRNKV_URL", running.url)
        with cairnkv.connect(running.url) as kv:
            kv.set_many({f"key {number}": "v" * 100 for number in range(200)})
        yield running


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a closed store that is also the working directory."""
    with cairnkv.open(tmp_path / "data") as kv:
        kv.set_many({f"key {number}": "v" * 100 for number in range(2_000)})
        kv.set("large", "v" * 600_000)
        kv.set("short", "lived", ttl=0.001)
    monkeypatch.chdir(tmp_path)
    return Path("data")


def flip(directory: Path) -> None:
    table = max(directory.glob("*.sst"), key=lambda table: table.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.unlink()
    table.write_bytes(content)


def test_server_makes_a_backup(server: RunningServer, cairn_here: Call, tmp_path: Path) -> None:
    said = cairn_here("backup", "daily")
    assert said.code == 0
    assert re.fullmatch(rf"daily/{NAME}\n", said.out.decode())
    assert re.fullmatch(r"cairn: [\d,]+ bytes, [\d,]+ of them new, in \d\.\d s\n", said.err)
    again = json.loads(cairn_here("backup", "daily", "--keep", "1", "--json").out)
    assert again["new_bytes"] < again["bytes"]
    (kept,) = (tmp_path / "backups" / "daily").glob("2*")
    assert again["backup"] == f"daily/{kept.name}"
    listed = cairn_here("backup", "--list", str(tmp_path / "backups"))
    assert (listed.code, listed.out.decode().split()[0]) == (0, str(kept))
    assert json.loads(cairn_here("backup", "--list", str(kept.parent), "--json").out)["bytes"] == again["bytes"]
    refused = cairn_here("backup", "../elsewhere")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, b"", 1)
    assert "letters, digits" in refused.err


def test_server_without_backup_directory_refuses_backup(url: str, cairn_here: Call) -> None:
    said = cairn_here("backup", "daily")
    assert (said.code, said.out) == (2, b"")
    assert "in memory only" in said.err


def test_failed_backup_of_a_server_gives_its_reason(server: RunningServer, cairn_here: Call, tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("a file")
    said = cairn_here("backup", "daily")
    assert (said.code, said.out) == (2, b"")
    assert said.err.startswith("cairn: the backup failed: ")


def test_backup_verify_restore_check(data: Path, cairn_here: Call) -> None:
    made = cairn_here("backup", "kept", "--data", "data")
    assert made.code == 0
    backup = made.out.decode().strip()
    assert re.fullmatch(f"kept/{NAME}", backup)
    verified = cairn_here("verify", backup)
    assert verified.code == 0
    assert re.fullmatch(
        r"\d files, [\d,]+ bytes\n"
        r"2,002 entries(, 1 of them expired)?, 1 with values in parts; sequence \d\nno damage found\n",
        verified.out.decode(),
    )
    told = json.loads(cairn_here("verify", backup, "--json").out)
    assert (told["ok"], told["entries"], told["databases"], told["problems"]) == (True, 2_002, {"0": 2_002}, [])
    restored = cairn_here("restore", backup, "new/store")
    assert (restored.code, restored.out) == (0, b"new/store\n")
    assert cairn_here("check", "new/store").code == 0
    assert {path.stat().st_mode & 0o777 for path in Path("new/store").iterdir()} == {0o600}
    with cairnkv.open("new/store") as kv:
        assert kv.count() == 2_001
    again = cairn_here("restore", backup, "new/store")
    assert (again.code, again.out) == (2, b"")
    assert "new/store is not empty" in again.err
    Path("file").touch()
    os.mkfifo("pipe")
    Path("link").symlink_to("nowhere")
    for name, wrong in (
        ("file", "file"),
        ("pipe", "pipe"),
        ("link", "link"),
        ("file/new", "file"),
        ("pipe/new", "pipe"),
    ):
        for said in (cairn_here("restore", backup, name), cairn_here("repair", backup, name)):
            assert (said.code, said.out) == (2, b"")
            assert said.err.startswith(f"cairn: {wrong} is not a directory: "), said.err
    several = cairn_here("restore", "kept", "elsewhere")
    assert several.code == 2
    assert f"It contains backups; use one of them, such as {backup}" in several.err


def test_verify_reports_a_damaged_backup(data: Path, cairn_here: Call) -> None:
    backup = cairn_here("backup", "kept", "--data", "data").out.decode().strip()
    flip(Path(backup))
    said = cairn_here("verify", backup)
    assert said.code == 1
    assert re.search(r"^damaged: 0\d+\.sst is damaged: its SHA-256 differs$", said.out.decode(), re.MULTILINE)
    assert said.err == (
        f"cairn: {backup} is damaged. Make another backup. Keep this one: `cairn repair` copies its readable records\n"
    )
    assert json.loads(cairn_here("verify", backup, "--json").out)["ok"] is False
    refused = cairn_here("restore", backup, "new")
    assert refused.code == 2
    assert "nothing was restored" in refused.err
    manifest = Path(backup, "backup.json")
    manifest.write_text(manifest.read_text().replace("cairnkv", "cairnkw"))
    assert cairn_here("verify", backup).code == 2
    assert cairn_here("backup", "--list", "kept").code == 1


def test_check_reports_and_repair_mends_a_damaged_store(data: Path, cairn_here: Call) -> None:
    assert cairn_here("check", "data").out.endswith(b"no damage found\n")
    flip(data)
    said = cairn_here("check", "data")
    assert said.code == 1
    assert said.out.startswith(b"damaged: ")
    assert "cairn repair data NEW" in said.err
    assert json.loads(cairn_here("check", "data", "--json").out)["ok"] is False
    repaired = cairn_here("repair", "data", "new")
    assert repaired.code == 0
    assert re.search(rb"^left out: .*", repaired.out)
    assert repaired.out.endswith(b"More records may be missing.\n")
    assert cairn_here("check", "new").code == 0
    assert cairn_here("check", "data").code == 1, "it stays as it is"
    assert cairn_here("repair", "data", "new").code == 2
    shutil.rmtree("new")
    assert json.loads(cairn_here("repair", "data", "new", "--json").out)["left_out"]


def test_repair_of_an_undamaged_store_loses_nothing(data: Path, cairn_here: Call) -> None:
    assert cairn_here("repair", "data", "new").out.endswith(b"No records are missing, as far as can be seen.\n")


@pytest.mark.parametrize(
    "arguments", [["check", "data"], ["backup", "kept", "--data", "data"], ["repair", "data", "new"]]
)
def test_open_store_is_left_unchanged(data: Path, arguments: list[str]) -> None:
    with cairnkv.open("data"):
        said = cairn_process(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert re.search(r"is already open in process \d+, and only one process can use a store", said.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "data", "--data", "data"],
        ["backup", "data/x/y", "--data", "data"],
        ["backup", "link", "--data", "data"],
        ["backup", "data/x", "--data", "link"],
        ["restore", "kept", "kept/in"],
        ["restore", "kept", "kept/deep/in"],
        ["restore", "kept", "kept"],
        ["repair", "data", "data/in"],
        ["repair", "data", "link/in"],
        ["repair", "kept", "kept/in"],
    ],
)
def test_destination_within_source_is_refused(data: Path, cairn_here: Call, arguments: list[str]) -> None:
    made = cairn_here("backup", "all", "--data", "data")
    Path(made.out.decode().strip()).rename("kept")
    Path("link").symlink_to("data")
    before = set(Path().rglob("*"))
    said = cairn_here(*arguments)
    assert (said.code, said.out) == (2, b"")
    assert re.search(r"cannot write to \S+: it is in (data|kept|link); use a directory outside", said.err)
    assert not [path for path in set(Path().rglob("*")) - before if path.is_dir()]
    assert cairn_here("check", "data").code == cairn_here("verify", "kept").code == 0


@pytest.mark.parametrize("arguments", [["check", "no"], ["backup", "kept", "--data", "no"], ["repair", "no", "new"]])
def test_missing_store_is_not_created(data: Path, cairn_here: Call, arguments: list[str]) -> None:
    said = cairn_here(*arguments)
    assert said.code == 2
    assert "has no store" in said.err
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_options_that_exclude_each_other_are_refused(data: Path, cairn_here: Call) -> None:
    assert "one of them" in cairn_here("backup", "x", "--data", "data", "--url", "cairn://h").err
    assert "from 1 to 1,000" in cairn_here("backup", "x", "--keep", "0").err
    assert cairn_here("backup", "--list", "no").code == 2
    assert "not a complete backup" in cairn_here("verify", "data").err


def test_terminal_shows_a_progress_bar(data: Path) -> None:
    terminal = Terminal("backup", "kept", "--data", "data")
    terminal.expect("backing up")
    terminal.expect(rf"kept/{NAME}")
    assert terminal.wait() == 0


def test_transcript_on_the_backup_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each output line equals the one on the page, except for numbers."""
    monkeypatch.chdir(tmp_path)
    with cairnkv.open("data") as kv:
        kv.set_many({f"key {number}": "v" * number for number in range(100)})
    page = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
    (transcript,) = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    turns = [turn.partition("\n") for turn in transcript.split("$ cairn ")[1:]]
    assert len(turns) == 5
    on_page = re.findall(rf"kept/{NAME}", transcript)[0]
    made = ""
    for words, _, answer in turns:
        said = cairn_process(*words.replace(on_page, made).split())
        assert said.code == 0, said.err
        made = made or said.out.decode().strip()
        shown = said.out.decode() + said.err
        assert re.sub(r"[\d,.]+", "#", shown) == re.sub(r"[\d,.]+", "#", answer)

"""The documents are correct: tests check their tables, names, files and conversations, and run their examples."""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from docs.applications import RECORD, USES, outcomes

import cairnkv
from cairnkv import limits
from cairnkv.commands import BY_NUMBER
from cairnkv.session import Session, State
from cairnkv.session.access.users import User, Users
from cairnkv.session.context import ServerContext
from cairnkv.session.resp import command_spec
from cairnkv.store import LocalStore, wall_clock
from cairnkv.testing import running_server
from tests.support.readme import transcript, typed
from tests.support.tls import Authority

ROOT = Path(__file__).parents[2]
TUTORIAL = Path("docs/tutorial.md")
TASK_FRAMEWORKS = Path("docs/task-frameworks.md")  # its examples need the extra `clients`: tests/clients/brokers
SECURITY = Path("docs/security.md")  # test_security_page runs its examples
DOCUMENTS = sorted(path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
PACKAGE = ROOT / "src" / "cairnkv"


def tables() -> Any:
    return script("tables")


def script(name: str) -> Any:
    """Import a program in docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_tables_are_those_of_the_code(document: Path) -> None:
    text = (ROOT / document).read_text()
    assert tables().renewed(text) == text, "run: python docs/tables.py"


def test_info_names_on_the_protocol_page_are_those_of_servers(tmp_path: Path) -> None:
    documented = tables().INFO
    with running_server() as server, cairnkv.connect(server.url) as kv:
        assert kv.info().keys() == {**documented["every store"], **documented["every server"]}.keys()
    with cairnkv.open() as store:
        assert store.info().keys() == documented["every store"].keys()
    certificate, key = Authority(tmp_path).issue("server")
    options: dict[str, Any] = {
        "data": tmp_path / "data",
        "backup_dir": tmp_path / "kept",
        "tls_cert": certificate,
        "tls_key": key,
    }
    with running_server(**options) as server, cairnkv.connect(server.url) as kv:
        assert kv.info().keys() == {name for names in documented.values() for name in names}


def test_programs_of_all_applications_passed_in_the_recorded_runs() -> None:
    shown = outcomes(json.loads(RECORD.read_text()))
    assert len(shown) == len(USES)
    assert [name for name, outcome in shown.items() if not outcome.startswith(("works", "needs"))] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_have_a_target(document: Path) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (ROOT / document.parent / target).exists(), target


# -- the architecture page -------------------------------------------------------------------------------------------


def named_by_module() -> dict[str, object]:
    """Return the objects of all modules of the package by name, and the attributes of classes by Class.name."""
    found: dict[str, object] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] == "__main__" or "brokers" in parts:  # frameworks that brokers need may be missing
            continue
        module = importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        for name, thing in vars(module).items():
            found.setdefault(name, thing)
            if isinstance(thing, type):
                for inner in vars(thing):
                    found.setdefault(f"{name}.{inner}", getattr(thing, inner))
    for path in PACKAGE.rglob("*.pyx"):  # compiled or not
        for name in re.findall(r"^(?:cdef )?class (\w+)", path.read_text(), re.MULTILINE):
            found.setdefault(name, path)
    return found


def test_names_on_the_architecture_page_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    known = named_by_module()
    checked = 0
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"cairnkv(\.\w+)+", span):
            module, _, name = span.rpartition(".")
            assert hasattr(importlib.import_module(module), name), span
        elif re.fullmatch(r"[\w/]+/(?:[\w.]+\.(?:py|md))?", span):
            assert (PACKAGE / span).exists() or (ROOT / span).exists(), span
        elif re.fullmatch(r"[A-Z]\w+(\.\w+)?|apply|reply_parts", span):
            if span.isupper() and "." not in span:
                continue  # a state, an event or a reply
            assert span in known, span
        else:
            continue
        checked += 1
    assert checked > 40


def test_names_on_the_architecture_page_are_in_the_named_files() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    pairs = re.findall(r"`([A-Za-z]\w*(?:\.\w+)?)`(?: \(| in )\s*`([\w/]+\.pyx?)`", text)
    assert len(pairs) > 40
    for name, file in pairs:
        owner, _, member = name.rpartition(".")
        source = (ROOT / file if file.startswith("tests/") else PACKAGE / file).read_text()
        for part in filter(None, (owner, member)):
            assert re.search(rf"(?:class|def) {part}\b|^{part}\b.*=", source, re.MULTILINE), f"{file} has no {name}"


def test_every_package_is_on_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name for name in packages if f"| `{name}/` |" in text} == packages


# -- the page on guarantees ------------------------------------------------------------------------------------------


def defined_in(path: Path) -> set[str]:
    """Return the names of the functions and classes in a test file."""
    tree = ast.parse(path.read_text())
    return {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }


def test_tests_named_beside_guarantees_exist() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 10
    for file, name in named:
        assert (ROOT / file).exists(), file
        assert not name or name in defined_in(ROOT / file), f"{file} has no {name}"
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked_for = set(re.findall(r"`make ([a-z-]+)", text))
    assert len(asked_for) > 2
    assert asked_for <= targets


def test_only_successful_runs_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, path = script("record").record, tmp_path / "runs.json"
    assert record([sys.executable, "-c", "print('1 failed in 0.10s'); raise SystemExit(1)"], path) == 1
    assert not path.exists()
    for seconds in (1, 2):
        line = f"===== 3 passed, 1 skipped in {seconds}.25s (0:00:01) ====="
        monkeypatch.setenv("LINE", line)
        assert record([sys.executable, "-c", "import os; print(os.environ['LINE'])"], path) == 0
    (made,) = json.loads(path.read_text())
    assert made["result"] == "3 passed, 1 skipped in 2.25s"
    monkeypatch.setattr(documents := tables(), "RUNS", path)
    assert "| 3 passed, 1 skipped in 2.25s |" in documents.runs()
    path.unlink()
    assert documents.runs() == "no recorded run"


# -- the protocol page -----------------------------------------------------------------------------------------------


def conversation(name: str) -> list[tuple[bytes, bytes]]:
    text = (ROOT / "docs" / "protocol.md").read_text()
    (block,) = re.findall(rf"```{name}\n(.*?)```", text, re.DOTALL)
    exchanges: list[list[bytes]] = []
    for line in block.splitlines():
        if line.startswith(">"):
            exchanges.append([bytes.fromhex(line[1:]), b""])
        elif line.startswith("<"):
            exchanges[-1][1] += bytes.fromhex(line[1:])
    return [(sent, expected) for sent, expected in exchanges]


def test_dialogue_on_the_protocol_page_is_true() -> None:
    exchanges = conversation("conversation")
    assert len(exchanges) >= 8
    session = Session(LocalStore(), wake=lambda: None)
    assert replies(session, exchanges) == [expected.hex(" ") for _, expected in exchanges]
    assert session.state is State.DONE


def test_login_on_the_protocol_page_is_true() -> None:
    exchanges = conversation("login")
    assert len(exchanges) == 3
    store = LocalStore()
    app = User(b"app").changed(("on", ">secret", "+@all"))
    session = Session(store, wake=lambda: None, context=ServerContext(store, users=Users((app,))))
    assert replies(session, exchanges) == [expected.hex(" ") for _, expected in exchanges]
    assert session.state is State.OPEN


def replies(session: Session, exchanges: list[tuple[bytes, bytes]]) -> list[str]:
    """Return what the session sends after each write, in hex."""
    found = []
    for sent, _ in exchanges:
        session.receive(sent)
        session.advance()
        found.append(b"".join(session.output()).hex(" "))
    return found


# -- the page on Redis -----------------------------------------------------------------------------------------------


def test_commands_documented_as_absent_are_absent() -> None:
    absent = " ".join(tables().REDIS_ABSENT.values()).split()
    assert len(absent) > 80
    assert [word for word in absent if command_spec.find_spec(word.encode())] == []


def test_commands_on_the_redis_page_are_served_or_listed_as_absent() -> None:
    text = re.sub(
        r"<!-- table: redis_(\w+) -->.*?<!-- end -->", "", (ROOT / "docs" / "redis.md").read_text(), flags=re.DOTALL
    )
    spans = re.findall(r"`([A-Z]{3,})(?: [^`]*)?`", text)
    assert len(spans) >= 4
    absent = " ".join(tables().REDIS_ABSENT.values()).split()
    assert [word for word in spans if not command_spec.find_spec(word.encode()) and word not in absent] == []


def test_limits_of_queues_are_those_of_the_code() -> None:
    wait, most = f"{limits.WAIT_MAX:,}", f"{limits.TAKE_MAX:,}"
    redis = " ".join((ROOT / "docs" / "redis.md").read_text().split())
    assert f"WAIT is at most {wait} milliseconds, and a command names at most {most} messages or queues" in redis
    rows = {spec.name: tables().explained(spec) for spec in BY_NUMBER.values()}
    assert f"at most {wait}" in rows["TAKE"]
    assert f"at most {wait}" in rows["TAKE_ANY"]
    for name, noun in (("TAKE_ANY", "queues"), ("TOGETHER", "frames"), ("PUT_MANY", "bodies"), ("ACK", "ids")):
        assert rows[name].endswith(f" At most {most} {noun}.")


# -- examples --------------------------------------------------------------------------------------------------------


def blocks(document: Path, language: str) -> list[str]:
    """Return the blocks of a language on a page, without tests for pytest."""
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return [block for block in found if not re.search(r"^def test_", block, re.MULTILINE)]


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if blocks(path, "python") and path not in (TUTORIAL, TASK_FRAMEWORKS, SECURITY)],
    ids=str,
)
def test_python_examples_print_what_the_page_shows(document: Path, tmp_path: Path) -> None:
    """The blocks of a page are one program. Its server is in-memory."""
    program = "\n".join(blocks(document, "python"))
    with running_server(clock=wall_clock) as server:
        (tmp_path / "example.py").write_text(program.replace("127.0.0.1:6555", server.url.removeprefix("cairn://")))
        ran = subprocess.run(
            [sys.executable, "-W", "error", "example.py"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == re.findall(r"#\s*prints: (.*)", program)


@pytest.mark.parametrize(
    "document",
    # The page on backups shows sizes and times, which vary: tests/cli tests it.
    [
        path
        for path in DOCUMENTS
        if blocks(path, "console") and path not in (Path("docs/backup.md"), TUTORIAL, SECURITY)
    ],
    ids=str,
)
def test_console_examples_print_what_the_page_shows(document: Path, tmp_path: Path) -> None:
    steps = transcript(ROOT / document)
    assert len(steps) >= 3
    with running_server(clock=wall_clock) as server:
        assert typed(steps, tmp_path, server.url, Path(sys.executable).parent) == steps


def test_tutorial_prints_what_the_page_shows_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One interpreter stays open, and the server has the directory that the page names."""
    text = (ROOT / TUTORIAL).read_text()
    (directory,) = re.findall(r"^cairn serve --data (\S+)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    console: dict[str, object] = {}
    steps = transcript(ROOT / TUTORIAL)
    kinds: list[str] = []
    with running_server(data=tmp_path / directory, clock=wall_clock) as server:
        for kind, block in re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL):
            kinds.append(kind)
            if kind == "console":
                assert typed(steps, tmp_path, server.url, Path(sys.executable).parent) == steps
                continue
            exec(block.replace("127.0.0.1:6555", server.url.removeprefix("cairn://")), console)
            assert capsys.readouterr().out.splitlines() == re.findall(r"#\s*prints: (.*)", block)
    assert kinds.count("console") == 1
    assert len(kinds) > 5


def test_tests_on_the_page_on_testing_pass(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def test_" in block]
    (tmp_path / "test_example.py").write_text(block)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "3 passed" in ran.stdout, ran.stdout


# -- diagrams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", sorted((ROOT / "docs" / "diagrams").glob("*.txt")), ids=lambda path: path.stem)
def test_diagrams_are_those_of_their_texts(text: Path) -> None:
    svg = text.with_suffix(".svg").read_text()
    assert script("diagrams").drawn(text.read_text()) == svg, "run: python docs/diagrams.py"
    words = " ".join(element.text or "" for element in ElementTree.fromstring(svg).iter())
    assert all(word in words for word in re.findall(r"[\w-]+", text.read_text()))


def test_text_that_is_too_long_for_its_box_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorten it"):
        script("diagrams").drawn(f"# title\nrow: {'x' * 200}")


def test_readme_is_short_and_has_four_benchmark_rows() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 110
    assert len(re.findall(r"^\|.*\*?(?:met|missed)\*?", text, re.MULTILINE)) == 4

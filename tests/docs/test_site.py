"""The documentation site builds without a warning, its navigation has all pages, the API page has the docstrings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SECONDS = 300.0


def loaded() -> dict[str, object]:
    """Return mkdocs.yml."""
    config: dict[str, object] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    return config


def build(directory: Path, config: Path = ROOT / "mkdocs.yml") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory, "--config-file", config],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "HTTPS_PROXY": "http://127.0.0.1:1"},  # it needs no network
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site in strict mode."""
    directory = tmp_path_factory.mktemp("site")
    done = build(directory)
    assert done.returncode == 0, done.stderr
    return directory


def test_every_page_has_a_place_in_the_navigation() -> None:
    assert loaded()["strict"] is True
    named = re.findall(r"'([\w-]+\.md)'", str(loaded()["nav"]))
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    sections = [next(iter(section)) for section in loaded()["nav"]]  # type: ignore[attr-defined]
    assert sections == ["Home", "Tutorial", "How-to", "Reference", "Explanation"]


def test_api_page_has_the_docstrings_as_markdown(site: Path) -> None:
    page = (site / "api" / "index.html").read_text()
    for name in ("open", "connect", "KeyValue.set", "Client.backup", "aio.connect", "errors.OutcomeUnknown"):
        assert f'id="cairnkv.{name}"' in page, name
    assert "&gt;&gt;&gt;" in page
    assert "<code>memory_limit</code>: " in page


def test_links_out_of_the_documents_lead_to_the_repository(site: Path) -> None:
    page = (site / "redis" / "index.html").read_text()
    assert f'href="{loaded()["repo_url"]}/blob/main/tests/clients/test_django.py"' in page
    assert (site / "benchmarks" / "results" / "latest.svg").exists()
    assert (site / "search" / "search_index.json").exists()
    assert not [path for path in site.rglob("*") if path.suffix in (".py", ".txt")]


def test_pipes_in_tables_have_no_backslash(site: Path) -> None:
    assert "<code>kv |= values</code>" in (site / "clients" / "index.html").read_text()


@pytest.mark.parametrize(
    "link", ["[x](nothing.md)", "[x](disk.md#nothing)", "[x](../nothing.py)"], ids=["page", "anchor", "file"]
)
def test_broken_link_fails_the_build(link: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "disk.md").write_text("# Durable mode\n")
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n{link}\n")
    config = loaded() | {"plugins": [], "nav": None, "docs_dir": str(tmp_path / "docs")}
    config["hooks"] = [str(ROOT / "docs" / "site_hooks.py")]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config))
    assert build(tmp_path / "site", tmp_path / "mkdocs.yml").returncode != 0


def test_docstring_becomes_markdown() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from docs.docstrings import markdown
    finally:
        sys.path.remove(str(ROOT))
    text = "Do it, [a*b].\n\nn, m: how often,\nor never. Raises nothing.\nRaises `ValueError`.\n\n>>> 1 + 1\n2\n\nEnd"
    assert markdown(text, {"n", "m"}).splitlines() == [
        "Do it, \\[a\\*b].",
        "",
        "- `n`, `m`: how often,",
        "  or never. Raises nothing.",
        "- Raises `ValueError`.",
        "",
        "",
        "```pycon",
        ">>> 1 + 1",
        "2",
        "```",
        "",
        "End",
    ]
    assert markdown("key: a value\n>>> f[0]\n1") == "key: a value\n\n```pycon\n>>> f[0]\n1\n```"

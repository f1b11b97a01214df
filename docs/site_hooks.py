"""Hooks of `mkdocs` for pages that people also read in a clone.

Links that leave docs/ lead to the repository. The chart of the benchmarks is copied into the site. A pipe in a table,
which the pages escape, appears without its backslash.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

CHART = "benchmarks/results/latest.svg"

CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)

LINK = re.compile(r"\]\(\.\./([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the chart to the site."""
    files.append(File.generated(config, CHART, abs_src_path=str(ROOT / CHART)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace links to files beside docs/. Raises FileNotFoundError for a file that does not exist."""

    def replaced(match: re.Match[str]) -> str:
        path = PurePosixPath(match[1].partition("#")[0])
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to ../{path}, which does not exist")
        return f"]({CHART})" if str(path) == CHART else f"]({config.repo_url}/blob/main/{match[1]})"

    return LINK.sub(replaced, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Remove the backslash of escaped pipes in cells: Markdown keeps it in code."""
    return CELL.sub(lambda match: match[0].replace("\\|", "|"), html)

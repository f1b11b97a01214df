"""Makes links of the documents that leave docs/ work on the site, for `mkdocs`: they lead to the repository.

The pages have such links because people also read them in a clone. The chart of the benchmarks is copied into the site.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

CHART = "benchmarks/results/latest.svg"

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

"""Counts the lines of code of the package: `python tools/lines.py [COMMIT...]`; without a commit, of the work tree.

Leaves out blank lines, comments, docstrings, and files that begin with `# Generated`.
"""

import io
import subprocess
import sys
import tarfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = (".py", ".pyx", ".pxd", ".h")


def main(commits: list[str]) -> int:
    """Print a table: a row for each package, a column for each commit."""
    counts = [counted(sources(commit)) for commit in commits or [""]]
    packages = sorted(set().union(*counts))
    for package in packages:
        print(f"{package:16}", *(f"{count[package]:8,}" for count in counts))
    print(f"{'all':16}", *(f"{count.total():8,}" for count in counts))
    return 0


def counted(files: Iterator[tuple[str, str]]) -> Counter[str]:
    """Return the lines of code of each package."""
    lines: Counter[str] = Counter()
    for path, text in files:
        if path.endswith(SUFFIXES) and not text.startswith("# Generated"):
            parts = path.split("/")[2:]
            lines[parts[0] if len(parts) > 1 else "(top)"] += code_lines(text, python=not path.endswith(".h"))
    return lines


def sources(commit: str) -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file in `src` of a commit, or of the work tree."""
    if not commit:
        for path in (ROOT / "src").rglob("*.*"):
            if path.suffix in SUFFIXES:
                yield path.relative_to(ROOT).as_posix(), path.read_text()
        return
    archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            file = files.extractfile(member)
            if file is not None and member.name.endswith(SUFFIXES):
                yield member.name, file.read().decode()


def code_lines(text: str, *, python: bool = True) -> int:
    """Return how many lines hold code.

    >>> code_lines('"Say hello."\\n\\n# A comment.\\ndef hello():\\n    "Print."\\n    print(1,\\n      2)\\n')
    3
    """
    if not python:
        return sum(bool(line.strip()) and not line.lstrip().startswith(("/*", "*", "//")) for line in text.splitlines())
    lines: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):  # Cython has Python's tokens
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        statement.append(token)
        if token.type == tokenize.NEWLINE:
            if any(part.type != tokenize.STRING for part in statement[:-1]):  # a statement of strings is a docstring
                for part in statement[:-1]:
                    lines.update(range(part.start[0], part.end[0] + 1))
            statement = []
    return len(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

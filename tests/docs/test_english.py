"""Documents, help texts and the texts in src use the glossary's terms, and their sentences have named subjects."""

import ast
import contextlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnkv.cli import cluster, queue, user
from cairnkv.cli.backup import RUNNING_CHECKS
from cairnkv.cli.main import SUBCOMMANDS, main
from cairnkv.session.resp import command_spec

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "cairnkv"
DOCUMENTS = [
    *(Path(f"{name}.md") for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")),
    *sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/*.md")),
]

RETIRED = (
    *("accelerat(?:or|ors|ed)", "hot paths?", "(?:readable|compiled) (?:one|part|path|way)", "swift(?:ly)?"),
    *("the article's", "dialects?", "wires?", "keyspaces?", "strangers?", "patience", "(?:process|disk|quorum) size"),
    *("hurts?", "hears?", "heard", "odd one", "good order", "for good", "for ever", "by and by", "without a word"),
    *("said", "told", "tells? of", "gone", "under way", "put off", "postponed", "held back", "made undone", "spared?"),
    *("harms?", "mends?", "surroundings", "looks? after", "lets? go", "(?:is|are) over"),
    *("takes? out", "taken out", "take[sn]? back", "took back", "in (?:its|their) turn"),
    *("carr(?:y|ies|ied|ying)(?: \\w+)? out", "nobody", "somebody", "whoever"),
    *("what always holds", "what (?:it|they) comes? to"),
)
"""Regular expressions of retired words. The glossary has their replacements."""

RETIRED_WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(RETIRED)})(?![\w-])", re.IGNORECASE)

NO_SUBJECT = re.compile(
    r"(?:^|[.!?:;|]\s+|\n\s*(?:[-*]|\d+\.)\s+|\n\n)\**(?:What|Who|Whoever|Nobody|Somebody)\b(?!.*\?)"
)
"""The beginning of a sentence without a named subject. A question is allowed."""

CODE = re.compile(r"``?[^`]*``?")

ALLOWED: dict[str, tuple[str, ...]] = {
    "docs/protocol.md": ("the article's",),  # the one page that names the origin of the protocol
}
"""Retired words that a document may have."""


def findings(text: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Return the retired words in a text, and the beginnings of its sentences without a subject."""
    words = [found for found in RETIRED_WORDS.findall(" ".join(text.split())) if found.lower() not in allowed]
    return words + [match[0].strip() for match in NO_SUBJECT.finditer(text)]


def prose(markdown: str) -> str:
    """Return a document without code, link targets and recorded output."""
    text = re.sub(r"<!-- table: runs -->.*?<!-- end -->", "", markdown, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*", "", text, flags=re.MULTILINE)
    text = CODE.sub("CODE", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def help_text(arguments: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([*arguments, "--help"]) == 0
    return output.getvalue()


def commands() -> Iterator[list[str]]:
    """Yield the command line of each command that has a help text."""
    yield []
    for name in SUBCOMMANDS:
        yield [name]
    for action in cluster._ACTIONS:
        yield ["cluster", action]
    for action in user.ACTIONS:
        yield ["user", action]
    for action in (*queue.ACTIONS, "work"):
        yield ["queue", action]
    for check in RUNNING_CHECKS:
        yield ["check", check]


def texts(path: Path) -> Iterator[str]:
    """Yield the docstrings, the messages and the comments of a source file."""
    source = path.read_text()
    if path.suffix != ".py":
        yield from re.findall(r'"""(.*?)"""', source, re.DOTALL)
        yield from re.findall(r"(?<=# ).*", source)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.removeprefix("#")


def in_source(package: str) -> list[str]:
    """Return the findings in a package or module of src, with their files."""
    path = PACKAGE / package
    files = sorted(path.rglob("*.*")) if path.is_dir() else [path.with_suffix(".py")]
    return [
        f"{file.relative_to(PACKAGE)}: {found}"
        for file in files
        if file.suffix in (".py", ".pyx", ".pxd")
        for text in texts(file)
        for found in findings(CODE.sub("CODE", text))
    ]


PACKAGES = sorted({path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")})


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_documents_use_the_terms_of_the_glossary(document: Path) -> None:
    assert findings(prose((ROOT / document).read_text()), ALLOWED.get(str(document), ())) == []


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_texts_use_the_terms_of_the_glossary(command: list[str]) -> None:
    assert findings(help_text(command)) == []


def test_summaries_of_commands_use_the_terms_of_the_glossary() -> None:
    found = {spec.name: findings(spec.summary) for spec in command_spec.every_spec()}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_source_uses_the_terms_of_the_glossary(package: str) -> None:
    assert in_source(package) == []


def test_retired_words_and_missing_subjects_are_found() -> None:
    assert findings("The accelerator takes a run. What it leaves is read.") == ["accelerator", ". What"]
    assert findings("It was told by nobody; keyspaces.") == ["told", "nobody", "keyspaces"]
    assert findings("- Who reads?\n- What is it for?") == []
    assert findings("Return what the client sent.") == []

"""Retired names do not come back, and names of tests are short and name their subject."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

RETIRED_TEXT = """
Accelerator ArticleAccelerator ArticleConversation BackUp CannotSay Deferred Dialect DiskLog Gathering Harm HeldRun
HotClock HotTable LateLog LogListener LogRefused NotQuick OfNode Postponed ProcessLog ProposedRun ProposingAccelerator
RedisAccelerator RedisConversation RocksEngine SaidOnce Sight Staged Surroundings UseOrder

HOPELESS_KEYS NODE_SPACE SPACES STAGED_MAX STRANGER_EPOCHS_MAX _surroundings _usable_accelerator _use_order
accelerator_of article_accelerator came_sent durable_option held_run hot_keys hot_path member_from mend_logs new_member
open_engine parsed_harms patiently redis_accelerator take_turn what_to_check word_of words_carried_out
"""
RETIRED = RETIRED_TEXT.split()


def test_no_retired_name_comes_back() -> None:
    retired = re.compile(rf"\b({'|'.join(RETIRED)})\b")
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match[1]}"
        for folder in ("src", "tests", "docs", "benchmarks")
        for file in sorted((ROOT / folder).rglob("*.*"))
        if file.suffix in (".py", ".pyx", ".pxd", ".pyi", ".h", ".md") and file != Path(__file__)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        for match in retired.finditer(line)
    ]
    assert found == []


TEST_NAME_MAX = 70
"""Characters of a test's name, so that a line about it fits on a screen."""

HIDDEN_SUBJECT = re.compile(r"test_(what|who|whoever|nobody|somebody|it|they)_")


def names_in(file: Path) -> list[str]:
    return [
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def test_names_of_tests_are_short_and_name_their_subject() -> None:
    names = [(file.name, name) for file in sorted((ROOT / "tests").rglob("test_*.py")) for name in names_in(file)]
    assert len(names) > 2_000
    assert [place for place in names if len(place[1]) > TEST_NAME_MAX or HIDDEN_SUBJECT.match(place[1])] == []

"""Names that the code had once, and that the glossary has replaced, do not come back."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

RETIRED_TEXT = """
Accelerator ArticleAccelerator ArticleConversation CannotSay Deferred Dialect DiskLog Gathering Harm HeldRun HotClock
HotTable LateLog LogListener LogRefused NotQuick Postponed ProcessLog ProposedRun ProposingAccelerator RedisAccelerator
RedisConversation SaidOnce Sight Surroundings UseOrder

NODE_SPACE SPACES accelerator_of article_accelerator durable_option held_run hot_path member_from new_member open_engine
parsed_harms redis_accelerator take_turn word_of words_carried_out _surroundings _usable_accelerator _use_order
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

"""The rules and the files that docs/users.md shows."""

import re
import shlex
from pathlib import Path

from cairnkv.cli.user import ACTIONS
from cairnkv.server.users_file import parsed
from cairnkv.session.access.users import User

PAGE = (Path(__file__).parents[2] / "docs" / "users.md").read_text()

HASH = "ab" * 32
ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQxMjM0$" + "A" * 43


def test_every_rule_of_the_table_is_accepted() -> None:
    table = PAGE.partition("| rule | meaning |")[2].partition("\n\n")[0]
    cells = [re.split(r"(?<!\\)\|", row)[1] for row in table.splitlines()[2:]]
    rules = [rule.replace("\\|", "|") for cell in cells for rule in re.findall(r"`([^`]+)`", cell)]
    assert len(rules) > 30
    for rule in rules:
        given = rule.replace("SHA256", HASH).replace("$argon2id$...", ARGON2)
        User(b"x").changed([">password", "resetkeys", f"#{HASH}", given])


def test_file_on_the_page_can_be_read() -> None:
    (block,) = [block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if block.startswith("# comments")]
    assert [user.name for user in parsed(block.encode(), Path("f"))] == [b"boss", b"shop"]


def test_commands_on_the_page_exist() -> None:
    lines = re.findall(r"^cairn user (.*?)(?: #.*)?$", PAGE, re.MULTILINE) + re.findall(
        r"\| `cairn user ([^`]*)`", PAGE
    )
    assert len(lines) >= 8
    for line in lines:
        action, *words = shlex.split(line)
        assert action in ACTIONS
        User(b"x").changed([word for word in words[1:] if not word.startswith("--")])

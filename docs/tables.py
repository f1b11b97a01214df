"""Writes the tables of the documents from the code: `python docs/tables.py`; a test says when that is due.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what stands there is replaced.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from cairnkv import limits
from cairnkv.commands import BY_NUMBER, CODES, COUNTED_FROM, Answer, Word
from cairnkv.server.settings import ENVIRONMENT_PREFIX, OPTIONS
from cairnkv.session import TRANSITIONS

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

ANSWERS = {
    Answer.OK: "`OK`",
    Answer.BYTES: "the bytes",
    Answer.NUMBER: "decimal text",
    Answer.ITEMS: "strings",
}


def table(*rows: tuple[str, ...]) -> str:
    """Rows, the first of them the heading, as Markdown."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def commands() -> str:
    """Every command of the vocabulary."""
    rows = [(str(word.number), f"`{word.usage}`", explained(word), ANSWERS[word.answer]) for word in BY_NUMBER.values()]
    return table(("number", "arguments", "what it does", "success carries"), *rows)


def explained(word: Word) -> str:
    """The command's docstring as one line."""
    text = " ".join((word.command.__doc__ or "").split())
    return text.replace("`MISSING`", "`Key not found`").replace("|", "\\|")


def failures() -> str:
    """Every failure code."""
    rows = [
        (
            f"`{code.name}`",
            code.meaning,
            {False: "not executed (0x02)", None: "unknown (0x04)"}.get(code.executed, "executed"),
            "closes" if code.closes else "survives",
            "may help later" if code.passing else "no use",
        )
        for code in CODES.values()
    ]
    return table(("code", "meaning", "executed?", "the connection", "the same again"), *rows)


def wire_limits() -> str:
    """The limits that a client has to know."""
    rows = (
        ("bytes in a key", f"1 to {limits.KEY_MAX:,}", "fixed"),
        ("bytes in a value, or in any one string", f"0 to {limits.VALUE_MAX:,}", "`--max-value`"),
        ("bytes in a frame, in either direction", f"{limits.FRAME_MAX:,}", "`--max-frame`"),
        (f"arguments of a command from {COUNTED_FROM} on", f"{limits.ARGUMENTS_MAX:,}", "fixed"),
        ("seconds from a frame's first byte to its last", f"{limits.FRAME_TIMEOUT:g}", "`--frame-timeout`"),
        ("seconds without a command", f"{limits.IDLE_TIMEOUT:g}", "`--idle-timeout`"),
        ("seconds in which a client takes none of its replies", f"{limits.STALL_TIMEOUT:g}", "`--stall-timeout`"),
        ("bytes of unfinished frames, all clients together", f"{limits.UNFINISHED_MAX:,}", "`--max-unfinished`"),
        ("bytes of replies not taken, all clients together", f"{limits.UNSENT_MAX:,}", "`--max-unsent`"),
        ("clients at once", f"{limits.CONNECTIONS_MAX:,}", "`--max-connections`"),
        ("milliseconds in a time to live", f"1 to {limits.TTL_MAX:,}", "fixed"),
        ("keys that one SCAN looks at", f"1 to {limits.SCAN_COUNT_MAX:,}", "fixed"),
    )
    return table(("what", "default", "option"), *rows)


def options() -> str:
    """Every option of the server."""
    rows = [
        (
            f"`--{name.replace('_', '-')}{' ' + option.metavar if option.metavar else ''}`",
            f"`{ENVIRONMENT_PREFIX}{name.upper()}`",
            option.shown,
            option.help,
        )
        for name, option in OPTIONS.items()
    ]
    return table(("flag", "variable", "default", "what it says"), *rows)


def transitions() -> str:
    """Every state of a session, and how it gets to another."""
    rows = [
        (f"`{state.name}`: {state.value}", f"`{event.name}`: {event.value}", f"`{then.name}`")
        for (state, event), then in TRANSITIONS.items()
    ]
    return table(("in", "on", "to"), *rows)


TABLES: dict[str, Callable[[], str]] = {
    "commands": commands,
    "failures": failures,
    "limits": wire_limits,
    "options": options,
    "transitions": transitions,
}
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(document: str) -> str:
    """A document with its tables as the code has them now."""
    return MARKED.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}\n{match[3]}", document)


def main() -> int:
    """Rewrite what is out of date; say which documents were."""
    for path in DOCUMENTS:
        before = path.read_text()
        if (after := renewed(before)) != before:
            path.write_text(after)
            print(f"renewed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

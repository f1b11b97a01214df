"""Convert the package's docstrings to Markdown for the API page: an extension of griffe, which mkdocstrings uses.

Docstrings are plain text: `name: meaning` at the beginning of a line describes a parameter, doctests are examples,
and brackets are no links.
"""

import re
from collections.abc import Collection
from typing import Any

import griffe

PARAMETERS = re.compile(r"(\w+(?:, \w+)*): ")


class Docstrings(griffe.Extension):
    """Replaces each docstring by its Markdown."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Replace the docstring of a module, class, function or attribute. griffe calls this method for each object."""
        if obj.docstring is not None:
            names = {parameter.name for parameter in obj.parameters} if obj.is_function else ()
            obj.docstring.value = markdown(obj.docstring.value, names)


def markdown(text: str, parameters: Collection[str] = ()) -> str:
    """Return a docstring as Markdown: doctests in a block, parameters and `Raises` in a list."""
    lines: list[str] = []
    block = listed = False
    for line in text.splitlines():
        if line.startswith(">>>") and not block:
            lines += ["", "```pycon"]
            block, listed = True, False
        elif block and not line.strip():
            lines.append("```")
            block = False
        if block or line.startswith("    "):
            lines.append(line)
            continue
        if not line.strip():
            listed = False
        match = PARAMETERS.match(line)
        names = match[1].split(", ") if match else []
        if match and all(name in parameters for name in names):
            item = f"{', '.join(f'`{name}`' for name in names)}: {escaped(line[match.end() :])}"
        elif listed and line.startswith("Raises "):
            item = escaped(line)
        else:
            lines.append(f"  {escaped(line)}" if listed and line else escaped(line))
            continue
        if not listed and lines and lines[-1]:
            lines.append("")
        listed = True
        lines.append(f"- {item}")
    return "\n".join([*lines, "```"] if block else lines)


def escaped(line: str) -> str:
    """Return a line in which nothing outside of backticks is Markdown."""
    parts = line.split("`")
    parts[::2] = [re.sub(r"([\[*<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)

"""Scripts: the steps of a failure in a file, and how they become fewer."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.simulation.driver import Step

_T = TypeVar("_T")

LONG: Final = 200
"""Bytes from which on a value that repeats a tag is written as the tag and a size."""


def save(path: Path, about: dict[str, Any], steps: Sequence[Step]) -> None:
    """Write a script: facts about the failure, and one step per line."""
    lines = ",\n  ".join(json.dumps([step[0], *map(_plain, step[1:])]) for step in steps)
    path.write_text(json.dumps(about, indent=1).removesuffix("\n}") + f',\n "steps": [\n  {lines}\n ]\n}}\n')


def load(path: Path) -> tuple[dict[str, Any], list[Step]]:
    """Read a script: facts about the failure, and its steps."""
    about = json.loads(path.read_text())
    return about, [[name, *map(_restored, rest)] for name, *rest in about.pop("steps")]


def _plain(value: Any) -> Any:
    """A part of a step for JSON: bytes become {"b": text} or, if they repeat a tag, {"tag": text, "size": bytes}."""
    if isinstance(value, bytes):
        tag = value[: value.find(b".", value.find(b".") + 1) + 1]
        if len(value) > LONG and tag and value == (tag * (len(value) // len(tag) + 1))[: len(value)]:
            return {"tag": tag.decode("latin-1"), "size": len(value)}
        return {"b": value.decode("latin-1")}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(one) for one in value]
    if isinstance(value, dict) and "b" in value:
        return value["b"].encode("latin-1")
    if isinstance(value, dict) and "tag" in value:
        tag: bytes = value["tag"].encode("latin-1")
        return (tag * (value["size"] // len(tag) + 1))[: value["size"]]
    return value


def shrunk(steps: list[Step], fails: Callable[[list[Step]], bool], seconds: float) -> list[Step]:
    """Fewer steps that still fail: without clients, then without steps, then without commands.

    fails: carries steps out and returns whether they fail. seconds: after which the fewest so far have to do.
    """
    end = time.monotonic() + seconds
    clients = sorted({step[1] for step in steps if len(step) > 1 and step[0] != "settle" and isinstance(step[1], int)})

    def of(some: Sequence[int]) -> list[Step]:
        return [
            step for step in steps if step[0] == "settle" or not isinstance(_client_of(step), int) or step[1] in some
        ]

    kept = fewest(clients, lambda some: fails(of(some)), end)
    steps = fewest(of(kept), lambda some: fails(list(some)), end)
    places = [(at, index) for at, step in enumerate(steps) if step[0] == "send" for index in range(len(step[2]))]

    def with_commands(some: Sequence[tuple[int, int]]) -> list[Step]:
        wanted = set(some)
        made: list[Step] = []
        for at, step in enumerate(steps):
            if step[0] != "send":
                made.append(step)
                continue
            commands = [command for index, command in enumerate(step[2]) if (at, index) in wanted]
            if commands:
                made.append([step[0], step[1], commands, *step[3:]])
        return made

    places = fewest(places, lambda some: fails(with_commands(some)), end)
    return fewest(with_commands(places), lambda some: fails(list(some)), end)


def _client_of(step: Step) -> Any:
    return step[1] if len(step) > 1 and step[0] != "turns" else None


def fewest(items: Sequence[_T], fails: Callable[[list[_T]], bool], end: float) -> list[_T]:
    """Return few of these items that still fail, by delta debugging: remove ever smaller parts while the rest fails."""
    kept = list(items)
    parts = 2
    while len(kept) > 1 and time.monotonic() < end:
        size = -(-len(kept) // parts)
        for begin in range(0, len(kept), size):
            fewer = kept[:begin] + kept[begin + size :]
            if time.monotonic() < end and fewer and fails(fewer):
                kept = fewer
                parts = max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(parts * 2, len(kept))
    return kept

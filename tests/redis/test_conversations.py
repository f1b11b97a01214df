"""Dialogues with a server over the Redis protocol, from text files, in order and byte for byte.

They hold what the differential test cannot: several connections, ends of connections, and what redis-server 7.0 does
not know. TARGET=redis holds those that it does know with the real server.

A line of a file is one of these; # at its beginning makes a comment. NAME is that of a connection, made when it is
first named; it may be left out.

    @ since 7.2        on the file: the version of Redis that said it first, or `valkey`, or `cairn`
    NAME> words        this command is sent; words are quoted as in redis-cli
    NAME>> text        these bytes are sent, with the escapes of Python
    NAME< line         exactly this line of a reply comes back
    NAME<~ pattern     a line comes back that matches this whole regular expression
    NAME<* pattern     a reply comes back, and its first line matches this whole regular expression
    NAME! closed       the server closes the connection, without another byte
    NAME! quiet        nothing comes for a moment

What comes back and is not expected before the end of the file is an error.
"""

import codecs
import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.raw_resp import Peer, command
from tests.support.targets import Target, redis_version

FILES = sorted((Path(__file__).parent / "conversations").glob("*.txt"))

QUIET_SECONDS = 0.05
"""How long `quiet` waits for something that should not come."""

LINE = re.compile(r"(?P<name>\w*)(?P<mark>>>|>|<~|<\*|<|!) ?(?P<rest>.*)")
WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


@dataclass(frozen=True)
class Line:
    where: str
    name: str
    mark: str
    rest: str


def since(file: Path) -> str:
    """The version that said first what is in a file."""
    match = re.search(r"^@ since (\S+)$", file.read_text(), re.MULTILINE)
    return match[1] if match else "7.0"


def can_be_held(file: Path) -> bool:
    """Whether the chosen target knows what is in a file. Ours, and any that is not known, has to know all of it."""
    if os.environ.get("TARGET") != "redis":
        return True
    version = since(file)
    return version[0].isdigit() and tuple(map(int, version.split("."))) <= redis_version()


def lines(file: Path) -> Iterator[Line]:
    for number, text in enumerate(file.read_text().splitlines(), 1):
        if text and not text.startswith(("#", "@")):
            match = LINE.fullmatch(text)
            assert match is not None, f"{file.name}:{number}: no line of a conversation"
            yield Line(f"{file.name}:{number}", match["name"], match["mark"], match["rest"])


def unescaped(text: str) -> bytes:
    return codecs.escape_decode(text.encode())[0]


def words(text: str) -> tuple[bytes, ...]:
    return tuple(unescaped(quoted) if quoted or not bare else bare.encode() for quoted, bare in WORD.findall(text))


def matches(line: Line, came: bytes) -> bool:
    if line.mark in ("<~", "<*"):
        return re.fullmatch(line.rest.encode(), came, re.DOTALL) is not None
    return came == line.rest.encode()


def hold(file: Path, target: Target) -> None:
    """Raises AssertionError, TimeoutError or ConnectionError that say where a conversation went otherwise."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(Peer(target.address)).ask(b"FLUSHALL")
        peers: dict[str, Peer] = {}
        closed = set()
        for line in lines(file):
            if line.name not in peers:
                peers[line.name] = stack.enter_context(Peer(target.address))
            peer = peers[line.name]
            try:
                if line.mark == ">":
                    peer.send(command(*words(line.rest)))
                elif line.mark == ">>":
                    peer.send(unescaped(line.rest))
                elif line.mark == "<*":
                    came = peer.reply().split(b"\r\n")[0]
                    assert matches(line, came), f"{line.where}: {came!r}"
                elif line.mark in ("<", "<~"):
                    came = peer.line()
                    assert matches(line, came), f"{line.where}: {came!r}"
                elif line.rest == "closed":
                    assert peer.is_closed(), f"{line.where}: it is not closed, or something else came first"
                    closed.add(line.name)
                else:
                    assert line.rest == "quiet", line.where
                    came = peer.quiet(QUIET_SECONDS)
                    assert came == b"", f"{line.where}: {came!r}"
            except OSError as error:
                raise AssertionError(f"{line.where}: {error!r}") from error
        for name, peer in peers.items():
            if name not in closed:
                left = peer.quiet(QUIET_SECONDS)
                assert left == b"", f"{file.name}: nobody expected {left!r} on {name or 'the connection'}"


def test_script_files_exist() -> None:
    assert len(FILES) >= 12


@pytest.mark.parametrize("file", [file for file in FILES if can_be_held(file)], ids=lambda file: file.stem)
def test_script_gives_the_recorded_replies(redis_target: Target, file: Path) -> None:
    hold(file, redis_target)


@pytest.mark.parametrize(
    "text",
    ["> PING\n< +PING", "> PING\n<~ \\+PI.*", "> PING", "> PING\n! quiet", "> PING\n! closed", "<* \\+PONG"],
    ids=["another line", "no match", "unexpected", "not quiet", "not closed", "nothing comes"],
)
def test_wrong_reply_fails_the_script(
    redis_target: Target, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.support.raw_resp.SECONDS", 0.2)
    file = tmp_path / "other.txt"
    file.write_text(text)
    with pytest.raises(AssertionError, match=r"other\.txt"):
        hold(file, redis_target)

"""Whole conversations from text files: what is sent, what comes back, byte for byte. Each is held twice, the
client's bytes whole and one by one.

A line of a file is one of these, and # begins a comment:

    @ status_byte binary    how the session is set up: status_byte, width (2, 4), log (late)
    > hex                   the client sends this
    < hex                   exactly this comes back
    <~ hex CODE             this header and status come back, with a failure of this code
    ! event                 commit, fail, fail unknown, end of input, drain
    = STATE                 the session is in this state

Whatever comes back is expected before anything is sent, or happens, further down.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cairnkv.protocol import StatusByte
from cairnkv.session import State
from tests.session.native_client import NativeClient

FILES = sorted((Path(__file__).parent / "conversations").glob("*.txt"))


def lines(file: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        mark, _, rest = line.partition("#")[0].strip().partition(" ")
        if mark:
            yield number, mark, rest.strip()


def set_up(file: Path) -> NativeClient:
    settings = dict(rest.split() for _, mark, rest in lines(file) if mark == "@")
    width = settings.pop("width", None)
    client = NativeClient(
        status_byte=StatusByte[settings.pop("status_byte", "ascii").upper()],
        late=settings.pop("log", "") == "late",
        width={None: None, "2": 2, "4": 4}[width],
    )
    assert not settings, f"{file.name}: unknown settings {settings}"
    return client


def happen(client: NativeClient, event: str) -> None:
    match event:
        case "commit":
            client.storage.commit()
        case "fail":
            client.storage.fail()
        case "fail unknown":
            client.storage.fail(unknown=True)
        case "end of input":
            client.session.end_of_input()
        case "drain":
            client.session.drain()
        case _:
            raise AssertionError(f"unknown event {event}")


def test_script_files_exist() -> None:
    assert len(FILES) >= 6


@pytest.mark.parametrize("by_bytes", [False, True], ids=["whole", "by bytes"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_script_gives_the_recorded_replies(file: Path, by_bytes: bool) -> None:
    client = set_up(file)
    session = client.session
    came = b""  # and was not expected yet

    def go_on() -> None:
        nonlocal came
        session.advance()
        came += b"".join(session.output())
        while session.runnable:
            session.advance()
            came += b"".join(session.output())

    for number, mark, rest in lines(file):
        where = f"{file.name}:{number}"
        match mark:
            case "@":
                pass
            case ">":
                data = bytes.fromhex(rest)
                for piece in [data[at : at + 1] for at in range(len(data))] if by_bytes else [data]:
                    session.receive(piece)
                    go_on()
            case "<":
                expected = bytes.fromhex(rest)
                assert came[: len(expected)].hex(" ") == expected.hex(" "), where
                came = came[len(expected) :]
            case "<~":
                *head, code = rest.split()
                expected = bytes.fromhex("".join(head))
                assert came[:2].hex(" ") == expected.hex(" "), where
                size = 6 + int.from_bytes(came[2:6])
                assert came[6:size].startswith(code.encode() + b" "), where
                came = came[size:]
            case "!":
                assert came == b"", f"{where}: nobody expected {came.hex(' ')}"
                happen(client, rest)
                go_on()
            case "=":
                assert session.state is State[rest], where
            case _:
                raise AssertionError(f"{where}: unknown mark {mark}")
    assert came == b"", f"nobody expected {came.hex(' ')}"

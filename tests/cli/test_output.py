"""How bytes look: exact when piped, harmless on a terminal, binary-safe in JSON."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cairnkv
from cairnkv.cli.output import named
from cairnkv.escapes import escaped, quoted
from tests.cli.conftest import Call, cairn_process
from tests.cli.terminal import Terminal


@given(st.binary())
def test_escaped_text_cannot_move_the_cursor(data: bytes) -> None:
    shown = escaped(data)
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", "plain"),
        ("clé 🔑".encode(), "clé 🔑"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"a\r\n\tb", "a\\r\\n\\tb"),
        (b"\xff\x00", "\\xff\\x00"),
        ("\u202edlrow".encode(), "\\xe2\\x80\\xaedlrow"),
        ("\x9b2J".encode(), "\\xc2\\x9b2J"),
    ],
)
def test_bytes_are_escaped(data: bytes, shown: str) -> None:
    assert escaped(data) == shown


def test_quoted_text_has_no_python_prefix() -> None:
    assert quoted(b"jobs") == "'jobs'"
    assert quoted("é\n".encode()) == "'é\\n'"


@given(st.binary())
def test_json_represents_all_bytes(data: bytes) -> None:
    ((name, text),) = named("key", data).items()
    assert name in ("key", "key_b64")
    assert data == (text.encode() if name == "key" else base64.b64decode(text))


def test_pipe_gets_the_exact_bytes(kv: cairnkv.Client[bytes, bytes], cairn_here: Call) -> None:
    value = bytes(range(256))
    kv.set("k", value)
    assert cairn_here("get", "k").out == value + b"\n"
    assert cairn_here("get", "--raw", "k").out == value


def test_terminal_gets_no_control_sequence(kv: cairnkv.Client[bytes, bytes]) -> None:
    kv.set("k", b"\x1b[31mred\x07\xff")
    with Terminal("get", "k") as terminal:
        assert terminal.wait() == 0
    assert terminal.screen == "\\x1b[31mred\\x07\\xff\r\n"


def test_missing_key_is_reported_on_a_terminal(url: str) -> None:
    with Terminal("get", "k", NO_COLOR="1") as terminal:
        assert terminal.wait() == 1
    assert terminal.screen == "not found\r\n"


def test_colours_are_used_only_on_colour_terminals(url: str, cairn_here: Call) -> None:
    def shown(**environment: str) -> str:
        with Terminal("info", **environment) as terminal:
            assert terminal.wait() == 0
        return terminal.screen

    assert "\x1b[" in shown()
    assert "\x1b" not in shown(NO_COLOR="1")
    assert "\x1b" not in shown(TERM="dumb")
    assert b"\x1b" not in cairn_here("info").out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
@pytest.mark.parametrize("value", ["é", "😀", "日", "\x7f\x00"])
def test_json_is_utf8_with_any_standard_output(encoding: str, value: str, kv: cairnkv.Client[bytes, bytes]) -> None:
    kv.set("käse", value.encode())
    for arguments in (["get", "käse"], ["scan"], ["exists", "käse"]):
        said = cairn_process(*arguments, "--json", PYTHONIOENCODING=encoding)
        assert said.code == 0, said.err
        found = [json.loads(line) for line in said.out.decode("utf-8").splitlines()]
        assert [line["key"] for line in found] == ["käse"]
        assert arguments[0] != "get" or found[0]["value"] == value

"""The subcommands about a whole store: scan, count, ping, info."""

import base64
import json
import re
import subprocess

import cairnkv
from tests.cli.conftest import SECONDS, Call, Said, command

Store = cairnkv.Client[bytes, bytes]


def test_scan_prints_every_key_once(cairn_here: Call, kv: Store) -> None:
    names = {f"{letter}:{number}" for letter in "ab" for number in range(1_500)}
    kv.set_many(dict.fromkeys(names, b""))
    assert sorted(cairn_here("scan").out.decode().splitlines()) == sorted(names)
    assert len(cairn_here("scan", "a:").out.splitlines()) == 1_500
    assert cairn_here("scan", "c:") == Said(1, b"", "")


def test_scan_prints_all_keys_as_json(cairn_here: Call, kv: Store) -> None:
    keys = {b"plain", "clé".encode(), b"a\nb", b"\xff\x00"}
    kv.set_many(dict.fromkeys(keys, b""))
    found = set()
    for line in cairn_here("scan", "--json").out.splitlines():
        row = json.loads(line)
        found.add(row["key"].encode() if "key" in row else base64.b64decode(row["key_b64"]))
    assert found == keys


def test_reader_may_close_the_pipe_early(kv: Store) -> None:
    kv.set_many({f"key {number:05}": b"x" * 100 for number in range(20_000)})
    for arguments in (["scan"], ["scan", "--json"], ["export", "-"], ["get", "--raw", "big"]):
        kv.set("big", b"x" * 1_000_000)
        with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(1)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(SECONDS) == 0


def test_count_prints_the_number_of_keys(cairn_here: Call, kv: Store) -> None:
    assert cairn_here("count") == Said(0, b"0\n", "")
    kv.set_many({str(number): b"" for number in range(1_234)})
    assert cairn_here("count") == Said(0, b"1234\n", "")
    assert json.loads(cairn_here("count", "--json").out) == {"count": 1_234}


def test_ping_prints_pong(cairn_here: Call, url: str) -> None:
    said = cairn_here("ping")
    assert (said.code, said.out) == (0, b"PONG\n")
    assert re.fullmatch(r"\d+\.\d\d ms\n", said.err)
    assert cairn_here("ping", "are you thére").out == "are you thére\n".encode()
    answer = json.loads(cairn_here("ping", "--json").out)
    assert answer["reply"] == "PONG"
    assert 0 < answer["milliseconds"] < 10_000


def test_info_prints_fields(cairn_here: Call, kv: Store) -> None:
    kv.set("a", b"b")
    lines = dict(line.split(None, 1) for line in cairn_here("info").out.decode().splitlines())
    assert lines["keys"] == "1"
    assert json.loads(cairn_here("info", "--json").out)["keys"] == 1

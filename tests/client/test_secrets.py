"""No error, `repr`, log line or output of clients and the command line contains a secret."""

import asyncio
import contextlib
import io
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

import cairnkv
import cairnkv.aio
from cairnkv.cli.main import main
from cairnkv.errors import CairnError
from cairnkv.limits import MIB
from tests.support.raw import SECONDS, ServerProcess, clean_environment

CANARY = "canary-41e7-of-a-client"

URLS = [
    f"app:{CANARY}@127.0.0.1:1",
    f"cairn://app:{CANARY}@127.0.0.1:1",
    f"cairn://app:{CANARY}@127.0.0.1:1,127.0.0.1:2",
    f"cairn://127.0.0.1:1,,app:{CANARY}",
    f"cairn://127.0.0.1:1,app:{CANARY}@127.0.0.1:2",
    f"cairn://app:{CANARY}@127.0.0.1:port",
    f"cairn://app:{CANARY}@127.0.0.1:99999",
    f"cairn://app:{CANARY}@",
    f"cairn://app:{CANARY}@[::1",
    f"cairn://app:{CANARY}@127.0.0.1/?unknown=1",
    f"cairn://app:{CANARY}@127.0.0.1/path",
    f"cairn://app:{CANARY}@127.0.0.1/?timeout=soon",
    f"cairn:/app:{CANARY}@127.0.0.1",
    f"cairnn://app:{CANARY}@127.0.0.1",
    f"redis://app:{CANARY}@127.0.0.1",
    f"cairns://app:{CANARY}@127.0.0.1:1/?ca=/no/such/file",
    f"cairns://app:{CANARY}@127.0.0.1:1/?cert=/no/such/file",
    f"cairn+unix://app:{CANARY}@/no/such/socket",
    f"cairn://{CANARY}%ZZ@127.0.0.1:1",
    f"cairn://app:{CANARY}\n@127.0.0.1:1",
    f"cairn://app:{CANARY * 100}@127.0.0.1:1",
]
"""Addresses with a secret. No client can use any of them."""


def text_of(error: BaseException) -> str:
    """Return all texts of an error and of its causes."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(error.args)


def use_sync(url: str) -> None:
    with cairnkv.connect(url) as kv:
        assert CANARY not in repr(kv) + str(kv)
        kv.get("key")


def use_asyncio(url: str) -> None:
    async def used() -> None:
        async with cairnkv.aio.connect(url) as kv:
            assert CANARY not in repr(kv) + str(kv)
            await kv.get("key")

    asyncio.run(used())


@pytest.mark.parametrize("use", [use_sync, use_asyncio])
@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
def test_no_error_of_an_address_contains_its_secret(
    url: str, use: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises((CairnError, ValueError, OSError)) as raised:
        use(url)
    # The line of this test's source that the traceback shows has no secret.
    assert CANARY not in text_of(raised.value)
    assert CANARY not in caplog.text


@pytest.mark.parametrize("words", [["get", "key"], ["queue", "stats", "q"]], ids=["get", "queue"])
@pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
def test_no_output_of_the_command_line_contains_the_secret_of_an_address(
    url: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main([*words, "--url", url]) != 0
    printed = capsys.readouterr()
    assert printed.err.startswith("cairn: ")
    assert CANARY not in printed.out + printed.err


def test_no_error_of_a_server_contains_the_secret_of_its_client(tmp_path: Path) -> None:
    environment = {"CAIRNKV__PASSWORD": "another"}
    with ServerProcess("--port", "0", log=tmp_path / "log", environment=environment) as server:
        host, port = server.address
        for use in (use_sync, use_asyncio):
            with pytest.raises(cairnkv.LoginFailed) as refused:
                use(f"cairn://default:{CANARY}@{host}:{port}")
            assert CANARY not in text_of(refused.value)
        shell = subprocess.run(
            [sys.executable, "-m", "cairnkv", "shell", "--url", f"cairn://app:{CANARY}@{host}:{port}"],
            input="get key\nwhoami\ninfo\n",
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            env=clean_environment(),
        )
        assert CANARY not in shell.stdout + shell.stderr
        assert "WRONGPASS" in shell.stderr
    assert CANARY not in server.log()


def test_client_that_is_pickled_or_shown_in_a_debugger_hides_its_secret(tmp_path: Path) -> None:
    environment = {"CAIRNKV__PASSWORD": CANARY}
    with ServerProcess("--port", "0", log=tmp_path / "log", environment=environment) as server:
        host, port = server.address
        with cairnkv.connect(f"cairn://default:{CANARY}@{host}:{port}") as kv:
            kv.set("key", "value")
            shown = [repr(kv), str(kv), f"{kv!r}", repr(kv.queue("q")), repr(kv.pipeline()), repr(kv.local())]
            assert CANARY not in "".join(shown)
            with pytest.raises(CairnError) as refused:
                kv.set("key", "v" * (65 * MIB))
            assert CANARY not in text_of(refused.value)
            with contextlib.suppress(TypeError):
                pickle.dump(kv, file := io.BytesIO())
                assert CANARY.encode() not in file.getvalue()

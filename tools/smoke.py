"""Tries an installed package: an embedded store, a server and its clients: `python tools/smoke.py [native]`.

Prints the path in use. Fails if it is not the named one. Needs only cairnkv: the tests of the distributions and
cibuildwheel run it in an environment without any extra.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import cairnkv

SECONDS = 60


def main(expected: str = "") -> int:
    """Use everything that works without an extra; 0 if all of it does."""
    with cairnkv.open() as kv:
        kv["greeting"] = "hello"
        assert kv["greeting"] == "hello"
        assert kv.incr("hits", 5) == 5
    assert Path(cairnkv.__file__).is_relative_to(sys.prefix), cairnkv.__file__
    cairn = shutil.which("cairn", path=sysconfig.get_path("scripts"))
    assert cairn is not None, "there is no program cairn"
    with subprocess.Popen([cairn, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split(" ready on ")[1].split(",")[0]
            use(cairn, url)
            asyncio.run(use_async(url))
        finally:
            server.terminate()
        assert server.wait(SECONDS) == 0
    path = cairnkv.features()["path"]
    print(path)
    return 0 if expected in ("", path) else 1


def use(cairn: str, url: str) -> None:
    """Use the sync client and the command line."""
    with cairnkv.connect(url) as kv:
        kv["greeting"] = "hello"
        assert dict(kv.items()) == {"greeting": "hello"}
    environment = {**os.environ, "CAIRNKV_URL": url}
    for words, text, printed in (
        (["get", "greeting"], "", "hello\n"),
        (["import", "--format", "tsv", "-"], "a\t1\nb\t2\n", ""),
        (["shell"], "incr a\n", "2\n"),
        (["export", "--format", "tsv", "-"], "", "a\t2\nb\t2\ngreeting\thello\n"),
    ):  # an import and a shell on a terminal need the extra `cli`
        ran = subprocess.run(
            [cairn, *words], input=text, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS
        )
        assert "".join(sorted(ran.stdout.splitlines(keepends=True))) == printed, (words, ran.stdout)


async def use_async(url: str) -> None:
    """Use the asyncio client."""
    async with cairnkv.aio.connect(url) as kv:
        assert await kv.get("greeting") == "hello"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

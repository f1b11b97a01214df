"""ioredis and node-redis, each in a separate script: node/*.mjs."""

import os
import subprocess

import pytest

from tests.clients.install import NODE
from tests.support.programs import program
from tests.support.targets import Target

SECONDS = 60.0


@pytest.mark.parametrize(
    ("script", "resp"), [("ioredis", ""), ("redis", "2"), ("redis", "3")], ids=["ioredis", "redis RESP2", "redis RESP3"]
)
def test_node_client_script_succeeds(server: Target, script: str, resp: str) -> None:
    node = program("node", "nodejs npm")
    if not (NODE / "node_modules" / script).exists():
        pytest.skip(f"{script} of npm is not installed: make test-clients")
    done = subprocess.run(
        [node, NODE / f"{script}.mjs"],
        env={**os.environ, "PORT": str(server.port), "RESP": resp},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""redis-benchmark runs to its end without an error. `make bench` does the measuring."""

import re
import subprocess

import pytest

from tests.support.programs import program
from tests.support.targets import Target

SECONDS = 120.0
REQUESTS = 20_000
TESTS = {"PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "MSET (10 keys)"}


@pytest.mark.parametrize("pipeline", [1, 16])
def test_redis_benchmark_runs(server: Target, pipeline: int) -> None:
    path = program("redis-benchmark", "redis-tools")
    where = ["-h", server.host, "-p", str(server.port)]
    done = subprocess.run(
        [path, *where, "-t", "ping,set,get,incr,mset", "-n", str(REQUESTS), "-P", str(pipeline), "-q"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "rror" not in done.stdout
    finished = re.findall(r"^\s*([^:\r\n]+): [\d.]+ requests per second", done.stdout.replace("\r", "\n"), re.MULTILINE)
    assert set(finished) == TESTS, done.stdout

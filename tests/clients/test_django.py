"""Django's own tests of its Redis cache."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.install import DJANGO_TESTS
from tests.support.targets import Target

SECONDS = 180.0
"""They sleep for some seconds in all, since they wait for things to expire."""

LEAST = 50
"""Django's tests of its Redis cache that have to pass at least: there are some sixty."""


def environment(server: Target) -> dict[str, str]:
    here = {"PYTHONPATH": str(Path(__file__).parent), "REDIS_URL": server.url}
    return {**os.environ, **here, "DJANGO_SETTINGS_MODULE": "django_settings"}


def test_django_test_suite_of_its_redis_cache(server: Target) -> None:
    pytest.importorskip("django")
    pytest.importorskip("redis")
    runner = DJANGO_TESTS / "tests" / "runtests.py"
    if not runner.exists():
        pytest.skip("Django's own tests are not here: make test-clients")
    done = subprocess.run(
        [sys.executable, runner, "--settings=django_settings", "--parallel=1", "cache.tests.RedisCacheTests"],
        env=environment(server),
        cwd=runner.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran is not None, done.stderr
    assert int(ran[1]) >= LEAST, done.stderr

"""Django's own Redis cache, proved by Django's own tests of it; and django-redis."""

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

DJANGO_REDIS = """
import django
django.setup()
from django.core.cache import cache
assert cache.set("k", {"any": ["object"]}, timeout=100)
assert cache.get("k") == {"any": ["object"]}
assert cache.ttl("k") in (99, 100)
assert cache.persist("k") and cache.ttl("k") is None
assert cache.expire("k", 50) and cache.pttl("k") <= 50_000
assert not cache.add("k", 1) and cache.add("n", 1)
assert cache.incr("n", 4) == 5 and cache.decr("n") == 4
cache.set_many({f"key:{i}": i for i in range(50)})
assert cache.get_many(["key:1", "nothing"]) == {"key:1": 1}
assert len(list(cache.iter_keys("key:*"))) == len(cache.keys("key:*")) == 50
assert cache.delete_pattern("key:*") == 50
assert cache.delete_many(["k", "n"]) == 2 and cache.get("k") is None
cache.set("gone", 1); cache.clear(); assert not cache.has_key("gone")
"""


def environment(server: Target, **more: str) -> dict[str, str]:
    here = {"PYTHONPATH": str(Path(__file__).parent), "REDIS_URL": server.url}
    return {**os.environ, **here, "DJANGO_SETTINGS_MODULE": "django_settings", **more}


def test_djangos_own_tests(server: Target) -> None:
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


def test_django_redis(server: Target) -> None:
    pytest.importorskip("django_redis")
    done = subprocess.run(
        [sys.executable, "-c", DJANGO_REDIS],
        env=environment(server, CACHE_BACKEND="django_redis.cache.RedisCache"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

"""Django's Redis cache: Django's tests, and several threads. django-redis without the methods that need scripts."""

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


THREADS = """
import threading
import django
django.setup()
from django.core.cache import cache

def in_threads(work):
    errors, together = [], threading.Barrier(4)
    def run(number):
        try:
            together.wait()
            work(number)
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors, errors

won = []
def work(number):
    for at in range(100):
        cache.set(f"{number}-{at}", {"any": ["object"]}, timeout=100)
        assert cache.get(f"{number}-{at}") == {"any": ["object"]}
        if cache.add(f"one-{at}", number):
            won.append(at)
        cache.set_many({f"{number}-many-{n}": n for n in range(5)})
        assert len(cache.get_many([f"{number}-many-{n}" for n in range(5)])) == 5
        assert cache.touch(f"{number}-{at}", 50)
in_threads(work)
assert sorted(won) == list(range(100)), won
"""
"""Operations that work from several threads on both caches."""

COUNTING = """
cache.set("n", 0)
def count(number):
    for _ in range(200):
        cache.incr("n")
        cache.incr("n", 2)
        cache.decr("n")
in_threads(count)
assert cache.get("n") == 4 * 200 * 2, cache.get("n")
"""
"""Operations that work from several threads on Django's own cache only: it sends INCRBY."""

LOCKING = """
import django, redis
django.setup()
from django.core.cache import cache
lock = cache.lock("job", timeout=60)
assert lock.acquire()
try:
    lock.release()
except redis.ResponseError as error:
    print(error)
"""
"""django-redis's lock, which is redis-py's: released by a script."""


def ran(server: Target, program: str, backend: str) -> str:
    """Run a program with this cache and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(server, CACHE_BACKEND=backend),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


OWN = "django.core.cache.backends.redis.RedisCache"
DJANGO_REDIS_CACHE = "django_redis.cache.RedisCache"


def environment(server: Target, **more: str) -> dict[str, str]:
    here = {"PYTHONPATH": str(Path(__file__).parent), "REDIS_URL": server.url}
    return {**os.environ, **here, "DJANGO_SETTINGS_MODULE": "django_settings", **more}


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


def test_django_redis(server: Target) -> None:
    pytest.importorskip("django_redis")
    ran(server, DJANGO_REDIS, DJANGO_REDIS_CACHE)


def test_django_cache_from_several_threads(server: Target) -> None:
    pytest.importorskip("django")
    pytest.importorskip("redis")
    ran(server, THREADS + COUNTING, OWN)


def test_django_redis_from_several_threads(server: Target) -> None:
    """Without its `incr`, a script: where that is refused django-redis reads and writes, and loses additions."""
    pytest.importorskip("django_redis")
    ran(server, THREADS + (COUNTING if server.name != "cairn" else ""), DJANGO_REDIS_CACHE)


def test_release_of_a_django_redis_lock_raises(server: Target) -> None:
    pytest.importorskip("django_redis")
    said = ran(server, LOCKING, DJANGO_REDIS_CACHE)
    assert ("unknown command 'EVALSHA'" in said) == (server.name == "cairn")

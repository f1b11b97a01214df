"""Django's own cache and sessions, and its packages for caches, limits, lockouts and settings."""

from typing import Any

import shared
from shared import THREADS, TIMES, URL, add_one, assert_count, client, in_threads, is_allowed, raises, run

OWN = "django.core.cache.backends.redis.RedisCache"
DJANGO_REDIS = "django_redis.cache.RedisCache"
DJANGO_VALKEY = "django_valkey.cache.ValkeyCache"


def set_up(backend: str = OWN, **settings: Any) -> None:
    shared.django(
        CACHES={"default": {"BACKEND": backend, "LOCATION": URL.replace("redis", scheme(backend))}}, **settings
    )


def scheme(backend: str) -> str:
    return "valkey" if backend == DJANGO_VALKEY else "redis"


def cache_from_threads() -> None:
    """Values, keys that are set once, and numbers."""
    from django.core.cache import cache

    cache.set("n", 0, timeout=None)

    def work(number: int) -> int:
        won = 0
        for at in range(TIMES):
            cache.set(f"{number}-{at}", {"any": ["object"]}, timeout=100)
            assert cache.get(f"{number}-{at}") == {"any": ["object"]}
            won += bool(cache.add(f"one-{at}", number))
            cache.set_many({f"{number}-many-{n}": n for n in range(5)})
            assert len(cache.get_many([f"{number}-many-{n}" for n in range(5)])) == 5
            assert cache.touch(f"{number}-{at}", 50)
            cache.incr("n")
            cache.incr("n", 2)
            cache.decr("n")
        return won

    assert sum(in_threads(work)) == TIMES
    assert cache.get("n") == THREADS * TIMES * 2
    with raises(ValueError):
        cache.incr("missing")


def own_cache() -> None:
    set_up()
    cache_from_threads()
    from django.core.cache import cache

    cache.clear()
    assert not client.keys()


def own_sessions() -> None:
    set_up(INSTALLED_APPS=["django.contrib.sessions"], SESSION_ENGINE="django.contrib.sessions.backends.cache")
    from django.contrib.sessions.backends.cache import SessionStore

    def work(number: int) -> str:
        store = SessionStore()
        store["number"] = number
        store.set_expiry(100)
        store.save()
        read = SessionStore(store.session_key)
        assert read["number"] == number
        read.cycle_key()
        assert not SessionStore(store.session_key).exists(store.session_key)
        return str(read.session_key)

    assert len(set(in_threads(work))) == THREADS
    store = SessionStore(in_threads(work)[0])
    store.flush()
    assert store.is_empty()


def django_redis_cache() -> None:
    set_up(DJANGO_REDIS)
    cache_from_threads()
    more_of_django_redis()


def django_valkey_cache() -> None:
    set_up(DJANGO_VALKEY)
    cache_from_threads()
    more_of_django_redis()


def more_of_django_redis() -> None:
    """The methods that Django's own cache lacks."""
    from django.core.cache import cache

    cache.clear()
    assert cache.set("k", {"any": ["object"]}, timeout=100)
    assert cache.get("k") == {"any": ["object"]}
    assert cache.ttl("k") in (99, 100)
    assert cache.persist("k")
    assert cache.ttl("k") is None
    assert cache.expire("k", 50)
    assert cache.pttl("k") <= 50_000
    assert not cache.add("k", 1)
    assert cache.add("n", 1)
    assert cache.incr("n", 4) == 5
    assert cache.decr("n") == 4
    cache.set_many({f"key:{i}": i for i in range(50)})
    assert cache.get_many(["key:1", "nothing"]) == {"key:1": 1}
    assert len(list(cache.iter_keys("key:*"))) == len(cache.keys("key:*")) == 50
    assert cache.delete_pattern("key:*") == 50
    assert cache.delete_many(["k", "n"]) == 2
    assert cache.get("k") is None
    cache.set("cleared", 1)
    cache.clear()
    assert not cache.has_key("cleared")


def locks(backend: str) -> None:
    set_up(backend)
    from django.core.cache import cache

    def work(number: int) -> None:
        for _ in range(10):
            with cache.lock("job", timeout=60, sleep=0.001):
                add_one()

    in_threads(work)
    assert_count(THREADS * 10)
    shared.assert_no_lock_left()


def django_redis_lock() -> None:
    locks(DJANGO_REDIS)


def django_valkey_lock() -> None:
    locks(DJANGO_VALKEY)


def ratelimit() -> None:
    set_up(INSTALLED_APPS=["django_ratelimit"])
    from django.test import RequestFactory
    from django_ratelimit.core import is_ratelimited

    def work(number: int) -> list[bool]:
        request = RequestFactory().get("/")
        return [not is_ratelimited(request, group="tests", key="ip", rate="30/d", increment=True) for _ in range(20)]

    is_allowed(30, [allowed for calls in in_threads(work) for allowed in calls])


def axes() -> None:
    set_up(
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "axes"],
        AUTHENTICATION_BACKENDS=["axes.backends.AxesStandaloneBackend"],
        AXES_HANDLER="axes.handlers.cache.AxesCacheHandler",
        AXES_FAILURE_LIMIT=THREADS * 5,
        LOGGING_CONFIG=None,
        AXES_COOLOFF_TIME=1,
    )
    from axes.handlers.proxy import AxesProxyHandler
    from django.test import RequestFactory

    def request() -> Any:
        return RequestFactory().post("/login")

    credentials = {"username": "eve"}
    assert AxesProxyHandler.is_allowed(request(), credentials)

    def work(number: int) -> None:
        for _ in range(5):
            AxesProxyHandler.user_login_failed(sender=None, credentials=credentials, request=request())

    in_threads(work)
    assert AxesProxyHandler.get_failures(request(), credentials) == THREADS * 5
    assert not AxesProxyHandler.is_allowed(request(), credentials)
    assert AxesProxyHandler.reset_attempts(ip_address="127.0.0.1") == 1
    assert AxesProxyHandler.is_allowed(request(), credentials)


def constance() -> None:
    set_up(
        INSTALLED_APPS=["constance"],
        CONSTANCE_BACKEND="constance.backends.redisd.RedisBackend",
        CONSTANCE_REDIS_CONNECTION=URL,
        CONSTANCE_CONFIG={"LIMIT": (10, "a number"), "TITLE": ("none", "a text")},
    )
    from constance import config

    assert (config.LIMIT, config.TITLE) == (10, "none")
    config.LIMIT = 11

    def work(number: int) -> None:
        for at in range(20):
            config.TITLE = f"{number}-{at}"
            assert config.LIMIT == 11

    in_threads(work)
    assert config.TITLE.endswith("-19")


def defender() -> None:
    set_up(
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "defender"],
        DEFENDER_REDIS_URL=f"{URL}/0",
        DEFENDER_LOGIN_FAILURE_LIMIT=5,
        DEFENDER_STORE_ACCESS_ATTEMPTS=False,
    )
    from defender import utils
    from django.test import RequestFactory

    request = RequestFactory().post("/login", REMOTE_ADDR="127.0.0.9")
    assert not utils.is_already_locked(request, username="eve")
    in_threads(lambda number: [utils.check_request(request, True, username="eve") for _ in range(3)])
    assert utils.is_already_locked(request, username="eve")
    assert utils.get_blocked_usernames() == ["eve"]
    utils.unblock_username("eve")
    utils.unblock_ip("127.0.0.9")
    assert not utils.is_already_locked(request, username="eve")


def redis_sessions() -> None:
    set_up(
        INSTALLED_APPS=["django.contrib.sessions"],
        SESSION_ENGINE="redis_sessions.session",
        SESSION_REDIS={"host": shared.HOST, "port": shared.PORT, "db": 0, "prefix": "session"},
    )
    from redis_sessions.session import SessionStore

    def work(number: int) -> None:
        store = SessionStore()
        store["number"] = number
        store.save()
        assert SessionStore(store.session_key).load()["number"] == number
        assert client.ttl(f"session:{store.session_key}") > 0
        store.delete(store.session_key)
        assert not store.exists(store.session_key)

    in_threads(work)


run(
    own_cache,
    own_sessions,
    django_redis_cache,
    django_redis_lock,
    django_valkey_cache,
    django_valkey_lock,
    ratelimit,
    axes,
    constance,
    defender,
    redis_sessions,
)

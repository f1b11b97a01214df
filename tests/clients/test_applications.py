"""What applications are built of: Flask-Caching, and Celery's store of results."""

import threading

import pytest

from tests.support.targets import Target


def test_flask_caching(server: Target) -> None:
    flask = pytest.importorskip("flask")
    caching = pytest.importorskip("flask_caching")
    application = flask.Flask("tests")
    settings = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": server.url, "CACHE_KEY_PREFIX": "app:"}
    cache = caching.Cache(application, config={**settings, "CACHE_DEFAULT_TIMEOUT": 100})
    asked = []

    @application.route("/double/<int:n>")
    @cache.cached()
    def double(n: int) -> str:
        asked.append(n)
        return str(n * 2)

    @cache.memoize(50)
    def slow(n: int) -> int:
        asked.append(n)
        return n * 3

    with application.app_context(), application.test_client() as client:
        assert [client.get("/double/4").text for _ in range(3)] == ["8"] * 3
        assert [slow(5), slow(5)] == [15, 15]
        assert asked == [4, 5]
        cache.delete_memoized(slow)
        assert slow(5) == 15
        assert asked == [4, 5, 5]
        assert cache.set("k", {"any": "object"})
        assert cache.get("k") == {"any": "object"}
        assert cache.add("k", 1) is False
        assert cache.get_many("k", "nothing") == [{"any": "object"}, None]
        assert cache.set_many({"a": 1, "b": 2})
        assert cache.cache.inc("n", 5) == 5
        assert cache.delete_many("a", "b")
        assert cache.clear()
        assert cache.get("k") is None


def test_celerys_results(server: Target) -> None:
    """Results are strings with a deadline, and a channel tells of them. Its queues need lists, and are not asked."""
    celery = pytest.importorskip("celery")
    application = celery.Celery("tests", broker="memory://", backend=server.url)
    application.conf.result_expires = 100
    waiting = application.AsyncResult("the-task")
    assert waiting.state == "PENDING"
    later = threading.Timer(0.2, application.backend.store_result, ("the-task", {"answer": 42}, "SUCCESS"))
    later.start()
    assert waiting.get(timeout=20) == {"answer": 42}
    later.join()
    assert application.AsyncResult("the-task").state == "SUCCESS"
    client = application.backend.client
    assert 0 < client.ttl(application.backend.get_key_for_task("the-task")) <= 100
    application.backend.store_result("failed", ValueError("no"), "FAILURE")
    with pytest.raises(ValueError, match="no"):
        application.AsyncResult("failed").get(timeout=20)
    waiting.forget()
    assert application.AsyncResult("the-task").state == "PENDING"
    application.backend.result_consumer.stop()

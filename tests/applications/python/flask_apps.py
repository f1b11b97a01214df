"""Extensions of Flask: Flask-Caching, Flask-Session, Flask-Limiter, Flask-SocketIO; cachelib, python-socketio."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, session
from shared import (
    HOST,
    PORT,
    SECONDS,
    THREADS,
    TIMES,
    URL,
    client,
    flask_client,
    in_threads,
    is_allowed,
    run,
    wait_for_subscribers,
)


def caching() -> None:
    from flask_caching import Cache

    application = Flask("tests")
    settings = {"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": URL, "CACHE_KEY_PREFIX": "app:"}
    cache = Cache(application, config={**settings, "CACHE_DEFAULT_TIMEOUT": 100})
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

    with flask_client(application) as browser:
        assert [browser.get("/double/4").text for _ in range(3)] == ["8"] * 3
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
        backend = cache.cache

    def work(number: int) -> int:
        for _ in range(TIMES):
            backend.inc("n")
        return sum(bool(backend.add(f"k{at}", number)) for at in range(TIMES))

    assert sum(in_threads(work)) == TIMES
    assert backend.get("n") == THREADS * TIMES


def cachelib() -> None:
    from cachelib import RedisCache

    cache = RedisCache(HOST, PORT, key_prefix="c:", default_timeout=100)
    assert cache.set("k", {"any": ["object"]})
    assert cache.get("k") == {"any": ["object"]}
    assert cache.set_many({"a": 1, "b": 2})
    assert cache.get_dict("a", "b", "nothing") == {"a": 1, "b": 2, "nothing": None}
    assert cache.has("k")
    assert cache.delete("k")

    def work(number: int) -> int:
        for _ in range(TIMES):
            cache.inc("n")
        return sum(bool(cache.add(f"one:{at}", number)) for at in range(TIMES))

    assert sum(in_threads(work)) == TIMES
    assert cache.get("n") == THREADS * TIMES
    assert cache.clear()
    assert not client.keys()


def sessions() -> None:
    from flask_session import Session

    application = Flask("tests")
    application.config.update(SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_PERMANENT=True)
    Session(application)

    @application.route("/visit")
    def visit() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    @application.route("/leave")
    def leave() -> str:
        session.clear()
        return "left"

    def work(number: int) -> None:
        with application.test_client() as browser:
            assert [browser.get("/visit").text for _ in range(5)] == ["1", "2", "3", "4", "5"]

    in_threads(work)
    keys = client.keys("session:*")
    assert len(keys) == THREADS
    assert all(client.ttl(key) > 0 for key in keys)
    with application.test_client() as browser:
        browser.get("/visit")
        browser.get("/leave")
        assert browser.get("/visit").text == "1"


def limiter() -> None:
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    application = Flask("tests")
    limiter = Limiter(get_remote_address, app=application, storage_uri=URL, headers_enabled=True)

    @application.route("/limited")
    @limiter.limit("30 per day")
    def limited() -> str:
        return "served"

    def work(number: int) -> list[bool]:
        with application.test_client() as browser:
            codes = [browser.get("/limited").status_code for _ in range(20)]
        assert set(codes) <= {200, 429}, codes
        return [code == 200 for code in codes]

    is_allowed(30, [allowed for calls in in_threads(work) for allowed in calls])
    with application.test_client() as browser:
        refused = browser.get("/limited")
        assert refused.status_code == 429
        assert refused.headers["X-RateLimit-Remaining"] == "0"
        limiter.reset()
        assert browser.get("/limited").status_code == 200


@contextmanager
def served(application: Any) -> Iterator[Any]:
    """Serve an application with Socket.IO. Yield a browser that is connected to it."""
    from socketio import SimpleClient
    from werkzeug.serving import make_server

    server = make_server(HOST, 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with SimpleClient() as browser:
        browser.connect(f"http://{HOST}:{server.server_port}", transports=["polling"])
        yield browser
    server.shutdown()


def socketio() -> None:
    from flask_socketio import SocketIO

    def application() -> Any:
        made = Flask("tests")
        SocketIO(made, message_queue=URL, async_mode="threading")
        return made

    with served(application()) as one, served(application()) as other:
        wait_for_subscribers("flask-socketio", 2)
        SocketIO(message_queue=URL).emit("news", {"from": "another process"})
        for browser in (one, other):
            assert browser.receive(timeout=SECONDS) == ["news", {"from": "another process"}]


def python_socketio() -> None:
    from socketio import RedisManager, Server, WSGIApp

    def application() -> Any:
        server = Server(async_mode="threading", client_manager=RedisManager(URL))
        server.on("connect", lambda sid, environment: server.enter_room(sid, "room"))
        return WSGIApp(server)

    with served(application()) as one, served(application()) as other:
        wait_for_subscribers("socketio", 2)
        RedisManager(URL, write_only=True).emit("news", {"text": "hello"}, room="room")
        for browser in (one, other):
            assert browser.receive(timeout=SECONDS) == ["news", {"text": "hello"}]


run(caching, cachelib, sessions, limiter, socketio, python_socketio)

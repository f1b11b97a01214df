"""The uses of packages that speak the Redis protocol, and the tables of the recorded runs of their programs.

`make test-applications RECORD=1` runs the programs and records the results; `docs/applications.md` shows them. A use
without a program needs commands that the server does not have. These were counted on redis-server, by MONITOR.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "applications.json"
"""The results that docs/applications.md shows."""

PYPI, NPM, PHP = "PyPI", "npm", "PHP"


@dataclass(frozen=True)
class Use:
    """One use of a package.

    program: the file in tests/applications, and the name of the use in it. setting: the setting with which it works.
    needs: the types that it needs and the server does not have. Its program, if any, shows that it fails with an error.
    instead: the use that works. in_ci: CI runs the program. of_valkey: its scripts need Valkey, not redis-server.
    silent: the silent failure of a server without scripts.
    """

    registry: str
    package: str
    use: str
    program: str = ""
    setting: str = ""
    needs: str = ""
    instead: str = ""
    in_ci: bool = False
    of_valkey: bool = False
    silent: str = ""

    @property
    def name(self) -> str:
        """The key of its result in the record."""
        return f"{self.registry}: {self.package}: {self.use}"


USES = (
    Use(PYPI, "litellm", "cache, router state", "messages.py litellm"),
    Use(PYPI, "litellm", "proxy: limits and spend queue", needs="lists"),
    Use(PYPI, "redis", "cache, counters, transactions, pub/sub", "redis_py.py redis_basics", in_ci=True),
    Use(PYPI, "redis", "`register_script`, `eval`", "redis_py.py redis_script", in_ci=True),
    Use(
        PYPI,
        "redis",
        "`Lock`",
        "redis_py.py redis_lock",
        in_ci=True,
        silent="the lock is acquired and never released; the next owner waits forever",
    ),
    Use(PYPI, "portalocker", "`RedisLock`", "locks.py portalocker"),
    Use(PYPI, "kombu", "broker", needs="hashes, lists, sets, sorted sets", instead="cairnkv's transport for kombu"),
    Use(PYPI, "celery", "broker", needs="hashes, lists, sets, sorted sets", instead="cairnkv's broker for Celery"),
    Use(PYPI, "celery", "results", "messages.py celery_results", setting="another broker", in_ci=True),
    Use(PYPI, "celery", "results of chords", needs="sets, sorted sets"),
    Use(PYPI, "Django", "its own cache", "django_apps.py own_cache", in_ci=True),
    Use(PYPI, "Django", "sessions", "django_apps.py own_sessions"),
    Use(PYPI, "APScheduler", "job store", needs="hashes, sorted sets"),
    Use(PYPI, "limits", "fixed window", "limiters.py limits_fixed_window"),
    Use(PYPI, "limits", "sliding window counter", "limiters.py limits_sliding_window"),
    Use(PYPI, "limits", "moving window", needs="lists", instead="the other windows"),
    Use(PYPI, "Flask-Limiter", "limit of a route", "flask_apps.py limiter", in_ci=True),
    Use(PYPI, "python-socketio", "manager", "flask_apps.py python_socketio"),
    Use(PYPI, "pydocket", "queue", needs="hashes, sets, sorted sets, streams"),
    Use(PYPI, "cachelib", "cache", "flask_apps.py cachelib"),
    Use(PYPI, "slowapi", "limit of a route", "limiters.py slowapi"),
    Use(PYPI, "requests-cache", "backend", needs="hashes"),
    Use(PYPI, "optuna", "journal storage", "messages.py optuna"),
    Use(PYPI, "huey", "queue", needs="hashes, lists, sorted sets"),
    Use(PYPI, "Flask-Session", "sessions", "flask_apps.py sessions"),
    Use(PYPI, "flower", "queue lengths", needs="lists"),
    Use(PYPI, "Flask-Caching", "cache", "flask_apps.py caching", in_ci=True),
    Use(
        PYPI,
        "django-redis",
        "cache",
        "django_apps.py django_redis_cache",
        in_ci=True,
        silent="`incr` reads, adds and writes: four threads counted 497 of 800",
    ),
    Use(PYPI, "django-redis", "`cache.lock`", "django_apps.py django_redis_lock", in_ci=True),
    Use(PYPI, "aiocache", "cache", "async_apps.py aiocache"),
    Use(PYPI, "aiocache", "`RedLock`, `OptimisticLock`", "async_apps.py aiocache_redlock", in_ci=True),
    Use(PYPI, "rq", "queue", needs="hashes, lists, sets, sorted sets, streams"),
    Use(PYPI, "pyrate-limiter", "`RedisBucket`", needs="sorted sets"),
    Use(PYPI, "channels-redis", "`RedisChannelLayer`", needs="sorted sets", instead="`RedisPubSubChannelLayer`"),
    Use(PYPI, "channels-redis", "channel layer", "messages.py channels", setting="`RedisPubSubChannelLayer`"),
    Use(PYPI, "valkey", "cache, counters, transactions, pub/sub", "redis_py.py valkey_basics"),
    Use(PYPI, "valkey", "`register_script`, `eval`", "redis_py.py valkey_script"),
    Use(PYPI, "valkey", "`Lock`", "redis_py.py valkey_lock"),
    Use(PYPI, "Flask-SocketIO", "message queue", "flask_apps.py socketio"),
    Use(PYPI, "django-ratelimit", "limit of a view", "django_apps.py ratelimit"),
    Use(PYPI, "arq", "queue", needs="sorted sets"),
    Use(PYPI, "celery-redbeat", "beat", needs="hashes, sets, sorted sets"),
    Use(PYPI, "aiogram", "FSM state, isolation", "async_apps.py aiogram"),
    Use(PYPI, "django-axes", "cache handler", "django_apps.py axes"),
    Use(PYPI, "dramatiq", "broker", needs="hashes, lists, sets, sorted sets", instead="cairnkv's broker for dramatiq"),
    Use(PYPI, "litestar", "store", "async_apps.py litestar_store"),
    Use(PYPI, "litestar", "channels", "async_apps.py litestar_channels"),
    Use(PYPI, "coredis", "client", "coredis_client.py basics"),
    Use(PYPI, "coredis", "`Lock`", "coredis_client.py lock"),
    Use(
        PYPI,
        "redlock-py",
        "lock",
        "locks.py redlock_py",
        in_ci=True,
        silent="`unlock` ignores the error: the lock stays until its TTL",
    ),
    Use(PYPI, "faststream", "channels", "messages.py faststream"),
    Use(PYPI, "faststream", "streams", needs="streams", instead="channels"),
    Use(PYPI, "throttled-py", "limiter", "limiters.py throttled_fixed_window", setting="`fixed_window`"),
    Use(PYPI, "throttled-py", "token bucket", needs="hashes", instead="`fixed_window`"),
    Use(PYPI, "python-redis-lock", "lock", needs="lists"),
    Use(PYPI, "django-constance", "backend", "django_apps.py constance"),
    Use(PYPI, "taskiq-redis", "broker and results", "messages.py taskiq", setting="`PubSubBroker`"),
    Use(PYPI, "taskiq-redis", "list broker", needs="lists", instead="cairnkv's broker for taskiq"),
    Use(PYPI, "taskiq-redis", "stream broker", needs="streams", instead="cairnkv's broker for taskiq"),
    Use(PYPI, "fastapi-cache2", "cache", "async_apps.py fastapi_cache"),
    Use(PYPI, "fastapi-cache2", "`clear`", "async_apps.py fastapi_cache_clear"),
    Use(PYPI, "django-rq", "queue", needs="hashes, lists, sets, sorted sets, streams"),
    Use(PYPI, "rq-scheduler", "scheduler", needs="hashes, sorted sets"),
    Use(PYPI, "fastapi-limiter", "limit of a route", needs="sorted sets"),
    Use(PYPI, "django-cacheops", "queries", needs="sets"),
    Use(PYPI, "cashews", "cache and decorators", "async_apps.py cashews_cache"),
    Use(
        PYPI,
        "cashews",
        "`cache.lock`",
        "async_apps.py cashews_lock",
        in_ci=True,
        silent="the lock stays until its TTL",
    ),
    Use(PYPI, "cashews", "`rate_limit`", "async_apps.py cashews_rate_limit"),
    Use(
        PYPI,
        "cashews",
        "tags, `slice_rate_limit`",
        "async_apps.py cashews_tags",
        needs="sets, sorted sets",
        setting="`suppress=False`",
        in_ci=True,
        silent="`delete_tags` deletes nothing; `slice_rate_limit` refuses no call",
    ),
    Use(PYPI, "python-redis-cache", "cache", needs="sorted sets"),
    Use(PYPI, "starsessions", "sessions", "async_apps.py starsessions"),
    Use(PYPI, "pottery", "`Redlock`", "locks.py pottery_redlock"),
    Use(PYPI, "pottery", "collections", needs="hashes, lists, sets"),
    Use(PYPI, "redis-om", "hash model", needs="hashes"),
    Use(PYPI, "saq", "queue", needs="lists, sorted sets"),
    Use(PYPI, "walrus", "containers", needs="hashes, lists, sets, sorted sets"),
    Use(PYPI, "django-defender", "lockout", "django_apps.py defender"),
    Use(PYPI, "broadcaster", "streams", needs="streams"),
    Use(PYPI, "django-valkey", "cache", "django_apps.py django_valkey_cache", of_valkey=True),
    Use(PYPI, "django-valkey", "`cache.lock`", "django_apps.py django_valkey_lock"),
    Use(PYPI, "django-redis-sessions", "sessions", "django_apps.py redis_sessions"),
    Use(PYPI, "aioredlock", "lock", "locks.py aioredlock"),
    Use(PYPI, "prefect-redis", "messaging", needs="streams"),
    Use(PYPI, "minique", "queue", needs="hashes, lists"),
    Use(PYPI, "scrapy-redis", "queue, dupefilter", needs="lists, sets, sorted sets"),
    Use(PYPI, "dogpile.cache", "cache", "locks.py dogpile_cache", in_ci=True),
    Use(
        PYPI,
        "dogpile.cache",
        "`distributed_lock=True`",
        "locks.py dogpile_distributed_lock",
        in_ci=True,
        silent="the lock of a key stays without an expiry; each later creation waits forever",
    ),
    Use(PYPI, "streaq", "queue", needs="functions, sets, sorted sets, streams"),
    Use(NPM, "keyv", "cache", "caches.mjs keyv"),
    Use(NPM, "ioredis", "client", "clients.mjs ioredis"),
    Use(NPM, "ioredis", "`defineCommand`", "clients.mjs ioredis_scripts", in_ci=True),
    Use(NPM, "bottleneck", "cluster", needs="hashes, sorted sets"),
    Use(NPM, "redis", "client", "clients.mjs redis"),
    Use(NPM, "redis", "`defineScript`", "clients.mjs redis_scripts", in_ci=True),
    Use(NPM, "cacheable", "cache", "caches.mjs cacheable"),
    Use(NPM, "unstorage", "driver", "caches.mjs unstorage"),
    Use(NPM, "bullmq", "queue", needs="hashes, lists, sets, sorted sets, streams"),
    Use(NPM, "cache-manager", "cache", "caches.mjs cache_manager"),
    Use(NPM, "rate-limiter-flexible", "limit", "limiters.mjs rate_limiter_flexible", in_ci=True),
    Use(NPM, "bull", "queue", needs="hashes, lists, sets, sorted sets"),
    Use(NPM, "connect-redis", "sessions", "caches.mjs connect_redis"),
    Use(NPM, "redlock", "lock", "locks.mjs redlock", in_ci=True),
    Use(NPM, "@socket.io/redis-adapter", "adapter", "messages.mjs socketio_adapter"),
    Use(NPM, "rate-limit-redis", "limit of a route", "limiters.mjs rate_limit_redis"),
    Use(NPM, "@fastify/rate-limit", "limit of a route", "limiters.mjs fastify_rate_limit"),
    Use(NPM, "iovalkey", "client, `defineCommand`", "clients.mjs iovalkey"),
    Use(NPM, "redis-semaphore", "mutex", "locks.mjs redis_semaphore"),
    Use(NPM, "redis-semaphore", "semaphore", needs="sorted sets"),
    Use(NPM, "graphql-redis-subscriptions", "pub/sub", "messages.mjs graphql_subscriptions"),
    Use(NPM, "@nest-lab/throttler-storage-redis", "limit", "limiters.mjs nest_throttler"),
    Use(NPM, "@sesamecare-oss/redlock", "lock", "locks.mjs sesamecare_redlock"),
    Use(NPM, "cache-manager-ioredis-yet", "cache", "caches.mjs cache_manager_ioredis"),
    Use(NPM, "@socket.io/redis-emitter", "emitter", "messages.mjs socketio_emitter"),
    Use(NPM, "@socket.io/redis-streams-adapter", "adapter", needs="streams", instead="`@socket.io/redis-adapter`"),
    Use(NPM, "@fastify/redis", "client", "clients.mjs fastify_redis"),
    Use(NPM, "bee-queue", "queue", needs="hashes, lists, sets"),
    Use(NPM, "node-resque", "queue", needs="lists, sets"),
    Use(PHP, "phpredis", "client", "phpredis.php client"),
    Use(PHP, "phpredis", "`eval`, `evalSha`", "phpredis.php script"),
    Use(PHP, "phpredis", "sessions", "phpredis.php sessions"),
    Use(
        PHP,
        "phpredis",
        "sessions with `redis.session.locking_enabled`",
        "phpredis.php locked_sessions",
        in_ci=True,
        silent="the lock stays for `lock_expire`; the next request of the user waits",
    ),
)

SERVERS = ("cairn", "redis")
"""The servers of the record: cairnkv and redis-server."""


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    """Return the outcome of each use by name."""
    return {use.name: _outcome(use, found["results"].get(use.name, {})) for use in USES}


def _outcome(use: Use, results: dict[str, str]) -> str:
    lacking = f"needs {use.needs}" + (f"; use {use.instead}" if use.instead else "")
    if not use.program:
        return lacking
    servers = SERVERS[:1] if use.of_valkey else SERVERS
    if any(results.get(server) != "passed" for server in servers):
        return "not proved: " + ", ".join(f"{server} {results.get(server, 'not run')}" for server in servers)
    if use.needs:
        return f"{lacking}; with {use.setting} it raises the error of the server"
    return f"works with a setting: {use.setting}" if use.setting else "works"


def markdown(found: dict[str, Any]) -> str:
    """Format the record as tables, with counts."""
    shown = outcomes(found)
    out: list[str] = []
    for registry in (PYPI, NPM, PHP):
        uses = [use for use in USES if use.registry == registry]
        working = [use for use in uses if shown[use.name].startswith("works")]
        packages, of_packages = len({use.package for use in working}), len({use.package for use in uses})
        out += [
            f"**{registry}**: {len(working)} of {len(uses)} uses work, in {packages} of {of_packages} packages.",
            "",
        ]
        rows = []
        for use in uses:
            version = found["versions"].get(f"{registry}: {use.package}", "") if use.program else ""
            rows.append((f"`{use.package}`", use.use, shown[use.name], version))
        out += [*_table(("package", "use", "result", "version"), rows), ""]
    return "\n".join(out[:-1])


def silent(found: dict[str, Any]) -> str:
    """Format the uses that fail silently on a server without scripts."""
    shown = outcomes(found)
    rows = [(f"`{use.package}`", use.use, use.silent, shown[use.name]) for use in USES if use.silent]
    return "\n".join(_table(("package", "use", "failure without scripts", "now"), rows))


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (heading, *rows)]
    return [head, "|" + " --- |" * len(heading), *body]

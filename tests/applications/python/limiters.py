"""Rate limiters: limits, slowapi, throttled-py."""

from shared import URL, client, in_threads, is_allowed, run


def limits_fixed_window() -> None:
    from limits import RateLimitItemPerDay
    from limits.storage import storage_from_string
    from limits.strategies import FixedWindowRateLimiter

    limiter = FixedWindowRateLimiter(storage_from_string(URL))
    item = RateLimitItemPerDay(50)
    calls = in_threads(lambda number: [limiter.hit(item, "user") for _ in range(25)])
    is_allowed(50, [allowed for some in calls for allowed in some])
    assert not limiter.test(item, "user")
    assert limiter.get_window_stats(item, "user").remaining == 0
    assert limiter.test(item, "another user")
    limiter.clear(item, "user")
    assert limiter.hit(item, "user")


def limits_sliding_window() -> None:
    from limits import RateLimitItemPerDay
    from limits.storage import storage_from_string
    from limits.strategies import SlidingWindowCounterRateLimiter

    limiter = SlidingWindowCounterRateLimiter(storage_from_string(URL))
    item = RateLimitItemPerDay(50)
    calls = in_threads(lambda number: [limiter.hit(item, "user") for _ in range(25)])
    is_allowed(50, [allowed for some in calls for allowed in some])


def slowapi() -> None:
    from fastapi import FastAPI, Request
    from fastapi.testclient import TestClient
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address

    limiter = Limiter(key_func=get_remote_address, storage_uri=URL)
    application = FastAPI()
    application.state.limiter = limiter
    application.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)

    @application.get("/limited")
    @limiter.limit("30/day")
    def limited(request: Request) -> str:
        return "served"

    def work(number: int) -> list[bool]:
        browser = TestClient(application)
        codes = [browser.get("/limited").status_code for _ in range(12)]
        assert set(codes) <= {200, 429}, codes
        return [code == 200 for code in codes]

    is_allowed(30, [allowed for calls in in_threads(work) for allowed in calls])


def throttled_fixed_window() -> None:
    from throttled import RateLimiterType, Throttled, per_day, store

    throttle = Throttled(
        using=RateLimiterType.FIXED_WINDOW.value, quota=per_day(50), store=store.RedisStore(server=f"{URL}/0")
    )
    calls = in_threads(lambda number: [not throttle.limit("user").limited for _ in range(25)])
    is_allowed(50, [allowed for some in calls for allowed in some])
    assert client.keys()


run(limits_fixed_window, limits_sliding_window, slowapi, throttled_fixed_window)

"""Settings for every test: how hard Hypothesis tries, and that a skipped test fails CI.

`HYPOTHESIS_PROFILE=long make test` tries much harder than the default, which keeps the suite short; `brief` is for
tests that run once more elsewhere. With `CI=true` a skipped test fails the run: its machine lacks something.
"""

import contextlib
import os
import signal
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.support.paths import path_in_use  # noqa: F401  a fixture

# No deadline: how long an example takes says more about the machine than about the code.
_COMMON = settings(
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("modest", _COMMON, max_examples=30, stateful_step_count=30)
settings.register_profile("brief", _COMMON, max_examples=15, stateful_step_count=30)
settings.register_profile("long", _COMMON, max_examples=2_000, stateful_step_count=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "modest"))


# A shell in the background ignores SIGINT, and nohup ignores SIGHUP. Programs under test would inherit that. A handler
# in this process leaves them the system's default.
with contextlib.suppress(ValueError):  # not in the main thread
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda signum, frame: None)


LONGEST: Final = ("tests/test_distributions.py", "tests/simulation/")
"""The files that take longest. They begin, so that no process is left with one of them at the end."""

WITH_NATS: Final = ("tests/lab/cluster/", "tests/lab/consistency/", "tests/replication/")
"""The files that need NATS. They come last: each process of tests keeps its servers, which need processor time."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks about paths."""
    config.addinivalue_line("markers", "pure: on the pure path, where the same test also runs on the native path")
    config.addinivalue_line(
        "markers", "same_code: of code that is the same on both paths, so the pure path is left out"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the pure path of tests whose code is the same on both paths, and order the files."""
    twice = {item for item in items if item.get_closest_marker("same_code") and item.get_closest_marker("pure")}
    items[:] = [item for item in items if item not in twice]
    items.sort(key=lambda item: (item.nodeid.startswith(WITH_NATS), not item.nodeid.startswith(LONGEST)))
    config.hook.pytest_deselected(items=list(twice))


def _skipped(config: pytest.Config) -> list[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return reporter.stats.get("skipped", []) if reporter is not None else []


def _skips_count() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where skipping is not allowed."""
    if _skips_count() and _skipped(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tests were skipped where that is a failure."""
    skipped = _skipped(config)
    if _skips_count() and skipped:
        terminalreporter.section("SKIPPED TESTS ARE FAILURES WITH CI=true", sep="!", red=True, bold=True)
        for report in skipped:
            terminalreporter.line(f"skipped: {report.nodeid}", red=True)

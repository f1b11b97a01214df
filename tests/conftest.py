"""Settings for every test: how hard Hypothesis tries, and that a skipped test fails CI.

`HYPOTHESIS_PROFILE=long make test` tries much harder than the default, which keeps the suite short; `brief` is for
tests that run once more elsewhere. With `CI=true` a skipped test fails the run: its machine lacks something.
"""

import contextlib
import os
import signal

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
settings.register_profile("modest", _COMMON, max_examples=60, stateful_step_count=30)
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


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of tests on the pure path."""
    config.addinivalue_line("markers", "pure: on the pure path, where the same test also runs on the native path")


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

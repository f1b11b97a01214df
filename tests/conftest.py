"""What holds for every test: how hard Hypothesis tries, and that nothing is skipped unnoticed.

`HYPOTHESIS_PROFILE=long make test` tries much harder than the default, which keeps the suite short; `brief` is for what
was tried so already, and runs once more somewhere else. With `CI=true` a skipped test fails the run: what a machine
cannot run there is a fault of that machine's set-up.
"""

import contextlib
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from cairnkv.installation import PURE_VARIABLE

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
    """Declare the mark of tests that are about the compiled parts in use."""
    config.addinivalue_line("markers", "in_use: about the compiled parts in use; left out where CAIRNKV__PURE says so")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about the compiled parts in use where they are not wanted: nothing is lacking there."""
    if os.environ.get(PURE_VARIABLE, "0") not in ("", "0"):
        left_out = [item for item in items if item.get_closest_marker("in_use")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


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

"""Progress bars, summaries and interruption of long commands. A bar appears only on a terminal."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cairnkv.cli.main import complain
from cairnkv.cli.output import on_terminal
from cairnkv.errors import missing_package

if TYPE_CHECKING:
    from types import FrameType


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Make SIGTERM (a supervisor) and SIGHUP (a closed terminal) end the block as Ctrl-C does.

    SIGHUP stays ignored under `nohup`.
    """

    def interrupt(number: int, frame: "FrameType | None") -> None:
        raise KeyboardInterrupt

    numbers = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, interrupt) for one in numbers}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class Bar:
    """A progress bar: a count, and the total if it is known."""

    def __init__(self, update: Callable[..., Any]) -> None:
        """update: shows the bar; takes `completed` and `total`."""
        self._update = update
        self._done = 0

    def expect(self, total: int) -> None:
        """Set the total."""
        self._update(total=total)

    def at(self, done: int) -> None:
        """Set the count."""
        self._done = done
        self._update(completed=done)

    def add(self, count: int) -> None:
        """Add to the count."""
        self.at(self._done + count)


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[Bar]:
    """Show a bar on standard error while the block runs. total: None if it is not known yet."""
    if not on_terminal(sys.stderr) or not _has_bars():
        yield Bar(lambda **_: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    of_bytes = unit == "bytes"
    if of_bytes:
        from rich.progress import DownloadColumn

        amount: TextColumn | DownloadColumn = DownloadColumn()
    else:
        amount = TextColumn("{task.completed:,.0f} " + unit)
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Bar(functools.partial(bar.update, bar.add_task(what, total=total)))


@functools.cache
def _has_bars() -> bool:
    """Return whether the package for bars can be imported. If not, print once which extra installs it."""
    try:
        import rich.progress  # noqa: F401
    except ImportError as error:
        complain(str(missing_package(error, "a progress bar")))
        return False
    return True


def rate(number: int, seconds: float) -> str:
    """Return the time and the throughput as text."""
    return f"in {seconds:.2f} s ({number / max(seconds, 1e-9):,.0f}/s)"

"""Progress bars, summaries and interruption of long commands. A bar appears on a terminal only."""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

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


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while the block runs; gives the function that says how far it is.

    total: what the function says at the end; None when nobody knows.
    """
    if not on_terminal(sys.stderr) or not _bars_are_there():
        yield lambda done: None
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
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@functools.cache
def _bars_are_there() -> bool:
    """Return whether the package for bars can be imported. Print once which extra installs it, if not."""
    try:
        import rich.progress  # noqa: F401
    except ImportError as error:
        complain(str(missing_package(error, "a progress bar")))
        return False
    return True


def counted(number: int, unit: str) -> str:
    """A number and its unit in the plural, or the singular.

    >>> counted(1, "key"), counted(1200, "line")
    ('1 key', '1,200 lines')
    """
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def rate(number: int, seconds: float) -> str:
    """How long something took, and how much of it went through in a second."""
    return f"in {seconds:.2f} s ({number / max(seconds, 1e-9):,.0f}/s)"

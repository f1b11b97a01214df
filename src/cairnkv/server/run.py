"""A server as a process: the event loop, signals and the readiness line.

Out of scope: the running server (`server`).
"""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cairnkv.installation import features
from cairnkv.limits import DEFAULT_URL
from cairnkv.server.descriptors import connections_that_fit
from cairnkv.server.loop import new_event_loop
from cairnkv.server.rate_limited_handler import RateLimitedHandler
from cairnkv.server.server import Server
from cairnkv.server.settings import BREAK_VARIABLE, Settings, has_secrets, ignored_variables
from cairnkv.storage.base import StartProgress
from cairnkv.version import VERSION

logger: Final = logging.getLogger("cairnkv.server")

REPEATED_SIGNAL_SECONDS: Final = 1.0
"""Seconds within which several signals count as one: a terminal and a supervisor may both send signals. A later signal
ends the drain."""


def run(
    settings: Settings,
    *,
    ready: Callable[[str], None],
    progress: StartProgress | None = None,
    warnings: Sequence[str] = (),
) -> None:
    """Serve until SIGINT, SIGTERM, SIGHUP or the command SHUTDOWN, then drain and return.

    SIGHUP reloads the files of a server that has files to reload, and does not end it.
    ready: called with the readiness line when the server executes commands. progress: see `Server`. warnings: about
    the settings, to log.
    Raises `OptionError` if the server cannot listen, or cannot open its store.
    """
    logging.basicConfig(
        level=settings.log_level.value,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[RateLimitedHandler(sys.stderr)],
    )
    if (ignored := ignored_variables(os.environ)) is not None:
        logger.warning("%s", ignored)
    for warning in warnings:
        logger.warning("%s", warning)
    if has_secrets(settings):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain them
    fit = connections_that_fit(settings)
    if fit < settings.max_connections:
        logger.warning(
            "max-connections is lowered from %s to %s: the limit of open files is too low (raise ulimit -n)",
            *(f"{settings.max_connections:,}", f"{fit:,}"),
        )
        settings = dataclasses.replace(settings, max_connections=fit)
    os.umask(0o077)  # the files of the server, including RocksDB's, are private
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(settings, ready, progress))


async def _serve(settings: Settings, ready: Callable[[str], None], progress: StartProgress | None) -> None:
    loop = asyncio.get_running_loop()
    server = Server(settings, progress=progress)
    first_signal: list[float] = []
    stopping: asyncio.Task[None] | None = None

    def on_signal(number: signal.Signals) -> None:
        if not first_signal:
            first_signal.append(loop.time())
            logger.info("%s: draining", number.name)
            server.request_stop()
        elif loop.time() - first_signal[0] > REPEATED_SIGNAL_SECONDS and stopping is not None:
            logger.warning("%s again: closing without waiting for clients", number.name)
            stopping.cancel()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if server.reloads:
        loop.add_signal_handler(signal.SIGHUP, server.reload)
    elif signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` ignores SIGHUP; keep it so
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        serves = await server.start()
    except BaseException:
        server.store.close()
        raise
    if serves:
        # Loaded objects stay until the end. Without `freeze`, garbage collections would visit them while clients wait.
        gc.collect()
        gc.freeze()
        ready(readiness(server))
    await server.stop_requested()
    stopping = loop.create_task(server.stop())
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    logger.info("stopped")
    for number in {*numbers, signal.SIGHUP} if server.reloads else numbers:
        # At its end the loop restores the default handlers; a signal after that would kill this process.
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def readiness(server: Server) -> str:
    """Return one line: addresses, process, mode, platform, and a command to try."""
    addresses = server.addresses
    mode = "in-memory"
    if server.node is not None:
        mode = f"replicated ({server.settings.name}, {server.settings.data}, fsync in NATS {server.node.stream.sync})"
    elif server.settings.data is not None:
        mode = f"durable ({server.settings.data}, sync {server.settings.sync})"
    runs_on = f"{features()['path']} on {features()['loop']}"
    if server.settings.tls_cert is not None:
        runs_on += f", TLS by {features()['tls']}"
    elsewhere = "" if addresses[0] == DEFAULT_URL else f" --url {addresses[0]}"
    attempt = f"try: {called()} set greeting hello{elsewhere}"
    if server.login_required:
        attempt = "clients must log in"
    if server.broken:
        attempt = f"BROKEN ON PURPOSE, by {BREAK_VARIABLE}: {', '.join(server.broken)}"
    return f"cairnkv {VERSION} ready on {' and '.join(addresses)}, pid {os.getpid()}, mode {mode}, {runs_on}; {attempt}"


def called() -> str:
    """Return the command for `cairn` in another terminal: its name, if the shell finds this installation by it."""
    here = Path(sys.executable).parent
    if str(here) in os.environ.get("PATH", "").split(os.pathsep):
        return "cairn"
    script = here / "cairn"
    if not script.exists():
        return f"{sys.executable} -m cairnkv"
    with contextlib.suppress(OSError, ValueError):  # the working directory is deleted or unrelated
        return str(script.relative_to(Path.cwd()))
    return str(script)

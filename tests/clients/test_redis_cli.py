"""redis-cli: on a terminal and from scripts."""

import contextlib
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.support.programs import program
from tests.support.raw_resp import Peer, command
from tests.support.targets import Target

SECONDS = 20.0
"""How long anything may take. Only a test that fails waits for it."""

CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Screen:
    """redis-cli on a terminal of its own, which it is the foreground process of, so that Ctrl-C reaches it."""

    def __init__(self, process: int, terminal: int) -> None:
        self.process = process
        self.terminal = terminal
        self.shown = ""

    def type(self, keys: str) -> None:
        """Press keys; Enter is \\r, Ctrl-C is \\x03.

        Only at a prompt that was seen: redis-cli throws away what was typed before it reads keys one by one.
        """
        os.write(self.terminal, keys.encode())

    def expect(self, text: str) -> None:
        """Wait until the screen shows this, and forget it up to there."""
        end = time.monotonic() + SECONDS
        while (at := self.shown.find(text)) < 0:
            assert self._read(end - time.monotonic()), f"the screen never showed {text!r}; it shows {self.shown!r}"
        self.shown = self.shown[at + len(text) :]

    def ended(self) -> bool:
        """Whether the terminal's process ends in time."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if not self._read(0.05):
                with contextlib.suppress(ChildProcessError):
                    if os.waitpid(self.process, os.WNOHANG)[0] == 0:
                        continue
                return True
        return False

    def _read(self, seconds: float) -> bool:
        if not select.select([self.terminal], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self.terminal, 65_536)
        except OSError:  # the other end is closed: the process has ended
            return False
        self.shown = CONTROL_SEQUENCE.sub("", self.shown + data.decode("utf-8", "replace"))
        return bool(data)


@contextlib.contextmanager
def screen(target: Target, home: Path, *arguments: str) -> Iterator[Screen]:
    path = program("redis-cli", "redis-tools")
    process, terminal = os.forkpty()
    if process == 0:
        os.environ.update(TERM="xterm", HOME=str(home))
        os.execv(path, [path, "-h", target.host, "-p", str(target.port), *arguments])
    # A width that is known, so that nobody is asked where the cursor is.
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    try:
        yield Screen(process, terminal)
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        os.close(terminal)


def cli(target: Target, *arguments: str, stdin: bytes = b"") -> str:
    """Return the output of redis-cli."""
    path = program("redis-cli", "redis-tools")
    done = subprocess.run(
        [path, "-h", target.host, "-p", str(target.port), *arguments],
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout.decode()


def test_redis_cli_on_a_terminal(server: Target, tmp_path: Path) -> None:
    prompt = f"{server.host}:{server.port}> "
    with screen(server, tmp_path) as terminal:
        terminal.expect(prompt)
        terminal.type('set greeting "hello world"\r')
        terminal.expect("\nOK\r\n" + prompt)
        terminal.type("get greeting\r")
        terminal.expect('\n"hello world"\r\n' + prompt)
        terminal.type("get nothing\r")
        terminal.expect("\n(nil)\r\n" + prompt)
        terminal.type("incr greeting\r")
        terminal.expect("\n(error) ERR value is not an integer or out of range\r\n" + prompt)
        terminal.type("select 3\r")
        terminal.expect(f"{server.host}:{server.port}[3]> ")
        terminal.type("select 0\r")
        terminal.expect(prompt)
        terminal.type("multi\r")
        within = f"{server.host}:{server.port}(TX)> "
        terminal.expect(within)
        terminal.type("incr n\r")
        terminal.expect("\nQUEUED\r\n" + within)
        terminal.type("exec\r")
        terminal.expect("\n1) (integer) 1\r\n" + prompt)
        terminal.type("quit\r")
        assert terminal.ended()


def test_hints_come_from_the_server(server: Target, tmp_path: Path) -> None:
    """It asks COMMAND DOCS at its start, and shows a command's arguments while it is typed."""
    with screen(server, tmp_path) as terminal:
        terminal.expect("> ")
        terminal.type("getrange")
        terminal.expect("key start end")
        terminal.type("\r")
        terminal.expect("wrong number of arguments for 'getrange' command")


def test_ctrl_c_ends_a_subscription(server: Target, tmp_path: Path) -> None:
    with screen(server, tmp_path) as terminal, Peer(server.address) as peer:
        terminal.expect("> ")
        terminal.type("subscribe news\r")
        terminal.expect('1) "subscribe"\r\n2) "news"\r\n3) (integer) 1\r\n')
        assert peer.ask(b"PUBLISH", b"news", b"hello") == b":1\r\n"
        terminal.expect('1) "message"\r\n2) "news"\r\n3) "hello"\r\n')
        terminal.type("\x03")
        # It ends in 7.0, and goes back to its prompt from 7.2 on; either way nobody listens any more.
        end = time.monotonic() + SECONDS
        while peer.ask(b"PUBSUB", b"NUMSUB", b"news") != b"*2\r\n$4\r\nnews\r\n:0\r\n":
            assert time.monotonic() < end, "the subscription outlives Ctrl-C"
            time.sleep(0.01)


@pytest.mark.parametrize("protocol", ["-2", "-3"])
def test_redis_cli_from_a_script(server: Target, protocol: str) -> None:
    assert cli(server, protocol, "set", "k", "v") == "OK\n"
    assert cli(server, protocol, "get", "k") == "v\n"
    assert cli(server, protocol, "-n", "5", "get", "k") == "\n"
    assert cli(server, protocol, "--no-raw", "mget", "k", "nothing") == '1) "v"\n2) (nil)\n'
    assert cli(server, protocol, stdin=b"set a 1\nincr a\nget a\n") == "OK\n2\n2\n"
    assert cli(server, protocol, "-r", "3", "incr", "n") == "1\n2\n3\n"
    assert "redis_version" in cli(server, protocol, "info", "server")
    assert cli(server, protocol, "--json", "get", "k") == '"v"\n'


def test_scan(server: Target) -> None:
    cli(server, stdin=b"".join(b"set key:%d %d\nset other:%d %d\n" % (n, n, n, n) for n in range(200)))
    assert sorted(cli(server, "--scan", "--pattern", "key:*").split()) == sorted(f"key:{n}" for n in range(200))
    assert len(cli(server, "--scan").split()) == 400


def test_mass_insertion(server: Target) -> None:
    data = b"".join(command(b"SET", b"key:%d" % n, b"x" * (n % 100)) for n in range(10_000))
    assert "errors: 0, replies: 10000" in cli(server, "--pipe", stdin=data)
    assert cli(server, "dbsize") == "10000\n"
    assert cli(server, "strlen", "key:99") == "99\n"


@pytest.mark.parametrize(("text", "replies"), [(b"", 0), (b"\r\nSET a 1\r\n", 1), (b"\nSET a 1\r\nSET b 2\r\n", 2)])
def test_pipe_loads_nothing_and_after_an_empty_line(server: Target, text: bytes, replies: int) -> None:
    assert f"errors: 0, replies: {replies}" in cli(server, "--pipe", stdin=text)

"""The example application with a queue: its web server and its worker, with a mail server that refuses a mail."""

import contextlib
import email
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

import cairnkv
from cairnkv.store import wall_clock
from cairnkv.testing import RunningServer, running_server

SIGNUP = Path(__file__).parents[2] / "examples/signup.py"
SECONDS = 30.0


class MailServer:
    """An SMTP server that refuses the first mails for a while, and keeps the others."""

    def __init__(self, refuses: int) -> None:
        self._refuses = refuses
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.mails: list[str] = []
        self.came = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, connection.makefile("rw", encoding="utf-8", newline="\r\n") as lines:
                    self._converse(lines)

    def _converse(self, lines: TextIO) -> None:
        def reply(text: str) -> None:
            lines.write(f"{text}\r\n")
            lines.flush()

        reply("220 test")
        for line in lines:
            match line[:4].upper().strip():
                case "DATA":
                    reply("354 go on")
                    text = "".join(iter(lines.readline, ".\r\n"))
                    if self._refuses:
                        self._refuses -= 1
                        reply("451 try again later")
                    else:
                        self.mails.append(text)
                        self.came.release()
                        reply("250 ok")
                case "QUIT":
                    reply("221 bye")
                    return
                case _:
                    reply("250 ok")

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with running_server(clock=wall_clock) as running:
        yield running


@contextlib.contextmanager
def signup(role: str, server: RunningServer, mail_port: int) -> Iterator["subprocess.Popen[str]"]:
    """Run the application in a role."""
    environment = {**os.environ, "CAIRNKV_URL": server.url, "PORT": "0", "MAIL_PORT": str(mail_port)}
    ran = subprocess.Popen([sys.executable, SIGNUP, role], env=environment, stdout=subprocess.PIPE, text=True)
    with ran:
        try:
            yield ran
        finally:
            ran.kill()


def post(url: str, address: str) -> str:
    form = urllib.parse.urlencode({"email": address}).encode()
    with urllib.request.urlopen(url, form, timeout=SECONDS) as response:
        text: str = response.read().decode()
    return text


def test_each_person_gets_one_mail_after_a_refusal(server: RunningServer) -> None:
    mail_server = MailServer(refuses=1)
    with signup("web", server, mail_server.port) as web:
        assert web.stdout is not None
        url = web.stdout.readline().strip()
        assert "<form" in urllib.request.urlopen(url, timeout=SECONDS).read().decode()
        assert post(url, "anna@example.org") == "Welcome, anna@example.org! We sent you a mail."
        assert post(url, "anna@example.org") == "Welcome back, anna@example.org! We sent you a mail."
        assert post(url, "<b>@example.org").startswith("Welcome, &lt;b&gt;")
    with signup("work", server, mail_server.port) as worker, cairnkv.connect(server.url) as kv:
        for _ in range(2):
            assert mail_server.came.acquire(timeout=SECONDS)
        until_acked(kv.queue("emails"), 2)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(SECONDS) == 0
        assert kv.queue("emails").stats()["nacked"] == 1
    mails = [email.message_from_string(text) for text in mail_server.mails]
    assert sorted(mail["To"] for mail in mails) == ["<b>@example.org", "anna@example.org"]
    assert len({mail["Message-ID"] for mail in mails}) == 2
    mail_server.close()


def until_acked(queue: cairnkv.Queue[object], number: int) -> None:
    deadline = time.monotonic() + SECONDS
    while queue.stats()["acked"] < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_usage_is_shown_without_a_role(server: RunningServer) -> None:
    ran = subprocess.run([sys.executable, SIGNUP], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (ran.returncode, ran.stderr) == (1, "usage: signup.py web|work\n")

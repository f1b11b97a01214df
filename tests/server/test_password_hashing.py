"""Passwords that people choose: checked in one thread, a bounded number at once, and remembered for a while."""

import builtins
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from cairnkv.errors import OptionError
from cairnkv.limits import PASSWORDS_KEPT_MAX, PASSWORDS_WAITING_MAX
from cairnkv.server import password_hashing
from cairnkv.server.password_hashing import PasswordChecker, hash_password, matches, require_argon2

WAIT = 60.0


@pytest.fixture(scope="module")
def path_in_use() -> None:
    """Replace the fixture for both paths: these tests do not depend on the path."""


class Checks:
    """Checks that the test lets go on, and their number."""

    def __init__(self, *, hold: bool = False) -> None:
        self.may_go_on = threading.Event()
        self.began = threading.Event()
        self.threads: set[str] = set()
        self.number = 0
        if not hold:
            self.may_go_on.set()

    def __call__(self, text: str, password: bytes) -> bool:
        self.began.set()
        assert self.may_go_on.wait(WAIT)
        self.number += 1
        self.threads.add(threading.current_thread().name)
        return text.encode() == b"hash of " + password


Ask = Callable[..., "Future[bool] | None"]


@pytest.fixture
def ask() -> Ask:
    """Ask a checker; the future has the answer. None: too many wait."""

    def ask(checker: PasswordChecker, password: bytes, *hashes: str) -> "Future[bool] | None":
        answer: Future[bool] = Future()
        return answer if checker.verify(hashes or ("hash of right",), password, answer.set_result) else None

    return ask


def checker_of(checks: Checks) -> PasswordChecker:
    """Return a checker that delivers in its own thread."""
    return PasswordChecker(lambda function: function(), check=checks)


def answer_of(asked: "Future[bool] | None") -> bool:
    assert asked is not None
    return asked.result(WAIT)


def test_hash_matches_its_password_only() -> None:
    text = hash_password(b"correct horse")
    assert text.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert matches(text, b"correct horse")
    assert not matches(text, b"correct horse ")
    assert not matches("$argon2id$v=19$m=19456,t=2,p=1$broken", b"x")
    assert hash_password(b"correct horse") != text


def test_missing_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("argon2"):
            raise ModuleNotFoundError("No module named 'argon2'", name="argon2")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", fail)
    for need in (require_argon2, lambda: hash_password(b"x")):
        with pytest.raises(OptionError) as raised:
            need()
        text = str(raised.value)
        assert text == "a password (argon2id) needs the package argon2, which is not installed; " + (
            "pip install 'cairnkv[auth]'"
        )


def test_one_thread_checks(ask: Ask) -> None:
    checks = Checks()
    checker = checker_of(checks)
    answers = [answer_of(ask(checker, b"wrong %d" % number)) for number in range(20)]
    assert not any(answers)
    assert answer_of(ask(checker, b"right"))
    assert answer_of(ask(checker, b"new", "hash of old", "hash of new"))
    assert checks.threads == {"cairnkv passwords"}
    checker.close()


def test_success_is_remembered_until_users_change(ask: Ask) -> None:
    checks = Checks()
    checker = checker_of(checks)
    for _ in range(3):
        assert answer_of(ask(checker, b"right"))
    assert checks.number == 1
    assert not answer_of(ask(checker, b"right", "hash of another"))
    assert checks.number == 2
    checker.forget()
    assert answer_of(ask(checker, b"right"))
    assert checks.number == 3
    checker.close()


def test_failure_is_not_remembered(ask: Ask) -> None:
    checks = Checks()
    checker = checker_of(checks)
    for _ in range(3):
        assert not answer_of(ask(checker, b"wrong"))
    assert checks.number == 3
    checker.close()


def test_success_of_a_check_before_a_change_is_not_remembered(ask: Ask) -> None:
    checks = Checks(hold=True)
    checker = checker_of(checks)
    asked = ask(checker, b"right")
    checker.forget()
    checks.may_go_on.set()
    assert answer_of(asked)
    assert answer_of(ask(checker, b"right"))
    assert checks.number == 2
    checker.close()


def test_equal_checks_wait_together(ask: Ask) -> None:
    checks = Checks(hold=True)
    checker = checker_of(checks)
    asked = [ask(checker, b"right") for _ in range(1_000)]
    assert checker.waiting == 1
    checks.may_go_on.set()
    assert all(map(answer_of, asked))
    assert checks.number == 1
    checker.close()


def test_number_of_waiting_checks_is_bounded(ask: Ask) -> None:
    checks = Checks(hold=True)
    checker = checker_of(checks)
    asked = [ask(checker, b"%d" % number) for number in range(PASSWORDS_WAITING_MAX)]
    assert ask(checker, b"one more") is None
    assert ask(checker, b"0") is not None, "it waits with the other one"
    checks.may_go_on.set()
    assert not any(map(answer_of, asked))
    assert not answer_of(ask(checker, b"one more"))
    checker.close()


def test_number_of_remembered_successes_is_bounded(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password_hashing, "PASSWORDS_KEPT_MAX", 3)
    assert PASSWORDS_KEPT_MAX == 10_000
    checks = Checks()
    checker = checker_of(checks)
    for name in (b"a", b"b", b"c", b"a", b"d", b"a", b"b"):
        assert answer_of(ask(checker, name, f"hash of {name.decode()}"))
    assert checks.number == 5, "b made room for d, because it was the least recently used"
    checker.close()


def test_checker_that_closes_ends_its_thread(ask: Ask) -> None:
    checks = Checks(hold=True)
    checker = checker_of(checks)
    first = ask(checker, b"right")
    second = ask(checker, b"wrong")
    assert second is not None
    assert checks.began.wait(WAIT)
    checker.close()
    checks.may_go_on.set()
    assert answer_of(first)
    for thread in threading.enumerate():
        if thread.name == "cairnkv passwords":
            thread.join(WAIT)
            assert not thread.is_alive()
    assert checks.number == 1

"""The table of failure codes is consistent, and each code becomes an error of the right class and outcome."""

import pytest

from cairnkv.commands import CODES, Code, Failure, Fault, failures
from cairnkv.errors import (
    AccessDenied,
    BadCommand,
    CairnError,
    InternalError,
    LeaseLost,
    LoginFailed,
    OutcomeUnknown,
    PeerError,
    Refused,
    error_of,
)

BY_CODE = {
    failures.STALE: LeaseLost,
    failures.NOPERM: AccessDenied,
    failures.NOAUTH: LoginFailed,
    failures.WRONGPASS: LoginFailed,
}

ALL = [pytest.param(code, id=code.name) for code in CODES.values()]


def test_every_code_of_the_module_is_in_the_table() -> None:
    declared = {name: thing for name, thing in vars(failures).items() if isinstance(thing, Code)}
    assert declared == CODES


@pytest.mark.parametrize("code", ALL)
class TestEachCode:
    def test_is_one_word_in_capitals(self, code: Code) -> None:
        assert code.name.isalpha()
        assert code.name.isupper()
        assert code.name.isascii()

    def test_has_its_meaning_in_sentences(self, code: Code) -> None:
        assert code.meaning.endswith(".")

    def test_stands_at_the_beginning_of_the_message(self, code: Code) -> None:
        assert Failure(code, "why and how").message == f"{code.name} why and how"

    def test_is_never_read_as_a_missing_key(self, code: Code) -> None:
        assert not Failure(code, "").message.startswith("Key not found")

    def test_is_not_to_be_repeated_where_the_outcome_is_unknown(self, code: Code) -> None:
        assert not (code.passing and code.executed is None)

    def test_becomes_an_error_with_the_same_message(self, code: Code) -> None:
        for writes in (False, True):
            error = error_of(Failure(code, "why"), writes=writes)
            assert isinstance(error, CairnError)
            assert error.code == code.name
            assert error.retry == code.passing
            assert code.name in str(error)
            if code.executed is None and writes:
                assert isinstance(error, OutcomeUnknown)
            else:
                by_fault = {
                    Fault.CALLER: BadCommand,
                    Fault.PEER: PeerError,
                    Fault.SERVER: Refused,
                    Fault.US: InternalError,
                }
                assert type(error) is BY_CODE.get(code, by_fault[code.fault])
                assert error.fault is code.fault

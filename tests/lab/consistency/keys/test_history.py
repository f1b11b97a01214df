"""Histories are saved and loaded completely; malformed files are refused."""

import json
from pathlib import Path

import pytest

from cairnkv.lab.consistency.history import Action, BadHistory, Outcome
from cairnkv.lab.consistency.keys.history import History, Operation, Verb, load
from tests.lab.consistency.keys.simulated import save

HISTORY = History(
    [
        Operation(1, Verb.SET, "r1", 10, 20, value="1-1", node="cairn://127.0.0.1:1"),
        Operation(2, Verb.GET, "r1", 11, 19, result="1-1"),
        Operation(2, Verb.GET, "r1", 20, 21, result=None),
        Operation(2, Verb.GET, "r1", 22, 23, result="", final=True),
        Operation(3, Verb.EXISTS, "r1", 0, 0, result=False),
        Operation(3, Verb.INCR, "c1", 5, 7, result=0, amount=-5),
        Operation(3, Verb.SET_IF, "r1", 8, 9, result=True, value="é\u2028\n", expected="1-1"),
        Operation(4, Verb.SWAP, "r1", 8, 9, Outcome.UNKNOWN, value="4-1", note="no answer"),
        Operation(4, Verb.CLEAR_IF, "r1", 10, 12, Outcome.NOT_EXECUTED, expected="4-1", note="NOQUORUM: later"),
        Operation(4, Verb.CLEAR, "r1", 13, 14),
    ],
    [Action("kill", "2", 3, 9)],
    {"seed": 7, "addresses": ["cairn://127.0.0.1:1"]},
)


def test_saved_history_is_loaded(tmp_path: Path) -> None:
    save(HISTORY, tmp_path / "history")
    loaded = load(tmp_path / "history")
    assert [str(one) for one in loaded.operations] == [str(one) for one in HISTORY.operations]
    assert loaded.operations == HISTORY.operations
    assert [type(one.result) for one in loaded.operations] == [type(one.result) for one in HISTORY.operations]
    assert loaded.actions == HISTORY.actions
    assert loaded.about["seed"] == 7
    save(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "history").read_bytes()


def test_operations_are_grouped_by_key_in_order_of_invocation() -> None:
    by_key = HISTORY.by_key()
    assert set(by_key) == {"r1", "c1"}
    assert [one.invoked for one in by_key["r1"]] == sorted(one.invoked for one in by_key["r1"])


HEADER = '{"cairnkv history":1}'
LINE = '{"client":1,"verb":"get","key":"k","invoked":1,"completed":2,"result":"x"}'


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "is not a history of format 1"),
        (['{"cairnkv history":2}'], "is not a history of format 1"),
        ([LINE], "is not a history of format 1"),
        (["["], "line 1: not JSON"),
        (["[]"], "line 1: not a JSON object"),
        ([HEADER, LINE, LINE[:-5]], "line 3: not JSON"),
        ([HEADER, LINE.replace("get", "got")], "line 2: .*got"),
        ([HEADER, LINE.replace('"client":1,', "")], "line 2: .*client"),
        ([HEADER, LINE.replace('"x"', "7")], "line 2: get cannot return 7"),
        ([HEADER, LINE.replace('"x"', "[]")], "line 2: 'result' cannot be"),
        ([HEADER, LINE.replace('"x"', "true")], "line 2: get cannot return True"),
        ([HEADER, LINE.replace('"k"', '"k","more":1')], "line 2: 'more'"),
        ([HEADER, LINE.replace(":2", ":0")], "line 2: the operation was completed before"),
        (
            [HEADER, '{"client":1,"verb":"incr","key":"k","invoked":1,"completed":2,"result":true}'],
            "incr cannot return True",
        ),
        ([HEADER, '{"client":1,"verb":"set","key":"k","invoked":1,"completed":2}'], "line 2: set needs a value"),
        (
            [HEADER, '{"client":1,"verb":"set","key":"k","invoked":1,"completed":2,"outcome":"unknown"}'],
            "set needs a value",
        ),
        (
            [HEADER, '{"client":1,"verb":"clear_if","key":"k","invoked":1,"completed":2,"result":true}'],
            "needs an expected value",
        ),
        ([HEADER, '{"nemesis":"kill","target":"1","began":1}'], "line 2: .*ended"),
        ([HEADER, '{"nemesis":"kill","target":"1","began":1,"ended":"2"}'], "line 2: "),
    ],
)
def test_malformed_history_is_refused(tmp_path: Path, lines: list[str], says: str) -> None:
    (tmp_path / "history").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(BadHistory, match=says):
        load(tmp_path / "history")


def test_line_omits_default_fields(tmp_path: Path) -> None:
    save(HISTORY, tmp_path / "history")
    line = json.loads((tmp_path / "history").read_text().splitlines()[3])
    assert line == {"client": 2, "verb": "get", "key": "r1", "invoked": 11, "completed": 19, "result": "1-1"}

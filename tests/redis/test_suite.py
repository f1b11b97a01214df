"""The runner of Redis' test suite counts correctly; a script replaces the suite here."""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest
from docs.redis_suite import markdown

from tests.redis import suite as runner
from tests.redis.suite import counted, run_unit, suite_version, understood
from tests.support.targets import Target

RUNTEST = r"""#!/bin/sh
for flag in "$@"; do
  case "$flag" in
    --host | --port | --single | --durable | --clients | --timeout | --skipfile) ;;
    --ignore-encoding | --ignore-digest | --tags) ;;
    --*) echo "Wrong argument: $flag"; exit 1 ;;
  esac
done
while [ "$1" != --skipfile ]; do shift; done
skipped() { grep -qxF "$1" "$file"; }
file=$2
echo "[ready]: 1"
printf '[\033[0;32;49mok\033[0m]: GET (of nothing) (3 ms)\n'
echo "[ignore]: DEBUG it: Tag: needs:debug denied"
echo "[ignore]: Tag: needs:repl denied"
echo "[ignore]: Not supported on external server"
if ! skipped "LIST it"; then
  echo "[err]: LIST it in tests/unit/x.tcl"
  echo "ERR unknown command 'LPUSH', with args beginning with: 'k'"
  echo "    while executing"
fi
skipped "LIST it" || echo "[err]: spoilt by LIST it in tests/unit/x.tcl"
echo "[err]: INCR it in tests/unit/x.tcl"
echo "Expected '1' to be equal to '2'"
if ! skipped "WAIT for it"; then
  echo "[TIMEOUT]: clients state report follows."
  echo "sock1 => (IN PROGRESS) WAIT for it"
  exit 1
fi
skipped "WAIT for it" && echo "[skip]: WAIT for it"
echo "[ok]: the last (0 ms)"
echo "                   The End"
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "support").mkdir(parents=True)
    (tmp_path / "tests" / "support" / "server.tcl").write_text("    r flushall\n    r function flush\n")
    (tmp_path / "tests" / "support" / "util.tcl").write_text("    set mayfail 0\n")
    runtest = tmp_path / "runtest"
    runtest.write_text(RUNTEST)
    runtest.chmod(0o755)
    return tmp_path


def test_unit_runs_to_its_end(suite: Path) -> None:
    unit = run_unit(suite, "unit/x", lambda: contextlib.nullcontext(Target("nobody", "127.0.0.1", 1)))
    told = markdown({"suite": "Redis 7.2.4", "units": [counted(unit)]})
    assert unit.whole
    assert unit.rounds == 2
    assert unit.passed == ["GET (of nothing)", "the last"]
    assert unit.failed == {"INCR it": "Expected '1' to be equal to '2'"}
    assert unit.not_applicable.pop("LIST it") == "needs LPUSH, which cairnkv lacks"
    assert unit.not_applicable.pop("WAIT for it").startswith("ends or stops the unit: stood still")
    assert unit.not_applicable.pop("DEBUG it") == "Tag: needs:debug denied"
    assert sorted(unit.not_applicable.values()) == ["Not supported on external server", "Tag: needs:repl denied"]
    assert told.startswith("The test suite of Redis 7.2.4:")
    assert "| `unit/x` | 2 | 1 | 5 |" in told
    assert "| `unit/x` | INCR it | Expected '1' to be equal to '2' |" in told


def test_aborted_unit_is_counted() -> None:
    told = understood("[ok]: GET (1 ms)\n[exception]: Executing test client: no such thing.\nno such thing\n")
    assert not told.whole
    assert told.in_progress == "Executing test client: no such thing."


REDIS = '#define REDIS_VERSION "7.2.4"\n#define REDIS_VERSION_NUM 0x00070204\n'
VALKEY = '#define SERVER_NAME "valkey"\n#define VALKEY_VERSION "8.0.1"\n#define VALKEY_VERSION_NUM 0x00080001\n'


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (REDIS, "Redis 7.2.4"),
        (VALKEY + REDIS, "Valkey 8.0.1"),
        (REDIS + VALKEY, "Valkey 8.0.1"),
        ("int x;\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_suite_names_the_server_that_a_checkout_builds(tmp_path: Path, header: str | None, version: str) -> None:
    if header is not None:
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "version.h").write_text(header)
    assert suite_version(tmp_path) == version


def test_unreleased_suite_has_its_commit(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "version.h").write_text(REDIS.replace("7.2.4", "255.255.255"))
    assert suite_version(tmp_path) == "Redis 255.255.255"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert re.fullmatch(r"Redis, commit [0-9a-f]{7,} of \d{4}-\d\d-\d\d", suite_version(tmp_path))


def test_record_keeps_other_suites_and_units() -> None:
    def suite(name: str, **passed: int) -> dict[str, object]:
        return {"suite": name, "units": [{"name": unit, "passed": count} for unit, count in passed.items()]}

    before = [suite("Redis 7.2.4", a=1, b=2), suite("Valkey 8.0.1", a=3)]
    assert runner.recorded(before, suite("Redis 7.2.4", b=5)) == [suite("Redis 7.2.4", a=1, b=5), before[1]]
    assert runner.recorded(before, suite("Other", a=1)) == [suite("Other", a=1), *before]


def test_documented_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["--help"])
    taken = set(re.findall(r"--[a-z]+", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"(?<!\w)--[a-z]+", runner.__doc__ or "")) == taken

"""Runs the test suite of Redis or Valkey against a server of ours and counts: `make test-redis-suite SUITE=DIR`.

    python -m tests.redis.suite DIR [--unit unit/expire] [--baseline] [--record]

DIR is a checkout of Redis or Valkey, of which `runtest` and `tests/` are copied to a temporary directory; nothing of it
comes into this repository. The suite speaks with the server as an external one. TARGET names the server, as for all
tests here; `--baseline` runs redis-server beside it, which shows what an older server, or an external one, fails by
itself, and which tests a unit did not reach.

A test that fails since it needs something that is not there (another data type, scripts, a configuration) is counted
as not applicable, with that reason, and the unit is run again without it, so that what it left behind spoils no other.
So is one during which the unit ended or stood still. Rounds are bounded.

Tests that were not run are counted too: with what the suite itself says of them. Changes to the suite: before each
file it calls FUNCTION FLUSH to clean up, and here it may fail, for a server without functions; so may its own helper
that sets the configuration between tests. The first group of tests of unit/acl and unit/acl-v2 also runs with an
external server, and its patterns without a final `*` get one. unit/scripting runs each test with EVAL and not with
FUNCTION, since both runs have the same names. While a script is too slow, it asks EXISTS in the place of PING, which
cairnkv answers.

`--record` keeps the count for docs/redis.md: numbers, and the names of those tests that fail.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docs.redis_suite import RECORD, markdown

from tests.support import targets
from tests.support.targets import Target

UNITS = (
    "unit/type/string", "unit/type/incr", "unit/expire", "unit/keyspace", "unit/scan", "unit/protocol", "unit/multi",
    "unit/pubsub", "unit/auth", "unit/introspection", "unit/introspection-2", "unit/info", "unit/info-command",
    "unit/other", "unit/quit", "unit/bitops", "unit/acl", "unit/acl-v2", "unit/scripting",
)  # fmt: skip
"""The units that concern what we have."""

DENIED_TAGS = (
    "needs:repl", "needs:debug", "needs:pfdebug", "needs:save", "needs:config-maxmemory", "needs:latency",
    "needs:local-process", "cluster", "large-memory",
)  # fmt: skip
"""Tags of tests that the suite itself leaves out when it is told so: what they need is not there."""

ROUNDS = 25
"""How often a unit is run at most, each time with fewer tests."""

UNRELEASED = "255.255.255"
"""The version of Redis and Valkey between two releases."""

UNIT_SECONDS = 240.0
"""How long one run of a unit may take before it is ended."""

STILL_SECONDS = 20
"""How long a test may stand still before the suite ends the unit."""

TEXT = 200
"""Characters of a failure that are kept."""

NOT_APPLICABLE = (
    (r"unknown command '(\w+)'", "needs {0}, which cairnkv lacks"),
    (r"unknown subcommand '(\w[\w-]*)'", "needs the subcommand {0}, which cairnkv lacks"),
    (r"option or number of arguments for CONFIG SET - '([\w-]+)'", "sets the configuration {0}, which cairnkv lacks"),
    (
        r"argument '([\w-]+)'\) - can't set immutable config",
        "sets the configuration {0}, which cairnkv fixes at its start",
    ),
    (r"d command specified", "asks about a command that cairnkv lacks"),
    (r"DEBUG command not allowed", "needs DEBUG"),
    (r"modifier '[+-]([\w|]+)': Unknown command", "needs {0}, which cairnkv lacks"),
    (r"Command '(\w+)' not found", "needs {0}, which cairnkv lacks"),
    (r"Unknown Redis command called from script", "calls a command that cairnkv lacks from a script"),
    (r"a pattern must be a prefix with a final", "needs patterns that are no prefixes, a known difference"),
    (r"there are no selectors here", "needs selectors, a known difference"),
)
"""Patterns in a failure that say that a test asks for something that is not there, and the reason that is given."""

NOT_ASKED_OF_US = (
    (r".* command is marked with movablekeys", "asks about a command that cairnkv lacks"),
    (
        r"COMMAND LIST FILTERBY (ACLCAT|PATTERN) - list all commands/subcommands",
        "asks about a command that cairnkv lacks",
    ),
    (r"CONFIG SET rollback on apply error", "sets the configuration PORT, which cairnkv fixes at its start"),
    (r"CONFIG GET multiple args", "asks for the configuration SLAVEOF, which cairnkv lacks"),
    (r"CONFIG GET hidden configs", "asks for a configuration that only tests of Redis use"),
    (r"ACLs can exclude single commands", "PING is for every user, a known difference"),
    (r"ACL LOG aggregates similar errors .*", "ten failed logins end a connection, a known difference"),
    (r"When default user is off, .*", "a disabled user loses its connections, a known difference"),
    (r"Test basic multiple selectors", "needs selectors, a known difference"),
    (r"(Test general keyspace|Cardinality) commands require .*", "uses the user of a test that does not apply"),
    (
        r"Script return recursive object",
        "cairnkv refuses a reply with more than 128 nested tables, and sends no part of it",
    ),
    (r"Script ACL check", "asks about a command that cairnkv lacks"),
    (
        r"Consistent eval error reporting|LUA redis\.(error|status)_reply API.*",
        "needs INFO errorstats, which cairnkv lacks",
    ),
    (r"Delete a user that the client is using", "a client without its user stays connected, a known difference"),
    (r"blocked command gets rejected .*", "needs BLPOP, which cairnkv lacks"),
    (r"ACL CAT category - list all commands/.*", "needs FUNCTION, which cairnkv lacks"),
    (r"info command with .*", "needs INFO commandstats, which cairnkv lacks"),
    (r"command stats for .*", "needs INFO commandstats, which cairnkv lacks"),
)
"""The same by the names of tests, where the failure does not say it."""

REASONS = {
    "PEXPIREAT with big integer works": "cairnkv refuses times beyond 2^53 ms",
    "Protocol desync regression test #1": "the first byte is zero, so the connection uses the native protocol",
    "Protocol desync regression test #3": "the first byte is `$`, so the connection uses the native protocol",
    "CLIENT LIST": "expects the command itself in the query buffer (`qbuf=26`); in cairnkv the buffer is already empty",
    "CLIENT INFO": "as `CLIENT LIST`",
    "It's possible to allow subscribing to a subset of channel patterns": "cairnkv also permits a pattern within a "
    "permitted prefix",
    "ACL LOG shows failed command executions at toplevel": "the client in an entry of ACL LOG has no `cmd=`",
    "ACL LOG can distinguish the transaction context (2)": "the client in an entry of ACL LOG has no `cmd=`",
    "ACL can log errors in the context of Lua scripting": "the client in an entry of ACL LOG has no `cmd=`",
    "Test SET with separate write permission": "cairnkv checks the arguments first, as a comment of this test asks for",
    "EVAL - Scripts do not block on wait": "no script may call WAIT, as in Redis 7.0",
    "Measures elapsed time os.clock()": "scripts have no `os`, which Redis has since 8.0",
    "Prohibit dangerous lua methods in sandbox": "scripts have no `os`, which Redis has since 8.0",
    "Verify execution of prohibit dangerous Lua methods will fail": "scripts have no `os`, which Redis has since 8.0",
    "Scripts can handle commands with incorrect arity": "the error has the text of Redis",
    "LUA test pcall with non string/integer arg": "the error has the text of Redis",
    "Binary code loading failed": "scripts have no `string.dump`",
    "reject script do not cause a Lua stack leak": "a store without keys is below a limit of one byte",
    "Validate subset of channels is prefixed with resetchannels flag": "ACL LIST has no `sanitize-payload`, which is "
    "about RESTORE",
}
"""Why tests fail that go on failing."""

LITERAL = re.compile(r"((?<= )[~&](?:object:1234|foo:1|foo|orders|baz:qaz|test)(?=[\s\]}]))")
"""Patterns of ACL rules without a `*`, which cairnkv refuses. As prefixes they permit the same keys of these tests."""

Start = Callable[[], contextlib.AbstractContextManager[Target]]

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RESULT = re.compile(r"\[(ok|err|ignore|skip|exception|TIMEOUT)\]: (.*)")
LEFT_OUT = re.compile(r"(?:(.*): )?(Tag: .*|Not supported .*|large memory .*)")
PLACE = re.compile(r"^(.*) in (tests/\S+\.tcl)$")


@dataclass
class Unit:
    """The result of a unit. Each dictionary gives reasons by the names of tests."""

    name: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_applicable: dict[str, str] = field(default_factory=dict)
    rounds: int = 0
    whole: bool = False

    @property
    def seen(self) -> set[str]:
        """All tests that came to something."""
        return {*self.passed, *self.failed, *self.not_applicable}


@dataclass
class Round:
    """One run of the suite for one unit, taken apart."""

    passed: list[str]
    failed: dict[str, str]
    left_out: dict[str, str]
    in_progress: str | None
    whole: bool


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; 0 whatever the count is, since a count is what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.redis.suite", description="run the test suite of Redis or Valkey"
    )
    parser.add_argument("suite", type=Path, help="a checkout of Redis or Valkey")
    parser.add_argument("--unit", action="append", help="a unit, once or more (default: all that concern us)")
    parser.add_argument("--record", action="store_true", help=f"keep the count in docs/{RECORD.name}")
    parser.add_argument("--baseline", action="store_true", help="run redis-server beside it")
    given = parser.parse_args(arguments)
    if not (given.suite / "runtest").exists():
        parser.error(f"{given.suite} is no checkout of Redis or Valkey: it has no runtest")
    if shutil.which("tclsh") is None and shutil.which("tclsh8.6") is None:
        parser.error("there is no tclsh; on Debian: apt-get install tcl")
    version = suite_version(given.suite)
    units = given.unit or UNITS
    ours = [run_unit(given.suite, unit, targets.chosen) for unit in units]
    theirs = [run_unit(given.suite, unit, targets.redis) for unit in units] if given.baseline else []
    found = {"suite": version, "units": [counted(unit) for unit in ours]}
    if theirs:
        found["baseline"] = [beside(our, their) for our, their in zip(ours, theirs, strict=True)]
    if given.record:
        RECORD.write_text(json.dumps(recorded(json.loads(RECORD.read_text()), found), indent=1) + "\n")
    print(markdown(found))
    return 0


def recorded(before: list[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all recorded suites, with new results of units in the place of former ones."""
    suites = {suite["suite"]: suite for suite in before}
    former = suites.get(found["suite"], {"units": []})
    units = {unit["name"]: unit for unit in (*former["units"], *found["units"])}
    suites[found["suite"]] = {**found, "units": list(units.values())}
    return [suites[name] for name in sorted(suites)]


def suite_version(suite: Path) -> str:
    """Return the name and version of the server that a checkout builds: "Redis 7.2.4", "Valkey 8.0.1", or "unknown".

    Between releases the version is 255.255.255; then the commit follows, if the checkout has one.
    Valkey's version.h defines REDIS_VERSION too, as the version that it is compatible with.
    """
    file = suite / "src" / "version.h"
    text = file.read_text() if file.exists() else ""
    for name in ("Valkey", "Redis"):
        if match := re.search(rf'{name.upper()}_VERSION "([^"]+)"', text):
            commit = commit_of(suite) if match[1] == UNRELEASED else ""
            return f"{name}, commit {commit}" if commit else f"{name} {match[1]}"
    return "unknown"


def commit_of(suite: Path) -> str:
    """Return the commit of a checkout, or nothing if it is no checkout of its own."""
    if not (suite / ".git").exists():
        return ""
    command = ["git", "-C", str(suite), "log", "-1", "--format=%h of %cs"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


# -- one unit ----------------------------------------------------------------------------------------------------------


def run_unit(suite: Path, name: str, start: Start) -> Unit:
    """Run a unit until it is through, each time without the tests that are known not to apply."""
    unit = Unit(name)
    print(f"suite: {name}", file=sys.stderr)
    with copied(suite) as copy:
        while unit.rounds < ROUNDS:
            unit.rounds += 1
            with start() as target:
                now = run_round(copy, name, target, skipped=unit.not_applicable)
            new = {test: reason for test, why in now.failed.items() if (reason := not_applicable(test, why))}
            if now.in_progress is not None and now.in_progress not in unit.not_applicable:
                why = now.failed.get(now.in_progress, "")
                new.setdefault(
                    now.in_progress, not_applicable(now.in_progress, why) or f"ends or stops the unit: {shortened(why)}"
                )
            unit.passed = now.passed
            unit.failed = {test: shortened(why) for test, why in now.failed.items() if test not in new}
            unit.not_applicable |= new
            unit.whole = now.whole
            if not new:
                break
        unit.not_applicable = now.left_out | unit.not_applicable
        unit.passed = [test for test in unit.passed if test not in unit.not_applicable]
    return unit


def run_round(copy: Path, name: str, target: Target, *, skipped: Iterable[str]) -> Round:
    """Run a unit once."""
    file = copy / "skipped"
    file.write_text("\n".join(skipped))
    command = ["./runtest", "--host", target.host, "--port", str(target.port), "--single", name, "--durable"]
    command += ["--clients", "1", "--timeout", str(STILL_SECONDS), "--skipfile", str(file), "--ignore-encoding"]
    command += ["--ignore-digest", "--tags", " ".join(f"-{tag}" for tag in DENIED_TAGS)]
    process = subprocess.Popen(
        command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=UNIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return understood(output.decode("utf-8", "replace"))


def understood(output: str) -> Round:
    """Parse the output of the suite."""
    passed, failed, left_out = [], {}, {}
    in_progress = None
    lines = COLOURS.sub("", output).splitlines()
    for number, line in enumerate(lines):
        if match := RESULT.match(line):
            kind, text = match.groups()
            if kind == "ok":
                passed.append(re.sub(r" \(\d+ ms\)$", "", text))
            elif kind == "ignore":
                reason = LEFT_OUT.fullmatch(text)
                test, why = reason.groups() if reason else (text, text)
                left_out[test or f"group of tests before line {number}"] = why
            elif kind in ("err", "exception"):
                place = PLACE.match(text)
                test = place[1] if place else text
                failed[test] = " ".join(_until_the_next(lines[number + 1 :])) if place else text
                if kind == "exception":
                    in_progress = test
        elif match := re.search(r"=> \(IN PROGRESS\) (.*)", line):
            in_progress = match[1]
            failed.setdefault(in_progress, f"stood still for {STILL_SECONDS} s")
    return Round(passed, failed, left_out, in_progress, whole="The End" in output and "TIMEOUT" not in output)


def _until_the_next(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("[") or not line.strip():
            return
        yield line.strip()


def not_applicable(test: str, why: str) -> str | None:
    """Why a failed test does not apply; None when it is a failure."""
    for pattern, reason in NOT_APPLICABLE:
        if match := re.search(pattern, why):
            return reason.format(*(group.upper() for group in match.groups()))
    return next((reason for pattern, reason in NOT_ASKED_OF_US if re.fullmatch(pattern, test)), None)


def shortened(text: str) -> str:
    """A failure's text in one line that fits in a table."""
    text = " ".join(text.split())
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"


@contextlib.contextmanager
def copied(suite: Path) -> Iterator[Path]:
    """Copy the needed part of a checkout into its own directory, with one change."""
    with tempfile.TemporaryDirectory(prefix="cairn-suite-") as directory:
        copy = Path(directory)
        shutil.copy(suite / "runtest", copy)
        shutil.copytree(suite / "tests", copy / "tests", symlinks=True)
        (copy / "tests" / "tmp").mkdir(exist_ok=True)
        (copy / "src").mkdir()
        for program in ("redis-cli", "redis-benchmark", "redis-server"):
            if path := shutil.which(program):
                (copy / "src" / program).symlink_to(path)
        support = copy / "tests" / "support"
        _replace(support / "server.tcl", "\n    r function flush\n", "\n    catch {r function flush}\n")
        _replace(support / "util.tcl", "    set mayfail 0\n", "    set mayfail 1\n")
        for unit in (copy / "tests" / "unit").glob("acl*.tcl"):
            # The first group needs no files of the server, so it runs with an external one, too.
            _replace(unit, 'start_server {tags {"acl external:skip"}} {', 'start_server {tags {"acl"}} {')
            unit.write_text(LITERAL.sub(r"\1*", unit.read_text()))
        scripting = copy / "tests" / "unit" / "scripting.tcl"
        if scripting.exists():
            _replace(scripting, "foreach is_eval {0 1} {", "foreach is_eval {1} {")
            _replace(scripting, "catch {r ping} e", "catch {r exists k} e")
        yield copy


def _replace(file: Path, text: str, other: str) -> None:
    before = file.read_text()
    if text not in before:
        raise ValueError(f"{file.name} of this suite does not have {text.strip()!r}")
    file.write_text(before.replace(text, other))


# -- what is told ------------------------------------------------------------------------------------------------------


def counted(unit: Unit) -> dict[str, Any]:
    """Return the recorded result of a unit: numbers, and failures with their reasons."""
    reasons = Counter(unit.not_applicable.values())
    return {
        "name": unit.name,
        "passed": len(unit.passed),
        "failed": {test: REASONS.get(test, why) for test, why in unit.failed.items()},
        "not_applicable": dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
        "whole": unit.whole,
    }


def beside(ours: Unit, theirs: Unit) -> dict[str, int]:
    """Return the result of a unit with redis-server."""
    missed = len(set(theirs.passed) - ours.seen)
    return {"passed": len(theirs.passed), "failed": len(theirs.failed), "not reached by us": missed}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

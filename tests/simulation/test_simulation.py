"""The simulation agrees with the server in each mode, and finds the faults that it was built for."""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cairnkv
from tests.simulation import faults
from tests.simulation.driver import Step
from tests.simulation.model import Wrong
from tests.simulation.plan import plan
from tests.simulation.runner import replay_script, simulate
from tests.simulation.script import fewest, load, save, shrunk
from tests.simulation.server import Servers
from tests.support.building import ROOT
from tests.support.nats import of_this_process
from tests.support.paths import native_only

SECONDS = {"in-memory": 12.0, "durable": 12.0, "replicated": 12.0}
FIND_SECONDS = 60.0
"""How long the simulation may look for a fault. It takes some seconds on an idle machine."""


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Servers; the replicated one uses the NATS of this process."""
    nats = of_this_process() if getattr(request, "param", None) == "replicated" else None
    with Servers(nats=nats) as running:
        yield running


@pytest.mark.parametrize("servers", SECONDS, indirect=True)
def test_replies_and_final_keys_equal_those_of_the_models(
    servers: Servers, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    mode = request.node.callspec.params["servers"]
    seed = str(random.SystemRandom().randrange(2**32))
    count, failure = simulate(servers, [mode], seed, seconds=SECONDS[mode], scripts=tmp_path)
    assert failure is None, f"{failure}\n{Path(failure.script).read_text()[:20_000]}"
    assert count.commands > 0


def finds(fault: str, mode: str, scripts: Path) -> str:
    """Return the failure that the simulation finds in a build with this fault."""
    with Servers(package=faults.faulty_package(fault)) as running:
        _, failure = simulate(running, [mode], "1", seconds=FIND_SECONDS, scripts=scripts, shrink_seconds=8.0)
    assert failure is not None, f"the simulation did not find fault {fault}"
    return failure.script


@native_only
@pytest.mark.parametrize(("fault", "mode"), [("A", "in-memory"), ("B", "durable")])
def test_simulation_finds_a_known_fault(fault: str, mode: str, tmp_path: Path) -> None:
    script = Path(finds(fault, mode, tmp_path))
    about, steps = load(script)
    whole = list(plan(about["seed"], mode, about["episode"]))
    assert len(steps) <= len(whole)
    with Servers() as running:
        _, wrong = replay_script(running, script)
    assert wrong is None, "the installed build has the fault as well"


@native_only
def test_the_installed_build_has_no_fault_switch() -> None:
    package = Path(cairnkv.__file__).parent
    assert faults.MACRO.encode() in (faults.faulty_package("A") / f"{faults.POLLER}{faults.SUFFIX}").read_bytes()
    modules = list(package.rglob("*.so"))
    assert len(modules) > 5
    assert not [path for path in modules if faults.MACRO.encode() in path.read_bytes()]
    assert faults.MACRO not in (ROOT / "setup.py").read_text()
    assert not [path for path in package.rglob("*.py") if "CAIRNKV_FAULT" in path.read_text()]


def test_seed_determines_the_plan() -> None:
    for mode in SECONDS:
        assert list(plan("7", mode, 0)) == list(plan("7", mode, 0))
    assert list(plan("7", "durable", 0)) != list(plan("8", "durable", 0))


def test_script_survives_a_round_trip(tmp_path: Path) -> None:
    steps: list[Step] = [step for step in plan("9", "durable", 0) if step[0] != "settle"][:200]
    save(tmp_path / "script.json", {"mode": "durable"}, steps)
    about, read = load(tmp_path / "script.json")
    assert about == {"mode": "durable"}

    def plain(value: object) -> object:
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    assert [plain(step) for step in read] == [plain(step) for step in steps]


def test_shrinking_keeps_the_failure() -> None:
    items = list(range(1_000))
    assert fewest(items, lambda some: {3, 700} <= set(some), float("inf")) == [3, 700]
    steps = list(plan("3", "in-memory", 0))
    wanted = next(command for step in steps if step[0] == "send" for command in step[2] if command[0] == "set")

    def fails(some: list[Step]) -> bool:
        return any(wanted in step[2] for step in some if step[0] == "send")

    (step,) = shrunk(steps, fails, float("inf"))
    assert step[2] == [wanted]


@pytest.mark.parametrize(
    ("commands", "undone"),
    [
        ([("set", b"c0:k1", b"1")], [("set", b"c0:k1", b"2")]),
        ([("set", b"c0:k1", b"1"), ("set", b"c0:k2", b"1")], [("del", b"c0:k2")]),
        ([("incrby", b"c0:n1", 5)], [("incrby", b"c0:n1", 1)]),
    ],
    ids=["another value", "a lost key", "twice"],
)
def test_keys_that_differ_from_the_models_are_found(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    commands: list[tuple[object, ...]],
    undone: list[tuple[object, ...]],
) -> None:
    """A client outside the simulation changes the keys of a client."""
    from tests.simulation.driver import Driver
    from tests.simulation.model import Resp

    driver = Driver(servers["in-memory"])
    check = driver._check

    def change_and_check() -> None:
        with servers["in-memory"].connect("unix", {}) as stranger:
            for command in undone:
                stranger.sendall(Resp(2).requests[str(command[0])](command))
                stranger.recv(100)
        check()

    monkeypatch.setattr(driver, "_check", change_and_check)
    what = {"protocol": "native2", "database": 0, "how": "tcp"}
    with pytest.raises(Wrong, match="1 keys that differ"):
        driver.run([["open", 0, what], ["send", 0, commands, []]])
    driver.close()


def test_command_line_prints_its_result_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.simulation", "--mode", "in-memory", "--seed", "5", "--seconds", "1"]
    ran = subprocess.run(
        [*command, "--processes", "2", "--scripts", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^simulation: [\d,]+ commands in .*, seed 5, in-memory: 0 wrong$", ran.stdout, re.MULTILINE)

"""The configuration files on the cluster page work with the programs that they configure."""

import asyncio
import inspect
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cairnkv.commands import CODES, Failure
from cairnkv.commands.failures import NOQUORUM
from cairnkv.lab.cluster.nats import NatsConfig, NatsServer, find_program, free_ports
from cairnkv.limits import MIB
from cairnkv.replication.nats import connection
from cairnkv.replication.nats.options import LOG_LIMIT_LEAST
from cairnkv.replication.node import Node
from cairnkv.replication.node_health import NodeHealth
from cairnkv.replication.node_snapshots import NodeSnapshots
from cairnkv.server.cluster import node_from
from cairnkv.server.settings import Settings, load
from cairnkv.server.tls import TlsFiles
from cairnkv.server.tls import load as load_certificate
from cairnkv.server.users import ServerUsers
from cairnkv.session.resp import command_spec
from cairnkv.session.resp.command_spec import error_of
from cairnkv.storage.base import LoggedProgress
from cairnkv.store import wall_clock
from tests.support import secured
from tests.support.certificates import certificates as made

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
PATIENCE = 60.0


def files() -> dict[str, str]:
    """Return the configuration files on the page, by the file name in their first line."""
    found = {}
    for kind, block in re.findall(r"```(nats|ini|toml|yaml)\n(.*?)```", PAGE, re.DOTALL):
        first = block.splitlines()[0]
        named = re.fullmatch(r"# ([\w./-]+)(,.*)?", first)
        assert named is not None, f"a block of {kind} does not begin with its file's name"
        found[named[1].rpartition("/")[2]] = block
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make certificates for the addresses on the page, in the place of /etc/cairnkv."""
    return made(tmp_path_factory.mktemp("certificates"), ("10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.1"))


def checked(config: str, certificates: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Check a configuration with nats-server."""
    path = tmp_path / "nats.conf"
    path.write_text(config.replace("/etc/cairnkv", str(certificates)).replace("/var/lib/nats", str(tmp_path)))
    return subprocess.run(
        [find_program(), "-c", path, "-t"],
        env={"STORE_PASSWORD": "s3cret", "SYSTEM_PASSWORD": "other"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_nats_accepts_its_configuration(certificates: Path, tmp_path: Path) -> None:
    config = files()["nats.conf"]
    ran = checked(config, certificates, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "is valid" in ran.stderr
    misspelled = config.replace("sync_interval", "sync_intervall")
    assert checked(misspelled, certificates, tmp_path).returncode != 0


def test_nats_configuration_syncs_and_leaves_free_space() -> None:
    config = re.sub(r"#.*", "", files()["nats.conf"])
    assert re.search(r"jetstream \{[^}]*sync_interval: always", config)
    assert re.search(r"jetstream \{[^}]*max_file_store:", config)


async def test_node_and_nats_run_with_the_files(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine and other ports: TLS connections succeed, and the node verifies that NATS syncs."""
    monkeypatch.setenv("STORE_PASSWORD", "s3cret")
    monkeypatch.setenv("SYSTEM_PASSWORD", "0ther")
    ports = free_ports(9)
    moved = {"/etc/cairnkv": str(certificates)}
    for number in range(3):
        moved[f"10.0.0.{number + 1}:4222"] = f"127.0.0.1:{ports[number]}"
        moved[f"10.0.0.{number + 1}:6222"] = f"127.0.0.1:{ports[3 + number]}"

    def here(text: str, **more: str) -> str:
        for there, instead in {**moved, **more}.items():
            text = text.replace(there, instead)
        return text

    def server(number: int) -> NatsServer:
        name, directory = f"a{number + 1}", tmp_path / f"a{number + 1}"
        own = (
            files()["nats.conf"]
            .replace('"a1"', f'"{name}"')
            .replace('listen: "10.0.0.1', f'listen: "10.0.0.{number + 1}')
        )
        text = here(own, **{"127.0.0.1:8222": f"127.0.0.1:{ports[6 + number]}", "/var/lib/nats": str(directory)})

        class OfThePage(NatsConfig):
            def text(self) -> str:
                return text

        return NatsServer(OfThePage(name, directory, ports[number], ports[3 + number], (), "", "", file_max=MIB))

    path = tmp_path / "node.toml"
    path.write_text(here(files()["node.toml"], **{"/var/lib/cairnkv": str(tmp_path / "node")}))
    settings = load({}, environment={}, file=path)
    servers = [server(number) for number in range(3)]
    node = node_from(settings, clock=wall_clock, progress=LoggedProgress())
    try:
        for one in servers:
            one.start()
        async with asyncio.timeout(PATIENCE):
            await node.stream.open()
        assert node.stream.sync == "proven"
        await node.stream.close()
    finally:
        node.store.close()
        for one in servers:
            one.kill()


def test_node_accepts_its_options(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(files()["node.toml"])
    settings = load({}, environment={}, file=path)
    assert settings.cluster is not None
    assert len(settings.cluster) == 3
    assert settings.log_limit >= LOG_LIMIT_LEAST
    assert settings.nats_system is not None
    assert not settings.trust_nats_sync
    assert set(tomllib.loads(path.read_text())) <= {name.replace("_", "-") for name in Settings.__dataclass_fields__}


def test_node_accepts_its_users_and_certificates(certificates: Path, tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(files()["node.toml"].replace("/etc/cairnkv", str(certificates)))
    secured.users_file(certificates)
    settings = load({}, environment={}, file=path)
    assert not settings.insecure
    assert ServerUsers(settings).table.required
    of_tls = TlsFiles.of(settings)
    assert of_tls is not None
    assert load_certificate(of_tls).expires > time.time()
    unit = files()["cairnkv.service"]
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit


def test_page_lists_all_permissions_of_a_node() -> None:
    assert all(f"`{subject}`" in PAGE for subject in (*connection.PUBLISHES, *connection.SUBSCRIBES))


@pytest.mark.parametrize("unit", ["cairn-nats.service", "cairnkv.service"])
def test_systemd_accepts_the_units(unit: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    text = files()[unit]
    runs = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert len(runs) == 1
    other = "cairn-nats.service" if unit == "cairnkv.service" else "cairnkv.service"
    for name, content in ((unit, text), (other, files()[other])):
        # The program of the page need not be installed.
        (tmp_path / name).write_text(
            re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", content, flags=re.M)
        )
    for broken in ("", "Restart=sometimes"):
        path = tmp_path / unit
        path.write_text(path.read_text().replace("Restart=always", broken or "Restart=always"))
        ran = subprocess.run(
            [program, "verify", "--man=no", "--recursive-errors=no", path],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        messages = [line for line in (ran.stdout + ran.stderr).splitlines() if unit in line]
        assert bool(messages) == bool(broken), messages


def compose() -> Any:
    return yaml.safe_load(files()["compose.yaml"])


def test_compose_file_has_two_services() -> None:
    services = compose()["services"]
    assert set(services) == {"nats", "node"}
    assert services["node"]["depends_on"] == ["nats"]
    for service in services.values():
        assert service.keys() <= {
            *("image", "build", "command", "network_mode", "restart", "stop_signal", "stop_grace_period"),
            *("environment", "volumes", "depends_on"),
        }
        for volume in service["volumes"]:
            assert re.fullmatch(r"/[\w/]+:/[\w/]+(:ro)?", volume)
    command = services["node"]["command"]
    assert command[0] == "serve"
    flags = {flag.removeprefix("--").replace("-", "_") for flag in command if flag.startswith("--")}
    assert flags <= {*Settings.__dataclass_fields__, "config"}
    assert set(re.findall(r"\$(\w+)", files()["nats.conf"])) <= set(services["nats"]["environment"])


def test_info_has_the_documented_fields() -> None:
    source = "".join(inspect.getsource(info) for info in (Node._info, NodeHealth.info, NodeSnapshots.info))
    sent = set(re.findall(r'yield "(\w+)"', source))
    (table,) = re.findall(r"\| INFO \| \|\n\| --- \| --- \|\n((?:\|.*\n)+)", PAGE)
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert len(named) > 8
    assert named <= sent


def test_documented_failure_codes_exist() -> None:
    (table,) = re.findall(r"\| code \| Redis \|.*\n\| --- .*\n((?:\|.*\n)+)", PAGE)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert NOQUORUM.name in {row[0].strip("`") for row in rows}
    for code, redis, executed, _ in rows:
        known = CODES[code.strip("`")]
        assert not redis or error_of(Failure(known, "")).text.split()[0] == redis.strip("`")
        assert executed == ("unknown" if known.executed is None else "no")


def test_named_redis_commands_are_served() -> None:
    assert command_spec.find_spec(b"READONLY")
    assert "`READONLY` in the Redis protocol" in " ".join(PAGE.split())

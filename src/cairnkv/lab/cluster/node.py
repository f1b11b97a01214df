"""One store node: its configuration, its command and its process.

Invariants: the command line, which every user of this computer can read, contains no password; the environment has
them.

Out of scope: the server itself (`cairnkv.server`).
"""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cairnkv.errors import missing_package
from cairnkv.installation import python_command, python_environment
from cairnkv.lab.cluster.child import Child
from cairnkv.lab.cluster.nats import authority
from cairnkv.records import record
from cairnkv.server.settings import ENVIRONMENT_PREFIX

_READY: Final = re.compile(r"cairnkv \S+ ready on ")
"""The beginning of the line that a server prints when it is ready (`cairnkv.server.run.readiness`)."""


@record
class NodeConfig:
    """The configuration of a node.

    name: of the node. directory: for its data and log file. cluster: the cluster's name. nats: URLs of the NATS
    servers, with user and password; system: USER:PASSWORD of their system account. log_limit: bytes of the stream.
    flags: more options of `cairn serve`. environment: more variables."""

    name: str
    directory: Path
    host: str
    port: int
    cluster: str
    nats: tuple[str, ...]
    system: str
    log_limit: int
    flags: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        """The URL for clients."""
        return f"cairn://{authority(self.host, self.port)}"

    @property
    def data(self) -> Path:
        """The directory of its data."""
        return self.directory / "data"


Command = Callable[[NodeConfig], tuple[Sequence[str | Path], Mapping[str, str]]]
"""Returns the command line of a node, and variables to add to the environment."""


def serve_command(config: NodeConfig) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    """Return the command line of `cairn serve --cluster`, and its variables."""
    command: list[str | Path] = [*python_command("-m", "cairnkv"), "serve", "--name", config.cluster]
    command += ["--host", config.host, "--port", str(config.port), "--data", config.data]
    command += ["--log-limit", str(config.log_limit), *config.flags]
    return command, {
        f"{ENVIRONMENT_PREFIX}CLUSTER": ",".join(config.nats),
        f"{ENVIRONMENT_PREFIX}NATS_SYSTEM": config.system,
        **config.environment,
    }


def check_packages() -> None:
    """Raise `OptionError` if a package for nodes is missing. Without this check, nodes would restart without end."""
    try:
        for name in ("rocksdict", "nats"):
            importlib.import_module(name)
    except ImportError as error:
        raise missing_package(error, "a cluster", "cluster") from None


class Node(Child):
    """The process of a store node."""

    def __init__(self, config: NodeConfig, *, command: Command = serve_command, prefix: Sequence[str] = ()) -> None:
        """prefix: a command that executes the program, such as `ip netns exec NAME`."""
        line, variables = command(config)
        super().__init__(
            config.name, config.directory / "node.log", [*prefix, *line], {**python_environment(), **variables}
        )
        self.config = config

    def has_reported_ready(self) -> bool:
        """Return whether the node has reported, since the last call, that it is ready."""
        return any(_READY.match(line) for line in self.new_lines())

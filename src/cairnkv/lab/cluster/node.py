"""One store node: how it is started, and how it says that it is ready.

What always holds: nothing secret stands on its command line, which everybody on this machine can read; passwords go by
its environment.

Not for what a node does (`cairnkv.server`).
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
"""How the line begins that a server prints when it serves (`cairnkv.server.run.readiness`)."""


@record
class NodeConfig:
    """What a node is told.

    name: its own. directory: where its table and its log are. cluster: the cluster's name. nats: addresses of the NATS
    servers, with user and password; system: USER:PASSWORD of their system account. log_limit: bytes of the stream.
    flags: of `cairn serve`, besides. environment: variables, besides ours.
    """

    name: str
    directory: Path
    host: str
    port: int
    cluster: str
    nats: tuple[str, ...]
    system: str
    log_limit: int
    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"cairn://{authority(self.host, self.port)}"

    @property
    def data(self) -> Path:
        """What it keeps."""
        return self.directory / "data"


Command = Callable[[NodeConfig], tuple[Sequence[str | Path], Mapping[str, str]]]
"""The words that start a node, and the variables that it gets besides ours."""


def serve_command(config: NodeConfig) -> tuple[Sequence[str | Path], Mapping[str, str]]:
    """`cairn serve --cluster`."""
    words: list[str | Path] = [*python_command("-m", "cairnkv"), "serve", "--name", config.cluster]
    words += ["--host", config.host, "--port", str(config.port), "--data", config.data]
    words += ["--log-limit", str(config.log_limit), *config.flags]
    return words, {
        f"{ENVIRONMENT_PREFIX}CLUSTER": ",".join(config.nats),
        f"{ENVIRONMENT_PREFIX}NATS_SYSTEM": config.system,
        **dict(config.environment),
    }


def check_packages() -> None:
    """Raise `OptionError` if a package for nodes is missing. Otherwise, nodes would exit and restart for ever."""
    try:
        for name in ("rocksdict", "nats"):
            importlib.import_module(name)
    except ImportError as error:
        raise missing_package(error, "a cluster", "cluster") from None


class Node(Child):
    """A store node's process."""

    def __init__(self, config: NodeConfig, *, command: Command = serve_command, prefix: Sequence[str] = ()) -> None:
        """prefix: a command that runs it, such as `ip netns exec NAME`."""
        words, variables = command(config)
        super().__init__(
            config.name, config.directory / "node.log", [*prefix, *words], {**python_environment(), **dict(variables)}
        )
        self.config = config

    def says_ready(self) -> bool:
        """Whether it has said, since this was asked last, that it serves."""
        return any(_READY.match(line) for line in self.new_lines())

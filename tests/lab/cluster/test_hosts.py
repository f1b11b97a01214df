"""The public view of a cluster, and the names of its parts."""

import json

import pytest

from cairnkv.errors import OptionError
from cairnkv.lab.cluster.hosts import Host, Process, Role, State, parsed_target


def test_host_survives_a_round_trip_through_json() -> None:
    nats = Process("nats-1", Role.NATS, 1, "nats://127.0.0.1:1", State.READY, 12, 3, "ended by SIGKILL")
    host = Host(1, nats, Process("node-1", Role.NODE, 1, "cairn://127.0.0.1:2", State.KILLED), cut=True)
    assert Host.of_json(json.loads(json.dumps(host.as_json()))) == host
    assert [process.pid is not None for process in host.processes] == [True, False]


@pytest.mark.parametrize(
    ("text", "names"), [("1", "host 1"), ("3", "host 3"), ("node-2", "node-2"), ("nats-3", "nats-3")]
)
def test_target_is_a_host_or_a_process(text: str, names: str) -> None:
    target = parsed_target(text, 3)
    assert str(target) == names
    assert target.whole == text.isdigit()


@pytest.mark.parametrize("text", ["", "0", "4", "node-4", "node", "node-", "node-0", "-1", "01", "nats-1 ", "1\n", "٣"])
def test_unknown_targets_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"the number of a host, 1 to 3, .* node-1 or nats-1"):
        parsed_target(text, 3)

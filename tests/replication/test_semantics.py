"""A newer release among older nodes: changed semantics start when the last node supports them."""

import contextlib
import shutil

import pytest

import cairnkv
from cairnkv.errors import OptionError
from cairnkv.replication import node as node_module
from tests.replication.nodes import Nodes, client, told, until


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes compare digests, and check the supported semantics, after a few entries."""
    monkeypatch.setattr(node_module, "DIGEST_ENTRIES", 10)
    monkeypatch.setattr("cairnkv.replication.store.DIGEST_ENTRIES", 10)


def test_semantics_are_raised_once_the_last_node_supports_them(node: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "SUPPORTS", 1)
    with contextlib.ExitStack() as stack:
        with node("b") as second, client(second) as other:
            monkeypatch.setattr(node_module, "SUPPORTS", 2)
            first = stack.enter_context(node("a"))
            one = stack.enter_context(client(first))
            for number in range(40):
                other.set("k", str(number))
                assert one.get("k") == str(number)
            assert told(first)["semantics"] == told(second)["semantics"] == 1
            assert told(first)["nodes"].count(" ") == 1
            with pytest.raises(cairnkv.BadCommand, match="release without queues"):
                one.queue("q").put("early")
        shutil.copytree(node.directory / "b", node.directory / "older b")
        with node("b") as second, client(second) as other:

            def raised() -> bool:
                other.incr("n")
                return bool(told(first)["semantics"] == told(second)["semantics"] == 2)

            until(raised)
            one.set("k", "newer")
            assert other.get("k") == "newer"
            one.queue("q").put("newer")
            job = other.queue("q").take()
            assert job is not None
            assert job.body == "newer"
            job.ack()
            assert not told(first)["stopped"]
            assert not told(second)["stopped"]
            until(lambda: told(first)["state_digest"] == told(second)["state_digest"])
        monkeypatch.setattr(node_module, "SUPPORTS", 1)
        for directory in ("b", "older b", "new"):  # it was there, it was not, it is empty
            with pytest.raises(OptionError, match=r"semantics 2 is in force.*newer release"), node(directory):
                pass
        assert one.get("k") == "newer"

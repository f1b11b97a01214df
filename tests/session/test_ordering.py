"""Promise 3: replies leave in the order of their commands, also while some wait for commits."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Clear, Command, Count, Get, Incr, Info, Ping, Set
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag
from cairnkv.session import State
from cairnkv.store import LocalStore
from tests.session.native_client import NativeClient
from tests.support.clock import HandClock
from tests.support.late_storage import LateStorage
from tests.support.strategies import cuttings


def test_pipelined_commands_are_answered_in_order() -> None:
    client = NativeClient()
    client.send(Ping(b"1"), Set(b"k", b"v"), Get(b"k"), Get(b"none"), Ping(b"2"))
    assert client.payloads() == [b"1", b"OK", b"v", b"Key not found", b"2"]


def test_ready_reply_waits_behind_a_pending_one() -> None:
    client = NativeClient(late=True)
    client.send(Ping(b"1"), Set(b"k", b"v"), Ping(b"2"), Get(b"other"), Ping(b"3"))
    assert client.payloads() == [b"1"]
    assert client.session.waiting
    client.storage.commit()
    assert client.payloads() == [b"OK", b"2", b"Key not found", b"3"]
    assert not client.session.waiting


def test_command_behind_a_pending_reply_is_executed() -> None:
    client = NativeClient(late=True)
    client.send(Set(b"k", b"1"), Incr(b"k", 1), Incr(b"k", 1))
    assert len(client.storage.pending) == 3
    client.storage.commit(1)
    assert client.payloads() == [b"OK"]
    client.storage.commit(2)
    assert client.payloads() == [b"2", b"3"]


def test_ready_replies_wait_for_the_first_reply_of_their_session() -> None:
    """Another session's commits free its later reply first."""
    storage = LateStorage()
    store = LocalStore(storage=storage, clock=HandClock())
    one, other = NativeClient(store=store), NativeClient(store=store)
    other.send(Set(b"a", b"1"))
    one.send(Set(b"b", b"2"))
    other.send(Get(b"b"))
    storage.commit(1)
    assert (one.payloads(), other.payloads()) == ([], [b"OK"])
    storage.commit(1)
    assert (one.payloads(), other.payloads()) == ([b"OK"], [b"2"])


def test_failures_of_commits_keep_their_order() -> None:
    client = NativeClient(late=True)
    client.send(Set(b"a", b"1"), Ping(b"between"), Get(b"a"))
    client.storage.fail("the disk is gone")
    responses = client.hear()
    assert [response.payload for response in responses] == [
        b"UNDONE the disk is gone",
        b"between",
        b"UNDONE the disk is gone",
    ]
    assert [response.header for response in responses] == [2, 0, 2]
    assert client.session.state is State.OPEN
    client.send(Get(b"a"))
    assert client.payloads() == [b"Key not found"]


def test_only_writes_fail_as_unknown() -> None:
    client = NativeClient(late=True)
    client.send(Set(b"a", b"1"), Get(b"a"))
    client.storage.fail("the disk is gone", unknown=True)
    assert [(response.payload[:7], response.header) for response in client.hear()] == [(b"UNKNOWN", 4), (b"UNDONE ", 2)]


def test_write_with_durability_memory_waits_for_earlier_replies_only() -> None:
    storage = LateStorage()
    store = LocalStore(storage=storage, clock=HandClock())
    one, other = NativeClient(store=store), NativeClient(store=store)
    quick = write_command(Set(b"k", b"2"), flags=CommandFlag.MEMORY_IS_ENOUGH)
    one.send(quick)
    assert [(response.payload, response.header) for response in one.hear()] == [(b"OK", 8)]
    other.send(Set(b"other", b"1"), quick, Get(b"k"))
    assert other.payloads() == [], "a reply before it waits for the log"
    storage.commit(2)
    assert [(response.payload, response.header) for response in other.hear()] == [(b"OK", 0), (b"OK", 8)]
    storage.fail()
    assert [response.header for response in other.hear()] == [2]
    one.send(Get(b"k"))
    assert one.payloads() == [b"2"], "that of the first, which was committed"


def test_read_waits_for_commits_also_with_durability_memory() -> None:
    client = NativeClient(late=True)
    client.send(Set(b"k", b"1"), write_command(Get(b"k"), flags=CommandFlag.MEMORY_IS_ENOUGH))
    assert client.hear() == []
    client.storage.commit()
    assert [(response.payload, response.header) for response in client.hear()] == [(b"OK", 0), (b"1", 0)]


def test_session_is_woken_when_a_reply_is_ready() -> None:
    client = NativeClient(late=True)
    client.send(Set(b"k", b"v"))
    assert client.woken == 0
    client.storage.commit()
    assert client.woken == 1
    client.send(Set(b"k", b"v"))
    client.storage.fail()
    assert client.woken == 2


SAID = st.one_of(
    st.builds(Set, st.sampled_from([b"a", b"b"]), st.binary(max_size=3)),
    st.builds(Clear, st.sampled_from([b"a", b"b"])),
    st.builds(Get, st.sampled_from([b"a", b"b"])),
    st.builds(Ping, st.binary(min_size=1, max_size=3)),
    st.builds(Incr, st.sampled_from([b"a", b"n"]), st.integers(0, 9)),
    st.just(Count()),
    st.just(Info()),
)


@given(
    said=st.lists(st.tuples(st.integers(0, 2), SAID), min_size=1, max_size=15),
    outcomes=st.lists(st.sampled_from(["nothing", "commit one", "commit all", "fail"]), max_size=15),
    enough=st.lists(st.booleans(), max_size=15),
    data=st.data(),
)
def test_clients_get_one_reply_to_each_command_in_order(
    said: list[tuple[int, Command]], outcomes: list[str], enough: list[bool], data: st.DataObject
) -> None:
    """Three clients, one storage. A PING after each command tells the replies apart."""
    storage = LateStorage()
    store = LocalStore(storage=storage, clock=HandClock())
    clients = [NativeClient(store=store) for _ in range(3)]
    sent: list[list[Command]] = [[], [], []]
    heard: list[list[bytes]] = [[], [], []]
    memory = itertools.chain(enough, itertools.repeat(False))
    for (who, command), outcome in zip(said, itertools.chain(outcomes, itertools.repeat("nothing")), strict=False):
        flags = CommandFlag.MEMORY_IS_ENOUGH if next(memory) else 0
        ping = Ping(b"%d of %d" % (len(sent[who]), who))
        for piece in data.draw(cuttings(write_command(command, flags=flags) + write_command(ping))):
            clients[who].send(piece)
        sent[who] += [command, ping]
        match outcome:
            case "commit one":
                storage.commit(1)
            case "commit all":
                storage.commit()
            case "fail":
                storage.fail()
        for client, replies in zip(clients, heard, strict=True):
            replies += client.payloads()
    storage.commit()
    for client, commands, replies in zip(clients, sent, heard, strict=True):
        replies += client.payloads()
        assert len(replies) == len(commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(command, Ping):
                assert reply == command.text
            elif isinstance(command, Set | Clear):
                assert reply == b"OK" or reply.startswith(b"UNDONE ")
        assert not client.session.waiting
        assert client.session.state is State.OPEN

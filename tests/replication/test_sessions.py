"""Sessions of nodes of a cluster: replies keep their order, and clients read their own writes."""

import itertools
import random
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Command, Get, Incr, Ping, Set
from cairnkv.protocol import write_command
from cairnkv.protocol.native import CommandFlag
from cairnkv.protocol.resp import NULL_ARRAY, OK, Error, Simple
from cairnkv.session.context import ServerContext
from tests.session.native_client import NativeClient
from tests.session.resp.chat import Chat
from tests.support.simulated import Cluster, Node

QUEUED = Simple("QUEUED")


def settled(nodes: int = 3) -> Cluster:
    """Return a cluster whose nodes have all joined."""
    cluster = Cluster(nodes)
    cluster.settle()
    return cluster


def chat_with(node: Node) -> Chat:
    """Return a session of the Redis protocol."""
    store: Any = node.running
    return Chat(SimpleNamespace(clock=node.clock, storage=node.table, store=store, context=ServerContext(store)))  # type: ignore[arg-type]


def client_of(node: Node) -> NativeClient:
    """Return a session of the native protocol."""
    return NativeClient(store=node.running)


def local(command: Command) -> bytes:
    """Return the frame of a command with the flag for a local read."""
    return write_command(command, flags=CommandFlag.LOCAL_READ)


def hear(cluster: Cluster, chat: Chat) -> list[Any]:
    """Return all replies, after all pending entries have arrived."""
    heard = chat.hear()
    for _ in range(20):
        cluster.settle()
        heard += chat.hear()
    return heard


def test_pipelined_commands_share_an_entry_and_keep_their_order() -> None:
    cluster = settled()
    client = client_of(cluster.nodes[0])
    before = len(cluster.stream)
    client.send(Ping(b"1"), Set(b"k", b"v"), Get(b"k"), Incr(b"n", 1), Get(b"n"), Ping(b"2"))
    assert client.payloads() == [b"1"]
    cluster.settle()
    assert client.payloads() == [b"OK", b"v", b"1", b"1", b"2"]
    assert len(cluster.stream) == before + 1


def test_local_read_waits_only_for_own_writes() -> None:
    cluster = settled()
    one, other = client_of(cluster.nodes[0]), client_of(cluster.nodes[0])
    one.send(Set(b"k", b"v"))
    other.send(local(Get(b"k")))
    assert other.payloads() == [b"Key not found"]
    one.send(local(Get(b"k")))
    assert one.payloads() == []
    cluster.settle()
    assert one.payloads() == [b"OK", b"v"]
    other.send(local(Get(b"k")))
    assert other.payloads() == [b"v"]


def test_local_read_sees_a_pending_write_after_a_later_one_failed() -> None:
    """One write is in flight, and may be logged; another still waited, and never will be."""
    cluster = settled()
    node = cluster.nodes[0]
    client = client_of(node)
    client.send(Set(b"k", b"v"))
    node.pump()
    for _ in range(9):
        node.execute(Get(b"x"))
        node.pump()
    client.send(Set(b"other", b"v"))
    for _ in range(6):
        cluster.now += 1
        node.tick()
    client.send(local(Get(b"k")))
    cluster.settle()
    said, refused, read = client.payloads()
    assert said == b"OK"
    assert refused.startswith(b"NOQUORUM")
    assert read == b"v" or read.startswith(b"NOQUORUM")


def test_local_read_sees_a_write_sent_with_the_local_flag() -> None:
    cluster = settled()
    client = client_of(cluster.nodes[0])
    client.send(local(Set(b"k", b"v")), local(Get(b"k")))
    cluster.settle()
    assert client.payloads() == [b"OK", b"v"]


def test_watch_blocks_later_commands() -> None:
    cluster = settled()
    one, other = chat_with(cluster.nodes[0]), chat_with(cluster.nodes[1])
    for words in ("WATCH k", "GET k", "MULTI", "SET k mine", "EXEC"):
        one.send(*words.encode().split())
    assert hear(cluster, one) == [OK, None, OK, QUEUED, [OK]]
    one.send(b"WATCH", b"k")
    assert hear(cluster, one) == [OK]
    other.send(b"SET", b"k", b"theirs")
    assert hear(cluster, other) == [OK]
    for words in ("MULTI", "SET k mine", "EXEC", "GET k"):
        one.send(*words.encode().split())
    assert hear(cluster, one) == [OK, QUEUED, NULL_ARRAY, b"theirs"]


def test_exec_succeeds_with_a_pending_write_of_a_watched_key() -> None:
    cluster = settled()
    chat = chat_with(cluster.nodes[0])
    for words in ("SET k 1", "WATCH k", "MULTI", "SET k mine", "PUBLISH news text", "EXEC", "GET k"):
        chat.send(*words.encode().split())
    assert hear(cluster, chat) == [OK, OK, OK, QUEUED, QUEUED, [OK, 0], b"mine"]


def test_empty_transaction_is_aborted_too() -> None:
    """Although this node has not applied the change: the log decides."""
    cluster = settled()
    one, other = chat_with(cluster.nodes[0]), chat_with(cluster.nodes[1])
    one.send(b"WATCH", b"k")
    assert hear(cluster, one) == [OK]
    other.send(b"SET", b"k", b"theirs")
    cluster.nodes[1].pump()
    cluster.arrive()
    cluster.nodes[1].follow(9)
    assert other.hear() == [OK]
    one.send(b"MULTI")
    one.send(b"EXEC")
    assert hear(cluster, one) == [OK, NULL_ARRAY]


def test_keys_and_scan_find_earlier_writes() -> None:
    cluster = settled()
    chat = chat_with(cluster.nodes[0])
    chat.send(b"MSET", *itertools.chain.from_iterable((b"k%d" % number, b"") for number in range(3_000)))
    chat.send(b"KEYS", b"k*")
    chat.send(b"DBSIZE")
    chat.send(b"FLUSHALL")
    chat.send(b"KEYS", b"*")
    chat.send(b"PING")
    done, keys, count, cleared, none, pong = hear(cluster, chat)
    assert (done, count, cleared, none, pong) == (OK, 3_000, OK, [], Simple("PONG"))
    assert sorted(keys) == sorted(b"k%d" % number for number in range(3_000))
    chat.send(b"SET", b"k", b"v")
    chat.send(b"SCAN", b"0")
    assert hear(cluster, chat) == [OK, [b"0", [b"k"]]]


def test_long_command_ends_without_a_quorum() -> None:
    cluster = settled()
    node = cluster.nodes[0]
    chat = chat_with(node)
    node.cut_off = True
    chat.send(b"KEYS", b"*")
    chat.send(b"PING")
    node.pump()
    for _ in range(6):
        cluster.now += 1
        node.tick()
    failed, pong = chat.hear()
    assert isinstance(failed, Error)
    assert "NOQUORUM" in failed.text
    assert pong == Simple("PONG")


COMMANDS = st.sampled_from(
    [
        "SET k {n}",
        "GET k",
        "APPEND l {n}",
        "STRLEN l",
        "INCR n",
        "DEL k l",
        "KEYS *",
        "SCAN 0",
        "DBSIZE",
        "WATCH k",
        "UNWATCH",
        "MULTI",
        "EXEC",
        "EXEC",
        "DISCARD",
        "RANDOMKEY",
        "FLUSHALL",
        "MGET k l",
        "GETDEL k",
        "NOSUCH",
    ]
)


@given(
    said=st.lists(st.tuples(st.integers(0, 2), COMMANDS), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
)
def test_redis_clients_get_one_reply_to_each_command_in_order(said: list[tuple[int, str]], seed: int) -> None:
    """An ECHO after each command tells the replies apart."""
    dice = random.Random(seed)
    cluster = settled(2)
    chats = [chat_with(cluster.nodes[number % 2]) for number in range(3)]
    heard: list[list[Any]] = [[], [], []]
    sent = [0, 0, 0]
    for who, text in said:
        sent[who] += 1
        chats[who].send(*text.format(n=sent[who]).encode().split())
        chats[who].send(b"ECHO", b"%d" % sent[who])
        for _ in range(dice.randrange(5)):
            node = dice.choice(cluster.nodes)
            dice.choice((node.pump, node.follow, lambda: cluster.flying and cluster.arrive()))()
        for chat, replies in zip(chats, heard, strict=True):
            replies += chat.hear()
    for chat, replies, count in zip(chats, heard, sent, strict=True):
        replies += hear(cluster, chat)
        assert not chat.session.waiting
        echoes = [reply for at, reply in enumerate(replies) if at % 2]
        assert len(replies) == 2 * count
        assert [echo for echo in echoes if echo != QUEUED] == [
            b"%d" % (number + 1) for number, echo in enumerate(echoes) if echo != QUEUED
        ]


@given(
    said=st.lists(
        st.tuples(st.sampled_from(["write", "read", "local", "ping", "copy"]), st.integers(0, 3)), max_size=30
    ),
    seed=st.integers(0, 2**32),
)
def test_own_writes_are_visible_in_local_and_linearizable_reads(said: list[tuple[str, int]], seed: int) -> None:
    """Another client writes the same keys at another node: no read is older than the own write."""
    dice = random.Random(seed)
    cluster = settled(2)
    one, other = client_of(cluster.nodes[0]), client_of(cluster.nodes[1])
    expected: list[tuple[str, int]] = []
    written = [0] * 4
    heard: list[bytes] = []
    for number, (what, key) in enumerate(said, 1):
        name = b"k%d" % key
        match what:
            case "write":
                written[key] = number
                one.send(Set(name, b"%d" % number))
            case "read":
                one.send(Get(name))
            case "local":
                one.send(local(Get(name)))
            case "ping":
                one.send(Ping(b"p"))
            case "copy":
                other.send(Set(name, b"%d" % (1_000 + number)))
        if what != "copy":
            expected.append((what, written[key]))
        for _ in range(dice.randrange(4)):
            node = dice.choice(cluster.nodes)
            dice.choice((node.pump, node.follow, lambda: cluster.flying and cluster.arrive()))()
        heard += one.payloads()
    cluster.settle()
    heard += one.payloads()
    assert len(heard) == len(expected)
    for (what, own), reply in zip(expected, heard, strict=True):
        if what == "write":
            assert reply == b"OK"
        elif what == "ping":
            assert reply == b"p"
        elif own:
            assert reply != b"Key not found"
            assert int(reply) >= own, "what is shown is the own write, or a later one's"

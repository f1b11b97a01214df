"""Redis commands about the server: descriptions of commands, INFO, and refusals."""

import pytest

from cairnkv.protocol import DecoderLimits
from cairnkv.protocol.resp import OK, Error, SetOf, Simple, Verbatim
from cairnkv.session.resp import command_docs
from cairnkv.session.resp.command_spec import RESP_COMMANDS
from tests.session.resp.chat import Chat

SYNTAX = Error("ERR syntax error")


# -- COMMAND -----------------------------------------------------------------------------------------------


def test_command_describes_every_command(chat: Chat) -> None:
    told = {one[0].decode(): one for one in chat("COMMAND")}
    assert told.keys() == {name.decode().lower() for name in RESP_COMMANDS}
    assert chat("COMMAND COUNT") == len(told)
    assert chat("COMMAND INFO") == list(told.values())


def test_every_described_command_is_served(chat: Chat) -> None:
    for name in chat("COMMAND LIST"):
        other = Chat()
        other.send(*name.split(b"|"), *[b"x"] * 20)
        assert not any("unknown command" in reply.text for reply in other.hear() if isinstance(reply, Error)), name
    for name in ("LPUSH", "HSET", "FCALL", "CLIENT UNBLOCK", "CONFIG REWRITE", "DEBUG", "MEMORY DOCTOR"):
        assert chat(f"{name} x y").text.startswith("ERR unknown"), name


def test_key_positions_for_cluster_clients(chat: Chat) -> None:
    chat("HELLO 3")
    get, mset, rename, ping, missing = chat("COMMAND INFO get MSET rename ping nonesuch")
    assert get[:6] == [b"get", 2, SetOf((Simple("readonly"), Simple("fast"))), 1, 1, 1]
    assert set(get[6].items) == {Simple("@read"), Simple("@string"), Simple("@fast")}
    assert (mset[1], mset[3:6]) == (-3, [1, -1, 2])
    assert rename[3:6] == [1, 2, 1]
    assert (ping[1], ping[3:6]) == (-1, [0, 0, 0])
    assert missing is None
    (spec,) = mset[8].items
    assert spec[b"begin_search"] == {b"type": b"index", b"spec": {b"index": 1}}
    assert spec[b"find_keys"] == {b"type": b"range", b"spec": {b"lastkey": -1, b"keystep": 2, b"limit": 0}}


def test_subcommands_are_described_with_their_command(chat: Chat) -> None:
    (client,) = chat("COMMAND INFO client")
    assert b"client|id" in [behind[0] for behind in client[9]]
    (number,) = chat("COMMAND INFO client|id")
    assert number[:2] == [b"client|id", 2]


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("GET a", [b"a"]),
        ("mset a 1 b 2", [b"a", b"b"]),
        ("DEL a b c", [b"a", b"b", b"c"]),
        ("RENAME a b", [b"a", b"b"]),
        ("SET a b EX 3", [b"a"]),
        ("MEMORY USAGE a", [b"a"]),
    ],
)
def test_getkeys(chat: Chat, text: str, keys: list[bytes]) -> None:
    assert chat(f"COMMAND GETKEYS {text}") == keys


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("COMMAND GETKEYS nonesuch a", "ERR Invalid command specified"),
        ("COMMAND GETKEYS PING", "ERR The command has no key arguments"),
        ("COMMAND GETKEYS GET", "ERR Invalid number of arguments specified for command"),
        ("COMMAND FOO", "ERR unknown subcommand 'FOO'. Try COMMAND HELP."),
        ("COMMAND LIST FILTERBY", "ERR syntax error"),
        ("COMMAND LIST FILTERBY FOO x", "ERR syntax error"),
        ("COMMAND LIST SORTBY PATTERN x", "ERR syntax error"),
        ("COMMAND COUNT x", "ERR wrong number of arguments for 'command|count' command"),
    ],
)
def test_wrong_arguments_of_command_are_refused(chat: Chat, text: str, error: str) -> None:
    assert chat(text) == Error(error)


def test_command_list(chat: Chat) -> None:
    assert {b"get", b"client|id", b"client"} <= set(chat("COMMAND LIST"))
    assert set(chat("COMMAND LIST FILTERBY PATTERN CLIENT|set*")) == {b"client|setname", b"client|setinfo"}
    assert {b"set", b"incr"} <= set(chat("COMMAND LIST FILTERBY ACLCAT Write")) - set(
        chat("COMMAND LIST FILTERBY ACLCAT read")
    )
    assert chat("COMMAND LIST FILTERBY MODULE json") == []


def test_command_docs(chat: Chat) -> None:
    chat("HELLO 3")
    docs = chat("COMMAND DOCS")
    assert docs.keys() == {name.lower() for name in RESP_COMMANDS}
    for name, one in docs.items():
        assert one[b"summary"].endswith(b"."), name
        assert one[b"since"].count(b".") == 2, name
    assert set(chat("COMMAND DOCS get nonesuch")) == {b"get"}
    assert b"client|id" in docs[b"client"][b"subcommands"]


def shape(syntax: str) -> list[object]:
    """The arguments of a syntax, as short as a test can bear to read."""

    def short(argument: command_docs.Argument) -> object:
        text = f"{argument.token} " * bool(argument.token) + argument.name * (argument.kind != "pure-token")
        text = f"{text.strip()}{'?' * argument.optional}{'*' * argument.multiple}"
        return (text, [short(part) for part in argument.parts]) if argument.parts else text

    return [short(argument) for argument in command_docs.arguments_of(syntax)]


@pytest.mark.parametrize(
    ("syntax", "arguments"),
    [
        ("key value", ["key", "value"]),
        ("key [key ...]", ["key*"]),
        ("key value [key value ...]", [("block*", ["key", "value"])]),
        ("[channel [channel ...]]", ["channel?*"]),
        ("[MATCH pattern] [COUNT count]", ["MATCH pattern?", "COUNT count?"]),
        ("[NX | XX] [GET]", [("choice?", ["NX", "XX"]), "GET?"]),
        ("<ON | OFF>", [("choice", ["ON", "OFF"])]),
        ("[EX seconds | PERSIST]", [("choice?", ["EX seconds", "PERSIST"])]),
        ("[start end [BYTE | BIT]]", [("block?", ["start", "end", ("choice?", ["BYTE", "BIT"])])]),
        ("[AUTH username password]", [("block?", ["AUTH username", "password"])]),
        ("[TYPE <NORMAL | PUBSUB>]", [("TYPE choice?", ["NORMAL", "PUBSUB"])]),
    ],
)
def test_syntax_is_parsed(syntax: str, arguments: list[object]) -> None:
    assert shape(syntax) == arguments


# -- INFO, TIME, MEMORY ------------------------------------------------------------------------------------


def test_info_has_sections(chat: Chat) -> None:
    every = ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Cluster", "Keyspace"]
    for text in ("INFO", "INFO everything", "INFO ALL", "INFO default server"):
        assert [line[2:] for line in chat(text).decode().split("\r\n") if line.startswith("# ")] == every
    assert chat("INFO replication").startswith(b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n")
    assert chat("INFO nonesuch") == b""
    two = chat("INFO CPU cluster").decode()
    assert (two.count("# "), two.count("\r\n\r\n")) == (2, 1)


def test_in_version_3_info_is_verbatim(chat: Chat) -> None:
    chat("HELLO 3")
    told = chat("INFO cluster")
    assert told == Verbatim(b"# Cluster\r\ncluster_enabled:0\r\n", "txt")


def test_info_counts_keys_by_database(chat: Chat) -> None:
    for text in ("SET a 1", "SET b 2 EX 10", "SELECT 7", "SET c 3"):
        chat(text)
    assert chat("INFO keyspace").split() == [
        b"#",
        b"Keyspace",
        b"db0:keys=2,expires=1,avg_ttl=0",
        b"db7:keys=1,expires=0,avg_ttl=0",
    ]
    chat.clock.now += 10_000
    assert b"db0:keys=1,expires=0" in chat("INFO keyspace")


def test_info_counts_clients_and_commands(chat: Chat) -> None:
    other = Chat(chat)
    other("WATCH k")
    other("SUBSCRIBE a")
    told = chat("INFO clients stats")
    for line in (b"redis_clients:2", b"pubsub_clients:1", b"watching_clients:1", b"total_watched_keys:1"):
        assert line in told
    assert b"pubsub_channels:1" in told


def test_time_is_the_stores_clock(chat: Chat) -> None:
    chat.clock.now = 1_700_000_000_123
    assert chat("TIME") == [b"1700000000", b"123000"]


def test_memory_usage(chat: Chat) -> None:
    assert chat("MEMORY USAGE k") is None
    chat("SET k v")
    alone = chat("MEMORY USAGE k")
    assert alone == chat("MEMORY USAGE k SAMPLES 5") == chat.store.memory.used_bytes
    chat("SET k v EX 10")
    assert chat("MEMORY USAGE k") == chat.store.database.used_bytes > alone
    chat("SELECT 2")
    assert chat("MEMORY USAGE k") is None
    assert chat("MEMORY USAGE k FOO 5") == SYNTAX
    assert chat("MEMORY USAGE k SAMPLES") == SYNTAX
    assert chat("MEMORY USAGE k SAMPLES -1") == SYNTAX
    assert chat("MEMORY USAGE k SAMPLES x") == Error("ERR value is not an integer or out of range")
    assert chat("MEMORY DOCTOR") == Error("ERR unknown subcommand 'DOCTOR'. Try MEMORY HELP.")


# -- WAIT, SHUTDOWN, CONFIG where there is no server -------------------------------------------------------


def test_wait_returns_zero_at_once(chat: Chat) -> None:
    assert chat("WAIT 0 0") == chat("WAIT 3 60000") == 0
    assert chat("WAIT x 0") == Error("ERR value is not an integer or out of range")
    assert chat("WAIT 0 x") == Error("ERR timeout is not an integer or out of range")
    assert chat("WAIT 0 -1") == Error("ERR timeout is negative")


def test_shutdown_and_config_need_a_server(chat: Chat) -> None:
    assert isinstance(chat("SHUTDOWN"), Error)
    assert chat("CONFIG GET *") == []
    assert chat("CONFIG SET maxmemory 1") == Error(
        "ERR Unknown option or number of arguments for CONFIG SET - 'maxmemory'"
    )
    assert chat("CONFIG SET maxmemory 1 timeout") == SYNTAX
    assert chat("CONFIG RESETSTAT") == OK


def test_shutdown_is_refused_in_a_transaction(chat: Chat) -> None:
    chat("MULTI")
    assert chat("SHUTDOWN") == Error("ERR Command not allowed inside a transaction")
    assert chat("EXEC").code == "EXECABORT"


@pytest.mark.parametrize(
    ("words", "repeated"),
    [
        ((b"FOO", b"a\x00b", b"c"), "'FOO', with args beginning with: 'a' 'c' "),
        ((b"F\x00O",), "'F', with args beginning with: "),
        ((b"FOO", b"\xc3\xa9" * 100, b"c"), f"'FOO', with args beginning with: '{64 * chr(0xE9)}' "),
        ((b"FOO", b"a" * 100, b"b" * 100, b"c"), f"'FOO', with args beginning with: '{100 * 'a'}' '{25 * 'b'}' "),
    ],
    ids=["a zero byte", "in the name", "bytes are counted", "no more than fits"],
)
def test_error_of_an_unknown_command_quotes_a_bounded_part(words: tuple[bytes, ...], repeated: str) -> None:
    assert Chat().say(*words) == Error(f"ERR unknown command {repeated}")


@pytest.mark.parametrize("protocol", ["2", "3"])
@pytest.mark.parametrize("told", ["COMMAND", "COMMAND INFO", "COMMAND DOCS"])
def test_command_replies_are_equal_each_time(chat: Chat, told: str, protocol: str) -> None:
    """The server caches the reply for each protocol. In a transaction the reply is the same."""
    chat(f"HELLO {protocol}")
    first = chat(told)
    assert len(first) >= chat("COMMAND COUNT")
    assert chat(told) == first
    chat("MULTI")
    chat(told)
    chat("PING")
    assert chat("EXEC") == [first, Simple("PONG")]
    other = Chat(chat)
    other(f"HELLO {5 - int(protocol)}")
    assert len(other(told)) != 0
    assert chat(told) == first


def test_command_reply_fits_in_a_frame() -> None:
    chat = Chat(limits=DecoderLimits(value=1_000, frame=5_000))
    assert chat("COMMAND DOCS").text.startswith("ERR BIGREPLY")
    chat("MULTI")
    chat("COMMAND DOCS")
    chat("PING")
    error, pong = chat("EXEC")
    assert error.text.startswith("ERR BIGREPLY")
    assert pong == Simple("PONG")

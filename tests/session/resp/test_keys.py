"""Redis commands on keys: existence, deletion, names, expiry and iteration."""

import pytest

from cairnkv.limits import DATABASES, PATTERN_MAX, SCAN_COUNT_MAX, TTL_MAX
from cairnkv.protocol.native import DecoderLimits
from cairnkv.protocol.resp import OK, Error, Simple
from cairnkv.session import ServerContext
from cairnkv.session.resp.commands import scan
from cairnkv.store import LocalStore, WhenFull
from tests.session.resp.chat import Chat
from tests.session.resp.test_strings import NOT_AN_INTEGER, SYNTAX

QUEUED = Simple("QUEUED")


# -- whether they are there, and how they go -----------------------------------------------------------------


def test_exists_counts_repeated_keys(chat: Chat) -> None:
    chat("MSET a 1 b 2")
    assert chat("EXISTS a b a nope") == 3
    assert chat("TOUCH a b a nope") == 3


def test_a_value_is_a_string_or_none(chat: Chat) -> None:
    chat("SET a 1")
    assert chat("TYPE a") == Simple("string")
    assert chat("TYPE nope") == Simple("none")


@pytest.mark.parametrize("name", ["DEL", "UNLINK"])
def test_del_and_unlink_delete_keys(chat: Chat, name: str) -> None:
    chat("MSET a 1 b 2")
    assert chat(f"{name} a a b nope") == 2
    assert chat("DBSIZE") == 0


@pytest.mark.parametrize("mode", ["", "ASYNC", "sync"])
def test_flushdb_empties_one_database_and_flushall_all(chat: Chat, mode: str) -> None:
    for db in (0, 1, DATABASES - 1):
        chat(f"SELECT {db}")
        chat("SET k v")
    assert chat(f"FLUSHDB {mode}") == OK
    assert chat("EXISTS k") == 0
    chat("SELECT 0")
    assert chat("EXISTS k") == 1
    assert chat(f"FLUSHALL {mode}") == OK
    for db in range(DATABASES):
        chat(f"SELECT {db}")
        assert chat("DBSIZE") == 0


@pytest.mark.parametrize("command", ["FLUSHDB SOON", "FLUSHALL SOON", "FLUSHALL SYNC SYNC", "FLUSHDB ASYNC SYNC"])
def test_unknown_flush_options_are_refused(chat: Chat, command: str) -> None:
    chat("SET k v")
    assert chat(command) == SYNTAX
    assert chat("DBSIZE") == 1


def test_flushall_is_atomic() -> None:
    chat = Chat(late=True)
    for db in (0, 1):
        chat.send(b"SELECT", b"%d" % db)
        chat.send(b"SET", b"k", b"v")
    chat.storage.commit()
    assert chat.hear() == [OK] * 4
    chat.send(b"FLUSHALL")
    (entry,) = chat.storage.pending
    chat.storage.fail()
    (failure,) = chat.hear()
    assert isinstance(failure, Error)
    assert failure.text.startswith("ERR UNDONE")
    assert chat("EXISTS k") == 1
    assert chat("SELECT 0") == OK
    assert chat("EXISTS k") == 1
    assert len(entry.steps) > 1


def test_flushall_in_a_transaction_deletes_its_earlier_writes(chat: Chat) -> None:
    chat("SET k v")
    for queued in ("MULTI", "SELECT 3", "SET p 1", "FLUSHALL", "DBSIZE", "SET q 1", "DBSIZE", "SELECT 0", "DBSIZE"):
        assert chat(queued) in (OK, QUEUED)
    assert chat("EXEC") == [OK, OK, OK, 0, OK, 1, OK, 0]


# -- what they are called ------------------------------------------------------------------------------------


def test_rename_keeps_the_ttl(chat: Chat) -> None:
    chat("SET a 1 EX 10")
    chat("SET b 2 EX 100")
    assert chat("RENAME a b") == OK
    assert chat("GET b") == b"1"
    assert chat("TTL b") == 10
    assert chat("EXISTS a") == 0


@pytest.mark.parametrize("command", ["RENAME nope b", "RENAME nope nope", "RENAMENX nope b", "RENAMENX nope nope"])
def test_rename_of_a_missing_key_is_an_error(chat: Chat, command: str) -> None:
    assert chat(command) == Error("ERR no such key")


def test_renamenx_keeps_an_existing_key(chat: Chat) -> None:
    chat("MSET a 1 b 2")
    assert chat("RENAMENX a b") == 0
    assert chat("RENAMENX a a") == 0
    assert chat("RENAME a a") == OK
    assert chat("RENAMENX a c") == 1
    assert chat("MGET a b c") == [None, b"2", b"1"]


def test_copy_keeps_the_ttl(chat: Chat) -> None:
    chat("SET a 1 EX 10")
    assert chat("COPY a b") == 1
    assert chat("TTL b") == 10
    assert chat("COPY a b") == 0
    chat("SET a 2")
    assert chat("COPY a b replace") == 1
    assert chat("GET b") == b"2"
    assert chat("TTL b") == -1
    assert chat("COPY nope b REPLACE") == 0


def test_copy_into_another_database(chat: Chat) -> None:
    chat("SET a 1")
    assert chat("COPY a a DB 5") == 1
    assert chat("COPY a a DB 5") == 0
    assert chat("COPY a a DB 1 DB 5 REPLACE") == 1
    chat("SELECT 5")
    assert chat("GET a") == b"1"
    assert chat("COPY a a DB 0 REPLACE") == 1
    assert chat("COPY a a DB 5") == Error("ERR source and destination objects are the same")


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        ("a a", Error("ERR source and destination objects are the same")),
        ("nope nope REPLACE", Error("ERR source and destination objects are the same")),
        ("a b DB", SYNTAX),
        ("a b OVER", SYNTAX),
        ("a b DB 16", Error("ERR DB index is out of range")),
        ("a b DB -1", Error("ERR DB index is out of range")),
        ("a b DB x", NOT_AN_INTEGER),
        (
            "a b DB 2147483648",
            Error("ERR value is out of range, value must between -2147483648 and 2147483647"),
        ),
    ],
)
def test_copy_to_the_same_key_is_an_error(chat: Chat, arguments: str, refusal: Error) -> None:
    chat("SET a 1")
    assert chat(f"COPY {arguments}") == refusal
    assert chat("DBSIZE") == 1


# -- how they are kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "encoding"),
    [
        (b"0", b"int"),
        (b"-9223372036854775808", b"int"),
        (b"9223372036854775808", b"embstr"),
        (b"01", b"embstr"),
        (b"", b"embstr"),
        (b"x" * 44, b"embstr"),
        (b"x" * 45, b"raw"),
    ],
)
def test_object_encoding_is_that_of_redis(chat: Chat, value: bytes, encoding: bytes) -> None:
    chat.say(b"SET", b"k", value)
    assert chat("OBJECT ENCODING k") == encoding
    assert chat("object encoding nope") is None


def test_unknown_object_subcommands_are_refused(chat: Chat) -> None:
    assert chat("OBJECT FREQ k") == Error("ERR unknown subcommand 'FREQ'. Try OBJECT HELP.")
    assert chat("OBJECT ENCODING") == Error("ERR wrong number of arguments for 'object|encoding' command")
    help_text = chat("OBJECT HELP")
    assert Simple("ENCODING key") in help_text


def test_touch_counts_as_a_use_and_object_and_ttl_do_not() -> None:
    def victim(command: str, *, no_touch: bool = False) -> bytes:
        chat = Chat()
        chat.store = LocalStore(clock=chat.clock, memory_limit=2_900, when_full=WhenFull.EVICT)
        chat.context = ServerContext(chat.store)
        chat = Chat(beside=chat)
        chat.say(b"SET", b"a", b"x" * 1_000)
        chat.say(b"SET", b"b", b"x" * 1_000)
        if no_touch:
            chat("CLIENT NO-TOUCH on")
        chat(command)
        chat.say(b"SET", b"c", b"x" * 1_000)
        (gone,) = {b"a", b"b"} - set(chat("KEYS *"))
        return gone

    for command in ("EXISTS a", "TYPE a", "TTL a", "PTTL a", "EXPIRETIME a", "PEXPIRETIME a", "OBJECT ENCODING a"):
        assert victim(command) == b"a", command
    for command in ("TOUCH a", "GET a", "STRLEN a"):
        assert victim(command) == b"b", command
    assert victim("GET a", no_touch=True) == b"a"
    assert victim("TOUCH a", no_touch=True) == b"b"


# -- when they expire ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "milliseconds"),
    [("EXPIRE k 7", 7_000), ("PEXPIRE k 7", 7), ("EXPIREAT k 1007", 7_000), ("PEXPIREAT k 1000007", 7)],
)
def test_expire_commands_set_the_ttl(chat: Chat, command: str, milliseconds: int) -> None:
    assert chat(command) == 0
    chat("SET k v")
    assert chat(command) == 1
    assert chat("PTTL k") == milliseconds
    assert chat("PEXPIRETIME k") == 1_000_000 + milliseconds
    chat.clock.advance(milliseconds - 1)
    assert chat("EXISTS k") == 1
    chat.clock.advance(1)
    assert chat("EXISTS k") == 0


def test_seconds_are_rounded_to_the_nearest(chat: Chat) -> None:
    chat("SET k v PX 1499")
    assert chat("TTL k") == 1
    assert chat("EXPIRETIME k") == 1001
    chat("SET k v PX 1500")
    assert chat("TTL k") == 2
    assert chat("EXPIRETIME k") == 1002
    chat("SET k v PX 1")
    assert chat("TTL k") == 0


@pytest.mark.parametrize("name", ["TTL", "PTTL", "EXPIRETIME", "PEXPIRETIME"])
def test_ttl_of_persistent_and_missing_keys(chat: Chat, name: str) -> None:
    chat("SET k v")
    assert chat(f"{name} k") == -1
    assert chat(f"{name} nope") == -2


@pytest.mark.parametrize(
    "command", ["EXPIRE k 0", "EXPIRE k -1", "EXPIREAT k 1", "PEXPIREAT k 0", f"PEXPIRE k {-(2**63)}", "EXPIRE k -1 LT"]
)
def test_expiry_time_in_the_past_deletes(chat: Chat, command: str) -> None:
    chat("SET k v")
    assert chat(command) == 1
    assert chat("EXISTS k") == 0


def test_persist_removes_the_ttl(chat: Chat) -> None:
    assert chat("PERSIST k") == 0
    chat("SET k v EX 10")
    assert chat("PERSIST k") == 1
    assert chat("PERSIST k") == 0
    assert chat("TTL k") == -1


@pytest.mark.parametrize(
    ("condition", "without", "later", "sooner"),
    [
        ("NX", 1, 0, 0),
        ("XX", 0, 1, 1),
        ("GT", 0, 1, 0),
        ("LT", 1, 0, 1),
        ("xx gt", 0, 1, 0),
        ("XX LT", 0, 0, 1),
        ("GT GT", 0, 1, 0),
    ],
)
def test_expire_with_conditions(chat: Chat, condition: str, without: int, later: int, sooner: int) -> None:
    """without: one before; later, sooner: than the one before."""
    chat("SET k v")
    assert chat(f"EXPIRE k 50 {condition}") == without
    for seconds, expected in [(60, later), (40, sooner), (50, 1 if condition == "XX" else 0)]:
        chat("SET k v EX 50")
        assert chat(f"EXPIRE k {seconds} {condition}") == expected
        assert chat("TTL k") == (seconds if expected else 50)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("NX XX", "NX and XX, GT or LT options at the same time are not compatible"),
        ("GT NX", "NX and XX, GT or LT options at the same time are not compatible"),
        ("NX LT GT", "NX and XX, GT or LT options at the same time are not compatible"),
        ("XX GT LT", "GT and LT options at the same time are not compatible"),
        ("Soon", "Unsupported option Soon"),
        ("NX a\0b", "Unsupported option a"),
    ],
)
def test_exclusive_expire_conditions_are_refused(chat: Chat, options: str, text: str) -> None:
    chat("SET k v")
    assert chat(f"EXPIRE k 10 {options}") == Error(f"ERR {text}")
    assert chat(f"EXPIRE k ten {options}") == Error(f"ERR {text}")
    assert chat("TTL k") == -1


@pytest.mark.parametrize("name", ["expire", "expireat", "pexpire", "pexpireat"])
def test_ttl_is_bounded(chat: Chat, name: str) -> None:
    unit = 1 if name.startswith("p") else 1_000
    wrong = Error(f"ERR invalid expire time in '{name}' command")
    for time in (TTL_MAX // unit + 1, 2**63 - 1):
        assert chat(f"{name} nope {time}") == wrong
    assert chat(f"{name} nope 1.5") == NOT_AN_INTEGER
    assert chat(f"{name} nope {2**63}") == NOT_AN_INTEGER
    chat("SET k v")
    assert chat(f"{name} k {TTL_MAX // unit}") == 1
    assert chat("EXISTS k") == 1


def test_seconds_must_fit_into_milliseconds(chat: Chat) -> None:
    least = -(2**63 // 1000)
    assert chat(f"EXPIRE nope {least}") == 0
    assert chat(f"EXPIRE nope {least - 1}") == Error("ERR invalid expire time in 'expire' command")


# -- which there are -----------------------------------------------------------------------------------------


def fill(chat: Chat, count: int) -> set[bytes]:
    keys = {b"k:%d" % number for number in range(count)}
    for key in keys:
        chat.store.database.put(key, b"v", None)
    return keys


def scanned(chat: Chat, *options: bytes) -> list[bytes]:
    found: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, keys = chat.say(b"SCAN", cursor, *options)
        found += keys
        if cursor == b"0":
            return found


def test_dbsize_and_randomkey(chat: Chat) -> None:
    assert chat("RANDOMKEY") is None
    keys = fill(chat, 100)
    assert chat("DBSIZE") == 100
    assert {chat("RANDOMKEY") for _ in range(50)} <= keys


@pytest.mark.parametrize("options", [[], [b"COUNT", b"1"], [b"count", b"%d" % (2**63 - 1)], [b"TYPE", b"string"]])
def test_a_scan_finds_every_key_once(chat: Chat, options: list[bytes]) -> None:
    keys = fill(chat, 500)
    assert sorted(scanned(chat, *options)) == sorted(keys)


def test_scan_slice_is_bounded_for_any_count(chat: Chat) -> None:
    fill(chat, SCAN_COUNT_MAX + 100)
    cursor, keys = chat.say(b"SCAN", b"0", b"COUNT", b"%d" % (2**62))
    assert cursor != b"0"
    assert len(keys) <= SCAN_COUNT_MAX


def test_scan_slice_is_smaller_with_a_slow_pattern(chat: Chat) -> None:
    keys = fill(chat, 1_000)
    cursor, found = chat.say(b"SCAN", b"0", b"COUNT", b"10000", b"MATCH", b"*" * PATTERN_MAX)
    assert cursor != b"0"
    assert len(found) < SCAN_COUNT_MAX // 10
    assert sorted(scanned(chat, b"COUNT", b"10000", b"MATCH", b"*" * PATTERN_MAX)) == sorted(keys)
    assert sorted(chat.say(b"KEYS", b"*" * PATTERN_MAX)) == sorted(keys)


def test_scan_returns_matching_keys(chat: Chat) -> None:
    fill(chat, 100)
    assert sorted(scanned(chat, b"MATCH", b"k:1?")) == [b"k:%d" % number for number in range(10, 20)]
    assert scanned(chat, b"MATCH", b"*:55") == [b"k:55"]
    assert scanned(chat, b"MATCH", b"k:1?", b"MATCH", b"k:7") == [b"k:7"]
    assert scanned(chat, b"TYPE", b"list") == []
    assert scanned(chat, b"TYPE", b"no-such-type") == []


@pytest.mark.parametrize(
    "options", ["MATCH", "COUNT", "TYPE", "COUNT 0", "COUNT -1", "LIMIT 3", "MATCH x COUNT 5 TYPE", "x"]
)
def test_scan_refuses_unknown_options(chat: Chat, options: str) -> None:
    assert chat(f"SCAN 0 {options}") == SYNTAX


def test_a_count_is_a_number(chat: Chat) -> None:
    assert chat("SCAN 0 COUNT ten") == NOT_AN_INTEGER


@pytest.mark.parametrize("cursor", ["x", "1x", "-", "--1", "1.5", str(2**64), str(-(2**64))])
def test_a_cursor_is_a_number_of_64_bits(chat: Chat, cursor: str) -> None:
    assert chat(f"SCAN {cursor}") == Error("ERR invalid cursor")


@pytest.mark.parametrize("cursor", [1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, "+7"])
def test_unknown_cursor_is_harmless(chat: Chat, cursor: int | str) -> None:
    fill(chat, 100)
    following, keys = chat(f"SCAN {cursor} COUNT 1000")
    assert following == b"0"
    assert len(keys) <= 100


def test_cursor_zero_is_returned_only_at_the_end(chat: Chat) -> None:
    chat("SET k v")
    assert chat.say(b"SCAN", b"") == [b"0", [b"k"]]


@pytest.mark.parametrize("command", ["SCAN 0 MATCH {}", "KEYS {}"])
def test_a_pattern_has_a_bound(chat: Chat, command: str) -> None:
    assert chat(command.format("x" * PATTERN_MAX)) in ([], [b"0", []])
    refusal = chat(command.format("x" * (PATTERN_MAX + 1)))
    assert isinstance(refusal, Error)
    assert refusal.text.startswith("ERR a pattern of")


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a slice have so few keys that some hundreds of them need several turns."""
    monkeypatch.setattr(scan, "SCAN_COUNT_MAX", 10)
    monkeypatch.setattr(scan, "KEYS_TOGETHER", 10)


@pytest.mark.usefixtures("small_slices")
def test_keys_goes_through_the_table_in_several_turns(chat: Chat) -> None:
    keys = fill(chat, 300)
    chat.send(b"KEYS", b"*")
    assert chat.session.runnable, "the rest is for other turns"
    chat.send(b"PING")
    found, pong = chat.hear()
    assert sorted(found) == sorted(keys)
    assert pong == Simple("PONG")


def test_keys_returns_matches_of_the_selected_database(chat: Chat) -> None:
    fill(chat, 100)
    assert sorted(chat("KEYS k:1?")) == [b"k:%d" % number for number in range(10, 20)]
    assert chat("KEYS k:7") == [b"k:7"]
    chat("SELECT 1")
    assert chat("KEYS *") == []


def test_keys_that_are_too_many_for_a_reply_are_an_error() -> None:
    chat = Chat(limits=DecoderLimits(frame=4_096))
    fill(chat, 1_000)
    refusal = chat("KEYS *")
    assert isinstance(refusal, Error)
    assert "SCAN" in refusal.text
    assert len(chat("KEYS k:9?")) == 10


@pytest.mark.usefixtures("small_slices")
def test_keys_waits_for_pending_commits_of_its_matches() -> None:
    chat = Chat(late=True)
    fill(chat, 300)
    other = Chat(beside=chat)
    other.send(b"SET", b"new", b"v")
    chat.send(b"KEYS", b"n*")
    assert chat.hear() == []
    chat.storage.commit()
    assert chat.hear() == [[b"new"]]
    assert other.hear() == [OK]


@pytest.mark.usefixtures("small_slices")
def test_keys_shows_no_undone_write() -> None:
    chat = Chat(late=True)
    fill(chat, 300)
    other = Chat(beside=chat)
    other.send(b"SET", b"new", b"v")
    chat.send(b"KEYS", b"*")
    assert chat.session.runnable, "there are slices before and behind what happens now"
    chat.storage.fail()
    (failure,) = chat.hear()
    assert isinstance(failure, Error)
    assert failure.text.startswith("ERR UNDONE")
    assert b"new" not in chat("KEYS *")


def test_keys_in_a_transaction_sees_its_writes(chat: Chat) -> None:
    chat("SET before 1")
    for queued in ("MULTI", "SET b 1", "KEYS b*", "DEL b before", "KEYS b*"):
        assert chat(queued) in (OK, QUEUED)
    _, found, _, rest = chat("EXEC")
    assert sorted(found) == [b"b", b"before"]
    assert rest == []


def test_keys_in_a_transaction_has_a_bound(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "KEYS_IN_TRANSACTION_MAX", 100)
    keys = fill(chat, 100)

    def found() -> object:
        chat("MULTI")
        chat("KEYS *")
        (reply,) = chat("EXEC")
        return reply

    assert sorted(found()) == sorted(keys)  # type: ignore[call-overload]
    chat("SET one-more v")
    refusal = found()
    assert isinstance(refusal, Error)
    assert "SCAN" in refusal.text


def test_faults_within_a_transaction_are_replies_of_exec(chat: Chat) -> None:
    for queued in ("MULTI", "SET k 1", "INCRBYFLOAT k inf", "EXPIRE k 10 SOON", "COPY k k", "INCR k"):
        assert chat(queued) in (OK, QUEUED)
    assert chat("EXEC") == [
        OK,
        Error("ERR increment would produce NaN or Infinity"),
        Error("ERR Unsupported option SOON"),
        Error("ERR source and destination objects are the same"),
        2,
    ]

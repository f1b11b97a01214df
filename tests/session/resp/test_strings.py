"""Redis commands on strings: effects, replies, and Redis' own error texts."""

import pytest

from cairnkv.limits import KEY_MAX, STRING_MAX, TTL_MAX
from cairnkv.protocol.resp import OK, Error
from cairnkv.session.resp.commands.strings import places_of
from tests.session.resp.chat import Chat

SYNTAX = Error("ERR syntax error")
NOT_AN_INTEGER = Error("ERR value is not an integer or out of range")
TOO_LONG = Error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")


# -- SET and its relatives -----------------------------------------------------------------------------------


def test_a_value_is_stored_and_read(chat: Chat) -> None:
    assert chat("SET k v") == OK
    assert chat("GET k") == b"v"
    assert chat("GET other") is None


def test_set_removes_the_ttl(chat: Chat) -> None:
    chat("SET k v EX 10")
    chat("SET k w")
    assert chat("TTL k") == -1


def test_set_nx_stores_if_absent(chat: Chat) -> None:
    assert chat("SET k 1 NX") == OK
    assert chat("SET k 2 nx") is None
    assert chat("GET k") == b"1"


def test_set_xx_stores_if_present(chat: Chat) -> None:
    assert chat("SET k 1 XX") is None
    assert chat("EXISTS k") == 0
    chat("SET k 1")
    assert chat("SET k 2 XX") == OK
    assert chat("GET k") == b"2"


def test_set_ifeq_stores_if_equal(chat: Chat) -> None:
    assert chat("SET k 1 IFEQ 0") is None
    chat("SET k 1")
    assert chat("SET k 2 IFEQ 0") is None
    assert chat("SET k 2 IFEQ 1") == OK
    assert chat("SET k 3 IFEQ 1 GET") == b"2"
    assert chat("SET k 3 IFEQ 2 GET") == b"2"
    assert chat("GET k") == b"3"
    assert chat("SET nope 3 IFEQ 2 GET") is None
    assert chat("EXISTS nope") == 0


def test_set_get_returns_the_old_value_whether_or_not_it_stores(chat: Chat) -> None:
    assert chat("SET k 1 GET") is None
    assert chat("SET k 2 GET") == b"1"
    assert chat("SET k 3 NX GET") == b"2"
    assert chat("SET k 4 XX GET EX 10") == b"2"
    assert chat("GET k") == b"4"
    assert chat("TTL k") == 10


@pytest.mark.parametrize(
    ("option", "milliseconds"), [("EX 7", 7_000), ("PX 7", 7), ("EXAT 1007", 7_000), ("PXAT 1000007", 7)]
)
def test_set_accepts_four_forms_of_expiry(chat: Chat, option: str, milliseconds: int) -> None:
    assert chat.clock.now == 1_000_000
    assert chat(f"SET k v {option}") == OK
    assert chat("PTTL k") == milliseconds
    chat.clock.advance(milliseconds)
    assert chat("GET k") is None


def test_set_with_an_expiry_time_in_the_past_deletes(chat: Chat) -> None:
    chat("SET k v")
    assert chat("SET k w EXAT 1") == OK
    assert chat("EXISTS k") == 0


def test_set_keepttl_keeps_the_ttl(chat: Chat) -> None:
    chat("SET k v EX 10")
    assert chat("SET k w KEEPTTL") == OK
    assert chat("TTL k") == 10


@pytest.mark.parametrize(
    "options",
    [
        "NX XX",
        "NX IFEQ 1",
        "IFEQ 1 XX",
        "EX 10 PX 10",
        "EX 10 EXAT 10",
        "EX 10 KEEPTTL",
        "KEEPTTL PXAT 10",
        "EX",
        "IFEQ",
        "PERSIST",
        "WITH",
        "GET IT",
    ],
)
def test_set_refuses_exclusive_options(chat: Chat, options: str) -> None:
    assert chat(f"SET k v {options}") == SYNTAX
    assert chat("EXISTS k") == 0


def test_repeated_option_of_set_counts_once_or_last(chat: Chat) -> None:
    assert chat("SET k v NX NX EX 10 EX 20") == OK
    assert chat("TTL k") == 20


@pytest.mark.parametrize("command", ["SET k v EX {}", "SETEX k {} v", "SET k v EXAT {}"])
def test_seconds_are_from_one_to_the_longest_time(chat: Chat, command: str) -> None:
    name = command.split()[0].lower()
    wrong = Error(f"ERR invalid expire time in '{name}' command")
    for seconds in (0, -1, TTL_MAX // 1000 + 1, 2**63 - 1):
        assert chat(command.format(seconds)) == wrong
    for text in ("1.5", "ten", "01", "+1", 2**63):
        assert chat(command.format(text)) == NOT_AN_INTEGER
    assert chat("EXISTS k") == 0
    assert chat(command.format(TTL_MAX // 1000)) == OK
    assert chat("EXISTS k") == 1


@pytest.mark.parametrize("command", ["SET k v PX {}", "PSETEX k {} v", "SET k v PXAT {}"])
def test_milliseconds_likewise(chat: Chat, command: str) -> None:
    name = command.split()[0].lower()
    for milliseconds in (0, -1, TTL_MAX + 1, 2**63 - 1):
        assert chat(command.format(milliseconds)) == Error(f"ERR invalid expire time in '{name}' command")
    assert chat(command.format(TTL_MAX)) == OK


def test_setex_and_psetex_set_the_ttl(chat: Chat) -> None:
    assert chat("SETEX k 10 v") == OK
    assert chat("PTTL k") == 10_000
    assert chat("PSETEX k 10 w") == OK
    assert chat("PTTL k") == 10
    assert chat("GET k") == b"w"


def test_setnx_returns_whether_it_stored(chat: Chat) -> None:
    assert chat("SETNX k 1") == 1
    assert chat("SETNX k 2") == 0
    assert chat("GET k") == b"1"


def test_getset_returns_the_old_value(chat: Chat) -> None:
    assert chat("GETSET k 1") is None
    chat("EXPIRE k 10")
    assert chat("GETSET k 2") == b"1"
    assert chat("GET k") == b"2"
    assert chat("TTL k") == -1


def test_getdel_returns_and_deletes(chat: Chat) -> None:
    chat("SET k v")
    assert chat("GETDEL k") == b"v"
    assert chat("GETDEL k") is None
    assert chat("EXISTS k") == 0


def test_delifeq_deletes_an_equal_value(chat: Chat) -> None:
    chat("SET k v")
    assert chat("DELIFEQ k w") == 0
    assert chat("DELIFEQ k v") == 1
    assert chat("DELIFEQ k v") == 0
    assert chat("EXISTS k") == 0


# -- GETEX ---------------------------------------------------------------------------------------------------


def test_getex_alone_only_reads(chat: Chat) -> None:
    chat("SET k v EX 10")
    assert chat("GETEX k") == b"v"
    assert chat("TTL k") == 10


@pytest.mark.parametrize(
    ("option", "milliseconds"),
    [("EX 7", 7_000), ("PX 7", 7), ("EXAT 1007", 7_000), ("PXAT 1000007", 7), ("PERSIST", -1)],
)
def test_getex_sets_the_ttl(chat: Chat, option: str, milliseconds: int) -> None:
    chat("SET k v EX 100")
    assert chat(f"GETEX k {option}") == b"v"
    assert chat("PTTL k") == milliseconds


def test_getex_with_an_expiry_time_in_the_past_deletes(chat: Chat) -> None:
    chat("SET k v")
    assert chat("GETEX k PXAT 5") == b"v"
    assert chat("EXISTS k") == 0


@pytest.mark.parametrize("options", ["EX 1 PX 1", "PERSIST EX 1", "EX 1 PERSIST", "KEEPTTL", "NX", "GET", "EX"])
def test_getex_refuses_unknown_options(chat: Chat, options: str) -> None:
    assert chat(f"GETEX nope {options}") == SYNTAX


def test_getex_checks_the_time_only_for_an_existing_key(chat: Chat) -> None:
    assert chat("GETEX k EX 0") is None
    assert chat("GETEX k EX ten") is None
    chat("SET k v EX 10")
    assert chat("GETEX k EX 0") == Error("ERR invalid expire time in 'getex' command")
    assert chat("GETEX k EX ten") == NOT_AN_INTEGER
    assert chat("TTL k") == 10


# -- several values ------------------------------------------------------------------------------------------


def test_several_values_at_once(chat: Chat) -> None:
    assert chat("MSET a 1 b 2 a 3") == OK
    assert chat("MGET a nope b a") == [b"3", None, b"2", b"3"]


def test_msetnx_stores_all_or_nothing(chat: Chat) -> None:
    assert chat("MSETNX a 1 b 2") == 1
    assert chat("MSETNX b 3 c 4") == 0
    assert chat("MGET a b c") == [b"1", b"2", None]


@pytest.mark.parametrize("name", ["mset", "msetnx"])
def test_a_key_without_a_value_is_refused(chat: Chat, name: str) -> None:
    assert chat(f"{name} a 1 b") == Error(f"ERR wrong number of arguments for '{name}' command")
    assert chat("EXISTS a") == 0


def test_key_lengths_are_bounded(chat: Chat) -> None:
    assert chat.say(b"SET", b"x" * KEY_MAX, b"v") == OK
    for key in (b"", b"x" * (KEY_MAX + 1)):
        refusal = Error(f"ERR a key has 1 to {KEY_MAX} bytes here, this one {len(key)}")
        assert chat.say(b"SET", key, b"v") == refusal
        assert chat.say(b"MGET", b"k", key) == refusal
        assert chat.say(b"MSET", b"k", b"v", key, b"v") == refusal
    assert chat("EXISTS k") == 0


# -- parts of a value ----------------------------------------------------------------------------------------


def test_append_returns_the_length_and_keeps_the_ttl(chat: Chat) -> None:
    assert chat("APPEND k ab") == 2
    chat("EXPIRE k 10")
    assert chat("APPEND k cd") == 4
    assert chat("GET k") == b"abcd"
    assert chat("TTL k") == 10


def test_strlen_counts_bytes(chat: Chat) -> None:
    chat.say(b"SET", b"k", "grüße".encode())
    assert chat("STRLEN k") == 7
    assert chat("STRLEN nope") == 0


@pytest.mark.parametrize("name", ["GETRANGE", "SUBSTR"])
def test_getrange_returns_a_part(chat: Chat, name: str) -> None:
    chat("SET k abcdef")
    assert chat(f"{name} k 0 2") == b"abc"
    assert chat(f"{name} k -3 -1") == b"def"
    assert chat(f"{name} k 4 100") == b"ef"
    assert chat(f"{name} k -100 0") == b"a"
    assert chat(f"{name} k 3 1") == b""
    assert chat(f"{name} k 0 -6") == b"a"
    assert chat(f"{name} k 0 -7") == chat(f"{name} k -9 -8") == b""
    assert chat(f"{name} nope 0 -1") == b""
    assert chat(f"{name} k 0 end") == NOT_AN_INTEGER


def test_negative_offsets_count_from_the_end() -> None:
    letters = b"abcde"
    for start in range(-7, 8):
        for end in range(-7, 8):
            first, last = (max(0, place + 5 if place < 0 else place) for place in (start, end))
            expected = letters[first : last + 1] if not 0 > start > end else b""
            places = places_of(start, end, 5)
            assert letters[places.start : places.stop] == expected, (start, end)
            assert not places_of(start, end, 0)


def test_setrange_pads_with_zero_bytes_and_keeps_the_ttl(chat: Chat) -> None:
    assert chat("SETRANGE k 3 xy") == 5
    assert chat("GET k") == b"\0\0\0xy"
    chat("EXPIRE k 10")
    assert chat("SETRANGE k 1 abc") == 5
    assert chat("GET k") == b"\0abcy"
    assert chat("TTL k") == 10


def test_setrange_of_an_empty_value_changes_nothing(chat: Chat) -> None:
    assert chat.say(b"SETRANGE", b"k", b"%d" % (2**63 - 1), b"") == 0
    assert chat("EXISTS k") == 0
    chat("SET k abc")
    assert chat.say(b"SETRANGE", b"k", b"10", b"") == 3


def test_setrange_checks_its_offset(chat: Chat) -> None:
    assert chat("SETRANGE k -1 x") == Error("ERR offset is out of range")
    assert chat("SETRANGE k one x") == NOT_AN_INTEGER
    assert chat(f"SETRANGE k {STRING_MAX} x") == TOO_LONG


def test_values_cannot_grow_over_the_limit() -> None:
    chat = Chat(value_max=8)
    assert chat("SETRANGE k 7 x") == 8
    assert chat("SETRANGE k 8 x") == TOO_LONG
    assert chat("APPEND k x") == TOO_LONG
    assert chat("SETBIT k 63 1") == 0
    assert chat("SETBIT k 64 1") == Error("ERR bit offset is not an integer or out of range")
    assert chat("STRLEN k") == 8


# -- numbers -------------------------------------------------------------------------------------------------


def test_incr_and_decr(chat: Chat) -> None:
    assert chat("INCR n") == 1
    assert chat("INCRBY n 10") == 11
    assert chat("DECR n") == 10
    assert chat("DECRBY n 4") == 6
    assert chat("DECRBY n -4") == 10
    assert chat("GET n") == b"10"


def test_incr_keeps_the_ttl(chat: Chat) -> None:
    chat("SET n 1 EX 10")
    chat("INCR n")
    chat("INCRBYFLOAT n 0.5")
    assert chat("TTL n") == 10


@pytest.mark.parametrize("value", [b"", b"x", b" 1", b"1 ", b"01", b"-0", b"1.0", b"9223372036854775808"])
def test_incr_of_a_value_that_is_no_number_is_an_error(chat: Chat, value: bytes) -> None:
    chat.say(b"SET", b"k", value)
    assert chat("INCR k") == NOT_AN_INTEGER
    assert chat.say(b"INCRBY", b"n", value) == NOT_AN_INTEGER
    assert chat("EXISTS n") == 0


def test_numbers_have_64_bits(chat: Chat) -> None:
    overflow = Error("ERR increment or decrement would overflow")
    chat("SET n 9223372036854775807")
    assert chat("INCR n") == overflow
    assert chat("DECRBY n -1") == overflow
    chat("SET n -9223372036854775808")
    assert chat("DECR n") == overflow
    assert chat("DECRBY n -9223372036854775808") == Error("ERR decrement would overflow")
    assert chat("INCRBY n 9223372036854775807") == -1


def test_incrbyfloat_adds(chat: Chat) -> None:
    assert chat("INCRBYFLOAT f 10.5") == b"10.5"
    assert chat("INCRBYFLOAT f 0.1") == b"10.6"
    assert chat("INCRBYFLOAT f 5.0e3") == b"5010.60000000000000009"  # as on a PC, everywhere
    chat("SET f 5")
    assert chat("INCRBYFLOAT f -5.0") == b"0"
    assert chat("INCRBYFLOAT f 3.0") == b"3"
    assert chat("INCR f") == 4


@pytest.mark.parametrize("amount", [b"", b"x", b" 1", b"nan"])
def test_incrbyfloat_refuses_other_values(chat: Chat, amount: bytes) -> None:
    assert chat.say(b"INCRBYFLOAT", b"f", amount) == Error("ERR value is not a valid float")
    assert chat("EXISTS f") == 0


def test_infinite_sums_are_refused(chat: Chat) -> None:
    infinite = Error("ERR increment would produce NaN or Infinity")
    assert chat("INCRBYFLOAT f inf") == infinite
    assert chat("EXISTS f") == 0
    chat("SET f word")
    assert chat("INCRBYFLOAT f inf") == Error("ERR value is not a valid float")


# -- bits ----------------------------------------------------------------------------------------------------


def test_bit_zero_is_the_highest_bit(chat: Chat) -> None:
    assert chat("SETBIT k 7 1") == 0
    assert chat("GET k") == b"\x01"
    assert chat("SETBIT k 7 0") == 1
    assert chat("SETBIT k 9 1") == 0
    assert chat("GET k") == b"\x00\x40"
    assert [chat(f"GETBIT k {at}") for at in (8, 9, 10, 1000)] == [0, 1, 0, 0]
    assert chat("GETBIT nope 0") == 0


@pytest.mark.parametrize("offset", ["-1", "one", str(STRING_MAX * 8), "9" * 20])
def test_bits_lie_within_the_longest_string(chat: Chat, offset: str) -> None:
    wrong = Error("ERR bit offset is not an integer or out of range")
    assert chat(f"SETBIT k {offset} 1") == wrong
    assert chat(f"GETBIT k {offset}") == wrong
    assert chat(f"GETBIT k {STRING_MAX * 8 - 1}") == 0


@pytest.mark.parametrize("bit", ["2", "-1", "x"])
def test_a_bit_is_0_or_1(chat: Chat, bit: str) -> None:
    assert chat(f"SETBIT k 0 {bit}") == Error("ERR bit is not an integer or out of range")


def test_bits_are_counted_in_bytes_and_in_bits(chat: Chat) -> None:
    value = b"foobar"
    chat.say(b"SET", b"k", value)
    digits = "".join(f"{byte:08b}" for byte in value)
    assert chat("BITCOUNT k") == digits.count("1")
    assert chat("BITCOUNT nope") == 0
    for start, end in [(0, 0), (1, 4), (-2, -1), (3, 2), (-1, -2), (0, 100), (-100, 2), (50, 60)]:
        places = places_of(start, end, len(value))
        expected = digits[places.start * 8 : places.stop * 8].count("1")
        assert chat(f"BITCOUNT k {start} {end}") == chat(f"BITCOUNT k {start} {end} byte") == expected
    for start in range(-50, 50, 3):
        for end in range(-50, 50, 3):
            places = places_of(start, end, len(digits))
            assert chat(f"BITCOUNT k {start} {end} BIT") == digits[places.start : places.stop].count("1")


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [("0", SYNTAX), ("0 1 WORD", SYNTAX), ("0 1 BIT more", SYNTAX), ("a 1", NOT_AN_INTEGER), ("1 b", NOT_AN_INTEGER)],
)
def test_bitcount_checks_its_arguments_also_for_a_missing_key(chat: Chat, arguments: str, refusal: Error) -> None:
    assert chat(f"BITCOUNT k {arguments}") == refusal
    chat("SET k v")
    assert chat(f"BITCOUNT k {arguments}") == refusal

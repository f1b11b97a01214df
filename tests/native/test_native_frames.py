"""The native path of the native protocol equals the pure path: replies and databases, for any bytes in any pieces."""

import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import (
    BY_NAME,
    COMMANDS,
    Ack,
    Clear,
    ClearMany,
    Command,
    Exists,
    Get,
    GetMany,
    Incr,
    Ping,
    Put,
    PutMany,
    RandomKey,
    Set,
    SetMany,
    SetWith,
    Take,
)
from cairnkv.engine.table import BUCKET_KEYS, crc
from cairnkv.protocol import DecoderLimits, StatusByte, write_command
from cairnkv.protocol.native import Width
from cairnkv.store import LocalStore, WhenFull
from tests.session.access.test_enforcement import argument_of
from tests.support.lives import flipped, lively_frame
from tests.support.paths import BUILT, native_only
from tests.support.rights import SOME_RULES
from tests.support.strategies import commands
from tests.support.twins import Twins

pytestmark = native_only

PREDICTABLE = [command for command in COMMANDS if command is not RandomKey]
COMMON = [Get, Set, Clear, Ping, SetWith, Exists, GetMany, SetMany, ClearMany, Incr, Put, PutMany, Take, Ack]
SERVED = COMMON
if BUILT:
    from cairnkv.session.native.frames_native import SERVED as NUMBERS

    SERVED = [BY_NAME[name].command for name in NUMBERS]


class TestEqualResults:
    @given(data=st.data(), width=st.sampled_from([2, 4]), status_byte=st.sampled_from(StatusByte))
    def test_for_commands_in_any_pieces(self, data: st.DataObject, width: Width, status_byte: StatusByte) -> None:
        twins = Twins(width=data.draw(st.sampled_from([None, width])), status_byte=status_byte)
        some = data.draw(st.lists(commands(SERVED) | commands(PREDICTABLE), max_size=30))
        repeated = some + data.draw(st.lists(st.sampled_from(some), max_size=30)) if some else []
        said = b"".join(write_command(command, width=width) for command in repeated)
        twins.say_in_pieces(said, data.draw(st.lists(st.integers(0, max(len(said), 1)), max_size=6)))
        twins.agree()

    @given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.sampled_from([None, 2, 4]))
    def test_for_any_bytes(self, said: bytes, cuts: list[int], width: Width | None) -> None:
        twins = Twins(width=width)
        twins.say_in_pieces(said, cuts)
        twins.agree()

    @given(st.integers(0, 2**32), st.sampled_from([2, 4]))
    def test_for_random_programs(self, seed: int, width: Width) -> None:
        """Few keys and many commands, with TTLs, passing time, full buckets and broken frames."""
        chance = random.Random(seed)
        twins = Twins(width=width, limits=DecoderLimits(value=2_000, frame=80_000))
        for _ in range(12):
            twins.clock.advance(chance.randrange(-1_000, 3_000))
            said = b"".join(lively_frame(chance, width) for _ in range(chance.randrange(80)))
            if chance.random() < 0.1:
                said = flipped(said, chance)
            twins.say_in_pieces(said, [chance.randrange(len(said) + 1) for _ in range(chance.randrange(4))])
            twins.agree()

    @given(st.integers(0, 2**32), st.sampled_from([2, 4]))
    def test_for_users_with_some_rights(self, seed: int, width: Width) -> None:
        """Rights change between the pieces, too."""
        chance = random.Random(seed)
        twins = Twins(width=width)
        twins.say(write_command(Ping(b""), width=width))
        for _ in range(8):
            rules = chance.choice(SOME_RULES)
            twins.limit(*rules)
            said = b"".join(lively_frame(chance, width) for _ in range(chance.randrange(60)))
            if chance.random() < 0.1:
                said = flipped(said, chance)
            twins.say_in_pieces(said, [chance.randrange(len(said) + 1) for _ in range(chance.randrange(4))])
            twins.agree()

    def test_for_splitting_buckets(self) -> None:
        twins = Twins()
        for begin in range(0, 3_000, 100):
            twins.say(b"".join(write_command(Set(b"%d" % n, b"v")) for n in range(begin, begin + 100)))
        twins.say(b"".join(write_command(Clear(b"%d" % n)) for n in range(3_000)))
        twins.agree()

    @pytest.mark.parametrize("count", [3, 50, BUCKET_KEYS + 30])
    @pytest.mark.parametrize("ttl", [0, 5_000])
    def test_commands_of_many_keys_are_atomic(self, count: int, ttl: int) -> None:
        """Also if one of the keys would split a bucket, or empty it, or a key is named twice."""
        twins = Twins()
        for begin in range(0, 600, count):
            keys = [b"%d" % n for n in range(begin, begin + count)]
            twins.say(write_command(SetMany(ttl, tuple((key, b"v") for key in [*keys, keys[0], b"0"]))))
        twins.agree()
        assert twins.executed_natively > 0 or count > BUCKET_KEYS
        for begin in range(0, 600, count):
            keys = [b"%d" % n for n in range(begin, begin + count)]
            twins.say(write_command(ClearMany((*keys, keys[0]))))
        twins.agree()

    @pytest.mark.parametrize("length", [0, 1, 999, 65_535, 200_000, 1_048_570, 1_048_576, 3_000_000])
    def test_for_long_values(self, length: int) -> None:
        twins = Twins()
        value = bytes(length)
        said = write_command(Ping(b"")) + write_command(Set(b"k", value))
        twins.say(said + b"".join(write_command(one) for one in (Get(b"k"), GetMany((b"k", b"k", b"no")), Ping(value))))
        twins.agree()

    @pytest.mark.parametrize("over", [0, 1])
    def test_at_the_limits(self, over: int) -> None:
        twins = Twins(limits=DecoderLimits(value=1_000, frame=70_000))
        twins.say(write_command(Ping(b"")))
        twins.say(write_command(Set(b"k" * 65_535, b"v" * 1_000)) + write_command(Get(b"k" * 65_535)))
        twins.say(write_command(Set(b"k", b"v" * (1_000 + over))))
        twins.agree()
        twins = Twins(limits=DecoderLimits(value=1_000, frame=70_000))
        twins.say(write_command(SetMany(0, tuple((b"%03d" % n, b"v" * 984) for n in range(70)))))
        frame = write_command(GetMany((b"000",) * 71))
        twins.say(frame[:-2] + b"%02d" % over)
        twins.agree()


class TestExecutor:
    @pytest.mark.parametrize("command", SERVED)
    def test_executes_a_command_only_with_its_rights(self, command: type[Command]) -> None:
        spec = command.spec
        filled = {name: argument_of(slot) for name, slot in spec.fields if not slot.keyword}
        names = [f"+{name}" for name in spec.redis]
        own, whole = ("~*", "~*") if command is Ack else ("~app:*", "~*")
        for rules, executes in (
            (("+@all", "&*", whole), True),
            ((*names, own), True),
            ((*names, whole), True),
            (("+@all", *(f"-{name}" for name in spec.redis), whole), command is Ping),
            (("+@all", "~other:*", "~app:1:*"), command is Ping),
            (("+@all",), command is Ping),
        ):
            twins = Twins()
            keys = SetMany(0, tuple((b"app:%d" % number, b"1") for number in range(300)))
            twins.say(b"".join(map(write_command, (Ping(b""), keys, PutMany(b"app:q", 0, 0, (b"m", b"n"))))))
            twins.limit(*rules)
            before = twins.frame_executor.commands
            twins.say(write_command(command(**filled)))
            twins.agree()
            assert (twins.frame_executor.commands == before + 1) == executes, rules

    def test_serves_the_common_commands_by_their_numbers(self) -> None:
        assert set(COMMON) <= set(SERVED)
        assert all(BY_NAME[name].number == number for name, number in NUMBERS.items())

    def test_executes_the_common_commands(self) -> None:
        """Otherwise the comparisons above would compare the pure path with itself."""
        twins = Twins()
        twins.say(write_command(Ping(b"")))
        some = [Set(b"a", b"1"), Set(b"b", b"2"), Get(b"a"), Incr(b"a", 5), Exists((b"a", b"c")), GetMany((b"a", b"b"))]
        some += [SetMany(0, ((b"c", b"3"),)), ClearMany((b"c",)), Clear(b"b"), Ping(b"x")]
        some += [SetMany(9, ((b"d", b"3"),)), SetWith(b"d", b"", ttl=5), SetWith(b"d", b"", ttl=5, if_absent=True)]
        some += [SetWith(b"e", b"", if_present=True), SetWith(b"f", b""), Get(b"d"), Get(b"e"), Get(b"f")]
        twins.say(b"".join(map(write_command, some)))
        twins.agree()
        assert twins.frame_executor.commands == len(some)
        assert twins.frame_executor.writes == 11

    @given(st.lists(st.tuples(st.booleans(), st.binary(max_size=20)), max_size=400), st.binary(max_size=20))
    def test_direct_dict_lookup_equals_the_dict(self, changes: list[tuple[bool, bytes]], other: bytes) -> None:
        """It may leave a key to the dict, but never returns another value, or a deleted one."""
        from cairnkv.engine.table_native import found_directly

        changed: dict[bytes, bytes] = {}
        for there, key in changes:
            if there:
                changed[key] = b"value of " + key
            else:
                changed.pop(key, None)
        for key in (other, *(key for _, key in changes)):
            assert found_directly(changed, key) in (None, changed.get(key))

    def test_direct_dict_lookup_finds_nearly_all_keys(self) -> None:
        """Otherwise it would be correct and useless."""
        from cairnkv.engine.table_native import found_directly

        if not (3, 11) <= sys.version_info < (3, 14):
            pytest.skip("the layout of this version's dicts is not known")
        full = {b"%d" % n: b"value %d" % n for n in range(BUCKET_KEYS)}
        assert sum(found_directly(full, key) is value for key, value in full.items()) > 0.9 * BUCKET_KEYS

    @given(st.binary(min_size=1, max_size=100))
    def test_crc_of_a_key_equals_that_of_the_table(self, key: bytes) -> None:
        """Both the computed CRC and the one of a lookup, in a table of many buckets."""
        from cairnkv.engine import table_native

        assert table_native.crc(key) == crc(key)
        twins = Twins()
        for n in range(2_000):
            for store in twins.stores:
                store.database.put(b"%d" % n, b"", None)
        twins.say(write_command(Ping(b"")))
        for store in twins.stores:
            store.database.put(key, b"there", None)
        twins.say(write_command(Get(key)))
        twins.agree()
        assert 0 <= crc(key) < 2**32

    def test_is_off_while_the_store_checks_each_command(self) -> None:
        from cairnkv.session.native.frames_native import NativeFrameExecutor

        store = LocalStore(memory_limit=10**9)
        frame_executor = NativeFrameExecutor(store.database, store.log_clock)
        store.add_executor(frame_executor)
        assert frame_executor.off
        store.limit_memory(None, WhenFull.REFUSE)
        assert not frame_executor.off
        store.limit_memory(10**9, WhenFull.REFUSE)
        assert frame_executor.off


class TestReentrance:
    """Python code that a batch calls, such as a custom clock, cannot reach the executor's buffers."""

    FRAMES = write_command(Set(b"k", b"v")) + write_command(Get(b"k"))

    @staticmethod
    def run(frame_executor: Any, buffer: bytes | bytearray) -> int:
        given: int = frame_executor.run(buffer, 0, width=2, statuses=(0x30, 0x31), string_max=100, frame_max=1_000)
        return given

    def test_nested_batch_is_refused(self) -> None:
        from cairnkv.session.native.frames_native import NativeFrameExecutor

        refused: list[str] = []

        def clock() -> int:
            with pytest.raises(RuntimeError, match="cannot begin another") as caught:
                self.run(frame_executor, write_command(Set(b"k", b"other")))
            refused.append(str(caught.value))
            return 1

        store = LocalStore()
        frame_executor = NativeFrameExecutor(store.database, clock)
        assert self.run(frame_executor, self.FRAMES) == len(self.FRAMES)
        assert frame_executor.output().endswith(b"\0\0\0\1v")
        assert len(refused) == 1
        assert store.database.get(b"k") == b"v"
        assert self.run(frame_executor, self.FRAMES) == len(self.FRAMES), "a refused run leaves it usable"

    def test_buffer_cannot_be_resized(self) -> None:
        from cairnkv.session.native.frames_native import NativeFrameExecutor

        buffer = bytearray(self.FRAMES)

        def clock() -> int:
            with pytest.raises(BufferError):
                buffer.clear()
            return 1

        frame_executor = NativeFrameExecutor(LocalStore().database, clock)
        assert self.run(frame_executor, buffer) == len(self.FRAMES)
        buffer.clear()  # it is free again

    def test_failed_clock_leaves_the_executor_usable(self) -> None:
        from cairnkv.session.native.frames_native import NativeFrameExecutor

        errors = iter([OSError("no clock"), None])

        def clock() -> int:
            if error := next(errors):
                raise error
            return 1

        frame_executor = NativeFrameExecutor(LocalStore().database, clock)
        with pytest.raises(OSError, match="no clock"):
            self.run(frame_executor, self.FRAMES)
        assert self.run(frame_executor, self.FRAMES) == len(self.FRAMES)

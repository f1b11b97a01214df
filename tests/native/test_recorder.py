"""Records of effects: the native and the pure recorder write equal records in equal order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.storage import Effect
from cairnkv.storage.record_format import PART_BYTES
from cairnkv.storage.recorder import Recorder
from tests.support.paths import native_only


class Noted:
    """A batch, or a storage engine, that records its calls."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def batch(self) -> "Noted":
        return self

    def write(self, batch: object) -> None:
        self.said.append(("write",))

    def put(self, key: bytes, value: bytes) -> None:
        self.said.append(("put", key, value))

    def delete(self, key: bytes) -> None:
        self.said.append(("delete", key))

    def delete_range(self, begin: bytes, end: bytes) -> None:
        self.said.append(("delete range", begin, end))


KEYS = st.sampled_from([b"a", b"b", b"\0", b"k" * 300])
VALUES = st.sampled_from([b"", b"1", b"v" * 5_000, bytes(PART_BYTES), bytes(PART_BYTES + 1)])
DEADLINES = st.none() | st.integers(0, 2**62)
EFFECTS = st.one_of(
    st.tuples(st.integers(0, 15), KEYS, VALUES, DEADLINES),
    st.tuples(st.integers(0, 15), KEYS, st.none(), st.none()),
    st.tuples(st.integers(0, 15), st.none(), st.none(), st.none()),
)


@native_only
@given(entries=st.lists(st.tuples(st.lists(EFFECTS, max_size=8), st.sampled_from([100, 2_000_000])), max_size=4))
def test_native_recorder_equals_the_pure_one(entries: list[tuple[list[Effect], int]]) -> None:
    from cairnkv.storage.recorder_native import fill

    said = []
    for fast in (None, fill):
        noted = Noted()
        recorder = Recorder(noted, {}, 1)  # type: ignore[arg-type]
        recorder._native_fill = fast
        for effects, size in entries:
            recorder.fill(noted, effects, size)
        said.append(noted.said)
    assert said[0] == said[1]


@pytest.mark.parametrize("deadline", [None, 5])
def test_parts_of_a_value_are_written_before_their_record(deadline: int | None) -> None:
    noted = Noted()
    recorder = Recorder(noted, {}, 7)  # type: ignore[arg-type]
    recorder.fill(noted, [(0, b"k", bytes(2 * PART_BYTES), deadline)], 0)
    assert [what[0] for what in noted.said] == ["put", "write", "put", "write", "put"]
    recorder.fill(noted, [(0, b"k", None, None)], 0)
    assert [what[0] for what in noted.said[5:]] == ["delete range", "delete"]

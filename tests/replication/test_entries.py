"""Entries and their items survive a round trip; all nodes decode any other bytes alike."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.commands import Step
from cairnkv.limits import DATABASES
from cairnkv.replication import entries, entry_codec
from cairnkv.replication.entries import Entry, Item, ItemKind, Kind, Newer, packed_items, parsed
from cairnkv.replication.entry_codec import Transaction, Watch
from tests.support.strategies import commands

NUMBERS = st.integers(0, 2**64 - 1)
STEPS = st.builds(Step, st.integers(0, DATABASES - 1), commands())


def entry_of(
    kind: Kind, node: int, epoch: int, number: int, now: int, body: bytes, semantics: int, partition: int, lead: int
) -> Entry:
    return Entry(kind, node, epoch, number, now, body, semantics, partition, lead=min(lead, now))


ENTRIES = st.builds(
    entry_of,
    st.sampled_from(Kind),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.integers(0, entries.TIME_MAX),
    st.binary(max_size=50),
    st.integers(0, 2**16 - 1),
    st.just(entries.PARTITION),
    lead=st.just(0) | st.integers(0, entries.TIME_MAX),
)
ITEMS = st.builds(Item, st.sampled_from(ItemKind), st.integers(0, 255), st.binary(max_size=20))


@given(ENTRIES)
def test_entry_survives_a_round_trip(entry: Entry) -> None:
    assert parsed(entry.packed()) == entry


@given(st.lists(ITEMS, max_size=8))
def test_items_survive_a_round_trip_and_batches_are_joined(said: list[Item]) -> None:
    expected: list[Item] = []
    for item in said:
        if expected and item.kind is ItemKind.COMMANDS and expected[-1][:2] == item[:2]:
            expected[-1] = item._replace(payload=expected[-1].payload + item.payload)
        else:
            expected.append(item)
    assert list(entries.items(packed_items(said))) == expected


@given(st.lists(STEPS, min_size=1, max_size=5))
def test_any_command_survives_a_round_trip(steps: list[Step]) -> None:
    body = packed_items(map(entry_codec.command_item, steps))
    assert [step for item in entries.items(body) for step in entry_codec.steps_of(item)] == steps


@given(
    st.lists(st.builds(Watch, st.integers(0, 65_535), NUMBERS, NUMBERS), max_size=3),
    st.lists(STEPS, max_size=4),
    st.integers(0, 2**63 - 1),
    st.booleans(),
)
def test_transaction_survives_a_round_trip(watches: list[Watch], steps: list[Step], most: int, whole: bool) -> None:
    transaction = Transaction(watches, steps, most, whole)
    assert entry_codec.transaction_of(entry_codec.transaction_item(transaction)) == transaction


@given(st.lists(st.integers(0, 65_535), max_size=5), NUMBERS, st.integers(0, 2**32 - 1), st.integers(0, 65_535))
def test_slots_digests_and_versions_survive_a_round_trip(
    slots: list[int], position: int, digest: int, version: int
) -> None:
    assert entry_codec.slots_of(entry_codec.track_item(slots)) == slots
    assert entry_codec.digest_of(entry_codec.digest_item(position, digest)) == (position, digest)
    assert entry_codec.semantics_of(entry_codec.semantics_item(version)) == version


@given(st.binary(max_size=120), st.sampled_from(ItemKind))
def test_any_bytes_decode_or_raise_value_error(data: bytes, kind: ItemKind) -> None:
    item = Item(kind, 0, data)
    for read in (
        parsed,
        lambda data: list(entries.items(data)),
        lambda _: list(entry_codec.steps_of(item)),
        lambda _: entry_codec.transaction_of(item),
        lambda _: entry_codec.slots_of(item),
        lambda _: entry_codec.digest_of(item),
        lambda _: entry_codec.semantics_of(item),
    ):
        with contextlib.suppress(ValueError):
            read(data)


def test_only_a_newer_format_needs_a_newer_release(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(Kind.BATCH, 1, 1, 1, 1, b"body")
    with monkeypatch.context() as patched:
        patched.setattr(entries, "FORMAT", entries.FORMAT_AHEAD + 1)
        newer = entry.packed()
    with pytest.raises(Newer):
        parsed(newer)
    with monkeypatch.context() as patched:
        patched.setattr(entries, "FORMAT", 0)
        older = entry.packed()
    data = entry.packed()
    for none in (older, data[:-1], data + b"!", entry._replace(partition=1).packed()):
        with pytest.raises(ValueError, match=r".") as raised:
            parsed(none)
        assert not isinstance(raised.value, Newer)


@given(st.binary(max_size=200), st.integers(0, 45), st.integers(1, 255))
def test_entries_of_no_node_are_ignored(text: bytes, at: int, flip: int) -> None:
    """Neither a stray message nor a changed entry asks for a newer release."""
    changed = bytearray(Entry(Kind.BATCH, 1, 1, 1, 1, b"body").packed())
    ahead = bytearray(Entry(Kind.BATCH, 1, 1, 1, 9, b"body", lead=5).packed())
    changed[at] ^= flip
    ahead[at] ^= flip
    for none in (text, bytes(changed), bytes(ahead)):
        with pytest.raises(ValueError, match=r".") as raised:
            parsed(none)
        assert not isinstance(raised.value, Newer)


def test_time_that_overflows_expiry_times_is_ignored() -> None:
    parsed(Entry(Kind.BATCH, 1, 1, 1, entries.TIME_MAX).packed())
    with pytest.raises(ValueError, match="an invalid entry"):
        parsed(Entry(Kind.BATCH, 1, 1, 1, entries.TIME_MAX + 1).packed())

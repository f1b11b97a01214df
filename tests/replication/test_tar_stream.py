"""Tar streams: packed files survive a round trip, other programs read them, and unsafe members are refused."""

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv.replication.tar_stream import BadArchive, Unpacking, packed


def unpack(directory: Path, archive: bytes, size: int = 700) -> dict[str, bytes]:
    """Unpack a stream in pieces, and return the files."""
    directory.mkdir(exist_ok=True)
    unpacking = Unpacking(directory)
    try:
        for begin in range(0, len(archive), size):
            unpacking.feed(archive[begin : begin + size])
        unpacking.finish()
    finally:
        unpacking.stop()
    return {path.name: path.read_bytes() for path in directory.iterdir()}


FILES = st.dictionaries(
    st.text("abcXYZ019._-", min_size=1, max_size=100).filter(lambda name: name[0] not in "._-"),
    st.binary(max_size=3_000),
    max_size=5,
)


@given(files=FILES, size=st.integers(1, 5_000), fed=st.integers(1, 5_000))
def test_packed_files_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], size: int, fed: int
) -> None:
    directory = tmp_path_factory.mktemp("packed")
    for name, content in files.items():
        (directory / name).write_bytes(content)
    pieces = list(packed(directory, size))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert 1 <= len(pieces[-1]) <= size
    assert unpack(tmp_path_factory.mktemp("unpacked"), b"".join(pieces), fed) == files


def test_tar_reads_the_stream(tmp_path: Path) -> None:
    for number, size in enumerate((0, 1, 511, 512, 513, 100_000)):
        (tmp_path / f"{number}.sst").write_bytes(random.Random(number).randbytes(size))
    archive = b"".join(packed(tmp_path, 1_000))
    said = subprocess.run(["tar", "--list", "--file", "-"], input=archive, capture_output=True, check=True)
    assert said.stdout.decode().split() == [f"{number}.sst" for number in range(6)]
    assert said.stderr == b""


def test_only_flat_directories_of_plain_files_are_packed(tmp_path: Path) -> None:
    for odd in ("directory", "link", "fifo", ".hidden", "a b", "ü"):
        path = tmp_path / odd / odd
        path.parent.mkdir()
        if odd == "directory":
            path.mkdir()
        elif odd == "link":
            path.symlink_to("/etc/passwd")
        elif odd == "fifo":
            subprocess.run(["mkfifo", path], check=True)
        else:
            path.touch()
        with pytest.raises(BadArchive, match="not a regular file with a plain name"):
            list(packed(path.parent, 1_000))


def _tar(*members: tarfile.TarInfo) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for node in members:
            tar.addfile(node, io.BytesIO(bytes(node.size)))
    return target.getvalue()


def _member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    node = tarfile.TarInfo(name)
    node.type, node.size, node.linkname = kind, size, "elsewhere"
    return node


@pytest.mark.parametrize(
    "node",
    [
        *map(_member, ("../outside", "/tmp/outside", "a/b", "..", ".hidden", "n" * 101, "a b", "")),
        *(_member("name", kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE)),
        *(_member("name", kind) for kind in (tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, b"Z")),
    ],
    ids=lambda node: f"{node.name[:12]!r}-{node.type!r}",
)
def test_unsafe_members_are_refused_and_write_nothing_elsewhere(tmp_path: Path, node: tarfile.TarInfo) -> None:
    archive = _tar(node)
    with pytest.raises(BadArchive, match=r"something other|not a tar archive"):
        unpack(tmp_path / "in", archive)
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]
    assert list((tmp_path / "in").iterdir()) == []


def test_other_archives_are_refused(tmp_path: Path) -> None:
    good = _tar(_member("a", size=1_000))
    for number, (bad, why) in enumerate(
        [
            (b"", "is incomplete"),
            (good[:512], "is incomplete"),
            (good[:1_200], "is incomplete"),
            (good[: 512 + 1024], "is incomplete"),
            (good[:600] + b"x" * 10_000, "not a tar archive"),
            (random.Random(1).randbytes(512), "not a tar archive"),
            (_tar(_member("a"), _member("a")), "a twice"),
            (good[: 512 + 1024] + bytes(1024) + good, "after its end"),
            (good + b"x" * 10, "is incomplete"),
        ]
    ):
        with pytest.raises(BadArchive, match=why):
            unpack(tmp_path / str(number), bad)

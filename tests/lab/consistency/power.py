"""A power failure of all hosts of a local cluster at once: what its file system had on the disk is what is left.

The directories of the hosts are on a file system of their own, which is in a file. All processes are stopped in one
moment and that file copied: what was written and not yet synced is in the system's memory, not in it. The processes
are killed, the copy is mounted elsewhere, its journal replayed by the kernel, and the hosts are started from there.

That is what tells a log that syncs from one that does not: killing processes takes nothing of what they wrote away.
Root may do it, on Linux with loop devices.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cairnkv.lab.cluster import LocalCluster
from cairnkv.lab.consistency.history import Action
from cairnkv.lab.consistency.workload import Run

DISK_BYTES = 8 * 1024**3
"""The size of the disk; sparse."""

MACHINES = (1, 2, 3)

PATIENCE = 60.0


def lacking() -> str:
    """Why there can be no power failure here; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a disk is mounted, which only root may do, on Linux"
    if not Path("/dev/loop-control").exists() or shutil.which("mkfs.ext4") is None:
        return "a disk in a file takes loop devices and mkfs.ext4 (Debian: e2fsprogs)"
    return ""


class Disk:
    """A file system in a file, with a cluster's directory on it; a power failure mounts a copy over it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._images = 0
        self._at = directory / "disk"
        self._at.mkdir()
        with self._image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", self._image], check=True)
        self._mount()
        self.cluster = self._at / "cluster"

    @property
    def _image(self) -> Path:
        return self._directory / f"image-{self._images}"

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self._at], check=True)
        self._images += 1

    def fail(self, cluster: LocalCluster) -> None:
        """Let the power fail at all hosts, and come back."""
        with ThreadPoolExecutor(len(MACHINES)) as pool:
            for number in MACHINES:
                cluster.pause(number)
            last = self._directory / f"image-{self._images - 1}"
            subprocess.run(["cp", "--sparse=always", last, self._image], check=True)
            for number in MACHINES:
                cluster.kill(number)
            self._mount()
            list(pool.map(cluster.start, MACHINES))

    def close(self) -> None:
        """Unmount all; those below may still be in use by the cluster's supervisor."""
        for _ in range(self._images):
            subprocess.run(["umount", "--lazy", self._at], check=True)


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[Disk]:
    """A disk in a directory."""
    one = Disk(directory)
    try:
        yield one
    finally:
        one.close()


class PowerFailures:
    """A nemesis: the power fails some seconds after the beginning, once."""

    def __init__(self, cluster: LocalCluster, disk: Disk, *, after: float) -> None:
        self._cluster = cluster
        self._disk = disk
        self._after = after

    async def __call__(self, run: Run) -> None:
        await asyncio.sleep(self._after)
        began = run.now()
        await asyncio.to_thread(self._disk.fail, self._cluster)
        run.action(Action("power", "all", began, run.now()))
        await asyncio.to_thread(self._cluster.wait_ready, PATIENCE)

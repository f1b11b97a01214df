"""A power failure of all hosts of a local cluster at once: only data on the disk remains.

The directories of the hosts are on their own file system, which is in a file. The test stops all processes at one
moment and copies that file: data that was written and not fsynced is in the system's memory, not in the file. Then the
test kills the processes and mounts the copy elsewhere, the kernel replays the journal, and the hosts start from it.

Only this distinguishes a log that fsyncs from one that does not: killed processes lose no written data.
It needs root, and Linux with loop devices.
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
from cairnkv.lab.consistency.run import AnyRun

DISK_BYTES = 8 * 1024**3
"""The size of the disk; sparse."""

MACHINES = (1, 2, 3)

PATIENCE = 60.0


def lacking() -> str:
    """Return the unmet requirement of a power failure; empty if all are met."""
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
        """Simulate a power failure of all hosts, and start them again."""
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
        """Unmount all file systems. The cluster's supervisor may still use the lower ones."""
        for _ in range(self._images):
            subprocess.run(["umount", "--lazy", self._at], check=True)


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[Disk]:
    """Yield a disk in a directory."""
    one = Disk(directory)
    try:
        yield one
    finally:
        one.close()


class PowerFailures:
    """A nemesis that injects one power failure, some seconds after the beginning."""

    def __init__(self, cluster: LocalCluster, disk: Disk, *, after: float) -> None:
        self._cluster = cluster
        self._disk = disk
        self._after = after

    async def __call__(self, run: AnyRun) -> None:
        await asyncio.sleep(self._after)
        began = run.now()
        await asyncio.to_thread(self._disk.fail, self._cluster)
        run.action(Action("power", "all", began, run.now()))
        await asyncio.to_thread(self._cluster.wait_ready, PATIENCE)

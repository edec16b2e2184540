"""Support: clocks, pictures, disks that fail, and what is left in a directory."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import trio

from appliance.protocol.canonical import sha256_hex
from appliance.protocol.images import Image
from appliance.storage.imagefiles import WriteOutcome, write_file
from appliance.storage.images import ImageStore

TTL_S = 900.0
START_S = 1_700_000_000.0
HUNG_S = 120  # what a test waits for a thread or a disk: under load, a hundred syncs took more than 20 s


class Clock:
    """Unix time that a test moves."""

    def __init__(self) -> None:
        self.time_s = START_S

    def __call__(self) -> float:
        return self.time_s


class Disk:
    """The real disk until `error` is set; counts the pictures it was given."""

    def __init__(self) -> None:
        self.error: int | None = None
        self.writes = 0

    def write(self, file: int, data: memoryview) -> int:
        """As os.write; a failing disk takes half of what it gets first, as a full one does."""
        if self.error is None:
            return os.write(file, data)
        if len(data) > 1:
            return os.write(file, data[: len(data) // 2])
        raise OSError(self.error, os.strerror(self.error))

    def write_picture(
        self, directory: Path, name: str, data: bytes, now: float, victims: Sequence[str]
    ) -> WriteOutcome:
        self.writes += 1
        return write_file(directory, name, data, now, victims, write=self.write)

    def fill(self) -> None:
        self.error = errno.ENOSPC

    def free(self) -> None:
        self.error = None


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task has come to rest for the nth time: at its nth await that waits."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._steps_left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps_left -= 1
            if self._steps_left == 0:
                self._scope.cancel()


def make_store(
    directory: Path,
    clock: Clock,
    *,
    max_item_bytes: int = 1_000_000,
    max_total_bytes: int = 10_000_000,
    max_items: int = 1000,
    disk: Disk | None = None,
    limiter: trio.CapacityLimiter | None = None,
) -> ImageStore:
    return ImageStore(
        directory,
        ttl_s=TTL_S,
        max_item_bytes=max_item_bytes,
        max_total_bytes=max_total_bytes,
        max_items=max_items,
        limiter=limiter or trio.CapacityLimiter(4),
        now=clock,
        write_file=(disk or Disk()).write_picture,
    )


def picture(seed: int, size: int = 100) -> Image:
    return Image((b"%d:" % seed).ljust(size, b"x"), "png")


def sha256_of(image: Image) -> str:
    return sha256_hex(image.data)


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def assert_consistent(store: ImageStore, directory: Path) -> None:
    """The index, the statistics and the disk say the same, and nothing is half done."""
    kept = store.statistics()
    assert not [name for name in names_in(directory) if name.endswith(".tmp")]
    assert kept.items == len(names_in(directory))
    assert kept.bytes == sum(entry.stat().st_size for entry in directory.iterdir())

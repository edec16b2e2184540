"""Heap: memory that pictures come and go in stays with the process while they come, and goes back when none do."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

QUIET_S = 1.0

# malloc.h of glibc. Whoever sets one of them switches off that the other moves by itself, so both are set.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
DEFAULT_BYTES = 128 << 10  # of both
KEPT_BYTES = 64 << 20  # free at the top of the heap: some pictures at a time, each several times over
LARGEST_ON_HEAP_BYTES = 32 << 20  # the most that glibc takes on 64 bits; what is larger comes and goes by itself


class Allocator(Protocol):
    """What of the C library's allocator can be told."""

    def keep(self) -> None:
        """Free memory is kept from now on, up to KEPT_BYTES."""

    def give_back(self) -> None:
        """What is free goes back to the system; what is more than that does by itself, until `keep` is called again."""


class Heap:
    """Whether large things are being handled. glibc gives large blocks back as soon as they are free: each picture costs
    a thousand page faults to get the same memory again, 1.0 of its 4.7 ms.

    Kept memory goes back a second after the last one who needs it: `run` sees to that.
    """

    def __init__(self, allocator: Allocator | None) -> None:
        self._allocator = allocator
        self._users = 0
        self._departures = 0
        self._left = trio.lowlevel.ParkingLot()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, and for a moment after, freed memory is kept for whoever asks next."""
        if self._allocator is not None:
            self._allocator.keep()
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._departures += 1
            self._left.unpark_all()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Give memory back in every pause, until cancelled."""
        task_status.started()
        while True:
            await self._left.park()
            seen = -1
            while seen != self._departures:
                seen = self._departures
                await trio.sleep(QUIET_S)
            if not self._users and self._allocator is not None:
                self._allocator.give_back()


class Glibc:
    """The allocator of glibc. Made by `find_allocator`."""

    def __init__(self, mallopt: Callable[[int, int], int], malloc_trim: Callable[[int], int]) -> None:
        self._mallopt = mallopt
        self._malloc_trim = malloc_trim
        self._keeps = False

    def keep(self) -> None:
        if not self._keeps:
            self._keeps = True
            self._mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
            self._mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP_BYTES)

    def give_back(self) -> None:
        self._keeps = False
        self._mallopt(M_TRIM_THRESHOLD, DEFAULT_BYTES)
        self._mallopt(M_MMAP_THRESHOLD, DEFAULT_BYTES)
        self._malloc_trim(0)


def find_allocator() -> Allocator | None:
    """glibc's, None under any other C library: musl gives nothing to tell."""
    try:
        libc = ctypes.CDLL(None)
        return Glibc(libc.mallopt, libc.malloc_trim)
    except (OSError, AttributeError):
        return None

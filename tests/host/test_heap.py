"""Memory is kept while pictures come and go, and given back a moment after."""

import subprocess
import sys

import pytest
import trio
import trio.testing

from appliance.host.heap import (
    DEFAULT_BYTES,
    KEPT_BYTES,
    LARGEST_ON_HEAP_BYTES,
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    QUIET_S,
    Glibc,
    Heap,
    find_allocator,
)
from tests.allocator import AllocatorRecorder


async def test_memory_goes_back_a_moment_after_the_last_one_left(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    allocator = AllocatorRecorder()
    heap = Heap(allocator)
    await nursery.start(heap.run)
    began = trio.current_time()
    with heap.in_use():
        await trio.sleep(10)
    assert allocator.given_back == []
    await trio.sleep(3 * QUIET_S)
    assert allocator.kept == 1
    assert len(allocator.given_back) == 1
    assert began + 10 + QUIET_S <= allocator.given_back[0] <= began + 10 + 2 * QUIET_S


async def test_it_is_kept_while_another_one_needs_it(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    allocator = AllocatorRecorder()
    heap = Heap(allocator)
    await nursery.start(heap.run)
    with heap.in_use():
        with heap.in_use():
            pass
        await trio.sleep(10 * QUIET_S)
        assert allocator.given_back == []
    await trio.sleep(3 * QUIET_S)
    assert len(allocator.given_back) == 1


async def test_one_after_the_other_is_no_pause(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    allocator = AllocatorRecorder()
    heap = Heap(allocator)
    await nursery.start(heap.run)
    for _ in range(50):
        with heap.in_use():
            await trio.sleep(QUIET_S / 4)
        await trio.sleep(QUIET_S / 4)
    assert allocator.given_back == []
    await trio.sleep(3 * QUIET_S)
    assert len(allocator.given_back) == 1


async def test_an_idle_heap_wakes_for_nothing(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    await nursery.start(Heap(AllocatorRecorder()).run)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")


async def test_another_c_library_is_left_alone(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())  # musl's has neither function
    allocator = find_allocator()
    assert allocator is None
    heap = Heap(allocator)
    await nursery.start(heap.run)
    with heap.in_use():
        await trio.sleep(1)
    await trio.sleep(3 * QUIET_S)


# What glibc keeps belongs to a process, so this one has its own: 40 MB in blocks that lie on the heap, then all but the
# last of them free, so that nothing at the top can go.
GIVES_BACK = """
from appliance.host.heap import find_allocator
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
allocator = find_allocator()
allocator.keep()
blocks = [b"x" * (1 << 20) for _ in range(41)]
before = resident()
del blocks[:-1]
kept = resident()
allocator.give_back()
print(before - kept, kept - resident())
"""


@pytest.mark.skipif(find_allocator() is None, reason="only glibc can be told")
def test_glibc_keeps_what_is_free_and_gives_it_back() -> None:
    done = subprocess.run([sys.executable, "-c", GIVES_BACK], capture_output=True, text=True, check=True, timeout=60)
    went_by_itself, given_back = map(int, done.stdout.split())
    assert went_by_itself < 4 << 20
    assert given_back > 30 << 20


def test_glibc_is_told_once_and_told_otherwise_in_the_pause() -> None:
    told: list[tuple[int, ...]] = []

    def mallopt(option: int, value: int) -> int:
        told.append((option, value))
        return 1

    def malloc_trim(pad: int) -> int:
        told.append((pad,))
        return 1

    allocator = Glibc(mallopt, malloc_trim)
    allocator.keep()
    allocator.keep()
    keeps = [(M_TRIM_THRESHOLD, KEPT_BYTES), (M_MMAP_THRESHOLD, LARGEST_ON_HEAP_BYTES)]
    assert told == keeps
    allocator.give_back()
    assert told == [*keeps, (M_TRIM_THRESHOLD, DEFAULT_BYTES), (M_MMAP_THRESHOLD, DEFAULT_BYTES), (0,)]
    allocator.keep()
    assert told[-2:] == keeps

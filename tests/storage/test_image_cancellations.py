"""Cancellation of the image store: at every await of every operation, the index and the disk agree afterwards."""

import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.storage.imagefiles import WriteOutcome
from appliance.storage.images import ImageStore
from tests.storage.support import (
    HUNG_S,
    TTL_S,
    CancelAtStep,
    Clock,
    Disk,
    assert_consistent,
    make_store,
    names_in,
    picture,
    sha256_of,
)

Operation = Callable[[ImageStore], Awaitable[object]]


async def cancel_at_step(operation: Operation, store: ImageStore, step: int) -> bool:
    """Run an operation and cancel it at a step; False: it ended before."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await operation(store)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancel_called


async def make_busy_store(directory: Path) -> ImageStore:
    """Full: picture 0 expired, 1 and 2 fresh, 3 damaged; another one needs two of them out of the way."""
    clock = Clock()
    store = make_store(directory, clock, max_total_bytes=400, limiter=trio.CapacityLimiter(1))
    await store.save(picture(0))
    clock.time_s += TTL_S + 1
    for seed in (1, 2, 3):
        await store.save(picture(seed))
    # saving 1 has removed 0; expired ones wait for the next write or sweep
    await store.save(picture(4))
    clock.time_s += TTL_S - 1
    await store.load(sha256_of(picture(1)), "png")
    await store.load(sha256_of(picture(2)), "png")
    clock.time_s += 2
    (directory / f"{sha256_of(picture(2))}.png").write_bytes(b"damaged".ljust(100))
    return store


OPERATIONS: dict[str, Operation] = {
    "save_a_new_picture": lambda store: store.save(picture(9)),
    "save_a_large_one_that_evicts": lambda store: store.save(picture(9, size=400)),
    "save_one_that_is_kept": lambda store: store.save(picture(1)),
    "save_one_that_expired": lambda store: store.save(picture(3)),
    "load_a_sound_one": lambda store: store.load(sha256_of(picture(1)), "png"),
    "load_a_damaged_one": lambda store: store.load(sha256_of(picture(2)), "png"),
    "sweep": lambda store: store.sweep(),
    "scan": lambda store: store.scan(),
}
AWAITS = {  # at least: how often each comes to rest, so that the test cannot pass by testing nothing
    "save_a_new_picture": 2,
    "save_a_large_one_that_evicts": 2,
    "save_one_that_is_kept": 2,
    "save_one_that_expired": 2,
    "load_a_sound_one": 2,
    "load_a_damaged_one": 2,
    "sweep": 1,
    "scan": 1,
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_any_await_the_index_and_the_disk_agree(tmp_path: Path, name: str) -> None:
    step, cancelled = 0, True
    while cancelled:
        step += 1
        directory = tmp_path / str(step)
        store = await make_busy_store(directory)
        cancelled = await cancel_at_step(OPERATIONS[name], store, step)
        assert_consistent(store, directory)
        assert await store.load(sha256_of(picture(3)), "png") is None or name == "save_one_that_expired"
        stored = await store.save(picture(8))  # no lock, no token is left behind
        assert await store.load(stored.sha256, "png") == picture(8).data
        assert_consistent(store, directory)
        assert step < 50
    assert step > AWAITS[name]


async def test_cancelled_while_another_one_writes_the_same_picture(tmp_path: Path, nursery: trio.Nursery) -> None:
    entered, gate, disk = threading.Event(), threading.Event(), Disk()

    class SlowDisk(Disk):
        def write_picture(
            self, directory: Path, name: str, data: bytes, now: float, victims: Sequence[str]
        ) -> WriteOutcome:
            entered.set()
            gate.wait(10)
            return disk.write_picture(directory, name, data, now, victims)

    store = make_store(tmp_path, Clock(), disk=SlowDisk())
    nursery.start_soon(store.save, picture(1))
    await trio.to_thread.run_sync(entered.wait, 10)
    with trio.move_on_after(0.02) as scope:
        await store.save(picture(1))
    assert scope.cancelled_caught
    gate.set()
    with trio.fail_after(HUNG_S):
        stored = await store.save(picture(1))
    assert disk.writes == 1
    assert names_in(tmp_path) == [stored.name]
    assert_consistent(store, tmp_path)


async def test_damaged_picture_is_not_dropped_while_somebody_writes(tmp_path: Path, nursery: trio.Nursery) -> None:
    entered, gate = threading.Event(), threading.Event()

    class SlowDisk(Disk):
        def write(self, file: int, data: memoryview) -> int:
            if self.writes > 1:
                entered.set()
                gate.wait(10)
            return super().write(file, data)

    store = make_store(tmp_path, Clock(), disk=SlowDisk())
    damaged = await store.save(picture(1))
    (tmp_path / damaged.name).write_bytes(b"damaged")
    nursery.start_soon(store.save, picture(2))
    await trio.to_thread.run_sync(entered.wait, 10)
    with trio.move_on_after(0.05) as scope:
        await store.load(damaged.sha256, "png")
    assert scope.cancelled_caught
    assert (tmp_path / damaged.name).exists()
    gate.set()


async def test_writer_that_is_cancelled_leaves_the_work_to_the_next_one(tmp_path: Path, nursery: trio.Nursery) -> None:
    limiter, disk = trio.CapacityLimiter(1), Disk()
    store = make_store(tmp_path, Clock(), disk=disk, limiter=limiter)
    limiter.acquire_on_behalf_of_nowait("the test")
    scope = trio.CancelScope()

    async def first() -> None:
        with scope:
            await store.save(picture(1))

    nursery.start_soon(first)
    nursery.start_soon(store.save, picture(1))
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    limiter.release_on_behalf_of("the test")
    with trio.fail_after(HUNG_S):
        await store.save(picture(1))
    assert disk.writes == 1
    assert limiter.borrowed_tokens == 0
    assert_consistent(store, tmp_path)

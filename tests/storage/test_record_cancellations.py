"""Cancellation of the record log: at every await of every operation, the chain stays whole and everybody else is served."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.protocol.errors import ShuttingDown, StorageFull
from appliance.storage.records import QUEUE_RECORDS, RecordLog
from tests.storage.record_support import append_many, assert_found, assert_whole, id_of, make_log, running, verify_log
from tests.storage.support import HUNG_S, CancelAtStep

Operation = Callable[[RecordLog], Awaitable[object]]


async def cancel_at_step(operation: Operation, records: RecordLog, step: int) -> bool:
    """Run an operation and cancel it at a step; False: it ended before."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await operation(records)
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancel_called


OPERATIONS: dict[str, tuple[Operation, int]] = {  # with how often each comes to rest at least
    "append": (lambda log: log.append(id_of(50), {}, durable=False), 1),
    "append_durably": (lambda log: log.append(id_of(50), {}, durable=True), 1),
    "read_an_old_one": (lambda log: log.read(id_of(1)), 2),
    "read_a_new_one": (lambda log: log.read(id_of(20)), 0),
    "read_what_is_not_there": (lambda log: log.read(id_of(99)), 2),
}


@pytest.mark.parametrize("mode", ["ndjson", "both"])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_any_await_the_log_serves_on(tmp_path: Path, name: str, mode: str) -> None:
    operation, rests = OPERATIONS[name]
    step, cancelled = 0, True
    while cancelled:
        step += 1
        path = tmp_path / str(step) / "invocations.jsonl"
        async with running(path, mode=mode) as records:
            kept = await append_many(records, range(10))
        async with running(path, mode=mode) as records:
            kept |= await append_many(records, range(20, 30))
            cancelled = await cancel_at_step(operation, records, step)
            kept |= await append_many(records, range(30, 40))
            await assert_found(records, kept)
            stored = await records.read(id_of(50))
        assert_whole(path, 30 + (stored is not None))
        assert step < 30
    assert step > rests


async def test_append_cancelled_while_the_queue_is_full_stores_nothing(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    records = make_log(path)
    with trio.fail_after(HUNG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_many, records, range(QUEUE_RECORDS))
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as scope:
                await records.append(id_of(9999), {}, durable=False)
            assert scope.cancelled_caught
            records.close_nowait()
            await records.run()
    assert_whole(path, QUEUE_RECORDS)


async def test_log_cancelled_at_any_await_leaves_what_the_next_one_can_use(tmp_path: Path) -> None:
    """The whole log is torn down, while it opens, writes, syncs, follows or closes."""
    step, ended = 0, False
    while not ended:
        step += 1
        path = tmp_path / str(step) / "invocations.jsonl"
        kept: dict[str, bytes] = {}
        ended = await run_and_cancel(path, kept, step)
        async with running(path, mode="both") as records:
            await assert_found(records, kept)
            kept |= await append_many(records, range(100, 103))
            await assert_found(records, kept)
        assert verify_log(path).flaw is None
        assert step < 60
    assert step > 4


async def run_and_cancel(path: Path, kept: dict[str, bytes], step: int) -> bool:
    """Append to a log whose own task is cancelled at a step; True: it ended before."""
    records = make_log(path, mode="both", sync_interval_s=0.001)
    ended = False

    async def run() -> None:
        nonlocal ended
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(instrument)
            try:
                await records.run()
                ended = True
            finally:
                trio.lowlevel.remove_instrument(instrument)

    with trio.fail_after(HUNG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            with contextlib.suppress(StorageFull, ShuttingDown):
                for number in range(3):
                    kept[id_of(number)] = await records.append(id_of(number), {}, durable=number == 1)
                    await trio.sleep(0.003)
            records.close_nowait()
    return ended
